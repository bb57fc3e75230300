//! Signing an image that is there: one that is as it was packed, and only
//! where nobody else has signed it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::manifest::SUMS;
use super::signature::{SIGNATURE, Signer};
use super::verify::verify;
use crate::bake::store::write_whole;
use crate::failure::BadInput;

/// Whose signature an image has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signed {
    /// That of the key at hand.
    ByThis,
    /// None.
    Not,
}

/// Whether the image in `dir` is signed by `signer`'s key.
///
/// # Errors
/// [`BadInput`] where it has another signature: it is not replaced unasked.
pub fn signed_by(dir: &Path, signer: &Signer) -> Result<Signed> {
    let (path, sums) = (dir.join(SIGNATURE), dir.join(SUMS));
    let signature = match std::fs::read_to_string(&path) {
        Ok(signature) => signature,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Signed::Not),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let sums = std::fs::read(&sums).with_context(|| format!("reading {}", sums.display()))?;
    match signer.verifier()?.check(&signature, &sums) {
        Ok(_) => Ok(Signed::ByThis),
        Err(why) => Err(BadInput(format!(
            "{} is signed, but not by the key of --sign-key: {why}; `builder verify` shows whose signature it is, \
             `builder sign` puts another in its place",
            dir.display()
        ))
        .into()),
    }
}

/// Signs the image in `dir`, if it is as it was packed; the signature's path.
pub async fn sign(dir: &Path, signer: &Signer) -> Result<PathBuf> {
    let verdict = verify(dir, None).await?;
    let version = match (&verdict.version, verdict.problems.as_slice()) {
        (Some(version), []) => version,
        (_, problems) => {
            let why = problems.join("; ");
            return Err(BadInput(format!(
                "{} is not as it was packed, and is not signed: {why}",
                dir.display()
            ))
            .into());
        }
    };
    let sums = dir.join(SUMS);
    let sums = std::fs::read(&sums).with_context(|| format!("reading {}", sums.display()))?;
    let path = dir.join(SIGNATURE);
    write_whole(&path, signer.sign(version, &sums)?.as_bytes())?;
    readable_by_all(&path)?;
    Ok(path)
}

/// Temporary files are private, and an image's signature is for everybody.
fn readable_by_all(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
        .with_context(|| format!("setting the mode of {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::super::signature::new_key;
    use super::*;

    fn signer(dir: &Path, name: &str) -> Signer {
        let path = dir.join(name);
        std::fs::write(&path, new_key(None).unwrap().secret).unwrap();
        Signer::read(&path, None).unwrap()
    }

    #[test]
    fn a_signature_is_this_key_s_or_another_s_or_none() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = (signer(dir.path(), "ours"), signer(dir.path(), "theirs"));
        let image = dir.path().join("image");
        std::fs::create_dir(&image).unwrap();
        std::fs::write(image.join(SUMS), "sums").unwrap();
        assert_eq!(signed_by(&image, &ours).unwrap(), Signed::Not);
        std::fs::write(image.join(SIGNATURE), ours.sign("v1", b"sums").unwrap()).unwrap();
        assert_eq!(signed_by(&image, &ours).unwrap(), Signed::ByThis);
        let error = signed_by(&image, &theirs).unwrap_err();
        assert!(error.is::<BadInput>() && error.to_string().contains("not by the key"), "{error}");
        // The right key's, of something else.
        std::fs::write(image.join(SUMS), "other sums").unwrap();
        assert!(signed_by(&image, &ours).unwrap_err().is::<BadInput>());
    }

    #[tokio::test]
    async fn what_is_no_image_as_it_was_packed_is_not_signed() {
        let dir = tempfile::tempdir().unwrap();
        let ours = signer(dir.path(), "ours");
        std::fs::write(dir.path().join(SUMS), "").unwrap();
        let error = sign(dir.path(), &ours).await.unwrap_err();
        assert!(error.to_string().contains("not as it was packed"), "{error}");
        assert!(!dir.path().join(SIGNATURE).exists());
    }
}

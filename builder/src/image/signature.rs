//! Signatures of images, in minisign's format: one over `SHA256SUMS`, which
//! names every other file. `minisign -V` checks them too.

use std::io::Cursor;
use std::path::Path;

use anyhow::{Context as _, Result};
use minisign::{KeyPair, PublicKey, PublicKeyBox, SecretKey, SecretKeyBox, SignatureBox};

use super::manifest::SUMS;
use crate::failure::BadInput;

/// The signature's name in the result directory.
pub const SIGNATURE: &str = "SHA256SUMS.minisig";

/// A new key pair's two files.
#[derive(Debug)]
pub struct NewKey {
    /// What signs; under the password, if there is one.
    pub secret: String,
    /// What everybody may have.
    pub public: String,
}

/// Makes a key pair.
pub fn new_key(password: Option<String>) -> Result<NewKey> {
    let (pair, encrypted) = match password {
        Some(password) => (KeyPair::generate_encrypted_keypair(Some(password)), true),
        None => (KeyPair::generate_unencrypted_keypair(), false),
    };
    let pair = pair.context("making a key pair")?;
    let comment =
        if encrypted { "kiln image signing key, with a password" } else { "kiln image signing key" };
    Ok(NewKey {
        secret: pair.sk.to_box(Some(comment)).context("writing the secret key")?.into_string(),
        public: pair.pk.to_box().context("writing the public key")?.into_string(),
    })
}

/// A key that signs, ready for use.
#[derive(Debug)]
pub struct Signer(SecretKey);

impl Signer {
    /// Reads a secret key, as `builder sign --new-key` or `minisign -G` made it.
    pub fn read(path: &Path, password: Option<String>) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| BadInput(format!("reading the signing key {}: {error}", path.display())))?;
        Self::parse(&text, password)
            .map_err(|why| BadInput(format!("signing key {}: {why}", path.display())).into())
    }

    fn parse(text: &str, password: Option<String>) -> Result<Self, String> {
        let key = || {
            SecretKeyBox::from_string(text).map_err(|error| format!("it is no minisign secret key: {error}"))
        };
        // Which of the two it is shows only on opening it.
        if let Ok(key) = key()?.into_unencrypted_secret_key() {
            return Ok(Self(key));
        }
        let password =
            password.ok_or("it has a password: name the file that holds it with --sign-password-file")?;
        let opened = key()?.into_secret_key(Some(password));
        opened.map(Self).map_err(|error| format!("it does not open: {error} (is the password right?)"))
    }

    /// What checks signatures of this key.
    pub fn verifier(&self) -> Result<Verifier> {
        Ok(Verifier(PublicKey::from_secret_key(&self.0).context("deriving the public key")?))
    }

    /// The signature of the list of digests of the image `version`.
    pub fn sign(&self, version: &str, sums: &[u8]) -> Result<String> {
        let trusted = format!("image:{version} file:{SUMS} hashed");
        let signature = minisign::sign(None, &self.0, Cursor::new(sums), Some(&trusted), Some("kiln image"));
        Ok(signature.context("signing")?.into_string())
    }
}

/// A key that checks.
#[derive(Debug)]
pub struct Verifier(PublicKey);

impl Verifier {
    /// A public key: the file that holds it, or the key itself in base64.
    pub fn read(key: &str) -> Result<Self, BadInput> {
        if let Ok(key) = PublicKey::from_base64(key) {
            return Ok(Self(key));
        }
        let text = std::fs::read_to_string(key).map_err(|error| {
            BadInput(format!(
                "--key {key}: it is neither a minisign public key nor a file that can be read: {error}"
            ))
        })?;
        let parsed = PublicKeyBox::from_string(&text).and_then(PublicKeyBox::into_public_key);
        parsed
            .map(Self)
            .map_err(|error| BadInput(format!("--key {key}: it holds no minisign public key: {error}")))
    }

    /// The signed comment, if the signature is this key's and of these bytes.
    pub fn check(&self, signature: &str, sums: &[u8]) -> Result<String, String> {
        let signature = SignatureBox::from_string(signature)
            .map_err(|error| format!("it is no minisign signature: {error}"))?;
        minisign::verify(&self.0, &signature, Cursor::new(sums), true, false, false)
            .map_err(|error| error.to_string())?;
        signature.trusted_comment().map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: &str = "alma9-k3-node-amd64-v1.28.5-v1";

    fn verifier(key: &NewKey) -> Verifier {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pub");
        std::fs::write(&path, &key.public).unwrap();
        Verifier::read(path.to_str().unwrap()).unwrap()
    }

    #[test]
    fn a_signature_holds_for_these_bytes_and_this_key() {
        let key = new_key(None).unwrap();
        let signature = Signer::parse(&key.secret, None).unwrap().sign(VERSION, b"sums").unwrap();
        assert!(verifier(&key).check(&signature, b"sums").unwrap().contains(VERSION));
        assert!(verifier(&key).check(&signature, b"sumz").is_err());
        let stranger = new_key(None).unwrap();
        assert!(verifier(&stranger).check(&signature, b"sums").unwrap_err().contains("different"));
        // The comment is signed with the rest.
        assert!(verifier(&key).check(&signature.replace("v1.28.5-v1", "v1.28.5-v2"), b"sums").is_err());
        assert!(verifier(&key).check("nonsense", b"sums").is_err());
    }

    #[test]
    fn a_key_with_a_password_opens_with_it_alone() {
        let key = new_key(Some("correct horse".into())).unwrap();
        assert!(Signer::parse(&key.secret, None).unwrap_err().contains("--sign-password-file"));
        assert!(Signer::parse(&key.secret, Some("wrong".into())).unwrap_err().contains("password"));
        let signature = Signer::parse(&key.secret, Some("correct horse".into())).unwrap();
        verifier(&key).check(&signature.sign(VERSION, b"x").unwrap(), b"x").unwrap();
        assert!(Signer::parse("nonsense", None).is_err());
    }
}

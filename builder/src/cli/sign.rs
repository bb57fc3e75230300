//! `builder sign`: signs an image that is there, or makes a key to do so.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::failure::BadInput;
use crate::image::sign::sign;
use crate::image::signature::{Signer, new_key};

/// Arguments of `builder sign`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The image's directory.
    #[arg(value_name = "DIR", required_unless_present = "new_key")]
    image: Option<PathBuf>,
    /// The secret key that signs.
    #[arg(long, value_name = "FILE", env = "KILN_SIGN_KEY", required_unless_present = "new_key")]
    key: Option<PathBuf>,
    /// The file with the key's password, if it has one (or is to have one).
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Make a new pair of keys, PREFIX.key and PREFIX.pub, instead of signing.
    #[arg(long, value_name = "PREFIX", conflicts_with_all = ["image"])]
    new_key: Option<PathBuf>,
}

/// Signs, or makes a key.
pub(super) async fn run(args: Args) -> Result<()> {
    if let Some(prefix) = &args.new_key {
        return make(prefix, args.password_file.as_deref());
    }
    let (Some(image), Some(key)) = (&args.image, &args.key) else {
        return Err(BadInput("an image's directory and --key are needed".to_owned()).into());
    };
    let signer = signer(key, args.password_file.as_deref())?;
    let path = sign(image, &signer).await?;
    println!("{}", path.display());
    Ok(())
}

/// The key in a file, opened with the password in another.
pub(super) fn signer(key: &Path, password: Option<&Path>) -> Result<Signer> {
    Signer::read(key, password.map(read_password).transpose()?)
}

fn read_password(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| BadInput(format!("reading the password file {}: {error}", path.display())))?;
    let password = text.strip_suffix('\n').unwrap_or(&text);
    if password.is_empty() || password.contains('\n') {
        return Err(BadInput(format!("{} should hold a password, in one line", path.display())).into());
    }
    Ok(password.to_owned())
}

fn make(prefix: &Path, password: Option<&Path>) -> Result<()> {
    let name = |end: &str| {
        let mut name = prefix.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    let key = new_key(password.map(read_password).transpose()?)?;
    for (path, text, mode) in [(name(".key"), key.secret, 0o600), (name(".pub"), key.public, 0o644)] {
        // A key that is there is never written over.
        let file = std::fs::File::options().write(true).create_new(true).mode(mode).open(&path);
        let mut file = file.map_err(|error| BadInput(format!("making {}: {error}", path.display())))?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .with_context(|| format!("writing {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}

//! `builder verify`: whether an image is what was packed, and who signed it.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::image::signature::Verifier;
use crate::image::verify::verify;

/// Arguments of `builder verify`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The image's directory.
    #[arg(value_name = "DIR")]
    image: PathBuf,
    /// The public key whose signature it must have: a file, or the key itself.
    #[arg(long, value_name = "KEY", env = "KILN_VERIFY_KEY")]
    key: Option<String>,
    /// What was found, as JSON.
    #[arg(long)]
    json: bool,
}

/// Prints what was found; an error if anything is wrong.
pub(super) async fn run(args: Args) -> Result<()> {
    let key = args.key.as_deref().map(Verifier::read).transpose()?;
    let verdict = verify(&args.image, key.as_ref()).await?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&verdict)?);
    } else {
        for name in &verdict.files {
            println!("ok       {name}");
        }
        if let Some(comment) = &verdict.signed {
            println!("signed   {comment}");
        }
        for warning in &verdict.warnings {
            println!("warning  {warning}");
        }
        for problem in &verdict.problems {
            println!("WRONG    {problem}");
        }
    }
    match verdict.problems.len() {
        0 => Ok(()),
        1 => bail!("{} is not the image that was packed: {}", args.image.display(), verdict.problems[0]),
        n => bail!("{} is not the image that was packed: {n} things are wrong with it", args.image.display()),
    }
}

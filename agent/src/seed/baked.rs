//! A coordinator's address and pin, baked into the image: a machine that finds
//! no ticket anywhere asks there, and waits to be approved.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use kiln_protocol::install::BAKED_SEED;
use kiln_protocol::seed::MAX_SEED;

use super::Source;

/// The file in the image.
#[derive(Debug)]
pub(crate) struct Baked {
    path: PathBuf,
}

impl Default for Baked {
    fn default() -> Self {
        Self { path: BAKED_SEED.into() }
    }
}

impl Source for Baked {
    fn name(&self) -> &'static str {
        "the image"
    }

    fn look(&self) -> Result<Option<Vec<u8>>> {
        let reading = || format!("reading {}", self.path.display());
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(reading),
        };
        let mut bytes = Vec::new();
        file.take(MAX_SEED as u64 + 1).read_to_end(&mut bytes).with_context(reading)?;
        Ok(Some(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_one_is_no_error() {
        let dir = crate::testing::tempdir().unwrap();
        let source = Baked { path: dir.path().join("seed.json") };
        assert_eq!(source.look().unwrap(), None);
        std::fs::write(&source.path, "{}").unwrap();
        assert_eq!(source.look().unwrap().unwrap(), b"{}");
    }
}

//! SMBIOS type 11 strings `io.systemd.credential:kiln.seed=…` (a document)
//! or `…:kiln.ticket=…` (a bare ticket).
//!
//! systemd from 252 on puts them into `/run/credentials/@system`, readable by
//! root alone; the unit's `LoadCredential=` hands them on to the service, in
//! the directory `$CREDENTIALS_DIRECTORY` (docs/CREDENTIALS.md of systemd).

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use kiln_protocol::seed::MAX_SEED;

use super::Source;

/// The document comes first: it holds a ticket too.
const NAMES: [&str; 2] = ["kiln.seed", "kiln.ticket"];

/// Directories with one file per credential.
#[derive(Debug)]
pub(crate) struct Credentials {
    pub(crate) directories: Vec<PathBuf>,
}

impl Default for Credentials {
    /// What the service was given, and what the system received.
    fn default() -> Self {
        let given = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        let system = PathBuf::from("/run/credentials/@system");
        Self { directories: given.into_iter().chain([system]).collect() }
    }
}

impl Source for Credentials {
    fn name(&self) -> &'static str {
        "the SMBIOS credential"
    }

    fn look(&self) -> Result<Option<Vec<u8>>> {
        for directory in &self.directories {
            for name in NAMES {
                let path = directory.join(name);
                let file = match File::open(&path) {
                    Ok(file) => file,
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    Err(error) => {
                        return Err(error).with_context(|| format!("opening {}", path.display()));
                    }
                };
                let mut bytes = Vec::new();
                file.take(MAX_SEED as u64 + 1)
                    .read_to_end(&mut bytes)
                    .with_context(|| format!("reading {}", path.display()))?;
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_document_comes_before_a_ticket_and_nothing_is_no_error() {
        let dir = crate::testing::tempdir().unwrap();
        let missing = dir.path().join("missing");
        let source = Credentials { directories: vec![missing, dir.path().to_owned()] };
        assert_eq!(source.look().unwrap(), None);
        fs::write(dir.path().join("kiln.ticket"), "kiln1.x").unwrap();
        assert_eq!(source.look().unwrap().unwrap(), b"kiln1.x");
        fs::write(dir.path().join("kiln.seed"), "{}").unwrap();
        assert_eq!(source.look().unwrap().unwrap(), b"{}");
    }
}

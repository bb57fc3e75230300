//! Faults on request, for tests: `/etc/standin-k3s.json`. Without that file
//! the stand-in behaves.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// What is to go wrong.
#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Faults {
    /// Never send READY, nor answer `/readyz` with ok.
    pub(crate) never_ready: bool,
    /// Become ready this many seconds later than possible.
    pub(crate) ready_after_seconds: u64,
    /// Serve another cluster's CA at `/cacerts`: a fake server.
    pub(crate) wrong_ca: bool,
    /// End with an error this many seconds after the node is registered, or
    /// the server is ready.
    pub(crate) exit_after_seconds: Option<u64>,
}

impl Faults {
    pub(crate) fn load(etc: &Path) -> Result<Self> {
        let path = etc.join("standin-k3s.json");
        match fs::read(&path) {
            Ok(text) => {
                serde_json::from_slice(&text).with_context(|| format!("reading faults in {}", path.display()))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    /// Fails when the time for it has come; without one, never.
    pub(crate) async fn end(&self) -> Result<()> {
        match self.exit_after_seconds {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            None => std::future::pending().await,
        }
        bail!("ending on request (exit_after_seconds)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_no_fault_and_a_mistyped_fault_is_refused() {
        let etc = tempfile::tempdir().expect("a directory");
        assert_eq!(Faults::load(etc.path()).expect("no faults"), Faults::default());
        fs::write(etc.path().join("standin-k3s.json"), r#"{"never_ready":true}"#).expect("a file");
        assert!(Faults::load(etc.path()).expect("a fault").never_ready);
        fs::write(etc.path().join("standin-k3s.json"), r#"{"never_redy":true}"#).expect("a file");
        assert!(Faults::load(etc.path()).is_err());
    }
}

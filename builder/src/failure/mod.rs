//! How a run fails.

pub mod redact;

use std::process::ExitCode;

/// What the builder's exit codes mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Success = 0,
    /// It was tried and failed.
    Failure = 1,
    /// Nothing was touched: what was asked for cannot be.
    Usage = 2,
    /// Ctrl-C, SIGTERM or SIGHUP; everything was cleaned up.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What was asked for cannot be; nothing was touched. Exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadInput(pub String);

/// The user said stop. Exit code 130.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Whether an error is a `T`, or has one as its context or cause.
fn is<T: std::error::Error + Send + Sync + 'static>(error: &anyhow::Error) -> bool {
    error.is::<T>() || error.chain().any(<dyn std::error::Error>::is::<T>)
}

/// The exit code an error stands for.
pub fn exit_code(error: &anyhow::Error) -> Exit {
    if is::<Interrupted>(error) {
        Exit::Interrupted
    } else if is::<BadInput>(error) {
        Exit::Usage
    } else {
        Exit::Failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn a_cause_is_found_below_its_context() {
        let usage = Err::<(), _>(BadInput("no".into())).context("reading the command line").unwrap_err();
        assert_eq!(exit_code(&usage), Exit::Usage);
        let context = anyhow::anyhow!("no such file").context(BadInput("no".into())).context("reading");
        assert_eq!(exit_code(&context), Exit::Usage);
        assert_eq!(exit_code(&anyhow::Error::from(Interrupted)), Exit::Interrupted);
        assert_eq!(exit_code(&anyhow::anyhow!("no")), Exit::Failure);
    }
}

//! Ctrl-C as a future. What is in progress is dropped when it comes: VMs,
//! temporary files and locks are values that end with it.

use std::future::Future;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::Interrupted;

/// Runs `work` until it is done or SIGINT, SIGTERM or SIGHUP comes; then it is
/// dropped where it waits and the answer is [`Interrupted`].
pub async fn or_interrupted<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut int = signal(SignalKind::interrupt()).context("listening for signals")?;
    let mut term = signal(SignalKind::terminate()).context("listening for signals")?;
    let mut hup = signal(SignalKind::hangup()).context("listening for signals")?;
    tokio::select! {
        done = work => done,
        _ = int.recv() => Err(Interrupted.into()),
        _ = term.recv() => Err(Interrupted.into()),
        _ = hup.recv() => Err(Interrupted.into()),
    }
}

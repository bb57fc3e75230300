//! `builder down`.

use std::path::PathBuf;

use anyhow::Result;

use super::Which;
use crate::cluster::down;

/// Arguments of `builder down`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// Keep what the nodes' consoles said in this directory.
    #[arg(long, value_name = "DIR")]
    keep_logs: Option<PathBuf>,
}

/// Takes a cluster down.
pub(super) async fn run(args: Args) -> Result<()> {
    let Args { which: Which { file, state }, keep_logs } = args;
    down::down(down::Options { file, state, keep_logs }).await
}

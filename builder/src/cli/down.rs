//! `builder down`.

use std::path::PathBuf;

use anyhow::Result;

use crate::cluster::down;

/// Arguments of `builder down`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The cluster file.
    #[arg(value_name = "CLUSTER.toml")]
    file: PathBuf,
    /// Where the state of clusters is kept [default: ~/.local/state/kiln].
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Keep what the nodes' consoles said in this directory.
    #[arg(long, value_name = "DIR")]
    keep_logs: Option<PathBuf>,
}

/// Takes a cluster down.
pub(super) async fn run(args: Args) -> Result<()> {
    let Args { file, state, keep_logs } = args;
    down::down(down::Options { file, state, keep_logs }).await
}

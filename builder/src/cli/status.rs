//! `builder status`.

use std::path::PathBuf;

use anyhow::Result;

use crate::cluster::status;

/// Arguments of `builder status`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The cluster file.
    #[arg(value_name = "CLUSTER.toml")]
    file: PathBuf,
    /// Where the state of clusters is kept [default: ~/.local/state/kiln].
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// One JSON document instead of a table.
    #[arg(long)]
    json: bool,
}

/// Shows what there is of a cluster.
pub(super) async fn run(args: Args) -> Result<()> {
    let Args { file, state, json } = args;
    status::status(status::Options { file, state, json }).await
}

//! `builder status`.

use anyhow::Result;

use super::Which;
use crate::cluster::status;

/// Arguments of `builder status`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// One JSON document instead of a table.
    #[arg(long)]
    json: bool,
}

/// Shows what there is of a cluster.
pub(super) async fn run(args: Args) -> Result<()> {
    let Args { which: Which { file, state }, json } = args;
    status::status(status::Options { file, state, json }).await
}

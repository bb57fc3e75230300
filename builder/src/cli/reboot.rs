//! `builder reboot`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use kiln_protocol::NodeName;

use crate::cluster::reboot;

/// Arguments of `builder reboot`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The cluster file.
    #[arg(value_name = "CLUSTER.toml")]
    file: PathBuf,
    /// The node to restart.
    #[arg(value_name = "NODE")]
    node: NodeName,
    /// Where the state of clusters is kept [default: ~/.local/state/kiln].
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// As a power cut, instead of asking the node to shut down.
    #[arg(long)]
    hard: bool,
    /// When it must be back, such as 90s or 5m.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = super::up::duration)]
    timeout: Duration,
}

/// Restarts a node.
pub(super) async fn run(args: Args) -> Result<()> {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let Args { file, node, state, hard, timeout } = args;
    reboot::reboot(reboot::Options { file, node, state, hard, timeout }).await
}

//! `builder reboot`.

use std::time::Duration;

use anyhow::Result;
use kiln_protocol::NodeName;

use super::{Which, duration};
use crate::cluster::reboot;

/// Arguments of `builder reboot`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// The node to restart.
    #[arg(value_name = "NODE")]
    node: NodeName,
    /// As a power cut, instead of asking the node to shut down.
    #[arg(long)]
    hard: bool,
    /// When it must be back, such as 90s or 5m.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    timeout: Duration,
}

/// Restarts a node.
pub(super) async fn run(args: Args) -> Result<()> {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let Args { which: Which { file, state }, node, hard, timeout } = args;
    reboot::reboot(reboot::Options { file, node, state, hard, timeout }).await
}

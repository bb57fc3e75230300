//! `builder up`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kiln_protocol::names::SubjectAltName;

use super::{Which, duration};
use crate::cluster::plan::Data;
use crate::cluster::up;
use crate::machine::qemu::AccelChoice;

/// Arguments of `builder up`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// The golden image: what `builder bake` made, a directory of such by
    /// version, or a qcow2 file.
    #[arg(long, value_name = "PATH", default_value = "images")]
    image: PathBuf,
    /// The address nodes reach the coordinator at, if the provider has no
    /// better one. The coordinator then listens on all of this machine's
    /// addresses.
    #[arg(long, value_name = "HOST")]
    advertise: Option<SubjectAltName>,
    /// The only server's machine is gone: make it anew, and begin with this copy of
    /// /var/lib/rancher/k3s/server/db/state.db. What came after the copy is lost.
    #[arg(long, value_name = "FILE", conflicts_with = "discard_data")]
    restore: Option<PathBuf>,
    /// The only server's machine is gone: make it anew, and begin with nothing. What
    /// the cluster held is lost.
    #[arg(long)]
    discard_data: bool,
    /// When everything must be ready, such as 90s or 15m.
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = duration)]
    timeout: Duration,
    /// What runs the guests.
    #[arg(long, value_enum, default_value_t)]
    accel: AccelChoice,
    /// Leave what was made when the run fails or is interrupted.
    #[arg(long)]
    keep: bool,
    /// A JSON object per change on standard output, instead of a table.
    #[arg(long)]
    json: bool,
}

/// Brings a cluster up. Deals with Ctrl-C itself.
pub(super) async fn run(args: Args) -> Result<()> {
    // Of a cluster's files nothing is for other users of this machine, whoever
    // makes them: QEMU and qemu-img too.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let Args {
        which: Which { file, state },
        image,
        advertise,
        restore,
        discard_data,
        timeout,
        accel,
        keep,
        json,
    } = args;
    let restore = restore.map(std::path::absolute).transpose().context("--restore")?;
    let data = restore.map(Data::Restore).or(discard_data.then_some(Data::Discard));
    up::up(up::Options { file, image, state, advertise, data, timeout, accel, keep, json }).await
}

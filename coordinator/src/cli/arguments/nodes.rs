//! One node: its ticket, its key, its place.

use std::path::PathBuf;

use clap::Args;
use kiln_protocol::identity::TypedFingerprint;
use kiln_protocol::ticket::Address;
use kiln_protocol::{Fingerprint, NodeName};

use super::Remote;
use crate::cli::duration::Lifetime;

#[derive(Debug, Args)]
pub(in crate::cli) struct Ticket {
    #[command(flatten)]
    pub(in crate::cli) remote: Remote,
    /// For which node of the cluster file
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) node: NodeName,
    /// An address at which the node reaches the coordinator; may be given several times
    #[arg(long, value_name = "HOST:PORT", required = true)]
    pub(in crate::cli) advertise: Vec<Address>,
    /// How long the ticket may wait to be used, such as 30m, 1h, 7d
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub(in crate::cli) lifetime: Lifetime,
    /// Give a server no secret before `coordinator confirm` has named the key on its console
    #[arg(long)]
    pub(in crate::cli) confirm_console: bool,
    /// Make a new ticket even if the last one was not used yet
    #[arg(long)]
    pub(in crate::cli) new: bool,
    /// Write the ticket to this file (mode 0600) instead of printing it
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) out: Option<PathBuf>,
    /// Where seeds are kept until they are used [default: ~/.local/state/kiln/tickets]
    #[arg(long, value_name = "DIR", env = "KILN_TICKETS")]
    pub(in crate::cli) journal: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Confirm {
    #[command(flatten)]
    pub(in crate::cli) remote: Remote,
    /// Which node
    #[arg(value_name = "NODE")]
    pub(in crate::cli) node: NodeName,
    /// The 64 hex digits after the word "fingerprint" on its console
    #[arg(value_name = "FINGERPRINT")]
    pub(in crate::cli) fingerprint: Fingerprint,
    /// Of which generation [default: the newest that is not over]
    #[arg(long, value_name = "N")]
    pub(in crate::cli) generation: Option<u32>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Approve {
    #[command(flatten)]
    pub(in crate::cli) remote: Remote,
    /// Which node of the cluster file it becomes
    #[arg(value_name = "NODE")]
    pub(in crate::cli) node: NodeName,
    /// What its console shows after the word "fingerprint": all of it, or at least 20 digits
    #[arg(long, value_name = "HEX")]
    pub(in crate::cli) fingerprint: TypedFingerprint,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Pending {
    #[command(flatten)]
    pub(in crate::cli) remote: Remote,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Extend {
    #[command(flatten)]
    pub(in crate::cli) remote: Remote,
    /// Whose ticket
    #[arg(value_name = "NODE")]
    pub(in crate::cli) node: NodeName,
    /// How long from now, such as 30m, 1h, 7d
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub(in crate::cli) lifetime: Lifetime,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Node {
    #[command(flatten)]
    pub(in crate::cli) remote: Remote,
    /// Which node
    #[arg(value_name = "NODE")]
    pub(in crate::cli) node: NodeName,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Replace {
    #[command(flatten)]
    pub(in crate::cli) remote: Remote,
    /// Which server; its machine must be gone
    #[arg(value_name = "NODE")]
    pub(in crate::cli) node: NodeName,
    #[command(flatten)]
    pub(in crate::cli) data: Data,
}

/// What becomes of a datastore.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(in crate::cli) struct Data {
    /// Begin with this copy of /var/lib/rancher/k3s/server/db/state.db, a file on the coordinator's host
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) restore: Option<PathBuf>,
    /// Begin with nothing: what the cluster held is lost
    #[arg(long)]
    pub(in crate::cli) discard_data: bool,
}

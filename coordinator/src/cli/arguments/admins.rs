//! Who may ask.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use kiln_protocol::Fingerprint;
use kiln_protocol::names::AdminName;

use super::Remote;

#[derive(Debug, Args)]
pub(in crate::cli) struct Admin {
    #[command(subcommand)]
    pub(in crate::cli) command: AdminCommand,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum AdminCommand {
    /// Make a key for an admin on this machine, and print its fingerprint
    Key(AdminKey),
    /// Let a key do what admins may
    Add(AdminAdd),
    /// Show every admin's key there ever was
    List(AdminList),
    /// Take an admin's key every right, at once and for good
    Remove(AdminRemove),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct AdminKey {
    /// The file to write the private key to (mode 0600); it must not exist
    #[arg(value_name = "FILE")]
    pub(in crate::cli) file: PathBuf,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct AdminAdd {
    #[command(flatten)]
    pub(in crate::cli) remote: Remote,
    #[command(flatten)]
    pub(in crate::cli) key: AdminKeySource,
    /// What the audit trail is to call it
    #[arg(value_name = "NAME")]
    pub(in crate::cli) name: AdminName,
}

/// Where the key of a new admin is from.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(in crate::cli) struct AdminKeySource {
    /// The key's fingerprint, as `admin key` printed it
    #[arg(long, value_name = "HEX")]
    pub(in crate::cli) fingerprint: Option<Fingerprint>,
    /// A PEM file with the public key, or with a certificate around it
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) public_key: Option<PathBuf>,
    /// Make a key and write it to this file (mode 0600), which must not exist
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) make: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct AdminList {
    #[command(flatten)]
    pub(in crate::cli) remote: Remote,
    /// Print JSON
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct AdminRemove {
    #[command(flatten)]
    pub(in crate::cli) remote: Remote,
    /// Whose key
    #[arg(value_name = "NAME")]
    pub(in crate::cli) name: AdminName,
}

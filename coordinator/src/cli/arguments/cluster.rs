//! The cluster as a whole.

use std::path::PathBuf;

use clap::{Args, value_parser};
use kiln_protocol::ClusterName;

use super::Remote;
use crate::cli::duration::Lifetime;

/// The largest number that a line of the trail can have.
const MAX_LINE: u64 = i64::MAX.unsigned_abs();

#[derive(Debug, Args)]
pub(in crate::cli) struct RotateTokens {
    #[command(flatten)]
    pub(in crate::cli) remote: Remote,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RotateCa {}

#[derive(Debug, Args)]
pub(in crate::cli) struct RaiseEpoch {
    #[command(flatten)]
    pub(in crate::cli) remote: Remote,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Status {
    #[command(flatten)]
    pub(in crate::cli) remote: Remote,
    /// Print JSON
    #[arg(long)]
    pub(in crate::cli) json: bool,
    /// Show it again whenever it changes, until interrupted
    #[arg(long)]
    pub(in crate::cli) watch: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Kubeconfig {
    #[command(flatten)]
    pub(in crate::cli) remote: Remote,
    /// Where the API server is reached [default: the first server's cluster address]
    #[arg(long, value_name = "URL")]
    pub(in crate::cli) server: Option<String>,
    /// How long the kubeconfig is valid, such as 8h, 30d
    #[arg(long, value_name = "TIME", default_value = "24h")]
    pub(in crate::cli) lifetime: Lifetime,
    /// A user that the cluster's role bindings know, instead of an administrator
    #[arg(long, value_name = "NAME", requires = "group")]
    pub(in crate::cli) user: Option<String>,
    /// The group of --user
    #[arg(long, value_name = "NAME", requires = "user")]
    pub(in crate::cli) group: Option<String>,
    /// Write it to this file (mode 0600) instead of printing it
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Apply {
    #[command(flatten)]
    pub(in crate::cli) remote: Remote,
    /// The cluster file
    #[arg(value_name = "FILE")]
    pub(in crate::cli) file: PathBuf,
    /// Only show what would change
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct End {
    #[command(flatten)]
    pub(in crate::cli) remote: Remote,
    /// The name of the cluster that is live: what ends does so for good
    #[arg(value_name = "CLUSTER")]
    pub(in crate::cli) cluster: ClusterName,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Events {
    #[command(flatten)]
    pub(in crate::cli) remote: Remote,
    /// Go on with new lines as they come, until interrupted
    #[arg(long)]
    pub(in crate::cli) follow: bool,
    /// Print a JSON object a line
    #[arg(long)]
    pub(in crate::cli) json: bool,
    /// Begin after the line of this number
    #[arg(long, value_name = "NUMBER", default_value_t = 0, value_parser = value_parser!(u64).range(..=MAX_LINE))]
    pub(in crate::cli) since: u64,
}

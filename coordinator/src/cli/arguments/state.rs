//! Making, serving, saving and opening a state.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{State, Unlock};
use crate::cli::duration::Lifetime;

#[derive(Debug, Args)]
pub(in crate::cli) struct Init {
    #[command(flatten)]
    pub(in crate::cli) state: State,
    #[command(flatten)]
    pub(in crate::cli) unlock: Unlock,
    /// Succeed without doing anything if there is a state already
    #[arg(long)]
    pub(in crate::cli) if_missing: bool,
    /// Write the recovery key to this file (mode 0600), outside of the state
    /// directory, instead of showing it once; without a terminal it goes
    /// beside that directory, to DIR.recovery-key.
    /// Keep it offline: it alone lets nodes accept another coordinator's key
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) recovery_out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PinChange {
    #[command(flatten)]
    pub(in crate::cli) state: State,
    #[command(flatten)]
    pub(in crate::cli) unlock: Unlock,
    /// The file with the recovery key that init made; - is standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub(in crate::cli) recovery_key: PathBuf,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Serve {
    #[command(flatten)]
    pub(in crate::cli) state: State,
    #[command(flatten)]
    pub(in crate::cli) unlock: Unlock,
    /// Where to listen
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:7443")]
    pub(in crate::cli) listen: SocketAddr,
    /// Put this cluster file in force, now and at every start; SIGHUP reads it
    /// again. What `apply` put in force meanwhile is undone by either
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) cluster: Option<PathBuf>,
    /// Where the status page, /metrics and /healthz are, in plain HTTP; they
    /// change nothing and show no secret [default: 127.0.0.1:7444, if it is free]
    #[arg(long, value_name = "IP:PORT")]
    pub(in crate::cli) status_listen: Option<SocketAddr>,
    /// No status page
    #[arg(long, conflicts_with = "status_listen")]
    pub(in crate::cli) no_status: bool,
    /// How the log on standard error is written
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = LogFormat::Text)]
    pub(in crate::cli) log_format: LogFormat,
    /// Stop once every node of the cluster file is ready; for CI
    #[arg(long)]
    pub(in crate::cli) until_ready: bool,
    /// How long --until-ready waits
    #[arg(long, value_name = "TIME", default_value = "15m", requires = "until_ready")]
    pub(in crate::cli) timeout: Lifetime,
}

/// How a log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum LogFormat {
    /// A line for people
    Text,
    /// A JSON object a line
    Json,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Backup {
    #[command(flatten)]
    pub(in crate::cli) state: State,
    #[command(flatten)]
    pub(in crate::cli) unlock: Unlock,
    /// The file to make (mode 0600); it must not be there yet
    #[arg(value_name = "FILE")]
    pub(in crate::cli) file: PathBuf,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Restore {
    #[command(flatten)]
    pub(in crate::cli) state: State,
    #[command(flatten)]
    pub(in crate::cli) unlock: Unlock,
    /// Take an older Kiln's backup, of which nothing tells whether somebody altered it
    #[arg(long)]
    pub(in crate::cli) unauthenticated: bool,
    /// The backup
    #[arg(value_name = "FILE")]
    pub(in crate::cli) file: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum UnlockKey {
    /// Make a new key in a file (mode 0600) that must not be there yet
    Make {
        /// The file to make
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Seal a state that is not being served under a new key
    Rotate(Rotate),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Rotate {
    #[command(flatten)]
    pub(in crate::cli) state: State,
    #[command(flatten)]
    pub(in crate::cli) unlock: Unlock,
    /// Make the new key in this file [default: in the place of the old one]
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) to: Option<PathBuf>,
}

//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use kiln_protocol::Fingerprint;
use kiln_protocol::seed::Contact;
use kiln_protocol::ticket::Address;

use crate::{hardening, install, progress, run};

/// The only Kiln program that runs on a node.
#[derive(Debug, Parser)]
#[command(name = "agent", version, help_expected = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Put agent, k3s and units onto a root filesystem and seal it
    ///
    /// With `--root /` this host becomes a node: everything is installed, but
    /// nothing that makes the host itself is removed.
    Install {
        /// Where the Enterprise Linux 9 root is mounted
        #[arg(long, value_name = "DIR")]
        root: PathBuf,
        /// Directory with install.json and the files it names
        #[arg(long, value_name = "DIR")]
        payload: PathBuf,
        /// A coordinator that a machine which finds no ticket asks for an operator's approval
        #[arg(long, value_name = "HOST:PORT", requires = "pin")]
        coordinator: Vec<Address>,
        /// That coordinator's pin, as `coordinator init` printed it
        #[arg(long, value_name = "HEX", requires = "coordinator")]
        pin: Option<Fingerprint>,
        /// Print the report as JSON on standard output
        #[arg(long)]
        json: bool,
    },
    /// Take this machine from its first boot to a ready node (a systemd service)
    Run,
    /// Show how far this machine is on its way to being a node
    Status {
        /// Print JSON instead of a table
        #[arg(long)]
        json: bool,
    },
}

impl Cli {
    /// Runs the subcommand; errors are printed here.
    pub fn run(self) -> ExitCode {
        let result = match self.command {
            Command::Install { root, payload, coordinator, pin, json } => {
                let contact = pin.map(|pin| Contact::new(coordinator, pin)).transpose();
                let contact = contact.context("the coordinator to bake in");
                contact.and_then(|contact| install::command(&root, &payload, contact, json))
            }
            Command::Run => {
                log_to_journal();
                hardening::no_core_dumps();
                run::command()
            }
            Command::Status { json } => progress::command(json),
        };
        result.unwrap_or_else(|error| {
            // One line, causes joined by colons: a kickstart script passes the
            // last line of stderr on as the reason of its failure.
            eprintln!("agent: {error:#}");
            ExitCode::FAILURE
        })
    }
}

/// systemd adds the time and the unit; colours would only be in the way.
fn log_to_journal() {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .with_max_level(tracing::Level::INFO)
        .init();
}

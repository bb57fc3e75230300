//! The command line: one file per subcommand, and what they have in common.

mod bake;
mod down;
mod gc;
mod kickstart;
mod preflight;
mod reboot;
mod status;
mod up;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use crate::failure::{Exit, exit_code};
use crate::run::interrupt::or_interrupted;

const EXIT_CODES: &str = "Exit codes: 0 done, 1 it was tried and failed, 2 what was asked for cannot be \
(nothing was touched), 130 interrupted (everything was cleaned up).";

/// Bakes golden images and brings clusters up from them.
#[derive(Debug, Parser)]
#[command(name = "builder", version, help_expected = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

// One variant a subcommand, one file in this directory each: its arguments
// (`Args`) and `pub(super) async fn run(args: Args) -> Result<()>`, which is
// dropped where it waits when Ctrl-C comes.
#[derive(Debug, Subcommand)]
enum Command {
    /// Bake a golden image from AlmaLinux's install medium and a k3s release.
    Bake(Box<bake::Args>),
    /// Bring a cluster up, or what is missing of it.
    Up(up::Args),
    /// Take a cluster down: nothing of it remains.
    Down(down::Args),
    /// Show what there is of a cluster, without changing anything.
    Status(status::Args),
    /// Restart a node and see it come back, with no coordinator running.
    Reboot(reboot::Args),
    /// Check what this host has and lacks, with the remedy.
    Preflight(preflight::Args),
    /// Print a stage's kickstart as a bake would run it.
    Kickstart(kickstart::Args),
    /// Find and remove what killed runs left: VMs, overlays, temporary files.
    Gc(gc::Args),
}

/// Parses the command line and runs it.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::builder()
                .with_default_directive(LevelFilter::WARN.into())
                .with_env_var("KILN_LOG")
                .from_env_lossy(),
        )
        .without_time()
        .with_target(false)
        .with_writer(std::io::stderr)
        .init();
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| {
            let outcome = runtime.block_on(dispatch(cli.command));
            // Whatever still hashes in the background is not waited for.
            runtime.shutdown_background();
            outcome
        });
    match outcome {
        Ok(()) => Exit::Success.into(),
        Err(error) => {
            eprintln!("error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("  because {cause}");
            }
            exit_code(&error).into()
        }
    }
}

async fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::Bake(args) => Box::pin(bake::run(*args)).await,
        // Deals with Ctrl-C itself: it undoes what it made.
        Command::Up(args) => Box::pin(up::run(args)).await,
        Command::Down(args) => or_interrupted(down::run(args)).await,
        Command::Status(args) => or_interrupted(status::run(args)).await,
        Command::Reboot(args) => or_interrupted(reboot::run(args)).await,
        Command::Preflight(args) => preflight::run(args),
        Command::Kickstart(args) => kickstart::run(&args),
        Command::Gc(args) => or_interrupted(async { gc::run(&args) }).await,
    }
}

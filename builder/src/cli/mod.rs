//! The command line: one file per subcommand, and what they have in common.

mod gc;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::failure::{Exit, exit_code};
use crate::run::interrupt::or_interrupted;

/// Bakes golden images and brings clusters up from them.
#[derive(Debug, Parser)]
#[command(name = "builder", version, help_expected = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

// One variant a subcommand, one file in this directory each: its arguments
// (`Args`) and `pub(super) async fn run(args: Args) -> Result<()>`, which is
// dropped where it waits when Ctrl-C comes.
#[derive(Debug, Subcommand)]
enum Command {
    /// Find and remove what killed runs left: VMs, overlays, temporary files.
    Gc(gc::Args),
}

/// Parses the command line and runs it.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_env("KILN_LOG"))
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
    let work = async {
        match command {
            Command::Gc(args) => gc::run(&args),
        }
    };
    or_interrupted(work).await
}

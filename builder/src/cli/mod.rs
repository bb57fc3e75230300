//! The command line: one file per subcommand, and what they have in common.

mod bake;
mod cache;
mod completions;
mod down;
mod examples;
mod gc;
mod inspect;
mod kickstart;
mod order;
pub(crate) mod paint;
mod preflight;
mod reboot;
mod sign;
mod status;
mod up;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

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
    /// When output is coloured; the variable `NO_COLOR` is obeyed too.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t, global = true)]
    color: paint::Color,
    #[command(subcommand)]
    command: Command,
}

// One variant a subcommand, one file in this directory each: its arguments
// (`Args`) and `pub(super) async fn run(args: Args) -> Result<()>`, which is
// dropped where it waits when Ctrl-C comes.
#[derive(Debug, Subcommand)]
enum Command {
    /// Bake a golden image from AlmaLinux's install medium and a k3s release.
    #[command(after_help = examples::BAKE)]
    Bake(Box<bake::Args>),
    /// Bring a cluster up, or what is missing of it.
    #[command(after_help = examples::UP)]
    Up(up::Args),
    /// Take a cluster down: nothing of it remains.
    #[command(after_help = examples::DOWN)]
    Down(down::Args),
    /// Show what there is of a cluster, without changing anything.
    #[command(after_help = examples::STATUS)]
    Status(status::Args),
    /// Restart a node and see it come back, with no coordinator running.
    #[command(after_help = examples::REBOOT)]
    Reboot(reboot::Args),
    /// Check what this host has and lacks, with the remedy.
    #[command(after_help = examples::PREFLIGHT)]
    Preflight(preflight::Args),
    /// Read a finished image and say what is in it, and what should not be.
    #[command(after_help = inspect::HELP)]
    Inspect(inspect::Args),
    /// Check an image against its digests and its signature.
    #[command(after_help = examples::VERIFY)]
    Verify(verify::Args),
    /// Sign an image, or make the keys to do so.
    #[command(after_help = examples::SIGN)]
    Sign(sign::Args),
    /// Print a stage's kickstart as a bake would run it.
    #[command(after_help = examples::KICKSTART)]
    Kickstart(kickstart::Args),
    /// Find and remove what killed runs left: VMs, overlays, temporary files.
    #[command(after_help = examples::GC)]
    Gc(gc::Args),
    /// Show, check and clear what is kept: downloads and results of stages.
    #[command(after_help = examples::CACHE)]
    Cache(cache::Args),
    /// Print a shell's completions.
    #[command(after_help = examples::COMPLETIONS)]
    Completions(completions::Args),
    /// Write the man pages into a directory.
    #[command(hide = true)]
    Man(completions::ManArgs),
}

/// Parses the command line and runs it.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // It holds tickets and, for a while, a cluster's secrets; so do its guests.
    kiln_coordinator::limit_core_dumps();
    cli.color.apply();
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::builder()
                .with_default_directive(LevelFilter::WARN.into())
                .with_env_var("KILN_LOG")
                .from_env_lossy(),
        )
        .with_ansi(paint::stderr_is_coloured())
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
            let bad = paint::BAD;
            anstream::eprintln!("{bad}error:{bad:#} {error}");
            for cause in error.chain().skip(1) {
                anstream::eprintln!("  because {cause}");
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
        Command::Preflight(args) => or_interrupted(Box::pin(preflight::run(args))).await,
        Command::Inspect(args) => Box::pin(or_interrupted(inspect::run(args))).await,
        Command::Verify(args) => or_interrupted(verify::run(args)).await,
        Command::Sign(args) => or_interrupted(sign::run(args)).await,
        Command::Kickstart(args) => kickstart::run(&args),
        Command::Cache(args) => or_interrupted(cache::run(args)).await,
        Command::Gc(args) => or_interrupted(async { gc::run(args) }).await,
        Command::Completions(args) => completions::completions(&args),
        Command::Man(args) => completions::man(&args),
    }
}

/// Which cluster a command is about.
#[derive(Debug, clap::Args)]
struct Which {
    /// The cluster file.
    #[arg(value_name = "CLUSTER.toml")]
    file: PathBuf,
    /// Where the state of clusters is kept [default: ~/.local/state/kiln].
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

/// A time with its unit, as options take it.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let span: Option<jiff::SignedDuration> = text.parse().ok();
    let duration = span.and_then(|span| Duration::try_from(span).ok()).filter(|time| !time.is_zero());
    duration.ok_or_else(|| format!("{text:?} is no time: write 90s, 15m or 1h30m"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent_and_every_option_has_help() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_subcommand_has_examples_and_they_are_valid() {
        for subcommand in Cli::command().get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
            let name = subcommand.get_name();
            let help = subcommand.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples: Vec<&str> =
                help.lines().filter_map(|line| line.strip_prefix("  builder ")).collect();
            assert!(!examples.is_empty(), "{name} has no examples");
            for example in examples {
                let words = std::iter::once("builder").chain(example.split(' '));
                let parsed = Cli::try_parse_from(words);
                assert!(parsed.is_ok() && example.starts_with(name), "{example}: {:?}", parsed.err());
            }
        }
    }

    #[test]
    fn times_have_a_unit() {
        assert_eq!(duration("20s"), Ok(Duration::from_secs(20)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        for wrong in ["", "20", "0s", "-5s", "soon"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }
}

//! `builder completions` and the hidden `builder man`.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Command, CommandFactory as _};

use super::Cli;

/// Arguments of `builder completions`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The shell they are for.
    shell: clap_complete::Shell,
}

/// Arguments of `builder man`.
#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {
    /// The directory they go to; it is made.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Prints a shell's completions.
pub(super) fn completions(args: &Args) -> Result<()> {
    // Not straight to stdout: a reader that goes away is no reason to panic.
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "builder", &mut text);
    std::io::stdout().write_all(&text).context("writing the completions")
}

/// Writes the man pages: one for the program, one a subcommand.
pub(super) fn man(args: &ManArgs) -> Result<()> {
    let shown = || format!("writing man pages into {}", args.dir.display());
    std::fs::create_dir_all(&args.dir).with_context(shown)?;
    clap_mangen::generate_to(command(), &args.dir).with_context(shown)
}

fn command() -> Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subcommand_that_is_shown_has_a_man_page() {
        let dir = tempfile::tempdir().unwrap();
        man(&ManArgs { dir: dir.path().to_owned() }).unwrap();
        for subcommand in command().get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
            let name = subcommand.get_name();
            let page = dir.path().join(format!("builder-{name}.1"));
            let text = std::fs::read_to_string(&page).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(text.contains(".SH SYNOPSIS"), "{name}");
        }
        assert!(dir.path().join("builder.1").exists());
    }

    #[test]
    fn completions_know_the_subcommands() {
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut command(), "builder", &mut text);
            let text = String::from_utf8(text).unwrap();
            assert!(text.contains("preflight") && text.contains("explain"), "{shell}");
        }
    }
}

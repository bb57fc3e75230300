//! `coordinator completions` and the hidden `coordinator man`.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;

use super::arguments::{Arguments, Completions, Man};

/// Prints a shell's completions.
pub(super) fn completions(args: &Completions) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Arguments::command(), "coordinator", &mut text);
    std::io::stdout().write_all(&text).context("writing the completions")
}

/// Writes the man pages: one for the program, one a subcommand.
pub(super) fn man(args: &Man) -> Result<()> {
    let shown = || format!("writing man pages into {}", args.dir.display());
    std::fs::create_dir_all(&args.dir).with_context(shown)?;
    clap_mangen::generate_to(Arguments::command(), &args.dir).with_context(shown)
}

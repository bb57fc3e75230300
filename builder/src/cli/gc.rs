//! `builder gc`: what killed runs left.

use anyhow::{Result, bail};

use crate::run::{dirs, gc};

/// Arguments of `builder gc`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Remove what is listed; without it nothing is touched.
    #[arg(long)]
    yes: bool,
}

/// Lists, and with `--yes` removes, what is left of runs whose builder is gone.
pub(super) fn run(args: &Args) -> Result<()> {
    let left = gc::find(&dirs::state()?)?;
    let mut problems = 0;
    for run in &left {
        let kept = if run.record.kept { ", kept on request" } else { "" };
        println!("run {} ({}, {:.0}{kept})", run.record.id, run.record.what, run.record.created);
        for vm in run.record.vms() {
            println!("  QEMU process {}", vm.pid);
        }
        for path in run.paths() {
            println!("  {}", path.display());
        }
        if args.yes {
            for problem in run.remove() {
                problems += 1;
                eprintln!("  {problem}");
            }
        }
    }
    match (left.len(), args.yes) {
        (0, _) => println!("nothing is left of earlier runs"),
        (runs, true) => println!("{runs} runs cleaned up"),
        (runs, false) => println!("{runs} runs left something; `builder gc --yes` removes it"),
    }
    if problems > 0 {
        bail!("{problems} things could not be removed");
    }
    Ok(())
}

//! `builder gc`: what killed runs left.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::bake::store::locks_dir;
use crate::inputs::fetch::partial;
use crate::run::{dirs, gc, lock, orphans};

/// Arguments of `builder gc`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Remove what is listed; without it nothing is touched.
    #[arg(long)]
    yes: bool,
    /// The cache to look through as well [default: ~/.cache/kiln].
    #[arg(long, value_name = "DIR", env = "KILN_CACHE")]
    cache: Option<PathBuf>,
}

/// Lists, and with `--yes` removes, what is left of runs whose builder is gone.
pub(super) fn run(args: Args) -> Result<()> {
    let (state, cache) = (dirs::state()?, args.cache.map_or_else(dirs::cache, Ok)?);
    let cache = std::path::absolute(cache)?;
    let mut problems = Vec::new();
    let left = gc::find(&state)?;
    for run in &left {
        let kept = if run.record.kept { ", kept on request" } else { "" };
        println!("run {} ({}, {:.0}{kept})", run.record.id, run.record.what, run.record.created);
        for process in run.record.vms() {
            println!("  process {} ({})", process.pid, process.name());
        }
        for path in run.paths() {
            println!("  {}", path.display());
        }
        if args.yes {
            problems.extend(run.remove());
        }
    }
    let orphans = orphans::find(&cache, &state);
    for dir in &orphans {
        println!("a run without a record\n  {}", dir.display());
        if args.yes
            && let Err(error) = orphans::remove(dir)
        {
            problems.push(format!("{error:#}"));
        }
    }
    // The next bake would go on with them; who clears up does not wait for it.
    let partials: Vec<_> = partial::find(&cache)?.into_iter().filter(|partial| !partial.held).collect();
    for partial in &partials {
        let url = partial.url.as_deref().unwrap_or("an unknown place");
        println!("a download that stopped half-way, of {url}\n  {}", partial.dir.display());
        if args.yes
            && let Err(error) = partial.remove()
        {
            problems.push(format!("{error:#}"));
        }
    }
    let locks = lock::unheld(&locks_dir(&cache));
    for lock in &locks {
        println!("a lock nobody holds\n  {}", lock.display());
    }
    if args.yes {
        lock::remove_unheld(&locks_dir(&cache));
    }
    let things = left.len() + orphans.len() + partials.len() + locks.len();
    match (things, args.yes) {
        (0, _) => println!("nothing is left of earlier runs"),
        (things, true) => println!("{} cleaned up", count(things)),
        (things, false) => println!("{} left; `builder gc --yes` removes it", count(things)),
    }
    for problem in &problems {
        eprintln!("  {problem}");
    }
    if !problems.is_empty() {
        bail!("{} could not be removed", count(problems.len()));
    }
    Ok(())
}

fn count(things: usize) -> String {
    if things == 1 { "1 thing".to_owned() } else { format!("{things} things") }
}

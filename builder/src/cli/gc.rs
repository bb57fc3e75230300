//! `builder gc`: what killed runs left.

use std::path::PathBuf;

use anyhow::{Result, bail};
use jiff::Timestamp;
use serde::Serialize;

use crate::bake::store::locks_dir;
use crate::inputs::fetch::partial::{self, Partial};
use crate::run::gc::LeftOver;
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
    /// One JSON document instead of lines.
    #[arg(long)]
    json: bool,
}

/// What is left, as `--json` has it.
#[derive(Debug, Serialize)]
struct Report {
    /// Runs whose builder is gone.
    runs: Vec<RunLeft>,
    /// Directories of runs without a record.
    orphans: Vec<PathBuf>,
    /// Downloads that stopped half-way.
    downloads: Vec<Download>,
    /// Locks nobody holds.
    locks: Vec<PathBuf>,
    /// Whether it was asked to be removed.
    removed: bool,
    /// What could not be.
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct RunLeft {
    run: String,
    what: String,
    created: Timestamp,
    kept: bool,
    processes: Vec<Process>,
    paths: Vec<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Process {
    pid: i32,
    name: String,
}

#[derive(Debug, Serialize)]
struct Download {
    /// None where that cannot be told.
    url: Option<String>,
    path: PathBuf,
    /// In bytes.
    size: u64,
}

impl From<&LeftOver> for RunLeft {
    fn from(run: &LeftOver) -> Self {
        let process =
            |process: crate::run::process::ProcessId| Process { pid: process.pid, name: process.name() };
        Self {
            run: run.record.id.to_string(),
            what: run.record.what.clone(),
            created: run.record.created,
            kept: run.record.kept,
            processes: run.record.vms().into_iter().map(process).collect(),
            paths: run.paths().map(PathBuf::from).collect(),
        }
    }
}

impl Report {
    fn things(&self) -> usize {
        self.runs.len() + self.orphans.len() + self.downloads.len() + self.locks.len()
    }

    fn print(&self) {
        for run in &self.runs {
            let kept = if run.kept { ", kept on request" } else { "" };
            println!("run {} ({}, {:.0}{kept})", run.run, run.what, run.created);
            for process in &run.processes {
                println!("  process {} ({})", process.pid, process.name);
            }
            for path in &run.paths {
                println!("  {}", path.display());
            }
        }
        for dir in &self.orphans {
            println!("a run without a record\n  {}", dir.display());
        }
        for download in &self.downloads {
            let url = download.url.as_deref().unwrap_or("an unknown place");
            println!("a download that stopped half-way, of {url}\n  {}", download.path.display());
        }
        for lock in &self.locks {
            println!("a lock nobody holds\n  {}", lock.display());
        }
        match (self.things(), self.removed) {
            (0, _) => println!("nothing is left of earlier runs"),
            (things, true) => println!("{} cleaned up", count(things)),
            (things, false) => println!("{} left; `builder gc --yes` removes it", count(things)),
        }
        for problem in &self.problems {
            eprintln!("  {problem}");
        }
    }
}

/// Lists, and with `--yes` removes, what is left of runs whose builder is gone.
pub(super) fn run(args: Args) -> Result<()> {
    let (state, cache) = (dirs::state()?, args.cache.map_or_else(dirs::cache, Ok)?);
    let cache = std::path::absolute(cache)?;
    let runs = gc::find(&state)?;
    let orphans = orphans::find(&cache, &state);
    // The next bake would go on with them; who clears up does not wait for it.
    let partials: Vec<Partial> = partial::find(&cache)?.into_iter().filter(|partial| !partial.held).collect();
    let mut report = Report {
        runs: runs.iter().map(RunLeft::from).collect(),
        orphans,
        downloads: partials
            .iter()
            .map(|part| Download { url: part.url.clone(), path: part.dir.clone(), size: part.size })
            .collect(),
        locks: lock::unheld(&locks_dir(&cache)),
        removed: args.yes,
        problems: Vec::new(),
    };
    if args.yes {
        report.problems.extend(runs.iter().flat_map(LeftOver::remove));
        let removed = report.orphans.iter().map(|dir| orphans::remove(dir).map(drop));
        let removed = removed.chain(partials.iter().map(|partial| partial.remove().map(drop)));
        let problems: Vec<String> =
            removed.filter_map(|removed| Some(format!("{:#}", removed.err()?))).collect();
        report.problems.extend(problems);
        lock::remove_unheld(&locks_dir(&cache));
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        report.print();
    }
    match report.problems.len() {
        0 => Ok(()),
        problems => bail!("{} could not be removed", count(problems)),
    }
}

fn count(things: usize) -> String {
    if things == 1 { "1 thing".to_owned() } else { format!("{things} things") }
}

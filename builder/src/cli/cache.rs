//! `builder cache`: what is kept, and getting rid of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Subcommand;
use jiff::Timestamp;
use serde::Serialize;

use crate::cache::plan::{Wish, plan};
use crate::cache::survey::survey;
use crate::cache::verify::{Verdict, verify};
use crate::cache::{Entry, Kind};
use crate::image::Size;
use crate::inputs::digest::Hasher;
use crate::run::dirs;

/// Arguments of `builder cache`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
    /// The cache's directory [default: ~/.cache/kiln].
    #[arg(long, value_name = "DIR", env = "KILN_CACHE", global = true)]
    cache: Option<PathBuf>,
    /// One JSON document instead of a table.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what there is, its size, when it was last used and by what it is needed.
    List,
    /// Remove what is not needed: without options, what is of no use to anybody.
    Prune(Prune),
    /// Read everything through; what has changed is moved out of the way.
    Verify,
}

#[derive(Debug, clap::Args)]
struct Prune {
    /// What was not used for so long, such as 720h.
    #[arg(long, value_name = "TIME", value_parser = super::duration)]
    older_than: Option<Duration>,
    /// What was not used for longest, until this much is left, such as 20GiB.
    #[arg(long, value_name = "SIZE")]
    max_size: Option<Size>,
    /// Everything that no running bake and no other result needs.
    #[arg(long)]
    unused: bool,
    /// Remove what is listed; without it nothing is touched.
    #[arg(long)]
    yes: bool,
}

/// Runs one of them.
pub(super) async fn run(args: Args) -> Result<()> {
    let cache = std::path::absolute(args.cache.map_or_else(dirs::cache, Ok)?)?;
    match args.command {
        Command::List => list(&cache, args.json),
        Command::Prune(options) => prune(&cache, &options, args.json),
        Command::Verify => check(&cache, args.json).await,
    }
}

fn list(cache: &Path, json: bool) -> Result<()> {
    #[derive(Serialize)]
    struct Listed<'a> {
        cache: &'a Path,
        size: u64,
        entries: &'a [Entry],
    }
    let entries = survey(cache)?;
    let size = entries.iter().map(|entry| entry.size).sum();
    if json {
        println!("{}", serde_json::to_string_pretty(&Listed { cache, size, entries: &entries })?);
    } else {
        print!("{}", table(&entries));
        println!("{} in {}", Size::bytes(size), cache.display());
    }
    Ok(())
}

fn prune(cache: &Path, options: &Prune, json: bool) -> Result<()> {
    #[derive(Serialize)]
    struct Pruned<'a> {
        removed: bool,
        size: u64,
        entries: Vec<&'a Entry>,
        problems: &'a [String],
    }
    let entries = survey(cache)?;
    let wish = Wish {
        older_than: options.older_than,
        max_size: options.max_size.map(Size::as_bytes),
        unused: options.unused,
    };
    let going = plan(&entries, &wish, Timestamp::now());
    let mut going: Vec<&Entry> = going.into_iter().map(|index| &entries[index]).collect();
    let mut problems = Vec::new();
    if options.yes {
        going.retain(|entry| match entry.remove() {
            Ok(true) => true,
            Ok(false) => {
                problems.push(format!("{} is in use by now and stays", entry.path.display()));
                false
            }
            Err(error) => {
                problems.push(format!("{error:#}"));
                false
            }
        });
    }
    let size = going.iter().map(|entry| entry.size).sum();
    if json {
        let pruned = Pruned { removed: options.yes, size, entries: going, problems: &problems };
        println!("{}", serde_json::to_string_pretty(&pruned)?);
    } else {
        print!("{}", table(going.iter().copied()));
        match (going.len(), options.yes) {
            (0, _) => println!("nothing is to be removed"),
            (_, true) => println!("removed, {} in all", Size::bytes(size)),
            (_, false) => println!("{} in all; with --yes it is removed", Size::bytes(size)),
        }
        for problem in &problems {
            eprintln!("  {problem}");
        }
    }
    if !problems.is_empty() {
        bail!("not everything could be removed");
    }
    Ok(())
}

async fn check(cache: &Path, json: bool) -> Result<()> {
    #[derive(Serialize)]
    struct Checked<'a> {
        kind: Kind,
        path: &'a Path,
        #[serde(flatten)]
        verdict: &'a Verdict,
    }
    let (entries, hasher) = (survey(cache)?, Hasher::reading(cache));
    let mut verdicts = Vec::new();
    for entry in &entries {
        let Some(verdict) = verify(cache, entry, &hasher).await? else { continue };
        if !json {
            let (kind, name) = (entry.kind.as_str(), &entry.name);
            match &verdict {
                Verdict::Fine => println!("fine     {kind:<5}  {name}"),
                Verdict::Quarantined { why, place } => {
                    println!("damaged  {kind:<5}  {name}: {why}; it is now {}", place.display());
                }
                Verdict::DamagedInUse { why } => {
                    println!("damaged  {kind:<5}  {name}: {why}; it is in use, so it was left");
                }
            }
        }
        verdicts.push((entry, verdict));
    }
    if json {
        let checked: Vec<Checked<'_>> = verdicts
            .iter()
            .map(|(entry, verdict)| Checked { kind: entry.kind, path: &entry.path, verdict })
            .collect();
        println!("{}", serde_json::to_string_pretty(&checked)?);
    }
    hasher.remember()?;
    let damaged = verdicts.iter().filter(|(_, verdict)| *verdict != Verdict::Fine).count();
    if damaged > 0 {
        bail!(
            "{damaged} of {} in the cache were damaged; the next bake makes or downloads them again",
            verdicts.len()
        );
    }
    if !json {
        println!("{} read, all as they were", verdicts.len());
    }
    Ok(())
}

fn table<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for entry in entries {
        let Entry { kind, name, size, last_used, .. } = entry;
        let size = Size::bytes(*size).to_string();
        let needed = match (entry.in_use, entry.below.len()) {
            (true, _) => "  in use".to_owned(),
            (false, 0) => String::new(),
            (false, 1) => "  below 1 disk".to_owned(),
            (false, disks) => format!("  below {disks} disks"),
        };
        let _ = writeln!(text, "{:<8} {size:>10}  {last_used:.0}  {name}{needed}", kind.as_str());
    }
    text
}

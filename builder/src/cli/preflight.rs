//! `builder preflight`: whether this host can bake and run nodes, with the
//! remedy for what is missing.

use std::path::PathBuf;

use anyhow::{Result, bail};

use super::paint::{BAD, GOOD, HINT, POOR};
use crate::inputs::network::Downloads;
use crate::preflight::{Options, Report, Status, check};
use crate::run::dirs;

/// Arguments of `builder preflight`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where results of stages would be kept [default: ~/.cache/kiln].
    #[arg(long, value_name = "DIR", env = "KILN_CACHE")]
    cache: Option<PathBuf>,
    /// Check this kickstart for the os stage instead of Kiln's own.
    #[arg(long, value_name = "FILE")]
    kickstart: Option<PathBuf>,
    /// One JSON document instead of lines.
    #[arg(long)]
    json: bool,
    // Last: it begins a section of its own in the help.
    #[command(flatten)]
    downloads: Downloads,
}

/// Prints what there is and what is missing.
pub(super) async fn run(args: Args) -> Result<()> {
    let cache = args.cache.map_or_else(dirs::cache, Ok)?;
    let options = Options {
        cache: std::path::absolute(cache)?,
        state: dirs::state()?,
        kickstart: args.kickstart,
        network: args.downloads.network(),
    };
    let report = check(&options).await?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    let missing = report.findings.iter().filter(|finding| finding.status == Status::Missing).count();
    if missing > 0 {
        bail!("{missing} of these have to be put right before a bake");
    }
    Ok(())
}

fn print(report: &Report) {
    let width = report.findings.iter().map(|finding| finding.name.len()).max().unwrap_or_default();
    for finding in &report.findings {
        let (word, style) = match finding.status {
            Status::Ok => ("ok     ", GOOD),
            Status::Warning => ("warning", POOR),
            Status::Missing => ("missing", BAD),
        };
        anstream::println!("{style}{word}{style:#}  {:<width$}  {}", finding.name, finding.found);
        if let Some(remedy) = &finding.remedy {
            anstream::println!("         {:<width$}  {HINT}{remedy}{HINT:#}", "");
        }
    }
}

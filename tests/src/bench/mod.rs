//! The coordinator's benchmarks. The coordinator under test is the program
//! itself, in a process of its own on a core of its own, with its state on a
//! disk; whoever speaks to it is here, on the other cores.
//!
//! | file | what it holds |
//! |---|---|
//! | `report` | a result, and the line it is printed as |
//! | `process` | a process under test: its core, its processor time, its memory |
//! | `coordinator` | a coordinator with a cluster, and its admin |
//! | `agent` | what an agent says to a coordinator |
//! | `peer` | the bare handshake loop that throughput is compared with |
//! | `load` | many agents at a time |
//! | `throughput` | enrolments and configurations per second |
//! | `crowd` | ten thousand agents at once, and ten thousand that wait |
//! | `growth` | what a request costs as nodes become more |

mod agent;
mod coordinator;
mod crowd;
mod growth;
mod load;
mod peer;
mod process;
mod report;
mod throughput;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand, ValueEnum};

use coordinator::Site;

/// Measures the coordinator beside what it is compared with
#[derive(Debug, Parser)]
#[command(name = "bench-coordinator")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The coordinator's program [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    coordinator: Option<PathBuf>,
    /// Where its state is made, on the disk that counts [default: beside this program]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How often each ratio is measured; its median counts
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Agents in a crowd
    #[arg(long, default_value_t = 10_000)]
    agents: usize,
    /// Measure this only
    #[arg(long, value_enum)]
    only: Vec<Part>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Be the bare handshake loop
    #[command(hide = true)]
    Peer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Throughput,
    Crowd,
    Growth,
}

/// Parses the command line and measures.
pub(crate) fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if let Some(Command::Peer) = arguments.command {
        return runtime.block_on(peer::serve());
    }
    process::raise_file_limit()?;
    let beside = std::env::current_exe().context("asking where this program is")?;
    let beside = beside.parent().context("a program is in a directory")?.to_owned();
    let site = Site {
        program: arguments.coordinator.unwrap_or_else(|| beside.join("coordinator")),
        dir: arguments.dir.unwrap_or(beside),
        cores: process::Cores::split()?,
    };
    let wanted = |part| arguments.only.is_empty() || arguments.only.contains(&part);
    runtime.block_on(async {
        if wanted(Part::Throughput) {
            throughput::measure(&site, arguments.rounds).await?;
        }
        if wanted(Part::Crowd) {
            crowd::measure(&site, arguments.rounds, arguments.agents).await?;
        }
        if wanted(Part::Growth) {
            growth::measure(&site, arguments.rounds).await?;
        }
        Ok(())
    })
}

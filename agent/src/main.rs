//! `agent`: parses the command line and calls one function per subcommand.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    kiln_agent::cli::Cli::parse().run()
}

//! The coordinator program.

use std::process::ExitCode;

fn main() -> ExitCode {
    kiln_coordinator::cli::main()
}

//! The coordinator program.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// A tenth less processor time for a request than with glibc's allocator, and no
/// more memory with ten thousand agents (docs/benchmarks.md).
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    kiln_coordinator::cli::main()
}

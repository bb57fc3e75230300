//! How fast and how small the coordinator is: the program, beside what it is
//! compared with, measured in one run. Prints one JSON object a line.

#[path = "../bench/mod.rs"]
mod bench;

fn main() -> anyhow::Result<()> {
    bench::main()
}

//! What this machine has: checked before anything is made.

use std::path::Path;

use nix::sys::statvfs::statvfs;

use super::Qemu;
use crate::machine::qemu::vm::{Vm, find_program};
use crate::machine::qemu::{OvmfFiles, command, tpm};
use crate::provider::types::{Finding, NodeFirmware, NodeSpec};

/// What QEMU itself takes beside a guest's memory.
const OVERHEAD: u64 = 128 << 20;
/// What a node writes at its first boot, and then some.
const LEAST_DISK: u64 = 1 << 30;
const GIB: u64 = 1 << 30;

/// Everything that would make nodes of these specifications fail later.
pub(super) fn preflight(qemu: &Qemu, nodes: &[NodeSpec]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (program, package) in [(command::PROGRAM, "qemu-system-x86"), ("qemu-img", "qemu-utils")] {
        if find_program(program).is_none() {
            let text = format!("{program} is not installed (Debian, Ubuntu: apt install {package})");
            findings.push(Finding::error(text));
        }
    }
    let any = |firmware| nodes.iter().any(|node| node.firmware == firmware);
    let wanted = [
        any(NodeFirmware::Uefi).then(|| OvmfFiles::find().map(drop)),
        any(NodeFirmware::SecureBoot).then(|| OvmfFiles::find_secure().map(drop)),
        any(NodeFirmware::SecureBoot).then(tpm::installed),
    ];
    let missing = wanted.into_iter().flatten().filter_map(Result::err);
    findings.extend(missing.map(|error| Finding::error(format!("{error:#}"))));
    let off: Vec<&NodeSpec> = nodes
        .iter()
        .filter(|node| Vm::running_in(&qemu.node_dir(&node.cluster, &node.node)).is_none())
        .collect();
    findings.extend(memory(&off, available_memory()));
    findings.extend(processors(nodes));
    findings.extend(disk(qemu.clusters(), off.len()));
    findings
}

fn memory(off: &[&NodeSpec], available: Option<u64>) -> Option<Finding> {
    let wanted: u64 = off.iter().map(|node| node.memory + OVERHEAD).sum();
    let available = available?;
    (wanted > available).then(|| {
        Finding::error(format!(
            "the nodes to start need {} of memory, this machine has {} available: lower `memory` in the \
             cluster file, or end something",
            size(wanted),
            size(available)
        ))
    })
}

fn processors(nodes: &[NodeSpec]) -> Option<Finding> {
    let host = std::thread::available_parallelism().ok()?.get();
    let node = nodes.iter().find(|node| node.cores.get() as usize > host)?;
    let (name, cores) = (&node.node, node.cores);
    Some(Finding::warning(format!("node {name} has {cores} cores, this machine {host}: it will be slow")))
}

fn disk(dir: &Path, nodes: usize) -> Option<Finding> {
    let there = dir.ancestors().find(|dir| dir.exists())?;
    let stat = statvfs(there).ok()?;
    let free = stat.blocks_available() * stat.fragment_size();
    let wanted = LEAST_DISK * nodes as u64;
    (free < wanted).then(|| {
        Finding::error(format!(
            "{} has {} free, {nodes} new nodes need at least {}: free some, or name another directory with \
             --state",
            there.display(),
            size(free),
            size(wanted)
        ))
    })
}

fn available_memory() -> Option<u64> {
    parse_available(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn parse_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn size(bytes: u64) -> String {
    let tenths = bytes * 10 / GIB;
    format!("{}.{} GiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::types::test_spec;

    #[test]
    fn memory_is_counted_with_what_qemu_takes() {
        let node = NodeSpec { memory: GIB, ..test_spec("a") };
        let needed = 2 * (GIB + OVERHEAD);
        assert_eq!(memory(&[&node, &node], Some(needed)), None);
        let finding = memory(&[&node, &node], Some(needed - 1)).unwrap();
        assert!(finding.text.contains("need 2.2 GiB"), "{finding}");
        assert_eq!(memory(&[&node], None), None);
    }

    #[test]
    fn meminfo_is_in_kib() {
        let text = "MemTotal:       24000 kB\nMemFree:  1 kB\nMemAvailable:    2048 kB\n";
        assert_eq!(parse_available(text), Some(2 << 20));
        assert_eq!(parse_available("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn a_full_disk_is_found_before_it_hurts() {
        assert_eq!(disk(Path::new("/"), 0), None);
        assert!(disk(Path::new("/proc/self/nonexistent"), 1).is_some());
    }
}

//! Naming a process so that it is found again and never mistaken for another.

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// A process number together with the moment the process began: numbers are
/// used again, the pair is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The number.
    pub pid: i32,
    /// Clock ticks between the host's start and the process's (proc(5)).
    pub start: u64,
}

impl ProcessId {
    /// This process.
    pub fn current() -> Self {
        let pid = i32::try_from(std::process::id()).unwrap_or_default();
        // Only a host without /proc has none; then nothing is found again.
        Self::of(pid).unwrap_or(Self { pid, start: 0 })
    }

    /// The living process of that number.
    pub fn of(pid: i32) -> Option<Self> {
        let line = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, start) = parse_stat(&line)?;
        (!matches!(state, 'Z' | 'X')).then_some(Self { pid, start })
    }

    /// Whether it lives still.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// The name of its program, for people.
    pub fn name(self) -> String {
        let name = std::fs::read_to_string(format!("/proc/{}/comm", self.pid)).unwrap_or_default();
        name.trim().to_owned()
    }

    /// Sends a signal, unless it is gone.
    pub fn signal(self, signal: Signal) {
        if self.is_alive() {
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }
}

/// State and start time of a line of `/proc/<pid>/stat`. The name in
/// parentheses may itself hold parentheses and spaces.
fn parse_stat(line: &str) -> Option<(char, u64)> {
    let (_, rest) = line.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // The start time is field 22, the state field 3.
    let start = fields.nth(18)?.parse().ok()?;
    Some((state, start))
}

/// QEMU processes whose working directory is `dir` or below: each VM runs in
/// its own directory, so this finds one whose number was never written down.
pub fn qemus_in(dir: &Path) -> Vec<ProcessId> {
    let Ok(dir) = dir.canonicalize() else { return Vec::new() };
    processes(|proc, comm| comm.starts_with("qemu") && runs_in(proc, &dir))
}

/// Programs that work on a run's files and outlive a builder that is killed.
const HELPERS: [&str; 5] = ["qemu", "swtpm", "xorriso", "setfiles", "ksvalidator"];

/// Those programs that run in `dir` or have a path in it on their command
/// line: machines, and a `qemu-img` or `xorriso` that goes on writing.
pub fn helpers_of(dir: &Path) -> Vec<ProcessId> {
    // What is in nobody's directory is looked for by its name alone.
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let Some(name) = dir.to_str() else { return Vec::new() };
    processes(|proc, comm| {
        HELPERS.iter().any(|helper| comm.starts_with(helper))
            && (runs_in(proc, &dir)
                || std::fs::read(proc.join("cmdline")).is_ok_and(|words| names(&words, name)))
    })
}

/// The living processes that are wanted, told by their place in /proc and
/// their name.
fn processes(wanted: impl Fn(&Path, &str) -> bool) -> Vec<ProcessId> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let proc = Path::new("/proc").join(pid.to_string());
        std::fs::read_to_string(proc.join("comm")).is_ok_and(|comm| wanted(&proc, &comm))
    })
    .filter_map(ProcessId::of)
    .collect()
}

fn runs_in(proc: &Path, dir: &Path) -> bool {
    std::fs::read_link(proc.join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir))
}

/// Whether a command line has a path at or below `dir`.
fn names(command_line: &[u8], dir: &str) -> bool {
    let text = String::from_utf8_lossy(command_line);
    text.match_indices(dir).any(|(at, _)| {
        let after = text[at + dir.len()..].chars().next();
        after.is_none_or(|c| matches!(c, '/' | '\0' | ','))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_does_not_shift_the_fields() {
        let tail = "S 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2";
        assert_eq!(parse_stat(&format!("42 (a) R (b) {tail}")), Some(('S', 987_654)));
        assert_eq!(parse_stat("42 (a"), None);
    }

    #[test]
    fn a_process_is_not_its_successor() {
        let me = ProcessId::current();
        assert!(me.is_alive());
        assert!(!ProcessId { start: me.start + 1, ..me }.is_alive());
    }

    #[test]
    fn a_path_on_a_command_line_is_in_a_directory_or_not() {
        assert!(names(b"qemu-img\0convert\0/c/tmp/ab/disk.qcow2\0", "/c/tmp/ab"));
        assert!(names(b"qemu\0-drive\0file=/c/tmp/ab,if=none\0", "/c/tmp/ab"));
        assert!(!names(b"qemu-img\0/c/tmp/abc/disk.qcow2\0", "/c/tmp/ab"));
    }

    #[test]
    fn a_dead_child_is_dead_before_it_is_reaped() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while ProcessId::of(pid).is_some() {
            assert!(std::time::Instant::now() < deadline, "true never ended");
            std::thread::yield_now();
        }
        child.wait().unwrap();
    }
}

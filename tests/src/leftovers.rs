//! Seeing that nothing was left behind: no process, no file, no lock.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::wait_until;

/// Every process whose command line or working directory mentions `path`, as
/// `pid command line`. The caller's own process is not among them.
pub fn processes_using(path: &Path) -> Vec<String> {
    let needle = path.to_str().expect("test paths are UTF-8");
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("reading /proc").flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        if pid == own || !pid.bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        // A process may end while it is looked at; a zombie has no command line.
        let Ok(command) = fs::read(entry.path().join("cmdline")) else { continue };
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let directory = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        if command.contains(needle) || directory.starts_with(path) {
            found.push(format!("{pid} {command}"));
        }
    }
    found
}

/// Fails the test if a process still uses `path` after a moment's grace.
#[track_caller]
pub fn assert_no_process(path: &Path) {
    let gone = wait_until(Duration::from_secs(5), || processes_using(path).is_empty());
    assert!(gone.is_ok(), "still running: {:#?}", processes_using(path));
}

/// Every file below `path`, sorted.
pub fn files_below(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                _ => found.push(entry.path()),
            }
        }
    }
    found.sort();
    found
}

//! Everything about a failure in one directory, to look at or to send along.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::watch::LogFiles;
use crate::diagnose::Diagnosis;
use crate::failure::redact::redact;
use crate::machine::qemu::vm::QEMU_LOG;
use crate::run::RunId;
use crate::run::dirs::create_private;

/// The last part of a log that is kept, in bytes.
const TAIL: u64 = 64 * 1024;

/// What is kept besides the logs.
#[derive(Debug)]
pub(super) struct Evidence<'a> {
    /// What it was found to be.
    pub diagnosis: &'a Diagnosis,
    /// The stage that failed.
    pub stage: &'static str,
    /// The machine's logs.
    pub logs: &'a LogFiles,
    /// The directory QEMU ran in.
    pub vm_dir: &'a Path,
    /// The kickstart as it ran.
    pub kickstart: &'a str,
    /// QEMU's command line, as a shell takes it.
    pub command: &'a str,
    /// Versions of the programs that took part.
    pub tools: &'a BTreeMap<String, String>,
}

/// Where the bundle of a run is.
pub(super) fn dir(state: &Path, run: &RunId) -> PathBuf {
    state.join("failures").join(run.as_str())
}

/// The files of a bundle: name, what it is.
const FILES: [(&str, &str); 9] = [
    (SCREEN, "the machine's screen when it was given up"),
    ("serial.log", "ttyS0: firmware, kernel, dracut, Anaconda's text interface"),
    ("installer.log", "Anaconda's own log, as its rsyslog sent it"),
    ("marks.log", "what the kickstart's scripts said"),
    ("qemu.log", "QEMU's own messages"),
    ("ks.cfg", "the kickstart as it ran"),
    ("command.txt", "QEMU's command line, as a shell takes it"),
    (super::inspect::REPORT, "what the inspection saw of the image, and found"),
    ("failure.json", "all of this for programs: class, line, versions of the tools"),
];
/// The screenshot's name.
pub(super) const SCREEN: &str = "screen.png";
/// The index's name.
const INDEX: &str = "README.txt";

/// Writes the bundle into `dir`, which is made; a screenshot may be there
/// already. Secrets are taken out of every text.
pub(super) fn write(dir: &Path, evidence: &Evidence<'_>) -> Result<()> {
    create_private(dir)?;
    let logs = evidence.logs;
    let qemu = evidence.vm_dir.join(QEMU_LOG);
    for (name, path) in [
        ("installer.log", &logs.installer),
        ("serial.log", &logs.serial),
        ("marks.log", &logs.marks),
        ("qemu.log", &qemu),
    ] {
        // What never came to be is not missed.
        if let Ok(bytes) = tail(path)
            && !bytes.is_empty()
        {
            put(dir, name, redact(&String::from_utf8_lossy(&bytes)).as_bytes())?;
        }
    }
    put(dir, "ks.cfg", redact(evidence.kickstart).as_bytes())?;
    put(dir, "command.txt", format!("{}\n", redact(evidence.command)).as_bytes())?;
    close(dir, evidence.stage, evidence.diagnosis, evidence.tools)
}

/// Writes the bundle of an image that was read through and is not as it must
/// be: there is no machine any more that could tell anything.
pub(super) fn write_findings(
    dir: &Path,
    stage: &str,
    diagnosis: &Diagnosis,
    report: &[u8],
    tools: &BTreeMap<String, String>,
) -> Result<()> {
    create_private(dir)?;
    put(dir, super::inspect::REPORT, report)?;
    close(dir, stage, diagnosis, tools)
}

/// What every bundle ends with: the failure for programs, and the index.
fn close(dir: &Path, stage: &str, diagnosis: &Diagnosis, tools: &BTreeMap<String, String>) -> Result<()> {
    let failure = serde_json::json!({ "stage": stage, "diagnosis": diagnosis, "tools": tools });
    put(dir, "failure.json", redact(&serde_json::to_string_pretty(&failure)?).as_bytes())?;
    put(dir, INDEX, redact(&index(dir, stage, diagnosis, tools)).as_bytes())
}

/// What happened and what is here.
fn index(dir: &Path, stage: &str, diagnosis: &Diagnosis, tools: &BTreeMap<String, String>) -> String {
    let mut text = format!("The {stage} stage failed: {diagnosis}\n\n");
    for (name, what) in FILES {
        if let Ok(metadata) = std::fs::metadata(dir.join(name)) {
            let _ = writeln!(text, "{name:<14} {:>8} bytes  {what}", metadata.len());
        }
    }
    let _ = writeln!(text, "\nOf each log the last {} KiB are here; secrets were taken out.\n", TAIL >> 10);
    for (tool, version) in tools {
        let _ = writeln!(text, "{tool}: {version}");
    }
    text
}

fn put(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = dir.join(name);
    std::fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))
}

fn tail(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::{Class, Source};

    #[test]
    fn a_bundle_holds_the_ends_of_the_logs() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let logs = LogFiles { installer: path("i"), serial: path("s"), marks: path("m") };
        let mut long = vec![b'.'; 100_000];
        long.extend(b"the end");
        std::fs::write(&logs.serial, &long).unwrap();
        let bundle = path("bundle");
        let diagnosis = Diagnosis::new(Class::Stall, Source::Clock, "nothing moves");
        write(
            &bundle,
            &Evidence {
                diagnosis: &diagnosis,
                stage: "os",
                logs: &logs,
                vm_dir: dir.path(),
                kickstart: "cmdline\nrootpw hunter2\n",
                command: "qemu-system-x86_64",
                tools: &BTreeMap::from([("qemu".into(), "7.2".into())]),
            },
        )
        .unwrap();
        let serial = std::fs::read(bundle.join("serial.log")).unwrap();
        assert_eq!(serial.len(), 64 * 1024);
        assert!(serial.ends_with(b"the end"));
        assert!(!bundle.join("installer.log").exists());
        let failure = std::fs::read_to_string(bundle.join("failure.json")).unwrap();
        assert!(failure.contains("\"stall\"") && failure.contains("7.2"), "{failure}");
        let index = std::fs::read_to_string(bundle.join(INDEX)).unwrap();
        assert!(index.contains("nothing moves") && index.contains("next: "), "{index}");
        assert!(
            index.contains("serial.log        65536 bytes") && !index.contains("installer.log"),
            "{index}"
        );
        let kickstart = std::fs::read_to_string(bundle.join("ks.cfg")).unwrap();
        assert_eq!(kickstart, "cmdline\nrootpw [redacted]\n");
    }
}

//! Watches an installer's machine until it is over, one way or the other: its
//! logs, QEMU's events, its disk and the clock go to the classifier, and what
//! that says of progress goes to whoever looks on.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio::time::Instant;

use crate::diagnose::{Classifier, Diagnosis, Ending, Event, Limits, Phase, ProgressClock, Source};
use crate::machine::qemu::qmp;
use crate::machine::qemu::{Vm, VmExit};
use crate::progress::{self, Progress};

/// How often the logs are read.
const READ_EVERY: Duration = Duration::from_millis(100);
/// How often QEMU is asked what it wrote to the disks.
const ASK_EVERY: Duration = Duration::from_secs(3);
/// It answers at once unless it hangs; then the clock decides.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// The logs of a machine.
#[derive(Debug, Clone)]
pub(super) struct LogFiles {
    /// The port Anaconda's log arrives on.
    pub installer: PathBuf,
    /// ttyS0.
    pub serial: PathBuf,
    /// The port our scripts' marks arrive on.
    pub marks: PathBuf,
}

/// A stage that said it was done and powered off.
#[derive(Debug)]
pub(crate) struct Done {
    /// The JSON report of `agent install`, if there was one.
    pub report: Option<String>,
}

/// One log, read as it grows.
#[derive(Debug)]
struct Tail {
    source: Source,
    path: PathBuf,
    file: Option<File>,
}

impl Tail {
    fn new(source: Source, path: &Path) -> Self {
        Self { source, path: path.to_owned(), file: None }
    }

    /// What came since the last time. QEMU makes the file.
    fn read(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if self.file.is_none() {
            self.file = File::open(&self.path).ok();
        }
        if let Some(file) = &mut self.file {
            file.read_to_end(&mut bytes).with_context(|| format!("reading {}", self.path.display()))?;
        }
        Ok(bytes)
    }
}

struct Watch<'a> {
    begin: Instant,
    tails: [Tail; 3],
    classifier: Classifier,
    clock: ProgressClock,
    progress: &'a Progress,
    stage: &'static str,
    shown: Option<progress::Event>,
}

/// Watches until the machine is over or has failed; then it still runs.
pub(super) async fn watch(
    vm: &mut Vm,
    logs: &LogFiles,
    classifier: Classifier,
    limits: Limits,
    stage: &'static str,
    progress: &Progress,
) -> Result<Result<Done, Diagnosis>> {
    let mut watch = Watch {
        begin: Instant::now(),
        tails: [
            Tail::new(Source::Installer, &logs.installer),
            Tail::new(Source::Serial, &logs.serial),
            Tail::new(Source::Marks, &logs.marks),
        ],
        classifier,
        clock: ProgressClock::new(limits),
        progress,
        stage,
        shown: None,
    };
    let mut events = vm.events();
    let mut asked = Instant::now();
    loop {
        let exit = tokio::select! {
            exit = vm.wait() => Some(exit?),
            () = tokio::time::sleep(READ_EVERY) => None,
        };
        if let Some(diagnosis) = watch.look(&mut events)? {
            return Ok(Err(diagnosis));
        }
        if let Some(exit) = exit {
            let verdict = watch.classifier.finish(&ending(&exit));
            let report = watch.classifier.report().map(str::to_owned);
            return Ok(verdict.map(|()| Done { report }));
        }
        if asked.elapsed() >= ASK_EVERY {
            asked = Instant::now();
            let answer = vm.qmp().call("query-blockstats", json!({}), ASK_TIMEOUT).await;
            let written = answer.map(|stats| bytes_moved(&stats)).unwrap_or_default();
            watch.clock.disk_written(written, watch.begin.elapsed());
        }
    }
}

impl Watch<'_> {
    /// Reads all there is to read, and judges.
    fn look(&mut self, events: &mut broadcast::Receiver<qmp::Event>) -> Result<Option<Diagnosis>> {
        let now = self.begin.elapsed();
        let mut verdict = None;
        for tail in &mut self.tails {
            let bytes = tail.read()?;
            self.clock.heard(bytes.len(), now);
            verdict = self.classifier.feed(tail.source, &bytes, now).or(verdict);
        }
        loop {
            match events.try_recv() {
                Ok(event) => {
                    if let Some(event) = Event::parse(&event.name, &event.data) {
                        verdict = self.classifier.event(&event, now).or(verdict);
                    }
                }
                Err(broadcast::error::TryRecvError::Lagged(_)) => {}
                Err(_) => break,
            }
        }
        let line = self.classifier.last_line().map_or("", |(_, line)| line).to_owned();
        self.clock.at(self.classifier.progress().phase, &line, now);
        self.show();
        Ok(verdict.or_else(|| self.clock.stalled(now)))
    }

    /// Tells how far it is, when that changed.
    fn show(&mut self) {
        let event = shown(self.stage, self.classifier.progress());
        if self.shown.as_ref() != Some(&event) {
            self.progress.tell(&event);
            self.shown = Some(event);
        }
    }
}

fn shown(stage: &'static str, progress: &crate::diagnose::Progress) -> progress::Event {
    if let (Some(done), Some(total)) = (progress.done, progress.total) {
        let action = if progress.phase == Phase::Downloading { "downloading" } else { "installing" };
        return progress::Event::Packages { stage, action, done, total };
    }
    let label = progress.phase.label();
    let text = match (&progress.item, progress.phase) {
        (Some(item), Phase::PreScripts | Phase::PostScripts | Phase::Closing) => item.clone(),
        _ => label.to_owned(),
    };
    progress::Event::Step { stage, text }
}

fn ending(exit: &VmExit) -> Ending {
    if let Some(shutdown) = &exit.shutdown {
        return Ending::of_shutdown(&shutdown.reason);
    }
    let status = exit.status.map_or_else(|| "an unknown status".to_owned(), |status| status.to_string());
    Ending::Exited { status, stderr: exit.log_tail.clone() }
}

/// Bytes read from and written to all disks, of `query-blockstats`.
fn bytes_moved(stats: &Value) -> u64 {
    let of = |device: &Value| {
        let count = |name: &str| device["stats"][name].as_u64().unwrap_or_default();
        count("rd_bytes") + count("wr_bytes")
    };
    stats.as_array().map_or(0, |devices| devices.iter().map(of).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_log_is_read_from_before_it_exists() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("serial.log");
        let mut tail = Tail::new(Source::Serial, &path);
        assert_eq!(tail.read().unwrap(), b"");
        let mut file = File::create(&path).unwrap();
        file.write_all(b"one").unwrap();
        assert_eq!(tail.read().unwrap(), b"one");
        assert_eq!(tail.read().unwrap(), b"");
        file.write_all(b"two").unwrap();
        assert_eq!(tail.read().unwrap(), b"two");
    }

    #[test]
    fn disk_traffic_is_summed() {
        let stats =
            json!([{"device": "a", "stats": {"rd_bytes": 1, "wr_bytes": 2}}, {"stats": {"wr_bytes": 4}}]);
        assert_eq!(bytes_moved(&stats), 7);
        assert_eq!(bytes_moved(&Value::Null), 0);
    }
}

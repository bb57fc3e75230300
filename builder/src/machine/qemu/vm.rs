//! One running QEMU.
//!
//! Every VM runs in a directory of its own, its working directory: the
//! monitor's socket, QEMU's own messages and [`VM_RECORD`] are in it, and a
//! process whose working directory it is belongs to it whatever was written.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::process::Child;
use tokio::sync::broadcast;
use tokio::time::Instant;

use super::command::{Command, PROGRAM, QMP_SOCKET};
use super::qmp::{Event, Qmp, QmpError, Shutdown};
use super::tpm;
use crate::run::process::ProcessId;

/// Who runs here, as JSON: process number and start time.
pub const VM_RECORD: &str = "vm.json";
/// What QEMU itself had to say.
pub const QEMU_LOG: &str = "qemu.log";
/// Its command line, as a shell takes it.
pub const QEMU_COMMAND: &str = "command.txt";
/// QEMU makes its monitor within this, or something is wrong with it.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a VM lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Dies when the [`Vm`] is dropped, and with this process whatever becomes
    /// of it. Start such a VM on a thread that lives as long as the process
    /// (an async worker, not `spawn_blocking`): Linux ties it to the thread.
    Builder,
    /// Outlives this process; found again with [`Vm::attach`].
    Detached,
}

#[derive(Serialize, Deserialize)]
struct Record {
    process: ProcessId,
}

/// A QEMU that ended before its machine ran.
#[derive(Debug, thiserror::Error)]
#[error("QEMU ended as it began ({status}): {}", one_line(.log_tail))]
pub struct NeverRan {
    /// Its status.
    pub status: ExitStatus,
    /// The end of what it said.
    pub log_tail: String,
}

/// How a QEMU ended.
#[derive(Debug, Clone)]
pub struct VmExit {
    /// Its status, unless another process started it.
    pub status: Option<ExitStatus>,
    /// Why its machine stopped, if it said so.
    pub shutdown: Option<Shutdown>,
    /// The end of what QEMU itself said.
    pub log_tail: String,
}

/// One running QEMU.
#[derive(Debug)]
pub struct Vm {
    dir: PathBuf,
    process: ProcessId,
    child: Option<Child>,
    /// Held for its end: a VM that lives with the builder takes its TPM along.
    _tpm: Option<Child>,
    qmp: Qmp,
    /// Listens since before the machine ran.
    events: Option<broadcast::Receiver<Event>>,
}

impl Vm {
    /// Starts QEMU in `dir`, which exists and is this VM's alone. [`NeverRan`]
    /// is among the causes of an error if QEMU itself refused.
    pub async fn spawn(command: &Command, dir: &Path, lifetime: Lifetime) -> Result<Self> {
        let shown = dir.join(QEMU_COMMAND);
        std::fs::write(&shown, format!("{}\n", command.to_shell(dir)))
            .with_context(|| format!("writing {}", shown.display()))?;
        let shown = || format!("starting QEMU as in {}", shown.display());
        let tpm = if command.is_secure() { Some(tpm::start(dir, lifetime).await?) } else { None };
        let mut child = spawn(command, dir, lifetime).with_context(shown)?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let process = pid.and_then(ProcessId::of);
        if let Some(process) = process {
            let record = serde_json::to_vec(&Record { process })?;
            let path = dir.join(VM_RECORD);
            std::fs::write(&path, record).with_context(|| format!("writing {}", path.display()))?;
        }
        let started = async {
            let qmp = connect(dir, &mut child).await?;
            let events = qmp.events();
            qmp.run(qapi::qmp::cont {}).await?;
            let process = process.context("QEMU ended as it began")?;
            Ok::<_, anyhow::Error>((qmp, events, process))
        };
        match started.await {
            Ok((qmp, events, process)) => {
                let (child, events) = (Some(child), Some(events));
                Ok(Self { dir: dir.to_owned(), process, child, _tpm: tpm, qmp, events })
            }
            Err(error) => {
                let _ = child.kill().await;
                if let Some(mut tpm) = tpm {
                    // It ends only after a QEMU that connected.
                    let _ = tpm.kill().await;
                }
                Err(error.context(shown()))
            }
        }
    }

    /// Finds the VM that runs in `dir` again; none when it has ended.
    pub async fn attach(dir: &Path) -> Result<Option<Self>> {
        let Some(process) = Self::running_in(dir) else { return Ok(None) };
        let socket = dir.join(QMP_SOCKET);
        let qmp = tokio::time::timeout(super::qmp::CALL_TIMEOUT, Qmp::connect(dir, QMP_SOCKET))
            .await
            .map_err(std::io::Error::from)
            .flatten()
            .with_context(|| format!("connecting to QEMU's monitor {}", socket.display()))?;
        Ok(Some(Self { dir: dir.to_owned(), process, child: None, _tpm: None, qmp, events: None }))
    }

    /// The process of the VM in `dir`, without talking to it.
    pub fn running_in(dir: &Path) -> Option<ProcessId> {
        let recorded = std::fs::read(dir.join(VM_RECORD))
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok())
            .map(|record| record.process)
            .filter(|process| process.is_alive());
        recorded.or_else(|| crate::run::process::qemus_in(dir).into_iter().next())
    }

    /// The monitor.
    pub fn qmp(&self) -> &Qmp {
        &self.qmp
    }

    /// QEMU's events: the first time since before the machine ran, later from
    /// then on.
    pub fn events(&mut self) -> broadcast::Receiver<Event> {
        self.events.take().unwrap_or_else(|| self.qmp.events())
    }

    /// QEMU's process.
    pub fn process(&self) -> ProcessId {
        self.process
    }

    /// The directory it runs in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Presses the power button; the guest decides.
    pub async fn powerdown(&self) -> Result<(), QmpError> {
        self.qmp.run(qapi::qmp::system_powerdown {}).await.map(drop)
    }

    /// Presses the reset button.
    pub async fn reset(&self) -> Result<(), QmpError> {
        self.qmp.run(qapi::qmp::system_reset {}).await.map(drop)
    }

    /// Saves what is on the screen as a PNG file (QEMU 7.1 and newer).
    pub async fn screendump(&self, path: &Path) -> Result<()> {
        let filename = path.to_str().context("the screenshot's path is not UTF-8")?.to_owned();
        let format = Some(qapi::qmp::ImageFormat::png);
        self.qmp.run(qapi::qmp::screendump { device: None, format, head: None, filename }).await?;
        Ok(())
    }

    /// Waits until QEMU has ended.
    pub async fn wait(&mut self) -> Result<VmExit> {
        let status = if let Some(child) = &mut self.child {
            Some(child.wait().await.context("waiting for QEMU")?)
        } else {
            while self.process.is_alive() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            None
        };
        // Its last words are in the socket's buffer still.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.qmp.closed()).await;
        Ok(VmExit { status, shutdown: self.qmp.shutdown(), log_tail: log_tail(&self.dir) })
    }

    /// Ends it: asks QEMU to quit, and kills it if it has not within `grace`.
    pub async fn stop(&mut self, grace: Duration) -> Result<VmExit> {
        let _ = self.qmp.run_within(qapi::qmp::quit {}, grace).await;
        if let Ok(exit) = tokio::time::timeout(grace, self.wait()).await {
            return exit;
        }
        self.process.signal(Signal::SIGKILL);
        self.wait().await
    }
}

fn spawn(command: &Command, dir: &Path, lifetime: Lifetime) -> Result<Child> {
    let log = dir.join(QEMU_LOG);
    let log = std::fs::File::create(&log).with_context(|| format!("creating {}", log.display()))?;
    let mut process = bound_to_builder(&installed_qemu()?, lifetime);
    // Stopped at first, so that no event is lost before we listen; and out of
    // the terminal's process group, so that Ctrl-C is ours to deal with.
    process.args(command.argv()).arg("-S").current_dir(dir).process_group(0);
    process.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    process.kill_on_drop(lifetime == Lifetime::Builder);
    process.spawn().map_err(anyhow::Error::from)
}

/// A program that dies with this process, if that is its lifetime. `setpriv` of
/// util-linux sets the parent death signal between fork and exec, where safe
/// Rust cannot. Without it what a killed builder leaves is left to `builder gc`.
pub(super) fn bound_to_builder(program: &Path, lifetime: Lifetime) -> tokio::process::Command {
    if lifetime == Lifetime::Builder && find_program("setpriv").is_some() {
        let mut process = tokio::process::Command::new("setpriv");
        process.args(["--pdeathsig", "KILL", "--"]).arg(program);
        return process;
    }
    tokio::process::Command::new(program)
}

async fn connect(dir: &Path, child: &mut Child) -> Result<Qmp> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        if let Some(status) = child.try_wait()? {
            return Err(NeverRan { status, log_tail: log_tail(dir) }.into());
        }
        match Qmp::connect(dir, QMP_SOCKET).await {
            Ok(qmp) => return Ok(qmp),
            Err(error) if Instant::now() > deadline => {
                bail!(
                    "QEMU's monitor did not come up within {START_TIMEOUT:?}: {error}; {}",
                    one_line(&log_tail(dir))
                )
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// The end of QEMU's own messages.
fn log_tail(dir: &Path) -> String {
    const TAIL: usize = 2048;
    let bytes = std::fs::read(dir.join(QEMU_LOG)).unwrap_or_default();
    let tail = &bytes[bytes.len().saturating_sub(TAIL)..];
    String::from_utf8_lossy(tail).trim().to_owned()
}

/// The first of QEMU's messages that is more than a warning, without its name.
fn one_line(log: &str) -> &str {
    let complaint = log.lines().find(|line| !line.is_empty() && !line.contains("warning:"));
    let line = complaint.or_else(|| log.lines().next()).unwrap_or("it said nothing");
    line.split_once(": ").filter(|(name, _)| name.contains("qemu")).map_or(line, |(_, rest)| rest)
}

/// QEMU's program: in `PATH`, or where EL keeps its own.
pub fn qemu_program() -> Option<PathBuf> {
    const EL: &str = "/usr/libexec/qemu-kvm";
    find_program(PROGRAM).or_else(|| Some(PathBuf::from(EL)).filter(|path| path.is_file()))
}

/// QEMU's program, or what to do about its not being there.
pub(super) fn installed_qemu() -> Result<PathBuf> {
    qemu_program().with_context(|| {
        format!("{PROGRAM} is not installed (`builder preflight` says which package brings it)")
    })
}

/// Where in `PATH` a program is.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

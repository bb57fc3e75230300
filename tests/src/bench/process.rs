//! A process under test: its core, its processor time, its memory.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Files that a process with ten thousand connections has open, and some.
const FILES: u64 = 12_000;

/// As many files as the system lets a process open; those it starts inherit it.
pub(super) fn raise_file_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("asking how many files may be open")?;
    if hard < FILES {
        bail!("only {hard} files may be open and {FILES} are needed: raise the hard limit (ulimit -Hn)");
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raising how many files may be open")
}

/// Which core the process under test has, and which the others have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cores {
    tested: CpuSet,
    others: CpuSet,
}

impl Cores {
    /// The last core is for what is tested, all others for who speaks to it:
    /// this process goes there at once.
    pub(super) fn split() -> Result<Self> {
        let all = sched_getaffinity(Pid::from_raw(0)).context("asking which cores there are")?;
        let mut cores: Vec<usize> =
            (0..CpuSet::count()).filter(|core| all.is_set(*core).unwrap_or(false)).collect();
        let Some(last) = cores.pop().filter(|_| !cores.is_empty()) else {
            bail!("one core for what is tested and one for its clients are needed: there is only one");
        };
        let (mut tested, mut others) = (CpuSet::new(), CpuSet::new());
        tested.set(last)?;
        cores.iter().try_for_each(|core| others.set(*core))?;
        sched_setaffinity(Pid::from_raw(0), &others).context("leaving the tested core")?;
        Ok(Self { tested, others })
    }
}

/// It is stopped when this is dropped.
#[derive(Debug)]
pub(super) struct Tested(Child);

impl Tested {
    /// Starts it on the tested core: it inherits this thread's affinity, which
    /// is set for as long as starting it takes.
    pub(super) fn start(mut command: Command, cores: &Cores) -> Result<Self> {
        let me = Pid::from_raw(0);
        sched_setaffinity(me, &cores.tested).context("going to the tested core")?;
        let started = command.spawn().with_context(|| format!("starting {command:?}"));
        sched_setaffinity(me, &cores.others).context("leaving the tested core")?;
        started.map(Self)
    }

    pub(super) fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    fn proc(&self, file: &str) -> PathBuf {
        format!("/proc/{}/{file}", self.0.id()).into()
    }

    /// The processor time that its threads have had: the first number of
    /// `schedstat`, in nanoseconds (the kernel's Documentation/scheduler/sched-stats.rst).
    pub(super) fn cpu(&self) -> Result<Duration> {
        let mut all = 0;
        for thread in fs::read_dir(self.proc("task")).context("listing a process's threads")? {
            // One that has just ended has no file any more.
            let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
            all +=
                text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).context("reading schedstat")?;
        }
        Ok(Duration::from_nanos(all))
    }

    /// Its proportional set size, in bytes: what it alone has, and its part of
    /// what it shares.
    pub(super) fn pss(&self) -> Result<usize> {
        self.kib("smaps_rollup", "Pss:").map(|kib| kib * 1024)
    }

    /// The most that was ever resident, in bytes.
    pub(super) fn peak(&self) -> Result<usize> {
        self.kib("status", "VmHWM:").map(|kib| kib * 1024)
    }

    fn kib(&self, file: &str, field: &str) -> Result<usize> {
        let path = self.proc(file);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        let value = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        value.with_context(|| format!("{} has no {field}", path.display()))
    }
}

impl Drop for Tested {
    fn drop(&mut self) {
        // It may have ended by itself.
        if let Ok(pid) = i32::try_from(self.0.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.0.wait();
    }
}

//! What a disk may hold after a crash, at every point of a run: a child's
//! system calls are recorded by strace, and replayed onto disks of memory.
//!
//! A *point* is a moment after one write, sync, rename, removal, file creation
//! or answer. At each, three disks are possible:
//!
//! * [`Loss::None`]: the process was killed. Everything it wrote is there.
//! * [`Loss::Unsynced`]: the power failed, and nothing is there that was not
//!   synced; names too count only once their directory was.
//! * [`Loss::Torn`]: the power failed, and of what was not synced every second
//!   write reached the disk, the last one of a file by half.
//!
//! SQLite's `-shm` files are left out: they are shared memory that SQLite makes
//! anew when nobody has a database open (<https://sqlite.org/walformat.html#the_wal_index_file_format>).
//! No process is killed for a point, so that all of them can be looked at.

mod disk;
mod trace;

use std::collections::HashSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

pub use disk::{Disk, Loss};
pub use trace::Call;

/// Names the directory that the child is to work in.
const CHILD: &str = "KILN_CRASH_DIR";
/// Begins what the child says, and what it says it was answered.
const SAID: &str = "@said ";
const ANSWERED: &str = "@answered ";

/// The directory to work in, if this process is the recorded child.
pub fn child() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

/// Says, as the child, that something was promised. One line.
pub fn say(line: &str) {
    print(SAID, line);
}

/// As [`say`], of what came over the network: it was promised when the last
/// byte of it was sent.
pub fn say_answered(line: &str) {
    print(ANSWERED, line);
}

fn print(prefix: &str, line: &str) {
    assert!(!line.contains('\n'), "what is said is one line");
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{prefix}{line}\n").as_bytes())
        .and_then(|()| out.flush())
        .expect("saying something");
}

/// The calls of a child's run.
#[derive(Debug)]
pub struct Trace {
    dir: PathBuf,
    calls: Vec<Call>,
}

/// A moment of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// So many calls had been made.
    pub calls: usize,
    /// So many lines had been said, or the answers they speak of been sent.
    pub said: usize,
}

impl Trace {
    /// Runs the test `test` of this very program as a child that works in `dir`.
    pub fn record(test: &str, dir: &Path) -> Result<Self> {
        let dir = dir.canonicalize().with_context(|| format!("resolving {}", dir.display()))?;
        let log = dir.with_extension("strace");
        let program = std::env::current_exe().context("finding this program")?;
        let mut command = Command::new("strace");
        command
            .args(["-f", "-qq", "--seccomp-bpf", "-xx", "-y", "-s", "67108864", "-e", "signal=none", "-e"])
            .arg(format!("trace={}", trace::CALLS.join(",")))
            .args(["-e", &format!("inject={}:error=ENOSYS", trace::UNSEEN.join(","))])
            .arg("-o")
            .arg(&log)
            .arg(program)
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(CHILD, &dir)
            .stdin(Stdio::null());
        let output = command.output().context("running strace (Debian package strace)")?;
        ensure!(
            output.status.success(),
            "the recorded child failed:\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        let recorded = std::fs::read_to_string(&log).context("reading strace's log")?;
        let _ = std::fs::remove_file(&log);
        let calls = trace::parse(&recorded, &dir)?;
        Ok(Self { dir, calls })
    }

    /// Everything that was said.
    pub fn said(&self) -> Vec<&str> {
        let mut said = Vec::new();
        for call in &self.calls {
            if let Call::Said(line) | Call::Answered(line) = call {
                said.push(line.as_str());
            }
        }
        said
    }

    /// Every point, the one before the first call too.
    ///
    pub fn points(&self) -> Vec<Point> {
        let mut said_at = Vec::new();
        let mut answer = None;
        for (at, call) in self.calls.iter().enumerate() {
            match call {
                Call::Sent => answer = Some(at),
                Call::Said(_) => said_at.push(at),
                Call::Answered(_) => said_at.push(answer.unwrap_or(at)),
                _ => {}
            }
        }
        (0..=self.calls.len())
            .map(|calls| Point { calls, said: said_at.iter().filter(|&&at| at < calls).count() })
            .collect()
    }

    /// What a disk holds at a point.
    pub fn disk(&self, point: &Point, loss: Loss) -> Disk {
        Disk::after(&self.calls[..point.calls], &self.dir, loss)
    }

    /// The same run as if nothing had ever been synced.
    #[must_use]
    pub fn without_syncs(&self) -> Self {
        let calls = self.calls.iter().filter(|call| !matches!(call, Call::Sync(_))).cloned().collect();
        Self { dir: self.dir.clone(), calls }
    }

    /// How many calls of each kind there were, in words.
    pub fn summary(&self) -> String {
        let count = |is: fn(&Call) -> bool| self.calls.iter().filter(|call| is(call)).count();
        format!(
            "{} points: {} writes, {} syncs, {} changes of names and lengths, {} bytes sent, {} promises",
            self.calls.len() + 1,
            count(|call| matches!(call, Call::Write { .. })),
            count(|call| matches!(call, Call::Sync(_))),
            count(|call| matches!(
                call,
                Call::Create(_)
                    | Call::Truncate { .. }
                    | Call::Rename { .. }
                    | Call::Remove(_)
                    | Call::Directory(_)
            )),
            count(|call| matches!(call, Call::Sent)),
            count(|call| matches!(call, Call::Said(_) | Call::Answered(_))),
        )
    }

    /// Shows `check` every different disk of every point, written to a
    /// directory of its own, with what had been said; returns how many disks
    /// that were.
    pub fn each_disk(&self, mut check: impl FnMut(&Path, &Point, Loss) -> Result<()>) -> Result<usize> {
        let mut seen = HashSet::new();
        for point in self.points() {
            for loss in Loss::ALL {
                let disk = self.disk(&point, loss);
                if !seen.insert((disk.digest(), point.said)) {
                    continue;
                }
                let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
                disk.write_to(dir.path())?;
                check(dir.path(), &point, loss).with_context(|| {
                    let last = point.calls.checked_sub(1).map(|at| self.calls[at].to_string());
                    format!(
                        "after call {} ({}), {loss:?}, with {} promises made",
                        point.calls,
                        last.as_deref().unwrap_or("none yet"),
                        point.said
                    )
                })?;
            }
        }
        Ok(seen.len())
    }
}

//! Running a program under test: with a deadline, its output kept.

#![expect(clippy::return_self_not_must_use, reason = "an outcome may be checked and dropped")]

use std::fmt;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a program did.
#[derive(Debug)]
pub struct Outcome {
    /// The command line, for messages.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it said.
    pub stdout: String,
    /// What it said to the person.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, status, stdout, stderr, took } = self;
        write!(f, "$ {command}\n{status} after {took:.1?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}

impl Outcome {
    /// Fails the test unless the program succeeded.
    #[track_caller]
    pub fn success(self) -> Self {
        assert!(self.status.success(), "{self}");
        self
    }

    /// Fails the test unless the program ended with this exit code.
    #[track_caller]
    pub fn code(self, expected: i32) -> Self {
        assert_eq!(self.status.code(), Some(expected), "{self}");
        self
    }

    /// Fails the test unless the person was told each of these, in any order.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        let told = format!("{}\n{}", self.stdout, self.stderr);
        for word in words {
            assert!(told.contains(word), "{word:?} was not said\n{self}");
        }
        self
    }
}

/// A program that runs, its output collected meanwhile.
#[derive(Debug)]
pub struct Running {
    command: String,
    child: Child,
    started: Instant,
    stdout: JoinHandle<String>,
    stderr: JoinHandle<String>,
}

fn collect(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A read error ends the collection; what came before it counts.
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Starts a program with no standard input.
pub fn start(mut command: Command) -> Running {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let name = format!("{command:?}");
    let mut child = command.spawn().unwrap_or_else(|error| panic!("starting {name}: {error}"));
    let stdout = collect(child.stdout.take().expect("stdout is piped"));
    let stderr = collect(child.stderr.take().expect("stderr is piped"));
    Running { command: name, child, started: Instant::now(), stdout, stderr }
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name, such as `INT` or `KILL`.
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([&format!("-{signal}"), &self.pid().to_string()]).status();
        assert!(status.expect("running kill").success(), "sending SIG{signal} to {}", self.command);
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        self.child.try_wait().expect("waiting for a child").is_some()
    }

    /// Waits until it ends; at the deadline it is killed and the test fails.
    #[track_caller]
    pub fn wait(mut self, deadline: Duration) -> Outcome {
        let overdue = wait_until(deadline, || self.ended()).is_err();
        if overdue {
            // It may have ended in between.
            let _ = self.child.kill();
        }
        let status = self.child.wait().expect("waiting for a child");
        let outcome = Outcome {
            command: self.command,
            status,
            stdout: self.stdout.join().expect("collecting stdout"),
            stderr: self.stderr.join().expect("collecting stderr"),
            took: self.started.elapsed(),
        };
        assert!(!(overdue && status.signal() == Some(9)), "not done within {deadline:?}\n{outcome}");
        outcome
    }
}

/// Runs a program to its end, which must come before the deadline.
#[track_caller]
pub fn run(command: Command, deadline: Duration) -> Outcome {
    start(command).wait(deadline)
}

/// The deadline passed before the condition held.
#[derive(Debug)]
pub struct Overdue;

/// Asks a condition until it holds or the deadline passes.
pub fn wait_until(deadline: Duration, mut condition: impl FnMut() -> bool) -> Result<(), Overdue> {
    let end = Instant::now() + deadline;
    loop {
        if condition() {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(Overdue);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

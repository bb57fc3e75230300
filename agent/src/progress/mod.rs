//! Telling how far the node is: to the journal, to the serial console, to
//! `agent status`, and to the coordinator as soon as it can be reached.
//!
//! Telling never holds anything up and never fails: what cannot be told is
//! logged at most.

mod console;
mod queue;
mod sender;
pub(crate) mod status;

use std::cell::{Cell, RefCell};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use kiln_protocol::api::{Facts, Report, Step, StepState};
use kiln_protocol::{ApiError, Fingerprint};

pub use console::Console;
pub(crate) use sender::{Link, deliver};
use status::Status;

use crate::clock;
use crate::root::Root;
use crate::run::state::State;
use queue::Queue;

/// The same thing is said again only after this long.
const AGAIN: Duration = Duration::from_secs(60);

/// Runs `agent status`.
pub fn command(json: bool) -> Result<ExitCode> {
    let status = Status::read(&Root::open("/".as_ref())?)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&status).context("writing the status as JSON")?);
    } else {
        print!("{status}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Where everything is told.
#[derive(Debug)]
pub(crate) struct Progress<'a> {
    root: &'a Root,
    console: &'a Console,
    boot_id: String,
    sequence: Cell<u64>,
    told: Cell<Option<Instant>>,
    /// The last result of a step that was finished.
    result: RefCell<Option<(Step, String)>>,
    status: RefCell<Status>,
    pub(crate) queue: Queue,
}

impl<'a> Progress<'a> {
    pub(crate) fn new(root: &'a Root, console: &'a Console) -> Self {
        Self {
            root,
            console,
            boot_id: clock::boot_id(),
            sequence: Cell::new(0),
            told: Cell::new(None),
            result: RefCell::default(),
            status: RefCell::new(Status::default()),
            queue: Queue::default(),
        }
    }

    /// Takes over what a state knows about the node.
    pub(crate) fn identify(&self, state: &State) {
        self.status.borrow_mut().identify(state);
        self.write_status();
    }

    /// Names the node's key to whoever reads the console.
    pub(crate) fn show_key(&self, key: &Fingerprint) {
        self.console.line(&kiln_protocol::console::line(key));
    }

    /// The step is under way; `detail` says what is waited for.
    pub(crate) fn running(&self, step: Step, detail: &str) {
        let state = StepState::Running { detail: Some(detail.to_owned()) };
        self.tell(step, state, detail, None);
    }

    /// Like `running`, but a failure of the step stays the last word on it
    /// until another one is known.
    pub(crate) fn begun(&self, step: Step, detail: &str) {
        if self.status.borrow().state_of(step).is_none() {
            self.running(step, detail);
        }
    }

    /// The step is finished; `note` says with what result.
    pub(crate) fn done(&self, step: Step, note: &str, facts: Facts) {
        self.tell(step, StepState::Done, note, Some(facts));
    }

    /// The step failed this time and is tried again after `wait`.
    pub(crate) fn failed(&self, step: Step, error: &ApiError, wait: Duration) {
        let line = format!("{error}; trying again in {} s", wait.as_secs().max(1));
        self.tell(step, StepState::Failed { error: error.clone() }, &line, None);
    }

    /// Something beside the steps, to the journal and the console.
    pub(crate) fn note(&self, step: Step, line: &str) {
        tracing::info!("[{step}] {line}");
        self.console.line(&format!("kiln: [{step}] {line}"));
    }

    /// The step is not gone on with until an operator has done something.
    pub(crate) fn refused(&self, step: Step, error: &ApiError) {
        self.tell(step, StepState::Failed { error: error.clone() }, &error.to_string(), None);
    }

    /// A report of a failure, for whoever sends it by another way.
    pub(crate) fn last_word(&self, step: Step, error: &ApiError, facts: Facts) -> Report {
        Report {
            boot_id: self.boot_id.clone(),
            sequence: 1,
            uptime_ms: clock::uptime_ms(),
            step,
            state: StepState::Failed { error: error.clone() },
            facts: Some(facts),
            usage: clock::usage(),
        }
    }

    fn tell(&self, step: Step, state: StepState, line: &str, facts: Option<Facts>) {
        let now = Instant::now();
        // A finished step's state holds no result, and another one is news however
        // soon it comes: a node may follow a change in the second after it became ready.
        let result = (state == StepState::Done).then(|| (step, line.to_owned()));
        let another_result = result.is_some() && *self.result.borrow() != result;
        let said_before = self.status.borrow().state_of(step) == Some(&state) && !another_result;
        if said_before && self.told.get().is_some_and(|told| now.duration_since(told) < AGAIN) {
            return;
        }
        self.told.set(Some(now));
        if another_result {
            self.result.replace(result);
        }
        if matches!(state, StepState::Failed { .. }) {
            tracing::warn!("[{step}] {line}");
        } else {
            tracing::info!("[{step}] {line}");
        }
        self.console.line(&format!("kiln: [{step}] {line}"));
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Status(&format!("[{step}] {line}"))]);
        let uptime_ms = clock::uptime_ms();
        self.status.borrow_mut().set(step, state.clone(), uptime_ms);
        self.write_status();
        self.sequence.set(self.sequence.get() + 1);
        self.queue.push(Report {
            boot_id: self.boot_id.clone(),
            sequence: self.sequence.get(),
            uptime_ms,
            step,
            state,
            facts,
            usage: clock::usage(),
        });
    }

    fn write_status(&self) {
        let mut status = self.status.borrow_mut();
        status.usage = clock::usage();
        if let Err(error) = status.write(self.root) {
            tracing::debug!("{error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_result_of_a_finished_step_is_told_at_once_and_the_same_is_not() {
        let dir = crate::testing::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let device = dir.path().join("console");
        std::fs::write(&device, "").unwrap();
        let console = Console::to(vec![device.clone()]);
        let progress = Progress::new(&root, &console);
        for note in ["a is an agent", "a is an agent", "a has new token", "a has new token"] {
            progress.done(Step::Ready, note, crate::facts::collect(&root));
        }
        let said = std::fs::read_to_string(device).unwrap();
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines, ["kiln: [ready] a is an agent", "kiln: [ready] a has new token"]);
    }
}

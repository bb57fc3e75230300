//! What `agent status` shows: written by the running agent, read by anybody.
//! It holds no secret.

use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result};
use kiln_protocol::api::{EnrolAnswer, Step, StepState, Usage};
use kiln_protocol::{Fingerprint, ticket::Address};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::root::{Access, Root};
use crate::run::state::State;

/// Where it is.
pub(crate) const FILE: &str = "/run/kiln/status.json";

/// How far the node is, and who it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// The agent's version.
    agent: String,
    /// When this was written, in seconds since 1970.
    written: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<Fingerprint>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bound: Option<EnrolAnswer>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    coordinator: Vec<Address>,
    steps: Vec<StepStatus>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<Usage>,
}

/// The last word on one step of this boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct StepStatus {
    step: Step,
    #[serde(flatten)]
    state: StepState,
    /// Milliseconds from the kernel's start to this word.
    uptime_ms: u64,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            written: clock::unix_time(),
            key: None,
            bound: None,
            coordinator: Vec::new(),
            steps: Vec::new(),
            usage: None,
        }
    }
}

impl Status {
    pub(super) fn identify(&mut self, state: &State) {
        self.key = state.me().map(|me| me.key);
        // Another ticket may make it another node.
        self.bound = None;
        if let State::Enrol { seed, .. } = state {
            self.coordinator = seed.0.claim.addresses().to_vec();
        }
        if let Some(home) = state.home() {
            self.bound = Some(home.bound.clone());
            self.coordinator.clone_from(&home.addresses);
        }
    }

    pub(super) fn set(&mut self, step: Step, state: StepState, uptime_ms: u64) {
        // Going back to an earlier step unsays what came after it.
        self.steps.retain(|status| status.step < step);
        self.steps.push(StepStatus { step, state, uptime_ms });
    }

    pub(super) fn state_of(&self, step: Step) -> Option<&StepState> {
        self.steps.last().filter(|status| status.step == step).map(|status| &status.state)
    }

    pub(super) fn write(&mut self, root: &Root) -> Result<()> {
        self.written = clock::unix_time();
        let text = serde_json::to_vec_pretty(self).context("writing the status as JSON")?;
        root.make_dirs(Path::new(FILE).parent().unwrap_or(Path::new("/run")), 0o755)?;
        root.put(FILE, Access::ours(0o644), &text).map(|_| ())
    }

    /// What the agent wrote last.
    pub(crate) fn read(root: &Root) -> Result<Self> {
        let bytes = root.read(FILE)?.with_context(|| {
            format!("{FILE} is missing: the agent has not run since this system started (systemctl status kiln-agent)")
        })?;
        serde_json::from_slice(&bytes).with_context(|| format!("reading {FILE}"))
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.bound {
            Some(EnrolAnswer { cluster, node, role, generation, .. }) => {
                writeln!(f, "node         {node} ({role} of {cluster}, generation {generation})")?;
            }
            None => writeln!(f, "node         not bound to a cluster yet")?,
        }
        if let Some(key) = self.key {
            writeln!(f, "key          {key}")?;
        }
        let addresses: Vec<String> = self.coordinator.iter().map(ToString::to_string).collect();
        if !addresses.is_empty() {
            writeln!(f, "coordinator  {}", addresses.join(", "))?;
        }
        if let Some(usage) = self.usage {
            writeln!(
                f,
                "agent        {}, {} ms of CPU, {} KiB at most",
                self.agent, usage.cpu_ms, usage.max_rss_kib
            )?;
        }
        writeln!(f, "\n{:<10} {:>9}  STATE", "STEP", "UPTIME")?;
        for StepStatus { step, state, uptime_ms } in &self.steps {
            let state = match state {
                StepState::Done => "done".to_owned(),
                StepState::Running { detail } => detail.clone().unwrap_or_else(|| "under way".to_owned()),
                StepState::Failed { error } => format!("failed: {error}"),
            };
            writeln!(f, "{step:<10} {:>5}.{} s  {state}", uptime_ms / 1000, uptime_ms % 1000 / 100)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_each_step_once_and_what_it_waits_for() {
        let dir = crate::testing::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let mut status = Status::default();
        status.set(Step::Seed, StepState::Done, 8_123);
        status.set(
            Step::Gate,
            StepState::Running { detail: Some("one server joins at a time".into()) },
            9_000,
        );
        status.set(Step::Configure, StepState::Done, 10_000);
        status.set(Step::Gate, StepState::Running { detail: Some("a server is up first".into()) }, 10_950);
        status.write(&root).unwrap();
        let text = Status::read(&root).unwrap().to_string();
        assert!(text.contains("seed           8.1 s  done\n"), "{text}");
        assert!(text.contains("gate          10.9 s  a server is up first\n"), "{text}");
        assert!(!text.contains("one server joins"), "{text}");
    }

    #[test]
    fn no_status_says_where_to_look() {
        let dir = crate::testing::tempdir().unwrap();
        let error = Status::read(&Root::open(dir.path()).unwrap()).unwrap_err().to_string();
        assert!(error.contains("systemctl status kiln-agent"), "{error}");
    }
}

//! Nodes that join a fake coordinator over real TLS, and what may go wrong.

mod anew;
mod boot;
mod chores;
mod contact;
mod faults;
mod follow;
mod keys;
mod seeds;
mod tokens;

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kiln_protocol::api::{self, GateAnswer, Report, Step, StepState};
use kiln_protocol::chores::{CHORES, Chores, ChoresRequest, TokenChange};
use kiln_protocol::config::{Membership, Snapshot};
use kiln_protocol::error::ErrorClass;
use kiln_protocol::{ApiError, Fingerprint, Secret};
use proptest::prelude::*;
use tokio::time::{sleep, timeout};

use super::fakes::{FakeCoordinator, FakeHost, Fault, NO_CABLE, NO_WAY_OUT, STAMP, incarnation, response};
use super::state::State;
use super::{Node, Outcome, store, without_state};
use crate::applied::Applied;
use crate::apply::{k3s, token};
use crate::facts::tests::fake_machine;
use crate::host::{Health, Host as _};
use crate::identity;
use crate::progress::Console;
use crate::progress::status::Status;
use crate::retry::Pace;
use crate::root::{Access, Fuse, Root};
use crate::seed::Search;

const UUID: &str = "0f5e2a3c-1111-2222-3333-444455556666";
const DEADLINE: Duration = Duration::from_secs(20);

fn pace() -> Pace {
    Pace {
        first: Duration::from_millis(2),
        longest: Duration::from_millis(20),
        operator: Duration::from_millis(40),
        later_boot: DEADLINE * 30,
        look: Duration::from_millis(2),
        k3s: Duration::from_millis(50),
    }
}

/// The disk and console of one machine.
struct Machine {
    dir: tempfile::TempDir,
    root: Root,
    console: Console,
}

impl Machine {
    fn new() -> Self {
        let dir = crate::testing::tempdir().unwrap();
        fake_machine(dir.path(), UUID);
        let path = dir.path().join("console");
        std::fs::write(&path, "").unwrap();
        let root = Root::open(dir.path()).unwrap();
        Self { dir, root, console: Console::to(vec![path]) }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("console")).unwrap()
    }

    fn state(&self) -> State {
        store::load(&self.root).unwrap()
    }

    /// Boots and runs until the node is ready.
    async fn boot(&self, host: &FakeHost<'_>) -> Outcome {
        let node = Node::new(&self.root, host, &self.console, pace());
        let run = timeout(DEADLINE, node.run(self.state())).await;
        run.unwrap_or_else(|_| panic!("never ready; the console says:\n{}", self.said())).unwrap()
    }

    /// Boots and runs until the condition holds; then the power is cut.
    async fn boot_until(&self, host: &FakeHost<'_>, condition: impl Fn() -> bool) {
        let node = Node::new(&self.root, host, &self.console, pace());
        tokio::select! {
            outcome = node.run(self.state()) => panic!("{outcome:?} too early:\n{}", self.said()),
            () = until(condition) => {}
        }
    }

    /// Boots and runs until the node is ready, or the fuse cuts the power.
    async fn boot_until_cut(&self, host: &FakeHost<'_>, fuse: &Fuse) {
        let node = Node::new(&self.root, host, &self.console, pace());
        tokio::select! {
            outcome = node.run(self.state()) => assert_eq!(outcome.unwrap(), Outcome::Ready),
            () = until(|| fuse.is_blown()) => {}
        }
    }
}

async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(timeout(DEADLINE, wait).await.is_ok(), "what was waited for never happened");
}

/// Runs a test's future on the kind of runtime the agent uses.
fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// A node that is ready and follows a fake coordinator until `story` is told.
async fn follows(machine: &Machine, host: &FakeHost<'_>, story: impl Future<Output = ()>) {
    machine.boot(host).await;
    host.log.borrow_mut().clear();
    let node = Node::new(&machine.root, host, &machine.console, pace());
    tokio::select! {
        () = node.follow(machine.state()) => panic!("it stopped following:\n{}", machine.said()),
        () = story => {}
    }
}

fn key(comment: &str) -> kiln_protocol::names::SshPublicKey {
    format!("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHlq {comment}").parse().unwrap()
}

/// What must hold whenever a node has become ready, whatever happened before.
fn check_ready(machine: &Machine, host: &FakeHost<'_>, coordinator: &FakeCoordinator, when: &str) {
    assert!(matches!(machine.state(), State::Ready { .. }), "{when}");
    assert!(host.enabled.get(), "{when}");
    let script = coordinator.script();
    assert!(script.enrolled.iter().all(|key| *key == script.enrolled[0]), "a second key was made: {when}");
    assert_eq!(script.alarms, [""; 0], "{when}");
    let key = identity::load(&machine.root).unwrap().map(|key| key.fingerprint());
    assert_eq!(key, script.key, "{when}");
    assert_eq!(machine.state().me().map(|me| me.key), script.key, "{when}");
    let config = machine.root.read_text(k3s::CONFIG).unwrap().unwrap();
    assert!(config.contains("\"node-name\": \"k3s-s1\""), "{when}: {config}");
}

fn wait_at_the_gate() -> GateAnswer {
    GateAnswer::Wait { reason: "a test".to_owned(), retry_after: 1 }
}

//! Random histories of everything that may happen to the registry, against the
//! invariants of its rules, on a real database that is closed and opened again
//! in between.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::LazyLock;

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use kiln_protocol::admin::TicketRecord;
use kiln_protocol::api::{EnrolAnswer, EnrolRequest, Facts};
use kiln_protocol::config::Incarnation;
use kiln_protocol::ticket::{Ticket, TicketSeed};
use kiln_protocol::{ApiError, ErrorClass, Fingerprint, NodeName, Role};
use proptest::prelude::*;

use crate::k3s::ClusterSecrets;
use crate::plan::fixtures::three_servers;
use crate::registry::fixtures::{NOW, key};
use crate::registry::{Seat, State};
use crate::store::events::Actor;
use crate::store::{Store, Transaction, incarnations, seats, test_store};
use crate::transition::{enrol, operator, vouch};

const NODES: [&str; 2] = ["a1", "s1"];
const LIFETIME: i64 = 3600;

#[derive(Debug, Clone)]
enum Op {
    /// The next generation of a node gets a ticket; again with the same ticket.
    Mint(usize),
    /// Some ticket is used with one of a few keys, twice in a row.
    Enrol {
        ticket: prop::sample::Index,
        key: u8,
    },
    /// The machine that a ticket was made for asks again.
    Retry(prop::sample::Index),
    /// The console of a node's machine shows one of a few keys, said twice.
    Confirm {
        node: usize,
        key: u8,
    },
    /// An operator types one of a few keys, twice.
    Approve {
        node: usize,
        key: u8,
    },
    Release(usize),
    Revoke(usize),
    Extend(usize),
    /// Time goes by, or the clock is set back.
    Wait(i64),
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    let node = 0..NODES.len();
    prop_oneof![
        3 => node.clone().prop_map(Op::Mint),
        5 => (any::<prop::sample::Index>(), 0u8..6).prop_map(|(ticket, key)| Op::Enrol { ticket, key }),
        5 => any::<prop::sample::Index>().prop_map(Op::Retry),
        2 => (node.clone(), 0u8..6).prop_map(|(node, key)| Op::Confirm { node, key }),
        1 => (node.clone(), 0u8..6).prop_map(|(node, key)| Op::Approve { node, key }),
        2 => node.clone().prop_map(Op::Release),
        1 => node.clone().prop_map(Op::Revoke),
        1 => node.prop_map(Op::Extend),
        2 => (-2 * LIFETIME..2 * LIFETIME).prop_map(Op::Wait),
        1 => Just(Op::Restart),
    ]
}

struct World {
    runtime: tokio::runtime::Runtime,
    _dir: tempfile::TempDir,
    path: PathBuf,
    store: Option<Store>,
    now: Timestamp,
    pin: Fingerprint,
    tickets: Vec<Ticket>,
    /// What each key was first seen bound to.
    names: BTreeMap<Fingerprint, i64>,
    before: Vec<Seat>,
}

impl World {
    fn new() -> Self {
        let (dir, store) = test_store();
        let path = dir.path().join("state.db");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut world = Self {
            runtime,
            _dir: dir,
            path,
            store: Some(store),
            now: NOW,
            pin: key("coordinator"),
            tickets: Vec::new(),
            names: BTreeMap::new(),
            before: Vec::new(),
        };
        static SECRETS: LazyLock<ClusterSecrets> = LazyLock::new(|| ClusterSecrets::generate(NOW).unwrap());
        let secrets = SECRETS.clone();
        world.run(move |tx| operator::apply(tx, &three_servers(), &secrets, &Actor::local(), NOW)).unwrap();
        world
    }

    fn run<T: Send + 'static>(
        &mut self,
        transition: impl FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.runtime.block_on(self.store.as_ref().unwrap().write(transition))
    }

    fn seats(&mut self) -> Vec<Seat> {
        self.run(|tx| seats::of_incarnation(tx, Incarnation(1))).unwrap()
    }

    fn mint(&mut self, node: usize) -> Ticket {
        let node: NodeName = NODES[node].parse().unwrap();
        let role = if node.as_str() == "s1" { Role::Server } else { Role::Agent };
        let address = "10.0.0.1:7443".parse().unwrap();
        let ticket = Ticket::new(vec![address], self.pin, TicketSeed::generate()).unwrap();
        let (public, now) = (ticket.public_key(), self.now);
        let name = node.clone();
        let generation = self.run(move |tx| Ok(seats::newest_generation(tx, &name)? + 1)).unwrap();
        let record = TicketRecord {
            node,
            generation,
            role,
            not_before: now,
            expires: now + SignedDuration::from_secs(LIFETIME),
            confirm_console: false,
            hints: kiln_protocol::admin::Hints::default(),
        };
        for _ in 0..2 {
            let record = record.clone();
            self.run(move |tx| operator::mint(tx, &public, record, &|_| None, &Actor::local(), now)).unwrap();
        }
        self.tickets.push(ticket.clone());
        ticket
    }

    fn enrol(&mut self, ticket: &Ticket, key: Fingerprint) -> Result<EnrolAnswer, ApiError> {
        let request =
            EnrolRequest { ticket: ticket.public_key(), proof: ticket.prove(&key), facts: Facts::default() };
        enrol::check_proof(&request, &self.pin, &key)?;
        let now = self.now;
        self.run(move |tx| enrol::enrol(tx, &request, key, &Actor::local(), now)).unwrap()
    }

    fn step(&mut self, op: &Op) {
        match op {
            Op::Mint(node) => {
                self.mint(*node);
            }
            Op::Enrol { ticket, key: k } => {
                if self.tickets.is_empty() {
                    return;
                }
                let ticket = ticket.get(&self.tickets).clone();
                let k = key(&format!("key {k}"));
                let first = self.enrol(&ticket, k);
                let second = self.enrol(&ticket, k);
                assert!(first.is_err() || first == second, "{first:?} became {second:?}");
            }
            Op::Retry(ticket) => {
                if self.tickets.is_empty() {
                    return;
                }
                let ticket = ticket.get(&self.tickets).clone();
                let _ = self.enrol(&ticket, honest(&ticket));
            }
            Op::Confirm { node, key: k } => {
                let (node, shown, now): (NodeName, _, _) =
                    (NODES[*node].parse().unwrap(), key(&format!("key {k}")), self.now);
                for _ in 0..2 {
                    let node = node.clone();
                    // There may be nothing to confirm.
                    let _ = self.run(move |tx| vouch::confirm(tx, &node, None, shown, &Actor::local(), now));
                }
            }
            Op::Approve { node, key: k } => {
                let (node, typed, now): (NodeName, _, _) =
                    (NODES[*node].parse().unwrap(), key(&format!("key {k}")), self.now);
                let mut approve = || {
                    let (node, nobody) = (node.clone(), TicketSeed::generate().public_key());
                    self.run(move |tx| vouch::approve(tx, &node, typed, &nobody, &Actor::local(), now)).ok()
                };
                let (first, second) = (approve(), approve());
                assert_eq!(first, second, "approving is idempotent");
            }
            Op::Release(node) | Op::Revoke(node) | Op::Extend(node) => {
                let (op, now) = (op.clone(), self.now);
                let node: NodeName = NODES[*node].parse().unwrap();
                let _ = self.run(move |tx| match op {
                    Op::Release(_) => operator::release(tx, &node, &Actor::local(), now),
                    Op::Revoke(_) => operator::revoke(tx, &node, &Actor::local(), now),
                    _ => operator::extend(tx, &node, 3600, &Actor::local(), now).map(drop),
                });
            }
            Op::Wait(seconds) => self.now += SignedDuration::from_secs(*seconds),
            Op::Restart => {
                self.store = None;
                self.store = Some(Store::open_relaxed(&self.path).unwrap());
            }
        }
        self.check(op);
    }

    fn check(&mut self, op: &Op) {
        let after = self.seats();
        for node in NODES {
            let live = after.iter().filter(|s| s.node.as_str() == node && s.state.is_live());
            assert!(live.count() <= 1, "two live keys for {node}");
        }
        for seat in &after {
            if let Some(key) = seat.state.key() {
                assert_eq!(*self.names.entry(key).or_insert(seat.id), seat.id, "a key got a second name");
            }
        }
        for old in &self.before {
            let new = after.iter().find(|seat| seat.id == old.id).expect("no seat is ever deleted");
            assert!(allowed(old, new, op, self.now), "{op:?} took {old:?} to {new:?}");
        }
        let lease = self.run(|tx| Ok(incarnations::live(tx)?.unwrap().lease)).unwrap();
        let newest = after.iter().filter(|s| s.node == lease.node && s.state.key().is_some());
        // Nobody has passed the gate in these histories.
        assert_eq!(lease.generation, newest.map(|seat| seat.generation).max());
        self.before = after;
    }
}

/// Whether one operation may take a seat from one state to another.
fn allowed(old: &Seat, new: &Seat, op: &Op, now: Timestamp) -> bool {
    let approves = matches!(op, Op::Approve { .. });
    let enrols = matches!(op, Op::Enrol { .. } | Op::Retry(_));
    let in_time = now < old.expires;
    match (old.state, new.state) {
        (a, b) if a == b => true,
        // Once the console was read, nobody else binds.
        (State::Issued, State::Bound(key)) => {
            enrols && in_time && old.console_key.is_none_or(|shown| shown == key)
        }
        // Two enrolments in one step: bound by one key, contested by another.
        (State::Bound(a), State::Held(b)) => {
            let shown = matches!(op, Op::Confirm { .. }) && new.console_key.is_some_and(|shown| shown != a);
            a == b && (enrols && in_time || shown)
        }
        (State::Held(a), State::Bound(b)) => matches!(op, Op::Release(_)) && a == b,
        (State::Revoked(_) | State::Superseded(_), _) => false,
        (_, State::Superseded(key)) => (enrols || approves) && key == old.state.key(),
        (_, State::Revoked(key)) => matches!(op, Op::Revoke(_)) && key == old.state.key(),
        _ => false,
    }
}

/// The key of the machine that a ticket was made for.
fn honest(ticket: &Ticket) -> Fingerprint {
    key(&format!("honest {}", ticket.public_key()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]
    #[test]
    fn every_history_keeps_the_invariants_and_honest_nodes_join(
        ops in proptest::collection::vec(op(), 1..60),
    ) {
        let mut world = World::new();
        for op in &ops {
            world.step(op);
        }
        // Whatever happened, a new machine with a new ticket joins.
        for (node, name) in NODES.iter().enumerate() {
            let ticket = world.mint(node);
            let answer = world.enrol(&ticket, honest(&ticket)).unwrap();
            prop_assert_eq!(answer.node.as_str(), *name);
            prop_assert_eq!(world.enrol(&ticket, honest(&ticket)), Ok(answer));
        }
        world.check(&Op::Retry(any_index()));
    }
}

fn any_index() -> prop::sample::Index {
    use proptest::strategy::{Strategy as _, ValueTree as _};
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    any::<prop::sample::Index>().new_tree(&mut runner).unwrap().current()
}

#[test]
fn a_proof_for_another_key_or_coordinator_is_worth_nothing() {
    let mut world = World::new();
    let ticket = world.mint(0);
    let proof = ticket.prove(&key("a"));
    let request = EnrolRequest { ticket: ticket.public_key(), proof, facts: Facts::default() };
    assert!(enrol::check_proof(&request, &world.pin, &key("a")).is_ok());
    for (pin, node) in [(world.pin, key("b")), (key("other coordinator"), key("a"))] {
        let error = enrol::check_proof(&request, &pin, &node).unwrap_err();
        assert_eq!(error.class, ErrorClass::Policy);
    }
}

#[test]
fn a_late_contest_is_noted_once_and_an_early_one_raises_an_alarm_each_time() {
    use crate::store::events;
    let mut world = World::new();
    let ticket = world.mint(0);
    let node: NodeName = NODES[0].parse().unwrap();
    world.enrol(&ticket, key("k")).unwrap();
    let contests = |world: &mut World| {
        let all = world.run(|tx| events::list(tx, 0, 1000)).unwrap();
        let contests: Vec<_> = all.into_iter().filter(|event| event.what == "ticket_contested").collect();
        (contests.len(), contests.iter().filter(|event| event.alarm).count())
    };
    for expected in [1, 2] {
        assert_eq!(world.enrol(&ticket, key("thief")).unwrap_err().class, ErrorClass::TicketContested);
        assert_eq!(contests(&mut world), (expected, expected));
        assert_eq!(world.run(events::open_alarms).unwrap().len(), 1);
        let (node, now) = (node.clone(), world.now);
        world.run(move |tx| operator::release(tx, &node, &Actor::local(), now)).unwrap();
        assert!(world.run(events::open_alarms).unwrap().is_empty());
    }
    world.now += SignedDuration::from_secs(LIFETIME);
    for thief in ["one", "two", "one"] {
        assert_eq!(world.enrol(&ticket, key(thief)).unwrap_err().class, ErrorClass::TicketContested);
    }
    assert_eq!(contests(&mut world), (3, 2));
    assert!(world.enrol(&ticket, key("k")).is_ok());
}

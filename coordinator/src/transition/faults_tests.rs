//! What a disk and a clock may do to the registry.

use std::time::Duration;

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use kiln_protocol::admin::{Hints, TicketRecord};
use kiln_protocol::api::{
    EnrolAnswer, EnrolRequest, Facts, GateAnswer, GateRequest, Report, Step, StepState,
};
use kiln_protocol::config::Incarnation;
use kiln_protocol::ticket::{Ticket, TicketSeed};
use kiln_protocol::{ApiError, ErrorClass, NodeName, Role};
use rusqlite::ErrorCode;

use crate::contacts::Contacts;
use crate::k3s::{ClusterSecrets, KubeUser};
use crate::news::{Presence, Seen};
use crate::plan::fixtures::three_servers;
use crate::registry::fixtures::{NOW, key};
use crate::store::events::Actor;
use crate::store::{Store, Transaction, keys, seats, test_store};
use crate::transition::{enrol, node, operator, status};

struct World {
    runtime: tokio::runtime::Runtime,
    _dir: tempfile::TempDir,
    store: Store,
}

impl World {
    fn new() -> Self {
        let (dir, store) = test_store();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let world = Self { runtime, _dir: dir, store };
        let secrets = ClusterSecrets::generate(NOW).unwrap();
        world.run(move |tx| operator::apply(tx, &three_servers(), &secrets, &Actor::local(), NOW)).unwrap();
        world
    }

    fn run<T: Send + 'static>(
        &self,
        transition: impl FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.runtime.block_on(self.store.write(transition))
    }

    /// Registers a ticket of `s1` that is good for an hour from `now`.
    fn mint(&self, now: Timestamp) -> Result<Ticket> {
        let ticket = Ticket::new(vec!["10.0.0.1:7443".parse()?], key("coordinator"), TicketSeed::generate())?;
        let node: NodeName = "s1".parse()?;
        let (public, name) = (ticket.public_key(), node.clone());
        self.run(move |tx| {
            let record = TicketRecord {
                generation: seats::newest_generation(tx, &name)? + 1,
                node,
                role: Role::Server,
                not_before: now,
                expires: now + SignedDuration::from_hours(1),
                hints: Hints::default(),
                confirm_console: false,
            };
            operator::mint(tx, &public, record, &|_| None, &Actor::local(), now)
        })?;
        Ok(ticket)
    }

    fn enrol(&self, ticket: &Ticket, name: &str, now: Timestamp) -> Result<EnrolAnswer, ApiError> {
        let key = key(name);
        let request =
            EnrolRequest { ticket: ticket.public_key(), proof: ticket.prove(&key), facts: Facts::default() };
        let enrol = move |tx: &Transaction<'_>| {
            let owner = keys::owner(tx, &key)?;
            enrol::enrol(tx, &request, key, owner.as_ref(), &Actor::local(), now)
        };
        self.run(enrol).unwrap()
    }

    fn gate(&self, name: &str, node_clock: Timestamp, now: Timestamp) -> Result<GateAnswer, ApiError> {
        let key = key(name);
        let request = GateRequest { incarnation: Incarnation(1), clock: node_clock.as_second() };
        let answer = self.run(move |tx| {
            let seat = seats::by_key(tx, &key)?.expect("it is bound").id;
            let contacts = Contacts::new(now, Duration::ZERO, Duration::ZERO);
            node::gate(tx, seat, &request, &Actor::local(), &contacts, now)
        });
        answer.map_err(|error| error.downcast().unwrap())
    }
}

#[test]
fn a_coordinator_that_was_absent_for_90_days_goes_on_with_whom_it_knew() {
    let world = World::new();
    let ticket = world.mint(NOW).unwrap();
    let bound = world.enrol(&ticket, "k", NOW).unwrap();
    let later = NOW + SignedDuration::from_hours(24 * 90);
    // Nothing had to be renewed: same key, same answer, configuration and gate.
    assert_eq!(world.enrol(&ticket, "k", later).unwrap(), bound);
    let seat = world.run(|tx| Ok(seats::by_key(tx, &key("k"))?.unwrap().id)).unwrap();
    world.run(move |tx| node::config(tx, &seats::by_id(tx, seat)?, later)).unwrap();
    assert_eq!(world.gate("k", later, later).unwrap(), GateAnswer::Go);
    // The cluster's own authorities still sign.
    world
        .run(move |tx| operator::kubeconfig(tx, None, &KubeUser::admin(), 3600, &Actor::local(), later))
        .unwrap();
    // A ticket that nobody used meanwhile is over until an operator says otherwise.
    let unused = world.mint(NOW).unwrap();
    assert_eq!(world.enrol(&unused, "k2", later).unwrap_err().class, ErrorClass::TicketExpired);
    let name: NodeName = "s1".parse().unwrap();
    world.run(move |tx| operator::extend(tx, &name, 3600, &Actor::local(), later)).unwrap();
    assert_eq!(world.enrol(&unused, "k2", later).unwrap().generation, 2);
}

#[test]
fn a_node_that_fell_silent_is_stale_in_table_and_json() {
    let world = World::new();
    let ticket = world.mint(NOW).unwrap();
    world.enrol(&ticket, "k", NOW).unwrap();
    let report = Report {
        boot_id: "b".to_owned(),
        sequence: 1,
        uptime_ms: 1,
        step: Step::Gate,
        state: StepState::Done,
        facts: None,
        usage: None,
    };
    let seat = world
        .run(move |tx| {
            let seat = seats::by_key(tx, &key("k"))?.unwrap().id;
            node::report(tx, seat, &report, &Actor::local(), NOW)?;
            Ok(seat)
        })
        .unwrap();
    let look = |presence: Presence, seconds: i64| {
        let now = NOW + SignedDuration::from_secs(seconds);
        world.run(move |tx| status::status(tx, key("coordinator"), Vec::new(), &presence, now)).unwrap()
    };
    for (seconds, stale) in [(900, false), (901, true)] {
        let status = look(Presence::new(), seconds);
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!(json["nodes"][1]["stale"], if stale { true.into() } else { serde_json::Value::Null });
        assert_eq!(crate::cli::status_table(&status).contains("15m (stale)"), stale, "after {seconds} s");
    }
    // One that is connected is not, however long it has had nothing to say.
    let connected = Presence::from([(seat, Seen { connected: true, at: NOW })]);
    assert!(!look(connected, 90_000).nodes[1].stale);
    // And of one that never enrolled nothing is expected.
    assert!(!look(Presence::new(), 90_000).nodes[0].stale);
}

#[test]
fn a_clock_that_is_ten_years_off_locks_no_known_node_out_and_starts_no_k3s() {
    let years = SignedDuration::from_hours(24 * 3652);
    let world = World::new();
    let ticket = world.mint(NOW).unwrap();
    let bound = world.enrol(&ticket, "k", NOW).unwrap();
    for wrong in [NOW + years, NOW - years] {
        // The coordinator's clock is off: who is bound stays bound.
        assert_eq!(world.enrol(&ticket, "k", wrong).unwrap(), bound);
        // One of the two is off: no certificate is made with a wrong date.
        assert_eq!(world.gate("k", wrong, NOW).unwrap_err().class, ErrorClass::Clock);
        assert_eq!(world.gate("k", NOW, wrong).unwrap_err().class, ErrorClass::Clock);
    }
    assert_eq!(world.gate("k", NOW, NOW).unwrap(), GateAnswer::Go);
}

#[test]
fn a_full_disk_refuses_what_does_not_fit_and_loses_nothing() {
    let world = World::new();
    let note = |world: &World, name: &'static str| {
        world.run(move |tx| keys::note(tx, &key(name), keys::Kind::Admin, name, NOW))
    };
    note(&world, "before").unwrap();
    // As if the disk ended here.
    let limit = |pages: &'static str| {
        let limited = world.runtime.block_on(world.store.read(move |tx| {
            let found: u64 = tx.pragma_query_value(None, "page_count", |row| row.get(0))?;
            let pages = if pages == "now" { found } else { 1_000_000 };
            Ok(tx.pragma_update(None, "max_page_count", pages)?)
        }));
        limited.unwrap();
    };
    limit("now");
    let large = world.run(|tx| {
        keys::note(tx, &key("with it"), keys::Kind::Admin, "x", NOW)?;
        Ok(tx.execute("UPDATE incarnations SET cluster_file = zeroblob(1000000) || ''", [])?)
    });
    let error = large.unwrap_err();
    let code = error.chain().find_map(|cause| cause.downcast_ref::<rusqlite::Error>());
    assert_eq!(code.and_then(rusqlite::Error::sqlite_error_code), Some(ErrorCode::DiskFull), "{error:#}");
    limit("more");
    let noted = |name: &'static str| world.run(move |tx| keys::owner(tx, &key(name))).unwrap().is_some();
    assert!(noted("before"));
    assert!(!noted("with it"));
    note(&world, "after").unwrap();
}

#[test]
fn a_read_only_disk_is_said_and_what_is_known_is_still_answered() {
    let world = World::new();
    let ticket = world.mint(NOW).unwrap();
    let bound = world.enrol(&ticket, "k", NOW).unwrap();
    let read_only = |on: bool| {
        let set = world.store.read(move |tx| Ok(tx.pragma_update(None, "query_only", on)?));
        world.runtime.block_on(set).unwrap();
    };
    read_only(true);
    let error = world.mint(NOW).unwrap_err();
    let code = error.chain().find_map(|cause| cause.downcast_ref::<rusqlite::Error>());
    assert_eq!(code.and_then(rusqlite::Error::sqlite_error_code), Some(ErrorCode::ReadOnly), "{error:#}");
    let seat = world.runtime.block_on(world.store.read(|tx| seats::by_key(tx, &key("k")))).unwrap();
    assert!(seat.is_some());
    read_only(false);
    assert_eq!(world.enrol(&ticket, "k", NOW).unwrap(), bound);
    world.mint(NOW).unwrap();
}

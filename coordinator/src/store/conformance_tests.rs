//! What every store of the registry promises, run over each of them.

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use jiff::SignedDuration;
use kiln_protocol::admin::{Hints, TicketRecord};
use kiln_protocol::config::Incarnation;
use kiln_protocol::ticket::TicketSeed;
use kiln_protocol::{Role, Ticket, TicketKey};

use super::engine::{Engine, Transaction, Undo};
use super::events::{Actor, Event, What};
use super::memory::{Disk, Memory};
use super::sqlite::{Sqlite, Synchronous};
use super::{Store, epoch, events, incarnations, keys, seats};
use crate::k3s::ClusterSecrets;
use crate::plan::fixtures::three_servers;
use crate::registry::State;
use crate::registry::fixtures::{NOW, key};
use crate::unlock::UnlockKey;

/// Where an engine keeps its tables, so that it can be opened again.
trait Medium {
    fn new() -> Self;
    fn open(&self) -> Box<dyn Engine>;
}

struct InFile(tempfile::TempDir);

impl InFile {
    fn path(&self) -> PathBuf {
        self.0.path().join("state.db")
    }
}

impl Medium for InFile {
    fn new() -> Self {
        let medium = Self(tempfile::tempdir().unwrap());
        std::fs::File::create_new(medium.path()).unwrap();
        medium
    }
    fn open(&self) -> Box<dyn Engine> {
        Box::new(Sqlite::open(&self.path(), Synchronous::Full, UnlockKey::for_tests()).unwrap())
    }
}

impl Medium for Disk {
    fn new() -> Self {
        Self::default()
    }
    fn open(&self) -> Box<dyn Engine> {
        Box::new(Memory::open(self).unwrap())
    }
}

/// The suite: a test of each name for each store.
macro_rules! suite {
    ($($name:ident)*) => {
        mod sqlite_in_a_file { $( #[test] fn $name() { super::$name::<super::InFile>(); } )* }
        mod in_memory { $( #[test] fn $name() { super::$name::<super::Disk>(); } )* }
    };
}
suite! {
    what_was_committed_is_there_after_a_crash_and_nothing_else_is
    a_refusal_undoes_its_own_work_and_no_neighbours
    who_says_no_before_writing_costs_nobody_anything_and_after_it_the_whole_group
    how_far_it_is_counts_what_was_kept_and_is_on_disk_with_it
    a_group_that_is_rolled_back_leaves_nothing
    a_later_opener_takes_the_state_from_the_earlier
    a_copy_holds_what_was_committed_and_nothing_later
    a_key_has_one_name_for_ever
    a_ticket_stands_for_one_seat_and_a_generation_for_one_ticket
    a_node_has_one_live_key
    one_incarnation_is_live_and_ending_it_wipes_its_secrets
    the_audit_trail_only_grows_and_keeps_its_order
    callers_at_the_same_time_are_each_answered_with_their_own
}

/// Runs one unit of work in a group of its own.
fn change<T>(engine: &mut dyn Engine, work: impl Fn(&Transaction<'_>) -> Result<T>) -> Result<T> {
    let mut result = None;
    engine.begin()?;
    engine.attempt(Undo::Own, &mut |tx| result.insert(work(tx)).is_ok())?;
    engine.commit()?;
    result.unwrap()
}

fn look<T>(engine: &mut dyn Engine, look: impl Fn(&Transaction<'_>) -> Result<T>) -> T {
    let mut result = None;
    engine.read(&mut |tx| result = Some(look(tx))).unwrap();
    result.unwrap().unwrap()
}

fn note(tx: &Transaction<'_>, name: &str) -> Result<()> {
    keys::note(tx, &key(name), keys::Kind::Admin, name, NOW)
}

fn noted(engine: &mut dyn Engine, name: &str) -> bool {
    look(engine, |tx| keys::owner(tx, &key(name))).is_some()
}

/// A cluster in force.
fn begun(engine: &mut dyn Engine) -> Incarnation {
    let secrets = ClusterSecrets::generate(NOW).unwrap();
    change(engine, |tx| incarnations::begin(tx, &three_servers(), &secrets, NOW)).unwrap()
}

/// A ticket's key that no other has.
pub(super) fn ticket() -> TicketKey {
    let address = "10.0.0.1:7443".parse().unwrap();
    Ticket::new(vec![address], key("coordinator"), TicketSeed::generate()).unwrap().public_key()
}

/// A seat of the agent a1 in the first incarnation.
pub(super) fn seat(tx: &Transaction<'_>, ticket: &TicketKey, generation: u32) -> Result<i64> {
    keys::note_ticket(tx, ticket, "a1", NOW)?;
    let record = TicketRecord {
        node: "a1".parse()?,
        generation,
        role: Role::Agent,
        not_before: NOW,
        expires: NOW + SignedDuration::from_hours(1),
        confirm_console: false,
        hints: Hints::default(),
    };
    seats::insert(tx, Incarnation(1), ticket, &record)
}

fn what_was_committed_is_there_after_a_crash_and_nothing_else_is<M: Medium>() {
    let medium = M::new();
    let mut engine = medium.open();
    change(engine.as_mut(), |tx| note(tx, "committed")).unwrap();
    engine.begin().unwrap();
    engine.attempt(Undo::Own, &mut |tx| note(tx, "lost").is_ok()).unwrap();
    // Dropped within a group, as a process that ends.
    drop(engine);
    let mut engine = medium.open();
    assert!(noted(engine.as_mut(), "committed"));
    assert!(!noted(engine.as_mut(), "lost"));
    engine.close().unwrap();
    assert!(noted(medium.open().as_mut(), "committed"));
}

fn a_refusal_undoes_its_own_work_and_no_neighbours<M: Medium>() {
    let medium = M::new();
    let mut engine = medium.open();
    engine.begin().unwrap();
    for (name, keep) in [("before", true), ("refused", false), ("after", true)] {
        engine.attempt(Undo::Own, &mut |tx| note(tx, name).is_ok() && keep).unwrap();
    }
    // One that fails by a rule of the tables, after it wrote something else.
    engine.attempt(Undo::Own, &mut |tx| note(tx, "half").and_then(|()| note(tx, "before")).is_ok()).unwrap();
    engine.commit().unwrap();
    for (name, there) in [("before", true), ("refused", false), ("after", true), ("half", false)] {
        assert_eq!(noted(engine.as_mut(), name), there, "{name}");
    }
}

fn who_says_no_before_writing_costs_nobody_anything_and_after_it_the_whole_group<M: Medium>() {
    let mut engine = M::new().open();
    engine.begin().unwrap();
    engine.attempt(Undo::Nothing, &mut |tx| note(tx, "before").is_ok()).unwrap();
    engine.attempt(Undo::Nothing, &mut |_| false).unwrap();
    engine.attempt(Undo::Nothing, &mut |tx| note(tx, "after").is_ok()).unwrap();
    engine.commit().unwrap();
    engine.begin().unwrap();
    engine.attempt(Undo::Own, &mut |tx| note(tx, "neighbour").is_ok()).unwrap();
    assert!(engine.attempt(Undo::Nothing, &mut |tx| note(tx, "half").is_err()).is_err());
    engine.rollback();
    for (name, there) in [("before", true), ("after", true), ("neighbour", false), ("half", false)] {
        assert_eq!(noted(engine.as_mut(), name), there, "{name}");
    }
}

fn how_far_it_is_counts_what_was_kept_and_is_on_disk_with_it<M: Medium>() {
    let medium = M::new();
    let mut engine = medium.open();
    let further = |engine: &mut dyn Engine, by: u64, keep: bool| {
        engine
            .attempt(Undo::Own, &mut |tx| {
                let before = epoch::reach(tx).unwrap().seq;
                (0..by).for_each(|_| epoch::advance(tx).unwrap());
                assert_eq!(epoch::reach(tx).unwrap().seq, before + by, "a change sees itself");
                keep
            })
            .unwrap();
    };
    let is_at = |engine: &mut dyn Engine, seq: u64| {
        assert_eq!(look(engine, epoch::reach).seq, seq);
    };
    engine.begin().unwrap();
    further(engine.as_mut(), 2, true);
    further(engine.as_mut(), 10, false);
    further(engine.as_mut(), 1, true);
    engine.commit().unwrap();
    is_at(engine.as_mut(), 3);
    engine.begin().unwrap();
    further(engine.as_mut(), 5, true);
    engine.rollback();
    is_at(engine.as_mut(), 3);
    // An epoch that begins behind others' work in a group, and is undone or kept.
    for kept in [false, true] {
        engine.begin().unwrap();
        further(engine.as_mut(), 1, true);
        let mut begun = None;
        engine
            .attempt(Undo::Own, &mut |tx| {
                epoch::begin(tx, 7).unwrap();
                begun = Some(epoch::reach(tx).unwrap());
                kept
            })
            .unwrap();
        further(engine.as_mut(), 1, true);
        engine.commit().unwrap();
        let at = look(engine.as_mut(), epoch::reach);
        let seq = if kept { begun.unwrap().seq + 1 } else { 5 };
        assert_eq!((at.epoch, at.seq), (if kept { 7 } else { 1 }, seq));
        // What is remembered is what is written.
        engine = medium.open();
        assert_eq!(look(engine.as_mut(), epoch::reach), at);
    }
}

fn a_group_that_is_rolled_back_leaves_nothing<M: Medium>() {
    let mut engine = M::new().open();
    engine.begin().unwrap();
    engine.attempt(Undo::Own, &mut |tx| note(tx, "gone").is_ok()).unwrap();
    engine.rollback();
    assert!(!noted(engine.as_mut(), "gone"));
    change(engine.as_mut(), |tx| note(tx, "gone")).unwrap();
}

fn a_later_opener_takes_the_state_from_the_earlier<M: Medium>() {
    let medium = M::new();
    let mut first = medium.open();
    let mut second = medium.open();
    assert!(change(first.as_mut(), |tx| note(tx, "first")).is_err());
    assert!(first.read(&mut |_| ()).is_err(), "it would answer from a state that is not its own");
    change(second.as_mut(), |tx| note(tx, "second")).unwrap();
    assert!(!noted(second.as_mut(), "first"));
}

fn a_copy_holds_what_was_committed_and_nothing_later<M: Medium>() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("copy");
    let mut engine = M::new().open();
    change(engine.as_mut(), |tx| note(tx, "before")).unwrap();
    engine.backup(&file).unwrap();
    change(engine.as_mut(), |tx| note(tx, "after")).unwrap();
    assert!(engine.backup(&file).is_err(), "a copy was overwritten");
    let mut copy = Sqlite::open(&file, Synchronous::Full, UnlockKey::for_tests()).unwrap();
    assert!(noted(&mut copy, "before"));
    assert!(!noted(&mut copy, "after"));
}

fn a_key_has_one_name_for_ever<M: Medium>() {
    let mut engine = M::new().open();
    change(engine.as_mut(), |tx| note(tx, "k")).unwrap();
    let again = |tx: &Transaction<'_>| keys::note(tx, &key("k"), keys::Kind::Coordinator, "other", NOW);
    assert!(change(engine.as_mut(), again).is_err());
    for forbidden in ["DELETE FROM keys", "UPDATE keys SET name = 'other'"] {
        assert!(change(engine.as_mut(), |tx| Ok(tx.execute(forbidden, [])?)).is_err(), "{forbidden}");
    }
    assert!(noted(engine.as_mut(), "k"));
}

fn a_ticket_stands_for_one_seat_and_a_generation_for_one_ticket<M: Medium>() {
    let mut engine = M::new().open();
    begun(engine.as_mut());
    let (one, two) = (ticket(), ticket());
    let id = change(engine.as_mut(), |tx| seat(tx, &one, 1)).unwrap();
    assert!(change(engine.as_mut(), |tx| seat(tx, &one, 2)).is_err());
    assert!(change(engine.as_mut(), |tx| seat(tx, &two, 1)).is_err());
    let found = look(engine.as_mut(), |tx| seats::by_ticket(tx, &one)).unwrap();
    assert_eq!((found.id, found.generation, found.state), (id, 1, State::Issued));
    assert!(look(engine.as_mut(), |tx| seats::by_ticket(tx, &two)).is_none());
    assert_eq!(look(engine.as_mut(), |tx| seats::newest_generation(tx, &"a1".parse()?)), 1);
}

fn a_node_has_one_live_key<M: Medium>() {
    let mut engine = M::new().open();
    begun(engine.as_mut());
    let bind = |tx: &Transaction<'_>, seat: i64, name: &str| {
        keys::note(tx, &key(name), keys::Kind::Node(seat), name, NOW)?;
        seats::set_state(tx, seat, State::Bound(key(name)), None)
    };
    let seats: Vec<_> = [1, 2]
        .map(|generation| change(engine.as_mut(), |tx| seat(tx, &ticket(), generation)).unwrap())
        .into();
    change(engine.as_mut(), |tx| bind(tx, seats[0], "a")).unwrap();
    assert!(change(engine.as_mut(), |tx| bind(tx, seats[1], "b")).is_err());
    let superseded = State::Superseded(Some(key("a")));
    change(engine.as_mut(), |tx| {
        seats::set_state(tx, seats[0], superseded, None)?;
        bind(tx, seats[1], "b")
    })
    .unwrap();
    assert_eq!(look(engine.as_mut(), |tx| seats::by_id(tx, seats[0])).state, superseded);
    assert_eq!(look(engine.as_mut(), |tx| seats::by_key(tx, &key("b"))).unwrap().id, seats[1]);
}

fn one_incarnation_is_live_and_ending_it_wipes_its_secrets<M: Medium>() {
    let mut engine = M::new().open();
    assert_eq!(begun(engine.as_mut()), Incarnation(1));
    let secrets = ClusterSecrets::generate(NOW).unwrap();
    let begin = |tx: &Transaction<'_>| incarnations::begin(tx, &three_servers(), &secrets, NOW);
    assert!(change(engine.as_mut(), begin).is_err());
    assert!(look(engine.as_mut(), incarnations::secrets).is_some());
    change(engine.as_mut(), |tx| incarnations::end(tx, NOW)).unwrap();
    assert!(look(engine.as_mut(), incarnations::secrets).is_none());
    assert_eq!(change(engine.as_mut(), begin).unwrap(), Incarnation(2));
    assert_eq!(*look(engine.as_mut(), incarnations::secrets).unwrap(), secrets);
}

fn the_audit_trail_only_grows_and_keeps_its_order<M: Medium>() {
    let mut engine = M::new().open();
    let once = |detail, once| Event { once, ..Event::about_all(What::Apply, detail) };
    for (detail, word, noted) in
        [("one", None, true), ("two", Some("w"), true), ("again", Some("w"), false), ("three", None, true)]
    {
        let note = |tx: &Transaction<'_>| events::note(tx, &Actor::local(), &once(detail, word), NOW);
        assert_eq!(change(engine.as_mut(), note).unwrap(), noted, "{detail}");
    }
    let details = |engine: &mut dyn Engine, after| {
        let list = look(engine, |tx| events::list(tx, after, 10));
        list.into_iter().map(|event| event.detail).collect::<Vec<_>>()
    };
    assert_eq!(details(engine.as_mut(), 0), ["one", "two", "three"]);
    let first = look(engine.as_mut(), |tx| events::list(tx, 0, 1))[0].id;
    assert_eq!(details(engine.as_mut(), first), ["two", "three"]);
    // An epoch begins further on, and as far again if the clock stands still.
    for detail in ["four", "five"] {
        let event = Event::about_all(What::Epoch, detail);
        let note = |tx: &Transaction<'_>| events::note_anew(tx, &Actor::local(), &event, NOW);
        assert!(change(engine.as_mut(), note).unwrap());
    }
    change(engine.as_mut(), |tx| events::note(tx, &Actor::local(), &once("six", None), NOW)).unwrap();
    let numbers: Vec<_> =
        look(engine.as_mut(), |tx| events::list(tx, 3, 10)).iter().map(|event| event.id).collect();
    let anew = u64::try_from(NOW.as_millisecond()).unwrap().max(4);
    assert_eq!(numbers, [anew, anew + 1, anew + 2]);
    for forbidden in ["DELETE FROM events", "UPDATE events SET who = 'x'"] {
        assert!(change(engine.as_mut(), |tx| Ok(tx.execute(forbidden, [])?)).is_err(), "{forbidden}");
    }
}

fn callers_at_the_same_time_are_each_answered_with_their_own<M: Medium>() {
    let medium = M::new();
    let store = Store::start(medium.open(), ()).unwrap();
    let names: Vec<String> = (0..50).map(|n| format!("k{n}")).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut calls = tokio::task::JoinSet::new();
        let store = std::sync::Arc::new(store);
        for (n, name) in names.iter().cloned().enumerate() {
            let store = store.clone();
            calls.spawn(async move {
                let result = store
                    .write(move |tx| {
                        note(tx, &name)?;
                        if n % 3 == 0 {
                            return Err(anyhow!("refused {n}"));
                        }
                        Ok(n)
                    })
                    .await
                    .map_err(|error| error.to_string());
                let expected = if n % 3 == 0 { Err(format!("refused {n}")) } else { Ok(n) };
                assert_eq!(result, expected);
            });
        }
        while let Some(call) = calls.join_next().await {
            call.unwrap();
        }
    });
    let mut engine = medium.open();
    for (n, name) in names.iter().enumerate() {
        assert_eq!(noted(engine.as_mut(), name), n % 3 != 0, "{name}");
    }
}

//! The machine loses power, or the agent is killed, at every write and sync of
//! what it keeps: the key it may have shown is still its key, and the state is
//! the one it promised or the one it was about to.

use anyhow::{Context as _, Result, ensure};
use kiln_protocol::api::EnrolAnswer;
use kiln_protocol::config::Incarnation;
use kiln_protocol::seed::NodeSeed;
use kiln_protocol::ticket::{Ticket, TicketSeed};
use kiln_protocol::{Fingerprint, Role};
use kiln_tests::crash::{self, Trace};
use std::path::Path;

use super::state::{Event, Me, State};
use super::store::{load, save};
use crate::identity;
use crate::root::Root;

/// A first boot, as far as the disk sees it.
fn boot(dir: &Path) -> Result<()> {
    let root = Root::open(dir)?;
    let pin = Fingerprint::of_spki(b"coordinator");
    let seed = NodeSeed::new(Ticket::new(vec!["10.0.2.2:7443".parse()?], pin, TicketSeed::generate())?);
    let mut state = keep(&root, State::Seed, Event::SeedFound(seed))?;
    let key = identity::load_or_make(&root)?.fingerprint();
    crash::say(&format!("key {key}"));
    let bound = EnrolAnswer {
        cluster: "c".parse()?,
        node: "s1".parse()?,
        role: Role::Server,
        generation: 1,
        recovery: None,
    };
    for event in [
        Event::KeyMade(Me { key, machine: None }),
        Event::Bound(bound),
        Event::Configured(Incarnation(1)),
        Event::Passed,
        Event::K3sReady,
    ] {
        state = keep(&root, state, event)?;
    }
    Ok(())
}

fn keep(root: &Root, state: State, event: Event) -> Result<State> {
    let state = state.after(event)?;
    save(root, &state)?;
    crash::say(&serde_json::to_string(&state)?);
    Ok(state)
}

/// What must be true of a disk after so many promises.
fn check(dir: &Path, promises: &[&str], said: usize) -> Result<()> {
    let root = Root::open(dir)?;
    let (made, to_come) = promises.split_at(said);
    let state = |promise: &&&str| serde_json::from_str::<State>(promise).ok();
    let kept = made.iter().rev().find_map(|promise| state(&promise)).unwrap_or(State::Seed);
    let in_flight = to_come.first().and_then(|promise| state(&promise));
    let found = load(&root)?;
    ensure!(found == kept || Some(&found) == in_flight.as_ref(), "{found:?} is not {kept:?}");
    let key = made.iter().find_map(|promise| promise.strip_prefix("key "));
    // Also what is begun again on it works: half a key is no obstacle.
    let identity = identity::load_or_make(&root).context("beginning again")?;
    ensure!(
        key.is_none_or(|key| key == identity.fingerprint().to_string()),
        "the key that was shown is lost"
    );
    Ok(())
}

#[test]
fn what_the_agent_keeps_survives_a_crash_at_every_point() {
    if let Some(dir) = crash::child() {
        boot(&dir).unwrap();
        return;
    }
    let dir = crate::testing::tempdir().unwrap();
    let test = "run::crash_tests::what_the_agent_keeps_survives_a_crash_at_every_point";
    let trace = Trace::record(test, dir.path()).unwrap();
    let said = trace.said();
    assert_eq!(said.len(), 7);
    let disks = trace.each_disk(|disk, point, _| check(disk, &said, point.said)).unwrap();
    println!("{}; {disks} different disks, and every promise held", trace.summary());
    let careless = trace.without_syncs();
    assert!(careless.each_disk(|disk, point, _| check(disk, &said, point.said)).is_err());
}

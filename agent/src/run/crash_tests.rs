//! The machine loses power, or the agent is killed, at every write and sync of
//! what it keeps, from the first boot to a key that took another's place: the
//! key it may have shown is still its key, the state is the one it promised or
//! the one it was about to, and its clone ratchet stands where the coordinator
//! was told.

use anyhow::{Context as _, Result, ensure};
use kiln_protocol::api::EnrolAnswer;
use kiln_protocol::config::Incarnation;
use kiln_protocol::ratchet::{Reach, Stamp, Turn};
use kiln_protocol::recovery::RecoverySeed;
use kiln_protocol::seed::NodeSeed;
use kiln_protocol::ticket::{Ticket, TicketSeed};
use kiln_protocol::{Fingerprint, Identity, Role};
use kiln_tests::crash::{self, Trace};
use serde::{Deserialize, Serialize};
use std::path::Path;

use super::state::{Event, Me, State};
use super::store::{load, save};
use crate::bond::Bond;
use crate::identity;
use crate::root::Root;

/// What the agent is sure of once it has written it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Promise {
    /// Where it is on its way.
    State(Box<State>),
    /// Its key, before anybody has seen it.
    Key(Fingerprint),
    /// The turn that it may send from now on.
    Turn(Turn),
    /// That turn was answered.
    Answered(Turn),
    /// The key that it may ask for from now on.
    Next(Fingerprint),
    /// The coordinator's key has changed to this one.
    Pin(Fingerprint),
}

fn say(promise: &Promise) -> Result<()> {
    crash::say(&serde_json::to_string(promise)?);
    Ok(())
}

/// A life of a node, as far as the disk sees it.
fn live(dir: &Path) -> Result<()> {
    let root = Root::open(dir)?;
    let (coordinator, recovery) = (Identity::generate()?, RecoverySeed::generate());
    let pin = coordinator.fingerprint();
    let seed = NodeSeed::new(Ticket::new(vec!["10.0.2.2:7443".parse()?], pin, TicketSeed::generate())?);
    let mut state = keep(&root, State::Seed, Event::SeedFound(seed))?;
    let key = identity::load_or_make(&root)?.fingerprint();
    say(&Promise::Key(key))?;
    let answer = EnrolAnswer {
        cluster: "c".parse()?,
        node: "s1".parse()?,
        role: Role::Server,
        generation: 1,
        recovery: Some(recovery.public_key()),
    };
    state = keep(&root, state, Event::KeyMade(Me { key, machine: None }))?;
    state = keep(&root, state, Event::Bound(answer))?;
    let bond = Bond::load(&root)?;
    turn(&bond, &coordinator, 1)?;
    for event in [Event::Configured(Incarnation(1)), Event::Passed, Event::K3sReady] {
        state = keep(&root, state, event)?;
    }
    turn(&bond, &coordinator, 2)?;
    // As `rotate` does it.
    let next = identity::load_or_make_next(&root, &key)?.fingerprint();
    say(&Promise::Next(next))?;
    say(&Promise::Turn(bond.turn()?))?;
    keep(&root, state, Event::KeyReplaced(next))?;
    identity::load_named(&root, &next)?;
    turn(&bond, &coordinator, 3)?;
    let pin = Identity::generate()?.fingerprint();
    bond.change_pin(pin, &recovery.change_pin(7, &pin))?;
    say(&Promise::Pin(pin))?;
    turn(&Bond::load(&root)?, &coordinator, 4)
}

/// Opens a connection.
fn turn(bond: &Bond, coordinator: &Identity, seq: u64) -> Result<()> {
    let turn = bond.turn()?;
    say(&Promise::Turn(turn))?;
    bond.answered(turn, Stamp::sign(Reach { epoch: 1, seq }, coordinator))?;
    say(&Promise::Answered(turn))
}

fn keep(root: &Root, state: State, event: Event) -> Result<State> {
    let state = state.after(event)?;
    save(root, &state)?;
    say(&Promise::State(Box::new(state.clone())))?;
    Ok(state)
}

/// What must be true of a disk after so many promises.
fn check(dir: &Path, promises: &[Promise], said: usize) -> Result<()> {
    let root = Root::open(dir)?;
    let (made, to_come) = promises.split_at(said);
    let in_flight = to_come.first();
    let state = |promise: &Promise| match promise {
        Promise::State(state) => Some((**state).clone()),
        _ => None,
    };
    let kept = made.iter().rev().find_map(state).unwrap_or(State::Seed);
    let found = load(&root)?;
    ensure!(found == kept || Some(&found) == in_flight.and_then(state).as_ref(), "{found:?} is not {kept:?}");
    check_keys(&root, made, &found)?;
    check_bond(&Bond::load(&root)?, made, in_flight)
}

fn check_keys(root: &Root, made: &[Promise], found: &State) -> Result<()> {
    let next = made.iter().rev().find_map(|promise| match promise {
        Promise::Next(key) => Some(*key),
        _ => None,
    });
    if let Some(me) = found.me() {
        if let Some(next) = next.filter(|next| *next != me.key) {
            let kept = identity::load_next(root, &me.key)?.map(|key| key.fingerprint());
            ensure!(kept == Some(next), "the key that may have been asked for is lost");
        }
        let named = identity::load_named(root, &me.key).context("going on with the key of the state")?;
        ensure!(named.fingerprint() == me.key, "another key than the state's");
        return Ok(());
    }
    // Also what is begun again on it works: half a key is no obstacle.
    let identity = identity::load_or_make(root).context("beginning again")?;
    let shown = made.iter().find_map(|promise| match promise {
        Promise::Key(key) => Some(*key),
        _ => None,
    });
    ensure!(shown.is_none_or(|key| key == identity.fingerprint()), "the key that was shown is lost");
    Ok(())
}

fn check_bond(bond: &Bond, made: &[Promise], in_flight: Option<&Promise>) -> Result<()> {
    let turn = bond.turn()?;
    for promise in made.iter().rev() {
        let fits = match promise {
            // The answer may have been noted already.
            Promise::Turn(sent) => {
                turn == *sent || in_flight == Some(&Promise::Answered(*sent)) && turn.cur == sent.next
            }
            Promise::Answered(answered) => turn.cur == answered.next && bond.seen().is_some(),
            _ => continue,
        };
        ensure!(fits, "the ratchet is at {turn:?}, and {promise:?} was promised");
        break;
    }
    let pin = made.iter().find_map(|promise| match promise {
        Promise::Pin(pin) => Some(*pin),
        _ => None,
    });
    let trusted = bond.trust(Fingerprint::of_spki(b"the ticket's"), None).pin;
    ensure!(pin.is_none_or(|pin| pin == trusted), "the coordinator's new key is forgotten");
    Ok(())
}

#[test]
fn what_the_agent_keeps_survives_a_crash_at_every_point() {
    if let Some(dir) = crash::child() {
        live(&dir).unwrap();
        return;
    }
    let dir = crate::testing::tempdir().unwrap();
    let test = "run::crash_tests::what_the_agent_keeps_survives_a_crash_at_every_point";
    let trace = Trace::record(test, dir.path()).unwrap();
    let said: Vec<Promise> = trace.said().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(said.len(), 19);
    let disks = trace.each_disk(|disk, point, _| check(disk, &said, point.said)).unwrap();
    println!("{}; {disks} different disks, and every promise held", trace.summary());
    let careless = trace.without_syncs();
    assert!(careless.each_disk(|disk, point, _| check(disk, &said, point.said)).is_err());
}

//! Random histories of everything that may happen to the registry, against the
//! invariants of its rules: the transitions that the server runs, on a database
//! that dies and begins again, loses answers, and is set back to copies of
//! itself. Around it machines with the agent's rules (what is on the disk
//! first, what is asked again), copies of them, thieves, and an operator.
//!
//! * A node has one live key, and one for each generation.
//! * No key ever gets a second name.
//! * What is bound stays bound, unless an operator, a later generation or a
//!   restored copy ends it.
//! * A node is held for a reason, never for a lost request or answer, nor because
//!   the registry is another copy than the one that the node spoke to.
//! * A copy of the registry knows that it is one as soon as it is shown a stamp
//!   that it never gave, and never takes itself for one otherwise.
//! * Two machines with one disk do not both go on.
//! * Once the faults stop, an honest machine of every node joins.

mod checks;
mod disk;
mod finish;
mod machine;
mod perform;
mod sabotage;
mod world;

use anyhow::Result;
use kiln_protocol::ErrorClass;
use kiln_protocol::api::{EnrolRequest, Facts};
use kiln_protocol::ticket::{Ticket, TicketSeed};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

use self::disk::Fate;
use self::machine::POOL;
use self::sabotage::Sabotage;
use self::world::World;
use crate::registry::fixtures::key;
use crate::store::events;
use crate::transition::enrol;

const NODES: [&str; 2] = ["a1", "s1"];
/// Of a ticket, in seconds.
const LIFETIME: i64 = 3600;
/// Histories of each of the two halves that run beside each other.
const HISTORIES: u32 = 5000;

#[derive(Debug, Clone)]
enum Op {
    /// The next generation of a node gets a ticket, and a machine has it.
    Mint(usize, Fate),
    /// There is a machine without a ticket.
    Machine(usize),
    /// A machine does what its agent does next: enrols, opens a connection,
    /// has its key replaced.
    Act(Index, Fate),
    /// A bound machine asks to be enrolled once more.
    Again(Index),
    /// The network delivers what a machine gave up long ago.
    Late(Index),
    /// A ticket is used with a key that it was not made for: a new one, or
    /// some machine's.
    Steal {
        ticket: Index,
        machine: Option<Index>,
        fate: Fate,
    },
    /// The console of a node's machine shows some machine's key.
    Confirm {
        machine: Index,
        node: usize,
        fate: Fate,
    },
    /// An operator types a machine's key.
    Approve(Index, Fate),
    Release(usize, Fate),
    Revoke(usize, Fate),
    Extend(usize, Fate),
    /// An operator wants another key.
    AskRotation(usize, Fate),
    /// A machine's disk is copied into another machine.
    Copy(Index),
    /// A machine's disk is set back to the moment it was bound.
    RollBack(Index),
    BackUp,
    Restore,
    /// The last backup's state is served, and nobody says so.
    ServeOldCopy,
    /// What that was served instead of is served again.
    ServeOriginal,
    RaiseEpoch(Fate),
    /// The coordinator is killed and begins again.
    Crash,
    /// Time goes by, or the clock is set back.
    Wait(i64),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        9 => Just(Fate::Answered),
        1 => Just(Fate::Unheard),
        3 => Just(Fate::AnswerLost),
        1 => Just(Fate::DiesBefore),
        1 => Just(Fate::DiesAfter),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let (node, any_of) = (0..NODES.len(), any::<Index>);
    let steal = (any_of(), proptest::option::of(any_of()), fate());
    prop_oneof![
        4 => (node.clone(), fate()).prop_map(|(node, fate)| Op::Mint(node, fate)),
        1 => node.clone().prop_map(Op::Machine),
        16 => (any_of(), fate()).prop_map(|(at, fate)| Op::Act(at, fate)),
        1 => any_of().prop_map(Op::Again),
        1 => any_of().prop_map(Op::Late),
        2 => steal.prop_map(|(ticket, machine, fate)| Op::Steal { ticket, machine, fate }),
        1 => (any_of(), node.clone(), fate()).prop_map(|(machine, node, fate)| Op::Confirm { machine, node, fate }),
        1 => (any_of(), fate()).prop_map(|(at, fate)| Op::Approve(at, fate)),
        2 => (node.clone(), fate()).prop_map(|(node, fate)| Op::Release(node, fate)),
        1 => (node.clone(), fate()).prop_map(|(node, fate)| Op::Revoke(node, fate)),
        1 => (node.clone(), fate()).prop_map(|(node, fate)| Op::Extend(node, fate)),
        3 => (node, fate()).prop_map(|(node, fate)| Op::AskRotation(node, fate)),
        1 => any_of().prop_map(Op::Copy),
        1 => any_of().prop_map(Op::RollBack),
        2 => Just(Op::BackUp),
        1 => Just(Op::Restore),
        2 => Just(Op::ServeOldCopy),
        1 => Just(Op::ServeOriginal),
        1 => fate().prop_map(Op::RaiseEpoch),
        1 => Just(Op::Crash),
        1 => (-2 * LIFETIME..2 * LIFETIME).prop_map(Op::Wait),
    ]
}

fn history() -> impl Strategy<Value = Vec<Op>> {
    proptest::collection::vec(op(), 1..50)
}

fn run(mut world: World, ops: &[Op]) -> Result<()> {
    ops.iter().try_for_each(|op| world.step(op))?;
    world.finish()
}

fn holds(world: Result<World>, ops: &[Op]) -> Result<(), TestCaseError> {
    world.and_then(|world| run(world, ops)).map_err(|error| TestCaseError::fail(format!("{error:#}")))
}

proptest! {
    #![proptest_config(Config { cases: HISTORIES, ..Config::default() })]

    #[test]
    fn every_history_keeps_the_invariants_and_honest_nodes_join(ops in history()) {
        holds(World::in_memory(None), &ops)?;
    }

    /// The same, so that both halves of the machine have something to do.
    #[test]
    fn every_other_history_keeps_the_invariants_and_honest_nodes_join(ops in history()) {
        holds(World::in_memory(None), &ops)?;
    }
}

proptest! {
    #![proptest_config(Config { cases: 60, ..Config::default() })]

    #[test]
    fn every_history_keeps_the_invariants_on_the_store_in_use(ops in history()) {
        holds(World::on_file(), &ops)?;
    }
}

/// The checker can fail: each defect is found, in far fewer histories than
/// are looked at above.
#[test]
fn every_deliberate_defect_is_found() {
    for defect in Sabotage::ALL {
        let config =
            Config { cases: HISTORIES, max_shrink_iters: 0, failure_persistence: None, ..Config::default() };
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let mut runner = TestRunner::new_with_rng(config, rng);
        let outcome = runner.run(&history(), |ops| holds(World::in_memory(Some(defect)), &ops));
        match outcome {
            Err(TestError::Fail(why, _)) => {
                let why = why.message();
                println!("{defect:?}: {why}");
                assert!(why.contains(defect.complaint()), "{defect:?} was found by chance: {why}");
            }
            other => panic!("{defect:?} went unnoticed: {other:?}"),
        }
    }
}

/// A node whose new key was taken, and that was not told, asks again; in the
/// meantime the ratchets were forgotten. It is not taken for a thief with its
/// old key.
#[test]
fn a_rotation_whose_answer_was_lost_is_answered_again_after_a_new_epoch_or_a_release() {
    let act = |fate| Op::Act(index(0), fate);
    let forgets = [
        vec![Op::RaiseEpoch(Fate::Answered)],
        vec![Op::BackUp, Op::Restore],
        vec![
            Op::Steal { ticket: index(0), machine: None, fate: Fate::Answered },
            Op::Release(0, Fate::Answered),
        ],
    ];
    for forget in forgets {
        let mut world = World::in_memory(None).unwrap();
        let before = [Op::Mint(0, Fate::Answered), act(Fate::Answered), Op::AskRotation(0, Fate::Answered)];
        let rotates = [act(Fate::Answered), act(Fate::AnswerLost)];
        for op in before.iter().chain(&rotates).chain(&forget) {
            world.step(op).unwrap();
        }
        for _ in 0..3 {
            assert_eq!(world.act(0, Fate::Answered).unwrap(), Some(Ok(())), "{forget:?}");
        }
    }
}

/// Otherwise one machine could fill the registry with keys of its own.
#[test]
fn a_key_is_replaced_once_in_ten_minutes_unless_an_operator_asks_for_another() {
    let mut world = World::in_memory(None).unwrap();
    world.step(&Op::Mint(0, Fate::Answered)).unwrap();
    let rotates = |world: &mut World| {
        world.machines[0].disk.rotation_asked = true;
        let refused = told(world, 0);
        assert_eq!(told(world, 0), None, "it goes on with the key that it has");
        refused
    };
    assert_eq!(told(&mut world, 0), None);
    world.step(&Op::Wait(1)).unwrap();
    assert_eq!(rotates(&mut world), None, "the key that it enrolled with");
    for _ in 0..3 {
        assert_eq!(rotates(&mut world), Some(ErrorClass::Policy));
    }
    world.step(&Op::AskRotation(0, Fate::Answered)).unwrap();
    assert_eq!(rotates(&mut world), None, "an operator wants it");
    assert_eq!(rotates(&mut world), Some(ErrorClass::Policy), "and wanted it once");
    world.step(&Op::Wait(599)).unwrap();
    assert_eq!(rotates(&mut world), Some(ErrorClass::Policy));
    world.step(&Op::Wait(1)).unwrap();
    assert_eq!(rotates(&mut world), None);
    world.step(&Op::Wait(-3600)).unwrap();
    assert_eq!(rotates(&mut world), None, "a clock that was set back shuts nobody out");
    assert!(world.look(events::open_alarms).unwrap().is_empty(), "no node was held");
}

/// Of whatever there is, the first.
fn index(of: usize) -> Index {
    use proptest::strategy::ValueTree as _;
    let mut runner = TestRunner::deterministic();
    let mut tree = any::<Index>().new_tree(&mut runner).unwrap();
    while tree.simplify() {}
    assert_eq!(tree.current().index(usize::MAX), of);
    tree.current()
}

/// Two nodes have joined; one of them opened connections after a backup was made,
/// and the other one opens more of them than that with the copy.
fn an_old_copy_that_went_on(sabotage: Option<Sabotage>) -> World {
    let mut world = World::in_memory(sabotage).unwrap();
    for op in [Op::Mint(0, Fate::Answered), Op::Mint(1, Fate::Answered)] {
        world.step(&op).unwrap();
    }
    for at in [0, 1, 0, 1] {
        assert_eq!(told(&mut world, at), None);
    }
    world.step(&Op::BackUp).unwrap();
    for _ in 0..2 {
        assert_eq!(told(&mut world, 0), None);
    }
    world.step(&Op::ServeOldCopy).unwrap();
    for _ in 0..5 {
        assert_eq!(told(&mut world, 1), None, "nobody has said so yet");
    }
    world
}

/// A machine does what its agent does next; with what it is refused.
fn told(world: &mut World, machine: usize) -> Option<ErrorClass> {
    let did = world.contact(machine);
    let heard = world.act(machine, Fate::Answered).unwrap().expect("it was answered");
    world.check(did).unwrap();
    heard.err().map(|no| no.class)
}

#[test]
fn an_old_copy_that_other_nodes_went_on_with_is_noticed_and_so_is_the_original_that_comes_back() {
    let mut world = an_old_copy_that_went_on(None);
    for at in [0, 1] {
        assert_eq!(told(&mut world, at), Some(ErrorClass::StaleCoordinator));
    }
    world.step(&Op::ServeOriginal).unwrap();
    assert_eq!(told(&mut world, 0), None, "this is the one it knows");
    for at in [1, 0] {
        assert_eq!(told(&mut world, at), Some(ErrorClass::StaleCoordinator));
    }
    let noticed = world.look(|tx| events::list(tx, 0, 1000)).unwrap();
    assert_eq!(noticed.iter().filter(|event| event.what == "stale_coordinator").count(), 1);
    world.step(&Op::RaiseEpoch(Fate::Answered)).unwrap();
    for at in [0, 1, 0, 1] {
        assert_eq!(told(&mut world, at), None);
    }
    assert!(world.look(events::open_alarms).unwrap().is_empty(), "no node was held");
}

#[test]
fn an_old_copy_whose_first_word_of_a_node_is_a_rotation_is_noticed() {
    let mut world = an_old_copy_that_went_on(None);
    world.machines[0].disk.rotation_asked = true;
    assert_eq!(told(&mut world, 0), Some(ErrorClass::StaleCoordinator));
}

/// The two tests above can fail: the node is held for nothing.
#[test]
fn a_copy_that_counts_on_or_is_shown_no_stamp_is_found_to_hold_an_honest_node() {
    for (defect, rotates) in [(Sabotage::CopiesCountOn, false), (Sabotage::RotationShowsNoStamp, true)] {
        let mut world = an_old_copy_that_went_on(Some(defect));
        world.machines[0].disk.rotation_asked = rotates;
        let error = world.step(&Op::Act(index(0), Fate::Answered)).unwrap_err();
        let why = format!("{error:#}");
        assert!(why.contains("is held, and nobody has given a reason"), "{defect:?}: {why}");
    }
}

#[test]
fn a_proof_for_another_key_or_coordinator_is_worth_nothing() {
    let pin = POOL.coordinator.fingerprint();
    let ticket = Ticket::new(vec!["10.0.0.1:7443".parse().unwrap()], pin, TicketSeed::generate()).unwrap();
    let proof = ticket.prove(&key("a"));
    let request = EnrolRequest { ticket: ticket.public_key(), proof, facts: Facts::default() };
    assert!(enrol::check_proof(&request, &pin, &key("a")).is_ok());
    for (pin, node) in [(pin, key("b")), (key("other coordinator"), key("a"))] {
        let error = enrol::check_proof(&request, &pin, &node).unwrap_err();
        assert_eq!(error.class, ErrorClass::Policy);
    }
}

#[test]
fn a_late_contest_is_noted_once_and_an_early_one_raises_an_alarm_each_time() {
    let mut world = World::in_memory(None).unwrap();
    let machine = world.mint(0, Fate::Answered).unwrap().unwrap();
    world.act(machine, Fate::Answered).unwrap().unwrap().unwrap();
    let contest = |world: &mut World, thief: &str| {
        let refusal = world.enrol(0, key(thief), Fate::Answered).unwrap().unwrap().unwrap_err();
        assert_eq!(refusal.class, ErrorClass::TicketContested);
        let all = world.look(|tx| events::list(tx, 0, 1000)).unwrap();
        let contests: Vec<_> = all.into_iter().filter(|event| event.what == "ticket_contested").collect();
        (contests.len(), contests.iter().filter(|event| event.alarm).count())
    };
    for expected in [1, 2] {
        assert_eq!(contest(&mut world, "thief"), (expected, expected));
        assert_eq!(world.look(events::open_alarms).unwrap().len(), 1);
        world.release(0, Fate::Answered).unwrap().unwrap();
        assert!(world.look(events::open_alarms).unwrap().is_empty());
    }
    world.now += jiff::SignedDuration::from_secs(LIFETIME);
    for thief in ["one", "two", "one"] {
        assert_eq!(contest(&mut world, thief), (3, 2));
    }
    assert_eq!(world.act(machine, Fate::Answered).unwrap(), Some(Ok(())));
}

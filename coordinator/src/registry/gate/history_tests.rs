//! Random histories of a cluster of three servers and two agents: machines
//! enrol, ask, die, are replaced and revoked at any moment, k3s on them joins
//! etcd and becomes ready, a server that lives does chores. Against the
//! invariants: one datastore is started, etcd has one joining server at a
//! time, nobody takes a living machine's place; and once nothing more goes
//! wrong, everybody passes.

use kiln_protocol::chores::EtcdMember;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

use super::tests::member;
use super::*;

const SLOT: i64 = 900;
/// A machine that died is silent from then on for so many steps.
const STEP: i64 = 60;

#[derive(Debug, Clone, Copy)]
enum Op {
    /// A new machine of a node enrols; the old one was deleted or still lives.
    Enrol {
        node: usize,
        old_lives: bool,
    },
    /// The newest machine asks at the gate.
    Ask(usize),
    /// k3s on the newest machine gets one step further.
    Progress(usize),
    Die(usize),
    Revoke(usize),
    /// The first server that can does the chores.
    Chores,
    Wait(i64),
}

fn op() -> impl Strategy<Value = Op> {
    let node = 0..NODES.len();
    prop_oneof![
        2 => (node.clone(), any::<bool>()).prop_map(|(node, old_lives)| Op::Enrol { node, old_lives }),
        6 => node.clone().prop_map(Op::Ask),
        6 => node.clone().prop_map(Op::Progress),
        1 => node.clone().prop_map(Op::Die),
        1 => node.prop_map(Op::Revoke),
        4 => Just(Op::Chores),
        1 => (1..2 * SLOT).prop_map(Op::Wait),
    ]
}

const NODES: [(&str, Role); 5] = [
    ("s1", Role::Server),
    ("s2", Role::Server),
    ("s3", Role::Server),
    ("a1", Role::Agent),
    ("a2", Role::Agent),
];

/// What is true of a machine, whoever knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Truth {
    alive: bool,
    /// It started a datastore or is in etcd.
    in_etcd: bool,
    up: bool,
}

struct World {
    cluster: Cluster,
    /// Agents are no part of the cluster as the gate loads it.
    agents: Vec<Member>,
    truth: Vec<(NodeName, u32, Truth)>,
    now: i64,
    datastores: usize,
    defect: Option<Defect>,
}

impl World {
    fn new() -> Self {
        let lease = Lease { node: "s1".parse().unwrap(), generation: None };
        let cluster = Cluster {
            incarnation: Incarnation(1),
            lease,
            multi_server: true,
            members: Vec::new(),
            agents_passed: false,
            rotating: false,
            slot: SLOT,
        };
        Self {
            cluster,
            agents: Vec::new(),
            truth: Vec::new(),
            now: 1_800_000_000,
            datastores: 0,
            defect: None,
        }
    }

    fn all(&self) -> impl Iterator<Item = &Member> {
        self.cluster.members.iter().chain(&self.agents)
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        self.cluster.members.iter_mut().chain(&mut self.agents)
    }

    fn newest(&self, node: usize) -> Option<Member> {
        let of_node = self.all().filter(|m| m.node.as_str() == NODES[node].0);
        of_node.max_by_key(|m| m.generation).cloned()
    }

    fn truth(&mut self, member: &Member) -> &mut Truth {
        let found = self.truth.iter_mut().find(|(n, g, _)| *n == member.node && *g == member.generation);
        &mut found.expect("every member has a machine").2
    }

    fn seen(&mut self, member: &Member) -> &mut Member {
        let (node, generation) = (member.node.clone(), member.generation);
        self.all_mut().find(|m| m.node == node && m.generation == generation).unwrap()
    }

    /// As `enrol::bind` in `transition` does it.
    fn enrol(&mut self, node: usize, old_lives: bool) {
        let (name, role) = NODES[node];
        let generation = self.newest(node).map_or(0, |m| m.generation) + 1;
        let lease = self.cluster.lease_after_bind(&name.parse().unwrap(), generation, false);
        let takes = name == "s1" && lease == Some(generation);
        self.cluster.lease.generation = lease;
        if self.defect == Some(Defect::LeaseWanders) && role == Role::Server {
            self.cluster.lease = Lease { node: name.parse().unwrap(), generation: Some(generation) };
        }
        for old in self.all_mut().filter(|m| m.node.as_str() == name) {
            if old.trust != Trust::Gone {
                // It may have joined after its slot was given on.
                old.left = false;
                old.doomed |= role == Role::Server && old.passed.is_some();
            }
            old.trust = Trust::Gone;
            if takes {
                (old.left, old.doomed) = (true, false);
            }
        }
        if !old_lives {
            for (_, _, truth) in self.truth.iter_mut().filter(|(n, _, _)| n.as_str() == name) {
                (truth.alive, truth.up) = (false, false);
            }
        }
        let new = Member { generation, token: false, ..member(name, role) };
        self.truth.push((new.node.clone(), generation, Truth { alive: true, in_etcd: false, up: false }));
        if role == Role::Server { self.cluster.members.push(new) } else { self.agents.push(new) }
    }

    fn ask(&mut self, node: usize) {
        let Some(caller) = self.newest(node) else { return };
        if caller.trust != Trust::Trusted || !self.truth(&caller).alive {
            return;
        }
        let earlier: Vec<Member> = self
            .all()
            .filter(|m| m.node == caller.node && m.generation < caller.generation)
            .cloned()
            .collect();
        let earlier: Vec<Member> = earlier
            .into_iter()
            .map(|old| Member { heard: self.truth(&old).alive.then_some(1), ..old })
            .collect();
        let request = GateRequest { incarnation: Incarnation(1), clock: self.now };
        let answer = self.spoiled(&caller, &earlier, &request);
        if answer != GateAnswer::Go || caller.passed.is_some() {
            return;
        }
        for old in earlier.iter().filter(|old| old.passed.is_some()) {
            let truth = *self.truth(old);
            assert!(!truth.alive, "it took the place of a machine that lives");
            assert!(caller.role == Role::Agent || old.left, "etcd may still have the one before");
        }
        match self.cluster.part(&caller).unwrap() {
            Part::First { cluster_init } => {
                assert!(cluster_init);
                let others = self.truth.iter().any(|(n, _, truth)| *n != caller.node && truth.in_etcd);
                assert!(!others, "a second datastore is started beside the first");
                // What an earlier holder started is gone with it.
                for (_, _, truth) in &mut self.truth {
                    truth.in_etcd = false;
                }
                self.datastores += 1;
            }
            Part::Joining => {
                let joining = |m: &&Member| m.is_joining();
                assert_eq!(self.cluster.members.iter().filter(joining).count(), 0, "two join at a time");
                assert!(self.cluster.members.iter().any(Member::is_up));
            }
            Part::Agent => {
                assert!(caller.token && self.cluster.members.iter().any(Member::is_up));
                self.cluster.agents_passed = true;
            }
        }
        let now = self.now;
        self.seen(&caller).passed = Some(now);
    }

    /// The gate's answer, with the defect if there is one.
    fn spoiled(&self, caller: &Member, earlier: &[Member], request: &GateRequest) -> GateAnswer {
        let answer = self.cluster.ask(caller, earlier, request, self.now).unwrap();
        let first = matches!(self.cluster.part(caller), Ok(Part::First { .. }));
        let some_are_up = self.cluster.members.iter().any(Member::is_up);
        match self.defect {
            Some(Defect::PlaceIsGivenOnEarly) if earlier.iter().any(|old| old.passed.is_some()) => {
                GateAnswer::Go
            }
            Some(Defect::TwoJoinAtOnce)
                if some_are_up && caller.role == Role::Server && earlier.is_empty() =>
            {
                GateAnswer::Go
            }
            Some(Defect::NobodyElsePasses) if !first => {
                GateAnswer::Wait { reason: "a defect".to_owned(), retry_after: 5 }
            }
            _ => answer,
        }
    }

    fn progress(&mut self, node: usize) {
        let Some(member) = self.newest(node) else { return };
        let truth = *self.truth(&member);
        if member.passed.is_none() || !truth.alive {
            return;
        }
        let server = member.role == Role::Server;
        if server && !truth.in_etcd {
            let joining = self.truth.iter().filter(|(_, _, t)| t.in_etcd && t.alive && !t.up).count();
            let duplicate = self.truth.iter().any(|(n, _, t)| *n == member.node && t.in_etcd);
            // Who joins is let in by a majority of those who are in.
            let all = self.truth.iter().filter(|(_, _, t)| t.in_etcd).count();
            let alive = self.truth.iter().filter(|(_, _, t)| t.in_etcd && t.alive).count();
            let starts = self.cluster.holds_lease(&member);
            if joining == 0 && !duplicate && (starts || 2 * alive > all) {
                self.truth(&member).in_etcd = true;
            }
            return;
        }
        self.truth(&member).up = true;
        let seen = self.seen(&member);
        (seen.ready, seen.left) = (true, false);
    }

    fn chores(&mut self) {
        let able = self.cluster.members.clone().into_iter().find(|m| m.is_up() && self.truth(m).up);
        if able.is_none() {
            return;
        }
        for agent in &mut self.agents {
            agent.token |= agent.trust == Trust::Trusted;
        }
        let doomed: Vec<Member> = self.all().filter(|m| m.doomed).cloned().collect();
        for member in doomed {
            let silent = !self.truth(&member).alive;
            if silent {
                self.truth(&member).in_etcd = false;
                self.seen(&member).doomed = false;
            }
        }
        let in_etcd = |(node, _, truth): &(NodeName, u32, Truth)| {
            let name = format!("{node}-0badcafe");
            truth.in_etcd.then_some(EtcdMember { name, hosts: Vec::new() })
        };
        let list: Vec<EtcdMember> = self.truth.iter().filter_map(in_etcd).collect();
        let missing: Vec<Member> = self.cluster.missing_from(&list, |_| None, self.now).cloned().collect();
        for member in missing {
            assert!(!self.truth(&member).in_etcd);
            self.seen(&member).left = true;
        }
    }

    fn revoke(&mut self, node: usize) {
        for member in self.all_mut().filter(|m| m.node.as_str() == NODES[node].0) {
            if member.trust != Trust::Gone {
                member.left = false;
                member.doomed |= member.passed.is_some();
            }
            member.trust = Trust::Gone;
        }
        // The operator deletes the machine too.
        for (_, _, truth) in self.truth.iter_mut().filter(|(n, _, _)| n.as_str() == NODES[node].0) {
            (truth.alive, truth.up) = (false, false);
        }
    }

    fn die(&mut self, node: usize) {
        let Some(member) = self.newest(node) else { return };
        let truth = self.truth(&member);
        (truth.alive, truth.up) = (false, false);
    }

    fn step(&mut self, op: Op) {
        self.now += STEP;
        match op {
            Op::Enrol { node, old_lives } => self.enrol(node, old_lives),
            Op::Ask(node) => self.ask(node),
            Op::Progress(node) => self.progress(node),
            Op::Die(node) => self.die(node),
            Op::Revoke(node) => self.revoke(node),
            Op::Chores => self.chores(),
            Op::Wait(seconds) => self.now += seconds,
        }
        let starters =
            self.cluster.members.iter().filter(|m| {
                m.trust == Trust::Trusted && matches!(self.cluster.part(m), Ok(Part::First { .. }))
            });
        assert!(starters.count() <= 1, "two live machines are told cluster-init");
    }

    /// The operator's part of a cluster whose servers that had the data are
    /// all lost: says so, and that nothing is left in etcd.
    fn give_up_data(&mut self) {
        for node in 0..3 {
            let newest = self.newest(node);
            if newest.is_some_and(|m| m.passed.is_some() && !(m.is_up() && self.truth(&m).up)) {
                self.revoke(node);
            }
        }
        if self.cluster.members.iter().any(Member::is_up) {
            return;
        }
        let lease = self.cluster.replace(&"s1".parse().unwrap()).unwrap();
        for member in self.cluster.members.iter_mut().filter(|m| m.passed.is_some()) {
            (member.left, member.doomed) = (true, false);
        }
        for (_, _, truth) in &mut self.truth {
            truth.in_etcd = false;
        }
        self.cluster.lease.generation = lease;
    }
}

/// A defect of the gate, put in on purpose: a checker that lets one pass
/// proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Defect {
    /// A place is free as soon as its machine is doubted, not when etcd lacks it.
    PlaceIsGivenOnEarly,
    /// It is not looked at who is joining.
    TwoJoinAtOnce,
    /// The lease passes to whoever comes next.
    LeaseWanders,
    /// Nobody passes who has to wait for others.
    NobodyElsePasses,
}

impl Defect {
    const ALL: [Self; 4] =
        [Self::PlaceIsGivenOnEarly, Self::TwoJoinAtOnce, Self::LeaseWanders, Self::NobodyElsePasses];
}

/// Plays a history to its end; false if somebody is not ready then.
fn everybody_joins(ops: Vec<Op>, defect: Option<Defect>) -> Result<(), String> {
    let mut world = World { defect, ..World::new() };
    for op in ops {
        world.step(op);
    }
    // From here on nothing more goes wrong, and the operator does his part.
    world.now += 2 * SLOT;
    world.give_up_data();
    for node in 0..NODES.len() {
        let newest = world.newest(node);
        let fine = newest.is_some_and(|m| m.trust == Trust::Trusted && world.truth(&m).alive);
        if !fine {
            world.step(Op::Enrol { node, old_lives: false });
        }
        for (name, generation, truth) in &mut world.truth {
            let newest = world.cluster.members.iter().chain(&world.agents);
            let newest = newest.filter(|m| m.node == *name).map(|m| m.generation).max();
            if newest != Some(*generation) {
                (truth.alive, truth.up) = (false, false);
            }
        }
    }
    for _ in 0..40 {
        for node in 0..NODES.len() {
            world.step(Op::Ask(node));
            world.step(Op::Progress(node));
        }
        world.step(Op::Chores);
    }
    for node in 0..NODES.len() {
        let newest = world.newest(node).expect("everybody has enrolled");
        if !newest.ready {
            return Err(format!("{newest:#?} in {:#?} {:?}", world.cluster, world.truth));
        }
    }
    Ok(())
}

fn history() -> impl Strategy<Value = Vec<Op>> {
    proptest::collection::vec(op(), 0..80)
}

proptest! {
    #![proptest_config(Config { cases: 10_000, ..Config::default() })]
    #[test]
    fn every_history_has_one_datastore_and_one_joining_server_and_ends_with_all_joined(ops in history()) {
        everybody_joins(ops, None).map_err(TestCaseError::fail)?;
    }
}

/// A server whose place was given on joins all the same, late, and before it
/// has said so the one that let it in is replaced.
#[test]
fn a_server_that_joins_late_is_not_left_alone_with_a_datastore() {
    let enrol = |node| Op::Enrol { node, old_lives: false };
    let (s1, s2) = (0, 1);
    let begins = [enrol(s1), Op::Ask(s1), Op::Progress(s1), Op::Progress(s1)];
    let late = [enrol(s2), Op::Ask(s2), Op::Wait(SLOT), Op::Chores, Op::Progress(s2), enrol(s1), Op::Ask(s1)];
    everybody_joins(begins.into_iter().chain(late).collect(), None).unwrap();
}

/// The checker can fail.
#[test]
fn every_deliberate_defect_of_the_gate_is_found() {
    for defect in Defect::ALL {
        let config =
            Config { cases: 10_000, max_shrink_iters: 0, failure_persistence: None, ..Config::default() };
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let outcome = TestRunner::new_with_rng(config, rng)
            .run(&history(), |ops| everybody_joins(ops, Some(defect)).map_err(TestCaseError::fail));
        assert!(matches!(outcome, Err(TestError::Fail(..))), "{defect:?} went unnoticed: {outcome:?}");
    }
}

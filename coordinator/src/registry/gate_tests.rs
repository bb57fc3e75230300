use super::*;
use proptest::prelude::*;

const CLOCK: i64 = 1_800_000_000;

fn member(node: &str, role: Role) -> Member {
    Member {
        node: node.parse().unwrap(),
        generation: 1,
        role,
        trust: Trust::Trusted,
        passed: false,
        ready: false,
    }
}

fn started(member: Member) -> Member {
    Member { passed: true, ..member }
}

fn ready(member: Member) -> Member {
    Member { passed: true, ready: true, ..member }
}

fn server(node: &str) -> Member {
    member(node, Role::Server)
}

/// `s1` holds the lease in generation 1.
fn cluster(members: Vec<Member>) -> Cluster {
    let multi_server = members.iter().filter(|m| m.role == Role::Server).count() > 1;
    let lease = Lease { node: "s1".parse().unwrap(), generation: Some(1) };
    Cluster { incarnation: Incarnation(1), lease, multi_server, members, agents_passed: false }
}

fn request() -> GateRequest {
    GateRequest { incarnation: Incarnation(1), clock: CLOCK }
}

fn goes(cluster: &Cluster, caller: &Member) -> bool {
    match cluster.ask(caller, &request(), CLOCK).unwrap() {
        GateAnswer::Go => true,
        GateAnswer::Wait { reason, retry_after } => {
            assert!(!reason.is_empty() && retry_after > 0);
            false
        }
    }
}

#[test]
fn a_sole_server_goes_at_once_with_sqlite() {
    let s1 = server("s1");
    let cluster = cluster(vec![s1.clone(), member("a1", Role::Agent)]);
    assert!(goes(&cluster, &s1));
    assert_eq!(cluster.part(&s1), Ok(Part::First { cluster_init: false }));
}

#[test]
fn of_several_servers_one_starts_etcd_and_the_others_join() {
    let (s1, s2) = (server("s1"), server("s2"));
    let cluster = cluster(vec![s1.clone(), s2.clone(), server("s3")]);
    assert_eq!(cluster.part(&s1), Ok(Part::First { cluster_init: true }));
    assert_eq!(cluster.part(&s2), Ok(Part::Joining));
    assert!(goes(&cluster, &s1));
    assert!(!goes(&cluster, &s2));
}

#[test]
fn agents_wait_for_a_ready_server() {
    let agent = member("a1", Role::Agent);
    for (s1, expected) in [(server("s1"), false), (started(server("s1")), false), (ready(server("s1")), true)]
    {
        assert_eq!(goes(&cluster(vec![s1, agent.clone()]), &agent), expected);
    }
    let held = Member { trust: Trust::Doubted, ..ready(server("s1")) };
    assert!(!goes(&cluster(vec![held, agent.clone()]), &agent));
}

#[test]
fn servers_join_one_at_a_time() {
    let (s1, s2, s3) = (ready(server("s1")), started(server("s2")), server("s3"));
    assert!(!goes(&cluster(vec![s1.clone(), s2.clone(), s3.clone()]), &s3));
    assert!(goes(&cluster(vec![s1.clone(), ready(s2.clone()), s3.clone()]), &s3));
    let revoked = Member { trust: Trust::Gone, ..s2 };
    assert!(goes(&cluster(vec![s1, revoked, s3.clone()]), &s3));
}

#[test]
fn a_held_member_keeps_its_slot() {
    let held = Member { trust: Trust::Doubted, ..started(server("s2")) };
    let s3 = server("s3");
    assert!(!goes(&cluster(vec![ready(server("s1")), held, s3.clone()]), &s3));
}

#[test]
fn a_slot_passes_to_the_holders_next_generation() {
    let old = Member { trust: Trust::Gone, ..started(server("s2")) };
    let new = Member { generation: 2, ..server("s2") };
    assert!(goes(&cluster(vec![ready(server("s1")), old, new.clone(), server("s3")]), &new));
}

#[test]
fn who_passed_once_passes() {
    let a1 = started(member("a1", Role::Agent));
    assert!(goes(&cluster(vec![server("s1"), a1.clone()]), &a1));
}

#[test]
fn the_clock_must_agree_within_a_minute_in_both_directions() {
    let s1 = server("s1");
    let cluster = cluster(vec![s1.clone()]);
    for (skew, fits) in [(0, true), (60, true), (-60, true), (61, false), (-61, false), (i64::MIN, false)] {
        let request = GateRequest { clock: CLOCK.saturating_add(skew), ..request() };
        match cluster.ask(&s1, &request, CLOCK) {
            Ok(answer) => assert!(fits && answer == GateAnswer::Go),
            Err(error) => assert!(!fits && error.class == ErrorClass::Clock),
        }
    }
}

#[test]
fn another_incarnations_configuration_does_not_pass() {
    let s1 = ready(server("s1"));
    let request = GateRequest { incarnation: Incarnation(2), ..request() };
    let error = cluster(vec![s1.clone()]).ask(&s1, &request, CLOCK).unwrap_err();
    assert_eq!(error.class, ErrorClass::Policy);
}

#[test]
fn the_lease_passes_to_the_next_generation_until_somebody_else_passed() {
    let s1 = "s1".parse().unwrap();
    let mut cluster = cluster(vec![server("s1"), server("s2"), server("s3")]);
    cluster.lease.generation = None;
    assert_eq!(cluster.lease_after_bind(&"s2".parse().unwrap(), 1), None);
    assert_eq!(cluster.lease_after_bind(&s1, 1), Some(1));
    cluster.lease.generation = Some(1);
    cluster.members[0] = ready(server("s1"));
    assert_eq!(cluster.lease_after_bind(&s1, 2), Some(2));
    cluster.members[1] = started(server("s2"));
    assert_eq!(cluster.lease_after_bind(&s1, 2), Some(1));
    let replacement = Member { generation: 2, ..server("s1") };
    assert_eq!(cluster.part(&replacement), Ok(Part::Joining));
    cluster.members[1].passed = false;
    cluster.agents_passed = true;
    assert_eq!(cluster.lease_after_bind(&s1, 2), Some(1));
}

#[test]
fn a_sole_server_that_was_ready_is_not_replaced() {
    let s1: NodeName = "s1".parse().unwrap();
    let started_only = cluster(vec![started(server("s1"))]);
    assert_eq!(started_only.lease_after_bind(&s1, 2), Some(2));
    let had_data = cluster(vec![ready(server("s1"))]);
    assert_eq!(had_data.lease_after_bind(&s1, 2), Some(1));
    let replacement = Member { generation: 2, ..server("s1") };
    assert_eq!(had_data.part(&replacement).unwrap_err().class, ErrorClass::Policy);
    assert!(had_data.ask(&replacement, &request(), CLOCK).is_err());
}

proptest! {
    /// Whatever the order in which nodes ask and become ready: one starts the
    /// datastore, never two servers join at once, no agent goes before a
    /// server is ready, and in the end all have gone.
    #[test]
    fn every_order_of_arrival_ends_with_all_joined(
        servers in prop_oneof![Just(1usize), Just(3), Just(5)],
        agents in 0usize..6,
        order in proptest::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..200),
    ) {
        let names = (1..=servers).map(|n| server(&format!("s{n}")));
        let mut cluster =
            cluster(names.chain((1..=agents).map(|n| member(&format!("a{n}"), Role::Agent))).collect());
        let mut step = |at: usize, becomes_ready: bool| {
            let caller = cluster.members[at].clone();
            if caller.passed {
                cluster.members[at].ready |= becomes_ready;
                return;
            }
            let go = cluster.ask(&caller, &request(), CLOCK).unwrap() == GateAnswer::Go;
            let joining = |m: &&Member| m.role == Role::Server && m.passed && !m.ready;
            if go {
                let first = matches!(cluster.part(&caller), Ok(Part::First { .. }));
                assert!(first || cluster.members.iter().any(|m| m.role == Role::Server && m.ready));
                assert!(caller.role == Role::Agent || cluster.members.iter().filter(joining).count() == 0);
                cluster.members[at].passed = true;
            }
        };
        for (index, becomes_ready) in order {
            step(index.index(servers + agents), becomes_ready);
        }
        for _ in 0..2 * (servers + agents) {
            for at in 0..servers + agents {
                step(at, true);
            }
        }
        prop_assert!(cluster.members.iter().all(|m| m.passed && m.ready));
        let starters = cluster.members.iter().filter(|m| matches!(cluster.part(m), Ok(Part::First { .. })));
        prop_assert_eq!(starters.count(), 1);
    }
}

use super::*;
use kiln_protocol::chores::EtcdMember;
use proptest::prelude::*;

const CLOCK: i64 = 1_800_000_000;
const SLOT: i64 = 900;

/// A generation 1 that has done nothing yet; an agent's token is there.
pub(crate) fn member(node: &str, role: Role) -> Member {
    Member {
        node: node.parse().unwrap(),
        generation: 1,
        role,
        trust: Trust::Trusted,
        passed: None,
        ready: false,
        left: false,
        token: role == Role::Agent,
        doomed: false,
        heard: None,
    }
}

fn started(member: Member) -> Member {
    Member { passed: Some(CLOCK), ..member }
}

fn ready(member: Member) -> Member {
    Member { passed: Some(CLOCK), ready: true, ..member }
}

fn server(node: &str) -> Member {
    member(node, Role::Server)
}

/// `s1` holds the lease in generation 1.
fn cluster(members: Vec<Member>) -> Cluster {
    let multi_server = members.iter().filter(|m| m.role == Role::Server).count() > 1;
    let lease = Lease { node: "s1".parse().unwrap(), generation: Some(1) };
    Cluster {
        incarnation: Incarnation(1),
        lease,
        multi_server,
        members,
        agents_passed: false,
        rotating: false,
        slot: SLOT,
    }
}

fn request() -> GateRequest {
    GateRequest { incarnation: Incarnation(1), clock: CLOCK }
}

fn goes(cluster: &Cluster, caller: &Member) -> bool {
    asks(cluster, caller, &[], CLOCK).is_none()
}

/// What `caller` has to wait for, if it has to.
fn asks(cluster: &Cluster, caller: &Member, earlier: &[Member], clock: i64) -> Option<String> {
    match cluster.ask(caller, earlier, &GateRequest { clock, ..request() }, clock).unwrap() {
        GateAnswer::Go => None,
        GateAnswer::Wait { reason, retry_after } => {
            assert!(!reason.is_empty() && retry_after > 0);
            Some(reason)
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
    for (trust, why) in [(Trust::Doubted, "s1 is held"), (Trust::Unconfirmed, "s1 waits for its key")] {
        let doubtful = Member { trust, ..ready(server("s1")) };
        let reason = asks(&cluster(vec![doubtful, agent.clone()]), &agent, &[], CLOCK).unwrap();
        assert!(reason.contains(why), "{reason}");
    }
}

#[test]
fn servers_join_one_at_a_time() {
    let (s1, s2, s3) = (ready(server("s1")), started(server("s2")), server("s3"));
    assert!(!goes(&cluster(vec![s1.clone(), s2.clone(), s3.clone()]), &s3));
    assert!(goes(&cluster(vec![s1.clone(), ready(s2.clone()), s3.clone()]), &s3));
    let lost = Member { left: true, ..s2 };
    assert!(goes(&cluster(vec![s1, lost, s3.clone()]), &s3));
}

#[test]
fn a_held_member_keeps_its_slot() {
    let held = Member { trust: Trust::Doubted, ..started(server("s2")) };
    let s3 = server("s3");
    assert!(!goes(&cluster(vec![ready(server("s1")), held, s3.clone()]), &s3));
}

fn etcd(names: &[&str]) -> Vec<EtcdMember> {
    names.iter().map(|name| EtcdMember { name: format!("{name}-0badcafe"), hosts: Vec::new() }).collect()
}

fn missing(cluster: &Cluster, list: &[EtcdMember], clock: i64) -> Vec<(String, u32)> {
    let found = cluster.missing_from(list, |_| None, clock);
    found.map(|member| (member.node.to_string(), member.generation)).collect()
}

#[test]
fn a_slot_is_given_on_once_its_time_is_over_and_etcd_lacks_the_holder() {
    let s3 = server("s3");
    let mut cluster = cluster(vec![ready(server("s1")), started(server("s2")), s3.clone()]);
    assert!(!cluster.wants_members(CLOCK + SLOT) && cluster.wants_members(CLOCK + SLOT + 1));
    assert!(missing(&cluster, &etcd(&["s1"]), CLOCK + SLOT).is_empty(), "its time is not over");
    let late = CLOCK + SLOT + 1;
    assert!(asks(&cluster, &s3, &[], late).unwrap().contains("has not become ready in 15 min"));
    assert!(missing(&cluster, &etcd(&["s1", "s2"]), late).is_empty(), "etcd has it");
    assert_eq!(missing(&cluster, &etcd(&["s1"]), late), [("s2".to_owned(), 1)]);
    cluster.members[1].left = true;
    assert!(asks(&cluster, &s3, &[], late).is_none());
    assert!(!cluster.wants_members(late));
}

#[test]
fn the_slot_of_a_revoked_server_is_given_on_once_etcd_lacks_it() {
    let s3 = server("s3");
    let revoked = Member { trust: Trust::Gone, doomed: true, ..started(server("s2")) };
    let mut cluster = cluster(vec![ready(server("s1")), revoked, s3.clone()]);
    assert!(asks(&cluster, &s3, &[], CLOCK).unwrap().contains("replaced or revoked"));
    assert!(missing(&cluster, &etcd(&["s1"]), CLOCK).is_empty(), "its Node object is to go first");
    cluster.members[1].doomed = false;
    assert_eq!(missing(&cluster, &etcd(&["s1"]), CLOCK), [("s2".to_owned(), 1)]);
}

#[test]
fn a_replacement_waits_until_the_old_machine_is_silent_and_its_member_is_gone() {
    let new = Member { generation: 2, ..server("s2") };
    let mut old = Member { trust: Trust::Gone, doomed: true, heard: Some(3), ..ready(server("s2")) };
    let mut cluster = cluster(vec![ready(server("s1")), old.clone(), new.clone(), ready(server("s3"))]);
    let reason = |cluster: &Cluster, old: &Member| asks(cluster, &new, std::slice::from_ref(old), CLOCK);
    assert!(reason(&cluster, &old).unwrap().contains("spoke 3 s ago"));
    old.heard = None;
    assert!(reason(&cluster, &old).unwrap().contains("Node object of generation 1 of s2"));
    assert!(!cluster.wants_members(CLOCK), "nothing is known before that");
    (old.doomed, cluster.members[1].doomed) = (false, false);
    assert!(reason(&cluster, &old).unwrap().contains("coordinator member-gone s2"));
    assert_eq!(missing(&cluster, &etcd(&["s1", "s3"]), CLOCK), [("s2".to_owned(), 1)]);
    old.left = true;
    assert_eq!(reason(&cluster, &old), None);
}

#[test]
fn a_lost_quorum_is_named() {
    let gone = |name| Member { trust: Trust::Gone, ..ready(server(name)) };
    let new = Member { generation: 2, ..server("s1") };
    let cluster = cluster(vec![gone("s1"), gone("s2"), gone("s3"), new.clone()]);
    let reason = asks(&cluster, &new, &[], CLOCK).unwrap();
    assert!(
        reason.contains("quorum") && reason.contains("coordinator replace s1 --discard-data"),
        "{reason}"
    );
}

#[test]
fn an_agent_waits_for_a_token_of_its_own() {
    let agent = Member { token: false, ..member("a1", Role::Agent) };
    let cluster = cluster(vec![ready(server("s1"))]);
    assert!(asks(&cluster, &agent, &[], CLOCK).unwrap().contains("its own join token"));
    assert!(goes(&cluster, &Member { token: true, ..agent }));
}

#[test]
fn two_machines_never_start_the_datastore_while_both_live() {
    let old = Member { trust: Trust::Gone, heard: Some(0), left: true, ..started(server("s1")) };
    let new = Member { generation: 2, ..server("s1") };
    let mut cluster = cluster(vec![old.clone(), new.clone(), server("s2")]);
    cluster.lease.generation = Some(2);
    assert_eq!(cluster.part(&new), Ok(Part::First { cluster_init: true }));
    assert!(asks(&cluster, &new, std::slice::from_ref(&old), CLOCK).is_some());
    assert!(asks(&cluster, &new, &[Member { heard: None, ..old }], CLOCK).is_none());
}

#[test]
fn data_is_given_up_only_when_nobody_else_has_it_and_its_machine_is_gone() {
    let name = |text: &str| text.parse::<NodeName>().unwrap();
    let sole = cluster(vec![ready(server("s1"))]);
    assert_eq!(sole.replace(&name("s1")), Ok(None), "the next generation has the lease");
    let waiting = Member { generation: 2, ..server("s1") };
    let replaced = Member { trust: Trust::Gone, ..ready(server("s1")) };
    assert_eq!(cluster(vec![replaced.clone(), waiting]).replace(&name("s1")), Ok(Some(2)));
    for (refused, node) in [
        (cluster(vec![ready(server("s1"))]), "a1"),
        (cluster(vec![ready(server("s1")), ready(server("s2"))]), "s1"),
        (cluster(vec![Member { heard: Some(1), ..ready(server("s1")) }]), "s1"),
    ] {
        assert_eq!(refused.replace(&name(node)).unwrap_err().class, ErrorClass::Policy);
    }
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
        match cluster.ask(&s1, &[], &request, CLOCK) {
            Ok(answer) => assert!(fits && answer == GateAnswer::Go),
            Err(error) => assert!(!fits && error.class == ErrorClass::Clock),
        }
    }
}

#[test]
fn another_incarnations_configuration_does_not_pass() {
    let s1 = ready(server("s1"));
    let request = GateRequest { incarnation: Incarnation(2), ..request() };
    let error = cluster(vec![s1.clone()]).ask(&s1, &[], &request, CLOCK).unwrap_err();
    assert_eq!(error.class, ErrorClass::Policy);
}

#[test]
fn the_lease_passes_to_the_next_generation_until_somebody_else_passed() {
    let s1 = "s1".parse().unwrap();
    let mut cluster = cluster(vec![server("s1"), server("s2"), server("s3")]);
    cluster.lease.generation = None;
    assert_eq!(cluster.lease_after_bind(&"s2".parse().unwrap(), 1, false), None);
    assert_eq!(cluster.lease_after_bind(&s1, 1, false), Some(1));
    cluster.lease.generation = Some(1);
    cluster.members[0] = ready(server("s1"));
    assert_eq!(cluster.lease_after_bind(&s1, 2, false), Some(2));
    assert_eq!(cluster.lease_after_bind(&s1, 2, true), Some(2), "nobody has joined its etcd");
    cluster.members[1] = started(server("s2"));
    assert_eq!(cluster.lease_after_bind(&s1, 2, false), Some(1));
    let replacement = Member { generation: 2, ..server("s1") };
    assert_eq!(cluster.part(&replacement), Ok(Part::Joining));
    cluster.members[1].passed = None;
    cluster.agents_passed = true;
    assert_eq!(cluster.lease_after_bind(&s1, 2, false), Some(1));
}

#[test]
fn a_sole_server_that_was_ready_is_not_replaced() {
    let s1: NodeName = "s1".parse().unwrap();
    let started_only = cluster(vec![started(server("s1"))]);
    assert_eq!(started_only.lease_after_bind(&s1, 2, false), Some(2));
    assert_eq!(started_only.lease_after_bind(&s1, 2, true), Some(1), "it said so while it was held");
    let had_data = cluster(vec![ready(server("s1"))]);
    assert_eq!(had_data.lease_after_bind(&s1, 2, false), Some(1));
    let replacement = Member { generation: 2, ..server("s1") };
    assert_eq!(had_data.part(&replacement).unwrap_err().class, ErrorClass::Policy);
    assert!(had_data.ask(&replacement, &[], &request(), CLOCK).is_err());
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
            if caller.passed.is_some() {
                cluster.members[at].ready |= becomes_ready;
                return;
            }
            if goes(&cluster, &caller) {
                let first = matches!(cluster.part(&caller), Ok(Part::First { .. }));
                assert!(first || cluster.members.iter().any(Member::is_up));
                assert!(caller.role == Role::Agent || !cluster.members.iter().any(Member::is_joining));
                cluster.members[at].passed = Some(CLOCK);
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
        prop_assert!(cluster.members.iter().all(|m| m.passed.is_some() && m.ready));
        let starters = cluster.members.iter().filter(|m| matches!(cluster.part(m), Ok(Part::First { .. })));
        prop_assert_eq!(starters.count(), 1);
    }
}

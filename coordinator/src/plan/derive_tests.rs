use super::*;
use crate::plan::fixtures::{edited, three_servers};
use crate::registry::gate::Lease;
use crate::registry::gate::tests::member as gate_member;
use jiff::Timestamp;
use kiln_protocol::config::Incarnation;

fn member(node: &PlannedNode) -> Member {
    gate_member(node.name.as_str(), node.role)
}

/// Everybody's configuration, in a cluster whose `ready` servers are up.
fn configs(plan: &ClusterFile, ready: &[&str]) -> Vec<NodeConfig> {
    let mut members: Vec<Member> = plan.nodes().iter().map(member).collect();
    for member in &mut members {
        member.ready = ready.contains(&member.node.as_str());
        member.passed = member.ready.then_some(1);
    }
    let lease = Lease { node: plan.first_server().name.clone(), generation: Some(1) };
    let cluster = Cluster {
        incarnation: Incarnation(3),
        lease,
        multi_server: plan.is_multi_server(),
        members,
        agents_passed: false,
        rotating: false,
        slot: 900,
    };
    let secrets = ClusterSecrets::generate(Timestamp::now()).unwrap();
    plan.nodes()
        .iter()
        .zip(&cluster.members)
        .zip(1..)
        .map(|((node, member), seat)| {
            let part = cluster.part(member).unwrap();
            let subject = Subject { node, member, part, seat, restore: None, token_serial: 0 };
            derive(plan, &secrets, &cluster, &subject).unwrap()
        })
        .collect()
}

fn joins(config: &NodeConfig) -> String {
    match &config.k3s.membership {
        Membership::JoiningServer { server, .. } | Membership::Agent { server, .. } => server.to_string(),
        Membership::FirstServer { .. } => "nobody".to_owned(),
    }
}

#[test]
fn one_server_starts_sqlite_and_agents_join_it() {
    let configs = configs(&edited(&[]), &[]);
    let Membership::FirstServer { cluster_init, token, agent_token, .. } = &configs[0].k3s.membership else {
        panic!("the only server joins somebody");
    };
    assert!(!cluster_init);
    let Membership::Agent { token: agents, .. } = &configs[1].k3s.membership else {
        panic!("the agent is none");
    };
    assert!(agents.expose().contains("::000002."), "a token of its own");
    assert!(!agents.expose().contains(agent_token.expose()));
    assert_ne!(token, agents);
    assert_eq!(joins(&configs[1]), "10.23.45.31:6443");
    assert_eq!(configs[1].k3s.node_ip.unwrap().to_string(), "10.23.45.32");
    assert_eq!(configs[0].network[0].mac, Some(edited(&[]).nodes()[0].mac));
}

#[test]
fn of_three_servers_one_holds_the_cas_and_the_others_join_it() {
    let configs = configs(&three_servers(), &[]);
    let first = |config: &&NodeConfig| {
        matches!(config.k3s.membership, Membership::FirstServer { cluster_init: true, .. })
    };
    assert_eq!(configs.iter().filter(first).count(), 1);
    let s1 = configs[1].k3s.node_ip.unwrap();
    for joining in [&configs[0], &configs[2], &configs[3]] {
        assert_eq!(joins(joining), format!("{s1}:6443"));
    }
}

#[test]
fn nodes_join_a_server_that_is_ready() {
    let configs = configs(&three_servers(), &["s2"]);
    let s2 = configs[2].k3s.node_ip.unwrap();
    assert_eq!(joins(&configs[0]), format!("{s2}:6443"));
    assert_eq!(joins(&configs[3]), format!("{s2}:6443"));
    assert_ne!(joins(&configs[2]), format!("{s2}:6443"), "nobody joins itself");
}

#[test]
fn agents_get_nothing_of_a_servers() {
    let configs = configs(&three_servers(), &[]);
    let agent = serde_json::to_string(&configs[0]).unwrap();
    let server = serde_json::to_string(&configs[2]).unwrap();
    assert!(!agent.contains("::server:") && !agent.contains("PRIVATE") && !agent.contains("agent_token"));
    assert!(!server.contains("PRIVATE"), "the CA keys are the first server's");
    assert!(configs[0].k3s.tls_san.is_empty() && configs[0].k3s.disable.is_empty());
}

#[test]
fn the_api_is_named_by_all_servers_addresses_and_the_files_names() {
    let configs = configs(&three_servers(), &[]);
    let names: Vec<_> = configs[1].k3s.tls_san.iter().map(SubjectAltName::as_str).collect();
    assert_eq!(names, ["10.77.0.12", "10.77.0.13", "10.77.0.14", "k3s.example.org"]);
    assert_eq!(configs[2].k3s.tls_san, configs[1].k3s.tls_san);
}

#[test]
fn traefik_is_off_unless_asked_for() {
    let disabled = |edits: &[(&str, &str)]| {
        let config = configs(&edited(edits), &[]).remove(0);
        config.k3s.disable.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let with = |line: &str| format!("provider = \"proxmox\"\n{line}");
    assert_eq!(disabled(&[]), ["traefik"]);
    assert!(disabled(&[("provider = \"proxmox\"", &with("traefik = true"))]).is_empty());
    let servicelb = with("disable = [\"servicelb\"]");
    assert_eq!(disabled(&[("provider = \"proxmox\"", &servicelb)]), ["traefik", "servicelb"]);
}

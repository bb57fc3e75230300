use super::*;
use crate::cluster::view::tests::node_status;
use kiln_protocol::config::Incarnation;

fn summary(change: impl Fn(&mut Facts, &mut Facts)) -> Summary {
    let facts = |n: u8, firmware| Facts {
        machine_id: Some(format!("{n:032x}")),
        ssh_host_keys: vec![format!("SHA256:rsa{n}"), format!("SHA256:ed25519{n}")],
        firmware: Some(firmware),
        ..Facts::default()
    };
    let (mut server, mut agent) = (facts(1, Firmware::Uefi), facts(2, Firmware::Bios));
    change(&mut server, &mut agent);
    let node =
        |name: &str, facts| NodeSummary { facts: Some(facts), ..NodeSummary::of(&node_status(name), None) };
    Summary {
        cluster: "smoke".parse().unwrap(),
        incarnation: Incarnation(1),
        kubeconfig: "/k".into(),
        nodes: vec![node(SERVER, server), node(AGENT, agent)],
    }
}

fn said(change: impl Fn(&mut Facts, &mut Facts)) -> String {
    judge(&summary(change)).unwrap_err().to_string()
}

#[test]
fn clones_share_nothing_that_names_them() {
    judge(&summary(|_, _| {})).unwrap();
    assert!(said(|server, agent| agent.machine_id = server.machine_id.clone()).contains("same machine-id"));
    let one_shared =
        |server: &mut Facts, agent: &mut Facts| agent.ssh_host_keys[1] = server.ssh_host_keys[1].clone();
    assert!(said(one_shared).contains("same ssh host keys (SHA256:ed255191)"));
}

#[test]
fn what_is_not_told_is_not_taken_for_granted() {
    assert!(said(|server, _| server.machine_id = None).contains("no machine-id"));
    assert!(said(|_, agent| agent.ssh_host_keys.clear()).contains("no ssh host keys"));
    assert!(said(|_, agent| agent.firmware = Some(Firmware::Uefi)).contains("under Bios"));
}

#[test]
fn the_clones_are_as_large_as_the_image() {
    let file = cluster_file("alma9-k3-node-amd64-v1.28.5-v1", "v1.28.5+k3s1", 512, (4 << 30) + 1).unwrap();
    assert_eq!(file.nodes()[0].disk.bytes(), (4 << 30) + (1 << 20));
    assert_eq!(file.first_server().name.as_str(), SERVER);
}

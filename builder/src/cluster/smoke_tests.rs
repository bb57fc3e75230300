use super::*;
use crate::cluster::view::tests::node_status;
use kiln_protocol::config::Incarnation;

const ALL: [NodeFirmware; 3] = [NodeFirmware::Uefi, NodeFirmware::Bios, NodeFirmware::SecureBoot];

fn summary(change: impl Fn(&mut [Facts; 3])) -> Summary {
    let facts = |n: u8, firmware| Facts {
        machine_id: Some(format!("{n:032x}")),
        ssh_host_keys: vec![format!("SHA256:rsa{n}"), format!("SHA256:ed25519{n}")],
        firmware: Some(firmware),
        ..Facts::default()
    };
    let mut all = [facts(1, Firmware::Uefi), facts(2, Firmware::Bios), facts(3, Firmware::UefiSecureBoot)];
    change(&mut all);
    let node = |(firmware, facts): (&NodeFirmware, Facts)| NodeSummary {
        facts: Some(facts),
        ..NodeSummary::of(&node_status(name_of(*firmware)), None)
    };
    Summary {
        cluster: "smoke".parse().unwrap(),
        incarnation: Incarnation(1),
        kubeconfig: "/k".into(),
        nodes: ALL.iter().zip(all).map(node).collect(),
    }
}

fn said(change: impl Fn(&mut [Facts; 3])) -> String {
    judge(&summary(change), &ALL).unwrap_err().to_string()
}

#[test]
fn clones_share_nothing_that_names_them() {
    judge(&summary(|_| {}), &ALL).unwrap();
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        assert!(said(|f| f[other].machine_id = f[one].machine_id.clone()).contains("same machine-id"));
        let key = format!("same ssh host keys (SHA256:ed25519{})", one + 1);
        assert!(said(|f| f[other].ssh_host_keys[1] = f[one].ssh_host_keys[1].clone()).contains(&key));
    }
}

#[test]
fn what_is_not_told_is_not_taken_for_granted() {
    assert!(said(|f| f[0].machine_id = None).contains("no machine-id"));
    assert!(said(|f| f[1].ssh_host_keys.clear()).contains("no ssh host keys"));
    assert!(said(|f| f[1].firmware = Some(Firmware::Uefi)).contains("under Bios"));
    assert!(said(|f| f[2].firmware = Some(Firmware::Uefi)).contains("under UefiSecureBoot"));
    assert!(said(|f| f[2].firmware = None).contains("under UefiSecureBoot"));
}

#[test]
fn the_clones_are_as_large_as_the_image_and_the_first_is_the_server() {
    let version = "alma9-k3-node-amd64-v1.28.5-v1";
    let file = cluster_file(version, "v1.28.5+k3s1", 512, (4 << 30) + 1, &ALL).unwrap();
    assert_eq!(file.nodes().len(), 3);
    assert_eq!(file.nodes()[0].disk.bytes(), (4 << 30) + (1 << 20));
    assert_eq!(file.first_server().name.as_str(), name_of(ALL[0]));
}

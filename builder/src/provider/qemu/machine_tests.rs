use super::*;
use crate::provider::types::test_spec;

fn argv(file: &NodeFile, seeded: bool) -> String {
    let net = NetFile { coordinator_port: 20_001, segment: "239.255.1.2:20002".parse().unwrap() };
    let how = How { accel: Accel::Tcg, throwaway: false };
    let firmware = Firmware::Ovmf { code: "/ovmf/code.fd".into(), vars: layout::VARS.into() };
    let dir = Path::new("/state/nodes/s1");
    command(dir, file, net, firmware, seeded, &how).to_shell(dir)
}

#[test]
fn a_server_is_reached_on_its_port_and_meets_the_others_on_loopback() {
    let file = NodeFile { spec: test_spec("s1"), api_port: Some(20_003) };
    let line = argv(&file, true);
    for part in [
        "-name home-s1 ",
        "user,id=net0,hostfwd=tcp:127.0.0.1:20003-:6443 ",
        "netdev=net0,romfile=,mac=52:54:01:00:00:01 ",
        "socket,id=net1,mcast=239.255.1.2:20002,localaddr=127.0.0.1 ",
        "netdev=net1,romfile=,mac=52:54:00:00:00:01 ",
        "type=11,path=seed",
        "file=/state/nodes/s1/disk.qcow2 ",
        "path=/state/nodes/s1/console.log ",
    ] {
        assert!(line.contains(part), "{part:?} is not in {line}");
    }
}

#[test]
fn nothing_is_forwarded_to_an_agent_and_no_spent_seed_given() {
    let line = argv(&NodeFile { spec: test_spec("a1"), api_port: None }, false);
    assert!(!line.contains("hostfwd") && !line.contains("-smbios"), "{line}");
}

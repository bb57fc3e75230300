use super::*;

/// As Kubernetes 1.28 answers, shortened.
const NODES: &str = r#"{"kind":"NodeList","apiVersion":"v1","metadata":{"resourceVersion":"812"},"items":[
  {"metadata":{"name":"k3s-s1","uid":"6f"},"spec":{"podCIDR":"10.42.0.0/24"},"status":{
    "capacity":{"cpu":"2"},
    "conditions":[
      {"type":"MemoryPressure","status":"False","lastHeartbeatTime":"2026-11-22T05:00:01Z"},
      {"type":"Ready","status":"True","lastHeartbeatTime":"2026-11-22T05:00:00Z",
       "lastTransitionTime":"2026-11-22T04:00:00Z","reason":"KubeletReady","message":"kubelet is posting ready status"}],
    "nodeInfo":{"bootID":"b-1","machineID":"m"}}},
  {"metadata":{"name":"k3s-a1"},"status":{"conditions":[
      {"type":"Ready","status":"Unknown","message":"Kubelet stopped posting node status."}],
    "nodeInfo":{"bootID":"b-2"}}},
  {"metadata":{"name":"new"},"status":{}}]}"#;

fn wanted(node: &str) -> Wanted {
    Wanted { node: node.parse().unwrap(), since: None, not_boot: None }
}

#[test]
fn the_fields_that_count_are_read() {
    let nodes = parse_nodes(NODES.as_bytes()).unwrap();
    assert_eq!(
        nodes[0],
        KubeNode {
            name: "k3s-s1".into(),
            ready: true,
            message: "kubelet is posting ready status".into(),
            heartbeat: Some("2026-11-22T05:00:00Z".parse().unwrap()),
            boot_id: "b-1".into(),
        }
    );
    assert!(!nodes[1].ready && !nodes[2].ready);
    assert!(parse_nodes(b"{}").is_err());
}

#[test]
fn what_is_missing_is_said() {
    let nodes = parse_nodes(NODES.as_bytes()).unwrap();
    let said = |wanted: Wanted| missing(&[wanted], &nodes).unwrap_or_default();
    assert_eq!(said(wanted("k3s-s1")), "");
    assert!(said(wanted("other")).contains("does not know node other"));
    assert!(said(wanted("k3s-a1")).contains("stopped posting"));
    assert!(said(wanted("new")).contains("no condition yet"));
    let same_boot = Wanted { not_boot: Some("b-1".into()), ..wanted("k3s-s1") };
    assert!(said(same_boot).contains("not come back"));
    let booted = Wanted { not_boot: Some("b-0".into()), ..wanted("k3s-s1") };
    assert_eq!(said(booted), "");
}

#[test]
fn a_heartbeat_from_before_does_not_count() {
    let nodes = parse_nodes(NODES.as_bytes()).unwrap();
    let since = |text: &str| Wanted { since: Some(text.parse().unwrap()), ..wanted("k3s-s1") };
    assert_eq!(missing(&[since("2026-11-22T05:00:01Z")], &nodes), None);
    assert!(missing(&[since("2026-11-22T05:00:10Z")], &nodes).unwrap().contains("not heard of"));
}

#[test]
fn fields_of_a_kubeconfig() {
    let text = "clusters:\n- cluster:\n    certificate-authority-data: YWI=\n    server: https://127.0.0.1:1\nusers:\n- name: kiln\n  user:\n    client-key-data: Yw==\n";
    let kubeconfig = Secret::new(text).unwrap();
    assert_eq!(field(&kubeconfig, "server"), Some("https://127.0.0.1:1"));
    assert_eq!(pem(&kubeconfig, "certificate-authority-data").unwrap().as_slice(), b"ab");
    assert!(pem(&kubeconfig, "client-certificate-data").is_err());
}

use super::*;
use crate::plan::fixtures::edited;

fn settled(names: &[&str]) -> BTreeSet<NodeName> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn change(edits: &[(&str, &str)], names: &[&str]) -> Result<Vec<String>, ApiError> {
    check(&edited(&[]), &edited(edits), &settled(names))
}

const BOTH: [&str; 2] = ["k3s-s1", "k3s-a1"];

#[test]
fn the_same_file_changes_nothing() {
    assert_eq!(change(&[], &BOTH), Ok(Vec::new()));
    assert_eq!(change(&[("# The design's", "# Another comment, the")], &BOTH), Ok(Vec::new()));
}

#[test]
fn what_does_not_touch_k3s_may_change() {
    for (edit, said) in [
        (("cores = 2", "cores = 3"), "k3s-a1: cores: 2 becomes 3 (for machines made from now on)"),
        (("8GiB", "9GiB"), "k3s-a1: memory: 8GiB becomes 9GiB (for machines made from now on)"),
        (
            ("[\"10.23.45.1\"]", "[\"10.23.45.2\"]"),
            "k3s-s1: nameservers: 10.23.45.1 becomes 10.23.45.2 (its agent applies it while it runs)",
        ),
        (
            ("v1.28.5-v1\"", "v1.28.5-v2\""),
            "image: alma9-k3-node-amd64-v1.28.5-v1 becomes alma9-k3-node-amd64-v1.28.5-v2 (for machines made from now on)",
        ),
    ] {
        assert_eq!(change(&[edit], &BOTH), Ok(vec![said.to_owned()]));
    }
}

#[test]
fn what_k3s_settles_at_its_first_start_may_not() {
    let version = [("v1.28.5+k3s1", "v1.28.5+k3s2")];
    let address = [("10.23.45.32/24", "10.23.45.33/24")];
    let provider = [("proxmox", "hetzner")];
    let traefik = [("provider = \"proxmox\"", "provider = \"proxmox\"\ntraefik = true")];
    let role_and_first = [
        ("\"server\"", "\"agent\""),
        ("cores = 2", "cores = 1"),
        ("\"agent\"\ncores = 1", "\"server\"\ncores = 2"),
    ];
    for edits in [&version[..], &address, &provider, &traefik, &role_and_first] {
        let error = change(edits, &BOTH).unwrap_err();
        assert_eq!(error.class, ErrorClass::Policy, "{edits:?}");
        assert!(error.hint.is_some());
    }
}

#[test]
fn before_any_ticket_everything_but_the_name_may_change() {
    for edit in
        [("v1.28.5+k3s1", "v1.28.5+k3s2"), ("proxmox", "hetzner"), ("10.23.45.32/24", "10.23.45.33/24")]
    {
        assert!(!change(&[edit], &[]).unwrap().is_empty());
    }
    assert!(change(&[("\"home\"", "\"work\"")], &[]).is_err());
}

#[test]
fn an_unsettled_node_may_still_move() {
    assert_eq!(
        change(&[("10.23.45.32/24", "10.23.45.33/24")], &["k3s-s1"]),
        Ok(vec!["k3s-a1: address: 10.23.45.32/24 becomes 10.23.45.33/24 (when it joins)".to_owned()])
    );
}

#[test]
fn nodes_come_and_go() {
    let renamed = change(&[("k3s-a1", "k3s-a2")], &BOTH).unwrap();
    assert_eq!(
        renamed,
        [
            "agent k3s-a2 is new: it needs a machine and a ticket",
            "agent k3s-a1 leaves: revoke it when it is gone"
        ]
    );
}

#[test]
fn who_may_log_in_is_said_by_name() {
    const USERS: &str = "[cluster]\nusers = [{ name = \"ops\", authorized_keys = [KEYS] }]";
    let key = |comment: &str| format!("\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHlq {comment}\"");
    let with = |keys: &[String]| edited(&[("[cluster]", &USERS.replace("KEYS", &keys.join(", ")))]);
    let (none, one, other) = (edited(&[]), with(&[key("a")]), with(&[key("b"), key("c")]));
    let of_agent = |old: &ClusterFile, new: &ClusterFile| {
        let changes = check(old, new, &settled(&BOTH)).unwrap();
        changes.into_iter().filter(|change| change.starts_with("k3s-a1")).collect::<Vec<_>>()
    };
    for (old, new, said) in [
        (&none, &one, "user ops is new, with 1 key"),
        (&one, &other, "user ops gains 2 keys and loses 1 key"),
        (&one, &none, "user ops leaves: the account stays, its keys from this file go"),
    ] {
        assert_eq!(of_agent(old, new), [format!("k3s-a1: {said} (its agent applies it while it runs)")]);
    }
}

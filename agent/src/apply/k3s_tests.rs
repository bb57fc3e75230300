use super::*;
use crate::root::Fuse;

const FIRST: &str = r#"{
    "cluster": "home", "incarnation": 1, "node": "k3s-s1", "generation": 1,
    "k3s": {
        "version": "v1.28.5+k3s1", "node_ip": "10.77.0.11", "node_password": "00ff",
        "tls_san": ["k3s.home", "192.0.2.1"], "disable": ["traefik"],
        "membership": {
            "kind": "first_server", "cluster_init": false,
            "token": "K10aa::server:secret-s", "agent_token": "secret-a",
            "ca": {
                "server": {"certificates": "SERVER CRT\n", "key": "SERVER KEY\n"},
                "client": {"certificates": "CLIENT CRT\n", "key": "CLIENT KEY\n"},
                "request_header": {"certificates": "RH CRT\n", "key": "RH KEY\n"},
                "etcd_peer": {"certificates": "PEER CRT\n", "key": "PEER KEY\n"},
                "etcd_server": {"certificates": "ETCD CRT\n", "key": "ETCD KEY\n"},
                "service_key": "SERVICE KEY\n"
            }
        }
    }
}"#;
const MEMBER: &str = r#"{"kind": "KIND", "server": "10.77.0.11:6443", "token": "K10aa::node:secret-n", "agent_token": "secret-a"}"#;

fn first() -> NodeConfig {
    serde_json::from_str(FIRST).unwrap()
}

fn joining(kind: &str) -> NodeConfig {
    let mut config = first();
    config.k3s.membership = serde_json::from_str(&MEMBER.replace("KIND", kind)).unwrap();
    config
}

fn host() -> HostPart {
    HostPart { interface: Some("eth1".into()), selinux: true }
}

fn written(config: &NodeConfig) -> (tempfile::TempDir, Root) {
    let dir = crate::testing::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    apply(&root, config, &host()).unwrap();
    (dir, root)
}

fn settings_in(root: &Root) -> Value {
    serde_json::from_slice(&root.read(CONFIG).unwrap().unwrap()).unwrap()
}

#[test]
fn the_first_server_finds_everything_and_its_secrets_are_its_own() {
    let (_dir, root) = written(&first());
    assert_eq!(
        settings_in(&root),
        json!({
            "node-name": "k3s-s1", "token-file": TOKEN, "agent-token-file": AGENT_TOKEN,
            "node-ip": "10.77.0.11", "flannel-iface": "eth1", "selinux": true,
            "tls-san": ["k3s.home", "192.0.2.1"], "disable": ["traefik"], "write-kubeconfig-mode": "0600",
        })
    );
    for (path, content, mode) in [
        (TOKEN, "K10aa::server:secret-s\n", 0o600),
        (AGENT_TOKEN, "secret-a\n", 0o600),
        (NODE_PASSWORD, "00ff\n", 0o600),
        ("/var/lib/rancher/k3s/server/tls/server-ca.crt", "SERVER CRT\n", 0o644),
        ("/var/lib/rancher/k3s/server/tls/etcd/peer-ca.key", "PEER KEY\n", 0o600),
        ("/var/lib/rancher/k3s/server/tls/service.key", "SERVICE KEY\n", 0o600),
    ] {
        assert_eq!(root.read_text(path).unwrap().as_deref(), Some(content), "{path}");
        assert_eq!(root.meta(path).unwrap().unwrap().mode, mode, "{path}");
    }
    assert_eq!(root.meta(TLS).unwrap().unwrap().mode, 0o700);
    assert!(!root.read_text(CONFIG).unwrap().unwrap().contains("secret"));
}

#[test]
fn several_servers_begin_with_cluster_init() {
    let mut config = first();
    if let Membership::FirstServer { cluster_init, .. } = &mut config.k3s.membership {
        *cluster_init = true;
    }
    let (_dir, root) = written(&config);
    assert_eq!(settings_in(&root)["cluster-init"], json!(true));
}

#[test]
fn an_agent_is_told_no_servers_settings_or_secrets() {
    let (_dir, root) = written(&joining("agent"));
    assert_eq!(
        settings_in(&root),
        json!({
            "node-name": "k3s-s1", "token-file": TOKEN, "server": "https://10.77.0.11:6443",
            "node-ip": "10.77.0.11", "flannel-iface": "eth1", "selinux": true,
        })
    );
    assert!(root.meta(AGENT_TOKEN).unwrap().is_none());
    assert!(root.meta(TLS).unwrap().is_none());
}

#[test]
fn another_configuration_leaves_nothing_of_the_one_before() {
    let (_dir, root) = written(&first());
    apply(&root, &joining("agent"), &host()).unwrap();
    assert!(root.meta(TLS).unwrap().is_none());
    assert!(root.meta(AGENT_TOKEN).unwrap().is_none());
    apply(&root, &joining("joining_server"), &host()).unwrap();
    assert_eq!(settings_in(&root)["server"], json!("https://10.77.0.11:6443"));
    assert_eq!(root.read_text(AGENT_TOKEN).unwrap().as_deref(), Some("secret-a\n"));
}

#[test]
fn where_k3s_has_run_nothing_is_written() {
    let (_dir, root) = written(&first());
    root.make_dirs("/var/lib/rancher/k3s/server/db", 0o700).unwrap();
    let failure = apply(&root, &joining("agent"), &host()).unwrap_err();
    assert_eq!(failure.error.class, ErrorClass::Policy);
    assert!(root.meta(TLS).unwrap().is_some());
}

#[test]
fn a_datastore_that_was_put_there_goes_with_the_configuration_that_wanted_it() {
    let mut config = first();
    let Membership::FirstServer { restore, .. } = &mut config.k3s.membership else { panic!() };
    let sha256 = kiln_protocol::Fingerprint::of_spki(b"");
    *restore = Some(kiln_protocol::config::Snapshot { size: 0, sha256 });
    let dir = crate::testing::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    restore::begin(&root).unwrap();
    apply(&root, &config, &host()).unwrap();
    assert!(is_applied(&root, &config, &host()).unwrap() && !is_applied(&root, &first(), &host()).unwrap());
    assert!(!has_certificates(&root).unwrap(), "k3s has not run");
    apply(&root, &first(), &host()).unwrap();
    assert!(root.meta(restore::DATABASE).unwrap().is_none());
    assert!(is_applied(&root, &first(), &host()).unwrap() && !is_applied(&root, &config, &host()).unwrap());
    root.put(TOKEN, Access::ours(0o600), b"another\n").unwrap();
    assert!(!is_applied(&root, &first(), &host()).unwrap());
}

#[test]
fn another_datastore_than_the_wanted_one_is_not_applied() {
    let config = |data: &[u8]| {
        let mut config = first();
        let Membership::FirstServer { restore, .. } = &mut config.k3s.membership else { panic!() };
        let sha256 = kiln_protocol::Fingerprint::of_spki(data);
        *restore = Some(Snapshot { size: data.len() as u64, sha256 });
        config
    };
    let (wrong, right) = (config(b"wrong"), config(b"right"));
    let dir = crate::testing::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    let place = |config: &NodeConfig, data: &[u8]| {
        restore::begin(&root).unwrap();
        restore::append(&root, data).unwrap();
        apply(&root, config, &host()).unwrap();
    };
    place(&wrong, b"wrong");
    assert!(is_applied(&root, &wrong, &host()).unwrap() && !is_applied(&root, &right, &host()).unwrap());
    place(&right, b"right");
    assert!(is_applied(&root, &right, &host()).unwrap() && !is_applied(&root, &wrong, &host()).unwrap());
    let database = format!("{}/state.db", restore::DATABASE);
    assert_eq!(root.read(&database).unwrap().unwrap(), b"right");
    // An older agent did not note which one it was.
    root.put("/var/lib/kiln/restored", Access::ours(0o600), b"").unwrap();
    assert!(!is_applied(&root, &right, &host()).unwrap() && !is_applied(&root, &first(), &host()).unwrap());
    place(&right, b"right");
    assert!(is_applied(&root, &right, &host()).unwrap());
}

#[test]
fn k3s_has_not_run_where_it_left_nothing_and_was_not_started_in_this_boot() {
    let (_dir, root) = written(&first());
    assert!(has_not_run(&root, "this boot").unwrap());
    root.make_dirs(crate::identity::STATE_DIR, 0o700).unwrap();
    note_start(&root, "this boot").unwrap();
    assert!(!has_not_run(&root, "this boot").unwrap(), "it may be about to leave something");
    assert!(has_not_run(&root, "the next boot").unwrap());
    for left in [restore::DATABASE, MINTED[0], MINTED[1]] {
        root.make_dirs(left, 0o700).unwrap();
        assert!(!has_not_run(&root, "the next boot").unwrap(), "{left}");
        root.remove(left.as_ref()).unwrap();
    }
}

#[test]
fn config_yaml_is_there_only_when_everything_is() {
    let (_whole, whole) = written(&first());
    let listing = |root: &Root| {
        let paths: Vec<_> = files(&first(), &host()).into_iter().map(|file| file.path).collect();
        paths.into_iter().map(|path| root.read(&path).unwrap()).collect::<Vec<_>>()
    };
    for steps in 0.. {
        let dir = crate::testing::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let fuse = Fuse::after(steps);
        let result = apply(&root, &first(), &host());
        if !fuse.has_blown() {
            assert!(result.is_ok() && steps > 30, "the fuse was hardly in the way: {steps}");
            return;
        }
        assert!(result.is_err());
        if root.read(CONFIG).unwrap().is_some() {
            assert_eq!(listing(&root), listing(&whole), "cut at {steps}");
        }
        apply(&root, &first(), &host()).unwrap();
        assert_eq!(listing(&root), listing(&whole), "cut at {steps}");
    }
}

#[test]
fn only_the_k3s_that_is_installed_is_started() {
    let real = "k3s version v1.28.5+k3s1 (5b2d1271)\ngo version go1.20.12\n";
    let installed = version_in(real).unwrap();
    check_version(&first(), &installed).unwrap();
    let other = check_version(&first(), &"v1.29.0+k3s1".parse().unwrap()).unwrap_err();
    assert!(other.message.contains("v1.28.5+k3s1") && other.message.contains("v1.29.0+k3s1"), "{other}");
    assert_eq!(version_in("bash: k3s: command not found"), None);
}

#[test]
fn flannel_uses_the_interface_of_the_nodes_address() {
    let addresses =
        [("lo".to_owned(), "127.0.0.1".parse().unwrap()), ("eth1".into(), "10.77.0.11".parse().unwrap())];
    let of = |ip: Option<&str>| interface_of(ip.map(|ip| ip.parse().unwrap()), &addresses);
    assert_eq!(of(Some("10.77.0.11")).unwrap().as_deref(), Some("eth1"));
    assert_eq!(of(None).unwrap(), None);
    assert!(of(Some("10.77.0.12")).unwrap_err().error.message.contains("10.77.0.12"));
}

//! The stand-in k3s as processes: joining, being refused, coming back.

mod harness;
mod http;
mod told;

use std::fs;
use std::process::Command;

use kiln_protocol::config::Membership;
use serde_json::{Value, json};

use harness::{K3S, Machine, Running, wait};
use http::{Client, get, put};

/// A ready server with a server token and an agent token.
fn first_server() -> (Machine, Running) {
    let machine = Machine::server("s1", json!({"token": "server-pw", "agent-token": "agent-pw"}));
    let running = machine.ready("server");
    (machine, running)
}

/// A machine that is to join with the token in the server's `agent-token`.
fn agent(name: &str, server: &Machine) -> Machine {
    Machine::new(name, json!({"server": server.url(), "token": server.text("server/agent-token")}))
}

#[test]
fn an_agent_joins_with_the_full_token() {
    let (server, _running) = first_server();
    let agent = agent("a1", &server);
    agent.edit(|config| {
        config["node-label"] = json!(["kiln.dev/cluster=test"]);
        config["node-external-ip"] = json!("192.0.2.9");
        config["flannel-iface"] = json!("lo");
        config["selinux"] = json!(true);
    });
    let running = agent.ready("agent");
    server.wait_nodes(&["a1", "s1"]);
    let labels = |node: &Value| node["metadata"]["labels"].as_object().expect("labels").clone();
    let role = |node: &Value| labels(node).contains_key("node-role.kubernetes.io/control-plane");
    wait(|| role(&server.nodes()[1])).expect("the server's node gets its role");
    let nodes = server.nodes();
    assert!(!labels(&nodes[0]).contains_key("node-role.kubernetes.io/control-plane"));
    assert_eq!(labels(&nodes[0])["kiln.dev/cluster"], "test");
    assert_eq!(nodes[0]["status"]["nodeInfo"]["kubeletVersion"], "v1.28.5+k3s1");
    let addresses = nodes[0]["status"]["addresses"].to_string();
    assert!(addresses.contains("192.0.2.9") && addresses.contains("127.0.0.1"), "{addresses}");
    let args = nodes[0]["metadata"]["annotations"]["k3s.io/node-args"].as_str().expect("node-args");
    assert!(args.contains("--selinux") && !args.contains("agent-pw"), "{args}");
    assert!(agent.text("agent/client-kubelet.crt").contains("CERTIFICATE"));
    assert_eq!(fs::read_to_string(agent.etc("rancher/node/password")).expect("a password").trim().len(), 32);
    assert!(!running.log().contains("does not include a CA hash"), "{}", running.log());
}

#[test]
fn a_token_with_another_ca_hash_is_never_used() {
    let (server, running) = first_server();
    let agent = agent("a1", &server);
    agent.edit(|config| config["token"] = json!(format!("K10{}::node:agent-pw", "0".repeat(64))));
    let mut joining = agent.start("agent");
    joining.wait_log("token CA hash does not match the Cluster CA certificate hash");
    assert!(!joining.told().contains("READY"));
    assert!(
        !running.log().contains("Failed to authenticate"),
        "credentials were sent to a server nobody vouches for"
    );
    server.wait_nodes(&["s1"]);
}

#[test]
fn what_a_coordinator_tells_a_node_is_shown_to_no_server_with_another_ca() {
    let [first, joining] = told::configurations();
    let Membership::FirstServer { ca, token: servers, agent_token, .. } = first.k3s.membership else {
        panic!("s1 is the first server")
    };
    let token = joining.k3s.membership.token().expose();
    let (_, credential) = token.split_once("::").expect("a token in full form");
    let agent = Machine::new("a1", json!({"token": token}));
    let other =
        Machine::server("s2", json!({"token": servers.expose(), "agent-token": agent_token.expose()}));

    // Somebody stands at the server's address with a CA of his own, who would take
    // whatever he is shown.
    let (_, password) = servers.expose().split_once("::server:").expect("a token in full form");
    let fake = Machine::server("s1", json!({"token": password, "agent-token": agent_token.expose()}));
    let running = fake.ready("server");
    make_token(&fake, credential);
    for (machine, role) in [(&agent, "agent"), (&other, "server")] {
        machine.edit(|config| config["server"] = json!(fake.url()));
        let mut refusing = machine.start(role);
        refusing.wait_log("token CA hash does not match the Cluster CA certificate hash");
        assert!(!refusing.told().contains("READY"));
    }
    assert!(!running.log().contains("Failed to authenticate"), "{}", running.log());
    fake.wait_nodes(&["s1"]);

    // The cluster's own server is known by the same token.
    let own = json!({"token": servers.expose(), "agent-token": agent_token.expose()});
    let server = Machine::server("s1", own);
    for (name, content) in ca.files() {
        let path = server.data("server/tls").join(name);
        fs::create_dir_all(path.parent().expect("a directory above")).expect("directories");
        fs::write(path, content.expose()).expect("a file");
    }
    let _running = server.ready("server");
    make_token(&server, credential);
    agent.edit(|config| config["server"] = json!(server.url()));
    let _agent = agent.ready("agent");
    server.wait_nodes(&["a1", "s1"]);
}

#[test]
fn a_short_token_joins_with_a_warning_and_a_wrong_one_is_refused() {
    let (server, running) = first_server();
    let agent = agent("a1", &server);
    // An agent has to know the agent token; with one set, the server token is none.
    for wrong in ["nonsense", "server-pw"] {
        agent.edit(|config| config["token"] = json!(wrong));
        let mut joining = agent.start("agent");
        joining.wait_log("401 Unauthorized");
        assert!(!joining.told().contains("READY"));
    }
    running.wait_log("invalid username/password combination");
    agent.edit(|config| config["token"] = json!("agent-pw"));
    agent.ready("agent").wait_log("does not include a CA hash");
}

#[test]
fn an_agent_waits_for_its_server() {
    let server = Machine::server("s1", json!({"token": "server-pw"}));
    let agent = Machine::new("a1", json!({"server": server.url(), "token": "server-pw"}));
    let mut joining = agent.start("agent");
    joining.wait_log("Failed to validate connection to cluster");
    let _running = server.ready("server");
    joining.wait_told("READY=1");
    server.wait_nodes(&["a1", "s1"]);
}

/// Puts a bootstrap token into a server's cluster, as a server's agent does.
fn make_token(server: &Machine, token: &str) {
    let (id, secret) = token.split_once('.').expect("a token");
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": format!("bootstrap-token-{id}"), "namespace": "kube-system"},
        "stringData": {"token-id": id, "token-secret": secret, "usage-bootstrap-authentication": "true"}});
    let args = ["apply", "--server-side", "--force-conflicts", "--filename=-"];
    let made = server.kubectl_fed(&args, &json!({"kind": "List", "items": [secret]}).to_string());
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

#[test]
fn a_bootstrap_token_joins_an_agent_until_it_is_deleted() {
    let (server, _running) = first_server();
    let hash = server.text("server/token")[3..67].to_owned();
    let agent = Machine::new("a1", json!({"server": server.url()}));
    agent.edit(|config| config["token"] = json!(format!("K10{hash}::abcdef.0123456789abcdef")));
    let mut joining = agent.start("agent");
    joining.wait_log("401 Unauthorized");
    make_token(&server, "abcdef.0123456789abcdef");
    joining.wait_told("READY=1");
    server.wait_nodes(&["a1", "s1"]);

    // Deleted, it lets nobody in; who is in comes back with its certificate.
    let delete = ["delete", "--ignore-not-found", "--timeout=20s", "secret", "--namespace=kube-system"];
    let names = ["bootstrap-token-abcdef", "bootstrap-token-nosuch"];
    assert!(server.kubectl(&[&delete[..], &names].concat()).status.success());
    let secrets = server.kubectl(&["get", "secrets", "-n", "kube-system", "-o", "name"]);
    assert!(secrets.stdout.is_empty());
    joining.terminate();
    let mut again = agent.ready("agent");
    let other = Machine::new("a2", json!({"server": server.url(), "token": "abcdef.0123456789abcdef"}));
    other.start("agent").wait_log("401 Unauthorized");

    // Without its Node object it comes back no more.
    again.terminate();
    assert!(server.kubectl(&["delete", "--ignore-not-found", "node", "a1", "a9"]).status.success());
    agent.start("agent").wait_log("Node password rejected");
    server.wait_nodes(&["s1"]);
}

#[test]
fn a_bootstrap_token_is_for_agents_only() {
    let config = json!({"token": "server-pw", "agent-token": "agent-pw", "cluster-init": true});
    let server = Machine::server("s1", config);
    let _running = server.ready("server");
    make_token(&server, "abcdef.0123456789abcdef");
    let second = Machine::server("s2", json!({"server": server.url(), "token": "abcdef.0123456789abcdef"}));
    let (code, log) = second.start("server").wait_end();
    assert!(code == Some(1) && log.contains("agents only"), "{log}");
    let bearer = Client::bearer("abcdef.0123456789abcdef");
    assert_eq!(get(&server.url(), "/v1-k3s/config", &bearer).0, 200);
    for path in ["/v1-k3s/server-bootstrap", "/db/info"] {
        assert_eq!(get(&server.url(), path, &bearer).0, 403, "{path}");
    }
    assert_eq!(get(&server.url(), "/v1-k3s/config", &Client::bearer("abcdef.0000000000000000")).0, 401);
}

#[test]
fn a_server_tells_etcds_members_to_servers() {
    let config = json!({"token": "server-pw", "agent-token": "agent-pw", "cluster-init": true});
    let server = Machine::server("s1", config);
    let _running = server.ready("server");
    let (status, body) = get(&server.url(), "/db/info", &Client::basic("server", "server-pw"));
    let info: Value = serde_json::from_str(&body).expect("JSON");
    let member = &info["members"][0];
    let name = member["name"].as_str().expect("a name");
    assert_eq!((status, name.len(), &name[..3]), (200, 11, "s1-"));
    assert_eq!(member["peerURLs"][0], "https://127.0.0.1:2380");
    assert!(member["ID"].is_u64());
    assert_eq!(get(&server.url(), "/db/info", &Client::basic("node", "agent-pw")).0, 403);
}

#[test]
fn a_server_takes_another_token_while_it_runs_and_insists_on_it_afterwards() {
    let server = Machine::server("s1", json!({"token": "one", "agent-token": "agent-pw"}));
    let mut running = server.ready("server");
    let rotate = |present: &str, new: &str| {
        let who = Client::basic("server", present);
        put(&server.url(), "/v1-k3s/token", &who, &json!({"newToken": new})).0
    };
    assert_eq!(
        put(&server.url(), "/v1-k3s/token", &Client::basic("node", "agent-pw"), &json!({"newToken": "x"})).0,
        403
    );
    assert_eq!((rotate("other", "two"), rotate("one", "two"), rotate("one", "two")), (401, 200, 401));
    assert_eq!(rotate("two", "two"), 200, "it has it, and says so");
    assert!(server.text("server/token").trim_end().ends_with("::server:two"));
    let ready = |password: &str| get(&server.url(), "/v1-k3s/readyz", &Client::basic("server", password)).0;
    assert_eq!((ready("two"), ready("one")), (403, 401), "what servers may ask is not what agents may");
    running.terminate();
    // As after a power cut: the file that it is started with is still the old one.
    let (code, log) = server.start("server").wait_end();
    assert!(code == Some(1) && log.contains("encrypted with different token"), "{log}");
    server.edit(|config| config["token"] = json!("two"));
    let _again = server.ready("server");
    server.wait_nodes(&["s1"]);
}

#[test]
fn servers_stay_together_while_their_token_is_rotated_one_after_the_other() {
    let common = json!({"token": "one", "agent-token": "agent-pw", "cluster-init": true});
    let first = Machine::server("s1", common);
    let _first = first.ready("server");
    let second =
        Machine::server("s2", json!({"server": first.url(), "token": "one", "agent-token": "agent-pw"}));
    let _second = second.ready("server");
    let new = json!({"newToken": "two"});
    let rotate =
        |server: &Machine| put(&server.url(), "/v1-k3s/token", &Client::basic("server", "one"), &new).0;
    assert_eq!(rotate(&first), 200);
    let agent = agent("a1", &first);
    let _agent = agent.ready("agent");
    second.wait_nodes(&["a1", "s1", "s2"]);
    assert_eq!(rotate(&second), 200);
    assert!(first.kubectl(&["delete", "node", "a1"]).status.success());
    assert!(wait(|| second.nodes().len() == 2).is_ok(), "{}", second.nodes().len());
}

#[test]
fn an_agent_token_joins_no_server() {
    let server =
        Machine::server("s1", json!({"token": "server-pw", "agent-token": "agent-pw", "cluster-init": true}));
    let running = server.ready("server");
    for token in [server.text("server/agent-token"), "agent-pw".to_owned()] {
        let second =
            Machine::server("s2", json!({"server": server.url(), "token": token, "agent-token": "agent-pw"}));
        let (code, log) = second.start("server").wait_end();
        assert_eq!(code, Some(1));
        assert!(
            log.contains("level=fatal") && log.contains("/v1-k3s/server-bootstrap: 401 Unauthorized"),
            "{log}"
        );
        assert!(!second.data("server/tls/server-ca.key").exists());
    }
    running.wait_log("invalid username/password combination");
    // The agent token may not even look where servers join.
    assert_eq!(get(&server.url(), "/v1-k3s/server-bootstrap", &Client::basic("node", "agent-pw")).0, 403);
}

#[test]
fn a_name_belongs_to_the_first_password() {
    let (server, running) = first_server();
    let first = agent("a1", &server);
    drop(first.ready("agent"));
    let second = agent("a1", &server);
    let mut joining = second.start("agent");
    joining.wait_log("Node password rejected, duplicate hostname or contents of");
    assert!(!joining.told().contains("READY"));
    running.wait_log("unable to verify hash for node 'a1'");
    // Deleting the Node frees the name.
    assert!(server.kubectl(&["delete", "node", "a1"]).status.success());
    joining.wait_told("READY=1");
    // And a machine with the same password is the same node.
    drop(joining);
    let third = agent("a1", &server);
    fs::create_dir_all(third.etc("rancher/node")).expect("a directory");
    fs::copy(second.etc("rancher/node/password"), third.etc("rancher/node/password")).expect("the password");
    let _third = third.ready("agent");
}

#[test]
fn a_custom_ca_set_is_taken_and_known_beforehand() {
    let server = Machine::server("s1", json!({"tls-san": ["api.example"], "agent-token": "agent-pw"}));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/standin_k3s/custom-ca.sh");
    let made = Command::new(script).arg(server.data("")).output().expect("the script runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    // Everything a node is told stands before any server has run.
    let hash = server.text("ca-hash");
    server.edit(|config| config["token"] = json!(format!("K10{hash}::server:server-pw")));
    let agent =
        Machine::new("a1", json!({"server": server.url(), "token": format!("K10{hash}::node:agent-pw")}));

    let _running = server.ready("server");
    assert_eq!(server.text("server/token"), format!("K10{hash}::server:server-pw"));
    assert_eq!(server.text("server/node-token"), server.text("server/token"));
    assert_eq!(server.text("server/agent-token"), format!("K10{hash}::node:agent-pw"));
    let (status, cacerts) = get(&server.url(), "/cacerts", &Client::default());
    assert_eq!(
        (status, cacerts.as_bytes()),
        (200, &*fs::read(server.data("server/tls/server-ca.crt")).expect("it"))
    );
    let _agent = agent.ready("agent");
    server.wait_nodes(&["a1", "s1"]);

    // Nobody joins by the legacy hash of the file.
    let file_hash =
        Command::new("sha256sum").arg(server.data("server/tls/server-ca.crt")).output().expect("a hash");
    let file_hash = String::from_utf8_lossy(&file_hash.stdout)[..64].to_owned();
    let stranger = Machine::new(
        "a2",
        json!({"server": server.url(), "token": format!("K10{file_hash}::node:agent-pw")}),
    );
    stranger.start("agent").wait_log("token CA hash does not match");
}

#[test]
fn a_kubeconfig_signed_by_the_client_ca_needs_no_server() {
    let (server, _running) = first_server();
    server.wait_nodes(&["s1"]);
    let (url, tls) = (server.url(), server.data("server/tls"));
    let admin = Client::signed(&tls, "client-ca", "operator", "system:masters");
    let (status, body) = get(&url, "/api/v1/nodes", &admin);
    let list: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(
        (status, list["kind"].as_str(), list["items"][0]["metadata"]["name"].as_str()),
        (200, Some("NodeList"), Some("s1"))
    );
    assert_eq!(get(&url, "/readyz", &admin), (200, "ok".to_owned()));

    let reader = Client::signed(&tls, "client-ca", "somebody", "some:group");
    assert_eq!(get(&url, "/api/v1/nodes", &reader).0, 403);
    // Others are nobody: no certificate, one by another CA, a password.
    let by_another = Client::signed(&tls, "request-header-ca", "operator", "system:masters");
    for nobody in [Client::default(), by_another, Client::basic("server", "server-pw")] {
        for path in ["/api/v1/nodes", "/readyz", "/version"] {
            let (status, body) = get(&url, path, &nobody);
            let answer: Value = serde_json::from_str(&body).expect("a Status");
            assert_eq!((status, answer["reason"].as_str()), (401, Some("Unauthorized")), "{path}");
        }
    }
    // And the supervisor's probes are for nodes.
    assert_eq!(get(&url, "/ping", &Client::default()), (200, "pong".to_owned()));
    assert_eq!(get(&url, "/v1-k3s/readyz", &Client::default()).0, 403);
    assert_eq!(get(&url, "/v1-k3s/readyz", &Client::basic("node", "wrong")).0, 401);
    assert_eq!(get(&url, "/v1-k3s/readyz", &Client::basic("node", "agent-pw")), (200, "ok".to_owned()));
}

#[test]
fn a_restart_keeps_nodes_and_insists_on_the_token() {
    let (server, mut running) = first_server();
    let agent = agent("a1", &server);
    let mut joined = agent.ready("agent");
    server.wait_nodes(&["a1", "s1"]);
    let (before, token) = (server.nodes()[0]["metadata"]["uid"].clone(), server.text("server/token"));
    let (code, _) = running.terminate();
    assert_eq!(code, Some(0));
    assert!(running.told().contains("STOPPING=1"));

    let mut again = server.ready("server");
    server.wait_nodes(&["a1", "s1"]);
    assert_eq!((&server.nodes()[0]["metadata"]["uid"], server.text("server/token")), (&before, token));
    // The agent is not started anew, and a new start of it is the same node.
    assert_eq!(joined.terminate().0, Some(0));
    let _joined = agent.ready("agent");
    assert_eq!(server.nodes()[0]["metadata"]["uid"], before);

    again.terminate();
    server.edit(|config| config["token"] = json!("another"));
    let (code, log) = server.start("server").wait_end();
    assert_eq!(code, Some(1));
    assert!(log.contains("bootstrap data already found and encrypted with different token"), "{log}");
    // Without a token in the configuration the one of the first start holds.
    server.edit(|config| drop(config.as_object_mut().expect("an object").remove("token")));
    let _again = server.ready("server");
}

#[test]
fn servers_join_each_other_and_share_what_they_know() {
    let common = json!({"token": "server-pw", "agent-token": "agent-pw"});
    let first = Machine::server("s1", common.clone());
    let mut running = first.ready("server");
    // One server with SQLite takes nobody in, until it is turned into etcd.
    let second = Machine::server("s2", common);
    second.edit(|config| {
        config["server"] = json!(first.url());
        config["token"] = json!(first.text("server/token"));
    });
    assert!(second.start("server").wait_end().1.contains("etcd disabled"));
    running.terminate();
    first.edit(|config| config["cluster-init"] = json!(true));
    let _running = first.ready("server");
    let mut joined = second.ready("server");
    first.wait_nodes(&["s1", "s2"]);
    second.wait_nodes(&["s1", "s2"]);
    assert_eq!(first.text("server/tls/server-ca.key"), second.text("server/tls/server-ca.key"));
    assert_eq!(first.text("server/token"), second.text("server/token"));
    let etcd = |node: &Value| node["metadata"]["labels"]["node-role.kubernetes.io/etcd"] == "true";
    wait(|| first.nodes().iter().all(etcd)).expect("both are etcd members");

    // An agent of the one is seen by the other.
    let agent = agent("a1", &second);
    let _agent = agent.ready("agent");
    first.wait_nodes(&["a1", "s1", "s2"]);

    // Another machine of a living member's name is refused.
    let impostor = Machine::server(
        "s2",
        json!({"server": first.url(), "token": "server-pw", "agent-token": "agent-pw"}),
    );
    let (code, log) = impostor.start("server").wait_end();
    assert!(
        code == Some(1) && log.contains("duplicate node name found, please use a unique name for this node"),
        "{log}"
    );
    // Servers have to agree on the agent token.
    impostor.edit(|config| {
        config["node-name"] = json!("s3");
        config["agent-token"] = json!("other");
    });
    let log = impostor.start("server").wait_end().1;
    assert!(log.contains("failed to validate server configuration") && log.contains("401"), "{log}");

    // Deleting the Node removes the member, and its server ends.
    assert!(first.kubectl(&["delete", "node", "s2"]).status.success());
    let (code, log) = joined.wait_end();
    assert!(code == Some(1) && log.contains("this server has been removed from the cluster"), "{log}");
    first.wait_nodes(&["a1", "s1"]);
}

#[test]
fn a_sqlite_server_joins_nobody() {
    let (server, mut running) = first_server();
    running.terminate();
    server.edit(|config| config["server"] = json!("https://127.0.0.1:1"));
    let (code, log) = server.start("server").wait_end();
    assert!(code == Some(1) && log.contains("cannot join another"), "{log}");
}

#[test]
fn mistakes_in_the_configuration_are_fatal() {
    for (command, key, value) in [
        ("server", "tls-sans", json!("x")),
        ("agent", "cluster-init", json!(true)),
        ("server", "selinux", json!("perhaps")),
        ("server", "flannel-iface", json!({"name": "eth0"})),
        ("server", "node-label", json!(["node-role.kubernetes.io/worker=true"])),
        ("server", "bind-address", json!("everywhere")),
    ] {
        let machine = Machine::new("x", json!({"token": "pw", "server": "https://127.0.0.1:1"}));
        machine.edit(|config| config[key] = value);
        let (code, log) = machine.start(command).wait_end();
        assert!(code == Some(1) && log.contains("level=fatal"), "{key}: {log}");
    }
    let agent = Machine::new("x", json!({"token": "pw"}));
    assert!(agent.start("agent").wait_end().1.contains("--server is required"));
}

#[test]
fn a_half_ca_set_is_refused() {
    let server = Machine::server("s1", json!({"token": "pw"}));
    fs::create_dir_all(server.data("server/tls")).expect("a directory");
    fs::write(server.data("server/tls/server-ca.crt"), "garbage").expect("a file");
    let (code, log) = server.start("server").wait_end();
    assert!(code == Some(1) && log.contains("give all of them, or none"), "{log}");
}

#[test]
fn a_missing_interface_keeps_an_agent_waiting() {
    let (server, _running) = first_server();
    let agent = agent("a1", &server);
    agent.edit(|config| config["flannel-iface"] = json!("nosuch0"));
    let mut joining = agent.start("agent");
    joining.wait_log("unable to find interface nosuch0");
    assert!(!joining.told().contains("READY"));
}

#[test]
fn faults_come_when_they_are_asked_for() {
    let server = Machine::server("s1", json!({"token": "pw"}));
    server.fault(&json!({"never_ready": true}));
    let mut running = server.start("server");
    running.wait_told("STATUS=never ready");
    assert_eq!(get(&server.url(), "/ping", &Client::default()).0, 200);
    assert!(!running.told().contains("READY=1"));
    assert_eq!(running.terminate().0, Some(0));

    server.fault(&json!({"wrong_ca": true, "exit_after_seconds": 3}));
    let mut running = server.ready("server");
    let agent = Machine::new("a1", json!({"server": server.url(), "token": "pw"}));
    agent.start("agent").wait_log("CA cert validation failed");
    assert_eq!(running.wait_end().0, Some(1));
}

#[test]
fn other_commands_say_what_there_is() {
    let version = Command::new(K3S).arg("--version").output().expect("it runs");
    assert_eq!(String::from_utf8_lossy(&version.stdout), "k3s version v1.28.5+k3s1 (standin)\n");
    for args in [&["etcd-snapshot", "save"][..], &["crictl"], &[], &["kubectl", "get", "pods"]] {
        let output = Command::new(K3S).args(args).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.code() == Some(1) && said.contains("stand-in k3s") | said.contains("say server"),
            "{said}"
        );
    }
    let agent = Machine::new("a1", json!({}));
    let refused = agent.kubectl(&["get", "nodes"]);
    assert!(!refused.status.success());
    assert!(
        String::from_utf8_lossy(&refused.stderr)
            .contains("The connection to the server localhost:8080 was refused")
    );
}

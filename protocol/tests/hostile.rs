//! A hostile or mistaken coordinator: every text of a configuration is tried
//! with what would reach a path, a line or a shell it was not meant to reach.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is how a test fails")]

use kiln_protocol::config::NodeConfig;
use serde_json::Value;

/// One with every field.
const CONFIG: &str = r#"{
    "cluster": "home", "incarnation": 1, "node": "k3s-s1", "generation": 1,
    "network": [{"mac": "52:54:00:00:00:02", "address": "10.77.0.11/24", "gateway": "10.77.0.1",
                 "nameservers": ["10.77.0.1"]}],
    "users": [{"name": "ops", "authorized_keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHlq me"]}],
    "k3s": {
        "version": "v1.28.5+k3s1", "node_ip": "10.77.0.11", "node_external_ip": "192.0.2.1",
        "tls_san": ["api.example.net"], "disable": ["traefik"], "node_password": "00ff",
        "membership": {"kind": "joining_server", "server": "10.77.0.12:6443", "token": "K10aa::server:s",
                       "agent_token": "a"}
    }
}"#;

const HOSTILE: [&str; 12] = [
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "a/../b",
    "a\nrogue: true",
    "a\r\nb",
    "a\u{0}b",
    "$(reboot)",
    "a;reboot",
    "a`id`",
    "a b",
    "\u{202e}a",
];

/// Values that are never names: they stand in files of their own, or quoted in
/// JSON, and may hold anything that can be printed.
const SECRETS: [&str; 3] = ["/k3s/node_password", "/k3s/membership/token", "/k3s/membership/agent_token"];

/// JSON pointers of every text below `value`.
fn texts(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::String(_) => found.push(at.to_owned()),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(n, item)| texts(item, &format!("{at}/{n}"), found));
        }
        Value::Object(fields) => {
            fields.iter().for_each(|(name, field)| texts(field, &format!("{at}/{name}"), found));
        }
        _ => {}
    }
}

#[test]
fn no_text_of_a_configuration_can_leave_its_place() {
    let config: Value = serde_json::from_str(CONFIG).unwrap();
    assert!(serde_json::from_value::<NodeConfig>(config.clone()).is_ok());
    let mut found = Vec::new();
    texts(&config, "", &mut found);
    assert!(found.len() > 15, "{found:?}");
    for pointer in found {
        for hostile in HOSTILE {
            let mut config = config.clone();
            *config.pointer_mut(&pointer).unwrap() = hostile.into();
            let taken = serde_json::from_value::<NodeConfig>(config).is_ok();
            let secret = SECRETS.contains(&pointer.as_str());
            let control = hostile.chars().any(|c| c.is_control() && c != '\n');
            assert!(!taken || secret && !control, "{pointer} took {hostile:?}");
        }
    }
}

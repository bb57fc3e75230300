//! What stands for the world around the agent in its tests.
//!
//! | file | what it holds |
//! |---|---|
//! | `coordinator` | a coordinator that speaks real TLS |
//! | `script` | what a test tells it to say, and what it has heard |
//! | `host` | a machine that remembers what was done to it |

mod coordinator;
mod host;
mod script;

use kiln_protocol::config::{Incarnation, NodeConfig};

pub(super) use coordinator::FakeCoordinator;
pub(super) use host::{FakeHost, NO_CABLE, NO_WAY_OUT};
pub(super) use script::{Fault, STAMP, response};

/// A configuration for a first server.
pub(super) fn config() -> NodeConfig {
    let text = r#"{
        "cluster": "home", "incarnation": 1, "node": "k3s-s1", "generation": 1,
        "network": [{"mac": "52:54:00:00:00:02", "address": "10.77.0.11/24"}],
        "users": [{"name": "ops", "authorized_keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHlq me"]}],
        "k3s": {
            "version": "v1.28.5+k3s1", "node_ip": "10.77.0.11", "node_password": "00ff",
            "membership": {
                "kind": "first_server", "cluster_init": false, "token": "K10aa::server:s", "agent_token": "a",
                "ca": {
                    "server": {"certificates": "C", "key": "K"}, "client": {"certificates": "C", "key": "K"},
                    "request_header": {"certificates": "C", "key": "K"},
                    "etcd_peer": {"certificates": "C", "key": "K"},
                    "etcd_server": {"certificates": "C", "key": "K"}, "service_key": "K"
                }
            }
        }
    }"#;
    serde_json::from_str(text).unwrap()
}

/// The incarnation a script's configuration belongs to.
pub(super) fn incarnation(number: u64) -> Incarnation {
    Incarnation(number)
}

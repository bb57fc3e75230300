//! What this agent reads and did not write, or wrote long ago, for the fuzz
//! targets of the workspace: each decodes bytes and tells nothing of them.

use std::path::Path;

use kiln_protocol::Secret;

use crate::applied::Applied;
use crate::{bond, host, run, seed};

/// The state of an earlier run.
pub fn state(bytes: &[u8]) {
    if let Ok(state) = run::parse_state(bytes) {
        let written = serde_json::to_vec(&state).expect("a state can be written");
        let again: run::state::State = serde_json::from_slice(&written).expect("a written state is read");
        assert!(again == state, "a state was written as another one");
    }
}

/// The bond of an earlier run.
pub fn bond(bytes: &[u8]) {
    let _ = bond::parse(bytes);
}

/// What an earlier run applied.
pub fn applied(bytes: &[u8]) {
    let _ = serde_json::from_slice::<Applied>(bytes);
}

/// What etcd says of its members.
pub fn etcd_members(bytes: &[u8]) {
    let _ = host::etcd::parse(bytes);
}

/// A server token, of which the password is asked for.
pub fn server_token(token: &str) {
    if let Ok(token) = Secret::new(token) {
        let _ = host::token::password(&token);
    }
}

/// A mounted `cidata` volume.
pub fn volume(mounted: &Path) {
    if let Ok(Some(bytes)) = seed::of_volume(mounted) {
        let _ = kiln_protocol::seed::NodeSeed::parse(&bytes);
    }
}

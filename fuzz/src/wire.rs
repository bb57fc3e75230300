//! What comes over the network, or is typed.

use std::fmt::Debug;

use kiln_coordinator::k3s::ServerUrl;
use kiln_protocol::admin::{
    AddAdminRequest, AdminsAnswer, ApplyAnswer, ApplyRequest, ApproveAnswer, ApproveRequest, ClusterStatus,
    ConfirmRequest, EventsAnswer, EventsRequest, ExtendAnswer, ExtendRequest, KubeconfigAnswer,
    KubeconfigRequest, MintRequest, NodeRequest, RemoveAdminRequest, ReplaceRequest,
};
use kiln_protocol::api::{
    ApprovalRequest, EnrolAnswer, EnrolRequest, GateAnswer, GateRequest, Report, SnapshotRequest,
};
use kiln_protocol::chores::{BootstrapId, Chores, ChoresRequest};
use kiln_protocol::config::NodeConfig;
use kiln_protocol::identity::TypedFingerprint;
use kiln_protocol::ratchet::{ConfigAnswer, OpenAnswer, OpenRequest};
use kiln_protocol::recovery::{PinChange, RecoverySeed};
use kiln_protocol::rotation::RotateRequest;
use kiln_protocol::seed::NodeSeed;
use kiln_protocol::tls::{self, Trust};
use kiln_protocol::{ApiError, Fingerprint, Identity, Ticket};
use rustls::pki_types::CertificateDer;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// JSON that is taken is written so that it is taken again, as the same.
pub(crate) fn json<T: DeserializeOwned + Serialize>(text: &[u8]) -> Option<T> {
    let taken: T = serde_json::from_slice(text).ok()?;
    let written = serde_json::to_vec(&taken).expect("what was taken can be written");
    let again: T = serde_json::from_slice(&written)
        .unwrap_or_else(|error| panic!("{error} in what was written: {}", String::from_utf8_lossy(&written)));
    let twice = serde_json::to_vec(&again).expect("what was taken can be written");
    assert_eq!(String::from_utf8_lossy(&written), String::from_utf8_lossy(&twice));
    Some(taken)
}

/// Text that is taken is written so that it is taken again, as the same.
fn text<T: std::str::FromStr + PartialEq + Debug>(text: &str, write: impl Fn(&T) -> String) -> Option<T> {
    let taken: T = text.parse().ok()?;
    let written = write(&taken);
    let again = written.parse::<T>().ok();
    assert!(again.as_ref() == Some(&taken), "{taken:?} was written as one that is {again:?}");
    Some(taken)
}

/// The first byte says which of so many kinds the rest is.
fn kind(data: &[u8], kinds: u8) -> Option<(u8, &[u8])> {
    let (first, rest) = data.split_first()?;
    Some((first % kinds, rest))
}

/// A ticket, as it is pasted, and the other texts that a person may type.
pub fn ticket(data: &[u8]) {
    let Ok(pasted) = std::str::from_utf8(data) else { return };
    let key = Fingerprint::of_spki(b"node");
    if let Some(ticket) = text::<Ticket>(pasted, |ticket| ticket.to_text().to_string()) {
        let proof = ticket.prove(&key);
        assert!(ticket.public_key().verifies(&proof, &ticket.pin(), &key));
        assert!(!ticket.addresses().is_empty());
    }
    if let Ok(recovery) = pasted.parse::<RecoverySeed>() {
        let change = recovery.change_pin(1, &key);
        assert!(recovery.public_key().verifies(&change, &key));
    }
    text::<Fingerprint>(pasted, ToString::to_string);
    if let Ok(typed) = pasted.parse::<TypedFingerprint>() {
        assert_eq!(typed.whole().is_some_and(|whole| typed.matches(&whole)), typed.whole().is_some());
    }
}

/// A seed document.
pub fn seed(data: &[u8]) {
    let Ok(seed) = NodeSeed::parse(data) else { return };
    let written = seed.to_text();
    let again = NodeSeed::parse(written.as_bytes()).expect("what was written is taken");
    assert!(again == seed, "the seed was written as another one");
}

/// What a node, or anybody, sends to the coordinator.
pub fn node_api(data: &[u8]) {
    let Some((kind, body)) = kind(data, 8) else { return };
    let key = Fingerprint::of_spki(b"node");
    match kind {
        0 => {
            if let Some(EnrolRequest { ticket, proof, .. }) = json(body) {
                let _ = ticket.verifies(&proof, &key, &key);
            }
        }
        1 => drop(json::<ApprovalRequest>(body)),
        2 => {
            if let Some(OpenRequest { seen: Some(stamp), .. }) = json(body) {
                assert!(!stamp.is_of(b"no key"));
            }
        }
        3 => {
            if let Some(request) = json::<RotateRequest>(body) {
                let _ = request.is_proven(&key, &key);
                assert!(request.seen.is_none_or(|stamp| !stamp.is_of(b"no key")));
            }
        }
        4 => drop(json::<GateRequest>(body)),
        5 => drop(json::<Report>(body)),
        6 => drop(json::<SnapshotRequest>(body)),
        _ => drop(json::<ChoresRequest>(body)),
    }
}

/// What an admin, or anybody with an admin's key, sends, and is answered.
pub fn admin_api(data: &[u8]) {
    let Some((kind, body)) = kind(data, 18) else { return };
    match kind {
        0 => drop(json::<MintRequest>(body)),
        1 => drop(json::<NodeRequest>(body)),
        2 => drop(json::<ConfirmRequest>(body)),
        3 => drop(json::<ApproveRequest>(body)),
        4 => drop(json::<ReplaceRequest>(body)),
        5 => drop(json::<ExtendRequest>(body)),
        6 => drop(json::<KubeconfigRequest>(body)),
        7 => drop(json::<ApplyRequest>(body)),
        8 => drop(json::<EventsRequest>(body)),
        9 => drop(json::<AddAdminRequest>(body)),
        10 => drop(json::<RemoveAdminRequest>(body)),
        11 => drop(json::<ApproveAnswer>(body)),
        12 => drop(json::<ExtendAnswer>(body)),
        13 => drop(json::<KubeconfigAnswer>(body)),
        14 => drop(json::<ApplyAnswer>(body)),
        15 => drop(json::<EventsAnswer>(body)),
        16 => drop(json::<AdminsAnswer>(body)),
        _ => drop(json::<ClusterStatus>(body)),
    }
}

/// What a coordinator, or what answers in its place, tells a node.
pub fn answers(data: &[u8]) {
    let Some((kind, body)) = kind(data, 6) else { return };
    match kind {
        0 => drop(json::<EnrolAnswer>(body)),
        1 => drop(json::<NodeConfig>(body)),
        2 => drop(json::<GateAnswer>(body)),
        3 => drop(json::<Chores>(body)),
        4 => {
            if let Some(OpenAnswer { config: Some(ConfigAnswer::Is { config, .. }), .. }) = json(body) {
                drop(json::<NodeConfig>(config.get().as_bytes()));
            }
        }
        _ => drop(json::<ApiError>(body)),
    }
}

/// A certificate that the other end shows, as DER or PEM.
pub fn certificate(data: &[u8]) {
    let shown = CertificateDer::from(data);
    let fingerprint = tls::fingerprint_of(&shown);
    let change = PinChange::find(data);
    let trust = Trust::from(Fingerprint::of_spki(b"coordinator"));
    assert!(trust.change(&shown).is_none(), "believed without a recovery key: {change:?}");
    if let Ok(fingerprint) = fingerprint {
        // What is taken for a key holds that key, whole and uncompressed.
        let holds = data.windows(91).any(|spki| Fingerprint::of_spki(spki) == fingerprint);
        assert!(holds, "a key that is not in the certificate");
    }
    let _ = tls::fingerprint_of_pem(data);
    if let Ok(pem) = std::str::from_utf8(data)
        && let Ok(identity) = Identity::from_pem(pem)
    {
        let again = Identity::from_pem(identity.to_pem().expose()).expect("a key that was written is read");
        assert_eq!(again.fingerprint(), identity.fingerprint());
    }
}

/// The tokens that join k3s, and what their hash is made of.
pub fn k3s_tokens(data: &[u8]) {
    let Ok(typed) = std::str::from_utf8(data) else { return };
    text::<BootstrapId>(typed, |id| id.as_str().to_owned());
    if let Ok(hash) = kiln_coordinator::decoders::ca_hash(typed) {
        assert!(hash.len() == 64 && hash.bytes().all(|digit| digit.is_ascii_hexdigit()));
    }
    kiln_agent::decoders::server_token(typed);
    text::<ServerUrl>(typed, ToString::to_string);
}

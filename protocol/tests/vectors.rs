//! The test vectors of `docs/protocol.md`, which other implementations are
//! made after.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is how a test fails")]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kiln_protocol::Fingerprint;
use kiln_protocol::ticket::{Address, Proof, Ticket, TicketFormatError, TicketKey, TicketSeed};
use serde::Deserialize;

const VECTORS: &str = include_str!("../../docs/protocol-vectors.json");

#[derive(Deserialize)]
struct Vectors {
    fingerprints: Vec<Key>,
    tickets: Vec<Given>,
    not_tickets: Vec<NotTicket>,
}

#[derive(Deserialize)]
struct Key {
    name: String,
    spki: String,
    fingerprint: Fingerprint,
}

#[derive(Deserialize)]
struct Given {
    name: String,
    addresses: Vec<Address>,
    pin: Fingerprint,
    seed: String,
    node: Fingerprint,
    text: String,
    public: TicketKey,
    proof: Proof,
}

#[derive(Deserialize)]
struct NotTicket {
    text: String,
    why: String,
}

fn vectors() -> Vectors {
    serde_json::from_str(VECTORS).unwrap()
}

fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

#[test]
fn fingerprints_are_those_of_the_vectors() {
    for Key { name, spki, fingerprint } in vectors().fingerprints {
        let spki = unhex(&spki);
        assert_eq!(spki.len(), 91, "{name}");
        assert_eq!(Fingerprint::of_spki(&spki), fingerprint, "{name}");
    }
}

#[test]
fn tickets_keys_and_proofs_are_those_of_the_vectors() {
    let given = vectors().tickets;
    assert!(given.len() >= 3);
    for Given { name, addresses, pin, seed, node, text, public, proof } in given {
        let seed = TicketSeed::try_from(URL_SAFE_NO_PAD.encode(unhex(&seed))).unwrap();
        let ticket = Ticket::new(addresses, pin, seed).unwrap();
        assert_eq!(*ticket.to_text(), text, "{name}");
        assert_eq!(text.parse::<Ticket>().unwrap(), ticket, "{name}");
        assert_eq!(ticket.public_key(), public, "{name}");
        // Ed25519 signatures are deterministic.
        assert_eq!(ticket.prove(&node), proof, "{name}");
        assert!(public.verifies(&proof, &pin, &node), "{name}");
    }
}

#[test]
fn what_is_no_ticket_is_refused_for_the_reason_in_the_vectors() {
    let wrong = vectors().not_tickets;
    assert!(wrong.len() >= 10);
    for NotTicket { text, why } in wrong {
        let expected = match why.as_str() {
            "prefix" => TicketFormatError::Prefix,
            "version" => TicketFormatError::Version,
            "character" => TicketFormatError::Character,
            "truncated" => TicketFormatError::Truncated,
            "trailing" => TicketFormatError::Trailing,
            "checksum" => TicketFormatError::Checksum,
            "address" => TicketFormatError::Address,
            "flags" => TicketFormatError::Flags,
            other => panic!("no such reason: {other}"),
        };
        assert_eq!(text.parse::<Ticket>(), Err(expected), "{text}");
    }
}

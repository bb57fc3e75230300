use super::*;
use proptest::prelude::*;

fn pin() -> Fingerprint {
    Fingerprint::of_spki(b"a coordinator")
}

fn ticket(addresses: &[&str]) -> Ticket {
    let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
    Ticket::new(addresses, pin(), TicketSeed([7; 32])).unwrap()
}

#[test]
fn a_ticket_is_about_a_hundred_safe_characters() {
    let text = ticket(&["10.0.2.2:7443"]).to_text();
    assert!(text.len() < 120, "{} characters", text.len());
    assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)), "{}", *text);
}

#[test]
fn every_kind_of_address_survives() {
    let before = ticket(&["10.0.2.2:7443", "[fd00::1]:1", "coordinator.home.arpa:65535"]);
    let after: Ticket = before.to_text().parse().unwrap();
    assert_eq!(before, after);
    assert_eq!(after.addresses()[1].to_string(), "[fd00::1]:1");
}

#[test]
fn space_and_line_ends_around_it_are_forgiven() {
    let ticket = ticket(&["10.0.2.2:7443"]);
    let text = format!(" \t{}\r\n", *ticket.to_text());
    assert_eq!(text.parse::<Ticket>(), Ok(ticket));
}

#[test]
fn every_truncation_is_a_format_error() {
    let text = ticket(&["10.0.2.2:7443", "coordinator.home.arpa:443"]).to_text();
    for end in 0..text.len() {
        assert!(text[..end].parse::<Ticket>().is_err(), "taken with {end} characters");
    }
    assert_eq!(text[..text.len() - 8].parse::<Ticket>(), Err(TicketFormatError::Truncated));
}

#[test]
fn two_pasted_together_are_named_as_such() {
    let text = ticket(&["10.0.2.2:7443"]).to_text();
    let two = format!("{}{}", *text, *text);
    assert_eq!(two.parse::<Ticket>(), Err(TicketFormatError::Trailing));
    assert_eq!(format!("{} {}", *text, *text).parse::<Ticket>(), Err(TicketFormatError::Trailing));
}

#[test]
fn the_wrong_case_is_a_format_error() {
    let text = ticket(&["10.0.2.2:7443"]).to_text();
    assert_eq!(text.to_uppercase().parse::<Ticket>(), Err(TicketFormatError::Prefix));
    assert!(text.to_lowercase().parse::<Ticket>().is_err());
}

#[test]
fn other_texts_say_what_they_are() {
    assert_eq!("".parse::<Ticket>(), Err(TicketFormatError::Prefix));
    assert_eq!("hello".parse::<Ticket>(), Err(TicketFormatError::Prefix));
    assert_eq!("kiln2.AAAA".parse::<Ticket>(), Err(TicketFormatError::Version));
    assert_eq!("kiln1.A A".parse::<Ticket>(), Err(TicketFormatError::Character));
    assert_eq!("kiln1.".parse::<Ticket>(), Err(TicketFormatError::Truncated));
}

#[test]
fn a_proof_holds_for_one_key_and_one_coordinator() {
    let ticket = ticket(&["10.0.2.2:7443"]);
    let (node, other) = (Fingerprint::of_spki(b"node"), Fingerprint::of_spki(b"other"));
    let proof = ticket.prove(&node);
    let key = ticket.public_key();
    assert!(key.verifies(&proof, &pin(), &node));
    assert!(!key.verifies(&proof, &pin(), &other));
    assert!(!key.verifies(&proof, &other, &node));
    assert!(!TicketSeed([8; 32]).public_key().verifies(&proof, &pin(), &node));
}

#[test]
fn nothing_prints_the_seed() {
    let ticket = ticket(&["10.0.2.2:7443"]);
    let seed = String::from(ticket.seed.clone());
    assert!(!format!("{ticket:?}").contains(&seed));
}

/// The derivation is a promise to other implementations. The vector was made
/// with Python's hmac and OpenSSL's Ed25519.
#[test]
fn key_derivation_vector() {
    assert_eq!(TicketSeed([7; 32]).public_key().to_string(), "2y0F6AflHjZp2sT31hyHLiPKtW-qeH0OD3raDriYJig");
}

proptest! {
    #[test]
    fn any_text_is_decoded_without_panic(text in "\\PC{0,300}") {
        let _ = text.parse::<Ticket>();
        let _ = format!("kiln1.{text}").parse::<Ticket>();
    }

    #[test]
    fn any_bytes_are_decoded_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = format!("kiln1.{}", URL_SAFE_NO_PAD.encode(bytes)).parse::<Ticket>();
    }

    #[test]
    fn a_flipped_character_is_noticed(at in 0usize..400, with in "[A-Za-z0-9_-]") {
        let text = ticket(&["10.0.2.2:7443"]).to_text();
        let at = PREFIX.len() + at % (text.len() - PREFIX.len());
        let flipped = format!("{}{with}{}", &text[..at], &text[at + 1..]);
        prop_assume!(flipped != *text);
        prop_assert!(flipped.parse::<Ticket>().is_err());
    }
}

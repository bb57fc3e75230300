//! What GnuPG signed, in the form AlmaLinux publishes it in; the key and the
//! signatures in `fixtures/` were made with GnuPG 2.2 for these tests.

use super::*;
use crate::inputs::checksums::Checksums;

const KEY: &str = include_str!("fixtures/key.asc");
const LIST: &str = include_str!("fixtures/CHECKSUM");
const CLEARTEXT_SIGNED: &str = include_str!("fixtures/CHECKSUM.cleartext");
const DETACHED: &str = include_str!("fixtures/CHECKSUM.asc");
const SIGNED_WITH_SHA1: &str = include_str!("fixtures/CHECKSUM.sha1");

fn key() -> Key {
    Key::read(KEY.as_bytes()).unwrap()
}

#[test]
fn almalinux_9_s_key_is_the_one_with_the_published_fingerprint() {
    // The fingerprint AlmaLinux's wiki prints where it tells how to verify an image.
    let key = Key::almalinux(9).unwrap();
    assert_eq!(key.fingerprint(), "BF18AC2876178908D6E71267D36CB86CB86B3716");
    assert!(Key::almalinux(8).is_none());
}

#[test]
fn what_gnupg_signed_is_opened() {
    let key = key();
    assert_eq!(key.fingerprint(), "6D94E1AD27BADACC4F4DE4A8AE8B7F517EA48863");
    let text = key.open(CLEARTEXT_SIGNED).unwrap();
    let sums = Checksums::parse(&text).unwrap();
    assert_eq!(sums, Checksums::parse(LIST).unwrap());
    assert!(sums.get("AlmaLinux-9-latest-x86_64-dvd.iso").is_some());
    // With the line ends of another system it is the same text.
    assert!(key.open(&CLEARTEXT_SIGNED.replace('\n', "\r\n")).is_ok());
}

#[test]
fn what_gnupg_signed_beside_the_text_is_checked() {
    key().check_detached(LIST.as_bytes(), DETACHED).unwrap();
    let changed = LIST.replace("952f", "952e");
    let error = key().check_detached(changed.as_bytes(), DETACHED).unwrap_err();
    assert!(matches!(error, NotSigned::Untrusted(_)), "{error}");
}

#[test]
fn a_changed_list_is_refused() {
    let error = key().open(&CLEARTEXT_SIGNED.replace("952f", "952e")).unwrap_err();
    assert_eq!(error, NotSigned::Untrusted(key().fingerprint()));
}

#[test]
fn another_key_vouches_for_nothing() {
    let almalinux = Key::almalinux(9).unwrap();
    assert_eq!(almalinux.open(CLEARTEXT_SIGNED), Err(NotSigned::Untrusted(almalinux.fingerprint())));
    assert!(almalinux.check_detached(LIST.as_bytes(), DETACHED).is_err());
}

#[test]
fn a_weak_hash_vouches_for_nothing() {
    assert_eq!(key().open(SIGNED_WITH_SHA1), Err(NotSigned::Untrusted(key().fingerprint())));
}

#[test]
fn text_around_the_signed_block_is_not_part_of_it() {
    let planted = "SHA256 (planted.iso) = 0000000000000000000000000000000000000000000000000000000000000000\n";
    for message in [format!("{planted}{CLEARTEXT_SIGNED}"), format!("{CLEARTEXT_SIGNED}{planted}")] {
        if let Ok(text) = key().open(&message) {
            assert!(!text.contains("planted"), "{text}");
        }
    }
}

#[test]
fn what_is_no_signature_says_so() {
    for text in ["", "<html>404</html>", LIST, CLEARTEXT_SIGNED.split_at(500).0] {
        assert!(matches!(key().open(text), Err(NotSigned::Unreadable(_))), "{text:?}");
    }
    assert!(matches!(key().check_detached(b"", "garbage"), Err(NotSigned::Unreadable(_))));
    assert!(is_cleartext_signed(CLEARTEXT_SIGNED) && !is_cleartext_signed(LIST));
}

#[test]
fn a_damaged_key_is_no_key() {
    let mut damaged = KEY.to_owned();
    let middle = damaged.len() / 2;
    let other = if damaged.as_bytes()[middle] == b'A' { "B" } else { "A" };
    damaged.replace_range(middle..=middle, other);
    for text in ["", "no key", damaged.as_str()] {
        assert!(Key::read(text.as_bytes()).is_err(), "{text:?}");
    }
}

//! Replacing a node's key: asked over a connection of the old one, with a
//! proof that the asker has the new one.
//!
//! Nothing is lost at whatever point either side stops: the new key is on the
//! node's disk before it is named, and a node that got no answer asks again
//! with the *same* new key and the *same* [`Turn`], and with nothing else, until
//! it gets one. Asked twice, the coordinator answers twice; any other use of the
//! old key is a second machine's and costs the node its trust.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::identity::{Fingerprint, Identity, Signature, verify_p256};
use crate::ratchet::{Stamp, Turn};

/// `POST`: [`RotateRequest`], answered with 204. It opens its connection itself.
pub const ROTATE: &str = "/v1/rotate";

const LABEL: &[u8] = b"kiln/1 rotate\0";

/// A text is not a P-256 `SubjectPublicKeyInfo`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a new key is a P-256 SubjectPublicKeyInfo of 91 bytes, uncompressed, in base64url")]
pub struct InvalidSpki;

/// A P-256 public key: its `SubjectPublicKeyInfo`, 91 bytes of DER.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Spki(Vec<u8>);

impl Spki {
    /// What others know the key by.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of_spki(&self.0)
    }
}

impl TryFrom<String> for Spki {
    type Error = InvalidSpki;
    fn try_from(text: String) -> Result<Self, InvalidSpki> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidSpki)?;
        if crate::tls::is_p256_spki(&bytes) { Ok(Self(bytes)) } else { Err(InvalidSpki) }
    }
}

impl From<Spki> for String {
    fn from(spki: Spki) -> Self {
        URL_SAFE_NO_PAD.encode(spki.0)
    }
}

/// Asks that `key` be this node's from now on, instead of the connection's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotateRequest {
    /// The new key.
    pub key: Spki,
    /// ECDSA P-256 with SHA-256 by the new key over `"kiln/1 rotate\0" ||
    /// coordinator pin || SHA-256(SPKI of the old key) || SHA-256(SPKI of the
    /// new key)`: it cannot be used for another node, key or coordinator.
    pub proof: Signature,
    /// The ratchet, as in [`crate::ratchet::OpenRequest`].
    #[serde(flatten)]
    pub turn: Turn,
    /// The newest stamp this node was ever given, as there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Stamp>,
}

impl RotateRequest {
    /// Asks the coordinator `pin` to take `new` for `old`.
    pub fn new(
        pin: &Fingerprint,
        old: &Fingerprint,
        new: &Identity,
        turn: Turn,
        seen: Option<Stamp>,
    ) -> Self {
        let proof = new.sign(&message(pin, old, &new.fingerprint()));
        Self { key: Spki(new.spki()), proof, turn, seen }
    }

    /// Whether the asker has the new key, and means this coordinator and `old`.
    pub fn is_proven(&self, pin: &Fingerprint, old: &Fingerprint) -> bool {
        verify_p256(&self.key.0, &message(pin, old, &self.key.fingerprint()), &self.proof)
    }
}

fn message(pin: &Fingerprint, old: &Fingerprint, new: &Fingerprint) -> Vec<u8> {
    [LABEL, pin.as_bytes(), old.as_bytes(), new.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ratchet::{Notch, Reach};

    #[test]
    fn a_proof_is_good_for_one_coordinator_one_old_and_one_new_key() {
        let (old, new, other) =
            (Identity::generate().unwrap(), Identity::generate().unwrap(), Identity::generate().unwrap());
        let pin = Fingerprint::of_spki(b"coordinator");
        let turn = Turn { cur: Notch::random(), next: Notch::random() };
        let request = RotateRequest::new(&pin, &old.fingerprint(), &new, turn, None);
        assert!(request.is_proven(&pin, &old.fingerprint()));
        assert!(!request.is_proven(&pin, &other.fingerprint()));
        assert!(!request.is_proven(&other.fingerprint(), &old.fingerprint()));
        let swapped = RotateRequest { key: Spki(other.spki()), ..request.clone() };
        assert!(!swapped.is_proven(&pin, &old.fingerprint()));
        // With a stamp, and without one, as an older agent asks.
        let seen = Some(Stamp::sign(Reach { epoch: 1, seq: 7 }, &other));
        for request in [RotateRequest { seen, ..request.clone() }, request] {
            let text = serde_json::to_string(&request).unwrap();
            assert_eq!(text.contains("seen"), request.seen.is_some());
            assert_eq!(serde_json::from_str::<RotateRequest>(&text).unwrap(), request);
        }
    }

    #[test]
    fn only_uncompressed_p256_keys_are_taken() {
        let good = String::from(Spki(Identity::generate().unwrap().spki()));
        assert!(Spki::try_from(good.clone()).is_ok());
        let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let ed25519 = rcgen::PublicKeyData::subject_public_key_info(&ed25519);
        for wrong in [String::new(), good[1..].to_owned(), URL_SAFE_NO_PAD.encode(ed25519)] {
            assert!(Spki::try_from(wrong).is_err());
        }
    }
}

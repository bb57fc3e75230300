//! The recovery key: alone able to change the coordinator's pin.
//!
//! It is made by `coordinator init`, printed once and kept offline; nodes pin
//! its public half when they enrol. A coordinator whose key was replaced shows
//! a [`PinChange`] *inside its certificate*, in an extension, so that a node
//! knows whether to go on before it has sent anything: not its key, not a
//! request. An impostor learns nothing, and a statement that he copies is of no
//! use without the private half of the key it names.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SecureRandom as _;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::identity::{Fingerprint, Signature};

const PREFIX: &str = "kiln-recovery1.";
const CHECKSUM: usize = 4;
const LABEL: &[u8] = b"kiln/1 pin\0";

/// Arcs of the extension's OID, below 2.25 (numbers that nobody assigns).
pub(crate) const OID: [u64; 3] = [2, 25, 6_243_287_710_947_238_461];
/// Its DER, the tag and length of the octet string behind it included.
const MARK: [u8; 14] = [0x06, 0x0a, 0x69, 0xd6, 0xd2, 0xa7, 0xa3, 0x84, 0x8c, 0xc9, 0xc4, 0x3d, 0x04, 0x48];

/// A text is not a recovery key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRecoveryKey {
    /// Of the private half, as `init` printed it.
    #[error("not a recovery key: it begins with \"kiln-recovery1.\" and was printed by coordinator init")]
    Private,
    /// Its checksum is wrong.
    #[error("the recovery key is mistyped or truncated")]
    Mistyped,
    /// Of the public half.
    #[error("a public recovery key is 32 bytes in base64url")]
    Public,
}

/// The private half.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct RecoverySeed([u8; 32]);

impl RecoverySeed {
    /// Makes a new one from the system's randomness.
    pub fn generate() -> Self {
        let mut seed = Self([0; 32]);
        ring::rand::SystemRandom::new().fill(&mut seed.0).expect("the system has randomness");
        seed
    }

    /// The public half.
    pub fn public_key(&self) -> RecoveryKey {
        RecoveryKey(self.pair().public_key().as_ref().try_into().expect("an Ed25519 key has 32 bytes"))
    }

    /// What `init` prints.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(self.0.to_vec());
        bytes.extend(checksum(&self.0));
        let encoded = Zeroizing::new(URL_SAFE_NO_PAD.encode(&*bytes));
        Zeroizing::new(format!("{PREFIX}{}", *encoded))
    }

    /// States that the coordinator's key is `pin` from now on. `serial` must
    /// be greater than that of any statement before.
    pub fn change_pin(&self, serial: u64, pin: &Fingerprint) -> PinChange {
        let signature = self.pair().sign(&message(serial, pin));
        PinChange {
            serial,
            signature: Signature::ed25519(
                signature.as_ref().try_into().expect("an Ed25519 signature has 64 bytes"),
            ),
        }
    }

    fn pair(&self) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&self.0).expect("any 32 bytes are a seed")
    }
}

impl fmt::Debug for RecoverySeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoverySeed(…)")
    }
}

impl FromStr for RecoverySeed {
    type Err = InvalidRecoveryKey;
    fn from_str(text: &str) -> Result<Self, InvalidRecoveryKey> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(InvalidRecoveryKey::Private)?;
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map(Zeroizing::new);
        let bytes = bytes.map_err(|_| InvalidRecoveryKey::Mistyped)?;
        let (seed, sum) = bytes.split_at_checked(32).ok_or(InvalidRecoveryKey::Mistyped)?;
        if sum != checksum(seed) {
            return Err(InvalidRecoveryKey::Mistyped);
        }
        Ok(Self(seed.try_into().map_err(|_| InvalidRecoveryKey::Mistyped)?))
    }
}

fn checksum(seed: &[u8]) -> [u8; CHECKSUM] {
    let digest = Sha256::new().chain_update(PREFIX).chain_update(seed).finalize();
    [digest[0], digest[1], digest[2], digest[3]]
}

/// The public half.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RecoveryKey([u8; 32]);

impl RecoveryKey {
    /// Whether this key's holder stated that the coordinator's key is `pin`.
    pub fn verifies(&self, change: &PinChange, pin: &Fingerprint) -> bool {
        let message = message(change.serial, pin);
        UnparsedPublicKey::new(&ED25519, self.0).verify(&message, change.signature.as_bytes()).is_ok()
    }
}

impl fmt::Display for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecoveryKey({self})")
    }
}

impl TryFrom<String> for RecoveryKey {
    type Error = InvalidRecoveryKey;
    fn try_from(text: String) -> Result<Self, InvalidRecoveryKey> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidRecoveryKey::Public)?;
        bytes.try_into().map(Self).map_err(|_| InvalidRecoveryKey::Public)
    }
}

impl From<RecoveryKey> for String {
    fn from(key: RecoveryKey) -> Self {
        key.to_string()
    }
}

/// The recovery key's word that the coordinator has another key: which one is
/// the key of the certificate that carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinChange {
    /// Grows with each change: an older statement takes no node back.
    pub serial: u64,
    /// Ed25519 by the recovery key over `"kiln/1 pin\0" || serial as 8 bytes,
    /// big-endian || SHA-256(SPKI of the new key)`.
    pub signature: Signature,
}

impl PinChange {
    /// The extension's content: the serial, 8 bytes, and the signature, 64.
    pub(crate) fn content(&self) -> Vec<u8> {
        [&self.serial.to_be_bytes(), self.signature.as_bytes()].concat()
    }

    /// The statement in a certificate, if there is one. Where it stands does
    /// not matter: it is good only if its signature is.
    pub fn find(certificate: &[u8]) -> Option<Self> {
        let at = certificate.windows(MARK.len()).position(|window| window == MARK)? + MARK.len();
        let content = certificate.get(at..at + 72)?;
        let (serial, signature) = content.split_first_chunk::<8>()?;
        let signature = Signature::ed25519(signature.first_chunk()?);
        Some(Self { serial: u64::from_be_bytes(*serial), signature })
    }
}

fn message(serial: u64, pin: &Fingerprint) -> Vec<u8> {
    [LABEL, &serial.to_be_bytes(), pin.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;

    #[test]
    fn the_printed_key_is_read_back_and_mistyped_ones_are_named() {
        let seed = RecoverySeed::generate();
        let text = seed.to_text();
        assert_eq!(format!(" {}\n", *text).parse::<RecoverySeed>().unwrap(), seed);
        assert_eq!("kiln1.AAAA".parse::<RecoverySeed>().unwrap_err(), InvalidRecoveryKey::Private);
        assert_eq!(text[..50].parse::<RecoverySeed>().unwrap_err(), InvalidRecoveryKey::Mistyped);
        let mut typo = text.to_string().into_bytes();
        typo[20] = if typo[20] == b'A' { b'B' } else { b'A' };
        let typo = String::from_utf8(typo).unwrap();
        assert_eq!(typo.parse::<RecoverySeed>().unwrap_err(), InvalidRecoveryKey::Mistyped);
        assert!(!format!("{seed:?}").contains(&text[15..20]));
    }

    #[test]
    fn a_statement_travels_in_a_certificate_and_is_good_for_its_key_alone() {
        let (seed, new, other) =
            (RecoverySeed::generate(), Identity::generate().unwrap(), Identity::generate().unwrap());
        let change = seed.change_pin(7, &new.fingerprint());
        let shown = new.certificate_with(&change).unwrap();
        assert!(shown.len() < crate::tls::MAX_CERTIFICATE / 2);
        assert_eq!(crate::tls::fingerprint_of(&shown).unwrap(), new.fingerprint());
        assert_eq!(PinChange::find(&shown), Some(change));
        assert_eq!(PinChange::find(&new.certificate()), None);
        assert!(seed.public_key().verifies(&change, &new.fingerprint()));
        assert!(!seed.public_key().verifies(&change, &other.fingerprint()));
        assert!(!seed.public_key().verifies(&PinChange { serial: 8, ..change }, &new.fingerprint()));
        assert!(!RecoverySeed::generate().public_key().verifies(&change, &new.fingerprint()));
    }

    #[test]
    fn a_cut_certificate_holds_no_statement() {
        let new = Identity::generate().unwrap();
        let change = RecoverySeed::generate().change_pin(1, &new.fingerprint());
        let shown = new.certificate_with(&change).unwrap();
        for cut in 0..shown.len() {
            if let Some(found) = PinChange::find(&shown[..cut]) {
                assert_eq!(found, change);
            }
        }
    }
}

//! The clone ratchet and the coordinator's stamp: how a node's key that is in
//! two machines, and a coordinator that was rolled back, are noticed.
//!
//! A bound node opens every connection with `POST` [`OPEN`] before it asks for
//! anything else. It sends `{cur, next}`: `next` is random and on its disk
//! before it is sent. The coordinator holds one notch for each node:
//!
//! | what comes | what it means | what happens |
//! |---|---|---|
//! | `cur` is the notch held | the one machine goes on | `next` is held from now on |
//! | the very pair that came last | its answer was lost | the same answer |
//! | anything, and none is held | first contact, or an operator's release | `next` is held |
//! | anything else | a clone, or a snapshot rolled back | HELD, and an alarm |
//!
//! A machine forgets `cur` only when its pair was answered, so lost answers
//! change nothing; two machines with one key have one notch between them and
//! part at the next opening.
//!
//! The answer carries the coordinator's signed [`Stamp`]. Nodes keep the newest
//! and show it when they open; a coordinator that is shown one with its own
//! signature that its state never gave runs on an old copy of its state, or
//! another copy of it was served.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SecureRandom as _;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::ApiError;
use crate::identity::{Identity, Signature, verify_p256};

/// `POST`: [`OpenRequest`] to [`OpenAnswer`]. The first request on every
/// connection of a bound node; without it the others are answered with 428.
pub const OPEN: &str = "/v1/open";

const STAMP_LABEL: &[u8] = b"kiln/1 stamp\0";

/// A text is not a notch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a notch is 16 bytes in base64url")]
pub struct InvalidNotch;

/// One position of a ratchet: 16 random bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Notch([u8; 16]);

impl Notch {
    /// A new one from the system's randomness.
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        ring::rand::SystemRandom::new().fill(&mut bytes).expect("the system has randomness");
        Self(bytes)
    }

    /// From its bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Notch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Notch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Notch({self})")
    }
}

impl TryFrom<String> for Notch {
    type Error = InvalidNotch;
    fn try_from(text: String) -> Result<Self, InvalidNotch> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidNotch)?;
        bytes.try_into().map(Self).map_err(|_| InvalidNotch)
    }
}

impl From<Notch> for String {
    fn from(notch: Notch) -> Self {
        notch.to_string()
    }
}

/// Where a node's ratchet is, and where it goes with this connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// The notch the coordinator was last known to hold.
    pub cur: Notch,
    /// The one it is to hold from now on: on the node's disk before it is sent.
    pub next: Notch,
}

/// Opens a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRequest {
    /// The ratchet.
    #[serde(flatten)]
    pub turn: Turn,
    /// The newest stamp this node was ever given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Stamp>,
    /// Asks for the node's configuration in the same breath.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigAsked>,
}

impl OpenRequest {
    /// Opens, and asks for nothing else.
    pub fn new(turn: Turn, seen: Option<Stamp>) -> Self {
        Self { turn, seen, config: None }
    }
}

/// A node's configuration is asked for with the opening.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigAsked {
    /// The tag of the one that the node has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<String>,
}

/// The connection is open and `next` is held.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OpenAnswer {
    /// How far the coordinator's state is.
    pub stamp: Stamp,
    /// An operator wants this node's key replaced: see [`crate::rotation`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rotate: bool,
    /// What was asked for with the opening.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigAnswer>,
}

/// What becomes of a configuration that was asked for with an opening. The
/// opening stands, whatever it is.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConfigAnswer {
    /// The one whose tag was shown.
    Unchanged,
    /// Another one.
    Is {
        /// To be shown the next time.
        tag: String,
        /// The document, as it is answered where it is asked for alone: whoever
        /// cannot read it has opened the connection all the same.
        config: Box<RawValue>,
    },
    /// There is none for this node now.
    Refused(ApiError),
}

impl fmt::Debug for ConfigAnswer {
    /// Without the document, which is full of secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unchanged => f.write_str("Unchanged"),
            Self::Is { tag, .. } => f.debug_struct("Is").field("tag", tag).finish_non_exhaustive(),
            Self::Refused(error) => f.debug_tuple("Refused").field(error).finish(),
        }
    }
}

/// How far a coordinator's state is: `seq` grows with what nodes are promised,
/// `epoch` with every restored backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Reach {
    /// How often the state was restored, counted from 1.
    pub epoch: u64,
    /// Grows within an epoch, and jumps at each start of a coordinator.
    pub seq: u64,
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {}, seq {}", self.epoch, self.seq)
    }
}

/// A [`Reach`] with the coordinator's signature, so that no node can make a
/// coordinator believe in a future that never was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// How far.
    #[serde(flatten)]
    pub reach: Reach,
    /// ECDSA P-256 with SHA-256 by the coordinator's key over
    /// `"kiln/1 stamp\0" || epoch || seq`, both as 8 bytes, big-endian.
    pub signature: Signature,
}

impl Stamp {
    /// Signs.
    pub fn sign(reach: Reach, coordinator: &Identity) -> Self {
        Self { reach, signature: coordinator.sign(&message(reach)) }
    }

    /// Whether the coordinator with this `SubjectPublicKeyInfo` signed it.
    pub fn is_of(&self, spki: &[u8]) -> bool {
        verify_p256(spki, &message(self.reach), &self.signature)
    }
}

fn message(reach: Reach) -> Vec<u8> {
    [STAMP_LABEL, &reach.epoch.to_be_bytes(), &reach.seq.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_of_an_opening_is_stable() {
        let turn = Turn { cur: Notch([0; 16]), next: Notch([255; 16]) };
        let text = serde_json::to_string(&OpenRequest::new(turn, None)).unwrap();
        assert_eq!(text, r#"{"cur":"AAAAAAAAAAAAAAAAAAAAAA","next":"_____________________w"}"#);
        assert_eq!(serde_json::from_str::<OpenRequest>(&text).unwrap().turn, turn);
        for wrong in [r#"{"cur":"AA","next":"AA"}"#, r#"{"cur":"AAAAAAAAAAAAAAAAAAAAAA"}"#, "{}"] {
            assert!(serde_json::from_str::<OpenRequest>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_configuration_comes_with_the_opening_as_it_is_alone() {
        let turn = Turn { cur: Notch([0; 16]), next: Notch([255; 16]) };
        let asked = ConfigAsked { seen: Some("\"t\"".to_owned()) };
        let text =
            serde_json::to_string(&OpenRequest { config: Some(asked), ..OpenRequest::new(turn, None) });
        assert!(text.unwrap().ends_with(r#","config":{"seen":"\"t\""}}"#));
        let stamp = Stamp::sign(Reach { epoch: 1, seq: 7 }, &Identity::generate().unwrap());
        let config = RawValue::from_string(r#"{"token": "hunter2", "new": [1]}"#.to_owned()).unwrap();
        let is = ConfigAnswer::Is { tag: "\"t\"".to_owned(), config };
        assert!(!format!("{is:?}").contains("hunter2"));
        let answer = OpenAnswer { stamp, rotate: false, config: Some(is) };
        let text = serde_json::to_string(&answer).unwrap();
        assert!(
            text.ends_with(r#""config":{"is":{"tag":"\"t\"","config":{"token": "hunter2", "new": [1]}}}}"#)
        );
        match serde_json::from_str::<OpenAnswer>(&text).unwrap().config.unwrap() {
            ConfigAnswer::Is { config, .. } => {
                assert_eq!(config.get(), r#"{"token": "hunter2", "new": [1]}"#);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(serde_json::to_string(&ConfigAnswer::Unchanged).unwrap(), r#""unchanged""#);
    }

    #[test]
    fn a_stamp_is_good_only_as_it_was_signed_and_only_of_its_coordinator() {
        let (coordinator, other) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let stamp = Stamp::sign(Reach { epoch: 1, seq: 7 }, &coordinator);
        assert!(stamp.is_of(&coordinator.spki()));
        assert!(!stamp.is_of(&other.spki()));
        let forged = Stamp { reach: Reach { epoch: 2, seq: 0 }, ..stamp };
        assert!(!forged.is_of(&coordinator.spki()));
        let text = serde_json::to_string(&stamp).unwrap();
        assert_eq!(serde_json::from_str::<Stamp>(&text).unwrap(), stamp);
    }

    #[test]
    fn a_later_epoch_outweighs_any_seq() {
        assert!(Reach { epoch: 2, seq: 0 } > Reach { epoch: 1, seq: 99 });
        assert!(Reach { epoch: 2, seq: 1 } > Reach { epoch: 2, seq: 0 });
    }
}

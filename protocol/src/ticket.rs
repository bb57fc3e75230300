//! The ticket: what a caller hands to one machine so that its key is taken
//! for one node's.
//!
//! Text form: `kiln1.` and base64url (no padding) of
//!
//! ```text
//! flags: u8 | n: u8 | n × address | coordinator pin: 32 | seed: 32 | checksum: 4
//! address:  4 | 4 bytes  | port: u16        (IPv4)
//!           6 | 16 bytes | port: u16        (IPv6)
//!           1 | len: u8 | len bytes | port  (DNS name)
//! ```
//!
//! Numbers are big-endian; the checksum is the beginning of SHA-256 over
//! everything before it, the prefix included. Only `A-Za-z0-9_-.` occur, so a
//! ticket is safe in SMBIOS fields, URLs, shells and QR codes.
//!
//! The seed never leaves the caller and the node: the coordinator is told only
//! the Ed25519 public key derived from it. The ticket key signs proofs and is
//! never a TLS key.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hkdf;
use ring::rand::SecureRandom as _;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::identity::Fingerprint;
use crate::names::SubjectAltName;

const PREFIX: &str = "kiln1.";
const CHECKSUM: usize = 4;
const KEY_LABEL: &[u8] = b"kiln/1 ticket key";
const PROOF_LABEL: &[u8] = b"kiln/1 enrol\0";
/// More addresses than this do not fit where tickets travel.
pub const MAX_ADDRESSES: usize = 8;
/// Longer text is refused before it is decoded.
const MAX_TEXT: usize = 1024;

/// Why a text is not a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TicketFormatError {
    /// The prefix is missing.
    #[error("not a ticket: it does not begin with \"kiln1.\"")]
    Prefix,
    /// Another version's prefix.
    #[error(
        "a ticket of another version of Kiln: update the agent in the image, or mint with a matching builder"
    )]
    Version,
    /// A character that no ticket has.
    #[error("the ticket has a character that does not belong in one: was something pasted with it?")]
    Character,
    /// It ends too early.
    #[error("the ticket is truncated")]
    Truncated,
    /// It goes on after its end.
    #[error("the ticket has something after its end: were two pasted together?")]
    Trailing,
    /// The checksum disagrees.
    #[error("the ticket is mistyped: its checksum does not match")]
    Checksum,
    /// An address cannot be read, or there is none, or there are too many.
    #[error("the ticket's coordinator address is not valid")]
    Address,
    /// Flags that this version does not know.
    #[error("the ticket asks for something this version of Kiln does not know")]
    Flags,
}

/// Where a coordinator listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    host: SubjectAltName,
    port: u16,
}

impl Address {
    /// A host name or IP address and a port.
    pub fn new(host: SubjectAltName, port: u16) -> Self {
        Self { host, port }
    }

    /// The host's name or address.
    pub fn host(&self) -> &str {
        self.host.as_str()
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host().contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Address {
    type Err = TicketFormatError;
    fn from_str(text: &str) -> Result<Self, TicketFormatError> {
        let (host, port) = text.rsplit_once(':').ok_or(TicketFormatError::Address)?;
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']').ok_or(TicketFormatError::Address)?,
            None if host.contains(':') => return Err(TicketFormatError::Address),
            None => host,
        };
        let port = port.parse().ok().filter(|port| *port != 0).ok_or(TicketFormatError::Address)?;
        let host = host.parse().map_err(|_| TicketFormatError::Address)?;
        Ok(Self { host, port })
    }
}

impl TryFrom<String> for Address {
    type Error = TicketFormatError;
    fn try_from(text: String) -> Result<Self, TicketFormatError> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

/// The secret of a ticket: 32 random bytes, journalled (0600) by whoever
/// creates the node, before anything else is done with it.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TicketSeed([u8; 32]);

impl TicketSeed {
    /// From the system's randomness.
    pub fn generate() -> Self {
        let mut bytes = [0; 32];
        ring::rand::SystemRandom::new().fill(&mut bytes).expect("the system gives random bytes");
        Self(bytes)
    }

    /// The public half of the ticket's key: all that a coordinator learns.
    pub fn public_key(&self) -> TicketKey {
        let public = self.signing_key().public_key().as_ref().try_into();
        TicketKey(public.expect("an Ed25519 public key has 32 bytes"))
    }

    fn signing_key(&self) -> Ed25519KeyPair {
        struct Len;
        impl hkdf::KeyType for Len {
            fn len(&self) -> usize {
                32
            }
        }
        let mut key = Zeroizing::new([0; 32]);
        hkdf::Salt::new(hkdf::HKDF_SHA256, &[])
            .extract(&self.0)
            .expand(&[KEY_LABEL], Len)
            .and_then(|okm| okm.fill(&mut *key))
            .expect("32 bytes are within HKDF's limit");
        Ed25519KeyPair::from_seed_unchecked(&*key).expect("every 32 bytes are an Ed25519 seed")
    }
}

impl fmt::Debug for TicketSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketSeed(…)")
    }
}

impl TryFrom<String> for TicketSeed {
    type Error = TicketFormatError;
    fn try_from(text: String) -> Result<Self, TicketFormatError> {
        let text = Zeroizing::new(text);
        decode_32(&text).map(Self)
    }
}

impl From<TicketSeed> for String {
    fn from(seed: TicketSeed) -> Self {
        URL_SAFE_NO_PAD.encode(seed.0)
    }
}

fn decode_32(text: &str) -> Result<[u8; 32], TicketFormatError> {
    let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).map_err(|_| TicketFormatError::Character)?);
    bytes.as_slice().try_into().map_err(|_| TicketFormatError::Truncated)
}

/// The public key of a ticket, which is also its name in the registry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TicketKey([u8; 32]);

impl TicketKey {
    /// Checks a proof: did the holder of this ticket vouch for `node` towards
    /// the coordinator `coordinator`?
    pub fn verifies(&self, proof: &Proof, coordinator: &Fingerprint, node: &Fingerprint) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(&proof_message(coordinator, node), &proof.0).is_ok()
    }
}

impl fmt::Display for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TicketKey({self})")
    }
}

impl TryFrom<String> for TicketKey {
    type Error = TicketFormatError;
    fn try_from(text: String) -> Result<Self, TicketFormatError> {
        decode_32(&text).map(Self)
    }
}

impl From<TicketKey> for String {
    fn from(key: TicketKey) -> Self {
        key.to_string()
    }
}

/// `sign(ticket, "kiln/1 enrol\0" || coordinator pin || SHA-256(SPKI of the
/// node's key))`: worthless over any other key or towards any other coordinator.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Proof([u8; 64]);

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proof({})", URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl TryFrom<String> for Proof {
    type Error = TicketFormatError;
    fn try_from(text: String) -> Result<Self, TicketFormatError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| TicketFormatError::Character)?;
        bytes.try_into().map(Self).map_err(|_| TicketFormatError::Truncated)
    }
}

impl From<Proof> for String {
    fn from(proof: Proof) -> Self {
        URL_SAFE_NO_PAD.encode(proof.0)
    }
}

fn proof_message(coordinator: &Fingerprint, node: &Fingerprint) -> Vec<u8> {
    [PROOF_LABEL, coordinator.as_bytes(), node.as_bytes()].concat()
}

/// A decoded ticket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    addresses: Vec<Address>,
    pin: Fingerprint,
    seed: TicketSeed,
}

impl Ticket {
    /// A ticket for the coordinator `pin` that listens at one of `addresses`
    /// (one to [`MAX_ADDRESSES`]).
    pub fn new(
        addresses: Vec<Address>,
        pin: Fingerprint,
        seed: TicketSeed,
    ) -> Result<Self, TicketFormatError> {
        if addresses.is_empty() || addresses.len() > MAX_ADDRESSES {
            return Err(TicketFormatError::Address);
        }
        Ok(Self { addresses, pin, seed })
    }

    /// Where the coordinator may be reached, in the order to try.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The coordinator's key.
    pub fn pin(&self) -> Fingerprint {
        self.pin
    }

    /// The ticket's name in the registry.
    pub fn public_key(&self) -> TicketKey {
        self.seed.public_key()
    }

    /// Vouches for the key `node`.
    pub fn prove(&self, node: &Fingerprint) -> Proof {
        let signature = self.seed.signing_key().sign(&proof_message(&self.pin, node));
        Proof(signature.as_ref().try_into().expect("an Ed25519 signature has 64 bytes"))
    }

    /// The text form. Whoever reads it may enrol in the node's place.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut body = Zeroizing::new(vec![0, u8::try_from(self.addresses.len()).unwrap_or(u8::MAX)]);
        for address in &self.addresses {
            match address.host().parse() {
                Ok(IpAddr::V4(ip)) => {
                    body.push(4);
                    body.extend(ip.octets());
                }
                Ok(IpAddr::V6(ip)) => {
                    body.push(6);
                    body.extend(ip.octets());
                }
                Err(_) => {
                    body.push(1);
                    body.push(u8::try_from(address.host().len()).expect("a DNS name has at most 253 bytes"));
                    body.extend(address.host().bytes());
                }
            }
            body.extend(address.port().to_be_bytes());
        }
        body.extend(self.pin.as_bytes());
        body.extend(&self.seed.0);
        let checksum = checksum(&body);
        body.extend(checksum);
        Zeroizing::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(&*body)))
    }
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM] {
    let digest = Sha256::new().chain_update(PREFIX).chain_update(body).finalize();
    digest[..CHECKSUM].try_into().expect("SHA-256 is longer than the checksum")
}

/// Takes from the front of a byte slice.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], TicketFormatError> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(TicketFormatError::Truncated)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], TicketFormatError> {
        self.take(N).map(|bytes| bytes.try_into().expect("take returns what was asked for"))
    }

    fn address(&mut self) -> Result<Address, TicketFormatError> {
        let host = match self.array::<1>()? {
            [4] => Ipv4Addr::from(self.array::<4>()?).to_string(),
            [6] => Ipv6Addr::from(self.array::<16>()?).to_string(),
            [1] => {
                let [len] = self.array()?;
                let name = self.take(len.into())?;
                String::from_utf8(name.to_vec()).map_err(|_| TicketFormatError::Address)?
            }
            _ => return Err(TicketFormatError::Address),
        };
        let port = u16::from_be_bytes(self.array()?);
        if port == 0 {
            return Err(TicketFormatError::Address);
        }
        Ok(Address { host: host.parse().map_err(|_| TicketFormatError::Address)?, port })
    }
}

impl FromStr for Ticket {
    type Err = TicketFormatError;

    /// Reads a ticket; white space around it is forgiven.
    fn from_str(text: &str) -> Result<Self, TicketFormatError> {
        let text = text.trim_ascii();
        let Some(body) = text.strip_prefix(PREFIX) else {
            let other =
                text.strip_prefix("kiln").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
            return Err(if other && !text.starts_with("kiln1") {
                TicketFormatError::Version
            } else {
                TicketFormatError::Prefix
            });
        };
        if text.len() > MAX_TEXT {
            return Err(TicketFormatError::Trailing);
        }
        if body.contains(PREFIX) {
            return Err(TicketFormatError::Trailing);
        }
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(body).map_err(|error| match error {
            base64::DecodeError::InvalidByte(..) => TicketFormatError::Character,
            _ => TicketFormatError::Truncated,
        })?);
        let mut reader = Reader(&bytes);
        let [flags, count] = reader.array()?;
        let addresses = (0..count).map(|_| reader.address()).collect::<Result<Vec<_>, _>>();
        // A broken address in a ticket whose checksum is wrong is a typing
        // error first of all; so is anything else that follows from one.
        let structure = addresses.and_then(|addresses| {
            let pin = Fingerprint::from_bytes(reader.array()?);
            let seed = TicketSeed(reader.array()?);
            let found = reader.array::<CHECKSUM>()?;
            if !reader.0.is_empty() {
                return Err(TicketFormatError::Trailing);
            }
            Ok((addresses, pin, seed, found))
        });
        let (addresses, pin, seed, found) = match structure {
            Ok(parts) => parts,
            Err(TicketFormatError::Address) if !ends_in_its_checksum(&bytes) => {
                return Err(TicketFormatError::Checksum);
            }
            Err(error) => return Err(error),
        };
        if found != checksum(&bytes[..bytes.len() - CHECKSUM]) {
            return Err(TicketFormatError::Checksum);
        }
        if flags != 0 {
            return Err(TicketFormatError::Flags);
        }
        Self::new(addresses, pin, seed)
    }
}

fn ends_in_its_checksum(bytes: &[u8]) -> bool {
    bytes.len() > CHECKSUM && {
        let (body, found) = bytes.split_at(bytes.len() - CHECKSUM);
        checksum(body) == found
    }
}

#[cfg(test)]
#[path = "ticket_tests.rs"]
mod tests;

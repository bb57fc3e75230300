//! What a node finds at its first boot: a ticket and, where the network or the
//! operator needs it, first settings that are applied before any contact.
//!
//! Instead of a ticket it may hold only where the coordinator is and which key
//! it has: such a machine waits until an operator has approved its key. That
//! much is no secret and may be baked into an image.
//!
//! The same document travels in every channel: as the SMBIOS type 11
//! credential `kiln.seed`, as `user-data` on a NoCloud volume, as a provider's
//! user data. It is JSON, may begin with the line `#kiln-seed`, and a bare
//! ticket is taken for a document that holds nothing else.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::identity::Fingerprint;
use crate::names::{MacAddr, NodeName, SshPublicKey, UserName};
use crate::ticket::{Address, MAX_ADDRESSES, Ticket, TicketFormatError};

/// Longer documents are refused unread: no channel carries more (Hetzner's
/// user data ends at 32 KiB).
pub const MAX_SEED: usize = 32 * 1024;
/// The optional first line of a document.
pub const SEED_HEADER: &str = "#kiln-seed";

/// A document that is not a seed.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// Too long to be one.
    #[error("the seed is larger than 32 KiB")]
    TooLarge,
    /// Not text.
    #[error("the seed is not UTF-8 text")]
    NotText,
    /// Neither JSON of this form nor a ticket.
    #[error("the seed is not a document of the form {{\"kiln\":1,\"ticket\":\"kiln1.…\"}}: {0}")]
    Json(String),
    /// A later version's document.
    #[error("the seed is of version {0}, this agent knows 1: bake an image with a newer agent")]
    Version(u32),
    /// Neither or both of two things of which one is needed.
    #[error("the seed must hold either a ticket, or the address and pin of a coordinator")]
    Claim,
    /// The ticket in it is broken.
    #[error(transparent)]
    Ticket(#[from] TicketFormatError),
}

/// A static address for one network card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawStaticAddress")]
pub struct StaticAddress {
    /// The card; without it the first one that has a link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// Address and prefix length.
    pub address: IpNet,
    /// The default route's next hop, inside the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Name servers, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<IpAddr>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStaticAddress {
    mac: Option<MacAddr>,
    address: IpNet,
    gateway: Option<IpAddr>,
    #[serde(default)]
    nameservers: Vec<IpAddr>,
}

impl TryFrom<RawStaticAddress> for StaticAddress {
    type Error = String;
    fn try_from(raw: RawStaticAddress) -> Result<Self, String> {
        let RawStaticAddress { mac, address, gateway, nameservers } = raw;
        let this = Self { mac, address, gateway, nameservers };
        this.check().map(|()| this)
    }
}

impl StaticAddress {
    /// Whether the address may stand on a host and the gateway can be reached.
    pub fn check(&self) -> Result<(), String> {
        let host = self.address.addr();
        let whole = self.address.prefix_len() >= self.address.max_prefix_len() - 1;
        if host.is_unspecified() || host.is_multicast() || host.is_loopback() {
            return Err(format!("{host} cannot be a node's address"));
        }
        if !whole && (host == self.address.network() || self.is_v4_broadcast()) {
            return Err(format!("{} is the address of a network, not of a host in it", self.address));
        }
        match self.gateway {
            Some(gateway) if !self.address.contains(&gateway) => {
                Err(format!("gateway {gateway} is outside the network {}", self.address.trunc()))
            }
            Some(gateway) if gateway == host => Err(format!("gateway {gateway} is the node's own address")),
            _ => Ok(()),
        }
    }

    fn is_v4_broadcast(&self) -> bool {
        self.address.addr().is_ipv4() && self.address.addr() == self.address.broadcast()
    }
}

/// A login that may be used to look at a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SshUser {
    /// Its name.
    pub name: UserName,
    /// Keys that may log in as it.
    pub authorized_keys: Vec<SshPublicKey>,
}

/// Where a coordinator is and which key it has. No secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawContact")]
pub struct Contact {
    addresses: Vec<Address>,
    pin: Fingerprint,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawContact {
    addresses: Vec<Address>,
    pin: Fingerprint,
}

impl TryFrom<RawContact> for Contact {
    type Error = TicketFormatError;
    fn try_from(RawContact { addresses, pin }: RawContact) -> Result<Self, TicketFormatError> {
        Self::new(addresses, pin)
    }
}

impl Contact {
    /// Of a coordinator that listens at one of `addresses` (one to
    /// [`MAX_ADDRESSES`]).
    pub fn new(addresses: Vec<Address>, pin: Fingerprint) -> Result<Self, TicketFormatError> {
        if addresses.is_empty() || addresses.len() > MAX_ADDRESSES {
            return Err(TicketFormatError::Address);
        }
        Ok(Self { addresses, pin })
    }
}

/// By what right a machine asks to be a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// A ticket vouches for it.
    Ticket(Ticket),
    /// An operator will, who reads its console.
    Approval(Contact),
}

impl Claim {
    /// Where the coordinator may be reached, in the order to try.
    pub fn addresses(&self) -> &[Address] {
        match self {
            Self::Ticket(ticket) => ticket.addresses(),
            Self::Approval(contact) => &contact.addresses,
        }
    }

    /// The coordinator's key.
    pub fn pin(&self) -> Fingerprint {
        match self {
            Self::Ticket(ticket) => ticket.pin(),
            Self::Approval(contact) => contact.pin,
        }
    }

    /// The ticket, if there is one.
    pub fn ticket(&self) -> Option<&Ticket> {
        match self {
            Self::Ticket(ticket) => Some(ticket),
            Self::Approval(_) => None,
        }
    }
}

/// The document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSeed {
    /// Where to enrol, and by what right.
    pub claim: Claim,
    /// The host's name until the coordinator gives one.
    pub hostname: Option<NodeName>,
    /// An address for networks without DHCP.
    pub network: Option<StaticAddress>,
    /// One login, so that a node that fails can be looked into.
    pub user: Option<SshUser>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSeed {
    kiln: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ticket: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    coordinator: Option<Contact>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hostname: Option<NodeName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    network: Option<StaticAddress>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<SshUser>,
}

impl NodeSeed {
    /// A document that holds only a ticket.
    pub fn new(ticket: Ticket) -> Self {
        Self { claim: Claim::Ticket(ticket), hostname: None, network: None, user: None }
    }

    /// A document of a machine that waits to be approved.
    pub fn without_ticket(contact: Contact) -> Self {
        Self { claim: Claim::Approval(contact), hostname: None, network: None, user: None }
    }

    /// Reads a document, or a bare ticket.
    pub fn parse(bytes: &[u8]) -> Result<Self, SeedError> {
        if bytes.len() > MAX_SEED {
            return Err(SeedError::TooLarge);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| SeedError::NotText)?.trim();
        let text = text.strip_prefix(SEED_HEADER).map_or(text, str::trim_start);
        if !text.starts_with('{') {
            return Ok(Self::new(text.parse()?));
        }
        #[derive(Deserialize)]
        struct Version {
            kiln: u32,
        }
        let json = |error: serde_json::Error| SeedError::Json(error.to_string());
        match serde_json::from_str::<Version>(text).map_err(json)?.kiln {
            1 => {}
            other => return Err(SeedError::Version(other)),
        }
        let RawSeed { kiln: _, ticket, coordinator, hostname, network, user } =
            serde_json::from_str(text).map_err(json)?;
        let claim = match (ticket.map(Zeroizing::new), coordinator) {
            (Some(ticket), None) => Claim::Ticket(ticket.parse()?),
            (None, Some(contact)) => Claim::Approval(contact),
            _ => return Err(SeedError::Claim),
        };
        Ok(Self { claim, hostname, network, user })
    }

    /// Writes the document, on one line. It holds the ticket, if any, in the clear.
    pub fn to_text(&self) -> Zeroizing<String> {
        let (ticket, coordinator) = match &self.claim {
            Claim::Ticket(ticket) => (Some(ticket.to_text().to_string()), None),
            Claim::Approval(contact) => (None, Some(contact.clone())),
        };
        let raw = RawSeed {
            kiln: 1,
            ticket,
            coordinator,
            hostname: self.hostname.clone(),
            network: self.network.clone(),
            user: self.user.clone(),
        };
        Zeroizing::new(serde_json::to_string(&raw).expect("a seed has only string keys"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ticket::TicketSeed;
    use proptest::prelude::*;

    fn seed() -> NodeSeed {
        let address: Address = "10.0.2.2:7443".parse().unwrap();
        let ticket = Ticket::new(vec![address], Fingerprint::of_spki(b"c"), TicketSeed::generate()).unwrap();
        NodeSeed {
            hostname: Some("k3s-s1".parse().unwrap()),
            network: Some(StaticAddress {
                mac: Some("52:54:00:00:00:01".parse().unwrap()),
                address: "10.23.45.31/24".parse().unwrap(),
                gateway: Some("10.23.45.1".parse().unwrap()),
                nameservers: vec!["10.23.45.1".parse().unwrap()],
            }),
            ..NodeSeed::new(ticket)
        }
    }

    #[test]
    fn a_document_survives_with_and_without_its_header() {
        let text = seed_text();
        let plain = NodeSeed::parse(text.as_bytes()).unwrap();
        assert_eq!(NodeSeed::parse(format!("{SEED_HEADER}\n{text}\n").as_bytes()).unwrap(), plain);
    }

    fn seed_text() -> String {
        seed().to_text().to_string()
    }

    #[test]
    fn a_bare_ticket_is_a_document() {
        let before = seed();
        let ticket = before.claim.ticket().unwrap();
        let after = NodeSeed::parse(ticket.to_text().as_bytes()).unwrap();
        assert_eq!(after, NodeSeed::new(ticket.clone()));
    }

    #[test]
    fn an_address_and_a_pin_are_a_document_too_and_no_secret() {
        let pin = Fingerprint::of_spki(b"c");
        let contact = Contact::new(vec!["10.0.2.2:7443".parse().unwrap()], pin).unwrap();
        let seed = NodeSeed::without_ticket(contact);
        let text = format!(r#"{{"kiln":1,"coordinator":{{"addresses":["10.0.2.2:7443"],"pin":"{pin}"}}}}"#);
        assert_eq!(*seed.to_text(), text);
        let read = NodeSeed::parse(text.as_bytes()).unwrap();
        assert_eq!((read.claim.addresses().len(), read.claim.pin(), read.claim.ticket()), (1, pin, None));
        assert_eq!(read, seed);
        for (wrong, why) in [
            (r#"{"kiln":1}"#.to_owned(), "either a ticket, or"),
            (text.replace("\"kiln\":1", "\"kiln\":1,\"ticket\":\"kiln1.A\""), "either a ticket, or"),
            (text.replace("[\"10.0.2.2:7443\"]", "[]"), "address"),
            (text.replace("10.0.2.2:7443", "10.0.2.2:7443/$(id)"), "address"),
            (text.replace("\"pin\"", "\"pen\""), "unknown field"),
        ] {
            let error = NodeSeed::parse(wrong.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn what_is_not_a_seed_says_so() {
        let text = seed_text();
        for (wrong, why) in [
            ("#cloud-config\nusers: []".to_owned(), "not a ticket"),
            (text.replace("\"kiln\":1", "\"kiln\":2"), "version 2"),
            (text.replace("hostname", "hostnam"), "unknown field"),
            (text.replace("k3s-s1", "../../etc"), "node name"),
            (text.replace("10.23.45.1\"", "10.23.46.1\""), "outside the network"),
            (text.replace("10.23.45.31", "10.23.45.255"), "of a network"),
        ] {
            let error = NodeSeed::parse(wrong.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        assert!(matches!(NodeSeed::parse(&[0xff; 10]), Err(SeedError::NotText)));
        assert!(matches!(NodeSeed::parse(&vec![b' '; MAX_SEED + 1]), Err(SeedError::TooLarge)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            let _ = NodeSeed::parse(&bytes);
        }
    }
}

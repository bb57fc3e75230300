//! NetworkManager keyfiles: one per network card with static addresses.
//!
//! Format: NetworkManager.conf(5), nm-settings-keyfile(5). A card is known by
//! its MAC address, not by a name that may change from boot to boot.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;
use kiln_protocol::names::MacAddr;
use kiln_protocol::seed::StaticAddress;
use sha2::{Digest as _, Sha256};

/// Where NetworkManager looks for them.
pub(crate) const DIR: &str = "/etc/NetworkManager/system-connections";
/// The first line of ours.
const OURS: &str = "# Written by the Kiln agent.";
/// Above the profiles an installer or NetworkManager itself makes (0 and less).
const PRIORITY: i32 = 100;
/// Below an installer's, above NetworkManager's own (-999): for a card that is to
/// be as if it had no profile of ours.
const LAST_PRIORITY: i32 = -1;
const PREFIX: &str = "kiln-";
const SUFFIX: &str = ".nmconnection";

/// Whether a file in [`DIR`] was written by us.
pub(crate) fn is_ours(name: &str) -> bool {
    name.starts_with(PREFIX) && name.ends_with(SUFFIX)
}

/// The addresses in a profile's text. What does not come from us is left out.
pub(crate) fn addresses_in(text: &str) -> Vec<StaticAddress> {
    let mut found: Vec<StaticAddress> = Vec::new();
    let mut card = None;
    for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
        // Both families have the same keys, and an address comes first.
        let last = found.last_mut();
        match key {
            "mac-address" => card = value.parse().ok(),
            "gateway" => last.into_iter().for_each(|last| last.gateway = value.parse().ok()),
            "dns" => last.into_iter().for_each(|last| {
                last.nameservers = value.split(';').filter_map(|server| server.parse().ok()).collect();
            }),
            _ if key.starts_with("address") => {
                if let (Some(mac), Ok(address)) = (card, value.parse()) {
                    found.push(StaticAddress { mac: Some(mac), address, gateway: None, nameservers: vec![] });
                }
            }
            _ => {}
        }
    }
    found
}

/// All static addresses of one card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Profile {
    pub(crate) mac: MacAddr,
    addresses: Vec<IpNet>,
    gateways: Vec<IpAddr>,
    nameservers: Vec<IpAddr>,
}

impl Profile {
    /// One profile per card; each address must have found its card.
    pub(crate) fn of(addresses: &[(MacAddr, StaticAddress)]) -> Vec<Self> {
        let mut cards: BTreeMap<MacAddr, Self> = BTreeMap::new();
        for (mac, wanted) in addresses {
            let card = cards.entry(*mac).or_insert_with(|| Self {
                mac: *mac,
                addresses: Vec::new(),
                gateways: Vec::new(),
                nameservers: Vec::new(),
            });
            card.addresses.push(wanted.address);
            card.gateways.extend(wanted.gateway);
            card.nameservers.extend(&wanted.nameservers);
        }
        cards.into_values().collect()
    }

    /// What the network tells the card, unless there is a profile of somebody else's.
    pub(crate) fn automatic(mac: MacAddr) -> Self {
        Self { mac, addresses: Vec::new(), gateways: Vec::new(), nameservers: Vec::new() }
    }

    pub(crate) fn is_automatic(&self) -> bool {
        self.addresses.is_empty()
    }

    /// The addresses the card is to have.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().map(IpNet::addr)
    }

    fn name(&self) -> String {
        format!("{PREFIX}{}", self.mac.to_string().replace(':', ""))
    }

    /// The file's path.
    pub(crate) fn path(&self) -> String {
        format!("{DIR}/{}{SUFFIX}", self.name())
    }

    /// Names the profile on D-Bus; always the same for a card (RFC 9562's
    /// version 8, which leaves the making to us).
    pub(crate) fn uuid(&self) -> String {
        let digest = Sha256::digest(format!("kiln/1 connection {}", self.mac));
        let mut bytes: [u8; 16] = digest[..16].try_into().expect("SHA-256 is longer than a uuid");
        bytes[6] = bytes[6] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let hex = bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }

    /// The file's content.
    pub(crate) fn text(&self) -> String {
        let (name, uuid, mac) = (self.name(), self.uuid(), self.mac);
        let priority = if self.is_automatic() { LAST_PRIORITY } else { PRIORITY };
        let mut text = format!(
            "{OURS}\n\
             [connection]\nid={name}\nuuid={uuid}\ntype=ethernet\nautoconnect-priority={priority}\n\n\
             [ethernet]\nmac-address={mac}\n"
        );
        for (section, v4) in [("ipv4", true), ("ipv6", false)] {
            let _ = write!(text, "\n[{section}]\n{}", self.family(v4));
        }
        text
    }

    fn family(&self, v4: bool) -> String {
        let mut addresses = self.addresses.iter().filter(|net| net.addr().is_ipv4() == v4).peekable();
        if addresses.peek().is_none() {
            // IPv6 is left to the network, as on a card without a profile. A
            // card with IPv6 addresses alone should not wait for DHCP.
            let disabled = v4 && !self.is_automatic();
            return format!("method={}\n", if disabled { "disabled" } else { "auto" });
        }
        let mut text = "method=manual\n".to_owned();
        for (number, address) in addresses.enumerate() {
            let _ = writeln!(text, "address{}={address}", number + 1);
        }
        if let Some(gateway) = self.gateways.iter().find(|gateway| gateway.is_ipv4() == v4) {
            let _ = writeln!(text, "gateway={gateway}");
        }
        let servers: Vec<String> =
            self.nameservers.iter().filter(|ip| ip.is_ipv4() == v4).map(|ip| format!("{ip};")).collect();
        if !servers.is_empty() {
            let _ = writeln!(text, "dns={}", servers.concat());
        }
        text
    }
}

/// The uuid of a profile that the agent wrote.
pub(crate) fn uuid_of_ours(text: &str) -> Option<&str> {
    text.strip_prefix(OURS)?.lines().find_map(|line| line.strip_prefix("uuid="))
}

/// Whether a profile's text gives one of the addresses of `profile`.
pub(crate) fn gives_one_of(text: &str, profile: &Profile) -> bool {
    addresses_in(text).iter().any(|given| profile.addresses.contains(&given.address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(address: &str, gateway: Option<&str>, nameservers: &[&str]) -> (MacAddr, StaticAddress) {
        let mac = "52:54:00:00:00:02".parse().unwrap();
        let address = StaticAddress {
            mac: Some(mac),
            address: address.parse().unwrap(),
            gateway: gateway.map(|gateway| gateway.parse().unwrap()),
            nameservers: nameservers.iter().map(|ip| ip.parse().unwrap()).collect(),
        };
        (mac, address)
    }

    #[test]
    fn a_static_address_becomes_a_profile_of_its_card() {
        let profiles =
            Profile::of(&[wanted("10.23.45.31/24", Some("10.23.45.1"), &["10.23.45.1", "9.9.9.9"])]);
        let [profile] = profiles.as_slice() else { panic!("{profiles:?}") };
        assert_eq!(profile.path(), "/etc/NetworkManager/system-connections/kiln-525400000002.nmconnection");
        assert_eq!(
            profile.text(),
            "# Written by the Kiln agent.\n\
             [connection]\nid=kiln-525400000002\nuuid=161c7957-18b8-8923-a22b-498d4f2fd629\ntype=ethernet\n\
             autoconnect-priority=100\n\n\
             [ethernet]\nmac-address=52:54:00:00:00:02\n\n\
             [ipv4]\nmethod=manual\naddress1=10.23.45.31/24\ngateway=10.23.45.1\ndns=10.23.45.1;9.9.9.9;\n\n\
             [ipv6]\nmethod=auto\n"
        );
    }

    #[test]
    fn both_families_of_a_card_share_a_profile() {
        let profiles = Profile::of(&[
            wanted("10.23.45.31/24", None, &[]),
            wanted("fd00::31/64", Some("fd00::1"), &["fd00::53"]),
        ]);
        assert_eq!(profiles.len(), 1);
        let text = profiles[0].text();
        assert!(text.contains("[ipv4]\nmethod=manual\naddress1=10.23.45.31/24\n\n"), "{text}");
        assert!(
            text.ends_with("[ipv6]\nmethod=manual\naddress1=fd00::31/64\ngateway=fd00::1\ndns=fd00::53;\n"),
            "{text}"
        );
    }

    #[test]
    fn what_was_written_is_read_again() {
        for addresses in [
            vec![wanted("10.23.45.31/24", Some("10.23.45.1"), &["10.23.45.1", "9.9.9.9"])],
            vec![wanted("10.23.45.31/24", None, &[]), wanted("fd00::31/64", Some("fd00::1"), &["fd00::53"])],
        ] {
            let text = Profile::of(&addresses)[0].text();
            let expected: Vec<StaticAddress> = addresses.into_iter().map(|(_, address)| address).collect();
            assert_eq!(addresses_in(&text), expected, "{text}");
        }
        assert_eq!(addresses_in("[ipv4]\naddress1=10.0.0.1/24\n\0=\ngateway"), [], "it names no card");
    }

    #[test]
    fn a_card_that_is_given_back_asks_the_network_unless_somebody_says_otherwise() {
        let profile = Profile::automatic("52:54:00:00:00:02".parse().unwrap());
        let text = profile.text();
        assert_eq!(text.matches("method=auto\n").count(), 2, "{text}");
        assert!(text.contains("autoconnect-priority=-1\n"), "{text}");
        assert!(addresses_in(&text).is_empty());
    }

    #[test]
    fn a_card_with_ipv6_alone_does_not_wait_for_dhcp() {
        let text = Profile::of(&[wanted("fd00::31/64", None, &[])])[0].text();
        assert!(text.contains("[ipv4]\nmethod=disabled\n"), "{text}");
    }
}

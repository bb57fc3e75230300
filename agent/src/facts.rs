//! What this machine says of itself: an allow-list.
//!
//! The SMBIOS serial is not among it: a provider may have put the ticket there.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use kiln_protocol::api::{Facts, Firmware, Nic};
use kiln_protocol::install::{IMAGE_RECORD, ImageRecord};
use kiln_protocol::names::MacAddr;
use nix::ifaddrs::getifaddrs;
use sha2::{Digest as _, Sha256};

use crate::os_release::OsRelease;
use crate::root::Root;

/// Where the kernel tells of network cards.
const NET: &str = "/sys/class/net";
/// Name and vendor GUID of the UEFI variable; four bytes of attributes come
/// before its value.
const SECURE_BOOT: &str = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// A network card and what it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Card {
    pub(crate) name: String,
    pub(crate) mac: MacAddr,
    /// Whether it has a link; unknown (and then false) while it is down.
    pub(crate) link: bool,
    index: u32,
}

/// Everything that can be said now. What cannot be read is left out.
pub(crate) fn collect(root: &Root) -> Facts {
    let text = |path: &str| root.read_text(path).ok().flatten().map(|text| text.trim().to_owned());
    let known = |text: Option<String>| text.filter(|text| !text.is_empty());
    Facts {
        machine_id: known(text("/etc/machine-id")),
        smbios_uuid: machine_uuid(root),
        os: known(text("/etc/os-release").map(|text| OsRelease::parse(&text).pretty_name)),
        kernel: known(text("/proc/sys/kernel/osrelease")),
        firmware: Some(firmware(root)),
        image: image(root).map(|image| image.version),
        agent: Some(env!("CARGO_PKG_VERSION").to_owned()),
        ssh_host_keys: ssh_host_keys(root),
        nics: cards(root).into_iter().map(|card| with_addresses(card, &addresses())).collect(),
    }
}

/// SMBIOS system uuid: another one means another machine.
pub(crate) fn machine_uuid(root: &Root) -> Option<String> {
    let text = root.read_text("/sys/class/dmi/id/product_uuid").ok().flatten()?;
    let uuid = text.trim().to_lowercase();
    // Boards without one say zeros or ones.
    let said = uuid.len() == 36 && uuid.bytes().any(|b| !b"0-f".contains(&b));
    said.then_some(uuid)
}

/// What image this system was made from.
pub(crate) fn image(root: &Root) -> Option<ImageRecord> {
    serde_json::from_slice(&root.read(IMAGE_RECORD).ok().flatten()?).ok()
}

fn firmware(root: &Root) -> Firmware {
    let there = |path: &str| root.meta(path).ok().flatten().is_some();
    match root.read(SECURE_BOOT).ok().flatten().as_deref() {
        Some([_, _, _, _, 1]) => Firmware::UefiSecureBoot,
        _ if there("/sys/firmware/efi") => Firmware::Uefi,
        _ => Firmware::Bios,
    }
}

fn ssh_host_keys(root: &Root) -> Vec<String> {
    let names = root.names("/etc/ssh").unwrap_or_default();
    let public = names
        .iter()
        .filter_map(|name| name.to_str())
        .filter(|name| name.starts_with("ssh_host_") && name.ends_with("_key.pub"));
    let keys = public.filter_map(|name| root.read_text(format!("/etc/ssh/{name}")).ok().flatten());
    keys.filter_map(|key| ssh_fingerprint(&key)).collect()
}

/// `SHA256:…` as `ssh-keygen -l` prints it.
fn ssh_fingerprint(public_key: &str) -> Option<String> {
    let blob = STANDARD.decode(public_key.split_whitespace().nth(1)?).ok()?;
    Some(format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(&blob))))
}

/// The machine's own network cards, in the kernel's order: what has a device
/// behind it, so neither bridges nor what k3s makes.
pub(crate) fn cards(root: &Root) -> Vec<Card> {
    let read = |name: &str, what: &str| {
        let text = root.read_text(format!("{NET}/{name}/{what}")).ok().flatten()?;
        Some(text.trim().to_owned())
    };
    let names = root.names(NET).unwrap_or_default();
    let mut cards: Vec<Card> = names
        .into_iter()
        .filter_map(|name| {
            let name = name.into_string().ok()?;
            root.meta(format!("{NET}/{name}/device")).ok().flatten()?;
            let mac = read(&name, "address")?.parse().ok()?;
            let index = read(&name, "ifindex")?.parse().ok()?;
            let link = read(&name, "carrier").as_deref() == Some("1");
            Some(Card { name, mac, link, index })
        })
        .collect();
    cards.sort_by_key(|card| card.index);
    cards
}

/// Every address of this host and the interface it is on.
pub(crate) fn addresses() -> Vec<(String, IpAddr)> {
    let Ok(all) = getifaddrs() else { return Vec::new() };
    all.filter_map(|one| {
        let address = one.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        let v6 = || address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip()));
        Some((one.interface_name, v4.or_else(v6)?))
    })
    .collect()
}

fn with_addresses(card: Card, addresses: &[(String, IpAddr)]) -> Nic {
    let on_card = addresses.iter().filter(|(interface, _)| *interface == card.name);
    Nic { addresses: on_card.map(|(_, address)| *address).collect(), name: card.name, mac: card.mac }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    /// Gives a fake root a machine uuid and two cards, the second with a link.
    pub(crate) fn fake_machine(dir: &Path, uuid: &str) {
        let write = |path: &str, text: &str| {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("sys/class/dmi/id/product_uuid", &format!("{uuid}\n"));
        write("sys/class/dmi/id/product_serial", "kiln1.secret\n");
        for (name, mac, index, carrier) in
            [("eth1", "52:54:00:00:00:02", "3", "1"), ("eth0", "52:54:00:00:00:01", "2", "0")]
        {
            write(&format!("sys/class/net/{name}/address"), mac);
            write(&format!("sys/class/net/{name}/ifindex"), index);
            write(&format!("sys/class/net/{name}/carrier"), carrier);
            write(&format!("sys/class/net/{name}/device/vendor"), "0x1af4");
        }
        write("sys/class/net/cni0/address", "52:54:00:00:00:09");
        write("sys/class/net/cni0/ifindex", "9");
        write("etc/os-release", "PRETTY_NAME=\"AlmaLinux 9.5\"\n");
    }

    const UUID: &str = "0F5E2A3C-1111-2222-3333-444455556666";

    #[test]
    fn a_machine_tells_its_cards_and_never_its_serial() {
        let dir = crate::testing::tempdir().unwrap();
        fake_machine(dir.path(), UUID);
        let facts = collect(&Root::open(dir.path()).unwrap());
        assert_eq!(facts.smbios_uuid.as_deref(), Some(UUID.to_lowercase().as_str()));
        assert_eq!(facts.os.as_deref(), Some("AlmaLinux 9.5"));
        assert_eq!(facts.firmware, Some(Firmware::Bios));
        let names: Vec<_> = facts.nics.iter().map(|nic| nic.name.as_str()).collect();
        assert_eq!(names, ["eth0", "eth1"]);
        assert!(!serde_json::to_string(&facts).unwrap().contains("kiln1."));
    }

    #[test]
    fn a_uuid_that_says_nothing_is_none() {
        let dir = crate::testing::tempdir().unwrap();
        for nothing in ["00000000-0000-0000-0000-000000000000", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", ""] {
            fake_machine(dir.path(), nothing);
            assert_eq!(machine_uuid(&Root::open(dir.path()).unwrap()), None);
        }
    }

    #[test]
    fn fingerprints_are_those_of_ssh_keygen() {
        // ssh-keygen -lf on this key prints the fingerprint below.
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl x";
        assert_eq!(
            ssh_fingerprint(key).as_deref(),
            Some("SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU")
        );
        assert_eq!(ssh_fingerprint("nothing"), None);
    }
}

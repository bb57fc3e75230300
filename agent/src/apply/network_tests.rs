//! Which card an address goes to, and that it leaves the one it was on.

use super::*;
use crate::facts::tests::fake_machine;
use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

const OLD: &str = "52:54:00:00:00:01";
const NEW: &str = "52:54:00:00:00:02";

fn machine() -> (tempfile::TempDir, Root) {
    let dir = crate::testing::tempdir().unwrap();
    fake_machine(dir.path(), "0f5e2a3c-1111-2222-3333-444455556666");
    let root = Root::open(dir.path()).unwrap();
    (dir, root)
}

fn link(dir: &Path, card: &str, there: bool) {
    fs::write(dir.join(format!("sys/class/net/{card}/carrier")), if there { "1" } else { "0" }).unwrap();
}

fn wanted(mac: Option<&str>, address: &str) -> StaticAddress {
    let mac = mac.map(|mac| mac.parse().unwrap());
    StaticAddress { mac, address: address.parse().unwrap(), gateway: None, nameservers: Vec::new() }
}

fn write(root: &Root, mac: &str, address: &str) -> Profile {
    let profile = Profile::of(&[(mac.parse().unwrap(), wanted(None, address))]).remove(0);
    root.make_dirs(keyfile::DIR, 0o755).unwrap();
    root.put(profile.path(), Access::ours(0o600), profile.text().as_bytes()).unwrap();
    profile
}

#[test]
fn no_card_without_a_link_is_chosen_among_several() {
    let (dir, root) = machine();
    let chosen = |had: Option<&str>, waited| {
        let cards = facts::cards(&root);
        choose(&cards, |card| had == Some(card.name.as_str()), waited).map(|card| card.name.clone())
    };
    assert_eq!(chosen(None, false).as_deref(), Some("eth1"));
    // The one that had the address before is waited for, and not for ever.
    assert_eq!(chosen(Some("eth0"), false), None);
    assert_eq!(chosen(Some("eth0"), true).as_deref(), Some("eth1"));
    link(dir.path(), "eth0", true);
    assert_eq!(chosen(Some("eth1"), false).as_deref(), Some("eth1"), "though another is before it");
    for card in ["eth0", "eth1"] {
        link(dir.path(), card, false);
    }
    assert_eq!((chosen(None, false), chosen(None, true), chosen(Some("eth0"), true)), (None, None, None));
    fs::remove_dir_all(dir.path().join("sys/class/net/eth1")).unwrap();
    assert_eq!(chosen(None, false).as_deref(), Some("eth0"), "the only one");
}

#[test]
fn only_our_profiles_of_the_same_address_on_other_cards_are_in_the_way() {
    let (_dir, root) = machine();
    let old = write(&root, OLD, "10.77.0.11/24");
    write(&root, "52:54:00:00:00:03", "10.77.0.12/24");
    let by_hand = old.text().replace("# Written by the Kiln agent.\n", "");
    root.put(format!("{}/mine.nmconnection", keyfile::DIR), Access::ours(0o600), by_hand.as_bytes()).unwrap();
    let new = write(&root, NEW, "10.77.0.11/24");
    // The power was cut while it was written.
    let name = new.path().rsplit_once('/').unwrap().1.to_owned();
    let unfinished = format!("{}/.{name}.kiln-tmp", keyfile::DIR);
    root.put(unfinished, Access::ours(0o600), new.text().as_bytes()).unwrap();
    assert_eq!(elsewhere(&root, &[new]).unwrap(), [(old.path(), old.uuid())]);
}

/// As much of `NetworkManager` as is asked for, at the other end of a socket.
struct FakeSettings {
    knows: String,
}

#[zbus::interface(name = "org.freedesktop.NetworkManager.Settings")]
impl FakeSettings {
    fn get_connection_by_uuid(&self, uuid: &str) -> zbus::fdo::Result<OwnedObjectPath> {
        if uuid != self.knows {
            return Err(zbus::fdo::Error::Failed("no connection has this uuid".to_owned()));
        }
        Ok(OwnedObjectPath::try_from("/org/freedesktop/NetworkManager/Settings/7").unwrap())
    }

    #[allow(clippy::unused_self, reason = "a method of an interface")]
    fn load_connections(&self, files: Vec<String>) -> (bool, Vec<String>) {
        let failed: Vec<String> = files.into_iter().filter(|file| !file.starts_with(keyfile::DIR)).collect();
        (failed.is_empty(), failed)
    }
}

/// Its devices are called as their cards are.
struct FakeManager {
    refuses: &'static str,
    activated: Arc<Mutex<Vec<String>>>,
}

#[zbus::interface(name = "org.freedesktop.NetworkManager")]
impl FakeManager {
    #[allow(clippy::unused_self, reason = "a method of an interface")]
    fn get_device_by_ip_iface(&self, iface: &str) -> OwnedObjectPath {
        OwnedObjectPath::try_from(format!("/device/{iface}")).unwrap()
    }

    #[allow(clippy::needless_pass_by_value, reason = "what an interface is called with")]
    fn activate_connection(
        &self,
        connection: OwnedObjectPath,
        device: OwnedObjectPath,
        specific: OwnedObjectPath,
    ) -> zbus::fdo::Result<OwnedObjectPath> {
        if device.as_str() == format!("/device/{}", self.refuses) || specific.as_str() != "/" {
            return Err(zbus::fdo::Error::Failed("no connection is available for this device".to_owned()));
        }
        self.activated.lock().unwrap().push(device.to_string());
        Ok(connection)
    }
}

struct FakeConnection(Arc<Mutex<u32>>);

#[zbus::interface(name = "org.freedesktop.NetworkManager.Settings.Connection")]
impl FakeConnection {
    fn delete(&self) {
        *self.0.lock().unwrap() += 1;
    }
}

#[tokio::test]
async fn an_address_that_moves_to_another_card_is_taken_from_the_first() {
    let (_dir, root) = machine();
    let (known, unknown) = (write(&root, OLD, "10.77.0.11/24"), write(&root, NEW, "10.77.0.11/24"));
    let deleted = Arc::<Mutex<u32>>::default();
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let server = zbus::connection::Builder::unix_stream(theirs)
        .server(zbus::Guid::generate())
        .p2p()
        .serve_at("/org/freedesktop/NetworkManager/Settings", FakeSettings { knows: known.uuid() })
        .serve_at("/org/freedesktop/NetworkManager/Settings/7", FakeConnection(deleted.clone()))
        .build();
    let client = zbus::connection::Builder::unix_stream(ours).p2p().build();
    let (server, client) = tokio::join!(server, client);
    let (_server, client) = (server.unwrap(), client.unwrap());
    let left = Cell::new(2);
    for profile in [known, unknown] {
        give_up(&root, &client, &profile.path(), &profile.uuid()).await.unwrap();
        assert!(root.meta(profile.path()).unwrap().is_none());
        left.set(left.get() - 1);
        assert_eq!(root.names(keyfile::DIR).unwrap().len(), left.get());
        assert_eq!(*deleted.lock().unwrap(), 1, "what it does not know it is not asked to delete");
    }
}

#[tokio::test]
async fn no_card_keeps_another_from_what_it_had_before() {
    const LOOPBACK: &str = "52:54:00:00:00:07";
    let (dir, root) = machine();
    // One whose address this machine has, so that it need not be waited for.
    for (file, text) in [("address", LOOPBACK), ("ifindex", "1"), ("carrier", "1"), ("device/vendor", "")] {
        let path = dir.path().join("sys/class/net/lo").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let before = [wanted(Some("52:54:00:00:00:77"), "10.77.0.77/24"), wanted(Some(LOOPBACK), "127.0.0.1/8")];
    let knows = write(&root, LOOPBACK, "127.0.0.1/8").uuid();
    for (refuses, mac, taken) in [("eth0", OLD, true), ("eth1", NEW, false)] {
        let tried = [wanted(Some(mac), "10.77.0.11/24")];
        let profile = write(&root, mac, "10.77.0.11/24");
        root.remove(write(&root, LOOPBACK, "127.0.0.1/8").path().as_ref()).unwrap();
        let activated = Arc::<Mutex<Vec<String>>>::default();
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let server = zbus::connection::Builder::unix_stream(theirs)
            .server(zbus::Guid::generate())
            .p2p()
            .serve_at("/org/freedesktop/NetworkManager/Settings", FakeSettings { knows: knows.clone() })
            .serve_at(
                "/org/freedesktop/NetworkManager",
                FakeManager { refuses, activated: activated.clone() },
            )
            .build();
        let client = zbus::connection::Builder::unix_stream(ours).p2p().build();
        let (server, client) = tokio::join!(server, client);
        let (_server, client) = (server.unwrap(), client.unwrap());
        let back = take_back(&root, &client, &tried, &before).await;
        assert_eq!(back.is_ok(), taken, "{refuses}, which has a link or not: {back:?}");
        assert_eq!(*activated.lock().unwrap(), ["/device/lo"], "{refuses}");
        let text = root.read_text(profile.path()).unwrap().unwrap();
        assert_eq!(text, Profile::automatic(profile.mac).text(), "{refuses}");
        let given = present(&root).unwrap();
        assert_eq!(given, [before[1].clone()], "{refuses}: none is there for the card that is gone");
    }
}

#[test]
fn what_cards_were_given_is_read_from_the_disk() {
    let dir = crate::testing::tempdir().unwrap();
    facts::tests::fake_machine(dir.path(), "");
    let root = Root::open(dir.path()).unwrap();
    assert_eq!(present(&root).unwrap(), []);
    let wanted = |mac: Option<&str>, address: &str| StaticAddress {
        mac: mac.map(|mac| mac.parse().unwrap()),
        address: address.parse().unwrap(),
        gateway: Some("10.0.0.1".parse().unwrap()),
        nameservers: Vec::new(),
    };
    let card = Some("52:54:00:00:00:02");
    let given = wanted(card, "10.0.0.5/24");
    assert!(is_applied(&root, &[]) && !is_applied(&root, std::slice::from_ref(&given)));
    let profile = &Profile::of(&[(given.mac.unwrap(), given.clone())])[0];
    assert!(super::write(&root, profile).unwrap());
    assert_eq!(present(&root).unwrap(), std::slice::from_ref(&given));
    // It is the one with a link.
    for same in [given, wanted(None, "10.0.0.5/24")] {
        assert!(is_applied(&root, &[same]));
    }
    for other in [wanted(card, "10.0.0.6/24"), wanted(Some("52:54:00:00:00:77"), "10.0.0.5/24")] {
        assert!(!is_applied(&root, &[other]));
    }
}

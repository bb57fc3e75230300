//! Static addresses, through NetworkManager: a profile on the disk, loaded and
//! activated over D-Bus, for now and for later boots.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kiln_protocol::names::MacAddr;
use kiln_protocol::seed::StaticAddress;
use tokio::time::{Instant, sleep};
use zbus::{ObjectPath, OwnedObjectPath};

use super::keyfile::{self, Profile};
use crate::facts::{self, Card};
use crate::root::{Access, Root};

/// NetworkManager starts with the system, beside the agent.
const MANAGER_DEADLINE: Duration = Duration::from_secs(30);
/// A card may have to find its link first.
const LINK_DEADLINE: Duration = Duration::from_secs(10);
const ADDRESS_DEADLINE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(250);

#[zbus::proxy(
    interface = "org.freedesktop.NetworkManager",
    default_service = "org.freedesktop.NetworkManager",
    default_path = "/org/freedesktop/NetworkManager"
)]
trait Manager {
    fn get_device_by_ip_iface(&self, iface: &str) -> zbus::Result<OwnedObjectPath>;
    fn activate_connection(
        &self,
        connection: &ObjectPath<'_>,
        device: &ObjectPath<'_>,
        specific: &ObjectPath<'_>,
    ) -> zbus::Result<OwnedObjectPath>;
}

#[zbus::proxy(
    interface = "org.freedesktop.NetworkManager.Settings",
    default_service = "org.freedesktop.NetworkManager",
    default_path = "/org/freedesktop/NetworkManager/Settings"
)]
trait Settings {
    fn load_connections(&self, files: &[&str]) -> zbus::Result<(bool, Vec<String>)>;
    fn get_connection_by_uuid(&self, uuid: &str) -> zbus::Result<OwnedObjectPath>;
}

/// Gives cards their addresses and returns once they have them.
pub(crate) async fn apply(root: &Root, bus: &zbus::Connection, wanted: &[StaticAddress]) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let cards = facts::cards(root);
    let mut on_cards = Vec::new();
    for address in wanted {
        let card = match address.mac {
            Some(mac) => with_mac(&cards, mac)?.clone(),
            None => first_with_link(root).await?,
        };
        on_cards.push((card.mac, address.clone()));
    }
    for profile in Profile::of(&on_cards) {
        let card = with_mac(&cards, profile.mac)?;
        root.make_dirs(keyfile::DIR, 0o755)?;
        let changed = root.put(profile.path(), Access::ours(0o600), profile.text().as_bytes())?;
        super::labels::restore(root, &[profile.path().into()]);
        if changed || missing(&profile, card).is_some() {
            activate(bus, &profile, card).await?;
            settled(&profile, card).await?;
        }
    }
    Ok(())
}

fn with_mac(cards: &[Card], mac: MacAddr) -> Result<&Card> {
    cards.iter().find(|card| card.mac == mac).with_context(|| {
        let there: Vec<String> = cards.iter().map(|card| format!("{} {}", card.name, card.mac)).collect();
        format!("no network card has the address {mac}; there are: {}", there.join(", "))
    })
}

/// The first card with a link; after a while the first card.
async fn first_with_link(root: &Root) -> Result<Card> {
    let deadline = Instant::now() + LINK_DEADLINE;
    loop {
        let mut cards = facts::cards(root);
        if let Some(index) = cards.iter().position(|card| card.link).or((cards.len() == 1).then_some(0)) {
            return Ok(cards.remove(index));
        }
        if Instant::now() > deadline {
            return cards.into_iter().next().context("this machine has no network card");
        }
        sleep(LOOK).await;
    }
}

async fn activate(bus: &zbus::Connection, profile: &Profile, card: &Card) -> Result<()> {
    let activating = || format!("giving {} the addresses of {}", card.name, profile.path());
    let deadline = Instant::now() + MANAGER_DEADLINE;
    let (settings, manager) = loop {
        let settings = SettingsProxy::new(bus).await.with_context(activating)?;
        let loaded = settings.load_connections(&[&profile.path()]).await;
        match loaded {
            Ok((true, _)) => break (settings, ManagerProxy::new(bus).await.with_context(activating)?),
            Ok((false, _)) => bail!("NetworkManager does not take {}", profile.path()),
            Err(error) if is_absent(&error) && Instant::now() < deadline => sleep(LOOK).await,
            Err(error) if is_absent(&error) => {
                bail!("NetworkManager is not running: {} will have its addresses when it is", card.name)
            }
            Err(error) => return Err(error).with_context(activating),
        }
    };
    let connection = settings.get_connection_by_uuid(&profile.uuid()).await.with_context(activating)?;
    let device = manager.get_device_by_ip_iface(&card.name).await.with_context(activating)?;
    let nothing = ObjectPath::from_static_str_unchecked("/");
    manager.activate_connection(&connection, &device, &nothing).await.with_context(activating)?;
    Ok(())
}

/// Nobody on the bus has NetworkManager's name.
fn is_absent(error: &zbus::Error) -> bool {
    const ABSENT: [&str; 2] =
        ["org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner"];
    matches!(error, zbus::Error::MethodError(name, _, _) if ABSENT.contains(&name.as_str()))
}

async fn settled(profile: &Profile, card: &Card) -> Result<()> {
    let deadline = Instant::now() + ADDRESS_DEADLINE;
    while let Some(address) = missing(profile, card) {
        if Instant::now() > deadline {
            bail!(
                "{} has no address {address} {} s after it was asked for: is its cable in?",
                card.name,
                ADDRESS_DEADLINE.as_secs()
            );
        }
        sleep(LOOK).await;
    }
    Ok(())
}

/// An address that the card should have and has not.
fn missing(profile: &Profile, card: &Card) -> Option<IpAddr> {
    let all = facts::addresses();
    let there: BTreeSet<IpAddr> =
        all.into_iter().filter(|(name, _)| *name == card.name).map(|(_, address)| address).collect();
    profile.hosts().find(|address| !there.contains(address))
}

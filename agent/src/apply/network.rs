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

#[zbus::proxy(
    interface = "org.freedesktop.NetworkManager.Settings.Connection",
    default_service = "org.freedesktop.NetworkManager"
)]
trait Connection {
    fn delete(&self) -> zbus::Result<()>;
}

/// Gives cards their addresses and returns once they have them.
pub(crate) async fn apply(root: &Root, bus: &zbus::Connection, wanted: &[StaticAddress]) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let mut on_cards = Vec::new();
    for address in wanted {
        on_cards.push((card_of(root, address).await?.mac, address.clone()));
    }
    let (cards, profiles) = (facts::cards(root), Profile::of(&on_cards));
    for (path, uuid) in elsewhere(root, &profiles)? {
        give_up(root, bus, &path, &uuid).await?;
    }
    for profile in profiles {
        let card = with_mac(&cards, profile.mac)?;
        if write(root, &profile)? || missing(&profile, card).is_some() {
            activate(bus, &profile, card).await?;
            settled(&profile, card).await?;
        }
    }
    Ok(())
}

/// Gives the cards of `tried` what they had before: their addresses in `before`,
/// or else what `NetworkManager` gives them without us.
///
/// No card keeps another from its own: each is given all it can be, and only then
/// does this fail with what one with a link did not take. A card without one may
/// refuse, for it leads nowhere; `NetworkManager` knows what it gets with its link.
pub(crate) async fn take_back(
    root: &Root,
    bus: &zbus::Connection,
    tried: &[StaticAddress],
    before: &[StaticAddress],
) -> Result<()> {
    let (mut kept, mut there) = (BTreeSet::new(), Vec::new());
    for address in before {
        match card_of(root, address).await {
            Ok(card) => {
                kept.insert(card.mac);
                there.push(address.clone());
            }
            Err(error) => tracing::warn!("{} is given back to none: {error:#}", address.address),
        }
    }
    let mut cards: Vec<Card> = Vec::new();
    for address in tried {
        // What no card was found for was given to none.
        let Ok(card) = card_of(root, address).await else { continue };
        if kept.insert(card.mac) {
            write(root, &Profile::automatic(card.mac))?;
            cards.push(card);
        }
    }
    let mut failed = Ok(());
    for card in cards {
        match activate(bus, &Profile::automatic(card.mac), &card).await {
            Err(error) if card.link => failed = Err(error),
            Err(error) => tracing::warn!("{} has no link: {error:#}", card.name),
            Ok(()) => {}
        }
    }
    apply(root, bus, &there).await.and(failed)
}

/// Whether there already are the profiles that [`apply`] would write.
pub(crate) fn is_applied(root: &Root, wanted: &[StaticAddress]) -> bool {
    let cards = facts::cards(root);
    let on_card = |address: &StaticAddress| {
        let card = match address.mac {
            Some(mac) => with_mac(&cards, mac).ok(),
            None => choose(&cards, |card| had(root, address, card), true),
        };
        Some((card?.mac, address.clone()))
    };
    let is_there = |profile: &Profile| {
        let text = root.read_text(profile.path()).ok().flatten();
        text.is_some_and(|text| text == profile.text())
    };
    let on_cards: Option<Vec<_>> = wanted.iter().map(on_card).collect();
    on_cards.is_some_and(|on_cards| Profile::of(&on_cards).iter().all(is_there))
}

/// The addresses in all profiles that there are of ours.
pub(crate) fn present(root: &Root) -> Result<Vec<StaticAddress>> {
    let mut addresses = Vec::new();
    for path in ours(root)? {
        if let Some(text) = root.read_text(path)? {
            addresses.extend(keyfile::addresses_in(&text));
        }
    }
    Ok(addresses)
}

/// The paths of all profiles that there are of ours.
fn ours(root: &Root) -> Result<Vec<String>> {
    let names = root.names(keyfile::DIR)?;
    let ours = names.iter().filter_map(|name| name.to_str()).filter(|name| keyfile::is_ours(name));
    Ok(ours.map(|name| format!("{}/{name}", keyfile::DIR)).collect())
}

/// True if the profile is another one than there was.
fn write(root: &Root, profile: &Profile) -> Result<bool> {
    root.make_dirs(keyfile::DIR, 0o755)?;
    let changed = root.put(profile.path(), Access::ours(0o600), profile.text().as_bytes())?;
    super::labels::restore(root, &[profile.path().into()]);
    Ok(changed)
}

async fn card_of(root: &Root, address: &StaticAddress) -> Result<Card> {
    match address.mac {
        Some(mac) => with_mac(&facts::cards(root), mac).cloned(),
        None => for_address(root, address).await,
    }
}

fn with_mac(cards: &[Card], mac: MacAddr) -> Result<&Card> {
    cards
        .iter()
        .find(|card| card.mac == mac)
        .with_context(|| format!("no network card has the address {mac}; there are: {}", named(cards)))
}

/// Cards, for whoever has to find the right one.
fn named(cards: &[Card]) -> String {
    let cards: Vec<String> = cards.iter().map(|card| format!("{} {}", card.name, card.mac)).collect();
    cards.join(", ")
}

/// The card for an address that names none.
async fn for_address(root: &Root, address: &StaticAddress) -> Result<Card> {
    let deadline = Instant::now() + LINK_DEADLINE;
    loop {
        let (cards, waited) = (facts::cards(root), Instant::now() > deadline);
        if let Some(card) = choose(&cards, |card| had(root, address, card), waited) {
            return Ok(card.clone());
        }
        if waited {
            bail!(
                "no network card has a link, so none can be chosen for {}; there are: {}",
                address.address,
                if cards.is_empty() { "none".to_owned() } else { named(&cards) }
            );
        }
        sleep(LOOK).await;
    }
}

/// Whether a profile of ours gives the card the address.
fn had(root: &Root, address: &StaticAddress, card: &Card) -> bool {
    let profile = Profile::of(&[(card.mac, address.clone())]).remove(0);
    let there = root.read_text(profile.path()).ok().flatten();
    there.is_some_and(|text| keyfile::gives_one_of(&text, &profile))
}

/// The card that was given the address before, if it has a link or may get one
/// yet; else the first with a link. The only card is taken as it is. None is
/// guessed at: a profile stays for good, and what has no link leads nowhere.
fn choose(cards: &[Card], has_it: impl Fn(&Card) -> bool, waited: bool) -> Option<&Card> {
    if let [only] = cards {
        return Some(only);
    }
    match cards.iter().find(|card| has_it(card)) {
        Some(card) if card.link => Some(card),
        Some(_) if !waited => None,
        _ => cards.iter().find(|card| card.link),
    }
}

/// Profiles of ours, by path and uuid, that give one of these addresses to
/// another card: it was chosen before this one had its driver or its link, or
/// was named then. An address belongs to one card.
fn elsewhere(root: &Root, profiles: &[Profile]) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    // Unfinished, ours has the uuid of the profile that it was to become.
    for path in ours(root)? {
        if profiles.iter().any(|profile| profile.path() == path) {
            continue;
        }
        // One that cannot be read is none of ours.
        let Some(text) = root.read_text(&path).ok().flatten() else { continue };
        if let Some(uuid) = keyfile::uuid_of_ours(&text)
            && profiles.iter().any(|profile| keyfile::gives_one_of(&text, profile))
        {
            found.push((path, uuid.to_owned()));
        }
    }
    Ok(found)
}

/// Takes a profile from the disk and from `NetworkManager`, if that runs.
async fn give_up(root: &Root, bus: &zbus::Connection, path: &str, uuid: &str) -> Result<()> {
    let deleting = || format!("taking {path} back");
    let settings = SettingsProxy::new(bus).await.with_context(deleting)?;
    match settings.get_connection_by_uuid(uuid).await {
        Ok(known) => {
            let connection = ConnectionProxy::builder(bus).path(known);
            connection.build().await.with_context(deleting)?.delete().await.with_context(deleting)?;
        }
        // It knows none, or is not there to know: it is the file that would count.
        Err(error) => tracing::debug!("{}: {error}", deleting()),
    }
    root.remove(path.as_ref())
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
    let nothing = ObjectPath::from_static_str_unchecked("/");
    let connection = if profile.is_automatic() {
        // The best there is for the device: an installer's comes before ours.
        nothing.clone().into()
    } else {
        settings.get_connection_by_uuid(&profile.uuid()).await.with_context(activating)?
    };
    let device = manager.get_device_by_ip_iface(&card.name).await.with_context(activating)?;
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

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;

//! Another key for the coordinator, by the recovery key's word.
//!
//! The new key is on the disk before the registry knows of it, and takes the
//! old one's place last; [`settle`] finishes what was interrupted in between.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use jiff::Timestamp;
use kiln_protocol::recovery::{PinChange, RecoverySeed};
use kiln_protocol::{Fingerprint, Identity};

use crate::store::dir::{self, StateDir};
use crate::store::events::{self, Actor, Event, What};
use crate::store::sealed::{self, KeyFile};
use crate::store::{self, Transaction, keys, pin};
use crate::transition::epoch;
use crate::unlock::UnlockFile;
use crate::unlocking;

/// Gives the coordinator of a state directory that nobody serves a new key;
/// returns its pin. Tickets made for the old one are void.
pub(crate) fn change(path: &Path, recovery: &RecoverySeed, unlock: &UnlockFile) -> Result<Fingerprint> {
    let state = StateDir::new(path);
    state.check()?;
    let guard = state.lock()?;
    ensure!(state.database().exists(), "there is no registry in {}", path.display());
    let public = recovery.public_key();
    let known = store::once(&state.database(), None, pin::recovery)?;
    match known {
        None => bail!("the state in {} was made without a recovery key: nodes trust none", path.display()),
        Some(known) if known != public => {
            bail!(
                "this is not the recovery key of the state in {}: nodes would not believe it",
                path.display()
            )
        }
        Some(_) => {}
    }
    let unlock = unlocking::unlock(&state, unlock)?;
    let identity = Identity::generate().context("making the new key")?;
    let (new, now, pem) = (identity.fingerprint(), Timestamp::now(), identity.to_pem());
    dir::replace_private(&state.next_coordinator_key(), pem.expose().as_bytes())?;
    store::once(&state.database(), Some(&unlock), |tx| {
        // Backups hold the key that the registry names.
        sealed::settle(tx, &[(KeyFile::Coordinator, pem)])?;
        note(tx, &new, recovery, now)
    })?;
    dir::rename(&state.next_coordinator_key(), &state.coordinator_key())?;
    drop(guard);
    Ok(new)
}

fn note(tx: &Transaction<'_>, new: &Fingerprint, recovery: &RecoverySeed, now: Timestamp) -> Result<()> {
    let last = pin::last_change(tx)?.map_or(0, |(_, change)| change.serial);
    // By the clock, so that a state that was set back does not repeat a serial.
    let serial = u64::try_from(now.as_second()).unwrap_or(0).max(last + 1);
    keys::note(tx, new, keys::Kind::Coordinator, "coordinator", now)?;
    pin::set_change(tx, new, &recovery.change_pin(serial, new))?;
    events::note(tx, &Actor::local(), &Event::about_all(What::PinChange, &format!("to key {new}")), now)?;
    epoch::raise(tx, "the coordinator's key was changed", &Actor::local(), now)?;
    Ok(())
}

/// The key to serve with, and the statement to show with it: finishes a change
/// that was interrupted, and refuses a key that was replaced.
pub(crate) fn settle(state: &StateDir) -> Result<(Identity, Option<PinChange>)> {
    let last = store::once(&state.database(), None, pin::last_change)?;
    let reading = || format!("opening the state in {}", state.path().display());
    let Some((pin, change)) = last else {
        return Ok((StateDir::read_key(&state.coordinator_key()).with_context(reading)?, None));
    };
    if let Ok(identity) = StateDir::read_key(&state.coordinator_key())
        && identity.fingerprint() == pin
    {
        return Ok((identity, Some(change)));
    }
    if let Ok(identity) = StateDir::read_key(&state.next_coordinator_key())
        && identity.fingerprint() == pin
    {
        dir::rename(&state.next_coordinator_key(), &state.coordinator_key())?;
        return Ok((identity, Some(change)));
    }
    bail!(
        "coordinator.key in {} is not the key {pin} that took its place: restore both from one backup",
        state.path().display()
    )
}

//! Another key for the coordinator, by the recovery key's word: one transaction.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use jiff::Timestamp;
use kiln_protocol::recovery::RecoverySeed;
use kiln_protocol::{Fingerprint, Identity};

use crate::store::dir::StateDir;
use crate::store::events::{self, Actor, Event, What};
use crate::store::{self, Transaction, keys, pin, sealed};
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
    // What an older Kiln left in the clear goes first.
    unlocking::settle(&state, &unlock)?;
    let identity = Identity::generate().context("making the new key")?;
    let (new, now) = (identity.fingerprint(), Timestamp::now());
    store::once(&state.database(), Some(&unlock), |tx| {
        sealed::set_own_key(tx, &identity.to_pem())?;
        note(tx, &new, recovery, now)
    })?;
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

//! The unlock key of a state: finding it, putting it to use, replacing it; and
//! the coordinator's own key, which nothing else opens.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use kiln_protocol::recovery::PinChange;
use kiln_protocol::{Fingerprint, Identity};

use crate::registry::KeyOwner;
use crate::store::dir::{self, StateDir};
use crate::store::events::{self, Actor, Event, What};
use crate::store::{self, Transaction, keys, pin, sealed};
use crate::unlock::{KeyId, UnlockFile, UnlockKey};

/// The key that the state is sealed under. A state that nothing was sealed in
/// yet, as an older Kiln left it, gets one.
pub(crate) fn unlock(state: &StateDir, file: &UnlockFile) -> Result<UnlockKey> {
    file.check_outside(state.path())?;
    let under = store::once(&state.database(), None, sealed::under)?;
    let Some(under) = under else { return file.read_or_make() };
    // A rotation was cut off after the state was sealed anew.
    let next = file.next();
    if next.path().exists() && next.read()?.id() == under {
        file.advance()?;
    }
    fitting(state, file, &under)
}

/// As [`unlock`], of a state that somebody else may have open: nothing is made,
/// moved or brought to another version.
pub(crate) fn matching(state: &StateDir, file: &UnlockFile) -> Result<UnlockKey> {
    file.check_outside(state.path())?;
    let under = store::as_it_is(&state.database(), sealed::under)?;
    let under = under.context(
        "the state is an older Kiln's, whose secrets are not sealed yet: let coordinator serve open it first",
    )?;
    fitting(state, file, &under)
}

fn fitting(state: &StateDir, file: &UnlockFile, under: &KeyId) -> Result<UnlockKey> {
    let key = file.read()?;
    ensure!(
        key.id() == *under,
        "the secrets in {} are sealed under the unlock key {under}, and {} holds the unlock key {}: bring \
         the right one back, or name it with --unlock-key",
        state.path().display(),
        file.path().display(),
        key.id()
    );
    Ok(key)
}

/// Seals what is to be sealed; returns the key to serve with, and the recovery
/// key's word for it if it took another's place.
///
/// What an older Kiln kept in the clear is removed once it is known to be in
/// the registry, or to have been replaced there: whenever that is cut off, the
/// next start does it again.
pub(crate) fn settle(state: &StateDir, key: &UnlockKey) -> Result<(Identity, Option<PinChange>)> {
    let mut clear = Vec::new();
    for path in state.clear_keys().into_iter().filter(|path| path.exists()) {
        clear.push(StateDir::read_key(&path)?);
    }
    let at = || format!("opening the secrets in {}", state.path().display());
    let own = store::once(&state.database(), Some(key), |tx| settle_in(tx, clear)).with_context(at)?;
    for path in state.clear_keys() {
        dir::remove(&path)?;
    }
    Ok(own)
}

fn settle_in(tx: &Transaction<'_>, clear: Vec<Identity>) -> Result<(Identity, Option<PinChange>)> {
    sealed::settle(tx)?;
    for stray in &clear {
        ensure!(
            keys::owner(tx, &stray.fingerprint())? == Some(KeyOwner::Coordinator),
            "coordinator.key (key {}) and state.db do not belong together: move the one that is not this \
             coordinator's away",
            stray.fingerprint()
        );
    }
    let pin: Fingerprint = pin::own(tx)?.context("the registry names no key of the coordinator")?;
    let change = pin::last_change(tx)?.map(|(_, change)| change);
    let kept = sealed::own_key(tx)?.map(|pem| Identity::from_pem(pem.expose())).transpose()?;
    if let Some(kept) = kept
        && kept.fingerprint() == pin
    {
        return Ok((kept, change));
    }
    let found = clear.into_iter().find(|identity| identity.fingerprint() == pin);
    let own = found.with_context(|| {
        format!("the coordinator's key {pin} is not in its state: restore the state from a backup")
    })?;
    sealed::set_own_key(tx, &own.to_pem())?;
    Ok((own, change))
}

/// Seals everything under a new key; returns where the old one is.
pub(crate) fn rotate(path: &Path, file: &UnlockFile, to: Option<&UnlockFile>) -> Result<PathBuf> {
    let state = StateDir::new(path);
    state.check()?;
    let _guard = state.lock()?;
    let old = unlock(&state, file)?;
    settle(&state, &old)?;
    let seal = |new: &UnlockKey| {
        store::once(&state.database(), Some(&old), |tx: &Transaction<'_>| {
            sealed::seal_anew(tx, new)?;
            let detail = format!("from unlock key {} to {}", old.id(), new.id());
            let event = Event::about_all(What::RotateUnlockKey, &detail);
            events::note(tx, &Actor::local(), &event, Timestamp::now())
        })
    };
    if let Some(to) = to {
        to.check_outside(path)?;
        seal(&to.make()?)?;
        return Ok(file.path().to_owned());
    }
    file.check_ours()?;
    let next = file.next();
    // Of a rotation that was cut off before it sealed anything.
    let _ = std::fs::remove_file(next.path());
    seal(&next.make()?)?;
    file.advance()
}

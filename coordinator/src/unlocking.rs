//! The unlock key of a state: finding it, putting it to use, replacing it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;

use crate::store::dir::StateDir;
use crate::store::events::{self, Actor, Event, What};
use crate::store::sealed::{self, KeyFile};
use crate::store::{self, Transaction};
use crate::unlock::{UnlockFile, UnlockKey};

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
    let key = file.read()?;
    ensure!(
        key.id() == under,
        "the secrets in {} are sealed under the unlock key {under}, and {} holds the unlock key {}: bring \
         the right one back, or name it with --unlock-key",
        state.path().display(),
        file.path().display(),
        key.id()
    );
    Ok(key)
}

/// Seals what is to be sealed.
pub(crate) fn settle(state: &StateDir, key: &UnlockKey) -> Result<()> {
    let coordinator = StateDir::read_pem(&state.coordinator_key())?;
    let mut files = vec![(KeyFile::Coordinator, coordinator)];
    if state.admin_key().exists() {
        files.push((KeyFile::Admin, StateDir::read_pem(&state.admin_key())?));
    }
    store::once(&state.database(), Some(key), |tx| sealed::settle(tx, &files)).context("sealing the secrets")
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

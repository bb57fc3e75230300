//! Admins come and go.

use anyhow::Result;
use jiff::Timestamp;
use kiln_protocol::names::AdminName;
use kiln_protocol::{ApiError, ErrorClass, Fingerprint};

use crate::registry::KeyOwner;
use crate::store::events::{self, Actor, Event, What};
use crate::store::{Transaction, admins, keys};

/// Refuses whoever is no admin, or none any more; `owner` is what their key was noted for.
pub(crate) fn check(owner: Option<&KeyOwner>) -> Result<(), ApiError> {
    let message = match owner {
        Some(KeyOwner::Admin(_)) => return Ok(()),
        Some(KeyOwner::FormerAdmin(name)) => {
            format!("the key of admin {name} was removed and may do nothing any more")
        }
        _ => "only an admin's key may do this".to_owned(),
    };
    Err(ApiError::new(ErrorClass::Policy, message))
}

/// Gives a key an admin's rights. Idempotent.
pub(crate) fn add(
    tx: &Transaction<'_>,
    name: &AdminName,
    key: Fingerprint,
    actor: &Actor,
    now: Timestamp,
) -> Result<()> {
    let policy = |message: String| ApiError::new(ErrorClass::Policy, message);
    match keys::owner(tx, &key)? {
        Some(KeyOwner::Admin(known)) if known == name.as_str() => return Ok(()),
        Some(KeyOwner::Admin(known)) => {
            return Err(policy(format!("this key is already admin {known}'s")).into());
        }
        Some(KeyOwner::FormerAdmin(known)) => {
            return Err(policy(format!("this key was admin {known}'s, and was removed"))
                .hint("a key that lost its rights never gets them back: make another one")
                .into());
        }
        Some(_) => return Err(policy("this key is a node's or a coordinator's".to_owned()).into()),
        None => {}
    }
    if admins::list(tx)?.iter().any(|admin| admin.name == *name && admin.removed.is_none()) {
        let message = format!("there is an admin {name} already, with another key");
        return Err(ApiError::new(ErrorClass::NameConflict, message)
            .hint(format!("use another name, or first: coordinator admin remove {name}"))
            .into());
    }
    keys::note(tx, &key, keys::Kind::Admin, name.as_str(), now)?;
    admins::add(tx, &key, name.as_str(), now)?;
    let detail = format!("{name}, key {key}");
    events::note(tx, actor, &Event::about_all(What::AddAdmin, &detail), now)?;
    Ok(())
}

/// Takes an admin's key every right. Idempotent.
pub(crate) fn remove(tx: &Transaction<'_>, name: &AdminName, actor: &Actor, now: Timestamp) -> Result<()> {
    if admins::remove(tx, name, now)? {
        events::note(tx, actor, &Event::about_all(What::RemoveAdmin, name.as_str()), now)?;
        return Ok(());
    }
    if admins::list(tx)?.iter().any(|admin| admin.name == *name) {
        return Ok(());
    }
    let message = format!("there is no admin {name}");
    Err(ApiError::new(ErrorClass::Policy, message).hint("see: coordinator admin list").into())
}

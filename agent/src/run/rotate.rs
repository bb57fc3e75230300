//! Replacing the node's key.
//!
//! ```text
//! 1. the new key is on the disk, as node.key.next
//! 2. the coordinator takes it in place of the old one
//! 3. the state names it
//! 4. node.key.next becomes node.key
//! ```
//!
//! Whatever is cut short between these goes on there: as long as the state
//! names the old key and there is a next one, the same is asked again and
//! nothing else is done with the old key, whatever the answers: an earlier one
//! may have been heard. A plain no to the very first time ends it. Once the state names the new key, the
//! file follows ([`identity::load_named`]).

use std::time::Duration;

use kiln_protocol::api::Step;
use tokio::time::sleep;

use super::driver::Node;
use super::state::{Event, Home, State};
use super::store;
use crate::host::Host;
use crate::identity;
use crate::retry::{Backoff, Failure, random};

impl<H: Host> Node<'_, H> {
    /// Whether the key is to be replaced: that was begun, or an operator has
    /// asked for it.
    pub(super) fn rotation_due(&self, home: &Home) -> Result<bool, Failure> {
        Ok(self.rotation_asked() || identity::load_next(self.root, &home.me.key)?.is_some())
    }

    /// Has another key take the node's key's place.
    pub(super) async fn rotate(&self, home: &Home) -> Result<(Event, String), Failure> {
        let client = self.client_for(home)?;
        let first = identity::load_next(self.root, &home.me.key)?.is_none();
        let new = identity::load_or_make_next(self.root, &home.me.key)?;
        if let Err(failure) = client.rotate(&new, first).await {
            if !client.is_retired() {
                // The key stays; another is made when it is asked for again.
                identity::drop_next(self.root)?;
            }
            return Err(failure);
        }
        let key = new.fingerprint();
        Ok((Event::KeyReplaced(key), format!("the node's key is now {key}")))
    }

    /// Replaces the key of a node that has nothing else to do, if that is due,
    /// and returns when it is done or was refused.
    pub(super) async fn rotate_if_due(&self, mut state: State) -> State {
        let mut backoff = Backoff::new(self.pace);
        while let Some(home) = state.home().cloned()
            && self.rotation_due(&home).unwrap_or(false)
        {
            let failure = match self.rotate(&home).await {
                Ok((event, note)) => match self.key_replaced(state.clone(), event, &note) {
                    Ok(next) => {
                        state = next;
                        continue;
                    }
                    Err(error) => Failure::local(&error),
                },
                Err(failure) => failure,
            };
            self.progress.note(Step::Ready, &format!("replacing the node's key: {}", failure.error));
            // The key is what it was, and serves for everything else.
            if failure.error.class.needs_operator() && !self.key_is_retired() {
                break;
            }
            sleep(backoff.after(&failure, random()).max(Duration::from_millis(1))).await;
        }
        state
    }

    /// The state that names the new key is on the disk when this returns.
    pub(super) fn key_replaced(&self, state: State, event: Event, note: &str) -> anyhow::Result<State> {
        let step = state.step();
        let next = state.after(event)?;
        store::save(self.root, &next)?;
        self.forget_client();
        if let Some(me) = next.me()
            && let Err(error) = identity::load_named(self.root, &me.key)
        {
            // Whoever loads the key next does it again.
            tracing::warn!("{error:#}");
        }
        self.progress.identify(&next);
        self.progress.note(step, note);
        Ok(next)
    }
}

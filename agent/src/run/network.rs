//! Network settings have to prove themselves: a mistake in a file must not cut a
//! node off from its cure. What there was before is on the disk until the
//! coordinator was reached with what took its place, and is given back if it is
//! not, or if the power is cut before and it is not reached after that.

use std::time::Duration;

use anyhow::Context as _;
use kiln_protocol::ApiError;
use kiln_protocol::error::ErrorClass;
use kiln_protocol::seed::StaticAddress;
use tokio::time::{Instant, sleep};

use super::driver::Node;
use super::state::Home;
use crate::applied::Applied;
use crate::host::Host;
use crate::identity;
use crate::retry::Failure;

/// Between two tries to reach the coordinator over a changed network.
const LOOK: Duration = Duration::from_secs(1);

impl<H: Host> Node<'_, H> {
    /// Proves settings that an earlier run did not come to prove, or gives back
    /// what there was before those that were refused. True if that is done with; if
    /// it cannot be done yet, false, as long as there is a way to the coordinator:
    /// what it has to say may be the cure.
    pub(super) async fn settle_network(&self, home: &Home) -> Result<bool, Failure> {
        match Applied::load(self.root)?.filter(|applied| applied.before.is_some()) {
            Some(mut applied) => Box::pin(self.settle(home, &mut applied)).await,
            None => Ok(false),
        }
    }

    async fn settle(&self, home: &Home, applied: &mut Applied) -> Result<bool, Failure> {
        let outcome = match self.refused_before(&applied.network) {
            Some(refused) => Err(self.give_back(applied, refused).await),
            None => self.prove(home, applied).await,
        };
        if let Err(failure) = &outcome
            && applied.before.is_some()
            && self.reach(home).await.is_ok()
        {
            tracing::warn!("the coordinator answers, so this has time: {}", failure.error);
            return Ok(false);
        }
        outcome.map(|()| true)
    }

    /// Gives the cards other settings than `before`, and keeps them only if the
    /// coordinator can be reached with them. What is still to be given back since
    /// an earlier change stays that.
    pub(super) async fn change_network(
        &self,
        home: &Home,
        applied: &mut Applied,
        before: Vec<StaticAddress>,
        wanted: &[StaticAddress],
    ) -> Result<(), Failure> {
        applied.before.get_or_insert(before);
        applied.network = wanted.to_vec();
        applied.save(self.root)?;
        Box::pin(self.prove(home, applied)).await
    }

    /// Why these settings were refused, if they are the last that this run has
    /// tried: a node that is ready is not cut off again and again for them.
    pub(super) fn refused_before(&self, wanted: &[StaticAddress]) -> Option<ApiError> {
        let refused = self.refused_network.borrow();
        refused.as_ref().filter(|(network, _)| network == wanted).map(|(_, error)| error.clone())
    }

    /// Rare, and large: its callers keep it out of what they wait with.
    ///
    /// Fails with `policy` if the settings were taken back because they lead to no
    /// coordinator, and with `transient` if the cards did not take them, or not
    /// what they had before.
    async fn prove(&self, home: &Home, applied: &mut Applied) -> Result<(), Failure> {
        let outcome = match self.host.set_addresses(&applied.network).await {
            Ok(()) => {
                let unreached = |failure: Failure| (ErrorClass::Policy, failure.error.message);
                self.reach(home).await.map_err(unreached)
            }
            Err(error) => Err((ErrorClass::Transient, format!("{error:#}"))),
        };
        let Err((class, why)) = outcome else {
            (applied.before, *self.refused_network.borrow_mut()) = (None, None);
            return Ok(applied.save(self.root)?);
        };
        let message = format!("the new network settings were taken back: {why}");
        let refused = ApiError::new(class, message).hint("correct the cluster file and apply it");
        self.refused_network.replace(Some((applied.network.clone(), refused.clone())));
        Err(self.give_back(applied, refused).await)
    }

    /// Gives the cards what they had before the settings that were `refused`.
    /// Returns what is to be said of it. As long as it fails, it is still to be done.
    pub(super) async fn give_back(&self, applied: &mut Applied, refused: ApiError) -> Failure {
        let before = applied.before.clone().unwrap_or_default();
        let back = self.host.take_back(&applied.network, &before).await;
        let given = Applied { network: before, before: None, ..applied.clone() };
        let saved =
            back.context("giving the cards their earlier addresses").and_then(|()| given.save(self.root));
        match saved {
            Ok(()) => {
                *applied = given;
                refused.into()
            }
            Err(error) => error.into(),
        }
    }

    /// Whether the coordinator answers, over a connection that is new.
    async fn reach(&self, home: &Home) -> Result<(), Failure> {
        let end = Instant::now() + self.pace.longest;
        loop {
            let client = self.bonded_client(home)?;
            // A key that is being replaced is used for nothing else.
            let answer = if identity::load_next(self.root, &home.me.key)?.is_some() {
                client.greet().await
            } else {
                client.config_after(None, Duration::ZERO).await.map(drop)
            };
            match answer {
                Ok(()) => return Ok(()),
                Err(failure) if failure.heard => return Ok(()),
                Err(failure) if Instant::now() > end => return Err(failure),
                Err(_) => sleep(LOOK.min(self.pace.longest / 4)).await,
            }
        }
    }
}

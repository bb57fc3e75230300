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
    /// Proves settings that an earlier run did not come to prove.
    pub(super) async fn settle_network(&self, home: &Home) -> Result<(), Failure> {
        match Applied::load(self.root)?.filter(|applied| applied.before.is_some()) {
            Some(mut applied) => Box::pin(self.prove(home, &mut applied)).await,
            None => Ok(()),
        }
    }

    /// Gives the cards other settings than `before`, and keeps them only if the
    /// coordinator can be reached with them.
    pub(super) async fn change_network(
        &self,
        home: &Home,
        applied: &mut Applied,
        before: Vec<StaticAddress>,
        wanted: &[StaticAddress],
    ) -> Result<(), Failure> {
        (applied.before, applied.network) = (Some(before), wanted.to_vec());
        applied.save(self.root)?;
        Box::pin(self.prove(home, applied)).await
    }

    /// Rare, and large: its callers keep it out of what they wait with.
    ///
    /// Fails with `policy` if the settings were taken back because they lead to no
    /// coordinator, and with `transient` if the cards did not take them.
    async fn prove(&self, home: &Home, applied: &mut Applied) -> Result<(), Failure> {
        let outcome = match self.host.set_addresses(&applied.network).await {
            Ok(()) => {
                let unreached = |failure: Failure| (ErrorClass::Policy, failure.error.message);
                self.reach(home).await.map_err(unreached)
            }
            Err(error) => Err((ErrorClass::Transient, format!("{error:#}"))),
        };
        let before = applied.before.take().unwrap_or_default();
        let Err((class, why)) = outcome else { return Ok(applied.save(self.root)?) };
        // As long as that fails, it is still to be done.
        let back = self.host.take_back(&applied.network, &before).await;
        back.context("giving the cards their earlier addresses")?;
        applied.network = before;
        applied.save(self.root)?;
        let message = format!("the new network settings were taken back: {why}");
        Err(ApiError::new(class, message).hint("correct the cluster file and apply it").into())
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

//! The cluster's tokens are rotated, and this node follows.
//!
//! One ready server's agent is asked to give the new server token to its k3s; once
//! that is so, every server's configuration has it, and each gives it to its own
//! k3s, which goes on running. A node whose k3s was off has the new token in its
//! file before k3s can come up; k3s, which systemd starts again and again, then
//! does. What an agent joins with is only a file.

use anyhow::Result;
use kiln_protocol::Role;
use kiln_protocol::api::Step;
use kiln_protocol::chores::TokenChange;
use kiln_protocol::config::{Incarnation, NodeConfig};

use super::driver::Node;
use super::join::check;
use super::state::Home;
use crate::apply::token;
use crate::host::Host;
use crate::retry::Failure;

impl<H: Host> Node<'_, H> {
    /// Gives k3s another server token, as a chore.
    pub(super) async fn change_token(&self, change: &TokenChange) -> Result<()> {
        let known = token::begin(self.root, change.serial, &change.token)?;
        self.host.change_server_token(&known.candidates, &change.token).await?;
        token::finish(self.root, &change.token)
    }

    /// Has k3s, which may be running, go on with the token of the configuration.
    /// True if that is another one.
    pub(super) async fn follow_token(&self, config: &NodeConfig) -> Result<bool, Failure> {
        let wanted = config.k3s.membership.token();
        if config.role() == Role::Agent {
            return Ok(token::set(self.root, wanted)?);
        }
        let known = token::known(self.root)?;
        // Of a change that was made here the coordinator may not have heard yet.
        let overtaken = config.k3s.token_serial < known.serial;
        if overtaken || (!known.is_open() && token::present(self.root)?.as_ref() == Some(wanted)) {
            return Ok(false);
        }
        let known = token::begin(self.root, config.k3s.token_serial, wanted)?;
        // The datastore is under it: without it k3s does not start again.
        token::set(self.root, wanted)?;
        if let Err(error) = self.host.change_server_token(&known.candidates, wanted).await {
            self.progress.running(Step::Ready, &format!("k3s has not taken the new token yet: {error:#}"));
            return Err(error.into());
        }
        token::finish(self.root, wanted)?;
        Ok(true)
    }

    /// k3s does not come up. If that may be for its token, another one is put
    /// there: the configuration's, or, if a change was cut short here, one of those
    /// that its datastore may be under.
    pub(super) async fn try_another_token(&self, home: &Home, incarnation: Incarnation) -> Result<bool> {
        let known = token::known(self.root)?;
        let told = match self.client_for(home) {
            Ok(client) => client.config().await,
            Err(failure) => Err(failure),
        };
        if let Ok(config) = told
            && check(&config, home).is_ok()
            && config.incarnation == incarnation
            && config.k3s.token_serial >= known.serial
        {
            return token::set(self.root, config.k3s.membership.token());
        }
        token::try_another(self.root)
    }
}

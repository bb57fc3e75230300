//! What a ready server goes on doing: chores in its cluster that the
//! coordinator, which may not reach the API server, asks it for.
//!
//! k3s runs without this, and a coordinator that is gone is asked rarely. A
//! chore is done through `k3s kubectl`, as root of this host may; secrets go
//! over its standard input.

use std::time::Duration;

use anyhow::{Context as _, Result};
use kiln_protocol::Role;
use kiln_protocol::chores::{CHORES_GOOD_FOR, Chores, ChoresDone, ChoresRequest, JoinToken};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::driver::Node;
use super::state::State;
use super::store;
use crate::host::Host;
use crate::retry::{Backoff, Failure, random};

/// Deleting a server's Node object waits for etcd to let its member go.
const DELETE_TIMEOUT: &str = "--timeout=20s";

impl<H: Host> Node<'_, H> {
    /// Does chores for ever, if the state is a ready server's; else returns.
    pub async fn tend(&self, state: &State) {
        let State::Ready { home, incarnation } = state else { return };
        if home.bound.role != Role::Server {
            return;
        }
        let (mut home, incarnation) = (home.clone(), *incarnation);
        let mut request = ChoresRequest { incarnation, done: ChoresDone::default() };
        let mut backoff = Backoff::new(self.pace);
        loop {
            // Its key may have been replaced in the meantime.
            if let Ok(State::Ready { home: now, .. }) = store::load(self.root) {
                home = now;
            }
            let answer = match self.client_for(&home) {
                Ok(client) => client.chores(&request).await,
                Err(failure) => Err(failure),
            };
            match answer {
                Ok(chores) => {
                    backoff = Backoff::new(self.pace);
                    request.done = self.do_chores(&chores).await;
                    // An answer without chores has waited long enough by itself.
                    if chores.is_empty() || request.done.failure.is_some() {
                        sleep(self.pace.first.mul_f64(0.5 + random() / 2.0)).await;
                    }
                }
                Err(failure) => {
                    tracing::debug!("asking for chores: {}", failure.error);
                    sleep(backoff.after(&failure, random())).await;
                }
            }
        }
    }

    /// Does what can be done while the chores are this server's.
    async fn do_chores(&self, chores: &Chores) -> ChoresDone {
        let end = Instant::now() + Duration::from_secs(CHORES_GOOD_FOR);
        let mut done = ChoresDone::default();
        let mut failures = Vec::new();
        let mut note = |result: Result<()>| {
            if let Err(error) = &result {
                let failure = Failure::local(error).error;
                tracing::warn!("a chore failed: {failure}");
                failures.push(format!("{error:#}"));
            }
            result.is_ok()
        };
        if !chores.make_tokens.is_empty() && note(self.make_tokens(&chores.make_tokens, end).await) {
            done.tokens_made = chores.make_tokens.iter().map(|token| token.id.clone()).collect();
        }
        if !chores.delete_tokens.is_empty() {
            let names = chores.delete_tokens.iter().map(|id| format!("bootstrap-token-{id}"));
            let names: Vec<String> = names.collect();
            if note(self.delete(&["secret", "--namespace=kube-system"], &names, end).await) {
                done.tokens_deleted.clone_from(&chores.delete_tokens);
            }
        }
        if !chores.delete_nodes.is_empty() {
            let names: Vec<String> = chores.delete_nodes.iter().map(ToString::to_string).collect();
            if note(self.delete(&["node"], &names, end).await) {
                done.nodes_deleted.clone_from(&chores.delete_nodes);
            }
        }
        if let Some(change) = &chores.change_token
            && note(self.change_token(change).await.context("giving k3s another server token"))
        {
            done.token_changed = Some(change.serial);
        }
        if chores.list_members {
            match self.host.etcd_members().await.context("asking etcd for its members") {
                Ok(members) => done.members = Some(members),
                Err(error) => drop(note(Err(error))),
            }
        }
        done.failure = (!failures.is_empty()).then(|| failures.join("; "));
        done
    }

    async fn make_tokens(&self, tokens: &[JoinToken], end: Instant) -> Result<()> {
        // Server-side: client-side apply would keep a second copy of each
        // secret in an annotation.
        let args = ["apply", "--server-side", "--force-conflicts", "--filename=-"];
        self.kubectl(&args, Some(&secrets(tokens)), end).await.context("putting join tokens into the cluster")
    }

    async fn delete(&self, what: &[&str], names: &[String], end: Instant) -> Result<()> {
        let flags = ["delete", "--ignore-not-found", DELETE_TIMEOUT];
        let names = names.iter().map(String::as_str);
        let args: Vec<&str> = flags.into_iter().chain(what.iter().copied()).chain(names).collect();
        self.kubectl(&args, None, end).await
    }

    async fn kubectl(&self, args: &[&str], input: Option<&str>, end: Instant) -> Result<()> {
        let left = end.saturating_duration_since(Instant::now());
        self.host.kubectl(args, input, left).await.map(drop)
    }
}

/// Bootstrap tokens as Kubernetes keeps them
/// (kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens), in the
/// group that `k3s token create` gives them.
fn secrets(tokens: &[JoinToken]) -> zeroize::Zeroizing<String> {
    let items: Vec<_> = tokens
        .iter()
        .map(|JoinToken { id, secret, node }| {
            json!({
                "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
                "metadata": {"name": format!("bootstrap-token-{id}"), "namespace": "kube-system"},
                "stringData": {
                    "token-id": id, "token-secret": secret.expose(),
                    "description": format!("kiln: joins {node}"),
                    "usage-bootstrap-authentication": "true",
                    "auth-extra-groups": "system:bootstrappers:k3s:default-node-token",
                },
            })
        })
        .collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string().into()
}

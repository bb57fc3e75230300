//! What a ready server's agent is asked to do in the cluster, and what it
//! tells of that. What is to be done stands in the seats, so that a lost
//! answer or a restart forgets nothing; every chore may be done twice.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use kiln_protocol::chores::{Chores, ChoresDone, ChoresRequest};
use kiln_protocol::{ApiError, ErrorClass, NodeName, Role};

use super::node::{confirmed, trusted};
use super::{cluster_now, live, tokens};
use crate::contacts::Contacts;
use crate::k3s::join_token_id;
use crate::registry::{JoinState, ObjectState, State};
use crate::store::events::{self, Actor, Event, What};
use crate::store::incarnations::Live;
use crate::store::{Transaction, incarnations, seats};

/// Join tokens that are handed out at a time: a request of that many is made
/// in a few seconds.
const TOKENS: usize = 100;

/// Whether a server may do chores.
fn check(tx: &Transaction<'_>, seat: i64, request: &ChoresRequest, now: Timestamp) -> Result<Live> {
    let seat = seats::by_id(tx, seat)?;
    trusted(&seat)?;
    confirmed(&seat, now)?;
    let live = live(tx)?;
    let refuse = |message: String| Err(ApiError::new(ErrorClass::Policy, message));
    if seat.role != Role::Server || seat.ready.is_none() {
        refuse(format!("only a ready server does chores, and {} is none", seat.label()))?;
    }
    if request.incarnation != live.id || seat.incarnation != live.id {
        refuse(format!("the chores are incarnation {}'s", live.id))?;
    }
    Ok(live)
}

/// What is to be done.
pub(crate) fn look(
    tx: &Transaction<'_>,
    seat: i64,
    request: &ChoresRequest,
    contacts: &Contacts,
    now: Timestamp,
) -> Result<Chores> {
    let live = check(tx, seat, request, now)?;
    let mut chores = Chores::default();
    let pending = seats::with_chores(tx, live.id)?;
    let mut secrets = None;
    for seat in &pending {
        match seat.token {
            Some(JoinState::Wanted)
                if matches!(seat.state, State::Bound(_)) && chores.make_tokens.len() < TOKENS =>
            {
                if secrets.is_none() {
                    secrets = incarnations::secrets(tx)?;
                }
                let secrets = secrets.as_ref().context("a live incarnation has no secrets")?;
                chores.make_tokens.push(secrets.join_token(seat.id, &seat.node)?);
            }
            Some(JoinState::Unwanted) => chores.delete_tokens.push(join_token_id(seat.id)?),
            _ => {}
        }
        // A machine that still speaks would register again.
        let silent = matches!(seat.state, State::Revoked(_)) || contacts.heard(seat.id, now).is_none();
        if seat.object == ObjectState::Doomed
            && silent
            && contacts.settled(now)
            && !chores.delete_nodes.contains(&seat.node)
        {
            chores.delete_nodes.push(seat.node.clone());
        }
    }
    chores.change_token = tokens::chore(tx)?;
    let (cluster, _) = cluster_now(tx, &live, contacts, now)?;
    chores.list_members = cluster.wants_members(now.as_second())
        || (cluster.multi_server
            && pending.iter().any(|s| s.role == Role::Server && s.object == ObjectState::Doomed));
    Ok(chores)
}

/// Takes what was done.
pub(crate) fn take(
    tx: &Transaction<'_>,
    seat: i64,
    request: &ChoresRequest,
    actor: &Actor,
    contacts: &Contacts,
    now: Timestamp,
) -> Result<()> {
    let live = check(tx, seat, request, now)?;
    let ChoresDone { tokens_made, tokens_deleted, nodes_deleted, members, failure, .. } = &request.done;
    if let Some(failure) = failure {
        tracing::warn!(who = actor.who, "chores: {}", failure.escape_debug());
    }
    tokens::take(tx, &live, &request.done, actor, now)?;
    for seat in &seats::with_chores(tx, live.id)? {
        let note = |what, detail: &str| events::note(tx, actor, &Event::of(what, seat.id, detail), now);
        match seat.token {
            Some(JoinState::Wanted) if tokens_made.contains(&join_token_id(seat.id)?) => {
                seats::set_token(tx, seat.id, Some(JoinState::Made))?;
            }
            Some(JoinState::Unwanted) if tokens_deleted.contains(&join_token_id(seat.id)?) => {
                seats::set_token(tx, seat.id, Some(JoinState::Gone))?;
                note(What::TokenDeleted, &format!("the join token of {}", seat.label()))?;
            }
            _ => {}
        }
        if seat.object == ObjectState::Doomed && nodes_deleted.contains(&seat.node) {
            seats::set_object(tx, seat.id, ObjectState::Gone)?;
            note(What::NodeDeleted, &format!("the Node object of {}", seat.label()))?;
        }
    }
    let Some(list) = members.as_ref().filter(|list| !list.is_empty()) else { return Ok(()) };
    let (cluster, plan) = cluster_now(tx, &live, contacts, now)?;
    let address =
        |node: &NodeName| -> Option<IpAddr> { plan.node(node)?.address.map(|address| address.addr()) };
    for member in cluster.missing_from(list, address, now.as_second()) {
        let generations = seats::of_node(tx, &member.node)?;
        let seat = generations.iter().find(|seat| seat.generation == member.generation);
        let seat = seat.context("a member has no seat")?;
        seats::set_left(tx, seat.id, Some(now))?;
        let detail = format!("{}, says etcd", seat.label());
        events::note(tx, actor, &Event::of(What::MemberGone, seat.id, &detail), now)?;
    }
    Ok(())
}

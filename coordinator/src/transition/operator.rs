//! What an operator does to the cluster and its nodes.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use kiln_protocol::admin::TicketRecord;
use kiln_protocol::config::Incarnation;
use kiln_protocol::{ApiError, ClusterName, ErrorClass, NodeName, Role, Secret, TicketKey};

use super::{clear_up, cluster_now, forget_datastore, live};
use crate::contacts::Contacts;
use crate::k3s::{ClusterSecrets, KubeUser, ServerUrl};
use crate::plan::{API_PORT, ClusterFile, change};
use crate::registry::operator::{self, MintContext, Speaking};
use crate::registry::{JoinState, ObjectState, Seat, State};
use crate::store::events::{self, Actor, Event, What};
use crate::store::incarnations::Restore;
use crate::store::{Transaction, incarnations, keys, ratchets, rounded, seats};

/// What putting a cluster file in force would do: to which incarnation, and
/// what changes, in words. Changes nothing.
///
/// # Errors
/// A change that the live cluster cannot follow.
pub(crate) fn preview(tx: &Transaction<'_>, plan: &ClusterFile) -> Result<(Incarnation, Vec<String>)> {
    let Some(live) = incarnations::live(tx)? else {
        if let Some(before) = incarnations::newest_file(tx)?.filter(|before| before.name() != plan.name()) {
            // The same refusal as for a live cluster, from the same rule.
            change::check(&before, plan, &BTreeSet::new())?;
        }
        let next =
            incarnations::newest(tx)?.map_or(Incarnation(1), |Incarnation(last)| Incarnation(last + 1));
        return Ok((
            next,
            vec![format!(
                "incarnation {next} of {} begins: a cluster with authorities, tokens and data of its own",
                plan.name()
            )],
        ));
    };
    let settled = seats::of_incarnation(tx, live.id)?
        .into_iter()
        // Who has passed the gate has left its mark on the cluster, whatever became of it.
        .filter(|seat| seat.state.is_live() || seat.state == State::Issued || seat.passed.is_some())
        .map(|seat| seat.node)
        .collect();
    Ok((live.id, change::check(&live.plan, plan, &settled)?))
}

/// Puts a cluster file in force; begins an incarnation with `fresh` secrets
/// when none is live. Returns what changed, in words.
pub(crate) fn apply(
    tx: &Transaction<'_>,
    plan: &ClusterFile,
    fresh: &ClusterSecrets,
    actor: &Actor,
    now: Timestamp,
) -> Result<(Incarnation, Vec<String>)> {
    let (_, changes) = preview(tx, plan)?;
    let Some(live) = incarnations::live(tx)? else {
        let id = incarnations::begin(tx, plan, fresh, now)?;
        let detail = format!("incarnation {id} of {}", plan.name());
        events::note(tx, actor, &Event::about_all(What::Begin, &detail), now)?;
        return Ok((id, changes));
    };
    if live.plan.text() != plan.text() {
        incarnations::set_file(tx, plan)?;
    }
    if !changes.is_empty() {
        events::note(tx, actor, &Event::about_all(What::Apply, &changes.join("; ")), now)?;
    }
    Ok((live.id, changes))
}

/// Registers a ticket. Idempotent. `speaks` says how many seconds ago the machine
/// of a seat was heard, if it is still there.
pub(crate) fn mint(
    tx: &Transaction<'_>,
    ticket: &TicketKey,
    record: TicketRecord,
    speaks: &dyn Fn(i64) -> Option<i64>,
    actor: &Actor,
    now: Timestamp,
) -> Result<()> {
    let record =
        TicketRecord { not_before: rounded(record.not_before), expires: rounded(record.expires), ..record };
    let same_ticket = match seats::by_ticket(tx, ticket)? {
        Some(seat) => Some((seats::minted_record(tx, &seat)?, seat)),
        None => None,
    };
    let live = incarnations::live(tx)?;
    if live.is_none() && same_ticket.is_none() {
        super::live(tx)?;
    }
    let generations = seats::of_node(tx, &record.node)?;
    let planned = live.as_ref().and_then(|live| live.plan.node(&record.node));
    let speaking = |seat| Some(Speaking { seat, seconds: speaks(seat.id)? });
    let context = MintContext {
        planned: planned.map(|node| node.role),
        fixed_address: planned.is_some_and(|node| node.address.is_some()),
        speaks: generations.iter().filter(|seat| seat.state.is_live()).find_map(speaking),
        same_ticket: same_ticket.as_ref().map(|(record, seat)| (seat, record)),
        same_generation: generations.iter().find(|seat| seat.generation == record.generation),
        newest_bound: generations.iter().find(|s| s.state.key().is_some()).map_or(0, |s| s.generation),
    };
    if operator::mint(&record, &context)? {
        let live = live.context("a mint was allowed without a live incarnation")?;
        let label = format!("{} (generation {})", record.node, record.generation);
        keys::note_ticket(tx, ticket, &label, now)?;
        let seat = seats::insert(tx, live.id, ticket, &record)?;
        let detail = format!("{label}, {}, until {}", record.role, record.expires);
        events::note(tx, actor, &Event::of(What::Mint, seat, &detail), now)?;
    }
    Ok(())
}

/// Gives a node's newest unused ticket more time.
pub(crate) fn extend(
    tx: &Transaction<'_>,
    node: &NodeName,
    seconds: u32,
    actor: &Actor,
    now: Timestamp,
) -> Result<Timestamp> {
    let seat = choose(tx, node, |state| state == State::Issued)?;
    let expires = operator::extend(&seat, seconds, now)?;
    seats::set_expires(tx, seat.id, expires)?;
    let detail = format!("{} until {expires}", seat.label());
    events::note(tx, actor, &Event::of(What::Extend, seat.id, &detail), now)?;
    Ok(rounded(expires))
}

/// Trusts a held node's key again. Idempotent. Which of two machines with one
/// key is the right one, nothing here can know: the one that opens the next
/// connection has the ratchet, and the other is noticed as soon as it comes.
pub(crate) fn release(tx: &Transaction<'_>, node: &NodeName, actor: &Actor, now: Timestamp) -> Result<()> {
    let seat = choose(tx, node, State::is_live)?;
    let state = operator::release(&seat)?;
    if state != seat.state {
        seats::set_state(tx, seat.id, state, None)?;
        ratchets::forget(tx, seat.id)?;
        events::note(tx, actor, &Event::of(What::Release, seat.id, &seat.label()), now)?;
    }
    Ok(())
}

/// Takes every right of a node away, of all its generations. Idempotent.
pub(crate) fn revoke(tx: &Transaction<'_>, node: &NodeName, actor: &Actor, now: Timestamp) -> Result<()> {
    let generations = seats::of_node(tx, node)?;
    if generations.is_empty() {
        return Err(operator::no_such_node(node).into());
    }
    let reason = format!("by {}", actor.who);
    generations.iter().try_for_each(|seat| revoke_seat(tx, seat, &reason, actor, now))
}

/// Ends the live incarnation, which must be the cluster's of this name. Idempotent;
/// returns which one ended, none if nothing was live.
pub(crate) fn end(
    tx: &Transaction<'_>,
    cluster: &ClusterName,
    actor: &Actor,
    now: Timestamp,
) -> Result<Option<Incarnation>> {
    let Some(live) = incarnations::live(tx)? else { return Ok(None) };
    if live.plan.name() != cluster {
        let message = format!("the cluster that is live is {}, not {cluster}", live.plan.name());
        let hint = "nothing was done: say the name of the one that is to end";
        return Err(ApiError::new(ErrorClass::Policy, message).hint(hint).into());
    }
    let reason = format!("incarnation {} of the cluster has ended", live.id);
    for seat in seats::of_incarnation(tx, live.id)? {
        revoke_seat(tx, &seat, &reason, actor, now)?;
    }
    incarnations::end(tx, now)?;
    events::note(tx, actor, &Event::about_all(What::End, &reason), now)?;
    Ok(Some(live.id))
}

fn revoke_seat(tx: &Transaction<'_>, seat: &Seat, reason: &str, actor: &Actor, now: Timestamp) -> Result<()> {
    let state = operator::revoke(seat.state);
    if state != seat.state {
        seats::set_state(tx, seat.id, state, Some(reason))?;
        let detail = format!("{}: {reason}", seat.label());
        events::note(tx, actor, &Event::of(What::Revoke, seat.id, &detail), now)?;
    }
    clear_up(tx, seat, true)
}

/// Gives up the datastore of a server that is lost: what holds the lease next
/// begins with `restore`, or with nothing. Idempotent.
pub(crate) fn replace(
    tx: &Transaction<'_>,
    node: &NodeName,
    restore: Option<&Restore>,
    actor: &Actor,
    contacts: &Contacts,
    now: Timestamp,
) -> Result<()> {
    let live = live(tx)?;
    let (cluster, plan) = cluster_now(tx, &live, contacts, now)?;
    if restore.is_some() && plan.is_multi_server() {
        let message = "several servers keep their data in etcd: no copy of it is restored from here";
        return Err(ApiError::new(ErrorClass::Policy, message)
            .hint("restore on a server that is left, with k3s server --cluster-reset, or use --discard-data")
            .into());
    }
    let lease = cluster.replace(node)?;
    forget_datastore(tx, &seats::seated(tx, live.id)?.servers, now)?;
    // Join tokens are in the datastore: in an empty one there are none, and in a
    // copy there may be others.
    for seat in seats::of_incarnation(tx, live.id)? {
        if seat.state.is_live() && seat.token == Some(JoinState::Made) {
            seats::set_token(tx, seat.id, Some(JoinState::Wanted))?;
        }
    }
    incarnations::set_lease(tx, lease)?;
    incarnations::set_restore(tx, restore)?;
    let what = match restore {
        Some(copy) => format!("{node} begins with the datastore in {}", copy.path.display()),
        None => format!("{node} begins without data"),
    };
    events::note(tx, actor, &Event::about_all(What::Replace, &what), now)?;
    Ok(())
}

/// Takes the operator's word that etcd has no member of a server that is
/// replaced, revoked or did not become ready; one that joins in the place of another
/// has to be revoked first, since the word is of the other. Idempotent. Returns the
/// seats whose rights are over, an agent's as well: their machines are gone by the same
/// word, so that whoever else has their keys keeps nobody waiting.
pub(crate) fn member_gone(
    tx: &Transaction<'_>,
    node: &NodeName,
    actor: &Actor,
    contacts: &Contacts,
    now: Timestamp,
) -> Result<Vec<i64>> {
    let live = live(tx)?;
    let generations = seats::of_node(tx, node)?;
    if generations.is_empty() {
        return Err(operator::no_such_node(node).into());
    }
    let over = |seat: &Seat| !seat.state.is_live();
    let began = |seat: &&Seat| seat.incarnation == live.id && seat.passed.is_some();
    // The word is of the machine before the one that is joining in its place, also when
    // it is said again.
    let replaced = generations.iter().filter(began).any(over);
    let dead = |seat: &&Seat| {
        began(seat) && (over(seat) || (!replaced && seat.role == Role::Server && seat.ready.is_none()))
    };
    let found: Vec<&Seat> = generations.iter().filter(dead).collect();
    if found.is_empty() {
        let message =
            format!("no generation of {node} is known to have gone: its machine is ready, or never began");
        return Err(ApiError::new(ErrorClass::Policy, message)
            .hint(format!("take its rights away first: coordinator revoke {node}"))
            .into());
    }
    let gone: Vec<&Seat> = found.iter().copied().filter(|seat| over(seat)).collect();
    for seat in gone.iter().filter(|seat| contacts.heard(seat.id, now).is_some()) {
        let detail = format!(
            "the machine of {}, by the operator's word: who speaks with its key keeps nobody waiting",
            seat.label()
        );
        events::note(tx, actor, &Event::of(What::MemberGone, seat.id, &detail), now)?;
    }
    let is_member = |seat: &Seat| seat.left.is_none() || seat.object == ObjectState::Doomed;
    for seat in found.iter().filter(|seat| seat.role == Role::Server && is_member(seat)) {
        seats::set_left(tx, seat.id, Some(now))?;
        if seat.object == ObjectState::Doomed {
            seats::set_object(tx, seat.id, ObjectState::Gone)?;
        }
        let detail = format!("{}, by the operator's word", seat.label());
        events::note(tx, actor, &Event::of(What::MemberGone, seat.id, &detail), now)?;
    }
    Ok(gone.iter().map(|seat| seat.id).collect())
}

/// A kubeconfig from the live incarnation's own client CA.
pub(crate) fn kubeconfig(
    tx: &Transaction<'_>,
    server: Option<&ServerUrl>,
    user: &KubeUser,
    lifetime: u64,
    actor: &Actor,
    now: Timestamp,
) -> Result<Secret> {
    let live = live(tx)?;
    let secrets = incarnations::secrets(tx)?.context("a live incarnation has no secrets")?;
    let server = if let Some(server) = server {
        server.clone()
    } else {
        let address = live.plan.first_server_address();
        ServerUrl::new(address.host().parse().context("the first server's address")?, API_PORT)
    };
    let kubeconfig = secrets
        .kubeconfig(live.plan.name(), &server, user, now, lifetime)
        .map_err(|error| ApiError::new(ErrorClass::Format, format!("{error:#}")))?;
    let detail = format!("for {user} at {server}, {lifetime} s");
    events::note(tx, actor, &Event::about_all(What::Kubeconfig, &detail), now)?;
    Ok(kubeconfig)
}

/// The newest generation that fits, else the newest there is: its state then
/// says what is wrong.
pub(super) fn choose(tx: &Transaction<'_>, node: &NodeName, fits: impl Fn(State) -> bool) -> Result<Seat> {
    let mut generations = seats::of_node(tx, node)?;
    if generations.is_empty() {
        return Err(operator::no_such_node(node).into());
    }
    let at = generations.iter().position(|seat| fits(seat.state)).unwrap_or(0);
    Ok(generations.swap_remove(at))
}

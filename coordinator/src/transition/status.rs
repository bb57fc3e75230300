//! What an operator sees.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use kiln_protocol::admin::{
    Alarm, ClusterStatus, LiveCluster, NodeStatus, RegistryState, Stale, Stranger, TicketStatus,
};
use kiln_protocol::{Fingerprint, NodeName, Role};

use super::tokens;
use crate::news::{Presence, Seen};
use crate::registry::{Seat, State, console};
use crate::store::seats::SeatCount;
use crate::store::{Transaction, epoch, events, incarnations, reports, seats};

/// The whole of it.
pub(crate) fn status(
    tx: &Transaction<'_>,
    pin: Fingerprint,
    strangers: Vec<Stranger>,
    presence: &Presence,
    now: Timestamp,
) -> Result<ClusterStatus> {
    let mut status = ClusterStatus {
        pin,
        at: now,
        live: None,
        nodes: Vec::new(),
        stale: stale(tx)?,
        alarms: alarms(tx)?,
        strangers,
    };
    let Some(live) = incarnations::live(tx)? else { return Ok(status) };
    let all = seats::of_incarnation(tx, live.id)?;
    // Sorted by node, newest generation first.
    let mut by_node: BTreeMap<&NodeName, &[Seat]> =
        all.chunk_by(|a, b| a.node == b.node).map(|seats| (&seats[0].node, seats)).collect();
    for node in live.plan.nodes() {
        let generations = by_node.remove(&node.name).unwrap_or(&[]);
        status.nodes.push(node_status(tx, &node.name, node.role, generations, presence, now)?);
    }
    // Nodes that have left the file but still have a key.
    for (name, generations) in by_node {
        if let Some(seat) = generations.iter().find(|seat| seat.state.is_live()) {
            let left = node_status(tx, name, seat.role, generations, presence, now)?;
            status.nodes.push(NodeStatus { planned: false, ..left });
        }
    }
    status.live = Some(LiveCluster {
        cluster: live.plan.name().clone(),
        incarnation: live.id,
        begun: live.begun,
        k3s: live.plan.k3s().clone(),
        tokens: tokens::status(tx)?,
    });
    Ok(status)
}

/// Of one node, from its generations, newest first.
fn node_status(
    tx: &Transaction<'_>,
    name: &NodeName,
    role: Role,
    generations: &[Seat],
    presence: &Presence,
    now: Timestamp,
) -> Result<NodeStatus> {
    let shown = generations.iter().find(|seat| seat.state.is_live()).or(generations.first());
    let unused = generations.iter().find(|seat| seat.state == State::Issued);
    let mut status = NodeStatus {
        name: name.clone(),
        role,
        planned: true,
        generation: 0,
        next_generation: seats::newest_generation(tx, name)? + 1,
        registry: RegistryState::Planned,
        reason: None,
        key: None,
        rotating: false,
        console: None,
        bound: None,
        passed_gate: None,
        ready: None,
        ticket: unused.map(|seat| TicketStatus {
            ticket: seat.ticket,
            generation: seat.generation,
            expires: seat.expires,
        }),
        report: None,
        steps: Vec::new(),
        facts: None,
        usage: None,
        last_seen: None,
        connected: false,
        stale: false,
    };
    let Some(seat) = shown else { return Ok(status) };
    status.generation = seat.generation;
    status.registry = seat.registry_state(now);
    status.reason.clone_from(&seat.reason);
    status.key = seat.state.key();
    status.rotating = seat.rotate && seat.state.is_live();
    status.console = console::confirmation(seat);
    (status.bound, status.passed_gate, status.ready) = (seat.bound, seat.passed, seat.ready);
    status.facts = seats::facts(tx, seat.id)?;
    if let Some(boot) = reports::newest(tx, seat.id)? {
        status.report = Some(boot.report);
        status.usage = boot.usage;
        status.steps = boot.steps;
        status.last_seen = Some(boot.seen);
    }
    if let Some(Seen { connected, at }) = presence.get(&seat.id) {
        status.connected = *connected;
        status.last_seen = status.last_seen.max(Some(if *connected { now } else { *at }));
    }
    status.stale = status.is_stale(now);
    Ok(status)
}

/// What metrics say of the state.
#[derive(Debug, Default)]
pub(crate) struct Look {
    /// The live incarnation; 0 for none.
    pub(crate) incarnation: u64,
    pub(crate) seats: Vec<SeatCount>,
    pub(crate) alarms: usize,
    /// The state is known to be an old copy, or another copy of it was served.
    pub(crate) stale: bool,
    /// No server's k3s has taken the tokens that were asked for.
    pub(crate) rotating: bool,
    pub(crate) connected: usize,
    pub(crate) strangers: usize,
    /// Questions that are held open.
    pub(crate) held_open: usize,
}

/// What is in the state of it. Asked often, and therefore counted and not listed.
pub(crate) fn look(tx: &Transaction<'_>) -> Result<Look> {
    let live = incarnations::live(tx)?;
    let rotating = live.as_ref().is_some_and(|live| live.tokens.asked.is_some());
    let live = live.map(|live| live.id);
    let seats = live.map(|live| seats::count(tx, live)).transpose()?.unwrap_or_default();
    let incarnation = live.map_or(0, |live| live.0);
    let (alarms, stale) = (events::open_alarms(tx)?.len(), epoch::newer(tx)?.is_some());
    Ok(Look { incarnation, seats, alarms, stale, rotating, ..Look::default() })
}

fn stale(tx: &Transaction<'_>) -> Result<Option<Stale>> {
    let Some(newer) = epoch::newer(tx)? else { return Ok(None) };
    Ok(Some(Stale { own: epoch::reach(tx)?, seen: newer.reach, since: newer.seen }))
}

fn alarms(tx: &Transaction<'_>) -> Result<Vec<Alarm>> {
    let open = events::open_alarms(tx)?;
    open.into_iter()
        .map(|alarm| {
            let node: NodeName = alarm.node.parse().context("reading a stored name")?;
            let message = if alarm.held {
                format!(
                    "{}: compare the keys with the one on the machine's console, then: \
                     coordinator release {node}, or coordinator revoke {node}",
                    alarm.detail
                )
            } else {
                format!(
                    "{}: it got nothing; find out who read the ticket. The node itself can still enrol",
                    alarm.detail
                )
            };
            Ok(Alarm { at: alarm.at, node, message })
        })
        .collect()
}

//! Makes what is missing of a cluster's nodes, and touches nothing else.
//!
//! Each step can be cut off and done again: the ticket is in the journal
//! before it is registered, registered before a node has it, and everything
//! the provider makes carries its record first.

use anyhow::{Context as _, Result, bail};
use jiff::{SignedDuration, Timestamp};
use kiln_coordinator::Coordinator;
use kiln_coordinator::plan::{ClusterFile, PlannedNode};
use kiln_protocol::NodeName;
use kiln_protocol::admin::{ClusterStatus, Hints, RegistryState, TicketRecord};
use kiln_protocol::seed::NodeSeed;
use kiln_protocol::ticket::{Address, Ticket, TicketSeed};

use super::context::Context;
use super::journal::{Event, Issued};
use super::plan::{Action, Data, Known, check_servers, check_word, decide};
use crate::provider::{Ensured, Listing, NodeRef, NodeSpec, Power, PowerState, SeedWish, SpecHash, Subject};

/// What became of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodeUp {
    pub(super) node: NodeRef,
    /// Whether it was switched on now.
    pub(super) started: bool,
    /// How it differs from the cluster file; left as it is.
    pub(super) drift: Vec<String>,
}

/// What nodes are made after.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) file: &'a ClusterFile,
    /// One for each node of the file, in its order.
    pub(super) specs: &'a [NodeSpec],
    /// Where nodes reach the coordinator, in the order to try.
    pub(super) addresses: &'a [Address],
    /// How long a ticket may wait to be used.
    pub(super) ticket_life: SignedDuration,
    /// What becomes of the data of a sole server that is gone.
    pub(super) data: Option<&'a Data>,
}

/// What is going to be done, decided for every node before the first is touched.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    listing: Listing,
    nodes: Vec<(&'a PlannedNode, &'a NodeSpec, Action)>,
    data: Option<&'a Data>,
}

impl Plan<'_> {
    /// What of it is not a matter of course, a line a node.
    pub(super) fn in_words(&self) -> Vec<String> {
        self.nodes.iter().filter_map(|(node, _, action)| action.in_words(&node.name, self.data)).collect()
    }
}

/// Decides what is missing, and touches nothing.
pub(super) async fn look<'a>(
    context: &Context,
    coordinator: &Coordinator,
    wanted: &Wanted<'a>,
) -> Result<Plan<'a>> {
    let listing = context.provider.list(&context.selector).await?;
    let status = coordinator.status().await.context("asking the coordinator")?;
    let nodes = wanted.file.nodes().iter().zip(wanted.specs);
    let mut known = Vec::new();
    for (node, spec) in nodes {
        known.push((node, spec, look_at(context, coordinator, wanted, node, &listing, &status).await?));
    }
    check_servers(known.iter().map(|(.., known)| known))?;
    let now = Timestamp::now();
    let decided = known.iter().map(|(node, spec, known)| Ok((*node, *spec, decide(known, now)?)));
    let decided: Vec<_> = decided.collect::<Result<_>>()?;
    let actions = decided.iter().map(|(.., action)| action);
    check_word(wanted.data, actions, &wanted.file.first_server().name, wanted.file.is_multi_server())?;
    Ok(Plan { listing, nodes: decided, data: wanted.data })
}

/// Makes what is missing, starts what is off. `tell` hears what is being done
/// to which node.
pub(super) async fn converge(
    context: &mut Context,
    coordinator: &Coordinator,
    wanted: &Wanted<'_>,
    plan: Plan<'_>,
    mut tell: impl FnMut(&NodeName, &'static str),
) -> Result<Vec<NodeUp>> {
    let Plan { listing, nodes, .. } = plan;
    let mut up = Vec::new();
    for (node, spec, action) in nodes {
        let done = bring(context, coordinator, wanted, (node, spec), action, &listing, &mut tell).await;
        up.push(done.with_context(|| format!("bringing up node {}", node.name))?);
    }
    Ok(up)
}

async fn look_at<'a>(
    context: &'a Context,
    coordinator: &Coordinator,
    wanted: &Wanted<'a>,
    node: &'a PlannedNode,
    listing: &Listing,
    status: &'a ClusterStatus,
) -> Result<Known<'a>> {
    let known = status.node(&node.name);
    let state = context.journal.state();
    let journalled = state.generations.get(&node.name).copied().unwrap_or_default();
    let next = coordinator.next_generation(&node.name).await?;
    Ok(Known {
        name: &node.name,
        role: node.role,
        sole_server: !wanted.file.is_multi_server() && wanted.file.first_server().name == node.name,
        exists: listing.node(&node.name).is_some(),
        registry: known.map_or(RegistryState::Planned, |known| known.registry),
        generation: known.map_or(0, |known| known.generation),
        reason: known.and_then(|known| known.reason.as_deref()),
        passed_gate: known.is_some_and(|known| known.passed_gate.is_some()),
        data: wanted.data,
        ticket: state.tickets.get(&node.name),
        newest: journalled.max(next.saturating_sub(1)),
    })
}

async fn bring(
    context: &mut Context,
    coordinator: &Coordinator,
    wanted: &Wanted<'_>,
    (node, spec): (&PlannedNode, &NodeSpec),
    action: Action,
    listing: &Listing,
    tell: &mut impl FnMut(&NodeName, &'static str),
) -> Result<NodeUp> {
    let mut there = listing.node(&node.name);
    let issued = match action {
        Action::Run => None,
        Action::Again => context.journal.state().tickets.get(&node.name).cloned(),
        Action::Make { generation } => Some(issue(context, wanted, node, generation)?),
        Action::Begin { generation } => {
            let copy = match wanted.data {
                Some(Data::Restore(copy)) => Some(copy.as_path()),
                _ => None,
            };
            // Before there is a ticket: whoever enrols with it begins so.
            coordinator.replace_lost(&node.name, copy).await.context("giving up its data")?;
            Some(issue(context, wanted, node, generation)?)
        }
        Action::Replace { generation, why } => {
            tracing::warn!("node {} is made anew: {why}", node.name);
            tell(&node.name, "removing");
            if let Some(object) = there.take() {
                context.delete(object).await?;
            }
            Some(issue(context, wanted, node, generation)?)
        }
    };
    let seed = match &issued {
        None => SeedWish::Keep,
        Some(Issued { seed, record }) => {
            coordinator.mint(seed.public_key(), record.clone()).await.context("registering its ticket")?;
            SeedWish::Give(seed_text(coordinator, wanted, node, seed.clone())?)
        }
    };
    if let SeedWish::Give(text) = &seed
        && text.len() > context.provider.caps().max_seed
    {
        bail!("its seed is too long for this provider: give it fewer or shorter ssh keys");
    }
    let subject = Subject::Node(node.name.clone());
    context.making(&subject, there.is_some())?;
    tell(&node.name, if there.is_some() { "checking" } else { "making" });
    let record = context.record(subject, SpecHash::of(spec));
    let ensured = context.provider.ensure_node(&record, spec, seed).await?;
    let before = context.provider.observe(ensured.node()).await?.power;
    if before == PowerState::Off {
        tell(&node.name, "starting");
    }
    context.provider.power(ensured.node(), Power::On).await?;
    let drift = match &ensured {
        Ensured::Drifted(_, drift) => drift.0.clone(),
        Ensured::Created(_) | Ensured::Adopted(_) => Vec::new(),
    };
    Ok(NodeUp { node: ensured.node().clone(), started: before == PowerState::Off, drift })
}

/// Makes a ticket and writes it down; nobody else knows of it yet.
fn issue(context: &mut Context, wanted: &Wanted<'_>, node: &PlannedNode, generation: u32) -> Result<Issued> {
    let now = Timestamp::now();
    let record = TicketRecord {
        node: node.name.clone(),
        generation,
        role: node.role,
        not_before: now,
        expires: now + wanted.ticket_life,
        confirm_console: context.provider.caps().console,
        hints: Hints::default(),
    };
    let issued = Issued { seed: TicketSeed::generate(), record };
    context.journal.append(Event::Ticket(issued.clone()))?;
    Ok(issued)
}

fn seed_text(
    coordinator: &Coordinator,
    wanted: &Wanted<'_>,
    node: &PlannedNode,
    seed: TicketSeed,
) -> Result<zeroize::Zeroizing<String>> {
    let ticket = Ticket::new(wanted.addresses.to_vec(), coordinator.pin(), seed)?;
    let document = NodeSeed {
        hostname: Some(node.name.clone()),
        // The first card has DHCP; the cluster's card gets its address with
        // the configuration.
        network: None,
        user: node.users.first().cloned(),
        ..NodeSeed::new(ticket)
    };
    Ok(document.to_text())
}

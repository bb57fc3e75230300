//! From a cluster file to a cluster that works.
//!
//! ```text
//! read and check ─> lock ─> network ─> coordinator ─> image ─> nodes ─> wait ─> kubeconfig ─> ask k3s
//!  (nothing touched)  └────────── each step journalled, adopted if it is there ──────────┘
//! ```
//!
//! What fails or is interrupted undoes what this run made, newest first, and
//! nothing else; after `kill -9` the next `up` finishes it and the next `down`
//! removes it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use jiff::{SignedDuration, Timestamp};
use kiln_coordinator::plan::ClusterFile;
use kiln_coordinator::{Coordinator, Server};
use kiln_protocol::config::Incarnation;
use kiln_protocol::names::SubjectAltName;
use kiln_protocol::ticket::Address;
use kiln_protocol::{NodeName, Role};
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::board::Board;
use super::context::Context;
use super::converge::{NodeUp, Wanted, converge, look};
use super::journal::Event;
use super::plan::Data;
use super::screen::Screen;
use super::summary::{NodeSummary, Summary};
use super::target::{Image, specs};
use super::{down, files, verify, watch};
use crate::provider::{ImageRef, NetRef, NodeFirmware, NodeSpec, Provider, SeedWish, SpecHash, Subject};

/// A ticket outlives the run that made it by this much, so that an
/// interrupted run can be taken up again.
const TICKET_SPARE: SignedDuration = SignedDuration::from_hours(1);
/// How long a kubeconfig's certificate is valid.
const KUBECONFIG_LIFETIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What a cluster is made after and how.
#[derive(Debug)]
pub(super) struct Order<'a> {
    pub(super) file: &'a ClusterFile,
    pub(super) image: &'a Image,
    /// What starts each node; UEFI where nothing is said.
    pub(super) firmware: BTreeMap<NodeName, NodeFirmware>,
    /// Where nodes are told to look for the coordinator, if not where the
    /// provider says.
    pub(super) advertise: Option<SubjectAltName>,
    /// What becomes of the data of a sole server that is gone.
    pub(super) data: Option<Data>,
    /// When everything must be done.
    pub(super) deadline: Instant,
}

impl Order<'_> {
    pub(super) fn specs(&self) -> Vec<NodeSpec> {
        specs(self.file, self.image.disk.digest, |node| {
            self.firmware.get(&node.name).copied().unwrap_or(NodeFirmware::Uefi)
        })
    }
}

/// Brings a cluster up.
pub(super) async fn bring_up(
    context: &mut Context,
    order: &Order<'_>,
    screen: &mut Screen,
) -> Result<Summary> {
    let mut board = Board::new(order.file, context.dir.status(), screen);
    let Made { coordinator, server, incarnation, nodes } = make(context, order, &mut board).await?;
    let status =
        watch::until_ready(&context.provider, &coordinator, &nodes, &mut board, order.deadline).await?;
    let powered_on = check_cluster(context, &coordinator, order, &nodes, &mut board).await?;
    spend_tickets(context, order, &nodes).await?;
    board.status(coordinator.status().await.unwrap_or(status.clone()))?;
    board.draw();
    server.shutdown().await;
    let summarised = order.file.nodes().iter().filter_map(|node| status.node(&node.name));
    Ok(Summary {
        cluster: order.file.name().clone(),
        incarnation,
        kubeconfig: context.dir.kubeconfig(),
        nodes: summarised.map(|node| NodeSummary::of(node, powered_on.get(&node.name).copied())).collect(),
    })
}

/// A cluster of which everything exists.
#[derive(Debug)]
struct Made {
    coordinator: Coordinator,
    server: Server,
    incarnation: Incarnation,
    nodes: Vec<NodeUp>,
}

/// Makes what is missing of it.
async fn make(context: &mut Context, order: &Order<'_>, board: &mut Board<'_>) -> Result<Made> {
    let net = make_net(context).await?;
    make_image(context, order).await?;
    let coordinator = context.coordinator().await?;
    let (server, addresses) = listen(&coordinator, &net, order).await?;
    let incarnation = coordinator.apply(order.file).await.context("putting the cluster file in force")?;
    board.screen.note(&format!(
        "cluster {}, incarnation {incarnation}: coordinator {} at {}",
        order.file.name(),
        coordinator.pin(),
        server.local_addr()
    ));
    let nodes = make_nodes(context, &coordinator, order, &addresses, board).await?;
    for up in &nodes {
        for drift in &up.drift {
            let node = &up.node.node;
            let text = format!("node {node} differs from the cluster file and is left as it is: its {drift}");
            board.screen.note(&text);
        }
    }
    Ok(Made { coordinator, server, incarnation, nodes })
}

async fn make_net(context: &mut Context) -> Result<NetRef> {
    let there = context.provider.list(&context.selector).await?;
    let there = there.ours.iter().any(|object| object.record.subject == Subject::Net);
    context.making(&Subject::Net, there)?;
    let record = context.record(Subject::Net, SpecHash::of(&context.selector.cluster));
    context.provider.ensure_net(&record).await.context("making the cluster's network")
}

async fn make_image(context: &mut Context, order: &Order<'_>) -> Result<ImageRef> {
    let disk = &order.image.disk;
    let subject = Subject::Image(disk.digest);
    let listing = context.provider.list(&context.selector).await?;
    let there = listing.ours.iter().any(|object| object.record.subject == subject);
    context.making(&subject, there)?;
    let record = context.record(subject, SpecHash::of(&disk.digest));
    context.provider.ensure_image(&record, disk).await
}

/// Lets the coordinator answer; says where nodes reach it.
async fn listen(
    coordinator: &Coordinator,
    net: &NetRef,
    order: &Order<'_>,
) -> Result<(Server, Vec<Address>)> {
    let (listen, reached_at) = match &order.advertise {
        None => (net.listen, net.reached_at.clone()),
        Some(host) => {
            let port = net.listen.port();
            (SocketAddr::from(([0, 0, 0, 0], port)), Address::new(host.clone(), port))
        }
    };
    let listener = TcpListener::bind(listen).await.with_context(|| {
        format!(
            "the coordinator cannot listen on {listen}, where this cluster's nodes look for it: end what \
             listens there (`ss -ltnp sport = :{}` names it)",
            listen.port()
        )
    })?;
    let server = coordinator.serve(listener).await.context("starting the coordinator")?;
    Ok((server, vec![reached_at]))
}

async fn make_nodes(
    context: &mut Context,
    coordinator: &Coordinator,
    order: &Order<'_>,
    addresses: &[Address],
    board: &mut Board<'_>,
) -> Result<Vec<NodeUp>> {
    let listing = context.provider.list(&context.selector).await?;
    if let Some((id, why)) = listing.foreign.first() {
        bail!("{id} stands in the way: {why}. Move it elsewhere, then run `builder up` again");
    }
    let named = |name: &NodeName| order.file.node(name).is_some();
    for name in listing.ours.iter().filter_map(|object| object.node()).filter(|name| !named(name)) {
        board.screen.note(&format!("node {name} is not in the cluster file any more; it is left as it is"));
    }
    let left = order.deadline.saturating_duration_since(Instant::now());
    let specs = order.specs();
    let wanted = Wanted {
        file: order.file,
        specs: &specs,
        addresses,
        ticket_life: TICKET_SPARE + SignedDuration::try_from(left).unwrap_or(TICKET_SPARE),
        data: order.data.as_ref(),
    };
    let plan = look(context, coordinator, &wanted).await?;
    for line in plan.in_words() {
        board.screen.note(&line);
    }
    converge(context, coordinator, &wanted, plan, |node, what| board.doing(node, what)).await
}

/// Writes the kubeconfig and asks k3s with it; says when each node was
/// switched on.
async fn check_cluster(
    context: &Context,
    coordinator: &Coordinator,
    order: &Order<'_>,
    nodes: &[NodeUp],
    board: &mut Board<'_>,
) -> Result<BTreeMap<NodeName, Timestamp>> {
    let (mut powered_on, mut wanted, mut api) = (BTreeMap::new(), Vec::new(), None);
    for up in nodes {
        let observed = context.provider.observe(&up.node).await?;
        let name = up.node.node.clone();
        powered_on.extend(observed.powered_on.map(|at| (name.clone(), at)));
        let server = order.file.node(&name).is_some_and(|node| node.role == Role::Server);
        api = api.or(observed.api.filter(|_| server));
        wanted.push(verify::Wanted { node: name, since: observed.powered_on, not_boot: None });
    }
    let url = format!("https://{}", api.context("no server of the cluster is reached from here")?);
    let path = context.dir.kubeconfig();
    let current = files::read_optional(&path)?.is_some_and(|text| text.contains(&url));
    if !current {
        let kubeconfig =
            coordinator.kubeconfig(&url, KUBECONFIG_LIFETIME).await.context("making the kubeconfig")?;
        files::write(&path, kubeconfig.expose().as_bytes())?;
    }
    board.screen.note(&format!("asking k3s at {url}"));
    let api = verify::Api::from_file(&path)?;
    api.wait(&wanted, order.deadline, |missing| board.screen.note(missing)).await?;
    Ok(powered_on)
}

/// Strikes out the tickets of nodes that are ready: they are worth nothing
/// any more, and nothing of them is left in the nodes' configuration.
async fn spend_tickets(context: &mut Context, order: &Order<'_>, nodes: &[NodeUp]) -> Result<()> {
    for (spec, up) in order.specs().iter().zip(nodes) {
        let Some(issued) = context.journal.state().tickets.get(&up.node.node) else { continue };
        let generation = issued.record.generation;
        let subject = Subject::Node(up.node.node.clone());
        let record = context.record(subject, SpecHash::of(spec));
        context.provider.ensure_node(&record, spec, SeedWish::Scrub).await?;
        context.journal.append(Event::Spent { node: up.node.node.clone(), generation })?;
    }
    context.journal.compact()
}

/// Undoes what this run made, newest first. A run that began the cluster
/// takes all of it away again. Returns what could not be undone.
pub(super) async fn undo(mut context: Context) -> Vec<String> {
    let made = context.journal.state().made_by(&context.run);
    if made.contains(&Subject::Net) {
        return match down::remove_all(context, None).await {
            Ok(left) => left,
            Err(error) => vec![format!("{error:#}")],
        };
    }
    let mut left = Vec::new();
    let listing = match context.provider.list(&context.selector).await {
        Ok(listing) => listing,
        Err(error) => return vec![format!("{error:#}")],
    };
    for subject in made {
        // Images stay once they are whole: the next run needs them again.
        if !matches!(subject, Subject::Node(_)) {
            continue;
        }
        if let Some(object) = listing.ours.iter().find(|object| object.record.subject == subject)
            && let Err(error) = context.delete(object).await
        {
            left.push(format!("{error:#}"));
        }
    }
    left
}

/// What `provider` says stands against these nodes, and what file and image do.
pub(super) async fn preflight(provider: &Provider, order: &Order<'_>) -> Vec<crate::provider::Finding> {
    let mut findings = super::target::check(order.file, order.image);
    findings.extend(provider.preflight(&order.specs()).await);
    findings
}

#[cfg(test)]
#[path = "bring_up_tests/mod.rs"]
mod tests;

//! Enrolments and configurations per second on one core, against bare
//! handshakes.

use std::sync::Arc;

use anyhow::Result;
use kiln_protocol::{Identity, Ticket};

use super::agent::Agent;
use super::coordinator::Site;
use super::load::{Cost, drive};
use super::peer::{self, Peer};
use super::report::{Op, Row, median, spread};

/// Operations in one round of each.
const OPERATIONS: usize = 2000;
/// Agents that are at it at the same time.
const AT_ONCE: usize = 96;
const PEER: &str = "bare rustls TLS 1.3 handshakes with both sides' keys";

/// Prints a row for each of the two.
pub(super) async fn measure(site: &Site, rounds: usize) -> Result<()> {
    let coordinator = site.coordinator(OPERATIONS * (rounds + 1)).await?;
    let peer = Peer::start(&site.cores)?;
    let (to, bare) = (coordinator.address, peer.address);
    let agents = (0..OPERATIONS * (rounds + 1))
        .map(|number| Agent::new(&Identity::generate()?, coordinator.pin, number))
        .collect::<Result<Vec<_>>>()?;
    let tickets = coordinator.tickets(0..agents.len()).await?;
    let mut fresh: Vec<(Agent, Arc<Ticket>)> =
        agents.into_iter().zip(tickets.into_iter().map(Arc::new)).collect();
    let (mut enrolments, mut configurations) = (Rounds::default(), Rounds::default());
    // The first round warms up and does not count.
    for round in 0..=rounds {
        let batch = fresh.split_off(fresh.len() - OPERATIONS);
        let (batch, handshakes) = drive(&peer.process, batch, AT_ONCE, move |(agent, ticket)| async move {
            peer::handshake(&agent, bare).await.map(|()| (agent, ticket))
        })
        .await?;
        let (batch, enrolled) =
            drive(&coordinator.process, batch, AT_ONCE, move |(agent, ticket)| async move {
                let mut line = agent.connect(to).await?;
                agent.enrol(&mut line, &ticket).await?;
                Ok((agent, ticket))
            })
            .await?;
        // A node that is known shows the stamp it was given last.
        let (batch, _) =
            drive(&coordinator.process, batch, AT_ONCE, move |entry| configure(entry, to)).await?;
        let (_, configured) =
            drive(&coordinator.process, batch, AT_ONCE, move |entry| configure(entry, to)).await?;
        if round > 0 {
            enrolments.add(enrolled, handshakes);
            configurations.add(configured, handshakes);
        }
    }
    let enrolment = "each over a connection of its own, answered once it is durable (synchronous = FULL, group \
                     commit). Beside its handshake, an enrolment verifies the ticket's Ed25519 signature, asks who \
                     the key is, and writes five or more pages of tables and indices";
    enrolments.row("enrolments on one core", enrolment).goal(Op::AtLeast, 0.5).print()?;
    let configuration = "each over a connection of its own and asked for with its opening, which turns the node's \
                         clone ratchet: one request, durable before it is answered. For 0.8, request and commit \
                         have to fit into a quarter of a bare handshake";
    configurations.row("configurations on one core", configuration).goal(Op::AtLeast, 0.8).print()
}

async fn configure(
    (mut agent, ticket): (Agent, Arc<Ticket>),
    to: std::net::SocketAddr,
) -> Result<(Agent, Arc<Ticket>)> {
    let mut line = agent.connect(to).await?;
    agent.open_for_config(&mut line).await?;
    Ok((agent, ticket))
}

/// Ours and the peer's, in the same round each.
#[derive(Default)]
struct Rounds(Vec<(Cost, Cost)>);

impl Rounds {
    fn add(&mut self, ours: Cost, peer: Cost) {
        self.0.push((ours, peer));
    }

    fn row(&self, name: &str, note: &str) -> Row {
        let of = |value: fn(&(Cost, Cost)) -> f64| self.0.iter().map(value).collect::<Vec<_>>();
        let ratios = of(|(ours, peer)| ours.per_second() / peer.per_second());
        let note = format!(
            "{note}. {AT_ONCE} agents at a time; server on a core of its own, agents on the others. Ratio {} in {} \
             rounds; by processor time {:.2} ({:.0} µs each beside {:.0} µs); the core was busy {:.0} % beside \
             {:.0} %",
            spread(&ratios),
            self.0.len(),
            median(of(|(ours, peer)| ours.per_cpu_second() / peer.per_cpu_second())),
            median(of(|(ours, _)| ours.micros())),
            median(of(|(_, peer)| peer.micros())),
            100.0 * median(of(|(ours, _)| ours.busy())),
            100.0 * median(of(|(_, peer)| peer.busy())),
        );
        Row::new(name, median(of(|(ours, _)| ours.per_second())), "per second")
            .beside(PEER, median(of(|(_, peer)| peer.per_second())), median(ratios))
            .note(note)
    }
}

//! What a request costs as registered nodes become more.

use std::sync::Arc;

use anyhow::Result;
use kiln_protocol::{Fingerprint, Identity};
use tokio::sync::Mutex;

use super::agent::{Agent, Line};
use super::coordinator::{Coordinator, Site};
use super::load::drive;
use super::report::{Op, Row, median, number, spread};

/// Registered nodes: the first is what the others are compared with.
const SIZES: [usize; 3] = [100, 10_000, 100_000];
/// Nodes that ask. The others have keys that nobody has.
const ASKING: usize = 50;
/// Requests of one kind by one of them in a round.
const REQUESTS: usize = 40;
/// A tree that is a level or two deeper, and no more.
const FLAT: f64 = 1.25;

type Asking = (Agent, Arc<Mutex<Line>>);

/// Kinds of requests.
const KINDS: [&str; 3] = ["configuration", "opening", "report"];

/// Prints a row for each size beyond the first and each kind of request.
pub(super) async fn measure(site: &Site, rounds: usize) -> Result<()> {
    let mut all = Vec::new();
    for size in SIZES {
        let coordinator = site.coordinator(size).await?;
        let identities =
            (0..ASKING).map(|_| Identity::generate().map_err(Into::into)).collect::<Result<Vec<_>>>()?;
        let keys = (0..size).map(|number| match identities.get(number) {
            Some(identity) => (number, identity.fingerprint()),
            None => (number, Fingerprint::of_spki(&number.to_be_bytes())),
        });
        coordinator.approve(keys).await?;
        let pin = coordinator.pin;
        let agents = (0..).zip(&identities).map(|(number, identity)| Agent::new(identity, pin, number));
        all.push((coordinator, agents.collect::<Result<Vec<_>>>()?));
    }
    // Microseconds of processor time, by size and kind.
    let mut costs = vec![[const { Vec::new() }; KINDS.len()]; SIZES.len()];
    for round in 0..=rounds {
        for ((coordinator, agents), costs) in all.iter_mut().zip(&mut costs) {
            let measured = ask(coordinator, agents).await?;
            if round > 0 {
                costs.iter_mut().zip(measured).for_each(|(costs, cost)| costs.push(cost));
            }
        }
    }
    for (size, at_size) in SIZES.iter().zip(&costs).skip(1) {
        for ((kind, ours), base) in KINDS.iter().zip(at_size).zip(&costs[0]) {
            let ratios: Vec<f64> = ours.iter().zip(base).map(|(ours, base)| ours / base).collect();
            Row::new(
                format!("processor time of a request ({kind}) at {size} nodes"),
                median(ours.clone()),
                "µs",
            )
            .beside(format!("at {} nodes", SIZES[0]), median(base.clone()), median(ratios.clone()))
            .goal(Op::AtMost, FLAT)
            .note(format!(
                "over connections that are open, {ASKING} at a time; ratio {} in {rounds} rounds; flat is at \
                     most {FLAT}",
                spread(&ratios)
            ))
            .print()?;
        }
    }
    Ok(())
}

async fn ask(coordinator: &Coordinator, agents: &mut Vec<Agent>) -> Result<[f64; KINDS.len()]> {
    let mut asking: Vec<Asking> = Vec::new();
    for mut agent in agents.drain(..) {
        let mut line = agent.connect(coordinator.address).await?;
        agent.open(&mut line).await?;
        asking.push((agent, Arc::new(Mutex::new(line))));
    }
    let tested = &coordinator.process;
    let (asking, configuration) = drive(tested, asking, ASKING, |(agent, line)| async move {
        for _ in 0..REQUESTS {
            agent.config(&mut *line.lock().await).await?;
        }
        Ok((agent, line))
    })
    .await?;
    let (asking, opening) = drive(tested, asking, ASKING, |(mut agent, line)| async move {
        for _ in 0..REQUESTS {
            agent.open(&mut *line.lock().await).await?;
        }
        Ok((agent, line))
    })
    .await?;
    let (asking, report) = drive(tested, asking, ASKING, |(mut agent, line)| async move {
        for _ in 0..REQUESTS {
            agent.report(&mut *line.lock().await).await?;
        }
        Ok((agent, line))
    })
    .await?;
    agents.extend(asking.into_iter().map(|(agent, _)| agent));
    Ok([configuration, opening, report].map(|cost| cost.micros() / number(REQUESTS)))
}

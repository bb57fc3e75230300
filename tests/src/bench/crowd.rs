//! Ten thousand agents that join at once, and ten thousand that wait for news.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hyper::Method;
use kiln_protocol::api::{self, MAX_WAIT};
use kiln_protocol::{Identity, Ticket};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::agent::{Agent, Line};
use super::coordinator::{Coordinator, Site};
use super::load::drive;
use super::report::{Op, Row, median, number, spread};

/// An agent waits so long after its first failure, and twice as long after
/// each further one, up to a minute; spread over the upper half, as the
/// agent's own `retry` does.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How long an agent waits for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// And for an answer.
const ANSWER: Duration = Duration::from_secs(20);
/// By when all have joined.
const ALL_JOINED: Duration = Duration::from_secs(600);
/// Connections that are made at a time when nobody hurries.
const AT_ONCE: usize = 64;

/// Prints what the crowd took, then what each of those who wait takes.
pub(super) async fn measure(site: &Site, rounds: usize, count: usize) -> Result<()> {
    let coordinator = site.coordinator(count).await?;
    let agents = (0..count)
        .map(|number| Agent::new(&Identity::generate()?, coordinator.pin, number))
        .collect::<Result<Vec<_>>>()?;
    let tickets = coordinator.tickets(0..count).await?;
    // A process that has made no tickets: its peak is the crowd's.
    let coordinator = site.restarted(coordinator).await?;
    let agents = join_at_once(&coordinator, agents, tickets).await?;
    wait_for_news(site, coordinator, agents, rounds).await
}

/// One agent's way in.
struct Joined {
    agent: Agent,
    /// It stays, as an agent's does.
    _line: Line,
    took: Duration,
    tries: usize,
}

async fn join_at_once(
    coordinator: &Coordinator,
    agents: Vec<Agent>,
    tickets: Vec<Ticket>,
) -> Result<Vec<Agent>> {
    let (count, to, begun) = (agents.len(), coordinator.address, Instant::now());
    let before = coordinator.process.pss()?;
    let mut joining = JoinSet::new();
    for (agent, ticket) in agents.into_iter().zip(tickets) {
        joining.spawn(join(agent, ticket, to, begun));
    }
    let mut joined = Vec::with_capacity(count);
    let all = async {
        while let Some(one) = joining.join_next().await {
            joined.push(one.context("an agent panicked")??);
        }
        Ok::<_, anyhow::Error>(())
    };
    let in_time = tokio::time::timeout(ALL_JOINED, all).await;
    if let Ok(failed) = in_time {
        failed?;
    }
    let (wall, peak) = (begun.elapsed(), coordinator.process.peak()?);
    let mut times: Vec<f64> = joined.iter().map(|one| one.took.as_secs_f64()).collect();
    times.sort_by(f64::total_cmp);
    let at = |percent: usize| times.get((times.len() * percent / 100).min(times.len().saturating_sub(1)));
    let tries: usize = joined.iter().map(|one| one.tries).sum();
    let note = format!(
        "each from an address of its own, with the agent's own waits after a failure; joined is enrolled, opened, \
         configured and reported, and its connection is kept. All within {:.1} s, median {:.1} s, {:.2} tries each",
        wall.as_secs_f64(),
        at(50).copied().unwrap_or(f64::NAN),
        number(tries) / number(joined.len().max(1)),
    );
    Row::new(format!("{count} agents enrol at once: joined"), number(joined.len()), "agents")
        .goal(Op::AtLeast, number(count))
        .note(note)
        .print()?;
    Row::new(
        format!("{count} agents enrol at once: 99 of 100 joined"),
        at(99).copied().unwrap_or(f64::NAN),
        "s",
    )
    .note("from the moment at which all of them begin, waits between tries included")
    .print()?;
    Row::new(format!("{count} agents enrol at once: the coordinator's memory"), number(peak) / 1e6, "MB")
        .goal(Op::AtMost, 200.0)
        .note(format!(
            "the most that was resident at any time, none of them hanging up; {:.1} MB before they came",
            number(before) / 1e6
        ))
        .print()?;
    Ok(joined.into_iter().map(|one| one.agent).collect())
}

async fn join(mut agent: Agent, ticket: Ticket, to: SocketAddr, begun: Instant) -> Result<Joined> {
    let mut wait = FIRST_WAIT;
    for tries in 1.. {
        match step_by_step(&mut agent, &ticket, to).await {
            Ok(line) => return Ok(Joined { agent, _line: line, took: begun.elapsed(), tries }),
            Err(_) => sleep(wait.mul_f64(0.5 + fastrand::f64() / 2.0)).await,
        }
        wait = LONGEST_WAIT.min(wait * 2);
    }
    bail!("an agent has given up")
}

async fn step_by_step(agent: &mut Agent, ticket: &Ticket, to: SocketAddr) -> Result<Line> {
    let mut line = tokio::time::timeout(HANDSHAKE, agent.connect(to)).await??;
    tokio::time::timeout(ANSWER, agent.enrol(&mut line, ticket)).await??;
    tokio::time::timeout(ANSWER, agent.open_for_config(&mut line)).await??;
    tokio::time::timeout(ANSWER, agent.report(&mut line)).await??;
    Ok(line)
}

/// What each question that is held open takes of the coordinator's memory.
async fn wait_for_news(
    site: &Site,
    mut coordinator: Coordinator,
    mut agents: Vec<Agent>,
    rounds: usize,
) -> Result<()> {
    let count = agents.len();
    let mut each = Vec::new();
    for _ in 0..rounds {
        coordinator = site.restarted(coordinator).await?;
        let to = coordinator.address;
        let before = coordinator.process.pss()?;
        let waiting: Arc<std::sync::Mutex<JoinSet<()>>> = Arc::default();
        let lines = Arc::clone(&waiting);
        let hold = move |mut agent: Agent| {
            let lines = Arc::clone(&lines);
            async move {
                let mut line = agent.connect(to).await?;
                let tag = agent.open_for_config(&mut line).await?;
                lines.lock().expect("nobody panics with it").spawn(async move {
                    let wait = format!("wait={MAX_WAIT}");
                    let headers = [("if-none-match", tag.as_str()), ("prefer", wait.as_str())];
                    let _ = line.ask(Method::GET, api::CONFIG, None, &headers).await;
                });
                Ok(agent)
            }
        };
        let (back, _) = drive(&coordinator.process, agents, AT_ONCE, hold).await?;
        agents = back;
        let deadline = Instant::now() + Duration::from_secs(60);
        while coordinator.held_open().await? < count {
            if Instant::now() > deadline {
                bail!("only {} of {count} questions are held open", coordinator.held_open().await?);
            }
            sleep(Duration::from_millis(100)).await;
        }
        each.push(number(coordinator.process.pss()?.saturating_sub(before)) / number(count) / 1e3);
        drop(waiting);
    }
    Row::new(format!("{count} idle agents that wait for news: memory of each"), median(each.clone()), "kB")
        .goal(Op::AtMost, 20.0)
        .note(format!(
            "growth of the coordinator's own proportional set size from before the first came, divided by {count}; \
             {} in {rounds} rounds",
            spread(&each)
        ))
        .print()
}

//! The write-ahead journal of a cluster: each line is durable before what it
//! speaks of begins.
//!
//! The journal is a hint, the provider's and the registry's records are the
//! truth, with one exception: a ticket's seed is nowhere else. It is written
//! here (mode 0600) before anything is done with it, and struck out once its
//! node is ready.
//!
//! A line cut off by a crash is the last one and is dropped: whatever it
//! announced had not begun.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use kiln_protocol::NodeName;
use kiln_protocol::admin::TicketRecord;
use kiln_protocol::ticket::TicketSeed;
use serde::{Deserialize, Serialize};

use super::files;
use crate::provider::Subject;
use crate::run::RunId;

/// A line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A run began.
    Begin {
        /// Which.
        run: RunId,
        /// `up`, `down`, …
        command: String,
        /// When.
        at: Timestamp,
    },
    /// A ticket is about to be registered and given to a node.
    Ticket(Issued),
    /// Something is about to be made by this run.
    Making {
        /// Which run.
        run: RunId,
        /// What.
        subject: Subject,
    },
    /// Something was removed, or its making was undone.
    Removed {
        /// What.
        subject: Subject,
    },
    /// A node has become ready with its ticket, which is worth nothing since.
    Spent {
        /// Which node.
        node: NodeName,
        /// Its generation.
        generation: u32,
    },
    /// `down` has begun: from here on nothing is made, only removed.
    Ending,
    /// The incarnation has ended in the registry.
    Ended,
}

/// A ticket of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// Its secret.
    pub seed: TicketSeed,
    /// What it stands for.
    pub record: TicketRecord,
}

/// What the lines of a journal come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// The newest ticket of each node that has not been spent.
    pub tickets: BTreeMap<NodeName, Issued>,
    /// The newest generation of each node.
    pub generations: BTreeMap<NodeName, u32>,
    /// What each run made and what still stands, oldest first.
    pub made: Vec<(RunId, Subject)>,
    /// Whether `down` has begun.
    pub ending: bool,
    /// Whether the incarnation has ended in the registry.
    pub ended: bool,
}

impl State {
    /// Takes one line in.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Begin { .. } => {}
            Event::Ticket(issued) => {
                let node = issued.record.node.clone();
                self.raise(&node, issued.record.generation);
                self.tickets.insert(node, issued);
            }
            Event::Making { run, subject } => {
                self.made.retain(|(_, there)| *there != subject);
                self.made.push((run, subject));
            }
            Event::Removed { subject } => self.made.retain(|(_, there)| *there != subject),
            Event::Spent { node, generation } => {
                self.raise(&node, generation);
                if self.tickets.get(&node).is_some_and(|issued| issued.record.generation <= generation) {
                    self.tickets.remove(&node);
                }
            }
            Event::Ending => self.ending = true,
            Event::Ended => self.ended = true,
        }
    }

    fn raise(&mut self, node: &NodeName, generation: u32) {
        let newest = self.generations.entry(node.clone()).or_default();
        *newest = generation.max(*newest);
    }

    /// The shortest journal that comes to this state.
    fn events(&self) -> Vec<Event> {
        let spent = self.generations.iter().map(|(node, generation)| (node, *generation));
        let spent = spent.filter_map(|(node, generation)| {
            let live = self.tickets.get(node).map(|issued| issued.record.generation);
            (live != Some(generation)).then(|| Event::Spent { node: node.clone(), generation })
        });
        let made = self
            .made
            .iter()
            .map(|(run, subject)| Event::Making { run: run.clone(), subject: subject.clone() });
        let tickets = self.tickets.values().cloned().map(Event::Ticket);
        let ending = self.ending.then_some(Event::Ending);
        let ended = self.ended.then_some(Event::Ended);
        made.chain(spent).chain(tickets).chain(ending).chain(ended).collect()
    }

    /// What a run made and what still stands, newest first: the order to undo
    /// it in.
    pub fn made_by(&self, run: &RunId) -> Vec<Subject> {
        let own = self.made.iter().rev().filter(|(by, _)| by == run);
        own.map(|(_, subject)| subject.clone()).collect()
    }
}

/// Reads a journal's text; drops a last line that was cut off. Returns also
/// how many bytes of it are whole.
pub fn replay(text: &str) -> Result<(State, usize)> {
    let mut state = State::default();
    let mut whole = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let Some(line) = line.strip_suffix('\n') else { break };
        if !line.is_empty() {
            let event =
                serde_json::from_str(line).with_context(|| format!("decoding line {}", number + 1))?;
            state.apply(event);
        }
        whole += line.len() + 1;
    }
    Ok((state, whole))
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    state: State,
    #[cfg(test)]
    pub(crate) faults: super::faults::Faults,
}

impl Journal {
    /// Opens or begins the journal at `path`; a line cut off by a crash is
    /// cut away.
    pub fn open(path: &Path) -> Result<Self> {
        let reading = || format!("reading the journal {}", path.display());
        let text = files::read_optional(path)?.unwrap_or_default();
        let (state, whole) = replay(&text).with_context(reading)?;
        if whole < text.len() {
            let file = OpenOptions::new().write(true).open(path).with_context(reading)?;
            file.set_len(whole as u64).and_then(|()| file.sync_all()).with_context(reading)?;
        }
        Ok(Self {
            path: path.to_owned(),
            state,
            #[cfg(test)]
            faults: super::faults::Faults::default(),
        })
    }

    /// What its lines come to.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Adds a line. It is durable when this returns.
    pub fn append(&mut self, event: Event) -> Result<()> {
        let writing = || format!("writing the journal {}", self.path.display());
        let mut line = zeroize::Zeroizing::new(serde_json::to_vec(&event).with_context(writing)?);
        line.push(b'\n');
        let mut options = OpenOptions::new();
        let mut file =
            options.append(true).create(true).mode(0o600).open(&self.path).with_context(writing)?;
        #[cfg(test)]
        self.faults.torn_write(&mut file, &line)?;
        file.write_all(&line).and_then(|()| file.sync_all()).with_context(writing)?;
        if let Some(dir) = self.path.parent() {
            files::sync_dir(dir).with_context(writing)?;
        }
        self.state.apply(event);
        #[cfg(test)]
        self.faults.point()?;
        Ok(())
    }

    /// Writes it anew without what is of no use any more: spent seeds above all.
    pub fn compact(&mut self) -> Result<()> {
        let mut text = zeroize::Zeroizing::new(Vec::new());
        for event in self.state.events() {
            serde_json::to_writer(&mut *text, &event).context("encoding the journal")?;
            text.push(b'\n');
        }
        files::write(&self.path, &text)
    }
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;

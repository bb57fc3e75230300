//! Group commit: transactions that wait at the same time share one fsync.
//!
//! The thread takes everything that waits, lets those who only look do so on
//! what is committed, runs the changes one after another in one group, commits
//! it, and only then answers. A refusal undoes its own work only. If the
//! commit fails, everyone in the group hears why, and nothing was done.
//!
//! While many ask, a group waits a little for others to come in. Without that,
//! the faster the disk, the smaller the groups: with 96 nodes at a time they
//! were of three, and an enrolment took a sixth more processor time.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::mpsc::Receiver;

use super::engine::{Engine, Transaction, Undo};
use super::post::{Letter, Post};

/// Changes that are one group at most.
const GROUP: usize = 256;
/// How long a group waits for others at a time.
const PAUSE: Duration = Duration::from_millis(1);
/// How often it does, as long as others come.
const PAUSES: usize = 6;

/// Is told how it went, once that is certain, and hands the caller's letter over.
pub(super) type Answer = Box<dyn FnOnce(Result<(), Lost>) -> Letter + Send>;
/// Runs a transition; says whether to keep what it did, and how to answer.
pub(super) type Transition = Box<dyn FnOnce(Result<&Transaction<'_>, Lost>) -> (bool, Option<Answer>) + Send>;

/// A caller's change.
pub(super) struct Change {
    pub(super) undo: Undo,
    pub(super) run: Transition,
}

/// Looks at the tables, and answers.
pub(super) type Look = Box<dyn FnOnce(Result<&Transaction<'_>, Lost>) -> Letter + Send>;

/// Does something with the engine itself, and answers.
pub(super) type Alone = Box<dyn FnOnce(&mut dyn Engine) + Send>;

/// What the thread is asked.
pub(super) enum Job {
    Look(Look),
    Change(Change),
    /// Something with the engine itself, on its own.
    Engine(Alone),
}

/// Why a group was lost: one error, told to everybody in it.
#[derive(Debug, Clone)]
pub(super) struct Lost(Arc<anyhow::Error>);

impl From<anyhow::Error> for Lost {
    fn from(error: anyhow::Error) -> Self {
        Self(Arc::new(error))
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Lost {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // Not its cause but itself: what it was is looked for in the chain.
        let error: &(dyn std::error::Error + Send + Sync + 'static) = (*self.0).as_ref();
        Some(error)
    }
}

/// Waits for others to come in.
pub(super) fn pause() {
    std::thread::sleep(PAUSE);
}

/// Serves jobs until nobody can send any more.
pub(super) fn serve(
    engine: &mut dyn Engine,
    queue: &mut Receiver<Job>,
    post: &Post,
    mut pause: impl FnMut(),
) {
    // Whoever is alone waits for nobody.
    let mut many = false;
    while let Some(first) = queue.blocking_recv() {
        let mut changes = Vec::new();
        take(engine, Some(first), queue, post, &mut changes);
        for _ in 0..PAUSES {
            let before = changes.len();
            if !many || before == 0 || before == GROUP {
                break;
            }
            pause();
            take(engine, None, queue, post, &mut changes);
            if changes.len() == before {
                break;
            }
        }
        many = changes.len() > 1;
        if !changes.is_empty() {
            post.send(group(engine, changes));
        }
    }
}

/// Takes what waits: changes are kept for their group, all else is done at once.
fn take(
    engine: &mut dyn Engine,
    first: Option<Job>,
    queue: &mut Receiver<Job>,
    post: &Post,
    changes: &mut Vec<Change>,
) {
    let (mut looks, mut alone) = (Vec::new(), Vec::new());
    let waiting = first.into_iter().chain(std::iter::from_fn(|| queue.try_recv().ok()));
    for job in waiting.take(GROUP - changes.len()) {
        match job {
            Job::Look(look) => looks.push(look),
            Job::Change(change) => changes.push(change),
            Job::Engine(work) => alone.push(work),
        }
    }
    if !looks.is_empty() {
        post.send(look(engine, looks));
    }
    for work in alone {
        work(engine);
    }
}

/// All of them see the same. Returns everybody's letters.
fn look(engine: &mut dyn Engine, looks: Vec<Look>) -> Vec<Letter> {
    let mut letters = Vec::with_capacity(looks.len());
    let mut looks = looks.into_iter();
    let read = engine.read(&mut |tx| letters.extend(looks.by_ref().map(|look| look(Ok(tx)))));
    if let Err(error) = read {
        let lost = Lost::from(error);
        letters.extend(looks.map(|look| look(Err(lost.clone()))));
    }
    letters
}

/// Returns everybody's letters.
fn group(engine: &mut dyn Engine, changes: Vec<Change>) -> Vec<Letter> {
    let mut changes = changes.into_iter();
    let mut answers = Vec::with_capacity(changes.len());
    let mut run = || -> Result<()> {
        engine.begin()?;
        for Change { undo, run } in changes.by_ref() {
            let mut run = Some(run);
            engine.attempt(undo, &mut |tx| {
                let Some(run) = run.take() else { return false };
                let (keep, answer) = run(Ok(tx));
                answers.extend(answer);
                keep
            })?;
        }
        engine.commit()
    };
    let outcome = run().map_err(Lost::from);
    if outcome.is_err() {
        engine.rollback();
    }
    let mut letters: Vec<Letter> = answers.into_iter().map(|answer| answer(outcome.clone())).collect();
    if let Err(lost) = outcome {
        // Those whose turn did not come.
        for Change { run, .. } in changes {
            if let (_, Some(answer)) = run(Err(lost.clone())) {
                letters.push(answer(Err(lost.clone())));
            }
        }
    }
    letters
}

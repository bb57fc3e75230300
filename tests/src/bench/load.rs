//! Many agents at a time.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;

use super::process::Tested;
use super::report::number;

/// What a number of operations took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    operations: usize,
    /// From the first one's beginning to the last one's end.
    wall: Duration,
    /// Of the process under test.
    cpu: Duration,
}

impl Cost {
    pub(super) fn per_second(&self) -> f64 {
        number(self.operations) / self.wall.as_secs_f64()
    }

    /// Operations for each second of processor time.
    pub(super) fn per_cpu_second(&self) -> f64 {
        number(self.operations) / self.cpu.as_secs_f64()
    }

    /// Microseconds of processor time for each.
    pub(super) fn micros(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / number(self.operations)
    }

    /// How much of the time its core was at it.
    pub(super) fn busy(&self) -> f64 {
        self.cpu.as_secs_f64() / self.wall.as_secs_f64()
    }
}

/// Does the work on each item, `at_once` at a time; returns the items in no
/// order, and what it all cost the process under test.
pub(super) async fn drive<T, F, W>(
    tested: &Tested,
    items: Vec<T>,
    at_once: usize,
    work: W,
) -> Result<(Vec<T>, Cost)>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
    W: Fn(T) -> F + Clone + Send + Sync + 'static,
{
    let operations = items.len();
    let queue = Arc::new(Mutex::new(items));
    let (begun, before) = (Instant::now(), tested.cpu()?);
    let mut workers = JoinSet::new();
    for _ in 0..at_once {
        let (queue, work) = (Arc::clone(&queue), work.clone());
        workers.spawn(async move {
            let mut done = Vec::new();
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let Some(item) = next else { return Ok::<_, anyhow::Error>(done) };
                done.push(work(item).await?);
            }
        });
    }
    let mut items = Vec::with_capacity(operations);
    while let Some(done) = workers.join_next().await {
        items.extend(done.context("an agent panicked")??);
    }
    let wall = begun.elapsed();
    let cpu = tested.cpu()?.saturating_sub(before);
    Ok((items, Cost { operations, wall, cpu }))
}

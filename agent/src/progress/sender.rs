//! Delivers reports beside whatever else the agent does.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use super::queue::Queue;
use crate::client::Client;
use crate::retry::{Backoff, Pace, random};

/// The way to the coordinator, as far as there is one yet.
#[derive(Debug, Default)]
pub(crate) struct Link {
    client: RefCell<Option<Rc<Client>>>,
    bound: Cell<bool>,
    better: Notify,
}

impl Link {
    /// There is a client now, or another one.
    pub(crate) fn connect(&self, client: Rc<Client>) {
        self.client.replace(Some(client));
        self.better.notify_one();
    }

    /// The coordinator has just answered.
    pub(crate) fn answered(&self, bound: bool) {
        self.bound.set(bound);
        self.better.notify_one();
    }

    async fn better_or_after(&self, wait: Duration) {
        // Elapsed is as good as a reason to try again.
        let _ = timeout(wait, self.better.notified()).await;
    }
}

/// When delivering ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// When nothing is left to deliver.
    Empty,
    Never,
}

/// Delivers reports, oldest first.
pub(crate) async fn deliver(queue: &Queue, link: &Link, pace: Pace, until: Until) {
    let mut backoff = Backoff::new(pace);
    loop {
        let Some(report) = queue.front() else {
            if until == Until::Empty {
                return;
            }
            queue.news().await;
            continue;
        };
        let client = link.client.borrow().clone();
        let Some(client) = client else {
            link.better_or_after(pace.longest).await;
            continue;
        };
        match client.report(&report).await {
            Ok(()) => {
                queue.remove(report.sequence);
                backoff = Backoff::new(pace);
            }
            Err(failure) if failure.error.class.needs_operator() && link.bound.get() => {
                tracing::warn!("the coordinator does not take a report: {}", failure.error);
                queue.remove(report.sequence);
            }
            // A coordinator that does not know the key yet may not listen to
            // it; it will once the key is bound.
            Err(failure) => link.better_or_after(backoff.after(&failure, random())).await,
        }
    }
}

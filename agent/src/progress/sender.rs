//! Delivers reports beside whatever else the agent does.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use kiln_protocol::api::Report;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::queue::Queue;
use crate::client::Client;
use crate::clock;
use crate::retry::{Backoff, Pace, random};

/// The way to the coordinator, as far as there is one yet.
#[derive(Debug, Default)]
pub(crate) struct Link {
    client: RefCell<Option<Rc<Client>>>,
    /// Whether it has answered at all: reports do not look for it on their own.
    answers: Cell<bool>,
    /// Whether it knows the node's key.
    bound: Cell<bool>,
    ending: Cell<bool>,
    /// The number of the last report that was sent.
    sent: Cell<u64>,
    better: Notify,
}

impl Link {
    /// There is a client now, or another one.
    pub(crate) fn connect(&self, client: Rc<Client>) {
        self.client.replace(Some(client));
        self.better.notify_one();
    }

    /// The coordinator has just answered, and may know the key.
    pub(crate) fn answered(&self, bound: bool) {
        self.answers.set(true);
        self.bound.set(bound);
        self.better.notify_one();
    }

    /// There will be more to report.
    pub(crate) fn begin(&self) {
        self.ending.set(false);
    }

    /// Nothing more will be reported.
    pub(crate) fn end(&self) {
        self.ending.set(true);
        self.better.notify_one();
    }

    /// The next report's number, at `uptime_ms` after the kernel started. It
    /// grows within a boot, also over the end of this process: the coordinator
    /// takes a report with a number that it has seen for one that was overtaken,
    /// and nobody sends a report a millisecond.
    fn number(&self, uptime_ms: u64) -> u64 {
        let number = uptime_ms.max(self.sent.get() + 1);
        self.sent.set(number);
        number
    }

    async fn better_or_after(&self, wait: Duration) {
        // Elapsed is as good as a reason to try again.
        let _ = timeout(wait, self.better.notified()).await;
    }
}

/// Delivers reports, oldest first, until the link is to end and none is left, or
/// another coordinator answers: what it may not hear is kept.
pub(crate) async fn deliver(queue: &Queue, link: &Link, pace: Pace) {
    let mut backoff = Backoff::new(pace);
    loop {
        let Some(report) = queue.next(link.bound.get()) else {
            if link.ending.get() {
                return;
            }
            tokio::select! {
                () = queue.news() => {}
                () = link.better.notified() => {}
            }
            continue;
        };
        let client = link.client.borrow().clone().filter(|_| link.answers.get());
        let Some(client) = client else {
            link.better_or_after(pace.longest).await;
            continue;
        };
        let numbered = Report { sequence: link.number(clock::uptime_ms()), ..report.clone() };
        match client.report(&numbered).await {
            Ok(()) => {
                queue.remove(report.sequence);
                backoff = Backoff::new(pace);
            }
            Err(failure) if failure.error.class.needs_operator() && failure.heard && link.bound.get() => {
                tracing::warn!("the coordinator does not take a report: {}", failure.error);
                queue.remove(report.sequence);
            }
            // Not the coordinator's word: the pin is not what answers.
            Err(failure) if failure.error.class.needs_operator() && link.ending.get() => return,
            // A coordinator that does not know the key yet may not listen to
            // it; it will once the key is bound.
            Err(failure) => link.better_or_after(backoff.after(&failure, random())).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_grow_within_a_boot_whoever_ended_in_between() {
        let link = Link::default();
        // Two in one millisecond, and a clock that stands still.
        let numbers = [5000, 5000, 5000, 5001].map(|uptime_ms| link.number(uptime_ms));
        assert_eq!(numbers, [5000, 5001, 5002, 5003]);
        let after_a_crash = Link::default();
        assert!(after_a_crash.number(6000) > link.sent.get());
    }
}

//! Reports that the coordinator has not taken yet.
//!
//! In here a report's sequence says in which order they were made; on the wire
//! it says in which order they were sent, which may differ.
//!
//! Of what is under way or has failed only the newest word matters; finished
//! steps are kept, since they say how long each took. So there are never more
//! than one report a step and one besides.

use std::cell::RefCell;
use std::collections::VecDeque;

use kiln_protocol::api::{Report, StepState};
use tokio::sync::Notify;

/// Reports in the order they were made.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    reports: RefCell<VecDeque<Report>>,
    news: Notify,
}

impl Queue {
    pub(crate) fn push(&self, report: Report) {
        let mut reports = self.reports.borrow_mut();
        let is_done = |report: &Report| report.state == StepState::Done;
        reports.retain(|old| is_done(old) && !(is_done(&report) && old.step == report.step));
        reports.push_back(report);
        self.news.notify_one();
    }

    /// What to deliver next. A coordinator that does not know the key yet
    /// hears only the newest word, if that is one of trouble or of waiting: it
    /// keeps no times of steps for strangers.
    pub(crate) fn next(&self, bound: bool) -> Option<Report> {
        let reports = self.reports.borrow();
        if bound {
            return reports.front().cloned();
        }
        reports.back().filter(|report| report.state != StepState::Done).cloned()
    }

    /// A report has been delivered, or will never be.
    pub(crate) fn remove(&self, sequence: u64) {
        self.reports.borrow_mut().retain(|report| report.sequence != sequence);
    }

    /// Returns when something has been added.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_protocol::api::Step;
    use proptest::prelude::*;

    fn report(sequence: u64, step: Step, state: StepState) -> Report {
        Report { boot_id: "b".into(), sequence, uptime_ms: sequence, step, state, facts: None, usage: None }
    }

    fn running() -> StepState {
        StepState::Running { detail: None }
    }

    fn sequences(queue: &Queue) -> Vec<u64> {
        queue.reports.borrow().iter().map(|report| report.sequence).collect()
    }

    #[test]
    fn the_newest_word_wins_and_finished_steps_stay() {
        let queue = Queue::default();
        queue.push(report(1, Step::Seed, running()));
        queue.push(report(2, Step::Seed, StepState::Done));
        queue.push(report(3, Step::Key, running()));
        queue.push(report(4, Step::Enrol, running()));
        assert_eq!(sequences(&queue), [2, 4]);
        queue.remove(2);
        assert_eq!(queue.next(true).unwrap().sequence, 4);
        queue.remove(4);
        assert!(queue.next(true).is_none());
    }

    #[test]
    fn a_stranger_tells_of_its_trouble_and_keeps_its_times() {
        let queue = Queue::default();
        queue.push(report(1, Step::Seed, StepState::Done));
        assert_eq!(queue.next(false), None);
        queue.push(report(2, Step::Enrol, running()));
        assert_eq!(queue.next(false).unwrap().sequence, 2);
        assert_eq!(queue.next(true).unwrap().sequence, 1);
    }

    proptest! {
        #[test]
        fn it_stays_small_and_in_order(pushes in proptest::collection::vec((0..7usize, any::<bool>()), 0..200)) {
            let queue = Queue::default();
            for (sequence, (step, done)) in pushes.into_iter().enumerate() {
                let state = if done { StepState::Done } else { running() };
                queue.push(report(sequence as u64, Step::ALL[step], state));
                let held = sequences(&queue);
                prop_assert!(held.len() <= Step::ALL.len() + 1);
                prop_assert!(held.is_sorted());
                prop_assert_eq!(*held.last().unwrap(), sequence as u64);
            }
        }
    }
}

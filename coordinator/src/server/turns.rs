//! How many nodes speak at a time. HTTP takes 25 kB of a connection while
//! something is said over it, and ten thousand nodes that come at the same time,
//! or hear the same news, would have them all at once. So whoever has something to
//! say waits for a turn, in the order of coming. A turn is over after a while:
//! whoever is slow goes on, but nobody waits for it any longer.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The turns there are.
#[derive(Debug, Clone)]
pub(super) struct Turns {
    places: Arc<Semaphore>,
    time: Duration,
}

/// One of them, given on when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    place: Option<OwnedSemaphorePermit>,
    time: Duration,
}

impl Turns {
    /// So many at a time, each for as long as `time` at most.
    pub(super) fn new(places: usize, time: Duration) -> Self {
        Self { places: Arc::new(Semaphore::new(places.clamp(1, Semaphore::MAX_PERMITS))), time }
    }

    /// Waits for one.
    pub(super) async fn take(&self) -> Turn {
        // It is never closed.
        Turn { place: Arc::clone(&self.places).acquire_owned().await.ok(), time: self.time }
    }
}

impl Turn {
    /// Of those who are few enough anyway.
    pub(super) fn free() -> Self {
        Self { place: None, time: Duration::ZERO }
    }

    /// Gives it on when its time is over; never returns.
    pub(super) async fn is_over(&mut self) -> Infallible {
        if self.place.is_some() {
            tokio::time::sleep(self.time).await;
            self.place = None;
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn so_many_have_a_turn_and_the_next_when_one_is_done() {
        let turns = Turns::new(2, Duration::from_secs(60));
        let (first, _second) = (turns.take().await, turns.take().await);
        let mut third = Box::pin(turns.take());
        let waits = std::future::poll_fn(|cx| Poll::Ready(third.as_mut().poll(cx).is_pending())).await;
        assert!(waits);
        drop(first);
        tokio::time::timeout(PATIENCE, third).await.unwrap();
    }

    #[tokio::test]
    async fn whoever_is_slow_is_not_waited_for() {
        let turns = Turns::new(1, Duration::from_millis(10));
        let mut slow = turns.take().await;
        let next = tokio::time::timeout(PATIENCE, turns.take());
        tokio::select! {
            never = slow.is_over() => match never {},
            next = next => drop(next.unwrap()),
        }
        assert!(slow.place.is_none());
    }
}

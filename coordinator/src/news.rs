//! Questions that are held open until something changes for whoever asks, and
//! who is there because it asks one.
//!
//! What changes for whom is read from the audit trail: a line about a seat is
//! news for its node, a line about the whole cluster for every node. Who hears
//! news looks again, rights included, so that news too many cost a look and no
//! more.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::store::events::Concerned;

/// Who waits for news.
#[derive(Debug, Default)]
pub(crate) struct News {
    all: Notify,
    approved: Notify,
    seats: Mutex<HashMap<i64, Listeners>>,
}

#[derive(Debug)]
struct Listeners {
    news: Arc<Notify>,
    count: usize,
    last: Timestamp,
}

/// When a seat's node was last connected, by seat.
pub(crate) type Presence = HashMap<i64, Seen>;

/// When a seat's node was last connected.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) connected: bool,
    pub(crate) at: Timestamp,
}

impl News {
    /// Begins to listen for a seat.
    pub(crate) fn listen(self: &Arc<Self>, seat: i64) -> Ear {
        let mut seats = self.seats();
        let fresh = || Listeners { news: Arc::default(), count: 0, last: Timestamp::now() };
        let listeners = seats.entry(seat).or_insert_with(fresh);
        listeners.count += 1;
        Ear { seat, own: Arc::clone(&listeners.news), news: Arc::clone(self) }
    }

    /// Wakes those whom it concerns.
    pub(crate) fn tell(&self, concerned: &Concerned) {
        if concerned.all {
            self.all.notify_waiters();
        }
        let seats = self.seats();
        for listeners in concerned.seats.iter().filter_map(|seat| seats.get(seat)) {
            listeners.news.notify_waiters();
        }
    }

    /// Wakes the machines that wait to be approved: one of them was.
    pub(crate) fn tell_strangers(&self) {
        self.approved.notify_waiters();
    }

    /// Returns when some machine was approved; begins to listen at once, not
    /// when it is first polled.
    pub(crate) fn an_approval(&self) -> impl Future<Output = ()> {
        self.approved.notified()
    }

    /// Everybody who has listened since the program began.
    pub(crate) fn presence(&self) -> Presence {
        let seen = |(seat, listeners): (&i64, &Listeners)| {
            (*seat, Seen { connected: listeners.count > 0, at: listeners.last })
        };
        self.seats().iter().map(seen).collect()
    }

    /// How many questions are held open.
    pub(crate) fn held_open(&self) -> usize {
        self.seats().values().map(|listeners| listeners.count).sum()
    }

    fn seats(&self) -> MutexGuard<'_, HashMap<i64, Listeners>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Listens for one seat as long as it is there.
#[derive(Debug)]
pub(crate) struct Ear {
    seat: i64,
    own: Arc<Notify>,
    news: Arc<News>,
}

impl Ear {
    /// Asks `look` now and after each piece of news until it has an answer.
    /// Nothing once the time is over.
    pub(crate) async fn wait<T, E, F>(
        &self,
        end: Instant,
        mut look: impl FnMut() -> F,
    ) -> Result<Option<T>, E>
    where
        F: Future<Output = Result<Option<T>, E>>,
    {
        loop {
            // What is told between the look and the waiting must not be missed.
            let (mut own, mut all) = (pin!(self.own.notified()), pin!(self.news.all.notified()));
            own.as_mut().enable();
            all.as_mut().enable();
            if let Some(found) = look().await? {
                return Ok(Some(found));
            }
            tokio::select! {
                () = own => {}
                () = all => {}
                () = sleep_until(end) => return Ok(None),
            }
        }
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        if let Some(listeners) = self.news.seats().get_mut(&self.seat) {
            listeners.count -= 1;
            listeners.last = Timestamp::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::convert::Infallible;
    use std::time::Duration;

    /// What a listener for seat 1 finds after the third of its looks, each of
    /// which is followed by `told`.
    async fn third_look(told: impl Fn(&News)) -> Option<u32> {
        let news = Arc::new(News::default());
        let (ear, looks) = (news.listen(1), Cell::new(0));
        let look = || {
            looks.set(looks.get() + 1);
            let (looks, news) = (looks.get(), &news);
            let told = &told;
            async move {
                told(news);
                Ok::<_, Infallible>((looks == 3).then_some(looks))
            }
        };
        let end = Instant::now() + Duration::from_millis(50);
        ear.wait(end, look).await.unwrap()
    }

    #[tokio::test]
    async fn news_during_a_look_are_not_missed_and_others_news_are_not_heard() {
        let of = |seats: &[i64], all: bool| Concerned { all, seats: seats.to_vec() };
        assert_eq!(third_look(|news| news.tell(&of(&[2, 1], false))).await, Some(3));
        assert_eq!(third_look(|news| news.tell(&of(&[], true))).await, Some(3));
        assert_eq!(third_look(|news| news.tell(&of(&[2], false))).await, None);
    }

    #[tokio::test]
    async fn a_listener_is_present_until_it_is_gone() {
        let news = Arc::new(News::default());
        let (one, other) = (news.listen(1), news.listen(1));
        drop(one);
        assert!(news.presence()[&1].connected);
        drop(other);
        assert!(!news.presence()[&1].connected);
        assert!(!news.presence().contains_key(&2));
    }
}

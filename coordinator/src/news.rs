//! Questions that are held open until something changes for whoever asks, and
//! who is there because it asks one.
//!
//! What changes for whom is read from the audit trail: a line about a seat is
//! news for its node, a line about the whole cluster for every node. Who hears
//! news looks again, rights included, so that news too many cost a look and no
//! more.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
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
    /// How often everybody was told something.
    told: AtomicU64,
    seats: Mutex<HashMap<i64, Listeners>>,
}

#[derive(Debug)]
struct Listeners {
    news: Arc<Own>,
    count: usize,
    last: Timestamp,
}

/// What is told to one seat's listeners, and how often it was.
#[derive(Debug, Default)]
struct Own {
    news: Notify,
    told: AtomicU64,
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
        let own = Arc::clone(&listeners.news);
        drop(seats);
        let mut ear = Ear { seat, own, news: Arc::clone(self), heard: (0, 0) };
        ear.mark();
        ear
    }

    /// Wakes those whom it concerns.
    pub(crate) fn tell(&self, concerned: &Concerned) {
        if concerned.all {
            self.told.fetch_add(1, Ordering::SeqCst);
            self.all.notify_waiters();
        }
        let seats = self.seats();
        for listeners in concerned.seats.iter().filter_map(|seat| seats.get(seat)) {
            listeners.news.told.fetch_add(1, Ordering::SeqCst);
            listeners.news.news.notify_waiters();
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
    own: Arc<Own>,
    news: Arc<News>,
    /// What had been told at the mark.
    heard: (u64, u64),
}

impl Ear {
    /// From here on, everything is news. What is told between a look and the
    /// waiting must not be missed, so this comes before the look.
    pub(crate) fn mark(&mut self) {
        self.heard = self.told();
    }

    /// Returns once something was told since the mark.
    pub(crate) async fn news(&self) {
        let (mut own, mut all) = (pin!(self.own.news.notified()), pin!(self.news.all.notified()));
        own.as_mut().enable();
        all.as_mut().enable();
        if self.told() != self.heard {
            return;
        }
        tokio::select! {
            () = own => {}
            () = all => {}
        }
    }

    fn told(&self) -> (u64, u64) {
        (self.own.told.load(Ordering::SeqCst), self.news.told.load(Ordering::SeqCst))
    }

    /// Asks `look` now and after each piece of news until it has an answer.
    /// Nothing once the time is over.
    pub(crate) async fn wait<T, E, F>(
        &mut self,
        end: Instant,
        mut look: impl FnMut() -> F,
    ) -> Result<Option<T>, E>
    where
        F: Future<Output = Result<Option<T>, E>>,
    {
        loop {
            self.mark();
            if let Some(found) = look().await? {
                return Ok(Some(found));
            }
            tokio::select! {
                () = self.news() => {}
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
        let (mut ear, looks) = (news.listen(1), Cell::new(0));
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
        let of = |seats: &[i64], all: bool| Concerned { all, seats: seats.to_vec(), ..Concerned::default() };
        assert_eq!(third_look(|news| news.tell(&of(&[2, 1], false))).await, Some(3));
        assert_eq!(third_look(|news| news.tell(&of(&[], true))).await, Some(3));
        assert_eq!(third_look(|news| news.tell(&of(&[2], false))).await, None);
    }

    #[tokio::test]
    async fn what_is_told_between_the_mark_and_the_waiting_is_news() {
        let news = Arc::new(News::default());
        let mut ear = news.listen(1);
        let own = Concerned { seats: vec![1], ..Concerned::default() };
        news.tell(&own);
        ear.news().await;
        ear.mark();
        news.tell(&Concerned { all: true, ..Concerned::default() });
        ear.news().await;
        ear.mark();
        let heard = std::pin::pin!(ear.news());
        tokio::select! {
            biased;
            () = heard => panic!("nothing was told since the mark"),
            () = std::future::ready(()) => {}
        }
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

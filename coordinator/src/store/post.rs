//! Answers to callers that wait in another thread.
//!
//! To wake a task of another thread costs a system call, and the two threads take
//! turns at each of the answers that there are at the same time. So the store's
//! thread wakes one caller only, and whoever is woken hands over what is there for
//! the others, within the thread that they all wait in.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::oneshot;

/// Hands one caller its answer; false if nobody waits for it any more.
pub(super) type Letter = Box<dyn FnOnce() -> bool + Send>;

/// The letter that holds this answer.
pub(super) fn letter<T: Send + 'static>(to: oneshot::Sender<T>, answer: T) -> Letter {
    Box::new(move || to.send(answer).is_ok())
}

/// What was not handed over yet.
#[derive(Clone, Default)]
pub(super) struct Post(Arc<Mutex<Vec<Letter>>>);

impl Post {
    /// Wakes one caller, who sees to the others.
    pub(super) fn send(&self, letters: Vec<Letter>) {
        // They are there before anybody is woken.
        self.letters().extend(letters);
        loop {
            let Some(letter) = self.letters().pop() else { return };
            if letter() {
                return;
            }
        }
    }

    /// Hands everything over.
    fn deliver(&self) {
        let letters = std::mem::take(&mut *self.letters());
        for letter in letters {
            letter();
        }
    }

    fn letters(&self) -> MutexGuard<'_, Vec<Letter>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Post {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Post").field(&self.letters().len()).finish()
    }
}

/// A caller that waits for its answer, and hands over others' meanwhile.
#[derive(Debug)]
pub(super) struct Caller<T> {
    answer: oneshot::Receiver<T>,
    post: Post,
}

impl<T> Caller<T> {
    pub(super) fn new(answer: oneshot::Receiver<T>, post: Post) -> Self {
        Self { answer, post }
    }
}

impl<T> Future for Caller<T> {
    type Output = Result<T, oneshot::error::RecvError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.post.deliver();
        Pin::new(&mut self.answer).poll(cx)
    }
}

impl<T> Drop for Caller<T> {
    fn drop(&mut self) {
        // It may have been the one that was woken for all.
        self.answer.close();
        self.post.deliver();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(post: &Post) -> (Caller<u8>, Letter) {
        let (send, answer) = oneshot::channel();
        (Caller::new(answer, post.clone()), letter(send, 7))
    }

    fn polled(caller: &mut Caller<u8>) -> Poll<u8> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        Pin::new(caller).poll(&mut context).map(Result::unwrap)
    }

    #[test]
    fn whoever_is_woken_hands_over_the_others_answers() {
        let post = Post::default();
        let (mut callers, letters): (Vec<_>, Vec<_>) = (0..5).map(|_| caller(&post)).unzip();
        for caller in &mut callers {
            assert_eq!(polled(caller), Poll::Pending);
        }
        post.send(letters);
        assert_eq!(post.letters().len(), 4, "one was answered");
        assert_eq!(polled(&mut callers[0]), Poll::Ready(7));
        assert!(post.letters().is_empty());
        assert!(callers[1..].iter_mut().all(|caller| polled(caller) == Poll::Ready(7)));
    }

    #[test]
    fn nobody_waits_for_one_who_has_hung_up() {
        // Whoever would be woken has gone before, or goes before it is polled.
        for gone_before in [true, false] {
            let post = Post::default();
            let (mut callers, letters): (Vec<_>, Vec<_>) = (0..3).map(|_| caller(&post)).unzip();
            let last = callers.pop();
            let mut last = (!gone_before).then_some(last);
            post.send(letters);
            drop(last.take());
            // One of the others was woken, or all of them were answered.
            let answered = callers.iter().filter(|caller| !caller.answer.is_empty()).count();
            assert!(answered > 0, "gone before: {gone_before}");
            assert!(callers.iter_mut().all(|caller| polled(caller) == Poll::Ready(7)));
        }
    }
}

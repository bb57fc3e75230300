//! A connection that waits without what answers it.
//!
//! HTTP takes two buffers of 8 KiB and a tower of futures for each connection,
//! also for the minutes in which nothing is said. So a connection has them only
//! while something is: at *rest* it is a TLS stream and no more, and HTTP is
//! made anew when there is something to read.
//!
//! A question for another configuration that has to wait is *parked*: HTTP is
//! taken apart around it, the few words that were asked are kept, and when
//! there is news, the time is over or the other end says something, HTTP is
//! made anew and reads the same question again. What it answers is thus looked
//! for anew, rights included, as after any piece of news.
//!
//! Neither is done before all that came was read and all that was answered is
//! on its way (`whole`). Whoever sends more before it was answered is not
//! parked again: its question waits where it is.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use axum::body::Bytes;
use axum::http::request::Parts;
use axum::http::{Version, header};
use kiln_protocol::api;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, sleep_until};
use tokio_rustls::server::TlsStream;

use crate::news::Ear;

/// Where a handler leaves the question that its connection is to wait with.
#[derive(Debug, Clone, Default)]
pub(super) struct Parking(Arc<Mutex<Place>>);

#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "facts that become known apart from each other")]
struct Place {
    /// No question is parked any more.
    closed: bool,
    /// There was a request since HTTP was made.
    asked: bool,
    /// Its body was not read to its end yet.
    unread: bool,
    /// Its answer was not given yet.
    unanswered: bool,
    /// The connection ends with it.
    last: bool,
    /// Something was written that may not be on its way yet.
    unsent: bool,
    taken: Option<Parked>,
    /// Of the question that is asked again: its node is still there.
    ear: Option<Ear>,
}

/// Why nothing is said over a connection.
#[derive(Debug)]
pub(super) enum Pause {
    /// It is over.
    Ended,
    /// Nothing is asked.
    Rest,
    /// What is asked has to wait.
    Parked(Parked),
}

/// A question that waits.
#[derive(Debug)]
pub(super) struct Parked {
    words: Words,
    end: Instant,
    /// Hears what is told since the look that found nothing.
    ear: Ear,
}

/// What was asked, as far as it counts for asking it again.
#[derive(Debug, Clone)]
pub(super) struct Words {
    old: bool,
    close: bool,
    seen: String,
}

impl Words {
    /// Of a question for a configuration other than `seen`, which stood in its
    /// header.
    pub(super) fn of(request: &Parts, seen: &str) -> Self {
        let close = request.headers.get(header::CONNECTION).and_then(|value| value.to_str().ok());
        let close = close.is_some_and(|value| value.to_ascii_lowercase().contains("close"));
        Self { old: request.version == Version::HTTP_10, close, seen: seen.to_owned() }
    }

    /// The question again, with the time that is left of it.
    fn text(&self, seconds: u64) -> String {
        let version = if self.old { "HTTP/1.0" } else { "HTTP/1.1" };
        let close = if self.close { "connection: close\r\n" } else { "" };
        format!(
            "GET {} {version}\r\nhost: parked\r\nif-none-match: {}\r\nprefer: wait={seconds}\r\n{close}\r\n",
            api::CONFIG,
            self.seen
        )
    }
}

impl Parking {
    /// No question is parked any more.
    pub(super) fn close(&self) {
        self.place().closed = true;
    }

    /// Leaves a question, if that may be done; gives its ear back otherwise.
    pub(super) fn park(&self, words: Words, end: Instant, ear: Ear) -> Result<(), Ear> {
        let mut place = self.place();
        if place.closed || place.unread {
            return Err(ear);
        }
        place.taken = Some(Parked { words, end, ear });
        Ok(())
    }

    /// The ear of the question that is asked again, if this is one.
    pub(super) fn ear(&self) -> Option<Ear> {
        self.place().ear.take()
    }

    /// HTTP is made.
    pub(super) fn made(&self) {
        self.place().asked = false;
    }

    /// A request has come, as a whole or not; the connection may end with it.
    pub(super) fn asked(&self, whole: bool, last: bool) {
        let mut place = self.place();
        (place.asked, place.unread, place.unanswered) = (true, !whole, true);
        place.last |= last;
    }

    /// Its body was read.
    pub(super) fn read(&self) {
        self.place().unread = false;
    }

    /// The connection ends with its answer.
    pub(super) fn last(&self) {
        self.place().last = true;
    }

    /// Its answer was given.
    pub(super) fn answered(&self) {
        self.place().unanswered = false;
    }

    /// Goes on with a connection until it ends or may be taken apart.
    pub(super) async fn speak<C>(&self, http: &mut C) -> hyper::Result<Pause>
    where
        C: Future<Output = hyper::Result<()>> + Unpin,
    {
        poll_fn(|cx| {
            if let Poll::Ready(result) = Pin::new(&mut *http).poll(cx) {
                return Poll::Ready(result.map(|()| Pause::Ended));
            }
            let mut place = self.place();
            // What HTTP has not sent yet would be lost with it.
            if place.unsent || place.unread {
                return Poll::Pending;
            }
            if let Some(parked) = place.taken.take() {
                return Poll::Ready(Ok(Pause::Parked(parked)));
            }
            let rests = place.asked && !place.unanswered && !place.last;
            if rests { Poll::Ready(Ok(Pause::Rest)) } else { Poll::Pending }
        })
        .await
    }

    /// The question again, as bytes.
    pub(super) fn again(&self, parked: Parked) -> Vec<u8> {
        let left = parked.end.saturating_duration_since(Instant::now()).as_secs();
        self.place().ear = Some(parked.ear);
        parked.words.text(left).into()
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Parked {
    /// Waits until the question is to be looked at again.
    pub(super) async fn wait(&self, stream: &impl Readable) {
        tokio::select! {
            () = self.ear.news() => {}
            () = sleep_until(self.end) => {}
            // What it is, an end or another word, is for HTTP to say.
            _ = stream.readable() => {}
        }
    }

    /// The connection is to end with the answer.
    pub(super) fn is_last(&mut self) {
        self.words.close = true;
    }
}

/// A stream that can say, without a buffer, that there is something to read.
pub(super) trait Readable {
    /// Returns once there is, or once the stream has ended.
    fn readable(&self) -> impl Future<Output = io::Result<()>> + Send;
}

impl Readable for TcpStream {
    fn readable(&self) -> impl Future<Output = io::Result<()>> + Send {
        self.readable()
    }
}

impl Readable for UnixStream {
    fn readable(&self) -> impl Future<Output = io::Result<()>> + Send {
        self.readable()
    }
}

impl<S: Readable + Sync> Readable for Box<TlsStream<S>> {
    fn readable(&self) -> impl Future<Output = io::Result<()>> + Send {
        let (stream, session) = self.get_ref();
        // What was deciphered already is in no socket.
        let waits = session.wants_read();
        async move { if waits { stream.readable().await } else { Ok(()) } }
    }
}

/// A stream that begins with what was read of it before, and says whether all
/// that was written is on its way.
#[derive(Debug)]
pub(super) struct Rewound<S> {
    before: Bytes,
    stream: S,
    parking: Parking,
}

impl<S> Rewound<S> {
    pub(super) fn new(before: Bytes, stream: S, parking: &Parking) -> Self {
        Self { before, stream, parking: parking.clone() }
    }

    /// What of the beginning was not read again, and the stream.
    pub(super) fn into_parts(self) -> (Bytes, S) {
        (self.before, self.stream)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.before.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = self.before.len().min(buf.remaining());
        buf.put_slice(&self.before.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.parking.place().unsent = true;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.parking.place().unsent = true;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        // hyper flushes the stream after all of its own buffer was written.
        self.parking.place().unsent = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;

    #[test]
    fn a_question_is_asked_again_as_it_was_with_the_time_that_is_left() {
        let ask = |version, connection: Option<&str>| {
            let mut request = axum::http::Request::builder().uri(api::CONFIG).version(version);
            if let Some(connection) = connection {
                request = request.header(header::CONNECTION, connection);
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            Words::of(&parts, "\"ab\"").text(17)
        };
        let plain = "GET /v1/config HTTP/1.1\r\nhost: parked\r\nif-none-match: \"ab\"\r\nprefer: wait=17\r\n";
        assert_eq!(ask(Version::HTTP_11, None), format!("{plain}\r\n"));
        assert_eq!(ask(Version::HTTP_11, Some("Close")), format!("{plain}connection: close\r\n\r\n"));
        assert_eq!(ask(Version::HTTP_10, None), format!("{}\r\n", plain.replace("1.1", "1.0")));
    }

    #[tokio::test]
    async fn a_rewound_stream_begins_with_what_was_read_before() {
        let mut stream = Rewound::new(Bytes::from_static(b"before "), &b"and after"[..], &Parking::default());
        let mut first = [0; 3];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"bef");
        assert_eq!(stream.before, "ore ");
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "ore and after");
    }
}

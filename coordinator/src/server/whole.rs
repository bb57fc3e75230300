//! Whether a request was read and answered as a whole: only then may its
//! connection be taken apart. What was not read of a body would be taken for
//! the next request.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use axum::http::header::CONNECTION;
use axum::http::{HeaderMap, Request, Response, Version};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

use super::park::Parking;

/// A request's body that says when it was read to its end.
struct Asked {
    body: Incoming,
    parking: Parking,
}

/// An answer's body that says when it has been given.
struct Answered {
    body: Body,
    parking: Parking,
}

/// A request comes in.
pub(super) fn asked(parking: &Parking, request: Request<Incoming>) -> Request<Body> {
    let last = request.version() == Version::HTTP_10 || says_close(request.headers());
    let whole = request.body().is_end_stream();
    parking.asked(whole, last);
    if whole {
        return request.map(Body::new);
    }
    let parking = parking.clone();
    request.map(|body| Body::new(Asked { body, parking }))
}

/// Its answer goes out.
pub(super) fn answered(parking: &Parking, response: Response<Body>) -> Response<Body> {
    if says_close(response.headers()) {
        parking.last();
    }
    let parking = parking.clone();
    response.map(|body| Body::new(Answered { body, parking }))
}

/// Whether a connection is to end after this.
fn says_close(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.any(|value| value.to_ascii_lowercase().contains("close"))
}

impl HttpBody for Asked {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() {
            self.parking.read();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        // The end has to be seen, if only by asking once more.
        false
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl HttpBody for Answered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answered {
    fn drop(&mut self) {
        self.parking.answered();
    }
}

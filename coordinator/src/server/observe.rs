//! What surrounds every answer: a name for the request in log, header and
//! error; its time limit; its place in the metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::HeaderValue;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use kiln_protocol::{admin, api};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::sync::watch;
use tracing::{Instrument as _, field};

use super::api::too_slow;
use super::metrics::Metrics;

tokio::task_local! {
    static CURRENT: String;
}

/// The name of the request that this task answers.
pub(super) fn current_request() -> Option<String> {
    CURRENT.try_with(Clone::clone).ok()
}

/// What surrounds the routes of one server.
#[derive(Debug, Clone)]
pub(super) struct Observer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Tells this run of the program from others.
    run: String,
    next: AtomicU64,
    time: Duration,
    poll: Duration,
    metrics: Metrics,
    stopped: watch::Receiver<bool>,
}

/// Ends when the server stops: for answers that wait for something.
#[derive(Debug, Clone)]
pub(super) struct Stop(pub(super) watch::Receiver<bool>);

impl Observer {
    /// Answers have `time`; those that may be waited for, `poll` besides.
    pub(super) fn new(
        time: Duration,
        poll: Duration,
        metrics: Metrics,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        let mut run = [0; 3];
        // Without randomness there would be no TLS either.
        let _ = SystemRandom::new().fill(&mut run);
        let run = run.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        Self(Arc::new(Inner { run, next: AtomicU64::new(1), time, poll, metrics, stopped }))
    }

    fn name(&self) -> String {
        format!("{}-{}", self.0.run, self.0.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// Wraps the answer to one request.
pub(super) async fn observe(State(observer): State<Observer>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let id = observer.name();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let waits = matches!(route.as_deref(), Some(api::CONFIG | api::APPROVAL | admin::EVENTS));
    let limit = if waits { observer.0.time + observer.0.poll } else { observer.0.time };
    let span = tracing::info_span!("request", id, who = field::Empty);
    let line = format!("{} {}", request.method(), route.as_deref().unwrap_or("(no such path)"));
    request.extensions_mut().insert(Stop(observer.0.stopped.clone()));
    let answering = async {
        let answer = tokio::time::timeout(limit, next.run(request));
        let response = answer.await.unwrap_or_else(|_| too_slow().into_response());
        tracing::debug!("{line}: {} after {} ms", response.status().as_u16(), begun.elapsed().as_millis());
        response
    };
    let mut response = CURRENT.scope(id.clone(), answering.instrument(span)).await;
    // How long somebody waited for news says nothing about the server.
    let time = (!waits).then(|| begun.elapsed());
    observer.0.metrics.answered(route, response.status(), time);
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(api::REQUEST_ID, id);
    }
    response
}

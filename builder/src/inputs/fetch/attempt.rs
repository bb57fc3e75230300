//! One request for a file, from its headers to its last byte or whatever ends
//! it before.

use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, IF_RANGE, RANGE};
use reqwest::{Client, Response, Url};
use tokio::time::{Instant, timeout};

use super::answer::{Answer, Validator, meaning};
use super::fault::{Why, plainly};
use super::pace::Pace;
use super::sink::Sink;

/// Progress is told so often.
const TELL: Duration = Duration::from_millis(500);

/// What is asked for.
pub(super) struct Request<'a> {
    pub(super) client: &'a Client,
    pub(super) url: &'a Url,
    /// Which content the bytes that are there belong to.
    pub(super) validator: Option<Validator>,
    /// The digest decides in the end, so bytes of unknown content may be
    /// continued.
    pub(super) pinned: bool,
    /// How long nothing may come.
    pub(super) stall: Duration,
}

/// How it ended.
pub(super) enum End {
    /// Everything is there.
    Whole(Sink),
    /// It is not, and this is how far it came; the server's wish, if it said one.
    Failed(Sink, Why, Option<Duration>),
}

/// What is to be known before the first byte is written: which content comes,
/// how many bytes it has, and how many of them are there.
pub(super) type Begin<'a> =
    &'a mut (dyn FnMut(Option<&Validator>, Option<u64>, u64) -> anyhow::Result<()> + Send);
/// Told now and then: bytes there, bytes in all, bytes a second.
pub(super) type Tell<'a> = &'a (dyn Fn(u64, Option<u64>, u64) + Send + Sync);

/// Runs a request. Errors are those of this host's disk.
pub(super) async fn run(
    request: &Request<'_>,
    mut sink: Sink,
    begin: Begin<'_>,
    tell: Tell<'_>,
) -> anyhow::Result<End> {
    let mut resume = sink.have() > 0 && (request.validator.is_some() || request.pinned);
    if !resume {
        sink.restart()?;
    }
    loop {
        let response = match ask(request, resume.then_some(sink.have())).await {
            Ok(response) => response,
            Err(why) => return Ok(End::Failed(sink, why, None)),
        };
        let total = match meaning(response.status(), response.headers(), sink.have()) {
            Answer::Whole { total } => {
                sink.restart()?;
                total
            }
            Answer::Rest { total } if resume => total,
            Answer::NoMore if resume => return Ok(End::Whole(sink)),
            // Asked anew once: then nothing is there that could be stale.
            Answer::Stale if resume => {
                sink.restart()?;
                resume = false;
                continue;
            }
            Answer::Stale | Answer::Rest { .. } | Answer::NoMore => {
                let why = Why::Broken(format!("{} makes no sense here", response.status()));
                return Ok(End::Failed(sink, why, None));
            }
            Answer::NotThere(status) => return Ok(End::Failed(sink, Why::NotThere(status), None)),
            Answer::Later { status, after } => return Ok(End::Failed(sink, Why::Later(status), after)),
        };
        let validator = Validator::of(response.headers());
        begin(validator.as_ref(), total, sink.have())?;
        return body(request, response, sink, total, tell).await;
    }
}

async fn ask(request: &Request<'_>, have: Option<u64>) -> Result<Response, Why> {
    // A range is one of the bytes as they are stored.
    let mut builder = request.client.get(request.url.clone()).header(ACCEPT_ENCODING, "identity");
    if let Some(have) = have {
        builder = builder.header(RANGE, format!("bytes={have}-"));
        if let Some(validator) = &request.validator {
            builder = builder.header(IF_RANGE, validator.as_str());
        }
    }
    match timeout(request.stall, builder.send()).await {
        Err(_) => Err(Why::Stalled(request.stall)),
        Ok(Err(error)) if error.is_redirect() && plainly(&error).contains(DOWNGRADE) => Err(Why::Downgraded),
        Ok(Err(error)) => Err(Why::Broken(plainly(&error))),
        Ok(Ok(response)) => Ok(response),
    }
}

/// What the client's redirect policy says of a way from https to http.
pub(super) const DOWNGRADE: &str = "redirected from https to http";

async fn body(
    request: &Request<'_>,
    mut response: Response,
    sink: Sink,
    total: Option<u64>,
    tell: Tell<'_>,
) -> anyhow::Result<End> {
    let mut pace = Pace::new(Instant::now(), request.stall);
    let (mut have, mut told) = (sink.have(), Instant::now());
    tell(have, total, 0);
    let pipe = sink.start();
    let end = loop {
        let piece = match timeout(request.stall, response.chunk()).await {
            Err(_) => break Err(Why::Stalled(request.stall)),
            Ok(Err(error)) => break Err(Why::Broken(plainly(&error))),
            Ok(Ok(None)) => break Ok(()),
            Ok(Ok(Some(piece))) => piece,
        };
        let now = Instant::now();
        have += piece.len() as u64;
        pace.came(now, piece.len() as u64);
        if now - told >= TELL {
            tell(have, total, pace.rate(now));
            told = now;
        }
        if !pipe.push(piece).await {
            break Ok(());
        }
        if pace.dribbles(now) {
            break Err(Why::Stalled(request.stall));
        }
    };
    tell(have, total, pace.rate(Instant::now()));
    // Says so when the disk is full.
    let sink = pipe.finish().await?;
    Ok(match end {
        Err(why) => End::Failed(sink, why, None),
        Ok(()) if total.is_some_and(|total| total != sink.have()) => {
            let why =
                Why::Broken(format!("it ended after {} of {} bytes", sink.have(), total.unwrap_or_default()));
            End::Failed(sink, why, None)
        }
        Ok(()) => End::Whole(sink),
    })
}

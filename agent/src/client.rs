//! Requests to the coordinator.
//!
//! A request goes to the ticket's addresses in turn until one of them gives an
//! HTTP answer. The other side is known by its key alone: the system's trust
//! store plays no part, and a key other than the pinned one is named as such.
//! How a broken handshake shows is random, so everything else that goes wrong
//! before there is an answer is `transient`; verdicts are HTTP answers.

use std::cell::Cell;
use std::error::Error as StdError;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kiln_protocol::api::{self, ApprovalRequest, EnrolAnswer, EnrolRequest, GateAnswer, GateRequest, Report};
use kiln_protocol::config::NodeConfig;
use kiln_protocol::error::ErrorClass;
use kiln_protocol::ticket::Address;
use kiln_protocol::tls::{self, PinMismatch};
use kiln_protocol::{ApiError, Fingerprint, Identity};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::retry::Failure;

/// A coordinator on the same continent answers a connection within a second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// From the first byte sent to the last one received.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of an answer that are read: a configuration with its certificate
/// authorities has about 20 KiB.
const MAX_ANSWER: usize = 512 * 1024;
/// Characters of a foreign answer that an error repeats.
const SHOWN: usize = 80;

/// A client that shows one key and speaks to one coordinator.
#[derive(Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    addresses: Vec<Address>,
    /// The address that answered last.
    preferred: Cell<usize>,
}

impl Client {
    /// For the coordinator with the key `pin` at one of `addresses`.
    pub(crate) fn new(identity: &Identity, pin: Fingerprint, addresses: &[Address]) -> Result<Self> {
        let config = tls::client_config(identity, pin).context("preparing TLS with the node's key")?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(config)
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .build()
            .context("preparing the HTTP client")?;
        Ok(Self { http, addresses: addresses.to_vec(), preferred: Cell::new(0) })
    }

    /// Asks that this client's key be taken for the ticket's node.
    pub(crate) async fn enrol(&self, request: &EnrolRequest) -> Result<EnrolAnswer, Failure> {
        self.ask(Method::POST, api::ENROL, Some(request)).await
    }

    /// Asks whether an operator has approved this client's key.
    pub(crate) async fn approval(&self, request: &ApprovalRequest) -> Result<EnrolAnswer, Failure> {
        self.ask(Method::POST, api::APPROVAL, Some(request)).await
    }

    /// Fetches what this node is to become.
    pub(crate) async fn config(&self) -> Result<NodeConfig, Failure> {
        self.ask(Method::GET, api::CONFIG, None::<&()>).await
    }

    /// The configuration and its tag once it is another one than that of
    /// `seen`; nothing if it still is the same after `wait`.
    pub(crate) async fn config_after(
        &self,
        seen: Option<&str>,
        wait: Duration,
    ) -> Result<Option<(NodeConfig, String)>, Failure> {
        let answer = self
            .exchange(Method::GET, api::CONFIG, |request| match seen {
                None => request,
                Some(tag) => request
                    .header("if-none-match", tag)
                    .header("prefer", format!("wait={}", wait.as_secs()))
                    .timeout(wait + REQUEST_TIMEOUT),
            })
            .await?;
        if answer.status == StatusCode::NOT_MODIFIED && seen.is_some() {
            return Ok(None);
        }
        let tag = answer.tag.clone().unwrap_or_default();
        let config = decode(api::CONFIG, &answer.judged()?)?;
        Ok(Some((config, tag)))
    }

    /// Asks whether k3s may be started.
    pub(crate) async fn gate(&self, request: &GateRequest) -> Result<GateAnswer, Failure> {
        self.ask(Method::POST, api::GATE, Some(request)).await
    }

    /// Tells how far this node is.
    pub(crate) async fn report(&self, report: &Report) -> Result<(), Failure> {
        self.send(Method::POST, api::REPORT, Some(report)).await.map(|_| ())
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, Failure> {
        decode(path, &self.send(method, path, body).await?)
    }

    /// Sends a request; returns the body of a success.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Vec<u8>, Failure> {
        let with_body = |request: RequestBuilder| match body {
            Some(body) => request.json(body),
            None => request,
        };
        let answer = self.exchange(method, path, with_body).await?;
        answer.judged()
    }

    /// Sends a request to each address until one answers.
    async fn exchange(
        &self,
        method: Method,
        path: &str,
        finish: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Answer, Failure> {
        let mut failures = Vec::new();
        for step in 0..self.addresses.len() {
            let index = (self.preferred.get() + step) % self.addresses.len();
            let address = &self.addresses[index];
            let request = finish(self.http.request(method.clone(), format!("https://{address}{path}")));
            let outcome = match request.send().await {
                Ok(response) => read(response).await,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(answer) => {
                    self.preferred.set(index);
                    return Ok(answer);
                }
                Err(error) => failures.push(unanswered(address, &error)),
            }
        }
        Err(combined(failures))
    }
}

/// An answer, whatever it says.
struct Answer {
    status: StatusCode,
    /// Names what was answered, as `If-None-Match` takes it.
    tag: Option<String>,
    body: Vec<u8>,
}

impl Answer {
    fn judged(self) -> Result<Vec<u8>, Failure> {
        judge(self.status, self.body).map_err(|error| Failure { heard: true, ..error.into() })
    }
}

fn decode<T: DeserializeOwned>(path: &str, answer: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(answer).map_err(|error| {
        ApiError::new(
            ErrorClass::Format,
            format!("the coordinator's answer to {path} is none we know: {error}"),
        )
        .hint("does the coordinator's version fit the image's?")
        .into()
    })
}

/// The whole answer, or what became of it.
async fn read(mut response: Response) -> Result<Answer, reqwest::Error> {
    let status = response.status();
    let tag = response.headers().get("etag").and_then(|tag| tag.to_str().ok()).map(str::to_owned);
    let mut bytes = Vec::new();
    while bytes.len() <= MAX_ANSWER
        && let Some(chunk) = response.chunk().await?
    {
        bytes.extend_from_slice(&chunk);
    }
    Ok(Answer { status, tag, body: bytes })
}

/// What an answer means.
fn judge(status: StatusCode, body: Vec<u8>) -> Result<Vec<u8>, ApiError> {
    if body.len() > MAX_ANSWER {
        return Err(ApiError::new(ErrorClass::Format, "the coordinator's answer is larger than 512 KiB"));
    }
    if status.is_success() {
        return Ok(body);
    }
    let refusal = serde_json::from_slice::<ApiError>(&body);
    if let Ok(ApiError { class, request: Some(request), .. }) = &refusal {
        tracing::info!("{class}: request {request} in the coordinator's log");
    }
    Err(refusal.unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(&body);
        let beginning: String = text.chars().filter(|c| !c.is_control()).take(SHOWN).collect();
        ApiError::new(
            ErrorClass::Transient,
            format!("the coordinator answered {status} and not in its own words: {beginning}"),
        )
    }))
}

/// Why there was no answer.
fn unanswered(address: &Address, error: &reqwest::Error) -> Failure {
    if let Some(mismatch) = PinMismatch::find(error) {
        return ApiError::new(ErrorClass::Policy, format!("{address}: {mismatch}"))
            .hint("mint the ticket with the coordinator that is to be joined, or open the way to it")
            .into();
    }
    if tls::is_not_tls(error) {
        let message = format!("{address}: what answers there does not speak TLS");
        return ApiError::new(ErrorClass::Transient, message)
            .hint("a captive portal or a proxy is in the way, or the address is another service's")
            .into();
    }
    let doing = match error {
        error if error.is_connect() => "connecting",
        error if error.is_body() || error.is_decode() => "reading the answer",
        error if error.is_timeout() => "waiting for the answer",
        _ => "asking",
    };
    let causes = causes(error);
    let offline = causes.iter().any(|cause| is_no_route(*cause));
    let why = causes.last().map_or_else(|| error.to_string(), ToString::to_string);
    let why = if error.is_timeout() { "it took too long".to_owned() } else { why };
    Failure { offline, ..ApiError::new(ErrorClass::Transient, format!("{address}: {doing}: {why}")).into() }
}

fn causes(error: &reqwest::Error) -> Vec<&(dyn StdError + 'static)> {
    std::iter::successors(error.source(), |cause| (*cause).source()).collect()
}

/// No interface has a route there: the link or its address is still missing.
fn is_no_route(cause: &(dyn StdError + 'static)) -> bool {
    cause
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::NetworkUnreachable)
}

/// One failure out of those of all addresses. A wrong key says most: a
/// machine that does not answer may only be off.
fn combined(mut failures: Vec<Failure>) -> Failure {
    if let Some(mismatch) = failures.iter().find(|failure| failure.error.class == ErrorClass::Policy) {
        return mismatch.clone();
    }
    if failures.len() == 1 {
        return failures.remove(0);
    }
    let offline = failures.iter().all(|failure| failure.offline);
    let reasons: Vec<String> = failures.into_iter().map(|failure| failure.error.message).collect();
    let message = format!("no address of the coordinator answers: {}", reasons.join("; "));
    Failure { offline, ..ApiError::new(ErrorClass::Transient, message).into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_passed_on_as_it_is() {
        let body = br#"{"class":"ticket_expired","message":"expired yesterday","hint":"ticket extend"}"#;
        let error = judge(StatusCode::FORBIDDEN, body.to_vec()).unwrap_err();
        assert_eq!(error.class, ErrorClass::TicketExpired);
        assert_eq!(error.hint.as_deref(), Some("ticket extend"));
    }

    #[test]
    fn what_something_else_answers_is_transient_and_quoted_briefly() {
        let page = format!("<html>\r\n\u{1b}[2J{}", "x".repeat(500));
        let error = judge(StatusCode::BAD_GATEWAY, page.into_bytes()).unwrap_err();
        assert_eq!(error.class, ErrorClass::Transient);
        assert!(error.message.contains("502") && error.message.contains("<html>"), "{error}");
        assert!(error.message.len() < 200 && !error.message.contains('\u{1b}'), "{error}");
    }

    #[test]
    fn an_endless_answer_is_not_kept() {
        assert_eq!(judge(StatusCode::OK, vec![0; MAX_ANSWER + 1]).unwrap_err().class, ErrorClass::Format);
    }

    #[test]
    fn one_wrong_key_outweighs_addresses_that_do_not_answer() {
        let down = Failure { offline: true, ..ApiError::new(ErrorClass::Transient, "a: refused").into() };
        let wrong = Failure::from(ApiError::new(ErrorClass::Policy, "b: another key"));
        assert_eq!(combined(vec![down.clone(), wrong.clone()]), wrong);
        let both = combined(vec![down.clone(), down]);
        assert!(both.offline && both.error.message.contains("a: refused; a: refused"), "{both:?}");
    }
}

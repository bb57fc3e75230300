//! Requests to the coordinator.
//!
//! A request goes to the ticket's addresses in turn until one of them gives an
//! HTTP answer. The other side is known by its key alone: the system's trust
//! store plays no part, and a key other than the pinned one is named as such.
//! How a broken handshake shows is random, so everything else that goes wrong
//! before there is an answer is `transient`; verdicts are HTTP answers.
//!
//! A bound node opens each connection with its clone ratchet before it asks for
//! anything ([`kiln_protocol::ratchet`]). One turn is under way at a time: the
//! next one begins when it was answered.

mod line;
pub(crate) mod names;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hyper::{Method, StatusCode};
use kiln_protocol::api::{
    self, ApprovalRequest, EnrolAnswer, EnrolRequest, GateAnswer, GateRequest, Report, SnapshotRequest,
};
use kiln_protocol::chores::{CHORES, Chores, ChoresRequest};
use kiln_protocol::config::NodeConfig;
use kiln_protocol::error::ErrorClass;
use kiln_protocol::ratchet::{ConfigAnswer, ConfigAsked, OpenAnswer, OpenRequest};
use kiln_protocol::recovery::{PinChange, RecoveryKey};
use kiln_protocol::rotation::RotateRequest;
use kiln_protocol::ticket::Address;
use kiln_protocol::tls::Trust;
use kiln_protocol::{ApiError, Fingerprint, Identity};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;

use crate::bond::Bond;
use crate::retry::Failure;
use line::{Answer, Line, Question};

/// Bytes of an answer that are read: a configuration with its certificate
/// authorities has about 20 KiB.
const MAX_ANSWER: usize = 512 * 1024;
/// Characters of a foreign answer that an error repeats.
const SHOWN: usize = 80;

/// The field of a request that says which configuration the node has.
const SEEN: &str = "if-none-match";

/// What became of an opening.
enum Opening {
    Done,
    /// And the question that it was made for is answered with it.
    Answered(Answer),
    /// It, or what was asked for with it.
    Refused(ApiError),
}

/// A client that shows one key and speaks to one coordinator.
#[derive(Debug)]
pub(crate) struct Client {
    identity: Identity,
    addresses: Vec<Address>,
    /// The pin of the ticket, and who may change it.
    pin: Fingerprint,
    recovery: Option<RecoveryKey>,
    /// What opens connections, once the key is bound.
    bond: Option<Rc<Bond>>,
    /// What the certificate that was shown last has for a change of the pin.
    word: Cell<Option<PinChange>>,
    /// The address that answered last.
    preferred: Cell<usize>,
    /// Kept between requests, and held by the one that is under way.
    line: Mutex<Option<Line>>,
    /// The same, for a question that is held open.
    held: Mutex<Option<Line>>,
    /// The same, for questions about chores, which wait a little.
    tending: Mutex<Option<Line>>,
    /// Held by the opening that is under way.
    opening: Mutex<()>,
    /// An operator wants the key replaced.
    rotation_asked: Cell<bool>,
    /// The key is being replaced: nothing else is asked with it any more.
    retired: Cell<bool>,
}

impl Client {
    /// For the coordinator with the key `pin` at one of `addresses`, which does
    /// not know this key yet.
    pub(crate) fn new(identity: Identity, pin: Fingerprint, addresses: &[Address]) -> Self {
        Self {
            identity,
            addresses: addresses.to_vec(),
            pin,
            recovery: None,
            bond: None,
            word: Cell::new(None),
            preferred: Cell::new(0),
            line: Mutex::default(),
            held: Mutex::default(),
            tending: Mutex::default(),
            opening: Mutex::default(),
            rotation_asked: Cell::new(false),
            retired: Cell::new(false),
        }
    }

    /// For a coordinator that has bound this key.
    pub(crate) fn bound(self, bond: Rc<Bond>, recovery: Option<RecoveryKey>) -> Self {
        Self { bond: Some(bond), recovery, ..self }
    }

    /// The statement in the certificate that the coordinator has shown, which may
    /// be good for nothing.
    pub(crate) fn word(&self) -> Option<PinChange> {
        self.word.get()
    }

    /// Whether the coordinator has said that an operator wants the key replaced.
    pub(crate) fn rotation_asked(&self) -> bool {
        self.rotation_asked.get()
    }

    /// The coordinator has said so outside of an opening.
    pub(crate) fn ask_rotation(&self) {
        self.rotation_asked.set(true);
    }

    /// Nothing more is asked with this key but that it be replaced.
    pub(crate) fn retire(&self) {
        self.retired.set(true);
    }

    /// Whether nothing may be asked with this key but that it be replaced.
    pub(crate) fn is_retired(&self) -> bool {
        self.retired.get()
    }

    /// Asks that this client's key be taken for the ticket's node.
    pub(crate) async fn enrol(&self, request: &EnrolRequest) -> Result<EnrolAnswer, Failure> {
        self.ask(Method::POST, api::ENROL, Some(request)).await
    }

    /// Asks whether an operator has approved this client's key; the answer may
    /// take `wait` if none has. Reports go beside it meanwhile.
    pub(crate) async fn approval(
        &self,
        request: &ApprovalRequest,
        wait: Duration,
    ) -> Result<EnrolAnswer, Failure> {
        let body = Some(serde_json::to_vec(request).context("writing a request as JSON")?);
        let mut question = Question { method: Method::POST, body, ..Question::get(api::APPROVAL) };
        if !wait.is_zero() {
            question.headers = vec![("prefer", format!("wait={}", wait.as_secs()))];
            question.hold = wait;
        }
        Ok(parse(api::APPROVAL, &judged(self.exchange(&self.held, &question).await?)?)?)
    }

    /// Fetches what this node is to become.
    pub(crate) async fn config(&self) -> Result<NodeConfig, Failure> {
        self.ask(Method::GET, api::CONFIG, None::<&()>).await
    }

    /// Asks whether k3s may be started.
    pub(crate) async fn gate(&self, request: &GateRequest) -> Result<GateAnswer, Failure> {
        self.ask(Method::POST, api::GATE, Some(request)).await
    }

    /// Fetches the datastore that this server is to begin with, from `offset` on.
    pub(crate) async fn snapshot(&self, offset: u64) -> Result<Vec<u8>, Failure> {
        self.send(Method::POST, api::SNAPSHOT, Some(&SnapshotRequest { offset })).await
    }

    /// Tells which chores were done, and asks for more.
    pub(crate) async fn chores(&self, request: &ChoresRequest) -> Result<Chores, Failure> {
        let body = Some(serde_json::to_vec(request).context("writing a request as JSON")?);
        let question = Question { method: Method::POST, body, ..Question::get(CHORES) };
        Ok(parse(CHORES, &judged(self.exchange(&self.tending, &question).await?)?)?)
    }

    /// Tells how far this node is.
    pub(crate) async fn report(&self, report: &Report) -> Result<(), Failure> {
        self.send(Method::POST, api::REPORT, Some(report)).await.map(|_| ())
    }

    /// Reaches the coordinator and asks it for nothing: which no key is too old for.
    pub(crate) async fn greet(&self) -> Result<(), Failure> {
        let mut failures = Vec::new();
        for index in self.order() {
            match self.connect(&self.addresses[index]).await {
                Ok(_) => return Ok(()),
                Err(failure) => failures.push(failure),
            }
        }
        Err(combined(failures))
    }

    /// Asks that `new` be this node's key from now on. Until that was answered
    /// this client asks for nothing else: nobody knows whether it was heard, and
    /// a key that was replaced must not be used. A plain no to the `first` time
    /// it was ever asked leaves the key what it was; after a time that may have
    /// been heard, a no tells nothing about that one.
    pub(crate) async fn rotate(&self, new: &Identity, first: bool) -> Result<(), Failure> {
        let bond = self.bond.as_ref().context("only a bound node has a key to replace")?;
        self.retire();
        let mut kept = self.line.lock().await;
        kept.take();
        let (mut failures, mut maybe_heard) = (Vec::new(), !first);
        for index in self.order() {
            let mut line = match self.connect(&self.addresses[index]).await {
                Ok(line) => line,
                Err(failure) => {
                    failures.push(failure);
                    continue;
                }
            };
            let pin = self.trust().pin;
            let request =
                RotateRequest::new(&pin, &self.identity.fingerprint(), new, bond.turn()?, bond.seen());
            let body = serde_json::to_vec(&request).context("writing a request as JSON")?;
            let question = Question { method: Method::POST, body: Some(body), ..Question::get(api::ROTATE) };
            match line.ask(&question).await {
                Ok(Answer { status, body, .. }) => {
                    let verdict = judge(status, body).map(drop);
                    let plain_no = verdict.as_ref().is_err_and(|error| error.class.needs_operator());
                    self.retired.set(maybe_heard || !plain_no);
                    return verdict.map_err(Failure::from);
                }
                Err(failure) => {
                    maybe_heard = true;
                    failures.push(failure);
                }
            }
        }
        Err(combined(failures))
    }

    /// The configuration and its tag once it is another one than that of
    /// `seen`; nothing if it still is the same after `wait`.
    pub(crate) async fn config_after(
        &self,
        seen: Option<&str>,
        wait: Duration,
    ) -> Result<Option<(NodeConfig, String)>, Failure> {
        let mut question = Question::get(api::CONFIG);
        if let Some(tag) = seen {
            let prefer = format!("wait={}", wait.as_secs());
            question.headers = vec![(SEEN, tag.to_owned()), ("prefer", prefer)];
            question.hold = wait;
        }
        let answer = self.exchange(&self.held, &question).await?;
        if answer.status == StatusCode::NOT_MODIFIED && seen.is_some() {
            return Ok(None);
        }
        let tag = answer.tag.clone().unwrap_or_default();
        Ok(Some((parse(api::CONFIG, &judged(answer)?)?, tag)))
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, Failure> {
        Ok(parse(path, &self.send(method, path, body).await?)?)
    }

    /// Sends a request; returns the body of a success.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Vec<u8>, Failure> {
        let body = body.map(serde_json::to_vec).transpose().context("writing a request as JSON")?;
        let question = Question { method, body, ..Question::get(path) };
        judged(self.exchange(&self.line, &question).await?)
    }

    /// Asks over the connection there is, or at each address until one answers.
    async fn exchange(&self, line: &Mutex<Option<Line>>, question: &Question<'_>) -> Result<Answer, Failure> {
        let mut kept = line.lock().await;
        self.check_key()?;
        if let Some(mut line) = kept.take() {
            // The other side may have closed it in the meantime.
            if let Ok(answer) = self.over(&mut line, question).await {
                return settle(answer, line, &mut kept);
            }
        }
        let mut failures = Vec::new();
        for index in self.order() {
            // That took a while: the key may have been replaced meanwhile.
            self.check_key()?;
            let answer = match self.connect(&self.addresses[index]).await {
                Ok(mut line) => self.over(&mut line, question).await.map(|answer| (answer, line)),
                Err(failure) => Err(failure),
            };
            match answer {
                Ok((answer, line)) => {
                    self.preferred.set(index);
                    return settle(answer, line, &mut kept);
                }
                Err(failure) => failures.push(failure),
            }
        }
        Err(combined(failures))
    }

    /// Refuses to ask for anything with a key that is being replaced: whoever
    /// uses one that was replaced has a copy of it.
    fn check_key(&self) -> Result<(), ApiError> {
        if self.retired.get() {
            return Err(ApiError::new(ErrorClass::Transient, "the node's key is being replaced"));
        }
        Ok(())
    }

    /// The addresses' numbers, the one that answered last first.
    fn order(&self) -> impl Iterator<Item = usize> + use<> {
        let (first, count) = (self.preferred.get(), self.addresses.len());
        (0..count).map(move |step| (first + step) % count)
    }

    fn trust(&self) -> Trust {
        match &self.bond {
            Some(bond) => bond.trust(self.pin, self.recovery),
            None => self.pin.into(),
        }
    }

    async fn connect(&self, address: &Address) -> Result<Line, Failure> {
        let trust = self.trust();
        let mut line = Line::connect(&self.identity, &trust, address).await?;
        // There is nothing to open before the key is bound.
        line.opened = self.bond.is_none();
        self.word.set(line.word);
        let Some(bond) = &self.bond else { return Ok(line) };
        // Before anything is said to it.
        if let Some((pin, change)) = &line.change {
            bond.change_pin(*pin, change)?;
            tracing::warn!("the coordinator has a new key, {pin}, by the recovery key's word");
        } else if let (Some(key), Some(word)) = (trust.recovery, &line.word)
            && word.serial > trust.serial
            && key.verifies(word, &trust.pin)
        {
            // A ticket was made for that key already; those before it are void all the same.
            bond.change_pin(trust.pin, word)?;
        }
        Ok(line)
    }

    /// Asks over one connection, which is opened first if it needs to be. An
    /// error means that there was no answer.
    async fn over(
        &self,
        line: &mut Line,
        question: &Question<'_>,
    ) -> Result<Result<Answer, ApiError>, Failure> {
        for _ in 0..2 {
            if let Some(bond) = self.bond.as_deref().filter(|_| !line.opened) {
                match self.open(line, bond, question).await? {
                    Opening::Done => {}
                    Opening::Answered(answer) => return Ok(Ok(answer)),
                    // Who may not open may still say how it is.
                    Opening::Refused(refusal)
                        if question.path == api::REPORT && refusal.class.needs_operator() => {}
                    Opening::Refused(refusal) => return Ok(Err(refusal)),
                }
            }
            let answer = line.ask(question).await?;
            if answer.status != StatusCode::PRECONDITION_REQUIRED {
                return Ok(Ok(answer));
            }
            line.opened = false;
        }
        let message = "the coordinator takes no connection for opened";
        Ok(Err(ApiError::new(ErrorClass::Transient, message)))
    }

    /// Opens a connection. What it is opened for is answered at once if that is
    /// the node's configuration, which most connections begin with.
    async fn open(&self, line: &mut Line, bond: &Bond, first: &Question<'_>) -> Result<Opening, Failure> {
        // One turn at a time, over whichever connection.
        let _turn = self.opening.lock().await;
        self.check_key()?;
        let turn = bond.turn()?;
        let config = (first.path == api::CONFIG).then(|| ConfigAsked { seen: first.seen() });
        let request = OpenRequest { config, ..OpenRequest::new(turn, bond.seen()) };
        let body = serde_json::to_vec(&request).context("writing a request as JSON")?;
        let question = Question { method: Method::POST, body: Some(body), ..Question::get(api::OPEN) };
        let Answer { status, body, .. } = line.ask(&question).await?;
        let answer = judge(status, body).and_then(|body| parse::<OpenAnswer>(api::OPEN, &body));
        let answer = match answer {
            Ok(answer) => answer,
            Err(refusal) => return Ok(Opening::Refused(refusal)),
        };
        bond.answered(turn, answer.stamp)?;
        self.rotation_asked.set(answer.rotate);
        line.opened = true;
        Ok(match answer.config {
            Some(ConfigAnswer::Is { tag, config }) => {
                let body = String::from(Box::<str>::from(config)).into_bytes();
                Opening::Answered(Answer { status: StatusCode::OK, tag: Some(tag), body })
            }
            Some(ConfigAnswer::Refused(refusal)) => Opening::Refused(refusal),
            // Another one may still be waited for.
            Some(ConfigAnswer::Unchanged) | None => Opening::Done,
        })
    }
}

impl<'a> Question<'a> {
    fn get(path: &'a str) -> Self {
        let (headers, hold) = (Vec::new(), Duration::ZERO);
        Self { method: Method::GET, path, body: None, headers, hold }
    }

    /// The tag of the configuration that the node has.
    fn seen(&self) -> Option<String> {
        self.headers.iter().find(|(name, _)| *name == SEEN).map(|(_, tag)| tag.clone())
    }
}

/// Keeps a connection for the next request. One that could not be opened is
/// not: what is said over it later may be taken for late.
fn settle(answer: Result<Answer, ApiError>, line: Line, kept: &mut Option<Line>) -> Result<Answer, Failure> {
    *kept = Some(line).filter(|line| line.opened);
    answer.map_err(|error| Failure { heard: true, ..error.into() })
}

fn judged(answer: Answer) -> Result<Vec<u8>, Failure> {
    judge(answer.status, answer.body).map_err(|error| Failure { heard: true, ..error.into() })
}

fn parse<T: DeserializeOwned>(path: &str, answer: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(answer).map_err(|error| {
        ApiError::new(
            ErrorClass::Format,
            format!("the coordinator's answer to {path} is none we know: {error}"),
        )
        .hint("does the coordinator's version fit the image's?")
    })
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

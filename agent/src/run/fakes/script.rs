//! What a test tells the fake coordinator to say, and what it has heard.

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use kiln_protocol::api::{
    self, EnrolAnswer, EnrolRequest, GateAnswer, GateRequest, MAX_CLOCK_SKEW, Report, SnapshotRequest,
};
use kiln_protocol::chores::{CHORES, Chores, ChoresRequest};
use kiln_protocol::config::NodeConfig;
use kiln_protocol::error::ErrorClass;
use kiln_protocol::ratchet::{ConfigAnswer, OpenAnswer, OpenRequest, Reach, Stamp, Turn};
use kiln_protocol::recovery::RecoverySeed;
use kiln_protocol::rotation::RotateRequest;
use kiln_protocol::ticket::TicketSeed;
use kiln_protocol::{ApiError, Fingerprint, Identity, TicketKey};
use serde_json::value::RawValue;

/// What the coordinator does with one request instead of answering it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::run) enum Fault {
    Refuse(ApiError),
    /// These bytes, then the end.
    Raw(&'static str),
    /// The connection ends before an answer, though the request was heard.
    Lose,
    /// As `Lose`, when the key that asked has been replaced.
    LoseOnceReplaced,
    /// Nothing goes wrong this time.
    Spare,
}

/// What becomes of a connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Open,
    Now,
    OnceReplaced,
}

/// How far its state is at first.
pub(in crate::run) const STAMP: Reach = Reach { epoch: 1, seq: 1 };

/// What the coordinator has seen and will say.
#[derive(Debug)]
pub(in crate::run) struct Script {
    /// Taken one by one, for requests to the path.
    pub(in crate::run) faults: VecDeque<(&'static str, Fault)>,
    pub(in crate::run) gate: VecDeque<GateAnswer>,
    pub(in crate::run) config: NodeConfig,
    /// What takes its place when the gate has opened.
    pub(in crate::run) config_after_gate: Option<NodeConfig>,
    /// Every key that enrolled, with each proof checked.
    pub(in crate::run) enrolled: Vec<Fingerprint>,
    pub(in crate::run) gates: Vec<GateRequest>,
    pub(in crate::run) reports: Vec<Report>,
    /// Keys that an operator has approved.
    pub(in crate::run) approved: Vec<Fingerprint>,
    /// What keys that are nobody's, or not yet, have reported.
    pub(in crate::run) beacons: Vec<(Fingerprint, Report)>,
    /// Which ticket vouched for which key, for ever.
    pub(in crate::run) bindings: Vec<(TicketKey, Fingerprint)>,
    /// The key of the node now, and those it had before.
    pub(in crate::run) key: Option<Fingerprint>,
    pub(in crate::run) former: Vec<Fingerprint>,
    /// The stamp that the node showed when it asked for another key.
    pub(in crate::run) shown: Option<Stamp>,
    /// How far its state is.
    pub(in crate::run) reach: Reach,
    /// The last turn of the node's ratchet.
    pub(in crate::run) turn: Option<Turn>,
    /// The paths that were asked for, in order.
    pub(in crate::run) asked: Vec<String>,
    /// What no honest machine would have done.
    pub(in crate::run) alarms: Vec<String>,
    /// Whether the node is told to replace its key.
    pub(in crate::run) rotate: bool,
    pub(in crate::run) recovery: RecoverySeed,
    /// Given out one by one; then there is nothing to do.
    pub(in crate::run) chores: VecDeque<Chores>,
    pub(in crate::run) chores_done: Vec<ChoresRequest>,
    /// A datastore to be restored, and where its parts that were asked for begin.
    pub(in crate::run) datastore: Vec<u8>,
    pub(in crate::run) offsets: Vec<u64>,
    pub(in crate::run) ticket: TicketSeed,
    pub(super) pin: Fingerprint,
}

impl Script {
    pub(super) fn hear(
        &mut self,
        coordinator: &Identity,
        key: Fingerprint,
        path: &str,
        seen: Option<&str>,
        body: &[u8],
        opened: &mut bool,
    ) -> String {
        self.asked.push(path.to_owned());
        let bound = self.key == Some(key);
        if self.former.contains(&key) && path != api::ROTATE {
            self.alarms.push(format!("{path} with a key that was replaced"));
        }
        if path == api::APPROVAL && !self.approved.contains(&key) {
            let error = ApiError::new(ErrorClass::Pending, "no ticket").hint("coordinator approve");
            return response(403, &serde_json::to_string(&error).unwrap());
        }
        if path == api::ENROL || path == api::APPROVAL {
            if path == api::ENROL {
                let request: EnrolRequest = serde_json::from_slice(body).unwrap();
                assert!(
                    request.ticket.verifies(&request.proof, &self.pin, &key),
                    "the proof is for another key"
                );
                if let Some(class) = self.refusal(request.ticket, key) {
                    let error = ApiError::new(class, "a test");
                    return response(403, &serde_json::to_string(&error).unwrap());
                }
                self.bind(request.ticket, key);
            }
            self.enrolled.push(key);
            self.key.get_or_insert(key);
            let (node, role) = (self.config.node.clone(), self.config.role());
            let answer = EnrolAnswer {
                cluster: self.config.cluster.clone(),
                node,
                role,
                generation: 1,
                recovery: Some(self.recovery.public_key()),
            };
            return response(200, &serde_json::to_string(&answer).unwrap());
        }
        if path == api::REPORT && !bound {
            self.beacons.push((key, serde_json::from_slice(body).unwrap()));
            return response(204, "");
        }
        if path == api::ROTATE {
            return self.replace(key, body);
        }
        if !bound {
            let error = ApiError::new(ErrorClass::Policy, "this key is not bound");
            return response(403, &serde_json::to_string(&error).unwrap());
        }
        if path == api::OPEN {
            let request: OpenRequest = serde_json::from_slice(body).unwrap();
            self.turn_to(request.turn);
            *opened = true;
            let stamp = Stamp::sign(self.reach, coordinator);
            // Where it is to go wrong, it is asked for alone, as of a coordinator
            // that does not know better.
            let alone = self.faults.iter().any(|(path, _)| *path == api::CONFIG);
            let config = request.config.filter(|_| !alone).map(|asked| {
                let (config, tag) = self.written();
                if asked.seen.as_ref() == Some(&tag) {
                    return ConfigAnswer::Unchanged;
                }
                ConfigAnswer::Is { tag, config: RawValue::from_string(config).unwrap() }
            });
            let answer = OpenAnswer { stamp, rotate: self.rotate, config };
            return response(200, &serde_json::to_string(&answer).unwrap());
        }
        if !*opened {
            let error = ApiError::new(ErrorClass::Transient, "not opened");
            return response(428, &serde_json::to_string(&error).unwrap());
        }
        match path {
            api::CONFIG => {
                let (config, tag) = self.written();
                // It does not hold a question open: that would make no other difference.
                match seen {
                    Some(seen) if seen == tag => response(304, ""),
                    _ => response(200, &config).replacen("\r\n", &format!("\r\netag: {tag}\r\n"), 1),
                }
            }
            api::GATE => self.pass(serde_json::from_slice(body).unwrap()),
            api::REPORT => {
                self.reports.push(serde_json::from_slice(body).unwrap());
                response(204, "")
            }
            CHORES => {
                self.chores_done.push(serde_json::from_slice(body).unwrap());
                response(200, &serde_json::to_string(&self.chores.pop_front().unwrap_or_default()).unwrap())
            }
            api::SNAPSHOT => {
                let SnapshotRequest { offset } = serde_json::from_slice(body).unwrap();
                self.offsets.push(offset);
                let rest = &self.datastore[usize::try_from(offset).unwrap()..];
                response(200, std::str::from_utf8(&rest[..rest.len().min(7)]).unwrap())
            }
            _ => response(404, "{}"),
        }
    }

    /// What the gate says.
    fn pass(&mut self, request: GateRequest) -> String {
        let (incarnation, clock) = (request.incarnation, request.clock);
        self.gates.push(request);
        if incarnation != self.config.incarnation {
            let error = ApiError::new(ErrorClass::Policy, "that life of the cluster is over");
            return response(403, &serde_json::to_string(&error).unwrap());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let off = clock - i64::try_from(now).unwrap();
        if off.abs() > MAX_CLOCK_SKEW {
            let error = ApiError::new(ErrorClass::Clock, format!("the clocks differ by {off} s"));
            return response(409, &serde_json::to_string(&error).unwrap());
        }
        let answer = self.gate.pop_front().unwrap_or(GateAnswer::Go);
        if answer == GateAnswer::Go
            && let Some(config) = self.config_after_gate.take()
        {
            self.config = config;
        }
        response(200, &serde_json::to_string(&answer).unwrap())
    }

    /// What a ticket is refused with, if it is.
    fn refusal(&mut self, ticket: TicketKey, key: Fingerprint) -> Option<ErrorClass> {
        let of_ticket = self.bindings.iter().find(|(bound, _)| *bound == ticket).map(|(_, key)| *key);
        let of_key = self.bindings.iter().find(|(_, bound)| *bound == key).map(|(ticket, _)| *ticket);
        if of_ticket.is_some_and(|bound| bound != key) {
            self.alarms.push(format!("{ticket} with a second key"));
            return Some(ErrorClass::TicketContested);
        }
        let known = ticket == self.ticket.public_key();
        (!known)
            .then_some(ErrorClass::TicketUnknown)
            .or_else(|| of_key.is_some_and(|bound| bound != ticket).then_some(ErrorClass::NameConflict))
    }

    fn bind(&mut self, ticket: TicketKey, key: Fingerprint) {
        if !self.bindings.contains(&(ticket, key)) {
            self.bindings.push((ticket, key));
            // The node's machine from now on, which has no turn yet.
            (self.key, self.turn) = (Some(key), None);
        }
    }

    /// The configuration and its tag.
    fn written(&self) -> (String, String) {
        let config = NodeConfig { rotate: self.rotate, ..self.config.clone() };
        let config = serde_json::to_string(&config).unwrap();
        let tag = format!("\"{}\"", Fingerprint::of_spki(config.as_bytes()));
        (config, tag)
    }

    fn turn_to(&mut self, turn: Turn) {
        if self.turn.is_some_and(|last| last != turn && last.next != turn.cur) {
            self.alarms.push(format!("{turn:?} after {:?}", self.turn));
        }
        self.turn = Some(turn);
    }

    fn replace(&mut self, key: Fingerprint, body: &[u8]) -> String {
        let request: RotateRequest = serde_json::from_slice(body).unwrap();
        assert!(request.is_proven(&self.pin, &key), "the proof is for another key");
        let new = request.key.fingerprint();
        self.shown = request.seen;
        if self.key == Some(key) {
            self.turn_to(request.turn);
            self.former.push(key);
            self.key = Some(new);
            self.rotate = false;
        } else if self.key != Some(new) {
            self.alarms.push("another rotation with a key that was replaced".to_owned());
        }
        response(204, "")
    }
}

pub(in crate::run) fn response(status: u16, body: &str) -> String {
    let head = format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n");
    let length = if status == 204 || status == 304 {
        String::new()
    } else {
        format!("content-length: {}\r\n", body.len())
    };
    format!("{head}{length}\r\n{body}")
}

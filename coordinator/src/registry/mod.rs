//! Who is who: the rules of identity and enrolment, as plain data. Nothing here
//! reads a clock, a file or a socket; `transition` runs these rules inside the
//! store's transactions.
//!
//! A *seat* is one generation of one node, with the ticket that stands for it:
//!
//! ```text
//!          enrol(K) in time                 enrol(K') in time
//! ISSUED ───────────────────▶ BOUND(K) ───────────────────▶ HELD(K)
//!   ▲ │                        │    ▲                          │
//!   │ └─ its time is over ─┐   │    └───────── release ────────┘
//!   └────── extend ────────┘   │
//!                              │ a later generation binds
//!          any of the above ───┴─────────────────────────▶ SUPERSEDED
//!          any but SUPERSEDED ── revoke, or `end` ────────▶ REVOKED
//! ```
//!
//! BOUND(K) answers K the same for ever; SUPERSEDED and REVOKED are final.
//! Minting alone supersedes nothing. A key is noted once, for one purpose, and
//! never forgotten.
//!
//! Console confirmation (`console`) stands between BOUND and the secrets of a
//! server role. A machine without a ticket is bound by an operator's approval.
//!
//! A ratchet that does not fit (`ratchet`), and a key used again after rotation
//! took another in its place, lead from BOUND to HELD too; rotation changes K of
//! BOUND(K).
//!
//! What tells the state from copies of itself is in `runs`.

pub(crate) mod console;
pub(crate) mod enrol;
pub(crate) mod gate;
pub(crate) mod operator;
pub(crate) mod ratchet;
pub(crate) mod runs;

use jiff::Timestamp;
use kiln_protocol::admin::RegistryState;
use kiln_protocol::config::Incarnation;
use kiln_protocol::ratchet::Turn;
use kiln_protocol::{ApiError, ErrorClass, Fingerprint, NodeName, Role, TicketKey};

/// One generation of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seat {
    pub(crate) id: i64,
    pub(crate) incarnation: Incarnation,
    pub(crate) node: NodeName,
    pub(crate) generation: u32,
    pub(crate) role: Role,
    pub(crate) ticket: TicketKey,
    pub(crate) not_before: Timestamp,
    pub(crate) expires: Timestamp,
    pub(crate) state: State,
    /// Whether somebody reads its machine's console and will confirm its key.
    pub(crate) confirm_console: bool,
    /// The key that its machine's console shows, as far as somebody said.
    pub(crate) console_key: Option<Fingerprint>,
    /// Why it is held or revoked, in words.
    pub(crate) reason: Option<String>,
    pub(crate) bound: Option<Timestamp>,
    /// When the gate let it start k3s.
    pub(crate) passed: Option<Timestamp>,
    /// When it first said it was ready.
    pub(crate) ready: Option<Timestamp>,
    /// Its own join token, if it has one: an agent's.
    pub(crate) token: Option<JoinState>,
    /// What is to become of its Node object.
    pub(crate) object: ObjectState,
    /// When its datastore was known to lack it.
    pub(crate) left: Option<Timestamp>,
    /// The turn of its clone ratchet that was taken last, if one was since it was
    /// bound, released or restored.
    pub(crate) turn: Option<Turn>,
    /// An operator wants its key replaced, and that has not come to pass yet.
    pub(crate) rotate: bool,
}

/// Where a join token is on its way into the cluster and out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JoinState {
    Wanted,
    Made,
    Unwanted,
    Gone,
}

/// What becomes of a seat's Node object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ObjectState {
    Kept,
    Doomed,
    Gone,
}

/// Where a seat is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Issued,
    Bound(Fingerprint),
    Held(Fingerprint),
    Superseded(Option<Fingerprint>),
    Revoked(Option<Fingerprint>),
}

impl State {
    /// The key that was bound, whatever became of it.
    pub(crate) fn key(self) -> Option<Fingerprint> {
        match self {
            Self::Issued => None,
            Self::Bound(key) | Self::Held(key) => Some(key),
            Self::Superseded(key) | Self::Revoked(key) => key,
        }
    }

    /// Whether a key may do something in its name, if only report.
    pub(crate) fn is_live(self) -> bool {
        matches!(self, Self::Bound(_) | Self::Held(_))
    }
}

impl State {
    /// Whether its key may do what nodes do.
    pub(crate) fn is_trusted(self) -> bool {
        matches!(self, Self::Bound(_))
    }
}

impl Seat {
    /// What an operator sees.
    pub(crate) fn registry_state(&self, now: Timestamp) -> RegistryState {
        match self.state {
            State::Issued if now >= self.expires => RegistryState::Expired,
            State::Issued => RegistryState::Issued,
            State::Bound(_) => RegistryState::Bound,
            State::Held(_) => RegistryState::Held,
            State::Superseded(_) => RegistryState::Superseded,
            State::Revoked(_) => RegistryState::Revoked,
        }
    }

    /// `k3s-s1 (generation 2)`.
    pub(crate) fn label(&self) -> String {
        format!("{} (generation {})", self.node, self.generation)
    }

    /// The refusal for a seat whose key may not do what it asks, if any.
    pub(crate) fn refusal(&self) -> Option<ApiError> {
        match self.state {
            State::Bound(_) => None,
            State::Issued => Some(ApiError::new(ErrorClass::Bug, "a ticket that nobody used has no key")),
            State::Held(_) => Some(self.held()),
            State::Superseded(_) => Some(self.superseded()),
            State::Revoked(_) => Some(self.revoked()),
        }
    }

    fn held(&self) -> ApiError {
        let reason = self.reason.as_deref().unwrap_or("no reason was noted");
        ApiError::new(ErrorClass::Held, format!("node {} is held: {reason}", self.label())).hint(format!(
            "an operator decides: coordinator release {0}, or coordinator revoke {0}",
            self.node
        ))
    }

    fn superseded(&self) -> ApiError {
        ApiError::new(
            ErrorClass::Superseded,
            format!("node {}: a later generation has enrolled", self.label()),
        )
        .hint("this machine was replaced: delete it")
    }

    fn revoked(&self) -> ApiError {
        let reason = self.reason.as_deref().unwrap_or("no reason was noted");
        ApiError::new(ErrorClass::Revoked, format!("node {} is revoked: {reason}", self.label()))
            .hint("mint a new ticket and make the machine anew")
    }
}

/// What a key that is noted already was noted for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeyOwner {
    Coordinator,
    Admin(String),
    /// Its rights were taken away.
    FormerAdmin(String),
    Node {
        seat: Box<Seat>,
        label: String,
    },
    /// Was this node's until rotation gave it another.
    Former(Box<Seat>),
    Ticket,
}

#[cfg(test)]
pub(crate) mod fixtures {
    use super::*;

    pub(crate) const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    pub(crate) fn later(seconds: i64) -> Timestamp {
        NOW + jiff::SignedDuration::from_secs(seconds)
    }

    pub(crate) fn key(text: &str) -> Fingerprint {
        Fingerprint::of_spki(text.as_bytes())
    }

    /// A seat of `a` whose ticket is good for an hour from [`NOW`].
    pub(crate) fn seat(state: State) -> Seat {
        let ticket = kiln_protocol::ticket::TicketSeed::generate().public_key();
        Seat {
            id: 1,
            incarnation: Incarnation(1),
            node: "a".parse().unwrap(),
            generation: 1,
            role: Role::Agent,
            ticket,
            not_before: NOW,
            expires: later(3600),
            state,
            confirm_console: false,
            console_key: None,
            reason: None,
            bound: None,
            passed: None,
            ready: None,
            token: None,
            object: ObjectState::Kept,
            left: None,
            turn: None,
            rotate: false,
        }
    }
}

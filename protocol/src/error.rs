//! The one error type of the API.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What kind of refusal this is: the agent branches on it, people read the
/// message beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// Network, handshake, overload: try again.
    Transient,
    /// The clocks differ too much to start k3s.
    Clock,
    /// A request, ticket or file that cannot be decoded.
    Format,
    /// No such ticket was ever registered here.
    TicketUnknown,
    /// The ticket's time is over, or has not begun.
    TicketExpired,
    /// Another key was already vouched for by this ticket.
    TicketContested,
    /// The node is held until an operator decides.
    Held,
    /// A newer generation of this node has enrolled.
    Superseded,
    /// An operator took this node's rights away.
    Revoked,
    /// This disk was copied from an enrolled machine.
    Cloned,
    /// Waiting for an operator's approval.
    Pending,
    /// The name belongs to another live key.
    NameConflict,
    /// The coordinator was restored from an old backup.
    StaleCoordinator,
    /// The caller's key may not do this.
    Policy,
    /// A defect of Kiln.
    Bug,
}

impl ErrorClass {
    /// The class as it stands on the wire and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Clock => "clock",
            Self::Format => "format",
            Self::TicketUnknown => "ticket_unknown",
            Self::TicketExpired => "ticket_expired",
            Self::TicketContested => "ticket_contested",
            Self::Held => "held",
            Self::Superseded => "superseded",
            Self::Revoked => "revoked",
            Self::Cloned => "cloned",
            Self::Pending => "pending",
            Self::NameConflict => "name_conflict",
            Self::StaleCoordinator => "stale_coordinator",
            Self::Policy => "policy",
            Self::Bug => "bug",
        }
    }

    /// Whether only an operator can cure it. Such errors are retried slowly
    /// (every five minutes), so that the cure needs no console.
    pub fn needs_operator(self) -> bool {
        !matches!(self, Self::Transient | Self::Clock)
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A refusal, as the API sends it and as reports carry it.
#[derive(Debug, Clone, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{class}: {message}{}", hint.as_ref().map(|h| format!(" ({h})")).unwrap_or_default())]
pub struct ApiError {
    /// What kind of refusal.
    pub class: ErrorClass,
    /// What failed, on what, and why.
    pub message: String,
    /// What to do next, where there is something to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Seconds after which another try makes sense.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u32>,
    /// The request it answers, as the coordinator's log calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

/// Two refusals are the same if they say the same; which request was told so
/// is no part of it.
impl PartialEq for ApiError {
    fn eq(&self, other: &Self) -> bool {
        let said = |error: &Self| (error.class, error.retry_after);
        said(self) == said(other) && self.message == other.message && self.hint == other.hint
    }
}

impl ApiError {
    /// An error without hint and without a retry time.
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), hint: None, retry_after: None, request: None }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the seconds after which another try makes sense.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_is_stable() {
        let error =
            ApiError::new(ErrorClass::TicketUnknown, "no such ticket").hint("mint one").retry_after(300);
        assert_eq!(
            serde_json::to_string(&error).unwrap(),
            r#"{"class":"ticket_unknown","message":"no such ticket","hint":"mint one","retry_after":300}"#
        );
        assert_eq!(error.to_string(), "ticket_unknown: no such ticket (mint one)");
    }
}

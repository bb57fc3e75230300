//! Console confirmation: a machine's serial console says which key is its own,
//! which a thief of its ticket cannot. Where the caller reads that console, a
//! server is given no secret before it has said so.

use jiff::{SignedDuration, Timestamp};
use kiln_protocol::admin::Confirmation;
use kiln_protocol::{ApiError, ErrorClass, Fingerprint, Role};

use super::{Seat, State};

/// For so long after a key was bound, its node asks often: the caller is about
/// to say what the console shows.
const SOON: SignedDuration = SignedDuration::from_mins(2);

/// What follows from what a console shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shown {
    /// Nothing that was not known.
    Already,
    /// Keep it: only this key may enrol, or it is the one that has.
    Keep,
    /// Keep it. Somebody else enrolled: the node is held and an alarm raised.
    Mismatch(Fingerprint),
}

/// `shown` is on the console of the machine that `seat` is for.
pub(crate) fn confirm(seat: &Seat, shown: Fingerprint) -> Result<Shown, ApiError> {
    if let Some(refusal) = seat.refusal().filter(|_| !seat.state.is_live() && seat.state != State::Issued) {
        return Err(refusal);
    }
    Ok(match seat.state.key() {
        Some(key) if key != shown => Shown::Mismatch(key),
        _ if seat.console_key == Some(shown) => Shown::Already,
        _ => Shown::Keep,
    })
}

/// What an operator sees; nothing where nobody reads the console.
pub(crate) fn confirmation(seat: &Seat) -> Option<Confirmation> {
    match (seat.console_key, seat.state.key()) {
        (None, _) if !seat.confirm_console => None,
        (None, _) | (Some(_), None) => Some(Confirmation::Awaited),
        (Some(shown), Some(key)) if shown == key => Some(Confirmation::Confirmed),
        (Some(_), Some(_)) => Some(Confirmation::Mismatch),
    }
}

/// Whether its console has shown its key, or need not: only then is a server
/// trusted with anything, and its word taken for what its cluster is like.
pub(crate) fn is_confirmed(seat: &Seat) -> bool {
    let shown = seat.console_key.is_some() && seat.console_key == seat.state.key();
    seat.role != Role::Server || !seat.confirm_console || shown
}

/// The refusal of a server's secrets to a key that its console did not show.
pub(crate) fn unconfirmed(seat: &Seat, now: Timestamp) -> Option<ApiError> {
    if is_confirmed(seat) {
        return None;
    }
    let key = seat.state.key().map_or_else(String::new, |key| key.to_string());
    let error = ApiError::new(
        ErrorClass::Pending,
        format!("server {} gets its secrets once its key is confirmed from its console", seat.label()),
    );
    let soon = seat.bound.is_none_or(|bound| now.duration_since(bound) < SOON);
    Some(error.retry_after(if soon { 1 } else { 30 }).hint(format!(
        "if this machine's console shows this key, then: coordinator confirm {} {key}",
        seat.node
    )))
}

/// The refusal of a key that is not the one on the console.
pub(crate) fn contested(seat: &Seat, key: Fingerprint) -> Option<ApiError> {
    let shown = seat.console_key.filter(|shown| *shown != key)?;
    let message = format!("the console of node {} shows another key: {shown}", seat.label());
    Some(
        ApiError::new(ErrorClass::TicketContested, message)
            .hint("its ticket was taken by a machine that is not the one it was made for"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::fixtures::{NOW, key, later, seat};

    fn server(state: State) -> Seat {
        Seat { role: Role::Server, confirm_console: true, bound: Some(NOW), ..seat(state) }
    }

    #[test]
    fn a_server_has_no_secrets_before_its_console_shows_its_key() {
        let bound = server(State::Bound(key("k")));
        let refusal = unconfirmed(&bound, NOW).unwrap();
        assert_eq!((refusal.class, refusal.retry_after), (ErrorClass::Pending, Some(1)));
        assert_eq!(unconfirmed(&bound, later(3600)).unwrap().retry_after, Some(30));
        let other = Seat { console_key: Some(key("other")), ..bound.clone() };
        assert!(unconfirmed(&other, NOW).is_some());
        let confirmed = Seat { console_key: Some(key("k")), ..bound.clone() };
        assert_eq!(unconfirmed(&confirmed, NOW), None);
        assert_eq!(unconfirmed(&Seat { role: Role::Agent, ..bound.clone() }, NOW), None);
        assert_eq!(unconfirmed(&Seat { confirm_console: false, ..bound }, NOW), None);
    }

    #[test]
    fn what_the_console_shows_is_kept_compared_and_said_once() {
        let issued = server(State::Issued);
        assert_eq!(confirm(&issued, key("k")), Ok(Shown::Keep));
        let told = Seat { console_key: Some(key("k")), ..issued };
        assert_eq!(confirm(&told, key("k")), Ok(Shown::Already));
        assert_eq!(contested(&told, key("k")), None);
        assert_eq!(contested(&told, key("thief")).unwrap().class, ErrorClass::TicketContested);
        let stolen = server(State::Bound(key("thief")));
        assert_eq!(confirm(&stolen, key("k")), Ok(Shown::Mismatch(key("thief"))));
        assert_eq!(confirm(&server(State::Held(key("thief"))), key("k")), Ok(Shown::Mismatch(key("thief"))));
        assert!(confirm(&server(State::Revoked(Some(key("k")))), key("k")).is_err());
        assert!(confirm(&server(State::Superseded(None)), key("k")).is_err());
    }

    #[test]
    fn an_operator_sees_how_it_stands() {
        let unread = Seat { confirm_console: false, ..server(State::Bound(key("k"))) };
        assert_eq!(confirmation(&unread), None);
        assert_eq!(confirmation(&server(State::Issued)), Some(Confirmation::Awaited));
        for (shown, expected) in [("k", Confirmation::Confirmed), ("other", Confirmation::Mismatch)] {
            let seat = Seat { console_key: Some(key(shown)), ..server(State::Bound(key("k"))) };
            assert_eq!(confirmation(&seat), Some(expected));
        }
    }
}

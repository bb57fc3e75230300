//! What becomes of a request to enrol, once its proof has been found good:
//! verdicts about tickets and names are given to nobody else.

use jiff::Timestamp;
use kiln_protocol::{ApiError, ErrorClass, Fingerprint};

use super::{KeyOwner, Seat, State, console};

/// The decision, and what it does to the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Enrolment {
    /// Note the key, bind it, supersede all earlier generations.
    Bind,
    /// Bound to this very key already: the same answer, nothing changes.
    Already,
    /// Refuse, and see to what follows from the attempt.
    Refuse(ApiError, Consequence),
}

/// What a refused attempt leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Consequence {
    Nothing,
    /// One alarm, however many keys are tried.
    Alarm,
    /// One event, however often it is tried.
    NoteOnce,
    /// The node is held and an alarm is raised.
    Hold,
}

/// `key` comes with a good proof of the ticket that `seat` was found by;
/// `owner` is what the key was noted for before.
pub(crate) fn decide(
    seat: Option<&Seat>,
    key: Fingerprint,
    owner: Option<&KeyOwner>,
    now: Timestamp,
) -> Enrolment {
    let refuse = |error| Enrolment::Refuse(error, Consequence::Nothing);
    let Some(seat) = seat else { return refuse(unknown()) };
    match seat.state {
        State::Revoked(_) => refuse(seat.revoked()),
        State::Superseded(_) => refuse(seat.superseded()),
        State::Bound(bound) if bound == key => Enrolment::Already,
        State::Held(bound) if bound == key => refuse(seat.held()),
        // A ticket whose time is over binds nothing any more, so another key
        // with it is worth a note but does not cost the node its place.
        State::Bound(_) if now < seat.expires => Enrolment::Refuse(contested(seat), Consequence::Hold),
        State::Bound(_) | State::Held(_) => Enrolment::Refuse(contested(seat), Consequence::NoteOnce),
        State::Issued if now < seat.not_before => refuse(not_yet(seat)),
        State::Issued if now >= seat.expires => refuse(expired(seat)),
        State::Issued => match (owner, console::contested(seat, key)) {
            (Some(owner), _) => refuse(owned(owner)),
            (None, Some(contested)) => Enrolment::Refuse(contested, Consequence::Alarm),
            (None, None) => Enrolment::Bind,
        },
    }
}

fn unknown() -> ApiError {
    ApiError::new(ErrorClass::TicketUnknown, "this coordinator was never told of the ticket")
        .hint("mint it again from its journal, or make a new one with: coordinator ticket --node NAME")
}

fn not_yet(seat: &Seat) -> ApiError {
    let message = format!("the ticket of node {} is not valid before {}", seat.label(), seat.not_before);
    ApiError::new(ErrorClass::TicketExpired, message)
}

fn expired(seat: &Seat) -> ApiError {
    let message = format!("the ticket of node {} expired at {}", seat.label(), seat.expires);
    ApiError::new(ErrorClass::TicketExpired, message)
        .hint(format!("revive it without touching the node: coordinator extend {}", seat.node))
}

fn contested(seat: &Seat) -> ApiError {
    let message = format!("the ticket of node {} was used by another machine's key", seat.label());
    ApiError::new(ErrorClass::TicketContested, message).hint(
        "either this machine is a copy, or the other took its ticket: compare the key on each one's console",
    )
}

pub(crate) fn owned(owner: &KeyOwner) -> ApiError {
    match owner {
        KeyOwner::Node { label, .. } => {
            ApiError::new(ErrorClass::NameConflict, format!("this key is already node {label}'s"))
                .hint("a key has one name for ever: make the machine anew from the image")
        }
        KeyOwner::Former(seat) => {
            let message = format!("this key was node {}'s until another took its place", seat.label());
            ApiError::new(ErrorClass::NameConflict, message)
                .hint("a key has one name for ever: make the machine anew from the image")
        }
        KeyOwner::Coordinator => ApiError::new(ErrorClass::Policy, "a coordinator's key cannot be a node's"),
        KeyOwner::Admin(name) | KeyOwner::FormerAdmin(name) => {
            ApiError::new(ErrorClass::Policy, format!("the key of admin {name} cannot be a node's"))
        }
        KeyOwner::Ticket => ApiError::new(ErrorClass::Policy, "a ticket's key cannot be a node's"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::fixtures::{NOW, key, later, seat};

    fn class(enrolment: Enrolment) -> (ErrorClass, Consequence) {
        match enrolment {
            Enrolment::Refuse(error, consequence) => (error.class, consequence),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_issued_ticket_binds_the_first_key_in_time() {
        let seat = seat(State::Issued);
        assert_eq!(decide(Some(&seat), key("k"), None, NOW), Enrolment::Bind);
        assert_eq!(decide(Some(&seat), key("k"), None, later(3599)), Enrolment::Bind);
    }

    #[test]
    fn an_unknown_ticket_is_told_so() {
        let refused = class(decide(None, key("k"), None, NOW));
        assert_eq!(refused, (ErrorClass::TicketUnknown, Consequence::Nothing));
    }

    #[test]
    fn a_ticket_outside_its_time_binds_nothing() {
        let seat = seat(State::Issued);
        for now in [later(-1), later(3600), later(1_000_000)] {
            let refused = class(decide(Some(&seat), key("k"), None, now));
            assert_eq!(refused, (ErrorClass::TicketExpired, Consequence::Nothing));
        }
    }

    #[test]
    fn the_bound_key_gets_the_same_answer_for_ever() {
        let seat = seat(State::Bound(key("k")));
        for now in [NOW, later(3600), later(365 * 86400)] {
            assert_eq!(decide(Some(&seat), key("k"), None, now), Enrolment::Already);
        }
    }

    #[test]
    fn another_key_in_time_holds_the_node() {
        let seat = seat(State::Bound(key("k")));
        let refused = class(decide(Some(&seat), key("other"), None, later(3599)));
        assert_eq!(refused, (ErrorClass::TicketContested, Consequence::Hold));
    }

    #[test]
    fn another_key_after_expiry_is_only_noted() {
        let seat = seat(State::Bound(key("k")));
        let refused = class(decide(Some(&seat), key("other"), None, later(3600)));
        assert_eq!(refused, (ErrorClass::TicketContested, Consequence::NoteOnce));
    }

    #[test]
    fn a_held_node_cannot_enrol_and_others_still_contest() {
        let seat = seat(State::Held(key("k")));
        assert_eq!(class(decide(Some(&seat), key("k"), None, NOW)), (ErrorClass::Held, Consequence::Nothing));
        let refused = class(decide(Some(&seat), key("other"), None, NOW));
        assert_eq!(refused, (ErrorClass::TicketContested, Consequence::NoteOnce));
    }

    #[test]
    fn superseded_and_revoked_are_final_for_every_key() {
        for k in [key("k"), key("other")] {
            let superseded = seat(State::Superseded(Some(key("k"))));
            assert_eq!(class(decide(Some(&superseded), k, None, NOW)).0, ErrorClass::Superseded);
            let revoked = seat(State::Revoked(Some(key("k"))));
            assert_eq!(class(decide(Some(&revoked), k, None, NOW)).0, ErrorClass::Revoked);
        }
    }

    #[test]
    fn once_the_console_was_read_only_its_key_binds() {
        let seat = Seat { console_key: Some(key("k")), ..seat(State::Issued) };
        assert_eq!(decide(Some(&seat), key("k"), None, NOW), Enrolment::Bind);
        let refused = class(decide(Some(&seat), key("thief"), None, NOW));
        assert_eq!(refused, (ErrorClass::TicketContested, Consequence::Alarm));
    }

    #[test]
    fn a_key_never_gets_a_second_name() {
        let seat = seat(State::Issued);
        let other = KeyOwner::Node {
            seat: Box::new(super::super::fixtures::seat(State::Issued)),
            label: "b (generation 1)".into(),
        };
        for (owner, expected) in [
            (other, ErrorClass::NameConflict),
            (KeyOwner::Admin("ops".into()), ErrorClass::Policy),
            (KeyOwner::Coordinator, ErrorClass::Policy),
        ] {
            let refused = class(decide(Some(&seat), key("k"), Some(&owner), NOW));
            assert_eq!(refused, (expected, Consequence::Nothing));
        }
    }
}

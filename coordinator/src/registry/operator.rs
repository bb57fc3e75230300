//! What an operator may do to the registry, and when it is refused.

use jiff::{SignedDuration, Timestamp};
use kiln_protocol::admin::TicketRecord;
use kiln_protocol::{ApiError, ErrorClass, NodeName, Role};

use super::{Seat, State};

/// What the registry knows that bears on a mint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MintContext<'a> {
    /// The role that the cluster file in force gives the node, if it is in it.
    pub(crate) planned: Option<Role>,
    /// What the same ticket was minted for before.
    pub(crate) same_ticket: Option<(&'a Seat, &'a TicketRecord)>,
    /// The same node's and generation's seat, whatever its ticket.
    pub(crate) same_generation: Option<&'a Seat>,
    /// The newest generation of the node that ever had a key; 0 for none.
    pub(crate) newest_bound: u32,
    /// A machine that is the node now and still speaks.
    pub(crate) speaks: Option<Speaking<'a>>,
    /// The node has an address of its own, which no two machines can have.
    pub(crate) fixed_address: bool,
}

/// A machine that was heard a moment ago.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Speaking<'a> {
    pub(crate) seat: &'a Seat,
    /// Seconds since it was heard; 0 while it is connected.
    pub(crate) seconds: i64,
}

/// Whether a mint makes a new seat (true) or was made before (false).
pub(crate) fn mint(record: &TicketRecord, context: &MintContext<'_>) -> Result<bool, ApiError> {
    let policy = |message: String| ApiError::new(ErrorClass::Policy, message);
    if let Some((seat, before)) = context.same_ticket {
        if before == record {
            return Ok(false);
        }
        let message = format!("this ticket was minted before, differently, for node {}", seat.label());
        return Err(policy(message).hint("make a new seed for another record"));
    }
    let TicketRecord { node, generation, role, .. } = record;
    match context.planned {
        None => {
            return Err(policy(format!("node {node} is not in the cluster file in force"))
                .hint("add it and apply the file: coordinator apply FILE"));
        }
        Some(planned) if planned != *role => {
            return Err(policy(format!("node {node} is a {planned} in the cluster file, not a {role}")));
        }
        Some(_) => {}
    }
    if record.expires <= record.not_before {
        let message = format!("the ticket expires at {}, before it is valid", record.expires);
        return Err(ApiError::new(ErrorClass::Format, message));
    }
    if *generation == 0 {
        return Err(ApiError::new(ErrorClass::Format, "generations count from 1"));
    }
    if let Some(seat) = context.same_generation {
        let message = format!("node {} has a ticket already", seat.label());
        return Err(ApiError::new(ErrorClass::NameConflict, message)
            .hint(format!("extend that one, or mint generation {}", generation + 1)));
    }
    if *generation < context.newest_bound {
        let message = format!("node {node}: generation {} has enrolled already", context.newest_bound);
        return Err(ApiError::new(ErrorClass::Superseded, message)
            .hint(format!("mint generation {}", context.newest_bound + 1)));
    }
    if let Some(Speaking { seat, seconds }) = context.speaks
        && (*role == Role::Server || context.fixed_address)
    {
        let why = if *role == Role::Server { "etcd has one member of a name" } else { "it has that address" };
        let message = format!(
            "the machine of node {} is still there, it spoke {seconds} s ago: another is not made before it is \
             gone, since {why}",
            seat.label()
        );
        return Err(policy(message).hint(format!(
            "delete that machine, wait until it has been silent for half a minute, and mint again; if it cannot \
             be deleted, take its rights away: coordinator revoke {node}"
        )));
    }
    Ok(true)
}

/// The new end of a ticket nobody used yet.
pub(crate) fn extend(seat: &Seat, seconds: u32, now: Timestamp) -> Result<Timestamp, ApiError> {
    match seat.state {
        State::Issued => now
            .max(seat.not_before)
            .checked_add(SignedDuration::from_secs(seconds.into()))
            .map_err(|_| ApiError::new(ErrorClass::Format, "the ticket's new end is beyond all calendars")),
        State::Bound(_) | State::Held(_) => Err(ApiError::new(
            ErrorClass::Policy,
            format!("the ticket of node {} was used; more time would only help a thief", seat.label()),
        )),
        State::Superseded(_) => Err(seat.superseded()),
        State::Revoked(_) => Err(seat.revoked()),
    }
}

/// The state after `release`: a held key is trusted again.
pub(crate) fn release(seat: &Seat) -> Result<State, ApiError> {
    match seat.state {
        State::Held(key) | State::Bound(key) => Ok(State::Bound(key)),
        State::Issued => {
            let message = format!("node {} is not held: it has not enrolled", seat.label());
            Err(ApiError::new(ErrorClass::Policy, message))
        }
        State::Superseded(_) => Err(seat.superseded()),
        State::Revoked(_) => Err(seat.revoked()),
    }
}

/// The state after `revoke`; the key stays noted.
pub(crate) fn revoke(state: State) -> State {
    match state {
        State::Superseded(_) => state,
        other => State::Revoked(other.key()),
    }
}

/// The state of an earlier generation after a later one was bound.
pub(crate) fn supersede(state: State) -> State {
    match state {
        State::Revoked(_) => state,
        other => State::Superseded(other.key()),
    }
}

/// No generation of the node is known.
pub(crate) fn no_such_node(node: &NodeName) -> ApiError {
    ApiError::new(ErrorClass::Policy, format!("node {node} has no ticket and no key"))
        .hint("see: coordinator status")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::fixtures::{NOW, key, later, seat};
    use kiln_protocol::admin::Hints;

    fn record(generation: u32) -> TicketRecord {
        TicketRecord {
            node: "a".parse().unwrap(),
            generation,
            role: Role::Agent,
            not_before: NOW,
            expires: later(3600),
            confirm_console: false,
            hints: Hints::default(),
        }
    }

    const EMPTY: MintContext<'static> = MintContext {
        planned: Some(Role::Agent),
        same_ticket: None,
        same_generation: None,
        newest_bound: 0,
        speaks: None,
        fixed_address: false,
    };

    #[test]
    fn minting_is_idempotent_for_the_same_record_only() {
        let (minted, seat) = (record(1), seat(State::Revoked(None)));
        let again =
            MintContext { same_ticket: Some((&seat, &minted)), same_generation: Some(&seat), ..EMPTY };
        assert_eq!(mint(&minted, &EMPTY), Ok(true));
        assert_eq!(mint(&minted, &again), Ok(false));
        let other = TicketRecord { expires: later(7200), ..record(1) };
        assert_eq!(mint(&other, &again).unwrap_err().class, ErrorClass::Policy);
    }

    #[test]
    fn only_nodes_of_the_file_get_tickets_in_their_role() {
        let absent = MintContext { planned: None, ..EMPTY };
        assert_eq!(mint(&record(1), &absent).unwrap_err().class, ErrorClass::Policy);
        let server = MintContext { planned: Some(Role::Server), ..EMPTY };
        assert_eq!(mint(&record(1), &server).unwrap_err().class, ErrorClass::Policy);
    }

    #[test]
    fn a_generation_has_one_ticket_and_none_is_minted_below_a_bound_one() {
        let seat = seat(State::Issued);
        let taken = MintContext { same_generation: Some(&seat), ..EMPTY };
        assert_eq!(mint(&record(1), &taken).unwrap_err().class, ErrorClass::NameConflict);
        let newer = MintContext { newest_bound: 3, ..EMPTY };
        assert_eq!(mint(&record(2), &newer).unwrap_err().class, ErrorClass::Superseded);
        assert_eq!(mint(&record(4), &newer), Ok(true));
        assert_eq!(mint(&record(0), &EMPTY).unwrap_err().class, ErrorClass::Format);
    }

    #[test]
    fn no_second_server_and_no_second_machine_of_an_address_is_begun_beside_the_first() {
        let there = seat(State::Bound(key("k")));
        let speaks = MintContext { speaks: Some(Speaking { seat: &there, seconds: 3 }), ..EMPTY };
        assert_eq!(mint(&record(2), &speaks), Ok(true), "an agent without an address of its own may overlap");
        let addressed = MintContext { fixed_address: true, ..speaks };
        let refusal = mint(&record(2), &addressed).unwrap_err();
        assert_eq!(refusal.class, ErrorClass::Policy);
        assert!(refusal.message.contains("spoke 3 s ago"), "{refusal}");
        assert!(refusal.hint.unwrap().contains("delete that machine"));
        let server = TicketRecord { role: Role::Server, ..record(2) };
        let speaking_server = MintContext { planned: Some(Role::Server), speaks: addressed.speaks, ..EMPTY };
        assert_eq!(mint(&server, &speaking_server).unwrap_err().class, ErrorClass::Policy);
        assert_eq!(mint(&server, &MintContext { speaks: None, ..speaking_server }), Ok(true));
        // What was minted before is minted again all the same.
        let (minted, same) = (record(2), seat(State::Issued));
        let again = MintContext { same_ticket: Some((&same, &minted)), ..addressed };
        assert_eq!(mint(&minted, &again), Ok(false));
    }

    #[test]
    fn extend_revives_unused_tickets_only() {
        assert_eq!(extend(&seat(State::Issued), 60, later(9999)), Ok(later(9999 + 60)));
        for (state, class) in [
            (State::Bound(key("k")), ErrorClass::Policy),
            (State::Held(key("k")), ErrorClass::Policy),
            (State::Superseded(None), ErrorClass::Superseded),
            (State::Revoked(None), ErrorClass::Revoked),
        ] {
            assert_eq!(extend(&seat(state), 60, NOW).unwrap_err().class, class);
        }
    }

    #[test]
    fn release_frees_held_keys_and_revives_nothing() {
        assert_eq!(release(&seat(State::Held(key("k")))), Ok(State::Bound(key("k"))));
        assert_eq!(release(&seat(State::Bound(key("k")))), Ok(State::Bound(key("k"))));
        assert!(release(&seat(State::Issued)).is_err());
        assert!(release(&seat(State::Revoked(Some(key("k"))))).is_err());
        assert!(release(&seat(State::Superseded(Some(key("k"))))).is_err());
    }

    #[test]
    fn final_states_stay() {
        assert_eq!(supersede(State::Revoked(None)), State::Revoked(None));
        assert_eq!(revoke(State::Superseded(None)), State::Superseded(None));
        assert_eq!(revoke(State::Held(key("k"))), State::Revoked(Some(key("k"))));
        assert_eq!(supersede(State::Issued), State::Superseded(None));
    }
}

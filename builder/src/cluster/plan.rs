//! What has to be done for one node, decided from what is known of it. Pure.
//!
//! Three places know something of a node, and any of them may be behind the
//! others after a crash:
//!
//! * the provider: whether the object exists,
//! * the registry: whether a key is bound to the name, and of which generation,
//! * the journal: a ticket that was made and perhaps used.
//!
//! A node that has a key needs no ticket and is never touched beyond being
//! switched on. One that has none is worth nothing: it is given its ticket
//! again, or is made anew.

use jiff::{SignedDuration, Timestamp};
use kiln_protocol::admin::RegistryState;
use kiln_protocol::{NodeName, Role};

use super::journal::Issued;

/// A ticket that ends sooner is not handed out again: the node has to boot
/// before it can use it.
const LEAST_LIFE: SignedDuration = SignedDuration::from_mins(10);

/// What is known of a node.
#[derive(Debug, Clone)]
pub struct Known<'a> {
    /// Its name.
    pub name: &'a NodeName,
    /// What it is in its cluster.
    pub role: Role,
    /// Whether it is the only server of the cluster file.
    pub sole_server: bool,
    /// Whether the provider has it, with our record on it.
    pub exists: bool,
    /// What the registry says of it.
    pub registry: RegistryState,
    /// Of which generation the registry says so; 0 for none.
    pub generation: u32,
    /// Why it is held or revoked.
    pub reason: Option<&'a str>,
    /// Whether its gate was passed: k3s may have run and may hold data.
    pub passed_gate: bool,
    /// The journal's ticket that is not known to be spent.
    pub ticket: Option<&'a Issued>,
    /// The newest generation there ever was, bound or not, known to registry
    /// or journal; 0 for none.
    pub newest: u32,
}

/// What has to be done for a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// It has its key: it needs only to run.
    Run,
    /// Make it, or finish making it, with the ticket in the journal.
    Again,
    /// Make it with a new ticket.
    Make {
        /// The ticket's generation.
        generation: u32,
    },
    /// It exists and can never join: remove it, then make it with a new ticket.
    Replace {
        /// The ticket's generation.
        generation: u32,
        /// Why it cannot join.
        why: String,
    },
}

/// A node for which nothing may be done without the operator's word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is held or revoked.
    #[error("node {node} is {state}{}: {todo}", reason.as_ref().map(|r| format!(" ({r})")).unwrap_or_default())]
    NotTrusted {
        /// Which node.
        node: NodeName,
        /// Held or revoked.
        state: RegistryState,
        /// Why.
        reason: Option<String>,
        /// What the operator can do.
        todo: &'static str,
    },
    /// The cluster's data was on it.
    #[error(
        "the machine of node {node} is gone, and with it the cluster's data: it was the only server. \
         `builder down` ends the cluster; `builder up` then begins a new one"
    )]
    DataLost {
        /// Which node.
        node: NodeName,
    },
}

/// Decides what has to be done for a node at `now`.
pub fn decide(known: &Known<'_>, now: Timestamp) -> Result<Action, Refusal> {
    let next = known.newest + 1;
    let todo = match known.registry {
        RegistryState::Held => Some("decide with `coordinator release` or `coordinator revoke`"),
        RegistryState::Revoked => Some("take it out of the cluster file, or `builder down` and `up`"),
        _ => None,
    };
    if let Some(todo) = todo {
        let (node, reason) = (known.name.clone(), known.reason.map(str::to_owned));
        return Err(Refusal::NotTrusted { node, state: known.registry, reason, todo });
    }
    let bound = if known.registry == RegistryState::Bound { known.generation } else { 0 };
    // A ticket of the bound generation or before it is spent, whether or not
    // the journal came to say so.
    let ticket = known.ticket.filter(|issued| issued.record.generation > bound);
    let usable = ticket.is_some_and(|issued| issued.record.expires > now + LEAST_LIFE);
    match (known.exists, usable) {
        (_, true) => Ok(Action::Again),
        (true, false) if bound > 0 && ticket.is_none() => Ok(Action::Run),
        (true, false) => {
            let why = match ticket {
                Some(_) => "its ticket expired before it enrolled",
                None => "it never enrolled, and its ticket is not known here",
            };
            Ok(Action::Replace { generation: next, why: why.into() })
        }
        (false, false) if known.sole_server && bound > 0 && known.passed_gate => {
            Err(Refusal::DataLost { node: known.name.clone() })
        }
        (false, false) => Ok(Action::Make { generation: next }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_protocol::admin::TicketRecord;
    use kiln_protocol::ticket::TicketSeed;
    use proptest::prelude::*;

    fn ticket(generation: u32, minutes: i64) -> Issued {
        let record = TicketRecord {
            node: "a".parse().unwrap(),
            generation,
            role: Role::Agent,
            not_before: Timestamp::UNIX_EPOCH,
            expires: Timestamp::UNIX_EPOCH + SignedDuration::from_mins(minutes),
            confirm_console: false,
            hints: kiln_protocol::admin::Hints::default(),
        };
        Issued { seed: TicketSeed::generate(), record }
    }

    fn at_epoch(known: &Known<'_>) -> Result<Action, Refusal> {
        decide(known, Timestamp::UNIX_EPOCH)
    }

    fn new_node(name: &NodeName) -> Known<'_> {
        Known {
            name,
            role: Role::Agent,
            sole_server: false,
            exists: false,
            registry: RegistryState::Planned,
            generation: 0,
            reason: None,
            passed_gate: false,
            ticket: None,
            newest: 0,
        }
    }

    #[test]
    fn the_way_of_a_node_that_is_interrupted_everywhere() {
        let name = "a".parse().unwrap();
        let planned = new_node(&name);
        assert_eq!(at_epoch(&planned), Ok(Action::Make { generation: 1 }));
        // Killed after the ticket was journalled, registered, the node made.
        let ticket = ticket(1, 60);
        let journalled = Known { ticket: Some(&ticket), newest: 1, ..planned };
        assert_eq!(at_epoch(&journalled), Ok(Action::Again));
        let issued = Known { registry: RegistryState::Issued, generation: 1, ..journalled };
        assert_eq!(at_epoch(&issued), Ok(Action::Again));
        let made = Known { exists: true, ..issued };
        assert_eq!(at_epoch(&made), Ok(Action::Again));
        // It enrolled, and the journal does not know.
        let bound = Known { registry: RegistryState::Bound, ..made };
        assert_eq!(at_epoch(&bound), Ok(Action::Run));
        let spent = Known { ticket: None, ..bound };
        assert_eq!(at_epoch(&spent), Ok(Action::Run));
        // Its machine went away.
        let lost = Known { exists: false, ..spent };
        assert_eq!(at_epoch(&lost), Ok(Action::Make { generation: 2 }));
    }

    #[test]
    fn the_next_generation_is_not_taken_for_the_bound_one() {
        let (name, second) = ("a".parse().unwrap(), ticket(2, 60));
        let made_again = Known {
            exists: true,
            registry: RegistryState::Bound,
            generation: 1,
            ticket: Some(&second),
            newest: 2,
            ..new_node(&name)
        };
        assert_eq!(at_epoch(&made_again), Ok(Action::Again));
    }

    #[test]
    fn a_node_that_can_never_join_is_replaced() {
        let (name, expired) = ("a".parse().unwrap(), ticket(1, 1));
        let registry = RegistryState::Expired;
        let late = Known {
            exists: true,
            registry,
            generation: 1,
            ticket: Some(&expired),
            newest: 1,
            ..new_node(&name)
        };
        assert!(matches!(at_epoch(&late), Ok(Action::Replace { generation: 2, .. })));
        let unknown = Known { ticket: None, ..late };
        assert!(matches!(at_epoch(&unknown), Ok(Action::Replace { generation: 2, .. })));
    }

    #[test]
    fn data_is_not_silently_begun_anew() {
        let name = "a".parse().unwrap();
        let lost = Known {
            role: Role::Server,
            sole_server: true,
            registry: RegistryState::Bound,
            generation: 1,
            newest: 1,
            passed_gate: true,
            ..new_node(&name)
        };
        assert!(at_epoch(&lost).unwrap_err().to_string().contains("builder down"));
        let no_data_yet = Known { passed_gate: false, ..lost };
        assert_eq!(at_epoch(&no_data_yet), Ok(Action::Make { generation: 2 }));
    }

    #[test]
    fn held_and_revoked_wait_for_the_operator() {
        let name = "a".parse().unwrap();
        for registry in [RegistryState::Held, RegistryState::Revoked] {
            let known = Known { registry, exists: true, reason: Some("contested"), ..new_node(&name) };
            let said = at_epoch(&known).unwrap_err().to_string();
            assert!(said.contains("contested"), "{said}");
        }
    }

    proptest! {
        #[test]
        fn a_key_is_never_thrown_away_and_no_generation_used_twice(
            exists: bool,
            sole_server: bool,
            passed_gate: bool,
            state in 0usize..7,
            generation in 0u32..4,
            ticket_generation in proptest::option::of(1u32..5),
            minutes in 0i64..60,
        ) {
            use RegistryState::{Bound, Expired, Held, Issued, Planned, Revoked, Superseded};
            let registry = [Planned, Issued, Expired, Bound, Held, Superseded, Revoked][state];
            let generation = if registry == Planned { 0 } else { generation.max(1) };
            let name = "a".parse().unwrap();
            let ticket = ticket_generation.map(|generation| ticket(generation, minutes));
            let newest = generation.max(ticket_generation.unwrap_or_default());
            let known = Known {
                exists, sole_server, passed_gate, registry, generation, newest,
                ticket: ticket.as_ref(), ..new_node(&name)
            };
            let Ok(action) = at_epoch(&known) else { return Ok(()) };
            match action {
                Action::Make { generation: new } | Action::Replace { generation: new, .. } => {
                    prop_assert!(new > newest);
                }
                Action::Again => {
                    let bound = if registry == Bound { generation } else { 0 };
                    prop_assert!(ticket_generation > Some(bound));
                    prop_assert!(minutes > 10);
                }
                Action::Run => prop_assert!(exists && registry == Bound),
            }
            if matches!(action, Action::Make { .. }) {
                prop_assert!(!exists, "made beside one that exists");
            }
            // With a key and no newer ticket it is left alone.
            if exists && registry == Bound && ticket_generation <= Some(generation) {
                prop_assert_eq!(action, Action::Run);
            }
        }
    }
}

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

use std::path::PathBuf;

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
    /// What the operator has said becomes of data that is lost.
    pub data: Option<&'a Data>,
    /// The journal's ticket that is not known to be spent.
    pub ticket: Option<&'a Issued>,
    /// The newest generation there ever was, bound or not, known to registry
    /// or journal; 0 for none.
    pub newest: u32,
}

/// What the operator says of the data of a cluster whose only server is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// The next one begins with this copy of `server/db/state.db`.
    Restore(PathBuf),
    /// It begins with nothing.
    Discard,
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
    /// It was the only server and is gone: make it with a new ticket and with the
    /// data that the operator named.
    Begin {
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
        "the machine of node {node} is gone, and with it the cluster's data: it was the only server. Say what \
         becomes of the data: `builder up --restore FILE` begins with a copy of it, `builder up --discard-data` \
         with nothing; or begin anew, with other secrets: `builder down`, then `builder up`"
    )]
    DataLost {
        /// Which node.
        node: NodeName,
    },
    /// None of several servers is there, and so is none who could take another in.
    #[error(
        "the machine of every server of the cluster is gone, and with them its data and etcd's quorum: \
         `builder down` ends the cluster; `builder up` then begins a new one"
    )]
    AllServersLost,
    /// The operator has given up data that is not lost.
    #[error(
        "{0} is for a cluster whose only server is gone after it had begun, and nothing was done: {1}. If an \
         earlier run was told so already, run `builder up` without it"
    )]
    NothingLost(&'static str, String),
}

impl Data {
    /// The option that says so.
    pub fn option(&self) -> &'static str {
        match self {
            Self::Restore(_) => "--restore",
            Self::Discard => "--discard-data",
        }
    }
}

/// Refuses a word about data if no node of the plan needs one. `server` is the
/// file's first.
///
/// # Errors
/// Always [`Refusal::NothingLost`].
pub fn check_word<'a>(
    data: Option<&Data>,
    actions: impl IntoIterator<Item = &'a Action>,
    server: &NodeName,
    multi_server: bool,
) -> Result<(), Refusal> {
    let begins = |action: &Action| matches!(action, Action::Begin { .. });
    let Some(data) = data.filter(|_| !actions.into_iter().any(begins)) else { return Ok(()) };
    let why = if multi_server {
        "this one has several servers, and each has the data: those that are left take a new one in, and if none \
         is, `builder down`, then `builder up`"
            .to_owned()
    } else {
        format!("server {server} is there, or never held any data")
    };
    Err(Refusal::NothingLost(data.option(), why))
}

impl Action {
    /// What is going to be done to a node that is not simply made or left alone,
    /// as it is shown before anything is.
    pub fn in_words(&self, node: &NodeName, data: Option<&Data>) -> Option<String> {
        match (self, data) {
            (Self::Run | Self::Again | Self::Make { generation: 1 }, _) => None,
            (Self::Make { generation }, _) => {
                Some(format!("node {node} is made anew (generation {generation}): its machine is gone"))
            }
            (Self::Replace { generation, why }, _) => {
                Some(format!("node {node} is removed and made anew (generation {generation}): {why}"))
            }
            (Self::Begin { generation }, Some(Data::Restore(copy))) => Some(format!(
                "node {node} is made anew (generation {generation}) and begins with the data in {}: keep that file \
                 until it is ready; what came after it is lost",
                copy.display()
            )),
            (Self::Begin { generation }, _) => Some(format!(
                "node {node} is made anew (generation {generation}) and begins without data: what the cluster held \
                 is lost"
            )),
        }
    }
}

/// Refuses a cluster of several servers all of which are gone after they had begun.
///
/// # Errors
/// [`Refusal::AllServersLost`].
pub fn check_servers<'a>(nodes: impl IntoIterator<Item = &'a Known<'a>>) -> Result<(), Refusal> {
    let mut servers = nodes.into_iter().filter(|known| known.role == Role::Server).peekable();
    let several = servers.peek().is_some_and(|known| !known.sole_server);
    // One that has not begun may be the one that starts the datastore.
    let lost =
        |known: &Known<'_>| !known.exists && known.passed_gate && known.registry == RegistryState::Bound;
    if several && servers.all(lost) { Err(Refusal::AllServersLost) } else { Ok(()) }
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
            if known.data.is_some() {
                Ok(Action::Begin { generation: next })
            } else {
                Err(Refusal::DataLost { node: known.name.clone() })
            }
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
            data: None,
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
        let refusal = at_epoch(&lost).unwrap_err().to_string();
        for way in ["--restore FILE", "--discard-data", "builder down"] {
            assert!(refusal.contains(way), "{refusal}");
        }
        let told = Known { data: Some(&Data::Discard), ..lost.clone() };
        assert_eq!(at_epoch(&told), Ok(Action::Begin { generation: 2 }));
        let there = Known { exists: true, ..told };
        assert_eq!(at_epoch(&there), Ok(Action::Run), "a word about data touches nobody who has it");
        let no_data_yet = Known { passed_gate: false, ..lost };
        assert_eq!(at_epoch(&no_data_yet), Ok(Action::Make { generation: 2 }));
    }

    #[test]
    fn servers_that_are_all_gone_are_not_waited_for() {
        let name = "s1".parse().unwrap();
        let gone = Known {
            role: Role::Server,
            registry: RegistryState::Bound,
            generation: 1,
            newest: 1,
            passed_gate: true,
            ..new_node(&name)
        };
        assert_eq!(check_servers([&gone, &gone, &new_node(&name)]), Err(Refusal::AllServersLost));
        let there = Known { exists: true, ..gone.clone() };
        let not_begun = Known { passed_gate: false, ..gone.clone() };
        for other in [there, not_begun] {
            assert_eq!(check_servers([&gone, &other]), Ok(()));
        }
        // What becomes of a sole one's data is asked for elsewhere.
        assert_eq!(check_servers([&Known { sole_server: true, ..gone }]), Ok(()));
    }

    #[test]
    fn a_word_about_data_that_is_not_lost_is_refused() {
        let (node, restore) = ("s1".parse().unwrap(), Data::Restore("/b/state.db".into()));
        let lost = [Action::Run, Action::Begin { generation: 2 }];
        for data in [None, Some(&restore), Some(&Data::Discard)] {
            assert_eq!(check_word(data, &lost, &node, false), Ok(()));
        }
        assert_eq!(check_word(None, &[Action::Run], &node, false), Ok(()));
        let said =
            |data, several| check_word(Some(data), &[Action::Run], &node, several).unwrap_err().to_string();
        assert!(said(&restore, false).starts_with("--restore is for"), "{}", said(&restore, false));
        assert!(said(&Data::Discard, false).contains("server s1 is there"));
        assert!(said(&Data::Discard, true).contains("several servers"));
    }

    #[test]
    fn what_is_done_to_data_is_said_before_it_is_done() {
        let (node, restore) = ("s1".parse().unwrap(), Data::Restore("/b/state.db".into()));
        let begin = Action::Begin { generation: 2 };
        assert!(
            begin.in_words(&node, Some(&restore)).unwrap().contains("begins with the data in /b/state.db")
        );
        assert!(
            begin.in_words(&node, Some(&Data::Discard)).unwrap().contains("what the cluster held is lost")
        );
        assert_eq!(Action::Run.in_words(&node, None), None);
        assert_eq!(Action::Make { generation: 1 }.in_words(&node, None), None);
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
            told: bool,
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
                exists, sole_server, passed_gate, data: told.then_some(&Data::Discard), registry, generation, newest,
                ticket: ticket.as_ref(), ..new_node(&name)
            };
            let Ok(action) = at_epoch(&known) else { return Ok(()) };
            match action {
                Action::Make { generation: new } | Action::Replace { generation: new, .. } => {
                    prop_assert!(new > newest);
                }
                Action::Begin { generation: new } => {
                    prop_assert!(new > newest && told && sole_server && !exists);
                }
                Action::Again => {
                    let bound = if registry == Bound { generation } else { 0 };
                    prop_assert!(ticket_generation > Some(bound));
                    prop_assert!(minutes > 10);
                }
                Action::Run => prop_assert!(exists && registry == Bound),
            }
            if matches!(action, Action::Make { .. } | Action::Begin { .. }) {
                prop_assert!(!exists, "made beside one that exists");
            }
            // With a key and no newer ticket it is left alone.
            if exists && registry == Bound && ticket_generation <= Some(generation) {
                prop_assert_eq!(action, Action::Run);
            }
        }
    }
}

//! How far a node is on its way into its cluster. Pure data: what is done in
//! each state, and how often, is the driver's business.
//!
//! ```text
//!  Seed --SeedFound--> Key --KeyMade--> Enrol --Bound--> Configure --Configured--> Gate
//!                                        ^  |              ^                    | ^ |
//!                                        +--+              +----Reconfigure-----+ | | Passed
//!                                     SeedFound                        NotStarted | v
//!                                 (another ticket)        Ready <--K3sReady-- StartK3s
//! ```
//!
//! * The state is on the disk before anything is done in it, so that a power
//!   cut resumes where it was. What may happen more than once (asking to be
//!   enrolled, writing configuration, asking at the gate) is repeated then.
//! * `Key`: the key is made once; a key file that is already there is kept.
//! * `Enrol`: until the key is bound a newer seed replaces an older one, so
//!   that a wrong or expired ticket is cured by giving the machine another. If
//!   the key turns out to be another node's (it was bound with the older one, and
//!   the answer was lost), `KeyTaken` leads back to `Key` for a new one.
//! * From `Configure` and `Gate` another ticket (`SeedFound`) leads back to
//!   `Enrol`: a node that is refused, and whose k3s never ran, is made another
//!   one as if it were new.
//! * From `Enrol` to `Configure` the ticket is forgotten: it is of no use to
//!   anybody any more, only the coordinator's addresses and pin are.
//! * In any state of a bound node its key may be replaced; the state stays.
//! * `NotStarted` is the one arrow that leaves `StartK3s` backwards: the power
//!   was cut before k3s did anything, and the coordinator refuses what the node
//!   was let through the gate for. In doubt there is none, not for another ticket
//!   either: k3s may have started, and it picks its datastore at its first start,
//!   so that the configuration is never touched again.

use kiln_protocol::api::{EnrolAnswer, Step};
use kiln_protocol::config::Incarnation;
use kiln_protocol::seed::NodeSeed;
use kiln_protocol::ticket::Address;
use kiln_protocol::{Fingerprint, Ticket, TicketKey};
use serde::{Deserialize, Serialize};

use super::shown::Shown;

/// A state, with what is known in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum State {
    /// No ticket has been found yet.
    Seed,
    /// There is a ticket; there may be a key.
    Key {
        /// What was found.
        seed: KeptSeed,
        /// The key that another has to take the place of.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        not: Option<Fingerprint>,
        /// What was shown before.
        #[serde(default, skip_serializing_if = "Shown::is_empty")]
        shown: Shown,
    },
    /// There is a key; the coordinator may know it.
    Enrol {
        /// What was found.
        seed: KeptSeed,
        /// The key, and the machine it was made on.
        me: Me,
        /// What was shown before.
        #[serde(default, skip_serializing_if = "Shown::is_empty")]
        shown: Shown,
    },
    /// The coordinator knows this node.
    Configure {
        /// Who this is, and to whom.
        home: Home,
    },
    /// The whole configuration is on the disk.
    Gate {
        /// Who this is, and to whom.
        home: Home,
        /// The cluster's life the configuration belongs to.
        incarnation: Incarnation,
    },
    /// k3s may have been started.
    StartK3s {
        /// Who this is, and to whom.
        home: Home,
        /// The cluster's life the configuration belongs to.
        incarnation: Incarnation,
    },
    /// k3s has answered once, and starts with the system.
    Ready {
        /// Who this is, and to whom.
        home: Home,
        /// The cluster's life the configuration belongs to.
        incarnation: Incarnation,
    },
}

/// A node's key and the machine it was made on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Me {
    /// The key in `node.key`.
    pub key: Fingerprint,
    /// SMBIOS system uuid, where the machine has one: a copy of the disk in
    /// another machine sees another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
}

/// Who a node is and which coordinator said so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home {
    /// The node's key.
    pub me: Me,
    /// Where the coordinator may be reached.
    pub addresses: Vec<Address>,
    /// The coordinator's key.
    pub pin: Fingerprint,
    /// Cluster, name, role and generation.
    pub bound: EnrolAnswer,
    /// What was shown up to now.
    #[serde(default, skip_serializing_if = "Shown::is_empty")]
    pub shown: Shown,
}

/// A seed as it is kept: in its own text form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeptSeed(pub NodeSeed);

impl KeptSeed {
    fn ticket(&self) -> Option<TicketKey> {
        self.0.claim.ticket().map(Ticket::public_key)
    }
}

impl TryFrom<String> for KeptSeed {
    type Error = kiln_protocol::seed::SeedError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        NodeSeed::parse(text.as_bytes()).map(Self)
    }
}

impl From<KeptSeed> for String {
    fn from(seed: KeptSeed) -> Self {
        seed.0.to_text().to_string()
    }
}

/// What moves a node on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A seed was found and its settings applied.
    SeedFound(NodeSeed),
    /// The key is on the disk.
    KeyMade(Me),
    /// The coordinator knows the key as another node's.
    KeyTaken,
    /// The coordinator has bound the key.
    Bound(EnrolAnswer),
    /// The whole configuration of this life is on the disk.
    Configured(Incarnation),
    /// The gate wants another configuration.
    Reconfigure,
    /// k3s may be started.
    Passed,
    /// k3s has certainly not run, and may not be started as things are.
    NotStarted,
    /// k3s answers and its unit is enabled.
    K3sReady,
    /// The coordinator takes this key for the node's from now on.
    KeyReplaced(Fingerprint),
}

/// An event that means nothing in a state: a defect of the driver.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} in the state {step}")]
pub struct Unexpected {
    step: Step,
    event: Box<Event>,
}

impl State {
    /// The step a node in this state is at.
    pub fn step(&self) -> Step {
        match self {
            Self::Seed => Step::Seed,
            Self::Key { .. } => Step::Key,
            Self::Enrol { .. } => Step::Enrol,
            Self::Configure { .. } => Step::Configure,
            Self::Gate { .. } => Step::Gate,
            Self::StartK3s { .. } => Step::StartK3s,
            Self::Ready { .. } => Step::Ready,
        }
    }

    /// The state after an event.
    pub fn after(self, event: Event) -> Result<Self, Unexpected> {
        match (self, event) {
            (Self::Seed, Event::SeedFound(seed)) => {
                Ok(Self::Key { seed: KeptSeed(seed), not: None, shown: Shown::default() })
            }
            (Self::Key { seed, shown, .. }, Event::KeyMade(me)) => Ok(Self::Enrol { seed, me, shown }),
            (Self::Enrol { seed: before, me, mut shown }, Event::SeedFound(seed)) => {
                shown.note(before.ticket(), me.key);
                Ok(Self::Enrol { seed: KeptSeed(seed), me, shown })
            }
            (Self::Enrol { seed, me, shown }, Event::KeyTaken) => {
                Ok(Self::Key { seed, not: Some(me.key), shown })
            }
            (Self::Enrol { seed, me, mut shown }, Event::Bound(bound)) => {
                let (addresses, pin) = (seed.0.claim.addresses().to_vec(), seed.0.claim.pin());
                shown.note(seed.ticket(), me.key);
                Ok(Self::Configure { home: Home { me, addresses, pin, bound, shown } })
            }
            (Self::Configure { home } | Self::Gate { home, .. }, Event::SeedFound(seed)) => {
                let Home { me, mut shown, .. } = home;
                // It was bound, with whatever that was.
                shown.note(None, me.key);
                Ok(Self::Enrol { seed: KeptSeed(seed), me, shown })
            }
            (Self::Configure { home }, Event::Configured(incarnation)) => {
                Ok(Self::Gate { home, incarnation })
            }
            (Self::Gate { home, .. }, Event::Reconfigure) => Ok(Self::Configure { home }),
            (Self::Gate { home, incarnation }, Event::Passed) => Ok(Self::StartK3s { home, incarnation }),
            (Self::StartK3s { home, incarnation }, Event::NotStarted) => Ok(Self::Gate { home, incarnation }),
            (Self::StartK3s { home, incarnation }, Event::K3sReady) => Ok(Self::Ready { home, incarnation }),
            (mut state, Event::KeyReplaced(key)) if state.home().is_some() => {
                if let Some(home) = state.home_mut() {
                    home.me.key = key;
                }
                Ok(state)
            }
            (state, event) => Err(Unexpected { step: state.step(), event: Box::new(event) }),
        }
    }

    /// The key and its machine, once there are any.
    pub fn me(&self) -> Option<&Me> {
        match self {
            Self::Seed | Self::Key { .. } => None,
            Self::Enrol { me, .. } => Some(me),
            _ => self.home().map(|home| &home.me),
        }
    }

    fn home_mut(&mut self) -> Option<&mut Home> {
        match self {
            Self::Seed | Self::Key { .. } | Self::Enrol { .. } => None,
            Self::Configure { home }
            | Self::Gate { home, .. }
            | Self::StartK3s { home, .. }
            | Self::Ready { home, .. } => Some(home),
        }
    }

    /// Who the node is, once it is bound.
    pub fn home(&self) -> Option<&Home> {
        match self {
            Self::Seed | Self::Key { .. } | Self::Enrol { .. } => None,
            Self::Configure { home }
            | Self::Gate { home, .. }
            | Self::StartK3s { home, .. }
            | Self::Ready { home, .. } => Some(home),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_protocol::ticket::TicketSeed;
    use proptest::prelude::*;

    pub(crate) fn seed() -> NodeSeed {
        let address = "10.0.2.2:7443".parse().unwrap();
        let pin = Fingerprint::of_spki(b"coordinator");
        NodeSeed::new(Ticket::new(vec![address], pin, TicketSeed::generate()).unwrap())
    }

    fn me() -> Me {
        Me { key: Fingerprint::of_spki(b"node"), machine: Some("uuid".into()) }
    }

    fn bound() -> EnrolAnswer {
        EnrolAnswer {
            cluster: "home".parse().unwrap(),
            node: "k3s-s1".parse().unwrap(),
            role: kiln_protocol::Role::Server,
            generation: 1,
            recovery: None,
        }
    }

    fn happy_path() -> Vec<Event> {
        vec![
            Event::SeedFound(seed()),
            Event::KeyMade(me()),
            Event::Bound(bound()),
            Event::Configured(Incarnation(1)),
            Event::Passed,
            Event::K3sReady,
        ]
    }

    #[test]
    fn the_happy_path_goes_through_every_step_and_survives_its_file() {
        let mut state = State::Seed;
        let mut steps = vec![state.step()];
        for event in happy_path() {
            state = state.after(event).unwrap();
            steps.push(state.step());
            let text = serde_json::to_string(&state).unwrap();
            assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
        }
        assert_eq!(steps, Step::ALL);
    }

    #[test]
    fn the_ticket_is_forgotten_once_it_is_bound() {
        let mut state = State::Seed;
        for event in happy_path().into_iter().take(3) {
            state = state.after(event).unwrap();
        }
        assert!(!serde_json::to_string(&state).unwrap().contains("kiln1."));
    }

    #[test]
    fn another_ticket_leads_back_to_enrolment_as_long_as_k3s_never_started() {
        let mut state = State::Seed;
        for event in happy_path() {
            let next = state.clone().after(Event::SeedFound(seed()));
            assert_eq!(next.is_ok(), !matches!(state.step(), Step::Key | Step::StartK3s), "{state:?}");
            state = state.after(event).unwrap();
        }
        assert!(state.after(Event::SeedFound(seed())).is_err(), "a node that is ready");
    }

    #[test]
    fn only_from_where_k3s_was_about_to_start_it_is_known_not_to_have() {
        let mut state = State::Seed;
        for event in happy_path() {
            let next = state.clone().after(Event::NotStarted);
            assert_eq!(next.is_ok(), state.step() == Step::StartK3s, "{state:?}");
            assert!(next.is_err() || next.unwrap().step() == Step::Gate);
            state = state.after(event).unwrap();
        }
        assert!(state.after(Event::NotStarted).is_err(), "a node that is ready");
    }

    #[test]
    fn the_state_of_an_older_agent_is_read() {
        let key = Fingerprint::of_spki(b"node");
        let old = format!(
            r#"{{"step":"configure","home":{{"me":{{"key":"{key}"}},"addresses":["10.0.2.2:7443"],"pin":"{key}",
            "bound":{{"cluster":"home","node":"a","role":"agent","generation":1}}}}}}"#
        );
        let state: State = serde_json::from_str(&old).unwrap();
        let State::Enrol { shown, .. } = state.after(Event::SeedFound(seed())).unwrap() else { panic!() };
        assert!(shown.with_another(&TicketSeed::generate().public_key(), &key), "it was bound");
    }

    proptest! {
        /// Whatever happens in whatever order: k3s is started only after a
        /// configuration and the gate, and nothing leads back from there but the
        /// knowledge that it has not run.
        #[test]
        fn no_order_of_events_starts_k3s_early_or_goes_back(order in proptest::collection::vec(0..8usize, 0..40)) {
            let (mut state, mut configured, mut started) = (State::Seed, false, false);
            for index in order {
                let mut events = happy_path();
                events.extend([Event::Reconfigure, Event::KeyTaken]);
                let event = events.swap_remove(index);
                let Ok(next) = state.clone().after(event.clone()) else { continue };
                match event {
                    Event::Configured(_) => configured = true,
                    Event::Reconfigure | Event::SeedFound(_) => configured = false,
                    Event::Passed => prop_assert!(configured),
                    _ => {}
                }
                prop_assert!(!started || next.step() >= Step::StartK3s);
                started |= next.step() == Step::StartK3s;
                state = next;
            }
        }
    }
}

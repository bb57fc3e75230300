//! How far a node is on its way into its cluster. Pure data: what is done in
//! each state, and how often, is the driver's business.
//!
//! ```text
//!  Seed --SeedFound--> Key --KeyMade--> Enrol --Bound--> Configure --Configured--> Gate
//!                                        ^  |              ^                       | |
//!                                        +--+              +------Reconfigure------+ | Passed
//!                                     SeedFound                                      v
//!                                 (another ticket)        Ready <--K3sReady-- StartK3s
//! ```
//!
//! * The state is on the disk before anything is done in it, so that a power
//!   cut resumes where it was. What may happen more than once (asking to be
//!   enrolled, writing configuration, asking at the gate) is repeated then.
//! * `Key`: the key is made once; a key file that is already there is kept.
//! * `Enrol`: until the key is bound a newer seed replaces an older one, so
//!   that a wrong or expired ticket is cured by giving the machine another.
//! * From `Enrol` to `Configure` the ticket is forgotten: it is of no use to
//!   anybody any more, only the coordinator's addresses and pin are.
//! * In any state of a bound node its key may be replaced; the state stays.
//! * No arrow leaves `StartK3s` backwards. k3s may have started, and it picks
//!   its datastore at its first start: the configuration is never touched again.

use kiln_protocol::Fingerprint;
use kiln_protocol::api::{EnrolAnswer, Step};
use kiln_protocol::config::Incarnation;
use kiln_protocol::seed::NodeSeed;
use kiln_protocol::ticket::Address;
use serde::{Deserialize, Serialize};

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
    },
    /// There is a key; the coordinator may know it.
    Enrol {
        /// What was found.
        seed: KeptSeed,
        /// The key, and the machine it was made on.
        me: Me,
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
}

/// A seed as it is kept: in its own text form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeptSeed(pub NodeSeed);

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
    /// The coordinator has bound the key.
    Bound(EnrolAnswer),
    /// The whole configuration of this life is on the disk.
    Configured(Incarnation),
    /// The gate wants another configuration.
    Reconfigure,
    /// k3s may be started.
    Passed,
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
            (Self::Seed, Event::SeedFound(seed)) => Ok(Self::Key { seed: KeptSeed(seed) }),
            (Self::Key { seed }, Event::KeyMade(me)) => Ok(Self::Enrol { seed, me }),
            (Self::Enrol { me, .. }, Event::SeedFound(seed)) => Ok(Self::Enrol { seed: KeptSeed(seed), me }),
            (Self::Enrol { seed, me }, Event::Bound(bound)) => {
                let (addresses, pin) = (seed.0.claim.addresses().to_vec(), seed.0.claim.pin());
                Ok(Self::Configure { home: Home { me, addresses, pin, bound } })
            }
            (Self::Configure { home }, Event::Configured(incarnation)) => {
                Ok(Self::Gate { home, incarnation })
            }
            (Self::Gate { home, .. }, Event::Reconfigure) => Ok(Self::Configure { home }),
            (Self::Gate { home, incarnation }, Event::Passed) => Ok(Self::StartK3s { home, incarnation }),
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
    use kiln_protocol::ticket::{Ticket, TicketSeed};
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

    proptest! {
        /// Whatever happens in whatever order: k3s is started only after a
        /// configuration and the gate, and nothing leads back from there.
        #[test]
        fn no_order_of_events_starts_k3s_early_or_goes_back(order in proptest::collection::vec(0..7usize, 0..40)) {
            let (mut state, mut configured, mut started) = (State::Seed, false, false);
            for index in order {
                let mut events = happy_path();
                events.push(Event::Reconfigure);
                let event = events.swap_remove(index);
                let Ok(next) = state.clone().after(event.clone()) else { continue };
                match event {
                    Event::Configured(_) => configured = true,
                    Event::Reconfigure => configured = false,
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

//! What agent and coordinator say to each other.
//!
//! Everything that crosses the wire, or travels in a ticket or a seed, is a
//! type of this crate and is checked when it is decoded: whoever holds a
//! [`NodeName`] or a [`Ticket`] holds a valid one. There is no IO here.
//!
//! | module | what it holds |
//! |---|---|
//! | [`names`] | node and cluster names, roles, users, ssh keys, MAC addresses |
//! | [`secret`] | text that must not be printed or left in memory |
//! | [`identity`] | P-256 keys, their self-signed envelopes and fingerprints |
//! | [`tls`] | the verifiers that compare keys and nothing else |
//! | [`ticket`] | the ticket, its text form and its proof |
//! | [`ratchet`] | the clone ratchet, and the stamp of a coordinator's state |
//! | [`rotation`] | replacing a node's key |
//! | [`recovery`] | the key that alone changes the coordinator's pin |
//! | [`seed`] | the document a node finds at first boot |
//! | [`console`] | the line by which a machine's console names its key |
//! | [`api`] | requests and answers |
//! | [`chores`] | what a ready server does for the coordinator inside its cluster |
//! | [`config`] | what a node is told to become |
//! | [`admin`] | what operators ask and what they see |
//! | [`install`] | what `agent install` is given |
//! | [`error`] | the one error type of the API |

pub mod admin;
pub mod api;
pub mod chores;
pub mod config;
pub mod console;
pub mod error;
pub mod identity;
pub mod install;
pub mod names;
pub mod ratchet;
pub mod recovery;
pub mod rotation;
pub mod secret;
pub mod seed;
pub mod ticket;
pub mod tls;

pub use error::{ApiError, ErrorClass};
pub use identity::{Fingerprint, Identity};
pub use names::{ClusterName, NodeName, Role};
pub use secret::Secret;
pub use ticket::{Ticket, TicketKey};

//! What the end-to-end tests share: a [`lab()`] that has install media, a k3s
//! and the programs under test, and helpers to run them with a deadline and to
//! see that they left nothing behind.
//!
//! Everything expensive is made once and kept under `.cache/`, by the digest of
//! what went into it; a test may be run alone and finds or makes what it needs.
//! [`crash`] and [`secrets`] are for the programs' own tests.

pub mod chaos;
pub mod cluster;
pub mod crash;
pub mod lab;
pub mod leftovers;
pub mod mirror;
pub mod process;
pub mod secrets;

pub use cluster::Cluster;
pub use lab::{Lab, lab};
pub use process::{Outcome, run};

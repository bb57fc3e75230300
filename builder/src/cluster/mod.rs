//! Bringing a cluster up and down.

pub(crate) mod files;
pub mod journal;
pub mod lock;
pub mod paths;
pub mod plan;
pub mod screen;
pub mod target;
pub mod verify;
pub mod view;

#[cfg(test)]
pub(crate) mod faults;

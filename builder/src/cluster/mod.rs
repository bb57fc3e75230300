//! Bringing a cluster up and down.
//!
//! | module | what it holds |
//! |---|---|
//! | [`up`], [`down`], [`status`], [`reboot`] | the commands |
//! | [`smoke`] | throw-away clones of an image |
//! | `bring_up` | from a cluster file to a cluster that works |
//! | `converge` | makes what is missing of the nodes |
//! | [`plan`] | what has to be done for a node; pure |
//! | `watch` | waits until all are ready, or cannot become so |
//! | [`verify`] | asks k3s itself |
//! | [`target`] | cluster file and image, checked before anything is touched |
//! | [`journal`] | what runs did and were about to do |
//! | [`paths`], [`lock`], `files`, `context` | a cluster's state on this machine |
//! | [`view`], [`screen`], `board`, [`summary`] | what is shown |

mod board;
mod bring_up;
mod context;
mod converge;
pub mod down;
pub(crate) mod files;
pub mod journal;
pub mod lock;
pub mod paths;
pub mod plan;
pub mod reboot;
pub mod screen;
pub mod smoke;
pub mod status;
pub mod summary;
pub mod target;
pub mod up;
pub mod verify;
pub mod view;
mod watch;

#[cfg(test)]
pub(crate) mod faults;

//! The coordinator over its real listener: TLS, HTTP, store and rules, all in
//! one process with the tests.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is how a test fails")]

mod authority;
mod cluster;
mod common;
mod enrol;
mod gate;
mod hostile;
mod local;
mod opening;
mod pin;
mod push;
mod ratchet;
mod rest;
mod rotate;
mod state;
mod tokens;
mod transport;
mod vouch;

//! Inputs end to end: the built `builder` against a mirror on the loopback
//! interface. `bake --fetch` gets and checks every input and starts no
//! machine.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is how a test fails")]

mod cache;
mod downloads;
mod explain;
mod full_disk;
mod lock_file;
mod policy;
mod preflight;
mod world;

//! Machines to install on and to run: what they are made of ([`qemu`]).
//!
//! A Proxmox machine will stand beside it.

pub mod qemu;

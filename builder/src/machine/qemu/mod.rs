//! QEMU, and nothing that knows what it is used for.
//!
//! | module | what it does |
//! |---|---|
//! | [`command`] | the command line, from typed parts; pure |
//! | [`parts`] | what a machine is made of |
//! | [`firmware`] | SeaBIOS and OVMF, wherever the distribution keeps it |
//! | [`tpm`] | a machine's TPM: `swtpm` |
//! | [`vm`] | one running QEMU: start, watch, stop, find again |
//! | [`qmp`] | the monitor: commands with a deadline, events |
//! | [`accel`] | whether KVM works here, proved by a guest |
//! | [`img`] | disk images: `qemu-img` |

pub mod accel;
pub mod command;
pub mod firmware;
pub mod img;
pub mod parts;
pub mod qmp;
pub mod tpm;
pub mod vm;

pub use accel::AccelChoice;
pub use command::Command;
pub use firmware::{Firmware, OvmfFiles};
pub use parts::{Accel, Disk, Format, Forward, Kernel, Net, OnReset, PortEnd};
pub use qmp::Qmp;
pub use vm::{Lifetime, Vm, VmExit};

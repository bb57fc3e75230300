//! What a machine is made of.

use std::net::{SocketAddr, SocketAddrV4};
use std::path::PathBuf;

use kiln_protocol::names::MacAddr;

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// The host's processor.
    Kvm,
    /// QEMU's own translator: slow, works everywhere.
    Tcg,
}

impl Accel {
    /// `kvm` or `tcg`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// Format of a disk image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// QEMU's own, sparse, with backing files.
    Qcow2,
    /// Bytes as they are.
    Raw,
}

/// A disk on the VM's virtio-scsi controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The image.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// Found in the guest as `/dev/disk/by-id/…_<serial>`.
    pub serial: String,
    /// A crash of the host may lose it: writes need not reach the disk. For
    /// disks whose VM is thrown away when it fails.
    pub throwaway: bool,
}

impl Disk {
    /// A qcow2 disk whose writes reach the host's disk when the guest flushes.
    pub fn qcow2(path: impl Into<PathBuf>, serial: &str) -> Self {
        Self { path: path.into(), format: Format::Qcow2, serial: serial.to_owned(), throwaway: false }
    }

    /// Writes need not survive a crash of the host.
    #[must_use]
    pub fn throwaway(mut self) -> Self {
        self.throwaway = true;
        self
    }
}

/// Where a virtio-serial port ends on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortEnd {
    /// What the guest writes is written to this file.
    File(PathBuf),
    /// A Unix socket QEMU listens on; a relative path is in the VM's directory.
    Socket(PathBuf),
}

/// A virtio-serial port: `/dev/virtio-ports/<name>` in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The port's name.
    pub name: String,
    /// Its other end.
    pub end: PortEnd,
}

/// One TCP port of the host that leads into the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// Where the host listens.
    pub host: SocketAddr,
    /// The guest's port.
    pub guest: u16,
}

/// What a network card is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Net {
    /// QEMU's own NAT with DHCP: the host's loopback is 10.0.2.2.
    User {
        /// Ports of the host that lead into the guest.
        forwards: Vec<Forward>,
        /// Whether the guest is kept from everything but the forwards.
        restrict: bool,
    },
    /// A segment shared by all VMs of one multicast group, bound to loopback.
    Segment {
        /// Group and port.
        group: SocketAddrV4,
    },
}

/// A virtio network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// What it is connected to.
    pub net: Net,
    /// Its address; QEMU chooses one otherwise, the same for every VM.
    pub mac: Option<MacAddr>,
}

/// A kernel that is started directly, without a boot loader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// The kernel's image.
    pub kernel: PathBuf,
    /// The first root filesystem.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub append: String,
}

/// What a guest's reset does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnReset {
    /// The machine starts again.
    Restart,
    /// QEMU exits: an installer must power off, not reset.
    Exit,
}

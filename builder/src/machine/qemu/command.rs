//! The command line of one QEMU, built from typed parts. Pure: nothing is
//! looked up, made or started here.
//!
//! No part can carry a secret: secrets go to the guest in SMBIOS strings read
//! from files ([`Command::oem_string_file`]), so the command line may be shown
//! in errors and process lists.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use kiln_protocol::names::MacAddr;

use super::firmware::Firmware;
use super::parts::{Accel, Disk, Format, Forward, Kernel, Net, Nic, OnReset, Port, PortEnd};
use super::tpm;

/// The program for the architecture Kiln knows.
pub const PROGRAM: &str = "qemu-system-x86_64";
/// The monitor's socket, in the directory the VM runs in.
pub const QMP_SOCKET: &str = "qmp.sock";

/// The command line of one QEMU.
#[derive(Debug, Clone)]
pub struct Command {
    name: String,
    accel: Accel,
    cpus: NonZeroU32,
    memory_mib: u32,
    firmware: Firmware,
    on_reset: OnReset,
    disks: Vec<Disk>,
    cdroms: Vec<PathBuf>,
    ports: Vec<Port>,
    serial: Option<PathBuf>,
    nics: Vec<Nic>,
    kernel: Option<Kernel>,
    oem_strings: Vec<PathBuf>,
    screen: bool,
}

impl Command {
    /// A q35 machine called `name` with two processors and 2 GiB of memory,
    /// started by SeaBIOS, with a random number generator, a panic notifier
    /// and a monitor, and nothing else.
    pub fn new(name: &str, accel: Accel) -> Self {
        Self {
            name: name.to_owned(),
            accel,
            cpus: NonZeroU32::new(2).unwrap_or(NonZeroU32::MIN),
            memory_mib: 2048,
            firmware: Firmware::SeaBios,
            on_reset: OnReset::Restart,
            disks: Vec::new(),
            cdroms: Vec::new(),
            ports: Vec::new(),
            serial: None,
            nics: Vec::new(),
            kernel: None,
            oem_strings: Vec::new(),
            screen: false,
        }
    }

    /// Sets the number of processors.
    #[must_use]
    pub fn cpus(mut self, cpus: NonZeroU32) -> Self {
        self.cpus = cpus;
        self
    }

    /// Sets the memory, in MiB.
    #[must_use]
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Sets what starts the machine.
    #[must_use]
    pub fn firmware(mut self, firmware: Firmware) -> Self {
        self.firmware = firmware;
        self
    }

    /// Sets what a guest's reset does.
    #[must_use]
    pub fn on_reset(mut self, on_reset: OnReset) -> Self {
        self.on_reset = on_reset;
        self
    }

    /// Adds a disk; the first one is booted from.
    #[must_use]
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disks.push(disk);
        self
    }

    /// Adds a CD, read-only.
    #[must_use]
    pub fn cdrom(mut self, image: impl Into<PathBuf>) -> Self {
        self.cdroms.push(image.into());
        self
    }

    /// Adds a virtio-serial port.
    #[must_use]
    pub fn port(mut self, name: &str, end: PortEnd) -> Self {
        self.ports.push(Port { name: name.to_owned(), end });
        self
    }

    /// Writes what the guest says on ttyS0 to a file.
    #[must_use]
    pub fn serial_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.serial = Some(path.into());
        self
    }

    /// Adds a network card; the guest finds them in this order.
    #[must_use]
    pub fn nic(mut self, net: Net, mac: Option<MacAddr>) -> Self {
        self.nics.push(Nic { net, mac });
        self
    }

    /// Starts a kernel directly.
    #[must_use]
    pub fn kernel(mut self, kernel: Kernel) -> Self {
        self.kernel = Some(kernel);
        self
    }

    /// Gives the guest an SMBIOS type 11 string (a systemd credential, say)
    /// read from a file, whose content never stands on the command line. The
    /// file should have mode 0600 and no newline at its end.
    #[must_use]
    pub fn oem_string_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.oem_strings.push(path.into());
        self
    }

    /// Adds a screen nobody looks at, for screenshots.
    #[must_use]
    pub fn screen(mut self) -> Self {
        self.screen = true;
        self
    }

    /// The machine's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What runs the guest's instructions.
    pub fn accelerator(&self) -> Accel {
        self.accel
    }

    /// Whether it is started by Secure Boot; it has a TPM then.
    pub fn is_secure(&self) -> bool {
        matches!(self.firmware, Firmware::SecureBoot { .. })
    }

    /// The arguments, program excluded. Relative paths are in the directory
    /// the VM runs in.
    pub fn argv(&self) -> Vec<OsString> {
        let mut args = Args::default();
        args.pair("-name", opt(&self.name));
        args.pair("-machine", if self.is_secure() { "q35,smm=on" } else { "q35" });
        match self.accel {
            Accel::Kvm => args.pair("-accel", "kvm").pair("-cpu", "host"),
            Accel::Tcg => args.pair("-accel", "tcg,thread=multi").pair("-cpu", "max"),
        };
        args.pair("-smp", self.cpus.to_string());
        args.pair("-m", self.memory_mib.to_string());
        args.flag("-nodefaults").flag("-no-user-config").pair("-display", "none");
        if self.on_reset == OnReset::Exit {
            args.flag("-no-reboot");
        }
        if self.screen {
            args.pair("-vga", "std");
        }
        args.pair("-qmp", format!("unix:{QMP_SOCKET},server=on,wait=off"));
        self.firmware_args(&mut args);
        args.pair("-device", "virtio-rng-pci").pair("-device", "pvpanic");
        self.storage_args(&mut args);
        self.port_args(&mut args);
        self.nic_args(&mut args);
        if let Some(kernel) = &self.kernel {
            args.pair("-kernel", &kernel.kernel);
            if let Some(initrd) = &kernel.initrd {
                args.pair("-initrd", initrd);
            }
            args.pair("-append", &kernel.append);
        }
        for path in &self.oem_strings {
            args.pair("-smbios", join("type=11,path=", opt(path)));
        }
        args.0
    }

    fn firmware_args(&self, args: &mut Args) {
        let (Firmware::Ovmf { code, vars } | Firmware::SecureBoot { code, vars }) = &self.firmware else {
            return;
        };
        if self.is_secure() {
            // Without it the guest could write the keys like any other memory.
            args.pair("-global", "driver=cfi.pflash01,property=secure,value=on");
            args.pair("-chardev", format!("socket,id=tpm0,path={}", tpm::SOCKET));
            args.pair("-tpmdev", "emulator,id=tpm0,chardev=tpm0");
            args.pair("-device", "tpm-tis,tpmdev=tpm0");
        }
        let code = join("if=pflash,unit=0,format=raw,readonly=on,file=", opt(code));
        args.pair("-drive", code);
        args.pair("-drive", join("if=pflash,unit=1,format=raw,file=", opt(vars)));
    }

    fn storage_args(&self, args: &mut Args) {
        if self.disks.is_empty() && self.cdroms.is_empty() {
            return;
        }
        args.pair("-device", "virtio-scsi-pci,id=scsi0");
        for (i, disk) in self.disks.iter().enumerate() {
            let format = if disk.format == Format::Qcow2 { "qcow2" } else { "raw" };
            let cache = if disk.throwaway { "unsafe" } else { "writeback" };
            let options = format!(
                "if=none,id=disk{i},format={format},cache={cache},discard=unmap,detect-zeroes=unmap,file="
            );
            args.pair("-drive", join(&options, opt(&disk.path)));
            // A full disk of the host stops the machine and is reported as an
            // event; the guest never sees an error it might paper over.
            let options = format!(
                "scsi-hd,bus=scsi0.0,drive=disk{i},bootindex={},rotation_rate=1,werror=stop,rerror=stop,serial=",
                i + 1
            );
            args.pair("-device", join(&options, opt(&disk.serial)));
        }
        for (i, image) in self.cdroms.iter().enumerate() {
            let options = format!("if=none,id=cd{i},media=cdrom,format=raw,readonly=on,file=");
            args.pair("-drive", join(&options, opt(image)));
            args.pair("-device", format!("scsi-cd,bus=scsi0.0,drive=cd{i}"));
        }
    }

    fn port_args(&self, args: &mut Args) {
        match &self.serial {
            Some(path) => {
                args.pair("-chardev", join("file,id=serial0,path=", opt(path)));
                args.pair("-serial", "chardev:serial0");
            }
            None => {
                args.pair("-serial", "none");
            }
        }
        if !self.ports.is_empty() {
            args.pair("-device", "virtio-serial-pci,id=ports");
        }
        for (i, port) in self.ports.iter().enumerate() {
            let end = match &port.end {
                PortEnd::File(path) => join(&format!("file,id=port{i},path="), opt(path)),
                PortEnd::Socket(path) => {
                    join(&format!("socket,id=port{i},server=on,wait=off,path="), opt(path))
                }
            };
            args.pair("-chardev", end);
            let device = format!("virtserialport,bus=ports.0,chardev=port{i},name=");
            args.pair("-device", join(&device, opt(&port.name)));
        }
    }

    fn nic_args(&self, args: &mut Args) {
        if self.nics.is_empty() {
            args.pair("-nic", "none");
        }
        for (i, nic) in self.nics.iter().enumerate() {
            let net = match &nic.net {
                Net::User { forwards, restrict } => {
                    let mut net = format!("user,id=net{i}");
                    if *restrict {
                        net.push_str(",restrict=on");
                    }
                    for Forward { host, guest } in forwards {
                        let _ = write!(net, ",hostfwd=tcp:{host}-:{guest}");
                    }
                    net
                }
                Net::Segment { group } => {
                    format!("socket,id=net{i},mcast={group},localaddr=127.0.0.1")
                }
            };
            args.pair("-netdev", net);
            // No option ROM: nothing is booted from the network.
            let mut device = format!("virtio-net-pci,netdev=net{i},romfile=");
            if let Some(mac) = &nic.mac {
                let _ = write!(device, ",mac={mac}");
            }
            args.pair("-device", device);
        }
    }

    /// The whole command as one line a shell takes, started in `dir`.
    pub fn to_shell(&self, dir: &Path) -> String {
        let mut line = format!("cd {} && {PROGRAM}", shell_word(dir.as_os_str()));
        for word in self.argv() {
            line.push(' ');
            line.push_str(&shell_word(&word));
        }
        line
    }
}

#[derive(Default)]
struct Args(Vec<OsString>);

impl Args {
    fn flag(&mut self, flag: &str) -> &mut Self {
        self.0.push(flag.into());
        self
    }

    fn pair(&mut self, option: &str, value: impl AsRef<OsStr>) -> &mut Self {
        self.0.push(option.into());
        self.0.push(value.as_ref().to_owned());
        self
    }
}

/// A value inside a comma separated option: QEMU wants its commas doubled.
fn opt(value: impl AsRef<OsStr>) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let bytes = value.as_ref().as_bytes();
    let mut doubled = Vec::with_capacity(bytes.len());
    for byte in bytes {
        doubled.push(*byte);
        if *byte == b',' {
            doubled.push(b',');
        }
    }
    OsString::from_vec(doubled)
}

fn join(front: &str, back: OsString) -> OsString {
    let mut joined = OsString::from(front);
    joined.push(back);
    joined
}

/// Quotes a word for a POSIX shell, where it needs it.
pub fn shell_word(word: &OsStr) -> String {
    let text = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-+=./:,@%^".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;

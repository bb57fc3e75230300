//! Firmware, kernel, dracut, systemd; and QEMU itself.

use super::super::patterns::Pattern;
use super::{BOTH, CONSOLE, QEMU_ITSELF};

/// A kernel's end.
pub(in crate::diagnose) const PANICS: &[Pattern] = known! {
    BOTH Ends Oom: "Kernel panic - not syncing:" .. "deadlocked on memory" <- "linux mm/oom_kill.c";
    BOTH Ends Oom: "Kernel panic - not syncing:" .. "ut of memory" <- "linux mm/oom_kill.c, panic_on_oom";
    BOTH Ends FirmwareBoot: "Kernel panic - not syncing:" .. "Unable to mount root fs" <- "libreswan#562, ipxe#1454: no usable initrd";
    BOTH Ends FirmwareBoot: "Kernel panic - not syncing:" .. "No working init found" <- "linux init/main.c";
    BOTH Opens Panic: "Kernel panic - not syncing" <- "linux kernel/panic.c";
};

pub(in crate::diagnose) const TABLE: &[Pattern] = known! {
    // Kernel.
    BOTH Ends Oom: "Out of memory: Kill" <- "linux mm/oom_kill.c; lorax monitor.py";
    BOTH Cause Oom: "invoked oom-killer:" <- "linux mm/oom_kill.c";
    BOTH Cause Oom: "Cannot allocate memory" <- "kickstart-tests#1151, #1186: strerror(ENOMEM)";
    CONSOLE Cause Oom: "Initramfs unpacking failed: write error" <- "pve-iso-2-pxe#46: no room for the initrd";
    BOTH Cause Panic: "BUG: unable to handle" <- "linux arch/x86/mm/fault.c";
    BOTH Cause Panic: "general protection fault" <- "linux arch/x86/kernel/traps.c";
    BOTH Note Panic: "watchdog: BUG: soft lockup" <- "kickstart-tests#908: slow hosts have them";
    BOTH Note Panic: "blocked for more than" .. "seconds" <- "linux kernel/hung_task.c";
    BOTH Note Panic: "rcu_sched self-detected stall" <- "linux kernel/rcu/tree_stall.h";
    BOTH Cause MediaCheck: "I/O error, dev sr" <- "omarchy-iso#125; linux block/blk-core.c";
    // Firmware and boot loaders.
    CONSOLE Ends FirmwareBoot: "No bootable option or device was found" <- "mkosi#2436; edk2 BdsEntry.c";
    CONSOLE Ends FirmwareBoot: "No bootable device." <- "SeaBIOS boot.c";
    CONSOLE Ends FirmwareBoot: "grub rescue>" <- "GRUB kern/rescue_reader.c";
    CONSOLE Ends FirmwareBoot: "UEFI Interactive Shell" <- "docker-in-termux#24: nothing else booted";
    CONSOLE Ends FirmwareBoot: "Security Violation" <- "shim: Secure Boot refused what it loads";
    CONSOLE Ends FirmwareBoot: "bad shim signature" <- "GRUB loader/efi/linux.c";
    CONSOLE Cause FirmwareBoot: "BdsDxe: failed to" <- "edk2 BdsDxe: often just the first of several tries";
    // Medium.
    CONSOLE Ends MediaCheck: "It is not recommended to use this media" <- "qubes-issues#1069; isomd5sum checkisomd5.c";
    CONSOLE Ends MediaCheck: "System will halt in 12 hours" <- "anaconda#5292: it sleeps that long";
    CONSOLE Ends MediaCheck: "he media check" .. "FAIL" <- "isomd5sum checkisomd5.c";
    CONSOLE Ends MediaCheck: "FATAL:" .. "check failed" <- "MediaWriter#29; anaconda-diskroot, dracut dmsquash-live-root.sh";
    // dracut: the lines that tell, then the end.
    CONSOLE Cause DracutStage2: "dracut" .. "[ -e \"/dev/" <- "Kubeinit#695: the device dracut still waits for";
    CONSOLE Cause DracutStage2: "no suitable images" <- "anaconda dracut/anaconda-lib.sh: the volume is there, install.img is not";
    CONSOLE Cause DracutStage2: "Couldn't mount /dev/" <- "anaconda dracut/anaconda-diskroot";
    CONSOLE Cause DracutStage2: "dracut" .. "/dev/" .. "does not exist" <- "cobbler#1661, OpenMandriva#1218";
    CONSOLE Cause Oom: "Failed writing body" <- "curl, where stage 2 does not fit into memory";
    CONSOLE Opens DracutStage2: "Can't get kickstart from" <- "anaconda dracut/kickstart-lib.sh";
    CONSOLE Note DracutStage2: "starting timeout scripts" <- "dracut dracut-initqueue.sh: slow disks do this too";
    CONSOLE Opens DracutStage2: "Anaconda installer errors begin" <- "oracle-linux#151, dracut#2047";
    CONSOLE Opens DracutStage2: "Warning: Could not boot." <- "cobbler#1661; dracut dracut-emergency.sh";
    CONSOLE Opens DracutStage2: "Refusing to continue" <- "MediaWriter#29; dracut die()";
    CONSOLE Opens DracutStage2: "rdsosreport.txt" <- "dracut rdsosreport.sh";
    CONSOLE Opens DracutStage2: "Entering emergency mode. Exit the shell to continue." <- "dracut dracut-emergency.sh";
    CONSOLE Opens DracutStage2: "Dracut Emergency Shell" <- "dracut dracut-emergency.service";
    // systemd.
    CONSOLE Opens FirmwareBoot: "You are in emergency mode" <- "systemd emergency.service";
    CONSOLE Opens FirmwareBoot: "Cannot open access to console, the root account is locked" <- "util-linux sulogin";
    CONSOLE Prompt FirmwareBoot: "Give root password for maintenance" <- "util-linux sulogin";
    CONSOLE Prompt FirmwareBoot: "Press Enter for maintenance" <- "util-linux sulogin";
};

/// QEMU's own complaints.
pub(in crate::diagnose) const QEMU: &[Pattern] = known! {
    QEMU_ITSELF Ends HostDiskFull: "No space left on device" <- "qubinode-installer#26: strerror(ENOSPC)";
    QEMU_ITSELF Ends HostQemu: "Could not access KVM kernel module" <- "macOS-Simple-KVM#252";
    QEMU_ITSELF Ends HostQemu: "qemu" <- "QEMU error_report: the program's name comes first";
};

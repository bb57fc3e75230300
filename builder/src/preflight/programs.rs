//! Programs Kiln runs, their versions, and the firmware of machines.

use super::remedy::{Family, Package};
use super::{Finding, shown};
use crate::machine::qemu::vm::{find_program, qemu_program};
use crate::machine::qemu::{OvmfFiles, accel, img};

/// A program Kiln runs.
struct Program {
    name: &'static str,
    /// What it does, after the name and "which".
    purpose: &'static str,
    package: Package,
    /// Whether most of Kiln works without it.
    optional: bool,
}

const QEMU: &str = "qemu-system-x86_64";
const PROGRAMS: [Program; 6] = [
    Program {
        name: QEMU,
        purpose: "runs the machines",
        package: ["qemu-system-x86", "qemu-kvm", "qemu-system-x86", "qemu-x86"],
        optional: false,
    },
    Program {
        name: "qemu-img",
        purpose: "makes and packs disks",
        package: ["qemu-utils", "qemu-img", "qemu-img", "qemu-tools"],
        optional: false,
    },
    Program {
        name: "xorriso",
        purpose: "reads and writes ISO images",
        package: ["xorriso", "xorriso", "libisoburn", "xorriso"],
        optional: false,
    },
    Program {
        name: "setpriv",
        purpose: "ends machines with the builder, even one that is killed",
        package: ["util-linux", "util-linux", "util-linux", "util-linux"],
        optional: true,
    },
    Program {
        name: "swtpm",
        purpose: "is the TPM of machines with Secure Boot",
        package: ["swtpm", "swtpm", "swtpm", "swtpm"],
        optional: true,
    },
    Program {
        name: "ksvalidator",
        purpose: "checks a kickstart before anything is started",
        // Only Fedora and EL package it.
        package: [
            "pipx install pykickstart",
            "pykickstart",
            "pipx install pykickstart",
            "pipx install pykickstart",
        ],
        optional: true,
    },
];
const OVMF: Package = ["ovmf", "edk2-ovmf", "edk2-ovmf", "qemu-ovmf-x86_64"];
/// zstd clusters in qcow2 (QEMU's release notes).
const OLDEST_QEMU: (u32, u32) = (5, 1);
/// `screendump` writes PNG (QEMU's QMP reference: `format`, since 7.1).
const SCREENSHOT_QEMU: (u32, u32) = (7, 1);

/// All of them.
pub(super) async fn check(family: Family) -> Vec<Finding> {
    let mut findings: Vec<Finding> = PROGRAMS.iter().map(|program| look_for(program, family)).collect();
    if let Ok(text) = accel::version().await {
        findings.push(qemu_version(&text, family));
    }
    if let Ok(text) = img::version().await {
        findings.push(img_version(&text, family));
    }
    findings.push(firmware(family));
    findings
}

fn look_for(program: &Program, family: Family) -> Finding {
    let Program { name, purpose, package, optional } = *program;
    let path = if name == QEMU { qemu_program() } else { find_program(name) };
    match path {
        Some(path) => Finding::ok(name, shown(&path)),
        None if optional => {
            Finding::warning(name, format!("not installed; it {purpose}"), family.install(package))
        }
        None => Finding::missing(name, format!("not installed; it {purpose}"), family.install(package)),
    }
}

fn firmware(family: Family) -> Finding {
    match OvmfFiles::find() {
        Ok(files) => Finding::ok("uefi firmware", shown(&files.code)),
        Err(_) => Finding::missing(
            "uefi firmware",
            "no OVMF; images are installed on and tried with UEFI machines",
            family.install(OVMF),
        ),
    }
}

fn qemu_version(text: &str, family: Family) -> Finding {
    const NAME: &str = "qemu version";
    let update = family.install(PROGRAMS[0].package);
    match version(text) {
        Some(found) if found < OLDEST_QEMU => Finding::missing(
            NAME,
            format!("{text}; {}.{} is the oldest that works", OLDEST_QEMU.0, OLDEST_QEMU.1),
            update,
        ),
        Some(found) if found < SCREENSHOT_QEMU => Finding::warning(
            NAME,
            format!("{text}; before {}.{} there are no screenshots", SCREENSHOT_QEMU.0, SCREENSHOT_QEMU.1),
            update,
        ),
        _ => Finding::ok(NAME, text),
    }
}

fn img_version(text: &str, family: Family) -> Finding {
    const NAME: &str = "qemu-img version";
    match version(text) {
        Some(found) if found < OLDEST_QEMU => Finding::missing(
            NAME,
            format!("{text}; {}.{} is the oldest that packs with zstd", OLDEST_QEMU.0, OLDEST_QEMU.1),
            family.install(PROGRAMS[1].package),
        ),
        _ => Finding::ok(NAME, text),
    }
}

/// Major and minor number in a program's first line about itself.
fn version(text: &str) -> Option<(u32, u32)> {
    text.split([' ', '(', ')']).find_map(|word| {
        let (major, rest) = word.split_once('.')?;
        let minor = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn what_is_missing_comes_with_the_command_that_installs_it() {
        let absent = |optional| Program {
            name: "no-such-program",
            purpose: "does nothing",
            package: ["a", "b", "c", "d"],
            optional,
        };
        let finding = look_for(&absent(false), Family::Arch);
        assert_eq!((finding.status, finding.remedy.as_deref()), (Status::Missing, Some("pacman -S c")));
        assert_eq!(look_for(&absent(true), Family::Suse).status, Status::Warning);
    }

    #[test]
    fn versions_are_read_as_distributions_print_them() {
        for (text, found) in [
            ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)", Some((7, 2))),
            ("QEMU emulator version 9.1.0 (qemu-kvm-9.1.0-15.el9)", Some((9, 1))),
            ("qemu-img version 4.2.1", Some((4, 2))),
            ("QEMU", None),
        ] {
            assert_eq!(version(text), found, "{text}");
        }
        assert_eq!(qemu_version("version 4.2.1", Family::Debian).status, Status::Missing);
        assert_eq!(qemu_version("version 6.2.0", Family::Debian).status, Status::Warning);
        assert_eq!(qemu_version("version 10.0.3", Family::Debian).status, Status::Ok);
        assert_eq!(img_version("qemu-img version 5.0.0", Family::Debian).status, Status::Missing);
    }
}

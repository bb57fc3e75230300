//! The ways a bake fails.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A way a bake fails. The kebab-case names are stable: scripts read them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "`meaning` says it, for people too")]
pub enum Class {
    Input,
    FirmwareBoot,
    DracutStage2,
    KsParse,
    PreScript,
    Storage,
    PayloadRepo,
    Scriptlet,
    PostScript,
    NodeInstall,
    Inspect,
    Installer,
    Oom,
    Panic,
    MediaCheck,
    PromptWait,
    Stall,
    GuestReset,
    PoweredOffWithoutMark,
    HostQemu,
    HostDiskFull,
}

/// Name, meaning, next action.
type Row = (Class, &'static str, &'static str, &'static str);

impl Class {
    /// Every class, in the order of a bake.
    pub fn all() -> impl Iterator<Item = Self> {
        ROWS.iter().map(|row| row.0)
    }

    /// The name in JSON, such as `dracut-stage2`.
    pub const fn name(self) -> &'static str {
        self.row().1
    }

    /// What happened, in one sentence without a full stop.
    pub const fn meaning(self) -> &'static str {
        self.row().2
    }

    /// What a person does next.
    pub const fn next(self) -> &'static str {
        self.row().3
    }

    const fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }
}

/// One row a class, in the order of the enum.
const ROWS: [Row; 21] = [
    (
        Class::Input,
        "input",
        "what the bake was given cannot be used",
        "Correct the option named above; nothing was started.",
    ),
    (
        Class::FirmwareBoot,
        "firmware-boot",
        "the machine did not get as far as the installer's kernel",
        "Try `--accel tcg` (a /dev/kvm under which guests hang looks like this), then check `--iso` \
         against its published checksum; serial.log has the firmware's own words.",
    ),
    (
        Class::DracutStage2,
        "dracut-stage2",
        "the installer's first stage did not find or mount its second one",
        "Check `--iso`: inst.stage2= is made from its volume label, and its images/install.img must be \
         whole. serial.log names the device that was waited for.",
    ),
    (
        Class::KsParse,
        "ks-parse",
        "the kickstart does not parse",
        "ks.cfg is the text that was read, with these line numbers: correct `--kickstart` and check it with \
         `ksvalidator -v RHEL9` (`builder kickstart os` prints the built-in one).",
    ),
    (
        Class::PreScript,
        "pre-script",
        "a %pre script of the kickstart failed",
        "The script's last lines are above and in serial.log; ks.cfg is the kickstart as it ran.",
    ),
    (
        Class::Storage,
        "storage",
        "the disk could not be partitioned, formatted or made bootable as asked",
        "Compare the part and bootloader lines of ks.cfg with `--disk-size`; installer.log has blivet's \
         reasons.",
    ),
    (
        Class::PayloadRepo,
        "payload-repo",
        "the packages could not be found, fetched or resolved",
        "Use a DVD image as `--iso` (minimal and boot images lack AppStream), and check the names in \
         %packages and any url or repo line of the kickstart.",
    ),
    (
        Class::Scriptlet,
        "scriptlet",
        "a package's own scriptlet failed while it was installed",
        "The package is named above: leave it out of %packages or take another version of it; installer.log \
         has the scriptlet's output.",
    ),
    (
        Class::PostScript,
        "post-script",
        "a %post script of the kickstart failed",
        "The script's last lines are above and in serial.log; ks.cfg is the kickstart as it ran.",
    ),
    (
        Class::NodeInstall,
        "node-install",
        "`agent install` could not turn the installed system into a node",
        "The reason of `agent install` is above: check `--agent` and `--k3s` if it names the payload, and \
         the os stage's kickstart if it names a rule of the seal.",
    ),
    (
        Class::Inspect,
        "inspect",
        "the finished image is not as it must be, or could not be read through",
        "Each line above names a rule and what is against it: mend the kickstart given with `--kickstart` if it \
         put that there, `--agent` if the seal missed it. Nothing was published.",
    ),
    (
        Class::Installer,
        "installer",
        "the installer gave up for a reason of its own",
        "Read installer.log from its first ERR or CRIT line on; a line with `Traceback` is a fault of \
         Anaconda itself.",
    ),
    (
        Class::Oom,
        "oom",
        "the guest ran out of memory",
        "Give it more with `--memory` (4 GiB is enough for EL9).",
    ),
    (
        Class::Panic,
        "panic",
        "the guest's kernel panicked",
        "Try `--accel tcg`, more `--memory` and fewer `--cpus`; if it repeats, the trace in serial.log goes to \
         the kernel's or QEMU's makers.",
    ),
    (
        Class::MediaCheck,
        "media-check",
        "the installer's check of its medium failed",
        "The ISO is damaged: fetch it again and compare its sha256 with the published CHECKSUM.",
    ),
    (
        Class::PromptWait,
        "prompt-wait",
        "the installer asks a question and waits for a key nobody will press",
        "Answer it in the kickstart: the question is above and in screen.png. `cmdline` must be in it, \
         `--erroronfail` must not.",
    ),
    (
        Class::Stall,
        "stall",
        "the machine stopped making progress",
        "screen.png and serial.log show where; if the host is only slow, allow more with `--stall-after`, and \
         with KVM try `--accel tcg`.",
    ),
    (
        Class::GuestReset,
        "guest-reset",
        "the machine was reset in the middle of the bake",
        "If the kickstart says `reboot`, make it `poweroff`; otherwise serial.log ends where the guest crashed.",
    ),
    (
        Class::PoweredOffWithoutMark,
        "powered-off-without-mark",
        "the machine powered off without saying that the stage is done",
        "The last %post of the kickstart writes the mark: if `--kickstart` replaced it, keep that part. \
         installer.log has what ended it.",
    ),
    (
        Class::HostQemu,
        "host-qemu",
        "QEMU failed on this host",
        "QEMU's own message is above and in qemu.log; command.txt is its command line.",
    ),
    (
        Class::HostDiskFull,
        "host-disk-full",
        "this host has no space left for the disk image",
        "Free space where `--out` and `--cache` are (`builder gc`, `df -h`), or point them elsewhere.",
    ),
];

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_the_order_of_the_enum() {
        for (index, class) in Class::all().enumerate() {
            assert_eq!(class as usize, index, "{class}");
        }
    }

    #[test]
    fn the_documentation_has_every_class_with_its_meaning() {
        let documented = include_str!("../../../docs/failures.md");
        let tests = include_str!("../../../tests/tests/failures.rs");
        for class in Class::all() {
            let row = format!("| `{class}` | {} | ", class.meaning());
            let row = documented.lines().find_map(|line| line.strip_prefix(row.as_str()));
            let row = row.unwrap_or_else(|| panic!("{class} is not in docs/failures.md as it is here"));
            let proofs = row.split('|').next().unwrap_or_default().trim();
            for proof in proofs.split(", ").filter(|proof| !proof.contains('/')) {
                let name = format!("fn {}", proof.trim_end_matches('…'));
                assert!(tests.contains(&name), "{class}: there is no test {proof}");
            }
        }
    }

    #[test]
    fn json_names_are_the_displayed_ones() {
        for class in Class::all() {
            assert_eq!(serde_json::to_string(&class).unwrap(), format!("\"{class}\""));
            assert!(!class.meaning().ends_with('.') && class.next().ends_with('.'), "{class}");
        }
    }
}

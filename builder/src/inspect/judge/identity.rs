//! What makes one machine differ from another.

use super::super::survey::Survey;
use super::Verdict;

pub(super) const CONTENTS: [&str; 3] =
    ["/boot/grub2/grubenv", "/boot/efi/EFI/*/grubenv", "/boot/loader/entries/*.conf"];
const ENTRIES: &str = "/boot/loader/entries";
/// The name of a boot entry of no machine in particular, as `AlmaLinux`'s own
/// images have it.
const NO_MACHINE: &str = "ffffffffffffffffffffffffffffffff";

pub(super) fn judge(survey: &Survey, verdict: &mut Verdict) {
    verdict.rule(
        "machine-id",
        "it is made at the first boot if the file is there and empty, else clones share it",
    );
    match survey.get("/etc/machine-id") {
        None => verdict.at("/etc/machine-id", "is missing"),
        Some(entry) if !entry.is_file() => verdict.at("/etc/machine-id", "is no regular file"),
        Some(entry) if entry.size > 0 => verdict.at("/etc/machine-id", "is not empty"),
        Some(_) => {}
    }

    verdict.rule("boot-entries", "named after a machine, an older kernel may sort before a newer one");
    for entry in survey.in_dir(ENTRIES) {
        let machine = entry.name().split_once('-').map(|(machine, _)| machine).filter(|m| is_machine(m));
        if machine.is_some_and(|machine| machine != NO_MACHINE) {
            verdict.at(&entry.path, "is named after a machine");
        }
    }
    for entry in survey.entries().filter(|entry| entry.is_file() && entry.name() == "grubenv") {
        let text = survey.text(&entry.path).unwrap_or_default();
        let saved = text.lines().find_map(|line| line.strip_prefix("saved_entry="));
        let machine = saved.and_then(|saved| saved.split_once('-')).map(|(machine, _)| machine);
        if machine.is_some_and(|machine| is_machine(machine) && machine != NO_MACHINE) {
            verdict.at(&entry.path, "names a boot entry of a machine");
        }
    }

    verdict.rule("private-keys", "a key in an image is everybody's");
    for entry in survey.entries().filter(|entry| entry.private_key) {
        verdict.at(&entry.path, "holds a private key");
    }
}

fn is_machine(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

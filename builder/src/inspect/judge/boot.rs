//! What it takes to boot, on BIOS and on UEFI machines.

use super::super::disk::DiskFacts;
use super::super::survey::Survey;
use super::Verdict;

pub(super) const DIGESTS: [&str; 3] = ["/boot/efi/EFI/*.EFI", "/boot/efi/EFI/*.efi", "/boot/vmlinuz-*"];
/// Numbers and kinds of the partitions of `alma9.ks`.
const PARTITIONS: [(u32, &str); 4] = [(1, "bios-boot"), (2, "efi-system"), (3, "linux"), (4, "linux")];

pub(super) fn judge(survey: &Survey, disk: &DiskFacts, verdict: &mut Verdict) {
    verdict
        .rule("partitions", "the last partition is the root, so that a node can grow it over a larger disk");
    let found: Vec<_> = disk.partitions.iter().map(|p| (p.number, p.kind.as_str())).collect();
    if found != PARTITIONS {
        verdict.against(None, format!("the partitions are {found:?}"));
    }
    let starts: Vec<_> = disk.partitions.iter().map(|p| p.start).collect();
    if !starts.is_sorted() {
        verdict.against(None, "the partitions are not in the order of their numbers");
    }

    verdict.rule("boot-loaders", "the image boots on BIOS machines, on UEFI machines, and with Secure Boot");
    if !disk.bios_loader {
        verdict.against(None, "there is no GRUB in the boot sector and the partition behind it");
    }
    let on_esp = |name: &str| {
        survey.entries().any(|entry| {
            entry.path.starts_with("/boot/efi/EFI/")
                && entry.name().eq_ignore_ascii_case(name)
                && entry.size > 0
        })
    };
    for name in ["BOOTX64.EFI", "shimx64.efi", "grubx64.efi"] {
        if !on_esp(name) {
            verdict.against(Some("/boot/efi/EFI"), format!("{name} is missing"));
        }
    }
    let has = |path: &str| survey.get(path).is_some_and(|entry| entry.is_file() && entry.size > 0);
    if !has("/boot/grub2/grub.cfg") {
        verdict.at("/boot/grub2/grub.cfg", "is missing");
    }

    verdict.rule("kernels", "every boot entry names a kernel and an initramfs that are there");
    let mut entries = 0;
    for entry in survey.in_dir("/boot/loader/entries") {
        entries += 1;
        let text = survey.text(&entry.path).unwrap_or_default();
        for key in ["linux", "initrd"] {
            let value = text.lines().find_map(|line| line.strip_prefix(key)?.trim().split(' ').next());
            // EL writes paths of the boot partition; others those of the root.
            let there = value.is_some_and(|path| has(path) || has(&format!("/boot{path}")));
            if !there {
                verdict.at(&entry.path, format!("its {key} is not there"));
            }
        }
    }
    if entries == 0 {
        verdict.at("/boot/loader/entries", "there is no boot entry");
    }
}

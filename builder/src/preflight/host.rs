//! What the host itself has: KVM that works, memory, room on disk.

use std::path::{Path, PathBuf};

use super::Finding;
use crate::image::Size;
use crate::machine::qemu::accel::{self, Evidence};
use crate::machine::qemu::{Accel, AccelChoice};

/// What a bake needs in the cache, roughly: two disks, the packed one, downloads.
const ROOM: Size = Size::gib(8);
/// Less than this and a bake does not end.
const LEAST_ROOM: Size = Size::gib(4);
/// What the installer's machine gets unless told otherwise, and some.
const MEMORY: Size = Size::mib(5 * 1024);
/// What it can do with.
const LEAST_MEMORY: Size = Size::mib(2 * 1024);

/// Whether KVM works: by a real guest's first sign of life, as a bake itself
/// decides it. `work` is an existing directory of this run.
pub(super) async fn kvm(cache: &Path, work: &Path) -> Finding {
    const NAME: &str = "kvm";
    const SLOW: &str = "machines are emulated, which is many times slower";
    let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    if let Err(error) = device {
        let remedy = match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                "join its group: usermod -aG kvm \"$USER\", then log in again"
            }
            _ => "switch virtualisation on in the firmware, or give this VM nested virtualisation",
        };
        return Finding::warning(NAME, format!("/dev/kvm: {error}; {SLOW}"), remedy);
    }
    let Some(kernel) = kernel(cache) else {
        let found = "/dev/kvm opens; there is no kernel here to prove it with, so the first bake will";
        return Finding::ok(NAME, found);
    };
    match accel::decide(AccelChoice::Auto, Evidence::Kernel(&kernel), cache, work).await {
        Ok(decision) if decision.accel == Accel::Kvm => {
            Finding::ok(NAME, "a guest under it showed its first sign of life")
        }
        Ok(decision) => Finding::warning(
            NAME,
            decision.warning.unwrap_or_else(|| SLOW.to_owned()),
            "if this host is itself a VM, ask for nested virtualisation; `--accel tcg` is what auto takes",
        ),
        Err(error) => Finding::warning(NAME, format!("{error:#}"), "see what is missing above"),
    }
}

/// A Linux kernel to start: an install medium's in the cache, else the host's.
fn kernel(cache: &Path) -> Option<PathBuf> {
    let media = std::fs::read_dir(cache.join("media")).into_iter().flatten().flatten();
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    media
        .map(|entry| entry.path().join("vmlinuz"))
        .chain([
            PathBuf::from(format!("/boot/vmlinuz-{release}")),
            PathBuf::from(format!("/lib/modules/{release}/vmlinuz")),
        ])
        // Ubuntu's are readable by root alone.
        .find(|path| std::fs::File::open(path).is_ok())
}

/// Memory that is free, of the text of `/proc/meminfo`.
pub(super) fn memory(meminfo: &str) -> Finding {
    const NAME: &str = "memory";
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    let Some(kib) = kib else {
        return Finding::warning(NAME, "/proc/meminfo does not say how much is free", "see `free -h`");
    };
    let free = Size::bytes(kib << 10);
    let text = format!("{free} is free");
    if free < LEAST_MEMORY {
        let found = format!("{text}; the installer's machine needs {LEAST_MEMORY} at least");
        Finding::missing(NAME, found, "end what uses it")
    } else if free < MEMORY {
        let found = format!("{text}; a bake takes {MEMORY} unless told otherwise");
        Finding::warning(NAME, found, "bake with `--memory 2GiB`")
    } else {
        Finding::ok(NAME, text)
    }
}

/// Room on the file system of the cache, which may not exist yet.
pub(super) fn room(cache: &Path) -> Finding {
    let stat = cache.ancestors().find_map(|dir| nix::sys::statvfs::statvfs(dir).ok());
    let free = stat.map(|stat| Size::bytes(stat.blocks_available() * stat.fragment_size()));
    judge_room(free, cache)
}

fn judge_room(free: Option<Size>, cache: &Path) -> Finding {
    const NAME: &str = "disk space";
    let cache = cache.display();
    let remedy = "free some (`builder cache prune`, `builder gc --yes`) or point `--cache` elsewhere";
    match free {
        None => Finding::missing(NAME, format!("{cache}: no such file system"), "point `--cache` elsewhere"),
        Some(free) if free < LEAST_ROOM => {
            Finding::missing(NAME, format!("{free} is free for {cache}; a bake needs {LEAST_ROOM}"), remedy)
        }
        Some(free) if free < ROOM => Finding::warning(
            NAME,
            format!("{free} is free for {cache}; a DVD image alone takes 10 GiB"),
            remedy,
        ),
        Some(free) => Finding::ok(NAME, format!("{free} is free for {cache}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn memory_and_room_are_judged_by_what_a_bake_takes() {
        let memory = |kib: u64| memory(&format!("MemTotal: 9 kB\nMemAvailable:   {kib} kB\n")).status;
        assert_eq!(memory(8 << 20), Status::Ok);
        assert_eq!(memory(4 << 20), Status::Warning);
        assert_eq!(memory(1 << 20), Status::Missing);
        let room = |gib| judge_room(Some(Size::gib(gib)), Path::new("/c")).status;
        assert_eq!((room(20), room(5), room(1)), (Status::Ok, Status::Warning, Status::Missing));
        assert_eq!(judge_room(None, Path::new("/c")).status, Status::Missing);
    }

    #[test]
    fn a_kernel_in_the_cache_is_evidence() {
        let cache = tempfile::tempdir().unwrap();
        let dir = cache.path().join("media/0123");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("vmlinuz"), b"").unwrap();
        assert_eq!(kernel(cache.path()), Some(dir.join("vmlinuz")));
    }
}

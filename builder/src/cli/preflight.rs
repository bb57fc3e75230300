//! `builder preflight`: whether this host can bake and run nodes, with the
//! remedy for what is missing.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::image::Size;
use crate::machine::qemu::OvmfFiles;
use crate::machine::qemu::vm::{find_program, qemu_program};
use crate::run::dirs;

/// Programs Kiln runs: name, what for, packages on Debian and Ubuntu, on EL and Fedora, on Arch.
const PROGRAMS: [(&str, &str, [&str; 3]); 4] = [
    ("qemu-system-x86_64", "runs the machines", ["qemu-system-x86", "qemu-kvm", "qemu-base"]),
    ("qemu-img", "makes and packs disks", ["qemu-utils", "qemu-img", "qemu-img"]),
    ("xorriso", "reads and writes ISO images", ["xorriso", "xorriso", "libisoburn"]),
    ("setpriv", "ends machines with the builder", ["util-linux", "util-linux", "util-linux"]),
];
/// What a bake needs in the cache, roughly.
const ROOM: Size = Size::gib(4);
/// What the installer's machine gets unless told otherwise, and some.
const MEMORY: Size = Size::mib(5 * 1024);

/// Arguments of `builder preflight`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where results of stages would be kept [default: ~/.cache/kiln].
    #[arg(long, value_name = "DIR", env = "KILN_CACHE")]
    cache: Option<PathBuf>,
}

/// What was found of one thing.
enum Finding {
    Fine(String),
    /// It works, but not as well as it could.
    Poor(String),
    Missing(String),
}

/// Prints what there is and what is missing.
pub(super) fn run(args: Args) -> Result<()> {
    let cache = args.cache.map_or_else(dirs::cache, Ok)?;
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let mut findings: Vec<Finding> = PROGRAMS.iter().map(|program| look_for(program, &release)).collect();
    findings.extend([firmware(), kvm(), memory(), room(&cache)]);
    let mut missing = 0;
    for finding in &findings {
        match finding {
            Finding::Fine(text) => println!("ok       {text}"),
            Finding::Poor(text) => println!("warning  {text}"),
            Finding::Missing(text) => {
                missing += 1;
                println!("missing  {text}");
            }
        }
    }
    if missing > 0 {
        bail!("{missing} things are missing on this host");
    }
    Ok(())
}

/// How packages are installed on this distribution, and which of three names
/// it uses for them.
fn installer(os_release: &str) -> (&'static str, usize) {
    let ids: Vec<&str> = os_release
        .lines()
        .filter_map(|line| line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE=")))
        .flat_map(|ids| ids.trim_matches('"').split(' '))
        .collect();
    let is = |names: &[&str]| ids.iter().any(|id| names.contains(id));
    if is(&["rhel", "fedora", "centos"]) {
        ("dnf install", 1)
    } else if is(&["arch"]) {
        ("pacman -S", 2)
    } else {
        ("apt-get install", 0)
    }
}

fn look_for((name, purpose, packages): &(&str, &str, [&str; 3]), os_release: &str) -> Finding {
    let found = if *name == "qemu-system-x86_64" { qemu_program() } else { find_program(name) };
    if let Some(path) = found {
        return Finding::Fine(format!("{} ({purpose})", path.display()));
    }
    let (command, which) = installer(os_release);
    Finding::Missing(format!("{name}, which {purpose}: {command} {}", packages[which]))
}

fn firmware() -> Finding {
    match OvmfFiles::find() {
        Ok(files) => Finding::Fine(format!("{} (UEFI firmware)", files.code.display())),
        Err(error) => Finding::Missing(error.to_string()),
    }
}

fn kvm() -> Finding {
    match std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Finding::Fine("/dev/kvm opens (a bake proves that it works before it is used)".to_owned()),
        Err(error) => Finding::Poor(format!(
            "/dev/kvm: {error}; machines will be emulated, which is many times slower (join the group kvm, \
             or switch virtualisation on in the firmware)"
        )),
    }
}

fn memory() -> Finding {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib =
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or_default();
    let free = Size::bytes(kib << 10);
    let text = format!("{free} of memory is free");
    if free < MEMORY {
        Finding::Poor(format!("{text}; a bake wants {MEMORY} (--memory)"))
    } else {
        Finding::Fine(text)
    }
}

fn room(cache: &Path) -> Finding {
    let Some(stat) = cache.ancestors().find_map(|dir| nix::sys::statvfs::statvfs(dir).ok()) else {
        return Finding::Missing(format!("{}: no such file system", cache.display()));
    };
    let free = Size::bytes(stat.blocks_available() * stat.fragment_size());
    let text = format!("{free} is free for {}", cache.display());
    if free < ROOM {
        Finding::Missing(format!("{text}; a bake needs about {ROOM}"))
    } else {
        Finding::Fine(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_is_the_distributions_own() {
        for (release, command) in [
            ("ID=debian\n", "apt-get install qemu-system-x86"),
            ("NAME=Ubuntu\nID=ubuntu\nID_LIKE=debian\n", "apt-get install qemu-system-x86"),
            ("ID=\"almalinux\"\nID_LIKE=\"rhel centos fedora\"\n", "dnf install qemu-kvm"),
            ("ID=arch\n", "pacman -S qemu-base"),
        ] {
            let program = ("no-such-program", PROGRAMS[0].1, PROGRAMS[0].2);
            let Finding::Missing(text) = look_for(&program, release) else { panic!("found it") };
            assert!(text.ends_with(command), "{text}");
        }
    }
}

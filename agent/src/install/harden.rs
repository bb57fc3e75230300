//! The hardening baseline: what is done on top of the files of `hardening/` in
//! the payload, which are placed like all others.
//!
//! `builder inspect` has its own statement of what an image with the baseline
//! is like; this one only makes it so.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::accounts::Accounts;
use super::report::Placed;
use crate::root::Root;

/// Units that come with packages, are enabled by EL's presets, and that no
/// node needs: they are disabled, and can be enabled again.
const DISABLED: [&str; 16] = [
    "atd.service",
    "avahi-daemon.service",
    "avahi-daemon.socket",
    "bluetooth.service",
    "cups.service",
    "cups.socket",
    "dnf-makecache.timer",
    "kdump.service",
    "ModemManager.service",
    "nfs-server.service",
    "postfix.service",
    "rpcbind.service",
    "rpcbind.socket",
    "sssd-kcm.socket",
    "telnet.socket",
    "vsftpd.service",
];
/// Units that give whoever sits at the console more than a login: masked.
const MASKED: [&str; 2] = ["ctrl-alt-del.target", "debug-shell.service"];
/// Permission bits that are taken away from what is there.
const CLOSED: [(&str, u32); 12] = [
    ("/etc/ssh/sshd_config", 0o077),
    ("/etc/crontab", 0o077),
    ("/etc/cron.d", 0o077),
    ("/etc/cron.hourly", 0o077),
    ("/etc/cron.daily", 0o077),
    ("/etc/cron.weekly", 0o077),
    ("/etc/cron.monthly", 0o077),
    ("/etc/shadow", 0o137),
    ("/etc/gshadow", 0o137),
    ("/boot/grub2/grub.cfg", 0o077),
    ("/boot/grub2/user.cfg", 0o077),
    ("/root", 0o077),
];
const UNITS: &str = "/etc/systemd/system";

/// Applies it; returns everything it is about, changed or not.
pub(super) fn apply(root: &Root) -> Result<Vec<Placed>> {
    let mut done = Vec::new();
    for unit in MASKED {
        let link = Path::new(UNITS).join(unit);
        root.make_dirs(UNITS, 0o755)?;
        let changed = root.symlink(&link, "/dev/null").with_context(|| format!("masking {unit}"))?;
        done.push(Placed { path: link, changed });
    }
    for link in enabling_links(root)? {
        root.remove(&link)?;
    }
    for (path, bits) in CLOSED {
        let path = Path::new(path);
        let Some(meta) = root.meta(path)? else { continue };
        if meta.mode & bits != 0 {
            root.set_mode(path, meta.mode & !bits)?;
        }
    }
    if Accounts::read(root)?.lock_root()?.write(root)? {
        done.push(Placed { path: super::accounts::SHADOW.into(), changed: true });
    }
    Ok(done)
}

/// The links by which units that are not needed are enabled.
fn enabling_links(root: &Root) -> Result<Vec<PathBuf>> {
    let mut links = Vec::new();
    for dir in root.names(UNITS)? {
        if !dir.as_encoded_bytes().ends_with(b".wants") && !dir.as_encoded_bytes().ends_with(b".requires") {
            continue;
        }
        let dir = Path::new(UNITS).join(dir);
        for unit in DISABLED {
            if root.meta(dir.join(unit))?.is_some() {
                links.push(dir.join(unit));
            }
        }
    }
    Ok(links)
}

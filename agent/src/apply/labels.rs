//! SELinux labels of files written while the system runs.
//!
//! A new file inherits its directory's label, which is wrong for some of ours
//! (`/etc/hostname`, `.ssh`). Where SELinux is on, EL9's restorecon is run on
//! them; with `/sys` mounted it does what it says, other than in a chroot.

use std::path::PathBuf;

use crate::process;
use crate::root::Root;

/// Whether the running kernel enforces or at least knows SELinux.
pub(crate) fn selinux_is_on(root: &Root) -> bool {
    root.meta("/sys/fs/selinux/enforce").ok().flatten().is_some()
}

/// Gives files and directories, and what is below them, the policy's labels. A
/// failure is logged and no more: whatever it breaks will say so itself, and
/// an honest node should not stay away for a label.
pub(crate) fn restore(root: &Root, paths: &[PathBuf]) {
    if !selinux_is_on(root) {
        return;
    }
    if let Err(error) = process::run(process::command("restorecon").args(["-R", "-F", "--"]).args(paths)) {
        tracing::warn!("labelling: {error:#}");
    }
}

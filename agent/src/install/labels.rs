//! SELinux labels of what was placed, changed or made again.
//!
//! Anaconda labels neither `/usr/local` nor what is put there after it, and a
//! k3s of the wrong label ends with 203/EXEC. Two tools of the *root* are run,
//! chrooted, and each tells something the other does not:
//!
//! * `setfiles -F` sets labels from the policy's `file_contexts` whether or
//!   not the running kernel has SELinux; `restorecon` would exit 0 having done
//!   nothing. With `/sys` below the root it would ask the *installer's* policy
//!   whether it knows the root's labels; without `/proc` it can set none
//!   (libselinux sets them through `/proc/self/fd` since 3.4).
//! * `matchpathcon` (libselinux-utils, which EL9's policycoreutils requires)
//!   tells what the policy wants. The raw `security.selinux` attributes are
//!   compared with that, so that a setfiles that did nothing is noticed.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

use super::is_running_system;
use super::place::K3S;
use crate::process;
use crate::root::Root;

/// What k3s-selinux makes of `/usr/local/bin/k3s`.
const K3S_TYPE: &str = "container_runtime_exec_t";
/// The ESP is FAT, which has no labels.
const UNLABELLED: &str = "/boot/efi";
/// A report lists no more wrong labels than this.
const SHOWN: usize = 10;

/// How the labels are now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labels {
    /// Whether every label is as the policy has it.
    pub ok: bool,
    /// How many paths were looked at.
    pub checked: usize,
    /// How many of them have the policy's label.
    pub right: usize,
    /// What is wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    #[serde(skip)]
    pub(super) warnings: Vec<String>,
}

/// SELinux's tools and the labels they leave, so that tests need neither.
pub trait Tools {
    /// Called once, before anything is changed.
    fn prepare(&self, root: &Root) -> Result<()>;
    /// Runs a program of the root in the root; returns what it printed.
    fn run(&self, root: &Root, program: &str, arguments: &[&OsStr]) -> Result<String>;
    /// The raw label of a path.
    fn label_of(&self, root: &Root, path: &Path) -> Result<Option<Vec<u8>>>;
}

/// The tools of the root itself, by way of chroot(1).
#[derive(Debug, Clone, Copy)]
pub struct Chroot;

impl Tools for Chroot {
    /// Gives `root` the `/proc` and the empty `/sys` that the tools need. This
    /// process gets a mount namespace of its own first: whatever ends it, even
    /// kill -9, takes the mounts along.
    fn prepare(&self, root: &Root) -> Result<()> {
        let none = None::<&str>;
        if is_running_system(root.path())? {
            return Ok(());
        }
        unshare(CloneFlags::CLONE_NEWNS).context("making a mount namespace (is this run as root?)")?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .context("keeping mounts from spreading")?;
        for (kind, below) in [("proc", "proc"), ("tmpfs", "sys")] {
            let place = root.path().join(below);
            mount(Some(kind), &place, Some(kind), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, none)
                .with_context(|| format!("mounting a {kind} on {}", place.display()))?;
        }
        Ok(())
    }

    fn run(&self, root: &Root, program: &str, arguments: &[&OsStr]) -> Result<String> {
        process::run(process::command("chroot").arg(root.path()).arg(program).args(arguments))
    }

    fn label_of(&self, root: &Root, path: &Path) -> Result<Option<Vec<u8>>> {
        root.xattr(path, "security.selinux")
    }
}

/// Labels `touched` and whatever is below it, and compares.
pub(super) fn apply(root: &Root, tools: &dyn Tools, mut touched: Vec<PathBuf>) -> Labels {
    touched.retain(|path| !path.starts_with(UNLABELLED));
    touched.sort();
    touched.dedup();
    let mut labels = Labels { checked: touched.len(), ..Labels::default() };
    match policy(root) {
        Ok(Policy::Off(why)) => {
            labels.ok = true;
            labels.checked = 0;
            labels.warnings.push(format!("no labels were set: {why}"));
        }
        Ok(Policy::FileContexts(contexts)) => {
            if let Err(error) = set_and_compare(root, tools, &contexts, &touched, &mut labels) {
                labels.problems.push(format!("{error:#}"));
            }
            labels.ok = labels.problems.is_empty() && labels.right == labels.checked;
        }
        Err(error) => labels.problems.push(format!("{error:#}")),
    }
    labels
}

/// What `/etc/selinux/config` asks for.
#[derive(Debug, PartialEq, Eq)]
enum Policy {
    Off(&'static str),
    FileContexts(String),
}

fn policy(root: &Root) -> Result<Policy> {
    const CONFIG: &str = "/etc/selinux/config";
    let Some(text) = root.read_text(CONFIG)? else {
        return Ok(Policy::Off("the root has no /etc/selinux/config"));
    };
    let setting = |key: &str| {
        let mut values = text.lines().filter_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
        values.next_back().map(|value| value.trim().to_owned())
    };
    if setting("SELINUX").as_deref() == Some("disabled") {
        return Ok(Policy::Off("SELinux is disabled in /etc/selinux/config"));
    }
    let kind =
        setting("SELINUXTYPE").with_context(|| format!("{} has no SELINUXTYPE", root.shown(CONFIG)))?;
    if kind.is_empty() || !kind.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)) {
        bail!("{} has a SELINUXTYPE that is no name: {kind:?}", root.shown(CONFIG));
    }
    let contexts = format!("/etc/selinux/{kind}/contexts/files/file_contexts");
    if root.meta(&contexts)?.is_none() {
        bail!("{} is missing: install selinux-policy-{kind} into the root", root.shown(&contexts));
    }
    Ok(Policy::FileContexts(contexts))
}

fn set_and_compare(
    root: &Root,
    tools: &dyn Tools,
    contexts: &str,
    touched: &[PathBuf],
    labels: &mut Labels,
) -> Result<()> {
    let run = |program: &str, options: &[&str]| {
        let options = options.iter().map(OsStr::new);
        let arguments: Vec<_> = options.chain(touched.iter().map(|path| path.as_os_str())).collect();
        tools.run(root, program, &arguments)
    };
    run("setfiles", &["-F", contexts]).context("labelling (setfiles is in policycoreutils)")?;
    let wanted = run("matchpathcon", &["-n"])
        .context("asking for the policy's labels (matchpathcon is in libselinux-utils)")?;
    let wanted: Vec<&str> = wanted.lines().map(str::trim).collect();
    if wanted.len() != touched.len() {
        bail!("matchpathcon was asked about {} paths and answered for {}", touched.len(), wanted.len());
    }
    for (path, wanted) in touched.iter().zip(wanted) {
        match compare(root, tools, path, wanted)? {
            None => labels.right += 1,
            Some(problem) if labels.problems.len() < SHOWN => labels.problems.push(problem),
            Some(_) => {}
        }
        if path == Path::new(K3S) && !wanted.contains(K3S_TYPE) {
            labels.warnings.push(format!(
                "the policy labels {K3S} {wanted}, not {K3S_TYPE}: k3s-selinux is not installed in this root"
            ));
        }
    }
    Ok(())
}

/// What is wrong with the label of `path`.
fn compare(root: &Root, tools: &dyn Tools, path: &Path, wanted: &str) -> Result<Option<String>> {
    if wanted == "<<none>>" {
        return Ok(None);
    }
    let raw = tools.label_of(root, path)?;
    // The kernel stores the terminating zero that C programs hand to it.
    let found = raw.as_deref().map(|raw| String::from_utf8_lossy(raw.strip_suffix(&[0]).unwrap_or(raw)));
    Ok(match found {
        Some(found) if found == wanted => None,
        Some(found) => Some(format!("{} is labelled {found}, the policy has {wanted}", root.shown(path))),
        None => Some(format!("{} has no label, the policy has {wanted}", root.shown(path))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn policy_of(config: &str) -> Result<Policy> {
        let dir = crate::testing::tempdir().unwrap();
        let contexts = dir.path().join("etc/selinux/targeted/contexts/files");
        fs::create_dir_all(&contexts).unwrap();
        fs::write(contexts.join("file_contexts"), "").unwrap();
        fs::write(dir.path().join("etc/selinux/config"), config).unwrap();
        policy(&Root::open(dir.path()).unwrap())
    }

    #[test]
    fn the_policy_is_the_one_in_the_configuration() {
        let enforcing = "# comment\nSELINUX=enforcing\nSELINUXTYPE=targeted\n";
        let contexts = "/etc/selinux/targeted/contexts/files/file_contexts";
        assert_eq!(policy_of(enforcing).unwrap(), Policy::FileContexts(contexts.to_owned()));
        assert!(matches!(policy_of("SELINUX=disabled\nSELINUXTYPE=targeted\n").unwrap(), Policy::Off(_)));
        assert!(policy_of("SELINUX=enforcing\nSELINUXTYPE=../../x\n").is_err());
        let missing = policy_of("SELINUX=enforcing\nSELINUXTYPE=mls\n").unwrap_err().to_string();
        assert!(missing.contains("selinux-policy-mls"), "{missing}");
    }
}

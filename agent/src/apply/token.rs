//! The token k3s is started with, in a file of its own, and what is known of it
//! while another takes its place.
//!
//! k3s cannot be told a token and find it in the file at its next start in one
//! step. So every token that its datastore may be under is on the disk before k3s
//! is told: where power is cut in between, the one that it starts with is found
//! among them.

use anyhow::{Context as _, Result};
use kiln_protocol::Secret;
use serde::{Deserialize, Serialize};

use super::k3s::TOKEN;
use crate::identity::STATE_DIR;
use crate::root::{Access, Root};

const FILE: &str = "/var/lib/kiln/token.json";

/// What is known of the server token beside the file that k3s reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    /// The last change of the cluster's tokens that was begun here.
    pub(crate) serial: u64,
    /// What the datastore may be under, the newest last; empty once that is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) candidates: Vec<Secret>,
}

impl Known {
    /// Whether a change was begun and has not come to its end.
    pub(crate) fn is_open(&self) -> bool {
        !self.candidates.is_empty()
    }
}

/// What an earlier run knew.
pub(crate) fn known(root: &Root) -> Result<Known> {
    let Some(bytes) = root.read(FILE)? else { return Ok(Known::default()) };
    serde_json::from_slice(&bytes).with_context(|| format!("reading {}", root.shown(FILE)))
}

/// The token that k3s finds at its next start.
pub(crate) fn present(root: &Root) -> Result<Option<Secret>> {
    let text = root.read_text(TOKEN)?;
    text.map(|text| Secret::new(text.trim_end()).context("reading the token in its file")).transpose()
}

/// k3s finds `token` at its next start. False if it would have anyway.
pub(crate) fn set(root: &Root, token: &Secret) -> Result<bool> {
    if present(root)?.as_ref() == Some(token) {
        return Ok(false);
    }
    root.put(TOKEN, Access::ours(0o600), format!("{}\n", token.expose()).as_bytes())?;
    Ok(true)
}

/// Notes that `new` takes the place of what was there; returns what k3s may be
/// under until then, `new` last.
pub(crate) fn begin(root: &Root, serial: u64, new: &Secret) -> Result<Known> {
    let before = known(root)?;
    let present = present(root)?;
    let others = before.candidates.iter().filter(|known| present.as_ref() != Some(known));
    let mut candidates: Vec<Secret> =
        others.chain(&present).filter(|candidate| *candidate != new).cloned().collect();
    candidates.push(new.clone());
    let known = Known { serial: serial.max(before.serial), candidates };
    if known != before {
        keep(root, &known)?;
    }
    Ok(known)
}

/// `new` has taken its place.
pub(crate) fn finish(root: &Root, new: &Secret) -> Result<()> {
    set(root, new)?;
    let serial = known(root)?.serial;
    keep(root, &Known { serial, candidates: Vec::new() })
}

/// k3s does not start with the token there is: puts another one there that it may
/// be under. False if there is none.
pub(crate) fn try_another(root: &Root) -> Result<bool> {
    let Known { candidates, .. } = known(root)?;
    let present = present(root)?;
    let at = candidates.iter().position(|candidate| Some(candidate) == present.as_ref());
    match candidates.get(at.map_or(0, |at| (at + 1) % candidates.len())) {
        Some(next) => set(root, next),
        None => Ok(false),
    }
}

/// k3s has not started with any token yet.
pub(crate) fn forget(root: &Root) -> Result<()> {
    root.remove(FILE.as_ref())
}

fn keep(root: &Root, known: &Known) -> Result<()> {
    let text = zeroize::Zeroizing::new(serde_json::to_vec(known).context("writing tokens as JSON")?);
    root.make_dirs(STATE_DIR, 0o700)?;
    root.put(FILE, Access::ours(0o600), &text).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text).unwrap()
    }

    fn server() -> (tempfile::TempDir, Root) {
        let dir = crate::testing::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        root.make_dirs("/etc/rancher/k3s", 0o700).unwrap();
        set(&root, &secret("one")).unwrap();
        (dir, root)
    }

    #[test]
    fn the_old_token_is_there_until_the_new_one_is() {
        let (_dir, root) = server();
        assert!(!try_another(&root).unwrap(), "no change was begun");
        let begun = begin(&root, 1, &secret("two")).unwrap();
        assert_eq!(begun.candidates, [secret("one"), secret("two")]);
        assert_eq!(present(&root).unwrap(), Some(secret("one")));
        assert_eq!(begin(&root, 1, &secret("two")).unwrap(), begun, "asked again");
        // Whichever k3s is under, it is found.
        for next in ["two", "one", "two"] {
            assert!(try_another(&root).unwrap());
            assert_eq!(present(&root).unwrap(), Some(secret(next)));
        }
        finish(&root, &secret("two")).unwrap();
        assert_eq!(present(&root).unwrap(), Some(secret("two")));
        assert!(!known(&root).unwrap().is_open() && !try_another(&root).unwrap());
        assert_eq!(known(&root).unwrap().serial, 1);
    }

    #[test]
    fn a_change_that_overtakes_another_forgets_none_of_them() {
        let (_dir, root) = server();
        begin(&root, 1, &secret("two")).unwrap();
        let both = begin(&root, 2, &secret("three")).unwrap();
        assert_eq!((both.serial, both.candidates.len()), (2, 3));
        assert!(both.candidates.contains(&secret("one")) && both.candidates.contains(&secret("two")));
    }

    #[test]
    fn nothing_of_it_is_for_others() {
        let (_dir, root) = server();
        begin(&root, 1, &secret("two")).unwrap();
        for path in [FILE, TOKEN] {
            assert_eq!(root.meta(path).unwrap().unwrap().mode, 0o600);
        }
        assert!(!format!("{:?}", known(&root).unwrap()).contains("two"));
    }
}

//! The node's key: made once, on the node, and never leaving it.

use anyhow::{Context as _, Result};
use kiln_protocol::Identity;

use crate::root::{Access, Root};

/// Where the agent keeps what must survive a reboot. Root only.
pub(crate) const STATE_DIR: &str = "/var/lib/kiln";
/// The private key, PKCS#8 in PEM.
pub(crate) const KEY_FILE: &str = "/var/lib/kiln/node.key";

/// The key on the disk, or a new one that is on the disk when this returns.
pub(crate) fn load_or_make(root: &Root) -> Result<Identity> {
    if let Some(identity) = load(root)? {
        // Perhaps written by a run that was killed before it could sync.
        root.sync_file(KEY_FILE.as_ref())?;
        return Ok(identity);
    }
    let identity = Identity::generate().context("making the node's key")?;
    root.make_dirs(STATE_DIR, 0o700)?;
    root.put(KEY_FILE, Access::ours(0o600), identity.to_pem().expose().as_bytes())?;
    Ok(identity)
}

/// The key on the disk, if there is one.
pub(crate) fn load(root: &Root) -> Result<Option<Identity>> {
    let Some(pem) = root.read_text(KEY_FILE)? else { return Ok(None) };
    let identity = Identity::from_pem(&pem).with_context(|| format!("reading {}", root.shown(KEY_FILE)))?;
    Ok(Some(identity))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once_and_only_root_reads_it() {
        let dir = crate::testing::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert!(load(&root).unwrap().is_none());
        let made = load_or_make(&root).unwrap();
        assert_eq!(load_or_make(&root).unwrap().fingerprint(), made.fingerprint());
        assert_eq!(root.meta(KEY_FILE).unwrap().unwrap().mode, 0o600);
        assert_eq!(root.meta(STATE_DIR).unwrap().unwrap().mode, 0o700);
    }

    #[test]
    fn a_broken_key_is_an_error_and_not_a_reason_for_another() {
        let dir = crate::testing::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        root.make_dirs(STATE_DIR, 0o700).unwrap();
        root.put(KEY_FILE, Access::ours(0o600), b"half a k").unwrap();
        let error = format!("{:#}", load_or_make(&root).unwrap_err());
        assert!(error.contains("node.key") && error.contains("PKCS#8"), "{error}");
    }
}

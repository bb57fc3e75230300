//! The node's key: made once, on the node, and never leaving it.

use anyhow::{Context as _, Result, bail};
use kiln_protocol::{Fingerprint, Identity};
use zeroize::Zeroizing;

use crate::root::{Access, Root};

/// Where the agent keeps what must survive a reboot. Root only.
pub(crate) const STATE_DIR: &str = "/var/lib/kiln";
/// The private key, PKCS#8 in PEM.
pub(crate) const KEY_FILE: &str = "/var/lib/kiln/node.key";

/// The key that is to take its place, while that is under way.
pub(crate) const NEXT_FILE: &str = "/var/lib/kiln/node.key.next";

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

/// The key on the disk, or a new one; a new one also in the place of `not`.
pub(crate) fn load_or_make_another(root: &Root, not: &Fingerprint) -> Result<Identity> {
    if load(root)?.is_some_and(|identity| identity.fingerprint() == *not) {
        // Whatever was to take its place belongs to it.
        drop_next(root)?;
        let identity = Identity::generate().context("making the node's new key")?;
        root.put(KEY_FILE, Access::ours(0o600), identity.to_pem().expose().as_bytes())?;
    }
    load_or_make(root)
}

/// The key on the disk, if there is one.
pub(crate) fn load(root: &Root) -> Result<Option<Identity>> {
    read(root, KEY_FILE)
}

/// The key that the state names. Where that is the one that was to take the
/// other's place, it does so now.
pub(crate) fn load_named(root: &Root, key: &Fingerprint) -> Result<Identity> {
    let named = |identity: &Identity| identity.fingerprint() == *key;
    if let Some(identity) = load(root)?.filter(named) {
        return Ok(identity);
    }
    let Some(next) = read(root, NEXT_FILE)?.filter(named) else {
        bail!("{} holds another key than the state names, or none", root.shown(KEY_FILE));
    };
    root.rename(NEXT_FILE.as_ref(), "node.key".as_ref())?;
    Ok(next)
}

/// The key that is to take the place of `key`, if that was begun.
pub(crate) fn load_next(root: &Root, key: &Fingerprint) -> Result<Option<Identity>> {
    Ok(read(root, NEXT_FILE)?.filter(|next| next.fingerprint() != *key))
}

/// The key that is to take the place of `key`, or a new one; it is on the disk
/// when this returns.
pub(crate) fn load_or_make_next(root: &Root, key: &Fingerprint) -> Result<Identity> {
    if let Some(next) = load_next(root, key)? {
        root.sync_file(NEXT_FILE.as_ref())?;
        return Ok(next);
    }
    let identity = Identity::generate().context("making the node's next key")?;
    root.put(NEXT_FILE, Access::ours(0o600), identity.to_pem().expose().as_bytes())?;
    Ok(identity)
}

/// The key that was to take the other's place is not to any more.
pub(crate) fn drop_next(root: &Root) -> Result<()> {
    root.remove(NEXT_FILE.as_ref())
}

fn read(root: &Root, file: &str) -> Result<Option<Identity>> {
    let Some(pem) = root.read_text(file)?.map(Zeroizing::new) else { return Ok(None) };
    let identity = Identity::from_pem(&pem).with_context(|| format!("reading {}", root.shown(file)))?;
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
    fn a_next_key_takes_the_place_of_the_other_once_the_state_names_it() {
        let dir = crate::testing::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let old = load_or_make(&root).unwrap().fingerprint();
        assert!(load_next(&root, &old).unwrap().is_none());
        let next = load_or_make_next(&root, &old).unwrap().fingerprint();
        assert_eq!(load_or_make_next(&root, &old).unwrap().fingerprint(), next, "made once");
        assert_eq!(load_named(&root, &old).unwrap().fingerprint(), old);
        // The state was written, and then the power was cut.
        assert_eq!(load_named(&root, &next).unwrap().fingerprint(), next);
        assert_eq!(load(&root).unwrap().unwrap().fingerprint(), next);
        assert!(load_next(&root, &next).unwrap().is_none());
        assert!(load_named(&root, &old).is_err(), "the old one is gone");
    }

    #[test]
    fn another_key_takes_the_place_of_the_one_that_is_not_to_be_and_of_no_other() {
        let dir = crate::testing::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let taken = load_or_make(&root).unwrap().fingerprint();
        load_or_make_next(&root, &taken).unwrap();
        let new = load_or_make_another(&root, &taken).unwrap().fingerprint();
        assert_ne!(new, taken);
        assert!(load_next(&root, &new).unwrap().is_none());
        // The power was cut before the state named it.
        assert_eq!(load_or_make_another(&root, &taken).unwrap().fingerprint(), new);
        assert_eq!(load(&root).unwrap().unwrap().fingerprint(), new);
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

//! A SQLite datastore that k3s is to begin with: `server/db/state.db`, put in
//! place before the first start (docs.k3s.io/datastore/backup-restore). The
//! token and the authorities in the same configuration are those it was
//! written under.

use std::io::Read as _;

use anyhow::{Context as _, Result, ensure};
use kiln_protocol::Fingerprint;
use kiln_protocol::config::Snapshot;
use sha2::{Digest as _, Sha256};

use crate::identity::STATE_DIR;
use crate::root::{Access, Root};

/// Where k3s keeps its datastore.
pub(crate) const DATABASE: &str = "/var/lib/rancher/k3s/server/db";
/// As much of it as has come.
const PART: &str = "/var/lib/kiln/restore.part";
/// Says that the datastore that is there was put there, and which one it is, by
/// its SHA-256: another may be wanted by the time the gate opens. Nothing leads
/// back to here once k3s has run. An older agent left it empty.
const PLACED: &str = "/var/lib/kiln/restored";

/// Makes an empty place for what will come.
pub(crate) fn begin(root: &Root) -> Result<()> {
    root.make_dirs(STATE_DIR, 0o700)?;
    root.put(PART, Access::ours(0o600), b"").map(drop)
}

/// Adds a part.
pub(crate) fn append(root: &Root, bytes: &[u8]) -> Result<()> {
    root.append(PART.as_ref(), bytes)
}

/// Whether all came, and as it was sent.
pub(crate) fn check(root: &Root, wanted: &Snapshot) -> Result<()> {
    let mut file = root.open_file(PART)?.context("the datastore that came has disappeared")?;
    let (mut digest, mut size, mut part) = (Sha256::new(), 0, vec![0; 64 * 1024]);
    loop {
        let read = file.read(&mut part).with_context(|| format!("reading {}", root.shown(PART)))?;
        if read == 0 {
            break;
        }
        digest.update(&part[..read]);
        size += read as u64;
    }
    let found = Snapshot { size, sha256: Fingerprint::from_bytes(digest.finalize().into()) };
    ensure!(found == *wanted, "the datastore to restore changed while it was fetched");
    Ok(())
}

/// Whether what is in [`DATABASE`] was put there by [`place`].
pub(crate) fn is_placed(root: &Root) -> Result<bool> {
    Ok(root.meta(PLACED)?.is_some())
}

/// Whether the datastore to begin with is in place: this one, or none if none is
/// to be restored.
pub(crate) fn is_as_wanted(root: &Root, wanted: Option<&Snapshot>) -> Result<bool> {
    Ok(root.read(PLACED)? == wanted.map(|wanted| wanted.sha256.to_string().into_bytes()))
}

/// Takes away what [`place`] put there.
pub(crate) fn displace(root: &Root) -> Result<()> {
    if is_placed(root)? {
        root.remove(DATABASE.as_ref())?;
        root.remove(PLACED.as_ref())?;
    }
    Ok(())
}

/// Puts what came, which is `snapshot`, where k3s will find it.
pub(crate) fn place(root: &Root, snapshot: &Snapshot) -> Result<()> {
    root.put(PLACED, Access::ours(0o600), snapshot.sha256.to_string().as_bytes())?;
    root.remove(DATABASE.as_ref())?;
    root.make_dirs(DATABASE, 0o700)?;
    let mut file = root.open_file(PART)?.context("the datastore that came has disappeared")?;
    root.put_from(format!("{DATABASE}/state.db").as_ref(), Access::ours(0o600), &mut file)?;
    root.remove(PART.as_ref())
}

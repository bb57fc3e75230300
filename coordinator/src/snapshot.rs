//! The copy of a SQLite datastore that a server is to begin with. It stays
//! where the operator keeps it, and is read part by part as the node asks.
//!
//! SQLite: k3s is restored by putting `server/db` back, with the same token
//! (docs.k3s.io/datastore/backup-restore). `--cluster-reset-restore-path` is
//! embedded etcd's alone.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use kiln_protocol::api::SNAPSHOT_PART;
use kiln_protocol::config::Snapshot;
use kiln_protocol::{ApiError, ErrorClass, Fingerprint};
use sha2::{Digest as _, Sha256};

use crate::store::incarnations::Restore;

/// What every SQLite database begins with (sqlite.org/fileformat.html).
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Looks at a file that is to be restored.
///
/// # Errors
/// A refusal, when it cannot be read or is no SQLite database.
pub(crate) fn examine(path: PathBuf) -> Result<Restore> {
    let refuse = |message: String| {
        ApiError::new(ErrorClass::Policy, message).hint(
            "give the copy of /var/lib/rancher/k3s/server/db/state.db, by its absolute path on the \
             coordinator's host; an etcd snapshot is none",
        )
    };
    if !path.is_absolute() {
        return Err(refuse(format!("{} is not an absolute path", path.display())).into());
    }
    let mut file =
        File::open(&path).map_err(|error| refuse(format!("opening {}: {error}", path.display())))?;
    let (mut digest, mut size, mut part) = (Sha256::new(), 0, vec![0; SNAPSHOT_PART]);
    let mut begins_well = false;
    loop {
        let read =
            file.read(&mut part).map_err(|error| refuse(format!("reading {}: {error}", path.display())))?;
        if read == 0 {
            break;
        }
        if size == 0 {
            begins_well = part[..read].starts_with(MAGIC);
        }
        digest.update(&part[..read]);
        size += u64::try_from(read)?;
    }
    if !begins_well {
        return Err(refuse(format!("{} is no SQLite database", path.display())).into());
    }
    Ok(Restore {
        path,
        snapshot: Snapshot { size, sha256: Fingerprint::from_bytes(digest.finalize().into()) },
    })
}

/// The bytes from `offset` on, as many as one answer holds.
pub(crate) fn part(path: &Path, offset: u64) -> Result<Vec<u8>> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut bytes = vec![0; SNAPSHOT_PART];
    let mut filled = 0;
    while filled < bytes.len() {
        let at = offset.saturating_add(u64::try_from(filled)?);
        match file.read_at(&mut bytes[filled..], at).with_context(|| format!("reading {}", path.display()))? {
            0 => break,
            read => filled += read,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sqlite_database_at_an_absolute_path_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.db");
        rusqlite::Connection::open(&path)
            .unwrap()
            .execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1);")
            .unwrap();
        let found = examine(path.clone()).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(found.snapshot.size, bytes.len() as u64);
        assert_eq!(part(&path, 0).unwrap(), bytes);
        assert_eq!(part(&path, 10).unwrap(), bytes[10..]);
        assert!(part(&path, found.snapshot.size).unwrap().is_empty());
        let other = directory.path().join("snapshot.zip");
        std::fs::write(&other, "PK").unwrap();
        for wrong in [other, directory.path().join("missing"), "state.db".into()] {
            let error = examine(wrong).unwrap_err();
            assert_eq!(error.downcast::<ApiError>().unwrap().class, ErrorClass::Policy);
        }
    }
}

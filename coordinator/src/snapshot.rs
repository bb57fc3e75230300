//! The copy of a SQLite datastore that a server is to begin with. It stays
//! where the operator keeps it, and is read part by part as the node asks.
//!
//! SQLite: k3s is restored by putting `server/db` back, with the same token
//! (docs.k3s.io/datastore/backup-restore). `--cluster-reset-restore-path` is
//! embedded etcd's alone.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use kiln_protocol::api::SNAPSHOT_PART;
use kiln_protocol::config::Snapshot;
use kiln_protocol::{ApiError, ErrorClass, Fingerprint};
use sha2::{Digest as _, Sha256};

use crate::store::incarnations::Restore;

/// What every SQLite database begins with (sqlite.org/fileformat.html).
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Bytes of a database's header.
const HEADER: usize = 100;

const WHICH: &str = "give the copy of /var/lib/rancher/k3s/server/db/state.db, by its absolute path on the \
                     coordinator's host; an etcd snapshot is none";
/// With `DynamicUser=`, who owns the directory is the only thing that tells which
/// user a file must be of: the name may be unknown to the host, and a newer
/// systemd shows a service the files of `nobody` as its own.
const WHERE: &str = "the user that the coordinator runs as opens it, and must be able to. With the systemd unit that is \
                     a user who may read little but the state directory, and has a /tmp of its own: as root, install -m 0600 -o \"$(stat -Lc %u \
                     /var/lib/kiln-coordinator)\" FILE /var/lib/kiln-coordinator/restore.db, and name that one; it \
                     must stay there until the node is ready";

/// Looks at a file that is to be restored.
///
/// # Errors
/// A refusal, when it cannot be read, is no SQLite database, or lacks a part of
/// what its first page says that there is.
pub(crate) fn examine(path: PathBuf) -> Result<Restore> {
    let shown = path.display();
    let refuse = |message: String, hint: &str| ApiError::new(ErrorClass::Policy, message).hint(hint);
    if !path.is_absolute() {
        return Err(refuse(format!("{shown} is not an absolute path"), WHICH).into());
    }
    let mut file = open(&path).map_err(|error| {
        let hidden = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied);
        refuse(format!("opening {shown}: {error}"), if hidden { WHERE } else { WHICH })
    })?;
    let length = file.metadata().with_context(|| format!("looking at {shown}"))?.len();
    let (mut digest, mut size, mut part) = (Sha256::new(), 0, vec![0; SNAPSHOT_PART]);
    loop {
        let read = filled(&mut file, &mut part)
            .map_err(|error| refuse(format!("reading {shown}: {error}"), WHICH))?;
        let read = &part[..read];
        if size == 0 {
            if !read.starts_with(MAGIC) {
                return Err(refuse(format!("{shown} is no SQLite database"), WHICH).into());
            }
            if !read.first_chunk().is_some_and(|header| is_whole(header, length)) {
                let message =
                    format!("{shown} is cut off or damaged: it is not as long as its first page says");
                return Err(refuse(message, WHICH).into());
            }
        }
        digest.update(read);
        size += u64::try_from(read.len())?;
        if read.len() < SNAPSHOT_PART || size > length {
            break;
        }
    }
    if size != length {
        return Err(refuse(format!("{shown} changed while it was read"), WHICH).into());
    }
    Ok(Restore {
        path,
        snapshot: Snapshot { size, sha256: Fingerprint::from_bytes(digest.finalize().into()) },
    })
}

/// Whether a database of this header can be `size` bytes long. That is told from
/// the header alone: to have SQLite look at all of what anybody made takes as
/// long as he likes.
///
/// <https://sqlite.org/fileformat.html>: the page size is at 16, and 1 stands for
/// 65,536; the number of pages is at 28, and is to be believed if it is not 0 and
/// what is at 92 is as at 24. A file may be longer, as SQLite itself takes it.
fn is_whole(header: &[u8; HEADER], size: u64) -> bool {
    let page = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65_536,
        page => u64::from(page),
    };
    if page < 512 || !page.is_power_of_two() || !size.is_multiple_of(page) {
        return false;
    }
    let pages = u32::from_be_bytes([header[28], header[29], header[30], header[31]]);
    header[24..28] != header[92..96] || u64::from(pages) <= size / page
}

/// Opens a file and nothing else: a pipe would be waited for here, and a device
/// may never end.
fn open(path: &Path) -> std::io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
    }
    Ok(file)
}

/// Reads until `part` is full or the file ends; returns how much.
fn filled(file: &mut File, part: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < part.len() {
        match file.read(&mut part[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The bytes from `offset` on, as many as one answer holds.
pub(crate) fn part(path: &Path, offset: u64) -> Result<Vec<u8>> {
    let file = open(path).with_context(|| format!("opening {}", path.display()))?;
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

    /// A database with some pages.
    fn database(path: &Path) {
        let connection = rusqlite::Connection::open(path).unwrap();
        connection
            .execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1), (zeroblob(20000)), (2);")
            .unwrap();
    }

    fn refused(path: &Path) -> ApiError {
        let error = examine(path.to_owned()).unwrap_err().downcast::<ApiError>().unwrap();
        assert_eq!(error.class, ErrorClass::Policy);
        error
    }

    #[test]
    fn only_a_sqlite_database_at_an_absolute_path_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.db");
        database(&path);
        let found = examine(path.clone()).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(found.snapshot.size, bytes.len() as u64);
        assert_eq!(part(&path, 0).unwrap(), bytes);
        assert_eq!(part(&path, 10).unwrap(), bytes[10..]);
        assert!(part(&path, found.snapshot.size).unwrap().is_empty());
        let other = directory.path().join("snapshot.zip");
        std::fs::write(&other, "PK").unwrap();
        for wrong in [&other, Path::new("state.db")] {
            assert!(refused(wrong).hint.unwrap().contains("an etcd snapshot is none"));
        }
        // What the coordinator's own user cannot see.
        let missing = refused(&directory.path().join("missing"));
        assert!(missing.message.contains("No such file"), "{missing}");
        assert!(missing.hint.unwrap().contains("/var/lib/kiln-coordinator/restore.db"));
    }

    #[test]
    fn what_is_no_file_is_refused_and_neither_waited_for_nor_read_without_end() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        for special in [&pipe, Path::new("/dev/zero"), directory.path()] {
            let (done, answer) = std::sync::mpsc::channel();
            let path = special.to_owned();
            std::thread::spawn(move || {
                let _ = done.send((examine(path.clone()).is_err(), part(&path, 0).is_err()));
            });
            let answer = answer.recv_timeout(std::time::Duration::from_secs(30));
            assert_eq!(answer, Ok((true, true)), "{}", special.display());
            assert!(refused(special).message.contains("not a regular file"));
        }
    }

    #[test]
    fn a_copy_that_was_cut_off_is_refused_wherever_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let [path, tried] = ["state.db", "tried"].map(|name| directory.path().join(name));
        database(&path);
        let whole = std::fs::read(&path).unwrap();
        for cut in [16, 99, 100, 4096, whole.len() - 4096, whole.len() - 1] {
            std::fs::write(&tried, &whole[..cut]).unwrap();
            assert!(refused(&tried).message.contains("cut off or damaged"), "{cut}");
        }
        // SQLite takes a file that is longer, and believes no number of pages
        // that an old program has left.
        std::fs::write(&tried, [&whole[..], &[0; 4096]].concat()).unwrap();
        examine(tried.clone()).unwrap();
        let mut old = whole[..4096].to_owned();
        old[92] ^= 1;
        std::fs::write(&tried, &old).unwrap();
        examine(tried.clone()).unwrap();
        for page in [0, 2, 511, 513, 3000] {
            old[16..18].copy_from_slice(&u16::to_be_bytes(page));
            std::fs::write(&tried, &old).unwrap();
            assert!(refused(&tried).message.contains("cut off or damaged"), "{page}");
        }
    }

    #[test]
    fn the_largest_page_is_written_as_one() {
        let mut header = [0; HEADER];
        (header[17], header[31]) = (1, 2);
        assert!(is_whole(&header, 2 * 65_536) && !is_whole(&header, 65_536));
    }
}

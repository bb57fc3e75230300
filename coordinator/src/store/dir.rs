//! The state directory: who may read it, who has it open, what is in it.
//!
//! | file | what it holds |
//! |---|---|
//! | `state.db` | the registry; in it, sealed, the key that tickets pin and the cluster's secrets |
//! | `lock` | locked by the one process that has the state open; its pid |
//! | `endpoint.json` | where a running `serve` listens |
//! | `admin.sock` | the admin's socket of a running `serve` |
//! | `recovery.begun` | the public half of the recovery key of an `init` that is not over |
//!
//! The directory is 0700, files are 0600. The key that the secrets in the
//! registry are sealed under is outside of it (`unlock`).
//!
//! An older Kiln kept `coordinator.key` in the clear, and for a moment
//! `coordinator.key.next`, which was about to take its place: they are taken
//! into the registry and removed (`unlocking`). It also made `admin.key` here,
//! which is an admin's, and left `recovery.key` here if it could show that to
//! nobody: both stay until somebody moves them. The recovery key goes beside the
//! directory now.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use kiln_protocol::{Identity, Secret};

/// A state directory's paths.
#[derive(Debug, Clone)]
pub(crate) struct StateDir(PathBuf);

impl StateDir {
    pub(crate) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Where an older Kiln kept the coordinator's key in the clear.
    pub(crate) fn clear_keys(&self) -> [PathBuf; 2] {
        ["coordinator.key", "coordinator.key.next"].map(|name| self.0.join(name))
    }

    /// Where an older Kiln left the recovery key.
    pub(crate) fn recovery_key(&self) -> PathBuf {
        self.0.join("recovery.key")
    }

    /// Where an `init` notes the public half of the recovery key that it is about to
    /// write down: should it be cut off, the next one knows that file for its own.
    pub(crate) fn recovery_begun(&self) -> PathBuf {
        self.0.join("recovery.begun")
    }

    /// Where an older Kiln made an admin's key.
    pub(crate) fn admin_key(&self) -> PathBuf {
        self.0.join("admin.key")
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.0.join("state.db")
    }

    pub(crate) fn endpoint(&self) -> PathBuf {
        self.0.join("endpoint.json")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join("admin.sock")
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Makes the directory, 0700, unless it is there.
    pub(crate) fn create(&self) -> Result<()> {
        let result = DirBuilder::new().recursive(true).mode(0o700).create(&self.0);
        result.with_context(|| format!("making the directory {}", self.0.display()))
    }

    /// Refuses a directory that is not there, or that others may look into.
    pub(crate) fn check(&self) -> Result<()> {
        let shown = self.0.display();
        let found = match fs::metadata(&self.0) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                bail!("there is no state at {shown}: make it with: coordinator init --state {shown}")
            }
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                let whose =
                    format!("looking at {shown}, which is root's or another user's: run it with sudo");
                return Err(error).context(whose);
            }
            other => other.with_context(|| format!("looking at {shown}"))?,
        };
        ensure!(found.is_dir(), "{shown} is not a directory");
        let mode = found.permissions().mode() & 0o777;
        ensure!(
            is_private(mode),
            "{shown} can be used by others (mode {mode:o}) and holds keys: \
             if nobody looked into it, run: chmod 700 {shown}"
        );
        Ok(())
    }

    /// Takes the directory for this process, until the lock is dropped or the
    /// process ends, however it does.
    pub(crate) fn lock(&self) -> Result<Lock> {
        let path = self.0.join("lock");
        let at = || format!("locking {}", path.display());
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).with_context(at)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                let holder = holder.trim();
                bail!(
                    "the state in {} is in use by process {}: ask that one, or stop it first",
                    self.0.display(),
                    if holder.is_empty() { "(unknown)" } else { holder }
                );
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(at),
        }
        file.set_len(0).and_then(|()| file.rewind()).with_context(at)?;
        writeln!(file, "{}", std::process::id()).with_context(at)?;
        Ok(Lock(file))
    }

    /// Reads a key and checks that nobody else may.
    pub(crate) fn read_key(path: &Path) -> Result<Identity> {
        let pem = Self::read_pem(path)?;
        Identity::from_pem(pem.expose()).with_context(|| format!("reading the key {}", path.display()))
    }

    /// As [`StateDir::read_key`], its text.
    fn read_pem(path: &Path) -> Result<Secret> {
        let at = || format!("reading the key {}", path.display());
        let mut file = File::open(path).with_context(at)?;
        let mode = file.metadata().with_context(at)?.mode() & 0o777;
        ensure!(is_private(mode), "the key {} can be read by others (mode {mode:o})", path.display());
        let mut pem = zeroize::Zeroizing::new(String::with_capacity(4096));
        file.read_to_string(&mut pem).with_context(at)?;
        Secret::new(pem.as_str()).with_context(at)
    }
}

/// A directory that is this process's.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Not only closed: a child that is just being started has the file open,
        // and with it the lock, until it runs its program.
        let _ = self.0.unlock();
    }
}

/// Whether group and others have no right at all.
pub(crate) fn is_private(mode: u32) -> bool {
    mode.trailing_zeros() >= 6
}

/// Writes a file of mode 0600 that must not be there yet, and makes it durable.
pub(crate) fn create_private(path: &Path, content: &[u8]) -> Result<()> {
    create_private_from(path, |file| file.write_all(content))
}

/// As [`create_private`], with what `write` puts into it.
pub(crate) fn create_private_from(
    path: &Path,
    write: impl FnOnce(&mut File) -> std::io::Result<()>,
) -> Result<()> {
    let at = || format!("writing {}", path.display());
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path).with_context(at)?;
    write(&mut file).and_then(|()| file.sync_all()).with_context(at)?;
    sync_parent(path)
}

/// Replaces a file as a whole: whoever reads it sees the old or the new one.
pub(crate) fn replace_private(path: &Path, content: &[u8]) -> Result<()> {
    let at = || format!("writing {}", path.display());
    // Such as /dev/null, which root would replace for everybody.
    let special = fs::metadata(path).is_ok_and(|found| !found.is_file());
    ensure!(!special, "{} is there already, and is not a file: name another place", path.display());
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let _ = fs::remove_file(&temporary);
    create_private(&temporary, content)?;
    fs::rename(&temporary, path).with_context(at)?;
    sync_parent(path)
}

/// Whether a copy of a directory would include a file. Neither has to be there yet.
pub(crate) fn is_inside(file: &Path, directory: &Path) -> bool {
    real(file).starts_with(real(directory))
}

/// Where a path leads; what of it is not there yet is where it would be made.
fn real(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let found = whole.ancestors().find_map(|there| {
        let missing = whole.strip_prefix(there).ok()?;
        Some((fs::canonicalize(there).ok()?, missing))
    });
    match found {
        Some((there, missing)) if missing.as_os_str().is_empty() => there,
        Some((there, missing)) => there.join(missing),
        None => whole,
    }
}

/// Puts one file in another's place, for good.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| format!("moving {} to {}", from.display(), to.display()))?;
    sync_parent(to)
}

/// Removes a file, for good; it may be gone already.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        removed => removed.with_context(|| format!("removing {}", path.display()))?,
    }
    sync_parent(path)
}

fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = File::open(parent).and_then(|directory| directory.sync_all());
    synced.with_context(|| format!("making {} durable", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> (tempfile::TempDir, StateDir) {
        let outer = tempfile::tempdir().unwrap();
        let dir = StateDir::new(&outer.path().join("state"));
        dir.create().unwrap();
        (outer, dir)
    }

    #[test]
    fn a_second_locker_is_told_who_the_first_is() {
        let (_outer, dir) = dir();
        let first = dir.lock().unwrap();
        let error = dir.lock().unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        // As a child has it between its beginning and its program's.
        let inherited = first.0.try_clone().unwrap();
        drop(first);
        dir.lock().unwrap();
        drop(inherited);
    }

    #[test]
    fn a_directory_that_others_can_use_is_refused() {
        let (_outer, dir) = dir();
        dir.check().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o750)).unwrap();
        let error = dir.check().unwrap_err().to_string();
        assert!(error.contains("chmod 700"), "{error}");
    }

    #[test]
    fn private_files_are_private_and_never_overwritten_by_accident() {
        let (_outer, dir) = dir();
        let path = dir.admin_key();
        create_private(&path, b"one").unwrap();
        assert!(create_private(&path, b"two").is_err());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        replace_private(&path, b"two").unwrap();
        // What is not a file is not replaced by one.
        let socket = dir.socket();
        let _bound = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
        assert!(replace_private(&socket, b"two").unwrap_err().to_string().contains("not a file"));
        assert!(!fs::metadata(&socket).unwrap().is_file());
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_is_inside_is_known_by_any_path_also_before_it_is_there() {
        let outer = tempfile::tempdir().unwrap();
        let (state, link) = (outer.path().join("state"), outer.path().join("link"));
        let roundabout = outer.path().join("state/../state/./key");
        for there in [false, true] {
            if there {
                fs::create_dir(&state).unwrap();
                std::os::unix::fs::symlink(&state, &link).unwrap();
                assert!(is_inside(&link.join("key"), &state) && is_inside(&state.join("key"), &link));
            }
            assert!(is_inside(&state.join("key"), &state), "there: {there}");
            assert!(is_inside(&state.join("deeper/key"), &state), "there: {there}");
            assert!(is_inside(&roundabout, &state), "there: {there}");
            assert!(!is_inside(&outer.path().join("state.key"), &state), "there: {there}");
            assert!(!is_inside(&outer.path().join("nowhere/key"), &state), "there: {there}");
        }
        // A link to what is inside is the thing itself.
        fs::write(state.join("key"), "").unwrap();
        let key = outer.path().join("key");
        std::os::unix::fs::symlink(state.join("key"), &key).unwrap();
        assert!(is_inside(&key, &state));
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let (_outer, dir) = dir();
        let [path, _] = dir.clear_keys();
        create_private(&path, Identity::generate().unwrap().to_pem().expose().as_bytes()).unwrap();
        StateDir::read_key(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(StateDir::read_key(&path).unwrap_err().to_string().contains("read by others"));
    }
}

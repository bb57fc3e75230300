//! One writer per cluster.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use super::files;
use super::paths::ClusterDir;

/// The right to change a cluster; given back when dropped or when the process
/// ends, however it does.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes it, making the cluster's directory; fails when another run has it.
    /// `doing` is what that run will be told.
    pub fn take(dir: &ClusterDir, doing: &str) -> Result<Self> {
        loop {
            crate::run::dirs::create_private(dir.path())?;
            match Self::try_take(dir, doing) {
                // The directory went away between the two steps: another run's
                // `down` just ended.
                Err(error) if is_not_found(&error) => {}
                Ok(None) => {}
                Ok(Some(lock)) => return Ok(lock),
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether a run has it now, and what it says it does.
    pub fn holder(dir: &ClusterDir) -> Option<String> {
        let mut file = File::open(dir.lock()).ok()?;
        match file.try_lock_shared() {
            Err(std::fs::TryLockError::WouldBlock) => Some(described(&mut file)),
            _ => None,
        }
    }

    fn try_take(dir: &ClusterDir, doing: &str) -> Result<Option<Self>> {
        let path = dir.lock();
        let locking = || format!("taking the lock {}", path.display());
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).with_context(locking)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                let who = described(&mut file);
                bail!("the cluster is busy: {who}; wait for it, or end it with Ctrl-C");
            }
            Err(std::fs::TryLockError::Error(error)) => return Err(error).with_context(locking),
        }
        // A file that was removed while we waited locks nothing.
        let ours = file.metadata().with_context(locking)?;
        if std::fs::metadata(&path).map(|there| (there.dev(), there.ino())).ok()
            != Some((ours.dev(), ours.ino()))
        {
            return Ok(None);
        }
        file.set_len(0).with_context(locking)?;
        write!(file, "{doing} (pid {})", std::process::id()).with_context(locking)?;
        Ok(Some(Self { file, path }))
    }

    /// Gives it back and removes its file.
    pub fn remove(self) -> Result<()> {
        files::remove(&self.path)?;
        drop(self.file);
        Ok(())
    }
}

fn is_not_found(error: &anyhow::Error) -> bool {
    let found = error.downcast_ref::<std::io::Error>();
    found.is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

fn described(file: &mut File) -> String {
    let mut text = String::new();
    let _ = file.take(200).read_to_string(&mut text);
    if text.is_empty() { "another run works on it".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::paths::StateDir;

    #[test]
    fn one_run_at_a_time_and_the_other_is_told_who() {
        let state = tempfile::tempdir().unwrap();
        let dir = StateDir::resolve(Some(state.path().into())).unwrap().cluster(&"home".parse().unwrap());
        assert_eq!(Lock::holder(&dir), None);
        let lock = Lock::take(&dir, "builder up").unwrap();
        let error = Lock::take(&dir, "builder down").unwrap_err().to_string();
        assert!(error.contains("builder up (pid "), "{error}");
        assert!(Lock::holder(&dir).unwrap().starts_with("builder up"));
        drop(lock);
        assert_eq!(Lock::holder(&dir), None);
        Lock::take(&dir, "builder down").unwrap().remove().unwrap();
        assert!(!dir.lock().exists());
        Lock::take(&dir, "builder up").unwrap();
    }
}

//! Files: written whole or not at all, and found by who waits for them.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use data_encoding::HEXLOWER;
use tracing::info;

/// How long k3s waits for a token file that is not there yet
/// (k3s-io/k3s `pkg/util/file.go`).
const FILE_WAIT: Duration = Duration::from_secs(4 * 60);

/// Replaces a file by a rename; content and name are on the disk afterwards.
pub(crate) fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let try_it = || -> Result<()> {
        let directory = path.parent().context("it has no directory")?;
        make_directory(directory, 0o755)?;
        let mut name = path.file_name().context("it has no name")?.to_owned();
        name.push(".tmp");
        let temporary = directory.join(name);
        // Left by a crash, and perhaps with another mode.
        if temporary.exists() {
            fs::remove_file(&temporary)?;
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(content)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(directory)?.sync_all()?;
        Ok(())
    };
    try_it().with_context(|| format!("writing {}", path.display()))
}

/// Makes a directory of this mode, and those above it for all to look into.
/// One that is there keeps its mode.
pub(crate) fn make_directory(path: &Path, mode: u32) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
        make_directory(above, 0o755)?;
    }
    let result = fs::DirBuilder::new().mode(mode).create(path);
    result.with_context(|| format!("making directory {}", path.display()))
}

/// Makes `link` a symbolic link to `target`, whatever it was before.
pub(crate) fn link(target: &Path, link: &Path) -> Result<()> {
    if fs::read_link(link).is_ok_and(|now| now == target) {
        return Ok(());
    }
    if fs::symlink_metadata(link).is_ok() {
        fs::remove_file(link).with_context(|| format!("removing {}", link.display()))?;
    }
    symlink(target, link).with_context(|| format!("linking {} to {}", link.display(), target.display()))
}

/// Reads a file without the space around its text; one that is not there yet
/// is waited for.
pub(crate) fn read_when_there(path: &Path) -> Result<String> {
    let deadline = Instant::now() + FILE_WAIT;
    loop {
        match fs::read_to_string(path) {
            Ok(text) => return Ok(text.trim().to_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if Instant::now() >= deadline {
                    bail!("Timeout while trying to read the file {}", path.display());
                }
                info!("Waiting for {} to be available", path.display());
                thread::sleep(Duration::from_secs(2));
            }
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }
}

/// Random bytes in hexadecimal.
pub(crate) fn random_hex(bytes: usize) -> Result<String> {
    use ring::rand::{SecureRandom as _, SystemRandom};
    let mut random = vec![0; bytes];
    SystemRandom::new().fill(&mut random).ok().context("reading random bytes")?;
    Ok(HEXLOWER.encode(&random))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_with_its_mode() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("deep/file");
        write(&path, b"one", 0o644).expect("written");
        fs::write(directory.path().join("deep/file.tmp"), "left by a crash").expect("a leftover");
        write(&path, b"two", 0o600).expect("written again");
        assert_eq!(fs::read(&path).expect("content"), b"two");
        assert_eq!(fs::metadata(&path).expect("metadata").permissions().mode() & 0o777, 0o600);
        assert!(!directory.path().join("deep/file.tmp").exists());
    }

    #[test]
    fn a_link_replaces_a_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let (token, node_token) = (directory.path().join("token"), directory.path().join("node-token"));
        fs::write(&token, "t").expect("a file");
        fs::write(&node_token, "old").expect("a file");
        for _ in 0..2 {
            link(&token, &node_token).expect("linked");
            assert_eq!(fs::read_to_string(&node_token).expect("content"), "t");
        }
    }

    #[test]
    fn text_comes_without_the_space_around_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token");
        fs::write(&path, " secret\n\n").expect("a file");
        assert_eq!(read_when_there(&path).expect("text"), "secret");
    }

    #[test]
    fn random_digits_are_two_a_byte() {
        assert_eq!(random_hex(16).expect("random").len(), 32);
    }
}

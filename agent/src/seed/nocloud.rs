//! A volume labelled `cidata` whose file `user-data` is the seed (the layout
//! cloud-init calls `NoCloud`). A provider attaches it as a CD or a small disk.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use kiln_protocol::seed::MAX_SEED;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::Source;

const LABELS: [&str; 2] = ["cidata", "CIDATA"];
const FILE: &str = "user-data";
/// What such volumes are formatted with.
const FILE_SYSTEMS: [&str; 2] = ["iso9660", "vfat"];
/// A `user-data` that begins so belongs to cloud-init.
const FOREIGN: [&[u8]; 3] = [b"#cloud-config", b"#!", b"Content-Type:"];

/// Looks for the volume among the labels udev has seen.
#[derive(Debug)]
pub(crate) struct NoCloud {
    by_label: PathBuf,
    mount_point: PathBuf,
}

impl Default for NoCloud {
    fn default() -> Self {
        Self { by_label: "/dev/disk/by-label".into(), mount_point: "/run/kiln/seed".into() }
    }
}

impl Source for NoCloud {
    fn name(&self) -> &'static str {
        "the cidata volume"
    }

    fn look(&self) -> Result<Option<Vec<u8>>> {
        let Some(device) = LABELS.iter().map(|label| self.by_label.join(label)).find(|path| path.exists())
        else {
            return Ok(None);
        };
        let _mounted = Mounted::new(&device, &self.mount_point)?;
        of_volume(&self.mount_point)
    }
}

/// What is ours in a mounted volume.
pub(crate) fn of_volume(volume: &Path) -> Result<Option<Vec<u8>>> {
    Ok(read(volume)?.filter(|bytes| !FOREIGN.iter().any(|mark| bytes.starts_with(mark))))
}

/// The file in a mounted volume.
fn read(volume: &Path) -> Result<Option<Vec<u8>>> {
    let path = volume.join(FILE);
    let Ok(metadata) = fs::symlink_metadata(&path) else { return Ok(None) };
    if !metadata.is_file() {
        bail!("{FILE} is not a file");
    }
    let mut bytes = Vec::new();
    File::open(&path)
        .and_then(|file| file.take(MAX_SEED as u64 + 1).read_to_end(&mut bytes))
        .with_context(|| format!("reading {FILE}"))?;
    Ok(Some(bytes))
}

/// A volume that is mounted, read-only, as long as this lives.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn new(device: &Path, at: &'a Path) -> Result<Self> {
        let mounting = || format!("mounting {}", device.display());
        fs::create_dir_all(at).with_context(mounting)?;
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID;
        let mut errors = Vec::new();
        for kind in FILE_SYSTEMS {
            match mount(Some(device), at, Some(kind), flags, None::<&str>) {
                Ok(()) => return Ok(Self(at)),
                Err(error) => errors.push(format!("as {kind}: {}", error.desc())),
            }
        }
        bail!("{}: {}", mounting(), errors.join(", "))
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // Detached, so that a busy file system cannot keep it.
        if let Err(error) = umount2(self.0, MntFlags::MNT_DETACH) {
            tracing::warn!("unmounting the seed volume: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn no_volume_is_no_error() {
        let dir = crate::testing::tempdir().unwrap();
        let source = NoCloud { by_label: dir.path().to_owned(), mount_point: dir.path().join("mnt") };
        assert_eq!(source.look().unwrap(), None);
    }

    #[test]
    fn only_a_plain_file_is_read() {
        let dir = crate::testing::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        symlink("/etc/passwd", dir.path().join(FILE)).unwrap();
        assert!(read(dir.path()).is_err());
        fs::remove_file(dir.path().join(FILE)).unwrap();
        fs::write(dir.path().join(FILE), vec![b'x'; MAX_SEED * 2]).unwrap();
        assert_eq!(read(dir.path()).unwrap().unwrap().len(), MAX_SEED + 1);
    }
}

//! The name of the disk below, from a qcow2 file's header (QEMU's
//! `docs/interop/qcow2.txt`): asked of the file itself, so that a disk nobody
//! wrote down counts too.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

const MAGIC: [u8; 4] = *b"QFI\xfb";
/// The format allows no longer name.
const LONGEST: u32 = 1023;

/// The disk `disk` lies over; none if it lies over none or is no qcow2 file.
pub fn of(disk: &Path) -> Option<PathBuf> {
    let mut file = File::open(disk).ok()?;
    let mut header = [0; 20];
    file.read_exact(&mut header).ok()?;
    let offset = u64::from_be_bytes(header[8..16].try_into().ok()?);
    let length = u32::from_be_bytes(header[16..20].try_into().ok()?);
    if header[..4] != MAGIC || offset == 0 || length == 0 || length > LONGEST {
        return None;
    }
    file.seek(SeekFrom::Start(offset)).ok()?;
    let mut name = Vec::new();
    file.take(u64::from(length)).read_to_end(&mut name).ok()?;
    let name = String::from_utf8(name).ok()?;
    // A relative name is relative to the disk that bears it.
    Some(disk.parent()?.join(name.strip_prefix("file:").unwrap_or(&name)))
}

/// All qcow2 files below `dir` that lie over another, with what they lie over.
pub fn all_below(dir: &Path) -> Vec<(PathBuf, PathBuf)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(all_below(&path)),
            Ok(kind) if kind.is_file() => found.extend(of(&path).map(|below| (path, below))),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A header over a disk of that name.
    pub(in super::super) fn header(below: &str) -> Vec<u8> {
        let mut bytes = [&MAGIC[..], &3_u32.to_be_bytes(), &104_u64.to_be_bytes()].concat();
        bytes.extend(u32::try_from(below.len()).unwrap().to_be_bytes());
        bytes.resize(104, 0);
        bytes.extend(below.as_bytes());
        bytes
    }

    #[test]
    fn the_disk_below_is_read_from_the_header() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("deep/disk.qcow2");
        std::fs::create_dir(dir.path().join("deep")).unwrap();
        for (below, path) in
            [("/a/disk.qcow2", PathBuf::from("/a/disk.qcow2")), ("b", dir.path().join("deep/b"))]
        {
            std::fs::write(&disk, header(below)).unwrap();
            assert_eq!(of(&disk), Some(path.clone()));
            assert_eq!(all_below(dir.path()), [(disk.clone(), path)]);
        }
        for none in [&b""[..], b"QFI\xfb", &header("")[..], b"not a qcow2 file at all, but long enough"] {
            std::fs::write(&disk, none).unwrap();
            assert_eq!(of(&disk), None);
        }
    }

    #[test]
    fn what_qemu_img_made_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let (base, over) = (dir.path().join("base.qcow2"), dir.path().join("over.qcow2"));
        let qemu_img = |args: &[&std::ffi::OsStr]| {
            let mut command = std::process::Command::new("qemu-img");
            assert!(command.args(["create", "-q", "-f", "qcow2"]).args(args).status().unwrap().success());
        };
        qemu_img(&[base.as_ref(), "1M".as_ref()]);
        qemu_img(&["-b".as_ref(), base.as_ref(), "-F".as_ref(), "qcow2".as_ref(), over.as_ref()]);
        assert_eq!((of(&base), of(&over)), (None, Some(base)));
    }

    proptest! {
        #[test]
        fn any_header_is_read_without_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), magic in any::<bool>()) {
            if magic && bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&MAGIC);
            }
            let dir = tempfile::tempdir().unwrap();
            let disk = dir.path().join("d");
            std::fs::write(&disk, bytes).unwrap();
            let _ = of(&disk);
        }
    }
}

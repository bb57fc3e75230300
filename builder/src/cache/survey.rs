//! What there is in a cache.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use jiff::Timestamp;

use super::{Entry, Kind, backing};
use crate::bake::store::{DISK, Made, locks_dir};
use crate::inputs::cache::first_file;
use crate::inputs::fetch::partial;
use crate::run::lock::{Lock, Mode};

/// Everything in the cache, oldest use first. A machine's disk in a run that
/// was kept counts as lying over a stage's.
pub fn survey(cache: &Path) -> Result<Vec<Entry>> {
    let mut over: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    for place in ["stages", "tmp"] {
        for (disk, below) in backing::all_below(&cache.join(place)) {
            // One file has many names: by the way there, in full, through links.
            if let Ok(below) = below.canonicalize() {
                over.entry(below).or_default().push(disk);
            }
        }
    }
    let mut entries = Vec::new();
    for path in children(&cache.join("inputs")) {
        let name = first_file(&path).unwrap_or_else(|| path.clone());
        entries.push(entry(cache, Kind::Input, base_name(&name), path)?);
    }
    for path in children(&cache.join("media")) {
        let name = format!("kernel and initrd of {}", short(&path));
        entries.push(entry(cache, Kind::Media, name, path)?);
    }
    for (kind, stage) in [(Kind::Os, "os"), (Kind::Node, "node")] {
        for path in children(&cache.join("stages").join(stage)) {
            let made = record(&path).map(|made| made.version).filter(|version| !version.is_empty());
            let name = made.map_or_else(|| short(&path), |version| format!("{} {}", short(&path), version));
            let mut entry = entry(cache, kind, name, path)?;
            let disk = entry.path.join(DISK).canonicalize().ok();
            entry.below = disk.and_then(|disk| over.remove(&disk)).unwrap_or_default();
            entries.push(entry);
        }
    }
    for partial in partial::find(cache)? {
        let name = partial.url.clone().unwrap_or_else(|| base_name(&partial.dir));
        entries.push(Entry {
            kind: Kind::Partial,
            name,
            size: partial.size,
            last_used: partial.used,
            in_use: partial.held,
            below: Vec::new(),
            lock: Some(partial.lock().to_owned()),
            path: partial.dir,
        });
    }
    for path in children(&cache.join("quarantine")) {
        entries.push(entry(cache, Kind::Quarantine, base_name(&path), path)?);
    }
    entries.sort_by(|a, b| (a.last_used, &a.path).cmp(&(b.last_used, &b.path)));
    Ok(entries)
}

/// What is written down beside a stage's disk.
pub(super) fn record(dir: &Path) -> Option<Made> {
    serde_json::from_slice(&std::fs::read(dir.join("result.json")).ok()?).ok()
}

fn entry(cache: &Path, kind: Kind, name: String, path: PathBuf) -> Result<Entry> {
    let key = base_name(&path);
    let lock = match kind {
        Kind::Input => Some(format!("input-{key}")),
        Kind::Media => Some(format!("media-{key}")),
        Kind::Os => Some(format!("os-{key}")),
        Kind::Node => Some(format!("node-{key}")),
        Kind::Partial | Kind::Quarantine => None,
    };
    let lock = lock.map(|name| locks_dir(cache).join(name));
    let in_use = match &lock {
        Some(lock) => Lock::try_acquire(lock, Mode::Exclusive)?.is_none(),
        None => false,
    };
    let used = std::fs::metadata(&path).and_then(|metadata| metadata.modified()).ok();
    let last_used = used.and_then(|at| at.try_into().ok()).unwrap_or(Timestamp::UNIX_EPOCH);
    Ok(Entry { kind, name, size: size(&path), last_used, in_use, below: Vec::new(), lock, path })
}

/// What a directory's files take up on the disk, in bytes; a file with two
/// names counts once.
fn size(path: &Path) -> u64 {
    let mut files = BTreeMap::new();
    collect(path, &mut files);
    files.values().sum()
}

fn collect(path: &Path, files: &mut BTreeMap<(u64, u64), u64>) {
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return };
    if metadata.is_dir() {
        for child in children(path) {
            collect(&child, files);
        }
    } else {
        files.insert((metadata.dev(), metadata.ino()), metadata.blocks() * 512);
    }
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn base_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Enough of a digest to tell two apart.
fn short(path: &Path) -> String {
    base_name(path).chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::super::backing::tests::header;
    use super::*;
    use std::fs;

    #[test]
    fn a_disk_is_below_another_by_whatever_name() {
        let home = tempfile::tempdir().unwrap();
        let (real, link) = (home.path().join("real"), home.path().join("link"));
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let disk = |cache: &Path, name: &str| cache.join("stages").join(name).join(DISK);
        for name in ["os/k", "node/way", "node/full", "node/gone"] {
            fs::create_dir_all(disk(&real, name).parent().unwrap()).unwrap();
        }
        fs::write(disk(&real, "os/k"), b"installed").unwrap();
        fs::write(disk(&real, "node/way"), header("../../os/k/disk.qcow2")).unwrap();
        fs::write(disk(&real, "node/full"), header(disk(&real, "os/k").to_str().unwrap())).unwrap();
        fs::write(disk(&real, "node/gone"), header("../../os/gone/disk.qcow2")).unwrap();
        for cache in [&real, &link] {
            let entries = survey(cache).unwrap();
            let os = entries.iter().find(|entry| entry.kind == Kind::Os).unwrap();
            let mut below = os.below.clone();
            below.sort();
            assert_eq!(below, [disk(cache, "node/full"), disk(cache, "node/way")]);
        }
    }
}

//! A disk of memory, on which recorded calls are done again.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::Call;

/// A sector is written whole or not at all.
const SECTOR: usize = 512;

/// What a crash takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Nothing: the process was killed.
    None,
    /// All that was not synced: the power failed.
    Unsynced,
    /// Some of what was not synced: the power failed while it was being written.
    Torn,
}

impl Loss {
    /// Each.
    pub const ALL: [Self; 3] = [Self::None, Self::Unsynced, Self::Torn];
}

/// Files and directories, relative to the directory that was recorded.
#[derive(Debug, PartialEq, Eq)]
pub struct Disk {
    directories: Vec<PathBuf>,
    files: BTreeMap<PathBuf, Vec<u8>>,
}

#[derive(Debug, Default)]
struct Inode {
    content: Vec<u8>,
    synced: Vec<u8>,
    /// What was done since the last sync.
    since: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write(offset, bytes) => {
                let end = offset + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*offset..end].copy_from_slice(bytes);
            }
            Self::Length(length) => content.resize(*length, 0),
        }
    }

    /// Half of it, in whole sectors.
    fn half(&self) -> Self {
        match self {
            Self::Write(offset, bytes) => {
                Self::Write(*offset, bytes[..bytes.len() / 2 / SECTOR * SECTOR].to_vec())
            }
            Self::Length(length) => Self::Length(*length),
        }
    }
}

/// Names and what they lead to.
type Names = BTreeMap<PathBuf, usize>;

#[derive(Debug, Default)]
struct Replay {
    inodes: Vec<Inode>,
    names: Names,
    synced_names: Names,
    directories: Vec<PathBuf>,
}

impl Replay {
    fn call(&mut self, call: &Call) {
        match call {
            Call::Create(file) => {
                if !self.names.contains_key(file) {
                    self.names.insert(file.clone(), self.inodes.len());
                    self.inodes.push(Inode::default());
                }
            }
            Call::Directory(dir) => self.directories.push(dir.clone()),
            Call::Write { file, offset, bytes } => self.change(file, Change::Write(*offset, bytes.clone())),
            Call::Truncate { file, length } => self.change(file, Change::Length(*length)),
            Call::Sync(path) => self.sync(path),
            Call::Rename { from, to } => self.rename(from, to),
            Call::Remove(file) => {
                self.names.remove(file);
            }
            Call::Sent | Call::Said(_) | Call::Answered(_) => {}
        }
    }

    fn change(&mut self, file: &Path, change: Change) {
        // A file that was removed while it was open is nobody's any more.
        let Some(&inode) = self.names.get(file) else { return };
        let inode = &mut self.inodes[inode];
        change.apply(&mut inode.content);
        inode.since.push(change);
    }

    fn sync(&mut self, path: &Path) {
        if let Some(&inode) = self.names.get(path) {
            let inode = &mut self.inodes[inode];
            inode.synced.clone_from(&inode.content);
            inode.since.clear();
            return;
        }
        let within = |name: &PathBuf| name.parent() == Some(path);
        self.synced_names.retain(|name, _| !within(name));
        let now = self.names.iter().filter(|(name, _)| within(name));
        self.synced_names.extend(now.map(|(name, inode)| (name.clone(), *inode)));
    }

    fn rename(&mut self, from: &Path, to: &Path) {
        if let Some(inode) = self.names.remove(from) {
            self.names.insert(to.to_owned(), inode);
            return;
        }
        // A directory takes along what is in it.
        let moved = |path: &PathBuf| match path.strip_prefix(from) {
            Ok(rest) if rest.as_os_str().is_empty() => to.to_owned(),
            Ok(rest) => to.join(rest),
            Err(_) => path.clone(),
        };
        for names in [&mut self.names, &mut self.synced_names] {
            *names = std::mem::take(names).iter().map(|(name, inode)| (moved(name), *inode)).collect();
        }
        self.directories = self.directories.iter().map(moved).collect();
    }
}

impl Disk {
    pub(super) fn after(calls: &[Call], dir: &Path, loss: Loss) -> Self {
        let mut replay = Replay::default();
        for call in calls {
            replay.call(call);
        }
        let Replay { inodes, names, synced_names, directories } = replay;
        let names = if loss == Loss::Unsynced { synced_names } else { names };
        let relative = |path: &PathBuf| path.strip_prefix(dir).map(Path::to_owned).unwrap_or_default();
        let content = |inode: &Inode| match loss {
            Loss::None => inode.content.clone(),
            Loss::Unsynced => inode.synced.clone(),
            Loss::Torn => torn(inode),
        };
        Self {
            directories: directories.iter().map(relative).collect(),
            files: names.iter().map(|(name, inode)| (relative(name), content(&inodes[*inode]))).collect(),
        }
    }

    /// Makes real files of it, as private as a state's are.
    pub fn write_to(&self, dir: &Path) -> Result<()> {
        for directory in &self.directories {
            let path = dir.join(directory);
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.with_context(|| format!("making {}", path.display()))?;
        }
        for (name, content) in &self.files {
            let path = dir.join(name);
            let file = fs::File::options().write(true).create_new(true).mode(0o600).open(&path);
            std::io::Write::write_all(
                &mut file.with_context(|| format!("making {}", path.display()))?,
                content,
            )
            .with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }

    pub(super) fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.directories, &self.files).hash(&mut hasher);
        hasher.finish()
    }
}

/// What is left of a file that was being written.
fn torn(inode: &Inode) -> Vec<u8> {
    let mut content = inode.synced.clone();
    let Some((last, before)) = inode.since.split_last() else { return content };
    before.iter().step_by(2).for_each(|change| change.apply(&mut content));
    last.half().apply(&mut content);
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> PathBuf {
        Path::new("/d").join(name)
    }

    fn write(file: &str, offset: usize, bytes: &[u8]) -> Call {
        Call::Write { file: path(file), offset, bytes: bytes.to_vec() }
    }

    fn files(calls: &[Call], loss: Loss) -> Vec<(String, Vec<u8>)> {
        let disk = Disk::after(calls, Path::new("/d"), loss);
        disk.files.into_iter().map(|(name, content)| (name.display().to_string(), content)).collect()
    }

    #[test]
    fn a_power_failure_takes_what_was_not_synced_and_names_whose_directory_was_not() {
        let mut calls = vec![Call::Create(path("a")), write("a", 0, b"one"), Call::Sync(path("a"))];
        assert_eq!(files(&calls, Loss::Unsynced), []);
        assert_eq!(files(&calls, Loss::None), [("a".to_owned(), b"one".to_vec())]);
        calls.extend([Call::Sync("/d".into()), write("a", 3, b"two")]);
        assert_eq!(files(&calls, Loss::Unsynced), [("a".to_owned(), b"one".to_vec())]);
        assert_eq!(files(&calls, Loss::None), [("a".to_owned(), b"onetwo".to_vec())]);
        calls.push(Call::Rename { from: path("a"), to: path("b") });
        assert_eq!(files(&calls, Loss::Unsynced), [("a".to_owned(), b"one".to_vec())]);
        assert_eq!(files(&calls, Loss::Torn)[0].0, "b");
        calls.push(Call::Sync("/d".into()));
        assert_eq!(files(&calls, Loss::Unsynced), [("b".to_owned(), b"one".to_vec())]);
    }

    #[test]
    fn a_torn_write_leaves_whole_sectors_and_every_second_write() {
        let calls = [
            Call::Create(path("a")),
            write("a", 0, &[1; 10]),
            write("a", 10, &[2; 10]),
            write("a", 20, &[3; 4 * SECTOR]),
        ];
        let torn = &files(&calls, Loss::Torn)[0].1;
        assert_eq!(torn.len(), 20 + 2 * SECTOR);
        assert_eq!((&torn[..10], &torn[10..20], torn[20]), (&[1; 10][..], &[0; 10][..], 3));
    }

    #[test]
    fn a_directory_takes_its_files_along() {
        let calls = [
            Call::Directory(path("new")),
            Call::Create(path("new/a")),
            Call::Sync(path("new")),
            Call::Rename { from: path("new"), to: path("state") },
        ];
        for loss in Loss::ALL {
            assert_eq!(files(&calls, loss), [("state/a".to_owned(), Vec::new())], "{loss:?}");
        }
    }
}

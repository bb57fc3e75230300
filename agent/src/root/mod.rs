//! A directory that is taken for `/`, and everything done to files in it.
//!
//! Paths are resolved by the kernel inside the root (openat2(2) with
//! `RESOLVE_IN_ROOT`): an absolute symlink in a mounted system means that
//! system's file and never one of the host it is mounted on. Whatever is
//! written is there whole or not at all, and is on the disk when the call
//! returns: temporary file, fsync, rename, fsync of the directory.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// Added to a name while the file behind it is being written. A run that was
/// cut short leaves at most this, and the next run writes over it.
const UNFINISHED: &str = ".kiln-new";

/// A directory taken for `/`.
#[derive(Debug)]
pub struct Root {
    dir: OwnedFd,
    path: PathBuf,
}

/// What a name stands for. A symlink stands for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) kind: FileType,
    pub(crate) len: u64,
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Who owns a file, and who may do what with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Access {
    /// Owned by whoever the agent runs as, which is root outside of tests.
    pub(crate) fn ours(mode: u32) -> Self {
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        Self { mode, uid: uid.as_raw(), gid: gid.as_raw() }
    }
}

impl Root {
    /// Another handle to the same root.
    pub(crate) fn another(&self) -> Result<Self> {
        let dir = self.dir.try_clone().with_context(|| format!("opening {} again", self.path.display()))?;
        Ok(Self { dir, path: self.path.clone() })
    }

    /// Opens the directory `path`.
    pub fn open(path: &Path) -> Result<Self> {
        let dir = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .with_context(|| format!("opening the root directory {}", path.display()))?;
        Ok(Self { dir, path: path.to_owned() })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `path` as seen from outside, for messages.
    pub(crate) fn shown(&self, path: impl AsRef<Path>) -> impl Display {
        let path = path.as_ref();
        self.path.join(path.strip_prefix("/").unwrap_or(path)).display().to_string()
    }

    fn open_in(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let path = if path.as_os_str().is_empty() { Path::new("/") } else { path };
        loop {
            match rustix::fs::openat2(&self.dir, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                // Something was renamed while the kernel followed "..".
                Err(Errno::AGAIN) => {}
                other => return other,
            }
        }
    }

    /// The directory `path` lies in, and its last component.
    fn parent<'a>(&self, path: &'a Path) -> Result<Option<(OwnedFd, &'a OsStr)>> {
        let name = path.file_name().with_context(|| format!("{} has no file name", path.display()))?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        let opened = absent_is_none(self.open_in(parent, OFlags::PATH | OFlags::DIRECTORY))
            .with_context(|| format!("opening {}", self.shown(parent)))?;
        Ok(opened.map(|dir| (dir, name)))
    }

    fn existing_parent<'a>(&self, path: &'a Path) -> Result<(OwnedFd, &'a OsStr)> {
        self.parent(path)?.with_context(|| format!("{} is in no directory", self.shown(path)))
    }

    /// What `path` is, without following a symlink at its end.
    pub(crate) fn meta(&self, path: impl AsRef<Path>) -> Result<Option<Meta>> {
        let path = path.as_ref();
        let Some((dir, name)) = self.parent(path)? else { return Ok(None) };
        let stat = absent_is_none(rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW));
        Ok(stat.with_context(|| format!("looking at {}", self.shown(path)))?.map(|stat| meta_of(&stat)))
    }

    /// The text of a symlink; `None` if it is none, or nothing is there.
    pub(crate) fn link_target(&self, path: impl AsRef<Path>) -> Result<Option<PathBuf>> {
        let path = path.as_ref();
        let Some((dir, name)) = self.parent(path)? else { return Ok(None) };
        let target = match rustix::fs::readlinkat(&dir, name, Vec::new()) {
            Err(Errno::INVAL) => None,
            other => {
                absent_is_none(other).with_context(|| format!("reading the symlink {}", self.shown(path)))?
            }
        };
        Ok(target.map(|target| PathBuf::from(OsString::from_vec(target.into_bytes()))))
    }

    /// Opens a file for reading, following symlinks inside the root.
    pub(crate) fn open_file(&self, path: impl AsRef<Path>) -> Result<Option<File>> {
        let path = path.as_ref();
        let opened = absent_is_none(self.open_in(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY));
        Ok(opened.with_context(|| format!("opening {}", self.shown(path)))?.map(File::from))
    }

    /// A file's content, following symlinks inside the root; `None` if there
    /// is no such file.
    pub(crate) fn read(&self, path: impl AsRef<Path>) -> Result<Option<Vec<u8>>> {
        let path = path.as_ref();
        let Some(mut file) = self.open_file(path)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).with_context(|| format!("reading {}", self.shown(path)))?;
        Ok(Some(bytes))
    }

    /// A file's content as text.
    pub(crate) fn read_text(&self, path: impl AsRef<Path>) -> Result<Option<String>> {
        let path = path.as_ref();
        let text = self.read(path)?.map(String::from_utf8).transpose();
        text.with_context(|| format!("reading {} as text", self.shown(path)))
    }

    /// The names in a directory, sorted; none if it is not there.
    pub(crate) fn names(&self, dir: impl AsRef<Path>) -> Result<Vec<OsString>> {
        let path = dir.as_ref();
        let dir = match self.open_in(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
            other => other.with_context(|| format!("opening {}", self.shown(path)))?,
        };
        names_in(&dir).with_context(|| format!("listing {}", self.shown(path)))
    }

    /// Makes a directory and those above it that are missing, all with `mode`.
    pub(crate) fn make_dirs(&self, path: impl AsRef<Path>, mode: u32) -> Result<()> {
        let mut so_far = PathBuf::from("/");
        for part in path.as_ref().strip_prefix("/").unwrap_or(path.as_ref()) {
            so_far.push(part);
            self.make_dir(&so_far, mode)?;
        }
        Ok(())
    }

    fn make_dir(&self, path: &Path, mode: u32) -> Result<()> {
        // A symlink to a directory counts as one: /var/run, for instance.
        match self.open_in(path, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(_) => return Ok(()),
            Err(Errno::NOENT) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("opening the directory {}", self.shown(path)));
            }
        }
        let making = || format!("making the directory {}", self.shown(path));
        power_cut().with_context(making)?;
        let (parent, name) = self.existing_parent(path)?;
        rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(mode)).with_context(making)?;
        // The umask may have taken bits away.
        rustix::fs::chmodat(&parent, name, Mode::from_raw_mode(mode), AtFlags::empty())
            .with_context(making)?;
        sync_dir(&parent).with_context(making)
    }

    /// Gives a directory to a user.
    pub(crate) fn own(&self, path: &Path, uid: u32, gid: u32) -> Result<()> {
        let (parent, name) = self.existing_parent(path)?;
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        rustix::fs::chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .with_context(|| format!("changing the owner of {}", self.shown(path)))
    }

    /// Sets the permission bits of a file or directory; not of what a symlink
    /// leads to.
    pub(crate) fn set_mode(&self, path: &Path, mode: u32) -> Result<()> {
        let setting = || format!("setting the mode of {}", self.shown(path));
        power_cut().with_context(setting)?;
        if self.meta(path)?.is_some_and(|meta| meta.kind == FileType::Symlink) {
            return Ok(());
        }
        let (parent, name) = self.existing_parent(path)?;
        rustix::fs::chmodat(&parent, name, Mode::from_raw_mode(mode), AtFlags::empty()).with_context(setting)
    }

    /// Gives a file exactly this content and access; says whether that
    /// changed anything. A symlink in its place is replaced, not followed.
    pub(crate) fn put(&self, path: impl AsRef<Path>, access: Access, bytes: &[u8]) -> Result<bool> {
        let path = path.as_ref();
        if let Some(meta) = self.meta(path)?
            && meta.kind == FileType::RegularFile
            && meta.len == bytes.len() as u64
            && (Access { mode: meta.mode, uid: meta.uid, gid: meta.gid }) == access
            && self.read(path)?.is_some_and(|found| found == bytes)
        {
            // Perhaps written by a run that was killed before it could sync.
            self.sync_file(path)?;
            return Ok(false);
        }
        self.put_from(path, access, &mut &*bytes)?;
        Ok(true)
    }

    /// Gives a file everything that `source` yields.
    pub(crate) fn put_from(&self, path: &Path, access: Access, source: &mut dyn Read) -> Result<()> {
        let writing = || format!("writing {}", self.shown(path));
        let (parent, name) = self.existing_parent(path)?;
        let unfinished = unfinished(name);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        power_cut().with_context(writing)?;
        let _ = absent_is_none(rustix::fs::unlinkat(&parent, &unfinished, AtFlags::empty()))
            .with_context(writing)?;
        let file = rustix::fs::openat(&parent, &unfinished, flags, Mode::RUSR | Mode::WUSR);
        let mut file = File::from(file.with_context(writing)?);
        power_cut().with_context(writing)?;
        io::copy(source, &mut file).with_context(writing)?;
        if access != Access::ours(access.mode) {
            std::os::unix::fs::fchown(&file, Some(access.uid), Some(access.gid)).with_context(writing)?;
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(access.mode)).with_context(writing)?;
        file.sync_all().with_context(writing)?;
        power_cut().with_context(writing)?;
        rustix::fs::renameat(&parent, &unfinished, &parent, name).with_context(writing)?;
        sync_dir(&parent).with_context(writing)
    }

    /// Makes sure that a file that is there already is on the disk.
    pub(crate) fn sync_file(&self, path: &Path) -> Result<()> {
        let syncing = || format!("syncing {}", self.shown(path));
        if let Some(file) = self.open_file(path)? {
            file.sync_all().with_context(syncing)?;
        }
        sync_dir(&self.existing_parent(path)?.0).with_context(syncing)
    }

    /// Makes `path` a symlink with the text `target`; says whether that
    /// changed anything.
    pub(crate) fn symlink(&self, path: impl AsRef<Path>, target: &str) -> Result<bool> {
        let path = path.as_ref();
        let linking = || format!("making the symlink {}", self.shown(path));
        let (parent, name) = self.existing_parent(path)?;
        if self.link_target(path)?.is_some_and(|found| found == Path::new(target)) {
            return Ok(false);
        }
        if self.meta(path)?.is_some_and(|meta| meta.kind == FileType::Directory) {
            bail!("{} is a directory where a symlink belongs", self.shown(path));
        }
        let unfinished = unfinished(name);
        power_cut().with_context(linking)?;
        let _ = absent_is_none(rustix::fs::unlinkat(&parent, &unfinished, AtFlags::empty()))
            .with_context(linking)?;
        rustix::fs::symlinkat(target, &parent, &unfinished).with_context(linking)?;
        power_cut().with_context(linking)?;
        rustix::fs::renameat(&parent, &unfinished, &parent, name).with_context(linking)?;
        sync_dir(&parent).with_context(linking)?;
        Ok(true)
    }

    /// Renames within a directory; a file that has the new name is replaced.
    pub(crate) fn rename(&self, from: &Path, to: &OsStr) -> Result<()> {
        let renaming = || format!("renaming {} to {}", self.shown(from), to.display());
        let (parent, name) = self.existing_parent(from)?;
        power_cut().with_context(renaming)?;
        rustix::fs::renameat(&parent, name, &parent, to).with_context(renaming)?;
        sync_dir(&parent).with_context(renaming)
    }

    /// Removes a file, a symlink, or a directory with everything in it.
    /// Symlinks are removed, never followed.
    pub(crate) fn remove(&self, path: &Path) -> Result<()> {
        let Some((parent, name)) = self.parent(path)? else { return Ok(()) };
        let removing = || format!("removing {}", self.shown(path));
        power_cut().with_context(removing)?;
        remove_tree(&parent, name).with_context(removing)?;
        sync_dir(&parent).with_context(removing)
    }

    /// Cuts a regular file to no length; owner, mode and label stay.
    pub(crate) fn truncate(&self, path: &Path) -> Result<()> {
        let truncating = || format!("emptying {}", self.shown(path));
        power_cut().with_context(truncating)?;
        let file = self.open_existing(path, OFlags::WRONLY | OFlags::TRUNC).with_context(truncating)?;
        file.sync_all().with_context(truncating)
    }

    /// Writes over the beginning of a file in place, for files whose blocks
    /// someone else knows by their place on the disk.
    pub(crate) fn overwrite(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let writing = || format!("writing {} in place", self.shown(path));
        power_cut().with_context(writing)?;
        let mut file = self.open_existing(path, OFlags::WRONLY).with_context(writing)?;
        file.write_all(bytes).with_context(writing)?;
        file.sync_all().with_context(writing)
    }

    /// Adds to the end of a file that is there.
    pub(crate) fn append(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let writing = || format!("writing to the end of {}", self.shown(path));
        power_cut().with_context(writing)?;
        let mut file = self.open_existing(path, OFlags::WRONLY | OFlags::APPEND).with_context(writing)?;
        file.write_all(bytes).with_context(writing)
    }

    fn open_existing(&self, path: &Path, flags: OFlags) -> Result<File> {
        let (parent, name) = self.existing_parent(path)?;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(&parent, name, flags, Mode::empty())?))
    }

    /// The raw value of an extended attribute of `path` itself.
    pub(crate) fn xattr(&self, path: &Path, name: &str) -> Result<Option<Vec<u8>>> {
        let (parent, last) = self.existing_parent(path)?;
        // There is no lgetxattrat before Linux 6.13.
        let through_fd = Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string()).join(last);
        let mut value = [0; 1024];
        match rustix::fs::lgetxattr(&through_fd, name, &mut value) {
            Ok(len) => Ok(Some(value[..len].to_vec())),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {name} of {}", self.shown(path))),
        }
    }

    /// Writes everything back to the disks that are mounted at these paths.
    pub(crate) fn sync(&self, mounts: &[&str]) -> Result<()> {
        for path in mounts {
            let syncing = || format!("syncing the file system of {}", self.shown(path));
            match self.open_in(Path::new(path), OFlags::RDONLY | OFlags::DIRECTORY) {
                Err(Errno::NOENT) => {}
                other => rustix::fs::syncfs(other.with_context(syncing)?).with_context(syncing)?,
            }
        }
        Ok(())
    }

    /// Bytes that may still be written to the file system of `path`, which
    /// must be there.
    pub(crate) fn free_space(&self, path: impl AsRef<Path>) -> Result<u64> {
        let path = path.as_ref();
        let asking = || format!("asking for the free space of {}", self.shown(path));
        let fd = self.open_in(path, OFlags::PATH).with_context(asking)?;
        let stat = rustix::fs::fstatvfs(&fd).with_context(asking)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }
}

/// Removes `name` in `parent` and everything below it.
fn remove_tree(parent: &OwnedFd, name: &OsStr) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    for inner in names_in(&dir)? {
        remove_tree(&dir, &inner)?;
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

fn names_in(dir: &OwnedFd) -> rustix::io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// fsync(2) of a directory that may have been opened with `O_PATH`.
fn sync_dir(dir: &OwnedFd) -> rustix::io::Result<()> {
    let dir = rustix::fs::openat(dir.as_fd(), ".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
    rustix::fs::fsync(&dir)
}

fn unfinished(name: &OsStr) -> OsString {
    let mut unfinished = OsString::from(".");
    unfinished.push(name);
    unfinished.push(UNFINISHED);
    unfinished
}

fn absent_is_none<T>(result: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}

fn meta_of(stat: &Stat) -> Meta {
    Meta {
        kind: FileType::from_raw_mode(stat.st_mode),
        len: stat.st_size.try_into().unwrap_or(0),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
    }
}

#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "tests cut the power here")]
fn power_cut() -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub(crate) use fuse::{Fuse, power_cut};

#[cfg(test)]
mod fuse;
#[cfg(test)]
mod tests;

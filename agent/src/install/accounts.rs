//! The account files of a root that does not run: `passwd`, `shadow`, `group`
//! and `gshadow`, changed line by line. `useradd` is not used: it would need
//! the root's own programs, and take a password's hash on its command line.

use anyhow::{Context as _, Result, bail};
use kiln_protocol::names::UserName;

use crate::root::{Access, Root};

const PASSWD: &str = "/etc/passwd";
pub(super) const SHADOW: &str = "/etc/shadow";
const GROUP: &str = "/etc/group";
const GSHADOW: &str = "/etc/gshadow";
/// Where useradd begins on EL 9 (`UID_MIN` of login.defs).
const FIRST_ID: u32 = 1000;
/// `nobody` and its like are above it.
const LAST_ID: u32 = 60_000;
/// A password nobody has. Unlike `!` it does not count as a locked account,
/// which sshd without PAM would turn away.
const NO_PASSWORD: &str = "*";

/// The files, as they were read and as they are to be.
#[derive(Debug)]
pub(super) struct Accounts {
    files: [File; 4],
}

#[derive(Debug)]
struct File {
    path: &'static str,
    access: Access,
    before: String,
    lines: Vec<String>,
}

/// An account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ids {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Accounts {
    pub(super) fn read(root: &Root) -> Result<Self> {
        let read = |path| -> Result<File> {
            let meta = root.meta(path)?.with_context(|| format!("{} is missing", root.shown(path)))?;
            let before = root.read_text(path)?.unwrap_or_default();
            let lines = before.lines().map(str::to_owned).collect();
            let access = Access { mode: meta.mode, uid: meta.uid, gid: meta.gid };
            Ok(File { path, access, before, lines })
        };
        Ok(Self { files: [read(PASSWD)?, read(SHADOW)?, read(GROUP)?, read(GSHADOW)?] })
    }

    /// Writes what changed; says whether anything did.
    pub(super) fn write(&self, root: &Root) -> Result<bool> {
        let mut changed = false;
        for file in &self.files {
            let text: String = file.lines.iter().flat_map(|line| [line, "\n"]).collect();
            if text != file.before {
                changed |= root.put(file.path, file.access, text.as_bytes())?;
            }
        }
        Ok(changed)
    }

    /// Takes root's password away, if it has one.
    pub(super) fn lock_root(mut self) -> Result<Self> {
        let root = self.field(SHADOW, "root", 1);
        let root = root.with_context(|| format!("{SHADOW} has no root"))?;
        if !root.starts_with(['!', '*']) {
            self.set(SHADOW, "root", 1, "!!");
        }
        Ok(self)
    }

    /// Makes the account with a group of its own, if it is not there, and
    /// gives it `password` (a hash) or none.
    pub(super) fn add(mut self, user: &UserName, password: Option<&str>) -> Result<(Self, Ids)> {
        let name = user.as_str();
        let ids = if let Some(uid) = self.number(PASSWD, name, 2) {
            let gid = self.number(PASSWD, name, 3).with_context(|| format!("{name} has no group"))?;
            Ids { uid, gid }
        } else {
            let id = self.free_id()?;
            self.line(PASSWD, name, &format!("{name}:x:{id}:{id}::/home/{name}:/bin/bash"));
            Ids { uid: id, gid: id }
        };
        if ids.uid < FIRST_ID {
            bail!("{name} is an account of the system itself: give the login another name");
        }
        if self.number(PASSWD, name, 3) == Some(ids.gid) && self.field(GROUP, name, 2).is_none() {
            self.line(GROUP, name, &format!("{name}:x:{}:", ids.gid));
            self.line(GSHADOW, name, &format!("{name}:!::"));
        }
        // No field of password ageing: a login for emergencies never expires.
        self.line(SHADOW, name, &format!("{name}:{}:::::::", password.unwrap_or(NO_PASSWORD)));
        self.set(SHADOW, name, 1, password.unwrap_or(NO_PASSWORD));
        Ok((self, ids))
    }

    /// An id that is neither a user's nor a group's.
    fn free_id(&self) -> Result<u32> {
        let taken = |id: u32| {
            let has =
                |path| self.lines(path).any(|line| nth(line, 2).and_then(|n| n.parse().ok()) == Some(id));
            has(PASSWD) || has(GROUP)
        };
        (FIRST_ID..LAST_ID).find(|id| !taken(*id)).context("every user id is taken")
    }

    fn lines<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a str> {
        self.files
            .iter()
            .filter(move |file| file.path == path)
            .flat_map(|file| &file.lines)
            .map(String::as_str)
    }

    fn field<'a>(&'a self, path: &'a str, name: &'a str, index: usize) -> Option<&'a str> {
        self.lines(path).find(|line| nth(line, 0) == Some(name)).and_then(|line| nth(line, index))
    }

    fn number(&self, path: &str, name: &str, index: usize) -> Option<u32> {
        self.field(path, name, index)?.parse().ok()
    }

    /// Adds a line for `name`, unless there is one.
    fn line(&mut self, path: &str, name: &str, line: &str) {
        if self.field(path, name, 0).is_none() {
            self.files
                .iter_mut()
                .filter(|file| file.path == path)
                .for_each(|file| file.lines.push(line.to_owned()));
        }
    }

    fn set(&mut self, path: &str, name: &str, index: usize, value: &str) {
        for line in self.files.iter_mut().filter(|file| file.path == path).flat_map(|file| &mut file.lines) {
            if nth(line, 0) == Some(name) {
                let mut fields: Vec<&str> = line.split(':').collect();
                if let Some(field) = fields.get_mut(index) {
                    *field = value;
                }
                *line = fields.join(":");
            }
        }
    }
}

fn nth(line: &str, index: usize) -> Option<&str> {
    line.split(':').nth(index)
}

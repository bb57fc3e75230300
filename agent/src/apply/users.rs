//! Logins: an account, and the keys that may log in to it.
//!
//! Nothing more is given: no password, no groups, no sudo. A key that has left
//! the configuration is taken away again; the account stays, with its files.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use kiln_protocol::names::{SshPublicKey, UserName};
use kiln_protocol::seed::SshUser;
use nix::unistd::User;

use crate::process;
use crate::root::{Access, Root};

const DIR: &str = "/.ssh";
const FILE: &str = "/.ssh/authorized_keys";

/// Makes the account if it is not there and adds its keys; returns what was
/// written below its home.
pub(crate) fn apply(user: &SshUser) -> Result<PathBuf> {
    let account = match find(&user.name)? {
        Some(account) => account,
        None => make(&user.name)?,
    };
    let home = Root::open(&account.dir)
        .with_context(|| format!("looking for the home of the user {}", user.name))?;
    add_keys(&home, account.uid.as_raw(), account.gid.as_raw(), &user.authorized_keys)
        .with_context(|| format!("adding ssh keys of the user {}", user.name))?;
    Ok(account.dir.join(".ssh"))
}

/// Takes keys away that [`apply`] added, and leaves the account and every
/// other line as they are; returns what was written.
pub(crate) fn remove(name: &UserName, keys: &[SshPublicKey]) -> Result<Option<PathBuf>> {
    let Some(account) = find(name)? else { return Ok(None) };
    let home =
        Root::open(&account.dir).with_context(|| format!("looking for the home of the user {name}"))?;
    remove_keys(&home, account.uid.as_raw(), account.gid.as_raw(), keys)
        .with_context(|| format!("taking ssh keys of the user {name} away"))?;
    Ok(Some(account.dir.join(".ssh")))
}

fn find(name: &UserName) -> Result<Option<User>> {
    User::from_name(name.as_str()).with_context(|| format!("looking for the user {name}"))
}

fn make(name: &UserName) -> Result<User> {
    process::run(process::command("useradd").args([
        "--create-home",
        "--user-group",
        "--shell",
        "/bin/bash",
        "--",
        name.as_str(),
    ]))
    .with_context(|| format!("making the user {name}"))?;
    find(name)?.with_context(|| format!("useradd made no user {name}"))
}

/// Adds keys to `.ssh/authorized_keys`. The home is the user's to write: no
/// symlink in it leads out of it.
fn add_keys(home: &Root, uid: u32, gid: u32, keys: &[SshPublicKey]) -> Result<()> {
    if home.meta(DIR)?.is_none() {
        home.make_dirs(DIR, 0o700)?;
        home.own(Path::new(DIR), uid, gid)?;
    }
    let before = home.read_text(FILE)?.unwrap_or_default();
    let after = merged(&before, keys);
    home.put(FILE, Access { mode: 0o600, uid, gid }, after.as_bytes()).map(|_| ())
}

fn remove_keys(home: &Root, uid: u32, gid: u32, keys: &[SshPublicKey]) -> Result<()> {
    let Some(before) = home.read_text(FILE)? else { return Ok(()) };
    let stays = |line: &&str| !keys.iter().any(|key| key.as_str() == *line);
    let after: String = before.lines().filter(stays).flat_map(|line| [line, "\n"]).collect();
    if after.lines().eq(before.lines()) {
        return Ok(());
    }
    home.put(FILE, Access { mode: 0o600, uid, gid }, after.as_bytes()).map(|_| ())
}

/// The lines that are there, and each key that is not among them.
fn merged(before: &str, keys: &[SshPublicKey]) -> String {
    let mut after = before.to_owned();
    for key in keys {
        if after.lines().any(|line| line == key.as_str()) {
            continue;
        }
        if !after.is_empty() && !after.ends_with('\n') {
            after.push('\n');
        }
        after.push_str(key.as_str());
        after.push('\n');
    }
    after
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn key(comment: &str) -> SshPublicKey {
        format!("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHlq {comment}").parse().unwrap()
    }

    #[test]
    fn keys_are_added_once_and_none_is_taken_away() {
        let (mine, new) = (key("mine"), key("new"));
        let once = merged("# by hand\nssh-rsa AAAA old", &[mine.clone(), new.clone()]);
        assert_eq!(once, format!("# by hand\nssh-rsa AAAA old\n{}\n{}\n", mine.as_str(), new.as_str()));
        assert_eq!(merged(&once, &[mine, new]), once);
    }

    #[test]
    fn taken_keys_are_gone_and_lines_by_hand_stay() {
        let dir = crate::testing::tempdir().unwrap();
        let (home, ours) = (Root::open(dir.path()).unwrap(), Access::ours(0));
        remove_keys(&home, ours.uid, ours.gid, &[key("x")]).unwrap();
        assert!(home.meta(FILE).unwrap().is_none(), "nothing is made to take something away");
        home.make_dirs(DIR, 0o700).unwrap();
        home.put(FILE, Access::ours(0o600), b"# by hand\nssh-rsa AAAA old").unwrap();
        add_keys(&home, ours.uid, ours.gid, &[key("x"), key("y")]).unwrap();
        remove_keys(&home, ours.uid, ours.gid, &[key("x")]).unwrap();
        let left = home.read_text(FILE).unwrap().unwrap();
        assert_eq!(left, format!("# by hand\nssh-rsa AAAA old\n{}\n", key("y").as_str()));
    }

    #[test]
    fn a_home_with_planted_links_is_no_way_out() {
        let dir = crate::testing::tempdir().unwrap();
        let outside = crate::testing::tempdir().unwrap();
        let ours = Access::ours(0);
        symlink(outside.path(), dir.path().join(".ssh")).unwrap();
        let home = Root::open(dir.path()).unwrap();
        assert!(add_keys(&home, ours.uid, ours.gid, &[key("x")]).is_err());
        fs::remove_file(dir.path().join(".ssh")).unwrap();

        add_keys(&home, ours.uid, ours.gid, &[key("x")]).unwrap();
        fs::remove_file(dir.path().join(".ssh/authorized_keys")).unwrap();
        fs::write(outside.path().join("victim"), "v").unwrap();
        symlink(outside.path().join("victim"), dir.path().join(".ssh/authorized_keys")).unwrap();
        add_keys(&home, ours.uid, ours.gid, &[key("x")]).unwrap();
        assert_eq!(fs::read(outside.path().join("victim")).unwrap(), b"v");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
        let mode = |path| home.meta(path).unwrap().unwrap().mode;
        assert_eq!((mode("/.ssh"), mode("/.ssh/authorized_keys")), (0o700, 0o600));
    }
}

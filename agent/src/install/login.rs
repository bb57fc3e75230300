//! The break-glass login: one account of the image itself, by which a node
//! can be looked into when nothing else works. There is none unless the image
//! was ordered with one.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use kiln_protocol::install::{Credential, Login};

use super::accounts::Accounts;
use super::report::Placed;
use crate::root::{Access, Root};

const SUDOERS: &str = "/etc/sudoers.d/kiln-break-glass";
const ACCOUNT_FILES: [&str; 4] = ["/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow"];

/// Where the keys of a login are: the one such place the seal leaves alone.
pub(super) fn keys_dir(login: &Login) -> Option<PathBuf> {
    match login.credential {
        Credential::SshKeys(_) => Some(home(login).join(".ssh")),
        Credential::PasswordHash(_) => None,
    }
}

fn home(login: &Login) -> PathBuf {
    Path::new("/home").join(login.user.as_str())
}

/// Makes the account; returns everything that belongs to it.
pub(super) fn apply(root: &Root, login: &Login) -> Result<Vec<Placed>> {
    let making = || format!("making the break-glass login {}", login.user);
    let password = match &login.credential {
        Credential::SshKeys(_) => None,
        Credential::PasswordHash(hash) => Some(hash.as_str()),
    };
    let accounts = Accounts::read(root).with_context(making)?;
    let (accounts, ids) = accounts.add(&login.user, password).with_context(making)?;
    let changed = accounts.write(root).with_context(making)?;
    let mut placed: Vec<_> = ACCOUNT_FILES.iter().map(|path| Placed { path: path.into(), changed }).collect();

    let own_dir = |path: &Path| -> Result<Placed> {
        let changed = root.meta(path)?.is_none();
        root.make_dirs(path.parent().unwrap_or(path), 0o755)?;
        root.make_dirs(path, 0o700)?;
        root.own(path, ids.uid, ids.gid)?;
        Ok(Placed { path: path.to_owned(), changed })
    };
    placed.push(own_dir(&home(login)).with_context(making)?);
    if let (Credential::SshKeys(keys), Some(dir)) = (&login.credential, keys_dir(login)) {
        placed.push(own_dir(&dir).with_context(making)?);
        let file = dir.join("authorized_keys");
        for name in root.names(&dir)?.into_iter().filter(|name| name != "authorized_keys") {
            root.remove(&dir.join(name))?;
        }
        let text: String = keys.iter().flat_map(|key| [key.as_str(), "\n"]).collect();
        let access = Access { mode: 0o600, uid: ids.uid, gid: ids.gid };
        let changed = root.put(&file, access, text.as_bytes()).with_context(making)?;
        placed.push(Placed { path: file, changed });
    }
    // Whoever has no password cannot be asked for one.
    let tag = if password.is_none() { "NOPASSWD: " } else { "" };
    let rule = format!("{} ALL=(ALL) {tag}ALL\n", login.user);
    root.make_dirs("/etc/sudoers.d", 0o750)?;
    let changed = root.put(SUDOERS, Access::ours(0o440), rule.as_bytes()).with_context(making)?;
    placed.push(Placed { path: SUDOERS.into(), changed });
    Ok(placed)
}

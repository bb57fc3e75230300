//! Boot loader entries that belong to no machine in particular.
//!
//! EL's kernel packages name the files in `/boot/loader/entries` after the
//! machine-id of the system they are installed on. In a clone, entries of
//! later kernels carry another id, and GRUB sorts by name: an older kernel may
//! win. Like `AlmaLinux`'s cloud images, ours use `ffff…`, which sorts the same
//! everywhere, and say so in GRUB's environment block too.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::root::Root;

const NO_MACHINE: &str = "ffffffffffffffffffffffffffffffff";
/// GRUB's environment block begins with this line…
const ENV_HEADER: &str = "# GRUB Environment Block\n";
/// …and is filled up with `#` to exactly this many bytes, since GRUB writes
/// to its blocks without knowing the file system.
const ENV_SIZE: usize = 1024;

/// The entries in `dir` that carry a machine-id.
pub(super) fn entries_of_a_machine(root: &Root, dir: &Path) -> Result<Vec<PathBuf>> {
    let names = root.names(dir)?;
    let ours = names.into_iter().filter(|name| name.to_str().and_then(without_machine).is_some());
    Ok(ours.map(|name| dir.join(name)).collect())
}

/// Gives an entry a name without a machine-id.
pub(super) fn rename_entry(root: &Root, path: &Path) -> Result<()> {
    let renamed = path.file_name().and_then(|name| name.to_str()).and_then(without_machine);
    let renamed = renamed.with_context(|| format!("{} is not named after a machine", root.shown(path)))?;
    root.rename(path, &OsString::from(renamed))
}

/// `grubenv` itself, if its `saved_entry` carries a machine-id.
pub(super) fn saved_entry_of_a_machine(root: &Root, grubenv: &Path) -> Result<Vec<PathBuf>> {
    Ok(if edited(root, grubenv)?.is_some() { vec![grubenv.to_owned()] } else { Vec::new() })
}

/// Takes the machine-id out of `saved_entry`.
pub(super) fn rewrite_saved_entry(root: &Root, grubenv: &Path) -> Result<()> {
    match edited(root, grubenv)? {
        Some(block) => root.overwrite(&resolved(root, grubenv)?, &block),
        None => Ok(()),
    }
}

/// The block with another `saved_entry`, if it needs one.
fn edited(root: &Root, grubenv: &Path) -> Result<Option<Vec<u8>>> {
    let Some(block) = root.read(grubenv)? else { return Ok(None) };
    edit(&block).with_context(|| format!("reading GRUB's environment {}", root.shown(grubenv)))
}

/// Until EL 9.3 `/boot/grub2/grubenv` was a symlink to the one on the ESP.
fn resolved(root: &Root, path: &Path) -> Result<PathBuf> {
    match root.link_target(path)? {
        Some(target) => Ok(path.parent().unwrap_or(Path::new("/")).join(target)),
        None => Ok(path.to_owned()),
    }
}

fn edit(block: &[u8]) -> Result<Option<Vec<u8>>> {
    if block.len() != ENV_SIZE || !block.starts_with(ENV_HEADER.as_bytes()) {
        bail!("it is not an environment block of {ENV_SIZE} bytes");
    }
    let text = std::str::from_utf8(block).context("it is not text")?;
    let mut changed = false;
    let lines = text[ENV_HEADER.len()..].trim_end_matches('#').lines().map(|line| {
        let renamed = line.strip_prefix("saved_entry=").and_then(without_machine);
        changed |= renamed.is_some();
        renamed.map_or_else(|| line.to_owned(), |entry| format!("saved_entry={entry}"))
    });
    let mut edited = ENV_HEADER.to_owned();
    for line in lines.collect::<Vec<_>>() {
        edited.push_str(&line);
        edited.push('\n');
    }
    // Both ids have 32 digits, so the text is as long as it was.
    let Some(fill) = ENV_SIZE.checked_sub(edited.len()) else {
        bail!("it is full and its last line has no end")
    };
    edited.extend(std::iter::repeat_n('#', fill));
    Ok(changed.then(|| edited.into_bytes()))
}

/// `<machine-id>-5.14…` without the machine, if there is one in it.
fn without_machine(name: &str) -> Option<String> {
    let (id, rest) = name.split_at_checked(NO_MACHINE.len())?;
    let machine = id != NO_MACHINE && id.bytes().all(|b| b.is_ascii_hexdigit());
    (machine && rest.starts_with('-')).then(|| format!("{NO_MACHINE}{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    fn block(variables: &str) -> Vec<u8> {
        let mut block = format!("{ENV_HEADER}{variables}").into_bytes();
        block.resize(ENV_SIZE, b'#');
        block
    }

    #[test]
    fn only_names_with_a_machine_id_are_changed() {
        let kernel = "5.14.0-503.el9.x86_64.conf";
        assert_eq!(without_machine(&format!("{ID}-{kernel}")), Some(format!("{NO_MACHINE}-{kernel}")));
        for other in [&format!("{NO_MACHINE}-{kernel}"), kernel, "0", &ID[1..], ID, "é"] {
            assert_eq!(without_machine(other), None, "{other}");
        }
    }

    #[test]
    fn the_saved_entry_changes_and_nothing_else_does() {
        let before = block(&format!("saved_entry={ID}-5.14\nboot_success=1\nmenu_auto_hide=1\n"));
        let after = edit(&before).unwrap().unwrap();
        assert_eq!(
            after,
            block(&format!("saved_entry={NO_MACHINE}-5.14\nboot_success=1\nmenu_auto_hide=1\n"))
        );
        assert_eq!(edit(&after).unwrap(), None);
        assert_eq!(edit(&block("boot_success=0\n")).unwrap(), None);
        assert_eq!(edit(&block("saved_entry=0\n")).unwrap(), None);
    }

    #[test]
    fn what_is_not_a_block_is_left_alone() {
        assert!(edit(b"").is_err());
        assert!(edit(&block("")[1..]).is_err());
        assert!(edit(&[b'#'; ENV_SIZE]).is_err());
    }
}

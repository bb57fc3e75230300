//! The recovery key: shown once, and read again when the coordinator's key is
//! to be changed.

use std::fs;
use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use kiln_protocol::recovery::RecoverySeed;
use zeroize::Zeroizing;

use super::arguments::PinChange;
use super::print;
use crate::Coordinator;
use crate::store::dir;

/// Longer than any recovery key.
const MAX_TEXT: u64 = 4096;

/// Which file gets the recovery key of a state that is about to be made; none at a
/// terminal. It must reach no log: what is not a terminal gets a file, outside of
/// the state directory. The file is there, empty, when this returns: no state is
/// made whose key could then be kept nowhere.
pub(super) fn place(state: &Path, out: Option<&Path>) -> Result<Option<PathBuf>> {
    let file = match out {
        Some(out) => out.to_owned(),
        None if std::io::stderr().is_terminal() => return Ok(None),
        None => Coordinator::recovery_file(state),
    };
    // An init that was cut off may have left it, with nothing in it.
    let is_left = fs::metadata(&file).is_ok_and(|found| found.is_file() && found.len() == 0);
    if !is_left {
        dir::create_private(&file, b"").with_context(|| {
            let shown = file.display();
            format!("the recovery key is to go to {shown}: move what is there, or name a place with --recovery-out")
        })?;
    }
    Ok(Some(file))
}

/// Gives the recovery key to whoever made the state.
pub(super) fn hand_over(recovery: &RecoverySeed, file: Option<&Path>) -> Result<()> {
    if let Some(file) = file {
        Coordinator::keep_recovery_key(file, recovery)?;
        eprintln!("the recovery key is in {}: move it to a place that is offline", file.display());
    } else {
        eprintln!(
            "recovery key: {}\nIt is shown this once and kept nowhere. Write it down and keep it offline: it \
             alone lets nodes accept another key of the coordinator (coordinator pin-change).",
            *recovery.to_text()
        );
    }
    Ok(())
}

pub(super) fn pin_change(arguments: &PinChange) -> Result<()> {
    let recovery = read(&arguments.recovery_key)?;
    let state = &arguments.state.state;
    let pin = Coordinator::change_pin_with(state, &recovery, &arguments.unlock.file(state))?;
    eprintln!(
        "the coordinator's key is a new one; nodes that have enrolled accept it at their next contact, and \
         unused tickets are void. Its pin:"
    );
    print(&format!("{pin}\n"))
}

fn read(path: &Path) -> Result<RecoverySeed> {
    let mut text = Zeroizing::new(String::new());
    if path == Path::new("-") {
        if std::io::stdin().is_terminal() {
            eprintln!("recovery key, then Enter and Ctrl-D:");
        }
        let read = std::io::stdin().lock().take(MAX_TEXT).read_to_string(&mut text);
        read.context("reading the recovery key from standard input")?;
    } else {
        let read = fs::File::open(path).and_then(|file| file.take(MAX_TEXT).read_to_string(&mut text));
        read.with_context(|| format!("reading the recovery key from {}", path.display()))?;
    }
    Ok(text.parse()?)
}

//! The recovery key: shown once, and read again when the coordinator's key is
//! to be changed.

use std::fs;
use std::io::{IsTerminal as _, Read as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use kiln_protocol::recovery::RecoverySeed;
use zeroize::Zeroizing;

use super::arguments::PinChange;
use super::print;
use crate::Coordinator;
use crate::store::dir::{self, StateDir};

/// Longer than any recovery key.
const MAX_TEXT: u64 = 4096;

/// Gives the recovery key to whoever made the state. It must reach no log: what
/// is not a terminal gets a file instead.
pub(super) fn hand_over(state: &Path, recovery: &RecoverySeed, out: Option<&Path>) -> Result<()> {
    let text = recovery.to_text();
    if let Some(out) = out {
        return dir::create_private(out, text.as_bytes());
    }
    if std::io::stderr().is_terminal() {
        eprintln!(
            "recovery key: {}\nIt is shown this once and kept nowhere. Write it down and keep it offline: it \
             alone lets nodes accept another key of the coordinator (coordinator pin-change).",
            *text
        );
        return Ok(());
    }
    Coordinator::keep_recovery_key(state, recovery)?;
    eprintln!(
        "the recovery key is in {}: move it to a place that is offline",
        StateDir::new(state).recovery_key().display()
    );
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

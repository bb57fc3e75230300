//! The recovery key: shown once, and read again when the coordinator's key is
//! to be changed.

use std::fs;
use std::io::{self, ErrorKind, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use kiln_protocol::recovery::RecoverySeed;
use zeroize::Zeroizing;

use super::arguments::PinChange;
use super::print;
use crate::store::dir::{self, StateDir};
use crate::{Coordinator, UnlockFile};

/// Longer than any recovery key.
const MAX_TEXT: u64 = 4096;

/// Which file gets the recovery key of a state that is about to be made; none at a
/// terminal. It must reach no log: what is not a terminal gets a file, outside of
/// the state directory. The file is there when this returns, so that nothing is
/// made where it cannot be.
pub(super) fn place(state: &Path, out: Option<&Path>) -> Result<Option<PathBuf>> {
    let file = match out {
        Some(out) => out.to_owned(),
        None if std::io::stderr().is_terminal() => return Ok(None),
        None => Coordinator::recovery_file(state),
    };
    let shown = file.display();
    ensure!(
        !dir::is_inside(&file, state),
        "the recovery key is to go to {shown}, in the state directory, where whoever copies the one has the \
         other: name a place outside of it with --recovery-out"
    );
    if !is_left(&StateDir::new(state), &file) {
        dir::create_private(&file, b"").map_err(|error| {
            let kind = error.root_cause().downcast_ref::<io::Error>().map(io::Error::kind);
            let first = match kind {
                Some(ErrorKind::AlreadyExists) => "move what is there, or ",
                Some(ErrorKind::NotFound) => "make its directory, or ",
                _ => "",
            };
            error.context(format!(
                "the recovery key is to go to {shown}: {first}name a place with --recovery-out"
            ))
        })?;
    }
    Ok(Some(file))
}

/// Makes the state. The recovery key is in its file before there is a coordinator:
/// whatever is cut off, no state is there whose key is not.
pub(super) fn make(path: &Path, unlock: &UnlockFile, file: Option<&Path>) -> Result<RecoverySeed> {
    let state = StateDir::new(path);
    let made = Coordinator::init_with(path, unlock, |recovery| {
        file.map_or(Ok(()), |file| keep(&state, file, recovery))
    });
    match (&made, file) {
        // Should it stay, it is of no use to anybody: this state is made.
        (Ok(_), _) => drop(dir::remove(&state.recovery_begun())),
        // A key that is in it stays: a commit that failed may be on the disk all the
        // same, and if it is not, the next init knows the file.
        (Err(_), Some(file)) if is_empty(file) => drop(dir::remove(file)),
        (Err(_), _) => {}
    }
    made
}

/// Writes the recovery key down, while the state is locked and is not made yet.
fn keep(state: &StateDir, file: &Path, recovery: &RecoverySeed) -> Result<()> {
    // Somebody else may have written to it since it was looked at.
    let free = fs::symlink_metadata(file).is_err() || is_left(state, file);
    ensure!(free, "{} has something in it by now: name another place with --recovery-out", file.display());
    // Emptied first: whenever this is cut off, it is empty or has the noted key.
    dir::replace_private(file, b"").context("keeping the recovery key")?;
    dir::replace_private(&state.recovery_begun(), recovery.public_key().to_string().as_bytes())?;
    Coordinator::keep_recovery_key(file, recovery)
}

/// Whether an init of this state, which is not made, was cut off and left a file
/// in which no other state's key is: with nothing in it, or with the key that was
/// noted in the state directory.
fn is_left(state: &StateDir, file: &Path) -> bool {
    if is_empty(file) {
        return true;
    }
    if !fs::metadata(file).is_ok_and(|found| found.is_file()) {
        return false;
    }
    match (read_file(file), fs::read_to_string(state.recovery_begun())) {
        (Ok(key), Ok(noted)) => key.public_key().to_string() == noted,
        _ => false,
    }
}

fn is_empty(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|found| found.is_file() && found.len() == 0)
}

/// Tells whoever made the state where its recovery key is, or shows it.
pub(super) fn hand_over(recovery: &RecoverySeed, file: Option<&Path>) {
    if let Some(file) = file {
        eprintln!("the recovery key is in {}: move it to a place that is offline", file.display());
    } else {
        eprintln!(
            "recovery key: {}\nIt is shown this once and kept nowhere. Write it down and keep it offline: it \
             alone lets nodes accept another key of the coordinator (coordinator pin-change).",
            *recovery.to_text()
        );
    }
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
    if path != Path::new("-") {
        return read_file(path);
    }
    let mut text = Zeroizing::new(String::new());
    if std::io::stdin().is_terminal() {
        eprintln!("recovery key, then Enter and Ctrl-D:");
    }
    let read = std::io::stdin().lock().take(MAX_TEXT).read_to_string(&mut text);
    read.context("reading the recovery key from standard input")?;
    Ok(text.parse()?)
}

fn read_file(path: &Path) -> Result<RecoverySeed> {
    let mut text = Zeroizing::new(String::new());
    let read = fs::File::open(path).and_then(|file| file.take(MAX_TEXT).read_to_string(&mut text));
    read.with_context(|| format!("reading the recovery key from {}", path.display()))?;
    Ok(text.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    struct World {
        outer: tempfile::TempDir,
        state: PathBuf,
        unlock: UnlockFile,
    }

    impl World {
        fn new() -> Self {
            let outer = tempfile::tempdir().unwrap();
            let state = outer.path().join("state");
            let unlock = UnlockFile::beside(&state);
            Self { outer, state, unlock }
        }

        fn place(&self, name: &str) -> Result<PathBuf> {
            Ok(place(&self.state, Some(&self.outer.path().join(name)))?.unwrap())
        }

        /// An init that ends when the key is in its file and nothing is committed.
        fn cut_off(&self, file: &Path) -> RecoverySeed {
            let made = Coordinator::init_with(&self.state, &self.unlock, |recovery| {
                assert!(Coordinator::pin_at(&self.state)?.is_none(), "it was committed before");
                keep(&StateDir::new(&self.state), file, recovery)?;
                bail!("cut off")
            });
            assert_eq!(format!("{:#}", made.unwrap_err()), "cut off");
            assert!(Coordinator::pin_at(&self.state).unwrap().is_none());
            read_file(file).unwrap()
        }
    }

    #[test]
    fn no_state_is_made_whose_recovery_key_could_not_be_written() {
        let world = World::new();
        fs::create_dir(world.outer.path().join("kept")).unwrap();
        let file = world.place("kept/key").unwrap();
        fs::remove_dir_all(world.outer.path().join("kept")).unwrap();
        let error = format!("{:#}", make(&world.state, &world.unlock, Some(&file)).unwrap_err());
        assert!(error.contains("keeping the recovery key"), "{error}");
        assert!(Coordinator::pin_at(&world.state).unwrap().is_none());
    }

    #[test]
    fn an_init_that_was_cut_off_with_its_key_written_is_done_again_with_another_key() {
        let world = World::new();
        let file = world.place("key").unwrap();
        let left = world.cut_off(&file);
        assert_eq!(world.place("key").unwrap(), file);
        // Not before the state is locked: it may be another init's that is under way.
        assert_eq!(read_file(&file).unwrap(), left);
        let recovery = make(&world.state, &world.unlock, Some(&file)).unwrap();
        assert_ne!(recovery, left);
        assert_eq!(read_file(&file).unwrap(), recovery);
        assert!(!StateDir::new(&world.state).recovery_begun().exists());
        Coordinator::change_pin_with(&world.state, &recovery, &world.unlock).unwrap();
    }

    #[test]
    fn another_states_recovery_key_is_never_replaced_also_after_an_init_that_was_cut_off() {
        let world = World::new();
        let other = world.outer.path().join("other");
        let text = RecoverySeed::generate().to_text();
        fs::write(&other, text.as_bytes()).unwrap();
        let file = world.place("key").unwrap();
        world.cut_off(&file);
        let error = format!("{:#}", world.place("other").unwrap_err());
        assert!(error.contains("move what is there"), "{error}");
        // Nor if it got there meanwhile.
        assert!(make(&world.state, &world.unlock, Some(&other)).is_err());
        assert!(Coordinator::pin_at(&world.state).unwrap().is_none());
        assert_eq!(fs::read(&other).unwrap(), text.as_bytes());
        // What was left for this state is nobody else's to replace.
        let elsewhere = world.outer.path().join("elsewhere");
        assert!(place(&elsewhere, Some(&file)).is_err());
    }
}

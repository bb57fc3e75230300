//! What is done to a state directory itself.

use anyhow::Result;

use super::arguments::{Backup, Restore, UnlockKey};
use crate::backup::Trust;
use crate::store::dir::StateDir;
use crate::store::events::Actor;
use crate::{Coordinator, UnlockFile, backup};

pub(super) fn backup(arguments: &Backup) -> Result<()> {
    let state = &arguments.state.state;
    backup::back_up(&StateDir::new(state), &arguments.file, &arguments.unlock.file(state), &caller())?;
    eprintln!(
        "backed up to {}: it is restored with the state's unlock key only, which is not in it",
        arguments.file.display()
    );
    Ok(())
}

/// What a restored state cannot know, so that its operator has to do it again.
const AGAIN: &str = "\
nodes that enrolled after the backup need new tickets.
What was taken away after the backup was made is there again. Take away once more what was:
  a node's rights              coordinator revoke NODE
  an admin's                   coordinator admin remove NAME
  the cluster's incarnation    coordinator end CLUSTER
  the tokens of before         coordinator rotate-tokens
";

pub(super) fn restore(arguments: &Restore) -> Result<()> {
    let state = &arguments.state.state;
    let trust = if arguments.unauthenticated { Trust::Anybodys } else { Trust::Authentic };
    let summary = backup::restore(&arguments.file, state, &arguments.unlock.file(state), trust, &caller())?;
    eprint!("made {}: {summary}; {AGAIN}", state.display());
    Ok(())
}

/// Who runs this program on the state itself.
fn caller() -> Actor {
    Actor::at_socket(nix::unistd::getuid().as_raw())
}

pub(super) fn unlock_key(command: &UnlockKey) -> Result<()> {
    match command {
        UnlockKey::Make { file } => {
            UnlockFile::at(file).make()?;
            eprintln!("made {}: keep a copy where no backup of the state goes", file.display());
        }
        UnlockKey::Rotate(rotate) => {
            let state = &rotate.state.state;
            let to = rotate.to.as_ref().map(UnlockFile::at);
            let old = Coordinator::rotate_unlock_key(state, &rotate.unlock.file(state), to.as_ref())?;
            eprintln!(
                "sealed anew; the old key is in {}: backups made before open with no other",
                old.display()
            );
        }
    }
    Ok(())
}

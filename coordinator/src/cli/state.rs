//! What is done to a state directory itself.

use anyhow::Result;

use super::arguments::{Backup, Restore, UnlockKey};
use crate::store::dir::StateDir;
use crate::{Coordinator, UnlockFile, backup};

pub(super) fn backup(arguments: &Backup) -> Result<()> {
    backup::back_up(&StateDir::new(&arguments.state.state), &arguments.file)?;
    eprintln!(
        "backed up to {}: it opens with the state's unlock key only, which is not in it",
        arguments.file.display()
    );
    Ok(())
}

pub(super) fn restore(arguments: &Restore) -> Result<()> {
    let state = &arguments.state.state;
    let summary = Coordinator::restore(&arguments.file, state, &arguments.unlock.file(state))?;
    eprintln!("made {}: {summary}; nodes that enrolled after the backup need new tickets", state.display());
    Ok(())
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

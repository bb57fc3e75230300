//! Lets a test end every write after a chosen number of them, as a power cut
//! between any two would.

use std::cell::Cell;
use std::io;

thread_local! {
    static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
    static BLOWN: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, only so many steps towards the disk succeed.
pub(crate) struct Fuse(());

impl Fuse {
    pub(crate) fn after(steps: u32) -> Self {
        LEFT.set(Some(steps));
        BLOWN.set(false);
        Self(())
    }

    /// Whether a write has failed.
    pub(crate) fn is_blown(&self) -> bool {
        let Self(()) = self;
        BLOWN.get()
    }

    /// Puts the power back; says whether it was ever away.
    pub(crate) fn has_blown(self) -> bool {
        let blown = self.is_blown();
        drop(self);
        blown
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        LEFT.set(None);
    }
}

pub(crate) fn power_cut() -> io::Result<()> {
    match LEFT.get() {
        Some(0) => {
            BLOWN.set(true);
            Err(io::Error::other("the power was cut"))
        }
        Some(left) => {
            LEFT.set(Some(left - 1));
            Ok(())
        }
        None => Ok(()),
    }
}

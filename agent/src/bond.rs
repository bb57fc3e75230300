//! What holds a node and its coordinator together, beside the node's key: the
//! clone ratchet, the newest stamp of the coordinator's state, and its pin where
//! that was changed. It is on the disk before anything of it counts.

use std::cell::RefCell;

use anyhow::{Context as _, Result};
use kiln_protocol::Fingerprint;
use kiln_protocol::ratchet::{Notch, Stamp, Turn};
use kiln_protocol::recovery::{PinChange, RecoveryKey};
use kiln_protocol::tls::Trust;
use serde::{Deserialize, Serialize};

use crate::identity::STATE_DIR;
use crate::root::{Access, Root};

const FILE: &str = "/var/lib/kiln/bond.json";

/// What the file holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// The notch that the coordinator was last known to hold.
    cur: Notch,
    /// The one it was sent, and has not answered to yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sent: Option<Notch>,
    /// The newest it ever gave us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seen: Option<Stamp>,
    /// Its present pin, if that is not the ticket's any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pin: Option<ChangedPin>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct ChangedPin {
    pin: Fingerprint,
    serial: u64,
}

/// The content of the file.
pub(crate) fn parse(bytes: &[u8]) -> Result<Kept> {
    Ok(serde_json::from_slice(bytes)?)
}

/// The bond of a bound node.
#[derive(Debug)]
pub(crate) struct Bond {
    root: Root,
    kept: RefCell<Kept>,
}

impl Bond {
    /// As it was left, or a new one.
    pub(crate) fn load(root: &Root) -> Result<Self> {
        let kept = match root.read(FILE)? {
            None => Kept { cur: Notch::random(), sent: None, seen: None, pin: None },
            Some(bytes) => parse(&bytes).with_context(|| format!("reading {}", root.shown(FILE)))?,
        };
        Ok(Self { root: root.another()?, kept: RefCell::new(kept) })
    }

    /// Forgets all: it is another key's.
    pub(crate) fn forget(root: &Root) -> Result<()> {
        if root.meta(FILE)?.is_some() {
            root.remove(FILE.as_ref())?;
        }
        Ok(())
    }

    /// The key is bound anew, by another ticket: its pin counts, whatever took the
    /// place of the earlier one's. The ratchet is the key's and goes on.
    pub(crate) fn forget_pin(&self) -> Result<()> {
        let kept = self.kept.borrow().clone();
        match kept.pin {
            Some(_) => self.keep(Kept { pin: None, ..kept }),
            None => Ok(()),
        }
    }

    /// The turn to open a connection with: the one that was not answered yet,
    /// or a new one, which is on the disk when this returns.
    pub(crate) fn turn(&self) -> Result<Turn> {
        let mut kept = self.kept.borrow().clone();
        if let Some(next) = kept.sent {
            return Ok(Turn { cur: kept.cur, next });
        }
        let turn = Turn { cur: kept.cur, next: Notch::random() };
        kept.sent = Some(turn.next);
        self.keep(kept)?;
        Ok(turn)
    }

    /// The turn was answered, with this stamp.
    pub(crate) fn answered(&self, turn: Turn, stamp: Stamp) -> Result<()> {
        let mut kept = self.kept.borrow().clone();
        if kept.sent == Some(turn.next) {
            (kept.cur, kept.sent) = (turn.next, None);
        }
        if kept.seen.is_none_or(|seen| seen.reach < stamp.reach) {
            kept.seen = Some(stamp);
        }
        self.keep(kept)
    }

    /// The newest stamp there ever was.
    pub(crate) fn seen(&self) -> Option<Stamp> {
        self.kept.borrow().seen
    }

    /// Whom to trust: the ticket's pin, or what took its place.
    pub(crate) fn trust(&self, pin: Fingerprint, recovery: Option<RecoveryKey>) -> Trust {
        match self.kept.borrow().pin {
            None => Trust { pin, recovery, serial: 0 },
            Some(ChangedPin { pin, serial }) => Trust { pin, recovery, serial },
        }
    }

    /// The recovery key has said so.
    pub(crate) fn change_pin(&self, pin: Fingerprint, change: &PinChange) -> Result<()> {
        let mut kept = self.kept.borrow().clone();
        kept.pin = Some(ChangedPin { pin, serial: change.serial });
        self.keep(kept)
    }

    fn keep(&self, kept: Kept) -> Result<()> {
        let text = serde_json::to_vec(&kept).context("writing the bond as JSON")?;
        self.root.make_dirs(STATE_DIR, 0o700)?;
        self.root.put(FILE, Access::ours(0o600), &text)?;
        self.kept.replace(kept);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::Fuse;
    use kiln_protocol::Identity;
    use kiln_protocol::ratchet::Reach;

    fn stamp(seq: u64) -> Stamp {
        Stamp::sign(Reach { epoch: 1, seq }, &Identity::generate().unwrap())
    }

    #[test]
    fn a_turn_is_kept_until_it_is_answered_and_then_never_used_again() {
        let dir = crate::testing::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let bond = Bond::load(&root).unwrap();
        let first = bond.turn().unwrap();
        assert_eq!(bond.turn().unwrap(), first);
        assert_eq!(Bond::load(&root).unwrap().turn().unwrap(), first, "a power cut changes nothing");
        bond.answered(first, stamp(3)).unwrap();
        let second = bond.turn().unwrap();
        assert_eq!(second.cur, first.next);
        assert_ne!(second.next, first.next);
        // A late answer to an old turn is none to the new one.
        bond.answered(first, stamp(2)).unwrap();
        assert_eq!(bond.turn().unwrap(), second);
        assert_eq!(Bond::load(&root).unwrap().seen().unwrap().reach.seq, 3, "and the newest stamp stays");
        assert_eq!(root.meta(FILE).unwrap().unwrap().mode, 0o600);
    }

    #[test]
    fn a_turn_that_could_not_be_written_is_not_used() {
        let dir = crate::testing::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let bond = Bond::load(&root).unwrap();
        let fuse = Fuse::after(0);
        assert!(bond.turn().is_err());
        drop(fuse);
        assert!(root.meta(FILE).unwrap().is_none());
        assert!(bond.turn().is_ok());
    }

    #[test]
    fn a_changed_pin_outlasts_the_tickets() {
        let dir = crate::testing::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let (old, new) = (Fingerprint::of_spki(b"old"), Fingerprint::of_spki(b"new"));
        let bond = Bond::load(&root).unwrap();
        assert_eq!((bond.trust(old, None).pin, bond.trust(old, None).serial), (old, 0));
        let change = kiln_protocol::recovery::RecoverySeed::generate().change_pin(5, &new);
        bond.change_pin(new, &change).unwrap();
        let trust = Bond::load(&root).unwrap().trust(old, None);
        assert_eq!((trust.pin, trust.serial), (new, 5));
        // Another ticket's pin is not an earlier one's; the ratchet is the same.
        let turn = bond.turn().unwrap();
        bond.forget_pin().unwrap();
        let bond = Bond::load(&root).unwrap();
        let next = Fingerprint::of_spki(b"another ticket's");
        assert_eq!((bond.trust(next, None).pin, bond.turn().unwrap()), (next, turn));
        Bond::forget(&root).unwrap();
        assert_ne!(Bond::load(&root).unwrap().turn().unwrap(), turn);
    }
}

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
    /// With whom the key was enrolled last; an older agent did not note it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    with: Option<Coordinator>,
}

impl Kept {
    /// The greatest serial of a change of the pin that was heard of, 0 for none.
    fn serial(&self) -> u64 {
        let enrolled = self.with.map_or(0, |with| with.serial);
        self.pin.map_or(0, |changed| changed.serial).max(enrolled)
    }
}

/// A coordinator as it was when the key was enrolled with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Coordinator {
    pin: Fingerprint,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    recovery: Option<RecoveryKey>,
    /// No change of the pin up to this serial is believed any more.
    serial: u64,
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
            None => Kept { cur: Notch::random(), sent: None, seen: None, pin: None, with: None },
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

    /// The key is bound, perhaps anew, by a ticket with this pin, which counts,
    /// whatever took the place of an earlier one's. `serial` is that of the change
    /// by which the pin came to be, if any. The ratchet is the key's and goes on.
    ///
    /// What is known of changes of the pin stays, or a key that was given up since
    /// it was stolen would be believed again; unless the recovery key is another,
    /// by whose word there have been none. The stamp is another coordinator's if
    /// both keys are others, and its numbers tell nothing of this one's.
    ///
    /// Until the state says that the node is bound this may be done again.
    pub(crate) fn enrolled(
        &self,
        pin: Fingerprint,
        recovery: Option<RecoveryKey>,
        serial: u64,
    ) -> Result<()> {
        let kept = self.kept.borrow().clone();
        let trusted = kept.pin.map(|changed| changed.pin).or(kept.with.map(|with| with.pin));
        let moved = trusted.is_some_and(|trusted| trusted != pin);
        let same_recovery = recovery.is_some() && kept.with.is_some_and(|with| with.recovery == recovery);
        // An older agent did not note whose the changes were: they stay.
        let another_recovery = kept.with.is_some_and(|with| with.recovery != recovery);
        let floor = if another_recovery { 0 } else { kept.serial() };
        let with = Coordinator { pin, recovery, serial: floor.max(serial) };
        if kept.pin.is_none() && kept.with == Some(with) {
            return Ok(());
        }
        let seen = kept.seen.filter(|_| !moved || same_recovery);
        self.keep(Kept { seen, pin: None, with: Some(with), ..kept })
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
        let kept = self.kept.borrow();
        Trust { pin: kept.pin.map_or(pin, |changed| changed.pin), recovery, serial: kept.serial() }
    }

    /// The recovery key has said so. What came in the meantime over another
    /// connection, and is newer, stays.
    pub(crate) fn change_pin(&self, pin: Fingerprint, change: &PinChange) -> Result<()> {
        let mut kept = self.kept.borrow().clone();
        if change.serial <= kept.serial() {
            return Ok(());
        }
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
    use kiln_protocol::recovery::RecoverySeed;

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
        let change = RecoverySeed::generate().change_pin(5, &new);
        bond.change_pin(new, &change).unwrap();
        let trust = Bond::load(&root).unwrap().trust(old, None);
        assert_eq!((trust.pin, trust.serial), (new, 5));
        // Another ticket's pin is not an earlier one's; the ratchet is the same.
        let turn = bond.turn().unwrap();
        bond.enrolled(Fingerprint::of_spki(b"another ticket's"), None, 0).unwrap();
        let bond = Bond::load(&root).unwrap();
        let next = Fingerprint::of_spki(b"another ticket's");
        assert_eq!((bond.trust(next, None).pin, bond.turn().unwrap()), (next, turn));
        Bond::forget(&root).unwrap();
        assert_ne!(Bond::load(&root).unwrap().turn().unwrap(), turn);
    }

    #[test]
    fn a_key_that_was_given_up_is_not_believed_again_for_another_ticket() {
        let dir = crate::testing::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let (first, stolen, present) =
            (Identity::generate().unwrap(), Identity::generate().unwrap(), Identity::generate().unwrap());
        let recovery = RecoverySeed::generate();
        let public = Some(recovery.public_key());
        let shown = |key: &Identity, serial| {
            key.certificate_with(&recovery.change_pin(serial, &key.fingerprint())).unwrap()
        };
        let believed = |bond: &Bond, certificate: &_| {
            bond.trust(first.fingerprint(), public).change(certificate).map(|(pin, _)| pin)
        };
        let bond = Bond::load(&root).unwrap();
        bond.enrolled(first.fingerprint(), public, 0).unwrap();
        assert_eq!(believed(&bond, &shown(&stolen, 3)), Some(stolen.fingerprint()));
        bond.change_pin(stolen.fingerprint(), &recovery.change_pin(3, &stolen.fingerprint())).unwrap();
        bond.change_pin(present.fingerprint(), &recovery.change_pin(4, &present.fingerprint())).unwrap();
        // A change that was heard of late takes nothing back.
        bond.change_pin(stolen.fingerprint(), &recovery.change_pin(3, &stolen.fingerprint())).unwrap();
        for _ in 0..2 {
            bond.enrolled(present.fingerprint(), public, 0).unwrap();
            let bond = Bond::load(&root).unwrap();
            let trust = bond.trust(present.fingerprint(), public);
            assert_eq!((trust.pin, trust.serial), (present.fingerprint(), 4));
            assert!(trust.change(&shown(&stolen, 3)).is_none() && trust.change(&shown(&stolen, 5)).is_some());
        }
        // One that is new to the node tells it.
        bond.enrolled(first.fingerprint(), public, 9).unwrap();
        assert_eq!(believed(&bond, &shown(&stolen, 9)), None);
        // By another recovery key's word there was no change yet.
        let another = RecoverySeed::generate();
        bond.enrolled(first.fingerprint(), Some(another.public_key()), 0).unwrap();
        assert_eq!(bond.trust(first.fingerprint(), Some(another.public_key())).serial, 0);
    }

    #[test]
    fn changes_that_an_older_agent_noted_outlast_another_ticket() {
        let dir = crate::testing::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let pin = Fingerprint::of_spki(b"new");
        let notch = serde_json::to_value(Notch::random()).unwrap();
        let old = serde_json::json!({"cur": notch, "pin": {"pin": pin, "serial": 6}});
        root.make_dirs(STATE_DIR, 0o700).unwrap();
        root.put(FILE, Access::ours(0o600), old.to_string().as_bytes()).unwrap();
        let recovery = Some(RecoverySeed::generate().public_key());
        Bond::load(&root).unwrap().enrolled(pin, recovery, 0).unwrap();
        assert_eq!(Bond::load(&root).unwrap().trust(pin, recovery), Trust { pin, recovery, serial: 6 });
    }

    #[test]
    fn the_stamp_of_another_coordinator_goes_with_it() {
        let dir = crate::testing::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let pins: Vec<_> = [b"1", b"2", b"3"].into_iter().map(|key| Fingerprint::of_spki(key)).collect();
        let recovery = || Some(RecoverySeed::generate().public_key());
        let (first, other) = (recovery(), recovery());
        let bond = Bond::load(&root).unwrap();
        bond.enrolled(pins[0], first, 0).unwrap();
        bond.answered(bond.turn().unwrap(), stamp(7)).unwrap();
        let seen = || Bond::load(&root).unwrap().seen().map(|stamp| stamp.reach.seq);
        // It is the same by either of its keys: that it was set back is noticed.
        for pin in [pins[0], pins[1], pins[1]] {
            bond.enrolled(pin, first, 0).unwrap();
            assert_eq!(seen(), Some(7));
        }
        let fuse = Fuse::after(0);
        assert!(bond.enrolled(pins[2], other, 0).is_err());
        drop(fuse);
        assert_eq!((seen(), bond.seen().is_some()), (Some(7), true), "all or nothing");
        bond.enrolled(pins[2], other, 0).unwrap();
        assert_eq!(seen(), None);
        bond.answered(bond.turn().unwrap(), stamp(2)).unwrap();
        bond.enrolled(pins[2], other, 0).unwrap();
        assert_eq!(seen(), Some(2), "done again after a power cut it takes nothing away");
    }
}

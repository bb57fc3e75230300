//! A machine, as far as the registry can tell: what it keeps on its disk, and
//! what its agent would ask for next.

use std::sync::LazyLock;

use kiln_protocol::ratchet::{Notch, Reach, Turn};
use kiln_protocol::rotation::RotateRequest;
use kiln_protocol::ticket::{Proof, Ticket, TicketKey, TicketSeed};
use kiln_protocol::{Fingerprint, Identity};

use super::NODES;

/// Keys, tickets and signatures are made once: what the registry does with
/// them does not depend on which they are.
pub(super) struct Pool {
    pub(super) coordinator: Identity,
    pub(super) keys: Vec<Fingerprint>,
    /// Asks for each key in place of another; the turn is the asker's.
    rotations: Vec<RotateRequest>,
    pub(super) tickets: Vec<TicketKey>,
    /// Proofs are looked at before the registry is asked, and not here.
    pub(super) proof: Proof,
}

pub(super) static POOL: LazyLock<Pool> = LazyLock::new(|| {
    let coordinator = Identity::generate().unwrap();
    let identities: Vec<Identity> = (0..160).map(|_| Identity::generate().unwrap()).collect();
    let pin = coordinator.fingerprint();
    let ticket = Ticket::new(vec!["10.0.0.1:7443".parse().unwrap()], pin, TicketSeed::generate()).unwrap();
    let turn = Turn { cur: Notch::from_bytes([0; 16]), next: Notch::from_bytes([0; 16]) };
    Pool {
        keys: identities.iter().map(Identity::fingerprint).collect(),
        rotations: identities.iter().map(|new| RotateRequest::new(&pin, &pin, new, turn, None)).collect(),
        tickets: (0..160).map(|_| TicketSeed::generate().public_key()).collect(),
        proof: ticket.prove(&pin),
        coordinator,
    }
});

/// A key that is to take the present one's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NextKey {
    /// Its number in the pool.
    pub(super) key: usize,
    /// It may have been asked for before, and been heard.
    pub(super) maybe_heard: bool,
}

/// What an agent keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    /// The key's number in the pool.
    pub(super) key: usize,
    pub(super) next_key: Option<NextKey>,
    pub(super) bound: bool,
    cur: Notch,
    /// In the air: sent, and not answered yet.
    sent: Option<Notch>,
    pub(super) seen: Option<Reach>,
    pub(super) rotation_asked: bool,
}

/// A machine of a node.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    /// Its node's number in [`NODES`].
    pub(super) node: usize,
    /// Its ticket's number, if it has one.
    pub(super) ticket: Option<usize>,
    pub(super) disk: Kept,
    /// What its disk held when it was bound, for a snapshot to go back to.
    pub(super) snapshot: Option<Kept>,
    /// The same for machines whose disk is a copy of one disk.
    pub(super) lineage: usize,
    /// How often it opened a connection since that disk was copied, or since
    /// the registry had reason to take whatever comes next.
    pub(super) heard: u32,
    /// The turn before the present one, which the network may still deliver.
    pub(super) before: Option<Turn>,
}

impl Machine {
    pub(super) fn new(node: usize, ticket: Option<usize>, key: usize, lineage: usize) -> Self {
        assert!(node < NODES.len());
        let (cur, sent) = (notch(u128::try_from(lineage).unwrap() << 64), None);
        let disk = Kept { key, next_key: None, bound: false, cur, sent, seen: None, rotation_asked: false };
        Self { node, ticket, disk, snapshot: None, lineage, heard: 0, before: None }
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        POOL.keys[self.disk.key]
    }

    /// The turn to send: the one in the air, or a new one.
    pub(super) fn turn(&mut self, fresh: &mut u128) -> Turn {
        let next = *self.disk.sent.get_or_insert_with(|| {
            *fresh += 1;
            notch(*fresh)
        });
        Turn { cur: self.disk.cur, next }
    }

    /// The turn in the air was answered with a yes.
    pub(super) fn answered(&mut self) {
        if let Some(next) = self.disk.sent.take() {
            self.before = Some(Turn { cur: self.disk.cur, next });
            self.disk.cur = next;
        }
    }
}

/// What is asked to have a key replaced by another.
pub(super) fn rotation(next: NextKey, turn: Turn) -> RotateRequest {
    RotateRequest { turn, ..POOL.rotations[next.key].clone() }
}

fn notch(number: u128) -> Notch {
    Notch::from_bytes(number.to_be_bytes())
}

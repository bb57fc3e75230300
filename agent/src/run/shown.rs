//! What a machine has shown with which key. A ticket vouches for one key, and a
//! key has one name for ever: shown again with another one, either would look
//! like a thief's.

use kiln_protocol::{Fingerprint, TicketKey};
use serde::{Deserialize, Serialize};

/// Tickets that were exchanged for others, or used, each with the key of that
/// time. Their public halves: they are no secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Shown(Vec<Pair>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Pair {
    key: Fingerprint,
    /// None if the key was shown for an operator's approval, or nobody noted
    /// what with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ticket: Option<TicketKey>,
}

impl Shown {
    /// Nothing was.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn note(&mut self, ticket: Option<TicketKey>, key: Fingerprint) {
        let pair = Pair { key, ticket };
        if !self.0.contains(&pair) {
            self.0.push(pair);
        }
    }

    /// Whether the ticket was shown at all.
    pub(super) fn has(&self, ticket: &TicketKey) -> bool {
        self.0.iter().any(|pair| pair.ticket.as_ref() == Some(ticket))
    }

    /// Whether the ticket was shown with another key than this one.
    pub(super) fn is_spent(&self, ticket: &TicketKey, key: &Fingerprint) -> bool {
        self.0.iter().any(|pair| pair.ticket.as_ref() == Some(ticket) && pair.key != *key)
    }

    /// Whether the key was shown with anything else than this ticket.
    pub(super) fn with_another(&self, ticket: &TicketKey, key: &Fingerprint) -> bool {
        self.0.iter().any(|pair| pair.key == *key && pair.ticket.as_ref() != Some(ticket))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_protocol::ticket::TicketSeed;

    #[test]
    fn a_ticket_is_spent_for_every_key_but_the_one_it_was_shown_with() {
        let [one, two] = [(); 2].map(|()| TicketSeed::generate().public_key());
        let [k, l] = ["k", "l"].map(|key| Fingerprint::of_spki(key.as_bytes()));
        let mut shown = Shown::default();
        shown.note(Some(one), k);
        shown.note(Some(one), k);
        assert_eq!(shown.0.len(), 1);
        assert!(shown.is_spent(&one, &l) && !shown.is_spent(&one, &k) && !shown.is_spent(&two, &l));
        assert!(shown.with_another(&two, &k) && !shown.with_another(&one, &k));
        assert!(!shown.with_another(&two, &l), "a key that is new");
        assert!(shown.has(&one) && !shown.has(&two));
        shown.note(None, k);
        assert!(shown.with_another(&one, &k));
    }
}

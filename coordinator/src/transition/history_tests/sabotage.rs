//! Defects, put in on purpose: a checker that lets one of them pass proves
//! nothing.

/// One defect of the registry or its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sabotage {
    /// A second key with a ticket takes the first one's place.
    SecondKeyRebinds,
    /// Binding leaves earlier generations what they were.
    EarlierGenerationsLive,
    /// A key that is another node's is bound all the same.
    KeyGetsASecondName,
    /// The ratchet takes whatever comes.
    RatchetTakesAnything,
    /// A turn that comes again, since its answer was lost, holds the node.
    LostAnswerHolds,
    /// An answer is given for what is then not kept.
    AnswersBeforeItIsDurable,
    /// What was bound is unbound when the process begins again.
    CrashUnbinds,
    /// A restored copy lets unused tickets be used.
    RestoreKeepsTickets,
    /// An operator's release changes nothing.
    ReleaseDoesNothing,
    /// A state that is served again counts on, as a copy of it does.
    CopiesCountOn,
    /// Who asks for another key is not asked for its stamp.
    RotationShowsNoStamp,
}

impl Sabotage {
    /// Those that random histories find; too few of them ask for a key at the right
    /// moment for the last one.
    pub(super) const ALL: [Self; 10] = [
        Self::SecondKeyRebinds,
        Self::EarlierGenerationsLive,
        Self::KeyGetsASecondName,
        Self::RatchetTakesAnything,
        Self::LostAnswerHolds,
        Self::AnswersBeforeItIsDurable,
        Self::CrashUnbinds,
        Self::RestoreKeepsTickets,
        Self::ReleaseDoesNothing,
        Self::CopiesCountOn,
    ];
}

impl Sabotage {
    /// What the checker says when it finds it.
    pub(super) fn complaint(self) -> &'static str {
        match self {
            Self::SecondKeyRebinds | Self::CrashUnbinds => " took Seat ",
            Self::EarlierGenerationsLive => "two live keys",
            Self::KeyGetsASecondName => "got a second name",
            Self::RatchetTakesAnything => "go on, and nobody notices",
            Self::LostAnswerHolds => "nobody has given a reason",
            Self::RestoreKeepsTickets => "can still be used",
            Self::CopiesCountOn | Self::RotationShowsNoStamp => "does not know that it is another",
            Self::AnswersBeforeItIsDurable | Self::ReleaseDoesNothing => "is not in",
        }
    }
}

/// Transitions that go wrong.
pub(super) mod spoil {
    use anyhow::{Context as _, Result};
    use kiln_protocol::api::EnrolAnswer;
    use kiln_protocol::config::Incarnation;
    use kiln_protocol::ratchet::Turn;
    use kiln_protocol::{ApiError, ErrorClass, Fingerprint, TicketKey};

    use super::Sabotage;
    use crate::registry::State;
    use crate::store::{Transaction, keys, ratchets, seats};
    use crate::transition::enrol;
    use rusqlite::params;

    /// Takes the database's own net away, which would catch it too.
    const TRIGGER: &str = "DROP TRIGGER IF EXISTS keys_are_never_changed";
    /// The same.
    const INDEX: &str = "DROP INDEX IF EXISTS one_live_key_per_node";

    /// After an enrolment.
    pub(in super::super) fn enrolment(
        sabotage: Option<Sabotage>,
        tx: &Transaction<'_>,
        ticket: &TicketKey,
        key: Fingerprint,
        answer: Result<EnrolAnswer, ApiError>,
    ) -> Result<Result<EnrolAnswer, ApiError>> {
        let refused = answer.as_ref().err().map(|no| no.class);
        let Some(seat) = seats::by_ticket(tx, ticket)? else { return Ok(answer) };
        match (sabotage, refused) {
            (Some(Sabotage::SecondKeyRebinds), Some(ErrorClass::TicketContested)) => {
                if keys::owner(tx, &key)?.is_some() {
                    return Ok(answer);
                }
                keys::note(tx, &key, keys::Kind::Node(seat.id), "a defect", seat.not_before)?;
                seats::set_state(tx, seat.id, State::Bound(key), None)?;
                enrol::answer(tx, &seat).map(Ok)
            }
            (Some(Sabotage::KeyGetsASecondName), Some(ErrorClass::NameConflict)) => {
                let Some(first) = seats::by_key(tx, &key)? else { return Ok(answer) };
                for other in seats::of_node(tx, &seat.node)?.iter().filter(|other| other.state.is_live()) {
                    seats::set_state(tx, other.id, State::Superseded(other.state.key()), None)?;
                }
                tx.execute("UPDATE seats SET state = 'revoked', key = NULL WHERE id = ?1", [first.id])?;
                tx.execute(TRIGGER, [])?;
                tx.execute("UPDATE keys SET seat = ?2 WHERE id = ?1", params![key.to_string(), seat.id])?;
                seats::set_state(tx, seat.id, State::Bound(key), None)?;
                enrol::answer(tx, &seat).map(Ok)
            }
            (Some(Sabotage::EarlierGenerationsLive), None) => {
                tx.execute(INDEX, [])?;
                for earlier in seats::of_node(tx, &seat.node)? {
                    if let State::Superseded(Some(key)) = earlier.state {
                        seats::set_state(tx, earlier.id, State::Bound(key), None)?;
                    }
                }
                Ok(answer)
            }
            _ => Ok(answer),
        }
    }

    /// Before a connection is opened.
    pub(in super::super) fn opening(
        sabotage: Option<Sabotage>,
        tx: &Transaction<'_>,
        seat: i64,
        turn: Turn,
    ) -> Result<()> {
        match sabotage {
            Some(Sabotage::RatchetTakesAnything) => ratchets::forget(tx, seat),
            Some(Sabotage::LostAnswerHolds) if seats::by_id(tx, seat)?.turn == Some(turn) => {
                let bound = seats::by_id(tx, seat)?.state;
                let State::Bound(key) = bound else { return Ok(()) };
                seats::set_state(tx, seat, State::Held(key), Some("a defect"))
            }
            _ => Ok(()),
        }
    }

    /// After a crash.
    pub(in super::super) fn crash(tx: &Transaction<'_>) -> Result<()> {
        let seats = seats::of_incarnation(tx, Incarnation(1))?;
        if let Some(seat) = seats.iter().find(|seat| matches!(seat.state, State::Bound(_))) {
            seats::set_state(tx, seat.id, State::Issued, None).context("unbinding")?;
        }
        Ok(())
    }
}

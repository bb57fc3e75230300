//! What a turn of a node's clone ratchet says.

use kiln_protocol::ratchet::Turn;

/// The judgement of one turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The one machine goes on, or nothing was held: hold its `next`.
    Take,
    /// The last turn again: its answer was lost. The same answer.
    Again,
    /// Sent before a later one was taken, and late: it says nothing.
    Overtaken,
    /// Another machine has this key, or this one was set back.
    Broken,
}

/// `last` is the turn that was taken last. `overtaken` says that the turn's
/// connection began before `last` was taken: then its sender may have given up
/// on it and gone on over another one, as an honest machine does when a
/// network holds its bytes back. It is refused but proves nothing; a second
/// machine gains nothing by it, since it must come again.
pub(crate) fn judge(last: Option<Turn>, turn: Turn, overtaken: bool) -> Verdict {
    match last {
        None => Verdict::Take,
        Some(last) if last == turn => Verdict::Again,
        Some(last) if last.next == turn.cur => Verdict::Take,
        Some(_) if overtaken => Verdict::Overtaken,
        Some(_) => Verdict::Broken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_protocol::ratchet::Notch;
    use proptest::prelude::*;

    fn turn(cur: u8, next: u8) -> Turn {
        Turn { cur: Notch::from_bytes([cur; 16]), next: Notch::from_bytes([next; 16]) }
    }

    #[test]
    fn the_table_of_the_protocol() {
        let last = Some(turn(1, 2));
        assert_eq!(judge(None, turn(8, 9), false), Verdict::Take);
        assert_eq!(judge(last, turn(2, 3), false), Verdict::Take);
        assert_eq!(judge(last, turn(1, 2), false), Verdict::Again);
        for broken in [turn(1, 3), turn(0, 1), turn(3, 4), turn(0, 2)] {
            assert_eq!(judge(last, broken, false), Verdict::Broken);
            assert_eq!(judge(last, broken, true), Verdict::Overtaken);
        }
    }

    /// One machine: `sent` is its turn in the air, `cur` what it knows is held.
    #[derive(Clone)]
    struct Machine {
        cur: u8,
        sent: Option<u8>,
    }

    impl Machine {
        fn turn(&mut self, fresh: &mut u8) -> Turn {
            let next = *self.sent.get_or_insert_with(|| {
                *fresh += 1;
                *fresh
            });
            turn(self.cur, next)
        }
        fn answered(&mut self) {
            self.cur = self.sent.take().expect("it was sent");
        }
    }

    proptest! {
        /// Whatever answers and requests are lost, one machine is never doubted.
        #[test]
        fn lost_requests_and_answers_never_break_one_machine(fates in proptest::collection::vec(0..3u8, 0..200)) {
            let (mut machine, mut fresh, mut last) = (Machine { cur: 0, sent: None }, 0, None);
            for fate in fates {
                let turn = machine.turn(&mut fresh);
                if fate == 0 {
                    continue;
                }
                match judge(last, turn, false) {
                    Verdict::Take => last = Some(turn),
                    Verdict::Again => {}
                    other => panic!("{other:?}"),
                }
                if fate == 1 {
                    machine.answered();
                }
            }
        }

        /// Two machines with one disk between them, however they take turns:
        /// once each has been heard twice, it is known.
        #[test]
        fn a_clone_is_noticed_when_each_has_been_heard_twice(order in proptest::collection::vec(any::<bool>(), 0..40)) {
            let mut fresh = 0;
            let mut original = Machine { cur: 0, sent: None };
            let mut last = Some(original.turn(&mut fresh));
            original.answered();
            let mut machines = [original.clone(), original];
            let (mut heard, mut noticed) = ([0, 0], false);
            for which in order {
                let which = usize::from(which);
                let turn = machines[which].turn(&mut fresh);
                match judge(last, turn, false) {
                    Verdict::Take => last = Some(turn),
                    Verdict::Again => {}
                    _ => {
                        noticed = true;
                        break;
                    }
                }
                machines[which].answered();
                heard[which] += 1;
                prop_assert!(heard.iter().min() < Some(&1), "both went on");
            }
            prop_assert!(noticed || heard.contains(&0));
        }
    }
}

//! What a known line looks like and what it means; the tables are in `tables/`.

use super::{Class, Phase, Source};

/// A known line.
#[derive(Debug)]
pub(super) struct Pattern {
    /// The logs in which it means this.
    pub on: &'static [Source],
    /// Pieces of it, in this order.
    pub find: &'static [&'static str],
    /// What follows from it.
    pub weight: Weight,
    /// The kind of failure it speaks of.
    pub says: Says,
    /// Where such a line was seen, or is printed.
    #[cfg_attr(not(test), expect(dead_code, reason = "for whoever edits the table; checked by a test"))]
    pub seen: &'static str,
}

/// What follows from a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    /// Looks bad and is not.
    Harmless,
    /// Looks odd: shown beside a failure, explains nothing.
    Note,
    /// No failure yet, but the cause if one follows.
    Cause,
    /// A cause only where an installer that gives up prints its error.
    Exact,
    /// Over: the installer waits for a key. Counts without an end of line too.
    Prompt,
    /// Over, for a reason other lines tell.
    Opens,
    /// Over, and the next line says of what.
    OpensNext,
    /// Over, and this line says why.
    Ends,
}

/// How a line names its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Says {
    /// Always this one.
    Is(Class),
    /// A script of the kickstart: which, depends on how far the installer was.
    Script,
}

impl Says {
    /// The class, for a line seen in `phase`.
    pub(super) fn class(self, phase: Phase) -> Class {
        match self {
            Self::Is(class) => class,
            Self::Script if phase >= Phase::PostScripts => Class::PostScript,
            Self::Script => Class::PreScript,
        }
    }
}

impl Pattern {
    fn matches(&self, source: Source, line: &str) -> bool {
        let mut rest = line;
        self.on.contains(&source)
            && self.find.iter().all(|piece| {
                let Some((_, after)) = rest.split_once(piece) else { return false };
                rest = after;
                true
            })
    }
}

/// The first pattern of `tables` that `line` has, harmless ones first.
pub(super) fn find(tables: &[&'static [Pattern]], source: Source, line: &str) -> Option<&'static Pattern> {
    tables.iter().copied().flatten().find(|pattern| pattern.matches(source, line))
}

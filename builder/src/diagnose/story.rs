//! What was seen before the end, and which of it explains the end.

use std::collections::VecDeque;
use std::time::Duration;

use super::diagnosis::shown;
use super::{Class, Diagnosis, Phase, Source};

/// Causes kept; the first one is what counts.
const CAUSES: usize = 16;
/// Odd lines and a failed script's last lines, as shown.
const NOTES: usize = 5;

/// A line that explains a later end.
#[derive(Debug, Clone)]
pub(super) struct Cause {
    pub class: Class,
    pub source: Source,
    pub line: String,
    /// It is part of the error with which the installer gave up.
    pub in_error: bool,
}

/// An end whose cause is still looked for.
#[derive(Debug, Clone)]
pub(super) struct Open {
    pub class: Class,
    pub source: Source,
    pub line: String,
    /// When it was seen.
    pub since: Duration,
    /// What the installer was at.
    pub phase: Phase,
    /// What is still read of it.
    pub wants: Wants,
    /// The error's own words, once read.
    pub detail: Option<String>,
}

/// What is still to be read of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wants {
    /// Nothing in particular.
    Nothing,
    /// The next line: it is all there is to it.
    NextLine,
    /// The lines up to `The installer will now terminate`.
    Message,
}

impl Open {
    pub(super) fn new(class: Class, source: Source, line: &str, since: Duration, phase: Phase) -> Self {
        Self { class, source, line: shown(line), since, phase, wants: Wants::Nothing, detail: None }
    }

    /// It says that all is over, and not why.
    pub(super) fn is_generic(&self) -> bool {
        matches!(
            self.class,
            Class::Installer | Class::PromptWait | Class::PoweredOffWithoutMark | Class::GuestReset
        )
    }

    /// What to read once the error's own words are announced.
    pub(super) fn wants_next(&self) -> Wants {
        if self.is_generic() { Wants::Message } else { Wants::NextLine }
    }

    /// Whether its own words are the reason, and not only that there is one.
    fn says_why(&self) -> bool {
        !self.is_generic() && !matches!(self.class, Class::DracutStage2 | Class::FirmwareBoot | Class::Panic)
    }

    fn is_explained_by(&self, cause: Class) -> bool {
        match self.class {
            _ if self.is_generic() => true,
            Class::DracutStage2 | Class::FirmwareBoot => {
                matches!(cause, Class::DracutStage2 | Class::FirmwareBoot | Class::MediaCheck | Class::Oom)
            }
            Class::Panic => matches!(cause, Class::Panic | Class::Oom),
            Class::Scriptlet => matches!(cause, Class::Scriptlet | Class::Oom | Class::Storage),
            class => class == cause,
        }
    }

    /// Without any cause, an installer that gives up does so over what it was at.
    fn likely_class(&self) -> Class {
        match (self.class, self.phase) {
            (Class::Installer, Phase::PreScripts) => Class::PreScript,
            (Class::Installer, Phase::Storage | Phase::BootLoader) => Class::Storage,
            (Class::Installer, Phase::Downloading | Phase::Installing) => Class::PayloadRepo,
            (Class::Installer, Phase::PostScripts) => Class::PostScript,
            (class, _) => class,
        }
    }

    /// The error in one line.
    fn text(&self) -> String {
        match &self.detail {
            Some(detail) if self.is_generic() => detail.clone(),
            Some(detail) => format!("{} {detail}", self.line),
            None => self.line.clone(),
        }
    }
}

/// What was seen so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Story {
    causes: Vec<Cause>,
    notes: VecDeque<String>,
}

impl Story {
    pub(super) fn cause(&mut self, cause: Cause) {
        self.note(&cause.line);
        if self.causes.len() < CAUSES {
            self.causes.push(cause);
        }
    }

    pub(super) fn note(&mut self, line: &str) {
        push(&mut self.notes, line);
    }

    /// The diagnosis of an end: its first cause if there is one, else itself.
    pub(super) fn explain(&self, open: &Open) -> Diagnosis {
        let first = |in_error: bool| {
            self.causes.iter().find(|cause| cause.in_error == in_error && open.is_explained_by(cause.class))
        };
        let own = open.text();
        let (exact, before) = (first(true), first(false));
        let chosen = match (exact, before) {
            // The error itself names the class; the first line that did so says most.
            (Some(exact), Some(before)) if exact.class == before.class => Some(before),
            _ => exact.or(before),
        };
        let chosen = chosen.filter(|cause| !(open.says_why() && cause.class == open.class));
        let Some(cause) = chosen else {
            let class = open.likely_class();
            return Diagnosis::new(class, open.source, own)
                .likely(class != open.class)
                .with_context(self.notes.iter().cloned());
        };
        let context = self.notes.iter().filter(|line| **line != own).cloned().chain([own.clone()]);
        Diagnosis::new(cause.class, cause.source, &cause.line)
            .likely(exact.is_none() && cause.class != open.class)
            .with_context(context.collect::<Vec<_>>())
    }
}

/// The last lines of a failed script.
#[derive(Debug, Clone, Default)]
pub(super) struct Tail(VecDeque<String>);

impl Tail {
    pub(super) fn push(&mut self, line: &str) {
        push(&mut self.0, line);
    }

    pub(super) fn lines(&self) -> impl Iterator<Item = String> {
        self.0.iter().cloned()
    }
}

fn push(lines: &mut VecDeque<String>, line: &str) {
    let line = shown(line);
    if line.is_empty() || lines.contains(&line) {
        return;
    }
    if lines.len() == NOTES {
        lines.pop_front();
    }
    lines.push_back(line);
}

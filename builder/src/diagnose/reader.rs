//! What each line does to a [`Classifier`].

use std::time::Duration;

use super::classifier::Classifier;
use super::diagnosis::shown;
use super::marks::{self, Mark, Outcome, Stage};
use super::patterns::{self, Pattern, Weight};
use super::prefix::message;
use super::progress::{Phase, Progress};
use super::story::{Cause, Open, Wants};
use super::{Class, Diagnosis, Source, tables};

/// After these, the error itself follows on a line of its own.
const ANNOUNCES: [&str; 2] = ["The exact error message is", "The details of this error"];
const TERMINATES: &str = "The installer will now terminate";

impl Classifier {
    pub(super) fn line(&mut self, source: Source, line: &str, now: Duration) {
        if self.decided.is_some() {
            return;
        }
        if source != Source::Installer && marks::is_ours(line) {
            if let Some(mark) = marks::parse_mark(line, &self.run) {
                self.mark(source, mark, now);
            }
            return;
        }
        if !is_farewell(line) && !message(line).is_empty() {
            self.last = Some((source, shown(line)));
        }
        if self.progress.phase == Phase::Firmware {
            self.progress = Progress::phase(Phase::Booting);
        }
        if self.done {
            self.known(source, line, patterns::find(tables::AFTER_DONE, source, line), now);
            return;
        }
        if let Some(progress) = Progress::parse(line) {
            self.progress = progress;
        }
        if source == Source::Installer && line.contains("#012") {
            self.record(line, now);
        } else {
            let found = patterns::find(tables::GUEST, source, line);
            self.continued(source, line, found);
            self.known(source, line, found, now);
        }
    }

    /// One record of several lines: rsyslog writes their ends as `#012`.
    fn record(&mut self, line: &str, now: Duration) {
        let parts: Vec<&str> = line.split("#012").filter(|part| !part.trim().is_empty()).collect();
        let Some((head, rest)) = parts.split_first() else { return };
        let found = patterns::find(tables::GUEST, Source::Installer, head);
        self.known(Source::Installer, head, found, now);
        // Of a traceback, the exception; of anything else, all of it.
        let error = rest.iter().rposition(|part| is_exception(part)).unwrap_or(0);
        let detail = rest.iter().skip(error).map(|part| part.trim()).collect::<Vec<_>>().join(" ");
        let of_this = matches!(found.map(|pattern| pattern.weight), Some(Weight::Opens | Weight::OpensNext));
        for part in rest.iter().skip(error) {
            let cause = patterns::find(tables::GUEST, Source::Installer, part);
            self.suspect(Source::Installer, part, cause, of_this);
        }
        if of_this
            && !detail.is_empty()
            && let Some(open) = self.open.as_mut().filter(|open| open.line == shown(head))
        {
            open.detail.get_or_insert(shown(&detail));
            open.wants = Wants::Nothing;
            self.settle_if_told();
        }
    }

    /// A console line that belongs to the error above it.
    fn continued(&mut self, source: Source, line: &str, found: Option<&'static Pattern>) {
        let Some(open) = self.open.as_mut().filter(|open| open.source == source) else { return };
        let text = message(line);
        // The kernel talks in between; the installer's lines look like the one that opened this.
        let same = line.contains("] anaconda[") == open.line.contains("] anaconda[")
            && line.starts_with('[') == open.line.starts_with('[');
        if text.contains(TERMINATES) {
            open.wants = Wants::Nothing;
        } else if found.is_some_and(|pattern| pattern.weight == Weight::OpensNext) && !open.is_generic() {
            // The same error once more, with its place; its words are still to come.
            open.line = shown(line);
        } else if announces(text) {
            open.wants = open.wants_next();
        } else if same && is_words(text) && (open.wants != Wants::Nothing || is_exception(text)) {
            let in_error = open.is_generic();
            open.detail.get_or_insert_with(|| shown(text));
            self.suspect(source, line, found, in_error);
            self.settle_if_told();
        }
    }

    /// An end that names its class and has all its words needs no waiting.
    fn settle_if_told(&mut self) {
        if let Some(open) = &self.open
            && !open.is_generic()
        {
            let diagnosis = self.story.explain(open);
            self.decide(diagnosis);
        }
    }

    fn known(&mut self, source: Source, line: &str, found: Option<&'static Pattern>, now: Duration) {
        let Some(pattern) = found else { return };
        let phase = self.progress.phase;
        let class = pattern.says.class(phase);
        let text = message(line);
        match pattern.weight {
            Weight::Harmless => {}
            Weight::Ends => self.decide(Diagnosis::new(class, source, line)),
            Weight::Opens | Weight::Prompt | Weight::OpensNext => {
                let mut open = Open::new(class, source, line, now, phase);
                if pattern.weight == Weight::OpensNext || announces(text) {
                    open.wants = open.wants_next();
                }
                self.open(open);
            }
            Weight::Note => self.story.note(text),
            Weight::Cause | Weight::Exact => self.suspect(source, line, found, false),
        }
    }

    /// Keeps a line that explains an end, be it to come or under way.
    fn suspect(&mut self, source: Source, line: &str, found: Option<&'static Pattern>, in_error: bool) {
        let Some(pattern) = found else { return };
        let counts = pattern.weight == Weight::Cause || (pattern.weight == Weight::Exact && in_error);
        if counts {
            let class = pattern.says.class(self.progress.phase);
            self.story.cause(Cause { class, source, line: shown(line), in_error });
        }
    }

    fn mark(&mut self, source: Source, mark: Mark, now: Duration) {
        match mark {
            Mark::Step(stage, text) if stage == self.stage => {
                let phase = match self.progress.phase {
                    phase @ (Phase::PreScripts | Phase::PostScripts | Phase::Closing) => phase,
                    phase if phase < Phase::Storage => Phase::PreScripts,
                    _ => Phase::PostScripts,
                };
                self.last = Some((source, text.clone()));
                self.progress = Progress::item(phase, text);
            }
            Mark::Log(stage, text) if stage == self.stage => {
                let found = patterns::find(tables::GUEST, Source::Marks, &text);
                self.suspect(source, &text, found, false);
                let console = if source == Source::Serial { &mut self.serial } else { &mut self.marks };
                console.script.push(&text);
            }
            Mark::Report(stage, json) if stage == self.stage => self.report = Some(json),
            Mark::Done(stage, Outcome::Ok) if stage == self.stage => {
                self.done = true;
                self.open = None;
                self.progress = Progress::phase(Phase::Closing);
            }
            Mark::Done(stage, Outcome::Fail(reason)) if stage == self.stage => {
                self.failed(source, &reason, now);
            }
            _ => {}
        }
    }

    /// A stage says itself that it failed.
    fn failed(&mut self, source: Source, reason: &str, now: Duration) {
        let class = match self.stage {
            Stage::Node => Class::NodeInstall,
            Stage::Inspect => Class::Inspect,
            Stage::Os if reason.starts_with("%post") => Class::PostScript,
            Stage::Os if reason.starts_with("%pre") => Class::PreScript,
            Stage::Os => Class::Installer,
        };
        if class == Class::Installer {
            // From %onerror: what Anaconda said before is better.
            self.open(Open::new(class, source, reason, now, self.progress.phase));
            return;
        }
        let console = if source == Source::Serial { &self.serial } else { &self.marks };
        let diagnosis = Diagnosis::new(class, source, reason).with_context(console.script.lines());
        self.decide(diagnosis);
    }
}

/// Whether the error itself is on the next line.
fn announces(text: &str) -> bool {
    ANNOUNCES.iter().any(|words| text.contains(words))
}

/// What every machine says as it powers off, whatever was before.
fn is_farewell(line: &str) -> bool {
    const WORDS: [&str; 8] = [
        "reboot: Power down",
        "ACPI: PM: Preparing to enter",
        "Synchronizing SCSI cache",
        "systemd-shutdown[",
        "[  OK  ]",
        "Stopping ",
        "Unmounting ",
        "SQUASHFS error:",
    ];
    WORDS.iter().any(|words| line.contains(words))
}

/// Not a ruler, and not the rest of a sentence a terminal cut.
fn is_words(text: &str) -> bool {
    text.chars().any(char::is_alphanumeric) && text != "are:"
}

/// `package.module.SomeError: words`, the last line of a traceback.
fn is_exception(part: &str) -> bool {
    let name = part.split(':').next().unwrap_or_default();
    !name.is_empty()
        && name.chars().all(|c| c.is_alphanumeric() || c == '.' || c == '_')
        && ["Error", "Exception", "Exit", "Interrupt"].iter().any(|end| name.ends_with(end))
}

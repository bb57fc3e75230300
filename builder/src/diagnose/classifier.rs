//! Reads the logs of one stage as they come and says when it is over.

use std::time::Duration;

use super::lines::LineSplitter;
use super::machine::{Ending, Event};
use super::marks::Stage;
use super::patterns::{self, Weight};
use super::prefix::message;
use super::progress::{Phase, Progress};
use super::story::{Open, Story, Tail};
use super::{Class, Diagnosis, Source, tables};

/// How long the other logs may take to tell why, once one says that all is over.
/// Also how long a line without its end must stay before it counts as a question.
pub const SETTLE: Duration = Duration::from_secs(2);

/// Reads the logs, marks and events of one stage of one bake.
///
/// Times are since the machine was switched on. The first diagnosis stands.
#[derive(Debug, Clone)]
pub struct Classifier {
    pub(super) run: String,
    pub(super) stage: Stage,
    pub(super) installer: LineSplitter,
    /// When the serial console last said something.
    heard: Duration,
    pub(super) serial: Console,
    pub(super) marks: Console,
    pub(super) progress: Progress,
    pub(super) story: Story,
    pub(super) open: Option<Open>,
    pub(super) done: bool,
    pub(super) decided: Option<Diagnosis>,
    pub(super) last: Option<(Source, String)>,
    pub(super) report: Option<String>,
}

/// A log that our scripts write to as well.
#[derive(Debug, Clone, Default)]
pub(super) struct Console {
    pub(super) lines: LineSplitter,
    pub(super) script: Tail,
}

impl Classifier {
    /// For one stage of the run with this id.
    pub fn new(run: &str, stage: Stage) -> Self {
        Self {
            run: run.to_owned(),
            stage,
            installer: LineSplitter::default(),
            heard: Duration::ZERO,
            serial: Console::default(),
            marks: Console::default(),
            progress: Progress::phase(Phase::Firmware),
            story: Story::default(),
            open: None,
            done: false,
            decided: None,
            last: None,
            report: None,
        }
    }

    /// Whether the stage said that it is done. Only [`Self::finish`] tells whether it was.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// How far it is.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The last line any log said.
    pub fn last_line(&self) -> Option<(Source, &str)> {
        self.last.as_ref().map(|(source, line)| (*source, line.as_str()))
    }

    /// The JSON report of `agent install`, once it came.
    pub fn report(&self) -> Option<&str> {
        self.report.as_deref()
    }

    /// Takes bytes of a log.
    pub fn feed(&mut self, source: Source, bytes: &[u8], now: Duration) -> Option<Diagnosis> {
        let mut lines = Vec::new();
        if let Some(splitter) = self.splitter(source) {
            splitter.feed(bytes, |line| lines.push(line.to_owned()));
        }
        if source == Source::Serial && !bytes.is_empty() {
            self.heard = now;
        }
        for line in lines {
            self.line(source, &line, now);
        }
        self.tick(now)
    }

    /// Takes an event of QEMU.
    pub fn event(&mut self, event: &Event, now: Duration) -> Option<Diagnosis> {
        let phase = self.progress.phase;
        let open = |class, line: &str| Open::new(class, Source::Qmp, line, now, phase);
        match event {
            Event::GuestPanicked => self.open(open(Class::Panic, "GUEST_PANICKED")),
            Event::Reset => self.open(open(Class::GuestReset, "RESET by the guest")),
            Event::Stop => self.open(open(Class::HostQemu, "QEMU paused the machine by itself (STOP)")),
            Event::BlockIoError { device, nospace, reason } => {
                let class = if *nospace { Class::HostDiskFull } else { Class::HostQemu };
                let line = format!("BLOCK_IO_ERROR on {device}: {reason}");
                self.decide(Diagnosis::new(class, Source::Qmp, line));
            }
        }
        self.tick(now)
    }

    /// The diagnosis, if there is one by now.
    pub fn tick(&mut self, now: Duration) -> Option<Diagnosis> {
        let partial = self.serial.lines.partial();
        if !partial.is_empty()
            && now.saturating_sub(self.heard) >= SETTLE
            && patterns::find(tables::GUEST, Source::Serial, &partial)
                .is_some_and(|p| p.weight == Weight::Prompt)
        {
            self.flush(Source::Serial, now);
        }
        if let Some(open) = &self.open
            && now.saturating_sub(open.since) >= SETTLE
        {
            let diagnosis = self.story.explain(open);
            self.decide(diagnosis);
        }
        self.decided.clone()
    }

    /// The verdict, when the machine is gone and all its logs were fed in.
    pub fn finish(&mut self, ending: &Ending) -> Result<(), Diagnosis> {
        for source in [Source::Installer, Source::Marks, Source::Serial] {
            self.flush(source, Duration::MAX);
        }
        if let Some(diagnosis) = &self.decided {
            return Err(diagnosis.clone());
        }
        let own = ending.diagnosis();
        match (&self.open, own) {
            (_, Some(own)) if matches!(own.class, Class::HostQemu | Class::HostDiskFull) => Err(own),
            (Some(open), _) => Err(self.story.explain(open)),
            (None, None) if self.done => Ok(()),
            (None, Some(own)) if self.done => Err(own),
            (None, own) => {
                let (source, line) = match (&own, &self.last) {
                    (Some(own), _) => (own.source, own.line.clone()),
                    (None, Some((source, line))) => (*source, self.last_words(line)),
                    (None, None) => (Source::Qmp, "it never wrote anything".to_owned()),
                };
                let class = own.map_or(Class::PoweredOffWithoutMark, |own| own.class);
                Err(self.story.explain(&Open::new(class, source, &line, Duration::ZERO, self.progress.phase)))
            }
        }
    }

    /// Of a machine that powered off and did not say why.
    fn last_words(&self, line: &str) -> String {
        format!("it was {}, and its last words were: {}", self.progress.phase.label(), message(line))
    }

    fn splitter(&mut self, source: Source) -> Option<&mut LineSplitter> {
        match source {
            Source::Installer => Some(&mut self.installer),
            Source::Serial => Some(&mut self.serial.lines),
            Source::Marks => Some(&mut self.marks.lines),
            Source::Inspection | Source::Qmp | Source::Qemu | Source::Clock => None,
        }
    }

    fn flush(&mut self, source: Source, now: Duration) {
        let mut last = None;
        if let Some(splitter) = self.splitter(source) {
            splitter.flush(|line| last = Some(line.to_owned()));
        }
        if let Some(line) = last {
            self.line(source, &line, now);
        }
    }

    pub(super) fn decide(&mut self, diagnosis: Diagnosis) {
        self.decided.get_or_insert(diagnosis);
    }

    /// Notes that all is over. A second such line counts only if it says more.
    pub(super) fn open(&mut self, open: Open) {
        let better = |old: &Open| {
            (old.is_generic() && !open.is_generic()) || (old.class == open.class && old.source == Source::Qmp)
        };
        if self.open.as_ref().is_none_or(better) {
            self.open = Some(open);
        }
    }
}

//! What is being done: a live line on a terminal, plain lines elsewhere, JSON
//! lines for programs.

mod lines;
mod live;

use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Event {
    /// A run begins.
    Run {
        /// Its id.
        run: String,
        /// What it does.
        what: String,
    },
    /// Something that is not as one would hope for.
    Warning {
        /// What.
        text: String,
    },
    /// A stage begins.
    StageStarted {
        /// Its name.
        stage: &'static str,
    },
    /// A stage takes its next step.
    Step {
        /// The stage.
        stage: &'static str,
        /// The step.
        text: String,
    },
    /// Packages are being installed.
    Packages {
        /// The stage.
        stage: &'static str,
        /// What is being done: `downloading`, `installing`, `configuring`, `verifying`.
        action: &'static str,
        /// How many are done.
        done: u64,
        /// Of how many.
        total: u64,
    },
    /// A file is being downloaded.
    Download {
        /// The stage.
        stage: &'static str,
        /// The file's name.
        name: String,
        /// Bytes that are there.
        done: u64,
        /// Of how many, if the server says so.
        total: Option<u64>,
        /// Bytes a second, lately.
        rate: u64,
    },
    /// A stage is done.
    StageFinished {
        /// Its name.
        stage: &'static str,
        /// How long it took.
        seconds: f64,
        /// Whether an earlier result was used again; `seconds` is then what
        /// making it had taken.
        cached: bool,
    },
    /// The run ends badly.
    Failed {
        /// What kind of failure, where it is known.
        class: Option<String>,
        /// The whole message.
        message: String,
        /// The directory with everything about it.
        bundle: Option<String>,
    },
    /// The run ends well.
    Finished {
        /// What was made.
        result: String,
    },
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A line that changes if stderr is a terminal, lines otherwise.
    Human,
    /// One JSON object a line on stdout.
    Json,
}

/// Where events go. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Progress {
    begin: Instant,
    sink: Arc<Mutex<Sink>>,
}

#[derive(Debug)]
enum Sink {
    Live(live::Live),
    Lines(lines::Lines),
    Json,
    #[cfg(test)]
    Silent(Vec<Event>),
}

impl Progress {
    /// Begins now.
    pub fn new(style: Style) -> Self {
        let sink = match style {
            Style::Json => Sink::Json,
            Style::Human if std::io::IsTerminal::is_terminal(&std::io::stderr()) => {
                Sink::Live(live::Live::new())
            }
            Style::Human => Sink::Lines(lines::Lines::default()),
        };
        Self { begin: Instant::now(), sink: Arc::new(Mutex::new(sink)) }
    }

    /// Shows nothing.
    #[cfg(test)]
    pub(crate) fn silent() -> Self {
        Self { begin: Instant::now(), sink: Arc::new(Mutex::new(Sink::Silent(Vec::new()))) }
    }

    /// What a silent one was told.
    #[cfg(test)]
    pub(crate) fn events(&self) -> Vec<Event> {
        match &*self.sink.lock().unwrap_or_else(PoisonError::into_inner) {
            Sink::Silent(events) => events.clone(),
            _ => Vec::new(),
        }
    }

    /// Tells an event.
    pub fn tell(&self, event: &Event) {
        let elapsed = self.begin.elapsed();
        match &mut *self.sink.lock().unwrap_or_else(PoisonError::into_inner) {
            Sink::Live(live) => live.show(event),
            Sink::Lines(lines) => {
                if let Some(line) = lines.line(elapsed, event) {
                    // Nobody listening is no reason to stop.
                    let _ = writeln!(anstream::stderr(), "{line}");
                }
            }
            Sink::Json => {
                let _ = writeln!(std::io::stdout(), "{}", json(elapsed, event));
            }
            #[cfg(test)]
            Sink::Silent(events) => events.push(event.clone()),
        }
    }

    /// Tells a warning.
    pub fn warn(&self, text: impl Into<String>) {
        self.tell(&Event::Warning { text: text.into() });
    }

    /// Tells a stage's next step.
    pub fn step(&self, stage: &'static str, text: impl Into<String>) {
        self.tell(&Event::Step { stage, text: text.into() });
    }

    /// Time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Whether people read along.
    pub fn is_for_people(&self) -> bool {
        !matches!(&*self.sink.lock().unwrap_or_else(PoisonError::into_inner), Sink::Json)
    }
}

/// An event as a JSON object, with the seconds since the beginning.
fn json(elapsed: Duration, event: &Event) -> String {
    #[derive(Serialize)]
    struct Timed<'a> {
        at: f64,
        #[serde(flatten)]
        event: &'a Event,
    }
    let at = (elapsed.as_secs_f64() * 1000.0).round() / 1000.0;
    serde_json::to_string(&Timed { at, event }).expect("events have only string keys")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each kind, as `docs/events.md` shows them. Whoever adds a kind
    /// adds it here and there.
    fn samples() -> Vec<Event> {
        let bundle = "/home/me/.local/state/kiln/failures/1f0c8e5b7a9d2346".to_owned();
        let samples = vec![
            Event::Run { run: "1f0c8e5b7a9d2346".into(), what: "bake alma9-k3-node-amd64-v1.28.5-v1".into() },
            Event::Warning { text: "/cache has only 3.1GiB left, a bake needs about 4GiB".into() },
            Event::StageStarted { stage: "os" },
            Event::Step { stage: "os", text: "booting the installer".into() },
            Event::Packages { stage: "os", action: "installing", done: 3, total: 350 },
            Event::Download {
                stage: "inputs",
                name: "AlmaLinux-9.6-x86_64-dvd.iso".into(),
                done: 1_073_741_824,
                total: Some(12_884_901_888),
                rate: 52_428_800,
            },
            Event::StageFinished { stage: "os", seconds: 61.5, cached: true },
            Event::Failed {
                class: Some("ks-parse".into()),
                message: "the os stage failed: the kickstart does not parse (ks-parse)".into(),
                bundle: Some(bundle),
            },
            Event::Failed { class: None, message: "interrupted".into(), bundle: None },
            Event::Finished { result: "/images/alma9-k3-node-amd64-v1.28.5-v1".into() },
        ];
        for sample in &samples {
            match sample {
                Event::Run { .. }
                | Event::Warning { .. }
                | Event::StageStarted { .. }
                | Event::Step { .. }
                | Event::Packages { .. }
                | Event::Download { .. }
                | Event::StageFinished { .. }
                | Event::Failed { .. }
                | Event::Finished { .. } => {}
            }
        }
        samples
    }

    #[test]
    fn json_events_are_those_the_documentation_shows() {
        let documented = include_str!("../../../docs/events.md");
        let documented: Vec<&str> = documented.lines().filter(|line| line.starts_with("{\"at\"")).collect();
        let told: Vec<String> =
            samples().iter().map(|event| json(Duration::from_micros(1_234_567), event)).collect();
        assert_eq!(documented, told, "docs/events.md");
    }

    #[test]
    fn plain_lines_have_no_colours_of_their_own_but_what_the_stream_may_drop() {
        let mut lines = lines::Lines::default();
        let warning = Event::Warning { text: "little room".into() };
        let line = lines.line(Duration::from_secs(1), &warning).unwrap();
        let plain = anstream::adapter::strip_str(&line).to_string();
        assert_eq!(plain, "[    1.0s] warning: little room");
    }
}

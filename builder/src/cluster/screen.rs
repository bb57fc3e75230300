//! How a run is shown: a table that is redrawn on a terminal, a line per
//! change in a log, a JSON object per change for programs.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;

use super::view::{View, clock, millis};

/// What a run tells about itself.
#[derive(Debug)]
pub struct Screen {
    kind: Kind,
    began: Instant,
    last: View,
}

enum Kind {
    Table(Table),
    Log,
    Json,
    /// Told line by line to somebody else, who shows it among other things.
    Told(Box<dyn FnMut(&str) + Send>),
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Table(_) => "Table",
            Self::Log => "Log",
            Self::Json => "Json",
            Self::Told(_) => "Told",
        })
    }
}

/// A line of `--json`.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    /// Something that is not about one node.
    Note { elapsed_ms: u64, text: &'a str },
    /// A node changed.
    Node {
        elapsed_ms: u64,
        #[serde(flatten)]
        row: &'a super::view::Row,
    },
}

impl Screen {
    /// For people: on a terminal a table, else a log.
    pub fn for_people() -> Self {
        let kind = if std::io::stderr().is_terminal() { Kind::Table(Table::default()) } else { Kind::Log };
        Self::new(kind)
    }

    /// For programs: JSON lines on standard output.
    pub fn json() -> Self {
        Self::new(Kind::Json)
    }

    /// For a caller that shows the lines itself.
    pub fn told(tell: impl FnMut(&str) + Send + 'static) -> Self {
        Self::new(Kind::Told(Box::new(tell)))
    }

    fn new(kind: Kind) -> Self {
        Self { kind, began: Instant::now(), last: View::default() }
    }

    /// Whether a program reads along.
    pub fn is_json(&self) -> bool {
        matches!(self.kind, Kind::Json)
    }

    /// Says something that is not about one node.
    pub fn note(&mut self, text: &str) {
        let elapsed = self.began.elapsed();
        match &mut self.kind {
            Kind::Table(table) => table.above(text),
            Kind::Log => log(elapsed, text),
            Kind::Json => print_json(&Event::Note { elapsed_ms: millis(elapsed), text }),
            Kind::Told(tell) => tell(text),
        }
    }

    /// Shows the cluster as it is now.
    pub fn show(&mut self, view: &View) {
        let elapsed = self.began.elapsed();
        if let Kind::Table(table) = &mut self.kind {
            table.draw(&view.table());
        } else {
            for row in view.changed_since(&self.last) {
                match &mut self.kind {
                    Kind::Json => print_json(&Event::Node { elapsed_ms: millis(elapsed), row }),
                    Kind::Told(tell) => tell(&row.sentence()),
                    Kind::Log | Kind::Table(_) => log(elapsed, &row.sentence()),
                }
            }
        }
        self.last.clone_from(view);
    }

    /// Leaves the table as it stands: what follows is written below it.
    pub fn finish(&mut self) {
        if let Kind::Table(table) = &mut self.kind {
            table.finish();
        }
    }
}

/// Writes to standard error; a reader that is gone is no reason to fail.
fn log(elapsed: Duration, text: &str) {
    let _ = writeln!(std::io::stderr(), "{:>6}  {text}", clock(elapsed));
}

/// One JSON object on a line of standard output.
pub(crate) fn print_json(value: &impl Serialize) {
    if let Ok(line) = serde_json::to_string(value) {
        let _ = writeln!(std::io::stdout(), "{line}");
    }
}

/// Lines at the bottom of the terminal that are redrawn in place.
#[derive(Default)]
struct Table {
    all: MultiProgress,
    lines: Vec<ProgressBar>,
}

impl Table {
    fn draw(&mut self, lines: &[String]) {
        while self.lines.len() < lines.len() {
            let style =
                ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
            self.lines.push(self.all.add(ProgressBar::new(0).with_style(style)));
        }
        for (bar, line) in self.lines.iter().zip(lines) {
            bar.set_message(line.clone());
            bar.tick();
        }
    }

    fn above(&self, text: &str) {
        let _ = self.all.println(text);
    }

    fn finish(&mut self) {
        for bar in self.lines.drain(..) {
            bar.abandon();
        }
    }
}

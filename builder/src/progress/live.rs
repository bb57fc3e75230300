//! Progress on a terminal: finished stages as lines, the running one as a line
//! that changes.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::Event;
use crate::cli::paint::{GOOD, POOR};
use crate::image::Size;

/// How often the clock and the spinner move.
const TICK: Duration = Duration::from_millis(120);

#[derive(Debug)]
pub(super) struct Live {
    bar: ProgressBar,
}

fn plain() -> ProgressStyle {
    style("{spinner} {prefix:<6} {elapsed:>4}  {wide_msg}")
}

fn counted() -> ProgressStyle {
    style("{spinner} {prefix:<6} {elapsed:>4}  {bar:24} {pos}/{len} {wide_msg}")
}

fn bytes() -> ProgressStyle {
    style("{spinner} {prefix:<6} {elapsed:>4}  {bar:24} {binary_bytes}/{binary_total_bytes} {wide_msg}")
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

impl Live {
    pub(super) fn new() -> Self {
        Self { bar: ProgressBar::hidden() }
    }

    pub(super) fn show(&mut self, event: &Event) {
        match event {
            Event::Run { run, what } => self.print(&format!("{what} (run {run})")),
            Event::Warning { text } => self.print(&format!("{POOR}warning:{POOR:#} {text}")),
            Event::StageStarted { stage } => {
                self.bar.finish_and_clear();
                self.bar = ProgressBar::new_spinner().with_style(plain()).with_prefix(*stage);
                self.bar.enable_steady_tick(TICK);
            }
            Event::Step { text, .. } => {
                self.bar.set_style(plain());
                self.bar.set_message(text.clone());
            }
            Event::Packages { action, done, total, .. } => {
                self.bar.set_style(counted());
                self.bar.set_length(*total);
                self.bar.set_position(*done);
                self.bar.set_message(format!("{action} packages"));
            }
            Event::Download { name, done, total, rate, .. } => {
                self.bar.set_style(if total.is_some() { bytes() } else { plain() });
                self.bar.set_length(total.unwrap_or(*done));
                self.bar.set_position(*done);
                let there = if total.is_some() { String::new() } else { format!(" {}", Size::bytes(*done)) };
                self.bar.set_message(format!("downloading {name}{there}, {}/s", Size::bytes(*rate)));
            }
            Event::StageFinished { stage, seconds, cached } => {
                self.bar.finish_and_clear();
                let how = if *cached { "made before, in" } else { "done in" };
                self.print(&format!("  {GOOD}{stage:<6}{GOOD:#} {how} {seconds:.1} s"));
            }
            Event::Failed { .. } | Event::Finished { .. } => self.bar.finish_and_clear(),
        }
    }

    fn print(&self, line: &str) {
        self.bar.suspend(|| anstream::eprintln!("{line}"));
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

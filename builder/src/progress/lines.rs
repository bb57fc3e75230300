//! Progress as plain lines: few enough for a log file.

use std::time::Duration;

use super::Event;
use crate::cli::paint::POOR;

/// Packages are told each time this part of them is done.
const PARTS: u64 = 10;

#[derive(Debug, Default)]
pub(super) struct Lines {
    /// What was last told of packages: action and part.
    told: Option<(&'static str, u64)>,
}

impl Lines {
    /// The line for an event, if it is worth one.
    pub(super) fn line(&mut self, elapsed: Duration, event: &Event) -> Option<String> {
        let text = self.text(event)?;
        Some(format!("[{:7.1}s] {text}", elapsed.as_secs_f64()))
    }

    fn text(&mut self, event: &Event) -> Option<String> {
        Some(match event {
            Event::Run { run, what } => format!("{what} (run {run})"),
            Event::Warning { text } => format!("{POOR}warning:{POOR:#} {text}"),
            Event::StageStarted { stage } => {
                self.told = None;
                format!("{stage}: begins")
            }
            Event::Step { stage, text } => format!("{stage}: {text}"),
            Event::Packages { stage, action, done, total } => {
                let part = done * PARTS / (*total).max(1);
                if self.told.replace((action, part)) == Some((action, part)) {
                    return None;
                }
                format!("{stage}: {action} packages, {done} of {total}")
            }
            Event::StageFinished { stage, seconds, cached: true } => {
                format!("{stage}: nothing to do, made before in {seconds:.1} s")
            }
            Event::StageFinished { stage, seconds, cached: false } => {
                format!("{stage}: done in {seconds:.1} s")
            }
            // Printed by whoever ends the run.
            Event::Failed { .. } | Event::Finished { .. } => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_told_by_tenths() {
        let mut lines = Lines::default();
        let told = (0..=350)
            .filter_map(|done| {
                let event = Event::Packages { stage: "os", action: "installing", done, total: 350 };
                lines.line(Duration::from_secs(2), &event)
            })
            .collect::<Vec<_>>();
        assert_eq!(told.len(), 11);
        assert_eq!(told[1], "[    2.0s] os: installing packages, 35 of 350");
    }
}

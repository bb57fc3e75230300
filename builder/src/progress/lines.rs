//! Progress as plain lines: few enough for a log file.

use std::time::Duration;

use super::Event;
use crate::cli::paint::POOR;
use crate::image::Size;

/// Packages are told each time this part of them is done.
const PARTS: u64 = 10;
/// A download whose size is not known is told each time so many bytes came.
const STEP: u64 = 100 << 20;

#[derive(Debug, Default)]
pub(super) struct Lines {
    /// What was last told of packages: action and part.
    told: Option<(&'static str, u64)>,
    /// What was last told of a download: name and part.
    downloaded: Option<(String, u64)>,
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
            Event::Download { stage, name, done, total, rate } => {
                let part = total.map_or(done / STEP, |total| done.saturating_mul(PARTS) / total.max(1));
                if self.downloaded.replace((name.clone(), part)) == Some((name.clone(), part)) {
                    return None;
                }
                format!("{stage}: downloading {name}, {}", amount(*done, *total, *rate))
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

/// `4.5GiB of 9.0GiB, 35.2MiB/s`.
fn amount(done: u64, total: Option<u64>, rate: u64) -> String {
    let of = total.map(|total| format!(" of {}", Size::bytes(total))).unwrap_or_default();
    let rate = if rate > 0 { format!(", {}/s", Size::bytes(rate)) } else { String::new() };
    format!("{}{of}{rate}", Size::bytes(done))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_is_told_by_tenths_with_its_rate() {
        let mut lines = Lines::default();
        let mut tell = |done, total| {
            let event = Event::Download { stage: "inputs", name: "a.iso".into(), done, total, rate: 5 << 20 };
            lines.line(Duration::ZERO, &event)
        };
        let told: Vec<String> = (0..=200).filter_map(|mib| tell(mib << 20, Some(200 << 20))).collect();
        assert_eq!(told.len(), 11);
        assert_eq!(told[1], "[    0.0s] inputs: downloading a.iso, 20MiB of 200MiB, 5MiB/s");
        assert_eq!((201..=501).filter_map(|mib| tell(mib << 20, None)).count(), 4);
    }

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

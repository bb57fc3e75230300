//! When silence means that nothing will come any more.

use std::time::Duration;

use super::diagnosis::shown;
use super::{Class, Diagnosis, Phase, Source};

/// How long a phase may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Without any activity: a byte in a log, a byte to the disk.
    pub quiet: Duration,
    /// Altogether, whatever goes on: a kernel that only repeats itself does not get on.
    pub whole: Duration,
}

impl Limit {
    /// In seconds.
    pub const fn seconds(quiet: u64, whole: u64) -> Self {
        Self { quiet: Duration::from_secs(quiet), whole: Duration::from_secs(whole) }
    }
}

/// The limit of each phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Until firmware or kernel says anything.
    pub first_sign: Limit,
    /// From there until the installer runs.
    pub booting: Limit,
    /// Until packages come: kickstart, storage, repositories.
    pub preparing: Limit,
    /// Packages, boot loader, configuration. A slow disk and an initramfs are quiet for minutes.
    pub installing: Limit,
    /// Scripts of the kickstart.
    pub scripts: Limit,
    /// From the mark until the machine is off.
    pub closing: Limit,
}

impl Default for Limits {
    /// For emulation on two busy cores, the slowest host meant to work.
    fn default() -> Self {
        Self {
            first_sign: Limit::seconds(90, 90),
            booting: Limit::seconds(240, 1200),
            preparing: Limit::seconds(300, 1800),
            installing: Limit::seconds(600, 14400),
            scripts: Limit::seconds(900, 7200),
            closing: Limit::seconds(180, 600),
        }
    }
}

impl Limits {
    /// The same, but no phase may be quiet for longer than `quiet`.
    #[must_use]
    pub fn quiet_at_most(mut self, quiet: Duration) -> Self {
        for limit in [
            &mut self.first_sign,
            &mut self.booting,
            &mut self.preparing,
            &mut self.installing,
            &mut self.scripts,
            &mut self.closing,
        ] {
            limit.quiet = limit.quiet.min(quiet);
        }
        self
    }

    const fn of(&self, phase: Phase) -> Limit {
        match phase {
            Phase::Firmware => self.first_sign,
            Phase::Booting => self.booting,
            Phase::Starting | Phase::Storage => self.preparing,
            Phase::Downloading | Phase::Installing | Phase::BootLoader | Phase::Configuring => {
                self.installing
            }
            Phase::PreScripts | Phase::PostScripts => self.scripts,
            Phase::Closing => self.closing,
        }
    }
}

/// Finds out that a machine has stopped making progress.
///
/// All times are since the machine was switched on.
#[derive(Debug, Clone)]
pub struct ProgressClock {
    limits: Limits,
    phase: Phase,
    phase_since: Duration,
    active: Duration,
    disk: u64,
    last_line: String,
}

impl ProgressClock {
    /// A machine that was switched on at time zero.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            phase: Phase::Firmware,
            phase_since: Duration::ZERO,
            active: Duration::ZERO,
            disk: 0,
            last_line: String::new(),
        }
    }

    /// Bytes came out of a log.
    pub fn heard(&mut self, bytes: usize, now: Duration) {
        if bytes > 0 {
            self.enter(self.phase.max(Phase::Booting), now);
            self.active = self.active.max(now);
        }
    }

    /// How much was ever written to the disk.
    pub fn disk_written(&mut self, total: u64, now: Duration) {
        if total > self.disk {
            self.disk = total;
            self.active = self.active.max(now);
        }
    }

    /// What the machine is at: a phase, and the last line of its logs.
    pub fn at(&mut self, phase: Phase, line: &str, now: Duration) {
        // Half a line is a sign of life too.
        let floor = if self.phase == Phase::Firmware { Phase::Firmware } else { Phase::Booting };
        self.enter(phase.max(floor), now);
        if !line.is_empty() {
            self.last_line = shown(line);
        }
    }

    fn enter(&mut self, phase: Phase, now: Duration) {
        if phase != self.phase {
            self.phase = phase;
            self.phase_since = now;
        }
    }

    /// The diagnosis, if a limit has passed.
    pub fn stalled(&self, now: Duration) -> Option<Diagnosis> {
        let limit = self.limits.of(self.phase);
        let (quiet, whole) = (now.saturating_sub(self.active), now.saturating_sub(self.phase_since));
        if quiet < limit.quiet && whole < limit.whole {
            return None;
        }
        let phase = self.phase.label();
        if self.phase == Phase::Firmware {
            let line = format!("no sign of life {} s after it was switched on", quiet.as_secs());
            return Some(Diagnosis::new(Class::FirmwareBoot, Source::Clock, line));
        }
        let line = if quiet >= limit.quiet {
            format!("{phase}: no output and nothing written to the disk for {} s", quiet.as_secs())
        } else {
            format!("{phase}: not done after {} s", whole.as_secs())
        };
        let context = (!self.last_line.is_empty()).then(|| format!("last line: {}", self.last_line));
        Some(Diagnosis::new(Class::Stall, Source::Clock, line).with_context(context))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn clock() -> ProgressClock {
        let limit = Limit::seconds(10, 100);
        ProgressClock::new(Limits {
            first_sign: limit,
            booting: limit,
            preparing: limit,
            installing: Limit::seconds(20, 100),
            scripts: limit,
            closing: limit,
        })
    }

    #[test]
    fn a_machine_that_never_says_anything_has_not_booted() {
        let mut clock = clock();
        clock.heard(0, s(9));
        assert_eq!(clock.stalled(s(9)), None);
        assert_eq!(clock.stalled(s(10)).unwrap().class, Class::FirmwareBoot);
    }

    #[test]
    fn bytes_and_disk_writes_are_progress() {
        let mut clock = clock();
        clock.heard(1, s(5));
        assert_eq!(clock.stalled(s(14)), None);
        clock.disk_written(512, s(14));
        assert_eq!(clock.stalled(s(23)), None);
        clock.disk_written(512, s(23));
        assert_eq!(clock.stalled(s(24)).unwrap().class, Class::Stall);
    }

    #[test]
    fn each_phase_has_its_limit_and_the_stall_names_it() {
        let mut clock = clock();
        clock.heard(1, s(1));
        clock.at(Phase::Installing, "bash.x86_64 (17/338)", s(1));
        assert_eq!(clock.stalled(s(20)), None);
        let stall = clock.stalled(s(21)).unwrap();
        assert_eq!(stall.line, "installing packages: no output and nothing written to the disk for 20 s");
        assert_eq!(stall.context, ["last line: bash.x86_64 (17/338)"]);
    }

    #[test]
    fn a_machine_that_only_repeats_itself_stalls_too() {
        let mut clock = clock();
        (1..=100).for_each(|second| clock.heard(1, s(second)));
        assert_eq!(clock.stalled(s(100)), None);
        clock.heard(1, s(101));
        assert_eq!(clock.stalled(s(101)).unwrap().line, "booting the installer: not done after 100 s");
    }

    #[test]
    fn half_a_line_is_a_sign_of_life() {
        let mut clock = clock();
        clock.heard(1, s(5));
        clock.at(Phase::Firmware, "", s(5));
        assert_eq!(clock.stalled(s(15)).unwrap().class, Class::Stall);
    }

    #[test]
    fn a_clock_that_is_asked_late_does_not_go_backwards() {
        let mut clock = clock();
        clock.heard(1, s(50));
        clock.heard(1, s(40));
        assert_eq!(clock.stalled(s(59)), None);
        assert_eq!(clock.stalled(s(0)), None);
    }

    #[test]
    fn a_shorter_patience_holds_for_every_phase() {
        let limits = Limits::default().quiet_at_most(s(7));
        assert_eq!(limits.scripts.quiet, s(7));
        assert_eq!(limits.scripts.whole, Limits::default().scripts.whole);
    }
}

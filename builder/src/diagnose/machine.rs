//! What happens to the machine itself: QEMU's events and its end.

use serde_json::Value;

use super::patterns;
use super::tables;
use super::{Class, Diagnosis, Source};

/// What strerror has for ENOSPC.
const NO_SPACE: &str = "No space left on device";

/// An event of QEMU that may mean the end of a bake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// `GUEST_PANICKED`: the guest's kernel told its pvpanic device.
    GuestPanicked,
    /// `RESET` by the guest. Where one is expected (shim's first boot) the caller keeps it to itself.
    Reset,
    /// `BLOCK_IO_ERROR`: the host could not read or write an image.
    BlockIoError {
        /// The block device's name.
        device: String,
        /// Because the host's disk is full.
        nospace: bool,
        /// QEMU's words.
        reason: String,
    },
    /// `STOP` nobody asked for: QEMU paused the guest.
    Stop,
}

impl Event {
    /// Reads one of QEMU's events; None for those that mean nothing here.
    ///
    /// `SHUTDOWN` is not among them: see [`Ending::of_shutdown`]. A `STOP` the
    /// caller asked for is not to be fed in.
    pub fn parse(name: &str, data: &Value) -> Option<Self> {
        let text = |key: &str| data[key].as_str().unwrap_or_default().to_owned();
        match name {
            "GUEST_PANICKED" => Some(Self::GuestPanicked),
            "RESET" if data["guest"] == true => Some(Self::Reset),
            "BLOCK_IO_ERROR" => Some(Self::BlockIoError {
                device: match text("device") {
                    name if name.is_empty() => text("node-name"),
                    name => name,
                },
                // Optional in the event (QEMU qapi/block-core.json); the reason
                // is strerror(ENOSPC) then as well.
                nospace: data["nospace"] == true || text("reason") == NO_SPACE,
                reason: text("reason"),
            }),
            "STOP" => Some(Self::Stop),
            _ => None,
        }
    }
}

/// How a machine came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The guest powered off.
    PoweredOff,
    /// The guest reset itself, and `-no-reboot` made that the end.
    Reset,
    /// The guest panicked.
    Panicked,
    /// QEMU was told to end, by its monitor or a signal.
    Stopped(String),
    /// QEMU is gone without a word of its monitor.
    Exited {
        /// Its exit status as text, such as `exit status: 1`.
        status: String,
        /// The last it wrote to stderr.
        stderr: String,
    },
}

impl Ending {
    /// From the data of QEMU's `SHUTDOWN` event.
    pub fn of_shutdown(reason: &str) -> Self {
        match reason {
            "guest-shutdown" => Self::PoweredOff,
            "guest-reset" => Self::Reset,
            "guest-panic" => Self::Panicked,
            other => Self::Stopped(other.to_owned()),
        }
    }

    /// What this ending is when no log explains it better. None for a power-off.
    pub(super) fn diagnosis(&self) -> Option<Diagnosis> {
        match self {
            Self::PoweredOff => None,
            Self::Reset => {
                Some(Diagnosis::new(Class::GuestReset, Source::Qmp, "SHUTDOWN, reason guest-reset"))
            }
            Self::Panicked => Some(Diagnosis::new(Class::Panic, Source::Qmp, "SHUTDOWN, reason guest-panic")),
            Self::Stopped(reason) => {
                Some(Diagnosis::new(Class::HostQemu, Source::Qmp, format!("SHUTDOWN, reason {reason}")))
            }
            Self::Exited { status, stderr } => Some(of_exit(status, stderr)),
        }
    }
}

/// QEMU's last words: the first line that is its own complaint, else the last one.
fn of_exit(status: &str, stderr: &str) -> Diagnosis {
    let lines: Vec<&str> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let known = lines
        .iter()
        .filter(|line| !line.contains("warning:"))
        .find_map(|line| Some((*line, patterns::find(tables::QEMU, Source::Qemu, line)?)));
    let ended = format!("QEMU ended with {status}");
    match known {
        Some((line, pattern)) => {
            Diagnosis::new(pattern.says.class(super::Phase::Firmware), Source::Qemu, line)
                .with_context([ended])
        }
        None => Diagnosis::new(Class::HostQemu, Source::Qemu, lines.last().copied().unwrap_or(&ended)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_are_read_from_qmp() {
        let full = json!({"device": "bakeroot", "node-name": "n", "reason": "No space left on device",
            "nospace": true, "operation": "write", "action": "stop"});
        assert_eq!(
            Event::parse("BLOCK_IO_ERROR", &full),
            Some(Event::BlockIoError {
                device: "bakeroot".into(),
                nospace: true,
                reason: "No space left on device".into()
            })
        );
        assert_eq!(
            Event::parse("RESET", &json!({"guest": true, "reason": "guest-reset"})),
            Some(Event::Reset)
        );
        assert_eq!(Event::parse("RESET", &json!({"guest": false, "reason": "host-qmp-system-reset"})), None);
        // As published in https://github.com/Arc-Compute/LibVF.IO/issues/68.
        let line = r#"{"timestamp": {"seconds": 1681810214, "microseconds": 80200}, "event": "RESET",
            "data": {"guest": true, "reason": "guest-reset"}}"#;
        let recorded: Value = serde_json::from_str(line).unwrap();
        assert_eq!(Event::parse(recorded["event"].as_str().unwrap(), &recorded["data"]), Some(Event::Reset));
        assert_eq!(Event::parse("RTC_CHANGE", &json!({"offset": 1})), None);
    }

    #[test]
    fn a_full_disk_is_one_without_the_optional_word_for_it() {
        // QEMU's own example, in its qapi/block-core.json.
        let line = r##"{ "event": "BLOCK_IO_ERROR",
            "data": { "device": "ide0-hd1", "node-name": "#block212", "operation": "write",
                      "action": "stop", "reason": "No space left on device" },
            "timestamp": { "seconds": 1265044230, "microseconds": 450486 } }"##;
        let recorded: Value = serde_json::from_str(line).unwrap();
        let event = Event::parse(recorded["event"].as_str().unwrap(), &recorded["data"]);
        assert!(matches!(event, Some(Event::BlockIoError { nospace: true, .. })), "{event:?}");
        let other =
            json!({"device": "d", "reason": "Input/output error", "operation": "read", "action": "stop"});
        let event = Event::parse("BLOCK_IO_ERROR", &other);
        assert!(matches!(event, Some(Event::BlockIoError { nospace: false, .. })), "{event:?}");
    }

    #[test]
    fn a_guest_that_powers_off_is_told_from_one_that_resets() {
        // As published in https://github.com/Arc-Compute/LibVF.IO/issues/68.
        let line = r#"{"timestamp": {"seconds": 1681810608, "microseconds": 377946}, "event": "SHUTDOWN",
            "data": {"guest": true, "reason": "guest-shutdown"}}"#;
        let recorded: Value = serde_json::from_str(line).unwrap();
        let reason = recorded["data"]["reason"].as_str().unwrap();
        assert_eq!(Ending::of_shutdown(reason), Ending::PoweredOff);
        assert_eq!(Ending::of_shutdown("guest-reset"), Ending::Reset);
    }

    #[test]
    fn qemus_own_words_are_found_on_its_stderr() {
        let exit = |stderr: &str| of_exit("exit status: 1", stderr);
        let locked = exit(
            "qemu-system-x86_64: warning: TCG doesn't support x\nqemu-system-x86_64: -drive file=d: Failed to get \"write\" lock\nIs another process using the image [d]?\n",
        );
        assert_eq!(locked.class, Class::HostQemu);
        assert!(locked.line.contains("Failed to get \"write\" lock"), "{locked}");
        assert_eq!(exit("qemu-system-x86_64: d: No space left on device").class, Class::HostDiskFull);
        assert_eq!(exit("").line, "QEMU ended with exit status: 1");
    }
}

//! Lines on the machine's serial console, where whoever made the machine can
//! read them without logging in.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use rustix::fs::OFlags;

/// The kernel's list of the consoles it writes to.
const ACTIVE: &str = "/sys/class/tty/console/active";
/// Consoles that are a wire and not a screen.
const SERIAL: [&str; 3] = ["ttyS", "ttyAMA", "hvc"];
/// Characters of a line; the rest would only scroll away something better.
const WIDTH: usize = 400;

/// The consoles lines go to.
#[derive(Debug, Clone, Default)]
pub struct Console {
    devices: Vec<PathBuf>,
}

impl Console {
    /// The serial consoles of this machine.
    pub fn of_this_machine() -> Self {
        let active = std::fs::read_to_string(ACTIVE).unwrap_or_default();
        Self { devices: serial_in(&active) }
    }

    /// Files instead of consoles.
    pub fn to(devices: Vec<PathBuf>) -> Self {
        Self { devices }
    }

    /// Writes one line. A console that does not take it is left alone: it is
    /// never waited for, since a stuck wire would hold up the node. It is
    /// opened for each line, because a getty that starts cuts others off.
    pub(crate) fn line(&self, text: &str) {
        let line = format!("{}\r\n", printable(text));
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        for device in &self.devices {
            let opened = OpenOptions::new()
                .append(true)
                .custom_flags(i32::try_from(flags.bits()).unwrap_or_default())
                .open(device);
            if let Ok(mut device) = opened {
                let _ = device.write_all(line.as_bytes());
            }
        }
    }
}

fn serial_in(active: &str) -> Vec<PathBuf> {
    let names = active.split_whitespace().filter(|name| SERIAL.iter().any(|kind| name.starts_with(kind)));
    names.map(|name| PathBuf::from("/dev").join(name)).collect()
}

/// One line without control characters: some of it comes from other machines.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(WIDTH).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn screens_are_not_serial_consoles() {
        assert_eq!(serial_in("tty0 ttyS0\n"), [PathBuf::from("/dev/ttyS0")]);
        assert!(serial_in("tty0\n").is_empty());
    }

    #[test]
    fn a_line_stays_a_line() {
        let dir = crate::testing::tempdir().unwrap();
        let path = dir.path().join("console");
        std::fs::write(&path, "").unwrap();
        let console = Console::to(vec!["/no/such/console".into(), path.clone()]);
        console.line("kiln: [enrol] a\nb\u{1b}[2J");
        console.line(&"x".repeat(1000));
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().next(), Some("kiln: [enrol] a b [2J"));
        assert_eq!(text.lines().nth(1).unwrap().len(), WIDTH);
        assert_eq!(text.lines().count(), 2);
    }
}

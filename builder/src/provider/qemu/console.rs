//! The end of what a serial console said, made fit to be shown.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use kiln_protocol::Fingerprint;

/// More than anybody reads of a console's end.
const BYTES: u64 = 16 * 1024;

/// More than a machine says until its key is confirmed.
const UNTIL_KEY: u64 = 16 * 1024 * 1024;

/// The key that the console showed last; none if there is no console.
pub(super) fn key(path: &Path) -> Option<Fingerprint> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(UNTIL_KEY).read_to_end(&mut bytes)).ok()?;
    kiln_protocol::console::key_in(&String::from_utf8_lossy(&bytes))
}

/// The last `lines` lines; none if there is no console.
pub(super) fn tail(path: &Path, lines: usize) -> Vec<String> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(BYTES)))?;
        let mut bytes = Vec::new();
        file.take(BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let mut all = plain_lines(&String::from_utf8_lossy(&read().unwrap_or_default()));
    all.split_off(all.len().saturating_sub(lines))
}

/// The lines of a console's output that hold something, without what moves
/// the cursor or changes colours: the guest decides nothing about our terminal.
fn plain_lines(text: &str) -> Vec<String> {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' if chars.next_if_eq(&'[').is_some() => {
                // A control sequence ends with a byte of 0x40 to 0x7e.
                while chars.next().is_some_and(|c| !('\x40'..='\x7e').contains(&c)) {}
            }
            '\x1b' => {
                chars.next();
            }
            // Without a line feed after it a carriage return starts the line over.
            '\r' if chars.peek() != Some(&'\n') => plain.push('\n'),
            '\n' => plain.push('\n'),
            '\t' => plain.push(' '),
            c if c.is_control() => {}
            c => plain.push(c),
        }
    }
    plain.lines().map(str::trim_end).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_and_empty_lines_are_taken_out() {
        let said = "\x1b[2J\x1b[01;01HBdsDxe: loading\r\n\r\n\x1b[0;32m  OK  \x1b[0m] Started\tx\r50%\r100%\n\x1b=\x07end";
        assert_eq!(plain_lines(said), ["BdsDxe: loading", "  OK  ] Started x", "50%", "100%", "end"]);
    }

    #[test]
    fn the_key_is_found_among_everything_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        assert_eq!(key(&path), None);
        let shown = Fingerprint::of_spki(b"n");
        let line = kiln_protocol::console::line(&shown);
        std::fs::write(&path, [b"\xff\x1b[2Jboot\r\n", line.as_bytes(), b"\r\nlogin: "].concat()).unwrap();
        assert_eq!(key(&path), Some(shown));
    }

    #[test]
    fn the_last_lines_of_a_long_console() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("serial.log");
        assert_eq!(tail(&path, 3), [] as [&str; 0]);
        let text: Vec<String> = (0..5000).map(|n| format!("line {n}\r\n")).collect();
        std::fs::write(&path, text.concat()).unwrap();
        assert_eq!(tail(&path, 2), ["line 4998", "line 4999"]);
    }
}

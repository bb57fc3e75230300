//! Bytes of a console or log, to clean lines.

use std::mem;

/// Longest line kept, in bytes; longer ones are cut into several. A seal report is one line.
const MAX_LINE: usize = 256 << 10;

/// Cuts a stream into lines, in bounded memory.
///
/// Carriage returns end lines too: consoles redraw progress with them. How the
/// stream is cut into pieces makes no difference.
#[derive(Debug, Clone, Default)]
pub struct LineSplitter {
    partial: Vec<u8>,
}

impl LineSplitter {
    /// Takes the next bytes and calls `line` with each line they end, cleaned and not empty.
    pub fn feed(&mut self, bytes: &[u8], mut line: impl FnMut(&str)) {
        for &byte in bytes {
            if byte == b'\n' || byte == b'\r' {
                self.flush(&mut line);
            } else {
                self.partial.push(byte);
                if self.partial.len() >= MAX_LINE {
                    self.flush(&mut line);
                }
            }
        }
    }

    /// The stream is over, or silent: what is left is a line as well.
    pub fn flush(&mut self, mut line: impl FnMut(&str)) {
        let text = clean(&mem::take(&mut self.partial));
        if !text.trim().is_empty() {
            line(&text);
        }
    }

    /// What came after the last end of line: a prompt, perhaps.
    pub fn partial(&self) -> String {
        clean(&self.partial)
    }
}

/// Plain text: no escape sequences, no control characters, tabs as spaces, nothing trailing.
///
/// Leading spaces stay: in a Python traceback they mean something.
pub fn clean(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(raw);
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => skip_escape(&mut chars, &mut out),
            '\t' => out.push(' '),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out.truncate(out.trim_end().len());
    out
}

/// Skips an escape sequence (ECMA-48) whose ESC was just read.
fn skip_escape(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut String) {
    match chars.peek() {
        // CSI: parameters, then one final byte.
        Some('[') => {
            chars.next();
            while let Some(c) = chars.next_if(|c| !c.is_control()) {
                if ('@'..='~').contains(&c) {
                    // The cursor went elsewhere: what follows is another word.
                    if matches!(c, 'H' | 'f' | 'J' | 'A'..='G') && !out.is_empty() && !out.ends_with(' ') {
                        out.push(' ');
                    }
                    return;
                }
            }
        }
        // OSC, DCS: up to BEL or ST.
        Some(']' | 'P') => {
            while let Some(c) = chars.next() {
                if c == '\x07' || c == '\x1b' {
                    chars.next_if_eq(&'\\');
                    return;
                }
            }
        }
        // Two or three characters, such as `ESC c` or `ESC ( B`.
        Some('(' | ')' | '#' | '%') => {
            chars.next();
            chars.next();
        }
        Some(c) if !c.is_control() => {
            chars.next();
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> Vec<String> {
        let mut splitter = LineSplitter::default();
        let mut out = Vec::new();
        splitter.feed(bytes, |line| out.push(line.to_owned()));
        splitter.flush(|line| out.push(line.to_owned()));
        out
    }

    #[test]
    fn consoles_end_lines_in_three_ways() {
        assert_eq!(lines(b"one\r\ntwo\rthree\n\n\r\nfour"), ["one", "two", "three", "four"]);
    }

    #[test]
    fn escapes_and_control_characters_go() {
        assert_eq!(
            clean(b"\x1b[0;32m[  OK  ]\x1b[0m Started\x07 it\x1b(B.\x1b]0;title\x07 x\x00"),
            "[  OK  ] Started it. x"
        );
        assert_eq!(clean(b"BdsDxe:\x1b[2J\x1b[01;01H\x1b[=3hfailed"), "BdsDxe: failed");
        assert_eq!(clean(b"cut \xff\xfe short \x1b["), "cut \u{fffd}\u{fffd} short");
    }

    #[test]
    fn an_endless_line_takes_bounded_memory() {
        let mut splitter = LineSplitter::default();
        let mut seen = 0;
        for _ in 0..5 {
            splitter.feed(&vec![b'x'; MAX_LINE], |line| seen += line.len());
            assert!(splitter.partial.len() < MAX_LINE);
        }
        assert_eq!(seen, 5 * MAX_LINE);
    }
}

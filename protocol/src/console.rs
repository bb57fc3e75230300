//! The line by which a node tells its key to whoever reads its serial console.
//!
//! Nobody but the machine can write there: a thief of its ticket cannot. So a
//! caller that reads the console can say which key is the machine's own.

use crate::Fingerprint;

/// What stands before the key's 64 hex digits.
const MARK: &str = "kiln: [key] fingerprint ";

/// The line that names a key, without its end.
pub fn line(key: &Fingerprint) -> String {
    format!("{MARK}{key}")
}

/// The key that a console named last. What other programs wrote before or
/// after it on the same line does not matter; a line that was cut does not
/// count.
pub fn key_in(text: &str) -> Option<Fingerprint> {
    text.rmatch_indices(MARK).find_map(|(at, _)| {
        let digits = text.get(at + MARK.len()..at + MARK.len() + 64)?;
        let longer = text[at + MARK.len() + 64..].starts_with(|c: char| c.is_ascii_alphanumeric());
        digits.parse().ok().filter(|_| !longer)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_last_whole_line_counts() {
        let (one, two) = (Fingerprint::of_spki(b"1"), Fingerprint::of_spki(b"2"));
        assert_eq!(key_in("BdsDxe: loading\r\n"), None);
        let text = format!("[  1.2] boot\r\n{}\r\n\u{1b}[0m{}\r\nlogin: ", line(&one), line(&two));
        assert_eq!(key_in(&text), Some(two));
        let cut = &text[..text.len() - 20];
        assert_eq!(key_in(cut), Some(one), "a line that the kernel cut in two is not taken");
        assert_eq!(key_in(&format!("{}0", line(&one))), None);
    }

    proptest! {
        #[test]
        fn any_console_is_read_without_panic(text in "\\PC{0,200}") {
            let _ = key_in(&text);
            let _ = key_in(&format!("{MARK}{text}"));
        }
    }
}

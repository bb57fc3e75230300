//! Lists of checksums, in both forms that are about:
//!
//! ```text
//! SHA256 (AlmaLinux-9.1-x86_64-dvd.iso) = 2a44e3f8…      BSD's, as AlmaLinux writes CHECKSUM
//! 2a44e3f8…  k3s                                        GNU's, as k3s writes sha256sum-amd64.txt
//! ```
//!
//! Lines that are neither (comments with sizes, other algorithms) are passed over.

use std::collections::BTreeMap;

use super::source::is_safe_name;
use crate::image::key::Digest;

/// SHA-256 digests by file name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checksums(BTreeMap<String, Digest>);

/// A list that gives one file two digests.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it gives {0} two different digests")]
pub struct Contradiction(String);

impl Checksums {
    /// Reads a list.
    pub fn parse(text: &str) -> Result<Self, Contradiction> {
        let mut sums = BTreeMap::new();
        for (name, digest) in text.lines().filter_map(|line| line_of_bsd(line).or_else(|| line_of_gnu(line)))
        {
            if sums.insert(name.to_owned(), digest).is_some_and(|earlier| earlier != digest) {
                return Err(Contradiction(name.to_owned()));
            }
        }
        Ok(Self(sums))
    }

    /// The digest of a file.
    pub fn get(&self, name: &str) -> Option<Digest> {
        self.0.get(name).copied()
    }

    /// Names and digests, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Digest)> {
        self.0.iter().map(|(name, digest)| (name.as_str(), *digest))
    }
}

fn digest(hex: &str) -> Option<Digest> {
    Digest::try_from(hex.to_owned()).ok()
}

fn line_of_bsd(line: &str) -> Option<(&str, Digest)> {
    let rest = line.trim_end().strip_prefix("SHA256 (")?;
    let (name, hex) = rest.rsplit_once(") = ")?;
    is_safe_name(name).then_some((name, digest(hex)?))
}

fn line_of_gnu(line: &str) -> Option<(&str, Digest)> {
    let (hex, rest) = line.trim_end().split_once(' ')?;
    // A second space for text, an asterisk for binary: on Linux the same.
    let name = rest.strip_prefix([' ', '*'])?;
    let name = name.strip_prefix("./").unwrap_or(name);
    is_safe_name(name).then_some((name, digest(hex)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_forms_are_read_and_the_rest_is_passed_over() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let text = format!(
            "# a.iso: 12 bytes\nSHA256 (a.iso) = {a}\nSHA512 (c.iso) = {a}{a}\n\n{b}  k3s\r\n{b} *k3s-arm64\n\
             {b}  ../../etc/passwd\nnonsense\n"
        );
        let sums = Checksums::parse(&text).unwrap();
        assert_eq!(sums.iter().collect::<Vec<_>>(), [("a.iso", a), ("k3s", b), ("k3s-arm64", b)]);
        assert_eq!((sums.get("a.iso"), sums.get("c.iso")), (Some(a), None));
    }

    #[test]
    fn a_list_that_contradicts_itself_is_refused() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let error = Checksums::parse(&format!("{a}  k3s\nSHA256 (k3s) = {b}\n")).unwrap_err();
        assert_eq!(error.to_string(), "it gives k3s two different digests");
        assert!(Checksums::parse(&format!("{a}  k3s\nSHA256 (k3s) = {a}\n")).is_ok());
    }

    fn names() -> impl Strategy<Value = BTreeMap<String, [u8; 32]>> {
        proptest::collection::btree_map("[A-Za-z0-9][A-Za-z0-9._+~-]{0,30}", any::<[u8; 32]>(), 0..8)
    }

    proptest! {
        #[test]
        fn what_is_written_in_either_form_is_read_back(files in names(), gnu in any::<bool>(), upper in any::<bool>()) {
            let text = files.iter().fold(String::new(), |text, (name, bytes)| {
                let hex = Digest::from_bytes(*bytes).to_string();
                let hex = if upper { hex.to_uppercase() } else { hex };
                text + &if gnu { format!("{hex}  {name}\n") } else { format!("SHA256 ({name}) = {hex}\n") }
            });
            let wanted: BTreeMap<String, Digest> =
                files.into_iter().map(|(name, bytes)| (name, Digest::from_bytes(bytes))).collect();
            prop_assert_eq!(Checksums::parse(&text).unwrap(), Checksums(wanted));
        }

        #[test]
        fn any_text_is_read_without_panic(text in "(\\PC|\n|SHA256 \\(|\\) = |[0-9a-f]{64}  ){0,60}") {
            if let Ok(sums) = Checksums::parse(&text) {
                prop_assert!(sums.iter().all(|(name, _)| is_safe_name(name)));
            }
        }
    }
}

//! Content keys: what a stage's result depends on, as one digest.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A SHA-256 digest, written as 64 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Of a file, read through in pieces.
    pub fn of_file(path: &Path) -> Result<Self> {
        let reading = || format!("reading {}", path.display());
        let mut file = std::fs::File::open(path).with_context(reading)?;
        let mut sha = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            match std::io::Read::read(&mut file, &mut buffer).with_context(reading)? {
                0 => return Ok(Self(sha.finalize().into())),
                n => sha.update(&buffer[..n]),
            }
        }
    }

    /// From its bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl TryFrom<String> for Digest {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, &'static str> {
        const WRONG: &str = "a SHA-256 digest is 64 hex digits";
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(WRONG);
        }
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| WRONG)?;
        }
        Ok(Self(bytes))
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// A key and what it was made of, so that a person can be told which input
/// made a result stale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The key itself.
    pub digest: Digest,
    /// The parts by name: texts as they are, digests as hex digits.
    pub parts: BTreeMap<String, String>,
}

/// Collects what a result depends on. Each part has a name, and names and
/// values are written with their lengths: no two different lists of parts give
/// the same key.
#[derive(Debug)]
pub struct KeyBuilder {
    hash: Sha256,
    parts: BTreeMap<String, String>,
}

impl KeyBuilder {
    /// For a result of `stage`, whose rules have the version `version`.
    pub fn new(stage: &str, version: u32) -> Self {
        let empty = Self { hash: Sha256::new(), parts: BTreeMap::new() };
        empty.with("stage", stage).with("rules", version.to_string())
    }

    /// Adds a part.
    #[must_use]
    pub fn with(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let shown = String::from_utf8_lossy(value.as_ref()).into_owned();
        self.add(name, value.as_ref(), shown)
    }

    /// Adds a digest as a part.
    #[must_use]
    pub fn with_digest(self, name: &str, digest: Digest) -> Self {
        self.add(name, &digest.0, digest.to_string())
    }

    fn add(mut self, name: &str, value: &[u8], shown: String) -> Self {
        for bytes in [name.as_bytes(), value] {
            self.hash.update((bytes.len() as u64).to_be_bytes());
            self.hash.update(bytes);
        }
        self.parts.insert(name.to_owned(), shown);
        self
    }

    /// From now on parts may be unknown.
    pub fn sketch(self) -> SketchBuilder {
        SketchBuilder { key: self, unknown: BTreeSet::new() }
    }

    /// The key.
    pub fn finish(self) -> Digest {
        self.key().digest
    }

    /// The key with its parts.
    pub fn key(self) -> Key {
        Key { digest: Digest(self.hash.finalize().into()), parts: self.parts }
    }
}

/// A key as far as its parts are known: without all of them there is none, but
/// those that are known may tell that a result is stale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sketch {
    /// The parts that are known, by name.
    pub parts: BTreeMap<String, String>,
    /// The names of those that are not.
    pub unknown: BTreeSet<String>,
    digest: Option<Digest>,
}

impl Sketch {
    /// The key's digest, if every part is known.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The key, if every part is known.
    pub fn key(&self) -> Option<Key> {
        Some(Key { digest: self.digest?, parts: self.parts.clone() })
    }
}

/// Collects what a result depends on, where not all of it may be known.
#[derive(Debug)]
pub struct SketchBuilder {
    key: KeyBuilder,
    unknown: BTreeSet<String>,
}

impl SketchBuilder {
    /// Adds a part.
    #[must_use]
    pub fn with(self, name: &str, value: Option<impl AsRef<[u8]>>) -> Self {
        match value {
            Some(value) => Self { key: self.key.with(name, value), ..self },
            None => self.unknown(name),
        }
    }

    /// Adds a digest as a part.
    #[must_use]
    pub fn with_digest(self, name: &str, digest: Option<Digest>) -> Self {
        match digest {
            Some(digest) => Self { key: self.key.with_digest(name, digest), ..self },
            None => self.unknown(name),
        }
    }

    fn unknown(mut self, name: &str) -> Self {
        self.unknown.insert(name.to_owned());
        self
    }

    /// What there is of a key.
    pub fn finish(self) -> Sketch {
        let Key { digest, parts } = self.key.key();
        let digest = self.unknown.is_empty().then_some(digest);
        Sketch { parts, unknown: self.unknown, digest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_empty_digest_is_the_known_one() {
        let text = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").to_string(), text);
        assert_eq!(Digest::try_from(text.to_owned()).unwrap(), Digest::of(b""));
        for wrong in ["", "zz", &text[1..], &text.replace('e', "g"), &"é".repeat(32)] {
            assert!(Digest::try_from(wrong.to_owned()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_key_remembers_its_parts() {
        let key = KeyBuilder::new("os", 1).with("disk size", "10").with_digest("iso", Digest::of(b"")).key();
        assert_eq!(key.parts["disk size"], "10");
        assert_eq!(key.parts["iso"], Digest::of(b"").to_string());
        assert_eq!((key.parts["stage"].as_str(), key.parts["rules"].as_str()), ("os", "1"));
    }

    #[test]
    fn a_sketch_is_a_key_once_all_of_it_is_known() {
        let sketch = |iso| {
            let begin = KeyBuilder::new("os", 1).sketch().with("disk size", Some("10"));
            begin.with_digest("iso", iso).with("end", Some("x")).finish()
        };
        let whole = KeyBuilder::new("os", 1)
            .with("disk size", "10")
            .with_digest("iso", Digest::of(b""))
            .with("end", "x");
        assert_eq!(sketch(Some(Digest::of(b""))).key(), Some(whole.key()));
        let unknown = sketch(None);
        assert_eq!((unknown.key(), unknown.digest()), (None, None));
        assert_eq!(unknown.unknown.iter().collect::<Vec<_>>(), ["iso"]);
        assert_eq!(unknown.parts["end"], "x");
    }

    proptest! {
        #[test]
        fn keys_differ_when_parts_differ(
            a in proptest::collection::vec(("[ab]{0,3}", "[ab]{0,3}"), 0..4),
            b in proptest::collection::vec(("[ab]{0,3}", "[ab]{0,3}"), 0..4),
        ) {
            let key = |parts: &[(String, String)]| {
                parts.iter().fold(KeyBuilder::new("os", 1), |key, (name, value)| key.with(name, value)).finish()
            };
            prop_assert_eq!(key(&a) == key(&b), a == b);
        }
    }
}

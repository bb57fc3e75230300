//! Content keys: what a stage's result depends on, as one digest.

use std::fmt;

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

/// Collects what a result depends on. Each part has a name, and names and
/// values are written with their lengths: no two different lists of parts give
/// the same key.
#[derive(Debug)]
pub struct KeyBuilder(Sha256);

impl KeyBuilder {
    /// For a result of `stage`, whose rules have the version `version`.
    pub fn new(stage: &str, version: u32) -> Self {
        Self(Sha256::new()).with("stage", stage).with("version", version.to_string())
    }

    /// Adds a part.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        for bytes in [name.as_bytes(), value.as_ref()] {
            self.0.update((bytes.len() as u64).to_be_bytes());
            self.0.update(bytes);
        }
        self
    }

    /// Adds a digest as a part.
    #[must_use]
    pub fn with_digest(self, name: &str, digest: Digest) -> Self {
        self.with(name, digest.0)
    }

    /// The key.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
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

//! Text that must not be printed and should not stay in memory.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A token, a password or a PEM document. `Debug` hides it, dropping it wipes
/// it, and reading it takes a word one can search for: [`Secret::expose`].
///
/// Control characters other than line feed are refused when it is decoded;
/// where even a line feed would be an injection, ask [`Secret::is_one_line`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(try_from = "String")]
pub struct Secret(String);

/// A secret held a control character.
#[derive(Debug, thiserror::Error)]
#[error("a secret holds a control character")]
pub struct InvalidSecret;

impl Secret {
    /// Takes ownership of the text.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidSecret> {
        let text = text.into();
        if text.chars().any(|c| c.is_control() && c != '\n') {
            return Err(InvalidSecret);
        }
        Ok(Self(text))
    }

    /// The text in the clear.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether it can stand on one line of a configuration file.
    pub fn is_one_line(&self) -> bool {
        !self.0.contains('\n')
    }
}

impl TryFrom<String> for Secret {
    type Error = InvalidSecret;
    fn try_from(text: String) -> Result<Self, InvalidSecret> {
        Self::new(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_hides_the_text() {
        let secret = Secret::new("hunter2").unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"hunter2\"");
    }

    #[test]
    fn control_characters_are_refused() {
        assert!(Secret::new("a\rb").is_err());
        assert!(serde_json::from_str::<Secret>("\"a\\u0000b\"").is_err());
        assert!(!Secret::new("a\nb").unwrap().is_one_line());
    }
}

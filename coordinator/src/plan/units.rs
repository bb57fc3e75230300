//! Small values of the cluster file: sizes with their unit, and the image's
//! version name.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

const MIB: u64 = 1 << 20;

/// An amount of memory or disk, written with a binary unit: `24GiB`, `512MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct ByteSize(u64);

impl ByteSize {
    /// In bytes; always a multiple of 1 MiB.
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// From a number of MiB.
    pub const fn mib(mib: u64) -> Self {
        Self(mib * MIB)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = self.0 / MIB;
        match mib {
            0 => write!(f, "0MiB"),
            _ if mib.is_multiple_of(1 << 20) => write!(f, "{}TiB", mib >> 20),
            _ if mib.is_multiple_of(1 << 10) => write!(f, "{}GiB", mib >> 10),
            _ => write!(f, "{mib}MiB"),
        }
    }
}

impl FromStr for ByteSize {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let shift = match unit {
            "MiB" => 20,
            "GiB" => 30,
            "TiB" => 40,
            "M" | "MB" | "G" | "GB" | "T" | "TB" => {
                let unit = &unit[..1];
                return Err(format!("size {text:?}: write {number}{unit}iB (binary units only)"));
            }
            _ => {
                return Err(format!("size {text:.40?}: must be a number and MiB, GiB or TiB, such as 24GiB"));
            }
        };
        let number: u64 =
            number.parse().map_err(|_| format!("size {text:.40?}: must begin with a whole number"))?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(|| format!("size {text:.40?}: is too large"))
    }
}

impl TryFrom<String> for ByteSize {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// The version name of a golden image,
/// `alma{version}-k3-node-{arch}-{k3s version}-v{release}`, such as
/// `alma9-k3-node-amd64-v1.28.5-v1`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct ImageVersion {
    text: String,
    k3s: std::ops::Range<usize>,
}

impl ImageVersion {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The k3s release in it, without k3s's own revision: `v1.28.5`.
    pub fn k3s_release(&self) -> &str {
        &self.text[self.k3s.clone()]
    }
}

impl fmt::Display for ImageVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for ImageVersion {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "image {text:.80?}: must be alma9-k3-node-ARCH-K3S-vN, such as alma9-k3-node-amd64-v1.28.5-v1"
            )
        };
        let number = |part: &str| {
            !part.is_empty() && part.len() <= 4 && part.bytes().all(|byte| byte.is_ascii_digit())
        };
        let (system, rest) = text.split_once("-k3-node-").ok_or_else(wrong)?;
        let [arch, k3s, release] = rest.split('-').collect::<Vec<_>>()[..] else { return Err(wrong()) };
        let system = system.strip_prefix("alma").is_some_and(|v| v.split('.').all(number));
        let parts: Vec<&str> = k3s.strip_prefix('v').unwrap_or_default().split('.').collect();
        let k3s_form = parts.len() == 3 && parts.into_iter().all(number);
        let release_form = release.strip_prefix('v').is_some_and(|n| number(n) && !n.starts_with('0'));
        if !(system && matches!(arch, "amd64" | "arm64") && k3s_form && release_form) {
            return Err(wrong());
        }
        let end = text.len() - release.len() - 1;
        Ok(Self { text: text.to_owned(), k3s: end - k3s.len()..end })
    }
}

impl TryFrom<String> for ImageVersion {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!("24GiB".parse::<ByteSize>().unwrap().bytes(), 24 << 30);
        assert_eq!("1TiB".parse::<ByteSize>().unwrap(), ByteSize::mib(1 << 20));
        for wrong in [
            "",
            "24",
            "GiB",
            "-1GiB",
            "1.5GiB",
            "24 GiB",
            "99999999999999999999GiB",
            "18446744073709551615TiB",
        ] {
            assert!(wrong.parse::<ByteSize>().is_err(), "{wrong:?} was taken");
        }
        let error = "24GB".parse::<ByteSize>().unwrap_err();
        assert!(error.contains("write 24GiB"), "{error}");
    }

    #[test]
    fn image_names_hold_the_k3s_release() {
        let image: ImageVersion = "alma9-k3-node-amd64-v1.28.5-v1".parse().unwrap();
        assert_eq!(image.k3s_release(), "v1.28.5");
        assert_eq!(
            "alma9.4-k3-node-arm64-v1.31.12-v20".parse::<ImageVersion>().unwrap().k3s_release(),
            "v1.31.12"
        );
        for wrong in [
            "",
            "alma-k3-node-amd64-v1.28.5-v1",
            "alma9-k3-node-x86-v1.28.5-v1",
            "alma9-k3-node-amd64-1.28.5-v1",
            "alma9-k3-node-amd64-v1.28-v1",
            "alma9-k3-node-amd64-v1.28.5-v0",
            "alma9-k3-node-amd64-v1.28.5-v1-x",
            "alma9-k3-node-amd64-v1.28.5",
            "../alma9-k3-node-amd64-v1.28.5-v1",
        ] {
            assert!(wrong.parse::<ImageVersion>().is_err(), "{wrong:?} was taken");
        }
    }

    proptest! {
        #[test]
        fn sizes_survive_their_text(mib in 1u64..=1 << 30) {
            let size = ByteSize::mib(mib);
            prop_assert_eq!(size.to_string().parse::<ByteSize>(), Ok(size));
        }

        #[test]
        fn any_text_is_decoded_without_panic(text in "\\PC{0,60}") {
            let _ = text.parse::<ByteSize>();
            let _ = text.parse::<ImageVersion>();
        }
    }
}

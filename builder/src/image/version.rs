//! The name of an image: `alma{major}-k3-node-{arch}-{k3s-version}-v{release}`.

use std::fmt;
use std::str::FromStr;

use kiln_protocol::names::K3sVersion;
use serde::{Deserialize, Serialize};

/// What the form is, for messages.
const FORM: &str = "alma{major}-k3-node-{arch}-v{k3s version}-v{release}, \
                    such as alma9-k3-node-amd64-v1.28.5-v1";

/// A processor architecture, by the name Go and containers use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arch {
    /// `x86_64`
    Amd64,
    /// `aarch64`
    Arm64,
}

impl Arch {
    /// The name in version names and k3s releases.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The name in RPMs, install media and `uname -m`.
    pub fn rpm_name(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }
}

/// A release of k3s without its `+k3sN`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct K3sRelease {
    /// Kubernetes' major version.
    pub major: u16,
    /// Kubernetes' minor version.
    pub minor: u16,
    /// Kubernetes' patch.
    pub patch: u16,
}

impl K3sRelease {
    /// The first build of the release: what a version name means unless
    /// another is asked for.
    pub fn first_build(self) -> K3sVersion {
        format!("{self}+k3s1").parse().expect("three numbers are a k3s version")
    }

    /// Whether `build` is a build of this release.
    pub fn has_build(self, build: &K3sVersion) -> bool {
        build.as_str().split_once('+').is_some_and(|(release, _)| release == self.to_string())
    }
}

impl fmt::Display for K3sRelease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// The name of an image, taken apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VersionName {
    /// AlmaLinux's major version.
    pub major: u16,
    /// What it runs on.
    pub arch: Arch,
    /// The k3s release inside.
    pub k3s: K3sRelease,
    /// The release of the image itself: anything else that changes changes it.
    pub release: u32,
}

/// Text that is no version name, and which part of it is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("version name {text:?}: {why}; the form is {FORM}")]
pub struct InvalidVersionName {
    text: String,
    why: String,
}

impl FromStr for VersionName {
    type Err = InvalidVersionName;
    fn from_str(text: &str) -> Result<Self, InvalidVersionName> {
        parse(text).map_err(|why| InvalidVersionName { text: text.chars().take(80).collect(), why })
    }
}

fn parse(text: &str) -> Result<VersionName, String> {
    let rest = text.strip_prefix("alma").ok_or("it does not begin with \"alma\"")?;
    let (major, rest) = rest.split_once('-').ok_or("there is nothing after the major version")?;
    let major = number(major).map_err(|why| format!("the AlmaLinux major version {major:?} {why}"))?;
    let rest = rest.strip_prefix("k3-node-").ok_or("\"-k3-node-\" does not follow the major version")?;
    let (arch, rest) = rest.split_once('-').ok_or("there is nothing after the architecture")?;
    let arch = match arch {
        "amd64" => Arch::Amd64,
        "arm64" => Arch::Arm64,
        "x86_64" => return Err("the architecture is \"x86_64\", which is called amd64 here".into()),
        "aarch64" => return Err("the architecture is \"aarch64\", which is called arm64 here".into()),
        other => return Err(format!("the architecture {other:?} is neither amd64 nor arm64")),
    };
    let (k3s, release) = rest.split_once('-').ok_or("the image's own release, such as -v1, is missing")?;
    let k3s = k3s_release(k3s)?;
    let release = release
        .strip_prefix('v')
        .ok_or_else(|| format!("the image's own release {release:?} does not begin with 'v'"))?;
    let release = number(release).map_err(|why| format!("the image's own release \"v{release}\" {why}"))?;
    if release == 0 {
        return Err("the image's own release begins at v1".into());
    }
    Ok(VersionName { major, arch, k3s, release })
}

fn k3s_release(text: &str) -> Result<K3sRelease, String> {
    let wrong = |why: &str| format!("the k3s version {text:?} {why}");
    if text.contains('+') {
        return Err(wrong("names a build: leave \"+k3sN\" out (--k3s-version chooses another than +k3s1)"));
    }
    let parts = text.strip_prefix('v').ok_or_else(|| wrong("does not begin with 'v'"))?;
    let mut parts = parts.split('.');
    let mut next = || {
        let part = parts.next().ok_or_else(|| wrong("is not three numbers like v1.28.5"))?;
        number(part).map_err(wrong)
    };
    let release = K3sRelease { major: next()?, minor: next()?, patch: next()? };
    if parts.next().is_some() {
        return Err(wrong("is not three numbers like v1.28.5"));
    }
    Ok(release)
}

/// A number written in the one way it is printed in.
fn number<T: FromStr>(text: &str) -> Result<T, &'static str> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err("is not a number");
    }
    if text.len() > 1 && text.starts_with('0') {
        return Err("has a leading zero");
    }
    if text.len() > 4 {
        return Err("is too large");
    }
    text.parse().map_err(|_| "is too large")
}

impl fmt::Display for VersionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { major, arch, k3s, release } = self;
        write!(f, "alma{major}-k3-node-{}-{k3s}-v{release}", arch.as_str())
    }
}

impl TryFrom<String> for VersionName {
    type Error = InvalidVersionName;
    fn try_from(text: String) -> Result<Self, InvalidVersionName> {
        text.parse()
    }
}

impl From<VersionName> for String {
    fn from(name: VersionName) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_is_taken_apart() {
        let name: VersionName = "alma9-k3-node-amd64-v1.28.5-v1".parse().unwrap();
        assert_eq!((name.major, name.arch, name.release), (9, Arch::Amd64, 1));
        assert_eq!(name.k3s.first_build().as_str(), "v1.28.5+k3s1");
        assert!(name.k3s.has_build(&"v1.28.5+k3s2".parse().unwrap()));
        assert!(!name.k3s.has_build(&"v1.28.50+k3s1".parse().unwrap()));
    }

    #[test]
    fn each_wrong_part_is_named() {
        for (text, why) in [
            ("", "does not begin with \"alma\""),
            ("rocky9-k3-node-amd64-v1.28.5-v1", "does not begin with \"alma\""),
            ("alma-k3-node-amd64-v1.28.5-v1", "major version \"\" is not a number"),
            ("alma9", "nothing after the major version"),
            ("alma9-k8-node-amd64-v1.28.5-v1", "\"-k3-node-\" does not follow"),
            ("alma9-k3-node-x86_64-v1.28.5-v1", "called amd64 here"),
            ("alma9-k3-node-riscv-v1.28.5-v1", "architecture \"riscv\" is neither"),
            ("alma9-k3-node-amd64-1.28.5-v1", "k3s version \"1.28.5\" does not begin with 'v'"),
            ("alma9-k3-node-amd64-v1.28-v1", "k3s version \"v1.28\" is not three numbers"),
            ("alma9-k3-node-amd64-v1.28.5.1-v1", "\"v1.28.5.1\" is not three numbers"),
            ("alma9-k3-node-amd64-v1.28.05-v1", "has a leading zero"),
            ("alma9-k3-node-amd64-v1.28.5+k3s1-v1", "leave \"+k3sN\" out"),
            ("alma9-k3-node-amd64-v1.28.5", "own release, such as -v1, is missing"),
            ("alma9-k3-node-amd64-v1.28.5-1", "release \"1\" does not begin with 'v'"),
            ("alma9-k3-node-amd64-v1.28.5-v0", "begins at v1"),
            ("alma9-k3-node-amd64-v1.28.5-v1 ", "\"v1 \" is not a number"),
            ("alma9-k3-node-amd64-v1.28.5-v1/../x", "is not a number"),
        ] {
            let error = text.parse::<VersionName>().unwrap_err().to_string();
            assert!(error.contains(why), "{text:?}: {error}");
            assert!(error.contains("such as alma9-k3-node-amd64-v1.28.5-v1"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(
            major in 1_u16..100,
            arch in prop_oneof![Just(Arch::Amd64), Just(Arch::Arm64)],
            k3s in (0_u16..100, 0_u16..100, 0_u16..1000),
            release in 1_u32..1000,
        ) {
            let k3s = K3sRelease { major: k3s.0, minor: k3s.1, patch: k3s.2 };
            let name = VersionName { major, arch, k3s, release };
            prop_assert_eq!(name.to_string().parse::<VersionName>().unwrap(), name);
        }

        #[test]
        fn whatever_is_accepted_is_printed_as_it_was(text in "alma[0-9]{1,3}-k3-node-(amd64|arm64)-v[0-9.]{1,9}-v[0-9]{1,3}") {
            if let Ok(name) = text.parse::<VersionName>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }

        #[test]
        fn no_name_leaves_its_directory(text in ".{0,60}") {
            if let Ok(name) = text.parse::<VersionName>() {
                prop_assert!(!name.to_string().contains(['/', '\0']) && !name.to_string().starts_with('.'));
            }
        }
    }
}

//! k3s's SELinux policy: the package `k3s-selinux`, where it comes from, and
//! whether it is what Rancher made.
//!
//! Rancher signs the header of each package with OpenPGP (k3s-selinux,
//! `policy/centos9/scripts/sign`), and the header holds the digest of all that
//! follows it. Both are checked here, before the package goes anywhere: the
//! installer's own rpm knows no key of Rancher's and would take any package.

use std::io::Cursor;
use std::path::Path;

use reqwest::Url;
use rpm::{Package, PackageMetadata};

use super::signature::{Key, Packet};
use super::source::Source;
use crate::failure::BadInput;
use crate::image::VersionName;

/// No policy package is larger, in bytes; k3s-selinux 1.6 has 22 KB.
const MOST: u64 = 16 << 20;
/// What every RPM package begins with (rpm's `rpmlead.c`).
const MAGIC: [u8; 4] = [0xed, 0xab, 0xee, 0xdb];
/// The package's name.
const NAME: &str = "k3s-selinux";

/// Which policy an image is to have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Policy {
    /// The release that is pinned here for the image's AlmaLinux.
    #[default]
    Pinned,
    /// This package.
    Given(Source),
    /// None: k3s runs without a domain of its own.
    None,
}

impl Policy {
    /// Whether an image has one.
    pub fn is_wanted(&self) -> bool {
        *self != Self::None
    }

    /// The package, if it was given by path.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Given(Source::File(path)) => Some(path),
            _ => None,
        }
    }
}

/// A release of k3s-selinux: the tag it has on GitHub, and its package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    tag: &'static str,
    /// The package's file name.
    pub package: &'static str,
}

impl Release {
    /// The one for a major version of AlmaLinux. One policy serves every k3s:
    /// k3s's own `install.sh` takes the newest there is.
    pub fn of(major: u16) -> Option<Self> {
        let el9 = Self { tag: "v1.6.stable.1", package: "k3s-selinux-1.6-1.el9.noarch.rpm" };
        (major == 9).then_some(el9)
    }

    /// Where it is, below a place laid out as the releases on GitHub.
    pub fn url(&self, place: &Url) -> Option<Url> {
        place.join(&format!("{}/{}", self.tag, self.package)).ok()
    }
}

/// Where to get the package by hand, and how to do without it.
pub fn how_to_get(version: &VersionName) -> String {
    let package = Release::of(version.major).map_or(NAME, |release| release.package);
    format!("pass {package} by --k3s-selinux FILE, or bake without a policy by --no-k3s-selinux")
}

/// Why a file is not the policy that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It does not begin as one.
    #[error("is not an RPM package")]
    NotRpm,
    /// It is much larger than any policy.
    #[error("is larger than any policy package")]
    TooLarge,
    /// It ends too early, or holds what no package holds.
    #[error("is an RPM package that is cut off or damaged: {0}")]
    Damaged(String),
    /// Another package.
    #[error("is the package {0}, not k3s-selinux")]
    OtherPackage(String),
    /// For another system.
    #[error("is {0}, which is not for el{1}")]
    OtherSystem(String, u16),
    /// Nobody vouches for it.
    #[error("is not signed")]
    Unsigned,
    /// Somebody else does.
    #[error("is not signed by {wanted}, but by {found}")]
    OtherKey {
        /// Whose signature counts.
        wanted: String,
        /// Who signed, as far as the signature says.
        found: String,
    },
    /// The right key signed something else.
    #[error("has a signature that says it is of {0}, and that does not hold: it was changed, or is weak")]
    Broken(String),
}

/// Whether the file at `path` is the policy for the image's system, signed by
/// `key`.
pub fn check(path: &Path, version: &VersionName, key: &Key) -> Result<(), BadInput> {
    let wrong = |why: String| BadInput(format!("--k3s-selinux {} {why}", path.display()));
    let unread = |error: std::io::Error| wrong(format!("cannot be read: {error}"));
    let size = std::fs::metadata(path).map_err(unread)?.len();
    let bytes = if size > MOST { Err(Refused::TooLarge) } else { Ok(std::fs::read(path).map_err(unread)?) };
    bytes.and_then(|bytes| judge(&bytes, version.major, key)).map_err(|why| {
        let whose = "; --k3s-selinux-key names the key of a package of your own";
        let whose = match why {
            Refused::Unsigned | Refused::OtherKey { .. } | Refused::Broken(_) => whose,
            _ => "",
        };
        wrong(format!("{why}; {}{whose}", how_to_get(version)))
    })
}

/// The same, of the package's bytes.
fn judge(bytes: &[u8], major: u16, key: &Key) -> Result<(), Refused> {
    if !bytes.starts_with(&MAGIC) {
        return Err(Refused::NotRpm);
    }
    let damaged = |error: rpm::Error| Refused::Damaged(error.to_string());
    let package = Package::parse(&mut Cursor::new(bytes)).map_err(damaged)?;
    let metadata = &package.metadata;
    fits(metadata, major)?;

    // The digest of what follows the header, in the header: without it the
    // signature would say nothing of the policy itself.
    let digests = package.check_digests().map_err(damaged)?;
    digests.result().map_err(damaged)?;
    if !digests.payload_sha256.is_verified() && !digests.payload_sha512.is_verified() {
        return Err(Refused::Damaged("its header holds no digest of its content".to_owned()));
    }

    // The bytes as they are in the file: what was signed is these.
    let parts = metadata.get_package_segment_offsets();
    let range = usize::try_from(parts.header).ok().zip(usize::try_from(parts.payload).ok());
    let header = range.and_then(|(from, to)| bytes.get(from..to));
    let header = header.ok_or_else(|| Refused::Damaged("its header does not end".to_owned()))?;
    let signatures = metadata.raw_signatures().map_err(damaged)?;
    let packets = signatures.iter().map(|raw| Packet::read(raw));
    let packets: Vec<Packet> =
        packets.collect::<Result<_, _>>().map_err(|why| Refused::Damaged(format!("its signature: {why}")))?;
    if packets.is_empty() {
        return Err(Refused::Unsigned);
    }
    if packets.iter().any(|packet| key.signed(packet, header)) {
        return Ok(());
    }
    let wanted = key.fingerprint();
    if packets.iter().any(|packet| key.is_named_in(packet)) {
        return Err(Refused::Broken(wanted));
    }
    let found: Vec<String> = packets.iter().map(Packet::issuer).collect();
    Err(Refused::OtherKey { wanted, found: found.join(" and ") })
}

fn fits(metadata: &PackageMetadata, major: u16) -> Result<(), Refused> {
    let text = |field: Result<&str, rpm::Error>| field.unwrap_or_default().to_owned();
    let (name, release) = (text(metadata.get_name()), text(metadata.get_release()));
    let full = format!("{name}-{}-{release}.{}", text(metadata.get_version()), text(metadata.get_arch()));
    if name != NAME || metadata.is_source_package() {
        return Err(Refused::OtherPackage(full));
    }
    let system = format!("el{major}");
    if !release.split('.').any(|part| part == system || part.starts_with(&format!("{system}_"))) {
        return Err(Refused::OtherSystem(full, major));
    }
    Ok(())
}

/// The key for policies: the user's, or Rancher's own.
pub(super) fn key(own: Option<&Path>) -> anyhow::Result<Key> {
    own.map_or_else(|| Ok(Key::rancher()), |path| Key::of_file("--k3s-selinux-key", path))
}

#[cfg(test)]
#[path = "selinux_tests.rs"]
mod tests;

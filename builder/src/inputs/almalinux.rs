//! Where AlmaLinux's install media are, and what says that they are the right
//! ones.
//!
//! ```text
//! <place>/9/isos/x86_64/{CHECKSUM, AlmaLinux-9-latest-x86_64-dvd.iso, AlmaLinux-9.6-x86_64-dvd.iso, …}
//! <place>/9.6/isos/x86_64/…            the same
//! <place>/../vault/9.4/isos/x86_64/…   what a newer minor version has replaced
//! ```
//!
//! `CHECKSUM` is signed and lists only what lies beside it (bento#1540); old
//! minor versions are deleted where they were and stay in the vault only
//! (triton-cloud-images#28).

use reqwest::Url;

use super::checksums::Checksums;
use super::source::{directory, file_name};
use crate::image::key::Digest;
use crate::image::version::{Arch, VersionName};

/// The list's name, and that of a signature beside it.
pub const CHECKSUM: &str = "CHECKSUM";
/// A detached signature over the list, where it is not signed in itself.
pub const SIGNATURE: &str = "CHECKSUM.asc";

/// An install medium's name, taken apart: `AlmaLinux-9.4-x86_64-dvd.iso`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IsoName {
    major: u16,
    minor: u16,
    arch: String,
}

impl IsoName {
    /// Takes the name of a certain minor version's DVD apart.
    pub fn parse(name: &str) -> Option<Self> {
        let rest = name.strip_prefix("AlmaLinux-")?.strip_suffix("-dvd.iso")?;
        let (version, arch) = rest.split_once('-')?;
        let (major, minor) = version.split_once('.')?;
        let arch = ["x86_64", "aarch64"].into_iter().find(|known| *known == arch)?.to_owned();
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()?, arch })
    }
}

/// The DVD of the newest minor version, whichever that is.
pub fn latest(major: u16, arch: Arch) -> String {
    format!("AlmaLinux-{major}-latest-{}-dvd.iso", arch.rpm_name())
}

/// Where the newest minor version's media are, below each place.
pub fn directories(places: &[Url], version: &VersionName) -> Vec<Url> {
    let path = format!("{}/isos/{}/", version.major, version.arch.rpm_name());
    places.iter().filter_map(|place| place.join(&path).ok()).collect()
}

/// The DVD a list offers for a version: a certain minor version's name where
/// the list tells which one is the latest, so that the name says what it is.
pub fn choose(sums: &Checksums, version: &VersionName) -> Option<(String, Digest)> {
    let arch = version.arch.rpm_name();
    let minors = || {
        sums.iter().filter_map(|(name, digest)| {
            let iso = IsoName::parse(name).filter(|iso| iso.major == version.major && iso.arch == arch)?;
            Some((iso.minor, name.to_owned(), digest))
        })
    };
    let latest = latest(version.major, version.arch);
    match sums.get(&latest) {
        Some(digest) => {
            let name = minors().find(|(_, _, other)| *other == digest).map(|(_, name, _)| name);
            Some((name.unwrap_or(latest), digest))
        }
        None => minors().max_by_key(|(minor, ..)| *minor).map(|(_, name, digest)| (name, digest)),
    }
}

/// Where a medium of a certain name may be, best first, the vaults last.
pub fn candidates(places: &[Url], name: &str) -> Vec<Url> {
    let Some(IsoName { major, minor, arch }) = IsoName::parse(name) else { return Vec::new() };
    let below = |place: &Url, version: &str| place.join(&format!("{version}/isos/{arch}/{name}")).ok();
    let (exact, current) = (format!("{major}.{minor}"), format!("{major}"));
    let living = places.iter().flat_map(|place| [below(place, &current), below(place, &exact)]);
    let vaults = places.iter().map(|place| below(&vault(place)?, &exact));
    living.chain(vaults).flatten().collect()
}

/// The vault beside a place: `…/almalinux/` and `…/vault/`.
pub(super) fn vault(place: &Url) -> Option<Url> {
    place.join("../vault/").ok().filter(|_| place.path() != "/")
}

/// Where else a medium may be that was at `url`: in the vault beside the place
/// it was in, if that place is laid out as AlmaLinux's.
pub fn in_vault(url: &Url) -> Option<Url> {
    let name = file_name(url)?;
    let IsoName { major, minor, arch } = IsoName::parse(name)?;
    [format!("{major}"), format!("{major}.{minor}")].iter().find_map(|version| {
        let place = url.path().strip_suffix(&format!("/{version}/isos/{arch}/{name}"))?;
        let mut root = url.clone();
        root.set_query(None);
        root.set_path(&format!("{place}/"));
        vault(&root)?.join(&format!("{major}.{minor}/isos/{arch}/{name}")).ok().filter(|vault| vault != url)
    })
}

/// The lists that may vouch for what is at `url`, best first.
pub fn lists_for(url: &Url) -> Vec<Url> {
    let beside = |url: &Url| directory(url).join(CHECKSUM).ok();
    [beside(url), in_vault(url).as_ref().and_then(beside)].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    fn version() -> VersionName {
        "alma9-k3-node-amd64-v1.28.5-v1".parse().unwrap()
    }

    #[test]
    fn the_latest_gets_the_name_of_what_it_is() {
        let (new, old) = (Digest::of(b"9.10"), Digest::of(b"9.9"));
        let list = |lines: &[(&str, Digest)]| {
            let text = lines
                .iter()
                .fold(String::new(), |text, (name, digest)| text + format!("{digest}  {name}\n").as_str());
            choose(&Checksums::parse(&text).unwrap(), &version())
        };
        let (latest, named) = ("AlmaLinux-9-latest-x86_64-dvd.iso", "AlmaLinux-9.10-x86_64-dvd.iso");
        let others = [
            ("AlmaLinux-9.9-x86_64-dvd.iso", old),
            ("AlmaLinux-9.11-x86_64-boot.iso", old),
            ("AlmaLinux-9.12-aarch64-dvd.iso", old),
            ("AlmaLinux-8.12-x86_64-dvd.iso", old),
        ];
        let with = |more: &[(&'static str, Digest)]| list(&[&others[..], more].concat());
        assert_eq!(with(&[(latest, new), (named, new)]), Some((named.to_owned(), new)));
        assert_eq!(with(&[(latest, new)]), Some((latest.to_owned(), new)));
        // 9.10 is newer than 9.9.
        assert_eq!(with(&[(named, new)]), Some((named.to_owned(), new)));
        assert_eq!(list(&others[1..]), None);
    }

    #[test]
    fn a_medium_is_looked_for_where_it_is_and_where_it_was_put_away() {
        let places = [url("http://m/alma/almalinux/"), url("https://repo.almalinux.org/almalinux/")];
        let found: Vec<String> =
            candidates(&places, "AlmaLinux-9.4-x86_64-dvd.iso").iter().map(Url::to_string).collect();
        assert_eq!(
            found,
            [
                "http://m/alma/almalinux/9/isos/x86_64/AlmaLinux-9.4-x86_64-dvd.iso",
                "http://m/alma/almalinux/9.4/isos/x86_64/AlmaLinux-9.4-x86_64-dvd.iso",
                "https://repo.almalinux.org/almalinux/9/isos/x86_64/AlmaLinux-9.4-x86_64-dvd.iso",
                "https://repo.almalinux.org/almalinux/9.4/isos/x86_64/AlmaLinux-9.4-x86_64-dvd.iso",
                "http://m/alma/vault/9.4/isos/x86_64/AlmaLinux-9.4-x86_64-dvd.iso",
                "https://repo.almalinux.org/vault/9.4/isos/x86_64/AlmaLinux-9.4-x86_64-dvd.iso",
            ]
        );
    }

    #[test]
    fn what_was_at_a_url_may_be_in_the_vault_beside_it() {
        let vaulted = "https://repo.almalinux.org/vault/9.4/isos/x86_64/AlmaLinux-9.4-x86_64-dvd.iso";
        for place in ["9.4", "9"] {
            let was = format!(
                "https://repo.almalinux.org/almalinux/{place}/isos/x86_64/AlmaLinux-9.4-x86_64-dvd.iso"
            );
            assert_eq!(in_vault(&url(&was)).unwrap().as_str(), vaulted);
        }
        for elsewhere in [
            vaulted,
            "https://e/AlmaLinux-9.4-x86_64-dvd.iso",
            "https://repo.almalinux.org/almalinux/9/isos/x86_64/AlmaLinux-9-latest-x86_64-dvd.iso",
        ] {
            assert_eq!(in_vault(&url(elsewhere)), None, "{elsewhere}");
        }
        let lists = lists_for(&url("https://e/almalinux/9.4/isos/x86_64/AlmaLinux-9.4-x86_64-dvd.iso"));
        let lists: Vec<&str> = lists.iter().map(Url::as_str).collect();
        assert_eq!(
            lists,
            ["https://e/almalinux/9.4/isos/x86_64/CHECKSUM", "https://e/vault/9.4/isos/x86_64/CHECKSUM"]
        );
    }

    proptest! {
        #[test]
        fn any_name_is_taken_apart_without_panic(name in "(AlmaLinux-|-dvd.iso|x86_64|[-.0-9a-z]){0,8}") {
            let _ = (IsoName::parse(&name), candidates(&[url("http://m/a/")], &name));
        }
    }
}

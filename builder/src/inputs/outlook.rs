//! What is known of a bake's inputs whether or not they are here: what the
//! keys of stages are made of, and what `bake --explain` tells of them. Small
//! lists of checksums are asked for; no input is downloaded.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use anyhow::Result;
use kiln_protocol::names::K3sVersion;
use serde::Serialize;

use super::fetch::fault::{NotFetched, Offline};
use super::lockfile::{self, From, Image, Pin};
use super::media::{self, Media};
use super::resolve::{Asked, Found, Resolver, Sight};
use super::{Hasher, Inputs, Parts, Place, Wanted, programs, selinux};
use crate::image::VersionName;
use crate::image::key::Digest;
use crate::image::manifest::FileRecord;
use crate::progress::Progress;
use crate::run::lock::Lock;

/// What is known of the inputs. A digest that is not known is none.
#[derive(Debug, Clone)]
pub struct Known {
    /// The image's name.
    pub version: VersionName,
    /// The k3s build inside.
    pub k3s_version: K3sVersion,
    /// The install medium's digest.
    pub iso: Option<Digest>,
    /// The install medium, if it is here.
    pub media: Option<Media>,
    /// The k3s binary.
    pub k3s: Option<Digest>,
    /// Container images, by name.
    pub k3s_images: Vec<(String, Option<Digest>)>,
    /// k3s's SELinux policy; the outer none: there is to be none.
    pub k3s_selinux: Option<Option<Digest>>,
    /// The agent.
    pub agent: Digest,
}

impl Known {
    /// Whether one that is known is another than what an image was made from,
    /// by its manifest.
    pub fn contradict(&self, made_from: &BTreeMap<String, FileRecord>) -> bool {
        let images = self.k3s_images.iter().map(|(name, digest)| (format!("k3s-images/{name}"), *digest));
        let policy = self.k3s_selinux.map(|digest| ("k3s-selinux".to_owned(), digest));
        let single = [("iso", self.iso), ("k3s", self.k3s), ("agent", Some(self.agent))];
        let single = single.into_iter().map(|(what, digest)| (what.to_owned(), digest));
        let mut known = single.chain(images).chain(policy);
        known.any(|(what, digest)| {
            digest.is_some_and(|digest| made_from.get(&what).map(|file| file.sha256) != Some(digest))
        })
    }
}

impl Inputs {
    /// What is known of inputs that are here: everything.
    pub fn known(&self) -> Known {
        Known {
            version: self.version.clone(),
            k3s_version: self.k3s_version.clone(),
            iso: Some(self.media.iso.sha256),
            media: Some(self.media.clone()),
            k3s: Some(self.k3s.sha256),
            k3s_images: self.k3s_images.iter().map(|image| (image.name(), Some(image.sha256))).collect(),
            k3s_selinux: self.k3s_selinux.as_ref().map(|rpm| Some(rpm.sha256)),
            agent: self.agent.sha256,
        }
    }
}

/// Where an input is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum State {
    /// Here: given by path, or in the cache.
    Here,
    /// A bake would download it, or fail for want of a network.
    Away {
        /// From here first.
        url: String,
        /// Why it would not be downloaded, and what to do.
        #[serde(skip_serializing_if = "Option::is_none")]
        forbidden: Option<String>,
    },
    /// It cannot be told which file that would be.
    Unknown {
        /// Why not.
        why: String,
    },
}

/// One input, as far as it can be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// What it is, as the lock file calls it.
    pub input: String,
    /// The file's name, where it is known.
    pub name: Option<String>,
    /// Its digest, where it is known.
    pub sha256: Option<Digest>,
    /// Where it is.
    #[serde(flatten)]
    pub state: State,
}

impl Seen {
    /// Whether its content is unknown.
    pub fn is_unknown(&self) -> bool {
        self.sha256.is_none()
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = self.sha256.map_or_else(
            || "digest not known before it is here".to_owned(),
            |digest| format!("sha256 {}…", &digest.to_string()[..12]),
        );
        let name = self.name.as_deref().unwrap_or_default();
        match &self.state {
            State::Here => write!(f, "{name}, {digest}"),
            State::Away { forbidden: Some(why), .. } => write!(f, "{why} ({digest})"),
            State::Away { url, forbidden: None } => write!(f, "would be downloaded from {url}, {digest}"),
            State::Unknown { why } => write!(f, "unknown: {why}"),
        }
    }
}

/// What is known of the inputs of a bake that is not run.
#[derive(Debug)]
pub struct Outlook {
    /// What stages' keys are made of.
    pub known: Known,
    /// Every input.
    pub seen: Vec<Seen>,
    /// What is in the cache stays there as long as this value lives.
    _locks: Arc<Vec<Lock>>,
}

/// Collects what is seen.
struct Looker<'a> {
    resolver: &'a Resolver<'a>,
    hasher: &'a Hasher,
    seen: Vec<Seen>,
    locks: Vec<Lock>,
}

impl Looker<'_> {
    /// Looks for an input; the file, if it is here, after `check` was content
    /// with it.
    async fn look(
        &mut self,
        input: &str,
        asked: Result<Asked>,
        check: impl FnOnce(&std::path::Path) -> Result<()>,
    ) -> Result<Option<std::path::PathBuf>> {
        let unknown = |why: String| Seen {
            input: input.to_owned(),
            name: None,
            sha256: None,
            state: State::Unknown { why },
        };
        let sight = match asked {
            Ok(asked) => self.resolver.see(asked).await?,
            // No network is no reason to explain nothing.
            Err(error) if error.is::<NotFetched>() || error.is::<Offline>() => {
                self.seen.push(unknown(error.to_string()));
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        match sight {
            Sight::Here(Found { path, lock, .. }) => {
                check(&path)?;
                let file = self.hasher.hash(&path).await?;
                self.locks.extend(lock);
                let (name, sha256) = (Some(file.name()), Some(file.sha256));
                self.seen.push(Seen { input: input.to_owned(), name, sha256, state: State::Here });
                Ok(Some(path))
            }
            Sight::Away { name, url, sha256, offline } => {
                let state = State::Away { url, forbidden: offline.map(|offline| offline.to_string()) };
                self.seen.push(Seen { input: input.to_owned(), name: Some(name), sha256, state });
                Ok(None)
            }
        }
    }

    /// The digest of what was seen last.
    fn digest(&self) -> Option<Digest> {
        self.seen.last().and_then(|seen| seen.sha256)
    }
}

impl Outlook {
    /// Looks for the inputs that are wanted; what is here is checked.
    pub async fn of(wanted: &Wanted, hasher: &Hasher, place: Place<'_>, progress: &Progress) -> Result<Self> {
        let parts = Parts::of(wanted)?;
        let (version, k3s_version) = (&parts.version, &parts.k3s_version);
        let fetcher = super::fetcher(wanted, hasher, place, progress);
        let resolver = parts.resolver(wanted, &fetcher);
        let mut looker = Looker { resolver: &resolver, hasher, seen: Vec::new(), locks: Vec::new() };

        // In the order in which a bake gets them.
        let k3s_selinux = match resolver.selinux(&wanted.k3s_selinux)? {
            Some(asked) => {
                let check = |path: &std::path::Path| Ok(selinux::check(path, version, &parts.selinux_key)?);
                looker.look("k3s-selinux", Ok(asked), check).await?;
                Some(looker.digest())
            }
            None => None,
        };
        let is_program = |path: &std::path::Path| programs::check_program("--k3s", path, version.arch);
        let k3s = looker.look("k3s", resolver.k3s(wanted.k3s.clone()).await, is_program).await?;
        let k3s_digest = looker.digest();
        if let Some(path) = k3s {
            let k3s = hasher.hash(&path).await?;
            super::check_k3s(&k3s, version, k3s_version, place, progress).await?;
        }
        let mut k3s_images = Vec::new();
        let mut asked = Vec::new();
        for source in wanted.k3s_images.clone() {
            asked.push(resolver.images(source).await);
        }
        if wanted.airgap {
            asked.push(resolver.airgap().await);
        }
        for asked in asked {
            looker.look("k3s-images", asked, programs::check_images).await?;
            let Some(image) = looker.seen.last_mut() else { continue };
            if let Some(name) = &image.name {
                image.input = format!("k3s-images/{name}");
            }
            k3s_images.push((image.name.clone().unwrap_or_default(), image.sha256));
        }
        let iso = looker.look("iso", resolver.iso(wanted.iso.clone()).await, |_| Ok(())).await?;
        let iso_digest = looker.digest();
        let media = match iso {
            Some(iso) => {
                let volume_id = media::volume_id(&iso)?;
                Some(Media::open(&iso, volume_id, version, hasher, place.cache, place.work).await?)
            }
            None => None,
        };
        let agent = Asked::File(parts.agent.clone());
        looker.look("agent", Ok(agent), |_| Ok(())).await?;
        let agent = hasher.hash(&parts.agent).await?.sha256;

        let Looker { seen, locks, .. } = looker;
        let known = Known {
            version: version.clone(),
            k3s_version: k3s_version.clone(),
            iso: iso_digest,
            media,
            k3s: k3s_digest,
            k3s_images,
            k3s_selinux,
            agent,
        };
        let locked = parts.lock_file.image(version);
        lockfile::check(&wanted.lock, &parts.lock_file, version, &as_image(&seen, k3s_version, locked))?;
        hasher.remember()?;
        Ok(Self { known, seen, _locks: Arc::new(locks) })
    }
}

/// What was seen, to be compared with what is locked by its digests. What is
/// not known is no difference.
fn as_image(seen: &[Seen], k3s: &K3sVersion, locked: Option<&Image>) -> Image {
    let input: BTreeMap<String, Pin> = seen
        .iter()
        .filter_map(|seen| {
            let locked = || locked.and_then(|image| image.input.get(&seen.input)).map(|pin| pin.sha256);
            let sha256 = seen.sha256.or_else(locked)?;
            let name = seen.name.clone().unwrap_or_default();
            Some((seen.input.clone(), Pin { name, sha256, size: 0, from: From::Default, url: None }))
        })
        .collect();
    Image { k3s: k3s.clone(), input }
}

#[cfg(test)]
mod tests {
    use super::super::cache::InputCache;
    use super::super::fetch::Fetcher;
    use super::super::network::Network;
    use super::super::selinux::Policy;
    use super::super::signature::Key;
    use super::*;
    use crate::run::RunId;

    #[test]
    fn an_input_is_told_with_what_is_known_of_it() {
        let seen = |sha256, state| Seen { input: "iso".into(), name: Some("dvd.iso".into()), sha256, state };
        let digest = Some(Digest::of(b""));
        assert_eq!(seen(digest, State::Here).to_string(), "dvd.iso, sha256 e3b0c44298fc…");
        let away = seen(None, State::Away { url: "http://m/dvd.iso".into(), forbidden: None });
        assert_eq!(
            away.to_string(),
            "would be downloaded from http://m/dvd.iso, digest not known before it is here"
        );
        assert!(away.is_unknown());
        let unknown = seen(None, State::Unknown { why: "no network".into() });
        assert_eq!(unknown.to_string(), "unknown: no network");
        let json = serde_json::to_value(&away).unwrap();
        assert_eq!((&json["state"], &json["url"]), (&"away".into(), &"http://m/dvd.iso".into()));
        assert!(json.get("forbidden").is_none(), "{json}");
    }

    #[tokio::test]
    async fn offline_an_input_that_is_not_here_is_said_to_be_forbidden() {
        let version: VersionName = "alma9-k3-node-amd64-v1.28.5-v1".parse().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (hasher, progress) = (Hasher::new(dir.path()), Progress::silent());
        let key = Key::almalinux(version.major).unwrap();
        let seen = async |offline| {
            let network = Network { offline, ..Network::default() };
            let cache = InputCache::new(dir.path(), &hasher);
            let fetcher = Fetcher::new(&network, cache, &progress, RunId::generate());
            let k3s_version = &version.k3s.first_build();
            let resolver = Resolver {
                version: &version,
                k3s_version,
                network: &network,
                fetcher: &fetcher,
                key: &key,
                pins: None,
            };
            let mut looker = Looker { resolver: &resolver, hasher: &hasher, seen: vec![], locks: vec![] };
            let asked = resolver.selinux(&Policy::Pinned).unwrap().unwrap();
            looker.look("k3s-selinux", Ok(asked), |_| Ok(())).await.unwrap();
            looker.seen.remove(0)
        };
        let forbidden = seen(true).await;
        let told = forbidden.to_string();
        for words in ["is not in the cache and --offline forbids to download it", "--k3s-selinux FILE"] {
            assert!(told.contains(words), "{told}");
        }
        assert!(!told.contains("would be downloaded"), "{told}");
        // Programs still learn which file that is.
        let json = serde_json::to_value(&forbidden).unwrap();
        assert_eq!(json["state"], "away");
        assert!(json["url"].is_string() && json["forbidden"].is_string(), "{json}");
        assert!(seen(false).await.to_string().starts_with("would be downloaded from "));
    }

    #[test]
    fn an_input_that_is_known_may_tell_that_an_image_is_another() {
        let version: VersionName = "alma9-k3-node-amd64-v1.28.5-v1".parse().unwrap();
        let digest = |text: &str| Digest::of(text.as_bytes());
        let file = |text: &str| FileRecord { name: text.into(), size: 1, sha256: digest(text) };
        let made_from = BTreeMap::from(["iso", "k3s", "agent"].map(|what| (what.to_owned(), file(what))));
        let mut known = Known {
            k3s_version: version.k3s.first_build(),
            version,
            iso: Some(digest("iso")),
            media: None,
            k3s: None,
            k3s_images: Vec::new(),
            k3s_selinux: None,
            agent: digest("agent"),
        };
        assert!(!known.contradict(&made_from));
        // A policy that is not known may be none of it, and one that is known is not in it.
        known.k3s_selinux = Some(None);
        assert!(!known.contradict(&made_from));
        known.k3s_selinux = Some(Some(digest("policy")));
        assert!(known.contradict(&made_from));
        known.k3s_selinux = None;
        known.agent = digest("another");
        assert!(known.contradict(&made_from));
    }

    #[test]
    fn what_is_not_known_does_not_differ_from_what_is_locked() {
        let version: VersionName = "alma9-k3-node-amd64-v1.28.5-v1".parse().unwrap();
        let k3s = version.k3s.first_build();
        let seen = |sha256| {
            let state = State::Unknown { why: String::new() };
            vec![Seen { input: "iso".into(), name: None, sha256, state }]
        };
        let locked = as_image(&seen(Some(Digest::of(b"a"))), &k3s, None);
        let differences =
            |sha256| lockfile::differences(&locked, &as_image(&seen(sha256), &k3s, Some(&locked))).len();
        assert_eq!((differences(None), differences(Some(Digest::of(b"a")))), (0, 0));
        assert_eq!(differences(Some(Digest::of(b"b"))), 1);
    }
}

//! From what was asked for to files: paths as they are; URLs, and what an
//! image's name means, through `kiln.lock`, lists of checksums and the cache.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use kiln_protocol::names::K3sVersion;
use reqwest::Url;

use super::almalinux;
use super::checksums::Checksums;
use super::fetch::fault::{NotFetched, Offline};
use super::fetch::{Fetched, Fetcher, Wish, text::Text};
use super::lockfile::{From, Image, Pin};
use super::network::{K3sFiles, Network, k3s_release};
use super::selinux::{self, Policy};
use super::signature::{Key, is_cleartext_signed};
use super::source::{Link, Source, directory, file_name};
use super::{media, programs};
use crate::failure::BadInput;
use crate::image::VersionName;
use crate::image::key::Digest;
use crate::run::lock::Lock;

/// A file that was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) from: From,
    pub(super) url: Option<String>,
    /// Keeps it in the cache.
    pub(super) lock: Option<Lock>,
}

impl Found {
    pub(super) fn file(path: PathBuf) -> Self {
        Self { path, from: From::File, url: None, lock: None }
    }

    fn fetched(fetched: Fetched, from: From, url: String) -> Self {
        Self { path: fetched.kept.file.path, from, url: Some(url), lock: Some(fetched.kept.lock) }
    }
}

/// An input as it is asked for: a file, or where it is to be had.
#[derive(Debug)]
pub(super) enum Asked {
    /// It was given by path.
    File(PathBuf),
    /// It is downloaded, unless it is in the cache.
    Download(Download),
}

/// A download that may be needed.
#[derive(Debug)]
pub(super) struct Download {
    /// What it is, as the lock file calls it.
    what: String,
    from: From,
    /// Where it is looked for first.
    first: String,
    wish: Wish,
    /// Whether something vouches for what comes.
    vouched: bool,
}

/// What can be told of an input without downloading it.
#[derive(Debug)]
pub(super) enum Sight {
    /// It is here.
    Here(Found),
    /// It is not.
    Away {
        /// Its name.
        name: String,
        /// Where it would be downloaded from.
        url: String,
        /// Its digest, where that is known.
        sha256: Option<Digest>,
        /// What a bake without a network would fail with.
        offline: Option<Offline>,
    },
}

/// Finds the files of one image.
pub(super) struct Resolver<'a> {
    pub(super) version: &'a VersionName,
    pub(super) k3s_version: &'a K3sVersion,
    pub(super) network: &'a Network,
    pub(super) fetcher: &'a Fetcher<'a>,
    /// Whose word counts for install media.
    pub(super) key: &'a Key,
    /// What the image was made from before.
    pub(super) pins: Option<&'a Image>,
}

impl Resolver<'_> {
    /// What was found before for an input that is asked for in the same way.
    fn pin(&self, what: &str, from: From, url: Option<&Url>) -> Option<&Pin> {
        let pin = self.pins.filter(|_| !self.network.update)?.input.get(what)?;
        let same = pin.from == from && url.is_none_or(|url| pin.url.as_deref() == Some(url.as_str()));
        same.then_some(pin)
    }

    /// The install medium.
    pub(super) async fn iso(&self, source: Option<Source>) -> Result<Asked> {
        let advice = media::how_to_get(self.version);
        match source {
            Some(Source::File(path)) => Ok(Asked::File(path)),
            Some(Source::Url(link)) => {
                let vouched = match self.said("iso", &link) {
                    Some(digest) => Some(digest),
                    None => self.signed_digest(&link.url).await?,
                };
                let urls = [Some(link.url.clone()), almalinux::in_vault(&link.url)];
                link_to("iso", &link, urls.into_iter().flatten().collect(), vouched, advice)
            }
            None => {
                let places = &self.network.almalinux;
                let (name, digest, first) = match self.pin("iso", From::Default, None) {
                    Some(pin) => {
                        (pin.name.clone(), pin.sha256, pin.url.as_deref().and_then(|url| url.parse().ok()))
                    }
                    None => self.newest().await?,
                };
                let mut urls: Vec<Url> = first.into_iter().collect();
                for url in almalinux::candidates(places, &name) {
                    if !urls.contains(&url) {
                        urls.push(url);
                    }
                }
                Ok(by_default("iso", Wish { name, urls, sha256: Some(digest), advice }))
            }
        }
    }

    /// Name, digest and place of the DVD that is the newest now.
    async fn newest(&self) -> Result<(String, Digest, Option<Url>)> {
        let advice = media::how_to_get(self.version);
        let mut unreachable = None;
        for directory in almalinux::directories(&self.network.almalinux, self.version) {
            let list = directory.join(almalinux::CHECKSUM)?;
            match self.signed_list(&list).await? {
                List::Sums(sums) => {
                    let (name, digest) = almalinux::choose(&sums, self.version).ok_or_else(|| {
                        BadInput(format!("{list} lists no DVD of AlmaLinux {}; {advice}", self.version.major))
                    })?;
                    let url = directory.join(&name)?;
                    return Ok((name, digest, Some(url)));
                }
                List::None => {}
                List::Unreachable(error) => unreachable = Some(error),
            }
        }
        let name = almalinux::latest(self.version.major, self.version.arch);
        if self.network.offline {
            return Err(Offline { name, advice }.into());
        }
        if let Some(error) = unreachable {
            Err(NotFetched { name, advice: format!("check the network, or {advice}"), ..error }.into())
        } else {
            let places: Vec<&str> = self.network.almalinux.iter().map(Url::as_str).collect();
            Err(BadInput(format!("there is no signed list of {name} below {}; {advice}", places.join(", ")))
                .into())
        }
    }

    /// What a signed list says of the file at `url`, where there is such a list.
    async fn signed_digest(&self, url: &Url) -> Result<Option<Digest>> {
        let Some(name) = file_name(url) else { return Ok(None) };
        if self.fetcher.known(std::slice::from_ref(url)).is_some() {
            // It was checked when it was fetched.
            return Ok(None);
        }
        for list in almalinux::lists_for(url) {
            if let List::Sums(sums) = self.signed_list(&list).await?
                && let Some(digest) = sums.get(name)
            {
                return Ok(Some(digest));
            }
        }
        Ok(None)
    }

    /// A list of checksums, if its signature is right.
    async fn signed_list(&self, url: &Url) -> Result<List> {
        let text = match self.fetcher.text(url).await? {
            Text::Found(text) => text,
            Text::NotThere => return Ok(List::None),
            Text::Unreachable(error) => return Ok(List::Unreachable(error)),
        };
        let refused = |why: String| {
            BadInput(format!(
                "{url} {why}: what it lists is not trusted; another place may have the right one \
                 (--almalinux-mirror), --iso-key names the key of media that are your own"
            ))
        };
        let signed = if is_cleartext_signed(&text) {
            self.key.open(&text).map_err(|error| refused(error.to_string()))?
        } else {
            let beside = directory(url).join(almalinux::SIGNATURE)?;
            match self.fetcher.text(&beside).await? {
                Text::Found(signature) => {
                    let checked = self.key.check_detached(text.as_bytes(), &signature);
                    checked.map_err(|error| refused(error.to_string()))?;
                    text
                }
                Text::NotThere => {
                    return Err(refused(format!(
                        "is not signed, and there is no {} beside it",
                        almalinux::SIGNATURE
                    ))
                    .into());
                }
                Text::Unreachable(error) => return Ok(List::Unreachable(error)),
            }
        };
        Checksums::parse(&signed).map(List::Sums).with_context(|| format!("reading {url}"))
    }

    /// The k3s binary.
    pub(super) async fn k3s(&self, source: Option<Source>) -> Result<Asked> {
        let files = K3sFiles::of(self.version.arch);
        let advice = programs::how_to_get_k3s(self.k3s_version, self.version.arch);
        match source {
            Some(source) => self.given_release("k3s", source, advice).await,
            None => self.released("k3s", files.binary, advice).await,
        }
    }

    /// Container images that were asked for.
    pub(super) async fn images(&self, source: Source) -> Result<Asked> {
        let what = match &source {
            Source::Url(link) => format!("k3s-images/{}", file_name(&link.url).unwrap_or_default()),
            Source::File(_) => String::new(),
        };
        self.given_release(&what, source, "pass the images by --k3s-images FILE".to_owned()).await
    }

    /// The container images of the k3s release.
    pub(super) async fn airgap(&self) -> Result<Asked> {
        let name = K3sFiles::of(self.version.arch).images;
        let advice = "pass the images by --k3s-images FILE instead of --airgap".to_owned();
        self.released(&format!("k3s-images/{name}"), name, advice).await
    }

    /// k3s's SELinux policy, if there is to be one. Its signature is in itself:
    /// nothing beside it has to vouch for it.
    pub(super) fn selinux(&self, policy: &Policy) -> Result<Option<Asked>> {
        const WHAT: &str = "k3s-selinux";
        let advice = selinux::how_to_get(self.version);
        let asked = match policy {
            Policy::None => return Ok(None),
            Policy::Given(Source::File(path)) => Asked::File(path.clone()),
            Policy::Given(Source::Url(link)) => {
                let said = self.said(WHAT, link);
                match link_to(WHAT, link, vec![link.url.clone()], said, advice)? {
                    Asked::Download(download) => Asked::Download(Download { vouched: true, ..download }),
                    file @ Asked::File(_) => file,
                }
            }
            Policy::Pinned => {
                let major = self.version.major;
                let unknown = || BadInput(format!("no policy for el{major} is known here; {advice}"));
                let release = selinux::Release::of(major).ok_or_else(unknown)?;
                let mut urls: Vec<Url> =
                    self.network.k3s_selinux.iter().filter_map(|place| release.url(place)).collect();
                // The one that is pinned may be another release than today's.
                let pin = self.pin(WHAT, From::Default, None);
                if let Some(url) = pin.and_then(|pin| pin.url.as_deref()?.parse().ok())
                    && !urls.contains(&url)
                {
                    urls.insert(0, url);
                }
                let name = pin.map_or(release.package, |pin| &pin.name).to_owned();
                let sha256 = pin.map(|pin| pin.sha256);
                by_default(WHAT, Wish { name, urls, sha256, advice })
            }
        };
        Ok(Some(asked))
    }

    /// A file of some k3s release, by path or URL; the release's list of
    /// checksums lies beside it.
    async fn given_release(&self, what: &str, source: Source, advice: String) -> Result<Asked> {
        let link = match source {
            Source::File(path) => return Ok(Asked::File(path)),
            Source::Url(link) => link,
        };
        let mut vouched = self.said(what, &link);
        if vouched.is_none() && self.fetcher.known(std::slice::from_ref(&link.url)).is_none() {
            let list = directory(&link.url).join(K3sFiles::of(self.version.arch).sums)?;
            if let List::Sums(sums) = self.list(&list).await? {
                vouched = file_name(&link.url).and_then(|name| sums.get(name));
            }
        }
        link_to(what, &link, vec![link.url.clone()], vouched, advice)
    }

    /// A file of the image's k3s release. A release is never changed, so that
    /// one that was fetched before needs no network.
    async fn released(&self, what: &str, name: &str, advice: String) -> Result<Asked> {
        let releases: Vec<Url> =
            self.network.k3s.iter().map(|place| k3s_release(place, self.k3s_version)).collect();
        let urls: Vec<Url> = releases.iter().filter_map(|release| release.join(name).ok()).collect();
        let known =
            self.pin(what, From::Default, None).map(|pin| pin.sha256).or_else(|| self.fetcher.known(&urls));
        let digest = match known {
            Some(digest) => digest,
            None => self.release_digest(&releases, name, &advice).await?,
        };
        Ok(by_default(what, Wish { name: name.to_owned(), urls, sha256: Some(digest), advice }))
    }

    async fn release_digest(&self, releases: &[Url], name: &str, advice: &str) -> Result<Digest> {
        let mut unreachable = None;
        for release in releases {
            match self.list(&release.join(K3sFiles::of(self.version.arch).sums)?).await? {
                List::Sums(sums) => {
                    let missing = || BadInput(format!("{release} lists no {name}; {advice}"));
                    return Ok(sums.get(name).ok_or_else(missing)?);
                }
                List::None => {}
                List::Unreachable(error) => unreachable = Some(error),
            }
        }
        let name = format!("{name} of k3s {}", self.k3s_version);
        if self.network.offline {
            return Err(Offline { name, advice: advice.to_owned() }.into());
        }
        if let Some(error) = unreachable {
            Err(NotFetched { name, advice: format!("check the network, or {advice}"), ..error }.into())
        } else {
            let places: Vec<&str> = releases.iter().map(Url::as_str).collect();
            Err(BadInput(format!("there is no {name} at {}; {advice}", places.join(", "))).into())
        }
    }

    /// A list of checksums that nobody signs: k3s's releases have no signature
    /// (only `k3s*` and `sha256sum*` are uploaded, k3s's `release.yml`).
    async fn list(&self, url: &Url) -> Result<List> {
        Ok(match self.fetcher.text(url).await? {
            Text::Found(text) => {
                List::Sums(Checksums::parse(&text).with_context(|| format!("reading {url}"))?)
            }
            Text::NotThere => List::None,
            Text::Unreachable(error) => List::Unreachable(error),
        })
    }

    /// The digest that was said with a URL, or is pinned.
    fn said(&self, what: &str, link: &Link) -> Option<Digest> {
        link.sha256.or_else(|| self.pin(what, From::Url, Some(&link.url)).map(|pin| pin.sha256))
    }

    /// Gets an input, from the cache or from where it is.
    pub(super) async fn get(&self, asked: Asked) -> Result<Found> {
        let Download { what, from, first, wish, vouched } = match asked {
            Asked::File(path) => return Ok(Found::file(path)),
            Asked::Download(download) => download,
        };
        let fetched = self.fetch(&wish).await?;
        if !vouched && fetched.url.is_some() {
            let digest = fetched.kept.file.sha256;
            self.fetcher.progress().warn(format!(
                "nothing vouches for {first} ({what}): its digest {digest} is taken on trust, and pinned from \
                 now on"
            ));
        }
        let url = match (&fetched.url, from) {
            (Some(url), From::Default) => url.to_string(),
            _ => first,
        };
        Ok(Found::fetched(fetched, from, url))
    }

    /// What can be told of an input without downloading it.
    pub(super) async fn see(&self, asked: Asked) -> Result<Sight> {
        let Download { from, first, wish, .. } = match asked {
            Asked::File(path) => return Ok(Sight::Here(Found::file(path))),
            Asked::Download(download) => download,
        };
        if let Some(kept) = self.fetcher.cached(&wish).await? {
            return Ok(Sight::Here(Found::fetched(Fetched { kept, url: None }, from, first)));
        }
        let offline = self.network.offline.then(|| wish.offline());
        Ok(Sight::Away { name: wish.name, url: first, sha256: wish.sha256, offline })
    }

    /// Fetches, and says where from when that is not the first place.
    async fn fetch(&self, wish: &Wish) -> Result<Fetched> {
        let fetched =
            self.fetcher.fetch(wish).await.map_err(|error| match error.downcast::<NotFetched>() {
                // What nobody has was never asked for rightly.
                Ok(error) if error.is_not_there() => BadInput(error.to_string()).into(),
                Ok(error) if error.is_unreachable() => {
                    NotFetched { advice: format!("check the network, or {}", error.advice), ..error }.into()
                }
                Ok(error) => error.into(),
                Err(error) => error,
            })?;
        if let Some(url) = &fetched.url
            && wish.urls.first() != Some(url)
        {
            self.fetcher.progress().step("inputs", format!("{} was found at {url}", wish.name));
        }
        Ok(fetched)
    }
}

/// What was asked for by URL.
fn link_to(what: &str, link: &Link, urls: Vec<Url>, sha256: Option<Digest>, advice: String) -> Result<Asked> {
    let name = file_name(&link.url).context("a URL ends in a name")?.to_owned();
    Ok(Asked::Download(Download {
        what: what.to_owned(),
        from: From::Url,
        first: link.url.to_string(),
        vouched: sha256.is_some(),
        wish: Wish { name, urls, sha256, advice },
    }))
}

/// What an image's name means.
fn by_default(what: &str, wish: Wish) -> Asked {
    let first = wish.urls.first().map(Url::to_string).unwrap_or_default();
    Asked::Download(Download { what: what.to_owned(), from: From::Default, first, wish, vouched: true })
}

/// A list of checksums, or why there is none.
enum List {
    Sums(Checksums),
    None,
    Unreachable(NotFetched),
}

/// The key for install media: the user's, or AlmaLinux's own.
pub(super) fn key(version: &VersionName, own: Option<&Path>) -> Result<Key> {
    let Some(path) = own else {
        let unknown =
            || BadInput(format!("no key of AlmaLinux {} is known here: pass it by --iso-key", version.major));
        return Ok(Key::almalinux(version.major).ok_or_else(unknown)?);
    };
    Key::of_file("--iso-key", path)
}

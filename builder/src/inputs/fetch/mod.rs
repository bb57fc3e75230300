//! Downloads: resumed, watched, tried again, from several places, checked on
//! the way, shared between builders.
//!
//! | module | what it does |
//! |---|---|
//! | [`answer`] | what a server's answer means |
//! | [`attempt`] | one request |
//! | [`fault`] | what goes wrong |
//! | [`pace`] | how fast bytes come |
//! | [`partial`] | downloads that are not complete |
//! | [`policy`] | how long and how often |
//! | [`sink`] | where the bytes go |
//! | [`text`] | lists of checksums: small, and kept as text |

mod answer;
mod attempt;
pub mod fault;
mod pace;
pub mod partial;
pub mod policy;
mod sink;
pub mod text;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use reqwest::{Client, Url};
use tokio::sync::OnceCell;

use super::cache::{InputCache, Kept};
use super::network::Network;
use crate::image::Size;
use crate::image::key::Digest;
use crate::progress::{Event, Progress};
use crate::run::RunId;
use crate::run::lock::{Lock, Mode};
use answer::Validator;
use attempt::{End, Request};
use fault::{NoRoom, NotFetched, Offline, Why};
use partial::State;
use policy::{Failures, jitter};
use sink::Sink;

/// The stage downloads belong to.
const STAGE: &str = "inputs";
/// A connection is there within this, or the next address or place is tried.
const CONNECT: Duration = Duration::from_secs(15);
/// Longer chains of redirects go in circles.
const REDIRECTS: usize = 10;

/// A file that is wanted.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Its name here.
    pub name: String,
    /// Where it may be had, best first.
    pub urls: Vec<Url>,
    /// What it must be, where that is known.
    pub sha256: Option<Digest>,
    /// How else to get it, for whoever reads that it failed.
    pub advice: String,
}

impl Wish {
    /// What it fails with when it is not here and the user wants no network.
    pub fn offline(&self) -> Offline {
        Offline { name: self.name.clone(), advice: self.advice.clone() }
    }
}

/// A file that was fetched, now or before.
#[derive(Debug)]
pub struct Fetched {
    /// The file.
    pub kept: Kept,
    /// Where it was found; none when it was in the cache.
    pub url: Option<Url>,
}

/// Fetches files into a cache.
#[derive(Debug)]
pub struct Fetcher<'a> {
    network: &'a Network,
    cache: InputCache<'a>,
    progress: &'a Progress,
    run: RunId,
    client: OnceCell<Client>,
}

impl<'a> Fetcher<'a> {
    /// Into `cache`, for the run `run`.
    pub fn new(network: &'a Network, cache: InputCache<'a>, progress: &'a Progress, run: RunId) -> Self {
        Self { network, cache, progress, run, client: OnceCell::new() }
    }

    /// The cache files go to.
    pub fn cache(&self) -> &InputCache<'a> {
        &self.cache
    }

    /// What is said on the way.
    pub fn progress(&self) -> &'a Progress {
        self.progress
    }

    /// Made when it is first needed: reading the host's certificates takes
    /// longer than a bake in which nothing changed.
    async fn client(&self) -> Result<&Client> {
        self.client.get_or_try_init(async || client()).await
    }

    /// Gets a file: from the cache, or from the first place that has it.
    pub async fn fetch(&self, wish: &Wish) -> Result<Fetched> {
        if let Some(kept) = self.cached(wish).await? {
            return Ok(Fetched { kept, url: None });
        }
        if self.network.offline {
            return Err(wish.offline().into());
        }
        let key = match (wish.sha256, wish.urls.first()) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(url)) => format!("url-{}", Digest::of(url.as_str().as_bytes())),
            (None, None) => anyhow::bail!("{} has neither a digest nor a place", wish.name),
        };
        let root = self.cache.root();
        let waiting =
            || self.progress.step(STAGE, format!("waiting for another builder that downloads {}", wish.name));
        let _lock = Lock::acquire(&partial::lock_path(root, &key), Mode::Exclusive, waiting).await?;
        // Whoever held the lock may have brought it.
        if let Some(kept) = self.cached(wish).await? {
            return Ok(Fetched { kept, url: None });
        }
        let dir = partial::dir(root, &key);
        self.download(wish, &dir).await.map_err(|error| {
            // Not only the file itself: what is written about it, too.
            if is_full(&error) { of_disk(wish, &dir, None, error) } else { error }
        })
    }

    /// The digest of what was fetched from one of these places before, if it
    /// is still in the cache and nothing newer is asked for.
    pub fn known(&self, urls: &[Url]) -> Option<Digest> {
        let digests = urls.iter().filter(|_| !self.network.update).filter_map(|url| self.cache.origin(url));
        digests
            .map(|origin| origin.sha256)
            .find(|digest| super::cache::dir_of(self.cache.root(), *digest).exists())
    }

    /// From the cache: by its digest, or by what was found at its place last.
    pub(super) async fn cached(&self, wish: &Wish) -> Result<Option<Kept>> {
        let Some(digest) = wish.sha256.or_else(|| self.known(&wish.urls)) else { return Ok(None) };
        let damaged = |place: &Path| {
            let name = &wish.name;
            self.progress.warn(format!("{name} in the cache was damaged and is now {}", place.display()));
        };
        self.cache.find(&wish.name, digest, damaged).await
    }

    async fn download(&self, wish: &Wish, dir: &Path) -> Result<Fetched> {
        let mut places = Vec::new();
        crate::run::dirs::create_private(dir)?;
        let mut sink = open(wish, dir).await?;
        for url in &wish.urls {
            match self.from(wish, url, dir, sink).await? {
                (whole, None) => {
                    let kept = self.keep(wish, whole, dir).await?;
                    self.cache.remember(url, kept.file.sha256, None)?;
                    return Ok(Fetched { kept, url: Some(url.clone()) });
                }
                (part, Some(why)) => {
                    if wish.urls.len() > places.len() + 1 {
                        self.progress.step(STAGE, format!("{url}: {why}; trying the next place"));
                    }
                    places.push((url.clone(), why));
                    sink = part;
                }
            }
        }
        if sink.have() == 0 {
            // Nothing that could be continued.
            drop(sink);
            std::fs::remove_dir_all(dir).with_context(|| format!("removing {}", dir.display()))?;
        }
        Err(NotFetched { name: wish.name.clone(), places, advice: wish.advice.clone() }.into())
    }

    /// Everything one place has to give: the whole file, or why not.
    async fn from(&self, wish: &Wish, url: &Url, dir: &Path, mut sink: Sink) -> Result<(Sink, Option<Why>)> {
        let policy = &self.network.policy;
        let (mut failures, mut anew) = (Failures::default(), false);
        let tell = |done, total, rate| {
            let name = wish.name.clone();
            self.progress.tell(&Event::Download { stage: STAGE, name, done, total, rate });
        };
        let mut size = None;
        loop {
            let state = State::read(dir);
            let validator =
                state.as_ref().filter(|state| state.url == url.as_str()).and_then(|s| s.validator.clone());
            let resumed = sink.have() > 0;
            let client = self.client().await?;
            let pinned = wish.sha256.is_some();
            let request = Request { client, url, validator, pinned, stall: policy.stall };
            let mut begin = |validator: Option<&Validator>, total: Option<u64>, have: u64| {
                size = total;
                self.begin(wish, url, dir, validator, total.map(|total| total.saturating_sub(have)))
            };
            let (part, why, after) = match attempt::run(&request, sink, &mut begin, &tell).await {
                Err(error) => return Err(of_disk(wish, dir, size, error)),
                Ok(End::Whole(whole)) => match wish.sha256.filter(|wanted| *wanted != whole.digest()) {
                    None => return Ok((whole, None)),
                    Some(wanted) => {
                        let why = Why::Other { wanted, found: whole.digest() };
                        // Two contents may have been put together: once more, in one piece.
                        if anew || !resumed {
                            return Ok((self.set_aside(wish, whole, dir).await?, Some(why)));
                        }
                        anew = true;
                        let mut part = whole;
                        part.restart()?;
                        (part, why, None)
                    }
                },
                Ok(End::Failed(part, why, after)) => {
                    if !why.may_pass() {
                        return Ok((part, Some(why)));
                    }
                    (part, why, after)
                }
            };
            sink = part;
            let count = failures.count(sink.have());
            if count >= policy.tries {
                return Ok((sink, Some(why)));
            }
            let pause = policy.pause(count, jitter(), after);
            let again = format!("{}: {why}; again in {:.1} s", wish.name, pause.as_secs_f64());
            self.progress.step(STAGE, again);
            tokio::time::sleep(pause).await;
        }
    }

    /// Writes down what begins, if there is room for it.
    fn begin(
        &self,
        wish: &Wish,
        url: &Url,
        dir: &Path,
        validator: Option<&Validator>,
        rest: Option<u64>,
    ) -> Result<()> {
        if let (Some(need), Some(free)) = (rest, free(dir))
            && need > free
        {
            return Err(no_room(wish, dir, Some(need)).into());
        }
        let (run, began) = (self.run.clone(), Timestamp::now());
        State { url: url.to_string(), validator: validator.cloned(), run, began, boot: partial::boot() }
            .write(dir)
    }

    /// Puts a whole file where it belongs.
    async fn keep(&self, wish: &Wish, whole: Sink, dir: &Path) -> Result<Kept> {
        let (digest, path) = (whole.digest(), whole.path().to_owned());
        whole.sync().await.map_err(|error| of_disk(wish, dir, None, error.into()))?;
        let kept = self.cache.store(&path, &wish.name, digest).await?;
        std::fs::remove_dir_all(dir).with_context(|| format!("removing {}", dir.display()))?;
        Ok(kept)
    }

    /// A whole file that is not the one that was wanted. The digest that was
    /// asked for may be the one that is mistyped, so it is kept under its own.
    async fn set_aside(&self, wish: &Wish, whole: Sink, dir: &Path) -> Result<Sink> {
        let (digest, path) = (whole.digest(), whole.path().to_owned());
        whole.sync().await.map_err(|error| of_disk(wish, dir, None, error.into()))?;
        self.cache.store(&path, &wish.name, digest).await?;
        Ok(Sink::open(&path, 0).await?)
    }
}

/// What an error of writing a download means; of one that has `size` bytes, if
/// that is known.
fn of_disk(wish: &Wish, dir: &Path, size: Option<u64>, error: anyhow::Error) -> anyhow::Error {
    if error.is::<NoRoom>() {
        return error;
    }
    if is_full(&error) {
        let have = std::fs::metadata(partial::data(dir)).map_or(0, |data| data.len());
        return no_room(wish, dir, size.map(|size| size.saturating_sub(have))).into();
    }
    error.context(format!("writing {} to {}", wish.name, dir.display()))
}

/// Whether there was no room on a disk.
fn is_full(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>()).any(|error| {
        matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
    })
}

/// Continues what is there, if it can be told that it is worth it.
async fn open(wish: &Wish, dir: &Path) -> Result<Sink> {
    let state = State::read(dir);
    // Only a digest tells whether a power cut left holes in the data.
    let same_boot = state.as_ref().is_some_and(|state| state.boot == partial::boot());
    let most = if wish.sha256.is_some() || same_boot { u64::MAX } else { 0 };
    let path = partial::data(dir);
    Sink::open(&path, most).await.with_context(|| format!("opening {}", path.display()))
}

fn free(dir: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(dir).ok()?;
    Some(stat.blocks_available() * stat.fragment_size())
}

fn no_room(wish: &Wish, dir: &Path, need: Option<u64>) -> NoRoom {
    let (need, free) = (need.map(Size::bytes), Size::bytes(free(dir).unwrap_or_default()));
    NoRoom { name: wish.name.clone(), need, free, place: dir.display().to_string() }
}

/// The HTTP client: the host's certificates and its proxy, from
/// `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`.
pub(super) fn client() -> Result<Client> {
    // reqwest takes the provider that is installed, and panics without one.
    let _ = (*kiln_protocol::tls::provider()).clone().install_default();
    let redirects = reqwest::redirect::Policy::custom(|attempt| {
        let from_https = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
        if attempt.previous().len() > REDIRECTS {
            attempt.error("too many redirects")
        } else if from_https && attempt.url().scheme() != "https" {
            attempt.error(attempt::DOWNGRADE)
        } else {
            attempt.follow()
        }
    });
    Client::builder()
        .user_agent(concat!("kiln-builder/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .redirect(redirects)
        .build()
        .context("setting up downloads (are the host's CA certificates installed?)")
}

#[cfg(test)]
mod tests;

//! What a bake is made from, checked before anything is touched.
//!
//! | module | what it does |
//! |---|---|
//! | [`almalinux`] | where install media are, and which one is meant |
//! | [`cache`] | what was downloaded, by digest |
//! | [`checksums`] | lists of checksums |
//! | [`digest`] | digests of files, remembered |
//! | [`elf`] | whether a file is a program for the architecture |
//! | [`fetch`] | downloads |
//! | [`iso9660`] | whether a file is an ISO, and its name |
//! | [`lockfile`] | `kiln.lock`: what images were made from |
//! | [`media`] | the install medium |
//! | [`network`] | what downloads may use |
//! | [`outlook`] | what is known of inputs that need not be here |
//! | [`programs`] | k3s, its images, and the agent |
//! | [`reach`] | whether the places of downloads answer |
//! | [`resolve`] | from what was asked for to files |
//! | [`selinux`] | k3s's SELinux policy |
//! | [`signature`] | who vouches for a list of checksums or a package |
//! | [`source`] | a path or a URL |
//! | [`treeinfo`] | what a medium says it is |
//! | [`xorriso`] | reading and writing ISOs |
//!
//! What is given by path is looked at before anything is downloaded, and what
//! is small is downloaded before what is large.

pub mod almalinux;
pub mod cache;
pub mod checksums;
pub mod digest;
pub mod elf;
pub mod fetch;
pub mod iso9660;
pub mod lockfile;
pub mod media;
pub mod network;
pub mod outlook;
pub mod programs;
pub mod reach;
mod resolve;
pub mod selinux;
pub mod signature;
pub mod source;
pub mod treeinfo;
pub mod xorriso;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use kiln_protocol::names::K3sVersion;

use crate::failure::BadInput;
use crate::image::VersionName;
use crate::image::manifest::FileRecord;
use crate::progress::Progress;
use crate::run::RunId;
use crate::run::lock::Lock;
use cache::InputCache;
use digest::{HashedFile, Hasher};
use fetch::Fetcher;
use lockfile::{Image, LockFile, LockOptions, Pin};
use media::Media;
use network::Network;
use programs::K3sFacts;
use resolve::{Found, Resolver};
use selinux::Policy;
use signature::Key;
use source::Source;

/// What a bake is to be made from, as the user says it.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The image's name.
    pub version: VersionName,
    /// The k3s build, where it is not the release's first.
    pub k3s_version: Option<K3sVersion>,
    /// The install medium, where it is not AlmaLinux's newest.
    pub iso: Option<Source>,
    /// Whose signature counts for install media, where it is not AlmaLinux's.
    pub iso_key: Option<PathBuf>,
    /// The k3s binary, where it is not the release's.
    pub k3s: Option<Source>,
    /// Container images for a node without a network.
    pub k3s_images: Vec<Source>,
    /// Whether the release's own images are among them.
    pub airgap: bool,
    /// k3s's SELinux policy.
    pub k3s_selinux: Policy,
    /// Whose signature counts for it, where it is not Rancher's.
    pub k3s_selinux_key: Option<PathBuf>,
    /// The agent, where it is not beside the builder.
    pub agent: Option<PathBuf>,
    /// What downloads may use.
    pub network: Network,
    /// The lock file.
    pub lock: LockOptions,
}

impl Wanted {
    /// The install medium, if it was given by path.
    pub fn iso_file(&self) -> Option<&Path> {
        match &self.iso {
            Some(Source::File(path)) => Some(path),
            _ => None,
        }
    }
}

/// What a bake is made from: all of it is there and is what it should be.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The image's name.
    pub version: VersionName,
    /// The k3s build inside.
    pub k3s_version: K3sVersion,
    /// The install medium.
    pub media: Media,
    /// The k3s binary.
    pub k3s: HashedFile,
    /// Container images for a node without a network.
    pub k3s_images: Vec<HashedFile>,
    /// k3s's SELinux policy.
    pub k3s_selinux: Option<HashedFile>,
    /// The agent.
    pub agent: HashedFile,
    /// The same, as the lock file has it.
    pins: Image,
    lock_path: PathBuf,
    /// What is in the cache stays there as long as this value lives.
    _locks: Arc<Vec<Lock>>,
}

/// Where a check keeps its own things.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Where downloads and what was learned are kept.
    pub cache: &'a Path,
    /// A directory for the check's own files.
    pub work: &'a Path,
    /// The run that checks.
    pub run: &'a RunId,
}

/// The files, before they were read through.
struct Files {
    iso: Found,
    k3s: Found,
    images: Vec<Found>,
    selinux: Option<Found>,
}

impl Inputs {
    /// Checks everything, and downloads what is not given by path. Of what was
    /// learned nothing is written to the cache before all of it is right.
    pub async fn check(
        wanted: Wanted,
        hasher: &Hasher,
        place: Place<'_>,
        progress: &Progress,
    ) -> Result<Self> {
        let parts = Parts::of(&wanted)?;
        let fetcher = fetcher(&wanted, hasher, place, progress);
        let resolver = parts.resolver(&wanted, &fetcher);
        let (files, volume_id) = files(&resolver, &wanted, &parts).await?;
        let Parts { version, k3s_version, lock_file, agent, .. } = &parts;
        let (version, k3s_version) = (version.clone(), k3s_version.clone());

        let k3s = hasher.hash(&files.k3s.path).await?;
        let facts = check_k3s(&k3s, &version, &k3s_version, place, progress).await?;
        let agent = hasher.hash(agent).await?;
        let mut k3s_images = Vec::new();
        for image in &files.images {
            k3s_images.push(hasher.hash(&image.path).await?);
        }
        programs::check_distinct(&k3s_images)?;
        let k3s_selinux = match &files.selinux {
            Some(rpm) => Some(hasher.hash(&rpm.path).await?),
            None => None,
        };
        let iso = &files.iso.path;
        let media = Media::open(iso, volume_id, &version, hasher, place.cache, place.work).await?;

        let mut input = BTreeMap::from([
            ("iso".to_owned(), pin(&media.iso, &files.iso)),
            ("k3s".to_owned(), pin(&k3s, &files.k3s)),
            ("agent".to_owned(), pin(&agent, &Found::file(agent.path.clone()))),
        ]);
        for (image, found) in k3s_images.iter().zip(&files.images) {
            input.insert(format!("k3s-images/{}", image.name()), pin(image, found));
        }
        if let (Some(rpm), Some(found)) = (&k3s_selinux, &files.selinux) {
            input.insert("k3s-selinux".to_owned(), pin(rpm, found));
        }
        let pins = Image { k3s: k3s_version.clone(), input };
        lockfile::check(&wanted.lock, lock_file, &version, &pins)?;

        if let Some(facts) = facts {
            facts.remember(&k3s, place.cache)?;
        }
        hasher.remember()?;
        let found = [files.iso, files.k3s].into_iter().chain(files.images).chain(files.selinux);
        let locks = Arc::new(found.filter_map(|found| found.lock).collect());
        let lock_path = wanted.lock.path;
        Ok(Self {
            version,
            k3s_version,
            media,
            k3s,
            k3s_images,
            k3s_selinux,
            agent,
            pins,
            lock_path,
            _locks: locks,
        })
    }

    /// Writes down what the image is made from, for the next time.
    pub async fn record(&self, cache: &Path, progress: &Progress) -> Result<()> {
        let changes = lockfile::record(&self.lock_path, cache, &self.version, self.pins.clone()).await?;
        let path = self.lock_path.display();
        for change in changes {
            progress.warn(format!("{path} is brought up to date: {change}"));
        }
        Ok(())
    }

    /// What went in, for the manifest.
    pub fn records(&self) -> BTreeMap<String, FileRecord> {
        let record =
            |file: &HashedFile| FileRecord { name: file.name(), size: file.size, sha256: file.sha256 };
        let mut records = BTreeMap::from([
            ("iso".to_owned(), record(&self.media.iso)),
            ("k3s".to_owned(), record(&self.k3s)),
            ("agent".to_owned(), record(&self.agent)),
        ]);
        for file in &self.k3s_images {
            records.insert(format!("k3s-images/{}", file.name()), record(file));
        }
        if let Some(rpm) = &self.k3s_selinux {
            records.insert("k3s-selinux".to_owned(), record(rpm));
        }
        records
    }
}

/// What can be told of the inputs before any of them is looked for.
struct Parts {
    version: VersionName,
    k3s_version: K3sVersion,
    lock_file: LockFile,
    agent: PathBuf,
    media_key: Key,
    selinux_key: Key,
}

impl Parts {
    /// Checks what is given by path, at a glance.
    fn of(wanted: &Wanted) -> Result<Self> {
        let version = wanted.version.clone();
        supported(&version)?;
        let k3s_version = wanted.k3s_version.clone().unwrap_or_else(|| version.k3s.first_build());
        if !version.k3s.has_build(&k3s_version) {
            let release = version.k3s;
            return Err(BadInput(format!(
                "--k3s-version {k3s_version} is not a build of {release}, which {version} names"
            ))
            .into());
        }
        let lock_file = LockFile::read(&wanted.lock.path)?;
        lockfile::known(&wanted.lock, &lock_file, &version)?;
        let agent = programs::find_agent(wanted.agent.clone())?;
        let selinux_key = selinux::key(wanted.k3s_selinux_key.as_deref())?;
        glance(wanted, &k3s_version, &selinux_key)?;
        programs::check_program("--agent", &agent, version.arch)?;
        let media_key = resolve::key(&version, wanted.iso_key.as_deref())?;
        Ok(Self { version, k3s_version, lock_file, agent, media_key, selinux_key })
    }

    fn resolver<'a>(&'a self, wanted: &'a Wanted, fetcher: &'a Fetcher<'a>) -> Resolver<'a> {
        Resolver {
            version: &self.version,
            k3s_version: &self.k3s_version,
            network: &wanted.network,
            fetcher,
            key: &self.media_key,
            pins: self.lock_file.image(&self.version),
        }
    }
}

/// What fetches what is wanted.
fn fetcher<'a>(
    wanted: &'a Wanted,
    hasher: &'a Hasher,
    place: Place<'a>,
    progress: &'a Progress,
) -> Fetcher<'a> {
    Fetcher::new(&wanted.network, InputCache::new(place.cache, hasher), progress, place.run.clone())
}

/// Whether the k3s binary is the one the image's name means; what it says of
/// itself, if it can be asked.
async fn check_k3s(
    k3s: &HashedFile,
    version: &VersionName,
    wanted: &K3sVersion,
    place: Place<'_>,
    progress: &Progress,
) -> Result<Option<K3sFacts>> {
    let facts = programs::k3s_facts(k3s, version.arch, place.cache, place.work).await?;
    match &facts {
        Some(K3sFacts { version: found }) if found != wanted => {
            return Err(programs::wrong_k3s(k3s, found, wanted, version).into());
        }
        Some(_) => {}
        None => {
            let path = k3s.path.display();
            progress.warn(format!("{path} cannot be run here, so its version is taken on trust"));
        }
    }
    Ok(facts)
}

fn supported(version: &VersionName) -> Result<(), BadInput> {
    if version.major != 9 {
        return Err(BadInput(format!(
            "{version}: Kiln has a kickstart for AlmaLinux 9 only, not for {}",
            version.major
        )));
    }
    if version.arch != crate::image::version::Arch::Amd64 {
        return Err(BadInput(format!("{version}: Kiln bakes amd64 images only")));
    }
    Ok(())
}

/// What can be told at a glance comes before anything is downloaded or read
/// through.
fn glance(wanted: &Wanted, k3s_version: &K3sVersion, selinux_key: &Key) -> Result<()> {
    let version = &wanted.version;
    let file = |source: &Option<Source>| match source {
        Some(Source::File(path)) => Some(path.clone()),
        _ => None,
    };
    if let Some(iso) = file(&wanted.iso) {
        exists(&iso, "--iso", &media::how_to_get(version))?;
        media::volume_id(&iso)?;
    }
    if let Some(k3s) = file(&wanted.k3s) {
        exists(&k3s, "--k3s", &programs::how_to_get_k3s(k3s_version, version.arch))?;
        programs::check_program("--k3s", &k3s, version.arch)?;
    }
    for source in &wanted.k3s_images {
        if let Source::File(image) = source {
            programs::check_images(image)?;
        }
    }
    if let Some(rpm) = wanted.k3s_selinux.file() {
        selinux::check(rpm, version, selinux_key)?;
    }
    Ok(())
}

/// Finds the files, the large ones last, and looks at what came; with the
/// medium's volume identifier.
async fn files(resolver: &Resolver<'_>, wanted: &Wanted, parts: &Parts) -> Result<(Files, String)> {
    let version = &parts.version;
    let selinux = match resolver.selinux(&wanted.k3s_selinux)? {
        Some(asked) => Some(resolver.get(asked).await?),
        None => None,
    };
    if let Some(found) = &selinux {
        selinux::check(&found.path, version, &parts.selinux_key)?;
    }
    let k3s = resolver.get(resolver.k3s(wanted.k3s.clone()).await?).await?;
    programs::check_program("--k3s", &k3s.path, version.arch)?;
    let mut images = Vec::new();
    for source in wanted.k3s_images.clone() {
        images.push(resolver.get(resolver.images(source).await?).await?);
    }
    if wanted.airgap {
        images.push(resolver.get(resolver.airgap().await?).await?);
    }
    for image in &images {
        programs::check_images(&image.path)?;
    }
    let iso = resolver.get(resolver.iso(wanted.iso.clone()).await?).await?;
    let volume_id = media::volume_id(&iso.path)?;
    Ok((Files { iso, k3s, images, selinux }, volume_id))
}

fn pin(file: &HashedFile, found: &Found) -> Pin {
    let HashedFile { size, sha256, .. } = *file;
    Pin { name: file.name(), sha256, size, from: found.from, url: found.url.clone() }
}

fn exists(path: &Path, option: &str, how: &str) -> Result<(), BadInput> {
    match std::fs::metadata(path) {
        Ok(_) => Ok(()),
        Err(error) => Err(BadInput(format!("{option} {}: {error}; {how}", path.display()))),
    }
}

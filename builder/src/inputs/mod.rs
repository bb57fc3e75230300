//! What a bake is made from, checked before anything is touched.
//!
//! | module | what it does |
//! |---|---|
//! | [`digest`] | digests of files, remembered |
//! | [`elf`] | whether a file is a program for the architecture |
//! | [`iso9660`] | whether a file is an ISO, and its name |
//! | [`media`] | the install medium |
//! | [`programs`] | k3s, its images and policy, and the agent |
//! | [`treeinfo`] | what a medium says it is |
//! | [`xorriso`] | reading and writing ISOs |
//!
//! Everything is given by path. Downloading, with AlmaLinux's signed list of
//! checksums, will stand in front of it: a module that turns a URL, or the
//! default for a version, into a path in the cache.

pub mod digest;
pub mod elf;
pub mod iso9660;
pub mod media;
pub mod programs;
pub mod treeinfo;
pub mod xorriso;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use kiln_protocol::names::K3sVersion;

use crate::failure::BadInput;
use crate::image::VersionName;
use crate::image::manifest::FileRecord;
use digest::{HashedFile, Hasher};
use media::Media;
use programs::K3sFacts;

/// What a bake is to be made from, as the user says it.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The image's name.
    pub version: VersionName,
    /// The k3s build, where it is not the release's first.
    pub k3s_version: Option<K3sVersion>,
    /// The install medium.
    pub iso: Option<PathBuf>,
    /// The k3s binary.
    pub k3s: Option<PathBuf>,
    /// Container images for a node without a network.
    pub k3s_images: Vec<PathBuf>,
    /// k3s's SELinux policy.
    pub k3s_selinux: Option<PathBuf>,
    /// The agent, where it is not beside the builder.
    pub agent: Option<PathBuf>,
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
}

impl Inputs {
    /// Checks everything. `cache` keeps what was learned; `work` is a
    /// directory for the check's own files. Nothing is written to `cache`
    /// before all of it is right.
    pub async fn check(
        wanted: Wanted,
        hasher: &Hasher,
        cache: &Path,
        work: &Path,
        note: &mut (dyn FnMut(String) + Send),
    ) -> Result<Self> {
        let version = wanted.version;
        supported(&version)?;
        let k3s_version = wanted.k3s_version.unwrap_or_else(|| version.k3s.first_build());
        if !version.k3s.has_build(&k3s_version) {
            let release = version.k3s;
            return Err(BadInput(format!(
                "--k3s-version {k3s_version} is not a build of {release}, which {version} names"
            ))
            .into());
        }
        let iso = required(wanted.iso, "--iso", &media::how_to_get(&version))?;
        let k3s = required(wanted.k3s, "--k3s", &programs::how_to_get_k3s(&k3s_version, version.arch))?;
        let agent = programs::find_agent(wanted.agent)?;

        // What can be told at a glance comes before gigabytes are read.
        let volume_id = media::volume_id(&iso)?;
        programs::check_program("--k3s", &k3s, version.arch)?;
        programs::check_program("--agent", &agent, version.arch)?;
        for image in &wanted.k3s_images {
            programs::check_images(image)?;
        }
        if let Some(rpm) = &wanted.k3s_selinux {
            programs::check_selinux(rpm, &version)?;
        }

        let k3s = hasher.hash(&k3s).await?;
        let facts = programs::k3s_facts(&k3s, version.arch, cache, work).await?;
        match &facts {
            Some(K3sFacts { version: found }) if *found != k3s_version => {
                return Err(programs::wrong_k3s(&k3s, found, &k3s_version, &version).into());
            }
            Some(_) => {}
            None => {
                note(format!("{} cannot be run here, so its version is taken on trust", k3s.path.display()));
            }
        }
        let agent = hasher.hash(&agent).await?;
        let mut k3s_images = Vec::new();
        for image in &wanted.k3s_images {
            k3s_images.push(hasher.hash(image).await?);
        }
        programs::check_distinct(&k3s_images)?;
        let k3s_selinux = match &wanted.k3s_selinux {
            Some(rpm) => Some(hasher.hash(rpm).await?),
            None => None,
        };
        let media = Media::open(&iso, volume_id, &version, hasher, cache, work).await?;
        if let Some(facts) = facts {
            facts.remember(&k3s, cache)?;
        }
        hasher.remember()?;
        Ok(Self { version, k3s_version, media, k3s, k3s_images, k3s_selinux, agent })
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

fn required(path: Option<PathBuf>, option: &str, how: &str) -> Result<PathBuf, BadInput> {
    let path = path.ok_or_else(|| BadInput(format!("{option} is missing: {how}")))?;
    match std::fs::metadata(&path) {
        Ok(_) => Ok(path),
        Err(error) => Err(BadInput(format!("{option} {}: {error}; {how}", path.display()))),
    }
}

//! The pack stage: one self-contained compressed disk, and the same disk in
//! the other forms that were asked for. `publish` puts what describes it
//! beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::store::{Stored, sync};
use super::{Bake, Compression};
use crate::failure::BadInput;
use crate::image::key::{Digest, KeyBuilder};
use crate::image::manifest::{DISK, FileRecord, MANIFEST};
use crate::image::{Manifest, VersionName};
use crate::inputs::digest::Hasher;
use crate::machine::qemu::img;
use crate::run::dirs::create_private;

/// Changes whenever this stage makes something else of the same inputs.
const VERSION: u32 = 2;
/// The stage's name.
pub(super) const STAGE: &str = "pack";

/// What the image depends on: equal keys, equal images.
pub(super) fn key(node: Digest, compression: Compression, also: &BTreeSet<Form>) -> Digest {
    let forms: Vec<_> = also.iter().map(|form| form.name()).collect();
    KeyBuilder::new(STAGE, VERSION)
        .with_digest("node", node)
        .with("compression", compression.as_str())
        .with("also", forms.join(","))
        .finish()
}

/// A form of the disk beside the qcow2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Form {
    /// The plain disk, with holes where it is empty.
    Raw,
    /// The plain disk, compressed by zstd: what `zstd -d | dd` puts on a disk.
    #[value(name = "raw.zst")]
    RawZst,
}

impl Form {
    /// Its name on the command line and in the manifest.
    fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::RawZst => "raw.zst",
        }
    }

    fn file(self) -> &'static str {
        match self {
            Self::Raw => "disk.raw",
            Self::RawZst => "disk.raw.zst",
        }
    }
}

/// What stands where the result is to go.
#[derive(Debug)]
pub(super) enum Existing {
    /// Nothing.
    None,
    /// This very image.
    Same(Box<Manifest>),
}

/// Looks at `<out>/<version>`. Two different images never share a name: one
/// that is another, or not whole, is an error.
pub(super) async fn existing(
    out: &Path,
    version: &VersionName,
    key: Digest,
    hasher: &Hasher,
) -> Result<Existing> {
    let dir = out.join(version.to_string());
    if !dir.exists() {
        return Ok(Existing::None);
    }
    let next = VersionName { release: version.release + 1, ..version.clone() };
    let taken = |why: &str| {
        BadInput(format!(
            "{} exists and {why}; two different images never share a name: bake this one as {next}, or remove \
             that directory",
            dir.display()
        ))
    };
    let manifest = std::fs::read(dir.join(MANIFEST)).ok();
    let manifest = manifest.and_then(|json| serde_json::from_slice::<Manifest>(&json).ok());
    let Some(manifest) = manifest.filter(|manifest| manifest.version == *version) else {
        return Err(taken(&format!("is no image of that name (its {MANIFEST} says otherwise)")).into());
    };
    if manifest.content_key != key {
        return Err(taken("was made from something else").into());
    }
    let disk = hasher.hash(&dir.join(DISK)).await.ok();
    let recorded = manifest.outputs.get("disk").map(|disk| disk.sha256);
    if disk.map(|disk| disk.sha256) != recorded {
        return Err(taken(&format!("is not what it was: its {DISK} has changed")).into());
    }
    Ok(Existing::Same(Box::new(manifest)))
}

/// A packed image that is not yet where it is to be.
#[derive(Debug)]
pub(super) struct Packed {
    /// The directory that holds it.
    pub dir: PathBuf,
    /// Its disk.
    pub disk: PathBuf,
    /// All that is in the directory, by what it is.
    pub outputs: BTreeMap<String, FileRecord>,
    /// The disk's size as a guest sees it, in bytes.
    pub virtual_size: u64,
}

impl Bake<'_> {
    /// Packs `node` into `dir`, which is made: the disk, and nothing else yet.
    pub(super) async fn pack(&self, node: &Stored, dir: &Path) -> Result<Packed> {
        let begin = self.stage_begins(STAGE);
        create_private(dir)?;
        let disk = dir.join(DISK);
        self.progress.step(STAGE, "compressing the disk");
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let compression = match self.options.compression {
            Compression::Zstd => img::Compression::Zstd,
            Compression::Zlib => img::Compression::Zlib,
        };
        img::convert(&node.disk, &disk, compression, threads).await.context("packing the node's disk")?;
        let info = img::info(&disk).await?;
        let mut made = vec![("disk", DISK)];
        if !self.options.also.is_empty() {
            self.other_forms(&disk, dir).await?;
            made.extend(self.options.also.iter().map(|form| (form.name(), form.file())));
        }
        self.progress.step(STAGE, "reading it back");
        let mut outputs = BTreeMap::new();
        for (what, name) in made {
            let path = dir.join(name);
            sync(&path)?;
            let hashed = self.hasher.hash(&path).await?;
            let record = FileRecord { name: name.to_owned(), size: hashed.size, sha256: hashed.sha256 };
            outputs.insert(what.to_owned(), record);
        }
        self.stage_ends(STAGE, begin);
        Ok(Packed { dir: dir.to_owned(), disk, outputs, virtual_size: info.virtual_size })
    }

    async fn other_forms(&self, disk: &Path, dir: &Path) -> Result<()> {
        let also = &self.options.also;
        let raw = dir.join(Form::Raw.file());
        self.progress.step(STAGE, "writing the plain disk");
        img::to_raw(disk, &raw).await.context("writing the plain disk")?;
        if also.contains(&Form::RawZst) {
            self.progress.step(STAGE, "compressing the plain disk");
            let (from, to) = (raw.clone(), dir.join(Form::RawZst.file()));
            tokio::task::spawn_blocking(move || compress(&from, &to))
                .await
                .context("compressing the plain disk")??;
        }
        if !also.contains(&Form::Raw) {
            std::fs::remove_file(&raw).with_context(|| format!("removing {}", raw.display()))?;
        }
        Ok(())
    }
}

/// Compresses a file, at zstd's usual level, on all processors.
fn compress(from: &Path, to: &Path) -> Result<()> {
    let compressing = || format!("compressing {} to {}", from.display(), to.display());
    let mut source = std::fs::File::open(from).with_context(compressing)?;
    let target = std::fs::File::create(to).with_context(compressing)?;
    let mut encoder =
        zstd::Encoder::new(target, zstd::DEFAULT_COMPRESSION_LEVEL).with_context(compressing)?;
    let threads = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
    encoder.multithread(threads.min(16)).with_context(compressing)?;
    encoder.include_checksum(true).with_context(compressing)?;
    std::io::copy(&mut source, &mut encoder)
        .and_then(|_| encoder.finish())
        .map(drop)
        .with_context(compressing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::manifest::test_manifest;

    #[test]
    fn a_compressed_disk_is_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let (raw, packed) = (dir.path().join("raw"), dir.path().join("raw.zst"));
        let bytes: Vec<u8> = (0..200_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        std::fs::write(&raw, &bytes).unwrap();
        compress(&raw, &packed).unwrap();
        assert!(std::fs::metadata(&packed).unwrap().len() < bytes.len() as u64 / 2);
        assert_eq!(zstd::decode_all(std::fs::File::open(&packed).unwrap()).unwrap(), bytes);
    }

    #[test]
    fn another_form_is_another_image() {
        let key =
            |also: &[Form]| key(Digest::of(b"node"), Compression::Zstd, &also.iter().copied().collect());
        assert_eq!(key(&[Form::RawZst, Form::Raw]), key(&[Form::Raw, Form::RawZst]));
        assert_ne!(key(&[]), key(&[Form::Raw]));
    }

    #[tokio::test]
    async fn a_name_belongs_to_one_image() {
        let out = tempfile::tempdir().unwrap();
        let hasher = Hasher::new(out.path());
        let version: VersionName = "alma9-k3-node-amd64-v1.28.5-v1".parse().unwrap();
        let key = Digest::of(b"key");
        let look = |key| existing(out.path(), &version, key, &hasher);
        assert!(matches!(look(key).await.unwrap(), Existing::None));

        let dir = out.path().join(version.to_string());
        std::fs::create_dir(&dir).unwrap();
        let error = look(key).await.unwrap_err().to_string();
        assert!(error.contains("no image of that name") && error.contains("-v2"), "{error}");

        std::fs::write(dir.join(DISK), b"disk").unwrap();
        let manifest = serde_json::to_vec(&Manifest { content_key: key, ..test_manifest(b"disk") }).unwrap();
        std::fs::write(dir.join(MANIFEST), manifest).unwrap();
        assert!(matches!(look(key).await.unwrap(), Existing::Same(_)));

        let error = look(Digest::of(b"other")).await.unwrap_err();
        assert!(error.is::<BadInput>() && error.to_string().contains("made from something else"), "{error}");

        std::fs::write(dir.join(DISK), b"disc").unwrap();
        let error = look(key).await.unwrap_err().to_string();
        assert!(error.contains("disk.qcow2 has changed"), "{error}");
    }
}

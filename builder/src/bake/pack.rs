//! The pack stage: one self-contained compressed disk, its manifest and its
//! digests, in a directory that appears as a whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use jiff::Timestamp;

use super::inspect;
use super::os::since;
use super::store::{Stored, sync};
use super::{Bake, Compression};
use crate::failure::BadInput;
use crate::image::key::{Digest, KeyBuilder};
use crate::image::manifest::{DISK, FileRecord, MANIFEST, SUMS, StageRecord, gigabytes, sums};
use crate::image::{Manifest, VersionName};
use crate::inputs::digest::Hasher;
use crate::machine::qemu::img;
use crate::run::dirs::create_private;

/// Changes whenever this stage makes something else of the same inputs.
const VERSION: u32 = 1;
/// The stage's name.
pub(super) const STAGE: &str = "pack";

/// What the image depends on: equal keys, equal images.
pub(super) fn key(node: Digest, compression: Compression) -> Digest {
    KeyBuilder::new(STAGE, VERSION)
        .with_digest("node", node)
        .with("compression", compression.as_str())
        .finish()
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
    disk_record: FileRecord,
    virtual_size: u64,
    begin: Instant,
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
        self.progress.step(STAGE, "reading it back");
        sync(&disk)?;
        let hashed = self.hasher.hash(&disk).await?;
        let disk_record = FileRecord { name: DISK.to_owned(), size: hashed.size, sha256: hashed.sha256 };
        self.stage_ends(STAGE, begin);
        Ok(Packed { dir: dir.to_owned(), disk, disk_record, virtual_size: info.virtual_size, begin })
    }

    /// Writes manifest and digests and moves the whole to where it is to be.
    pub(super) async fn publish(
        &self,
        packed: Packed,
        node: &Stored,
        inspection: &[u8],
        key: Digest,
    ) -> Result<Manifest> {
        let version = self.inputs.version.clone();
        tracing::debug!("packed {:.1} s ago", since(packed.begin));
        let report = FileRecord {
            name: inspect::REPORT.to_owned(),
            size: inspection.len() as u64,
            sha256: Digest::of(inspection),
        };
        let manifest = Manifest {
            base_os: self.inputs.media.name.clone(),
            architecture: version.arch.as_str().to_owned(),
            k3s_version: self.inputs.k3s_version.clone(),
            distribution_release: version.release,
            build_date: Timestamp::now(),
            qcow2_path: DISK.to_owned(),
            qcow2_size_gb: gigabytes(packed.disk_record.size),
            template_id: None,
            content_key: key,
            virtual_size: packed.virtual_size,
            inputs: self.inputs.records(),
            outputs: BTreeMap::from([
                ("disk".to_owned(), packed.disk_record.clone()),
                ("inspection".to_owned(), report),
            ]),
            stages: self.stages(),
            tools: self.tools().await?.clone(),
            harden: self.options.order.harden.clone(),
            login: self.options.order.login.as_ref().map(kiln_protocol::install::Login::record),
            install_report: node.made.report.clone(),
            version,
        };
        let mut json = serde_json::to_vec_pretty(&manifest)?;
        json.push(b'\n');
        let sums = sums([
            (DISK, packed.disk_record.sha256),
            (inspect::REPORT, Digest::of(inspection)),
            (MANIFEST, Digest::of(&json)),
        ]);
        for (name, bytes) in
            [(inspect::REPORT, inspection), (MANIFEST, json.as_slice()), (SUMS, sums.as_bytes())]
        {
            let path = packed.dir.join(name);
            std::fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
            sync(&path)?;
        }
        open_to_all(&packed.dir)?;
        let out = &self.options.out;
        let target = out.join(manifest.version.to_string());
        if let Existing::Same(theirs) = existing(out, &manifest.version, key, self.hasher).await? {
            // Another builder was faster and made the same.
            return Ok(*theirs);
        }
        std::fs::rename(&packed.dir, &target)
            .with_context(|| format!("moving {} to {}", packed.dir.display(), target.display()))?;
        sync(out)?;
        // Known under its new name, so that the next run need not read it.
        self.hasher.hash(&target.join(DISK)).await?;
        self.hasher.remember()?;
        Ok(manifest)
    }

    fn stages(&self) -> Vec<StageRecord> {
        self.finished.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

/// The directory was private while it was made; the result is not: images hold
/// no secret.
fn open_to_all(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))
        .with_context(|| format!("setting the mode of {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(version: &VersionName, key: Digest, disk: &[u8]) -> Manifest {
        let record = FileRecord { name: DISK.into(), size: 4, sha256: Digest::of(disk) };
        Manifest {
            version: version.clone(),
            base_os: "AlmaLinux 9.5".into(),
            architecture: "amd64".into(),
            k3s_version: version.k3s.first_build(),
            distribution_release: version.release,
            build_date: Timestamp::UNIX_EPOCH,
            qcow2_path: DISK.into(),
            qcow2_size_gb: 0.0,
            template_id: None,
            content_key: key,
            virtual_size: 1,
            inputs: BTreeMap::new(),
            outputs: BTreeMap::from([("disk".into(), record)]),
            stages: Vec::new(),
            tools: BTreeMap::new(),
            harden: kiln_protocol::install::Hardening::None,
            login: None,
            install_report: serde_json::Value::Null,
        }
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
        let manifest = serde_json::to_vec(&manifest(&version, key, b"disk")).unwrap();
        std::fs::write(dir.join(MANIFEST), manifest).unwrap();
        assert!(matches!(look(key).await.unwrap(), Existing::Same(_)));

        let error = look(Digest::of(b"other")).await.unwrap_err();
        assert!(error.is::<BadInput>() && error.to_string().contains("made from something else"), "{error}");

        std::fs::write(dir.join(DISK), b"disc").unwrap();
        let error = look(key).await.unwrap_err().to_string();
        assert!(error.contains("disk.qcow2 has changed"), "{error}");
    }
}

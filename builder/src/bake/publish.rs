//! The end of a bake: what describes the packed disk is put beside it (the
//! inspection, package list, bill of materials, `OpenSCAP`'s report, manifest, digests, signature),
//! and the directory appears under its name as a whole.

use std::path::Path;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use kiln_protocol::install::Package;

use super::os::OSCAP_REPORT;
use super::pack::{Existing, Packed, existing};
use super::store::{Stored, sync};
use super::{Bake, inspect};
use crate::image::Manifest;
use crate::image::key::Digest;
use crate::image::manifest::{DISK, FileRecord, MANIFEST, PACKAGES, SUMS, StageRecord, gigabytes, sums};
use crate::image::sbom::{SBOM, sbom};
use crate::image::signature::SIGNATURE;

/// The packages in the report of `agent install`.
const IN_REPORT: &str = "packages";

impl Bake<'_> {
    /// Describes what was packed and moves the whole to where it is to be.
    pub(super) async fn publish(
        &self,
        packed: Packed,
        (os, node): (&Stored, &Stored),
        inspection: &[u8],
        key: Digest,
    ) -> Result<Manifest> {
        let mut report = node.made.report.clone();
        let packages = report.as_object_mut().and_then(|report| report.remove(IN_REPORT)).unwrap_or_default();
        let packages: Vec<Package> =
            serde_json::from_value(packages).context("reading the packages `agent install` reported")?;
        let version = self.inputs.version.clone();
        let size = packed.outputs.get("disk").map_or(0, |disk| disk.size);
        let mut manifest = Manifest {
            base_os: self.inputs.media.name.clone(),
            architecture: version.arch.as_str().to_owned(),
            k3s_version: self.inputs.k3s_version.clone(),
            distribution_release: version.release,
            build_date: Timestamp::now(),
            qcow2_path: DISK.to_owned(),
            qcow2_size_gb: gigabytes(size),
            template_id: None,
            content_key: key,
            virtual_size: packed.virtual_size,
            inputs: self.inputs.records(),
            outputs: packed.outputs.clone(),
            stages: self.stages(),
            tools: self.tools().await?.clone(),
            harden: self.options.order.harden.clone(),
            login: self.options.order.login.as_ref().map(kiln_protocol::install::Login::record),
            install_report: report,
            version,
        };
        let lines =
            packages.iter().fold(String::new(), |text, package| text + package.to_string().as_str() + "\n");
        let sbom = sbom(&manifest, &packages)?;
        for (what, name, bytes) in [
            ("inspection", inspect::REPORT, inspection),
            ("packages", PACKAGES, lines.as_bytes()),
            ("sbom", SBOM, sbom.as_slice()),
        ] {
            manifest.outputs.insert(what.to_owned(), write(&packed.dir, name, bytes)?);
        }
        if self.options.order.harden.profile().is_some() {
            let report = beside(&os.disk, OSCAP_REPORT)?;
            manifest.outputs.insert("oscap".to_owned(), write(&packed.dir, OSCAP_REPORT, &report)?);
        }
        let mut json = serde_json::to_vec_pretty(&manifest)?;
        json.push(b'\n');
        let json = write(&packed.dir, MANIFEST, &json)?;
        let sums =
            sums(manifest.outputs.values().chain([&json]).map(|file| (file.name.as_str(), file.sha256)));
        write(&packed.dir, SUMS, sums.as_bytes())?;
        if let Some(signer) = &self.options.signer {
            let signature = signer.sign(&manifest.version.to_string(), sums.as_bytes())?;
            write(&packed.dir, SIGNATURE, signature.as_bytes())?;
        }
        self.appear(packed, manifest, key).await
    }

    async fn appear(&self, packed: Packed, manifest: Manifest, key: Digest) -> Result<Manifest> {
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

/// A file that a stage made beside its disk.
fn beside(disk: &Path, name: &str) -> Result<Vec<u8>> {
    let path = disk.with_file_name(name);
    std::fs::read(&path).with_context(|| {
        let stage = disk.parent().unwrap_or(disk).display();
        format!(
            "reading {}, without which the result is not whole (remove {stage}, it is made again)",
            path.display()
        )
    })
}

/// Writes a file of the result, to the disk.
fn write(dir: &Path, name: &str, bytes: &[u8]) -> Result<FileRecord> {
    let path = dir.join(name);
    std::fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
    sync(&path)?;
    Ok(FileRecord { name: name.to_owned(), size: bytes.len() as u64, sha256: Digest::of(bytes) })
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

    #[test]
    fn what_a_stage_made_beside_its_disk_is_taken_or_missed_aloud() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join(DISK);
        std::fs::write(dir.path().join(OSCAP_REPORT), "<html>").unwrap();
        let bytes = beside(&disk, OSCAP_REPORT).unwrap();
        let out = tempfile::tempdir().unwrap();
        let record = write(out.path(), OSCAP_REPORT, &bytes).unwrap();
        assert_eq!((record.name.as_str(), record.sha256), ("oscap.html", Digest::of(b"<html>")));
        std::fs::remove_file(dir.path().join(OSCAP_REPORT)).unwrap();
        let error = format!("{:#}", beside(&disk, OSCAP_REPORT).unwrap_err());
        assert!(error.contains("oscap.html") && error.contains("made again"), "{error}");
    }
}

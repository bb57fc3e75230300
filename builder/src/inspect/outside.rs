//! What can be told of an image without a medium whose kernel reads it: that
//! it is the disk its manifest names, and how it is partitioned. It is never
//! "nothing found".

use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::disk::{self, DiskFacts};
use super::judge::{self, Expected};
use super::survey::Survey;
use crate::image::Manifest;
use crate::inputs::digest::Hasher;
use crate::run::dirs::create_private;

/// An image, seen from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Outside {
    /// Always false: most of it was not looked at.
    ok: bool,
    /// The image's name, as its manifest has it.
    version: String,
    /// The disk.
    disk: DiskFacts,
    /// Whether it has the digest that its manifest names.
    is_its_disk: bool,
    /// The rules that nothing was compared with.
    not_compared: Vec<String>,
    /// Why not.
    why: String,
}

/// Looks at `image`, whose manifest is `manifest`; `why` says why nothing can
/// read what is inside. `work` is a directory for what this needs, which is made.
pub(crate) async fn look(
    image: &Path,
    manifest: &Manifest,
    why: String,
    hasher: &Hasher,
    work: &Path,
) -> Result<Outside> {
    create_private(work)?;
    let disk = disk::read(image, work).await?;
    let found = hasher.hash(image).await.context("reading the disk through")?.sha256;
    // Every rule is gone through on an empty survey for its name.
    let (verdict, _) = judge::judge(&Survey::default(), &disk, &Expected::of(manifest));
    Ok(Outside {
        ok: false,
        version: manifest.version.to_string(),
        is_its_disk: manifest.outputs.get("disk").is_some_and(|disk| disk.sha256 == found),
        not_compared: verdict.checks.into_iter().map(|check| check.rule).collect(),
        disk,
        why,
    })
}

impl Outside {
    /// What was not done, and why, in one line.
    pub(crate) fn summary(&self) -> String {
        let changed = if self.is_its_disk { "" } else { "it is not the disk its manifest names, and " };
        format!("{changed}nothing in it was compared with {} rules: {}", self.not_compared.len(), self.why)
    }
}

impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "image        {}", self.version)?;
        writeln!(f, "disk         {} MiB", self.disk.virtual_size >> 20)?;
        for part in &self.disk.partitions {
            let (start, size) = (part.start >> 20, part.size >> 20);
            writeln!(f, "  {}  {:<22} {:<10} {size:>6} MiB from {start}", part.number, part.name, part.kind)?;
        }
        let same = if self.is_its_disk { "ok           is" } else { "FOUND        is not" };
        writeln!(f, "{same} the disk its manifest names")?;
        writeln!(f, "not compared {}", self.not_compared.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::manifest::test_manifest;

    #[tokio::test]
    async fn what_was_not_compared_is_named_and_a_changed_disk_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let image = disk::tests::partitioned(dir.path()).await;
        let hasher = Hasher::new(dir.path());
        let manifest = test_manifest(&std::fs::read(&image).unwrap());
        let why = "there is no medium";
        let seen =
            async |work: &str| look(&image, &manifest, why.to_owned(), &hasher, &dir.path().join(work)).await;
        let same = seen("first").await.unwrap();
        assert!(!same.ok && same.is_its_disk);
        assert_eq!(same.disk.partitions.len(), 2);
        for rule in ["labels", "passwords", "units"] {
            assert!(same.not_compared.iter().any(|name| name == rule), "{rule}: {:?}", same.not_compared);
        }
        let text = same.to_string();
        assert!(text.contains("ok           is the disk") && text.contains("not compared"), "{text}");
        assert!(same.summary().starts_with("nothing in it was compared") && same.summary().ends_with(why));

        let mut bytes = std::fs::read(&image).unwrap();
        bytes.push(0);
        std::fs::write(&image, bytes).unwrap();
        let changed = seen("second").await.unwrap();
        assert!(!changed.is_its_disk && changed.to_string().contains("FOUND        is not the disk"));
    }
}

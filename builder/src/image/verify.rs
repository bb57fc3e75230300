//! Whether an image's directory is what it was when it was packed: every file
//! against `SHA256SUMS`, that against its signature, the manifest against both.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::key::Digest;
use super::manifest::{MANIFEST, Manifest, SUMS};
use super::signature::{SIGNATURE, Verifier};
use crate::failure::BadInput;
use crate::machine::qemu::img;

/// What was found of an image's directory.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The image's name, as its manifest has it.
    pub version: Option<String>,
    /// The files that are as they were packed.
    pub files: Vec<String>,
    /// What the signature says of itself, if it was checked and holds.
    pub signed: Option<String>,
    /// What is wrong. Empty: it is the image that was packed.
    pub problems: Vec<String>,
    /// What was not checked, and what it would take.
    pub warnings: Vec<String>,
}

/// Looks at the image in `dir`. An error is a directory that is no image's, or
/// one that cannot be read; what is wrong with an image is in the verdict.
pub async fn verify(dir: &Path, key: Option<&Verifier>) -> Result<Verdict> {
    let sums = std::fs::read(dir.join(SUMS))
        .map_err(|error| BadInput(format!("{} is no image's directory: {SUMS}: {error}", dir.display())))?;
    let mut verdict = Verdict::default();
    verdict.signature(dir, &sums, key)?;
    match parse_sums(&sums) {
        Ok(listed) => {
            verdict.files(dir, &listed).await?;
            verdict.manifest(dir, &listed)?;
        }
        Err(why) => verdict.problems.push(why),
    }
    Ok(verdict)
}

/// The digests by name. Names are of files beside the list and of nothing else.
fn parse_sums(text: &[u8]) -> Result<BTreeMap<String, Digest>, String> {
    let text = std::str::from_utf8(text).map_err(|_| format!("{SUMS} is not text"))?;
    let mut listed = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let wrong = |why: &str| format!("{SUMS} line {}: {why}", number + 1);
        let (digest, name) = line.split_once("  ").ok_or_else(|| wrong("it is not `digest  name`"))?;
        let digest = Digest::try_from(digest.to_owned()).map_err(wrong)?;
        if name.is_empty() || name.contains(['/', '\0']) || name == ".." || name == "." {
            return Err(wrong("the name is not that of a file beside it"));
        }
        if listed.insert(name.to_owned(), digest).is_some() {
            return Err(wrong("the name is there twice"));
        }
    }
    Ok(listed)
}

impl Verdict {
    fn signature(&mut self, dir: &Path, sums: &[u8], key: Option<&Verifier>) -> Result<()> {
        let path = dir.join(SIGNATURE);
        let signature = match std::fs::read_to_string(&path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        match (signature, key) {
            (Some(signature), Some(key)) => match key.check(&signature, sums) {
                Ok(comment) => self.signed = Some(comment),
                Err(why) => {
                    self.problems.push(format!("{SIGNATURE} is not that key's signature of {SUMS}: {why}"));
                }
            },
            (None, Some(_)) => self.problems.push(format!("it is not signed: there is no {SIGNATURE}")),
            (Some(_), None) => {
                self.warnings
                    .push("it is signed, but no --key was given to check whose signature that is".into());
            }
            (None, None) => {
                self.warnings.push("it is not signed: that nothing changed is shown, not who made it".into());
            }
        }
        Ok(())
    }

    async fn files(&mut self, dir: &Path, listed: &BTreeMap<String, Digest>) -> Result<()> {
        for (name, expected) in listed {
            let path = dir.join(name);
            if !path.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
                self.problems.push(format!("{name} is missing, or is no file"));
                continue;
            }
            let found = {
                let path = path.clone();
                tokio::task::spawn_blocking(move || Digest::of_file(&path))
                    .await
                    .context("reading a file")??
            };
            if found == *expected {
                self.files.push(name.clone());
            } else {
                self.problems.push(format!("{name} has changed: its digest is {found}, it was {expected}"));
            }
        }
        let reading = || format!("reading {}", dir.display());
        for entry in std::fs::read_dir(dir).with_context(reading)? {
            let name = entry.with_context(reading)?.file_name().to_string_lossy().into_owned();
            if !listed.contains_key(&name) && name != SUMS && name != SIGNATURE {
                self.problems.push(format!("{name} is not in {SUMS}"));
            }
        }
        Ok(())
    }

    /// The manifest is about these files, and the disk stands on its own.
    fn manifest(&mut self, dir: &Path, listed: &BTreeMap<String, Digest>) -> Result<()> {
        if !self.files.iter().any(|name| name == MANIFEST) {
            if !listed.contains_key(MANIFEST) {
                self.problems.push(format!("{MANIFEST} is not in {SUMS}"));
            }
            return Ok(());
        }
        let json = std::fs::read(dir.join(MANIFEST)).with_context(|| format!("reading {MANIFEST}"))?;
        let manifest: Manifest = match serde_json::from_slice(&json) {
            Ok(manifest) => manifest,
            Err(error) => {
                self.problems.push(format!("{MANIFEST} is no manifest: {error}"));
                return Ok(());
            }
        };
        for (what, file) in &manifest.outputs {
            if listed.get(&file.name) != Some(&file.sha256) {
                self.problems
                    .push(format!("{MANIFEST} and {SUMS} do not agree about {what} ({})", file.name));
            }
        }
        let disk = dir.join(&manifest.qcow2_path);
        if self.files.contains(&manifest.qcow2_path) {
            match img::backing_of(&disk) {
                Ok(None) => {}
                Ok(Some(backing)) => {
                    self.problems
                        .push(format!("{} is not whole: it stands on {backing}", manifest.qcow2_path));
                }
                Err(error) => self.problems.push(format!("{error:#}")),
            }
        }
        let name = manifest.version.to_string();
        if dir.canonicalize().ok().and_then(|dir| Some(dir.file_name()? != name.as_str())).unwrap_or(false) {
            self.warnings.push(format!("the directory is not called {name}, as the image is"));
        }
        if let Some(comment) = &self.signed
            && !comment.split(' ').any(|word| word == format!("image:{name}"))
        {
            self.problems.push(format!("it was signed as another image: {comment}"));
        }
        self.version = Some(name);
        Ok(())
    }
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;

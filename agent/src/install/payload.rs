//! The payload: `install.json` and the files it names, checked before use.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use kiln_protocol::install::{INSTALL_SPEC, InstallSpec};
use sha2::{Digest as _, Sha256};

/// The format of `install.json` this version reads.
const FORMAT: u32 = 1;
/// `install.json` has a line per file; more than this is something else.
const MAX_SPEC: u64 = 1024 * 1024;

/// A payload whose every file has the checksum it should have.
#[derive(Debug)]
pub(super) struct Payload {
    dir: PathBuf,
    pub(super) spec: InstallSpec,
}

impl Payload {
    /// Reads `install.json` in `dir` and checks every file against it, in both
    /// directions: nothing missing, nothing besides.
    pub(super) fn check(dir: &Path) -> Result<Self> {
        let path = dir.join(INSTALL_SPEC);
        let mut text = String::new();
        File::open(&path)
            .and_then(|file| file.take(MAX_SPEC).read_to_string(&mut text))
            .with_context(|| format!("reading {} (is the payload volume mounted?)", path.display()))?;
        let spec = parse(&text).with_context(|| format!("reading {}", path.display()))?;
        super::step(&format!("checking {} files of {}", spec.files.len(), spec.image.version));
        let found = files_below(dir)?;
        for name in &found {
            if name != INSTALL_SPEC && !spec.files.contains_key(name) {
                bail!("the payload holds {name}, which {INSTALL_SPEC} does not name");
            }
        }
        for (name, wanted) in &spec.files {
            if !found.contains(name) {
                bail!("the payload lacks {name}, which {INSTALL_SPEC} names");
            }
            let found = sha256(&mut open(&dir.join(name))?)
                .with_context(|| format!("reading {name} of the payload"))?;
            if found != *wanted {
                bail!("{name} of the payload is damaged: its SHA-256 is {found}, not {wanted}");
            }
        }
        Ok(Self { dir: dir.to_owned(), spec })
    }

    /// Opens one of its files.
    pub(super) fn open(&self, name: &str) -> Result<File> {
        open(&self.dir.join(name))
    }

    /// The checksum one of its files has.
    pub(super) fn sha256_of(&self, name: &str) -> &str {
        &self.spec.files[name]
    }

    /// The size in bytes of one of its files.
    pub(super) fn len_of(&self, name: &str) -> Result<u64> {
        let metadata = self.open(name)?.metadata();
        Ok(metadata.with_context(|| format!("asking for the size of {name}"))?.len())
    }
}

fn parse(text: &str) -> Result<InstallSpec> {
    #[derive(serde::Deserialize)]
    struct Format {
        format: u32,
    }
    let Format { format } = serde_json::from_str(text).context("it is not JSON with a format number")?;
    if format != FORMAT {
        bail!(
            "it is of format {format}, this agent knows {FORMAT}: use the agent that belongs to the builder"
        );
    }
    let spec: InstallSpec = serde_json::from_str(text)?;
    for name in spec.files.keys() {
        let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        if name.is_empty() || !plain {
            bail!("it names {name:?}, which is not a path inside the payload");
        }
    }
    Ok(spec)
}

/// The paths of all files below `dir`, relative to it.
fn files_below(dir: &Path) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(below) = waiting.pop() {
        let listing = || format!("listing the payload directory {}", dir.join(&below).display());
        for entry in fs::read_dir(dir.join(&below)).with_context(listing)? {
            let entry = entry.with_context(listing)?;
            let path = below.join(entry.file_name());
            if entry.file_type().with_context(listing)?.is_dir() {
                waiting.push(path);
            } else {
                found.insert(path.to_string_lossy().into_owned());
            }
        }
    }
    Ok(found)
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("opening {}", path.display()))
}

/// The SHA-256 of everything `source` yields, in hex.
pub(super) fn sha256(source: &mut dyn Read) -> io::Result<String> {
    struct Hasher(Sha256);
    impl Write for Hasher {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut hasher = Hasher(Sha256::new());
    // 64 KiB at a time: io::copy's 8 KiB cost a system call each.
    io::copy(&mut io::BufReader::with_capacity(64 * 1024, source), &mut hasher)?;
    Ok(hasher.0.finalize().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: &str = r#"{"format":1,"run":"0123456789abcdef",
        "image":{"version":"alma9-k3-node-amd64-v1.28.5-v1","k3s":"v1.28.5+k3s1"},"files":{"FILE":"00"}}"#;

    #[test]
    fn paths_outside_the_payload_are_refused() {
        assert!(parse(&SPEC.replace("FILE", "units/k3s.service")).is_ok());
        for hostile in ["", "/etc/passwd", "../agent", "units/../../x", "./agent"] {
            assert!(parse(&SPEC.replace("FILE", hostile)).is_err(), "{hostile:?} was taken");
        }
    }

    #[test]
    fn a_later_format_says_what_to_do() {
        let error = parse(&SPEC.replace("\"format\":1", "\"format\":2")).unwrap_err().to_string();
        assert!(error.contains("format 2") && error.contains("builder"), "{error}");
    }

    #[test]
    fn sha256_is_sha256() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(&mut &b"abc"[..]).unwrap(), abc);
    }
}

//! `kiln.lock`: what images were made from, so that they can be made of the
//! same again.
//!
//! It holds a table for every image's name, and lies beside the images unless
//! another place is named. A bake takes from it what it would otherwise ask
//! the network for; `--locked` refuses to differ from it, `--update` asks for
//! what is newest. Files given by path are pinned by digest only: their paths
//! are this host's own business.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use kiln_protocol::names::K3sVersion;
use serde::{Deserialize, Serialize};

use crate::bake::store::{locks_dir, sync};
use crate::failure::BadInput;
use crate::image::VersionName;
use crate::image::key::Digest;
use crate::run::lock::{Lock, Mode};

/// Its name.
pub const NAME: &str = "kiln.lock";
const FORMAT: u32 = 1;
const HEAD: &str = "\
# What each image was made from, written by `builder bake`. Keep it in git:
# `builder bake --locked` makes an image of exactly this again or refuses.
";

/// How a bake treats its lock file.
#[derive(Debug, Clone)]
pub struct LockOptions {
    /// The file.
    pub path: PathBuf,
    /// Refuse to differ from it.
    pub locked: bool,
}

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockFile {
    format: u32,
    /// By the image's name.
    #[serde(default)]
    image: BTreeMap<String, Image>,
}

/// What one image was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// The k3s build inside.
    pub k3s: K3sVersion,
    /// Its inputs, by what they are: `iso`, `k3s`, `k3s-images/<name>`, `k3s-selinux`, `agent`.
    pub input: BTreeMap<String, Pin>,
}

/// One input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// The file's name.
    pub name: String,
    /// Its digest.
    pub sha256: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// How it was asked for.
    pub from: From,
    /// Where it was found; none for a file given by path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// How an input was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum From {
    /// By nothing: what the image's name means.
    Default,
    /// By URL.
    Url,
    /// By path.
    File,
}

impl LockFile {
    /// Reads it; none is an empty one.
    pub fn read(path: &Path) -> Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self { format: FORMAT, image: BTreeMap::new() });
            }
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let wrong =
            |why: String| BadInput(format!("{} is no lock file of this builder: {why}", path.display()));
        let file: Self = toml::from_str(&text).map_err(|error| wrong(error.to_string().trim().to_owned()))?;
        if file.format != FORMAT {
            return Err(wrong(format!("its format is {}, not {FORMAT}", file.format)).into());
        }
        Ok(file)
    }

    /// What an image was made from.
    pub fn image(&self, version: &VersionName) -> Option<&Image> {
        self.image.get(&version.to_string())
    }

    fn to_text(&self) -> Result<String> {
        Ok(format!("{HEAD}{}", toml::to_string(self)?))
    }
}

/// Writes down what an image was made from; says what that changes.
pub async fn record(
    path: &Path,
    cache: &Path,
    version: &VersionName,
    image: Image,
) -> Result<Vec<Difference>> {
    let name = format!("lockfile-{}", Digest::of(path.as_os_str().as_encoded_bytes()));
    let _lock = Lock::acquire(&locks_dir(cache).join(name), Mode::Exclusive, || {}).await?;
    let mut file = LockFile::read(path)?;
    let changes = match file.image(version) {
        Some(known) if *known == image => return Ok(Vec::new()),
        Some(known) => differences(known, &image),
        None => Vec::new(),
    };
    file.image.insert(version.to_string(), image);
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).with_context(|| format!("creating directory {}", dir.display()))?;
    let new = tempfile::Builder::new().prefix(".kiln.lock.").tempfile_in(dir);
    let new = new.with_context(|| format!("writing in {}", dir.display()))?;
    let shown = || format!("writing {}", path.display());
    std::fs::write(new.path(), file.to_text()?).with_context(shown)?;
    readable_by_all(new.path()).with_context(shown)?;
    sync(new.path())?;
    new.persist(path).map_err(|error| error.error).with_context(shown)?;
    Ok(changes)
}

/// Temporary files are private; this one is for everybody, as any source file.
fn readable_by_all(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
}

/// One way in which a bake is not what the lock file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    what: String,
    locked: Option<String>,
    now: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = &self.what;
        match (&self.locked, &self.now) {
            (Some(locked), Some(now)) => write!(f, "{what} is {now}, not {locked}"),
            (None, Some(now)) => write!(f, "{what} is {now}, and is not in it"),
            (Some(locked), None) => write!(f, "{what} is missing, which is {locked} in it"),
            (None, None) => f.write_str(what),
        }
    }
}

/// In what two images differ. Names and places may: the content counts.
pub fn differences(locked: &Image, now: &Image) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut compare = |what: &str, locked: Option<String>, now: Option<String>| {
        if locked != now {
            found.push(Difference { what: what.to_owned(), locked, now });
        }
    };
    compare("the k3s build", Some(locked.k3s.to_string()), Some(now.k3s.to_string()));
    let names: std::collections::BTreeSet<&String> = locked.input.keys().chain(now.input.keys()).collect();
    for name in names {
        let digest = |image: &Image| image.input.get(name).map(|pin| format!("sha256 {}", pin.sha256));
        compare(name, digest(locked), digest(now));
    }
    found
}

/// Whether `--locked` can be kept at all: before anything is downloaded.
pub fn known(options: &LockOptions, file: &LockFile, version: &VersionName) -> Result<(), BadInput> {
    if options.locked && file.image(version).is_none() {
        let path = options.path.display();
        return Err(BadInput(format!(
            "--locked: {path} does not know {version}; bake it once without --locked"
        )));
    }
    Ok(())
}

/// Whether a bake is what the lock file says.
///
/// # Errors
/// [`BadInput`] that names every difference.
pub fn check(
    options: &LockOptions,
    file: &LockFile,
    version: &VersionName,
    now: &Image,
) -> Result<(), BadInput> {
    known(options, file, version)?;
    let Some(locked) = file.image(version).filter(|_| options.locked) else { return Ok(()) };
    let path = options.path.display();
    let differences: Vec<String> = differences(locked, now).iter().map(Difference::to_string).collect();
    if differences.is_empty() {
        return Ok(());
    }
    Err(BadInput(format!(
        "--locked: this is not what {path} says {version} is made from: {}; pass what it says, or bake another -vN \
         without --locked",
        differences.join("; ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(content: &[u8], from: From) -> Pin {
        let url = (from != From::File).then(|| "https://e/x".to_owned());
        Pin { name: "x".into(), sha256: Digest::of(content), size: content.len() as u64, from, url }
    }

    fn image(inputs: &[(&str, &[u8])]) -> Image {
        let input =
            inputs.iter().map(|(name, content)| ((*name).to_owned(), pin(content, From::Default))).collect();
        Image { k3s: "v1.28.5+k3s1".parse().unwrap(), input }
    }

    fn version() -> VersionName {
        "alma9-k3-node-amd64-v1.28.5-v1".parse().unwrap()
    }

    #[tokio::test]
    async fn what_is_written_is_read_back_sorted_and_again_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out/kiln.lock");
        let mut made = image(&[("iso", b"iso"), ("k3s-images/a.tar", b"a")]);
        made.input.insert("agent".into(), pin(b"agent", From::File));
        assert_eq!(record(&path, dir.path(), &version(), made.clone()).await.unwrap(), []);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(LockFile::read(&path).unwrap().image(&version()), Some(&made), "{text}");
        let places =
            ["input.agent", "input.iso", "input.\"k3s-images/a.tar\""].map(|table| text.find(table).unwrap());
        assert!(places.is_sorted(), "{text}");
        record(&path, dir.path(), &version(), made).await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        let next: VersionName = "alma9-k3-node-amd64-v1.28.5-v2".parse().unwrap();
        record(&path, dir.path(), &next, image(&[])).await.unwrap();
        let both = LockFile::read(&path).unwrap();
        assert!(both.image(&version()).is_some() && both.image(&next).is_some());
    }

    #[test]
    fn every_difference_is_named_and_only_content_counts() {
        let locked = image(&[("agent", b"old"), ("iso", b"iso"), ("k3s-selinux", b"rpm")]);
        let mut now = image(&[("agent", b"new"), ("iso", b"iso"), ("k3s-images/a.tar", b"a")]);
        now.k3s = "v1.28.5+k3s2".parse().unwrap();
        now.input.get_mut("iso").unwrap().from = From::File;
        let (new, old, rpm) = (Digest::of(b"new"), Digest::of(b"old"), Digest::of(b"rpm"));
        let told: Vec<String> = differences(&locked, &now).iter().map(Difference::to_string).collect();
        assert_eq!(
            told,
            [
                "the k3s build is v1.28.5+k3s2, not v1.28.5+k3s1".to_owned(),
                format!("agent is sha256 {new}, not sha256 {old}"),
                format!("k3s-images/a.tar is sha256 {}, and is not in it", Digest::of(b"a")),
                format!("k3s-selinux is missing, which is sha256 {rpm} in it"),
            ]
        );
        assert_eq!(differences(&locked, &locked), []);
    }

    #[test]
    fn locked_refuses_what_differs_and_what_is_unknown() {
        let file = LockFile { format: 1, image: [(version().to_string(), image(&[("iso", b"a")]))].into() };
        let with = |locked| LockOptions { path: "kiln.lock".into(), locked };
        assert!(check(&with(true), &file, &version(), &image(&[("iso", b"a")])).is_ok());
        assert!(check(&with(false), &file, &version(), &image(&[("iso", b"b")])).is_ok());
        let error = check(&with(true), &file, &version(), &image(&[("iso", b"b")])).unwrap_err().0;
        assert!(error.contains("iso is sha256") && error.contains("-vN"), "{error}");
        let next: VersionName = "alma9-k3-node-amd64-v1.28.5-v2".parse().unwrap();
        let error = check(&with(true), &file, &next, &image(&[])).unwrap_err().0;
        assert!(error.contains("does not know alma9-k3-node-amd64-v1.28.5-v2"), "{error}");
    }

    #[test]
    fn what_is_no_lock_file_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kiln.lock");
        for (text, why) in
            [("format = 2\n", "format is 2"), ("x", "line 1"), ("format = 1\nfoo = 1\n", "foo")]
        {
            std::fs::write(&path, text).unwrap();
            let error = LockFile::read(&path).unwrap_err();
            assert!(error.is::<BadInput>() && error.to_string().contains(why), "{error}");
        }
    }
}

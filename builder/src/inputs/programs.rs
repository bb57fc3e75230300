//! k3s, its images, and the agent.

use std::ffi::OsStr;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kiln_protocol::names::K3sVersion;
use serde::{Deserialize, Serialize};

use super::digest::HashedFile;
use super::elf;
use crate::failure::BadInput;
use crate::image::VersionName;
use crate::image::version::Arch;
use crate::run::dirs::create_private;

/// Ends of names k3s imports from its images directory.
const IMAGE_ENDINGS: [&str; 3] = [".tar", ".tar.gz", ".tar.zst"];
/// A program that only prints its version is done within this.
const VERSION_TIMEOUT: Duration = Duration::from_secs(30);

/// What a k3s binary says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct K3sFacts {
    /// Its version.
    pub version: K3sVersion,
}

impl K3sFacts {
    /// Writes them down, so that this binary is not run again.
    pub fn remember(&self, k3s: &HashedFile, cache: &Path) -> Result<()> {
        let memory = memory_of(k3s, cache);
        if !memory.exists() {
            create_private(&cache.join("facts"))?;
            std::fs::write(&memory, serde_json::to_vec(self)?)
                .with_context(|| format!("writing {}", memory.display()))?;
        }
        Ok(())
    }
}

/// What to pass as `--k3s`.
pub fn how_to_get_k3s(version: &K3sVersion, arch: Arch) -> String {
    let name = if arch == Arch::Amd64 { "k3s" } else { "k3s-arm64" };
    // A '+' must be escaped in GitHub's URLs.
    let tag = version.as_str().replace('+', "%2B");
    format!(
        "pass the binary of k3s {version}, \
         https://github.com/k3s-io/k3s/releases/download/{tag}/{name}"
    )
}

/// Where the agent is: as said, or beside this program.
pub fn find_agent(wanted: Option<PathBuf>) -> Result<PathBuf> {
    if let Some(path) = wanted {
        return match std::fs::metadata(&path) {
            Ok(_) => Ok(path),
            Err(error) => Err(BadInput(format!("--agent {}: {error}", path.display())).into()),
        };
    }
    let beside = std::env::current_exe().context("finding this program")?.with_file_name("agent");
    if beside.is_file() {
        return Ok(beside);
    }
    Err(BadInput(format!(
        "--agent is missing, and there is no {}: pass the agent's binary",
        beside.display()
    ))
    .into())
}

fn beginning(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(256).read_to_end(&mut bytes))
        .with_context(|| format!("reading {}", path.display()))?;
    Ok(bytes)
}

/// Whether a file is a program for `arch`.
pub fn check_program(option: &str, path: &Path, arch: Arch) -> Result<()> {
    elf::check(&beginning(path)?, arch)
        .map_err(|why| BadInput(format!("{option} {} {why}", path.display())).into())
}

/// Whether a file is what k3s imports images from.
pub fn check_images(path: &Path) -> Result<()> {
    let wrong = |why: &str| BadInput(format!("--k3s-images {} {why}", path.display()));
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let ending = IMAGE_ENDINGS.into_iter().find(|ending| name.ends_with(ending));
    let Some(ending) = ending else {
        return Err(wrong("does not end in .tar, .tar.gz or .tar.zst, so k3s would not import it").into());
    };
    let begins = match std::fs::metadata(path) {
        Ok(_) => beginning(path)?,
        Err(error) => return Err(wrong(&format!("cannot be read: {error}")).into()),
    };
    let right = match ending {
        ".tar.gz" => begins.starts_with(&[0x1f, 0x8b]),
        ".tar.zst" => begins.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]),
        _ => !begins.is_empty(),
    };
    if right { Ok(()) } else { Err(wrong("is not what its name says (did the download fail?)").into()) }
}

/// Whether no two files would get the same name in the image.
pub fn check_distinct(images: &[HashedFile]) -> Result<(), BadInput> {
    let mut names: Vec<String> = images.iter().map(HashedFile::name).collect();
    names.sort();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(BadInput(format!("--k3s-images names two files called {}", pair[0]))),
        None => Ok(()),
    }
}

/// What a k3s binary says of itself, remembered by its digest; none when it
/// cannot be run on this host.
pub async fn k3s_facts(k3s: &HashedFile, arch: Arch, cache: &Path, work: &Path) -> Result<Option<K3sFacts>> {
    if arch.rpm_name() != std::env::consts::ARCH {
        return Ok(None);
    }
    let memory = memory_of(k3s, cache);
    let known = std::fs::read(&memory).ok().and_then(|json| serde_json::from_slice::<K3sFacts>(&json).ok());
    if known.is_some() {
        return Ok(known);
    }
    let said = print_version(&k3s.path, work).await;
    let version = said.and_then(|said| parse_version(&said)).map_err(|error| {
        BadInput(format!("--k3s {}: it does not say its version ({error:#})", k3s.path.display()))
    })?;
    Ok(Some(K3sFacts { version }))
}

fn memory_of(k3s: &HashedFile, cache: &Path) -> PathBuf {
    cache.join("facts").join(format!("k3s-{}.json", k3s.sha256))
}

/// Runs `k3s --version`, from a copy: a download is seldom executable. It gets
/// a home of its own and nothing of our environment.
async fn print_version(k3s: &Path, work: &Path) -> Result<String> {
    let home = tempfile::Builder::new().prefix("k3s-version-").tempdir_in(work)?;
    let copy = home.path().join("k3s");
    tokio::fs::copy(k3s, &copy).await.context("copying it")?;
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o700))?;
    let mut command = tokio::process::Command::new(&copy);
    command.arg("--version").env_clear().env("HOME", home.path()).current_dir(home.path());
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(VERSION_TIMEOUT, run_fresh(&mut command))
        .await
        .with_context(|| format!("--version takes longer than {} s", VERSION_TIMEOUT.as_secs()))?
        .context("running it with --version")?;
    if !output.status.success() {
        bail!("--version: {}, {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a program that was just written. A process forked elsewhere in the
/// meantime may still hold the file open for writing, for a moment.
async fn run_fresh(command: &mut tokio::process::Command) -> std::io::Result<std::process::Output> {
    loop {
        match command.output().await {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => return other,
        }
    }
}

/// The version in `k3s version v1.28.5+k3s1 (5b2d1271)`.
fn parse_version(said: &str) -> Result<K3sVersion> {
    let line = said.lines().next().unwrap_or_default();
    let word = line.strip_prefix("k3s version ").and_then(|rest| rest.split(' ').next());
    match word.and_then(|word| word.parse().ok()) {
        Some(version) => Ok(version),
        None => bail!("--version prints {:?}", line.chars().take(80).collect::<String>()),
    }
}

/// The error for a k3s that is another than the image's name says.
pub fn wrong_k3s(
    k3s: &HashedFile,
    found: &K3sVersion,
    wanted: &K3sVersion,
    version: &VersionName,
) -> BadInput {
    let path = k3s.path.display();
    let advice = if version.k3s.has_build(found) {
        format!("for this build, pass --k3s-version {found} and give the image another -vN")
    } else {
        how_to_get_k3s(wanted, version.arch)
    };
    BadInput(format!("--k3s {path} is k3s {found}, but {version} means {wanted}; {advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::key::Digest;

    #[test]
    fn the_version_is_the_third_word() {
        let said = "k3s version v1.28.5+k3s1 (5b2d1271)\ngo version go1.20.12\n";
        assert_eq!(parse_version(said).unwrap().as_str(), "v1.28.5+k3s1");
        for wrong in ["", "k3s version", "k3s version v1.28.5", "error: v1.28.5+k3s1"] {
            assert!(parse_version(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn another_build_wants_another_release_of_the_image() {
        let version: VersionName = "alma9-k3-node-amd64-v1.28.5-v1".parse().unwrap();
        let k3s = HashedFile { path: "/k3s".into(), size: 0, sha256: Digest::of(b"") };
        let wanted = version.k3s.first_build();
        let wrong = |found: &str| wrong_k3s(&k3s, &found.parse().unwrap(), &wanted, &version).0;
        let build = wrong("v1.28.5+k3s2");
        assert!(build.contains("--k3s-version v1.28.5+k3s2 and give the image another -vN"), "{build}");
        let release = wrong("v1.29.0+k3s1");
        assert!(release.contains("means v1.28.5+k3s1; pass the binary"), "{release}");
        assert!(release.contains("/v1.28.5%2Bk3s1/k3s"), "{release}");
    }

    #[tokio::test]
    async fn a_k3s_is_asked_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k3s");
        std::fs::write(&path, "#!/bin/sh\necho \"k3s version v1.28.5+k3s1 (x)\"\n").unwrap();
        let k3s = HashedFile { path: path.clone(), size: 1, sha256: Digest::of(b"a") };
        let arch = if std::env::consts::ARCH == "x86_64" { Arch::Amd64 } else { Arch::Arm64 };
        let ask = || k3s_facts(&k3s, arch, dir.path(), dir.path());
        let first = ask().await.unwrap().unwrap();
        assert_eq!(first.version.as_str(), "v1.28.5+k3s1");
        first.remember(&k3s, dir.path()).unwrap();
        std::fs::write(&path, "#!/bin/sh\nexit 1\n").unwrap();
        assert_eq!(ask().await.unwrap().unwrap(), first);
    }

    #[tokio::test]
    async fn a_k3s_that_fails_is_bad_input() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k3s");
        std::fs::write(&path, "#!/bin/sh\necho no luck >&2; exit 3\n").unwrap();
        let k3s = HashedFile { path, size: 1, sha256: Digest::of(b"b") };
        let arch = if std::env::consts::ARCH == "x86_64" { Arch::Amd64 } else { Arch::Arm64 };
        let error = k3s_facts(&k3s, arch, dir.path(), dir.path()).await.unwrap_err();
        assert!(error.is::<BadInput>() && error.to_string().contains("no luck"), "{error}");
    }

    #[test]
    fn images_are_what_their_name_says() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        check_images(&file("a.tar.zst", &[0x28, 0xb5, 0x2f, 0xfd, 0])).unwrap();
        check_images(&file("a.tar", b"tar")).unwrap();
        for (path, why) in [
            (file("a.zip", b"PK"), "does not end in"),
            (file("b.tar.zst", b"<html>"), "is not what its name says"),
            (dir.path().join("none.tar"), "cannot be read"),
        ] {
            let error = check_images(&path).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}

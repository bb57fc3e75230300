//! ISO images: `xorriso`, and nothing else of it than Kiln needs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, anyhow};

use crate::machine::qemu::command::shell_word;
use crate::machine::qemu::vm::find_program;

const PROGRAM: &str = "xorriso";

/// A file of the host at a place in a new image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it is on the host.
    pub source: PathBuf,
    /// Where it goes, absolute in the image.
    pub target: String,
    /// Whether it may be executed.
    pub executable: bool,
}

/// Writes an image labelled `label` that holds `entries`, owned by root.
pub async fn create(image: &Path, label: &str, entries: &[Entry]) -> Result<()> {
    let mut args: Vec<OsString> = ["-report_about", "FAILURE", "-outdev"].map(OsString::from).into();
    args.extend([image.into(), "-volid".into(), label.into(), "-joliet".into(), "on".into()]);
    for entry in entries {
        args.extend(["-map".into(), entry.source.clone().into(), entry.target.clone().into()]);
        let mode = if entry.executable { "0755" } else { "0644" };
        args.extend(["-chmod", mode, &entry.target, "--"].map(OsString::from));
    }
    args.extend(["-chown_r", "0", "/", "--", "-chgrp_r", "0", "/", "--", "-commit"].map(OsString::from));
    run(&args).await.map(drop)
}

/// Takes files out of an image: pairs of absolute path in it and target.
pub async fn extract(image: &Path, files: &[(&str, PathBuf)]) -> Result<()> {
    let mut args: Vec<OsString> =
        ["-report_about", "FAILURE", "-osirrox", "on", "-indev"].map(OsString::from).into();
    args.push(image.into());
    for (source, target) in files {
        args.extend(["-extract_single".into(), source.into(), target.clone().into()]);
    }
    run(&args).await.map(drop)
}

/// The paths in an image whose last part is like `pattern`, a shell's.
pub async fn find(image: &Path, pattern: &str) -> Result<Vec<String>> {
    let mut args: Vec<OsString> = ["-report_about", "FAILURE", "-indev"].map(OsString::from).into();
    args.push(image.into());
    args.extend(["-find", "/", "-name", pattern, "-exec", "echo", "--"].map(OsString::from));
    let found = run(&args).await?;
    // Paths are printed in quotes.
    let path = |line: &str| Some(line.trim().strip_prefix('\'')?.strip_suffix('\'')?.to_owned());
    Ok(String::from_utf8_lossy(&found).lines().filter_map(path).collect())
}

/// `xorriso`'s version.
pub async fn version() -> Result<String> {
    let output = tokio::process::Command::new(PROGRAM)
        .arg("--version")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(missing)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.contains("xorriso version"));
    Ok(line.or(text.lines().next()).unwrap_or_default().trim().to_owned())
}

fn missing() -> String {
    match find_program(PROGRAM) {
        Some(_) => format!("running {PROGRAM}"),
        None => format!("{PROGRAM} is not installed (Debian, Ubuntu, EL: xorriso; Arch: libisoburn)"),
    }
}

async fn run(args: &[OsString]) -> Result<Vec<u8>> {
    let mut command = tokio::process::Command::new(PROGRAM);
    command.arg("-no_rc").args(args).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.with_context(missing)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let words: Vec<_> = args.iter().map(|word| shell_word(word)).collect();
    let said = String::from_utf8_lossy(&output.stderr);
    let failed = Err(anyhow!("{} ({})", said.trim(), output.status))
        .with_context(|| format!("running {PROGRAM} -no_rc {}", words.join(" ")));
    if said.contains("exceeds free space") {
        return failed.context("there is no space left: free some where `--cache` is, or point it elsewhere");
    }
    failed
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[tokio::test]
    async fn what_goes_in_comes_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("ks, the first.cfg"), b"poweroff\n").unwrap();
        let entry = |target: &str, executable| Entry {
            source: path("ks, the first.cfg"),
            target: target.to_owned(),
            executable,
        };
        let image = path("oemdrv.iso");
        create(&image, "OEMDRV", &[entry("/ks.cfg", false), entry("/payload/agent", true)]).await.unwrap();

        let file = std::fs::File::open(&image).unwrap();
        assert_eq!(super::super::iso9660::volume_id(file).unwrap(), "OEMDRV");
        assert_eq!(find(&image, "a[g]en*").await.unwrap(), ["/payload/agent"]);
        assert_eq!(find(&image, "*.rpm").await.unwrap(), [""; 0]);
        extract(&image, &[("/ks.cfg", path("ks.out")), ("/payload/agent", path("agent.out"))]).await.unwrap();
        assert_eq!(std::fs::read(path("ks.out")).unwrap(), b"poweroff\n");
        let mode = std::fs::metadata(path("agent.out")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
    }

    #[tokio::test]
    async fn a_missing_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("i.iso");
        let source = dir.path().join("f");
        std::fs::write(&source, b"x").unwrap();
        create(&image, "A", &[Entry { source, target: "/f".into(), executable: false }]).await.unwrap();
        let error = extract(&image, &[("/.treeinfo", dir.path().join("out"))]).await.unwrap_err();
        assert!(format!("{error:#}").contains(".treeinfo"), "{error:#}");
    }
}

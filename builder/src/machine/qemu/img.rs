//! Disk images: `qemu-img`, and nothing else of it than Kiln needs.

use std::ffi::OsString;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde::Deserialize;

const PROGRAM: &str = "qemu-img";
/// In bytes.
const SECTOR: u64 = 512;

/// What `qemu-img info` says, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Info {
    /// `qcow2`, `raw`, ...
    pub format: String,
    /// The disk's size as the guest sees it, in bytes.
    pub virtual_size: u64,
    /// What it takes on the host, in bytes.
    pub actual_size: u64,
    /// The image below it, as recorded in the file.
    pub backing_filename: Option<String>,
}

/// Makes an empty qcow2 of `size` bytes.
pub async fn create(path: &Path, size: u64) -> Result<()> {
    let args = ["create".into(), "-q".into(), "-f".into(), "qcow2".into(), path.into()];
    run(args.into_iter().chain([size.to_string().into()])).await.map(drop)
}

/// Makes a qcow2 over a qcow2; what is written to it leaves `backing` as it
/// is. It is as large as `backing` unless `size` (bytes) says otherwise.
pub async fn create_overlay(backing: &Path, path: &Path, size: Option<u64>) -> Result<()> {
    // An absolute path: a relative one would be looked up beside the overlay.
    let backing = backing.canonicalize().with_context(|| format!("opening {}", backing.display()))?;
    let args = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"].map(OsString::from);
    let rest = [backing.into(), path.into()];
    let size = size.map(|size| OsString::from(size.to_string()));
    run(args.into_iter().chain(rest).chain(size)).await.map(drop)
}

/// Has an overlay name the image below it so: in full, or by the way there from
/// the overlay's own directory. What the name leads to is not looked at, and
/// has to be the same image: the overlay may be on its way to where it is right.
pub async fn name_backing(path: &Path, name: &Path) -> Result<()> {
    let args = ["rebase", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b"].map(OsString::from);
    run(args.into_iter().chain([name.into(), path.into()])).await.map(drop)
}

/// What an image is. Only ever call it on images Kiln made: a foreign qcow2
/// may name any file of the host as its backing file.
pub async fn info(path: &Path) -> Result<Info> {
    let output = run(["info".into(), "--output=json".into(), path.into()]).await?;
    serde_json::from_slice(&output)
        .with_context(|| format!("reading what qemu-img says of {}", path.display()))
}

/// What an image stands on, if it does not stand on its own: the backing file
/// or the separate data file its header names. For images of anybody's making:
/// nothing the image names is opened. The header is docs/interop/qcow2.txt's.
pub fn backing_of(path: &Path) -> Result<Option<String>> {
    const MAGIC: &[u8] = b"QFI\xfb";
    /// The incompatible feature "external data file".
    const DATA_FILE: u64 = 1 << 2;
    let reading = || format!("reading the header of {}", path.display());
    let mut file = std::fs::File::open(path).with_context(reading)?;
    let mut header = Vec::with_capacity(80);
    std::io::Read::take(&mut file, 80).read_to_end(&mut header).with_context(reading)?;
    ensure!(header.starts_with(MAGIC) && header.len() >= 20, "{} is no qcow2 image", path.display());
    let field = |at: usize| {
        header.get(at..at + 8).map_or(0, |bytes| bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b)))
    };
    let version = field(4) >> 32;
    if version >= 3 && field(72) & DATA_FILE != 0 {
        return Ok(Some("a separate data file".to_owned()));
    }
    let (offset, size) = (field(8), field(16) >> 32);
    if offset == 0 {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(offset)).with_context(reading)?;
    let mut name = Vec::new();
    // No more than the format allows.
    std::io::Read::take(&mut file, size.min(1023)).read_to_end(&mut name).with_context(reading)?;
    Ok(Some(String::from_utf8_lossy(&name).into_owned()))
}

/// Writes an image and everything below it out as a plain disk, with holes
/// where it is empty.
pub async fn to_raw(from: &Path, to: &Path) -> Result<()> {
    let args = ["convert", "-O", "raw"].map(OsString::from);
    run(args.into_iter().chain([from.into(), to.into()])).await.map(drop)
}

/// How a packed image's clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Fast and small; QEMU 5.1 and newer read it.
    Zstd,
    /// For older QEMUs.
    Zlib,
}

/// Flattens an image and everything below it into one compressed qcow2.
pub async fn convert(from: &Path, to: &Path, compression: Compression, threads: usize) -> Result<()> {
    let kind = match compression {
        Compression::Zstd => "compression_type=zstd",
        Compression::Zlib => "compression_type=zlib",
    };
    let threads = threads.clamp(1, 16).to_string();
    // -W: clusters are written as they are ready, not in order.
    let args = ["convert", "-c", "-W", "-m", &threads, "-O", "qcow2", "-o", kind].map(OsString::from);
    run(args.into_iter().chain([from.into(), to.into()])).await.map(drop)
}

/// A part of a disk, in bytes, which are rounded down to whole sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// So many from the beginning.
    First(u64),
    /// Everything from here on.
    From(u64),
}

/// Copies a part of a qcow2 into a raw file.
pub async fn read_part(from: &Path, to: &Path, part: Part) -> Result<()> {
    // Never both at once: versions differ in what count then means.
    let part = match part {
        Part::First(bytes) => format!("count={}", bytes / SECTOR),
        Part::From(bytes) => format!("skip={}", bytes / SECTOR),
    };
    let file = |name: &str, path: &Path| {
        let mut word = OsString::from(name);
        word.push(path);
        word
    };
    let args = ["dd", "-f", "qcow2", "-O", "raw", &part].map(OsString::from);
    let rest = [format!("bs={SECTOR}").into(), file("if=", from), file("of=", to)];
    run(args.into_iter().chain(rest)).await.map(drop)
}

/// `qemu-img`'s first line about itself.
pub async fn version() -> Result<String> {
    let output = run(["--version".into()]).await?;
    Ok(String::from_utf8_lossy(&output).lines().next().unwrap_or_default().trim().to_owned())
}

async fn run(args: impl IntoIterator<Item = OsString>) -> Result<Vec<u8>> {
    let args: Vec<OsString> = args.into_iter().collect();
    let shown = || {
        let words: Vec<_> = args.iter().map(|word| super::command::shell_word(word)).collect();
        format!("running {PROGRAM} {}", words.join(" "))
    };
    let mut command = tokio::process::Command::new(PROGRAM);
    command.args(&args).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.with_context(|| match super::vm::find_program(PROGRAM) {
        Some(_) => shown(),
        None => {
            format!("{PROGRAM} is not installed (Debian, Ubuntu: apt install qemu-utils; EL, Arch: qemu-img)")
        }
    })?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(anyhow!("{} ({})", stderr.trim(), output.status).context(shown()));
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_overlay_names_what_is_below_it() {
        let dir = tempfile::tempdir().unwrap();
        let (base, over) = (dir.path().join("base.qcow2"), dir.path().join("over, top.qcow2"));
        create(&base, 1 << 20).await.unwrap();
        create_overlay(&base, &over, Some(2 << 20)).await.unwrap();
        let info = info(&over).await.unwrap();
        assert_eq!(info.virtual_size, 2 << 20);
        assert_eq!(info.backing_filename.as_deref(), base.canonicalize().unwrap().to_str());
        assert_eq!(backing_of(&over).unwrap().as_deref(), base.canonicalize().unwrap().to_str());
        assert_eq!(backing_of(&base).unwrap(), None);
        let not = dir.path().join("not.qcow2");
        std::fs::write(&not, b"nothing of the kind").unwrap();
        assert!(backing_of(&not).unwrap_err().to_string().contains("no qcow2"));
    }

    #[tokio::test]
    async fn a_failure_shows_command_and_reason() {
        let error = create(Path::new("/nonexistent/disk.qcow2"), 1).await.unwrap_err();
        let shown = format!("{error:#}");
        assert!(shown.contains("running qemu-img create -q -f qcow2 /nonexistent/disk.qcow2 1"), "{shown}");
        assert!(shown.contains("No such file"), "{shown}");
    }
}

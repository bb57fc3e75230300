//! strace's log, read as what was done to the files below one directory.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::{ANSWERED, SAID};

/// The system calls that are recorded.
pub(super) const CALLS: [&str; 25] = [
    "openat",
    "write",
    "pwrite64",
    "writev",
    "pwritev",
    "fsync",
    "fdatasync",
    "ftruncate",
    "truncate",
    "fallocate",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "mkdir",
    "mkdirat",
    "lseek",
    "sendto",
    "sendmsg",
    "link",
    "linkat",
    "copy_file_range",
    "sendfile",
    "splice",
];

/// Those of them that move bytes which strace does not see. They are made to
/// fail as if the kernel had none, and the standard library then reads and
/// writes (`std::sys::kernel_copy`).
pub(super) const UNSEEN: [&str; 3] = ["copy_file_range", "sendfile", "splice"];

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// A file was made, if it was not there.
    Create(PathBuf),
    /// A directory was made.
    Directory(PathBuf),
    /// Bytes were written.
    Write {
        /// Into which file.
        file: PathBuf,
        /// From where on.
        offset: usize,
        /// Which.
        bytes: Vec<u8>,
    },
    /// A file got this length.
    Truncate {
        /// Which file.
        file: PathBuf,
        /// In bytes.
        length: usize,
    },
    /// A file or a directory was synced.
    Sync(PathBuf),
    /// A file or directory got another name.
    Rename {
        /// Which it had.
        from: PathBuf,
        /// Which it has.
        to: PathBuf,
    },
    /// A name was removed.
    Remove(PathBuf),
    /// Something was sent to a socket.
    Sent,
    /// The child said a line.
    Said(String),
    /// The child said what it was answered.
    Answered(String),
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(file) => write!(f, "create {}", file.display()),
            Self::Directory(dir) => write!(f, "mkdir {}", dir.display()),
            Self::Write { file, offset, bytes } => {
                write!(f, "write {} bytes at {offset} of {}", bytes.len(), file.display())
            }
            Self::Truncate { file, length } => write!(f, "truncate {} to {length}", file.display()),
            Self::Sync(file) => write!(f, "sync {}", file.display()),
            Self::Rename { from, to } => write!(f, "rename {} to {}", from.display(), to.display()),
            Self::Remove(file) => write!(f, "remove {}", file.display()),
            Self::Sent => write!(f, "send"),
            Self::Said(line) | Self::Answered(line) => write!(f, "say {}", line.get(..60).unwrap_or(line)),
        }
    }
}

/// Reads the log. Calls count where they end.
pub(super) fn parse(log: &str, dir: &Path) -> Result<Vec<Call>> {
    let mut unfinished: HashMap<&str, String> = HashMap::new();
    let mut reader = Reader { dir, offsets: HashMap::new(), calls: Vec::new() };
    for line in log.lines() {
        let (process, rest) = line.split_once(' ').with_context(|| format!("strace said {line:?}"))?;
        let rest = rest.trim_start();
        if let Some(begun) = rest.strip_suffix("<unfinished ...>") {
            unfinished.insert(process, begun.trim_end().to_owned());
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let (_, end) =
                resumed.split_once(" resumed>").with_context(|| format!("strace said {rest:?}"))?;
            let begun = unfinished.remove(process).context("a call ends that never began")?;
            reader.line(&(begun + end))?;
        } else {
            reader.line(rest)?;
        }
    }
    Ok(reader.calls)
}

struct Reader<'a> {
    dir: &'a Path,
    /// Where the next write without an offset goes, by file descriptor.
    offsets: HashMap<u32, usize>,
    calls: Vec<Call>,
}

impl Reader<'_> {
    /// One whole call: `name(arguments) = result`.
    fn line(&mut self, line: &str) -> Result<()> {
        let Some((name, rest)) = line.split_once('(') else { return Ok(()) };
        let Some((arguments, result)) = rest.rsplit_once(" = ") else { return Ok(()) };
        let arguments = arguments.trim_end().strip_suffix(')').unwrap_or(arguments);
        if result.starts_with('-') || result.starts_with('?') {
            return Ok(());
        }
        self.call(name, arguments, result)
            .with_context(|| format!("reading strace's {name}({arguments:.200})"))
    }

    fn call(&mut self, name: &str, arguments: &str, result: &str) -> Result<()> {
        match name {
            "openat" => self.open(arguments, result)?,
            "write" | "pwrite64" | "writev" | "pwritev" | "sendto" | "sendmsg" => {
                self.write(name, arguments, number(result)?)?;
            }
            "fsync" | "fdatasync" => {
                let (_, file) = descriptor(arguments)?;
                self.push(file, Call::Sync);
            }
            "lseek" => {
                let (descriptor, _) = descriptor(arguments)?;
                self.offsets.insert(descriptor, number(result)?);
            }
            "ftruncate" => {
                let (_, file) = descriptor(arguments)?;
                let length = number(last_argument(arguments))?;
                self.push(file, |file| Call::Truncate { file, length });
            }
            "rename" | "renameat" | "renameat2" => match <[_; 2]>::try_from(names(arguments)?) {
                Ok([from, to]) => self.push(from, |from| Call::Rename { from, to }),
                Err(_) => bail!("a rename without two names"),
            },
            "unlink" | "unlinkat" => self.push(only_name(arguments)?, Call::Remove),
            "mkdir" | "mkdirat" => self.push(only_name(arguments)?, Call::Directory),
            _ => bail!("what {name} does is not known here"),
        }
        Ok(())
    }

    fn open(&mut self, arguments: &str, result: &str) -> Result<()> {
        let (descriptor, file) = descriptor(result)?;
        self.offsets.insert(descriptor, 0);
        if arguments.contains("O_APPEND") && file.starts_with(self.dir) {
            bail!("files that are appended to are not known here");
        }
        if arguments.contains("O_CREAT") {
            self.push(file.clone(), Call::Create);
        }
        if arguments.contains("O_TRUNC") {
            self.push(file, |file| Call::Truncate { file, length: 0 });
        }
        Ok(())
    }

    fn write(&mut self, name: &str, arguments: &str, written: usize) -> Result<()> {
        let (descriptor, file) = descriptor(arguments)?;
        let mut bytes = strings(arguments)?.concat();
        bytes.truncate(written);
        if file.to_str().is_some_and(|file| file.starts_with("socket:")) {
            self.calls.push(Call::Sent);
            return Ok(());
        }
        if !file.starts_with(self.dir) {
            let text = String::from_utf8_lossy(&bytes);
            let line = |prefix| Some(text.split_once(prefix)?.1.trim_end().to_owned());
            let said = line(SAID).map(Call::Said).or_else(|| line(ANSWERED).map(Call::Answered));
            self.calls.extend(said.filter(|_| descriptor == 1));
            return Ok(());
        }
        let offset = if name.starts_with('p') {
            number(last_argument(arguments))?
        } else {
            let next = self.offsets.entry(descriptor).or_default();
            std::mem::replace(next, *next + written)
        };
        self.push(file, |file| Call::Write { file, offset, bytes });
        Ok(())
    }

    /// Notes what was done to a file, if it is one that counts.
    fn push(&mut self, file: PathBuf, call: impl FnOnce(PathBuf) -> Call) {
        let shared_memory = file.to_str().is_some_and(|file| file.ends_with("-shm"));
        if file.starts_with(self.dir) && !shared_memory {
            self.calls.push(call(file));
        }
    }
}

/// `3</path>`: a file descriptor and what it stands for.
fn descriptor(text: &str) -> Result<(u32, PathBuf)> {
    let (descriptor, rest) = text.split_once('<').context("a file descriptor without a name")?;
    let (name, _) = rest.split_once('>').context("a file descriptor's name without an end")?;
    let descriptor = descriptor.trim().parse().context("reading a file descriptor")?;
    Ok((descriptor, path(&decode(name)?)?))
}

/// Every quoted string, decoded.
fn strings(arguments: &str) -> Result<Vec<Vec<u8>>> {
    let quoted = arguments.split('"').skip(1).step_by(2);
    quoted.map(decode).collect()
}

/// Every quoted name, below the directory that stands before it if there is
/// one: `5</dir>, "name"`.
fn names(arguments: &str) -> Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    let mut rest = arguments;
    let mut dir = PathBuf::new();
    while let Some(at) = rest.find(['<', '"']) {
        let end = if rest[at..].starts_with('<') { '>' } else { '"' };
        let (text, after) = rest[at + 1..].split_once(end).context("a name without an end")?;
        let name = path(&decode(text)?)?;
        if end == '>' {
            dir = name;
        } else {
            names.push(dir.join(name));
        }
        rest = after;
    }
    Ok(names)
}

fn only_name(arguments: &str) -> Result<PathBuf> {
    names(arguments)?.into_iter().next().context("a call without a name")
}

/// `\x61\x62`: strace's `-xx`. What is not written so is taken as it is.
fn decode(text: &str) -> Result<Vec<u8>> {
    if !text.starts_with("\\x") {
        return Ok(text.as_bytes().to_vec());
    }
    let digits = text.split("\\x").skip(1);
    digits.map(|digits| u8::from_str_radix(digits, 16).context("reading a byte")).collect()
}

fn path(bytes: &[u8]) -> Result<PathBuf> {
    Ok(PathBuf::from(std::str::from_utf8(bytes).context("reading a path")?))
}

fn last_argument(arguments: &str) -> &str {
    arguments.rsplit(", ").next().unwrap_or(arguments)
}

fn number(text: &str) -> Result<usize> {
    let digits: String = text.trim().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().with_context(|| format!("reading the number {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read_as_what_was_done() {
        // Paths stand plain or in hex; both are understood.
        let log = r#"7 openat(AT_FDCWD</tmp>, "/d/a", O_RDWR|O_CREAT|O_CLOEXEC, 0600) = 3</d/a>
7 write(3</d/a>, "\x61\x62", 2) = 2
8 pwrite64(3</d/a>, "\x63\x64", 2, 8 <unfinished ...>
7 write(1<pipe:[5]>, "\x40\x73\x61\x69\x64\x20\x79\x65\x73\x0a", 10) = 10
8 <... pwrite64 resumed>)               = 1
7 write(3</d/a>, "\x65", 1) = 1
7 fdatasync(3<\x2f\x64\x2f\x61>) = 0
7 sendto(4<socket:[1]>, "\x68", 1, 0, NULL, 0) = 1
7 unlink("/d/gone") = -1 ENOENT (No such file or directory)
7 renameat(5<\x2f\x64>, "\x61", 5</d>, "b") = 0
7 openat(AT_FDCWD</tmp>, "/other", O_RDWR|O_CREAT, 0600) = 3</other>
7 ftruncate(5</d/b-shm>, 3) = 0
"#;
        let write = |offset, bytes: &[u8]| Call::Write { file: "/d/a".into(), offset, bytes: bytes.to_vec() };
        assert_eq!(
            parse(log, Path::new("/d")).unwrap(),
            [
                Call::Create("/d/a".into()),
                write(0, b"ab"),
                Call::Said("yes".to_owned()),
                write(8, b"c"),
                write(2, b"e"),
                Call::Sync("/d/a".into()),
                Call::Sent,
                Call::Rename { from: "/d/a".into(), to: "/d/b".into() },
            ]
        );
        assert!(parse("7 link(\"/d/a\", \"/d/b\") = 0\n", Path::new("/d")).is_err());
    }
}

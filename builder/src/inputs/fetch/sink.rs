//! Where the bytes of a download go: a file, and a digest on the way. A thread
//! does both, so that a slow disk slows the download down instead of filling
//! the memory.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::image::key::Digest;

/// So many pieces, of at most some tens of kilobytes each, may wait for the disk.
const QUEUE: usize = 32;
/// Read in pieces of this many bytes.
const PIECE: usize = 1 << 20;

/// A file that grows, and the digest of what is in it so far.
#[derive(Debug)]
pub(super) struct Sink {
    path: PathBuf,
    file: File,
    hash: Sha256,
    have: u64,
}

impl Sink {
    /// Opens the file and takes what is in it already into the digest, up to
    /// `most` bytes: what is behind them is cut off.
    pub(super) async fn open(path: &Path, most: u64) -> io::Result<Self> {
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || {
            let mut file = File::options().create(true).truncate(false).read(true).write(true).open(&path)?;
            if file.metadata()?.len() > most {
                file.set_len(most)?;
            }
            let (mut hash, mut have, mut piece) = (Sha256::new(), 0, vec![0; PIECE]);
            loop {
                match file.read(&mut piece)? {
                    0 => break,
                    length => {
                        hash.update(&piece[..length]);
                        have += length as u64;
                    }
                }
            }
            Ok(Self { path, file, hash, have })
        })
        .await
        .map_err(io::Error::other)?
    }

    /// How many bytes are there.
    pub(super) fn have(&self) -> u64 {
        self.have
    }

    /// Their digest.
    pub(super) fn digest(&self) -> Digest {
        Digest::from_bytes(self.hash.clone().finalize().into())
    }

    /// Throws away what is there.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        (self.hash, self.have) = (Sha256::new(), 0);
        Ok(())
    }

    /// Brings everything to the disk.
    pub(super) async fn sync(self) -> io::Result<()> {
        tokio::task::spawn_blocking(move || self.file.sync_all()).await.map_err(io::Error::other)?
    }

    /// Takes bytes from now on.
    pub(super) fn start(self) -> Pipe {
        let (sender, mut receiver) = mpsc::channel::<bytes::Bytes>(QUEUE);
        let task = tokio::task::spawn_blocking(move || {
            let mut sink = self;
            while let Some(piece) = receiver.blocking_recv() {
                sink.file.write_all(&piece)?;
                sink.hash.update(&piece);
                sink.have += piece.len() as u64;
            }
            Ok(sink)
        });
        Pipe { sender, task }
    }

    /// The file's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// A sink at work.
#[derive(Debug)]
pub(super) struct Pipe {
    sender: mpsc::Sender<bytes::Bytes>,
    task: JoinHandle<io::Result<Sink>>,
}

impl Pipe {
    /// Hands bytes over; waits while too many are waiting. False when the disk
    /// takes no more: [`finish`](Self::finish) says why.
    pub(super) async fn push(&self, piece: bytes::Bytes) -> bool {
        self.sender.send(piece).await.is_ok()
    }

    /// Everything that was handed over is written.
    pub(super) async fn finish(self) -> io::Result<Sink> {
        drop(self.sender);
        self.task.await.map_err(io::Error::other)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_there_and_what_comes_are_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        std::fs::write(&path, b"one, and garbage").unwrap();
        let sink = Sink::open(&path, 5).await.unwrap();
        assert_eq!((sink.have(), sink.digest()), (5, Digest::of(b"one, ")));
        let pipe = sink.start();
        assert!(pipe.push(bytes::Bytes::from_static(b"two")).await);
        let mut sink = pipe.finish().await.unwrap();
        assert_eq!((sink.have(), sink.digest()), (8, Digest::of(b"one, two")));
        assert_eq!(std::fs::read(&path).unwrap(), b"one, two");
        sink.restart().unwrap();
        let pipe = sink.start();
        assert!(pipe.push(bytes::Bytes::from_static(b"new")).await);
        let sink = pipe.finish().await.unwrap();
        assert_eq!((sink.digest(), sink.path()), (Digest::of(b"new"), path.as_path()));
        sink.sync().await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }
}

//! A network that does its worst: a TCP proxy that delays, cuts pieces
//! differently, resets connections and loses answers. It sees ciphertext only,
//! as a real network does.
//!
//! What it does follows from a seed, as far as the order in which packets come
//! does; a test prints it when it fails.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use fastrand::Rng;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// What may happen, and how often: each is a probability from 0 to 1.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    /// A connection is reset before a byte of it is passed on.
    pub refuse: f64,
    /// A piece is held back, for at most `longest_delay`.
    pub delay: f64,
    /// See there.
    pub longest_delay: Duration,
    /// The connection ends with a piece, of which only a part is passed on.
    pub cut: f64,
    /// The connection is reset instead.
    pub reset: f64,
    /// The request is passed on and its answer is not.
    pub lose_answer: f64,
    /// Pieces are passed on in parts of at most so many bytes.
    pub largest_piece: usize,
}

impl Faults {
    /// Nothing happens.
    pub const NONE: Self = Self {
        refuse: 0.0,
        delay: 0.0,
        longest_delay: Duration::ZERO,
        cut: 0.0,
        reset: 0.0,
        lose_answer: 0.0,
        largest_piece: 16 * 1024,
    };
    /// Three answers in ten are lost, and most of the rest is in pieces: some fifty for
    /// a handshake and a configuration. With each of them in danger, one try in four
    /// or so comes to its end.
    pub const HARSH: Self = Self {
        refuse: 0.1,
        delay: 0.2,
        longest_delay: Duration::from_millis(20),
        cut: 0.01,
        reset: 0.01,
        lose_answer: 0.3,
        largest_piece: 700,
    };
}

/// How often something happened.
#[derive(Debug, Default)]
struct Counts {
    connections: AtomicUsize,
    broken: AtomicUsize,
    lost: AtomicUsize,
}

/// The proxy. It ends when it is dropped, and its connections with it.
#[derive(Debug)]
pub struct Chaos {
    address: SocketAddr,
    counts: Arc<Counts>,
    task: JoinHandle<()>,
}

impl Chaos {
    /// Listens on loopback and passes on to `target`.
    pub async fn start(target: SocketAddr, faults: Faults, seed: u64) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listening for the chaos proxy")?;
        let address = listener.local_addr().context("asking where the chaos proxy is")?;
        let counts = Arc::<Counts>::default();
        let task = tokio::spawn(serve(listener, target, faults, Rng::with_seed(seed), Arc::clone(&counts)));
        Ok(Self { address, counts, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that were made to it.
    pub fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::Relaxed)
    }

    /// Connections that it ended before their time.
    pub fn broken(&self) -> usize {
        self.counts.broken.load(Ordering::Relaxed)
    }

    /// Answers that it lost.
    pub fn lost(&self) -> usize {
        self.counts.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Chaos {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, target: SocketAddr, faults: Faults, mut rng: Rng, counts: Arc<Counts>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                counts.connections.fetch_add(1, Ordering::Relaxed);
                let wire = Wire { faults, rng: rng.fork(), counts: Arc::clone(&counts) };
                connections.spawn(wire.carry(client, target));
            }
        }
    }
}

/// One connection's fate.
struct Wire {
    faults: Faults,
    rng: Rng,
    counts: Arc<Counts>,
}

/// What became of a piece.
enum Fate {
    Passed,
    Ended,
}

impl Wire {
    async fn carry(mut self, mut client: TcpStream, target: SocketAddr) {
        if self.happens(self.faults.refuse) {
            self.counts.broken.fetch_add(1, Ordering::Relaxed);
            return reset(&client);
        }
        let Ok(mut server) = TcpStream::connect(target).await else { return };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (mut up, mut down) = ([0; 16 * 1024], [0; 16 * 1024]);
        // The first thing the server says is its half of the handshake; what
        // it says after each further word of the client's is an answer.
        let (mut turn, mut clients_turn) = (0, true);
        loop {
            let fate = tokio::select! {
                read = client.read(&mut up) => {
                    clients_turn = true;
                    let Some(length) = some(read) else { return };
                    self.pass(&up[..length], &mut server).await
                }
                read = server.read(&mut down) => {
                    turn += usize::from(std::mem::take(&mut clients_turn));
                    let Some(length) = some(read) else { return };
                    if turn > 1 && self.happens(self.faults.lose_answer) {
                        self.counts.lost.fetch_add(1, Ordering::Relaxed);
                        Fate::Ended
                    } else {
                        self.pass(&down[..length], &mut client).await
                    }
                }
            };
            if matches!(fate, Fate::Ended) {
                self.counts.broken.fetch_add(1, Ordering::Relaxed);
                if self.happens(0.5) {
                    reset(&client);
                }
                return;
            }
        }
    }

    /// Passes a piece on in parts, late, or not to its end.
    async fn pass(&mut self, piece: &[u8], to: &mut TcpStream) -> Fate {
        let mut rest = piece;
        while !rest.is_empty() {
            let (part, others) = rest.split_at(self.rng.usize(1..=rest.len().min(self.faults.largest_piece)));
            rest = others;
            if self.happens(self.faults.delay) {
                tokio::time::sleep(self.faults.longest_delay.mul_f64(self.rng.f64())).await;
            }
            if self.happens(self.faults.reset) {
                reset(to);
                return Fate::Ended;
            }
            let cut = self.happens(self.faults.cut);
            let part = if cut { &part[..part.len() / 2] } else { part };
            if to.write_all(part).await.is_err() || cut {
                return Fate::Ended;
            }
        }
        Fate::Passed
    }

    fn happens(&mut self, probability: f64) -> bool {
        self.rng.f64() < probability
    }
}

/// The length of what was read, if anything was.
fn some(read: std::io::Result<usize>) -> Option<usize> {
    read.ok().filter(|length| *length > 0)
}

/// The other side sees a reset instead of an end.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers each byte with the byte after it.
    async fn successor() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    while let Ok(byte) = stream.read_u8().await {
                        stream.write_u8(byte.wrapping_add(1)).await?;
                    }
                    std::io::Result::Ok(())
                });
            }
        });
        address
    }

    async fn ask(chaos: &Chaos, byte: u8) -> std::io::Result<u8> {
        let mut stream = TcpStream::connect(chaos.address()).await?;
        for _ in 0..2 {
            stream.write_u8(byte).await?;
            assert_eq!(stream.read_u8().await?, byte + 1, "a byte was changed");
        }
        Ok(byte)
    }

    #[tokio::test]
    async fn without_faults_everything_is_passed_on() {
        let chaos = Chaos::start(successor().await, Faults::NONE, 1).await.unwrap();
        for byte in 0..50 {
            ask(&chaos, byte).await.unwrap();
        }
        assert_eq!((chaos.connections(), chaos.broken(), chaos.lost()), (50, 0, 0));
    }

    #[tokio::test]
    async fn the_first_answer_of_a_connection_is_its_handshake_and_the_second_may_be_lost() {
        let faults = Faults { lose_answer: 1.0, ..Faults::NONE };
        let chaos = Chaos::start(successor().await, faults, 1).await.unwrap();
        assert!(ask(&chaos, 7).await.is_err());
        assert_eq!((chaos.broken(), chaos.lost()), (1, 1));
    }

    #[tokio::test]
    async fn about_as_many_answers_are_lost_as_was_asked_for() {
        let faults = Faults { lose_answer: 0.3, ..Faults::NONE };
        let chaos = Chaos::start(successor().await, faults, 1).await.unwrap();
        let mut failures = 0;
        for byte in 0..200 {
            failures += usize::from(ask(&chaos, byte).await.is_err());
        }
        assert_eq!(failures, chaos.lost());
        assert!((30..90).contains(&failures), "{failures} of 200");
    }
}

//! QEMU's monitor (QMP): commands with a deadline, and events.
//!
//! The types are those of the `qapi` crate; the channel is our own, because
//! that crate's asynchronous client dies of a cancelled call, a late answer or
//! an event it does not know. Here each of them is simply ignored.

use std::collections::HashMap;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::AbortHandle;

/// How long a command may take unless the caller says otherwise.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a command has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QmpError {
    /// QEMU refused it.
    #[error("QEMU refused {command}: {message}")]
    Refused {
        /// The command's name.
        command: &'static str,
        /// QEMU's own words.
        message: String,
    },
    /// QEMU did not answer in time.
    #[error("QEMU did not answer {command} within {} s", .after.as_secs())]
    Timeout {
        /// The command's name.
        command: &'static str,
        /// The deadline that passed.
        after: Duration,
    },
    /// The monitor is gone, and so is QEMU, or nearly.
    #[error("QEMU closed its monitor before it answered {0}")]
    Closed(&'static str),
    /// The answer is not what the schema promises.
    #[error("QEMU's answer to {command} is not understood: {message}")]
    Malformed {
        /// The command's name.
        command: &'static str,
        /// What is wrong with it.
        message: String,
    },
}

/// Something QEMU tells without being asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its name, such as `SHUTDOWN` or `GUEST_PANICKED`.
    pub name: String,
    /// What it says, null when nothing.
    pub data: Value,
}

/// Why QEMU stopped its machine.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Shutdown {
    /// Whether the guest did it itself.
    pub guest: bool,
    /// `guest-shutdown`, `guest-reset`, `guest-panic`, `host-qmp-quit`,
    /// `host-signal`, ...; newer QEMUs may have more.
    pub reason: String,
}

type Answers = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<Value, String>>>>>;

/// A connection to the monitor. Closed when dropped.
#[derive(Debug)]
pub struct Qmp {
    lines: mpsc::UnboundedSender<String>,
    answers: Answers,
    next_id: AtomicU64,
    events: broadcast::Sender<Event>,
    shutdown: watch::Receiver<Option<Shutdown>>,
    reader: AbortHandle,
    closed: watch::Receiver<bool>,
}

impl Drop for Qmp {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Qmp {
    /// Connects to the socket `name` in `dir`, however long the path is.
    pub async fn connect(dir: &Path, name: &str) -> std::io::Result<Self> {
        // A socket's address holds 107 bytes; through the directory's file
        // descriptor it is always short enough.
        let dir = std::fs::File::open(dir)?;
        let path = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
        let stream = UnixStream::connect(path).await?;
        Self::handshake(stream).await.map_err(std::io::Error::other)
    }

    /// Speaks the protocol over any stream.
    pub async fn handshake<S>(stream: S) -> Result<Self, QmpError>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (read, write) = tokio::io::split(stream);
        let answers = Answers::default();
        let (events, _) = broadcast::channel(256);
        let (shutdown_tx, shutdown) = watch::channel(None);
        let (closed_tx, closed) = watch::channel(false);
        let (lines, queue) = mpsc::unbounded_channel();
        tokio::spawn(write_lines(write, queue));
        let reader = Reader { answers: answers.clone(), events: events.clone(), shutdown: shutdown_tx };
        let reader = tokio::spawn(async move {
            reader.read(read).await;
            closed_tx.send_replace(true);
        });
        let qmp = Self {
            lines,
            answers,
            next_id: AtomicU64::new(1),
            events,
            shutdown,
            reader: reader.abort_handle(),
            closed,
        };
        qmp.call("qmp_capabilities", json!({}), CALL_TIMEOUT).await?;
        Ok(qmp)
    }

    /// Runs a command and waits [`CALL_TIMEOUT`] for its answer.
    pub async fn run<C: qapi::Command>(&self, command: C) -> Result<C::Ok, QmpError> {
        self.run_within(command, CALL_TIMEOUT).await
    }

    /// Runs a command and waits `timeout` for its answer.
    pub async fn run_within<C: qapi::Command>(
        &self,
        command: C,
        timeout: Duration,
    ) -> Result<C::Ok, QmpError> {
        let malformed =
            |error: serde_json::Error| QmpError::Malformed { command: C::NAME, message: error.to_string() };
        let arguments = serde_json::to_value(&command).map_err(malformed)?;
        let answer = self.call(C::NAME, arguments, timeout).await?;
        serde_json::from_value(answer).map_err(malformed)
    }

    /// Runs a command of which the schema's types know nothing, or too little.
    pub async fn call(
        &self,
        command: &'static str,
        arguments: Value,
        timeout: Duration,
    ) -> Result<Value, QmpError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (send, receive) = oneshot::channel();
        lock(&self.answers).insert(id, send);
        let forget = Forget { answers: &self.answers, id };
        if *self.closed.borrow() {
            return Err(QmpError::Closed(command));
        }
        let line = json!({ "execute": command, "arguments": arguments, "id": id });
        let _ = self.lines.send(format!("{line}\n"));
        let answer = tokio::time::timeout(timeout, receive).await;
        drop(forget);
        match answer {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(message))) => Err(QmpError::Refused { command, message }),
            Ok(Err(_)) => Err(QmpError::Closed(command)),
            Err(_) => Err(QmpError::Timeout { command, after: timeout }),
        }
    }

    /// Events from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Why the machine was stopped, if it was.
    pub fn shutdown(&self) -> Option<Shutdown> {
        self.shutdown.borrow().clone()
    }

    /// Waits until QEMU closed the connection.
    pub async fn closed(&self) {
        let mut closed = self.closed.clone();
        let _ = closed.wait_for(|closed| *closed).await;
    }
}

/// Takes a call's place away when nobody waits for its answer any more.
struct Forget<'a> {
    answers: &'a Answers,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(self.answers).remove(&self.id);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn write_lines(mut write: impl AsyncWrite + Unpin, mut queue: mpsc::UnboundedReceiver<String>) {
    while let Some(line) = queue.recv().await {
        if write.write_all(line.as_bytes()).await.is_err() {
            return;
        }
    }
}

struct Reader {
    answers: Answers,
    events: broadcast::Sender<Event>,
    shutdown: watch::Sender<Option<Shutdown>>,
}

impl Reader {
    async fn read(self, read: impl AsyncRead + Unpin) {
        let mut read = BufReader::new(read);
        let mut line = Vec::new();
        while matches!(read.read_until(b'\n', &mut line).await, Ok(1..)) {
            if let Some(message) = Message::parse(&line) {
                self.take(message);
            }
            line.clear();
        }
        // Whoever still waits is told that no answer comes.
        lock(&self.answers).clear();
    }

    fn take(&self, message: Message) {
        match message {
            Message::Answer { id, result } => {
                if let Some(caller) = lock(&self.answers).remove(&id) {
                    let _ = caller.send(result);
                }
            }
            Message::Event(event) => {
                if event.name == "SHUTDOWN"
                    && let Ok(shutdown) = Shutdown::deserialize(&event.data)
                {
                    self.shutdown.send_replace(Some(shutdown));
                }
                let _ = self.events.send(event);
            }
        }
    }
}

/// A line of the monitor, as far as it matters.
#[derive(Debug, PartialEq)]
enum Message {
    Answer { id: u64, result: Result<Value, String> },
    Event(Event),
}

impl Message {
    fn parse(line: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Raw {
            id: Option<u64>,
            #[serde(rename = "return")]
            answer: Option<Value>,
            error: Option<RawError>,
            event: Option<String>,
            #[serde(default)]
            data: Value,
        }
        #[derive(Deserialize)]
        struct RawError {
            desc: String,
        }
        // A byte 0xFF resets the peer's parser and may stand before a line.
        let line = line.strip_prefix(&[0xff]).unwrap_or(line);
        let raw: Raw = serde_json::from_slice(line).ok()?;
        match raw {
            Raw { event: Some(name), data, .. } => Some(Self::Event(Event { name, data })),
            Raw { id: Some(id), error: Some(error), .. } => {
                Some(Self::Answer { id, result: Err(error.desc) })
            }
            Raw { id: Some(id), answer, .. } => {
                Some(Self::Answer { id, result: Ok(answer.unwrap_or(Value::Null)) })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
#[path = "qmp_tests.rs"]
mod tests;

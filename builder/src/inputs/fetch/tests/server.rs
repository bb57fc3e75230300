//! An HTTP server that misbehaves as it is told: what it sends is written byte
//! by byte, so that it can end or hang anywhere.

use std::sync::{Arc, Mutex};

use reqwest::Url;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What a client asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) path: String,
    pub(super) range: Option<String>,
    pub(super) if_range: Option<String>,
}

/// What it gets.
#[derive(Debug, Clone, Default)]
pub(super) struct Reply {
    head: String,
    body: Vec<u8>,
    hangs: bool,
}

impl Reply {
    /// A status line and headers, as they are sent.
    pub(super) fn new(status: &str) -> Self {
        Self { head: format!("HTTP/1.1 {status}\r\nconnection: close\r\n"), ..Self::default() }
    }

    pub(super) fn header(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.head = format!("{}{name}: {value}\r\n", self.head);
        self
    }

    /// The body, its length included.
    pub(super) fn body(self, body: &[u8]) -> Self {
        let reply = self.header("content-length", body.len());
        Self { body: body.to_vec(), ..reply }
    }

    /// Ends the connection after so many bytes of the body.
    pub(super) fn cut(mut self, after: usize) -> Self {
        self.body.truncate(after);
        self
    }

    /// Sends so many bytes of the body and nothing more.
    pub(super) fn hang(self, after: usize) -> Self {
        Self { hangs: true, ..self.cut(after) }
    }
}

/// A server that runs as long as this value lives.
pub(super) struct Server {
    pub(super) url: Url,
    asked: Arc<Mutex<Vec<Asked>>>,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Answers the n-th request, counted from 0, with `reply`.
    pub(super) async fn start(reply: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/file.bin", listener.local_addr().unwrap()).parse().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, reply) = (asked.clone(), Arc::new(reply));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, log.clone(), reply.clone()));
            }
        });
        Self { url, asked, _tasks: tasks }
    }

    /// What it was asked, so far.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(
    mut stream: TcpStream,
    log: Arc<Mutex<Vec<Asked>>>,
    reply: Arc<impl Fn(&Asked, usize) -> Reply>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let header = |name: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.map(str::to_owned)
    };
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let asked = Asked { path, range: header("range"), if_range: header("if-range") };
    let number = {
        let mut log = log.lock().unwrap();
        log.push(asked.clone());
        log.len() - 1
    };
    let reply = reply(&asked, number);
    // A client that has gone away is none of our business.
    let _ = stream.write_all(format!("{}\r\n", reply.head).as_bytes()).await;
    let _ = stream.write_all(&reply.body).await;
    let _ = stream.flush().await;
    if reply.hangs {
        std::future::pending::<()>().await;
    }
    let _ = stream.shutdown().await;
}

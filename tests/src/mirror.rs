//! A mirror for the tests: serves the files below a directory over HTTP or
//! HTTPS, knows ranges and entity tags, stands in for a proxy, and holds a
//! transfer up half-way until it is told to go on.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A transfer that is held up waits no longer than this.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a client asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The path, as it was sent; to a proxy, the whole URL.
    pub path: String,
    /// The bytes it wants.
    pub range: Option<String>,
}

/// A server that runs until the tests end.
#[derive(Debug)]
pub struct Mirror {
    address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    asked: Vec<Asked>,
    /// Paths whose transfer stops after so many bytes.
    held: BTreeMap<String, u64>,
    /// Paths at which a transfer was stopped at least once.
    stopped: Vec<String>,
    /// Paths that lead elsewhere.
    redirects: BTreeMap<String, String>,
}

impl Mirror {
    /// Serves what is below `root` over HTTP.
    pub fn start(root: &Path) -> Self {
        Self::serve(root, None)
    }

    /// Serves it over HTTPS, with the certificate and key of this configuration.
    pub fn start_tls(root: &Path, config: Arc<ServerConfig>) -> Self {
        Self::serve(root, Some(config))
    }

    fn serve(root: &Path, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let shared = Shared { root: root.to_owned(), state: Mutex::default(), changed: Condvar::new() };
        let shared = Arc::new(shared);
        let theirs = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, tls) = (theirs.clone(), tls.clone());
                // A client that went away is what some tests are about.
                std::thread::spawn(move || match tls {
                    None => answer(&shared, stream),
                    Some(config) => {
                        let connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
                        answer(&shared, StreamOwned::new(connection, stream))
                    }
                });
            }
        });
        Self { address, scheme, shared }
    }

    /// The URL of something on it.
    pub fn url(&self, path: &str) -> String {
        format!("{}://localhost:{}/{path}", self.scheme, self.address.port())
    }

    /// What it was asked for, so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.state().asked.clone()
    }

    /// How often it was asked for a path.
    pub fn count(&self, path: &str) -> usize {
        self.state().asked.iter().filter(|asked| asked.path == path).count()
    }

    /// Stops each transfer of a path after so many bytes.
    pub fn hold(&self, path: &str, after: u64) {
        self.state().held.insert(path.to_owned(), after);
    }

    /// Whether a transfer of a path was stopped.
    pub fn is_holding(&self, path: &str) -> bool {
        self.state().stopped.iter().any(|stopped| stopped == path)
    }

    /// Lets all transfers go on.
    pub fn release(&self) {
        self.state().held.clear();
        self.shared.changed.notify_all();
    }

    /// A path leads elsewhere from now on.
    pub fn redirect(&self, path: &str, to: &str) {
        self.state().redirects.insert(path.to_owned(), to.to_owned());
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.shared.state.lock().expect("no server thread panics")
    }
}

fn answer(shared: &Shared, stream: impl std::io::Read + Write) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        if line.trim_end().is_empty() {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let out = stream.get_mut();
    let header = |name: &str| {
        let value = |line: &String| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then(|| value.to_owned())
        };
        lines.iter().find_map(value)
    };
    let target = lines.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
    let redirect = {
        let mut state = shared.state.lock().expect("no server thread panics");
        state.asked.push(Asked { path: target.clone(), range: header("range") });
        state.redirects.get(&target).cloned()
    };
    if let Some(to) = redirect {
        return write!(
            out,
            "HTTP/1.1 302 Found\r\nconnection: close\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n"
        );
    }
    // A proxy is asked for a whole URL.
    let path =
        target.strip_prefix("http://").and_then(|rest| Some(rest.split_once('/')?.1)).unwrap_or(&target);
    let file = shared.root.join(path.trim_start_matches('/').replace("%2B", "+"));
    let Some(metadata) = fs::metadata(&file).ok().filter(fs::Metadata::is_file) else {
        let page = "<html>nothing here</html>";
        let length = page.len();
        return write!(
            out,
            "HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{page}"
        );
    };
    let (size, tag) = (metadata.len(), format!("\"{}-{}\"", metadata.len(), metadata.mtime_nsec()));
    let wanted = header("range")
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<u64>().ok());
    let same = header("if-range").is_none_or(|theirs| theirs == tag);
    let first = match wanted {
        Some(first) if first >= size => {
            return write!(
                out,
                "HTTP/1.1 416 Range Not Satisfiable\r\nconnection: close\r\ncontent-range: bytes */{size}\r\n\
                 content-length: 0\r\n\r\n"
            );
        }
        Some(first) if same => first,
        _ => 0,
    };
    let (status, range) = if first > 0 {
        ("206 Partial Content", format!("content-range: bytes {first}-{}/{size}\r\n", size - 1))
    } else {
        ("200 OK", String::new())
    };
    write!(
        out,
        "HTTP/1.1 {status}\r\nconnection: close\r\netag: {tag}\r\n{range}content-length: {}\r\n\r\n",
        size - first
    )?;
    send(shared, &target, &file, first, out)?;
    out.flush()
}

fn send(shared: &Shared, target: &str, file: &Path, first: u64, out: &mut impl Write) -> std::io::Result<()> {
    let mut file = fs::File::open(file)?;
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(first))?;
    let held = shared.state.lock().expect("no server thread panics").held.get(target).copied();
    if let Some(after) = held.filter(|after| *after > first) {
        std::io::copy(&mut (&mut file).take(after - first), out)?;
        out.flush()?;
        let mut state = shared.state.lock().expect("no server thread panics");
        state.stopped.push(target.to_owned());
        let going_on =
            shared.changed.wait_timeout_while(state, PATIENCE, |state| state.held.contains_key(target));
        drop(going_on);
    }
    std::io::copy(&mut file, out).map(drop)
}

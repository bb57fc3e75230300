//! Nodes that speak for themselves: until they are ready, and while they wait.

use super::*;

/// A node without an agent.
struct RawNode<'a> {
    address: &'a str,
    key: Fingerprint,
    config: std::sync::Arc<rustls::ClientConfig>,
    /// Where its ratchet is, once it is bound.
    ratchet: std::cell::Cell<Option<Notch>>,
}

impl<'a> RawNode<'a> {
    fn new(address: &'a str, identity: &Identity, pin: Fingerprint) -> Self {
        let config = std::sync::Arc::new(tls::client_config(identity, pin).unwrap());
        Self { address, key: identity.fingerprint(), config, ratchet: std::cell::Cell::new(None) }
    }

    /// A connection on which this was asked, and the answer up to `end`.
    async fn ask(
        &self,
        request: &str,
        end: &[u8],
    ) -> (tokio_rustls::client::TlsStream<tokio::net::TcpStream>, String) {
        let tcp = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("kiln.invalid").unwrap();
        let connector = tokio_rustls::TlsConnector::from(self.config.clone());
        let mut stream = connector.connect(name, tcp).await.unwrap();
        if let Some(cur) = self.ratchet.get() {
            let next = Notch::random();
            let open = OpenRequest::new(Turn { cur, next }, None);
            let answer = exchange(&mut stream, &Self::posting(OPEN, &open), b"}}").await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            self.ratchet.set(Some(next));
        }
        let answer = exchange(&mut stream, request, end).await;
        (stream, answer)
    }

    fn posting(path: &str, body: &impl serde::Serialize) -> String {
        let body = serde_json::to_string(body).unwrap();
        format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    async fn post(&self, path: &str, body: &impl serde::Serialize, end: &[u8]) -> String {
        self.ask(&Self::posting(path, body), end).await.1
    }

    async fn enrol(&self, ticket: &Ticket) {
        let (key, facts) = (ticket.public_key(), Facts::default());
        let request = EnrolRequest { ticket: key, proof: ticket.prove(&self.key), facts };
        let answer = self.post(api::ENROL, &request, b"}").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        self.ratchet.set(Some(Notch::random()));
    }
}

/// Asks, and returns the answer up to `end`.
async fn exchange(
    stream: &mut tokio_rustls::client::TlsStream<tokio::net::TcpStream>,
    request: &str,
    end: &[u8],
) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(end) {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
    }
    String::from_utf8(answer).unwrap()
}

#[test]
fn until_ready_ends_once_every_node_is_ready() {
    let host = Host::initialised();
    let serving = Serving::start_with(&host, &["--until-ready", "--timeout", "5m"]);
    let address = endpoint(&host, "address");
    let ticket: Ticket = host.ok(&["ticket", "--node", "s1", "--advertise", &address]).parse().unwrap();
    let identity = Identity::generate().unwrap();
    let node = RawNode::new(&address, &identity, ticket.pin());
    let (boot_id, step, state) = ("b".to_owned(), Step::Ready, StepState::Done);
    let ready = Report { boot_id, sequence: 1, uptime_ms: 1, step, state, facts: None, usage: None };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        node.enrol(&ticket).await;
        let answer = node.post(api::REPORT, &ready, b"\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 204"), "the last report is answered: {answer}");
    });
    assert_eq!(serving.exit_code(), Some(0));
}

/// What a process has in memory, in bytes.
fn resident(process: u32) -> usize {
    let statm = fs::read_to_string(format!("/proc/{process}/statm")).unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn an_agent_that_waits_for_news_costs_little_memory() {
    // 12 kB with optimisation: a TLS session with a buffer of 4, and a future.
    const LIMIT: usize = 20_000;
    const WARM_UP: usize = 50;
    const AGENTS: usize = 200;
    let host = Host::initialised();
    let serving = Serving::start(&host);
    let (address, status) = (endpoint(&host, "address"), endpoint(&host, "status"));
    let ticket: Ticket = host.ok(&["ticket", "--node", "s1", "--advertise", &address]).parse().unwrap();
    let identity = Identity::generate().unwrap();
    let node = RawNode::new(&address, &identity, ticket.pin());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(node.enrol(&ticket));
    let get = format!("GET {} HTTP/1.1\r\nhost: x\r\n", api::CONFIG);
    let (_, first) = runtime.block_on(node.ask(&format!("{get}\r\n"), b"}"));
    let tag = first.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
    let poll = format!("{get}if-none-match: {tag}\r\nprefer: wait=300\r\n\r\n");
    let mut open = Vec::new();
    let mut with = |count: usize| {
        while open.len() < count {
            open.push(runtime.block_on(node.ask(&poll, b"")));
        }
        let all = format!("kiln_requests_held_open {count}");
        let deadline = Instant::now() + PATIENCE;
        while !page(&status, "/metrics").lines().any(|line| line == all) {
            assert!(Instant::now() < deadline, "not all are held open:\n{}", page(&status, "/metrics"));
            std::thread::sleep(Duration::from_millis(20));
        }
        resident(serving.0.id())
    };
    // What the program takes once is no agent's.
    let before = with(WARM_UP);
    let each = with(WARM_UP + AGENTS).saturating_sub(before) / AGENTS;
    println!("{each} bytes an agent");
    assert!(each < LIMIT, "{each} bytes an agent");
}

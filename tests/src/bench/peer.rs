//! The bare handshake loop: TLS 1.3 with both sides' keys, by the same library,
//! the same configuration and the same kind of key as the coordinator's, and
//! nothing after it.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use kiln_protocol::{Identity, tls};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::agent::Agent;
use super::process::{Cores, Tested};

/// Shakes hands for ever; says first where.
pub(super) async fn serve() -> Result<()> {
    let identity = Identity::generate()?;
    let acceptor = TlsAcceptor::from(Arc::new(tls::server_config(&identity)?));
    let listener = TcpListener::bind("127.0.0.1:0").await.context("listening on loopback")?;
    println!("{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await.context("accepting a connection")?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            if let Ok(mut stream) = acceptor.accept(stream).await {
                // Until the client has had enough.
                let _ = stream.read(&mut [0; 1]).await;
            }
        });
    }
}

/// The loop in a process of its own, on the tested core.
pub(super) struct Peer {
    pub(super) process: Tested,
    pub(super) address: SocketAddr,
}

impl Peer {
    pub(super) fn start(cores: &Cores) -> Result<Self> {
        use std::io::BufRead as _;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("peer").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = Tested::start(command, cores)?;
        let out = process.child().stdout.take().context("its output is piped")?;
        let mut line = String::new();
        std::io::BufReader::new(out).read_line(&mut line).context("asking the peer where it listens")?;
        Ok(Self { process, address: line.trim().parse().context("the peer's address")? })
    }
}

/// One handshake, waited for on both sides.
pub(super) async fn handshake(agent: &Agent, to: SocketAddr) -> Result<()> {
    use tokio::io::AsyncWriteExt as _;
    let mut stream = agent.handshake(to).await?;
    stream.shutdown().await?;
    // The server ends the connection only after its own half was done.
    let _ = stream.read(&mut [0; 1]).await;
    Ok(())
}

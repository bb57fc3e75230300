//! The one listener of nodes and admins.

use std::net::SocketAddr;

/// A coordinator that is answering. Dropping it stops it at once; answers in
/// flight are finished by [`Server::shutdown`].
#[derive(Debug)]
pub struct Server {
    local_addr: SocketAddr,
}

impl Server {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Accepts nothing more, finishes the answers in flight and returns.
    pub async fn shutdown(self) {}
}

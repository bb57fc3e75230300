//! Ports and groups on loopback, chosen once per object and then kept.
//!
//! They come from below the range the kernel gives to outgoing connections
//! (32768 and up by default), so that a port stays free while its VM is off;
//! where the search begins follows from the name, so that two clusters rarely
//! look at the same place.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};

use anyhow::{Context as _, Result};
use sha2::{Digest, Sha256};

const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

fn digest(name: &str) -> [u8; 32] {
    Sha256::digest(name).into()
}

/// All ports, from the one the name leads to.
fn candidates(name: &str) -> impl Iterator<Item = u16> {
    let [a, b, ..] = digest(name);
    let start = u16::from_be_bytes([a, b]) % COUNT;
    (0..COUNT).map(move |n| FIRST + (start + n) % COUNT)
}

/// A TCP port of 127.0.0.1 that nobody listens on.
pub(super) fn free_tcp(name: &str, taken: &[u16]) -> Result<u16> {
    candidates(name)
        .filter(|port| !taken.contains(port))
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .context("no free TCP port on 127.0.0.1")
}

/// A multicast group and port that no VM uses: in 239.255.0.0/16, which no
/// router forwards (RFC 2365), and bound to loopback besides.
pub(super) fn free_segment(name: &str) -> Result<SocketAddrV4> {
    let [.., c, d] = digest(name);
    let group = Ipv4Addr::new(239, 255, c, d);
    // QEMU shares the address with its peers; a socket that shares with
    // nobody can be bound only while there are none.
    candidates(name)
        .find(|port| UdpSocket::bind((group, *port)).is_ok())
        .map(|port| SocketAddrV4::new(group, port))
        .context("no free UDP port for the nodes' network on 127.0.0.1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_passed_over() {
        let first = free_tcp("home/k3s-s1", &[]).unwrap();
        assert!((FIRST..FIRST + COUNT).contains(&first));
        assert_ne!(free_tcp("home/k3s-s1", &[first]).unwrap(), first);
        let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, first)).unwrap();
        assert_ne!(free_tcp("home/k3s-s1", &[]).unwrap(), first);
    }

    #[test]
    fn a_segment_in_use_is_passed_over() {
        let first = free_segment("ports-test").unwrap();
        assert!(first.ip().is_multicast());
        let _peer = UdpSocket::bind(first).unwrap();
        assert_ne!(free_segment("ports-test").unwrap(), first);
    }
}

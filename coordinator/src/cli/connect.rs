//! Finding the coordinator that a command is for.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result};
use kiln_protocol::Fingerprint;
use kiln_protocol::ticket::Address;
use serde::{Deserialize, Serialize};

use super::arguments::Remote;
use crate::client::Client;
use crate::store::dir::StateDir;

/// What a running `serve` leaves for the commands on its host.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Endpoint {
    /// Where it listens.
    pub(super) address: SocketAddr,
}

impl Endpoint {
    /// The address to connect to: a listener on every address is reached over loopback.
    fn reachable(&self) -> Result<Address> {
        let ip = match self.address.ip() {
            ip if !ip.is_unspecified() => ip,
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        Ok(Address::new(ip.to_string().parse()?, self.address.port()))
    }
}

/// No coordinator serves the state.
#[derive(Debug, thiserror::Error)]
#[error("no coordinator serves the state in {state}: start it with: coordinator serve --state {state}")]
pub(super) struct NotServed {
    state: String,
}

/// A client of the coordinator in question, and its pin.
pub(super) fn connect(remote: &Remote) -> Result<(Client, Fingerprint)> {
    if let (Some(address), Some(pin), Some(key)) = (&remote.address, remote.pin, &remote.admin_key) {
        let identity = StateDir::read_key(key)?;
        return Ok((Client::new(address.clone(), &identity, pin)?, pin));
    }
    let state = StateDir::new(&remote.state.state);
    state.check()?;
    let pin = StateDir::read_key(&state.coordinator_key())?.fingerprint();
    let identity = StateDir::read_key(&state.admin_key())?;
    let endpoint = match fs::read(state.endpoint()) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(NotServed { state: state.path().display().to_string() }.into());
        }
        other => other.with_context(|| format!("reading {}", state.endpoint().display()))?,
    };
    let endpoint: Endpoint = serde_json::from_slice(&endpoint)
        .with_context(|| format!("reading {}", state.endpoint().display()))?;
    Ok((Client::new(endpoint.reachable()?, &identity, pin)?, pin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_address_is_reached_over_loopback() {
        for (listens, reached) in
            [("0.0.0.0:7443", "127.0.0.1:7443"), ("[::]:7443", "[::1]:7443"), ("10.0.0.1:1", "10.0.0.1:1")]
        {
            let endpoint = Endpoint { address: listens.parse().unwrap() };
            assert_eq!(endpoint.reachable().unwrap().to_string(), reached);
        }
    }
}

//! Finding the coordinator that a command is for.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::arguments::Remote;
use crate::client::{Client, ClientError};
use crate::store::dir::StateDir;

/// What a running `serve` leaves for whoever wants to know where it listens.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Endpoint {
    /// Where it listens.
    pub(super) address: SocketAddr,
    /// Where the status page is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<SocketAddr>,
    /// The cluster file that it puts in force whenever it starts or is told to
    /// reload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cluster: Option<PathBuf>,
}

/// No coordinator serves the state.
#[derive(Debug, thiserror::Error)]
#[error("no coordinator serves the state in {state}: start it with: coordinator serve --state {state}")]
pub(super) struct NotServed {
    state: String,
}

/// Whoever asks may not look into the state, and so cannot know who serves it.
#[derive(Debug, thiserror::Error)]
#[error(
    "the coordinator's socket in {state} is not yours to use (permission denied): only root and the coordinator's \
     user may ask there\n  run it with sudo, or ask with --address, --pin and --admin-key"
)]
struct NotAllowed {
    state: String,
}

/// A client of the coordinator in question: over the socket of the one that
/// serves `--state`, or over TLS with an admin's key.
pub(super) fn connect(remote: &Remote) -> Result<Client> {
    if let (Some(address), Some(pin), Some(key)) = (&remote.address, remote.pin, &remote.admin_key) {
        let identity = StateDir::read_key(key)?;
        return Ok(Client::new(address, &identity, pin)?);
    }
    let state = StateDir::new(&remote.state.state);
    let looking = || format!("looking for {}", state.socket().display());
    let found = state.check().and_then(|()| fs::symlink_metadata(state.socket()).with_context(looking));
    let Err(error) = found else { return Ok(Client::local(&state.socket())?) };
    let state = state.path().display().to_string();
    match error.chain().find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind) {
        Some(ErrorKind::NotFound) => Err(NotServed { state }.into()),
        Some(ErrorKind::PermissionDenied) => Err(NotAllowed { state }.into()),
        _ => Err(error),
    }
}

/// The cluster file that the coordinator in question puts in force by itself, if
/// it is one of this host and has any.
pub(super) fn own_cluster_file(remote: &Remote) -> Option<PathBuf> {
    if remote.address.is_some() {
        return None;
    }
    // Where that cannot be known, nothing is lost but a warning.
    let text = fs::read(StateDir::new(&remote.state.state).endpoint()).ok()?;
    serde_json::from_slice::<Endpoint>(&text).ok()?.cluster
}

/// Whether an error says that nobody serves the state any more, although the
/// socket is still there.
pub(super) fn is_unreachable(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ClientError::Unreachable { .. } | ClientError::Pin { .. }))
        || error.is::<NotServed>()
}

//! The admin's Unix socket on the coordinator's own host. The directory it is
//! in is its owner's alone (0700), the socket too (0600), and whoever connects
//! is asked of the kernel: root and the coordinator's own user may.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use axum::body::Body;
use hyper::Request;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::connection::{Shared, answered, converse};
use super::park::Parking;

/// A user of this host, as the kernel names it.
#[derive(Debug, Clone, Copy)]
pub(super) struct LocalPeer {
    pub(super) uid: u32,
}

/// The socket, and who owns it.
#[derive(Debug)]
pub struct LocalListener {
    pub(super) socket: UnixListener,
    owner: u32,
}

impl LocalListener {
    /// Listens at `path`, in place of a socket that an earlier run left. The state
    /// that it speaks for must be open in this process.
    pub fn bind(path: &Path) -> Result<Self> {
        let at = || format!("listening on {}", path.display());
        // The state is locked, so whoever made it is gone.
        let _ = fs::remove_file(path);
        let socket = UnixListener::bind(path).with_context(at)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).with_context(at)?;
        let owner = fs::metadata(path).with_context(at)?.uid();
        Ok(Self { socket, owner })
    }

    pub(super) fn spawn(&self, connections: &mut JoinSet<()>, shared: &Arc<Shared>, stream: UnixStream) {
        let uid = match stream.peer_cred() {
            Ok(peer) if may(peer.uid(), self.owner) => peer.uid(),
            Ok(peer) => return tracing::warn!("uid {} may not use the admin's socket", peer.uid()),
            Err(error) => return tracing::warn!("asking who is at the admin's socket: {error}"),
        };
        let (send, place) = oneshot::channel();
        let shared = Arc::clone(shared);
        let crowd = shared.crowds.local.clone();
        let task = connections.spawn(async move {
            let _place = place.await;
            let answer = |mut request: Request<Body>| {
                request.extensions_mut().insert(LocalPeer { uid });
                let routes = TowerToHyperService::new(shared.admin_routes.clone());
                async move { Ok(answered(routes.call(request).await)) }
            };
            let whose = format!("of local uid {uid}");
            converse(&shared, stream, &whose, &Parking::default(), || None, answer).await;
        });
        let _ = send.send(crowd.enter((), task));
    }
}

fn may(uid: u32, owner: u32) -> bool {
    uid == 0 || uid == owner
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_owner_may_and_nobody_else() {
        assert!(may(0, 61234) && may(61234, 61234));
        assert!(!may(1000, 61234) && !may(1000, 0) && !may(65534, 61234));
    }
}

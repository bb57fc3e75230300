//! What the parts of a running server share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::auth::Authenticator;
use crate::pki::{Authorities, Issued};
use crate::store::Store;

/// A running server.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) store: Store,
    pub(crate) authorities: Authorities,
    pub(crate) auth: Authenticator,
    /// `<data-dir>/server`.
    pub(crate) directory: PathBuf,
    /// What `/cacerts` answers with.
    pub(crate) cacerts: Vec<u8>,
    pub(crate) port: u16,
    /// What has to be the same on every server.
    pub(crate) critical: BTreeMap<String, String>,
    /// Certificates that are the same for every node.
    pub(crate) kube_proxy: Issued,
    pub(crate) controller: Issued,
    pub(crate) ready: AtomicBool,
}

impl Cluster {
    /// Whether the API server answers.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }
}

//! Bootstrap data: the files a joining server takes over from the cluster.
//!
//! Source: k3s-io/k3s `pkg/bootstrap/bootstrap.go` and
//! `pkg/cluster/bootstrap.go` (`ReconcileBootstrapData`).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::files;

/// k3s's names for the files, which lie below `<data-dir>/server`.
const FILES: [(&str, &str); 12] = [
    ("ServerCA", "tls/server-ca.crt"),
    ("ServerCAKey", "tls/server-ca.key"),
    ("ClientCA", "tls/client-ca.crt"),
    ("ClientCAKey", "tls/client-ca.key"),
    ("RequestHeaderCA", "tls/request-header-ca.crt"),
    ("RequestHeaderCAKey", "tls/request-header-ca.key"),
    ("ETCDPeerCA", "tls/etcd/peer-ca.crt"),
    ("ETCDPeerCAKey", "tls/etcd/peer-ca.key"),
    ("ETCDServerCA", "tls/etcd/server-ca.crt"),
    ("ETCDServerCAKey", "tls/etcd/server-ca.key"),
    ("ServiceKey", "tls/service.key"),
    ("PasswdFile", "cred/passwd"),
];

/// Clocks may differ this much before a file on the disk counts as newer.
const SKEW: Duration = Duration::from_secs(3);

/// Bootstrap data as it travels.
pub(crate) type Data = BTreeMap<String, File>;

/// One file of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct File {
    timestamp: Timestamp,
    /// In base64.
    content: String,
}

/// Reads a server's bootstrap data from its disk.
pub(crate) fn read(server: &Path) -> Result<Data> {
    let mut data = Data::new();
    for (name, file) in FILES {
        let path = server.join(file);
        let content = fs::read(&path).with_context(|| format!("failed to read {}", path.display()))?;
        let timestamp = Timestamp::try_from(fs::metadata(&path)?.modified()?)?;
        data.insert(name.to_owned(), File { timestamp, content: STANDARD.encode(content) });
    }
    Ok(data)
}

/// Takes over bootstrap data. Where there is none on the disk it is written;
/// otherwise the cluster's files replace older ones, and one that is newer
/// than the cluster's ends the start.
pub(crate) fn reconcile(server: &Path, data: &Data) -> Result<()> {
    info!("Reconciling bootstrap data between datastore and disk");
    let fresh = ["cred", "tls", "tls/etcd"].iter().any(|directory| is_empty(&server.join(directory)));
    let mut replace = Vec::new();
    let mut newer = Vec::new();
    for (name, file) in FILES {
        let Some(theirs) = data.get(name) else { bail!("bootstrap data has no {name}") };
        let content =
            STANDARD.decode(&theirs.content).with_context(|| format!("reading {name} in bootstrap data"))?;
        let path = server.join(file);
        if !fresh && let Ok(own) = fs::read(&path) {
            if own == content {
                continue;
            }
            let stamp = SystemTime::from(theirs.timestamp);
            if fs::metadata(&path)?.modified()? >= stamp + SKEW {
                newer.push(path.display().to_string());
                continue;
            }
            warn!("{} will be updated from the datastore.", path.display());
        }
        replace.push((path, content));
    }
    if !newer.is_empty() {
        bail!(
            "{} newer than datastore and could cause a cluster outage. Remove the file(s) from disk and restart to be \
             recreated from datastore.",
            newer.join(", ")
        );
    }
    for (path, content) in replace {
        files::write(&path, &content, 0o600)?;
    }
    Ok(())
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).map_or(true, |mut entries| entries.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(mark: &str) -> tempfile::TempDir {
        let server = tempfile::tempdir().expect("a directory");
        for (_, file) in FILES {
            files::write(&server.path().join(file), format!("{mark} {file}").as_bytes(), 0o600)
                .expect("a file");
        }
        server
    }

    #[test]
    fn a_fresh_server_takes_everything() {
        let data = read(filled("cluster").path()).expect("data");
        let joining = tempfile::tempdir().expect("a directory");
        // CA files alone do not make a server that has been started before.
        files::write(&joining.path().join("tls/server-ca.crt"), b"mine", 0o600).expect("a file");
        reconcile(joining.path(), &data).expect("written");
        assert_eq!(
            fs::read(joining.path().join("tls/server-ca.crt")).expect("it"),
            b"cluster tls/server-ca.crt"
        );
        reconcile(joining.path(), &data).expect("nothing to do");
    }

    #[test]
    fn files_that_are_newer_than_the_clusters_stop_the_start() {
        let cluster = filled("cluster");
        let mut data = read(cluster.path()).expect("data");
        let other = filled("another cluster");
        reconcile(other.path(), &data).expect("as old as the cluster's: replaced");
        let newer = filled("another cluster");
        for file in data.values_mut() {
            file.timestamp = Timestamp::UNIX_EPOCH;
        }
        let error = reconcile(newer.path(), &data).expect_err("newer").to_string();
        assert!(error.contains("server-ca.crt") && error.contains("newer than datastore"), "{error}");
    }
}

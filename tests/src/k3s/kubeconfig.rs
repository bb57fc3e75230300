//! Kubeconfig files: written as k3s does, and read as far as its kubectl
//! needs.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::client::Api;
use crate::pki::Issued;

/// The admin's kubeconfig for a server.
pub(crate) fn text(server: &str, ca: &[u8], admin: &Issued) -> String {
    let data = |bytes: &[u8]| STANDARD.encode(bytes);
    format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {}\n    server: {server}\n  name: \
         default\ncontexts:\n- context:\n    cluster: default\n    user: default\n  name: \
         default\ncurrent-context: default\nkind: Config\npreferences: {{}}\nusers:\n- name: default\n  user:\n    \
         client-certificate-data: {}\n    client-key-data: {}\n",
        data(ca),
        data(admin.certificates.as_bytes()),
        data(admin.key.as_bytes()),
    )
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Config {
    clusters: Vec<NamedCluster>,
    contexts: Vec<NamedContext>,
    current_context: String,
    users: Vec<NamedUser>,
}

#[derive(Debug, Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority_data: String,
}

#[derive(Debug, Deserialize)]
struct NamedContext {
    name: String,
    context: Context_,
}

#[derive(Debug, Deserialize)]
struct Context_ {
    cluster: String,
    user: String,
}

#[derive(Debug, Deserialize)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate_data: String,
    client_key_data: String,
}

/// The API a kubeconfig file leads to.
pub(crate) fn load(path: &Path) -> Result<Api> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("error loading config file {:?}", path.display()))?;
    parse(&text).with_context(|| format!("error loading config file {:?}", path.display()))
}

fn parse(text: &str) -> Result<Api> {
    let config: Config = serde_saphyr::from_str(text).map_err(|error| anyhow!("{error}"))?;
    let current = &config.current_context;
    let context = &config
        .contexts
        .iter()
        .find(|one| one.name == *current)
        .with_context(|| format!("no context {current}"))?
        .context;
    let cluster = &config
        .clusters
        .iter()
        .find(|one| one.name == context.cluster)
        .with_context(|| format!("no cluster {}", context.cluster))?
        .cluster;
    let user = &config
        .users
        .iter()
        .find(|one| one.name == context.user)
        .with_context(|| format!("no user {}", context.user))?
        .user;
    let decode = |data: &str| -> Result<String> { Ok(String::from_utf8(STANDARD.decode(data)?)?) };
    let ca =
        STANDARD.decode(&cluster.certificate_authority_data).context("reading certificate-authority-data")?;
    let certificates = decode(&user.client_certificate_data).context("reading client-certificate-data")?;
    let key = decode(&user.client_key_data).context("reading client-key-data")?;
    Api::new(&cluster.server, &ca, &certificates, &key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Authorities, Leaf};

    #[test]
    fn what_is_written_can_be_read() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let directory = tempfile::tempdir().expect("a directory");
        let set = Authorities::take_or_make(directory.path()).expect("authorities");
        let admin = set.client.issue(&Leaf::client("system:admin", None)).expect("a certificate");
        let written = text("https://127.0.0.1:6443", set.server.pem.as_bytes(), &admin);
        parse(&written).expect("a way to the API");
        let error = parse(&written.replace("current-context: default", "current-context: other"))
            .expect_err("no such");
        assert!(error.to_string().contains("no context other"));
    }
}

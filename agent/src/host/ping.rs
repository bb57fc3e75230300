//! Asks k3s on this host whether it is up.
//!
//! `/ping` needs no credential. The server is known by the cluster's own
//! authority, which is what kubectl on this host relies on too.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kiln_protocol::tls;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::root::Root;

const CA: &str = "/var/lib/rancher/k3s/server/tls/server-ca.crt";
const URL: &str = "https://127.0.0.1:6443/ping";
const TIMEOUT: Duration = Duration::from_secs(5);

/// Succeeds if the API server's supervisor answers.
pub(super) async fn ping(root: &Root) -> Result<()> {
    let pem = root.read(CA)?.with_context(|| format!("{} is not there yet", root.shown(CA)))?;
    ask(URL, trusting(&pem)?).await
}

fn trusting(pem: &[u8]) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.context("reading k3s's certificate authority")?)?;
    }
    let builder = ClientConfig::builder_with_provider(tls::provider()).with_safe_default_protocol_versions();
    Ok(builder.context("preparing TLS")?.with_root_certificates(roots).with_no_client_auth())
}

async fn ask(url: &str, tls: ClientConfig) -> Result<()> {
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(TIMEOUT)
        .build()
        .context("preparing the HTTP client")?;
    let answer = client.get(url).send().await.with_context(|| format!("asking {url}"))?;
    if !answer.status().is_success() {
        bail!("{url} answers {}", answer.status());
    }
    Ok(())
}

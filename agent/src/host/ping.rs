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
    ask(URL, &client(root)?).await
}

/// A client that trusts the cluster's own authority and nobody else.
pub(super) fn client(root: &Root) -> Result<reqwest::Client> {
    let pem = root.read(CA)?.with_context(|| format!("{} is not there yet", root.shown(CA)))?;
    client_trusting(&pem)
}

fn client_trusting(pem: &[u8]) -> Result<reqwest::Client> {
    reqwest::Client::builder()
        .tls_backend_preconfigured(trusting(pem)?)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(TIMEOUT)
        .build()
        .context("preparing the HTTP client")
}

fn trusting(pem: &[u8]) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.context("reading k3s's certificate authority")?)?;
    }
    let builder = ClientConfig::builder_with_provider(tls::provider()).with_safe_default_protocol_versions();
    Ok(builder.context("preparing TLS")?.with_root_certificates(roots).with_no_client_auth())
}

async fn ask(url: &str, client: &reqwest::Client) -> Result<()> {
    let answer = client.get(url).send().await.with_context(|| format!("asking {url}"))?;
    if !answer.status().is_success() {
        bail!("{url} answers {}", answer.status());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// An authority and, signed by it, a server that gives one answer.
    async fn k3s(answer: &'static str) -> (String, String) {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key.serialize_der().try_into().unwrap())
            .unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/ping", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        (url, ca_pem)
    }

    #[tokio::test]
    async fn only_an_answer_under_the_clusters_authority_counts() {
        let (url, ca) = k3s("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\npong").await;
        ask(&url, &client_trusting(ca.as_bytes()).unwrap()).await.unwrap();
        let (_, another) = k3s("").await;
        assert!(ask(&url, &client_trusting(another.as_bytes()).unwrap()).await.is_err());
        let (busy, ca) = k3s("HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n").await;
        let error = ask(&busy, &client_trusting(ca.as_bytes()).unwrap()).await.unwrap_err().to_string();
        assert!(error.contains("503"), "{error}");
    }
}

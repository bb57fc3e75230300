//! Single requests to a server, by whom a test likes.

use std::fs;
use std::path::Path;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use reqwest::{Certificate, Identity};

/// Who asks.
#[derive(Default)]
pub(crate) struct Client {
    basic: Option<(String, String)>,
    bearer: Option<String>,
    certificate: Option<String>,
    ca: Option<Vec<u8>>,
}

impl Client {
    /// With a user name and a password.
    pub(crate) fn basic(user: &str, password: &str) -> Self {
        Self { basic: Some((user.to_owned(), password.to_owned())), ..Self::default() }
    }

    /// With a bearer token.
    pub(crate) fn bearer(token: &str) -> Self {
        Self { bearer: Some(token.to_owned()), ..Self::default() }
    }

    /// With a certificate signed just now by an authority in `tls`, and trust
    /// in nothing but the server CA there.
    pub(crate) fn signed(tls: &Path, authority: &str, name: &str, group: &str) -> Self {
        let read = |end: &str| fs::read_to_string(tls.join(format!("{authority}.{end}"))).expect("a CA file");
        let key = KeyPair::from_pem(&read("key")).expect("the authority's key");
        let issuer = Issuer::from_ca_cert_pem(&read("crt"), key).expect("the authority");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        Self {
            certificate: Some(certificate.pem() + &key.serialize_pem()),
            ca: Some(fs::read(tls.join("server-ca.crt")).expect("the server CA")),
            ..Self::default()
        }
    }
}

/// Asks; status and body.
pub(crate) fn get(url: &str, path: &str, who: &Client) -> (u16, String) {
    ask(url, path, who, None)
}

/// The same, with something to be put there.
pub(crate) fn put(url: &str, path: &str, who: &Client, body: &serde_json::Value) -> (u16, String) {
    ask(url, path, who, Some(body))
}

fn ask(url: &str, path: &str, who: &Client, body: Option<&serde_json::Value>) -> (u16, String) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut client = reqwest::Client::builder().no_proxy();
    client = match &who.ca {
        Some(ca) => client.tls_certs_only(Certificate::from_pem_bundle(ca).expect("certificates")),
        None => client.tls_danger_accept_invalid_certs(true),
    };
    if let Some(pem) = &who.certificate {
        client = client.identity(Identity::from_pem(pem.as_bytes()).expect("an identity"));
    }
    let (client, url) = (client.build().expect("a client"), format!("{url}{path}"));
    let mut request = match body {
        None => client.get(url),
        Some(body) => client.put(url).json(body),
    };
    if let Some((user, password)) = &who.basic {
        request = request.basic_auth(user, Some(password));
    }
    if let Some(token) = &who.bearer {
        request = request.bearer_auth(token);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let response = request.send().await.expect("an answer");
        (response.status().as_u16(), response.text().await.expect("a body"))
    })
}

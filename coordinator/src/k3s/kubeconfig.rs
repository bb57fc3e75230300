//! A kubeconfig signed with the cluster's own client CA: whoever holds the CA
//! needs to ask no node for one.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use kiln_protocol::config::CaSet;
use kiln_protocol::names::SubjectAltName;
use kiln_protocol::{ClusterName, Secret};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose};
use zeroize::Zeroizing;

use super::ca;

/// Seconds by which the certificate's beginning lies in the past, for API
/// servers whose clock is behind.
const BACKDATED: u64 = 60 * 60;
/// The longest lifetime in seconds: ten years, about that of the CA.
const MAX_LIFETIME: u64 = 3650 * 24 * 60 * 60;

/// `https://HOST:PORT` of an API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUrl {
    host: SubjectAltName,
    port: u16,
}

/// A text is not the URL of an API server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an API server's URL: write https://HOST:PORT, such as https://10.77.0.11:6443")]
pub struct InvalidServerUrl(String);

impl ServerUrl {
    /// From its parts.
    pub fn new(host: SubjectAltName, port: u16) -> Self {
        Self { host, port }
    }
}

impl FromStr for ServerUrl {
    type Err = InvalidServerUrl;
    fn from_str(text: &str) -> Result<Self, InvalidServerUrl> {
        let wrong = || InvalidServerUrl(text.chars().take(80).collect());
        let authority = text.strip_prefix("https://").ok_or_else(wrong)?;
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or_else(wrong)?,
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?,
            None if port.is_empty() => 443,
            None => return Err(wrong()),
        };
        Ok(Self { host: host.parse().map_err(|_| wrong())?, port })
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.host.as_str();
        if host.contains(':') {
            write!(f, "https://[{host}]:{}", self.port)
        } else {
            write!(f, "https://{host}:{}", self.port)
        }
    }
}

/// Whom a client certificate stands for in Kubernetes' own rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubeUser {
    name: String,
    group: String,
}

impl KubeUser {
    /// An administrator without limits: group `system:masters`, which no role
    /// binding can take anything from.
    pub fn admin() -> Self {
        Self { name: "kiln:admin".to_owned(), group: "system:masters".to_owned() }
    }

    /// A user and a group that role bindings in the cluster name.
    pub fn new(name: &str, group: &str) -> Result<Self> {
        for (what, text) in [("user", name), ("group", group)] {
            let printable = text.bytes().all(|b| b.is_ascii_graphic() && !b"\"'\\".contains(&b));
            // X.520's bound for a name in a certificate.
            ensure!(
                printable && (1..=64).contains(&text.len()),
                "{what} {text:?}: must be 1 to 64 printable characters without spaces and quotes"
            );
        }
        Ok(Self { name: name.to_owned(), group: group.to_owned() })
    }
}

impl fmt::Display for KubeUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.name, self.group)
    }
}

pub(super) fn render(
    ca: &CaSet,
    cluster: &ClusterName,
    server: &ServerUrl,
    user: &KubeUser,
    now: Timestamp,
    lifetime: u64,
) -> Result<Secret> {
    ensure!(
        (60..=MAX_LIFETIME).contains(&lifetime),
        "a kubeconfig's lifetime must be between a minute and ten years"
    );
    let (certificate, key) = client_certificate(ca, user, now, lifetime)?;
    let data = |text: &str| Zeroizing::new(STANDARD.encode(text));
    // Every value is checked text or base64, so no quoting is needed.
    let text = format!(
        "apiVersion: v1
kind: Config
clusters:
- name: {cluster}
  cluster:
    server: {server}
    certificate-authority-data: {}
users:
- name: {cluster}-user
  user:
    client-certificate-data: {}
    client-key-data: {}
contexts:
- name: {cluster}
  context:
    cluster: {cluster}
    user: {cluster}-user
current-context: {cluster}
",
        *data(ca.server.certificates.expose()),
        *data(&certificate),
        *data(key.expose()),
    );
    Ok(Secret::new(text)?)
}

/// The certificate with the CAs that signed it (without the root), and its key.
fn client_certificate(
    ca: &CaSet,
    user: &KubeUser,
    now: Timestamp,
    lifetime: u64,
) -> Result<(String, Secret)> {
    let bundle = ca.client.certificates.expose();
    let signer = KeyPair::from_pem(ca.client.key.expose()).context("reading the client CA's key")?;
    let issuer = Issuer::from_ca_cert_pem(bundle, signer).context("reading the client CA")?;
    let mut params = CertificateParams::new(Vec::new()).context("preparing a client certificate")?;
    params.distinguished_name.push(DnType::OrganizationName, user.group.as_str());
    params.distinguished_name.push(DnType::CommonName, user.name.as_str());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let now = u64::try_from(now.as_second()).context("the clock is before 1970")?;
    ca::set_validity(&mut params, now.saturating_sub(BACKDATED), now + lifetime);
    let key = ca::new_key()?;
    let certificate = params.signed_by(&key, &issuer).context("signing a client certificate")?;
    const END: &str = "-----END CERTIFICATE-----\n";
    let without_root = bundle.trim_end().rfind("-----BEGIN").map_or("", |root| &bundle[..root]);
    debug_assert!(without_root.ends_with(END));
    Ok((ca::certificate_pem(&certificate) + without_root, ca::key_pem(&key)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::k3s::ClusterSecrets;
    use rustls::RootCertStore;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
    use rustls::server::WebPkiClientVerifier;
    use std::sync::Arc;
    use std::time::Duration;

    fn field(kubeconfig: &str, name: &str) -> Vec<u8> {
        let line = kubeconfig.lines().find_map(|line| line.trim().strip_prefix(name)).unwrap();
        STANDARD.decode(line.trim_start_matches(": ")).unwrap()
    }

    fn kubeconfig(now: Timestamp, lifetime: u64) -> (ClusterSecrets, String) {
        let secrets = ClusterSecrets::generate(now).unwrap();
        let server = "https://127.0.0.1:6443".parse().unwrap();
        let text =
            secrets.kubeconfig(&"home".parse().unwrap(), &server, &KubeUser::admin(), now, lifetime).unwrap();
        (secrets, text.expose().to_owned())
    }

    #[test]
    fn the_api_server_would_take_the_certificate_until_it_expires() {
        let now = Timestamp::now();
        let (secrets, text) = kubeconfig(now, 3600);
        let certificates = field(&text, "client-certificate-data");
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&certificates).map(Result::unwrap).collect();
        assert_eq!(chain.len(), 3, "leaf, client CA, intermediate");
        PrivateKeyDer::from_pem_slice(&field(&text, "client-key-data")).unwrap();
        // What kube-apiserver is given as --client-ca-file: all of client-ca.crt.
        let mut roots = RootCertStore::empty();
        for ca in CertificateDer::pem_slice_iter(secrets.ca().client.certificates.expose().as_bytes()) {
            roots.add(ca.unwrap()).unwrap();
        }
        let provider = kiln_protocol::tls::provider();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let at = |seconds: i64| {
            let then = u64::try_from(now.as_second() + seconds).unwrap();
            verifier.verify_client_cert(
                &chain[0],
                &chain[1..],
                UnixTime::since_unix_epoch(Duration::from_secs(then)),
            )
        };
        assert!(at(0).is_ok());
        assert!(at(3599).is_ok());
        assert!(at(3700).is_err());
        let subject = b"system:masters";
        assert!(chain[0].windows(subject.len()).any(|window| window == subject));
    }

    #[test]
    fn the_document_names_the_server_and_its_ca() {
        let (secrets, text) = kubeconfig(Timestamp::now(), 3600);
        assert!(text.contains("    server: https://127.0.0.1:6443\n"));
        assert!(text.contains("current-context: home\n"));
        let ca = field(&text, "certificate-authority-data");
        assert_eq!(ca, secrets.ca().server.certificates.expose().as_bytes());
    }

    #[test]
    fn server_urls_are_https_hosts_with_a_port() {
        for (text, same) in [
            ("https://10.0.0.1:6443", "https://10.0.0.1:6443"),
            ("https://k3s.example.org", "https://k3s.example.org:443"),
            ("https://[fd00::1]:6443/", "https://[fd00::1]:6443"),
        ] {
            assert_eq!(text.parse::<ServerUrl>().unwrap().to_string(), same);
        }
        for wrong in [
            "",
            "10.0.0.1:6443",
            "http://10.0.0.1:6443",
            "https://",
            "https://a:0",
            "https://a:b",
            "https://a/b",
            "https://a\n- evil: true",
            "https://[::1",
            "https://[::1]x",
        ] {
            assert!(wrong.parse::<ServerUrl>().is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn users_and_lifetimes_have_bounds() {
        assert!(KubeUser::new("ops", "kiln:view").is_ok());
        for wrong in ["", "a b", "a\nb", "a\"b", &"x".repeat(65)] {
            assert!(KubeUser::new(wrong, "g").is_err() && KubeUser::new("u", wrong).is_err());
        }
        let secrets = ClusterSecrets::generate(Timestamp::now()).unwrap();
        let server: ServerUrl = "https://a".parse().unwrap();
        for lifetime in [0, 59, u64::MAX] {
            let name = "home".parse().unwrap();
            let made = secrets.kubeconfig(&name, &server, &KubeUser::admin(), Timestamp::now(), lifetime);
            assert!(made.is_err());
        }
    }
}

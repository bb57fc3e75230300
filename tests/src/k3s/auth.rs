//! Who asks: by password (joining nodes) or by client certificate (everybody
//! afterwards), and what Kubernetes would let them do.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::RootCertStore;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::passwd::Passwd;

/// The group that may do everything.
pub(crate) const MASTERS: &str = "system:masters";
/// The group of whoever has a bootstrap token.
pub(crate) const BOOTSTRAPPERS: &str = "system:bootstrappers";
/// The group of kubelets.
pub(crate) const NODES: &str = "system:nodes";

/// The certificates a client presented, if it did.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peer(pub(crate) Arc<Vec<CertificateDer<'static>>>);

/// Somebody whose credentials were right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) groups: Vec<String>,
}

impl User {
    pub(crate) fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// The node whose kubelet this is.
    pub(crate) fn node(&self) -> Option<&str> {
        self.name.strip_prefix("system:node:").filter(|_| self.is_in(NODES))
    }
}

/// Why there is no user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nobody {
    /// No credentials were given.
    Silent,
    /// They were wrong.
    Wrong,
}

/// Checks credentials.
#[derive(Debug)]
pub(crate) struct Authenticator {
    passwd: Mutex<Passwd>,
    /// Server passwords that were taken before.
    former: Mutex<Vec<String>>,
    clients: Arc<dyn ClientCertVerifier>,
}

impl Authenticator {
    /// Client certificates are checked against every certificate of the
    /// client CA's bundle.
    pub(crate) fn new(passwd: Passwd, client_ca: &[CertificateDer<'static>]) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in client_ca {
            roots.add(certificate.clone()).context("using client-ca.crt")?;
        }
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()))
                .build()
                .context("using client-ca.crt")?;
        Ok(Self { passwd: Mutex::new(passwd), former: Mutex::default(), clients })
    }

    /// By bootstrap token, password or certificate: the supervisor's part of
    /// the API. `holds` says whether a bootstrap token is one of the cluster's.
    pub(crate) fn supervisor(
        &self,
        headers: &HeaderMap,
        peer: &Peer,
        holds: impl Fn(&str, &str) -> bool,
    ) -> Result<User, Nobody> {
        let by_token = if let Some((id, secret)) = bearer(headers) {
            let (name, groups) = (format!("system:bootstrap:{id}"), vec![BOOTSTRAPPERS.to_owned()]);
            holds(&id, &secret).then_some(User { name, groups })
        } else if let Some((name, password)) = basic(headers) {
            let role = self.passwd().role(&name, &password).map(str::to_owned);
            role.map(|role| User { name, groups: vec![role] })
        } else {
            return self.api(peer);
        };
        // A node's certificate stands in for a token that is good no more.
        by_token.map_or_else(|| self.api(peer).map_err(|_| Nobody::Wrong), Ok)
    }

    /// The passwords that are taken.
    pub(crate) fn passwd(&self) -> Passwd {
        self.passwd.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes another server password from now on.
    pub(crate) fn replace(&self, server: &str) {
        let before = self.passwd().server;
        server.clone_into(&mut self.passwd.lock().unwrap_or_else(PoisonError::into_inner).server);
        if before != server {
            self.former.lock().unwrap_or_else(PoisonError::into_inner).push(before);
        }
    }

    /// Server passwords that were taken before, the last one first.
    pub(crate) fn former(&self) -> Vec<String> {
        self.former.lock().unwrap_or_else(PoisonError::into_inner).iter().rev().cloned().collect()
    }

    /// Whether these are a server's credentials, of now or before.
    pub(crate) fn is_or_was_server(&self, headers: &HeaderMap) -> bool {
        let Some((name, password)) = basic(headers) else { return false };
        name == "server" && (self.passwd().server == password || self.former().contains(&password))
    }

    /// By certificate alone: the Kubernetes API.
    pub(crate) fn api(&self, peer: &Peer) -> Result<User, Nobody> {
        let (first, above) = peer.0.split_first().ok_or(Nobody::Silent)?;
        self.clients.verify_client_cert(first, above, UnixTime::now()).map_err(|_| Nobody::Wrong)?;
        let (_, certificate) = X509Certificate::from_der(first).map_err(|_| Nobody::Wrong)?;
        let subject = certificate.subject();
        let name =
            subject.iter_common_name().next().and_then(|name| name.as_str().ok()).ok_or(Nobody::Wrong)?;
        let groups = subject.iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned);
        Ok(User { name: name.to_owned(), groups: groups.collect() })
    }
}

fn bearer(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?;
    let (id, secret) = value.split_once('.')?;
    Some((id.to_owned(), secret.to_owned()))
}

fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Basic ")?;
    let text = String::from_utf8(STANDARD.decode(value).ok()?).ok()?;
    let (name, password) = text.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;
    use crate::pki::{Authorities, Leaf};

    fn with_authorization(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(value).expect("a header"))])
    }

    fn peer(pem: &str) -> Peer {
        Peer(Arc::new(crate::ca_hash::certificates(pem.as_bytes()).expect("certificates")))
    }

    #[test]
    fn a_client_certificate_is_worth_what_its_authority_is() {
        let directory = tempfile::tempdir().expect("a directory");
        let set = Authorities::take_or_make(directory.path()).expect("authorities");
        let passwd = Passwd::new("s", Some("a"));
        let auth = Authenticator::new(passwd, &set.client.chain).expect("an authenticator");

        let leaf = Leaf::client("system:admin", Some(MASTERS));
        let admin = set.client.issue(&leaf).expect("a certificate");
        let user = auth.api(&peer(&admin.certificates)).expect("a user");
        assert_eq!((user.name.as_str(), user.is_in(MASTERS), user.node()), ("system:admin", true, None));

        let other = tempfile::tempdir().expect("a directory");
        let stranger = Authorities::take_or_make(other.path()).expect("other authorities");
        let forged = stranger.client.issue(&leaf).expect("a certificate");
        assert_eq!(auth.api(&peer(&forged.certificates)), Err(Nobody::Wrong));
        let by_the_server_ca = set.server.issue(&leaf).expect("a certificate");
        assert_eq!(auth.api(&peer(&by_the_server_ca.certificates)), Err(Nobody::Wrong));
        assert_eq!(auth.api(&Peer::default()), Err(Nobody::Silent));
    }

    #[test]
    fn passwords_are_for_the_supervisor_only() {
        let directory = tempfile::tempdir().expect("a directory");
        let set = Authorities::take_or_make(directory.path()).expect("authorities");
        let auth =
            Authenticator::new(Passwd::new("s", Some("a")), &set.client.chain).expect("an authenticator");
        let none = |_: &str, _: &str| false;
        let agent = with_authorization(&format!("Basic {}", STANDARD.encode("node:a")));
        let user = auth.supervisor(&agent, &Peer::default(), none).expect("a user");
        assert!(user.is_in("k3s:agent") && !user.is_in("k3s:server"));
        let wrong = with_authorization(&format!("Basic {}", STANDARD.encode("server:a")));
        assert_eq!(auth.supervisor(&wrong, &Peer::default(), none), Err(Nobody::Wrong));
        assert_eq!(auth.supervisor(&HeaderMap::new(), &Peer::default(), none), Err(Nobody::Silent));
        let garbage = with_authorization("Basic ???");
        assert_eq!(auth.supervisor(&garbage, &Peer::default(), none), Err(Nobody::Silent));
        let bearer = with_authorization("Bearer abcdef.0123456789abcdef");
        assert_eq!(auth.supervisor(&bearer, &Peer::default(), none), Err(Nobody::Wrong));
        let held = |id: &str, secret: &str| (id, secret) == ("abcdef", "0123456789abcdef");
        let user = auth.supervisor(&bearer, &Peer::default(), held).expect("a user");
        assert!(user.name == "system:bootstrap:abcdef" && user.is_in(BOOTSTRAPPERS));
    }
}

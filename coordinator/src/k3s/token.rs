//! The full form of a k3s token, `K10<hash>::<user>:<password>`, whose hash
//! pins the cluster's CA, so that a joining node trusts no server that cannot
//! show it.

use anyhow::{Context as _, Result, ensure};
use kiln_protocol::Secret;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sha2::{Digest, Sha256};

pub(super) fn full(bundle: &str, user: &str, password: &Secret) -> Result<Secret> {
    let hash = ca_hash(bundle)?;
    Ok(Secret::new(format!("K10{hash}::{user}:{}", password.expose()))?)
}

/// The hash of `/cacerts`' answer, as `hashCA` of k3s's
/// `pkg/clientaccess/token.go` takes it: of a lone certificate, SHA-256 of the
/// bundle's bytes; of more, SHA-256 of the DER of the root that the first one
/// chains to. Our bundles are chains in order, so the root is the last.
fn ca_hash(bundle: &str) -> Result<String> {
    let certificates = CertificateDer::pem_slice_iter(bundle.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .context("reading the cluster's CA bundle")?;
    ensure!(!certificates.is_empty(), "the cluster's CA bundle is empty");
    let hashed = match &certificates[..] {
        [_] => bundle.as_bytes(),
        [.., root] => root,
        [] => unreachable!("checked above"),
    };
    Ok(super::hex(&Sha256::digest(hashed)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::k3s::ca;
    use jiff::Timestamp;

    fn sha256(bytes: &[u8]) -> String {
        crate::k3s::hex(&Sha256::digest(bytes))
    }

    #[test]
    fn a_chain_is_known_by_its_roots_der() {
        let made = ca::generate(Timestamp::now()).unwrap();
        let root = CertificateDer::from_pem_slice(made.root.certificates.expose().as_bytes()).unwrap();
        assert_eq!(ca_hash(made.set.server.certificates.expose()).unwrap(), sha256(&root));
    }

    #[test]
    fn a_lone_certificate_is_known_by_its_files_bytes() {
        let made = ca::generate(Timestamp::now()).unwrap();
        let file = made.root.certificates.expose();
        assert_eq!(ca_hash(file).unwrap(), sha256(file.as_bytes()));
    }

    #[test]
    fn what_is_no_bundle_is_refused() {
        assert!(ca_hash("").is_err());
        assert!(ca_hash("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n").is_err());
    }
}

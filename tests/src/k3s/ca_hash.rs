//! The hash of a cluster's CA bundle, as it stands in a `K10` token.
//!
//! Source: k3s-io/k3s `pkg/clientaccess/token.go`, `hashCA`. A bundle of one
//! certificate: SHA-256 of the file's bytes. Of several: SHA-256 of the DER of
//! the root that the first one leads to, so that anything below the root can
//! be renewed; if no chain leads to a root, the file's bytes again.

use anyhow::{Context, Result, bail};
use data_encoding::HEXLOWER;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

/// The hash of a PEM bundle, in lower-case hexadecimal.
pub(crate) fn of_bundle(pem: &[u8]) -> Result<String> {
    let ders = certificates(pem)?;
    let bytes = match root_of(&ders)? {
        Some(root) if ders.len() > 1 => root,
        _ => pem,
    };
    Ok(HEXLOWER.encode(&Sha256::digest(bytes)))
}

/// The certificates of a PEM bundle, of which there must be one.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let ders = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().context("reading PEM")?;
    if ders.is_empty() {
        bail!("data does not contain any valid RSA or ECDSA certificates");
    }
    Ok(ders)
}

/// The root the first certificate leads to, by the rules of Go's
/// `Certificate.Verify` with the pools k3s fills: of the other certificates,
/// those without an authority key id, or with their own, are the roots.
pub(crate) fn root_of<'a>(ders: &'a [CertificateDer<'a>]) -> Result<Option<&'a [u8]>> {
    let mut parsed = Vec::new();
    for der in ders {
        let (_, certificate) = X509Certificate::from_der(der).context("parsing a certificate")?;
        parsed.push(certificate);
    }
    let Some((first, others)) = parsed.split_first() else { return Ok(None) };
    let (roots, between): (Vec<_>, Vec<_>) = others.iter().partition(|certificate| is_root(certificate));
    let root = climb(first, &roots, &between, between.len());
    Ok(root
        .and_then(|root| parsed.iter().position(|one| std::ptr::eq(one, root)))
        .map(|at| ders[at].as_ref()))
}

fn is_root(certificate: &X509Certificate<'_>) -> bool {
    let (mut authority, mut subject) = (None, None);
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                authority = id.key_identifier.as_ref().map(|id| id.0);
            }
            ParsedExtension::SubjectKeyIdentifier(id) => subject = Some(id.0),
            _ => {}
        }
    }
    authority.is_none() || authority == subject
}

/// Looks for a root above `child`, through at most `depth` others.
fn climb<'a, 'c>(
    child: &'a X509Certificate<'c>,
    roots: &[&'a X509Certificate<'c>],
    between: &[&'a X509Certificate<'c>],
    depth: usize,
) -> Option<&'a X509Certificate<'c>> {
    if !child.validity().is_valid() {
        return None;
    }
    if let Some(root) = roots.iter().find(|root| root.validity().is_valid() && issued(root, child)) {
        return Some(root);
    }
    if depth == 0 {
        return None;
    }
    let parents = between.iter().filter(|parent| issued(parent, child));
    parents.into_iter().find_map(|parent| climb(parent, roots, between, depth - 1))
}

fn issued(parent: &X509Certificate<'_>, child: &X509Certificate<'_>) -> bool {
    let may_sign = parent.key_usage().ok().flatten().is_none_or(|usage| usage.value.key_cert_sign());
    parent.is_ca()
        && may_sign
        && parent.subject().as_raw() == child.issuer().as_raw()
        && child.verify_signature(Some(parent.public_key())).is_ok()
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

    use super::*;

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.use_authority_key_identifier_extension = true;
        params
    }

    fn sha(bytes: &[u8]) -> String {
        HEXLOWER.encode(&Sha256::digest(bytes))
    }

    /// Root, one between, leaf CA: as PEM texts, with the root's DER.
    fn chain() -> (String, String, String, Vec<u8>) {
        let keys: Vec<KeyPair> = (0..3).map(|_| KeyPair::generate().expect("a key")).collect();
        let root = params("root").self_signed(&keys[0]).expect("a root");
        let root_issuer = Issuer::new(params("root"), &keys[0]);
        let middle = params("middle").signed_by(&keys[1], &root_issuer).expect("one between");
        let middle_issuer = Issuer::new(params("middle"), &keys[1]);
        let leaf = params("leaf").signed_by(&keys[2], &middle_issuer).expect("a leaf CA");
        (root.pem(), middle.pem(), leaf.pem(), root.der().to_vec())
    }

    #[test]
    fn a_chain_is_known_by_its_roots_der() {
        let (root, middle, leaf, der) = chain();
        assert_eq!(of_bundle(format!("{leaf}{middle}{root}").as_bytes()).expect("a hash"), sha(&der));
        // The order after the first does not matter.
        assert_eq!(of_bundle(format!("{leaf}{root}{middle}").as_bytes()).expect("a hash"), sha(&der));
    }

    #[test]
    fn a_lone_certificate_is_known_by_the_files_bytes() {
        let (root, ..) = chain();
        assert_eq!(of_bundle(root.as_bytes()).expect("a hash"), sha(root.as_bytes()));
        let spaced = format!("{root}\n");
        assert_eq!(of_bundle(spaced.as_bytes()).expect("a hash"), sha(spaced.as_bytes()));
    }

    #[test]
    fn a_broken_chain_is_known_by_the_files_bytes() {
        let (root, _, leaf, _) = chain();
        let (stranger, ..) = chain();
        for bundle in [format!("{leaf}{root}"), format!("{leaf}{stranger}"), format!("{root}{leaf}")] {
            assert_eq!(of_bundle(bundle.as_bytes()).expect("a hash"), sha(bundle.as_bytes()));
        }
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        assert!(of_bundle(b"").is_err());
        assert!(of_bundle(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").is_err());
    }
}

//! The certificate authorities of a cluster, in the shape that k3s's own
//! `contrib/util/generate-custom-ca-certs.sh` gives them: one root, one
//! intermediate, and below it a CA for each purpose, each file a chain from
//! the CA to the root. A chain, because k3s's token then pins the root and the
//! CAs below it can be renewed; P-256 throughout, which k3s uses for its own.
//!
//! `service.key` is P-256 too (k3s makes RSA): Kubernetes signs service account
//! tokens with either (`client-go/util/keyutil`), and ring makes no RSA keys.

use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use kiln_protocol::Secret;
use kiln_protocol::config::{CaFiles, CaSet};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};

const DAY: u64 = 24 * 60 * 60;
/// k3s gives the certificates it signs the beginning of the CA that signs
/// them; this is how far a node's clock may be behind.
const BACKDATED: u64 = DAY;
/// As in k3s's script: the root outlives the CAs below it.
const ROOT_LIFETIME: u64 = 7300 * DAY;
const CA_LIFETIME: u64 = 3700 * DAY;

pub(super) struct Authorities {
    pub(super) root: CaFiles,
    pub(super) intermediate: CaFiles,
    pub(super) set: CaSet,
}

/// A CA that can sign.
struct Authority {
    params: CertificateParams,
    key: KeyPair,
    /// Its own certificate first, the root's last.
    chain: String,
}

pub(super) fn generate(now: Timestamp) -> Result<Authorities> {
    let root = Authority::root(now)?;
    let intermediate = root.below("k3s-intermediate-ca", now)?;
    let leaf = |name: &str| intermediate.below(name, now).and_then(|ca| ca.files());
    let set = CaSet {
        server: leaf("k3s-server-ca")?,
        client: leaf("k3s-client-ca")?,
        request_header: leaf("k3s-request-header-ca")?,
        etcd_peer: leaf("k3s-etcd-peer-ca")?,
        etcd_server: leaf("k3s-etcd-server-ca")?,
        service_key: key_pem(&new_key()?)?,
    };
    Ok(Authorities { root: root.files()?, intermediate: intermediate.files()?, set })
}

impl Authority {
    fn root(now: Timestamp) -> Result<Self> {
        let key = new_key()?;
        // Without an authority key identifier: k3s takes a certificate of a
        // bundle for a root when it has none (`hashCA` in clientaccess/token.go).
        let params = params("k3s-root-ca", now, ROOT_LIFETIME)?;
        let certificate = params.self_signed(&key).context("signing the root")?;
        let chain = certificate_pem(&certificate);
        Ok(Self { params, key, chain })
    }

    fn below(&self, name: &str, now: Timestamp) -> Result<Self> {
        let key = new_key()?;
        let mut params = params(name, now, CA_LIFETIME)?;
        params.use_authority_key_identifier_extension = true;
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).with_context(|| format!("signing {name}"))?;
        let chain = certificate_pem(&certificate) + &self.chain;
        Ok(Self { params, key, chain })
    }

    fn files(&self) -> Result<CaFiles> {
        Ok(CaFiles { certificates: Secret::new(self.chain.clone())?, key: key_pem(&self.key)? })
    }
}

fn params(name: &str, now: Timestamp, lifetime: u64) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new()).context("preparing a certificate")?;
    params.distinguished_name.push(DnType::CommonName, format!("{name}@{}", now.as_second()));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let seconds = u64::try_from(now.as_second()).context("the clock is before 1970")?;
    set_validity(&mut params, seconds.saturating_sub(BACKDATED), seconds + lifetime);
    Ok(params)
}

/// From and to, in seconds since 1970.
pub(super) fn set_validity(params: &mut CertificateParams, from: u64, to: u64) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(from);
    params.not_after = epoch + Duration::from_secs(to);
}

/// With line feeds only.
pub(super) fn certificate_pem(certificate: &Certificate) -> String {
    certificate.pem().replace('\r', "")
}

pub(super) fn new_key() -> Result<KeyPair> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("making a key")
}

pub(super) fn key_pem(key: &KeyPair) -> Result<Secret> {
    Ok(Secret::new(key.serialize_pem().replace('\r', ""))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::RootCertStore;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, UnixTime};
    use rustls::server::WebPkiClientVerifier;
    use std::sync::Arc;

    fn chain(files: &CaFiles) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(files.certificates.expose().as_bytes()).map(Result::unwrap).collect()
    }

    /// DER of the authority key identifier's OID, 2.5.29.35.
    fn has_authority_key_id(certificate: &CertificateDer<'_>) -> bool {
        certificate.windows(5).any(|window| window == [0x06, 0x03, 0x55, 0x1d, 0x23])
    }

    #[test]
    fn every_ca_is_a_chain_to_the_one_root() {
        let made = generate(Timestamp::now()).unwrap();
        let root = chain(&made.root);
        assert_eq!(root.len(), 1);
        assert!(!has_authority_key_id(&root[0]), "k3s would not take it for a root");
        let CaSet { server, client, request_header, etcd_peer, etcd_server, service_key } = made.set;
        assert!(service_key.expose().starts_with("-----BEGIN PRIVATE KEY-----\n"));
        for files in [server, client, request_header, etcd_peer, etcd_server] {
            let chain = chain(&files);
            assert_eq!((chain.len(), &chain[2]), (3, &root[0]));
            assert!(chain[..2].iter().all(has_authority_key_id));
            verifies(&files, &root[0]);
        }
    }

    /// A client certificate signed by the CA of `files` is valid below `root`.
    fn verifies(files: &CaFiles, root: &CertificateDer<'static>) {
        let signer = KeyPair::from_pem(files.key.expose()).unwrap();
        let issuer = Issuer::from_ca_cert_pem(files.certificates.expose(), &signer).unwrap();
        let leaf = CertificateParams::new(vec!["x".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&new_key().unwrap(), &issuer).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(root.clone()).unwrap();
        let provider = kiln_protocol::tls::provider();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        verifier.verify_client_cert(leaf.der(), &chain(files)[..2], UnixTime::now()).unwrap();
    }

    #[test]
    fn cas_are_valid_a_day_ago_and_for_ten_years() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let text = |days: i64| {
            let at = now + jiff::SignedDuration::from_hours(24 * days);
            at.strftime("%y%m%d%H%M%SZ").to_string()
        };
        let der = chain(&generate(now).unwrap().set.client)[0].to_vec();
        for expected in [text(-1), text(3700)] {
            assert!(der.windows(13).any(|window| window == expected.as_bytes()), "{expected}");
        }
    }
}

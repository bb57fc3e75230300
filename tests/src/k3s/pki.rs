//! The certificate authorities of a server: taken from `server/tls` as
//! `contrib/util/generate-custom-ca-certs.sh` leaves them there, or made.
//!
//! Stricter than k3s on purpose. Where one file of a pair is missing, k3s makes
//! the whole pair anew and overwrites what there was; where key and
//! certificate do not match, it starts and nobody can join. Here the set is
//! complete and consistent, or the server says which file is wrong and ends.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tracing::{info, warn};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::ca_hash;
use crate::files;

/// The authorities' files below `server/tls`, without `.crt` and `.key`, each
/// with the name k3s gives one it makes.
const AUTHORITIES: [(&str, &str); 5] = [
    ("server-ca", "k3s-server"),
    ("client-ca", "k3s-client"),
    ("request-header-ca", "k3s-request-header"),
    ("etcd/peer-ca", "etcd-peer"),
    ("etcd/server-ca", "etcd-server"),
];

/// The key that signs service account tokens.
const SERVICE_KEY: &str = "service.key";

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// The two authorities that sign what the stand-in serves and accepts.
#[derive(Debug)]
pub(crate) struct Authorities {
    pub(crate) server: Authority,
    pub(crate) client: Authority,
}

impl Authorities {
    /// Takes the set in `tls`, or makes one where there is none at all.
    pub(crate) fn take_or_make(tls: &Path) -> Result<Self> {
        let names = AUTHORITIES.iter().flat_map(|(name, _)| [format!("{name}.crt"), format!("{name}.key")]);
        let names: Vec<String> = names.chain([SERVICE_KEY.to_owned()]).collect();
        let (found, missing): (Vec<_>, Vec<_>) = names.iter().partition(|name| tls.join(name).exists());
        if found.is_empty() {
            make(tls).context("making certificate authorities")?;
        } else if !missing.is_empty() {
            bail!("{} has some CA files, but not {missing:?}: give all of them, or none", tls.display());
        } else {
            info!("Using the certificate authorities in {}", tls.display());
        }
        let mut taken = Vec::new();
        for (name, _) in AUTHORITIES {
            let file = tls.join(name);
            taken.push(Authority::load(&file).with_context(|| format!("loading {}.crt", file.display()))?);
        }
        let service = fs::read(tls.join(SERVICE_KEY)).context("reading service.key")?;
        let keys = PrivateKeyDer::pem_slice_iter(&service).flatten().count();
        ensure!(keys > 0, "{}: no private key in PEM", tls.join(SERVICE_KEY).display());
        let mut taken = taken.into_iter();
        match (taken.next(), taken.next()) {
            (Some(server), Some(client)) => Ok(Self { server, client }),
            _ => bail!("the list of authorities has lost its first two"),
        }
    }
}

fn make(tls: &Path) -> Result<()> {
    let now = SystemTime::now();
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).context("reading the clock")?.as_secs();
    for (file, name) in AUTHORITIES {
        let mut params = CertificateParams::default();
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::CommonName, format!("{name}-ca@{seconds}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
            KeyUsagePurpose::KeyCertSign,
        ];
        params.not_before = now.into();
        params.not_after = (now + 10 * YEAR).into();
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        files::write(&tls.join(format!("{file}.crt")), certificate.pem().as_bytes(), 0o644)?;
        files::write(&tls.join(format!("{file}.key")), key.serialize_pem().as_bytes(), 0o600)?;
    }
    files::write(&tls.join(SERVICE_KEY), KeyPair::generate()?.serialize_pem().as_bytes(), 0o600)
}

/// One certificate authority with its key.
#[derive(Debug)]
pub(crate) struct Authority {
    /// The whole `.crt` file: this authority first, what it leads to after it.
    pub(crate) pem: String,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    issuer: Issuer<'static, KeyPair>,
}

/// What a certificate is to say.
pub(crate) struct Leaf<'a> {
    pub(crate) common_name: &'a str,
    pub(crate) organization: Option<&'a str>,
    pub(crate) names: Vec<String>,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) usage: ExtendedKeyUsagePurpose,
}

impl Leaf<'_> {
    /// A client certificate.
    pub(crate) fn client<'a>(common_name: &'a str, organization: Option<&'a str>) -> Leaf<'a> {
        let usage = ExtendedKeyUsagePurpose::ClientAuth;
        Leaf { common_name, organization, names: Vec::new(), addresses: Vec::new(), usage }
    }
}

/// A certificate with the chain above it and its key, in PEM.
#[derive(Debug, Clone)]
pub(crate) struct Issued {
    pub(crate) certificates: String,
    pub(crate) key: String,
}

impl Authority {
    /// Reads `<path>.crt` and `<path>.key`.
    fn load(path: &Path) -> Result<Self> {
        let pem = fs::read_to_string(path.with_extension("crt")).context("reading the certificates")?;
        let key = fs::read(path.with_extension("key")).context("reading the key")?;
        let key = key_pair(&key).context("reading the key")?;
        let chain = ca_hash::certificates(pem.as_bytes())?;
        let first = chain.first().context("no certificate")?;
        let (_, parsed) = X509Certificate::from_der(first).context("parsing the first certificate")?;
        ensure!(parsed.is_ca(), "the first certificate is not one of an authority (CA:TRUE is missing)");
        ensure!(parsed.validity().is_valid(), "the certificate is not valid now ({})", validity(&parsed));
        ensure!(
            parsed.public_key().raw == key.subject_public_key_info(),
            "the key is not the one of the first certificate"
        );
        if chain.len() > 1 && ca_hash::root_of(&chain)?.is_none() {
            warn!("{}.crt: no root above its first certificate", path.display());
        }
        let issuer = Issuer::from_ca_cert_der(first, key).context("using the certificate")?;
        Ok(Self { pem, chain, issuer })
    }

    /// Signs a new key.
    pub(crate) fn issue(&self, leaf: &Leaf<'_>) -> Result<Issued> {
        let authority = self.chain.first().context("no certificate")?;
        let (_, authority) =
            X509Certificate::from_der(authority).context("parsing the authority's certificate")?;
        let mut params = CertificateParams::default();
        params.distinguished_name.remove(DnType::CommonName);
        if let Some(organization) = leaf.organization {
            params.distinguished_name.push(DnType::OrganizationName, organization);
        }
        params.distinguished_name.push(DnType::CommonName, leaf.common_name);
        for name in &leaf.names {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        params.subject_alt_names.extend(leaf.addresses.iter().copied().map(SanType::IpAddress));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![leaf.usage.clone()];
        params.use_authority_key_identifier_extension = true;
        // As k3s: from when the authority began, so that clocks may differ a little.
        params.not_before = authority.validity().not_before.to_datetime();
        params.not_after = (SystemTime::now() + YEAR).into();
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued { certificates: certificate.pem() + &self.pem, key: key.serialize_pem() })
    }
}

fn validity(certificate: &X509Certificate<'_>) -> String {
    let validity = certificate.validity();
    format!("from {} to {}", validity.not_before, validity.not_after)
}

/// The first private key of a PEM text: PKCS#8, or SEC1 on P-256 as openssl
/// and k3s write it.
fn key_pair(pem: &[u8]) -> Result<KeyPair> {
    let key = PrivateKeyDer::pem_slice_iter(pem).find_map(Result::ok).context("no private key in PEM")?;
    let pkcs8 = match &key {
        PrivateKeyDer::Pkcs8(key) => key.clone_key(),
        PrivateKeyDer::Sec1(key) => PrivatePkcs8KeyDer::from(sec1_to_pkcs8(key.secret_sec1_der())),
        _ => bail!("an RSA key in PKCS#1 form: the stand-in signs with PKCS#8 keys, or SEC1 ones on P-256"),
    };
    KeyPair::try_from(&pkcs8).context("not a key the stand-in can sign with")
}

/// Wraps an `ECPrivateKey` (RFC 5915) on P-256 into PKCS#8 (RFC 5958).
fn sec1_to_pkcs8(sec1: &[u8]) -> Vec<u8> {
    // AlgorithmIdentifier { id-ecPublicKey, prime256v1 }
    const ALGORITHM: [u8; 21] = [
        0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
        0x3d, 0x03, 0x01, 0x07,
    ];
    let mut body = vec![0x02, 0x01, 0x00];
    body.extend(ALGORITHM);
    body.extend(der(0x04, sec1));
    der(0x30, &body)
}

/// A DER element with a definite length.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len().to_be_bytes();
    let significant = &length[length.iter().position(|byte| *byte != 0).unwrap_or(length.len() - 1)..];
    match significant {
        [short] if *short < 0x80 => out.push(*short),
        long => {
            out.push(0x80 | u8::try_from(long.len()).unwrap_or(8));
            out.extend(long);
        }
    }
    out.extend(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> (tempfile::TempDir, Authorities) {
        let tls = tempfile::tempdir().expect("a directory");
        let set = Authorities::take_or_make(tls.path()).expect("a new set");
        (tls, set)
    }

    #[test]
    fn what_was_made_is_taken_again() {
        let (tls, first) = made();
        let again = Authorities::take_or_make(tls.path()).expect("the same set");
        assert_eq!(again.server.pem, first.server.pem);
        let issued =
            again.client.issue(&Leaf::client("system:admin", Some("system:masters"))).expect("a certificate");
        let chain = ca_hash::certificates(issued.certificates.as_bytes()).expect("certificates");
        let (_, leaf) = X509Certificate::from_der(&chain[0]).expect("a certificate");
        let (_, authority) = X509Certificate::from_der(&chain[1]).expect("a certificate");
        leaf.verify_signature(Some(authority.public_key())).expect("a good signature");
        assert_eq!(leaf.subject().to_string(), "O=system:masters, CN=system:admin");
    }

    #[test]
    fn an_incomplete_set_is_refused_with_the_missing_files() {
        let (tls, _) = made();
        fs::remove_file(tls.path().join("etcd/peer-ca.key")).expect("a file less");
        let error = Authorities::take_or_make(tls.path()).expect_err("incomplete");
        assert!(error.to_string().contains("etcd/peer-ca.key"), "{error:#}");
    }

    #[test]
    fn a_key_of_another_authority_is_refused() {
        let (tls, _) = made();
        fs::copy(tls.path().join("client-ca.key"), tls.path().join("server-ca.key")).expect("a copy");
        let error = Authorities::take_or_make(tls.path()).expect_err("mismatch");
        assert!(format!("{error:#}").contains("server-ca.crt: the key is not"), "{error:#}");
    }

    #[test]
    fn garbage_is_refused_with_its_file() {
        for file in ["server-ca.crt", "client-ca.key", "service.key"] {
            let (tls, _) = made();
            fs::write(tls.path().join(file), "garbage").expect("garbage");
            let error = format!("{:#}", Authorities::take_or_make(tls.path()).expect_err(file));
            assert!(error.contains(&file[..file.len() - 4]), "{error}");
        }
    }

    #[test]
    fn a_certificate_that_is_no_authority_is_refused() {
        let (tls, set) = made();
        let leaf = set.server.issue(&Leaf::client("x", None)).expect("a leaf");
        fs::write(tls.path().join("server-ca.crt"), &leaf.certificates).expect("a file");
        fs::write(tls.path().join("server-ca.key"), &leaf.key).expect("a file");
        let error = format!("{:#}", Authorities::take_or_make(tls.path()).expect_err("a leaf is no CA"));
        assert!(error.contains("CA:TRUE"), "{error}");
    }

    #[test]
    fn a_sec1_key_is_wrapped_correctly() {
        let pkcs8 = KeyPair::generate().expect("a key").serialize_der();
        // In PKCS#8 on P-256 the ECPrivateKey begins after 29 bytes of wrapping.
        assert_eq!(sec1_to_pkcs8(&pkcs8[29..]), pkcs8);
    }

    #[test]
    fn lengths_are_written_as_der_wants_them() {
        assert_eq!(der(0x04, &[7; 3]), [0x04, 3, 7, 7, 7]);
        assert_eq!(der(0x30, &[0; 200])[..3], [0x30, 0x81, 200]);
        assert_eq!(der(0x30, &[0; 0x1234])[..4], [0x30, 0x82, 0x12, 0x34]);
        assert_eq!(der(0x30, &[]), [0x30, 0]);
    }
}

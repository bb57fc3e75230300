//! The full form of a k3s token, `K10<hash>::<user>:<password>`, whose hash
//! pins the cluster's CA, so that a joining node trusts no server that cannot
//! show it.

use anyhow::{Context as _, Result, bail, ensure};
use data_encoding::HEXLOWER;
use kiln_protocol::chores::{BootstrapId, JoinToken};
use kiln_protocol::{NodeName, Secret};
use ring::hmac;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// What the halves of a bootstrap token are made of.
const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
/// Characters of the secret half.
const SECRET_LENGTH: usize = 16;
/// Begins what is signed to make a secret half.
const LABEL: &[u8] = b"kiln/1 bootstrap token\0";

pub(super) fn full(ca_hash: &str, user: &str, password: &Secret) -> Result<Secret> {
    Ok(Secret::new(format!("K10{ca_hash}::{user}:{}", password.expose()))?)
}

/// k3s takes kubeadm-style bootstrap tokens from agents, and from agents only
/// (docs.k3s.io/cli/token, k3s-io/k3s#6663): bearer tokens that are Secrets in
/// the cluster, so that each can be deleted alone.
pub(super) fn full_bootstrap(ca_hash: &str, token: &JoinToken) -> Result<Secret> {
    Ok(Secret::new(format!("K10{ca_hash}::{}.{}", token.id, token.secret.expose()))?)
}

/// The public half of a seat's bootstrap token: it only has to be unique.
pub(crate) fn id(seat: i64) -> Result<BootstrapId> {
    let mut number = u64::try_from(seat).context("a seat's number is negative")?;
    let mut id = [b'0'; 6];
    for digit in id.iter_mut().rev() {
        *digit = DIGITS[usize::try_from(number % 36)?];
        number /= 36;
    }
    ensure!(number == 0, "there were too many seats for bootstrap tokens of their own");
    Ok(std::str::from_utf8(&id)?.parse()?)
}

/// The secret half is 82 bits of an HMAC.
pub(super) fn bootstrap(key: &Secret, seat: i64, node: &NodeName) -> Result<JoinToken> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose().as_bytes());
    let mut secret = Zeroizing::new(String::with_capacity(SECRET_LENGTH));
    for round in 0u8.. {
        let message = [LABEL, &seat.to_be_bytes(), &[round], node.as_str().as_bytes()].concat();
        // 252 is the largest multiple of 36 in a byte: no digit is likelier than another.
        for byte in hmac::sign(&key, &message).as_ref().iter().filter(|byte| **byte < 252) {
            if secret.len() == SECRET_LENGTH {
                let secret = Secret::new(secret.as_str())?.try_into()?;
                return Ok(JoinToken { id: id(seat)?, secret, node: node.clone() });
            }
            secret.push(char::from(DIGITS[usize::from(byte % 36)]));
        }
    }
    bail!("an HMAC gave no digits")
}

/// The hash of `/cacerts`' answer, as `hashCA` of k3s's
/// `pkg/clientaccess/token.go` takes it: of a lone certificate, SHA-256 of the
/// bundle's bytes; of more, SHA-256 of the DER of the root that the first one
/// chains to. Our bundles are chains in order, so the root is the last.
pub(crate) fn ca_hash(bundle: &str) -> Result<String> {
    let certificates = CertificateDer::pem_slice_iter(bundle.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .context("reading the cluster's CA bundle")?;
    ensure!(!certificates.is_empty(), "the cluster's CA bundle is empty");
    let hashed = match &certificates[..] {
        [_] => bundle.as_bytes(),
        [.., root] => root,
        [] => unreachable!("checked above"),
    };
    Ok(HEXLOWER.encode(&Sha256::digest(hashed)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::k3s::ca;
    use jiff::Timestamp;

    fn sha256(bytes: &[u8]) -> String {
        HEXLOWER.encode(&Sha256::digest(bytes))
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

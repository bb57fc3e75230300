//! TLS 1.3 in which only public keys count.
//!
//! Both ends show a self-signed certificate; chains, names and dates decide
//! nothing. A handshake proves that the peer *has* its key; who may do what is
//! asked on every request, of the registry, by the key's [`Fingerprint`].
//!
//! The rules of the verifier, each with the attack it answers:
//!
//! * the key is P-256 with an uncompressed point, its SPKI exactly 91 bytes: a
//!   compressed point would give one key two fingerprints, and Ed25519's
//!   identity point verifies a constant signature without any private key;
//! * the signature scheme is checked here, because rustls does not hold a peer
//!   to the schemes it was offered;
//! * one certificate of at most [`MAX_CERTIFICATE`] bytes: a chain has no
//!   meaning, and big ones only cost memory;
//! * a client looks at the pin first: what ends TLS on the way shows a chain, an
//!   RSA key or a large certificate, and is named for what it is all the same;
//! * a server whose key is not the pinned one may show, in its certificate, the
//!   recovery key's word that it took the pinned one's place ([`Trust`]): that
//!   is looked at before the client has sent anything but its hello;
//! * no TLS 1.2, resumption, tickets or early data: a resumed session would
//!   keep an identity alive that was never shown again.

use std::error::Error as StdError;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, InvalidMessage,
    OtherError, PeerIncompatible, ServerConfig, SignatureScheme,
};

use crate::identity::{Fingerprint, Identity};
use crate::recovery::{PinChange, RecoveryKey};

/// The largest certificate, in bytes, that either side looks at. Ours have
/// about 350.
pub const MAX_CERTIFICATE: usize = 2048;

/// The largest certificate, in bytes, in which a client looks for the key of
/// what is no coordinator: nothing of it is kept but the key's fingerprint.
const MAX_FOREIGN_CERTIFICATE: usize = 64 * 1024;

/// DER of everything in a P-256 SPKI before the point's coordinates: the
/// algorithm, the curve, the bit string's header and 0x04 for "uncompressed".
const P256_SPKI_PREFIX: [u8; 27] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];

/// The server showed another key than the pinned one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the peer's key is {found}, not the pinned {pinned}: another coordinator answers at this address, \
     or a proxy between ends TLS"
)]
pub struct PinMismatch {
    /// The key we hold the pin of.
    pub pinned: Fingerprint,
    /// The key that was shown.
    pub found: Fingerprint,
}

impl PinMismatch {
    /// Finds a pin mismatch anywhere in an error's chain of causes.
    pub fn find(error: &(dyn StdError + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref::<Self>() {
                return Some(*found);
            }
            // An io::Error's `source` skips the error it wraps.
            let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
            if let Some(Error::InvalidCertificate(CertificateError::Other(OtherError(other)))) =
                wrapped.and_then(|e| e.downcast_ref()).or_else(|| error.downcast_ref())
            {
                return Self::find(&**other);
            }
            next = match wrapped {
                Some(inner) => Some(inner),
                None => error.source(),
            };
        }
        None
    }
}

/// Whether what answered does not speak TLS at all, as a captive portal that
/// answers in plain HTTP: found anywhere in an error's chain of causes.
pub fn is_not_tls(error: &(dyn StdError + 'static)) -> bool {
    matches!(of_tls(error), Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)))
}

/// Whether what answered speaks TLS, but not as a coordinator does, and was
/// given up before it showed its key: it knows no TLS 1.3, has no P-256 key to
/// sign with, or its certificate is none. Found anywhere in an error's chain of
/// causes; how a handshake fails is up to chance, so this is a hint for people
/// and no verdict.
pub fn is_foreign_tls(error: &(dyn StdError + 'static)) -> bool {
    use rustls::AlertDescription::{
        HandshakeFailure, InsufficientSecurity, ProtocolVersion, UnrecognisedName,
    };
    matches!(
        of_tls(error),
        Some(
            Error::AlertReceived(
                HandshakeFailure | InsufficientSecurity | ProtocolVersion | UnrecognisedName
            ) | Error::PeerIncompatible(_)
                | Error::InvalidCertificate(_)
        )
    )
}

/// What TLS said, anywhere in an error's chain of causes.
fn of_tls<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        // An io::Error's `source` skips the error it wraps.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(found) = wrapped.and_then(|e| e.downcast_ref()).or_else(|| error.downcast_ref()) {
            return Some(found);
        }
        next = match wrapped {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// The one cryptography provider of the workspace.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The fingerprint of the key in a certificate, if it is a kind of key and a
/// form of certificate that we accept.
pub fn fingerprint_of(certificate: &CertificateDer<'_>) -> Result<Fingerprint, Error> {
    if certificate.len() > MAX_CERTIFICATE {
        return Err(refused("the certificate is larger than 2 KiB"));
    }
    let parsed = ParsedCertificate::try_from(certificate)?;
    fingerprint_of_spki(&parsed.subject_public_key_info())
}

/// The fingerprint of the key in a certificate, of whatever kind: to be compared
/// with a pin and named, and for nothing else.
fn any_fingerprint_of(certificate: &CertificateDer<'_>) -> Result<Fingerprint, Error> {
    if certificate.len() > MAX_FOREIGN_CERTIFICATE {
        return Err(refused("the certificate is larger than 64 KiB"));
    }
    let parsed = ParsedCertificate::try_from(certificate)?;
    Ok(Fingerprint::of_spki(&parsed.subject_public_key_info()))
}

fn fingerprint_of_spki(spki: &[u8]) -> Result<Fingerprint, Error> {
    if !is_p256_spki(spki) {
        return Err(refused("the key is not P-256 with an uncompressed point"));
    }
    Ok(Fingerprint::of_spki(spki))
}

/// The fingerprint of the key in a PEM file: a public key or a certificate
/// around one, of a kind that we accept.
pub fn fingerprint_of_pem(pem: &[u8]) -> Result<Fingerprint, Error> {
    use rustls::pki_types::SubjectPublicKeyInfoDer;
    use rustls::pki_types::pem::PemObject as _;
    if let Ok(certificate) = CertificateDer::from_pem_slice(pem) {
        return fingerprint_of(&certificate);
    }
    let spki = SubjectPublicKeyInfoDer::from_pem_slice(pem)
        .map_err(|_| refused("it holds neither a public key nor a certificate in PEM form"))?;
    fingerprint_of_spki(&spki)
}

/// Whether these are the 91 bytes of a P-256 key with an uncompressed point.
pub(crate) fn is_p256_spki(spki: &[u8]) -> bool {
    spki.len() == 91 && spki.starts_with(&P256_SPKI_PREFIX)
}

/// The uncompressed point in such a key, 0x04 included.
pub(crate) fn p256_point(spki: &[u8]) -> Option<&[u8]> {
    is_p256_spki(spki).then(|| &spki[P256_SPKI_PREFIX.len() - 1..])
}

/// Which servers a client speaks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trust {
    /// The one whose key has this fingerprint.
    pub pin: Fingerprint,
    /// And one that shows this key's word to have taken its place.
    pub recovery: Option<RecoveryKey>,
    /// The serial of the last such change that was heard of, 0 for none: only
    /// a greater one changes anything.
    pub serial: u64,
}

impl From<Fingerprint> for Trust {
    fn from(pin: Fingerprint) -> Self {
        Self { pin, recovery: None, serial: 0 }
    }
}

impl Trust {
    /// The change of the pin that a server's certificate proves, if any.
    pub fn change(&self, certificate: &CertificateDer<'_>) -> Option<(Fingerprint, PinChange)> {
        let found = fingerprint_of(certificate).ok().filter(|found| *found != self.pin)?;
        let change = PinChange::find(certificate).filter(|change| change.serial > self.serial)?;
        self.recovery.filter(|key| key.verifies(&change, &found)).map(|_| (found, change))
    }
}

/// A client's configuration: shows `identity`, speaks only to the server
/// that `trust` names, and never asks the system's trust store.
pub fn client_config(identity: &Identity, trust: impl Into<Trust>) -> Result<ClientConfig, Error> {
    let verifier = Arc::new(PinnedServer { trust: trust.into(), keys: Keys::new() });
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(vec![identity.certificate()], identity.private_key())?;
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_early_data = false;
    // No name means anything here, so none is told to the network.
    config.enable_sni = false;
    Ok(config)
}

/// A server's configuration: shows `identity` and wants a key of every client.
pub fn server_config(identity: &Identity) -> Result<ServerConfig, Error> {
    server_config_with(identity, identity.certificate())
}

/// As [`server_config`], for a coordinator whose key took another's place.
pub fn server_config_after(
    identity: &Identity,
    change: &PinChange,
) -> Result<ServerConfig, Box<dyn StdError + Send + Sync>> {
    Ok(server_config_with(identity, identity.certificate_with(change)?)?)
}

fn server_config_with(
    identity: &Identity,
    certificate: CertificateDer<'static>,
) -> Result<ServerConfig, Error> {
    let verifier = Arc::new(AnyClientKey { keys: Keys::new() });
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate], identity.private_key())?;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(config)
}

fn refused(why: &'static str) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(std::io::Error::other(why)))))
}

/// The one scheme in which a key is proven, by whichever side.
const SCHEME: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;

/// The checks both directions share.
#[derive(Debug)]
struct Keys {
    algorithms: WebPkiSupportedAlgorithms,
}

impl Keys {
    fn new() -> Self {
        Self { algorithms: provider().signature_verification_algorithms }
    }

    fn fingerprint(
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
    ) -> Result<Fingerprint, Error> {
        if !chain.is_empty() {
            return Err(refused("a certificate chain was shown"));
        }
        fingerprint_of(certificate)
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if signed.scheme != SCHEME {
            return Err(PeerIncompatible::NoSignatureSchemesInCommon.into());
        }
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }
}

fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(PeerIncompatible::Tls12NotOffered.into())
}

#[derive(Debug)]
struct PinnedServer {
    trust: Trust,
    keys: Keys,
}

impl ServerCertVerifier for PinnedServer {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // Whose key it is comes before the form in which it is shown.
        let found = any_fingerprint_of(certificate)?;
        if found != self.trust.pin && self.trust.change(certificate).is_none() {
            let mismatch = PinMismatch { pinned: self.trust.pin, found };
            return Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(mismatch)))));
        }
        Keys::fingerprint(certificate, chain).map(|_| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.keys.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SCHEME]
    }
}

#[derive(Debug)]
struct AnyClientKey {
    keys: Keys,
}

impl ClientCertVerifier for AnyClientKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Keys::fingerprint(certificate, chain).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.keys.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SCHEME]
    }
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;

//! Identity is a key. A certificate is only the envelope TLS wants around it:
//! self-signed, valid for as long as the format can say, and never looked at
//! beyond the public key inside.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use data_encoding::HEXLOWER;
use rcgen::{
    CertificateParams, CustomExtension, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SigningKey as _,
};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroize as _;

use crate::recovery::{self, PinChange};
use crate::secret::Secret;

/// SHA-256 of a public key's `SubjectPublicKeyInfo`, written as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint([u8; 32]);

/// A text is not 64 lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a key fingerprint is 64 lower-case hex digits")]
pub struct InvalidFingerprint;

impl Fingerprint {
    /// Of the DER encoding of a `SubjectPublicKeyInfo`.
    pub fn of_spki(spki: &[u8]) -> Self {
        Self(Sha256::digest(spki).into())
    }

    /// From its bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = InvalidFingerprint;
    fn from_str(text: &str) -> Result<Self, InvalidFingerprint> {
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| InvalidFingerprint)?;
        bytes.try_into().map(Self).map_err(|_| InvalidFingerprint)
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = InvalidFingerprint;
    fn try_from(text: String) -> Result<Self, InvalidFingerprint> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

/// A fingerprint as a person types it from a console: whole, or at least its
/// first [`TypedFingerprint::SHORTEST`] digits. Capitals, spaces, colons and
/// dashes do not matter.
///
/// 20 hex digits are 80 bits: somebody who wants another key taken for the one
/// on the console would have to make about 2^80 keys to find one that begins
/// the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TypedFingerprint(String);

/// A text is not what [`TypedFingerprint`] wants.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("type the fingerprint as the console shows it: all its 64 hex digits, or at least the first 20")]
pub struct InvalidTypedFingerprint;

impl TypedFingerprint {
    /// Fewer digits would not tell one key from another for certain.
    pub const SHORTEST: usize = 20;

    /// Whether a key has this fingerprint, or one that begins so. How long that
    /// takes says nothing of where they differ.
    pub fn matches(&self, fingerprint: &Fingerprint) -> bool {
        let shown = fingerprint.to_string();
        let differing = self.0.bytes().zip(shown.bytes()).fold(0, |seen, (a, b)| seen | (a ^ b));
        differing == 0
    }

    /// The fingerprint, if all of it was typed.
    pub fn whole(&self) -> Option<Fingerprint> {
        self.0.parse().ok()
    }
}

impl FromStr for TypedFingerprint {
    type Err = InvalidTypedFingerprint;
    fn from_str(text: &str) -> Result<Self, InvalidTypedFingerprint> {
        let digits: String =
            text.chars().filter(|c| !matches!(c, ' ' | ':' | '-')).map(|c| c.to_ascii_lowercase()).collect();
        let fits = (Self::SHORTEST..=64).contains(&digits.len());
        if !fits || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(InvalidTypedFingerprint);
        }
        Ok(Self(digits))
    }
}

impl fmt::Display for TypedFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for TypedFingerprint {
    type Error = InvalidTypedFingerprint;
    fn try_from(text: String) -> Result<Self, InvalidTypedFingerprint> {
        text.parse()
    }
}

impl From<TypedFingerprint> for String {
    fn from(typed: TypedFingerprint) -> Self {
        typed.0
    }
}

/// A signature, in base64url. What it is of, and by which kind of key, says
/// the field that holds it.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Signature {
    bytes: [u8; MAX_SIGNATURE],
    len: usize,
}

/// ECDSA P-256 in ASN.1 takes the most.
const MAX_SIGNATURE: usize = 72;

/// A text is no signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a signature is at most 72 bytes in base64url")]
pub struct InvalidSignature;

impl Signature {
    fn new(signature: &[u8]) -> Option<Self> {
        let mut bytes = [0; MAX_SIGNATURE];
        bytes.get_mut(..signature.len())?.copy_from_slice(signature);
        Some(Self { bytes, len: signature.len() })
    }

    /// Of an Ed25519 key.
    pub fn ed25519(signature: &[u8; 64]) -> Self {
        let mut bytes = [0; MAX_SIGNATURE];
        bytes[..64].copy_from_slice(signature);
        Self { bytes, len: 64 }
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", URL_SAFE_NO_PAD.encode(self.as_bytes()))
    }
}

impl TryFrom<String> for Signature {
    type Error = InvalidSignature;
    fn try_from(text: String) -> Result<Self, InvalidSignature> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidSignature)?;
        Self::new(&bytes).ok_or(InvalidSignature)
    }
}

impl From<Signature> for String {
    fn from(signature: Signature) -> Self {
        URL_SAFE_NO_PAD.encode(signature.as_bytes())
    }
}

/// Whether the P-256 key in `spki` signed `message`.
pub(crate) fn verify_p256(spki: &[u8], message: &[u8], signature: &Signature) -> bool {
    let point = crate::tls::p256_point(spki);
    point.is_some_and(|point| {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(message, signature.as_bytes()).is_ok()
    })
}

/// Making or reading a key failed.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The PEM text holds no P-256 key in PKCS#8.
    #[error("no P-256 private key in PKCS#8 PEM form: {0}")]
    Key(String),
    /// The envelope could not be made.
    #[error("making the certificate around the key: {0}")]
    Envelope(#[source] rcgen::Error),
}

/// A P-256 key of our own, with the envelope to show it in. Dropping it wipes
/// the encoded key; what ring made of it to sign with is not ours to wipe.
pub struct Identity {
    key: KeyPair,
    certificate: CertificateDer<'static>,
    fingerprint: Fingerprint,
}

impl Identity {
    /// Makes a new key from the system's randomness.
    pub fn generate() -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(IdentityError::Envelope)?;
        Self::with_key(key)
    }

    /// Reads a key that [`Identity::to_pem`] wrote.
    pub fn from_pem(pem: &str) -> Result<Self, IdentityError> {
        let key = KeyPair::from_pem_and_sign_algo(pem, &PKCS_ECDSA_P256_SHA256)
            .map_err(|error| IdentityError::Key(error.to_string()))?;
        Self::with_key(key)
    }

    fn with_key(key: KeyPair) -> Result<Self, IdentityError> {
        let certificate = envelope(&key, None)?;
        let fingerprint = Fingerprint::of_spki(&key.subject_public_key_info());
        Ok(Self { key, certificate, fingerprint })
    }

    /// The private key as PKCS#8 PEM, to be written to a file of mode 0600.
    pub fn to_pem(&self) -> Secret {
        Secret::new(self.key.serialize_pem().replace('\r', "")).expect("PEM is printable text")
    }

    /// What others know this key by.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The self-signed envelope.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    /// The envelope of a coordinator whose key took another's place, with the
    /// recovery key's word for it.
    pub fn certificate_with(&self, change: &PinChange) -> Result<CertificateDer<'static>, IdentityError> {
        envelope(&self.key, Some(change))
    }

    /// The public key as a `SubjectPublicKeyInfo`, 91 bytes of DER.
    pub fn spki(&self) -> Vec<u8> {
        self.key.subject_public_key_info()
    }

    /// ECDSA with SHA-256, in ASN.1.
    pub(crate) fn sign(&self, message: &[u8]) -> Signature {
        let signature = self.key.sign(message).expect("a P-256 key signs anything");
        Signature::new(&signature).expect("a P-256 signature has at most 72 bytes")
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()))
    }
}

fn envelope(key: &KeyPair, change: Option<&PinChange>) -> Result<CertificateDer<'static>, IdentityError> {
    let mut params = CertificateParams::new(Vec::new()).map_err(IdentityError::Envelope)?;
    params.not_before = rcgen::date_time_ymd(1950, 1, 1);
    params.not_after = rcgen::date_time_ymd(9999, 12, 31);
    params.distinguished_name.push(rcgen::DnType::CommonName, "kiln");
    if let Some(change) = change {
        let extension = CustomExtension::from_oid_content(&recovery::OID, change.content());
        params.custom_extensions.push(extension);
    }
    Ok(params.self_signed(key).map_err(IdentityError::Envelope)?.der().clone())
}

impl Drop for Identity {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_file() {
        let made = Identity::generate().unwrap();
        let read = Identity::from_pem(made.to_pem().expose()).unwrap();
        assert_eq!(made.fingerprint(), read.fingerprint());
        assert!(!format!("{made:?}").contains("PRIVATE"));
    }

    #[test]
    fn fingerprints_are_lower_case_hex() {
        let fingerprint = Identity::generate().unwrap().fingerprint();
        let text = fingerprint.to_string();
        assert_eq!(text.parse::<Fingerprint>().unwrap(), fingerprint);
        assert!(
            text.to_uppercase().parse::<Fingerprint>().is_err() || text.bytes().all(|b| b.is_ascii_digit())
        );
        assert!(text[1..].parse::<Fingerprint>().is_err());
    }

    #[test]
    fn a_typed_fingerprint_is_whole_or_long_enough() {
        let fingerprint = Fingerprint::of_spki(b"node");
        let shown = fingerprint.to_string();
        for typed in [
            shown.clone(),
            shown.to_uppercase(),
            shown[..20].to_owned(),
            format!("{} {}:{}-{}", &shown[..8], &shown[8..16], &shown[16..20], &shown[20..40]),
        ] {
            assert!(typed.parse::<TypedFingerprint>().unwrap().matches(&fingerprint), "{typed}");
        }
        assert_eq!(shown.parse::<TypedFingerprint>().unwrap().whole(), Some(fingerprint));
        assert_eq!(shown[..63].parse::<TypedFingerprint>().unwrap().whole(), None);
        for wrong in ["", &shown[..19], &format!("{shown}0"), &format!("{}g", &shown[..30]), "k3s-s1"] {
            assert_eq!(wrong.parse::<TypedFingerprint>(), Err(InvalidTypedFingerprint), "{wrong}");
        }
        let other = Fingerprint::of_spki(b"other");
        assert!(!shown[..20].parse::<TypedFingerprint>().unwrap().matches(&other));
    }

    #[test]
    fn other_kinds_of_key_are_refused() {
        let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_pem();
        assert!(Identity::from_pem(&ed25519).is_err());
        assert!(Identity::from_pem("").is_err());
    }
}

//! OpenPGP signatures over lists of checksums.
//!
//! AlmaLinux signs the `CHECKSUM` beside its install media as cleartext
//! (`gpg --verify CHECKSUM`) and that of its cloud images with a detached
//! `CHECKSUM.asc`; both are read. Only text that was signed is ever looked at:
//! what stands before or behind a signed block is not.

use data_encoding::HEXUPPER;
use pgp::composed::{CleartextSignedMessage, Deserializable as _, DetachedSignature, SignedPublicKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureType};
use pgp::types::KeyDetails as _;

/// AlmaLinux 9's key. Published at
/// <https://repo.almalinux.org/almalinux/RPM-GPG-KEY-AlmaLinux-9>; what makes it
/// the right one is its fingerprint, which a test compares.
const ALMALINUX_9: &str = include_str!("RPM-GPG-KEY-AlmaLinux-9");

/// How a signed text begins.
const CLEARTEXT: &str = "-----BEGIN PGP SIGNED MESSAGE-----";

/// A key that vouches for checksums.
#[derive(Debug, Clone)]
pub struct Key {
    key: SignedPublicKey,
}

/// Why a text is not vouched for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotSigned {
    /// It is not in the form a signature comes in.
    #[error("holds no OpenPGP signature that can be read: {0}")]
    Unreadable(String),
    /// There is a signature, but not of this key over this text.
    #[error("is not signed by {0}")]
    Untrusted(String),
}

impl Key {
    /// AlmaLinux's, for one of its major versions, where it is known here.
    pub fn almalinux(major: u16) -> Option<Self> {
        (major == 9).then(|| Self::read(ALMALINUX_9.as_bytes()).expect("the key in this program is one"))
    }

    /// From an armoured key, as `gpg --armor --export` writes it. Parts that
    /// are not bound to it by its own signature make it no key.
    pub fn read(armoured: &[u8]) -> Result<Self, String> {
        let (key, _) = SignedPublicKey::from_armor_single(armoured).map_err(|error| error.to_string())?;
        key.verify_bindings().map_err(|error| error.to_string())?;
        Ok(Self { key })
    }

    /// The fingerprint, in upper-case hex.
    pub fn fingerprint(&self) -> String {
        HEXUPPER.encode(self.key.fingerprint().as_bytes())
    }

    /// The text inside a cleartext-signed message.
    pub fn open(&self, message: &str) -> Result<String, NotSigned> {
        let (message, _) = CleartextSignedMessage::from_string(message)
            .map_err(|error| NotSigned::Unreadable(error.to_string()))?;
        let text = message.signed_text();
        self.check(message.signatures(), text.as_bytes())?;
        Ok(text)
    }

    /// Whether a detached, armoured signature is over this text.
    pub fn check_detached(&self, text: &[u8], signature: &str) -> Result<(), NotSigned> {
        let (signature, _) = DetachedSignature::from_string(signature)
            .map_err(|error| NotSigned::Unreadable(error.to_string()))?;
        self.check(std::slice::from_ref(&signature.signature), text)
    }

    fn check(&self, signatures: &[Signature], text: &[u8]) -> Result<(), NotSigned> {
        let strong = signatures.iter().filter(|signature| is_strong(signature));
        let valid = |signature: &&Signature| {
            signature.verify(&self.key, text).is_ok()
                || self.key.public_subkeys.iter().any(|subkey| {
                    subkey.signatures.iter().any(|binding| binding.key_flags().sign())
                        && signature.verify(subkey, text).is_ok()
                })
        };
        match strong.into_iter().find(valid) {
            Some(_) => Ok(()),
            None => Err(NotSigned::Untrusted(self.fingerprint())),
        }
    }
}

/// Whether a text is signed in itself, rather than beside itself.
pub fn is_cleartext_signed(text: &str) -> bool {
    text.lines().any(|line| line.trim_end() == CLEARTEXT)
}

/// Over data, and with a hash nobody can make collisions of.
fn is_strong(signature: &Signature) -> bool {
    matches!(signature.typ(), Some(SignatureType::Text | SignatureType::Binary))
        && matches!(
            signature.hash_alg(),
            Some(HashAlgorithm::Sha256 | HashAlgorithm::Sha384 | HashAlgorithm::Sha512)
        )
}

#[cfg(test)]
mod tests;

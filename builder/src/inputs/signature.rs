//! OpenPGP signatures over lists of checksums and headers of packages.
//!
//! AlmaLinux signs the `CHECKSUM` beside its install media as cleartext
//! (`gpg --verify CHECKSUM`) and that of its cloud images with a detached
//! `CHECKSUM.asc`; both are read. Rancher's are bare packets inside RPM
//! packages. Only text that was signed is ever looked at:
//! what stands before or behind a signed block is not.

use std::path::Path;

use data_encoding::HEXUPPER;
use pgp::composed::{CleartextSignedMessage, Deserializable as _, DetachedSignature, SignedPublicKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureType};
use pgp::types::KeyDetails as _;

use crate::failure::BadInput;

/// AlmaLinux 9's key. Published at
/// <https://repo.almalinux.org/almalinux/RPM-GPG-KEY-AlmaLinux-9>; what makes it
/// the right one is its fingerprint, which a test compares.
const ALMALINUX_9: &str = include_str!("RPM-GPG-KEY-AlmaLinux-9");

/// The key Rancher signs its RPM packages with. Published at
/// <https://rpm.rancher.io/public.key>; a test compares its fingerprint.
const RANCHER: &str = include_str!("RPM-GPG-KEY-Rancher");

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

    /// Rancher's, for its RPM packages.
    pub fn rancher() -> Self {
        Self::read(RANCHER.as_bytes()).expect("the key in this program is one")
    }

    /// From the file that an option names.
    pub fn of_file(option: &str, path: &Path) -> anyhow::Result<Self> {
        let wrong = |why: String| BadInput(format!("{option} {}: {why}", path.display()));
        let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
        Ok(Self::read(&bytes).map_err(|why| wrong(format!("is no OpenPGP key that can be used: {why}")))?)
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

    /// Whether a bare signature is this key's, over these bytes and strong.
    pub fn signed(&self, packet: &Packet, bytes: &[u8]) -> bool {
        self.check(std::slice::from_ref(&packet.0), bytes).is_ok()
    }

    /// Whether a signature says that it is this key's, or of a part of it.
    pub fn is_named_in(&self, packet: &Packet) -> bool {
        let prints = packet.0.issuer_fingerprint();
        let ids = packet.0.issuer_key_id();
        let subkeys = self.key.public_subkeys.iter();
        let own = [(self.key.fingerprint(), self.key.legacy_key_id())];
        own.into_iter()
            .chain(subkeys.map(|subkey| (subkey.fingerprint(), subkey.legacy_key_id())))
            .any(|(print, id)| prints.contains(&&print) || ids.contains(&&id))
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

/// A signature as it stands in an RPM package: one packet without armour.
#[derive(Debug, Clone)]
pub struct Packet(Signature);

impl Packet {
    /// From its bytes.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let signature = DetachedSignature::from_bytes(bytes).map_err(|error| error.to_string())?;
        Ok(Self(signature.signature))
    }

    /// Who signed, as the signature itself says: a fingerprint, or the end of
    /// one, in upper-case hex.
    pub fn issuer(&self) -> String {
        let print = self.0.issuer_fingerprint().first().map(|print| HEXUPPER.encode(print.as_bytes()));
        let id = || self.0.issuer_key_id().first().map(|id| HEXUPPER.encode(id.as_ref()));
        print.or_else(id).unwrap_or_else(|| "a key it does not name".to_owned())
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

//! Packages as Rancher makes them, signed with keys made here, and everything
//! that may be wrong with one.

use pgp::composed::{ArmorOptions, DetachedSignature, KeyType, SecretKeyParamsBuilder, SignedSecretKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::ser::Serialize as _;
use pgp::types::Password;
use rpm::{
    BuildConfig, CompressionType, FileOptions, Header, HeaderEntry, IndexData, IndexSignatureTag,
    PackageBuilder,
};

use super::*;

fn secret() -> SignedSecretKey {
    let mut key = SecretKeyParamsBuilder::default();
    key.key_type(KeyType::Ed25519Legacy).can_sign(true).can_certify(true);
    key.primary_user_id("Tests <tests@kiln.invalid>".to_owned());
    key.build().unwrap().generate(rand::thread_rng()).unwrap()
}

fn public(secret: &SignedSecretKey) -> Key {
    let armoured = secret.to_public_key().to_armored_string(ArmorOptions::default()).unwrap();
    Key::read(armoured.as_bytes()).unwrap()
}

fn package(name: &str, release: &str) -> Package {
    let mut builder = PackageBuilder::new(name, "1.6", "ASL 2.0", "noarch", "SELinux policy");
    builder.using_config(BuildConfig::v4().compression(CompressionType::None)).release(release);
    let file = FileOptions::new("/usr/share/selinux/packages/k3s.pp").permissions(0o644);
    builder.with_file_contents(vec![7; 3000], file).unwrap();
    builder.build().unwrap()
}

/// Puts a signature of its header into a package, where EL 9's rpmsign puts it.
fn sign_with(package: &mut Package, signature: Vec<u8>) {
    let digest = package.metadata.signature.get_entry_data_as_string(IndexSignatureTag::RPMSIGTAG_SHA256);
    let digest = IndexData::StringTag(digest.unwrap().to_owned());
    let entries = [
        HeaderEntry::new(IndexSignatureTag::RPMSIGTAG_SHA256 as u32, digest),
        HeaderEntry::new(IndexSignatureTag::RPMSIGTAG_RSA as u32, IndexData::Bin(signature)),
    ];
    package.metadata.signature = Header::from_entries(entries, IndexSignatureTag::HEADER_SIGNATURES);
}

fn signed(mut package: Package, secret: &SignedSecretKey) -> Vec<u8> {
    let header = package.header_bytes().unwrap();
    let (key, password) = (&secret.primary_key, Password::empty());
    let random = rand::thread_rng();
    let signature =
        DetachedSignature::sign_binary_data(random, key, &password, HashAlgorithm::Sha256, &header[..]);
    sign_with(&mut package, signature.unwrap().to_bytes().unwrap());
    written(&package)
}

fn written(package: &Package) -> Vec<u8> {
    let mut bytes = Vec::new();
    package.write(&mut bytes).unwrap();
    bytes
}

fn good(secret: &SignedSecretKey) -> Vec<u8> {
    signed(package(NAME, "1.el9"), secret)
}

#[test]
fn rancher_s_key_is_the_one_with_the_published_fingerprint() {
    // As dnf shows it where it imports https://rpm.rancher.io/public.key.
    assert_eq!(Key::rancher().fingerprint(), "C8CFF216455126E9B9C918BE925EA29AE257814A");
}

#[test]
fn a_package_that_the_key_signed_is_taken() {
    let secret = secret();
    assert_eq!(judge(&good(&secret), 9, &public(&secret)), Ok(()));
}

#[test]
fn another_key_s_package_is_refused_and_both_keys_are_named() {
    let (secret, other) = (secret(), secret());
    let refused = judge(&good(&other), 9, &public(&secret)).unwrap_err();
    let (wanted, found) = (public(&secret).fingerprint(), public(&other).fingerprint());
    assert_eq!(refused, Refused::OtherKey { wanted, found });
    // And nobody's own key passes for Rancher's.
    let refused = judge(&good(&secret), 9, &Key::rancher()).unwrap_err();
    assert!(refused.to_string().contains("C8CFF216455126E9B9C918BE925EA29AE257814A"), "{refused}");
}

#[test]
fn a_package_without_a_signature_is_refused() {
    let refused = judge(&written(&package(NAME, "1.el9")), 9, &Key::rancher()).unwrap_err();
    assert_eq!(refused, Refused::Unsigned);
}

#[test]
fn a_signature_of_another_package_does_not_hold() {
    let secret = secret();
    // The header of one, under the signature of another.
    let theirs = Package::parse(&mut Cursor::new(good(&secret))).unwrap();
    let mut ours = package(NAME, "2.el9");
    let signature = theirs.metadata.raw_signatures().unwrap()[0].to_vec();
    sign_with(&mut ours, signature);
    let refused = judge(&written(&ours), 9, &public(&secret)).unwrap_err();
    assert_eq!(refused, Refused::Broken(public(&secret).fingerprint()));
}

#[test]
fn one_that_is_changed_or_cut_off_anywhere_is_refused() {
    let secret = secret();
    let (whole, key) = (good(&secret), public(&secret));
    for length in [0, 3, 50, 95, 96, 120, 300, 1000, whole.len() / 2, whole.len() - 1] {
        assert!(judge(&whole[..length], 9, &key).is_err(), "cut off at {length} of {}", whole.len());
    }
    let parts = Package::parse(&mut Cursor::new(&whole[..])).unwrap().metadata.get_package_segment_offsets();
    let (header, payload) = (usize::try_from(parts.header).unwrap(), usize::try_from(parts.payload).unwrap());
    for at in (header..payload).step_by(97).chain([payload, payload + 100, whole.len() - 1]) {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        assert!(judge(&changed, 9, &key).is_err(), "changed at {at}, the payload begins at {payload}");
    }
    let refused = judge(&[&whole[..], b"more"].concat(), 9, &key).unwrap_err();
    assert!(matches!(refused, Refused::Damaged(_)), "{refused}");
}

#[test]
fn another_package_or_system_is_named() {
    let key = Key::rancher();
    let of = |name, release| judge(&written(&package(name, release)), 9, &key).unwrap_err().to_string();
    assert!(of("bash", "1.el9").contains("is the package bash-1.6-1.el9.noarch, not k3s-selinux"));
    assert!(of(NAME, "1.el8").contains("not for el9"));
    assert_eq!(judge(b"<html>nothing here</html>", 9, &key), Err(Refused::NotRpm));
}

#[test]
fn the_error_names_the_file_and_the_ways_out() {
    let version: VersionName = "alma9-k3-node-amd64-v1.28.5-v1".parse().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("k3s-selinux.rpm");
    std::fs::write(&path, written(&package(NAME, "1.el9"))).unwrap();
    let error = check(&path, &version, &Key::rancher()).unwrap_err().0;
    for part in
        ["k3s-selinux.rpm is not signed", "--k3s-selinux FILE", "--no-k3s-selinux", "--k3s-selinux-key"]
    {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
    let error = check(&dir.path().join("none"), &version, &Key::rancher()).unwrap_err().0;
    assert!(error.contains("cannot be read"), "{error}");
}

#[test]
fn the_release_is_below_the_place() {
    let place = "https://e/k3s-selinux/releases/download/".parse().unwrap();
    let url = Release::of(9).unwrap().url(&place).unwrap();
    assert!(url.as_str().starts_with("https://e/k3s-selinux/releases/download/v1."), "{url}");
    assert!(url.as_str().ends_with(".el9.noarch.rpm"), "{url}");
    assert_eq!(Release::of(8), None);
}

/// What rpmbuild 4.18 built and rpmsign signed with GnuPG's help, the options
/// being those of Rancher's own script; with a key made for these tests.
const BY_RPMSIGN: &[u8] = include_bytes!("fixtures/k3s-selinux.rpm");
/// The same package, signed with SHA-1.
const WITH_SHA1: &[u8] = include_bytes!("fixtures/k3s-selinux.sha1.rpm");

fn rpmsign_key() -> Key {
    Key::read(include_bytes!("fixtures/k3s-selinux.asc")).unwrap()
}

#[test]
fn what_rpmsign_signed_is_taken() {
    assert_eq!(judge(BY_RPMSIGN, 9, &rpmsign_key()), Ok(()));
    let refused = judge(BY_RPMSIGN, 9, &Key::rancher()).unwrap_err();
    let (wanted, found) = (Key::rancher().fingerprint(), rpmsign_key().fingerprint());
    assert_eq!(refused, Refused::OtherKey { wanted, found });
}

#[test]
fn a_hash_that_can_be_forged_vouches_for_nothing() {
    let refused = judge(WITH_SHA1, 9, &rpmsign_key()).unwrap_err();
    assert_eq!(refused, Refused::Broken(rpmsign_key().fingerprint()));
}

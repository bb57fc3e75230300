use super::*;
use crate::image::manifest::{DISK, sums, test_manifest};
use crate::image::signature::{NewKey, Signer, new_key};
use std::fs;

/// What the image is called.
fn name() -> String {
    test_manifest(b"").version.to_string()
}

/// A signed image in a directory of its name.
struct Image {
    home: tempfile::TempDir,
    key: NewKey,
}

impl Image {
    fn new() -> Self {
        let image = Self { home: tempfile::tempdir().unwrap(), key: new_key(None).unwrap() };
        fs::create_dir(image.dir()).unwrap();
        let disk = b"QFI\xfb\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
        let manifest = serde_json::to_vec(&test_manifest(disk)).unwrap();
        image.write(DISK, disk);
        image.write(MANIFEST, &manifest);
        let list = sums([(DISK, Digest::of(disk)), (MANIFEST, Digest::of(&manifest))]);
        image.write(SUMS, list.as_bytes());
        image.sign(&name(), list.as_bytes());
        image
    }

    fn dir(&self) -> std::path::PathBuf {
        self.home.path().join(name())
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.dir().join(name), bytes).unwrap();
    }

    fn sign(&self, name: &str, sums: &[u8]) {
        let key = self.home.path().join("key");
        fs::write(&key, &self.key.secret).unwrap();
        let signature = Signer::read(&key, None).unwrap().sign(name, sums).unwrap();
        self.write(SIGNATURE, signature.as_bytes());
    }

    async fn verdict(&self) -> Verdict {
        let path = self.home.path().join("key.pub");
        fs::write(&path, &self.key.public).unwrap();
        let key = Verifier::read(path.to_str().unwrap()).unwrap();
        verify(&self.dir(), Some(&key)).await.unwrap()
    }

    #[track_caller]
    fn says(verdict: &Verdict, word: &str) {
        assert!(verdict.problems.iter().any(|problem| problem.contains(word)), "{word:?} not in {verdict:?}");
    }
}

#[tokio::test]
async fn an_untouched_image_has_no_problem() {
    let verdict = Image::new().verdict().await;
    assert_eq!(verdict.problems, Vec::<String>::new());
    assert_eq!(verdict.files, [DISK, MANIFEST]);
    assert!(verdict.signed.is_some() && verdict.warnings.is_empty(), "{verdict:?}");
}

#[tokio::test]
async fn every_change_is_a_problem() {
    let image = Image::new();
    image.write(DISK, b"another");
    Image::says(&image.verdict().await, "disk.qcow2 has changed");

    let image = Image::new();
    fs::remove_file(image.dir().join(DISK)).unwrap();
    Image::says(&image.verdict().await, "disk.qcow2 is missing");

    let image = Image::new();
    image.write("more", b"x");
    Image::says(&image.verdict().await, "more is not in SHA256SUMS");

    // Disk and list changed together: the signature no longer fits.
    let image = Image::new();
    image.write(DISK, b"another");
    let manifest = fs::read(image.dir().join(MANIFEST)).unwrap();
    let list = sums([(DISK, Digest::of(b"another")), (MANIFEST, Digest::of(&manifest))]);
    image.write(SUMS, list.as_bytes());
    let verdict = image.verdict().await;
    Image::says(&verdict, "not that key's signature");
    Image::says(&verdict, "do not agree about disk");

    let image = Image::new();
    fs::remove_file(image.dir().join(SIGNATURE)).unwrap();
    Image::says(&image.verdict().await, "not signed");
}

#[tokio::test]
async fn a_signature_is_of_one_image() {
    let image = Image::new();
    let list = fs::read(image.dir().join(SUMS)).unwrap();
    image.sign("alma9-k3-node-amd64-v1.28.5-v9", &list);
    Image::says(&image.verdict().await, "signed as another image");
}

#[tokio::test]
async fn a_directory_that_is_none_is_bad_input() {
    let dir = tempfile::tempdir().unwrap();
    assert!(verify(dir.path(), None).await.unwrap_err().is::<BadInput>());
}

#[test]
fn the_list_names_files_beside_it_and_each_once() {
    let digest = "0".repeat(64);
    assert_eq!(parse_sums(format!("{digest}  disk.qcow2\n").as_bytes()).unwrap().len(), 1);
    for wrong in ["../etc/passwd", "a/b", "..", ""] {
        assert!(parse_sums(format!("{digest}  {wrong}\n").as_bytes()).is_err(), "{wrong:?}");
    }
    assert!(parse_sums(format!("{digest}  a\n{digest}  a\n").as_bytes()).is_err());
    assert!(parse_sums(b"xyz  a\n").is_err());
    assert!(parse_sums(b"\xff\n").is_err());
}

proptest::proptest! {
    #[test]
    fn no_list_makes_the_parser_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        let _ = parse_sums(&bytes);
    }
}

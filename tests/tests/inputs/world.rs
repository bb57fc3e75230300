//! A mirror with AlmaLinux's media and k3s's releases, and calls of `builder`
//! that know no other place.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use kiln_tests::lab::VERSION;
use kiln_tests::mirror::Mirror;
use kiln_tests::{Outcome, lab, run};
use pgp::composed::{
    ArmorOptions, CleartextSignedMessage, DetachedSignature, KeyType, SecretKeyParamsBuilder, SignedSecretKey,
};
use pgp::crypto::hash::HashAlgorithm;
use pgp::ser::Serialize as _;
use pgp::types::Password;
use rpm::{
    BuildConfig, CompressionType, FileOptions, Header, HeaderEntry, IndexData, IndexSignatureTag,
    PackageBuilder,
};
use sha2::{Digest as _, Sha256};

pub(crate) const SOON: Duration = Duration::from_secs(180);
pub(crate) const ISO: &str = "AlmaLinux-9.5-x86_64-dvd.iso";
pub(crate) const ISOS: &str = "almalinux/9/isos/x86_64";
pub(crate) const VAULT: &str = "vault/9.5/isos/x86_64";
pub(crate) const RELEASE: &str = "k3s/v1.28.5+k3s1";
const IMAGES: &str = "k3s-airgap-images-amd64.tar.zst";
/// Releases of k3s's SELinux policy.
const POLICIES: &str = "k3s-selinux/";
/// A port nobody listens at.
pub(crate) const CLOSED: &str = "http://127.0.0.1:9";

pub(crate) struct World {
    home: tempfile::TempDir,
    pub(crate) mirror: Mirror,
    key: SignedSecretKey,
}

pub(crate) fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A medium as far as inputs look into it; nothing can be installed from it.
pub(crate) fn medium() -> &'static [u8] {
    static MEDIUM: OnceLock<Vec<u8>> = OnceLock::new();
    MEDIUM.get_or_init(|| {
        let home = tempfile::tempdir().unwrap();
        let (tree, iso) = (home.path().join("tree"), home.path().join("dvd.iso"));
        fs::create_dir_all(tree.join("images/pxeboot")).unwrap();
        let info =
            "[general]\narch = x86_64\nfamily = AlmaLinux\nvariants = AppStream,BaseOS\nversion = 9.5\n";
        fs::write(tree.join(".treeinfo"), info).unwrap();
        for (name, seed) in [("vmlinuz", 1_u32), ("initrd.img", 2)] {
            let content: Vec<u8> = (0..1_u32 << 19).flat_map(|n| (n ^ seed).to_le_bytes()).collect();
            fs::write(tree.join("images/pxeboot").join(name), content).unwrap();
        }
        let mut xorriso = Command::new("xorrisofs");
        xorriso.args(["-quiet", "-R", "-J", "-V", "AlmaLinux-9-5-x86_64-dvd", "-o"]).arg(&iso).arg(&tree);
        run(xorriso, SOON).success();
        fs::read(iso).unwrap()
    })
}

/// k3s's policy as Rancher packs it, without a signature; with nothing in it.
fn policy() -> rpm::Package {
    let mut builder = PackageBuilder::new("k3s-selinux", "1.6", "ASL 2.0", "noarch", "SELinux policy");
    builder.using_config(BuildConfig::v4().compression(CompressionType::None)).release("1.el9");
    let file = FileOptions::new("/usr/share/selinux/packages/k3s.pp").permissions(0o644);
    builder.with_file_contents(vec![7; 3000], file).unwrap();
    builder.build().unwrap()
}

fn written(package: &rpm::Package) -> Vec<u8> {
    let mut bytes = Vec::new();
    package.write(&mut bytes).unwrap();
    bytes
}

/// The path on the mirror of the policy that is meant by default.
pub(crate) fn policy_path() -> String {
    let release = kiln_builder::inputs::selinux::Release::of(9).unwrap();
    let url = release.url(&format!("http://m/{POLICIES}").parse().unwrap()).unwrap();
    url.path().trim_start_matches('/').to_owned()
}

impl World {
    /// Everything is where it belongs.
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("mirror");
        fs::create_dir(&root).unwrap();
        let key = SecretKeyParamsBuilder::default()
            .key_type(KeyType::Ed25519Legacy)
            .can_sign(true)
            .can_certify(true)
            .primary_user_id("Tests <tests@kiln.invalid>".to_owned())
            .build()
            .unwrap()
            .generate(rand::thread_rng())
            .unwrap();
        let world = Self { mirror: Mirror::start(&root), home, key };
        let public = world.key.to_public_key().to_armored_string(ArmorOptions::default()).unwrap();
        fs::write(world.path("key.asc"), public).unwrap();

        world.put_media(ISOS);
        let k3s = fs::read(lab().k3s()).unwrap();
        let images = b"\x28\xb5\x2f\xfd no images, but the name and the beginning are right";
        world.put(&format!("{RELEASE}/k3s"), &k3s);
        world.put(&format!("{RELEASE}/{IMAGES}"), images);
        let sums = format!("{}  k3s\n{}  {IMAGES}\n", sha256(&k3s), sha256(images));
        world.put(&format!("{RELEASE}/sha256sum-amd64.txt"), sums.as_bytes());
        world.put(&policy_path(), &world.signed_policy());
        world
    }

    /// k3s's policy, signed with this world's key.
    pub(crate) fn signed_policy(&self) -> Vec<u8> {
        let mut package = policy();
        let header = package.header_bytes().unwrap();
        let (key, password) = (&self.key.primary_key, Password::empty());
        let random = rand::thread_rng();
        let signature =
            DetachedSignature::sign_binary_data(random, key, &password, HashAlgorithm::Sha256, &header[..]);
        let signature = IndexData::Bin(signature.unwrap().to_bytes().unwrap());
        // Where EL 9's rpmsign puts it.
        let entry = HeaderEntry::new(IndexSignatureTag::RPMSIGTAG_RSA as u32, signature);
        package.metadata.signature = Header::from_entries([entry], IndexSignatureTag::HEADER_SIGNATURES);
        written(&package)
    }

    /// The same, which nobody signed.
    pub(crate) fn unsigned_policy() -> Vec<u8> {
        written(&policy())
    }

    /// A directory with a medium and its signed list.
    pub(crate) fn put_media(&self, directory: &str) {
        let iso = medium();
        let list = format!(
            "# {ISO}: {} bytes\nSHA256 ({ISO}) = {digest}\nSHA256 (AlmaLinux-9-latest-x86_64-dvd.iso) = {digest}\n",
            iso.len(),
            digest = sha256(iso)
        );
        self.put(&format!("{directory}/{ISO}"), iso);
        self.put(&format!("{directory}/CHECKSUM"), self.signed(&list).as_bytes());
    }

    pub(crate) fn signed(&self, text: &str) -> String {
        let message =
            CleartextSignedMessage::sign(rand::thread_rng(), text, &self.key.primary_key, &Password::empty());
        message.unwrap().to_armored_string(ArmorOptions::default()).unwrap()
    }

    pub(crate) fn put(&self, path: &str, content: &[u8]) {
        let path = self.served(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn remove(&self, path: &str) {
        fs::remove_file(self.served(path)).unwrap();
    }

    pub(crate) fn served(&self, path: &str) -> PathBuf {
        self.path("mirror").join(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.path("cache")
    }

    pub(crate) fn out(&self) -> PathBuf {
        self.path("out")
    }

    /// A call of `builder` that knows this world's cache and no proxy.
    pub(crate) fn builder(&self, arguments: &[&str]) -> Command {
        let mut command = lab().builder();
        command.args(arguments).arg("--cache").arg(self.cache());
        command.env("XDG_STATE_HOME", self.path("state"));
        for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
            command.env_remove(proxy).env_remove(proxy.to_lowercase());
        }
        command
    }

    /// A bake that names nothing but the version; its places are below `base`.
    pub(crate) fn bake_from(&self, base: &str, arguments: &[&str]) -> Command {
        let mut command = self.builder(&["bake", "--version", VERSION]);
        command.args(["--download-tries", "2", "--download-stall", "20s"]);
        command.args([
            "--almalinux-mirror",
            &format!("{base}almalinux/"),
            "--k3s-mirror",
            &format!("{base}k3s/"),
            "--k3s-selinux-mirror",
            &format!("{base}{POLICIES}"),
        ]);
        command.arg("--iso-key").arg(self.path("key.asc")).arg("--agent").arg(lab().agent());
        if !arguments.contains(&"--no-k3s-selinux") {
            command.arg("--k3s-selinux-key").arg(self.path("key.asc"));
        }
        command.arg("--out").arg(self.out()).args(arguments);
        command
    }

    pub(crate) fn bake(&self, arguments: &[&str]) -> Command {
        self.bake_from(&self.mirror.url(""), arguments)
    }

    /// Gets and checks the inputs, and no more.
    #[track_caller]
    pub(crate) fn inputs(&self, arguments: &[&str]) -> Outcome {
        let mut command = self.bake(arguments);
        command.arg("--fetch");
        run(command, SOON)
    }

    /// Says what a bake would do.
    #[track_caller]
    pub(crate) fn explain(&self, arguments: &[&str]) -> Outcome {
        let mut command = self.bake(arguments);
        command.arg("--explain");
        run(command, SOON)
    }

    /// The paths of inputs themselves that the mirror was asked for.
    pub(crate) fn downloads(&self) -> Vec<String> {
        let large = |path: &String| [".iso", "/k3s", ".rpm", ".zst"].iter().any(|end| path.ends_with(end));
        self.mirror.asked().into_iter().map(|asked| asked.path).filter(large).collect()
    }

    pub(crate) fn partials(&self) -> Vec<PathBuf> {
        kiln_tests::leftovers::files_below(&self.cache().join("partials"))
    }

    /// The one file in the cache with this name.
    pub(crate) fn cached(&self, name: &str) -> PathBuf {
        let all = kiln_tests::leftovers::files_below(&self.cache().join("inputs"));
        let found: Vec<&PathBuf> = all.iter().filter(|path| path.ends_with(Path::new(name))).collect();
        assert_eq!(found.len(), 1, "{all:#?}");
        found[0].clone()
    }
}

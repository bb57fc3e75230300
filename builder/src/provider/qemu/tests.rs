//! With a real QEMU, and nothing that boots in it.

use super::*;
use crate::machine::qemu::{Vm, img};
use crate::provider::types::{NodeFirmware, SpecHash, test_spec};
use crate::run::RunId;
use crate::run::process::{helpers_of, qemus_in};

struct Lab {
    dir: tempfile::TempDir,
    qemu: Qemu,
    selector: Selector,
    spec: NodeSpec,
}

/// Whatever a failed test leaves is ended with it.
impl Drop for Lab {
    fn drop(&mut self) {
        for process in helpers_of(self.dir.path()) {
            process.signal(nix::sys::signal::Signal::SIGKILL);
        }
    }
}

impl Lab {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::resolve(Some(dir.path().join("state"))).unwrap();
        let selector = Selector { owner: state.ensure_owner().unwrap(), cluster: "home".parse().unwrap() };
        let qemu = Qemu::new(&state).accel(Accel::Tcg).throwaway();
        let path = dir.path().join("golden.qcow2");
        img::create(&path, 32 << 20).await.unwrap();
        let digest = Digest::of_file(&path).unwrap();
        let image = LocalImage { path, digest, virtual_size: 32 << 20 };
        let lab =
            Self { dir, qemu, selector, spec: NodeSpec { image: digest, api: true, ..test_spec("s1") } };
        lab.qemu.ensure_net(&lab.record(Subject::Net)).await.unwrap();
        lab.qemu.ensure_image(&lab.record(Subject::Image(digest)), &image).await.unwrap();
        lab
    }

    fn record(&self, subject: Subject) -> Record {
        Record::new(&self.selector, subject, RunId::generate(), SpecHash::of(&0))
    }

    async fn node(&self, seed: SeedWish) -> Result<Ensured> {
        let record = self.record(Subject::Node(self.spec.node.clone()));
        self.qemu.ensure_node(&record, &self.spec, seed).await
    }

    fn node_dir(&self) -> PathBuf {
        self.qemu.node_dir(&self.spec.cluster, &self.spec.node)
    }

    async fn remove_all(&self) {
        for object in self.qemu.list(&self.selector).await.unwrap().ours.iter().rev() {
            assert_eq!(self.qemu.delete(&self.selector, object).await.unwrap(), Deleted::Removed);
            assert_eq!(self.qemu.delete(&self.selector, object).await.unwrap(), Deleted::Absent);
        }
    }
}

fn give(text: &str) -> SeedWish {
    SeedWish::Give(zeroize::Zeroizing::new(text.to_owned()))
}

#[tokio::test]
async fn a_node_from_its_making_to_its_end() {
    let lab = Lab::new().await;
    let made = lab.node(give("{\"kiln\":1}")).await.unwrap();
    assert!(matches!(made, Ensured::Created(_)));
    assert!(matches!(lab.node(SeedWish::Keep).await.unwrap(), Ensured::Adopted(_)));
    let node = made.node();
    assert_eq!(lab.qemu.observe(node).await.unwrap().power, PowerState::Off);
    let seed = std::fs::read_to_string(lab.node_dir().join("seed")).unwrap();
    assert_eq!(seed, "io.systemd.credential:kiln.seed={\"kiln\":1}");

    assert_eq!(lab.qemu.power(node, Power::On).await.unwrap(), PowerState::Running);
    let first = Vm::running_in(&lab.node_dir()).unwrap();
    assert_eq!(lab.qemu.power(node, Power::On).await.unwrap(), PowerState::Running);
    assert_eq!(qemus_in(&lab.node_dir()), [first], "a second machine was started");
    let observed = lab.qemu.observe(node).await.unwrap();
    assert!(observed.powered_on.is_some());
    // The API server's port leads into the guest, where nobody answers yet.
    tokio::net::TcpStream::connect(observed.api.unwrap()).await.unwrap();

    assert!(matches!(lab.node(SeedWish::Scrub).await.unwrap(), Ensured::Adopted(_)));
    assert!(!lab.node_dir().join("seed").exists());
    lab.remove_all().await;
    assert_eq!(lab.qemu.list(&lab.selector).await.unwrap(), Listing::default());
    assert!(!first.is_alive());
}

#[tokio::test]
async fn a_node_with_secure_boot_has_a_tpm_of_its_own_that_goes_with_it() {
    let mut lab = Lab::new().await;
    lab.spec.firmware = NodeFirmware::SecureBoot;
    let node = lab.node(SeedWish::Keep).await.unwrap().node().clone();
    assert_eq!(lab.qemu.power(&node, Power::On).await.unwrap(), PowerState::Running);
    assert_eq!(qemus_in(&lab.node_dir()).len(), 1);
    assert_eq!(helpers_of(&lab.node_dir()).len(), 2);
    assert!(lab.node_dir().join("tpm").is_dir(), "its state is not kept with the node");
    let left = helpers_of(&lab.node_dir());
    lab.remove_all().await;
    assert!(left.iter().all(|process| !process.is_alive()), "{left:?}");
}

#[tokio::test]
async fn what_a_killed_run_began_is_finished() {
    let lab = Lab::new().await;
    let node = lab.node(give("x")).await.unwrap().node().clone();
    // Killed before the disk was whole, and before QEMU's machine was started.
    std::fs::remove_file(lab.node_dir().join("disk.qcow2")).unwrap();
    std::fs::write(lab.node_dir().join(".new-disk.qcow2"), "half").unwrap();
    lab.node(give("x")).await.unwrap();
    let mut qemu = std::process::Command::new("qemu-system-x86_64")
        .args(["-S", "-accel", "tcg", "-nodefaults", "-display", "none"])
        .args(["-qmp", "unix:qmp.sock,server=on,wait=off"])
        .current_dir(lab.node_dir())
        .spawn()
        .unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while lab.qemu.observe(&node).await.unwrap().power != PowerState::Stopped {
        assert!(std::time::Instant::now() < deadline, "QEMU made no monitor");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(lab.qemu.power(&node, Power::On).await.unwrap(), PowerState::Running);
    assert_eq!(qemus_in(&lab.node_dir()).len(), 1);
    lab.remove_all().await;
    qemu.wait().unwrap();
}

#[tokio::test]
async fn another_specification_is_reported_and_left() {
    let mut lab = Lab::new().await;
    lab.node(SeedWish::Keep).await.unwrap();
    lab.spec.memory *= 2;
    let Ensured::Drifted(_, drift) = lab.node(SeedWish::Keep).await.unwrap() else { panic!("not noticed") };
    assert_eq!(drift.0, ["memory is 134217728, wanted 268435456"]);
    lab.remove_all().await;
}

#[tokio::test]
async fn what_is_not_ours_is_neither_adopted_nor_removed() {
    let lab = Lab::new().await;
    std::fs::create_dir_all(lab.node_dir()).unwrap();
    std::fs::write(lab.node_dir().join("precious"), "data").unwrap();
    assert!(format!("{:#}", lab.node(give("x")).await.unwrap_err()).contains("no ownership record"));
    let others = Selector { owner: "00000000000000bb".parse().unwrap(), ..lab.selector.clone() };
    let subject = Subject::Node(lab.spec.node.clone());
    let record = Record::new(&others, subject, RunId::generate(), SpecHash::of(&0));
    record.write(&lab.node_dir()).unwrap();
    assert!(format!("{:#}", lab.node(give("x")).await.unwrap_err()).contains("another installation"));
    let listing = lab.qemu.list(&lab.selector).await.unwrap();
    assert_eq!((listing.node(&lab.spec.node), listing.foreign.len()), (None, 1));
    // A stale list may say that it is ours: what the object says now counts.
    let lie = Record { owner: lab.selector.owner.clone(), ..record };
    let object = Object { id: lab.node_dir().display().to_string(), record: lie };
    assert!(lab.qemu.delete(&lab.selector, &object).await.is_err());
    assert!(lab.node_dir().join("precious").exists());
}

#[tokio::test]
async fn an_image_that_is_not_what_its_manifest_says_is_refused() {
    let lab = Lab::new().await;
    let path = lab.dir.path().join("golden.qcow2");
    let image = LocalImage { path, digest: Digest::of(b"another"), virtual_size: 32 << 20 };
    let record = lab.record(Subject::Image(image.digest));
    let error = lab.qemu.ensure_image(&record, &image).await.unwrap_err();
    assert!(format!("{error:#}").contains("was changed after it was packed"), "{error:#}");
    assert_eq!(lab.qemu.list(&lab.selector).await.unwrap().ours.len(), 2);
}

#[tokio::test]
async fn a_port_that_was_taken_meanwhile_is_named() {
    let lab = Lab::new().await;
    let node = lab.node(SeedWish::Keep).await.unwrap().node().clone();
    let port = lab.qemu.observe(&node).await.unwrap().api.unwrap();
    let _squatter = std::net::TcpListener::bind(port).unwrap();
    let error = format!("{:#}", lab.qemu.power(&node, Power::On).await.unwrap_err());
    assert!(error.contains(&format!("port {}", port.port())) && error.contains("taken"), "{error}");
    assert!(qemus_in(&lab.node_dir()).is_empty());
    lab.remove_all().await;
}

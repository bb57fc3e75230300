//! Ctrl-C in every stage of a bake: exit code 130, soon, and nothing left but
//! what is worth keeping in the cache.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is how a test fails")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kiln_tests::lab::VERSION;
use kiln_tests::leftovers::{assert_no_process, files_below, processes_using};
use kiln_tests::process::{Running, start, wait_until};
use kiln_tests::{lab, run};

/// The stage is reached by then; those before it are in the cache.
const REACHED: Duration = Duration::from_secs(180);
/// Ending a machine and removing files.
const SOON: Duration = Duration::from_secs(20);

/// A bake into a directory of its own, over the cache that all tests share.
struct Bake {
    home: tempfile::TempDir,
    agent: PathBuf,
    more: Vec<String>,
}

impl Bake {
    fn new() -> Self {
        // Every stage of the golden image is in the cache now.
        lab().image();
        Self { home: tempfile::tempdir().unwrap(), agent: lab().agent(), more: Vec::new() }
    }

    /// The same agent as another file: the node stage has to run, the os stage has not.
    fn with_another_agent(mut self) -> Self {
        let mut agent = fs::read(&self.agent).unwrap();
        agent.write_all(self.home.path().as_os_str().as_encoded_bytes()).unwrap();
        self.agent = self.home.path().join("another-agent");
        fs::write(&self.agent, agent).unwrap();
        fs::set_permissions(&self.agent, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        self
    }

    fn out(&self) -> PathBuf {
        self.home.path().join("out")
    }

    fn state(&self) -> PathBuf {
        self.home.path().join("state")
    }

    fn start(&self, media: &Path, cache: &Path) -> Running {
        let mut command = lab().builder();
        command.args(["bake", "--version", VERSION, "--accel", "tcg", "--no-k3s-selinux"]).args(&self.more);
        command.arg("--iso").arg(media).arg("--k3s").arg(lab().k3s()).arg("--agent").arg(&self.agent);
        command.arg("--out").arg(self.out()).arg("--cache").arg(cache);
        command.env("XDG_STATE_HOME", self.state()).env("TMPDIR", self.home.path());
        start(command)
    }

    /// Interrupts it once a process of it, or of its run in the cache, has
    /// `sign` on its command line; then nothing of it may be left.
    #[track_caller]
    fn interrupted_at(&self, sign: &str) {
        let cache = lab().cache().join("bake");
        let mut bake = self.start(lab().media(), &cache);
        let reached = || self.processes(&cache).iter().any(|process| process.contains(sign));
        let waited = wait_until(REACHED, || reached() || bake.ended());
        if waited.is_err() || bake.ended() {
            bake.signal("KILL");
            panic!("{sign:?} was not reached\n{}", bake.wait(SOON));
        }
        bake.signal("INT");
        bake.wait(SOON).code(130).says(&["interrupted"]);
        self.assert_nothing_left(&cache);
    }

    /// What runs for this bake: in its own directory, or in a run's of the cache.
    fn processes(&self, cache: &Path) -> Vec<String> {
        let mut found = processes_using(self.home.path());
        for run in self.runs() {
            found.extend(processes_using(&cache.join("tmp").join(run)));
        }
        found
    }

    /// The ids of recorded runs.
    fn runs(&self) -> Vec<String> {
        let runs = fs::read_dir(self.state().join("kiln/runs")).into_iter().flatten().flatten();
        runs.map(|run| run.file_name().to_string_lossy().into_owned()).collect()
    }

    #[track_caller]
    fn assert_nothing_left(&self, cache: &Path) {
        assert_no_process(self.home.path());
        assert_eq!(self.runs(), Vec::<String>::new(), "a record was left");
        assert_eq!(files_below(&self.out()), Vec::<PathBuf>::new(), "something is in --out");
        let mut gc = lab().builder();
        gc.arg("gc").arg("--cache").arg(cache).env("XDG_STATE_HOME", self.state());
        let outcome = run(gc, SOON).success();
        // Other tests use the same cache at the same time; of this run nothing may be there.
        assert!(!outcome.stdout.contains("run "), "{outcome}");
    }
}

#[test]
fn while_inputs_are_read() {
    let home = tempfile::tempdir().unwrap();
    // A container image of 60 GB, none of it on the disk: reading it takes minutes.
    let images = home.path().join("images.tar");
    let file = fs::File::create(&images).unwrap();
    let mut header = vec![0; 512];
    header[257..262].copy_from_slice(b"ustar");
    (&file).write_all(&header).unwrap();
    file.set_len(60 << 30).unwrap();
    let cache = home.path().join("cache");
    let mut bake = Bake { home, agent: lab().agent(), more: Vec::new() };
    bake.more = vec!["--k3s-images".into(), images.to_str().unwrap().into()];
    let mut running = bake.start(lab().media(), &cache);
    let pid = running.pid();
    let reads = || {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.filter_map(|file| fs::read_link(file.path()).ok()).any(|file| file == images)
    };
    wait_until(REACHED, || reads() || running.ended()).expect("the images were never read");
    running.signal("INT");
    running.wait(SOON).code(130).says(&["interrupted"]);
    bake.assert_nothing_left(&cache);
    assert_eq!(files_below(&cache), Vec::<PathBuf>::new(), "input that was not accepted left a trace");
}

#[test]
fn while_the_installer_runs() {
    let mut bake = Bake::new();
    // Another disk size is another os stage.
    bake.more = vec!["--disk-size".into(), "9GiB".into()];
    bake.interrupted_at("kiln-bake-os");
}

#[test]
fn while_the_node_is_made() {
    Bake::new().with_another_agent().interrupted_at("kiln-bake-node");
}

#[test]
fn while_the_disk_is_packed() {
    Bake::new().interrupted_at("qemu-img convert");
}

#[test]
fn while_clones_are_tried() {
    // The clones are cluster nodes: QEMU with an SMBIOS ticket.
    Bake::new().interrupted_at("type=11");
}

#[test]
fn the_next_bake_goes_on_at_the_last_whole_stage() {
    let bake = Bake::new();
    bake.interrupted_at("qemu-img convert");
    let mut explain = Command::new(lab().root().join("target/debug/builder"));
    explain.args(["bake", "--explain", "--json", "--version", VERSION, "--accel", "tcg", "--no-k3s-selinux"]);
    explain.arg("--iso").arg(lab().media()).arg("--k3s").arg(lab().k3s()).arg("--agent").arg(lab().agent());
    explain.arg("--out").arg(bake.out()).arg("--cache").arg(lab().cache().join("bake"));
    explain.env("XDG_STATE_HOME", bake.state());
    let outcome = run(explain, SOON).success();
    let plan: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    let actions: Vec<&str> =
        plan["stages"].as_array().unwrap().iter().map(|stage| stage["action"].as_str().unwrap()).collect();
    assert_eq!(actions[..3], ["reuse", "reuse", "run"], "{plan:#}");
}

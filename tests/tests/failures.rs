//! Bakes that fail, each the way Anaconda or the machine fails: the person is
//! told what, where and what next, soon; one failure bundle says everything
//! about it, and nothing else is left behind. docs/failures.md has the table
//! of classes and their tests.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is how a test fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kiln_tests::leftovers::{assert_no_process, files_below};
use kiln_tests::process::{Outcome, start, wait_until};
use kiln_tests::{lab, run};

/// No failure takes longer than an installation and what follows it. Bakes
/// that hang until a timeout would be far over it.
const ONE_INSTALLATION: Duration = Duration::from_secs(420);

/// How long finding a failure, telling it and cleaning up may take once it is there.
const SOON: Duration = Duration::from_secs(30);

/// A place of its own for one bake: cache, state and output in one directory.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn bake(&self, iso: &Path) -> Command {
        self.bake_with(iso, "tcg", &self.path().join("cache"))
    }

    fn bake_with(&self, iso: &Path, accel: &str, cache: &Path) -> Command {
        let mut command = self.bake_without_agent(iso, accel, cache);
        command.arg("--agent").arg(lab().agent());
        command
    }

    fn bake_without_agent(&self, iso: &Path, accel: &str, cache: &Path) -> Command {
        let mut command = lab().builder();
        command.args(["bake", "--version", kiln_tests::lab::VERSION, "--accel", accel, "--no-smoke"]);
        command.arg("--no-k3s-selinux");
        command.arg("--iso").arg(iso).arg("--k3s").arg(lab().k3s());
        command.arg("--out").arg(self.path().join("out")).arg("--cache").arg(cache);
        command.env("XDG_STATE_HOME", self.path().join("state")).env("TMPDIR", self.path());
        command
    }

    /// Nothing runs any more, and no disk, socket or lock is left. What a
    /// person needs to understand the failure may stay.
    #[track_caller]
    fn assert_clean(&self) {
        assert_no_process(self.path());
        let left: Vec<_> = files_below(self.path())
            .into_iter()
            .filter(|file| {
                let name = file.file_name().unwrap().to_string_lossy().into_owned();
                [".qcow2", ".sock", ".img", ".pid"].iter().any(|end| name.ends_with(end))
                    || name.contains(".tmp")
            })
            .collect();
        assert_eq!(left, Vec::<PathBuf>::new());
        assert!(
            !self.path().join("out").join(kiln_tests::lab::VERSION).exists(),
            "a failed bake left an image"
        );
    }

    /// `builder gc` with this place's state and cache.
    #[track_caller]
    fn gc(&self, arguments: &[&str]) -> Outcome {
        let mut gc = lab().builder();
        gc.arg("gc").args(arguments).arg("--cache").arg(self.path().join("cache"));
        gc.env("XDG_STATE_HOME", self.path().join("state"));
        run(gc, SOON).success()
    }

    /// Runs a bake that must fail as `class`, saying `words`; its bundle.
    #[track_caller]
    fn fails(&self, command: Command, class: &str, words: &[&str]) -> Bundle {
        let class_said = format!("({class})");
        let outcome = run(command, ONE_INSTALLATION).code(1).says(words).says(&[&class_said, "next: "]);
        self.assert_clean();
        let bundle = self.bundle(&outcome);
        let failure = bundle.failure();
        assert_eq!(failure["diagnosis"]["class"], class, "{failure:#}");
        bundle.assert_whole();
        bundle
    }

    /// The one failure bundle, of which the person was told.
    #[track_caller]
    fn bundle(&self, outcome: &Outcome) -> Bundle {
        let dir = self.path().join("state/kiln/failures");
        let bundles: Vec<PathBuf> =
            fs::read_dir(&dir).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(bundles.len(), 1, "{outcome}");
        assert!(outcome.stderr.contains(bundles[0].to_str().unwrap()), "{outcome}");
        Bundle(bundles[0].clone())
    }
}

/// What is left of a failure, to look at.
struct Bundle(PathBuf);

impl Bundle {
    fn text(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.0.join(name)).unwrap_or_default()).into_owned()
    }

    fn failure(&self) -> serde_json::Value {
        serde_json::from_str(&self.text("failure.json")).unwrap()
    }

    /// What every bundle has, and that its index names all there is.
    #[track_caller]
    fn assert_whole(&self) {
        let index = self.text("README.txt");
        for file in files_below(&self.0) {
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            assert!(name == "README.txt" || index.contains(&name), "{name} is not in the index\n{index}");
            assert!(
                name == "screen.png" || fs::metadata(&file).unwrap().len() <= 80 << 10,
                "{name} is large"
            );
        }
        let failure = self.failure();
        assert!(!failure["tools"]["qemu"].is_null() && !failure["tools"]["builder"].is_null(), "{failure:#}");
        assert!(self.text("ks.cfg").contains("KILN_RUN="), "no kickstart");
        assert!(self.text("command.txt").contains("qemu"), "no command line");
        for file in ["ks.cfg", "command.txt", "serial.log", "failure.json"] {
            assert!(!self.text(file).contains("hunter2"), "a password is in {file}");
        }
    }

    /// A picture of a screen with something on it: a PNG of a text console's
    /// size at least, whose lines do not compress to nothing.
    #[track_caller]
    fn assert_screenshot(&self) {
        let png = fs::read(self.0.join("screen.png")).expect("no screenshot");
        assert!(png.starts_with(b"\x89PNG\r\n\x1a\n"), "not a PNG");
        let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
        assert!(number(16) >= 640 && number(20) >= 400, "{} x {}", number(16), number(20));
        assert!(png.len() > 1500, "an empty screen: {} bytes", png.len());
    }
}

/// The os stage's own kickstart, changed.
fn changed_kickstart(place: &Place, from: &str, to: &str) -> PathBuf {
    let template = fs::read_to_string(lab().root().join("kickstart/alma9.ks")).unwrap();
    assert!(template.contains(from), "kickstart/alma9.ks has no {from:?}");
    let path = place.path().join("own.ks");
    fs::write(&path, template.replacen(from, to, 1)).unwrap();
    path
}

/// A bake with a changed kickstart.
fn with_kickstart(place: &Place, from: &str, to: &str) -> Command {
    let mut bake = place.bake(lab().media());
    bake.arg("--kickstart").arg(changed_kickstart(place, from, to));
    bake
}

/// A bake from media that fail in this way.
fn from_failing_media(place: &Place, failure: &str) -> Command {
    place.bake(&lab().failing_media(failure, place.path()))
}

#[test]
fn a_kernel_that_finds_no_root() {
    let place = Place::new();
    place.fails(from_failing_media(&place, "boot"), "firmware-boot", &["Unable to mount root fs"]);
}

#[test]
fn a_medium_without_its_second_stage() {
    let place = Place::new();
    let bundle = place.fails(from_failing_media(&place, "stage2"), "dracut-stage2", &["no suitable images"]);
    // The machine was still there.
    bundle.assert_screenshot();
}

#[test]
fn a_medium_that_its_own_check_finds_damaged() {
    let place = Place::new();
    // Which of the lines that say so comes first depends on the console.
    place.fails(from_failing_media(&place, "media-check"), "media-check", &["The ISO is damaged"]);
}

#[test]
fn a_kickstart_that_does_not_parse() {
    let place = Place::new();
    // With a secret of the user's, which the bundle must not repeat.
    let bake = with_kickstart(&place, "bootloader ", "rootpw --plaintext hunter2\nbootlaoder ");
    place.fails(bake, "ks-parse", &["kickstart", "bootlaoder"]);
}

#[test]
fn a_pre_script_that_fails() {
    let place = Place::new();
    let bake = with_kickstart(&place, "parted -s", "cat /nowhere/to/be/found; parted -s");
    place.fails(bake, "pre-script", &["%pre", "/nowhere/to/be/found"]);
}

#[test]
fn a_script_with_erroronfail_after_which_anaconda_waits_for_a_key() {
    // It prompts for ENTER, cmdline mode or not, and does nothing any more.
    let place = Place::new();
    let mut bake = place.bake(lab().media());
    let script = "%pre --erroronfail\nexit 1\n%end\n";
    let template = fs::read_to_string(lab().root().join("kickstart/alma9.ks")).unwrap();
    let own = place.path().join("own.ks");
    fs::write(&own, template + script).unwrap();
    bake.arg("--kickstart").arg(own);
    place.fails(bake, "pre-script", &["%pre script", "running the kickstart script at line"]);
}

#[test]
fn a_question_nobody_answers() {
    let place = Place::new();
    place.fails(from_failing_media(&place, "question"), "prompt-wait", &["Please make a selection"]);
}

#[test]
fn a_partition_that_does_not_exist() {
    let place = Place::new();
    let bake = with_kickstart(&place, "--onpart=${name}4", "--onpart=${name}9");
    place.fails(bake, "storage", &["given in part command does not exist"]);
}

#[test]
fn media_without_packages() {
    let place = Place::new();
    place.fails(from_failing_media(&place, "no-packages"), "payload-repo", &["base repository"]);
}

#[test]
fn a_package_that_is_on_no_medium() {
    let place = Place::new();
    let bake = with_kickstart(&place, "@core\n", "@core\nno-such-package\n");
    place.fails(bake, "payload-repo", &["no-such-package"]);
}

#[test]
fn a_scriptlet_that_fails() {
    let place = Place::new();
    place.fails(from_failing_media(&place, "scriptlet"), "scriptlet", &["coreutils-common"]);
}

#[test]
fn a_post_script_that_fails() {
    let place = Place::new();
    let bake = with_kickstart(&place, "grub2-install --target", "grub2-instal --target");
    place.fails(bake, "post-script", &["%post", "grub2-instal"]);
}

#[test]
fn an_installer_with_a_fault_of_its_own() {
    let place = Place::new();
    place.fails(from_failing_media(&place, "crash"), "installer", &["No such file or directory"]);
}

#[test]
fn an_agent_that_cannot_install() {
    // Over the cached os stage: only the node's is to be tried.
    lab().image();
    let place = Place::new();
    let mut bake = place.bake_without_agent(lab().media(), "tcg", &lab().cache().join("bake"));
    // A program for this architecture that fails whatever it is told.
    bake.arg("--agent").arg(real_path("/bin/false"));
    place.fails(bake, "node-install", &["the node stage failed"]);
}

#[test]
fn an_image_that_holds_a_private_key() {
    // Over the cached os stage. The seal removes what installing leaves; a key
    // in what was ordered to go in is found only by who reads the result.
    lab().image();
    let place = Place::new();
    let images = place.path().join("images.tar");
    let mut tar = Command::new("tar");
    fs::write(place.path().join("ca.key"), "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEI\n").unwrap();
    tar.arg("-C").arg(place.path()).arg("-cf").arg(&images).arg("ca.key");
    run(tar, SOON).success();
    let mut bake = place.bake_with(lab().media(), "tcg", &lab().cache().join("bake"));
    bake.arg("--k3s-images").arg(&images).arg("--json");
    let outcome = run(bake, ONE_INSTALLATION).code(1);
    let outcome = outcome.says(&[
        "the inspect stage failed",
        "(inspect)",
        "images.tar",
        "holds a private key",
        "next: ",
    ]);
    assert!(outcome.stdout.contains("\"class\":\"inspect\""), "{outcome}");

    // Nothing is published, and the bundle has all that was seen.
    assert!(!place.path().join("out").join(kiln_tests::lab::VERSION).exists(), "{outcome}");
    place.assert_clean();
    let bundle = place.bundle(&outcome);
    assert_eq!(bundle.failure()["diagnosis"]["class"], "inspect");
    assert!(bundle.text("README.txt").contains("inspect.json"), "{}", bundle.text("README.txt"));
    let report: serde_json::Value = serde_json::from_str(&bundle.text("inspect.json")).unwrap();
    assert_eq!(report["ok"], false, "{report:#}");
    let found: Vec<_> = report["findings"].as_array().unwrap().iter().map(|one| &one["rule"]).collect();
    assert_eq!(found, ["private-keys"], "{report:#}");
}

#[test]
fn a_guest_out_of_memory() {
    let place = Place::new();
    let mut bake = from_failing_media(&place, "oom");
    bake.args(["--memory", "1536MiB"]);
    place.fails(bake, "oom", &["Out of memory", "--memory"]);
}

#[test]
fn an_installer_that_wants_more_memory() {
    let place = Place::new();
    place.fails(from_failing_media(&place, "low-memory"), "oom", &["MB of memory to install", "--memory"]);
}

#[test]
fn a_guest_that_panics() {
    let place = Place::new();
    place.fails(from_failing_media(&place, "panic"), "panic", &["sysrq triggered crash"]);
}

#[test]
fn a_guest_that_resets_itself() {
    let place = Place::new();
    place.fails(from_failing_media(&place, "reset"), "guest-reset", &["guest-reset"]);
}

#[test]
fn a_machine_that_powers_off_without_a_word() {
    let place = Place::new();
    place.fails(from_failing_media(&place, "power-off"), "powered-off-without-mark", &["last words"]);
}

#[test]
fn a_machine_that_stops_making_progress() {
    let place = Place::new();
    let mut bake = from_failing_media(&place, "stall");
    bake.args(["--stall-after", "30s"]);
    place.fails(bake, "stall", &["progress", "no output and nothing written"]).assert_screenshot();
}

#[test]
fn a_qemu_that_is_killed() {
    let place = Place::new();
    let mut bake = start(place.bake(lab().media()));
    let machine = || {
        kiln_tests::leftovers::processes_using(place.path())
            .into_iter()
            .find(|process| process.contains("org.fedoraproject.anaconda"))
    };
    wait_until(Duration::from_secs(120), || machine().is_some() || bake.ended()).expect("no VM was started");
    let machine = machine().expect("the bake ended before its machine ran");
    let pid = machine.split(' ').next().unwrap();
    assert!(Command::new("kill").args(["-KILL", pid]).status().unwrap().success());
    let outcome = bake.wait(SOON).code(1).says(&["(host-qemu)", "signal: 9"]);
    place.assert_clean();
    place.bundle(&outcome).assert_whole();
}

#[test]
fn what_a_failed_bake_made_is_kept_if_asked_for_until_it_is_collected() {
    let place = Place::new();
    let mut bake = from_failing_media(&place, "power-off");
    bake.args(["--on-error", "keep"]);
    run(bake, ONE_INSTALLATION).code(1).says(&["kept: ", "builder gc --yes"]);
    let disks = || files_below(place.path()).iter().filter(|file| file.ends_with("disk.qcow2")).count();
    assert_eq!(disks(), 1, "{:#?}", files_below(place.path()));
    assert_no_process(place.path());
    place.gc(&[]).says(&["kept on request", "builder gc --yes"]);
    assert_eq!(disks(), 1, "gc without --yes removed something");
    place.gc(&["--yes"]);
    place.assert_clean();
    place.gc(&[]).says(&["nothing is left"]);
}

/// A program's file, whatever links lead to it.
fn real_path(path: &str) -> PathBuf {
    fs::canonicalize(path).unwrap()
}

#[test]
fn killed_without_a_word_and_then_collected() {
    let place = Place::new();
    let mut bake = start(place.bake(lab().media()));
    let guest =
        || kiln_tests::leftovers::processes_using(place.path()).iter().any(|p| p.contains("qemu-system"));
    wait_until(Duration::from_secs(120), || guest() || bake.ended()).expect("no VM was started");
    bake.signal("KILL");
    assert_eq!(bake.wait(Duration::from_secs(20)).status.code(), None);
    place.gc(&["--yes"]);
    place.assert_clean();
    place.gc(&[]).says(&["nothing is left"]);
}

#[test]
fn a_full_disk() {
    let place = Place::new();
    // A filesystem of its own, too small for the installed system.
    let small = place.path().join("small");
    fs::create_dir(&small).unwrap();
    let inner = place.bake_with(lab().media(), "tcg", &small.join("cache"));
    let mut bake = Command::new("unshare");
    bake.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
    bake.arg("mount -t tmpfs -o size=120m small \"$0\" && exec \"$@\"").arg(&small);
    bake.arg(inner.get_program()).args(inner.get_args());
    bake.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let outcome = run(bake, ONE_INSTALLATION).code(1);
    let told = outcome.stderr.to_lowercase();
    assert!(told.contains("no space left") && told.contains("--cache"), "{outcome}");
    place.assert_clean();
}

#[test]
fn a_kvm_under_which_guests_hang_is_noticed() {
    if !Path::new("/dev/kvm").exists() {
        // Then there is nothing to notice: auto takes TCG, as the others do.
        return;
    }
    let place = Place::new();
    let cache = place.path().join("cache");
    let mut bake = start(place.bake_with(lab().media(), "auto", &cache));
    // The installer's machine, after whatever was tried before it.
    let installer = || {
        kiln_tests::leftovers::processes_using(place.path())
            .into_iter()
            .find(|p| p.contains("qemu-system") && p.contains("org.fedoraproject.anaconda"))
    };
    wait_until(Duration::from_secs(120), || installer().is_some() || bake.ended())
        .expect("no installer was started");
    let chosen = installer();
    bake.signal("INT");
    let outcome = bake.wait(Duration::from_secs(20)).code(130);
    let chosen = chosen.unwrap_or_else(|| panic!("the bake ended before its installer\n{outcome}"));
    if chosen.contains("tcg") {
        let outcome = outcome.says(&["KVM", "TCG"]);
        // Asked for by name it is an error, soon, and not a hang.
        let insisted = place.bake_with(lab().media(), "kvm", &cache);
        run(insisted, ONE_INSTALLATION).code(1).says(&["--accel tcg"]);
        drop(outcome);
    }
    place.assert_clean();
}

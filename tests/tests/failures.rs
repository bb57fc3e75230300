//! Bakes that fail, each the way Anaconda or the machine fails: the person is
//! told what, where and what next, soon, and nothing is left behind.

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
        let mut command = lab().builder();
        command.args(["bake", "--version", kiln_tests::lab::VERSION, "--accel", accel, "--no-smoke"]);
        command.arg("--iso").arg(iso).arg("--k3s").arg(lab().k3s()).arg("--agent").arg(lab().agent());
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

    #[track_caller]
    fn fails(&self, command: Command, words: &[&str]) -> Outcome {
        let outcome = run(command, ONE_INSTALLATION).code(1).says(words);
        self.assert_clean();
        outcome
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

#[test]
fn a_kickstart_that_does_not_parse() {
    let place = Place::new();
    let mut bake = place.bake(lab().media());
    bake.arg("--kickstart").arg(changed_kickstart(&place, "bootloader ", "bootlaoder "));
    place.fails(bake, &["kickstart", "bootlaoder"]);
}

#[test]
fn a_pre_script_that_fails() {
    let place = Place::new();
    let mut bake = place.bake(lab().media());
    bake.arg("--kickstart").arg(changed_kickstart(
        &place,
        "parted -s",
        "cat /nowhere/to/be/found; parted -s",
    ));
    place.fails(bake, &["%pre", "/nowhere/to/be/found"]);
}

#[test]
fn a_post_script_that_fails() {
    let place = Place::new();
    let mut bake = place.bake(lab().media());
    bake.arg("--kickstart").arg(changed_kickstart(&place, "grub2-install --target", "grub2-instal --target"));
    place.fails(bake, &["%post", "grub2-instal"]);
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
    place.fails(bake, &["%pre script", "running the kickstart script at line"]);
}

#[test]
fn media_without_packages() {
    let place = Place::new();
    let iso = lab().failing_media("no-packages", place.path());
    place.fails(place.bake(&iso), &["base repository"]);
}

#[test]
fn a_guest_that_panics() {
    let place = Place::new();
    let iso = lab().failing_media("panic", place.path());
    place.fails(place.bake(&iso), &["panic"]);
}

#[test]
fn a_machine_that_stops_making_progress() {
    let place = Place::new();
    let iso = lab().failing_media("stall", place.path());
    let mut bake = place.bake(&iso);
    bake.args(["--stall-after", "20s"]);
    place.fails(bake, &["progress"]);
}

#[test]
fn interrupted_while_the_installer_runs() {
    let place = Place::new();
    let mut bake = start(place.bake(lab().media()));
    let guest =
        || kiln_tests::leftovers::processes_using(place.path()).iter().any(|p| p.contains("qemu-system"));
    wait_until(Duration::from_secs(120), || guest() || bake.ended()).expect("no VM was started");
    bake.signal("INT");
    bake.wait(Duration::from_secs(20)).code(130).says(&["interrupted"]);
    place.assert_clean();
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
    let mut gc = lab().builder();
    gc.args(["gc", "--yes"]).env("XDG_STATE_HOME", place.path().join("state"));
    run(gc, Duration::from_secs(30)).success();
    place.assert_clean();
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
    place.fails(bake, &["no space left", "--cache"]);
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
        place.fails(place.bake_with(lab().media(), "kvm", &cache), &["--accel tcg"]);
        drop(outcome);
    }
    place.assert_clean();
}

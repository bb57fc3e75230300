//! A disk that is full in the middle of a download: a file system of its own
//! in memory, small and really full.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kiln_tests::process::{start, wait_until};
use kiln_tests::run;

use crate::world::{ISO, ISOS, SOON, World, medium};

const MIB: usize = 1 << 20;
/// So much of the medium is there when the disk fills up.
const HALF: u64 = 1 << 20;

/// A file system in memory, for as long as this value lives.
struct Small(PathBuf);

impl Small {
    /// Mounting takes root; a test that cannot mount has not passed.
    fn mount(place: &Path, size: usize) -> Self {
        fs::create_dir_all(place).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "kiln-test"]).arg(place);
        run(mount, Duration::from_secs(20)).success();
        Self(place.to_owned())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Lazily: what is held open goes with its process.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Fills a file system up, but for `left` bytes.
fn fill(place: &Path, left: usize) -> PathBuf {
    let path = place.join("ballast");
    let mut file = fs::File::create(&path).unwrap();
    let mut size = 0;
    while file.write_all(&[1; 4096]).is_ok() {
        size += 4096;
    }
    file.set_len(size - left as u64).unwrap();
    path
}

#[test]
fn a_disk_that_fills_up_is_named_and_the_next_run_goes_on() {
    let world = World::new();
    let _small = Small::mount(&world.cache(), 64 * MIB);
    let path = format!("/{ISOS}/{ISO}");
    world.mirror.hold(&path, HALF);
    let mut first = start(world.bake(&["--fetch"]));
    let data = || world.partials().into_iter().find(|path| path.ends_with("data"));
    let size = || data().and_then(|path| fs::metadata(path).ok()).map_or(0, |metadata| metadata.len());
    wait_until(SOON, || size() == HALF || first.ended()).unwrap();
    let ballast = fill(&world.cache(), MIB / 2);
    world.mirror.release();
    let outcome = first.wait(SOON).code(1);
    let partials = world.cache().join("partials");
    outcome.says(&[ISO, "does not fit on the disk", "are needed at", partials.to_str().unwrap(), "--cache"]);

    // What came is a part of the medium, and is no input.
    let part = fs::read(data().expect("what came is gone")).unwrap();
    assert!(part.len() as u64 >= HALF && medium().starts_with(&part), "{} bytes", part.len());
    let all = kiln_tests::leftovers::files_below(&world.cache().join("inputs"));
    assert!(!all.iter().any(|path| path.ends_with(ISO)), "{all:?}");
    assert!(!world.cache().join("quarantine").exists());

    // Too full still, it is told before anything is written.
    let file = fs::File::options().write(true).open(&ballast).unwrap();
    file.set_len(file.metadata().unwrap().len() - 128 * 1024).unwrap();
    drop(file);
    world.inputs(&[]).code(1).says(&["does not fit on the disk"]);
    assert_eq!(fs::read(data().unwrap()).unwrap().len(), part.len());

    fs::remove_file(ballast).unwrap();
    world.inputs(&[]).success();
    let last = world.mirror.asked().into_iter().rfind(|asked| asked.path == path).unwrap();
    assert_eq!(last.range, Some(format!("bytes={}-", part.len())));
    assert_eq!(fs::read(world.cached(ISO)).unwrap(), medium());
    assert!(world.partials().is_empty());
    run(world.builder(&["cache", "verify"]), SOON).success().says(&["all as they were"]);
}

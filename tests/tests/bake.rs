//! Baking with real virtual machines: the image, its manifest, and what a
//! second bake does not do again.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is how a test fails")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kiln_tests::lab::VERSION;
use kiln_tests::leftovers::{assert_no_process, files_below};
use kiln_tests::{lab, run};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        .unwrap()
}

#[test]
fn the_image_is_whole_and_says_what_it_is() {
    let image = lab().image();

    let mut sums = Command::new("sha256sum");
    sums.args(["--check", "--strict", "SHA256SUMS"]).current_dir(&image);
    run(sums, SOON).success();

    let manifest = json(&image.join("manifest.json"));
    for (field, expected) in [
        ("version", VERSION),
        ("architecture", "amd64"),
        ("k3s_version", "v1.28.5+k3s1"),
        ("qcow2_path", "disk.qcow2"),
    ] {
        assert_eq!(manifest[field], expected, "{manifest:#}");
    }
    assert_eq!(manifest["distribution_release"].to_string().trim_matches('"'), "1", "{manifest:#}");
    for field in ["base_os", "build_date", "qcow2_size_gb"] {
        assert!(!manifest[field].is_null(), "{field} is missing: {manifest:#}");
    }
    // Every input that went in is there with its digest.
    let text = manifest.to_string();
    let pins = fs::read_to_string(image.with_file_name("kiln.lock")).unwrap();
    for input in [lab().media().to_owned(), lab().k3s(), lab().agent()] {
        let mut sum = Command::new("sha256sum");
        sum.arg(&input);
        let printed = run(sum, SOON).success().stdout;
        let digest = printed.split(' ').next().unwrap();
        assert!(text.contains(digest), "{} ({digest}) is not in {manifest:#}", input.display());
        assert!(pins.contains(digest), "{} ({digest}) is not in kiln.lock\n{pins}", input.display());
    }
}

#[test]
fn the_disk_is_one_zstd_qcow2_without_a_backing_file() {
    let disk = lab().image().join("disk.qcow2");
    let mut info = Command::new("qemu-img");
    info.args(["info", "--output=json"]).arg(&disk);
    let info: Value = serde_json::from_str(&run(info, SOON).success().stdout).unwrap();
    assert_eq!(info["format"], "qcow2");
    assert_eq!(info["format-specific"]["data"]["compression-type"], "zstd");
    assert!(info["backing-filename"].is_null(), "{info:#}");
    let mut check = Command::new("qemu-img");
    check.args(["check", "-q"]).arg(&disk);
    run(check, SOON).success();
}

#[test]
fn nothing_runs_again_when_nothing_changed() {
    let image = lab().image();
    let before: BTreeMap<_, _> =
        files_below(&image).into_iter().map(|f| (f.clone(), fs::read(f).unwrap())).collect();
    let mut again = lab().bake(image.parent().unwrap());
    again.arg("--json");
    let outcome = run(again, SOON).success();
    assert!(!outcome.stdout.contains("\"installer\""), "an installer ran\n{outcome}");
    let after: BTreeMap<_, _> =
        files_below(&image).into_iter().map(|f| (f.clone(), fs::read(f).unwrap())).collect();
    assert!(before == after, "the finished image was touched");
    assert_no_process(&image);
}

#[test]
fn a_cache_that_was_moved_is_used_again() {
    // Its os stage is in the cache that all tests share; that one cannot be moved.
    lab().image();
    let home = tempfile::tempdir().unwrap();
    let (cache, moved) = (home.path().join("cache"), home.path().join("moved"));
    let mut explain = lab().bake(&home.path().join("first"));
    explain.args(["--explain", "--json"]);
    let plan: Value = serde_json::from_str(&run(explain, SOON).success().stdout).unwrap();
    let key = plan["stages"][0]["key"].as_str().unwrap_or_else(|| panic!("{plan:#}"));
    fs::create_dir_all(cache.join("stages/os")).unwrap();
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(lab().cache().join("bake/stages/os").join(key)).arg(cache.join("stages/os"));
    run(copy, SOON).success();

    let bake = |out: &str, cache: &Path| {
        let mut bake = lab().bake_over(&home.path().join(out), cache);
        bake.args(["--no-smoke", "--json"]);
        let outcome = run(bake, Duration::from_secs(300)).success();
        let events = outcome.stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let finished = events.filter(|event| event["event"] == "stage-finished");
        let stages = finished.filter(|event| event["stage"] == "os" || event["stage"] == "node");
        stages.map(|event| event["cached"].as_bool().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(bake("first", &cache), [true, false]);
    fs::rename(&cache, &moved).unwrap();
    // Packing reads the node's disk, and with it the one below.
    assert_eq!(bake("second", &moved), [true, true]);
    assert!(!cache.exists(), "something is in the old place");
}

#[test]
fn another_artifact_never_takes_a_version_name_that_is_used() {
    // The same image under its name elsewhere, one byte of its record changed.
    let home = tempfile::tempdir().unwrap();
    let taken = home.path().join(VERSION);
    fs::create_dir(&taken).unwrap();
    for file in files_below(&lab().image()) {
        let name = file.file_name().unwrap();
        if name == "disk.qcow2" {
            fs::write(taken.join(name), b"another disk").unwrap();
        } else {
            fs::copy(&file, taken.join(name)).unwrap();
        }
    }
    let outcome = run(lab().bake(home.path()), SOON);
    assert!(!outcome.status.success(), "{outcome}");
    outcome.says(&[VERSION, "-v2"]);
    assert_eq!(fs::read(taken.join("disk.qcow2")).unwrap(), b"another disk");
}

#[test]
fn the_package_list_and_the_bill_of_materials_name_what_is_inside() {
    let image = lab().image();
    let packages = fs::read_to_string(image.join("packages.txt")).unwrap();
    let names: Vec<&str> = packages.lines().collect();
    assert!(names.len() > 100 && names.is_sorted(), "{packages}");
    assert!(names.iter().any(|name| name.starts_with("container-selinux-")), "{packages}");
    let sbom = json(&image.join("sbom.cdx.json"));
    assert_eq!((&sbom["bomFormat"], &sbom["specVersion"]), (&Value::from("CycloneDX"), &Value::from("1.5")));
    let components = sbom["components"].as_array().unwrap();
    let purls =
        components.iter().filter(|one| one["purl"].as_str().is_some_and(|p| p.starts_with("pkg:rpm/")));
    assert_eq!(purls.count(), names.len());
    // k3s is there with the digest it went in with.
    let k3s = components.iter().find(|one| one["name"] == "k3s").unwrap_or_else(|| panic!("{sbom:#}"));
    let inputs = &json(&image.join("manifest.json"))["inputs"];
    assert_eq!(k3s["hashes"][0]["content"], inputs["k3s"]["sha256"]);
}

#[test]
fn a_signed_image_is_verified_and_a_changed_one_is_not() {
    let home = tempfile::tempdir().unwrap();
    let image = home.path().join(VERSION);
    fs::create_dir(&image).unwrap();
    for file in files_below(&lab().image()) {
        fs::copy(&file, image.join(file.file_name().unwrap())).unwrap();
    }
    let call = |words: &[&str]| {
        let mut command = lab().builder();
        command.args(words).current_dir(home.path());
        command
    };
    run(call(&["sign", "--new-key", "kiln"]), SOON).success();
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(home.path().join("kiln.key")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    run(call(&["verify", VERSION, "--key", "kiln.pub"]), SOON).code(1).says(&["not signed"]);
    run(call(&["sign", VERSION, "--key", "kiln.key"]), SOON).success();
    run(call(&["verify", VERSION, "--key", "kiln.pub"]), SOON).success().says(&["signed", "disk.qcow2"]);

    // One byte of the disk, its digest made to fit: only the signature tells.
    let disk = image.join("disk.qcow2");
    let mut bytes = fs::read(&disk).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&disk, &bytes).unwrap();
    run(call(&["verify", VERSION]), SOON).code(1).says(&["disk.qcow2 has changed"]);
    let mut sums = Command::new("sh");
    sums.args(["-c", "sha256sum $(cut -d' ' -f3 SHA256SUMS) >new && mv new SHA256SUMS"]).current_dir(&image);
    run(sums, SOON).success();
    run(call(&["verify", VERSION, "--key", "kiln.pub"]), SOON).code(1).says(&["not that key's signature"]);
    // An image that is not whole is not signed either.
    run(call(&["sign", VERSION, "--key", "kiln.key"]), SOON).code(2).says(&["not as it was packed"]);
}

#[test]
fn the_compressed_plain_disk_is_the_same_disk() {
    let home = tempfile::tempdir().unwrap();
    let image = lab().image();
    let mut bake = lab().bake(home.path());
    bake.args(["--no-smoke", "--also", "raw.zst"]);
    run(bake, Duration::from_secs(300)).success();
    let made = home.path().join(VERSION);
    assert!(!made.join("disk.raw").exists(), "what it was compressed from is left");
    let sums = fs::read_to_string(made.join("SHA256SUMS")).unwrap();
    assert!(sums.contains("  disk.raw.zst\n"), "{sums}");
    let mut unpack = Command::new("zstd");
    unpack.args(["-dq", "--sparse", "disk.raw.zst", "-o", "plain"]).current_dir(&made);
    run(unpack, Duration::from_secs(120)).success();
    let mut compare = Command::new("qemu-img");
    compare
        .args(["compare", "-f", "qcow2", "-F", "raw"])
        .arg(image.join("disk.qcow2"))
        .arg(made.join("plain"));
    run(compare, Duration::from_secs(120)).success().says(&["identical"]);
}

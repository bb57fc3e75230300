//! `kiln.lock`: the same again, or a refusal.

use std::fs;

use kiln_tests::lab::VERSION;
use kiln_tests::run;
use serde_json::{Value, json};

use crate::world::{ISO, ISOS, SOON, World, medium, sha256};

/// Puts an image of that name where the bake would put it, so that a bake is
/// done without a machine.
fn finish(world: &World, arguments: &[&str]) {
    let mut explain = world.bake(arguments);
    explain.args(["--explain", "--json"]);
    let outcome = run(explain, SOON).success();
    let plan: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let pack = plan["stages"].as_array().unwrap().iter().find(|stage| stage["stage"] == "pack").unwrap();
    let disk = b"a disk";
    let record = json!({"name": "disk.qcow2", "size": disk.len(), "sha256": sha256(disk)});
    let manifest = json!({
        "version": VERSION, "base_os": "AlmaLinux 9.5", "architecture": "amd64", "k3s_version": "v1.28.5+k3s1",
        "distribution_release": 1, "build_date": "2026-01-01T00:00:00Z", "qcow2_path": "disk.qcow2",
        "qcow2_size_gb": 0.0, "template_id": null, "content_key": pack["key"], "virtual_size": 1, "inputs": {},
        "outputs": {"disk": record}, "stages": [], "tools": {}, "install_report": null,
    });
    let image = world.out().join(VERSION);
    fs::create_dir_all(&image).unwrap();
    fs::write(image.join("disk.qcow2"), disk).unwrap();
    fs::write(image.join("manifest.json"), manifest.to_string()).unwrap();
}

#[test]
fn a_bake_pins_what_it_took_and_locked_takes_nothing_else() {
    let world = World::new();
    // Unknown so far: refused before anything is asked for.
    world.inputs(&["--locked"]).code(2).says(&["--locked", "does not know", VERSION]);
    assert!(world.mirror.asked().is_empty());

    finish(&world, &[]);
    run(world.bake(&["--no-smoke"]), SOON).success();
    let path = world.out().join("kiln.lock");
    let text = fs::read_to_string(&path).unwrap();
    let iso = sha256(medium());
    for word in
        [VERSION, ISO, &iso, "sha256 = ", "from = \"default\"", &world.mirror.url(&format!("{ISOS}/{ISO}"))]
    {
        assert!(text.contains(word), "{word} is not in\n{text}");
    }

    // A newer medium comes out, the old one goes away: the pin still holds.
    world.put(&format!("{ISOS}/CHECKSUM"), world.signed("nothing\n").as_bytes());
    world.remove(&format!("{ISOS}/{ISO}"));
    let asked = world.mirror.asked().len();
    run(world.bake(&["--no-smoke", "--locked"]), SOON).success();
    assert_eq!(world.mirror.asked().len(), asked, "asked for what is pinned");
    assert_eq!(fs::read_to_string(&path).unwrap(), text, "nothing changed, but the file did");
    // Only who asks for what is newest gets to know.
    world.inputs(&["--update"]).code(2).says(&["lists no DVD of AlmaLinux 9"]);

    // Another cache: the pin's place is gone, and no other has it.
    let elsewhere = world.path("elsewhere");
    fs::rename(world.cache(), &elsewhere).unwrap();
    world.inputs(&["--locked"]).code(2).says(&[ISO, "404 Not Found"]);
    // The vault has.
    world.put_media("vault/9.5/isos/x86_64");
    world.inputs(&["--locked"]).success().says(&["was found at", "vault"]);
}

#[test]
fn locked_names_what_differs() {
    let world = World::new();
    finish(&world, &[]);
    run(world.bake(&["--no-smoke"]), SOON).success();
    let before = fs::read_to_string(world.out().join("kiln.lock")).unwrap();
    let agent = fs::read(kiln_tests::lab().agent()).unwrap();
    let changed = [&agent[..], b"changed"].concat();
    fs::write(world.path("agent"), &changed).unwrap();
    let other = world.path("agent");
    let mut command = world.builder(&["bake", "--version", VERSION, "--locked", "--explain"]);
    command
        .arg("--agent")
        .arg(&other)
        .arg("--out")
        .arg(world.out())
        .arg("--iso-key")
        .arg(world.path("key.asc"));
    command.args([
        "--almalinux-mirror",
        &world.mirror.url("almalinux"),
        "--k3s-mirror",
        &world.mirror.url("k3s"),
    ]);
    let outcome = run(command, SOON).code(2);
    outcome.says(&["agent is sha256", &sha256(&changed), &sha256(&agent), "-vN"]);
    assert_eq!(fs::read_to_string(world.out().join("kiln.lock")).unwrap(), before);
}

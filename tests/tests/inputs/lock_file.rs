//! `kiln.lock`: the same again, or a refusal. That a finished bake writes it is
//! tested where one is finished, in `tests/bake.rs`.

use std::fs;

use kiln_tests::lab;
use kiln_tests::lab::VERSION;
use kiln_tests::run;

use crate::world::{ISO, ISOS, RELEASE, SOON, World, medium, policy_path, sha256};

/// A lock file as a bake of this world's newest writes it.
pub(crate) fn pin(world: &World) -> String {
    let (k3s, agent) = (fs::read(lab().k3s()).unwrap(), fs::read(lab().agent()).unwrap());
    let policy = fs::read(world.served(&policy_path())).unwrap();
    let table = format!("image.\"{VERSION}\"");
    let input = |what: &str, name: &str, content: &[u8], from: &str| {
        let (digest, size) = (sha256(content), content.len());
        format!(
            "\n[{table}.input.{what}]\nname = \"{name}\"\nsha256 = \"{digest}\"\nsize = {size}\nfrom = {from}\n"
        )
    };
    let found = |path: &str| format!("\"default\"\nurl = \"{}\"", world.mirror.url(path));
    let text = [
        format!("format = 1\n\n[{table}]\nk3s = \"v1.28.5+k3s1\"\n"),
        input("agent", "agent", &agent, "\"file\""),
        input("iso", ISO, medium(), &found(&format!("{ISOS}/{ISO}"))),
        input("k3s", "k3s", &k3s, &found(&format!("{RELEASE}/k3s").replace('+', "%2B"))),
        input("k3s-selinux", "k3s-selinux.rpm", &policy, &found(&policy_path())),
    ]
    .concat();
    fs::create_dir_all(world.out()).unwrap();
    fs::write(world.out().join("kiln.lock"), &text).unwrap();
    text
}

#[test]
fn what_is_pinned_is_taken_without_asking_which_is_the_newest() {
    let world = World::new();
    // Unknown so far: refused before anything is asked for.
    world.inputs(&["--locked"]).code(2).says(&["--locked", "does not know", VERSION]);
    assert!(world.mirror.asked().is_empty());

    pin(&world);
    // A newer medium came out.
    world.put(&format!("{ISOS}/CHECKSUM"), world.signed("nothing\n").as_bytes());
    world.inputs(&["--locked"]).success();
    assert_eq!(world.mirror.asked().len(), 3, "{:?}", world.mirror.asked());
    // Only who asks for what is newest gets to know.
    world.inputs(&["--update"]).code(2).says(&["lists no DVD of AlmaLinux 9"]);

    // Another cache, and the old medium went away.
    fs::remove_dir_all(world.cache()).unwrap();
    world.remove(&format!("{ISOS}/{ISO}"));
    world.inputs(&["--locked"]).code(2).says(&[ISO, "404 Not Found"]);
    world.put_media("vault/9.5/isos/x86_64");
    world.inputs(&["--locked"]).success().says(&["was found at", "vault"]);
}

#[test]
fn locked_names_what_differs_and_leaves_the_file_alone() {
    let world = World::new();
    let before = pin(&world);
    let agent = fs::read(lab().agent()).unwrap();
    let changed = [&agent[..], b"changed"].concat();
    fs::write(world.path("agent"), &changed).unwrap();
    // Nothing is downloaded to tell that, nor is anything taken after it was.
    for what in ["--explain", "--fetch"] {
        let mut command = world.builder(&["bake", "--version", VERSION, "--locked", what]);
        command.arg("--agent").arg(world.path("agent")).arg("--out").arg(world.out());
        command.arg("--k3s-selinux-key").arg(world.path("key.asc"));
        for (option, place) in [
            ("--almalinux-mirror", "almalinux"),
            ("--k3s-mirror", "k3s"),
            ("--k3s-selinux-mirror", "k3s-selinux"),
        ] {
            command.args([option, &world.mirror.url(place)]);
        }
        let outcome = run(command, SOON).code(2);
        outcome.says(&["agent is sha256", &sha256(&changed), &sha256(&agent), "-vN"]);
        assert_eq!(world.downloads().is_empty(), what == "--explain", "{what}: {:?}", world.downloads());
    }
    assert_eq!(fs::read_to_string(world.out().join("kiln.lock")).unwrap(), before);
}

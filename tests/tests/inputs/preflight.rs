//! `builder preflight` asks the places a bake would ask, the way it would.

use kiln_tests::run;
use serde_json::Value;

use crate::world::{CLOSED, SOON, World};

/// Status and text of what was found about a kind of place.
fn network(world: &World, base: &str, environment: &[(&str, &str)]) -> Vec<(String, String, String)> {
    let mut command = world.builder(&["preflight", "--json"]);
    for (option, place) in [
        ("--almalinux-mirror", "almalinux/"),
        ("--k3s-mirror", "k3s/"),
        ("--k3s-selinux-mirror", "k3s-selinux/"),
    ] {
        command.args([option, &format!("{base}{place}")]);
    }
    command.envs(environment.iter().copied());
    // Other things may be missing on this host: then its code is 1.
    let outcome = run(command, SOON);
    let report: Value =
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}\n{outcome}"));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let findings = report["findings"].as_array().unwrap().iter();
    findings
        .map(|one| (text(&one["name"]), text(&one["status"]), text(&one["found"])))
        .filter(|(name, ..)| name.starts_with("network "))
        .collect()
}

#[test]
fn mirrors_are_asked_and_not_the_vendors() {
    let world = World::new();
    let found = network(&world, &world.mirror.url(""), &[]);
    let names: Vec<&str> = found.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["network almalinux", "network vault", "network k3s", "network k3s-selinux"]);
    assert!(found.iter().all(|(_, status, _)| status == "ok"), "{found:?}");
    assert_eq!(world.mirror.count("/almalinux/9/isos/x86_64/CHECKSUM"), 1);
    assert!(world.downloads().is_empty());

    // Something answers, and it is no mirror.
    world.remove("almalinux/9/isos/x86_64/CHECKSUM");
    let found = network(&world, &world.mirror.url(""), &[]);
    assert_eq!(found[0].1, "warning", "{found:?}");
    assert!(found[0].2.contains("no mirror of AlmaLinux"), "{found:?}");
}

#[test]
fn a_proxy_is_used_and_one_that_does_not_answer_is_told() {
    let world = World::new();
    let base = "http://mirror.kiln.invalid/";
    let proxy = world.mirror.url("");
    let found = network(&world, base, &[("HTTP_PROXY", &proxy)]);
    assert!(found.iter().all(|(_, status, _)| status == "ok"), "{found:?}");
    assert!(found[0].2.contains("HTTP_PROXY is set"), "{found:?}");
    let found = network(&world, base, &[("HTTP_PROXY", CLOSED)]);
    assert!(found.iter().all(|(_, status, _)| status == "warning"), "{found:?}");
}

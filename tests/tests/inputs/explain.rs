//! `bake --explain`: what can be told without downloading any input.

use std::fs;

use serde_json::Value;

use crate::world::{ISO, ISOS, RELEASE, World};

fn inputs(world: &World, arguments: &[&str]) -> Vec<(String, String, bool)> {
    let outcome = world.explain(&[arguments, &["--json"]].concat()).success();
    let plan: Value =
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}\n{outcome}"));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let inputs = plan["inputs"].as_array().unwrap().iter();
    inputs.map(|one| (text(&one["input"]), text(&one["state"]), one["sha256"].is_string())).collect()
}

fn all(state: &str, known: bool) -> Vec<(String, String, bool)> {
    let of = |input: &str| (input.to_owned(), state.to_owned(), known);
    ["k3s-selinux", "k3s", "iso"].map(of).to_vec()
}

#[test]
fn nothing_is_downloaded_to_explain_and_what_is_not_known_is_named() {
    let world = World::new();
    let outcome = world.explain(&[]).success();
    let outcome = outcome.says(&["iso: would be downloaded from", ISO, "k3s: would be downloaded from"]);
    outcome.says(&["digest not known before it is here", "os      runs", "the cache has no result of it"]);
    assert_eq!(world.downloads(), Vec::<String>::new());

    // Lists vouch for two of them already.
    let seen = inputs(&world, &[]);
    let known: Vec<_> = seen.iter().filter(|(.., known)| *known).map(|(input, ..)| input.as_str()).collect();
    assert_eq!(known, ["k3s", "iso", "agent"], "{seen:?}");

    world.inputs(&[]).success();
    let before = world.downloads();
    assert_eq!(inputs(&world, &[])[..3], all("here", true));
    assert_eq!(world.downloads(), before);
}

#[test]
fn the_lock_file_is_enough_to_know_the_inputs() {
    let world = World::new();
    crate::lock_file::pin(&world);
    assert_eq!(inputs(&world, &["--offline"])[..3], all("away", true));
    assert!(world.mirror.asked().is_empty(), "{:?}", world.mirror.asked());
    // Without a network and a lock file nobody knows which they would be.
    fs::remove_file(world.out().join("kiln.lock")).unwrap();
    let seen = inputs(&world, &["--offline"]);
    assert_eq!(seen[1..3], all("unknown", false)[1..], "{seen:?}");
    let told = world.explain(&["--offline"]).success();
    told.says(&["iso: unknown", "is not in the cache", "--offline"]);
}

#[test]
fn an_input_that_is_here_and_wrong_is_refused_as_in_a_bake() {
    let world = World::new();
    world.inputs(&[]).success();
    let wrong = world.path("k3s");
    fs::write(&wrong, "no program").unwrap();
    world.explain(&["--k3s", wrong.to_str().unwrap()]).code(2).says(&["--k3s", "k3s"]);
    // A list that nobody signed is no list, whether or not anything is downloaded.
    world.put(&format!("{ISOS}/CHECKSUM"), b"nothing");
    world.explain(&[]).code(2).says(&["CHECKSUM", "--iso-key"]);
    assert!(fs::exists(world.served(&format!("{RELEASE}/k3s"))).unwrap());
}

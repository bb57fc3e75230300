//! `builder cache`: what is there, what is damaged, what may go.

use std::fs;

use kiln_tests::run;
use serde_json::Value;

use crate::world::{ISO, SOON, World};

fn json(world: &World, arguments: &[&str], code: i32) -> Value {
    let mut command = world.builder(&["cache"]);
    command.args(arguments).arg("--json");
    serde_json::from_str(&run(command, SOON).code(code).stdout).unwrap()
}

#[test]
fn what_is_cached_is_listed_and_what_changed_is_found_and_downloaded_again() {
    let world = World::new();
    world.inputs(&["--airgap"]).success();
    let listed = json(&world, &["list"], 0);
    let entries = listed["entries"].as_array().unwrap();
    let names: Vec<&str> = entries
        .iter()
        .filter(|entry| entry["kind"] == "input")
        .map(|entry| entry["name"].as_str().unwrap())
        .collect();
    assert_eq!(names.len(), 4, "{listed:#}");
    assert!(names.contains(&ISO) && names.contains(&"k3s"), "{listed:#}");
    assert!(names.iter().any(|name| name.starts_with("k3s-selinux-")), "{listed:#}");
    assert!(entries.iter().all(|entry| entry["in_use"] == false), "{listed:#}");
    run(world.builder(&["cache", "list"]), SOON).success().says(&["input", ISO, "MiB"]);
    run(world.builder(&["cache", "verify"]), SOON).success().says(&["all as they were"]);

    let k3s = world.cached("k3s");
    let whole = fs::read(&k3s).unwrap();
    fs::write(&k3s, &whole[..whole.len() / 2]).unwrap();
    let checked = json(&world, &["verify"], 1);
    let damaged: Vec<&Value> =
        checked.as_array().unwrap().iter().filter(|entry| entry["state"] != "fine").collect();
    assert_eq!(damaged.len(), 1, "{checked:#}");
    assert_eq!(damaged[0]["state"], "quarantined");
    assert!(!k3s.exists());
    world.inputs(&["--airgap"]).success();
    assert_eq!(fs::read(&k3s).unwrap(), whole);

    // And without anybody having asked for it.
    fs::write(&k3s, &whole[..1000]).unwrap();
    world.inputs(&["--airgap"]).success().says(&["k3s in the cache was damaged"]);
    assert_eq!(fs::read(&k3s).unwrap(), whole);
}

#[test]
fn pruning_is_a_dry_run_until_it_is_meant() {
    let world = World::new();
    world.inputs(&[]).success();
    let files = || kiln_tests::leftovers::files_below(&world.cache().join("inputs"));
    assert_eq!(files().len(), 3);
    run(world.builder(&["cache", "prune", "--yes"]), SOON).success().says(&["nothing is to be removed"]);
    let planned = json(&world, &["prune", "--unused"], 0);
    assert_eq!(planned["removed"], false);
    assert_eq!(files().len(), 3, "a dry run removed something");
    run(world.builder(&["cache", "prune", "--older-than", "1h", "--yes"]), SOON).success();
    assert_eq!(files().len(), 3, "not that old");
    run(world.builder(&["cache", "prune", "--unused", "--yes"]), SOON).success().says(&["removed", ISO]);
    assert!(files().is_empty());
    world.inputs(&[]).success();
}

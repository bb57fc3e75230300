//! k3s's SELinux policy: meant by default, and taken only from whom it should
//! be.

use std::fs;

use kiln_tests::{lab, run};

use crate::world::{SOON, World, policy_path};

/// What dnf shows where it imports <https://rpm.rancher.io/public.key>.
const RANCHER: &str = "C8CFF216455126E9B9C918BE925EA29AE257814A";

#[test]
fn the_pinned_release_is_taken_and_then_no_network_is_needed() {
    let world = World::new();
    world.inputs(&[]).success().says(&["k3s-selinux-"]);
    assert_eq!(world.mirror.count(&format!("/{}", policy_path())), 1);
    let asked = world.mirror.asked().len();
    world.inputs(&["--offline"]).success();
    assert_eq!(world.mirror.asked().len(), asked);
}

#[test]
fn who_wants_none_gets_none() {
    let world = World::new();
    world.inputs(&["--no-k3s-selinux"]).success();
    assert_eq!(world.mirror.count(&format!("/{}", policy_path())), 0);
}

#[test]
fn a_package_that_another_key_signed_is_refused_before_anything_large_is_downloaded() {
    let (world, other) = (World::new(), World::new());
    world.put(&policy_path(), &other.signed_policy());
    let outcome = world.inputs(&[]).code(2);
    outcome.says(&["k3s-selinux", "is not signed by", "but by", "--k3s-selinux-key", "--no-k3s-selinux"]);
    assert_eq!(world.downloads(), [format!("/{}", policy_path())]);
}

#[test]
fn rancher_s_key_counts_where_no_other_is_named() {
    let world = World::new();
    let mut command = world.builder(&["bake", "--version", lab::VERSION, "--fetch"]);
    command
        .arg("--k3s-selinux-mirror")
        .arg(world.mirror.url("k3s-selinux/"))
        .arg("--agent")
        .arg(lab().agent());
    run(command, SOON).code(2).says(&["is not signed by", RANCHER]);
}

#[test]
fn one_that_nobody_signed_or_that_is_cut_off_is_refused_at_a_glance() {
    let world = World::new();
    let whole = world.signed_policy();
    for (package, why) in [
        (World::unsigned_policy(), "is not signed"),
        (whole[..whole.len() / 2].to_vec(), "cut off or damaged"),
        (whole[..whole.len() - 1].to_vec(), "cut off or damaged"),
        (b"<html>captive portal</html>".to_vec(), "is not an RPM package"),
    ] {
        let path = world.path("own.rpm");
        fs::write(&path, package).unwrap();
        let outcome = world.inputs(&["--k3s-selinux", path.to_str().unwrap()]).code(2);
        outcome.says(&["own.rpm", why, "--k3s-selinux FILE"]);
    }
    assert!(world.mirror.asked().is_empty());
}

//! Clusters of real virtual machines: up, again, reboot, down, up again; and
//! what pulls the ground from under them meanwhile.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is how a test fails")]

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kiln_tests::cluster::{JOIN, SOON};
use kiln_tests::leftovers::files_below;
use kiln_tests::process::{start, wait_until};
use kiln_tests::{Cluster, run};

/// The files below a directory that other users of this host could read.
fn exposed_below(top: &Path) -> Vec<PathBuf> {
    let mode = |path: &Path| path.symlink_metadata().map_or(0, |meta| meta.mode());
    let readable = |file: &PathBuf| {
        let mut folders = file.ancestors().skip(1).take_while(|folder| folder.starts_with(top));
        mode(file) & 0o004 != 0 && folders.all(|folder| mode(folder) & 0o001 != 0)
    };
    files_below(top).into_iter().filter(readable).collect()
}

/// A coordinator stays for a while where the nodes look for it, and gives their
/// cluster other tokens, while k3s runs.
fn rotate_tokens(cluster: &Cluster) {
    let said = cluster.console(&cluster.server);
    let (_, asked) = said.split_once("[enrol] asking 10.0.2.2:").expect("the server was told where to enrol");
    let port: String = asked.chars().take_while(char::is_ascii_digit).collect();
    let mut serve = cluster.coordinator("serve");
    serve.arg("--unlock-key").arg(cluster.state().join("kiln.unlock-key"));
    serve.args(["--no-status", "--listen", &format!("127.0.0.1:{port}")]);
    let mut serving = start(serve);
    let status = || -> Option<serde_json::Value> {
        let mut status = cluster.coordinator("status");
        let output = status.arg("--json").output().expect("running coordinator");
        serde_json::from_slice(&output.stdout).ok()
    };
    wait_until(SOON, || status().is_some() || serving.ended()).expect("the coordinator does not answer");
    run(cluster.coordinator("rotate-tokens"), SOON).success().says(&["coordinator status"]);
    let rotated = || !status().expect("it answers")["live"]["tokens"]["rotated"].is_null();
    wait_until(JOIN, || rotated() || serving.ended())
        .unwrap_or_else(|_| panic!("{}", cluster.console(&cluster.server)));
    // The agent has another join token, which it will start with.
    let follows = || cluster.console(&cluster.agent).contains("has new token");
    wait_until(JOIN, follows).unwrap_or_else(|_| panic!("{}", cluster.console(&cluster.agent)));
    serving.signal("TERM");
    serving.wait(SOON).success();
}

#[test]
fn from_up_to_down_and_once_more() {
    let cluster = Cluster::new("life");
    let up =
        run(cluster.up(), JOIN).success().says(&[&cluster.server, &cluster.agent, "ready", "kubeconfig"]);

    // Nothing of it is for other users of this host, and no ticket is in a
    // process list.
    assert_eq!(exposed_below(&cluster.state()), Vec::<PathBuf>::new());
    let (first, command) = cluster.machine(&cluster.agent).expect("the agent's machine runs");
    assert!(!command.contains("kiln1."), "a ticket is in a command line: {command}");

    rotate_tokens(&cluster);

    // Again: nothing is made or restarted.
    let again = run(cluster.up(), JOIN).success();
    assert_eq!(cluster.machine(&cluster.agent).map(|(pid, _)| pid), Some(first), "{up}\n{again}");

    // No coordinator runs now, and the agent node comes back without one; so does
    // the server, whose k3s is under the token that it finds.
    let status = cluster.status().to_string();
    assert!(status.contains("ready"), "{status}");
    for node in [&cluster.agent, &cluster.server] {
        let mut reboot = cluster.call("reboot");
        reboot.arg(node);
        run(reboot, JOIN).success();
    }

    cluster.down();
    cluster.down().says(&["nothing"]);

    // A new life under the same names.
    run(cluster.up(), JOIN).success();
    assert_ne!(cluster.machine(&cluster.agent).map(|(pid, _)| pid), Some(first));
    cluster.down();
}

#[test]
fn a_coordinator_that_dies_during_first_boot_and_returns() {
    let cluster = Cluster::new("orphans");
    let mut up = start(cluster.up());
    // Both machines run, neither has enrolled: kill -9.
    let on = || !cluster.console(&cluster.server).is_empty() && !cluster.console(&cluster.agent).is_empty();
    wait_until(JOIN, || on() || up.ended()).expect("the machines were not started");
    up.signal("KILL");
    assert_eq!(up.wait(SOON).status.code(), None);

    // The nodes boot, look for their coordinator, and say so on the console.
    let looking = || cluster.console(&cluster.agent).contains("kiln: [enrol]");
    wait_until(JOIN, looking).unwrap_or_else(|_| panic!("{}", cluster.console(&cluster.agent)));

    // The next `up` finds what there is and finishes it.
    let before = cluster.machine(&cluster.agent).map(|(pid, _)| pid);
    run(cluster.up(), JOIN).success();
    assert_eq!(cluster.machine(&cluster.agent).map(|(pid, _)| pid), before, "the machine was started anew");
    cluster.down();
}

#[test]
fn a_power_cut_during_first_boot() {
    let cluster = Cluster::new("dark");
    let mut command = cluster.up();
    command.arg("--keep");
    let mut up = start(command);
    // The node has made its key and is on its way in: the power goes.
    let under_way = || cluster.console(&cluster.agent).contains("kiln: [enrol]");
    wait_until(JOIN, || under_way() || up.ended()).expect("the agent node did not get to enrolment");
    let (machine, _) = cluster.machine(&cluster.agent).expect("the machine runs");
    assert!(Command::new("kill").args(["-KILL", &machine.to_string()]).status().unwrap().success());

    // That is said, soon, and not waited out.
    up.wait(Duration::from_secs(120)).code(1).says(&[&cluster.agent]);
    // Switched on again it goes on where it was: same key, same ticket.
    run(cluster.up(), JOIN).success();
    cluster.down();
}

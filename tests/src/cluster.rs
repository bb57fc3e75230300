//! A cluster of one test: its file, its state, and the calls of builder on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::leftovers::{assert_no_process, processes_using};
use crate::process::run;
use crate::{Outcome, lab};

/// Two machines that boot at once under TCG and join take a minute; with the
/// rest of a test run beside them, several.
pub const JOIN: Duration = Duration::from_secs(600);
/// For calls that start no machine.
pub const SOON: Duration = Duration::from_secs(60);

/// A cluster file for a coordinator without machines: the server `s1`, the agent `a1`.
pub const SERVER_AND_AGENT: &str = r#"
[cluster]
name = "test"
k3s = "v1.28.5+k3s1"
image = "alma9-k3-node-amd64-v1.28.5-v1"
provider = "qemu"

[[node]]
name = "s1"
role = "server"
cores = 1
memory = "1GiB"
disk = "8GiB"
address = "10.77.0.11/24"

[[node]]
name = "a1"
role = "agent"
cores = 1
memory = "1GiB"
disk = "8GiB"
address = "10.77.0.12/24"
"#;

/// A cluster like the demo's, under a name of its own.
#[derive(Debug)]
pub struct Cluster {
    home: TempDir,
    file: PathBuf,
    /// The node of role server.
    pub server: String,
    /// The node of role agent.
    pub agent: String,
}

impl Cluster {
    /// `examples/demo.toml` with another cluster name, in a directory of its own.
    pub fn new(name: &str) -> Self {
        let home = tempfile::tempdir().expect("making a directory");
        let demo = fs::read_to_string(lab().root().join("examples/demo.toml")).expect("reading the demo");
        let mut document: toml::Table = demo.parse().expect("the demo is TOML");
        document["cluster"]["name"] = toml::Value::String(name.to_owned());
        let node = |role: &str| {
            let nodes = document["node"].as_array().expect("the demo has nodes");
            let node = nodes.iter().find(|node| node["role"].as_str() == Some(role));
            node.expect("the demo has a node of each role")["name"]
                .as_str()
                .expect("names are strings")
                .to_owned()
        };
        let (server, agent) = (node("server"), node("agent"));
        let file = home.path().join(format!("{name}.toml"));
        fs::write(&file, document.to_string()).expect("writing the cluster file");
        Self { home, file, server, agent }
    }

    /// Where everything of this cluster is.
    pub fn path(&self) -> &Path {
        self.home.path()
    }

    /// Its file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Where builder keeps this cluster's state.
    pub fn state(&self) -> PathBuf {
        self.home.path().join("state")
    }

    /// A call of builder about this cluster.
    pub fn call(&self, subcommand: &str) -> Command {
        let mut command = lab().builder();
        command.arg(subcommand).arg(&self.file);
        command.env("XDG_STATE_HOME", self.state()).env("XDG_CACHE_HOME", self.home.path().join("cache"));
        command
    }

    /// A call of coordinator on this cluster's own.
    pub fn coordinator(&self, subcommand: &str) -> Command {
        let name = self.file.file_stem().expect("the file has a name");
        let state = self.state().join("kiln/clusters").join(name).join("coordinator");
        let mut command = lab().coordinator();
        command.arg(subcommand).arg("--state").arg(state);
        command
    }

    /// `builder up` of the golden image.
    pub fn up(&self) -> Command {
        let mut command = self.call("up");
        command.arg("--image").arg(lab().image()).args(["--accel", "tcg"]);
        command
    }

    /// `builder down`, which must leave nothing running.
    #[track_caller]
    pub fn down(&self) -> Outcome {
        let outcome = run(self.call("down"), SOON).success();
        assert_no_process(self.path());
        outcome
    }

    /// `builder status --json`.
    #[track_caller]
    pub fn status(&self) -> Value {
        let mut command = self.call("status");
        command.arg("--json");
        let outcome = run(command, SOON).success();
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}\n{outcome}"))
    }

    /// The process of a node's machine: its id and command line.
    pub fn machine(&self, node: &str) -> Option<(u32, String)> {
        let marker = format!("/{node}/");
        processes_using(self.path()).into_iter().find_map(|process| {
            let (pid, command) = process.split_once(' ')?;
            let ours = command.contains("qemu-system") && command.contains(&marker);
            ours.then(|| (pid.parse().expect("a process id"), command.to_owned()))
        })
    }

    /// What a node's serial console said so far.
    pub fn console(&self, node: &str) -> String {
        crate::leftovers::files_below(&self.state())
            .into_iter()
            .filter(|file| file.components().any(|part| part.as_os_str() == node))
            .filter(|file| file.file_name().is_some_and(|name| name.to_string_lossy().contains("console")))
            .map(|file| String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned())
            .collect()
    }
}

impl Drop for Cluster {
    /// A test that failed leaves no machine behind either.
    fn drop(&mut self) {
        for process in processes_using(self.path()) {
            if let Some((pid, _)) = process.split_once(' ') {
                Command::new("kill").args(["-KILL", pid]).status().ok();
            }
        }
    }
}

//! Where the tests' media, programs and images come from.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::process::run;

/// A whole bake under TCG takes about two minutes; with others beside it, more.
const BAKE: Duration = Duration::from_secs(900);

/// Builder's exit code where nothing was touched.
const REFUSED: i32 = 2;

/// The version every test bakes unless it says otherwise.
pub const VERSION: &str = "alma9-k3-node-amd64-v1.28.5-v1";

/// The one lab of a test process.
pub fn lab() -> &'static Lab {
    static LAB: OnceLock<Lab> = OnceLock::new();
    LAB.get_or_init(|| {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = tests.parent().expect("tests/ has a parent").to_owned();
        Lab {
            root,
            media: OnceLock::new(),
            programs: OnceLock::new(),
            guest_programs: OnceLock::new(),
            image: OnceLock::new(),
        }
    })
}

/// Makes and remembers what tests need.
#[derive(Debug)]
pub struct Lab {
    root: PathBuf,
    media: OnceLock<PathBuf>,
    programs: OnceLock<()>,
    guest_programs: OnceLock<()>,
    image: OnceLock<()>,
}

impl Lab {
    /// The project's root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where expensive things are kept between runs.
    pub fn cache(&self) -> PathBuf {
        self.root.join(".cache")
    }

    /// The stand-in install media.
    pub fn media(&self) -> &Path {
        self.media.get_or_init(|| {
            let printed = self.output(&mut Command::new("tests/media/build"));
            PathBuf::from(printed.lines().last().expect("tests/media/build prints a path"))
        })
    }

    /// The media, changed so that its installer fails in one way.
    pub fn failing_media(&self, failure: &str, directory: &Path) -> PathBuf {
        let iso = directory.join(format!("{failure}.iso"));
        self.output(
            Command::new("tests/media/variant").args(["--fail", failure]).arg(self.media()).arg(&iso),
        );
        iso
    }

    /// The stand-in k3s.
    pub fn k3s(&self) -> PathBuf {
        self.guest_programs();
        self.root.join("target/release/standin-k3s")
    }

    /// The agent, as it goes into images.
    pub fn agent(&self) -> PathBuf {
        self.guest_programs();
        self.root.join("target/node/agent")
    }

    /// A call of `builder`.
    pub fn builder(&self) -> Command {
        self.programs();
        Command::new(self.root.join("target/debug/builder"))
    }

    /// A whole bake into `out`, with the cache that all tests share. The
    /// machines' words are in the log only if it fails.
    pub fn bake(&self, out: &Path) -> Command {
        self.bake_over(out, &self.cache().join("bake"))
    }

    /// The same with another cache.
    pub fn bake_over(&self, out: &Path, cache: &Path) -> Command {
        let mut command = self.builder();
        // The stand-in media have no rpm that could install a policy.
        command.args(["bake", "--version", VERSION, "--accel", "tcg", "--no-k3s-selinux"]);
        command.arg("--iso").arg(self.media()).arg("--k3s").arg(self.k3s()).arg("--agent").arg(self.agent());
        command.arg("--out").arg(out).arg("--cache").arg(cache);
        command
    }

    /// The golden image's directory, baked if need be. Its stages are then in
    /// the cache that all tests share.
    pub fn image(&self) -> PathBuf {
        let images = self.cache().join("images");
        self.image.get_or_init(|| {
            // One that is of the same inputs is taken as it is: its disk was
            // inspected and tried. One of others builder rightly refuses to
            // replace; its stages are in the cache.
            let outcome = run(self.bake(&images), BAKE);
            if outcome.status.code() == Some(REFUSED) && images.join(VERSION).exists() {
                fs::remove_dir_all(images.join(VERSION)).expect("removing another image");
                run(self.bake(&images), BAKE).success();
            } else {
                outcome.success();
            }
        });
        images.join(VERSION)
    }

    /// A call of `coordinator`.
    pub fn coordinator(&self) -> Command {
        self.programs();
        Command::new(self.root.join("target/debug/coordinator"))
    }

    /// What runs on this host.
    fn programs(&self) {
        self.programs.get_or_init(|| self.cargo(&["-p", "kiln-builder", "-p", "kiln-coordinator"]));
    }

    /// What goes into images.
    fn guest_programs(&self) {
        self.guest_programs.get_or_init(|| {
            self.cargo(&["--profile", "node", "-p", "kiln-agent"]);
            self.cargo(&["--release", "-p", "kiln-tests", "--bin", "standin-k3s"]);
        });
    }

    fn cargo(&self, args: &[&str]) {
        let mut cargo = Command::new("cargo");
        // Cargo tells its tests about their package in the environment. The build
        // script of ring asks for the same variables: left as they are, it and all
        // that stands on it would be built anew.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|kind| name.starts_with(kind)) {
                cargo.env_remove(&*name);
            }
        }
        self.output(cargo.args(["build", "--locked", "--quiet"]).args(args));
    }

    /// Runs a command in the project's root and returns what it printed.
    fn output(&self, command: &mut Command) -> String {
        let output = command.current_dir(&self.root).output();
        let output = output.unwrap_or_else(|error| panic!("running {command:?}: {error}"));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {}\n{stderr}", output.status);
        String::from_utf8(output.stdout).expect("UTF-8 output")
    }
}

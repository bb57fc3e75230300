//! The kickstarts, rendered strictly from typed values: a name the template
//! uses and nobody gave is an error.

use std::path::Path;

use anyhow::{Context as _, Result};
use kiln_coordinator::plan::placeholder;
use kiln_protocol::names::OscapProfile;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior};
use serde::Serialize;

use crate::failure::BadInput;
use crate::run::RunId;

const OS: &str = include_str!("../../../kickstart/alma9.ks");
const NODE: &str = include_str!("../../../kickstart/node.ks");
const INSPECT: &str = include_str!("../../../kickstart/inspect.ks");
const MARKS: &str = include_str!("../../../kickstart/marks.sh");

/// The serial number of the disk that is installed on.
pub const DISK_SERIAL: &str = "bakeroot";
/// Size of `/boot`: three kernels with generic initramfs images.
const BOOT_MIB: u32 = 1024;

/// The stage a kickstart is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Installs the operating system.
    Os,
    /// Turns the installed disk into a node.
    Node,
    /// Reads the finished image.
    Inspect,
}

impl Stage {
    /// `os`, `node` or `inspect`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Os => "os",
            Self::Node => "node",
            Self::Inspect => "inspect",
        }
    }
}

/// What a kickstart is rendered from. All of it is of an alphabet that means
/// nothing to a shell or to the kickstart parser.
#[derive(Debug, Clone, Serialize)]
pub struct Values {
    run: RunId,
    stage: Stage,
    disk_serial: &'static str,
    boot_mib: u32,
    k3s_selinux: bool,
    oscap_profile: Option<OscapProfile>,
}

impl Values {
    /// For one run. `k3s_selinux`: the volume holds k3s's policy.
    pub fn new(run: &RunId, stage: Stage, k3s_selinux: bool) -> Self {
        let oscap_profile = None;
        Self {
            run: run.clone(),
            stage,
            disk_serial: DISK_SERIAL,
            boot_mib: BOOT_MIB,
            k3s_selinux,
            oscap_profile,
        }
    }

    /// The same, with a profile of the SCAP Security Guide that the system is
    /// made to follow.
    #[must_use]
    pub fn with_oscap(mut self, profile: Option<&OscapProfile>) -> Self {
        self.oscap_profile = profile.cloned();
        self
    }

    /// For no run in particular: what two runs render differently only in
    /// their ids is the same here.
    pub fn without_run(stage: Stage, k3s_selinux: bool) -> Self {
        let none = "0000000000000000".parse().expect("sixteen zeros are a run id");
        Self::new(&none, stage, k3s_selinux)
    }
}

/// A template: ours, or a user's own for the os stage.
#[derive(Debug, Clone)]
pub struct Template {
    name: String,
    text: String,
    own: bool,
}

impl Template {
    /// Ours for a stage.
    pub fn of(stage: Stage) -> Self {
        let (name, text) = match stage {
            Stage::Os => ("alma9.ks", OS),
            Stage::Node => ("node.ks", NODE),
            Stage::Inspect => ("inspect.ks", INSPECT),
        };
        Self { name: name.to_owned(), text: text.to_owned(), own: true }
    }

    /// A user's own.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| BadInput(format!("--kickstart {}: {error}", path.display())))?;
        Ok(Self { name: path.display().to_string(), text, own: false })
    }

    /// Its text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Renders it.
    pub fn render(&self, values: &Values) -> Result<String> {
        let text = render(&self.name, &self.text, values);
        if self.own {
            return text.with_context(|| format!("rendering {}", self.name));
        }
        text.map_err(|error| BadInput(format!("--kickstart: {error:#}")).into())
    }
}

fn render(name: &str, text: &str, values: &Values) -> Result<String> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    // Lines that hold only a tag leave no empty line behind.
    let syntax = SyntaxConfig::builder().keep_trailing_newline(true).trim_blocks(true).build()?;
    environment.set_syntax(syntax);
    environment.add_template("marks.sh", MARKS)?;
    environment.add_template_owned(name.to_owned(), text.to_owned())?;
    let rendered = environment.get_template(name)?.render(Serde(values))?;
    // What the template says itself is named by its own line.
    for (text, when) in [(text, ""), (&rendered, " when rendered")] {
        if let Some((line, word)) = placeholder::find(text) {
            anyhow::bail!("{name}: {word} is left to be filled in, on line {line}{when}");
        }
    }
    Ok(rendered)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(stage: Stage, k3s_selinux: bool) -> Values {
        Values::new(&"0123456789abcdef".parse().unwrap(), stage, k3s_selinux)
    }

    fn ours(stage: Stage, k3s_selinux: bool) -> String {
        Template::of(stage).render(&values(stage, k3s_selinux)).unwrap()
    }

    fn theirs(text: &str) -> Result<String> {
        Template { name: "my.ks".into(), text: text.into(), own: false }.render(&values(Stage::Os, false))
    }

    #[test]
    fn ours_render_without_leftovers() {
        for text in [ours(Stage::Os, false), ours(Stage::Os, true), ours(Stage::Node, false)] {
            assert!(!text.contains("{{") && !text.contains("{%"), "{text}");
            assert!(text.contains("KILN_RUN=0123456789abcdef"), "{text}");
        }
        assert_eq!(ours(Stage::Os, true).matches("k3s-selinux.rpm").count(), 4);
        assert_eq!(ours(Stage::Os, false).matches("k3s-selinux.rpm").count(), 0);
    }

    #[test]
    fn nothing_waits_for_a_key() {
        let commands = ours(Stage::Os, true);
        let commands = commands.lines().filter(|line| !line.starts_with('#'));
        assert!(commands.clone().all(|line| !line.contains("--erroronfail")));
        assert!(commands.clone().any(|line| line == "cmdline"));
    }

    #[test]
    fn a_scap_profile_brings_its_packages_and_its_script() {
        let profile = "cis_server_l1".parse().unwrap();
        let with =
            Template::of(Stage::Os).render(&values(Stage::Os, false).with_oscap(Some(&profile))).unwrap();
        for part in ["\nopenscap-scanner\nscap-security-guide\n", "--profile cis_server_l1", "--remediate"] {
            assert!(with.contains(part), "{part}\n{with}");
        }
        assert!(!ours(Stage::Os, false).contains("oscap"), "{}", ours(Stage::Os, false));
    }

    #[test]
    fn only_the_run_tells_two_runs_apart() {
        let other = Values::new(&"fedcba9876543210".parse().unwrap(), Stage::Os, false);
        let other = Template::of(Stage::Os).render(&other).unwrap();
        assert_eq!(other.replace("fedcba9876543210", "0123456789abcdef"), ours(Stage::Os, false));
    }

    #[test]
    fn every_script_is_valid_bash() {
        for text in [ours(Stage::Os, true), ours(Stage::Node, false), ours(Stage::Inspect, false)] {
            let mut script = None;
            for line in text.lines() {
                if line.starts_with("%p") && line.contains("--interpreter") || line.starts_with("%onerror") {
                    script = Some(String::new());
                } else if line == "%end" {
                    let Some(script) = script.take() else { continue };
                    let check =
                        std::process::Command::new("bash").args(["-n", "-c", &script]).output().unwrap();
                    assert!(check.status.success(), "{}\n{script}", String::from_utf8_lossy(&check.stderr));
                } else if let Some(script) = &mut script {
                    script.push_str(line);
                    script.push('\n');
                }
            }
        }
    }

    #[test]
    fn a_users_own_mistakes_are_bad_input_with_their_line() {
        for (text, why) in [
            ("cmdline\n{{ rum }}\n", "my.ks:2"),
            ("cmdline\n{% if %}\n", "my.ks:2"),
            ("cmdline\nrootpw CHANGEME\n", "my.ks: CHANGEME is left to be filled in, on line 2"),
        ] {
            let error = theirs(text).unwrap_err();
            assert!(error.is::<BadInput>() && error.to_string().contains(why), "{error}");
        }
        assert_eq!(theirs("run {{ run }}\n").unwrap(), "run 0123456789abcdef\n");
    }
}

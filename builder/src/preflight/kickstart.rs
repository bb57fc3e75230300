//! Whether the kickstarts render, and parse where `ksvalidator` is installed.

use std::path::Path;
use std::process::Stdio;

use super::Finding;
use super::remedy::Family;
use crate::bake::kickstart::{Stage, Template, Values};
use crate::machine::qemu::vm::find_program;

/// pykickstart's parser as AlmaLinux 9 has it.
const VALIDATOR: [&str; 3] = ["ksvalidator", "-v", "RHEL9"];

/// The user's own kickstart, if there is one, and ours of the node stage.
/// `work` is an existing directory of this run.
pub(super) async fn check(own: Option<&Path>, work: &Path, _family: Family) -> Vec<Finding> {
    let os = match own {
        Some(path) => Template::read(path),
        None => Ok(Template::of(Stage::Os)),
    };
    let name = own.map_or_else(|| "kickstart os".to_owned(), |path| format!("kickstart {}", path.display()));
    let os = one(&name, os, Stage::Os, work).await;
    vec![os, one("kickstart node", Ok(Template::of(Stage::Node)), Stage::Node, work).await]
}

async fn one(name: &str, template: anyhow::Result<Template>, stage: Stage, work: &Path) -> Finding {
    let text = template.and_then(|template| template.render(&Values::without_run(stage, false)));
    let text = match text {
        Ok(text) => text,
        Err(error) => {
            let remedy = "start from the built-in one: builder kickstart os --template";
            return Finding::missing(name, format!("{error:#}"), remedy);
        }
    };
    if find_program(VALIDATOR[0]).is_none() {
        return Finding::ok(name, "it renders (without ksvalidator, no more can be told)");
    }
    match validate(&text, &work.join(format!("{}.ks", stage.as_str()))).await {
        Ok(None) => Finding::ok(name, "it renders, and ksvalidator takes it"),
        Ok(Some(complaint)) => Finding::missing(
            name,
            complaint,
            "correct the line named; `builder kickstart os` prints the built-in one",
        ),
        Err(error) => {
            Finding::warning(name, format!("running ksvalidator: {error}"), "see `ksvalidator --help`")
        }
    }
}

/// What `ksvalidator` has against a kickstart.
async fn validate(text: &str, path: &Path) -> std::io::Result<Option<String>> {
    std::fs::write(path, text)?;
    let mut command = tokio::process::Command::new(VALIDATOR[0]);
    command.args(&VALIDATOR[1..]).arg(path).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await?;
    if output.status.success() {
        return Ok(None);
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    Ok(Some(said.split_ascii_whitespace().collect::<Vec<_>>().join(" ")))
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[tokio::test]
    async fn ours_are_fine_and_one_that_does_not_render_is_not() {
        let work = tempfile::tempdir().unwrap();
        let findings = check(None, work.path(), Family::Debian).await;
        assert!(findings.iter().all(|finding| finding.status == Status::Ok), "{findings:?}");
        let own = work.path().join("own.ks");
        std::fs::write(&own, "lang {{ nothing }}\n").unwrap();
        let findings = check(Some(&own), work.path(), Family::Debian).await;
        assert_eq!(findings[0].status, Status::Missing);
        assert!(findings[0].found.contains("own.ks"), "{findings:?}");
    }
}

//! The kickstarts we render are valid for the parser Anaconda itself uses.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is how a test fails")]

use std::fs;
use std::process::Command;
use std::time::Duration;

use kiln_tests::{lab, run};

const SOON: Duration = Duration::from_secs(60);

/// Runs pykickstart's validator for RHEL 9 over a text.
fn validate(name: &str, text: &str) -> kiln_tests::Outcome {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(name);
    fs::write(&file, text).unwrap();
    let mut command = Command::new(lab().cache().join("venv/bin/ksvalidator"));
    command.args(["-v", "RHEL9"]).arg(file);
    run(command, SOON)
}

fn rendered(stage: &str) -> String {
    let mut command = lab().builder();
    command.args(["kickstart", stage]);
    run(command, SOON).success().stdout
}

#[test]
fn every_stage_is_valid_for_rhel_9() {
    for stage in ["os", "node", "inspect"] {
        validate(&format!("{stage}.ks"), &rendered(stage)).success();
    }
}

#[test]
fn a_hardened_os_stage_is_valid_for_rhel_9() {
    let mut command = lab().builder();
    command.args(["kickstart", "os", "--oscap-profile", "cis_server_l1"]);
    let text = run(command, SOON).success().stdout;
    assert!(text.contains("oscap xccdf eval --remediate --profile cis_server_l1"), "{text}");
    validate("oscap.ks", &text).success();
}

#[test]
fn the_validator_would_notice_a_mistake() {
    let broken = rendered("os").replacen("bootloader ", "bootlaoder ", 1);
    let outcome = validate("broken.ks", &broken);
    assert!(!outcome.status.success(), "{outcome}");
}

#[test]
fn nothing_is_left_to_fill_in() {
    for stage in ["os", "node", "inspect"] {
        let text = rendered(stage);
        for placeholder in ["TODO", "CHANGEME", "{{", "{%"] {
            assert!(!text.contains(placeholder), "{stage}: {placeholder} is left\n{text}");
        }
    }
}

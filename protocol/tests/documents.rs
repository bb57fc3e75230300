//! Promises that documents make about the tree they stand in.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is how a test fails")]

use std::path::Path;
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Rows of the tables in `docs/security.md`: what is attacked, and what stands
/// against it.
fn rows() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(root().join("docs/security.md")).unwrap();
    let cells = |line: &str| {
        let mut cells = line.strip_prefix("| ")?.strip_suffix(" |")?.rsplitn(2, " | ").map(str::to_owned);
        let (tests, attack) = (cells.next()?, cells.next()?);
        (tests != "tests").then_some((attack, tests))
    };
    text.lines().filter_map(cells).collect()
}

#[test]
fn every_test_named_in_the_security_table_is_a_test_that_runs() {
    let rows = rows();
    assert!(rows.len() > 50, "{} rows", rows.len());
    for (attack, tests) in rows {
        let mut named = tests.split('`').skip(1).step_by(2).filter(|name| name.contains("::")).peekable();
        let excused = tests.starts_with("not here: ");
        assert!(excused || named.peek().is_some(), "{attack:?} names no test and does not say why");
        for name in named {
            let (file, function) = name.rsplit_once("::").unwrap();
            let source = std::fs::read_to_string(root().join(file));
            let source = source.unwrap_or_else(|error| panic!("{attack:?} names {file}: {error}"));
            assert!(runs(&source, function), "{attack:?}: {file} has no test {function} that is run");
        }
    }
}

/// Whether a function is marked as a test, and not as one to leave out.
fn runs(source: &str, function: &str) -> bool {
    let Some((before, _)) = source.split_once(&format!("fn {function}(")) else { return false };
    let above = before.rsplit_once('\n').map_or("", |(above, _)| above);
    let marks: Vec<&str> = above.lines().rev().take_while(|line| line.trim().starts_with("#[")).collect();
    let is = |mark: &str| marks.iter().any(|line| line.trim().starts_with(mark));
    (is("#[test]") || is("#[tokio::test")) && !is("#[ignore")
}

#[test]
fn a_test_that_is_none_or_is_left_out_is_noticed() {
    let source = "#[test]\nfn good() {}\n#[tokio::test(x)]\n#[expect(y)]\nasync fn waits() {}\n\
                  #[test]\n#[ignore = \"slow\"]\nfn left_out() {}\nfn none() {}\n";
    assert!(runs(source, "good") && runs(source, "waits"));
    assert!(!runs(source, "left_out") && !runs(source, "none") && !runs(source, "missing"));
}

/// Written from the document alone, in another language.
#[test]
fn a_second_implementation_agrees_on_the_vectors() {
    let script = root().join("docs/protocol-vectors.py");
    let run = Command::new("python3").arg(script).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(String::from_utf8(run.stdout).unwrap().lines().count(), 14);
}

//! Promises that documents make about the tree they stand in.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is how a test fails")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
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

/// The Rust files below a directory.
fn sources(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

/// The requests in the table of `docs/protocol.md`: method and path.
fn documented() -> BTreeSet<(String, String)> {
    let text = std::fs::read_to_string(root().join("docs/protocol.md")).unwrap();
    let request = |line: &str| {
        let (method, path) = line.strip_prefix("| `")?.split_once('`')?.0.split_once(' ')?;
        path.starts_with("/v1/").then(|| (method.to_owned(), path.to_owned()))
    };
    text.lines().filter_map(request).collect()
}

/// The paths that the protocol crate defines, by the names of their constants.
fn defined() -> Vec<(String, String)> {
    let constant = |line: &str| {
        let (name, value) = line.trim().strip_prefix("pub const ")?.split_once(": &str = \"/v1/")?;
        Some((name.to_owned(), format!("/v1/{}", value.strip_suffix("\";")?)))
    };
    let texts = sources(&root().join("protocol/src")).into_iter();
    let texts = texts.map(|path| {
        let within = if path.starts_with(root().join("protocol/src/admin")) { "admin::" } else { "" };
        (within, std::fs::read_to_string(path).unwrap())
    });
    texts
        .flat_map(|(within, text)| {
            let found: Vec<_> = text.lines().filter_map(constant).collect();
            found.into_iter().map(move |(name, path)| (format!("{within}{name}"), path))
        })
        .collect()
}

/// The requests that the coordinator takes: method and path.
fn served() -> BTreeSet<(String, String)> {
    let text = std::fs::read_to_string(root().join("coordinator/src/server/api.rs")).unwrap();
    let defined = defined();
    let route = |line: &str| {
        let line = line.trim();
        // An admin's are a list of pairs.
        let of_admins = || line.strip_prefix('(').filter(|rest| rest.starts_with("admin::"));
        let (name, handler) = line.strip_prefix(".route(").or_else(of_admins)?.split_once(", ")?;
        let method = handler.split_once('(')?.0.to_uppercase();
        let name = name.strip_prefix("api::").unwrap_or(name);
        let path = defined.iter().find(|(known, _)| known == name);
        Some((method, path.unwrap_or_else(|| panic!("no path is called {name}")).1.clone()))
    };
    text.lines().filter_map(route).collect()
}

#[test]
fn every_request_is_in_the_protocols_document_and_no_other_is() {
    let (documented, served) = (documented(), served());
    assert!(served.len() > 25, "{served:?}");
    assert_eq!(documented, served, "docs/protocol.md (left) and the coordinator (right) differ");
    let paths: BTreeSet<String> = defined().into_iter().map(|(_, path)| path).collect();
    assert_eq!(paths, served.into_iter().map(|(_, path)| path).collect(), "a path that nobody answers at");
}

/// Rows of a table of `docs/protocol.md`: the first cell, which is code.
fn first_cells(section: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join("docs/protocol.md")).unwrap();
    let (_, section) = text.split_once(&format!("\n## {section}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let cell = |line: &str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned());
    section.lines().filter_map(cell).collect()
}

#[test]
fn every_class_of_error_is_in_the_protocols_document_and_is_known() {
    let documented = first_cells("Errors");
    for class in &documented {
        let known: Result<kiln_protocol::ErrorClass, _> = serde_json::from_value(class.as_str().into());
        assert!(known.is_ok(), "there is no class {class}");
    }
    let source = std::fs::read_to_string(root().join("protocol/src/error.rs")).unwrap();
    let known = source.lines().filter_map(|line| {
        let name = line.trim().strip_prefix("Self::")?.split_once(" => \"")?.1;
        Some(name.strip_suffix("\",")?.to_owned())
    });
    assert_eq!(documented, known.collect());
}

/// Every field of both is there, and no other.
#[test]
fn configuration_and_status_in_the_protocols_document_are_what_is_read_and_written() {
    let text = std::fs::read_to_string(root().join("docs/protocol.md")).unwrap();
    let blocks: Vec<&str> =
        text.split("```json\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let block = |begins: &str| *blocks.iter().find(|block| block.starts_with(begins)).unwrap();
    let files = r#"{"certificates": "a", "key": "b"}"#;
    let ca = block(r#"{"server": {"certificates""#).replace("<PEM>", "a").replace("{…}", files);
    let config = block(r#"{"cluster": "home", "incarnation""#)
        .replace("\"ca\": {…}", &format!("\"ca\": {ca}"))
        .replace("ssh-ed25519 …", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHlq")
        .replace("<64 hex digits>", &"0a".repeat(32));
    let given: serde_json::Value = serde_json::from_str(&config).unwrap();
    let read: kiln_protocol::config::NodeConfig = serde_json::from_value(given.clone()).unwrap();
    // What is read and written again has every field: none is unknown, and none is missing.
    assert_eq!(serde_json::to_value(&read).unwrap(), given);
    let status = block(r#"{"pin""#)
        .replacen("\"pin\": \"…\"", &format!("\"pin\": \"{}\"", "0a".repeat(32)), 1)
        .replace("\"key\": \"…\"", &format!("\"key\": \"{}\"", "0a".repeat(32)))
        .replace("<ticket key>", "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")
        .replace("\"reason\": \"…\"", "\"reason\": \"a\"")
        .replace("\"trouble\": \"…\"", "\"trouble\": \"a\"")
        .replace("\"message\": \"…\"", "\"message\": \"a\"")
        .replace("\"usage\": {}", r#""usage": {"cpu_ms": 1, "max_rss_kib": 1}"#)
        .replace(
            "\"report\": {}",
            r#""report": {"boot_id": "b", "sequence": 1, "uptime_ms": 1, "step": "seed", "state": "done"}"#,
        )
        .replace('…', "2026-01-01T00:00:00Z");
    let given: serde_json::Value = serde_json::from_str(&status).unwrap();
    let read: kiln_protocol::admin::ClusterStatus = serde_json::from_value(given.clone()).unwrap();
    let written = serde_json::to_value(&read).unwrap();
    // Empty facts hold nothing, and are written so.
    assert_eq!(written, given);
}

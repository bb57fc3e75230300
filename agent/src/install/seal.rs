//! Carries out the rules of the seal, and looks again after each.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rustix::fs::FileType;

use super::bls;
use super::report::Sealed;
use super::rules::{Action, Rule, matches};
use crate::root::{Access, Root};

/// Carries out every rule, whatever becomes of the others; `kept` is the one
/// path that is left alone, whatever a rule says.
pub(super) fn seal(root: &Root, rules: &[Rule], kept: Option<&Path>) -> Vec<Sealed> {
    rules.iter().map(|rule| carry_out(root, rule, kept)).collect()
}

/// The paths that the rules make or write again, and that need their label,
/// whichever run it was that wrote them.
pub(super) fn written(root: &Root, rules: &[Rule]) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for rule in rules {
        if matches!(rule.action, Action::EmptyFile { .. } | Action::BootEntries) {
            for pattern in rule.paths {
                paths.extend(expand(root, pattern)?);
            }
        }
    }
    Ok(paths)
}

fn carry_out(root: &Root, rule: &Rule, kept: Option<&Path>) -> Sealed {
    let mut sealed = Sealed {
        rule: rule.id.to_owned(),
        why: rule.why.to_owned(),
        found: Vec::new(),
        count: 0,
        ok: false,
        problem: None,
    };
    let result = violations(root, rule, kept).and_then(|before| {
        sealed.count = before.len();
        sealed.found = before.iter().take(Sealed::SHOWN).map(|path| path.display().to_string()).collect();
        before.iter().try_for_each(|path| cure(root, rule.action, path))?;
        violations(root, rule, kept)
    });
    match result {
        Ok(after) if after.is_empty() => sealed.ok = true,
        Ok(after) => sealed.problem = Some(format!("{} is still there", root.shown(&after[0]))),
        Err(error) => sealed.problem = Some(format!("{error:#}")),
    }
    sealed
}

/// The paths that are against a rule now.
fn violations(root: &Root, rule: &Rule, kept: Option<&Path>) -> Result<Vec<PathBuf>> {
    let mut against = Vec::new();
    for pattern in rule.paths {
        if let Action::EmptyFile { mode } = rule.action {
            let path = Path::new(pattern);
            let meta = root.meta(path)?;
            if !meta.is_some_and(|m| m.kind == FileType::RegularFile && m.len == 0 && m.mode == mode) {
                against.push(path.to_owned());
            }
            continue;
        }
        for path in expand(root, pattern)? {
            against.extend(violations_at(root, rule.action, path)?);
        }
    }
    against.retain(|path| Some(path.as_path()) != kept);
    Ok(against)
}

fn violations_at(root: &Root, action: Action, path: PathBuf) -> Result<Vec<PathBuf>> {
    let Some(meta) = root.meta(&path)? else { return Ok(Vec::new()) };
    match action {
        Action::Remove => Ok(vec![path]),
        Action::Truncate | Action::EmptyFile { .. } => {
            let against = meta.kind == FileType::RegularFile && meta.len > 0;
            Ok(if against { vec![path] } else { Vec::new() })
        }
        // A symlink to a directory is left to the rule for that directory.
        Action::Empty { keep } if meta.kind == FileType::Directory => {
            let names = root.names(&path)?;
            let gone = names.into_iter().filter(|name| !keep.iter().any(|keep| name == keep));
            Ok(gone.map(|name| path.join(name)).collect())
        }
        Action::RemoveFiles { keep } if meta.kind == FileType::Directory => {
            files_below(root, &path, |at_top, name| !(at_top && keep.contains(&name)))
        }
        Action::RemoveNamed { patterns } if meta.kind == FileType::Directory => {
            let like = |name: &str| patterns.iter().any(|p| matches(p.as_bytes(), name.as_bytes()));
            files_below(root, &path, |_, name| like(name))
        }
        Action::Empty { .. } | Action::RemoveFiles { .. } | Action::RemoveNamed { .. } => Ok(Vec::new()),
        Action::BootEntries => bls::entries_of_a_machine(root, &path),
        Action::SavedEntry => bls::saved_entry_of_a_machine(root, &path),
    }
}

/// Does away with what is against a rule at `path`.
fn cure(root: &Root, action: Action, path: &Path) -> Result<()> {
    match action {
        Action::Remove | Action::Empty { .. } | Action::RemoveFiles { .. } | Action::RemoveNamed { .. } => {
            root.remove(path)
        }
        Action::Truncate => root.truncate(path),
        Action::EmptyFile { mode } => root.put(path, Access::ours(mode), b"").map(|_| ()),
        Action::BootEntries => bls::rename_entry(root, path),
        Action::SavedEntry => bls::rewrite_saved_entry(root, path),
    }
}

/// The existing paths a pattern matches.
fn expand(root: &Root, pattern: &str) -> Result<Vec<PathBuf>> {
    let mut paths = vec![PathBuf::from("/")];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        let mut next = Vec::new();
        for path in paths {
            if part.contains(['*', '?']) {
                let names = root.names(&path)?;
                let hits = names.into_iter().filter(|name| matches(part.as_bytes(), name.as_bytes()));
                next.extend(hits.map(|name| path.join(name)));
            } else if root.meta(path.join(part))?.is_some() {
                next.push(path.join(part));
            }
        }
        paths = next;
    }
    Ok(paths)
}

/// Regular files below `dir` whose names are wanted; `at_top` says of a name
/// that it is directly in `dir`.
fn files_below(root: &Root, dir: &Path, wanted: impl Fn(bool, &str) -> bool) -> Result<Vec<PathBuf>> {
    let (mut files, mut waiting) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(below) = waiting.pop() {
        for name in root.names(&below)? {
            let path = below.join(&name);
            match root.meta(&path)?.map(|meta| meta.kind) {
                Some(FileType::Directory) => waiting.push(path),
                Some(FileType::RegularFile) if wanted(below == dir, &name.to_string_lossy()) => {
                    files.push(path);
                }
                _ => {}
            }
        }
    }
    Ok(files)
}

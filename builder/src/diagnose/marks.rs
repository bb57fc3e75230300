//! Our own lines: what the kickstarts' scripts say to the builder.
//!
//! `KILN-MARK <run> <stage> ok`, `KILN-MARK <run> <stage> fail <reason>`,
//! `KILN-STEP <run> <stage> <text>`, `KILN-LOG <run> <stage> <line>` and
//! `KILN-REPORT <run> <stage> <json>`.

use std::fmt;

use serde::Serialize;

/// What happens in the installer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Installing the operating system.
    Os,
    /// Putting agent and k3s onto it.
    Node,
    /// Reading the finished image.
    Inspect,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Os => "os",
            Self::Node => "node",
            Self::Inspect => "inspect",
        })
    }
}

/// How a stage ended, by its own word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All of it was done.
    Ok,
    /// It failed, and this is why.
    Fail(String),
}

/// A line of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// The last word of a stage.
    Done(Stage, Outcome),
    /// What is being done.
    Step(Stage, String),
    /// A line of a failed script's log.
    Log(Stage, String),
    /// The JSON report of `agent install`.
    Report(Stage, String),
}

const KINDS: [&str; 4] = ["KILN-LOG ", "KILN-MARK ", "KILN-STEP ", "KILN-REPORT "];

/// Reads a line as one of ours. None when it is not, or is of another run.
///
/// On a console a line may follow something that did not end its own, so a
/// mark counts anywhere in a line; not in quotes, where a shell's trace
/// (`set -x`) shows what it is about to do. `ok` must be the line's last word.
pub fn parse_mark(line: &str, run: &str) -> Option<Mark> {
    let (start, kind) = KINDS.iter().filter_map(|kind| Some((line.find(kind)?, *kind))).min()?;
    if line[..start].ends_with(['\'', '"', '=', '`', '$']) {
        return None;
    }
    let rest = line[start + kind.len()..].strip_prefix(run)?.strip_prefix(' ')?;
    let (stage, text) = rest.split_once(' ').unwrap_or((rest, ""));
    let stage = match stage {
        "os" => Stage::Os,
        "node" => Stage::Node,
        "inspect" => Stage::Inspect,
        _ => return None,
    };
    match kind.trim_end() {
        "KILN-MARK" => Some(Mark::Done(stage, outcome(text)?)),
        "KILN-STEP" => Some(Mark::Step(stage, text.to_owned())),
        "KILN-LOG" => Some(Mark::Log(stage, text.to_owned())),
        _ => Some(Mark::Report(stage, text.to_owned())),
    }
}

/// Whether a line is one of ours, of whatever run.
pub(super) fn is_ours(line: &str) -> bool {
    KINDS.iter().any(|kind| line.contains(kind))
}

fn outcome(text: &str) -> Option<Outcome> {
    if text == "ok" {
        return Some(Outcome::Ok);
    }
    let reason = text.strip_prefix("fail")?;
    match reason.strip_prefix(' ').map(str::trim) {
        Some(reason) if !reason.is_empty() => Some(Outcome::Fail(reason.to_owned())),
        _ if reason.trim().is_empty() => Some(Outcome::Fail("no reason given".to_owned())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "0123456789abcdef";

    #[test]
    fn marks_of_this_run() {
        let parse = |line: &str| parse_mark(line, RUN);
        assert_eq!(parse("KILN-MARK 0123456789abcdef os ok"), Some(Mark::Done(Stage::Os, Outcome::Ok)));
        assert_eq!(
            parse("KILN-MARK 0123456789abcdef node fail %pre: no disk"),
            Some(Mark::Done(Stage::Node, Outcome::Fail("%pre: no disk".into())))
        );
        assert_eq!(
            parse("KILN-MARK 0123456789abcdef os fail"),
            Some(Mark::Done(Stage::Os, Outcome::Fail("no reason given".into())))
        );
        assert_eq!(
            parse("[  9.1] usb 1-1: newKILN-STEP 0123456789abcdef os the boot loader"),
            Some(Mark::Step(Stage::Os, "the boot loader".into()))
        );
        assert_eq!(
            parse("KILN-LOG 0123456789abcdef os KILN-MARK 0123456789abcdef os ok"),
            Some(Mark::Log(Stage::Os, "KILN-MARK 0123456789abcdef os ok".into()))
        );
    }

    #[test]
    fn what_is_no_mark() {
        for line in [
            "KILN-MARK 0123456789abcdee os ok",
            "KILN-MARK 0123456789abcdef0 os ok",
            "KILN-MARK 0123456789abcdef smoke ok",
            "KILN-MARK 0123456789abcdef os okay",
            "KILN-MARK 0123456789abcdef os ok'",
            "KILN-MARK 0123456789abcdef os failed",
            "KILN-MARK 0123456789abcdef",
            "+ kiln_say 'KILN-MARK 0123456789abcdef os fail reason'",
            "KILN-LOG 0000000000000000 os KILN-MARK 0123456789abcdef os ok",
        ] {
            assert_eq!(parse_mark(line, RUN), None, "{line}");
        }
    }
}

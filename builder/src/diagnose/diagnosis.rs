//! What is told to a person.

use std::fmt;

use serde::Serialize;

use super::Class;

/// Longest line shown, in characters.
pub(super) const SHOWN: usize = 400;

/// Which log a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The virtio port `org.fedoraproject.anaconda.log.0`: rsyslog in stage 2.
    Installer,
    /// ttyS0: firmware, kernel, dracut, Anaconda's text interface, our marks.
    Serial,
    /// The virtio port `io.kiln.bake.0`: only our own lines.
    Marks,
    /// What a finished image was found to hold.
    Inspection,
    /// QEMU's events.
    Qmp,
    /// QEMU's stderr and exit.
    Qemu,
    /// Time that passed without progress.
    Clock,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Installer => "installer log",
            Self::Serial => "serial console",
            Self::Marks => "mark port",
            Self::Inspection => "inspection",
            Self::Qmp => "QEMU's events",
            Self::Qemu => "QEMU",
            Self::Clock => "progress clock",
        })
    }
}

/// How sure a diagnosis is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Certainty {
    /// The line says so itself.
    Certain,
    /// The end was seen, and this line before it is the likely cause.
    Likely,
}

/// Why a bake failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// The kind of failure.
    pub class: Class,
    /// Where `line` was read.
    pub source: Source,
    /// The first line that says it: clean text, at most 400 characters.
    pub line: String,
    /// What a person does next.
    pub next: String,
    /// Whether the line is proof or only the likely cause.
    pub certainty: Certainty,
    /// Lines around it that help: a failed script's last words, or what looked odd before.
    pub context: Vec<String>,
}

impl Diagnosis {
    /// One that is certain, with the class's own next action.
    pub fn new(class: Class, source: Source, line: impl AsRef<str>) -> Self {
        Self {
            class,
            source,
            line: shown(line.as_ref()),
            next: class.next().to_owned(),
            certainty: Certainty::Certain,
            context: Vec::new(),
        }
    }

    pub(super) fn likely(mut self, likely: bool) -> Self {
        if likely {
            self.certainty = Certainty::Likely;
        }
        self
    }

    /// With lines that help, but for the one it is about.
    #[must_use]
    pub fn with_context(mut self, context: impl IntoIterator<Item = String>) -> Self {
        self.context = context.into_iter().filter(|line| *line != self.line).collect();
        self
    }
}

impl std::error::Error for Diagnosis {}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({})", self.class.meaning(), self.class)?;
        let hedge = if self.certainty == Certainty::Likely { ", likely cause" } else { "" };
        writeln!(f, "  {}{hedge}: {}", self.source, self.line)?;
        for line in &self.context {
            writeln!(f, "  | {line}")?;
        }
        write!(f, "  next: {}", self.next)
    }
}

/// The part of a line that is shown.
pub(super) fn shown(line: &str) -> String {
    let line = line.trim();
    match line.char_indices().nth(SHOWN - 1) {
        Some((end, _)) if line[end..].chars().nth(1).is_some() => format!("{}…", &line[..end]),
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_shows() {
        let diagnosis =
            Diagnosis::new(Class::PostScript, Source::Marks, "%post line 3 (false): exit status 1")
                .with_context(["grub2-install: error".to_owned()]);
        let text = diagnosis.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "a %post script of the kickstart failed (post-script)");
        assert_eq!(lines[1], "  mark port: %post line 3 (false): exit status 1");
        assert_eq!(lines[2], "  | grub2-install: error");
        assert!(lines[3].starts_with("  next: The script's last lines"), "{text}");
    }

    #[test]
    fn long_lines_are_cut_at_a_character() {
        assert_eq!(shown(&"ä".repeat(SHOWN)).chars().count(), SHOWN);
        assert!(!shown(&"ä".repeat(SHOWN)).contains('…'));
        let cut = shown(&"ä".repeat(SHOWN + 1));
        assert_eq!(cut.chars().count(), SHOWN);
        assert!(cut.ends_with('…'));
    }
}

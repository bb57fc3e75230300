//! What rsyslog, journal and kernel put before a message.

/// The text of a line, without what rsyslog, journal and kernel put before it.
pub(super) fn message(line: &str) -> &str {
    let text = journal_message(line).or_else(|| log_message(line)).unwrap_or(line);
    text.trim().trim_start_matches(['.', ' '])
}

/// `[   33.517655] anaconda[2628]: text`, as journal+console has it.
fn journal_message(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix('[')?;
    let (stamp, rest) = rest.split_once("] ")?;
    stamp.trim().parse::<f64>().ok()?;
    match rest.split_once("]:") {
        Some((who, text)) if who.split_once('[').is_some_and(|(name, _)| !name.contains(' ')) => Some(text),
        _ => Some(rest),
    }
}

/// `11:33:24,436 INFO anaconda:anaconda: main: text`, as the virtio port has it;
/// the program's and the logger's names go, as far as they look like names.
fn log_message(line: &str) -> Option<&str> {
    let (stamp, rest) = line.split_once(' ')?;
    let digits = |range: std::ops::Range<usize>| stamp.get(range)?.parse::<u16>().ok();
    if stamp.len() != 12 || digits(0..2).is_none() || digits(9..12).is_none() {
        return None;
    }
    let (_, mut text) = rest.split_once(' ')?;
    let is_name =
        |name: &str| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "._-".contains(c));
    for _ in 0..3 {
        match text.split_once(':') {
            Some((name, rest)) if is_name(name) && !KEYWORDS.contains(&name) => text = rest.trim_start(),
            _ => break,
        }
    }
    Some(text)
}

/// Words before a colon that are part of the message.
const KEYWORDS: [&str; 2] = ["Installed", "Verifying"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_go_and_messages_stay() {
        for (line, text) in [
            ("[   33.517655] anaconda[2628]: The exact error message is:", "The exact error message is:"),
            ("[   19.704384] anaconda[164]:", ""),
            ("[    1.5] Kernel panic - not syncing: x", "Kernel panic - not syncing: x"),
            ("11:33:24,440 INFO anaconda:anaconda: main: /sbin/anaconda 9-1.fc40", "/sbin/anaconda 9-1.fc40"),
            ("23:28:44,449 CRIT anaconda:Anaconda crashed on signal 11", "Anaconda crashed on signal 11"),
            (".Running post-installation scripts", "Running post-installation scripts"),
            ("[  OK  ] Started x", "[  OK  ] Started x"),
            ("[", "["),
        ] {
            assert_eq!(message(line), text, "{line}");
        }
    }
}

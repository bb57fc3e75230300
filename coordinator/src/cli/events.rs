//! `events`: the audit trail.

use std::fmt::Write as _;

use anyhow::Result;
use kiln_protocol::admin::{Event, EventsRequest, MAX_EVENTS};

use super::arguments::Events;
use super::connect::connect;
use super::print;

/// Seconds that one question waits for news.
const WAIT: u32 = 60;

pub(super) async fn events(arguments: &Events) -> Result<()> {
    let client = connect(&arguments.remote)?;
    let mut after = arguments.since;
    loop {
        let wait = if arguments.follow { WAIT } else { 0 };
        let answer = client.events(EventsRequest { after, limit: MAX_EVENTS, wait }).await?;
        let mut text = String::new();
        for event in &answer.events {
            text += &if arguments.json { serde_json::to_string(event)? + "\n" } else { line(event) };
        }
        print(&text)?;
        match answer.events.last() {
            Some(last) => after = last.id,
            None if arguments.follow => {}
            None => return Ok(()),
        }
    }
}

/// One event on one line, whatever is in it.
fn line(event: &Event) -> String {
    let from = event.from.map_or(String::new(), |from| format!(" from {from}"));
    let alarm = if event.alarm { " ALARM" } else { "" };
    let mut line = String::new();
    let Event { id, at, who, what, detail, .. } = event;
    let _ = write!(line, "{id:>6}  {}  {who}{from}: {what}{alarm}: {detail}", at.strftime("%F %T"));
    let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_that_says_who_from_where_what_and_when() {
        let event = r#"{"id": 7, "at": "2026-01-01T00:00:05Z", "who": "admin ops", "from": "10.0.0.1",
            "what": "revoke", "node": "k3s-a1", "generation": 1, "detail": "k3s-a1\n(generation 1)", "alarm": true}"#;
        let event: Event = serde_json::from_str(event).unwrap();
        assert_eq!(
            line(&event),
            "     7  2026-01-01 00:00:05  admin ops from 10.0.0.1: revoke ALARM: k3s-a1 (generation 1)\n"
        );
    }

    #[test]
    fn every_word_of_what_was_done_is_in_the_operators_document_and_no_other() {
        let code = include_str!("../store/events.rs").split_once("fn as_str(self)").unwrap().1;
        let code = code.split_once("\n    }\n").unwrap().0;
        let mut used: Vec<&str> =
            code.lines().filter_map(|line| line.split_once(" => \"")?.1.strip_suffix("\",")).collect();
        assert!(used.len() > 30 && used.len() == code.matches("Self::").count(), "{used:?}");
        let document = include_str!("../../../docs/operating.md");
        let table = document.split_once("| `what` | what was done |\n|---|---|\n").unwrap().1;
        let rows = table.lines().map_while(|line| line.strip_prefix("| ")?.split_once(" |"));
        let mut told: Vec<&str> =
            rows.flat_map(|(words, _)| words.split(", ")).map(|word| word.trim_matches('`')).collect();
        used.sort_unstable();
        told.sort_unstable();
        assert_eq!(told, used);
    }
}

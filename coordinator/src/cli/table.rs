//! The status as a table.

use std::fmt::Write as _;

use jiff::Timestamp;
use kiln_protocol::admin::{ClusterStatus, Confirmation, NodeStatus, RegistryState, Stale, TokensStatus};
use kiln_protocol::api::StepState;
use kiln_protocol::{Fingerprint, Role};

/// The columns.
pub(crate) const HEAD: [&str; 8] = ["NODE", "ROLE", "GEN", "REGISTRY", "STEP", "UPTIME", "SEEN", "DETAIL"];

/// The status as people read it: a line on the cluster, a table of its nodes,
/// then whatever needs attention.
pub fn status_table(status: &ClusterStatus) -> String {
    let mut text = match &status.live {
        None => "no cluster is live\n".to_owned(),
        Some(live) => {
            let ready = status.planned().filter(|node| node.is_ready()).count();
            format!(
                "cluster {}, incarnation {}, k3s {}: {ready} of {} nodes ready\n",
                live.cluster,
                live.incarnation,
                live.k3s,
                status.planned().count()
            )
        }
    };
    if let Some(said) = status.live.as_ref().and_then(|live| tokens(&live.tokens)) {
        let _ = writeln!(text, "{said}");
    }
    if !status.nodes.is_empty() {
        let rows: Vec<_> = status.nodes.iter().map(|node| row(node, status.at)).collect();
        text += &columns(&rows);
    }
    text + &attention(status)
}

/// What needs attention, a line each: an old copy of the state, alarms, machines
/// that are not known or wait.
pub(super) fn attention(status: &ClusterStatus) -> String {
    let mut text = String::new();
    if let Some(stale) = &status.stale {
        let _ = writeln!(text, "{}", self::stale(stale));
    }
    for alarm in &status.alarms {
        let _ = writeln!(text, "ALARM {} {}: {}", alarm.at.strftime("%F %T"), alarm.node, alarm.message);
    }
    for stranger in &status.strangers {
        if let Some(report) = stranger.report.as_ref().filter(|_| !stranger.pending) {
            let said = detail(&report.state).unwrap_or_default();
            let (key, from) = (beginning(&stranger.key), stranger.from);
            let _ = writeln!(text, "unknown key {key} at {from}: {} {said}", report.step);
        }
    }
    if status.strangers.iter().any(|stranger| stranger.pending) {
        text += &pending_table(status);
    }
    text
}

/// That this state is no node's newest, and what to do.
pub(crate) fn stale(Stale { own, seen, since }: &Stale) -> String {
    format!(
        "STALE since {}: nodes have seen {seen}, where this state, at {own}, has never been: serve the newest \
         state again, or decide for this one: coordinator raise-epoch",
        since.strftime("%F %T")
    )
}

/// What has become of the cluster's tokens, if anything has.
pub(crate) fn tokens(tokens: &TokensStatus) -> Option<String> {
    let at = |time: &Timestamp| time.strftime("%F %T").to_string();
    match tokens {
        TokensStatus { asked: Some(asked), trouble, .. } => {
            let trouble = trouble.as_ref().map_or_else(String::new, |said| format!(": {}", plain(said, 300)));
            Some(format!(
                "its tokens are being rotated since {}, and nobody joins meanwhile{trouble}",
                at(asked)
            ))
        }
        TokensStatus { rotated: Some(rotated), .. } => {
            Some(format!("its tokens were rotated {}", at(rotated)))
        }
        _ => None,
    }
}

/// Of a key that nobody has vouched for only the beginning is shown, too little to
/// approve it by: whoever approves has to read the rest on the machine's own
/// console. `status --json` has it whole, for programs that read consoles.
pub(crate) fn beginning(key: &Fingerprint) -> String {
    format!("{}…", &key.to_string()[..8])
}

/// The machines that wait to be approved.
pub(super) fn pending_table(status: &ClusterStatus) -> String {
    let mut text = String::new();
    for stranger in status.strangers.iter().filter(|stranger| stranger.pending) {
        let facts = stranger.facts.clone().unwrap_or_default();
        let said = [("image", facts.image), ("machine", facts.smbios_uuid)];
        let said =
            said.iter().filter_map(|(what, text)| Some(format!(", {what} {}", plain(text.as_ref()?, 64))));
        let (key, seen) = (beginning(&stranger.key), ago(status.at, stranger.last_seen));
        let said: String = said.collect();
        let _ = writeln!(text, "waits for approval: key {key} at {}, seen {seen} ago{said}", stranger.from);
    }
    if text.is_empty() {
        return "no machine waits\n".to_owned();
    }
    text + "approve one by the key on its console: coordinator approve NODE --fingerprint KEY\n"
}

/// What another machine says, on one line and not too long.
fn plain(text: &str, longest: usize) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(longest).collect()
}

/// The cells of one node.
pub(crate) fn row(node: &NodeStatus, now: Timestamp) -> [String; 8] {
    let (step, uptime) = match &node.report {
        None => ("-".to_owned(), "-".to_owned()),
        Some(report) => {
            let failed = if matches!(report.state, StepState::Failed { .. }) { "!" } else { "" };
            (format!("{}{failed}", report.step), seconds(report.uptime_ms))
        }
    };
    let seen = match node.last_seen {
        _ if node.connected => "now".to_owned(),
        None => "-".to_owned(),
        Some(seen) if node.is_stale(now) => format!("{} (stale)", ago(now, seen)),
        Some(seen) => ago(now, seen),
    };
    let generation = if node.generation == 0 { "-".to_owned() } else { node.generation.to_string() };
    let said = node.report.as_ref().and_then(|report| detail(&report.state));
    let detail = match (node.registry, &node.reason, &node.ticket) {
        (RegistryState::Bound, _, _)
            if node.console == Some(Confirmation::Awaited) && node.role == Role::Server =>
        {
            format!("read the key on its console: coordinator confirm {} KEY", node.name)
        }
        (RegistryState::Held | RegistryState::Revoked, Some(reason), _) => reason.clone(),
        (RegistryState::Issued, _, Some(ticket)) => {
            format!("ticket good until {}", ticket.expires.strftime("%F %T UTC"))
        }
        (RegistryState::Expired, _, _) => format!("coordinator extend {}", node.name),
        _ => said.unwrap_or_default(),
    };
    let detail = notes(node).map(str::to_owned).chain((!detail.is_empty()).then_some(detail));
    [
        node.name.to_string(),
        node.role.to_string(),
        generation,
        node.registry.to_string(),
        step,
        uptime,
        seen,
        detail.collect::<Vec<_>>().join("; "),
    ]
}

/// What an operator has begun with a node and its machine has not followed yet.
fn notes(node: &NodeStatus) -> impl Iterator<Item = &'static str> {
    let left = (!node.planned).then_some("left the cluster file: revoke it when it is gone");
    let rotating = node.rotating.then_some("its key is replaced at its next contact");
    left.into_iter().chain(rotating)
}

fn detail(state: &StepState) -> Option<String> {
    match state {
        StepState::Running { detail } => detail.clone(),
        StepState::Done => None,
        StepState::Failed { error } => Some(error.to_string()),
    }
    .map(|text| text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
}

fn columns(rows: &[[String; 8]]) -> String {
    let head = HEAD.map(str::to_owned);
    let all = || std::iter::once(&head).chain(rows);
    let width = |column: usize| all().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for row in all() {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let _ = write!(line, "{cell:<width$}  ", width = width(column));
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// `21.4s`
fn seconds(millis: u64) -> String {
    format!("{}.{}s", millis / 1000, millis % 1000 / 100)
}

/// `4s`, `3m`, `2h`, `5d`
fn ago(now: Timestamp, then: Timestamp) -> String {
    let seconds = now.duration_since(then).as_secs().max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_protocol::admin::Stranger;

    const STATUS: &str = r#"{
        "pin": "0000000000000000000000000000000000000000000000000000000000000000",
        "at": "2026-01-01T00:01:00Z",
        "live": {"cluster": "home", "incarnation": 2, "begun": "2026-01-01T00:00:00Z", "k3s": "v1.28.5+k3s1"},
        "nodes": [
            {"name": "k3s-s1", "role": "server", "generation": 2, "next_generation": 3, "registry": "bound",
             "ready": "2026-01-01T00:00:50Z", "last_seen": "2026-01-01T00:00:56Z",
             "report": {"boot_id": "b", "sequence": 9, "uptime_ms": 41230, "step": "ready", "state": "done"}},
            {"name": "k3s-a1", "role": "agent", "generation": 2, "next_generation": 3, "registry": "bound",
             "last_seen": "2026-01-01T00:00:00Z",
             "report": {"boot_id": "b", "sequence": 9, "uptime_ms": 3000, "step": "gate",
                        "state": "running", "detail": "no server\nis ready yet"}},
            {"name": "k3s-a2", "role": "agent", "generation": 0, "next_generation": 1, "registry": "planned"}
        ],
        "alarms": [{"at": "2026-01-01T00:00:00Z", "node": "k3s-a1", "message": "look"}]
    }"#;

    #[test]
    fn a_table_is_read_from_left_to_right() {
        let status: ClusterStatus = serde_json::from_str(STATUS).unwrap();
        assert_eq!(
            status_table(&status),
            "cluster home, incarnation 2, k3s v1.28.5+k3s1: 1 of 3 nodes ready
NODE    ROLE    GEN  REGISTRY  STEP   UPTIME  SEEN  DETAIL
k3s-s1  server  2    bound     ready  41.2s   4s
k3s-a1  agent   2    bound     gate   3.0s    1m    no server is ready yet
k3s-a2  agent   -    planned   -      -       -
ALARM 2026-01-01 00:00:00 k3s-a1: look
"
        );
    }

    #[test]
    fn a_rotation_of_the_tokens_is_shown_until_it_is_over_and_when_it_was() {
        let mut status: ClusterStatus = serde_json::from_str(STATUS).unwrap();
        let second_line = |status: &ClusterStatus| status_table(status).lines().nth(1).unwrap().to_owned();
        let set = |status: &mut ClusterStatus, text: &str| {
            status.live.as_mut().unwrap().tokens = serde_json::from_str(text).unwrap();
        };
        set(&mut status, r#"{"asked": "2026-01-01T00:00:30Z"}"#);
        let under_way = "its tokens are being rotated since 2026-01-01 00:00:30, and nobody joins meanwhile";
        assert_eq!(second_line(&status), under_way);
        set(&mut status, r#"{"asked": "2026-01-01T00:00:30Z", "trouble": "k3s answers\n404"}"#);
        assert_eq!(second_line(&status), format!("{under_way}: k3s answers 404"));
        set(&mut status, r#"{"rotated": "2026-01-01T00:00:40Z"}"#);
        assert_eq!(second_line(&status), "its tokens were rotated 2026-01-01 00:00:40");
    }

    #[test]
    fn what_a_machine_has_not_followed_yet_is_shown_before_what_it_says() {
        let mut status: ClusterStatus = serde_json::from_str(STATUS).unwrap();
        let details = |status: &ClusterStatus| [0, 1].map(|at| row(&status.nodes[at], status.at)[7].clone());
        for node in &mut status.nodes {
            node.rotating = true;
        }
        let rotating = "its key is replaced at its next contact";
        assert_eq!(details(&status), [rotating.to_owned(), format!("{rotating}; no server is ready yet")]);
        status.nodes[0].planned = false;
        let left = "left the cluster file: revoke it when it is gone";
        assert_eq!(details(&status)[0], format!("{left}; {rotating}"));
        assert!(status_table(&status).contains(": 0 of 2 nodes ready\n"), "{}", status_table(&status));
    }

    #[test]
    fn a_node_that_was_silent_too_long_is_marked_and_one_that_is_connected_is_not() {
        let mut status: ClusterStatus = serde_json::from_str(STATUS).unwrap();
        let seen = |status: &ClusterStatus| row(&status.nodes[0], status.at)[6].clone();
        status.at = "2026-01-01T00:15:56Z".parse().unwrap();
        assert_eq!(seen(&status), "15m");
        status.at = "2026-01-01T00:15:57Z".parse().unwrap();
        assert_eq!(seen(&status), "15m (stale)");
        assert!(status_table(&status).contains("15m (stale)"), "{}", status_table(&status));
        status.nodes[0].connected = true;
        assert_eq!(seen(&status), "now");
        (status.nodes[0].connected, status.nodes[0].registry) = (false, RegistryState::Revoked);
        assert_eq!(seen(&status), "15m", "nothing is expected of it");
    }

    #[test]
    fn who_waits_is_shown_with_too_little_of_its_key_to_approve_it() {
        let mut status: ClusterStatus = serde_json::from_str(STATUS).unwrap();
        assert_eq!(pending_table(&status), "no machine waits\n");
        let key = Fingerprint::of_spki(b"n");
        let stranger = format!(
            r#"{{"key": "{key}", "from": "10.0.0.7", "last_seen": "2026-01-01T00:00:58Z", "pending": true,
                "facts": {{"image": "alma9\n-v1"}}}}"#
        );
        status.strangers.push(serde_json::from_str(&stranger).unwrap());
        let text = status_table(&status);
        let shown = &key.to_string()[..8];
        let line = format!("waits for approval: key {shown}… at 10.0.0.7, seen 2s ago, image alma9 -v1\n");
        assert!(text.contains(&line), "{text}");
        assert!(!text.contains(&key.to_string()[..9]), "{text}");
        // Nor of one that only says what fails: a whole key needs not to wait.
        let waits = status.strangers.pop().unwrap();
        let report = status.nodes[0].report.clone();
        status.strangers.push(Stranger { pending: false, report, ..waits });
        let text = status_table(&status);
        assert!(text.contains(&format!("unknown key {shown}… at 10.0.0.7: ready")), "{text}");
        assert!(!text.contains(&key.to_string()[..9]), "{text}");
    }

    #[test]
    fn an_empty_status_says_so() {
        let status = ClusterStatus {
            pin: Fingerprint::of_spki(b""),
            at: Timestamp::UNIX_EPOCH,
            live: None,
            nodes: Vec::new(),
            stale: None,
            alarms: Vec::new(),
            strangers: Vec::new(),
        };
        assert_eq!(status_table(&status), "no cluster is live\n");
    }
}

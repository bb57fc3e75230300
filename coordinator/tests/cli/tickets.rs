//! Tickets in the journal of whoever makes them.

use super::*;

#[test]
fn a_ticket_is_journalled_and_printed_again_until_it_is_used() {
    let host = Host::initialised();
    let _serving = Serving::start(&host);
    let arguments =
        ["ticket", "--node", "s1", "--advertise", "10.0.2.2:7443", "--advertise", "[fd00::1]:7443"];
    let text = host.ok(&arguments);
    let ticket: Ticket = text.parse().unwrap();
    assert_eq!(ticket.pin(), host.status().pin);
    assert_eq!(ticket.addresses()[1].to_string(), "[fd00::1]:7443");
    let journal = host.path(".local/state/kiln/tickets");
    assert_eq!(mode(&journal), 0o700);
    for entry in fs::read_dir(&journal).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
    let known = |ticket: &Ticket| {
        let newest = host.status().nodes[0].ticket.clone().unwrap();
        (newest.ticket == ticket.public_key()).then_some(newest.generation)
    };
    assert_eq!(known(&ticket), Some(1));
    assert_eq!(host.ok(&arguments), text, "asking again mints nothing new");

    let other: Ticket = host.ok(&[&arguments[..], &["--new"]].concat()).parse().unwrap();
    assert_eq!(known(&other), Some(2));
    let file = host.path("ticket");
    host.ok(&[&arguments[..], &["--out", file.to_str().unwrap()]].concat());
    assert_eq!(mode(&file), 0o600);
    assert_eq!(fs::read_to_string(file).unwrap().parse::<Ticket>().unwrap(), other);

    let refused = host.fails(4, &["ticket", "--node", "s9", "--advertise", "a:1"]);
    assert!(
        refused.contains("not in the cluster file") && refused.contains("coordinator apply"),
        "{refused}"
    );
    assert!(host.ok(&["extend", "s1", "--lifetime", "2h"]).contains("may be used before"));
    assert!(host.fails(4, &["release", "s1"]).contains("is not held"));
    host.ok(&["revoke", "s1"]);
    assert!(host.fails(4, &["extend", "s1"]).contains("is revoked"));
}

#[test]
fn a_ticket_with_too_many_addresses_is_refused_before_it_is_made() {
    let host = Host::initialised();
    let _serving = Serving::start(&host);
    let addresses: Vec<String> = (1..=9).map(|host| format!("10.0.2.{host}:7443")).collect();
    let mut arguments = vec!["ticket", "--node", "s1"];
    for address in &addresses {
        arguments.extend(["--advertise", address]);
    }
    let error = host.fails(1, &arguments);
    assert!(error.contains("--advertise was given 9 times") && error.contains("at most 8"), "{error}");
    assert!(host.status().nodes[0].ticket.is_none(), "it was minted all the same");
    assert!(!host.path(".local/state/kiln/tickets").exists(), "it was journalled all the same");
    host.ok(&arguments[..arguments.len() - 2]);
}

#[test]
fn a_ticket_that_is_printed_again_is_shown_with_the_end_it_has() {
    let host = Host::initialised();
    let _serving = Serving::start(&host);
    let ticket = |lifetime| {
        let output =
            host.run(&["ticket", "--node", "s1", "--advertise", "10.0.2.2:7443", "--lifetime", lifetime]);
        assert!(output.status.success(), "{}", stderr(&output));
        (String::from_utf8(output.stdout.clone()).unwrap(), stderr(&output))
    };
    let (text, said) = ticket("1h");
    assert!(!said.contains("printed again"), "{said}");
    host.ok(&["extend", "s1", "--lifetime", "3h"]);
    let end = host.status().nodes[0].ticket.clone().unwrap().expires;
    let (again, said) = ticket("7d");
    assert_eq!(again, text);
    assert!(said.contains(&format!("to be used before {end}")), "{said}: {end}");
    assert!(said.contains("printed again") && said.contains("coordinator extend s1"), "{said}");
    assert_eq!(host.status().nodes[0].ticket.clone().unwrap().expires, end);
}

#[test]
fn a_journal_whose_mint_was_lost_goes_on() {
    let host = Host::initialised();
    let serving = Serving::start(&host);
    let arguments = ["ticket", "--node", "s1", "--advertise", "10.0.2.2:7443"];
    let text = host.ok(&arguments);
    // The coordinator loses the mint, as if the caller had died before it.
    serving.signal(Signal::SIGTERM);
    assert_eq!(serving.exit_code(), Some(0));
    let database = rusqlite::Connection::open(host.path("state/state.db")).unwrap();
    database
        .execute_batch(
            "PRAGMA foreign_keys = OFF; DROP TRIGGER events_are_never_deleted;
             DROP TRIGGER keys_are_never_deleted; DELETE FROM events WHERE what = 'mint';
             DELETE FROM seats; DELETE FROM keys WHERE kind = 'ticket';",
        )
        .unwrap();
    drop(database);
    let _serving = Serving::start(&host);
    assert!(host.status().nodes[0].ticket.is_none());
    assert_eq!(host.ok(&arguments), text);
    assert!(host.status().nodes[0].ticket.is_some());
}

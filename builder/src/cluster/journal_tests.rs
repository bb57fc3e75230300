use super::*;
use kiln_protocol::Role;
use proptest::prelude::*;

fn name(n: u8) -> NodeName {
    format!("n{n}").parse().unwrap()
}

fn run(n: u8) -> RunId {
    format!("{n:016x}").parse().unwrap()
}

fn issued(node: u8, generation: u32) -> Issued {
    let at = Timestamp::UNIX_EPOCH;
    let record = TicketRecord {
        node: name(node),
        generation,
        role: Role::Agent,
        not_before: at,
        expires: at,
        confirm_console: false,
        hints: kiln_protocol::admin::Hints::default(),
    };
    // One seed per (node, generation), so that events can be compared.
    let seed = String::from_utf8(vec![b'A' + node; 43]).unwrap().replace(|c| c != 'Q', "A");
    Issued { seed: seed.try_into().unwrap(), record }
}

fn event() -> impl Strategy<Value = Event> {
    let subject = prop_oneof![
        (0..3u8).prop_map(|n| Subject::Node(name(n))),
        Just(Subject::Net),
        Just(Subject::Image(crate::image::Digest::of(b"x"))),
    ];
    prop_oneof![
        (0..3u8).prop_map(|n| Event::Begin { run: run(n), command: "up".into(), at: Timestamp::UNIX_EPOCH }),
        (0..3u8, 1..5u32).prop_map(|(node, generation)| Event::Ticket(issued(node, generation))),
        (0..3u8, subject.clone()).prop_map(|(n, subject)| Event::Making { run: run(n), subject }),
        subject.prop_map(|subject| Event::Removed { subject }),
        (0..3u8, 1..5u32).prop_map(|(node, generation)| Event::Spent { node: name(node), generation }),
        Just(Event::Ending),
        Just(Event::Ended),
    ]
}

fn folded(events: &[Event]) -> State {
    let mut state = State::default();
    events.iter().cloned().for_each(|event| state.apply(event));
    state
}

fn text_of(events: &[Event]) -> String {
    events.iter().map(|event| serde_json::to_string(event).unwrap() + "\n").collect()
}

proptest! {
    // Each case makes files and waits until they are durable.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_cut_at_any_byte_leaves_the_lines_before_it(
        events in proptest::collection::vec(event(), 0..12),
        cut in any::<prop::sample::Index>(),
    ) {
        let text = text_of(&events);
        let cut = cut.index(text.len() + 1);
        let whole_lines = text[..cut].matches('\n').count();
        let (state, whole) = replay(&text[..cut]).unwrap();
        prop_assert_eq!(state, folded(&events[..whole_lines]));
        prop_assert_eq!(whole, text[..cut].rfind('\n').map_or(0, |at| at + 1));
    }

    #[test]
    fn compaction_loses_nothing_that_counts(events in proptest::collection::vec(event(), 0..20)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let mut journal = Journal::open(&path).unwrap();
        for event in &events {
            journal.append(event.clone()).unwrap();
        }
        journal.compact().unwrap();
        let read = Journal::open(&path).unwrap();
        prop_assert_eq!(read.state(), &folded(&events));
    }

    #[test]
    fn generations_never_fall(events in proptest::collection::vec(event(), 1..20)) {
        let mut state = State::default();
        for event in events {
            let before = state.generations.clone();
            state.apply(event);
            for (node, generation) in before {
                prop_assert!(state.generations[&node] >= generation);
            }
            for (node, issued) in &state.tickets {
                prop_assert!(issued.record.generation <= state.generations[node]);
            }
        }
    }
}

#[test]
fn a_cut_off_line_is_cut_away_before_the_next_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.jsonl");
    let ticket = Event::Ticket(issued(1, 1));
    let text = text_of(std::slice::from_ref(&ticket));
    std::fs::write(&path, format!("{text}{}", &text[..20])).unwrap();
    let mut journal = Journal::open(&path).unwrap();
    journal.append(Event::Ending).unwrap();
    let state = Journal::open(&path).unwrap().state;
    assert_eq!(state, folded(&[ticket, Event::Ending]));
}

#[test]
fn a_broken_line_in_the_middle_is_an_error_that_names_it() {
    let text = format!("{}garbage\n{}", text_of(&[Event::Ending]), text_of(&[Event::Ended]));
    let error = format!("{:#}", replay(&text).unwrap_err());
    assert!(error.contains("line 2"), "{error}");
}

#[test]
fn a_spent_seed_is_gone_from_the_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.jsonl");
    let mut journal = Journal::open(&path).unwrap();
    let seed = String::from(issued(1, 3).seed);
    journal.append(Event::Ticket(issued(1, 3))).unwrap();
    assert!(std::fs::read_to_string(&path).unwrap().contains(&seed));
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    journal.append(Event::Spent { node: name(1), generation: 3 }).unwrap();
    journal.compact().unwrap();
    assert!(!std::fs::read_to_string(&path).unwrap().contains(&seed));
    assert_eq!(Journal::open(&path).unwrap().state().generations[&name(1)], 3);
}

#[test]
fn a_run_is_undone_newest_first_and_only_its_own() {
    let node = |n| Subject::Node(name(n));
    let making = |by, subject| Event::Making { run: run(by), subject };
    let state = folded(&[
        making(1, node(1)),
        making(2, Subject::Net),
        making(2, node(2)),
        making(2, node(3)),
        Event::Removed { subject: node(2) },
    ]);
    assert_eq!(state.made_by(&run(2)), [node(3), Subject::Net]);
}

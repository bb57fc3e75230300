//! Machines are made once, whatever cuts a run off, given what is theirs once their
//! console was read, and left alone once they are ready.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::*;

#[tokio::test]
async fn a_server_gets_its_secrets_once_its_console_was_read_and_a_thief_of_its_ticket_never() {
    for thief in [false, true] {
        let mut lab = Lab::new();
        lab.fake.console = true;
        let (context, made) = lab.make(&Faults::default()).await.unwrap();
        let enrolled = boot(&lab, &made, "s1").await;
        assert_eq!(enrolled.configuration().await, 403);
        let confirm = async || {
            let status = made.coordinator.status().await.unwrap();
            let confirmed =
                watch::confirm_consoles(&context.provider, &made.coordinator, &made.nodes, &status);
            confirmed.await.unwrap();
            made.coordinator.status().await.unwrap().node(&"s1".parse().unwrap()).unwrap().registry
        };
        assert_eq!(confirm().await, RegistryState::Bound, "the console says nothing yet");
        assert_eq!(enrolled.configuration().await, 403);
        let shown = if thief { Booted::new(&made, &Identity::generate().unwrap()) } else { enrolled };
        lab.world().consoles.insert("s1".parse().unwrap(), shown.key);
        let (registry, answer) = if thief { (RegistryState::Held, 403) } else { (RegistryState::Bound, 200) };
        assert_eq!(confirm().await, registry);
        assert_eq!(shown.configuration().await, answer);
    }
}

#[tokio::test]
async fn making_twice_makes_once() {
    let lab = Lab::new();
    let (context, made) = lab.make(&Faults::default()).await.unwrap();
    lab.assert_up(&made).await;
    assert!(made.nodes.iter().all(|up| up.started));
    drop((context, made));
    let (_context, again) = lab.make(&Faults::default()).await.unwrap();
    lab.assert_up(&again).await;
    assert!(again.nodes.iter().all(|up| !up.started && up.drift.is_empty()));
    assert_eq!((lab.world().nodes_made, again.incarnation.0), (2, 1));
}

#[tokio::test]
async fn a_run_killed_at_any_point_is_finished_by_the_next() {
    let all = Faults::default();
    Lab::new().make(&all).await.unwrap();
    assert!(all.passed() > 20, "only {} points", all.passed());
    for point in 1..=all.passed() {
        let lab = Lab::new();
        let error = lab.make(&Faults::die_at(point)).await.map(|_| ()).unwrap_err();
        assert!(error.chain().any(<dyn std::error::Error>::is::<Killed>), "point {point}: {error:#}");
        let (_context, made) = lab.make(&Faults::default()).await.unwrap();
        lab.assert_up(&made).await;
        assert_eq!(lab.world().nodes_made, 2, "point {point} made a node twice");
    }
}

#[tokio::test]
async fn a_failed_run_undoes_what_it_made_and_nothing_else() {
    let lab = Lab::new();
    let (context, made) = lab.make(&Faults::default()).await.unwrap();
    drop(made);
    // The run that began the cluster takes all of it away again.
    assert_eq!(undo(context).await, [] as [String; 0]);
    lab.assert_gone();
    // One that adds a node takes that node away.
    drop(lab.make(&Faults::default()).await.unwrap());
    lab.world().objects.remove("node/a1");
    let (context, made) = lab.make(&Faults::default()).await.unwrap();
    assert!(lab.world().objects.contains_key("node/a1"));
    drop(made);
    assert_eq!(undo(context).await, [] as [String; 0]);
    let left: Vec<String> = lab.world().objects.keys().cloned().collect();
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(!left.contains(&"node/a1".to_owned()), "{left:?}");
}

#[tokio::test]
async fn somebody_elses_object_is_left_alone() {
    let lab = Lab::new();
    drop(lab.make(&Faults::default()).await.unwrap());
    lab.world().objects.get_mut("node/a1").unwrap().record.owner = "00000000000000bb".parse().unwrap();
    let error = lab.make(&Faults::default()).await.map(|_| ()).unwrap_err();
    assert!(format!("{error:#}").contains("stands in the way"), "{error:#}");
    let left = lab.down(&Faults::default()).await.unwrap();
    assert!(left[0].contains("another installation"), "{left:?}");
    assert!(lab.world().objects.contains_key("node/a1"));
}

#[tokio::test]
async fn ready_nodes_are_left_alone_and_their_tickets_are_gone() {
    let lab = Lab::new();
    let (mut context, made) = lab.make(&Faults::default()).await.unwrap();
    for node in ["s1", "a1"] {
        boot(&lab, &made, node).await;
    }
    let mut screen = Screen::told(|_| {});
    let mut board = Board::new(&lab.file, context.dir.status(), &mut screen);
    let provider = context.provider.clone();
    let order = lab.order();
    watch::until_ready(&provider, &made.coordinator, &made.nodes, &mut board, order.deadline).await.unwrap();
    spend_tickets(&mut context, &order, &made.nodes).await.unwrap();
    let journal = std::fs::read_to_string(context.dir.journal()).unwrap();
    assert!(!journal.contains("seed"), "{journal}");
    assert!(lab.world().objects.values().all(|thing| thing.seed.is_none()));
    made.server.shutdown().await;
    drop((context, made.coordinator));
    // A node that is off is switched on; nothing is made and no ticket given.
    lab.world().objects.get_mut("node/a1").unwrap().power = PowerState::Off;
    let (_context, again) = lab.make(&Faults::default()).await.unwrap();
    assert_eq!(again.nodes.iter().map(|up| up.started).collect::<Vec<_>>(), [false, true]);
    assert_eq!(lab.world().nodes_made, 2);
    assert!(lab.world().objects.values().all(|thing| thing.seed.is_none()));
    assert!(again.coordinator.status().await.unwrap().all_ready());
}

#[tokio::test]
async fn an_agent_whose_machine_is_gone_gets_a_new_generation() {
    let lab = Lab::new();
    let (context, made) = lab.make(&Faults::default()).await.unwrap();
    for node in ["s1", "a1"] {
        boot(&lab, &made, node).await;
    }
    made.server.shutdown().await;
    drop((context, made.coordinator));
    lab.world().objects.remove("node/a1");
    let (_context, again) = lab.make(&Faults::default()).await.unwrap();
    let status = again.coordinator.status().await.unwrap();
    let a1 = status.node(&"a1".parse().unwrap()).unwrap();
    assert_eq!(a1.ticket.as_ref().unwrap().generation, 2);
    boot(&lab, &again, "a1").await;
    let status = again.coordinator.status().await.unwrap();
    assert_eq!(status.node(&"a1".parse().unwrap()).unwrap().generation, 2);
}

#[tokio::test]
async fn what_a_backup_of_a_machine_or_a_clone_of_it_has_of_its_ticket_binds_nothing() {
    let lab = Lab::new();
    let (_context, made) = lab.make(&Faults::default()).await.unwrap();
    let name: NodeName = "a1".parse().unwrap();
    let registered = async || made.coordinator.status().await.unwrap().node(&name).unwrap().clone();
    // As it stood in the machine's configuration before the machine used it.
    let backup = lab.world().objects["node/a1"].seed.clone().unwrap();
    let node = boot(&lab, &made, "a1").await;
    let seed = NodeSeed::parse(backup.as_bytes()).unwrap();
    for _ in 0..2 {
        // Another machine made of it has a key of its own.
        let identity = Identity::generate().unwrap();
        let clone = Booted::new(&made, &identity);
        let (status, text) = clone.ask(kiln_protocol::api::ENROL, &enrolment(&seed, &identity)).await;
        assert!(status == 409 && text.contains("ticket_contested"), "{status} {text}");
        assert_eq!(clone.configuration().await, 403);
        // As long as the ticket could have bound, that is loud.
        let found = registered().await;
        assert_eq!((found.registry, found.key), (RegistryState::Held, Some(node.key)));
        let alarms = made.coordinator.status().await.unwrap().alarms;
        assert!(alarms.iter().any(|alarm| alarm.message.contains(&clone.key.to_string())), "{alarms:?}");
        assert_eq!(node.configuration().await, 403);
        made.coordinator.release(&name).await.unwrap();
        assert_eq!((registered().await.key, node.configuration().await), (Some(node.key), 200));
    }
}

/// Every file below a directory, its name and content.
fn files_below(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            let content = std::fs::read(&path).unwrap();
            files.push((path, content));
        }
    }
    files
}

#[tokio::test]
async fn the_recovery_key_is_in_no_copy_of_the_state_nor_is_one_that_an_older_kiln_left_there() {
    let lab = Lab::new();
    drop(lab.make(&Faults::default()).await.unwrap());
    let (state, coordinator) = (lab.state(), lab.state().cluster(lab.file.name()).coordinator());
    let kept = state.recovery_key(lab.file.name());
    let text = std::fs::read_to_string(&kept).unwrap();
    assert_eq!(std::fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    let secret = text.strip_prefix("kiln-recovery1.").unwrap().trim();
    let holders = || {
        let files = files_below(state.path()).into_iter();
        let holds = |content: &[u8]| content.windows(secret.len()).any(|part| part == secret.as_bytes());
        files.filter(|(_, content)| holds(content)).map(|(path, _)| path).collect::<Vec<_>>()
    };
    assert_eq!(holders(), [] as [PathBuf; 0]);

    let left = coordinator.join("recovery.key");
    std::fs::rename(&kept, &left).unwrap();
    assert_eq!(holders(), std::slice::from_ref(&left), "it would have been found");
    drop(lab.make(&Faults::default()).await.unwrap());
    assert_eq!(holders(), [] as [PathBuf; 0]);
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), text);
    assert_eq!(std::fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);

    // It is the one that this coordinator's nodes believe. What was dropped may have
    // the state a moment longer.
    let seed = text.parse().unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    let before = Coordinator::pin_at(&coordinator).unwrap();
    let pin = loop {
        match Coordinator::change_pin_with(&coordinator, &seed, &state.unlock_key()) {
            Err(error) if format!("{error:#}").contains("in use") && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            changed => break changed.unwrap(),
        }
    };
    assert_ne!(before, Some(pin));
    lab.down(&Faults::default()).await.unwrap();
    lab.assert_gone();
}

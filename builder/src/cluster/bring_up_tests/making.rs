//! Machines are made once, whatever cuts a run off, given what is theirs once their
//! console was read, and left alone once they are ready.

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

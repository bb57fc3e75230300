//! The data of servers that are gone.

use super::*;

#[tokio::test]
async fn a_sole_server_that_is_gone_is_made_anew_at_the_operators_word_only() {
    let mut lab = lost().await;
    let refusal = format!("{:#}", lab.make(&Faults::default()).await.map(|_| ()).unwrap_err());
    assert!(refusal.contains("--restore FILE") && refusal.contains("--discard-data"), "{refusal}");
    assert!(!lab.world().objects.contains_key("node/s1"), "nothing was touched");
    lab.data = Some(Data::Discard);
    let (_context, made) = lab.make(&Faults::default()).await.unwrap();
    let s1 = "s1".parse().unwrap();
    let status = made.coordinator.status().await.unwrap();
    assert_eq!(status.node(&s1).unwrap().ticket.as_ref().unwrap().generation, 2);
    let again = boot(&lab, &made, "s1").await;
    assert_eq!(again.configuration().await, 200);
    let events = made.coordinator.events(0, 1000).await.unwrap();
    assert!(events.iter().any(|event| event.what == "replace" && event.detail.contains("without data")));
}

#[tokio::test]
async fn a_sole_server_begins_with_the_copy_that_was_named() {
    let mut lab = lost().await;
    let copy = lab.dir.path().join("state.db");
    lab.data = Some(Data::Restore(copy.clone()));
    std::fs::write(&copy, "no database").unwrap();
    let refusal = format!("{:#}", lab.make(&Faults::default()).await.map(|_| ()).unwrap_err());
    assert!(refusal.contains("is no SQLite database"), "{refusal}");
    assert!(!lab.world().objects.contains_key("node/s1"), "nothing was made");
    // One page, of 512 bytes.
    let mut database = [0; 512];
    database[..16].copy_from_slice(b"SQLite format 3\0");
    (database[16], database[31]) = (2, 1);
    std::fs::write(&copy, database).unwrap();
    let (_context, made) = lab.make(&Faults::default()).await.unwrap();
    let events = made.coordinator.events(0, 1000).await.unwrap();
    let begins = format!("s1 begins with the datastore in {}", copy.display());
    assert!(events.iter().any(|event| event.what == "replace" && event.detail == begins));
}

#[tokio::test]
async fn a_run_that_gives_up_data_and_is_killed_anywhere_is_finished_by_the_next() {
    let all = Faults::default();
    let mut lab = lost().await;
    lab.data = Some(Data::Discard);
    lab.make(&all).await.unwrap();
    for point in 1..=all.passed() {
        let mut lab = lost().await;
        lab.data = Some(Data::Discard);
        lab.make(&Faults::die_at(point)).await.map(|_| ()).unwrap_err();
        // Told again, or not: the word may have been heard already.
        let told_again = match lab.make(&Faults::default()).await {
            Err(error) => {
                let said = format!("{error:#}");
                assert!(said.contains("run `builder up` without it"), "point {point}: {said}");
                false
            }
            Ok(made) => {
                drop(made);
                true
            }
        };
        lab.data = None;
        let (_context, made) = lab.make(&Faults::default()).await.unwrap();
        let again = boot(&lab, &made, "s1").await;
        assert_eq!(again.configuration().await, 200, "point {point}, told again: {told_again}");
    }
}

#[tokio::test]
async fn data_that_is_not_lost_is_not_given_up() {
    let mut lab = Lab::new();
    lab.data = Some(Data::Discard);
    let refusal = format!("{:#}", lab.make(&Faults::default()).await.map(|_| ()).unwrap_err());
    assert!(refusal.contains("--discard-data is for a cluster whose only server is gone"), "{refusal}");
    let mut lab = Lab::new();
    let (context, made) = lab.make(&Faults::default()).await.unwrap();
    boot(&lab, &made, "s1").await;
    made.server.shutdown().await;
    drop((context, made.coordinator));
    lab.data = Some(Data::Discard);
    let refusal = format!("{:#}", lab.make(&Faults::default()).await.map(|_| ()).unwrap_err());
    assert!(refusal.contains("server s1 is there"), "{refusal}");
}

#[tokio::test]
async fn a_cluster_all_of_whose_servers_are_gone_is_not_waited_for() {
    let mut lab = Lab::new();
    let begin = FILE.find("[[node]]").unwrap();
    let server = &FILE[begin..FILE.find("[[node]]\nname = \"a1\"").unwrap()];
    let more = ["s2", "s3"].map(|name| server.replacen("s1", name, 1)).concat();
    lab.file = ClusterFile::parse(&format!("{FILE}{more}")).unwrap();
    let (context, made) = lab.make(&Faults::default()).await.unwrap();
    for node in ["s1", "s2", "s3"] {
        let booted = boot(&lab, &made, node).await;
        assert!(booted.passes().await, "{node}");
    }
    made.server.shutdown().await;
    drop((context, made.coordinator));
    lab.world().objects.remove("node/s1");
    drop(lab.make(&Faults::default()).await.unwrap());
    for node in ["node/s1", "node/s2", "node/s3"] {
        lab.world().objects.remove(node);
    }
    let refusal = format!("{:#}", lab.make(&Faults::default()).await.map(|_| ()).unwrap_err());
    assert!(refusal.contains("every server of the cluster is gone"), "{refusal}");
}

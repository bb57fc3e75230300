//! What `down` leaves, whatever cuts it off.

use super::*;

#[tokio::test]
async fn a_run_killed_at_any_point_is_removed_by_down() {
    let all = Faults::default();
    Lab::new().make(&all).await.unwrap();
    for point in 1..=all.passed() {
        let lab = Lab::new();
        lab.make(&Faults::die_at(point)).await.map(|_| ()).unwrap_err();
        assert_eq!(lab.down(&Faults::default()).await.unwrap(), [] as [String; 0], "point {point}");
        lab.assert_gone();
    }
}

#[tokio::test]
async fn a_down_killed_at_any_point_is_finished_by_the_next_down_or_up() {
    let all = Faults::default();
    let lab = Lab::new();
    drop(lab.make(&Faults::default()).await.unwrap());
    lab.down(&all).await.unwrap();
    lab.assert_gone();
    assert_eq!(lab.down(&Faults::default()).await.unwrap(), [] as [String; 0]);
    for point in 1..=all.passed() {
        for finish_with_up in [false, true] {
            let lab = Lab::new();
            drop(lab.make(&Faults::default()).await.unwrap());
            let died = lab.down(&Faults::die_at(point)).await;
            assert!(died.is_err() || !died.unwrap().is_empty(), "point {point} was not reached");
            if finish_with_up {
                let (_context, made) = lab.make(&Faults::default()).await.unwrap();
                lab.assert_up(&made).await;
            } else {
                assert_eq!(lab.down(&Faults::default()).await.unwrap(), [] as [String; 0]);
                lab.assert_gone();
            }
        }
    }
}

/// Whether the cluster's secrets are still worth something.
async fn is_live(lab: &Lab) -> bool {
    let context =
        Context::open(&lab.state(), lab.file.name(), Provider::Fake(lab.fake.clone()), "look").unwrap();
    context.coordinator().await.unwrap().status().await.unwrap().live.is_some()
}

#[tokio::test]
async fn the_incarnation_ends_with_its_last_server_and_not_before() {
    for (stuck, live) in [("node/s1", true), ("node/a1", false), ("net", false)] {
        let lab = Lab::new();
        drop(lab.make(&Faults::default()).await.unwrap());
        lab.world().stuck = Some(stuck.to_owned());
        let left = lab.down(&Faults::default()).await.unwrap();
        assert_eq!(left.iter().filter(|left| left.contains("does not go away")).count(), 1, "{left:?}");
        assert_eq!(is_live(&lab).await, live, "{stuck} is left");
        // No `up` goes on with a cluster that is half gone.
        let refusal = format!("{:#}", lab.make(&Faults::default()).await.map(|_| ()).unwrap_err());
        assert!(refusal.contains("an earlier `down` of this cluster left"), "{refusal}");
        lab.world().stuck = None;
        assert_eq!(lab.down(&Faults::default()).await.unwrap(), [] as [String; 0]);
        lab.assert_gone();
    }
}

#[tokio::test]
async fn a_down_after_the_machines_went_away_by_themselves_ends_the_incarnation_too() {
    let lab = lost().await;
    lab.world().objects.remove("node/a1");
    lab.world().stuck = Some("net".to_owned());
    lab.down(&Faults::default()).await.unwrap();
    assert!(!is_live(&lab).await);
    lab.world().stuck = None;
    assert_eq!(lab.down(&Faults::default()).await.unwrap(), [] as [String; 0]);
    lab.assert_gone();
}

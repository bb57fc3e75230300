//! The state directory.

use super::common::World;
use kiln_coordinator::Coordinator;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

#[tokio::test]
async fn a_second_opener_is_refused_and_told_who_the_first_is() {
    let world = World::new().await;
    let error = Coordinator::open(&world.dir).await.unwrap_err().to_string();
    assert!(error.contains(&format!("in use by process {}", std::process::id())), "{error}");
    let world = world.restart().await;
    assert!(world.coordinator.status().await.is_ok());
}

#[tokio::test]
async fn everything_in_the_state_is_private() {
    let world = World::new().await;
    world.enrolled("a1").await;
    assert_eq!(fs::metadata(&world.dir).unwrap().mode() & 0o777, 0o700);
    let mut names = Vec::new();
    for entry in fs::read_dir(&world.dir).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().mode() & 0o777, 0o600, "{:?}", entry.file_name());
        names.push(entry.file_name().into_string().unwrap());
    }
    for expected in ["admin.key", "coordinator.key", "lock", "state.db", "state.db-wal"] {
        assert!(names.iter().any(|name| name == expected), "{expected} is not among {names:?}");
    }
}

#[tokio::test]
async fn init_never_overwrites() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("state");
    Coordinator::init(&dir).unwrap();
    let key = fs::read(dir.join("coordinator.key")).unwrap();
    assert!(Coordinator::init(&dir).unwrap_err().to_string().contains("already"));
    assert_eq!(fs::read(dir.join("coordinator.key")).unwrap(), key);
    fs::remove_file(dir.join("coordinator.key")).unwrap();
    let error = Coordinator::init(&dir).unwrap_err().to_string();
    assert!(error.contains("no coordinator.key"), "{error}");
}

#[tokio::test]
async fn states_that_are_not_ours_are_refused_with_a_reason() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("state");
    let error = Coordinator::open(&dir).await.unwrap_err().to_string();
    assert!(error.contains("coordinator init --state"), "{error}");

    Coordinator::init(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    let error = Coordinator::open(&dir).await.unwrap_err().to_string();
    assert!(error.contains("chmod 700"), "{error}");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();

    let other = outer.path().join("other");
    Coordinator::init(&other).unwrap();
    fs::copy(other.join("coordinator.key"), dir.join("coordinator.key")).unwrap();
    let error = Coordinator::open(&dir).await.unwrap_err().to_string();
    assert!(error.contains("do not belong together"), "{error}");

    rusqlite::Connection::open(other.join("state.db"))
        .unwrap()
        .pragma_update(None, "user_version", 1000)
        .unwrap();
    let error = format!("{:#}", Coordinator::open(&other).await.unwrap_err());
    assert!(error.contains("newer Kiln (version 1000"), "{error}");

    fs::write(other.join("state.db"), b"not a database, but long enough to look at").unwrap();
    assert!(Coordinator::open(&other).await.is_err());
}

#[tokio::test]
async fn ending_an_incarnation_wipes_its_secrets() {
    let world = World::new().await;
    world.coordinator.end().await.unwrap();
    let dir = world.dir.clone();
    let world = world.restart().await;
    let database = rusqlite::Connection::open(dir.join("state.db")).unwrap();
    let secrets: Option<String> =
        database.query_row("SELECT secrets FROM incarnations", [], |row| row.get(0)).unwrap();
    assert_eq!(secrets, None);
    drop(world);
}

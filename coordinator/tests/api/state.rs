//! The state directory.

use super::common::{Machine, World, class, name, unsealed_key};
use kiln_coordinator::{Coordinator, UnlockFile};
use kiln_protocol::admin::EventsRequest;
use kiln_protocol::{ErrorClass, Fingerprint, Identity, Ticket, api};
use kiln_tests::secrets::{Log, Secrets};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

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
    for expected in ["lock", "state.db", "state.db-wal"] {
        assert!(names.iter().any(|name| name == expected), "{expected} is not among {names:?}");
    }
    assert!(names.iter().all(|name| Path::new(name).extension().is_none_or(|end| end != "key")), "{names:?}");
}

#[tokio::test]
async fn init_never_overwrites() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("state");
    Coordinator::init(&dir).unwrap();
    let pin = Coordinator::pin_at(&dir).unwrap();
    assert!(pin.is_some());
    assert!(Coordinator::init(&dir).unwrap_err().to_string().contains("already"));
    assert_eq!(Coordinator::pin_at(&dir).unwrap(), pin);
    // An older Kiln's key without its registry may be all that is left of a coordinator.
    fs::rename(dir.join("state.db"), outer.path().join("aside")).unwrap();
    fs::write(dir.join("coordinator.key"), "").unwrap();
    let error = Coordinator::init(&dir).unwrap_err().to_string();
    assert!(error.contains("no registry that knows it"), "{error}");
}

#[tokio::test]
async fn an_init_that_was_cut_off_is_done_again() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("state");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(dir.join("state.db"), "").unwrap();
    let error = Coordinator::open(&dir).await.unwrap_err().to_string();
    assert!(error.contains("coordinator init"), "{error}");
    Coordinator::init(&dir).unwrap();
    Coordinator::open(&dir).await.unwrap();
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
    // An older Kiln's key file, of another coordinator.
    let stray = dir.join("coordinator.key");
    fs::write(&stray, Identity::generate().unwrap().to_pem().expose()).unwrap();
    fs::set_permissions(&stray, fs::Permissions::from_mode(0o600)).unwrap();
    let error = format!("{:#}", Coordinator::open(&dir).await.unwrap_err());
    assert!(error.contains("do not belong together"), "{error}");
    assert!(stray.exists(), "what is not ours was removed");
    fs::remove_file(&stray).unwrap();
    Coordinator::open(&dir).await.unwrap();

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
    world.end().await;
    let dir = world.dir.clone();
    let world = world.restart().await;
    let database = rusqlite::Connection::open(dir.join("state.db")).unwrap();
    let secrets: Option<String> =
        database.query_row("SELECT secrets FROM incarnations", [], |row| row.get(0)).unwrap();
    assert_eq!(secrets, None);
    drop(world);
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect()
}

#[tokio::test]
async fn no_secret_of_the_cluster_is_in_the_database_its_log_a_backup_or_the_log() {
    let log = Log::default();
    let writer = log.clone();
    let _ = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .try_init();
    let (world, recovery) = World::with_recovery().await;
    let (server, agent) = (world.enrolled("s1").await, world.enrolled("a1").await);
    let mut secrets = Secrets::default();
    // As `init` and builder keep it where there is no terminal to show it at.
    let kept = Coordinator::recovery_file(&world.dir);
    Coordinator::keep_recovery_key(&kept, &recovery).unwrap();
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    secrets.recovery_key("recovery key", &fs::read_to_string(&kept).unwrap());
    for machine in [&server, &agent] {
        secrets.document("cluster", &serde_json::to_value(machine.config().await.unwrap()).unwrap());
    }
    let kubeconfig =
        world.coordinator.kubeconfig("https://10.0.0.1:6443", std::time::Duration::from_secs(60));
    secrets.kubeconfig("kubeconfig", kubeconfig.await.unwrap().expose());
    secrets.key("the coordinator's key", world.own_identity().to_pem().expose());
    let (forms, kinds) = secrets.count();
    assert!(forms > 100 && kinds > 5, "{forms} forms of {kinds}");
    let backup = world.outer.path().join("backup");
    world.coordinator.backup(&backup).await.unwrap();
    let mut places = vec![backup];
    places.extend(files_below(&world.dir));
    assert!(places.iter().any(|path| path.ends_with("state.db-wal")), "{places:?}");
    let mut searched: Vec<_> =
        places.iter().map(|path| (path.to_string_lossy(), fs::read(path).unwrap())).collect();
    searched.push(("log".into(), log.kept()));
    let found = secrets.find(searched.iter().map(|(place, bytes)| (place.as_ref(), bytes.as_slice())));
    assert!(found.is_empty(), "{found:?}");
}

#[tokio::test]
async fn a_state_stays_closed_without_its_unlock_key() {
    let World { outer, dir, coordinator, server } = World::new().await;
    server.shutdown().await;
    drop(coordinator);
    let unlock = UnlockFile::beside(&dir);
    let aside = outer.path().join("aside");
    fs::rename(unlock.path(), &aside).unwrap();
    let error = format!("{:#}", Coordinator::open(&dir).await.unwrap_err());
    assert!(error.contains("no unlock key in") && error.contains("--unlock-key"), "{error}");
    // Another coordinator's.
    let other = outer.path().join("other");
    Coordinator::init(&other).unwrap();
    let error = Coordinator::open_with(&dir, &UnlockFile::beside(&other)).await.unwrap_err();
    assert!(format!("{error:#}").contains("sealed under the unlock key"), "{error:#}");
    let within = dir.join("unlock-key");
    fs::copy(&aside, &within).unwrap();
    let error = Coordinator::open_with(&dir, &UnlockFile::at(&within)).await.unwrap_err().to_string();
    assert!(error.contains("in the state directory"), "{error}");
    Coordinator::open_with(&dir, &UnlockFile::at(&aside)).await.unwrap();
}

#[tokio::test]
async fn the_unlock_key_can_be_replaced_and_a_replacement_that_was_cut_off_is_finished() {
    let world = World::new().await;
    let machine = world.enrolled("s1").await;
    let before = machine.config().await.unwrap();
    let World { outer, dir, coordinator, server } = world;
    let unlock = UnlockFile::beside(&dir);
    let error = Coordinator::rotate_unlock_key(&dir, &unlock, None).unwrap_err().to_string();
    assert!(error.contains("in use"), "{error}");
    server.shutdown().await;
    drop(coordinator);
    let old = Coordinator::rotate_unlock_key(&dir, &unlock, None).unwrap();
    assert!(Coordinator::open_with(&dir, &UnlockFile::at(&old)).await.is_err(), "the old key still opens it");
    // Sealed anew, but the new key is not yet in its place.
    let next = outer.path().join("state.unlock-key.next");
    fs::rename(unlock.path(), &next).unwrap();
    fs::rename(&old, unlock.path()).unwrap();
    let coordinator = Coordinator::open(&dir).await.unwrap();
    assert!(!next.exists());
    // The same secrets as before.
    let server =
        coordinator.serve(tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap()).await.unwrap();
    assert_eq!(machine.moved_to(server.local_addr()).config().await.unwrap(), before);
    server.shutdown().await;
    drop(coordinator);
    // To another file, which must not be there.
    let to = UnlockFile::at(outer.path().join("elsewhere"));
    Coordinator::rotate_unlock_key(&dir, &unlock, Some(&to)).unwrap();
    assert!(Coordinator::rotate_unlock_key(&dir, &to, Some(&to)).is_err());
    Coordinator::open_with(&dir, &to).await.unwrap();
}

#[tokio::test]
async fn the_state_of_an_older_kiln_is_opened_and_its_secrets_are_sealed() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("state");
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/state-v1");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    for key in ["coordinator.key", "admin.key"] {
        fs::copy(fixture.join(key), dir.join(key)).unwrap();
        fs::set_permissions(dir.join(key), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let dump = fs::read_to_string(fixture.join("state.sql")).unwrap();
    let database = rusqlite::Connection::open(dir.join("state.db")).unwrap();
    database.execute_batch(&dump).unwrap();
    drop(database);
    let coordinator = Coordinator::open(&dir).await.unwrap();
    let status = coordinator.status().await.unwrap();
    assert_eq!(status.nodes[0].ticket.as_ref().unwrap().generation, 1);
    // The incarnation's secrets still are what they were.
    coordinator.kubeconfig("https://10.0.0.1:6443", std::time::Duration::from_secs(60)).await.unwrap();
    drop(coordinator);
    for path in files_below(&dir) {
        let bytes = fs::read(&path).unwrap();
        let clear = bytes.windows(11).any(|part| part == b"PRIVATE KEY");
        // An admin's own key is left to them, with a warning.
        assert_eq!(clear, path.ends_with("admin.key"), "{}", path.display());
    }
    let own = unsealed_key(&dir.join("state.db"), UnlockFile::beside(&dir).path());
    let before = fs::read_to_string(fixture.join("coordinator.key")).unwrap();
    assert_eq!(own.fingerprint(), Identity::from_pem(&before).unwrap().fingerprint());
    assert_eq!(Some(own.fingerprint()), Coordinator::pin_at(&dir).unwrap());
    // And from here on it opens with that unlock key only.
    fs::remove_file(UnlockFile::beside(&dir).path()).unwrap();
    assert!(Coordinator::open(&dir).await.is_err());
}

#[tokio::test]
async fn a_backup_is_private_whole_and_made_while_the_coordinator_serves() {
    let world = World::new().await;
    let file = world.outer.path().join("backup");
    let (enrolled, backed_up) = tokio::join!(world.enrolled("a1"), world.coordinator.backup(&file));
    backed_up.unwrap();
    drop(enrolled);
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    let error = world.coordinator.backup(&file).await.unwrap_err().to_string();
    assert!(error.contains("never overwrites"), "{error}");
    // Nothing but the backup was left behind, beside the unlock key and the admin's.
    let left = files_below(world.outer.path());
    assert_eq!(left.len(), 3, "{left:?}");
    let bytes = fs::read(&file).unwrap();
    assert!(bytes.starts_with(b"kiln-backup 2 "));
    assert_eq!(&bytes[HEADER..][..15], b"SQLite format 3");
    assert_eq!(world.count_events("backup").await, 1);
}

/// How long the first line of a backup is: its kind, a key's name, a MAC.
const HEADER: usize = 14 + 16 + 1 + 64 + 1;

/// Other bytes for the database of a backup, with a first line that fits as
/// far as it can without the unlock key.
fn forged(backup: &[u8], change: impl FnOnce(&rusqlite::Connection)) -> (Vec<u8>, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    fs::write(&path, &backup[HEADER..]).unwrap();
    let database = rusqlite::Connection::open(&path).unwrap();
    change(&database);
    drop(database);
    let bytes = fs::read(&path).unwrap();
    ([&backup[..HEADER], &bytes].concat(), older(&bytes))
}

/// A backup as an older Kiln made them: with a bare SHA-256.
fn older(database: &[u8]) -> Vec<u8> {
    // The SHA-256 of anything, in hex.
    let digest = Fingerprint::of_spki(database);
    [format!("kiln-backup 1 {digest}\n").as_bytes(), database].concat()
}

#[tokio::test]
async fn a_backup_that_was_altered_lets_nobody_in_and_an_older_one_needs_the_operators_word() {
    let (world, _server, _unused, file) = backed_up().await;
    let (unlock, target) = (UnlockFile::beside(&world.dir), world.outer.path().join("restored"));
    let tried = world.outer.path().join("tried");
    let intruder = Identity::generate().unwrap().fingerprint();
    let whole = fs::read(&file).unwrap();
    // Whoever can write to the place of the backups makes an admin of himself.
    let (same_line, older_line) = forged(&whole, |database| {
        let statements = format!(
            "INSERT INTO keys (id, kind, name, noted) VALUES ('{intruder}', 'admin', 'me', 0);
             INSERT INTO admins (key, name, added) VALUES ('{intruder}', 'me', 0);"
        );
        database.execute_batch(&statements).unwrap();
    });
    for (forgery, why) in [(same_line, "altered after it was made"), (older_line, "--unauthenticated")] {
        fs::write(&tried, forgery).unwrap();
        let error = format!("{:#}", Coordinator::restore(&tried, &target, &unlock).unwrap_err());
        assert!(error.contains(why), "{error}");
        assert!(!target.exists());
    }
    // An older Kiln's, which the operator has kept well.
    fs::write(&tried, older(&whole[HEADER..])).unwrap();
    let summary = Coordinator::restore_unauthenticated(&tried, &target, &unlock).unwrap();
    assert!(summary.contains("nothing vouched for"), "{summary}");
    let restored = Coordinator::open_with(&target, &unlock).await.unwrap();
    let events = restored.events(0, 1000).await.unwrap();
    let line = events.iter().find(|event| event.what == "restore").unwrap();
    assert!(line.detail.contains("nothing vouched for") && line.detail.contains("tried"), "{line:?}");
    // And damage is still noticed in it.
    fs::remove_dir_all(&target).unwrap();
    let mut damaged = older(&whole[HEADER..]);
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(&tried, damaged).unwrap();
    assert!(Coordinator::restore_unauthenticated(&tried, &target, &unlock).is_err());
}

#[tokio::test]
async fn two_coordinators_on_one_state_are_one_even_if_the_lock_file_was_deleted() {
    let world = World::new().await;
    let machine = world.enrolled("a1").await;
    fs::remove_file(world.dir.join("lock")).unwrap();
    let second = Coordinator::open(&world.dir).await.unwrap();
    // The first has lost the state: it promises nothing more, and tells nothing.
    for machine in [&machine, &world.machine()] {
        let answer = machine.raw(reqwest::Method::GET, api::CONFIG, Vec::new()).await;
        // Known machines hear that they are to come again, new ones nothing.
        assert!(answer.is_err() || answer.is_ok_and(|(status, _)| status == 503));
    }
    let error = format!("{:#}", world.coordinator.status().await.unwrap_err());
    assert!(error.contains("another coordinator has opened this state"), "{error}");
    second.status().await.unwrap();
    second.revoke(&name("a1")).await.unwrap();
}

/// A backup of a world in which `s1` is bound and `a1` has an unused ticket.
async fn backed_up() -> (World, Machine, Ticket, PathBuf) {
    let world = World::new().await;
    let server = world.enrolled("s1").await;
    let unused = world.ticket("a1").await;
    let file = world.outer.path().join("backup");
    world.coordinator.backup(&file).await.unwrap();
    (world, server, unused, file)
}

#[tokio::test]
async fn a_restored_backup_is_the_same_coordinator_with_bound_nodes_and_void_tickets() {
    let (world, server, unused, file) = backed_up().await;
    // After the backup the ticket was used: the restored state cannot know.
    let used = world.machine();
    used.enrol(&unused).await.unwrap();
    let before = server.config().await.unwrap();
    let pin = world.coordinator.pin();
    let unlock = UnlockFile::beside(&world.dir);
    let restored = world.outer.path().join("restored");
    let summary = Coordinator::restore(&file, &restored, &unlock).unwrap();
    assert!(summary.contains("1 unused tickets are void"), "{summary}");
    let World { outer: _outer, server: serving, coordinator, .. } = world;
    serving.shutdown().await;
    drop(coordinator);
    let coordinator = Coordinator::open_with(&restored, &unlock).await.unwrap();
    assert_eq!(coordinator.pin(), pin);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let serving = coordinator.serve(listener).await.unwrap();
    let server = server.moved_to(serving.local_addr());
    assert_eq!(server.config().await.unwrap(), before, "a bound node stays bound, with the same secrets");
    let late = Machine::new(&Identity::generate().unwrap(), serving.local_addr(), pin);
    assert_eq!(class(late.enrol(&unused).await), ErrorClass::Revoked);
    assert_eq!(fs::metadata(restored.join("state.db")).unwrap().mode() & 0o777, 0o600);
    // The trail says where the state comes from, and when that was made.
    let events = coordinator.events(0, 1000).await.unwrap();
    for what in ["backup", "restore"] {
        let line = events.iter().find(|event| event.what == what).unwrap();
        assert!(line.detail.contains(file.to_str().unwrap()), "{line:?}");
    }
    assert_eq!(fs::metadata(&restored).unwrap().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn an_export_of_the_trail_misses_no_line_of_a_restored_state() {
    let (world, _server, _unused, file) = backed_up().await;
    let unlock = UnlockFile::beside(&world.dir);
    // The trail goes on, and is exported.
    world.enrolled("a2").await;
    let mut exported = world.coordinator.events(0, 1000).await.unwrap().pop().unwrap().id;
    // Also when the same backup is restored a second time, as after a wrong one.
    for round in ["once", "twice"] {
        // The host's clock has gone on further than the trail.
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while jiff::Timestamp::now().as_millisecond() <= i64::try_from(exported).unwrap() {
            assert!(std::time::Instant::now() < end, "the clock stands still");
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        let target = world.outer.path().join(round);
        Coordinator::restore(&file, &target, &unlock).unwrap();
        let restored = Coordinator::open_with(&target, &unlock).await.unwrap();
        let new = restored.events(exported, 1000).await.unwrap();
        let whats: Vec<_> = new.iter().map(|event| event.what.as_str()).collect();
        assert_eq!(whats, ["raise_epoch", "revoke", "restore"], "{round}");
        let whole = restored.events(0, 1000).await.unwrap();
        assert!(whole.windows(2).all(|pair| pair[0].id < pair[1].id), "{whole:?}");
        exported = whole.last().unwrap().id;
        assert!(exported < 1 << 53, "JSON's readers would round it");
    }
    // Whatever else is served, such as the original, says that it is not that far.
    for beyond in [exported, u64::MAX] {
        let asked = EventsRequest { after: beyond, limit: 10, wait: 60 };
        let refused = world.admin().events(asked).await.unwrap_err();
        let kiln_coordinator::client::ClientError::Refused(refused) = refused else { panic!("{refused}") };
        assert_eq!(refused.class, ErrorClass::Policy);
        assert!(refused.message.contains("another state is served"), "{refused}");
    }
}

#[tokio::test]
async fn damaged_foreign_and_unfitting_backups_are_refused_before_anything_is_touched() {
    let (world, _server, _unused, file) = backed_up().await;
    let unlock = UnlockFile::beside(&world.dir);
    let whole = fs::read(&file).unwrap();
    let target = world.outer.path().join("restored");
    let refused = |bytes: &[u8], unlock: &UnlockFile| {
        let file = world.outer.path().join("tried");
        fs::write(&file, bytes).unwrap();
        let error = format!("{:#}", Coordinator::restore(&file, &target, unlock).unwrap_err());
        assert!(!target.exists(), "{error}");
        assert!(!target.with_extension("restoring").exists(), "{error}");
        error
    };
    for cut in [0, 10, HEADER - 1, HEADER, 5000, whole.len() - 1] {
        refused(&whole[..cut], &unlock);
    }
    for at in [0, 20, 60, HEADER - 1, HEADER + 20, 5000, whole.len() - 1] {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        refused(&changed, &unlock);
    }
    // A whole one of something else.
    let foreign = |database: &[u8]| {
        let file = world.outer.path().join("tried");
        fs::write(&file, older(database)).unwrap();
        let error = Coordinator::restore_unauthenticated(&file, &target, &unlock).unwrap_err();
        assert!(!target.exists(), "{error:#}");
        format!("{error:#}")
    };
    assert!(foreign(b"nothing").contains("database"));
    let other = world.outer.path().join("other.db");
    rusqlite::Connection::open(&other).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    let error = foreign(&fs::read(&other).unwrap());
    assert!(error.contains("not a coordinator's"), "{error}");
    // Another unlock key, or none.
    let elsewhere = world.outer.path().join("elsewhere");
    Coordinator::init(&elsewhere).unwrap();
    assert!(refused(&whole, &UnlockFile::beside(&elsewhere)).contains("made under the unlock key"));
    assert!(refused(&whole, &UnlockFile::at("/nonexistent")).contains("no unlock key"));
    // A state that is there already.
    let error = Coordinator::restore(&file, &world.dir, &unlock).unwrap_err().to_string();
    assert!(error.contains("never overwrites"), "{error}");
    assert!(world.coordinator.status().await.is_ok());
}

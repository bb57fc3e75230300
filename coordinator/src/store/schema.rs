//! The database's tables, and the way from each version to the next. Versions
//! only go forward; a newer one than this program knows is refused unread.

use anyhow::{Context as _, Result, ensure};
use rusqlite::{Connection, TransactionBehavior};

/// Each brings the schema from the version of its index to the next. Never
/// edit one that was released: add another.
const MIGRATIONS: [&str; 9] = [V1, V2, V3, V4, SEALED, RATCHETS, CHORES, TOKENS, RUNS];

/// Says that a database is a coordinator's: "Kiln".
const APPLICATION: i32 = 0x4b69_6c6e;

const V1: &str = "
-- Every durable key of every kind, each noted once, for one purpose, for ever.
-- TLS keys by the hex SHA-256 of their SPKI, tickets by their public key.
CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('coordinator', 'admin', 'node', 'ticket')),
    name TEXT NOT NULL,
    noted INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TRIGGER keys_are_never_deleted BEFORE DELETE ON keys
    BEGIN SELECT RAISE(ABORT, 'a key is never forgotten'); END;
CREATE TRIGGER keys_are_never_changed BEFORE UPDATE ON keys
    BEGIN SELECT RAISE(ABORT, 'a key never gets a second name'); END;

-- The lives of the cluster. The secrets go when a life ends.
CREATE TABLE incarnations (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    begun INTEGER NOT NULL,
    ended INTEGER,
    cluster_file TEXT NOT NULL,
    secrets TEXT,
    lease_node TEXT NOT NULL,
    lease_generation INTEGER,
    CHECK ((ended IS NULL) = (secrets IS NOT NULL))
) STRICT;
CREATE UNIQUE INDEX one_live_incarnation ON incarnations ((1)) WHERE ended IS NULL;

-- One generation of one node, with the ticket that stands for it.
CREATE TABLE seats (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    incarnation INTEGER NOT NULL REFERENCES incarnations (id),
    node TEXT NOT NULL,
    generation INTEGER NOT NULL CHECK (generation > 0),
    role TEXT NOT NULL CHECK (role IN ('server', 'agent')),
    ticket TEXT NOT NULL UNIQUE REFERENCES keys (id),
    not_before INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    minted_expires INTEGER NOT NULL,
    hints TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('issued', 'bound', 'held', 'superseded', 'revoked')),
    key TEXT UNIQUE REFERENCES keys (id),
    reason TEXT,
    bound INTEGER,
    passed INTEGER,
    ready INTEGER,
    facts TEXT,
    UNIQUE (node, generation),
    CHECK (state NOT IN ('bound', 'held') OR key IS NOT NULL),
    CHECK (state <> 'issued' OR key IS NULL)
) STRICT;
CREATE UNIQUE INDEX one_live_key_per_node ON seats (node) WHERE state IN ('bound', 'held');
CREATE INDEX seats_of_an_incarnation ON seats (incarnation, role, passed);

-- The newest report of each boot, and when its steps were first done.
CREATE TABLE boots (
    seat INTEGER NOT NULL REFERENCES seats (id),
    boot_id TEXT NOT NULL,
    ordinal INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    report TEXT NOT NULL,
    usage TEXT,
    seen INTEGER NOT NULL,
    PRIMARY KEY (seat, boot_id),
    UNIQUE (seat, ordinal)
) STRICT, WITHOUT ROWID;
CREATE TABLE steps (
    seat INTEGER NOT NULL,
    boot_id TEXT NOT NULL,
    step TEXT NOT NULL,
    uptime_ms INTEGER NOT NULL,
    PRIMARY KEY (seat, boot_id, step),
    FOREIGN KEY (seat, boot_id) REFERENCES boots (seat, boot_id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- The audit trail: who did what to which node, when, from where.
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    who TEXT NOT NULL,
    source TEXT,
    what TEXT NOT NULL,
    seat INTEGER REFERENCES seats (id),
    detail TEXT NOT NULL,
    alarm INTEGER NOT NULL CHECK (alarm IN (0, 1)),
    once TEXT UNIQUE
) STRICT;
CREATE INDEX alarms ON events (seat) WHERE alarm;
CREATE TRIGGER events_are_never_deleted BEFORE DELETE ON events
    BEGIN SELECT RAISE(ABORT, 'the audit trail only grows'); END;
CREATE TRIGGER events_are_never_changed BEFORE UPDATE ON events
    BEGIN SELECT RAISE(ABORT, 'the audit trail only grows'); END;
";

const V2: &str = "
-- Who may write: each opener raises the number, and writes as long as it stands.
CREATE TABLE writer (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    fence INTEGER NOT NULL
) STRICT;
INSERT INTO writer (one, fence) VALUES (1, 0);
";

const V3: &str = "
-- Whether the console of a seat's machine is read, and which key it shows.
ALTER TABLE seats ADD COLUMN confirm_console INTEGER NOT NULL DEFAULT 0 CHECK (confirm_console IN (0, 1));
ALTER TABLE seats ADD COLUMN console_key TEXT;
";

const V4: &str = "
-- Admins come and go; their keys stay noted.
CREATE TABLE admins (
    key TEXT PRIMARY KEY REFERENCES keys (id),
    name TEXT NOT NULL,
    added INTEGER NOT NULL,
    removed INTEGER
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX one_key_per_admin ON admins (name) WHERE removed IS NULL;
INSERT INTO admins (key, name, added) SELECT id, name, noted FROM keys WHERE kind = 'admin';
";

/// What of a node is in its cluster: what chores are made of.
const CHORES: &str = "
-- An agent's own join token: to be made, there, to be deleted, deleted.
ALTER TABLE seats ADD COLUMN token TEXT CHECK (token IN ('wanted', 'made', 'unwanted', 'gone'));
-- A Node object that is to be deleted, or was.
ALTER TABLE seats ADD COLUMN object TEXT CHECK (object IN ('doomed', 'gone'));
-- When the datastore was known to lack a server that had passed the gate.
ALTER TABLE seats ADD COLUMN left INTEGER;
UPDATE seats SET token = 'wanted' WHERE role = 'agent' AND state IN ('bound', 'held');
CREATE INDEX chores ON seats (incarnation) WHERE token IN ('wanted', 'unwanted') OR object = 'doomed';
-- The copy of a datastore that the lease's next holder begins with.
ALTER TABLE incarnations ADD COLUMN restore_path TEXT;
ALTER TABLE incarnations ADD COLUMN restore_size INTEGER;
ALTER TABLE incarnations ADD COLUMN restore_sha256 TEXT;
";

/// Rotation of a cluster's tokens; the tokens themselves are among its secrets.
const TOKENS: &str = "
-- How often it was asked for, since when it is under way, and what the last try
-- said; when it last came to its end.
ALTER TABLE incarnations ADD COLUMN tokens_serial INTEGER NOT NULL DEFAULT 0;
ALTER TABLE incarnations ADD COLUMN tokens_asked INTEGER;
ALTER TABLE incarnations ADD COLUMN tokens_trouble TEXT;
ALTER TABLE incarnations ADD COLUMN tokens_rotated INTEGER;
";

/// Copies of the key files, sealed under the unlock key; with it, the secrets of
/// incarnations are sealed too (`sealed::settle`).
const SEALED: &str = "
CREATE TABLE sealed (
    name TEXT PRIMARY KEY,
    envelope TEXT NOT NULL
) STRICT, WITHOUT ROWID;
PRAGMA application_id = 1265200238;
";

/// Clone ratchets, rotation, epochs and the recovery key.
const RATCHETS: &str = "
-- A further kind of key. A CHECK is changed by making the table anew, which
-- needs foreign keys to be off, as they are while migrating.
CREATE TABLE keys_v2 (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('coordinator', 'admin', 'node', 'ticket', 'recovery')),
    name TEXT NOT NULL,
    noted INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO keys_v2 SELECT id, kind, name, noted FROM keys;
DROP TABLE keys;
ALTER TABLE keys_v2 RENAME TO keys;
CREATE TRIGGER keys_are_never_deleted BEFORE DELETE ON keys
    BEGIN SELECT RAISE(ABORT, 'a key is never forgotten'); END;
CREATE TRIGGER keys_are_never_changed BEFORE UPDATE ON keys
    BEGIN SELECT RAISE(ABORT, 'a key never gets a second name'); END;

-- The keys that rotation took out of use. Their second use is an alarm.
CREATE TABLE former_keys (
    key TEXT PRIMARY KEY REFERENCES keys (id),
    seat INTEGER NOT NULL REFERENCES seats (id),
    replaced INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Each node's clone ratchet: the notch it came from last, and the one held.
ALTER TABLE seats ADD COLUMN ratchet_from TEXT;
ALTER TABLE seats ADD COLUMN ratchet_held TEXT;
-- An operator wants its key replaced.
ALTER TABLE seats ADD COLUMN rotate INTEGER NOT NULL DEFAULT 0 CHECK (rotate IN (0, 1));

-- What is true of the coordinator itself: one row.
CREATE TABLE coordinator (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    -- How far this state is, as nodes are told.
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    -- How far a node says, with our signature, that it was once.
    newer_epoch INTEGER,
    newer_seq INTEGER,
    newer_seen INTEGER,
    -- Public half of the recovery key, and its last word about our own key.
    recovery TEXT REFERENCES keys (id),
    pin_serial INTEGER,
    pin_signature TEXT,
    pin TEXT REFERENCES keys (id)
) STRICT;
INSERT INTO coordinator (id, epoch, seq) VALUES (1, 1, 0);
";

/// Which numbers were handed out: `registry::runs`.
const RUNS: &str = "
-- The runs of seq in the present epoch. The one without a last is the present
-- run, which is as far as coordinator.seq.
CREATE TABLE runs (
    first INTEGER PRIMARY KEY CHECK (first >= 0),
    last INTEGER CHECK (last >= first)
) STRICT;
CREATE UNIQUE INDEX one_present_run ON runs ((1)) WHERE last IS NULL;
-- Until now every epoch was one run, from 0 on.
INSERT INTO runs (first) VALUES (0);
";

/// Refuses a database that is not a coordinator's, or a newer one's.
pub(super) fn check_identity(connection: &Connection) -> Result<()> {
    let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    ensure!(application == APPLICATION, "it is not a coordinator's database");
    version(connection).map(drop)
}

/// The schema's version, if it is none that only a newer Kiln knows.
fn version(connection: &Connection) -> Result<usize> {
    let newest = MIGRATIONS.len();
    let found: usize = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .context("reading the state's version")?;
    ensure!(
        found <= newest,
        "the state was written by a newer Kiln (version {found}, this one knows {newest}): use that one"
    );
    Ok(found)
}

/// Brings the database to the newest version. Foreign keys must be off: SQLite
/// lets no table that others refer to be made anew otherwise
/// (<https://www.sqlite.org/lang_altertable.html#otheralter>).
pub(super) fn migrate(connection: &mut Connection) -> Result<()> {
    let found = version(connection)?;
    for (version, migration) in MIGRATIONS.iter().enumerate().skip(found) {
        let at = || format!("bringing the state from version {version} to {}", version + 1);
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).with_context(at)?;
        transaction.execute_batch(migration).with_context(at)?;
        transaction.pragma_update(None, "user_version", version + 1).with_context(at)?;
        transaction.commit().with_context(at)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrating_twice_changes_nothing() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection).unwrap();
        migrate(&mut connection).unwrap();
        let version: usize = connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        assert_eq!(version, MIGRATIONS.len());
    }

    #[test]
    fn a_newer_version_is_refused() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.pragma_update(None, "user_version", MIGRATIONS.len() + 1).unwrap();
        let error = migrate(&mut connection).unwrap_err().to_string();
        assert!(error.contains("newer Kiln"), "{error}");
    }

    #[test]
    fn every_older_version_is_brought_to_the_newest_with_what_is_in_it() {
        for older in 1..MIGRATIONS.len() {
            let mut connection = Connection::open_in_memory().unwrap();
            connection.execute_batch(include_str!("../../tests/fixtures/state-v1/state.sql")).unwrap();
            let dump = |connection: &Connection| -> Vec<(String, String)> {
                let mut statement = connection.prepare("SELECT node, ticket FROM seats").unwrap();
                let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
                rows.map(Result::unwrap).collect()
            };
            let before = dump(&connection);
            assert_eq!(before.len(), 1);
            for (version, migration) in MIGRATIONS.iter().enumerate().take(older).skip(1) {
                connection.execute_batch(migration).unwrap();
                connection.pragma_update(None, "user_version", version + 1).unwrap();
            }
            migrate(&mut connection).unwrap();
            assert_eq!(version(&connection).unwrap(), MIGRATIONS.len());
            assert_eq!(dump(&connection), before, "from version {older}");
            assert!(!connection.prepare("PRAGMA foreign_key_check").unwrap().exists([]).unwrap());
            check_identity(&connection).unwrap();
        }
    }

    /// What nodes were told before there were runs is its own, and nothing else.
    #[test]
    fn an_older_state_remembers_all_it_handed_out_as_one_run() {
        use super::super::{Transaction, epoch};
        use kiln_protocol::ratchet::Reach;
        let mut connection = Connection::open_in_memory().unwrap();
        for (version, migration) in MIGRATIONS[..8].iter().enumerate() {
            connection.execute_batch(migration).unwrap();
            connection.pragma_update(None, "user_version", version + 1).unwrap();
        }
        connection.execute_batch("UPDATE coordinator SET epoch = 3, seq = 41").unwrap();
        migrate(&mut connection).unwrap();
        let tx = Transaction::on(&connection, None);
        for runs in [epoch::runs(&tx).unwrap(), epoch::start(&tx).unwrap()] {
            for (epoch, seq, own) in
                [(3, 0, true), (3, 41, true), (2, 99, true), (3, 42, false), (4, 0, false)]
            {
                assert_eq!(runs.covers(Reach { epoch, seq }), own, "epoch {epoch}, seq {seq}: {runs:?}");
            }
        }
    }

    #[test]
    fn keys_and_events_only_grow() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection).unwrap();
        connection
            .execute_batch(
                "INSERT INTO keys VALUES ('k', 'admin', 'ops', 0);
                 INSERT INTO events (at, who, what, detail, alarm) VALUES (0, 'a', 'b', 'c', 0);",
            )
            .unwrap();
        for forbidden in [
            "DELETE FROM keys",
            "UPDATE keys SET name = 'other'",
            "INSERT INTO keys VALUES ('k', 'node', 'other', 0)",
            "DELETE FROM events",
            "UPDATE events SET who = 'x'",
        ] {
            assert!(connection.execute_batch(forbidden).is_err(), "{forbidden}");
        }
    }
}

//! The database's tables, and the way from each version to the next. Versions
//! only go forward; a newer one than this program knows is refused unread.

use anyhow::{Context as _, Result, ensure};
use rusqlite::{Connection, TransactionBehavior};

/// Each brings the schema from the version of its index to the next. Never
/// edit one that was released: add another.
const MIGRATIONS: [&str; 10] = [
    include_str!("migrations/01_registry.sql"),
    include_str!("migrations/02_writer.sql"),
    include_str!("migrations/03_console.sql"),
    include_str!("migrations/04_admins.sql"),
    include_str!("migrations/05_sealed.sql"),
    include_str!("migrations/06_ratchets.sql"),
    include_str!("migrations/07_chores.sql"),
    include_str!("migrations/08_tokens.sql"),
    include_str!("migrations/09_runs.sql"),
    include_str!("migrations/10_owners.sql"),
];

/// Says that a database is a coordinator's: "Kiln".
const APPLICATION: i32 = 0x4b69_6c6e;

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

    #[test]
    fn an_older_state_knows_whose_each_key_is_and_was() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.pragma_update(None, "foreign_keys", false).unwrap();
        for (version, migration) in MIGRATIONS[..9].iter().enumerate() {
            connection.execute_batch(migration).unwrap();
            connection.pragma_update(None, "user_version", version + 1).unwrap();
        }
        connection
            .execute_batch(
                "INSERT INTO keys VALUES ('t', 'ticket', 'a', 0), ('old', 'node', 'a', 0), ('new', 'node', 'a', 0),
                     ('ops', 'admin', 'ops', 0);
                 INSERT INTO incarnations (begun, cluster_file, secrets, lease_node) VALUES (0, '', '', 'a');
                 INSERT INTO seats (id, incarnation, node, generation, role, ticket, not_before, expires,
                     minted_expires, hints, state, key, left) VALUES (7, 1, 'a', 1, 'agent', 't', 0, 0, 0, '{}',
                     'bound', 'new', 5);
                 INSERT INTO former_keys VALUES ('old', 7, 0);
                 INSERT INTO events (id, at, who, what, detail, alarm, once) VALUES (41, 0, 'a', 'b', 'c', 1, 'x');",
            )
            .unwrap();
        migrate(&mut connection).unwrap();
        let seat = |key: &str| -> Option<i64> {
            connection.query_row("SELECT seat FROM keys WHERE id = ?1", [key], |row| row.get(0)).unwrap()
        };
        assert_eq!(["old", "new", "t", "ops"].map(seat), [Some(7), Some(7), None, None]);
        let left: i64 = connection.query_row("SELECT left FROM seats", [], |row| row.get(0)).unwrap();
        assert_eq!(left, 5);
        // Numbers go on where they were, and what was noted once stays so.
        let insert =
            "INSERT INTO events (at, who, what, detail, alarm, once) VALUES (0, 'a', 'b', 'c', 0, ?1)";
        assert!(connection.execute(insert, ["x"]).is_err());
        connection.execute(insert, [None::<&str>]).unwrap();
        assert_eq!(connection.last_insert_rowid(), 42);
        assert!(!connection.prepare("PRAGMA foreign_key_check").unwrap().exists([]).unwrap());
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
                "INSERT INTO keys (id, kind, name, noted) VALUES ('k', 'admin', 'ops', 0);
                 INSERT INTO events (at, who, what, detail, alarm) VALUES (0, 'a', 'b', 'c', 0);",
            )
            .unwrap();
        for forbidden in [
            "DELETE FROM keys",
            "UPDATE keys SET name = 'other'",
            "INSERT INTO keys (id, kind, name, noted) VALUES ('k', 'node', 'other', 0)",
            "DELETE FROM events",
            "UPDATE events SET who = 'x'",
        ] {
            assert!(connection.execute_batch(forbidden).is_err(), "{forbidden}");
        }
    }
}

//! How far this state is, as nodes are told, which numbers it told them, and
//! what one of them was told that it never did.

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use kiln_protocol::ratchet::Reach;
use ring::rand::{SecureRandom as _, SystemRandom};
use rusqlite::params;

use super::{Transaction, millis, time};
use crate::registry::runs::{Runs, next_first};

/// Runs that are remembered one by one. Before there are more, the oldest two
/// become one, with what is between them: another copy that counted there, which
/// is one from before the second of them, is not noticed by its stamps any more.
/// To drop them instead would take nodes that were away for long for another
/// copy's. A coordinator that starts once a day has them for years.
const REMEMBERED: usize = 1000;

/// A node has shown this coordinator's own signature under a reach that this
/// state never had: it is an old copy, or another copy of it was served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Newer {
    pub(crate) reach: Reach,
    pub(crate) seen: Timestamp,
}

/// How far the state is, the changes of the present group included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    reach: Reach,
    newer: Option<Newer>,
    /// The group has come further than what is written.
    further: bool,
}

impl Progress {
    /// As it is once its group is on disk.
    pub(super) fn written(self) -> Self {
        Self { further: false, ..self }
    }
}

/// Where it is remembered, and else as it is written.
fn progress(tx: &Transaction<'_>) -> Result<Progress> {
    let Some(recent) = tx.recent() else { return read(tx) };
    if let Some(progress) = recent.progress.get() {
        return Ok(progress);
    }
    let progress = read(tx)?;
    recent.progress.set(Some(progress));
    Ok(progress)
}

fn read(tx: &Transaction<'_>) -> Result<Progress> {
    let mut statement =
        tx.prepare_cached("SELECT epoch, seq, newer_epoch, newer_seq, newer_seen FROM coordinator")?;
    let (reach, epoch, seq, seen) = statement.query_row([], |row| {
        let reach = Reach { epoch: row.get(0)?, seq: row.get(1)? };
        Ok((reach, row.get(2)?, row.get(3)?, row.get(4)?))
    })?;
    let newer = match (epoch, seq, seen) {
        (Some(epoch), Some(seq), Some(seen)) => {
            Some(Newer { reach: Reach { epoch, seq }, seen: time(seen)? })
        }
        _ => None,
    };
    Ok(Progress { reach, newer, further: false })
}

/// Writes how far the group has come, before it is committed or the table is
/// changed otherwise.
pub(super) fn write_down(tx: &Transaction<'_>) -> Result<()> {
    if let Some(Progress { reach, further: true, .. }) = tx.recent().and_then(|recent| recent.progress.get())
    {
        tx.prepare_cached("UPDATE coordinator SET seq = ?1")?.execute([reach.seq])?;
    }
    Ok(())
}

/// Before the table is changed: nothing of it is remembered.
fn changes(tx: &Transaction<'_>) -> Result<()> {
    write_down(tx)?;
    if let Some(recent) = tx.recent() {
        recent.progress.set(None);
    }
    Ok(())
}

/// How far this state is.
pub(crate) fn reach(tx: &Transaction<'_>) -> Result<Reach> {
    Ok(progress(tx)?.reach)
}

/// One further: something was promised to a node. It is written when the group
/// is committed, once for all of its changes.
pub(crate) fn advance(tx: &Transaction<'_>) -> Result<()> {
    let Some(recent) = tx.recent() else {
        tx.prepare_cached("UPDATE coordinator SET seq = seq + 1")?.execute([])?;
        return Ok(());
    };
    let mut progress = progress(tx)?;
    progress.reach.seq += 1;
    recent.progress.set(Some(Progress { further: true, ..progress }));
    Ok(())
}

/// Begins an epoch, with a run of its own and no other; whatever was newer than
/// the one before is not any more.
pub(crate) fn begin(tx: &Transaction<'_>, epoch: u64) -> Result<()> {
    let first = next_first(0, random()?);
    changes(tx)?;
    tx.execute(
        "UPDATE coordinator SET epoch = ?1, seq = ?2, newer_epoch = NULL, newer_seq = NULL, newer_seen = NULL",
        [epoch, first],
    )?;
    tx.execute("DELETE FROM runs", [])?;
    tx.execute("INSERT INTO runs (first) VALUES (?1)", [first])?;
    Ok(())
}

/// Begins a run: from here on, numbers are handed out that no other copy of
/// this state hands out. Nothing is signed before this is durable.
pub(crate) fn start(tx: &Transaction<'_>) -> Result<Runs> {
    let last = reach(tx)?.seq;
    let first = next_first(last, random()?);
    changes(tx)?;
    tx.execute("UPDATE runs SET last = ?1 WHERE last IS NULL", [last])?;
    tx.execute("INSERT INTO runs (first) VALUES (?1)", [first])?;
    tx.execute("UPDATE coordinator SET seq = ?1", [first])?;
    while tx.query_row("SELECT count(*) FROM runs", [], |row| row.get::<_, usize>(0))? > REMEMBERED {
        let second: (u64, u64) =
            tx.query_row("SELECT first, last FROM runs ORDER BY first LIMIT 1 OFFSET 1", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        tx.execute("DELETE FROM runs WHERE first = ?1", [second.0])?;
        tx.execute("UPDATE runs SET last = ?1 WHERE first = (SELECT min(first) FROM runs)", [second.1])?;
    }
    runs(tx)
}

/// All that this state handed out in the present epoch.
pub(crate) fn runs(tx: &Transaction<'_>) -> Result<Runs> {
    let Reach { epoch, seq } = reach(tx)?;
    let mut statement = tx.prepare_cached("SELECT first, last FROM runs ORDER BY first")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut runs: Vec<(u64, Option<u64>)> = rows.collect::<Result<_, _>>()?;
    let (present, _) = runs.pop().filter(|run| run.1.is_none()).context("the state has no present run")?;
    let past = runs.into_iter().map(|(first, last)| Ok(first..=last.context("two runs go on")?));
    Ok(Runs::new(epoch, past.collect::<Result<_>>()?, present..=seq))
}

fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).ok().context("reading the system's randomness")?;
    Ok(u64::from_be_bytes(bytes))
}

/// The newest that was seen and that this state never had.
pub(crate) fn newer(tx: &Transaction<'_>) -> Result<Option<Newer>> {
    Ok(progress(tx)?.newer)
}

/// Keeps what was seen.
pub(crate) fn set_newer(tx: &Transaction<'_>, reach: Reach, now: Timestamp) -> Result<()> {
    changes(tx)?;
    tx.execute(
        "UPDATE coordinator SET newer_epoch = ?1, newer_seq = ?2, newer_seen = ?3",
        params![reach.epoch, reach.seq, millis(now)],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{schema, test_store};
    use super::*;
    use rusqlite::Connection;

    fn database() -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::migrate(&mut connection).unwrap();
        connection
    }

    fn count(tx: &Transaction<'_>) -> usize {
        tx.query_row("SELECT count(*) FROM runs", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn a_start_remembers_what_was_handed_out_and_goes_on_elsewhere() {
        let connection = database();
        let tx = Transaction::on(&connection, None);
        let mut told = Vec::new();
        for start in 0..5 {
            for _ in 0..start {
                told.push(advanced(&tx));
            }
            let (before, runs) = (reach(&tx).unwrap(), start_and_look(&tx));
            let next = Reach { seq: before.seq + 1, ..before };
            assert!(runs.covers(before) && !runs.covers(next), "{next} was never told");
            assert!(runs.reach() > next);
            told.push(runs.reach());
            assert!(told.iter().all(|told| runs.covers(*told)), "{told:?} in {runs:?}");
        }
        assert_eq!(count(&tx), 6);
    }

    fn advanced(tx: &Transaction<'_>) -> Reach {
        advance(tx).unwrap();
        reach(tx).unwrap()
    }

    /// What is kept is what was answered.
    fn start_and_look(tx: &Transaction<'_>) -> Runs {
        let runs = start(tx).unwrap();
        assert_eq!(super::runs(tx).unwrap(), runs);
        runs
    }

    #[test]
    fn copies_of_one_state_go_on_with_different_numbers() {
        let connection = database();
        let firsts: std::collections::BTreeSet<u64> = (0..50)
            .map(|_| {
                connection.execute_batch("SAVEPOINT copy").unwrap();
                let seq = start(&Transaction::on(&connection, None)).unwrap().reach().seq;
                connection.execute_batch("ROLLBACK TO copy; RELEASE copy").unwrap();
                seq
            })
            .collect();
        assert_eq!(firsts.len(), 50);
        // So do two that were restored from one backup.
        let begun = [(); 2].map(|()| {
            begin(&Transaction::on(&connection, None), 2).unwrap();
            runs(&Transaction::on(&connection, None)).unwrap()
        });
        assert!(!begun[0].covers(begun[1].reach()) && !begun[1].covers(begun[0].reach()), "{begun:?}");
    }

    #[test]
    fn an_epoch_begins_without_a_past() {
        let connection = database();
        let tx = Transaction::on(&connection, None);
        for _ in 0..3 {
            start(&tx).unwrap();
        }
        let before = runs(&tx).unwrap().reach();
        begin(&tx, 2).unwrap();
        let runs = runs(&tx).unwrap();
        assert_eq!((count(&tx), runs.reach()), (1, reach(&tx).unwrap()));
        assert!(!runs.covers(Reach { epoch: 2, ..before }));
        assert!(runs.covers(before), "the epoch before says nothing");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_nothing_that_was_told_is_forgotten() {
        let connection = database();
        let tx = Transaction::on(&connection, None);
        let mut told = Vec::new();
        for _ in 0..REMEMBERED + 20 {
            told.push(advanced(&tx));
            told.push(start(&tx).unwrap().reach());
        }
        assert_eq!(count(&tx), REMEMBERED);
        let runs = runs(&tx).unwrap();
        assert!(told.iter().all(|told| runs.covers(*told)));
        // Between the oldest that became one, nothing is noticed any more; after
        // them, all is.
        let after = |told: Reach| Reach { seq: told.seq + 1, ..told };
        assert!(runs.covers(after(told[0])));
        assert!(!runs.covers(after(told[told.len() - 2])));
        assert!(!runs.covers(after(told[100])));
    }

    #[tokio::test]
    async fn a_run_that_is_not_durable_was_never_begun() {
        let (_dir, store) = test_store();
        let lost: Result<Runs> = store
            .write(|tx| {
                start(tx)?;
                anyhow::bail!("no")
            })
            .await;
        assert!(lost.is_err());
        let runs = store.read(runs).await.unwrap();
        assert_eq!(runs, Runs::new(1, Vec::new(), 0..=0));
    }
}

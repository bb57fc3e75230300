//! What nodes reported: the newest report of each boot.
//!
//! Reports may be lost, repeated and overtaken. Within a boot the sequence
//! number decides; between boots, which one was heard of last.

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use kiln_protocol::admin::StepTime;
use kiln_protocol::api::{Report, Step, StepState, Usage};
use rusqlite::{OptionalExtension as _, params};

use super::{Transaction, millis, time};

/// Boots of one node that are remembered.
const KEPT_BOOTS: i64 = 8;

/// What is known of a node's newest boot.
#[derive(Debug)]
pub(crate) struct NewestBoot {
    pub(crate) report: Report,
    pub(crate) usage: Option<Usage>,
    pub(crate) seen: Timestamp,
    pub(crate) steps: Vec<StepTime>,
}

/// Takes a report; false if a newer one was taken before.
pub(crate) fn take(tx: &Transaction<'_>, seat: i64, report: &Report, now: Timestamp) -> Result<bool> {
    let newest: Option<(String, i64)> = tx
        .prepare_cached("SELECT boot_id, ordinal FROM boots WHERE seat = ?1 ORDER BY ordinal DESC LIMIT 1")?
        .query_row([seat], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let known: Option<(i64, u64)> = tx
        .prepare_cached("SELECT ordinal, sequence FROM boots WHERE seat = ?1 AND boot_id = ?2")?
        .query_row(params![seat, report.boot_id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let current = newest.as_ref().is_none_or(|(boot, _)| *boot == report.boot_id) || known.is_none();
    let ordinal = known.map_or(newest.map_or(1, |(_, ordinal)| ordinal + 1), |(ordinal, _)| ordinal);
    let overtaken = known.is_some_and(|(_, before)| report.sequence <= before);
    if current && !overtaken {
        store(tx, seat, report, ordinal, now)?;
    }
    if matches!(report.state, StepState::Done) && current {
        // Also for a report that was overtaken: it tells when its step was done.
        tx.prepare_cached(
            "INSERT INTO steps (seat, boot_id, step, uptime_ms) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET uptime_ms = min(uptime_ms, excluded.uptime_ms)",
        )?
        .execute(params![seat, report.boot_id, report.step.as_str(), report.uptime_ms])?;
    }
    Ok(current && !overtaken)
}

fn store(tx: &Transaction<'_>, seat: i64, report: &Report, ordinal: i64, now: Timestamp) -> Result<()> {
    let usage = report.usage.map(|usage| serde_json::to_string(&usage)).transpose()?;
    // Facts and usage are kept beside it, and outlast reports without them.
    let bare = Report { facts: None, usage: None, ..report.clone() };
    let bare = serde_json::to_string(&bare).context("writing a report")?;
    tx.prepare_cached(
        "INSERT INTO boots (seat, boot_id, ordinal, sequence, report, usage, seen)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (seat, boot_id) DO UPDATE SET
             sequence = excluded.sequence, report = excluded.report, seen = excluded.seen,
             usage = coalesce(excluded.usage, usage)",
    )?
    .execute(params![seat, report.boot_id, ordinal, report.sequence, bare, usage, millis(now)])?;
    tx.prepare_cached("DELETE FROM boots WHERE seat = ?1 AND ordinal <= ?2")?
        .execute([seat, ordinal - KEPT_BOOTS])?;
    Ok(())
}

/// Whether the machine of a seat may ever have said that it was ready, whether or not
/// that counted: a boot that is not remembered may have.
pub(crate) fn may_have_been_ready(tx: &Transaction<'_>, seat: i64) -> Result<bool> {
    let query = "SELECT EXISTS (SELECT 1 FROM steps WHERE seat = ?1 AND step = ?2)
                     OR EXISTS (SELECT 1 FROM boots WHERE seat = ?1 AND ordinal > ?3)";
    Ok(tx
        .prepare_cached(query)?
        .query_row(params![seat, Step::Ready.as_str(), KEPT_BOOTS], |row| row.get(0))?)
}

/// What is known of a node's newest boot.
pub(crate) fn newest(tx: &Transaction<'_>, seat: i64) -> Result<Option<NewestBoot>> {
    type Row = (String, String, Option<String>, i64);
    let found: Option<Row> = tx
        .prepare_cached(
            "SELECT boot_id, report, usage, seen FROM boots WHERE seat = ?1 ORDER BY ordinal DESC LIMIT 1",
        )?
        .query_row([seat], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .optional()?;
    let Some((boot_id, report, usage, seen)) = found else { return Ok(None) };
    let mut statement =
        tx.prepare_cached("SELECT step, uptime_ms FROM steps WHERE seat = ?1 AND boot_id = ?2")?;
    let rows = statement.query_map(params![seat, boot_id], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let done: Vec<(String, u64)> = rows.collect::<Result<_, _>>()?;
    let uptime = |step: Step| done.iter().find(|(name, _)| name == step.as_str()).map(|(_, uptime)| *uptime);
    let steps = Step::ALL
        .into_iter()
        .filter_map(|step| uptime(step).map(|uptime_ms| StepTime { step, uptime_ms }))
        .collect();
    Ok(Some(NewestBoot {
        report: serde_json::from_str(&report).context("reading a stored report")?,
        usage: usage.map(|usage| serde_json::from_str(&usage)).transpose().context("reading stored usage")?,
        seen: time(seen)?,
        steps,
    }))
}

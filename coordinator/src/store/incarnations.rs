//! The table of the cluster's lives.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use kiln_protocol::config::{Incarnation, Snapshot};
use rusqlite::{OptionalExtension as _, Row, params};

use super::{Transaction, millis, sealed, time};
use crate::k3s::ClusterSecrets;
use crate::plan::ClusterFile;
use crate::registry::gate::Lease;

/// Room for the secrets of an incarnation as JSON.
const SECRETS_BYTES: usize = 64 * 1024;

/// The live incarnation.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    pub(crate) id: Incarnation,
    pub(crate) begun: Timestamp,
    pub(crate) plan: Arc<ClusterFile>,
    pub(crate) lease: Lease,
    /// The copy of a datastore that the lease's next holder begins with.
    pub(crate) restore: Option<Restore>,
    pub(crate) tokens: Tokens,
}

/// What has become of an incarnation's tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tokens {
    /// How often their rotation was asked for.
    pub(crate) serial: u64,
    /// Since when it is under way, if it is.
    pub(crate) asked: Option<Timestamp>,
    /// What the last try said.
    pub(crate) trouble: Option<String>,
    /// When it last came to its end.
    pub(crate) rotated: Option<Timestamp>,
}

impl Tokens {
    /// How often their rotation came to its end.
    pub(crate) fn done(&self) -> u64 {
        self.serial - u64::from(self.asked.is_some())
    }
}

/// A copy of a SQLite datastore, on the coordinator's host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Restore {
    pub(crate) path: PathBuf,
    pub(crate) snapshot: Snapshot,
}

/// Begins an incarnation; the database holds that no other is live.
pub(crate) fn begin(
    tx: &Transaction<'_>,
    plan: &ClusterFile,
    secrets: &ClusterSecrets,
    now: Timestamp,
) -> Result<Incarnation> {
    // No row is ever deleted, so this is the number that it gets.
    let id: u64 = tx.query_row("SELECT coalesce(max(id), 0) + 1 FROM incarnations", [], |row| row.get(0))?;
    let id = Incarnation(id);
    let sealed = seal(tx, id, secrets)?;
    changed(tx);
    tx.execute(
        "INSERT INTO incarnations (id, begun, cluster_file, secrets, lease_node) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![id.0, millis(now), plan.text(), sealed, plan.first_server().name.as_str()],
    )?;
    Ok(id)
}

fn seal(tx: &Transaction<'_>, id: Incarnation, secrets: &ClusterSecrets) -> Result<String> {
    // Large enough not to grow, which would leave copies behind.
    let mut text = zeroize::Zeroizing::new(Vec::with_capacity(SECRETS_BYTES));
    serde_json::to_writer(&mut *text, secrets).context("writing secrets")?;
    tx.unlock()?.seal(&sealed::place(id), &text)
}

/// The live incarnation has other secrets from now on.
pub(crate) fn set_secrets(tx: &Transaction<'_>, id: Incarnation, secrets: &ClusterSecrets) -> Result<()> {
    let sealed = seal(tx, id, secrets)?;
    changed(tx);
    tx.execute(
        "UPDATE incarnations SET secrets = ?2 WHERE id = ?1 AND ended IS NULL",
        params![id.0, sealed],
    )?;
    Ok(())
}

/// What has become of the live incarnation's tokens.
pub(crate) fn tokens(tx: &Transaction<'_>) -> Result<Tokens> {
    Ok(live(tx)?.map(|live| live.tokens).unwrap_or_default())
}

/// Keeps what has become of them.
pub(crate) fn set_tokens(tx: &Transaction<'_>, tokens: &Tokens) -> Result<()> {
    let Tokens { serial, asked, trouble, rotated } = tokens;
    changed(tx);
    tx.execute(
        "UPDATE incarnations SET tokens_serial = ?1, tokens_asked = ?2, tokens_trouble = ?3,
             tokens_rotated = ?4 WHERE ended IS NULL",
        params![serial, asked.map(millis), trouble, rotated.map(millis)],
    )?;
    Ok(())
}

/// Whoever writes the table says so first.
pub(super) fn changed(tx: &Transaction<'_>) {
    if let Some(recent) = tx.recent() {
        recent.changed();
    }
}

/// The live incarnation, without its secrets.
pub(crate) fn live(tx: &Transaction<'_>) -> Result<Option<Live>> {
    match tx.recent() {
        Some(recent) => recent.live(|| read_live(tx)),
        None => read_live(tx),
    }
}

fn read_live(tx: &Transaction<'_>) -> Result<Option<Live>> {
    tx.prepare_cached(
        "SELECT id, begun, cluster_file, lease_node, lease_generation, restore_path, restore_size,
             restore_sha256, tokens_serial, tokens_asked, tokens_trouble, tokens_rotated
         FROM incarnations WHERE ended IS NULL",
    )?
    .query_row([], |row| Ok(read(row)))
    .optional()?
    .transpose()
}

fn read(row: &Row<'_>) -> Result<Live> {
    let moment = |column| row.get::<_, Option<i64>>(column)?.map(time).transpose();
    let restore = match row.get::<_, Option<String>>("restore_path")? {
        None => None,
        Some(path) => {
            let sha256: String = row.get("restore_sha256")?;
            let sha256 = sha256.parse().context("reading the digest of a datastore's copy")?;
            Some(Restore { path: path.into(), snapshot: Snapshot { size: row.get("restore_size")?, sha256 } })
        }
    };
    let (file, node): (String, String) = (row.get("cluster_file")?, row.get("lease_node")?);
    Ok(Live {
        id: Incarnation(row.get("id")?),
        begun: time(row.get("begun")?)?,
        plan: Arc::new(parse(&file)?),
        lease: Lease {
            node: node.parse().context("reading the lease's holder")?,
            generation: row.get("lease_generation")?,
        },
        restore,
        tokens: Tokens {
            serial: row.get("tokens_serial")?,
            asked: moment("tokens_asked")?,
            trouble: row.get("tokens_trouble")?,
            rotated: moment("tokens_rotated")?,
        },
    })
}

/// The secrets of the live incarnation.
pub(crate) fn secrets(tx: &Transaction<'_>) -> Result<Option<Arc<ClusterSecrets>>> {
    match tx.recent() {
        Some(recent) => recent.secrets(|| read_secrets(tx)),
        None => Ok(read_secrets(tx)?.map(Arc::new)),
    }
}

fn read_secrets(tx: &Transaction<'_>) -> Result<Option<ClusterSecrets>> {
    let found: Option<(u64, String)> = tx
        .prepare_cached("SELECT id, secrets FROM incarnations WHERE ended IS NULL")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((id, sealed)) = found else { return Ok(None) };
    let text = tx.unlock()?.open(&sealed::place(Incarnation(id)), &sealed)?;
    serde_json::from_slice(&text).map(Some).context("reading stored secrets")
}

/// The cluster file that was last in force, live or not.
pub(crate) fn newest_file(tx: &Transaction<'_>) -> Result<Option<ClusterFile>> {
    let text: Option<String> = tx
        .query_row("SELECT cluster_file FROM incarnations ORDER BY id DESC LIMIT 1", [], |row| row.get(0))
        .optional()?;
    text.map(|text| parse(&text)).transpose()
}

/// The newest incarnation there ever was.
pub(crate) fn newest(tx: &Transaction<'_>) -> Result<Option<Incarnation>> {
    let newest: Option<u64> =
        tx.query_row("SELECT max(seq) FROM sqlite_sequence WHERE name = 'incarnations'", [], |row| {
            row.get(0)
        })?;
    Ok(newest.filter(|newest| *newest > 0).map(Incarnation))
}

fn parse(text: &str) -> Result<ClusterFile> {
    ClusterFile::parse(text).context("reading the stored cluster file")
}

/// Puts another cluster file in force.
pub(crate) fn set_file(tx: &Transaction<'_>, plan: &ClusterFile) -> Result<()> {
    changed(tx);
    tx.execute(
        "UPDATE incarnations SET cluster_file = ?1, lease_node = ?2,
             lease_generation = iif(lease_node = ?2, lease_generation, NULL)
         WHERE ended IS NULL",
        params![plan.text(), plan.first_server().name.as_str()],
    )?;
    Ok(())
}

/// Gives the lease to a generation of the node that may hold it.
pub(crate) fn set_lease(tx: &Transaction<'_>, generation: Option<u32>) -> Result<()> {
    changed(tx);
    tx.execute("UPDATE incarnations SET lease_generation = ?1 WHERE ended IS NULL", [generation])?;
    Ok(())
}

/// Says what datastore the lease's next holder begins with; none is an empty one.
pub(crate) fn set_restore(tx: &Transaction<'_>, restore: Option<&Restore>) -> Result<()> {
    changed(tx);
    let path = restore.map(|restore| restore.path.to_str().context("a path is not UTF-8")).transpose()?;
    let snapshot = restore.map(|restore| restore.snapshot);
    tx.execute(
        "UPDATE incarnations SET restore_path = ?1, restore_size = ?2, restore_sha256 = ?3 WHERE ended IS NULL",
        params![path, snapshot.map(|s| s.size), snapshot.map(|s| s.sha256.to_string())],
    )?;
    Ok(())
}

/// Ends the live incarnation and wipes its secrets.
pub(crate) fn end(tx: &Transaction<'_>, now: Timestamp) -> Result<()> {
    changed(tx);
    tx.execute(
        "UPDATE incarnations SET ended = ?1, secrets = NULL, restore_path = NULL WHERE ended IS NULL",
        [millis(now)],
    )?;
    Ok(())
}

//! A second engine, for tests: tables in memory, and a disk that holds what
//! was committed, counts its syncs and can be told to fail.

use std::io::Cursor;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Result, ensure};
use rusqlite::{Connection, MAIN_DB};

use super::engine::{self, Engine, Transaction, Undo, Work};
use super::recent::Recent;
use super::{epoch, schema, sqlite};
use crate::unlock::UnlockKey;

/// What outlives the process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk(Arc<Mutex<Platter>>);

#[derive(Debug, Default)]
struct Platter {
    image: Option<Vec<u8>>,
    writer: usize,
    syncs: usize,
    full: bool,
}

impl Disk {
    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().unwrap()
    }

    /// All that was committed.
    pub(crate) fn image(&self) -> Vec<u8> {
        self.platter().image.clone().unwrap_or_default()
    }

    /// From now on the disk holds this, whatever it held before.
    pub(crate) fn set_image(&self, image: &[u8]) {
        self.platter().image = Some(image.to_vec());
    }

    /// How often something was made durable.
    pub(super) fn syncs(&self) -> usize {
        self.platter().syncs
    }

    /// From now on, nothing more fits, or it does again.
    pub(super) fn set_full(&self, full: bool) {
        self.platter().full = full;
    }
}

/// The engine.
#[derive(Debug)]
pub(crate) struct Memory {
    connection: Connection,
    disk: Disk,
    writer: usize,
    unlock: UnlockKey,
    recent: Recent,
}

impl Memory {
    pub(crate) fn open(disk: &Disk) -> Result<Self> {
        let mut connection = Connection::open_in_memory()?;
        let mut platter = disk.platter();
        if let Some(image) = &platter.image {
            connection.deserialize_read_exact(MAIN_DB, Cursor::new(image), image.len(), false)?;
        }
        connection.execute_batch("PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF;")?;
        schema::migrate(&mut connection)?;
        platter.image = Some(connection.serialize(MAIN_DB)?.to_vec());
        platter.writer += 1;
        let writer = platter.writer;
        drop(platter);
        let (unlock, recent) = (UnlockKey::for_tests(), Recent::default());
        Ok(Self { connection, disk: disk.clone(), writer, unlock, recent })
    }

    fn check_writer(&self) -> Result<()> {
        ensure!(self.disk.platter().writer == self.writer, "another coordinator has opened this state");
        Ok(())
    }
}

impl Engine for Memory {
    fn begin(&mut self) -> Result<()> {
        self.check_writer()?;
        Ok(self.connection.execute_batch("BEGIN")?)
    }

    fn attempt(&mut self, undo: Undo, work: Work<'_>) -> Result<()> {
        engine::attempt(&self.connection, &self.unlock, &self.recent, undo, work)
    }

    fn commit(&mut self) -> Result<()> {
        let mut platter = self.disk.platter();
        if platter.full {
            drop(platter);
            self.rollback();
            let full = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
            return Err(rusqlite::Error::SqliteFailure(full, None).into());
        }
        epoch::write_down(&Transaction::on(&self.connection, None).remembering(&self.recent))?;
        self.connection.execute_batch("COMMIT")?;
        platter.image = Some(self.connection.serialize(MAIN_DB)?.to_vec());
        platter.syncs += 1;
        self.recent.committed();
        Ok(())
    }

    fn rollback(&mut self) {
        engine::rollback(&self.connection);
        self.recent.undone();
    }

    fn read(&mut self, look: &mut dyn FnMut(&Transaction<'_>)) -> Result<()> {
        self.check_writer()?;
        look(&Transaction::on(&self.connection, Some(&self.unlock)).remembering(&self.recent));
        Ok(())
    }

    fn backup(&mut self, file: &Path) -> Result<()> {
        self.check_writer()?;
        sqlite::copy(&self.connection, file)
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

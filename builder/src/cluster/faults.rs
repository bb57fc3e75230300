//! Crashes on demand, for the tests: a run is cut off at its n-th point, as by
//! `kill -9`, and what is left must be something the next run can finish.

use std::fs::File;
use std::io::Write as _;
use std::sync::{Arc, Mutex};

use anyhow::{Result, bail};

/// What a run dies of in a test. Nothing may clean up after it.
#[derive(Debug, thiserror::Error)]
#[error("killed at point {0}")]
pub(crate) struct Killed(u32);

/// Counts points and dies at one of them. Clones count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults(Arc<Mutex<Counter>>);

#[derive(Debug, Default)]
struct Counter {
    passed: u32,
    die_at: Option<u32>,
}

impl Faults {
    /// Dies at the n-th point, counted from 1.
    pub(crate) fn die_at(n: u32) -> Self {
        Self(Arc::new(Mutex::new(Counter { passed: 0, die_at: Some(n) })))
    }

    /// How many points were passed.
    pub(crate) fn passed(&self) -> u32 {
        self.0.lock().unwrap().passed
    }

    /// A point at which a run may be killed. Once dead it stays dead.
    pub(crate) fn point(&self) -> Result<()> {
        let mut counter = self.0.lock().unwrap();
        counter.passed += 1;
        match counter.die_at {
            Some(n) if counter.passed >= n => bail!(Killed(n)),
            _ => Ok(()),
        }
    }

    /// A point in the middle of a write: half a line is in the file.
    pub(crate) fn torn_write(&self, file: &mut File, line: &[u8]) -> Result<()> {
        self.point().inspect_err(|_| file.write_all(&line[..line.len() / 2]).unwrap())
    }
}

//! A sink's view of the store, on a disk that fails now and then and is pulled out at times.

use std::sync::{Arc, Mutex};

use super::{clock::locked, disk::Disk};
use crate::{
    deliver::{Backlog, BacklogError, Confirmation, Count, Lot, Progress, ReadLimits, Refusal, StoredBacklog},
    simulate::Random,
};

/// How often a call fails.
const ERROR_CHANCE: f64 = 0.000_5;

/// See the module.
pub struct FaultyBacklog {
    stored: StoredBacklog,
    disk: Arc<Mutex<Disk>>,
    /// `None` = it never fails.
    random: Option<Arc<Mutex<Random>>>,
}

impl FaultyBacklog {
    /// Of what `stored` sees; `random` says what fails.
    pub fn new(stored: StoredBacklog, disk: Arc<Mutex<Disk>>, random: Option<Arc<Mutex<Random>>>) -> Self {
        Self { stored, disk, random }
    }

    fn call(&self) -> Result<(), BacklogError> {
        let fails = self.random.as_ref().is_some_and(|random| locked(random).chance(ERROR_CHANCE));
        if fails { Err(BacklogError("input/output error, simulated".to_owned())) } else { Ok(()) }
    }
}

impl Backlog for FaultyBacklog {
    fn cursor(&mut self) -> Result<Progress, BacklogError> {
        self.stored.cursor()
    }

    fn read(&mut self, after: Progress, limits: ReadLimits) -> Result<Lot, BacklogError> {
        self.call()?;
        let lot = self.stored.read(after, limits)?;
        if !lot.parcel.is_empty() {
            // What is read is synced, and will be known outside.
            locked(&self.disk).seen();
        }
        Ok(lot)
    }

    /// The move is waited for, so that the order of commits follows from the seed; it is lost in a crash all the same.
    fn confirm(&mut self, done: Confirmation) -> Result<(), BacklogError> {
        self.call()?;
        self.stored.confirm_durably(done)?;
        locked(&self.disk).committed();
        self.call()
    }

    fn confirm_durably(&mut self, done: Confirmation) -> Result<(), BacklogError> {
        self.call()?;
        self.stored.confirm_durably(done)?;
        locked(&self.disk).seen();
        self.call()
    }

    fn catch_up(&mut self, cursor: Progress, through: Progress) -> Result<Count, BacklogError> {
        self.call()?;
        let held = self.stored.catch_up(cursor, through)?;
        let mut disk = locked(&self.disk);
        // Behind the moves, which are not waited for.
        let waited = disk.store().and_then(|store| store.writer().put_state("barrier", None).map_err(|error| error.to_string()));
        waited.map_err(BacklogError)?;
        disk.seen();
        Ok(held)
    }

    fn reject(&mut self, refusals: Vec<Refusal>) -> Result<(), BacklogError> {
        self.stored.reject(refusals)?;
        locked(&self.disk).seen();
        Ok(())
    }
}

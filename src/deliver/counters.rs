//! What a sink's loop lets the outside see: how it fares, since the start of the process.
//!
//! How many rows wait for a sink, and whether its balance (accepted = delivered + buffered + expired) holds, the store knows, across
//! restarts; it is not counted twice. All counters are behind one lock so that they are read in one piece; it is taken once or
//! twice a parcel and once a scrape, for nanoseconds, and never across an await.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::{Progress, breaker::Circuit};

/// Rows and results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Count {
    /// Rows of the inbox.
    pub rows: u64,
    /// Results of the outbox.
    pub results: u64,
}

impl Count {
    pub(super) fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.results += other.results;
    }

    pub(super) fn less(self, other: Self) -> Self {
        Self { rows: self.rows.saturating_sub(other.rows), results: self.results.saturating_sub(other.results) }
    }
}

/// The counters at one moment, as the status page shows them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Snapshot {
    /// Confirmed by the far end.
    pub delivered: Count,
    /// Refused for good; they are in the dead-letter lane.
    pub rejected: Count,
    /// Failed once, and not tried again because the sink delivers at most once.
    pub lost: Count,
    /// What the far end held before: an earlier attempt had got through. Part of `delivered`, but for what it told when it connected.
    pub repeated: u64,
    /// Confirmed parcels.
    pub parcels: u64,
    /// Failed attempts.
    pub retries: u64,
    /// The last row and result behind the cursor.
    pub cursor: Progress,
    /// Whether the last attempt succeeded.
    pub up: bool,
    /// What the circuit breaker does.
    pub circuit: Circuit,
    /// What the last failed attempt said; stays after it healed.
    pub last_error: String,
    /// How long the cursor stands although something waits, milliseconds; 0 = it gets on.
    pub standing_ms: u64,
    /// How often the loop was started again.
    pub restarts: u64,
}

/// The counters of one sink, shared between its loop and the status page.
#[derive(Debug, Default)]
pub struct SinkCounters(Mutex<Snapshot>);

impl SinkCounters {
    /// All of them, in one piece.
    pub fn snapshot(&self) -> Snapshot {
        self.lock().clone()
    }

    pub(super) fn delivered(&self, delivered: Count, rejected: Count, repeated: u64) {
        let mut now = self.lock();
        now.delivered.add(delivered);
        now.rejected.add(rejected);
        now.repeated += repeated;
        now.parcels += 1;
        now.up = true;
    }

    pub(super) fn repeated(&self, count: u64) {
        self.lock().repeated += count;
    }

    pub(super) fn lost(&self, lost: Count) {
        self.lock().lost.add(lost);
    }

    pub(super) fn failed(&self, error: &str) {
        let mut now = self.lock();
        now.retries += 1;
        now.up = false;
        error.clone_into(&mut now.last_error);
    }

    pub(super) fn restarted(&self, why: &str) {
        let mut now = self.lock();
        now.restarts += 1;
        now.up = false;
        why.clone_into(&mut now.last_error);
    }

    pub(super) fn standing_ms(&self, for_ms: u64) {
        self.lock().standing_ms = for_ms;
    }

    pub(super) fn connected(&self) {
        self.lock().up = true;
    }

    pub(super) fn circuit(&self, circuit: Circuit) {
        self.lock().circuit = circuit;
    }

    pub(super) fn cursor(&self, progress: Progress) {
        self.lock().cursor = progress;
    }

    fn lock(&self) -> MutexGuard<'_, Snapshot> {
        // Nothing panics while it holds this.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

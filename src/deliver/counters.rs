//! What a sink's loop lets the outside see.
//!
//! The ledger of the contract, in rows, balances at every moment that it can be read: `accepted = delivered + buffered + expired`. So
//! all counters are behind one lock and not atomics each; it is taken a few times a parcel and once a scrape, for nanoseconds, and
//! never across an await.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::{Progress, breaker::Circuit};

/// A sink's rows at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Ledger {
    /// Routed to the sink since the start, with what was waiting then.
    pub accepted: u64,
    /// Confirmed by the far end.
    pub delivered: u64,
    /// Waiting in the store (a gauge; rows of streams not routed here leave it, and `accepted`, when the loop passes them).
    pub buffered: u64,
    /// Given up: removed by retention, lost with a corrupt store, refused for good, or failed under `at_most_once`.
    pub expired: u64,
}

impl Ledger {
    /// Whether every accepted row is accounted for.
    pub const fn balances(self) -> bool {
        self.accepted == self.delivered + self.buffered + self.expired
    }
}

/// The counters at one moment, as the status page shows them; counted since the start of the process.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Snapshot {
    /// The rows of the ledger.
    pub ledger: Ledger,
    /// Rows refused for good; they are in the dead-letter lane and part of `expired`.
    pub rejected: u64,
    /// Rows and results that an earlier attempt had delivered already.
    pub repeated: u64,
    /// Results confirmed by the far end.
    pub results_delivered: u64,
    /// Results refused for good.
    pub results_rejected: u64,
    /// Results given up otherwise.
    pub results_expired: u64,
    /// Failed attempts.
    pub retries: u64,
    /// Confirmed parcels.
    pub parcels: u64,
    /// The last row behind the cursor.
    pub cursor_rows: u64,
    /// The last result behind the cursor.
    pub cursor_results: u64,
    /// Results between the cursor and the last committed result; for rows, see the ledger's `buffered`.
    pub lag_results: u64,
    /// Whether the last attempt succeeded.
    pub up: bool,
    /// What the circuit breaker does.
    pub circuit: Circuit,
    /// What the last failed attempt said; stays after it healed.
    pub last_error: String,
}

/// The counters of one sink, shared between its loop and the status page.
#[derive(Debug, Default)]
pub struct SinkCounters(Mutex<Snapshot>);

impl SinkCounters {
    /// The rows of the ledger.
    pub fn ledger(&self) -> Ledger {
        self.lock().ledger
    }

    /// Everything.
    pub fn snapshot(&self) -> Snapshot {
        self.lock().clone()
    }

    /// Rows are there to deliver.
    pub(super) fn offered(&self, rows: u64) {
        let ledger = &mut self.lock().ledger;
        ledger.accepted += rows;
        ledger.buffered += rows;
    }

    /// The loop passed rows of other sinks' streams.
    pub(super) fn passed_by(&self, rows: u64) {
        let ledger = &mut self.lock().ledger;
        ledger.accepted -= rows;
        ledger.buffered -= rows;
    }

    pub(super) fn delivered(&self, rows: u64, results: u64, repeated: u64) {
        let mut now = self.lock();
        now.ledger.delivered += rows;
        now.ledger.buffered -= rows;
        now.results_delivered += results;
        now.repeated += repeated;
        now.parcels += 1;
        now.up = true;
    }

    pub(super) fn expired(&self, rows: u64, results: u64) {
        let mut now = self.lock();
        now.ledger.expired += rows;
        now.ledger.buffered -= rows;
        now.results_expired += results;
    }

    pub(super) fn rejected(&self, rows: u64, results: u64) {
        let mut now = self.lock();
        now.ledger.expired += rows;
        now.ledger.buffered -= rows;
        now.rejected += rows;
        now.results_rejected += results;
    }

    pub(super) fn failed(&self, error: &str) {
        let mut now = self.lock();
        now.retries += 1;
        now.up = false;
        error.clone_into(&mut now.last_error);
    }

    pub(super) fn connected(&self) {
        self.lock().up = true;
    }

    pub(super) fn circuit(&self, circuit: Circuit) {
        self.lock().circuit = circuit;
    }

    pub(super) fn cursor(&self, progress: Progress, lag_results: u64) {
        let mut now = self.lock();
        now.cursor_rows = progress.rows.0;
        now.cursor_results = progress.results.0;
        now.lag_results = lag_results;
    }

    fn lock(&self) -> MutexGuard<'_, Snapshot> {
        // Nobody can panic while holding it half changed, but by an overflow that the loop's own counting excludes.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

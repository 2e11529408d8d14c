//! What a sink's loop lets the outside see, without a lock on its way.
//!
//! The ledger of the contract, in rows: `accepted = delivered + buffered + expired`. [`SinkCounters::ledger`] reads it as of the last time the
//! loop moved.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
};

use super::breaker::Circuit;

/// Counts since the start of the process; what was undelivered then counts as accepted.
#[derive(Debug, Default)]
pub struct SinkCounters {
    /// Rows that were there to deliver at the start, or came since, and are routed to this sink.
    accepted: AtomicU64,
    delivered: AtomicU64,
    buffered: AtomicU64,
    expired: AtomicU64,
    rejected: AtomicU64,
    repeated: AtomicU64,
    results_delivered: AtomicU64,
    results_rejected: AtomicU64,
    results_expired: AtomicU64,
    attempts_failed: AtomicU64,
    parcels: AtomicU64,
    cursor_rows: AtomicU64,
    cursor_results: AtomicU64,
    lag_results: AtomicU64,
    up: AtomicBool,
    circuit: AtomicU8,
    // Written at failures only, read by people: a lock costs nothing here.
    last_error: Mutex<String>,
}

/// A sink's rows at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Ledger {
    /// Routed to the sink since the start, with what was waiting then.
    pub accepted: u64,
    /// Confirmed by the far end.
    pub delivered: u64,
    /// Waiting in the store (a gauge; rows of streams not routed here leave it when the loop passes them).
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

impl SinkCounters {
    /// The rows of the ledger.
    pub fn ledger(&self) -> Ledger {
        Ledger {
            accepted: self.accepted.load(Relaxed),
            delivered: self.delivered.load(Relaxed),
            buffered: self.buffered.load(Relaxed),
            expired: self.expired.load(Relaxed),
        }
    }

    /// Everything, for the status page.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            ledger: self.ledger(),
            rejected: self.rejected.load(Relaxed),
            repeated: self.repeated.load(Relaxed),
            results_delivered: self.results_delivered.load(Relaxed),
            results_rejected: self.results_rejected.load(Relaxed),
            results_expired: self.results_expired.load(Relaxed),
            retries: self.attempts_failed.load(Relaxed),
            parcels: self.parcels.load(Relaxed),
            cursor_rows: self.cursor_rows.load(Relaxed),
            cursor_results: self.cursor_results.load(Relaxed),
            lag_rows: self.buffered.load(Relaxed),
            lag_results: self.lag_results.load(Relaxed),
            up: self.up.load(Relaxed),
            circuit: match self.circuit.load(Relaxed) {
                0 => Circuit::Closed.word(),
                1 => Circuit::Open.word(),
                _ => Circuit::HalfOpen.word(),
            },
            last_error: self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Rows are there to deliver.
    pub(super) fn offered(&self, rows: u64) {
        self.accepted.fetch_add(rows, Relaxed);
        self.buffered.fetch_add(rows, Relaxed);
    }

    /// The loop passed rows of other sinks' streams.
    pub(super) fn passed_by(&self, rows: u64) {
        self.accepted.fetch_sub(rows, Relaxed);
        self.buffered.fetch_sub(rows, Relaxed);
    }

    pub(super) fn delivered(&self, rows: u64, results: u64, repeated: u64) {
        self.delivered.fetch_add(rows, Relaxed);
        self.buffered.fetch_sub(rows, Relaxed);
        self.results_delivered.fetch_add(results, Relaxed);
        self.repeated.fetch_add(repeated, Relaxed);
        self.parcels.fetch_add(1, Relaxed);
        self.up.store(true, Relaxed);
    }

    pub(super) fn expired(&self, rows: u64, results: u64) {
        self.expired.fetch_add(rows, Relaxed);
        self.buffered.fetch_sub(rows, Relaxed);
        self.results_expired.fetch_add(results, Relaxed);
    }

    pub(super) fn rejected(&self, rows: u64, results: u64) {
        self.rejected.fetch_add(rows, Relaxed);
        self.results_rejected.fetch_add(results, Relaxed);
        self.expired(rows, 0);
    }

    pub(super) fn failed(&self, error: &str) {
        self.attempts_failed.fetch_add(1, Relaxed);
        self.up.store(false, Relaxed);
        error.clone_into(&mut self.last_error.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn connected(&self) {
        self.up.store(true, Relaxed);
    }

    pub(super) fn circuit(&self, circuit: Circuit) {
        self.circuit.store(circuit as u8, Relaxed);
    }

    pub(super) fn cursor(&self, progress: super::Progress, lag_results: u64) {
        self.cursor_rows.store(progress.rows.0, Relaxed);
        self.cursor_results.store(progress.results.0, Relaxed);
        self.lag_results.store(lag_results, Relaxed);
    }
}

/// The counters at one moment, as the status page shows them.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
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
    /// Results given up.
    pub results_expired: u64,
    /// Failed attempts.
    pub retries: u64,
    /// Confirmed parcels.
    pub parcels: u64,
    /// The last row behind the cursor.
    pub cursor_rows: u64,
    /// The last result behind the cursor.
    pub cursor_results: u64,
    /// Rows between the cursor and the last committed row.
    pub lag_rows: u64,
    /// Results between the cursor and the last committed result.
    pub lag_results: u64,
    /// Whether the last attempt succeeded.
    pub up: bool,
    /// `closed`, `open` or `half_open`.
    pub circuit: &'static str,
    /// What the last failed attempt said; stays after it healed.
    pub last_error: String,
}

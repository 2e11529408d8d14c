//! What the store says about itself: a plain snapshot, taken whenever somebody looks.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::error::StoreError;

/// How well the store is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(tag = "state", content = "reason", rename_all = "snake_case")]
pub enum StoreStatus {
    /// Everything is taken.
    #[default]
    Good,
    /// Appends are refused until there is room.
    Full(String),
    /// The disk refuses; it is tried again every second.
    Degraded(String),
    /// It has ended, and so must the process.
    Fatal(String),
}

/// A distribution of durations, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Quantiles {
    /// Half are faster.
    pub p50: f64,
    /// 99 % are faster.
    pub p99: f64,
    /// The slowest.
    pub max: f64,
}

/// Counts since the store was opened, and sizes now.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[allow(missing_docs)]
pub struct StoreCounters {
    pub status: StoreStatus,
    pub commits: u64,
    /// Commands in all commits; divided by `commits`, how well they group.
    pub commands: u64,
    pub records: u64,
    pub rows: u64,
    pub duplicates: u64,
    pub dead_letters: u64,
    pub outputs: u64,
    /// Results that the outbox already had.
    pub outputs_repeated: u64,
    /// Encoded bytes of rows.
    pub row_bytes: u64,
    /// Encoded bytes of results.
    pub output_bytes: u64,
    /// Rows removed because they were too old, delivered or not.
    pub rows_removed_by_age: u64,
    /// Rows removed because there was no room, delivered or not.
    pub rows_removed_for_room: u64,
    /// Records that were asked for and cannot be read, each once.
    pub records_damaged: u64,
    /// The first damage that was met since the start; the next start salvages.
    pub damage: Option<String>,
    /// Appends answered with "full" or "the disk refused".
    pub appends_refused: u64,
    /// Appends that found the queue full: their sources waited, or tried again.
    pub appends_held_back: u64,
    /// Inputs that the engine has to read back because it was behind.
    pub inputs_spilled: u64,
    /// Devices whose numbers were forgotten because there were too many.
    pub devices_forgotten: u64,
    /// The last record that is committed.
    pub committed: u64,
    /// The last record that the engine has answered for.
    pub engine_through: u64,
    /// From the start of a transaction to the end of its sync.
    pub commit_ms: Quantiles,
    /// From handing an append over to its acknowledgement.
    pub acknowledge_ms: Quantiles,
    /// Commands and bytes that wait.
    pub queued_commands: u64,
    pub queued_bytes: u64,
    /// Bytes in use, of the file, of its log, and allowed.
    pub bytes_used: u64,
    pub bytes_file: u64,
    pub bytes_log: u64,
    pub bytes_max: u64,
    /// Bytes that some sink has not confirmed.
    pub bytes_needed: u64,
    /// Whether sources that can wait shall.
    pub holds_sources: bool,
    /// Rows that are stored and get their time when the clock is set.
    pub rows_waiting_for_clock: u64,
    /// How long until the budget holds nothing but what some sink still needs, at the present rate; `None` without a rate.
    pub autonomy_seconds: Option<f64>,
}

/// Durations as they come.
pub struct Durations(Histogram<u64>);

impl Durations {
    /// From 1 µs to 1 minute with two digits.
    ///
    /// # Errors
    /// None with these bounds.
    pub fn new() -> Result<Self, StoreError> {
        Histogram::new_with_bounds(1, 60_000_000, 2).map(Self).map_err(|error| StoreError::Refused(error.to_string()))
    }

    /// Adds one; longer than a minute counts as a minute.
    pub fn add(&mut self, duration: Duration) {
        self.0.saturating_record(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    /// What they are like.
    pub fn quantiles(&self) -> Quantiles {
        let ms = |us: u64| us as f64 / 1e3;
        if self.0.is_empty() {
            return Quantiles::default();
        }
        Quantiles { p50: ms(self.0.value_at_quantile(0.5)), p99: ms(self.0.value_at_quantile(0.99)), max: ms(self.0.max()) }
    }
}

//! Counters and health as plain structs: what `GET /status` publishes and the terminal UI shows.
//!
//! The composition root fills a [`Snapshot`] a few times a second from what sources, store, engine and sinks count, and hands it
//! to the API through a watch channel; nobody computes anything on a request. The same struct reads back from JSON, so that the
//! terminal UI in another process is a client like any other.
//!
//! **The ledger.** Rows are accounted for twice: at a source `received = accepted + rejected + duplicate + shed`, at a sink
//! `accepted = delivered + buffered + expired`. [`SourceRows::balance`] and [`SinkRows::balance`] are zero at every moment; anything
//! else is a fault of the program and raises an alarm.

pub mod health;
pub mod metrics;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{Severity, Timestamp};
use health::Assessment;

/// Everything there is to see, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The appliance's id.
    pub appliance: String,
    /// The program's version.
    pub version: String,
    /// When this was taken.
    pub time: Timestamp,
    /// Since when the process runs.
    pub started: Timestamp,
    /// `ok`, `degraded` or `stopping`.
    pub state: String,
    /// What is wrong, in words; empty when all is well.
    pub problems: Vec<String>,
    /// What processor, memory, disk, refused rows and latency come to.
    #[serde(default)]
    pub health: Assessment,
    /// By source.
    pub sources: Vec<SourceStatus>,
    /// By stream.
    pub streams: Vec<StreamStatus>,
    /// By pipeline.
    pub pipelines: Vec<PipelineStatus>,
    /// By chart and key, the ones that changed last first.
    pub charts: Vec<ChartStatus>,
    /// By grid.
    pub grids: Vec<GridStatus>,
    /// The newest alerts, newest first.
    pub alerts: Vec<AlertStatus>,
    /// By sink.
    pub sinks: Vec<SinkStatus>,
    /// The store.
    pub store: StoreStatus,
    /// The process.
    pub process: ProcessStatus,
}

/// Rows at a source, as totals since the process started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRows {
    /// Decoded or refused: everything that came in.
    pub received: u64,
    /// Durable in the inbox.
    pub accepted: u64,
    /// In the dead-letter lane.
    pub rejected: u64,
    /// Already known, by device, boot and number.
    pub duplicate: u64,
    /// Given up by policy because the store was full.
    pub shed: u64,
}

impl SourceRows {
    /// Rows unaccounted for; zero unless the program is wrong (rows in flight are not counted as received yet).
    pub fn balance(&self) -> i64 {
        self.received as i64 - self.accepted as i64 - self.rejected as i64 - self.duplicate as i64 - self.shed as i64
    }
}

/// A source and how it does.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// The configured id.
    pub id: String,
    /// `serial`, `mqtt`, `kafka` or `file`.
    pub kind: String,
    /// `connecting`, `up` or `down`.
    pub state: String,
    /// Why it is not up, in words.
    pub detail: String,
    /// The ledger.
    pub rows: SourceRows,
}

/// A stream and its newest values.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StreamStatus {
    /// The configured id.
    pub id: String,
    /// Rows accepted since the start.
    pub rows: u64,
    /// Rows in the last second or so.
    pub rows_per_second: f64,
    /// Newest event time.
    pub newest: Option<Timestamp>,
    /// Nothing earlier is expected.
    pub watermark: Option<Timestamp>,
    /// By partition.
    pub partitions: Vec<PartitionStatus>,
    /// Rows in the ring.
    pub ring_rows: u64,
    /// Room in the ring.
    pub ring_capacity: u64,
    /// Rows that the ring has overwritten.
    pub ring_evicted: u64,
    /// By signal.
    pub signals: Vec<SignalStatus>,
}

/// A source partition of a stream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PartitionStatus {
    /// Its name.
    pub partition: String,
    /// Its watermark.
    pub watermark: Option<Timestamp>,
    /// Whether it is left out of the minimum.
    pub idle: bool,
}

impl PartitionStatus {
    /// How far the watermark is behind `now`; none before the first row and after the last one.
    pub fn lag_seconds(&self, now: Timestamp) -> Option<f64> {
        let watermark = self.watermark.filter(|watermark| (Timestamp::MIN < *watermark) && (*watermark < Timestamp::MAX))?;
        Some(now.since(watermark) as f64 / 1e9)
    }
}

/// A signal's recent past.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SignalStatus {
    /// The name.
    pub name: String,
    /// The unit.
    pub unit: String,
    /// The newest value.
    pub latest: Option<f64>,
    /// Over the stream's default sliding window.
    pub mean: Option<f64>,
    /// Over the stream's default sliding window.
    pub min: Option<f64>,
    /// Over the stream's default sliding window.
    pub max: Option<f64>,
    /// The last values, oldest first, thinned to a screen's width.
    pub recent: Vec<f64>,
}

/// A pipeline's counters.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PipelineStatus {
    /// The configured id.
    pub id: String,
    /// Its stream.
    pub stream: String,
    /// Whether it is fed.
    pub running: bool,
    /// Rows that went through.
    pub processed: u64,
    /// Rows that the filter left out.
    pub filtered: u64,
    /// Rows that came too late for a window.
    pub late: u64,
    /// Rows that a checkpoint marked.
    pub flagged: u64,
    /// Rows that a checkpoint rejected.
    pub rejected: u64,
    /// Rows an expression failed on.
    pub failed: u64,
    /// Windows open now.
    pub active_windows: u64,
    /// Results so far.
    pub results: u64,
    /// Checkpoints: name → (passed, failed).
    pub checkpoints: BTreeMap<String, (u64, u64)>,
    /// Its windows.
    #[serde(default)]
    pub windows: Vec<WindowStatus>,
    /// What went through each operator since the program started, in the order of the rows.
    #[serde(default)]
    pub operators: Vec<OperatorStatus>,
    /// The last row's arrival.
    pub last_activity: Option<Timestamp>,
}

/// A window specification of a pipeline, and what came of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WindowStatus {
    /// The configured id.
    pub id: String,
    /// `tumbling`, `sliding` or `session`.
    #[serde(rename = "type")]
    pub kind: String,
    /// From the start of a window to its end, in milliseconds; none for sessions.
    pub size_ms: Option<f64>,
    /// From one start to the next, in milliseconds; of sliding windows.
    pub slide_ms: Option<f64>,
    /// The silence that ends a session, in milliseconds.
    pub gap_ms: Option<f64>,
    /// Windows (with keys) open now.
    pub open: u64,
    /// Firings so far, over restarts.
    pub fired: u64,
    /// Rows that came too late, over restarts.
    pub late: u64,
}

/// Rows through one operator of a pipeline.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OperatorStatus {
    /// `filter`, `derive`, `checkpoint`, `window`, `join`, `pattern`, `chart`, `threshold` or `voxels`.
    pub kind: String,
    /// The configured id.
    pub id: String,
    /// Rows that it was given.
    #[serde(rename = "in")]
    pub rows_in: u64,
    /// Rows that it passed on, or results that it put out.
    pub out: u64,
    /// Rows that it has no answer for; of a checkpoint, rows that it rejected.
    pub failed: u64,
    /// Time that it took, in milliseconds.
    pub time_ms: f64,
}

/// One control chart and key.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChartStatus {
    /// The configured id.
    pub id: String,
    /// Its pipeline.
    pub pipeline: String,
    /// The group as `tag=value,…`.
    pub key: String,
    /// `xbar_r`, `i_mr`, …
    pub kind: String,
    /// The charted signal.
    pub signal: String,
    /// 1 while the baseline is collected, 2 after.
    pub phase: u8,
    /// Center line.
    pub center: Option<f64>,
    /// Lower limit.
    pub lcl: Option<f64>,
    /// Upper limit.
    pub ucl: Option<f64>,
    /// What is wrong with the chart itself, in words.
    pub status: Option<String>,
    /// The newest points, oldest first.
    pub points: Vec<ChartPoint>,
    /// Points so far.
    pub count: u64,
    /// Points with a violation so far.
    pub violations: u64,
}

/// One plotted point.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChartPoint {
    /// From 0.
    pub index: u64,
    /// The statistic; none for a missing point.
    pub value: Option<f64>,
    /// The rules whose pattern ends here.
    pub violations: Vec<String>,
}

/// A voxel grid's counters.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GridStatus {
    /// The configured id.
    pub id: String,
    /// Counts up with every update.
    pub version: u64,
    /// Samples taken in.
    pub samples: u64,
    /// Samples outside the box.
    pub outside: u64,
    /// Tiles of voxels in memory.
    pub tiles: u64,
    /// Memory.
    pub bytes: u64,
    /// The highest layer so far.
    #[serde(default)]
    pub layer: Option<i32>,
    /// What finished layers take in the store.
    #[serde(default)]
    pub stored_bytes: u64,
    /// Samples for which there was no memory.
    #[serde(default)]
    pub full: u64,
}

/// An alert as people see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AlertStatus {
    /// The result's id.
    pub id: String,
    /// The ids under which it was raised again, one severity higher each time.
    #[serde(default)]
    pub escalations: Vec<String>,
    /// How much it matters by now.
    pub severity: Severity,
    /// What raised it.
    pub source: String,
    /// The pipeline; `appliance` for streams and the appliance itself.
    pub pipeline: String,
    /// Event time.
    pub time: Timestamp,
    /// What happened, to what, and what to do.
    pub message: String,
    /// The figures behind it.
    #[serde(default)]
    pub evidence: serde_json::Value,
    /// Who took note, and what they said.
    pub acknowledged: Option<Acknowledgement>,
}

/// Somebody took note of an alert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledgement {
    /// Who.
    pub name: String,
    /// What they said.
    #[serde(default)]
    pub note: String,
    /// When.
    pub time: Timestamp,
}

/// Rows at a sink since the store was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkRows {
    /// In the inbox, for this sink.
    pub accepted: u64,
    /// Confirmed by the far end.
    pub delivered: u64,
    /// Waiting.
    pub buffered: u64,
    /// Removed by retention before they could be delivered.
    pub expired: u64,
}

impl SinkRows {
    /// Rows unaccounted for; zero unless the program is wrong.
    pub fn balance(&self) -> i64 {
        self.accepted as i64 - self.delivered as i64 - self.buffered as i64 - self.expired as i64
    }
}

/// A sink and how it does.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SinkStatus {
    /// The configured id.
    pub id: String,
    /// `redis`, `mongodb`, `kafka`, `file` or `console`.
    pub kind: String,
    /// Whether the last attempt worked.
    pub up: bool,
    /// The last failure, in words.
    pub detail: String,
    /// The ledger.
    pub rows: SinkRows,
    /// Results waiting.
    pub results_buffered: u64,
    /// Rows that were given up because the sink delivers at most once, since the start. They count as delivered above.
    #[serde(default)]
    pub rows_lost: u64,
    /// Attempts that failed.
    pub retries: u64,
    /// How often it was started again because it ended or got nowhere.
    #[serde(default)]
    pub restarts: u64,
    /// How long its cursor stands although something waits, seconds; 0 = it gets on.
    #[serde(default)]
    pub stalled_seconds: u64,
}

/// The store's figures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Where.
    pub path: String,
    /// On disk, all files.
    pub bytes: u64,
    /// The budget.
    pub bytes_max: u64,
    /// Newest row.
    pub rows: u64,
    /// Newest result.
    pub results: u64,
    /// Rejected rows kept.
    pub dead_letters: u64,
    /// What some sink has not fetched yet.
    #[serde(default)]
    pub bytes_needed: u64,
    /// Whether sources that can wait are not read, for want of room.
    #[serde(default)]
    pub holds_sources: bool,
    /// How often a source had to wait for room in the queue or the budget, since the start.
    #[serde(default)]
    pub source_waits: u64,
    /// Rows removed because they were too old, since the start.
    #[serde(default)]
    pub rows_removed_by_age: u64,
    /// Rows removed because there was no room, since the start.
    #[serde(default)]
    pub rows_removed_for_room: u64,
    /// Rows that are stored and go on once the clock is set, with their true time.
    #[serde(default)]
    pub rows_waiting_for_clock: u64,
    /// How long the budget lasts at this rate; none when nothing comes in.
    pub autonomy_seconds: Option<f64>,
    /// Commits so far.
    pub commits: u64,
    /// Time of a commit.
    pub commit_ms_p50: f64,
    /// Time of a commit.
    pub commit_ms_p99: f64,
    /// The engine's place in the inbox at the last checkpoint.
    pub checkpoint_seq: u64,
}

/// The process's figures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// Processor time used.
    pub cpu_seconds: f64,
    /// Share of one core since the last snapshot.
    pub cpu_share: f64,
    /// Resident memory.
    pub rss_bytes: u64,
    /// From decoding to the commit of the engine step.
    pub latency_ms_p50: f64,
    /// From decoding to the commit of the engine step.
    pub latency_ms_p99: f64,
    /// From decoding to the commit of the engine step.
    pub latency_ms_max: f64,
    /// Steps by duration, cumulative, at the bounds of [`DURATION_BOUNDS_SECONDS`], then all.
    pub step_seconds_buckets: Vec<u64>,
    /// Sum of all step durations.
    pub step_seconds_sum: f64,
    /// Checkpoints by how long they held the engine up, as the steps.
    #[serde(default)]
    pub checkpoint_seconds_buckets: Vec<u64>,
    /// Sum of all checkpoints' durations.
    #[serde(default)]
    pub checkpoint_seconds_sum: f64,
    /// The longest that a checkpoint held the engine up.
    #[serde(default)]
    pub checkpoint_ms_max: f64,
}

/// Upper bounds of the buckets of `stream_processing_duration_seconds` and `qadf_checkpoint_duration_seconds`.
pub const DURATION_BOUNDS_SECONDS: [f64; 12] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unaccounted_row_shows_in_the_balance() {
        let mut rows = SourceRows { received: 10, accepted: 6, rejected: 2, duplicate: 1, shed: 1 };
        assert_eq!(rows.balance(), 0);
        rows.accepted -= 1;
        assert_eq!(rows.balance(), 1);
    }

    #[test]
    fn a_snapshot_reads_back_from_its_json() {
        let snapshot = Snapshot {
            appliance: "a".into(),
            alerts: vec![AlertStatus {
                id: "x".into(),
                escalations: Vec::new(),
                evidence: serde_json::Value::Null,
                severity: Severity::High,
                source: "s".into(),
                pipeline: "p".into(),
                time: Timestamp(1),
                message: "m".into(),
                acknowledged: None,
            }],
            ..Snapshot::default()
        };
        let text = serde_json::to_string(&snapshot).unwrap();
        assert_eq!(serde_json::from_str::<Snapshot>(&text).unwrap(), snapshot);
    }
}

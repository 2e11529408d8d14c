//! What `demo --headless` and `bench --json` print.

use std::path::Path;

use serde::Serialize;

use crate::{
    appliance::{Summary, Usage, file_system},
    status::SourceRows,
};

/// One object, as the contract has it.
#[derive(Debug, Clone, Serialize)]
pub struct Totals {
    seconds: f64,
    rows_accepted: u64,
    rows_processed: u64,
    rows_per_second: f64,
    rows_rejected: u64,
    rows_duplicate: u64,
    rows_late: u64,
    rows_shed: u64,
    rows_lost: u64,
    alerts: u64,
    results: u64,
    cpu_seconds: f64,
    cpu_share: f64,
    rss_bytes_max: u64,
    store_bytes: u64,
    file_system: String,
    latency_ms: Latency,
    checkpoint_ms: Latency,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Latency {
    p50: f64,
    p99: f64,
    max: f64,
}

/// What only the caller knows.
#[derive(Debug, Clone, Copy)]
pub struct Given {
    /// What went into the appliance.
    pub rows: SourceRows,
    /// Rows that never reached it although they should have.
    pub missing: u64,
    /// Processor time before the measurement.
    pub cpu_seconds_before: f64,
}

impl Totals {
    /// Puts the object together after the appliance has stopped.
    pub fn new(summary: &Summary, given: Given, data_dir: &Path) -> Self {
        let figures = &summary.figures;
        let seconds = figures.first_to_last.map_or(0.0, |(first, last)| last.duration_since(first).as_secs_f64());
        let cpu_seconds = Usage::now().cpu_seconds - given.cpu_seconds_before;
        let pipelines = &summary.snapshot.pipelines;
        let unprocessed = given.rows.accepted.saturating_sub(figures.rows_processed);
        let per_second = |count: f64| if seconds > 0.0 { count / seconds } else { 0.0 };
        Self {
            seconds,
            rows_accepted: given.rows.accepted,
            rows_processed: figures.rows_processed,
            rows_per_second: per_second(figures.rows_processed as f64),
            rows_rejected: given.rows.rejected,
            rows_duplicate: given.rows.duplicate,
            rows_late: pipelines.iter().map(|pipeline| pipeline.late).sum(),
            rows_shed: given.rows.shed,
            rows_lost: given.missing + unprocessed,
            alerts: summary.snapshot.alerts.len() as u64,
            results: pipelines.iter().map(|pipeline| pipeline.results).sum(),
            cpu_seconds,
            cpu_share: per_second(cpu_seconds),
            rss_bytes_max: Usage::now().rss_bytes_max,
            store_bytes: summary.snapshot.store.bytes,
            file_system: file_system(data_dir),
            latency_ms: Latency { p50: figures.latency_ms_p50, p99: figures.latency_ms_p99, max: figures.latency_ms_max },
            checkpoint_ms: Latency {
                p50: figures.checkpoint_ms_p50,
                p99: figures.checkpoint_ms_p99,
                max: figures.checkpoint_ms_max,
            },
        }
    }

    /// One line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// For people.
    pub fn to_text(&self) -> String {
        format!(
            "{} rows in {:.2} s: {:.0} rows/s; lost {}, shed {}, rejected {}, late {}\n\
             latency p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms; checkpoints hold the engine up for {:.2}, {:.2}, {:.2} ms\n\
             processor {:.2} s ({:.0} % of one core), memory {:.0} MB, store {:.1} MB on {}, {} results, {} alerts",
            self.rows_processed,
            self.seconds,
            self.rows_per_second,
            self.rows_lost,
            self.rows_shed,
            self.rows_rejected,
            self.rows_late,
            self.latency_ms.p50,
            self.latency_ms.p99,
            self.latency_ms.max,
            self.checkpoint_ms.p50,
            self.checkpoint_ms.p99,
            self.checkpoint_ms.max,
            self.cpu_seconds,
            self.cpu_share * 100.0,
            self.rss_bytes_max as f64 / 1e6,
            self.store_bytes as f64 / 1e6,
            self.file_system,
            self.results,
            self.alerts,
        )
    }
}

//! The snapshot as Prometheus text (exposition format 0.0.4); names and labels are those of the contract.

use std::fmt::Write;

use super::{DURATION_BOUNDS_SECONDS, Snapshot};

/// The whole page at `/metrics`.
pub fn render(snapshot: &Snapshot) -> String {
    let mut page = Page::default();
    pipelines(&mut page, snapshot);
    durations(&mut page, snapshot);
    watermarks(&mut page, snapshot);
    ledger(&mut page, snapshot);
    store(&mut page, snapshot);
    page.text
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.text.push_str(name);
        if !labels.is_empty() {
            self.text.push('{');
            for (at, (label, text)) in labels.iter().enumerate() {
                let comma = if at == 0 { "" } else { "," };
                let _ = write!(self.text, "{comma}{label}=\"{}\"", escape(text));
            }
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn pipelines(page: &mut Page, snapshot: &Snapshot) {
    page.family("stream_events_processed_total", "counter", "Rows that a pipeline has processed.");
    for pipeline in &snapshot.pipelines {
        page.sample("stream_events_processed_total", &[("pipeline_id", &pipeline.id)], pipeline.processed as f64);
    }
    page.family("stream_active_windows", "gauge", "Windows open now.");
    for pipeline in &snapshot.pipelines {
        page.sample("stream_active_windows", &[("pipeline_id", &pipeline.id)], pipeline.active_windows as f64);
    }
    let name = "stream_windows_completed_total";
    page.family(name, "counter", "Windows that have fired, each firing counted.");
    for pipeline in &snapshot.pipelines {
        for window in &pipeline.windows {
            let labels = [("pipeline_id", &*pipeline.id), ("window_type", &*window.kind), ("window", &*window.id)];
            page.sample(name, &labels, window.fired as f64);
        }
    }
    page.family("qadf_pipeline_rows_total", "counter", "Rows of a pipeline outside the balance, by what became of them.");
    for pipeline in &snapshot.pipelines {
        let states =
            [("late", pipeline.late), ("filtered", pipeline.filtered), ("flagged", pipeline.flagged), ("failed", pipeline.failed)];
        for (state, rows) in states {
            page.sample("qadf_pipeline_rows_total", &[("pipeline_id", &pipeline.id), ("state", state)], rows as f64);
        }
    }
    operators(page, snapshot);
}

fn operators(page: &mut Page, snapshot: &Snapshot) {
    let all = || snapshot.pipelines.iter().flat_map(|pipeline| pipeline.operators.iter().map(|one| (&*pipeline.id, one)));
    page.family("qadf_operator_rows_total", "counter", "Rows into an operator of a pipeline, out of it, and those it failed on.");
    for (id, one) in all() {
        for (direction, rows) in [("in", one.rows_in), ("out", one.out), ("failed", one.failed)] {
            let labels = [("pipeline_id", id), ("kind", &*one.kind), ("operator", &*one.id), ("direction", direction)];
            page.sample("qadf_operator_rows_total", &labels, rows as f64);
        }
    }
    page.family("qadf_operator_seconds_total", "counter", "Time that an operator of a pipeline took.");
    for (id, one) in all() {
        let labels = [("pipeline_id", id), ("kind", &*one.kind), ("operator", &*one.id)];
        page.sample("qadf_operator_seconds_total", &labels, one.time_ms / 1e3);
    }
}

fn durations(page: &mut Page, snapshot: &Snapshot) {
    let process = &snapshot.process;
    let name = "stream_processing_duration_seconds";
    histogram(page, name, "Time of one step of the engine.", &process.step_seconds_buckets, process.step_seconds_sum);
    let (buckets, sum) = (&process.checkpoint_seconds_buckets, process.checkpoint_seconds_sum);
    histogram(page, "qadf_checkpoint_duration_seconds", "Time that a checkpoint held the engine up.", buckets, sum);
}

/// `buckets` are cumulative, the last one is all.
fn histogram(page: &mut Page, name: &str, help: &str, buckets: &[u64], sum: f64) {
    page.family(name, "histogram", help);
    let all = buckets.last().copied().unwrap_or(0);
    for (bound, count) in DURATION_BOUNDS_SECONDS.iter().zip(buckets) {
        page.sample(&format!("{name}_bucket"), &[("le", &bound.to_string())], *count as f64);
    }
    page.sample(&format!("{name}_bucket"), &[("le", "+Inf")], all as f64);
    page.sample(&format!("{name}_sum"), &[], sum);
    page.sample(&format!("{name}_count"), &[], all as f64);
}

fn watermarks(page: &mut Page, snapshot: &Snapshot) {
    let name = "stream_watermark_lag_seconds";
    page.family(name, "gauge", "How far the watermark is behind the clock.");
    for stream in &snapshot.streams {
        for partition in &stream.partitions {
            if let Some(lag) = partition.lag_seconds(snapshot.time) {
                page.sample(name, &[("stream", &stream.id), ("partition", &partition.partition)], lag);
            }
        }
    }
}

fn ledger(page: &mut Page, snapshot: &Snapshot) {
    page.family("qadf_rows_total", "counter", "Rows at a source or sink, by what became of them.");
    for source in &snapshot.sources {
        let rows = &source.rows;
        let states = [
            ("received", rows.received),
            ("accepted", rows.accepted),
            ("rejected", rows.rejected),
            ("duplicate", rows.duplicate),
            ("shed", rows.shed),
        ];
        for (state, count) in states {
            page.sample("qadf_rows_total", &[("source", &source.id), ("state", state)], count as f64);
        }
    }
    for sink in &snapshot.sinks {
        let rows = &sink.rows;
        let states =
            [("accepted", rows.accepted), ("delivered", rows.delivered), ("buffered", rows.buffered), ("expired", rows.expired)];
        for (state, count) in states {
            page.sample("qadf_rows_total", &[("sink", &sink.id), ("state", state)], count as f64);
        }
    }
    page.family("qadf_sink_lag_rows", "gauge", "Rows waiting for a sink.");
    for sink in &snapshot.sinks {
        page.sample("qadf_sink_lag_rows", &[("sink", &sink.id)], sink.rows.buffered as f64);
    }
    page.family("qadf_sink_stalled_seconds", "gauge", "How long a sink's cursor stands although something waits.");
    for sink in &snapshot.sinks {
        page.sample("qadf_sink_stalled_seconds", &[("sink", &sink.id)], sink.stalled_seconds as f64);
    }
    page.family("qadf_sink_restarts_total", "counter", "How often a sink was started again.");
    for sink in &snapshot.sinks {
        page.sample("qadf_sink_restarts_total", &[("sink", &sink.id)], sink.restarts as f64);
    }
    page.family("qadf_sink_lost_rows_total", "counter", "Rows given up because the sink delivers at most once.");
    for sink in &snapshot.sinks {
        page.sample("qadf_sink_lost_rows_total", &[("sink", &sink.id)], sink.rows_lost as f64);
    }
    page.family("qadf_sink_up", "gauge", "1 if the sink's last attempt worked.");
    for sink in &snapshot.sinks {
        page.sample("qadf_sink_up", &[("sink", &sink.id)], f64::from(u8::from(sink.up)));
    }
    page.family("qadf_source_up", "gauge", "1 if the source is connected.");
    for source in &snapshot.sources {
        page.sample("qadf_source_up", &[("source", &source.id)], f64::from(u8::from(source.state == "up")));
    }
}

fn store(page: &mut Page, snapshot: &Snapshot) {
    page.family("qadf_store_bytes", "gauge", "The store's files on disk.");
    page.sample("qadf_store_bytes", &[], snapshot.store.bytes as f64);
    page.family("qadf_store_needed_bytes", "gauge", "What some sink has not fetched yet.");
    page.sample("qadf_store_needed_bytes", &[], snapshot.store.bytes_needed as f64);
    page.family("qadf_store_rows_removed_total", "counter", "Rows removed from the store, delivered or not.");
    for (reason, rows) in [("age", snapshot.store.rows_removed_by_age), ("room", snapshot.store.rows_removed_for_room)] {
        page.sample("qadf_store_rows_removed_total", &[("reason", reason)], rows as f64);
    }
    page.family("qadf_store_clock_waiting_rows", "gauge", "Rows that wait in the store for the clock to be set.");
    page.sample("qadf_store_clock_waiting_rows", &[], snapshot.store.rows_waiting_for_clock as f64);
    page.family("qadf_autonomy_seconds", "gauge", "How long the disk budget lasts at this rate.");
    page.sample("qadf_autonomy_seconds", &[], snapshot.store.autonomy_seconds.unwrap_or(f64::INFINITY));
    page.family("qadf_backpressure_total", "counter", "How often a source had to wait for room in the store.");
    page.sample("qadf_backpressure_total", &[], snapshot.store.source_waits as f64);
    page.family("process_cpu_seconds_total", "counter", "Processor time used.");
    page.sample("process_cpu_seconds_total", &[], snapshot.process.cpu_seconds);
    page.family("process_resident_memory_bytes", "gauge", "Resident memory.");
    page.sample("process_resident_memory_bytes", &[], snapshot.process.rss_bytes as f64);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{SinkStatus, SourceRows, SourceStatus};

    #[test]
    fn the_ledger_is_on_the_page_with_its_labels() {
        let snapshot = Snapshot {
            sources: vec![SourceStatus {
                id: "a\"b".into(),
                rows: SourceRows { received: 3, accepted: 2, rejected: 1, ..SourceRows::default() },
                ..SourceStatus::default()
            }],
            sinks: vec![SinkStatus { id: "plant".into(), up: true, ..SinkStatus::default() }],
            ..Snapshot::default()
        };
        let page = render(&snapshot);
        assert!(page.contains("qadf_rows_total{source=\"a\\\"b\",state=\"rejected\"} 1\n"), "{page}");
        assert!(page.contains("qadf_sink_up{sink=\"plant\"} 1\n"), "{page}");
        assert!(page.contains("stream_processing_duration_seconds_bucket{le=\"+Inf\"} 0\n"), "{page}");
        assert!(page.contains("qadf_checkpoint_duration_seconds_count 0\n"), "{page}");
        assert!(page.contains("qadf_backpressure_total 0\n"), "{page}");
        assert!(page.lines().all(|line| line.starts_with('#') || line.split(' ').count() == 2), "{page}");
    }
}

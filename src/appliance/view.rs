//! The engine's part of the status snapshot, taken by its own thread.

use std::time::Duration;

use crate::{
    dataflow::{SpreadWindows, WindowKind},
    engine::{Engine, OperatorCounters, Pipeline, StreamLane, key_words},
    model::Timestamp,
    quality::alert::{Filter, Record},
    spc::ChartView,
    status::{
        Acknowledgement, AlertStatus, ChartPoint, ChartStatus, GridStatus, OperatorStatus, PartitionStatus, PipelineStatus,
        SignalStatus, StreamStatus, WindowStatus,
    },
};

/// Between two snapshots.
pub(super) const INTERVAL: Duration = Duration::from_millis(250);
/// Alerts that are shown.
const ALERTS_MAX: usize = 200;
/// Keys of charts that are shown.
const CHARTS_MAX: usize = 64;
/// Newest values of a signal that are shown.
const RECENT_VALUES: usize = 120;

/// The engine as the status page shows it.
#[derive(Debug, Clone, Default)]
pub(super) struct EngineView {
    pub streams: Vec<StreamStatus>,
    pub pipelines: Vec<PipelineStatus>,
    pub charts: Vec<ChartStatus>,
    pub grids: Vec<GridStatus>,
    pub alerts: Vec<AlertStatus>,
    /// Streams that are silent or stand still, in words.
    pub silent: Vec<String>,
}

impl EngineView {
    pub fn of(engine: &Engine) -> Self {
        let mut charts = Vec::new();
        for pipeline in engine.pipelines() {
            for chart in &pipeline.charts {
                let left = CHARTS_MAX.saturating_sub(charts.len());
                let violations = chart.counters().violations;
                charts.extend(chart.views().take(left).map(|view| chart_status(pipeline, view, violations)));
            }
        }
        Self {
            streams: engine.streams().iter().map(stream_status).collect(),
            pipelines: engine.pipelines().iter().map(pipeline_status).collect(),
            charts,
            grids: engine.grids().map(|lane| grid_status(&lane.id, &lane.grid)).collect(),
            alerts: engine.alerts().history(&Filter::default()).take(ALERTS_MAX).map(alert_status).collect(),
            silent: engine.streams().iter().flat_map(|lane| lane.watch.problems()).collect(),
        }
    }
}

fn known(time: Timestamp) -> Option<Timestamp> {
    (time > Timestamp::MIN && time < Timestamp::MAX).then_some(time)
}

fn stream_status(lane: &StreamLane) -> StreamStatus {
    let ring = lane.ring.statistics();
    let partitions = lane.watermarks.partitions().iter().map(|(name, partition)| PartitionStatus {
        partition: name.to_string(),
        watermark: known(partition.watermark),
        idle: partition.idle,
    });
    let window = lane.ring.sliding(lane.window_rows);
    let shown = lane.ring.sliding(RECENT_VALUES);
    let signals = lane.stream.signals.iter().enumerate().map(|(at, signal)| {
        let (mut count, mut sum, mut min, mut max) = (0_u64, 0.0, f64::INFINITY, f64::NEG_INFINITY);
        for value in window.signal(at).iter().filter(|value| value.is_finite()) {
            count += 1;
            sum += value;
            min = min.min(*value);
            max = max.max(*value);
        }
        let some = |value: f64| (count > 0).then_some(value);
        let recent: Vec<f64> = shown.signal(at).iter().copied().filter(|value| value.is_finite()).collect();
        SignalStatus {
            name: signal.name.to_string(),
            unit: signal.unit.to_string(),
            latest: recent.last().copied(),
            mean: some(sum / count as f64),
            min: some(min),
            max: some(max),
            recent,
        }
    });
    StreamStatus {
        id: lane.stream.id.to_string(),
        rows: lane.rows,
        rows_per_second: 0.0,
        newest: known(lane.newest),
        watermark: known(lane.watermarks.combined()),
        partitions: partitions.collect(),
        ring_rows: ring.rows as u64,
        ring_capacity: ring.capacity as u64,
        ring_evicted: ring.evicted,
        signals: signals.collect(),
    }
}

fn pipeline_status(pipeline: &Pipeline) -> PipelineStatus {
    let counters = pipeline.counters;
    let windows: Vec<WindowStatus> = pipeline.windows.iter().map(window_status).collect();
    PipelineStatus {
        id: pipeline.id.to_string(),
        stream: pipeline.stream.id.to_string(),
        running: pipeline.running,
        processed: counters.processed,
        filtered: counters.filtered,
        late: counters.late,
        flagged: counters.flagged,
        rejected: counters.rejected,
        failed: counters.failed,
        active_windows: windows.iter().map(|window| window.open).sum(),
        results: counters.results,
        checkpoints: pipeline
            .checkpoints
            .iter()
            .map(|checkpoint| (checkpoint.name().to_string(), (checkpoint.state.passed, checkpoint.state.failed)))
            .collect(),
        windows,
        operators: pipeline.operators().iter().map(operator_status).collect(),
        last_activity: known(counters.last_activity).filter(|_| counters.processed > 0),
    }
}

fn window_status(windows: &SpreadWindows) -> WindowStatus {
    let ms = |ns: i64| Some(ns as f64 / 1e6);
    let (kind, size_ms, slide_ms, gap_ms) = match windows.config().kind {
        WindowKind::Tumbling { size_ns, .. } => ("tumbling", ms(size_ns), None, None),
        WindowKind::Sliding { size_ns, slide_ns } => ("sliding", ms(size_ns), ms(slide_ns), None),
        WindowKind::Session { gap_ns, .. } => ("session", None, None, ms(gap_ns)),
    };
    WindowStatus {
        id: windows.config().id.to_string(),
        kind: kind.to_owned(),
        size_ms,
        slide_ms,
        gap_ms,
        open: windows.open_count() as u64,
        fired: windows.fired_count(),
        late: windows.late_count(),
    }
}

fn operator_status(counters: &OperatorCounters) -> OperatorStatus {
    OperatorStatus {
        kind: counters.kind.to_owned(),
        id: counters.id.to_string(),
        rows_in: counters.rows_in,
        out: counters.out,
        failed: counters.failed,
        time_ms: counters.time_ns as f64 / 1e6,
    }
}

fn chart_status(pipeline: &Pipeline, view: ChartView, violations: u64) -> ChartStatus {
    let points = view.points.iter().map(|point| ChartPoint {
        index: point.index,
        value: point.statistic,
        violations: point.violations.iter().chain(&point.spread_violations).map(ToString::to_string).collect(),
    });
    ChartStatus {
        id: view.chart.to_string(),
        pipeline: pipeline.id.to_string(),
        key: key_words(&view.key),
        kind: view.kind.to_owned(),
        signal: view.signals.iter().map(|signal| &**signal).collect::<Vec<_>>().join(", "),
        phase: view.phase,
        center: view.center,
        lcl: view.lcl,
        ucl: view.ucl,
        points: points.collect(),
        count: view.count,
        violations,
        status: view.status,
    }
}

fn grid_status(id: &str, grid: &crate::voxel::Grid) -> GridStatus {
    let counters = grid.counters();
    GridStatus {
        id: id.to_owned(),
        version: grid.version(),
        samples: counters.rows,
        outside: counters.rejected,
        tiles: grid.tile_count() as u64,
        bytes: grid.bytes(),
        layer: grid.highest_layer(),
        stored_bytes: grid.stored_bytes(),
        full: counters.full,
    }
}

/// An alert as people see it.
pub(super) fn alert_status(record: &Record) -> AlertStatus {
    let mut ids = record.ids.iter().cloned();
    AlertStatus {
        id: ids.next().unwrap_or_default(),
        escalations: ids.collect(),
        severity: record.severity,
        source: record.source.to_string(),
        pipeline: record.pipeline.to_string(),
        time: record.time,
        message: record.message.clone(),
        evidence: serde_json::from_str(&record.evidence).unwrap_or_default(),
        acknowledged: record.acknowledged.as_ref().map(|who| Acknowledgement {
            name: who.name.to_string(),
            note: who.note.to_string(),
            time: who.time,
        }),
    }
}

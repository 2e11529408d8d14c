//! The status snapshot: what sources, store, engine, sinks and process count, put together a few times a second.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    acts::SOURCE,
    fold::Shared,
    locked,
    losses::STORE,
    now,
    process::{Usage, disk_share, memory_share},
    reports::Reports,
};
use crate::{
    config::Config,
    deliver::SinkCounters,
    engine::{Engine, Pipeline, StreamLane, key_words},
    ingest::{self, SourceKind, SourceState},
    model::{Input, Timestamp},
    quality::alert::{Filter, Record},
    spc::ChartView,
    status::{
        Acknowledgement, AlertStatus, ChartPoint, ChartStatus, GridStatus, PartitionStatus, PipelineStatus, ProcessStatus,
        SignalStatus, SinkRows, SinkStatus, Snapshot, SourceRows, SourceStatus, StoreStatus, StreamStatus,
        health::{Figures as Measures, assess},
    },
    store::{Append, Lane, Store},
};

/// Between two snapshots.
pub(super) const INTERVAL: Duration = Duration::from_millis(250);
/// Rates are taken over about this long.
const RATE_OVER: Duration = Duration::from_secs(2);
/// Alerts that are shown.
const ALERTS_MAX: usize = 200;
/// Keys of charts that are shown.
const CHARTS_MAX: usize = 64;
/// Newest values of a signal that are shown.
const RECENT_VALUES: usize = 120;
/// A thread that has not looked around for this long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(10);

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
        active_windows: pipeline.active_windows(),
        results: counters.results,
        checkpoints: pipeline
            .checkpoints
            .iter()
            .map(|checkpoint| (checkpoint.name().to_string(), (checkpoint.state.passed, checkpoint.state.failed)))
            .collect(),
        last_activity: known(counters.last_activity).filter(|_| counters.processed > 0),
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

/// A sink or alert channel: its name, its kind, what it counts.
pub(super) type SinkLine = (Arc<str>, &'static str, Arc<SinkCounters>);

/// Puts snapshots together.
pub(super) struct Publisher {
    appliance: String,
    started: Timestamp,
    store: Arc<Store>,
    store_path: String,
    shared: Arc<Shared>,
    sources: Vec<(String, &'static str, Arc<ingest::SourceStatus>)>,
    /// Rows that came over HTTP.
    posted: Arc<Mutex<SourceRows>>,
    sinks: Vec<SinkLine>,
    /// Rows by stream and processor time a while ago, for rates.
    before: VecDeque<(Instant, HashMap<String, u64>, f64)>,
    /// Rows received and refused by all sources, a while ago first.
    refused_before: VecDeque<(u64, u64)>,
    reports: Reports,
}

impl Publisher {
    pub fn new(
        config: &Config,
        store: &Arc<Store>,
        shared: Arc<Shared>,
        statuses: &[Arc<ingest::SourceStatus>],
        posted: Arc<Mutex<SourceRows>>,
        sinks: Vec<SinkLine>,
    ) -> Self {
        let sources = config.sources.iter().zip(statuses);
        Self {
            appliance: config.appliance.id.to_string(),
            started: now(),
            store: Arc::clone(store),
            store_path: store.directory().display().to_string(),
            shared,
            sources: sources
                .map(|(entry, status)| (entry.source.id.to_string(), kind(&entry.source.kind), Arc::clone(status)))
                .collect(),
            posted,
            sinks,
            before: VecDeque::new(),
            refused_before: VecDeque::new(),
            reports: Reports::default(),
        }
    }

    /// Publishes until `stop` says so.
    pub async fn run(mut self, sender: watch::Sender<Arc<Snapshot>>, mut stop: watch::Receiver<bool>) {
        let mut beat = tokio::time::interval(INTERVAL);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = beat.tick() => {}
                // An error means that the appliance is gone.
                _ = stop.wait_for(|stop| *stop) => break,
            }
            let snapshot = Arc::new(self.snapshot());
            self.report(&snapshot);
            let _ = sender.send(snapshot);
        }
    }

    /// Troubles that last become alerts. Streams that are silent are the engine's own to tell.
    fn report(&mut self, snapshot: &Snapshot) {
        let own: Vec<String> = snapshot.problems.iter().filter(|problem| !problem.starts_with("stream ")).cloned().collect();
        for order in self.reports.due(&own, Instant::now()) {
            tracing::warn!("{order:?}");
            let input = Some(Input::Order { time: now(), order });
            let append = Append { input, dead_letters: Vec::new(), decoded_at: Instant::now(), on_synced: Box::new(|_| ()) };
            // A store without room has no room for a report; the status page shows it all the same.
            drop(self.store.writer().try_append(append));
        }
    }

    /// Everything there is to see now.
    pub fn snapshot(&mut self) -> Snapshot {
        let view = self.shared.view();
        let usage = Usage::now();
        let mut streams = view.streams;
        let cpu_share = self.rates(&mut streams, usage);
        let mut sources: Vec<SourceStatus> =
            self.sources.iter().map(|(id, kind, status)| source_status(id, kind, status)).collect();
        let (id, kind, state) = (SOURCE.to_owned(), "http".to_owned(), "up".to_owned());
        sources.push(SourceStatus { id, kind, state, detail: String::new(), rows: *locked(&self.posted) });
        let sinks = self.sink_statuses();
        let store = self.store_status();
        let mut problems = self.problems(&sources, &sinks);
        // Until somebody takes note of it.
        let of_store = view.alerts.iter().filter(|alert| alert.source == STORE && alert.acknowledged.is_none());
        problems.extend(of_store.map(|alert| format!("store: {}", alert.message)));
        // A machine that rests is silent, and nothing is wrong with the appliance.
        let state = if problems.is_empty() { "ok" } else { "degraded" };
        problems.extend(view.silent);
        let figures = self.shared.figures();
        let health = assess(&self.measures(&sources, cpu_share, figures.latency_ms_p99));
        Snapshot {
            appliance: self.appliance.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            time: now(),
            started: self.started,
            state: state.to_owned(),
            problems,
            health,
            sources,
            streams,
            pipelines: view.pipelines,
            charts: view.charts,
            grids: view.grids,
            alerts: view.alerts,
            sinks,
            store,
            process: ProcessStatus {
                cpu_seconds: usage.cpu_seconds,
                cpu_share,
                rss_bytes: usage.rss_bytes,
                latency_ms_p50: figures.latency_ms_p50,
                latency_ms_p99: figures.latency_ms_p99,
                latency_ms_max: figures.latency_ms_max,
                step_seconds_buckets: figures.step_seconds_buckets,
                step_seconds_sum: figures.step_seconds_sum,
            },
        }
    }

    /// What the health score is made of. The share of refused rows is that of about the last two seconds.
    fn measures(&mut self, sources: &[SourceStatus], cpu_share: f64, latency_ms: f64) -> Measures {
        let (received, rejected) = sources
            .iter()
            .fold((0, 0), |(received, rejected), source| (received + source.rows.received, rejected + source.rows.rejected));
        let (received_before, rejected_before) = self.refused_before.front().map_or((0, 0), |before| *before);
        if self.refused_before.len() as u128 >= RATE_OVER.as_nanos() / INTERVAL.as_nanos() {
            self.refused_before.pop_front();
        }
        self.refused_before.push_back((received, rejected));
        let came = received.saturating_sub(received_before);
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        Measures {
            cpu: Some(cpu_share / cores),
            memory: memory_share(),
            disk: disk_share(std::path::Path::new(&self.store_path)),
            errors: (came > 0).then(|| rejected.saturating_sub(rejected_before) as f64 / came as f64),
            latency_ms: (latency_ms > 0.0).then_some(latency_ms),
        }
    }

    /// Fills in rows a second; gives the share of a core.
    fn rates(&mut self, streams: &mut [StreamStatus], usage: Usage) -> f64 {
        let at = Instant::now();
        while self.before.len() > 1 && self.before.front().is_some_and(|(then, ..)| at.duration_since(*then) > RATE_OVER) {
            self.before.pop_front();
        }
        let mut share = 0.0;
        if let Some((then, rows, cpu_seconds)) = self.before.front() {
            let seconds = at.duration_since(*then).as_secs_f64().max(1e-3);
            for stream in streams.iter_mut() {
                let before = rows.get(&stream.id).copied().unwrap_or(stream.rows);
                stream.rows_per_second = stream.rows.saturating_sub(before) as f64 / seconds;
            }
            share = (usage.cpu_seconds - cpu_seconds) / seconds;
        }
        let rows = streams.iter().map(|stream| (stream.id.clone(), stream.rows)).collect();
        self.before.push_back((at, rows, usage.cpu_seconds));
        share
    }

    fn sink_statuses(&self) -> Vec<SinkStatus> {
        let balances = self.store.balances();
        self.sinks
            .iter()
            .map(|(id, kind, counters)| {
                let of = |lane| balances.iter().find(|balance| balance.sink == *id && balance.lane == lane);
                let now = counters.snapshot();
                let rows = of(Lane::Rows).map_or_else(SinkRows::default, |balance| SinkRows {
                    accepted: balance.accepted,
                    delivered: balance.delivered,
                    buffered: balance.buffered,
                    expired: balance.expired,
                });
                SinkStatus {
                    id: id.to_string(),
                    kind: (*kind).to_owned(),
                    up: now.up,
                    detail: if now.up { String::new() } else { now.last_error },
                    rows,
                    results_buffered: of(Lane::Results).map_or(0, |balance| balance.buffered),
                    retries: now.retries,
                    restarts: now.restarts,
                    stalled_seconds: now.standing_ms.div_ceil(1000),
                }
            })
            .collect()
    }

    fn store_status(&self) -> StoreStatus {
        let counters = self.store.counters();
        StoreStatus {
            path: self.store_path.clone(),
            bytes: counters.bytes_file + counters.bytes_log,
            bytes_max: counters.bytes_max,
            rows: counters.rows,
            results: counters.outputs,
            dead_letters: counters.dead_letters,
            autonomy_seconds: counters.autonomy_seconds,
            commits: counters.commits,
            commit_ms_p50: counters.commit_ms.p50,
            commit_ms_p99: counters.commit_ms.p99,
            checkpoint_seq: counters.engine_through,
        }
    }

    fn problems(&self, sources: &[SourceStatus], sinks: &[SinkStatus]) -> Vec<String> {
        use crate::store::StoreStatus as State;
        let mut problems = Vec::new();
        match self.store.counters().status {
            State::Good => {}
            State::Full(why) | State::Degraded(why) | State::Fatal(why) => problems.push(format!("store: {why}")),
        }
        let counters = self.store.counters();
        if let Some(why) = counters.damage {
            let records = counters.records_damaged;
            problems.push(format!("store: damaged ({why}); {records} records cannot be read; the next start salvages what can be"));
        }
        if self.shared.idle_for() > STUCK_AFTER {
            problems.push(format!("engine: no progress for {} s", self.shared.idle_for().as_secs()));
        }
        let down = sources.iter().filter(|source| source.state == "down");
        problems.extend(down.map(|source| format!("source {}: {}", source.id, source.detail)));
        let down = sinks.iter().filter(|sink| !sink.up && !sink.detail.is_empty());
        problems.extend(down.map(|sink| format!("sink {}: {}", sink.id, sink.detail)));
        problems.extend(sinks.iter().filter(|sink| sink.stalled_seconds > 0).map(stalled));
        problems.extend(imbalances(sources, sinks));
        problems
    }
}

/// A cursor that stands although something waits.
fn stalled(sink: &SinkStatus) -> String {
    let SinkStatus { id, stalled_seconds, restarts, rows, results_buffered, .. } = sink;
    let waits = format!("{} rows and {results_buffered} results wait", rows.buffered);
    format!(
        "sink {id}: nothing was confirmed for {stalled_seconds} s although {waits}; started again {restarts} times: look at its server"
    )
}

/// Rows unaccounted for: a fault of the program.
fn imbalances(sources: &[SourceStatus], sinks: &[SinkStatus]) -> Vec<String> {
    let of_sources = sources.iter().map(|source| ("source", &source.id, source.rows.balance()));
    let of_sinks = sinks.iter().map(|sink| ("sink", &sink.id, sink.rows.balance()));
    let all = of_sources.chain(of_sinks).filter(|(.., balance)| *balance != 0);
    all.map(|(what, id, balance)| format!("{what} {id}: {balance} rows are unaccounted for; please report this")).collect()
}

fn kind(kind: &SourceKind) -> &'static str {
    match kind {
        SourceKind::Serial(_) => "serial",
        SourceKind::Mqtt(_) => "mqtt",
        SourceKind::Kafka(_) => "kafka",
        SourceKind::File(_) => "file",
    }
}

fn source_status(id: &str, kind: &str, status: &ingest::SourceStatus) -> SourceStatus {
    let counts = status.counts();
    let (state, detail) = match status.state() {
        SourceState::Connecting => ("connecting", String::new()),
        SourceState::Up { .. } => ("up", String::new()),
        SourceState::Down { since, why } => ("down", format!("{why} (since {since})")),
        SourceState::Ended => ("ended", String::new()),
    };
    SourceStatus {
        id: id.to_owned(),
        kind: kind.to_owned(),
        state: state.to_owned(),
        detail,
        rows: SourceRows {
            received: counts.received,
            accepted: counts.accepted,
            rejected: counts.rejected,
            duplicate: counts.duplicate,
            shed: counts.shed,
        },
    }
}

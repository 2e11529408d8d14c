//! The status snapshot: what sources, store, engine, sinks and process count, put together a few times a second.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    answer::SOURCE,
    intake::Intake,
    locked,
    losses::STORE,
    now,
    process::{Usage, disk_share, memory_share},
    reports::{Reports, STALLED, UNACCOUNTED},
    running::{SharedRoster, SinkLine},
    shared::Shared,
    view::INTERVAL,
};
use crate::{
    config::Config,
    ingest::{self, SourceState},
    model::{Input, Order, Timestamp},
    quality::figures::{FigureLimit, FigureWatch, Figures as Limited},
    status::{
        ProcessStatus, SinkRows, SinkStatus, Snapshot, SourceRows, SourceStatus, StoreStatus, StreamStatus,
        health::{Figures as Measures, assess},
    },
    store::{Append, CLOCK_WAIT_NS_MAX, Lane, Store, StoreCounters, StoreError},
};

/// Rates are taken over about this long.
const RATE_OVER: Duration = Duration::from_secs(2);
/// Reports that are kept for a store that takes none.
const UNTOLD_MAX: usize = 1_000;
/// A thread that has not looked around for this long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// Puts snapshots together.
pub(super) struct Publisher {
    appliance: String,
    started: Timestamp,
    store: Arc<Store>,
    store_path: String,
    intake: Intake,
    shared: Arc<Shared>,
    roster: SharedRoster,
    /// Rows that came over HTTP.
    posted: Arc<Mutex<SourceRows>>,
    /// Rows by stream and processor time a while ago, for rates.
    before: VecDeque<(Instant, HashMap<String, u64>, f64)>,
    /// Rows received and refused by all sources, a while ago first.
    refused_before: VecDeque<(u64, u64)>,
    /// What the health of the last snapshot was made of.
    measured: Measures,
    reports: Reports,
    /// What is watched, and how it does.
    limits: (Vec<FigureLimit>, FigureWatch),
    /// Reports that the store did not take yet.
    untold: Arc<Mutex<Vec<Order>>>,
}

impl Publisher {
    pub fn new(
        config: &Config,
        store: &Arc<Store>,
        intake: Intake,
        shared: Arc<Shared>,
        roster: SharedRoster,
        posted: Arc<Mutex<SourceRows>>,
    ) -> Self {
        let figures = roster.now().figures;
        Self {
            appliance: config.appliance.id.to_string(),
            started: now(),
            store: Arc::clone(store),
            intake,
            store_path: store.directory().display().to_string(),
            shared,
            roster,
            posted,
            before: VecDeque::new(),
            refused_before: VecDeque::new(),
            measured: Measures::default(),
            reports: Reports::default(),
            limits: (figures.clone(), FigureWatch::new(&figures)),
            untold: Arc::default(),
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

    /// Troubles that last become alerts, and figures beyond their limits. Streams that are silent are the engine's own to tell.
    fn report(&mut self, snapshot: &Snapshot) {
        let own: Vec<String> = snapshot.problems.iter().filter(|problem| !problem.starts_with("stream ")).cloned().collect();
        let figures = self.roster.now().figures;
        if figures != self.limits.0 {
            self.limits = (figures.clone(), FigureWatch::new(&figures));
        }
        let crossed = self.limits.1.due(&self.limited(snapshot), snapshot.time).into_iter().map(|crossing| Order::Report {
            source: crossing.figure.name().into(),
            severity: crossing.severity,
            message: crossing.message,
        });
        let due: Vec<Order> = self.reports.due(&own, Instant::now()).into_iter().chain(crossed).collect();
        due.iter().for_each(|order| tracing::warn!("{order:?}"));
        // A store without room has none for a report: it is told when there is. Until then the status page shows it.
        let waiting = std::mem::take(&mut *locked(&self.untold));
        for order in waiting.into_iter().chain(due) {
            let (untold, again) = (Arc::clone(&self.untold), order.clone());
            let keep = move || {
                let mut untold = locked(&untold);
                if untold.len() < UNTOLD_MAX {
                    untold.push(again);
                }
            };
            let kept = keep.clone();
            let on_synced = Box::new(move |outcome: Result<_, StoreError>| {
                if outcome.is_err() {
                    kept();
                }
            });
            let input = Some(Input::Order { time: now(), order });
            let append = Append { input, dead_letters: Vec::new(), decoded_at: Instant::now(), on_synced };
            if self.store.writer().try_append(append).is_err() {
                keep();
            }
        }
    }

    /// The figures that can have limits.
    fn limited(&self, snapshot: &Snapshot) -> Limited {
        Limited {
            rows_per_second: Some(snapshot.streams.iter().map(|stream| stream.rows_per_second).sum()),
            latency_ms: self.shared.latency_ms_newest(),
            error_share: self.measured.errors,
            cpu_share: self.measured.cpu,
            memory_bytes: Some(snapshot.process.rss_bytes as f64),
            waiting_rows: snapshot.sinks.iter().map(|sink| sink.rows.buffered as f64).max_by(f64::total_cmp),
        }
    }

    /// Everything there is to see now.
    pub fn snapshot(&mut self) -> Snapshot {
        let view = self.shared.view();
        let usage = Usage::now();
        let mut streams = view.streams;
        let cpu_share = self.rates(&mut streams, usage);
        let roster = self.roster.now();
        let mut sources: Vec<SourceStatus> =
            roster.sources.iter().map(|(id, kind, status)| source_status(id, kind, status)).collect();
        let (id, kind, state) = (SOURCE.to_owned(), "http".to_owned(), "up".to_owned());
        sources.push(SourceStatus { id, kind, state, detail: String::new(), rows: *locked(&self.posted) });
        let sinks = self.sink_statuses(&roster.sinks);
        let store = self.store_status();
        let mut problems = self.problems(&sources, &sinks);
        // Until somebody takes note of it.
        let of_store = view.alerts.iter().filter(|alert| alert.source == STORE && alert.acknowledged.is_none());
        problems.extend(of_store.map(|alert| format!("store: {}", alert.message)));
        // A machine that rests is silent, and nothing is wrong with the appliance.
        let state = if problems.is_empty() { "ok" } else { "degraded" };
        problems.extend(view.silent);
        let figures = self.shared.figures();
        self.measured = self.measures(&sources, cpu_share, figures.latency_ms_p99);
        let health = assess(&self.measured);
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
                checkpoint_seconds_buckets: figures.checkpoint_seconds_buckets,
                checkpoint_seconds_sum: figures.checkpoint_seconds_sum,
                checkpoint_ms_max: figures.checkpoint_ms_max,
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

    fn sink_statuses(&self, sinks: &[SinkLine]) -> Vec<SinkStatus> {
        let balances = self.store.balances();
        sinks
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
                    rows_lost: now.lost.rows,
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
            bytes_needed: counters.bytes_needed,
            holds_sources: counters.holds_sources,
            source_waits: self.intake.waits(),
            rows_removed_by_age: counters.rows_removed_by_age,
            rows_removed_for_room: counters.rows_removed_for_room,
            rows_waiting_for_clock: counters.rows_waiting_for_clock,
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
        problems.extend(filling(&counters, sinks));
        problems.extend(unset_clock(now(), counters.rows_waiting_for_clock));
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
    format!("sink {id}: {STALLED} for {stalled_seconds} s although {waits}; started again {restarts} times: look at its server")
}

/// A clock that nobody has set yet.
fn unset_clock(now: Timestamp, waiting: u64) -> Option<String> {
    let is_unset = now < Timestamp::CLOCK_SET_FROM;
    let minutes = CLOCK_WAIT_NS_MAX / 60_000_000_000;
    is_unset.then(|| {
        format!(
            "clock: not set, it shows {now}; {waiting} rows without a time of their own wait for it, {minutes} minutes from the start at most: \
             look at the time server"
        )
    })
}

/// Of the disk budget: one part in so many may wait for sinks before somebody is told.
const NEEDED_SHARE: u64 = 4;

/// The budget fills with what some sink has not fetched: told long before it is full.
fn filling(store: &StoreCounters, sinks: &[SinkStatus]) -> Option<String> {
    if store.bytes_max == 0 || store.bytes_needed < store.bytes_max / NEEDED_SHARE {
        return None;
    }
    let behind: Vec<&str> = sinks.iter().filter(|sink| sink.rows.buffered > 0).map(|sink| sink.id.as_str()).collect();
    let lasts = store.autonomy_seconds.map_or("nothing comes in at present".to_owned(), |seconds| {
        format!("at this rate the rest lasts {:.1} hours", seconds / 3600.0)
    });
    let held = if store.holds_sources { "; MQTT, Kafka and files are not read meanwhile" } else { "" };
    Some(format!(
        "disk budget: {} of {} bytes wait for {}; {lasts}{held}: bring the servers back, or raise store.max_bytes",
        store.bytes_needed,
        store.bytes_max,
        behind.join(", ")
    ))
}

/// Rows unaccounted for: a fault of the program.
fn imbalances(sources: &[SourceStatus], sinks: &[SinkStatus]) -> Vec<String> {
    let of_sources = sources.iter().map(|source| ("source", &source.id, source.rows.balance()));
    let of_sinks = sinks.iter().map(|sink| ("sink", &sink.id, sink.rows.balance()));
    let all = of_sources.chain(of_sinks).filter(|(.., balance)| *balance != 0);
    all.map(|(what, id, balance)| format!("{what} {id}: {balance} rows are {UNACCOUNTED} for; please report this")).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Severity;

    /// What is reported of problems that last.
    fn reported(problems: &[String]) -> Vec<(String, Severity)> {
        let (mut reports, start) = (Reports::default(), Instant::now());
        assert!(reports.due(problems, start).is_empty());
        let due = reports.due(problems, start + Duration::from_mins(1)).into_iter();
        due.map(|order| match order {
            Order::Report { message, severity, .. } => (message, severity),
            other => panic!("{other:?}"),
        })
        .collect()
    }

    #[test]
    fn a_row_unaccounted_for_at_a_source_or_a_sink_is_a_critical_alarm() {
        let mut source = SourceStatus { id: "floor".into(), ..SourceStatus::default() };
        source.rows = SourceRows { received: 10, accepted: 7, rejected: 1, duplicate: 1, shed: 1 };
        let mut sink = SinkStatus { id: "plant".into(), ..SinkStatus::default() };
        sink.rows = SinkRows { accepted: 7, delivered: 4, buffered: 2, expired: 1 };
        assert!(imbalances(&[source.clone()], &[sink.clone()]).is_empty());
        source.rows.accepted -= 1;
        sink.rows.delivered += 1;
        let told = reported(&imbalances(&[source], &[sink]));
        let [(source, first), (sink, second)] = &told[..] else { panic!("{told:?}") };
        assert!(source.contains("source floor: 1 rows are unaccounted for"), "{source}");
        assert!(sink.contains("sink plant: -1 rows are unaccounted for"), "{sink}");
        assert_eq!((*first, *second), (Severity::Critical, Severity::Critical));
    }

    #[test]
    fn a_budget_that_fills_is_told_with_the_hours_that_are_left() {
        let sink = SinkStatus {
            id: "plant".into(),
            rows: SinkRows { accepted: 9, buffered: 9, ..SinkRows::default() },
            ..SinkStatus::default()
        };
        let store = |bytes_needed, holds_sources| StoreCounters {
            bytes_needed,
            holds_sources,
            bytes_max: 1_000,
            autonomy_seconds: Some(9_000.0),
            ..StoreCounters::default()
        };
        assert_eq!(filling(&store(249, false), std::slice::from_ref(&sink)), None);
        let told = reported(&filling(&store(250, false), std::slice::from_ref(&sink)).into_iter().collect::<Vec<_>>());
        assert!(told[0].0.contains("wait for plant; at this rate the rest lasts 2.5 hours"), "{told:?}");
        assert_eq!(told[0].1, Severity::High);
        assert!(filling(&store(900, true), &[sink]).is_some_and(|said| said.contains("are not read meanwhile")));
    }
}

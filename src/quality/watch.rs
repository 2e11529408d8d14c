//! Signals that have gone silent, flat or stuck: seen by the clock, not by the next row.
//!
//! A partition is *stale* when nothing came from it for `stale`; a signal is *missing* when rows came without a value of it for as long.
//! It is *stuck* when its value was exactly the same for `stuck`, and *flat* when its values stayed within a given range for
//! `flatline`. Both need at least two values, and neither is said of a partition that is stale. Each is told once, and again after it
//! had ended.
//!
//! Time is that of arrival: [`Watch::observe`] takes it from the batch, [`Watch::tick`] from the appliance's clock, and
//! [`Watch::next_deadline`] says when the next tick would tell something. A batch first tells what was due before it arrived.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::alert::Cause;
use crate::model::{Batch, Seq, Severity, Stream, Timestamp};

/// Partitions that are watched; further ones are not.
pub const PARTITIONS_MAX: usize = 1024;

/// What is watched for; `None` = not.
#[derive(Debug, Clone, PartialEq)]
pub struct WatchConfig {
    /// Silence of a partition, or of a signal while rows come.
    pub stale_ns: Option<i64>,
    /// Exactly the same value.
    pub stuck_ns: Option<i64>,
    /// Values within the range of [`Self::flat_within`].
    pub flatline_ns: Option<i64>,
    /// Largest minus smallest value of a flat signal, by name; other signals are not watched for it.
    pub flat_within: BTreeMap<Arc<str>, f64>,
    /// The signals; `None` = all.
    pub signals: Option<Vec<Arc<str>>>,
    /// How much it matters.
    pub severity: Severity,
}

impl Default for WatchConfig {
    /// A minute of silence is told; what stands still is not, as many signals do by nature.
    fn default() -> Self {
        Self {
            stale_ns: Some(60_000_000_000),
            stuck_ns: None,
            flatline_ns: None,
            flat_within: BTreeMap::new(),
            signals: None,
            severity: Severity::Medium,
        }
    }
}

/// Values that have not left a range.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Band {
    low: f64,
    high: f64,
    since: Timestamp,
    /// Values in it, as far as they matter: one is no run.
    values: u8,
    told: bool,
}

impl Band {
    const EMPTY: Self = Self { low: 0.0, high: 0.0, since: Timestamp::MIN, values: 0, told: false };

    /// Takes the finite values of a batch, which arrived at `now`.
    fn observe(&mut self, values: &[f64], range: f64, now: Timestamp) {
        let (mut low, mut high, mut last, mut count) = (f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 0_usize);
        for value in values.iter().filter(|value| value.is_finite()) {
            (low, high, last, count) = (low.min(*value), high.max(*value), *value, count + 1);
        }
        if count == 0 {
            return;
        }
        let (all_low, all_high) = if self.values == 0 { (low, high) } else { (low.min(self.low), high.max(self.high)) };
        if self.values > 0 && all_high - all_low <= range {
            (self.low, self.high) = (all_low, all_high);
            self.values = 2;
        } else if high - low <= range {
            *self = Self { low, high, since: now, values: count.min(2) as u8, told: false };
        } else {
            *self = Self { low: last, high: last, since: now, values: 1, told: false };
        }
    }

    fn due(&self, after: Option<i64>) -> Option<Timestamp> {
        (!self.told && self.values > 1).then_some(self.since.saturating_add(after?))
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct SignalState {
    /// When the last value arrived; before the first one, when the first row did.
    valued: Timestamp,
    missing: bool,
    same: Band,
    flat: Band,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct PartitionState {
    /// When the last row arrived.
    last: Timestamp,
    stale: bool,
    signals: Vec<SignalState>,
}

/// What is remembered over a restart.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct WatchState {
    /// When the clock was first known.
    started: Option<Timestamp>,
    /// Whether it was told that nothing at all has come.
    nothing_told: bool,
    /// The watched signals, by name.
    signals: Vec<Arc<str>>,
    partitions: BTreeMap<Arc<str>, PartitionState>,
}

/// One stream's watch.
#[derive(Debug)]
pub struct Watch {
    config: WatchConfig,
    stream: Arc<str>,
    /// Watched columns, and the range within which each is flat.
    columns: Vec<(usize, Option<f64>)>,
    state: WatchState,
}

/// What can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Nothing,
    Stale,
    Missing(usize),
    Stuck(usize),
    Flat(usize),
}

impl Watch {
    /// A watch over `stream`; names that it does not have are left out (`config` refuses them before).
    pub fn new(config: WatchConfig, stream: &Stream) -> Self {
        let wanted = |name: &Arc<str>| config.signals.as_ref().is_none_or(|signals| signals.contains(name));
        let columns: Vec<(usize, Option<f64>)> = stream
            .signals
            .iter()
            .enumerate()
            .filter(|(_, signal)| wanted(&signal.name))
            .map(|(column, signal)| (column, config.flat_within.get(&signal.name).copied()))
            .collect();
        let signals = columns.iter().map(|(column, _)| Arc::clone(&stream.signals[*column].name)).collect();
        Self { config, stream: Arc::clone(&stream.id), columns, state: WatchState { signals, ..WatchState::default() } }
    }

    /// Whether anything is watched for.
    pub const fn is_active(&self) -> bool {
        self.config.stale_ns.is_some() || self.config.stuck_ns.is_some() || self.config.flatline_ns.is_some()
    }

    /// Takes rows; what had been due before they arrived is told first.
    pub fn observe(&mut self, batch: &Batch, causes: &mut Vec<Cause>) {
        if batch.is_empty() || !self.is_active() {
            return;
        }
        let now = batch.arrival;
        self.tick(now, batch.seq(0), causes);
        let full = self.state.partitions.len() >= PARTITIONS_MAX;
        if full && !self.state.partitions.contains_key(&batch.partition) {
            return;
        }
        let fresh = || PartitionState {
            last: now,
            stale: false,
            signals: vec![SignalState { valued: now, missing: false, same: Band::EMPTY, flat: Band::EMPTY }; self.columns.len()],
        };
        let partition = self.state.partitions.entry(Arc::clone(&batch.partition)).or_insert_with(fresh);
        (partition.last, partition.stale) = (partition.last.max(now), false);
        for ((column, range), signal) in self.columns.iter().zip(&mut partition.signals) {
            let values = &batch.signals[*column];
            if values.iter().any(|value| value.is_finite()) {
                (signal.valued, signal.missing) = (now, false);
            }
            if self.config.stuck_ns.is_some() {
                signal.same.observe(values, 0.0, now);
            }
            if let (Some(range), Some(_)) = (range, self.config.flatline_ns) {
                signal.flat.observe(values, *range, now);
            }
        }
    }

    /// The clock of arrivals went by `step_ns`: nothing is silent or still for longer or shorter because of that.
    pub fn clock_was_set(&mut self, step_ns: i64) {
        let state = &mut self.state;
        state.started = state.started.map(|started| started.by_set_clock(step_ns));
        for partition in state.partitions.values_mut() {
            partition.last = partition.last.by_set_clock(step_ns);
            for signal in &mut partition.signals {
                for at in [&mut signal.valued, &mut signal.same.since, &mut signal.flat.since] {
                    *at = at.by_set_clock(step_ns);
                }
            }
        }
    }

    /// It is `now`: tells what is due. `at` is the newest row.
    pub fn tick(&mut self, now: Timestamp, at: Seq, causes: &mut Vec<Cause>) {
        if !self.is_active() {
            return;
        }
        self.state.started.get_or_insert(now);
        if let Some(due) = self.nothing_due().filter(|due| *due <= now) {
            self.state.nothing_told = true;
            causes.push(self.cause("", Event::Nothing, due, at));
        }
        let names: Vec<Arc<str>> = self.state.partitions.keys().cloned().collect();
        for name in names {
            while let Some((due, event)) = self.state.partitions.get(&name).and_then(|partition| self.first_due(partition)) {
                if due > now {
                    break;
                }
                if let Some(partition) = self.state.partitions.get_mut(&name) {
                    partition.tell(event);
                }
                causes.push(self.cause(&name, event, due, at));
            }
        }
    }

    /// When the next tick would tell something.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        if !self.is_active() {
            return None;
        }
        if self.state.started.is_none() && self.config.stale_ns.is_some() {
            // The first tick starts the clock.
            return Some(Timestamp::MIN);
        }
        let partitions = self.state.partitions.values().filter_map(|partition| self.first_due(partition));
        partitions.map(|(due, _)| due).chain(self.nothing_due()).min()
    }

    /// Before the first row of all.
    fn nothing_due(&self) -> Option<Timestamp> {
        let started = self.state.started.filter(|_| self.state.partitions.is_empty() && !self.state.nothing_told)?;
        Some(started.saturating_add(self.config.stale_ns?))
    }

    fn first_due(&self, partition: &PartitionState) -> Option<(Timestamp, Event)> {
        if partition.stale {
            return None;
        }
        let stale = self.config.stale_ns.map(|after| (partition.last.saturating_add(after), Event::Stale));
        let signals = partition.signals.iter().enumerate().flat_map(|(place, signal)| {
            // Without a row since the last value it is the partition that is silent.
            let rows_came = partition.last > signal.valued;
            let missing = self.config.stale_ns.filter(|_| rows_came && !signal.missing);
            [
                missing.map(|after| (signal.valued.saturating_add(after), Event::Missing(place))),
                signal.same.due(self.config.stuck_ns).map(|due| (due, Event::Stuck(place))),
                signal.flat.due(self.config.flatline_ns).map(|due| (due, Event::Flat(place))),
            ]
        });
        signals.flatten().chain(stale).min_by_key(|(due, _)| *due)
    }

    fn cause(&self, partition: &str, event: Event, due: Timestamp, at: Seq) -> Cause {
        let config = &self.config;
        let signal = |place: usize| self.state.signals.get(place).map_or("", |name| name);
        let (what, of) = match event {
            Event::Nothing => (format!("nothing has come for {} since the start", words(config.stale_ns)), ""),
            Event::Stale => (format!("nothing has come for {}", words(config.stale_ns)), ""),
            Event::Missing(place) => {
                (format!("rows without a value of `{}` for {}", signal(place), words(config.stale_ns)), signal(place))
            }
            Event::Stuck(place) => {
                (format!("`{}` has been exactly the same for {}", signal(place), words(config.stuck_ns)), signal(place))
            }
            Event::Flat(place) => {
                (format!("`{}` has hardly moved for {}", signal(place), words(config.flatline_ns)), signal(place))
            }
        };
        let from = if partition.is_empty() { String::new() } else { format!(" from {partition}") };
        let mut evidence = serde_json::json!({"stream": &*self.stream, "partition": partition, "condition": event.word()});
        let state = self.state.partitions.get(partition);
        match (event, state) {
            (Event::Stuck(place), Some(state)) => {
                evidence["signal"] = of.into();
                evidence["value"] = state.signals[place].same.low.into();
                evidence["since"] = state.signals[place].same.since.to_string().into();
            }
            (Event::Flat(place), Some(state)) => {
                evidence["signal"] = of.into();
                evidence["min"] = state.signals[place].flat.low.into();
                evidence["max"] = state.signals[place].flat.high.into();
                evidence["since"] = state.signals[place].flat.since.to_string().into();
            }
            (Event::Missing(place), Some(state)) => {
                evidence["signal"] = of.into();
                evidence["since"] = state.signals[place].valued.to_string().into();
            }
            (Event::Stale, Some(state)) => evidence["since"] = state.last.to_string().into(),
            _ => {}
        }
        Cause {
            metric: format!("{} {partition} {of} {}", self.stream, event.word()),
            source: Arc::clone(&self.stream),
            severity: config.severity,
            time: due,
            at,
            message: format!("stream `{}`{from}: {what}; look at the sensor and its line", self.stream),
            evidence,
        }
    }

    /// What is wrong at present, in words.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.state.nothing_told && self.state.partitions.is_empty() {
            problems.push(format!("stream `{}`: nothing has come yet", self.stream));
        }
        for (name, partition) in &self.state.partitions {
            if partition.stale {
                problems.push(format!("stream `{}`: {name} is silent since {}", self.stream, partition.last));
                continue;
            }
            for (signal, state) in self.state.signals.iter().zip(&partition.signals) {
                for (told, word) in [(state.missing, "has no values"), (state.same.told, "is stuck"), (state.flat.told, "is flat")]
                {
                    if told {
                        problems.push(format!("stream `{}`: `{signal}` from {name} {word}", self.stream));
                    }
                }
            }
        }
        problems
    }

    /// Everything that a restart must not forget.
    pub fn snapshot(&self) -> WatchState {
        self.state.clone()
    }

    /// Goes on from `state`; whether it is of the same signals. If not, the watch starts anew.
    pub fn restore(&mut self, state: WatchState) -> bool {
        let fits = state.signals == self.state.signals
            && state.partitions.len() <= PARTITIONS_MAX
            && state.partitions.values().all(|partition| partition.signals.len() == self.columns.len());
        if fits {
            self.state = state;
        }
        fits
    }
}

impl PartitionState {
    fn tell(&mut self, event: Event) {
        match event {
            Event::Nothing => {}
            Event::Stale => self.stale = true,
            Event::Missing(place) => self.signals[place].missing = true,
            Event::Stuck(place) => self.signals[place].same.told = true,
            Event::Flat(place) => self.signals[place].flat.told = true,
        }
    }
}

impl Event {
    const fn word(self) -> &'static str {
        match self {
            Self::Nothing | Self::Stale => "stale",
            Self::Missing(_) => "missing",
            Self::Stuck(_) => "stuck",
            Self::Flat(_) => "flatline",
        }
    }
}

/// A duration as people write it.
fn words(ns: Option<i64>) -> String {
    let ns = ns.unwrap_or(0);
    let units =
        [(86_400_000_000_000, "d"), (3_600_000_000_000, "h"), (60_000_000_000, "min"), (1_000_000_000, "s"), (1_000_000, "ms")];
    let whole = units.into_iter().find(|(unit, _)| ns >= *unit && ns % unit == 0);
    whole.map_or_else(|| format!("{} s", ns as f64 / 1e9), |(unit, word)| format!("{} {word}", ns / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    /// Nothing is watched for.
    fn quiet() -> WatchConfig {
        WatchConfig { stale_ns: None, ..WatchConfig::default() }
    }

    fn watch(config: WatchConfig) -> Watch {
        Watch::new(config, &Stream::new("s", &["x", "y"], &[]))
    }

    /// Rows of signal x from `partition`, arrived at `second`; y is `second` itself.
    fn rows(partition: &str, second: i64, x: &[f64]) -> Batch {
        let stream = Arc::new(Stream::new("s", &["x", "y"], &[]));
        let mut batch = Batch::new(stream, "t".into(), partition.into(), Timestamp(second * SECOND));
        batch.time = vec![0; x.len()];
        batch.signals = vec![x.to_vec(), (0..x.len()).map(|row| (second * 100) as f64 + row as f64).collect()];
        batch.first_seq = Seq(second as u64 + 1);
        batch
    }

    /// Conditions and signals told by a tick at `second`.
    fn told(watch: &mut Watch, second: i64) -> Vec<String> {
        let mut causes = Vec::new();
        watch.tick(Timestamp(second * SECOND), Seq(9), &mut causes);
        causes.into_iter().map(|cause| cause.metric).collect()
    }

    fn seen(watch: &mut Watch, batch: &Batch) -> Vec<String> {
        let mut causes = Vec::new();
        watch.observe(batch, &mut causes);
        causes.into_iter().map(|cause| cause.metric).collect()
    }

    fn stale() -> WatchConfig {
        WatchConfig { stale_ns: Some(30 * SECOND), ..quiet() }
    }

    #[test]
    fn silence_is_told_by_the_clock_once_and_again_after_it_ended() {
        let mut watch = watch(stale());
        assert_eq!(watch.next_deadline(), Some(Timestamp::MIN));
        assert!(told(&mut watch, 100).is_empty());
        assert_eq!(watch.next_deadline(), Some(Timestamp(130 * SECOND)));
        assert!(seen(&mut watch, &rows("a", 110, &[1.0])).is_empty());
        assert_eq!(watch.next_deadline(), Some(Timestamp(140 * SECOND)));
        assert!(told(&mut watch, 139).is_empty());
        assert_eq!(told(&mut watch, 140), ["s a  stale"]);
        assert!(told(&mut watch, 200).is_empty());
        assert_eq!((watch.next_deadline(), watch.problems().len()), (None, 1));
        assert!(seen(&mut watch, &rows("a", 210, &[1.0])).is_empty());
        assert!(watch.problems().is_empty());
        // Nobody ticked: the next row tells what was due before it.
        assert_eq!(seen(&mut watch, &rows("a", 300, &[1.0])), ["s a  stale"]);
    }

    #[test]
    fn a_stream_that_never_came_is_told_too() {
        let mut watch = watch(stale());
        told(&mut watch, 0);
        assert_eq!(told(&mut watch, 30), ["s   stale"]);
        assert_eq!((watch.next_deadline(), watch.problems().len()), (None, 1));
    }

    #[test]
    fn one_silent_device_is_told_while_another_goes_on() {
        let mut watch = watch(stale());
        seen(&mut watch, &rows("a", 0, &[1.0]));
        let told: Vec<String> = (0..8).flat_map(|step| seen(&mut watch, &rows("b", step * 10, &[1.0]))).collect();
        assert_eq!(told, ["s a  stale"]);
    }

    #[test]
    fn a_signal_without_values_is_told_while_rows_come() {
        let mut watch = watch(stale());
        seen(&mut watch, &rows("a", 0, &[1.0]));
        for second in 1..30 {
            assert!(seen(&mut watch, &rows("a", second, &[f64::NAN])).is_empty());
        }
        assert_eq!(watch.next_deadline(), Some(Timestamp(30 * SECOND)));
        assert_eq!(told(&mut watch, 30), ["s a x missing"]);
        assert!(seen(&mut watch, &rows("a", 31, &[f64::NAN])).is_empty());
        assert!(seen(&mut watch, &rows("a", 32, &[2.0])).is_empty() && watch.problems().is_empty());
    }

    #[test]
    fn exactly_the_same_value_is_stuck_and_a_single_one_is_not() {
        let config = WatchConfig { stuck_ns: Some(10 * SECOND), ..quiet() };
        let mut watch = watch(config);
        seen(&mut watch, &rows("a", 0, &[5.0]));
        assert!(told(&mut watch, 60).is_empty(), "one value is no run");
        seen(&mut watch, &rows("a", 61, &[5.0, f64::NAN, 5.0]));
        assert_eq!(told(&mut watch, 61), ["s a x stuck"]);
        seen(&mut watch, &rows("a", 62, &[5.0, 5.000_001]));
        assert!(watch.problems().is_empty());
        seen(&mut watch, &rows("a", 63, &[5.000_001]));
        assert_eq!(watch.next_deadline(), Some(Timestamp(72 * SECOND)));
        assert!(told(&mut watch, 71).is_empty());
        assert_eq!(told(&mut watch, 72), ["s a x stuck"]);
    }

    #[test]
    fn values_within_the_range_are_flat_and_other_signals_are_not_asked() {
        let within = BTreeMap::from([("x".into(), 0.5)]);
        let config = WatchConfig { flatline_ns: Some(10 * SECOND), flat_within: within, ..quiet() };
        let mut watch = watch(config);
        seen(&mut watch, &rows("a", 0, &[1.0, 1.4]));
        seen(&mut watch, &rows("a", 5, &[1.5]));
        assert_eq!(told(&mut watch, 10), ["s a x flatline"]);
        // A slow drift leaves the range.
        seen(&mut watch, &rows("a", 11, &[1.6]));
        assert!(watch.problems().is_empty());
    }

    #[test]
    fn a_silent_partition_is_stale_and_not_stuck() {
        let config = WatchConfig { stale_ns: Some(5 * SECOND), stuck_ns: Some(10 * SECOND), ..quiet() };
        let mut watch = watch(config);
        seen(&mut watch, &rows("a", 0, &[1.0, 1.0]));
        assert_eq!(told(&mut watch, 60), ["s a  stale"]);
    }

    #[test]
    fn a_restart_forgets_nothing_and_tells_nothing_twice() {
        let config = WatchConfig { stuck_ns: Some(10 * SECOND), ..stale() };
        let mut watch = watch(config.clone());
        seen(&mut watch, &rows("a", 0, &[1.0, 1.0]));
        seen(&mut watch, &rows("a", 9, &[1.0]));
        assert_eq!(told(&mut watch, 10), ["s a x stuck"]);
        let state: WatchState = postcard::from_bytes(&postcard::to_stdvec(&watch.snapshot()).unwrap()).unwrap();
        let mut again = self::watch(config.clone());
        assert!(again.restore(state.clone()));
        assert_eq!((again.next_deadline(), told(&mut again, 20).len()), (watch.next_deadline(), 0));
        let other = WatchConfig { signals: Some(vec!["y".into()]), ..config };
        assert!(!self::watch(other).restore(state));
    }
}

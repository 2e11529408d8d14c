//! Thresholds: a value against fixed limits, against its own recent past, or against a rate of change.
//!
//! Comparisons are strict: a value on a limit is within. A row without the value is told as a metric of its own. What is told is the
//! first row of a run of rows that cross the threshold, per key; the alert book then keeps the metric quiet for its cooldown. A row that
//! came out of order has no rate. Values that cross a threshold go into the recent past like others, so that a step is told once.
//! For limits that follow from a baseline use a chart.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::alert::{AlertBook, Cause};
use crate::model::{Batch, Key, Output, Severity, Stream, Timestamp};

/// Keys of one threshold; rows of further keys are counted and left out.
pub const KEYS_MAX: usize = 10_000;
/// Values of the recent past.
pub const WINDOW_MAX: usize = 10_000;
/// Fewer values say nothing about the recent past.
pub const WINDOW_MIN: usize = 10;

/// What a value is held against.
#[derive(Debug, Clone, PartialEq)]
pub enum Limit {
    /// Fixed limits; at least one.
    Absolute {
        /// Not below.
        lower: Option<f64>,
        /// Not above.
        upper: Option<f64>,
    },
    /// The mean of the last `window` values, ± so many percent of it.
    Relative {
        /// Percent of the mean.
        percent: f64,
        /// Values.
        window: usize,
    },
    /// The change from one value to the next, either way.
    Rate {
        /// Units of the signal per second of event time.
        per_second: f64,
    },
    /// The mean of the last `window` values, ± so many of their standard deviations.
    Anomaly {
        /// Standard deviations.
        deviations: f64,
        /// Values.
        window: usize,
    },
}

impl Limit {
    fn window(&self) -> usize {
        match self {
            Self::Relative { window, .. } | Self::Anomaly { window, .. } => (*window).clamp(WINDOW_MIN, WINDOW_MAX),
            _ => 0,
        }
    }
}

/// A threshold as configured.
#[derive(Debug, Clone, PartialEq)]
pub struct ThresholdConfig {
    /// Its name within the pipeline.
    pub name: Arc<str>,
    /// The signal.
    pub signal: Arc<str>,
    /// What it is held against.
    pub limit: Limit,
    /// How much it matters.
    pub severity: Severity,
    /// Each combination of these tags has its own past.
    pub group_by: Vec<Arc<str>>,
}

/// What is remembered of one key.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
struct Past {
    /// The last value and its time.
    last: Option<(f64, i64)>,
    /// The last values, oldest first.
    values: VecDeque<f64>,
    /// Whether the newest row crossed the threshold, and whether it had no value.
    crossed: bool,
    missing: bool,
}

/// What is remembered over a restart.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ThresholdState {
    /// Rows that crossed it.
    pub crossed: u64,
    /// Rows without a value.
    pub missing: u64,
    /// Rows of keys beyond [`KEYS_MAX`].
    pub keys_refused: u64,
    keys: BTreeMap<Vec<Option<Arc<str>>>, Past>,
}

/// A threshold over the rows of a pipeline.
#[derive(Debug)]
pub struct Threshold {
    config: ThresholdConfig,
    column: usize,
    group: Vec<usize>,
    /// What was seen.
    pub state: ThresholdState,
}

/// A value outside, and what it was held against.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Crossing {
    low: f64,
    high: f64,
}

impl Threshold {
    /// The threshold over rows of `stream`.
    ///
    /// # Errors
    /// The name of the signal or tag that the stream does not have.
    pub fn new(config: ThresholdConfig, stream: &Stream) -> Result<Self, String> {
        let column = stream.signal(&config.signal).ok_or_else(|| format!("there is no signal `{}`", config.signal))?;
        let tag = |name: &Arc<str>| stream.tag(name).ok_or_else(|| format!("there is no tag `{name}`"));
        let group = config.group_by.iter().map(tag).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { config, column, group, state: ThresholdState::default() })
    }

    /// The name.
    pub fn name(&self) -> &Arc<str> {
        &self.config.name
    }

    /// Holds every row of `batch` against it.
    pub fn push(&mut self, pipeline: &Arc<str>, batch: &Batch, book: &mut AlertBook, out: &mut Vec<Output>) {
        for row in 0..batch.rows() {
            let texts: Vec<Option<Arc<str>>> = self.group.iter().map(|tag| batch.tags[*tag].get(row).cloned()).collect();
            if self.state.keys.len() >= KEYS_MAX && !self.state.keys.contains_key(&texts) {
                self.state.keys_refused += 1;
                continue;
            }
            let value = batch.signals[self.column][row];
            let past = self.state.keys.entry(texts).or_default();
            if value.is_finite() {
                let crossing = past.take(&self.config.limit, value, batch.time[row]);
                let begins = crossing.is_some() && !past.crossed;
                (past.crossed, past.missing) = (crossing.is_some(), false);
                self.state.crossed += u64::from(crossing.is_some());
                if let Some(crossing) = crossing.filter(|_| begins) {
                    self.tell(pipeline, batch, row, Some((value, crossing)), book, out);
                }
            } else {
                self.state.missing += 1;
                let begins = !std::mem::replace(&mut past.missing, true);
                if begins {
                    self.tell(pipeline, batch, row, None, book, out);
                }
            }
        }
    }

    fn tell(
        &self,
        pipeline: &Arc<str>,
        batch: &Batch,
        row: usize,
        crossing: Option<(f64, Crossing)>,
        book: &mut AlertBook,
        out: &mut Vec<Output>,
    ) {
        let (name, signal) = (&self.config.name, &self.config.signal);
        let texts = self.group.iter().map(|tag| batch.tags[*tag].get(row).cloned());
        let key: Key = self.config.group_by.iter().cloned().zip(texts).collect();
        let words: Vec<String> = key.iter().map(|(tag, value)| format!("{tag}={}", value.as_deref().unwrap_or("-"))).collect();
        let of = if words.is_empty() { String::new() } else { format!(" of {}", words.join(",")) };
        let kind = if crossing.is_some() { "" } else { " without a value" };
        let metric = format!("threshold {name} {}{kind}", words.join(","));
        let time = Timestamp(batch.time[row]);
        if book.holds_back(pipeline, &metric, self.config.severity, time) {
            return;
        }
        let (message, evidence) = match crossing {
            None => (format!("{name}: a row{of} has no value of `{signal}`"), serde_json::json!({"key": key, "signal": &**signal})),
            Some((value, Crossing { low, high })) => {
                let what = if matches!(self.config.limit, Limit::Rate { .. }) { "changes too fast, to" } else { "is" };
                let finite = |value: f64| value.is_finite().then_some(value);
                let limits = match (finite(low), finite(high)) {
                    (Some(low), Some(high)) => format!("outside {low} to {high}"),
                    (Some(low), None) => format!("below {low}"),
                    (_, high) => format!("above {}", high.unwrap_or(f64::NAN)),
                };
                let evidence = serde_json::json!({
                    "key": key, "signal": &**signal, "value": value, "lower": finite(low), "upper": finite(high),
                });
                (format!("{name}: `{signal}`{of} {what} {value}, {limits}"), evidence)
            }
        };
        let (source, severity, at) = (Arc::clone(name), self.config.severity, batch.seq(row));
        out.extend(book.raise(pipeline, Cause { metric, source, severity, time, at, message, evidence }));
    }
}

impl Past {
    /// Holds `value` against the limit, and remembers it.
    fn take(&mut self, limit: &Limit, value: f64, time: i64) -> Option<Crossing> {
        let within = match limit {
            Limit::Absolute { lower, upper } => {
                Some(Crossing { low: lower.unwrap_or(f64::NEG_INFINITY), high: upper.unwrap_or(f64::INFINITY) })
            }
            Limit::Relative { percent, .. } => self.level().map(|(mean, _)| {
                let room = mean.abs() * percent / 100.0;
                Crossing { low: mean - room, high: mean + room }
            }),
            Limit::Anomaly { deviations, .. } => self.level().filter(|(_, deviation)| *deviation > 0.0).map(|(mean, deviation)| {
                let room = deviations * deviation;
                Crossing { low: mean - room, high: mean + room }
            }),
            Limit::Rate { per_second } => self.last.filter(|(_, before)| time > *before).map(|(last, before)| {
                let room = per_second * (time.saturating_sub(before) as f64 / 1e9);
                Crossing { low: last - room, high: last + room }
            }),
        };
        if self.last.is_none_or(|(_, before)| time >= before) {
            self.last = Some((value, time));
        }
        let window = limit.window();
        if window > 0 {
            if self.values.len() >= window {
                self.values.pop_front();
            }
            self.values.push_back(value);
        }
        within.filter(|within| value < within.low || value > within.high)
    }

    /// Mean and standard deviation of the last values, once there are enough.
    fn level(&self) -> Option<(f64, f64)> {
        let n = self.values.len();
        if n < WINDOW_MIN {
            return None;
        }
        let mean = self.values.iter().sum::<f64>() / n as f64;
        let squares: f64 = self.values.iter().map(|value| (value - mean) * (value - mean)).sum();
        Some((mean, (squares / (n - 1) as f64).sqrt()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Body, Seq},
        quality::alert::AlertConfig,
    };

    /// Rows (1 s apart, numbered from 1) at which an alert is raised without a cooldown.
    fn told(limit: Limit, values: &[f64]) -> (Vec<u64>, ThresholdState) {
        let stream = Arc::new(Stream::new("s", &["x"], &[]));
        let config =
            ThresholdConfig { name: "t".into(), signal: "x".into(), limit, severity: Severity::High, group_by: Vec::new() };
        let mut threshold = Threshold::new(config, &stream).unwrap();
        let mut batch = Batch::new(stream, "t".into(), "t".into(), Timestamp(0));
        batch.time = (0..values.len() as i64).map(|second| second * 1_000_000_000).collect();
        batch.signals[0] = values.to_vec();
        batch.first_seq = Seq(1);
        let (mut book, mut out) = (AlertBook::new(AlertConfig { cooldown_ns: 0, ..AlertConfig::default() }), Vec::new());
        for row in 0..batch.rows() {
            threshold.push(&"p".into(), &batch.take(&[row]), &mut book, &mut out);
        }
        let mut whole = Threshold::new(threshold.config.clone(), &batch.stream).unwrap();
        let mut again = Vec::new();
        let mut book = AlertBook::new(AlertConfig { cooldown_ns: 0, ..AlertConfig::default() });
        whole.push(&"p".into(), &batch, &mut book, &mut again);
        assert_eq!(again, out, "the cut of batches changes nothing");
        assert!(out.iter().all(|output| matches!(output.body, Body::Alert(_))));
        (out.iter().map(|output| output.at.0).collect(), threshold.state)
    }

    #[test]
    fn fixed_limits_are_strict_and_a_run_is_told_once() {
        let limit = Limit::Absolute { lower: Some(1.0), upper: Some(2.0) };
        let (rows, state) = told(limit, &[1.0, 2.0, 2.1, 2.2, 1.5, 0.9]);
        assert_eq!((rows, state.crossed), (vec![3, 6], 3));
    }

    #[test]
    fn a_missing_value_is_told_once_a_run() {
        let limit = Limit::Absolute { lower: None, upper: Some(2.0) };
        let (rows, state) = told(limit, &[1.0, f64::NAN, f64::NAN, 1.0, f64::NAN]);
        assert_eq!((rows, state.missing), (vec![2, 5], 3));
    }

    #[test]
    fn a_relative_limit_follows_the_recent_past_once_there_is_one() {
        let mut values = vec![100.0; 12];
        values[3] = 500.0;
        values.extend([111.0, 100.0, 100.0, 120.0]);
        // Ten values come first: the one at 4 is not judged. 500 is among the last 10 of rows 11 to 14, which are one run below 126.
        let (rows, _) = told(Limit::Relative { percent: 10.0, window: 10 }, &values);
        assert_eq!(rows, [11, 16]);
    }

    #[test]
    fn a_rate_is_per_second_of_event_time_both_ways() {
        let (rows, _) = told(Limit::Rate { per_second: 2.0 }, &[0.0, 2.0, 4.5, 4.0, 1.9, 1.9]);
        assert_eq!(rows, [3, 5]);
    }

    #[test]
    fn an_anomaly_is_so_many_deviations_from_the_recent_past() {
        let mut values: Vec<f64> = (0..20).map(|row| f64::from(row % 2)).collect();
        values.extend([1.4, 1.8, 0.5]);
        let (rows, _) = told(Limit::Anomaly { deviations: 2.0, window: 100 }, &values);
        assert_eq!(rows, [22]);
        let (rows, _) = told(Limit::Anomaly { deviations: 2.0, window: 100 }, &[1.0; 30]);
        assert!(rows.is_empty(), "without variation nothing is judged");
    }

    #[test]
    fn each_key_has_its_own_past() {
        let stream = Arc::new(Stream::new("s", &["x"], &["part"]));
        let limit = Limit::Rate { per_second: 1.0 };
        let config =
            ThresholdConfig { name: "t".into(), signal: "x".into(), limit, severity: Severity::Low, group_by: vec!["part".into()] };
        let mut threshold = Threshold::new(config, &stream).unwrap();
        let mut batch = Batch::new(stream, "t".into(), "t".into(), Timestamp(0));
        batch.time = (0..4).map(|second| second * 1_000_000_000).collect();
        batch.signals[0] = vec![0.0, 100.0, 1.0, 110.0];
        for part in ["a", "b", "a", "b"] {
            batch.tags[0].push(Some(part));
        }
        let (mut book, mut out) = (AlertBook::new(AlertConfig::default()), Vec::new());
        threshold.push(&"p".into(), &batch, &mut book, &mut out);
        let Body::Alert(alert) = &out[0].body else { panic!() };
        assert_eq!((out.len(), alert.message.as_str()), (1, "t: `x` of part=b changes too fast, to 110, outside 98 to 102"));
    }
}

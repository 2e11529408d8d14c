//! Alerts: raised once, then quiet for a while.
//!
//! An alert is known by its metric (a chart and key, a checkpoint, a stale signal …) and its severity. After one was raised, the
//! same metric stays quiet at that severity and below for the cooldown; a higher severity breaks through, and other metrics are not
//! touched. Time is event time, so a replay raises the same alerts. What was held back is counted and told with the next one.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::model::{Alert, Body, Output, Seq, Severity, Timestamp};

/// How alerts behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AlertConfig {
    /// How long the same metric stays quiet at the same severity.
    pub cooldown_ns: i64,
}

impl Default for AlertConfig {
    /// Five minutes, as AM-QADF has it.
    fn default() -> Self {
        Self { cooldown_ns: 300_000_000_000 }
    }
}

/// At most this many metrics are remembered; the one quiet for longest is forgotten first.
const METRICS_MAX: usize = 65_536;

#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
struct Raised {
    severity: Severity,
    time: Timestamp,
    held_back: u64,
}

/// Something that may become an alert.
#[derive(Debug, Clone, PartialEq)]
pub struct Cause {
    /// What the cooldown is kept for.
    pub metric: String,
    /// What raised it, as people know it.
    pub source: Arc<str>,
    /// How much it matters.
    pub severity: Severity,
    /// Event time.
    pub time: Timestamp,
    /// The row at which it came about.
    pub at: Seq,
    /// What happened, to what, and what to do.
    pub message: String,
    /// The figures behind it.
    pub evidence: serde_json::Value,
}

/// The memory of what was raised when.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
pub struct AlertBook {
    cooldown_ns: i64,
    raised: BTreeMap<String, Raised>,
}

impl AlertBook {
    /// An empty book.
    pub fn new(config: AlertConfig) -> Self {
        Self { cooldown_ns: config.cooldown_ns, raised: BTreeMap::new() }
    }

    /// How it behaves.
    pub const fn config(&self) -> AlertConfig {
        AlertConfig { cooldown_ns: self.cooldown_ns }
    }

    /// Takes over another cooldown, as after a reload.
    pub fn reconfigure(&mut self, config: AlertConfig) {
        self.cooldown_ns = config.cooldown_ns;
    }

    /// The alert that `cause` makes, unless its metric is in its cooldown.
    pub fn raise(&mut self, pipeline: &Arc<str>, cause: Cause) -> Option<Output> {
        let mut message = cause.message;
        if let Some(last) = self.raised.get_mut(&cause.metric) {
            let quiet = cause.time.since(last.time) < self.cooldown_ns;
            if quiet && cause.severity <= last.severity {
                last.held_back += 1;
                return None;
            }
            if last.held_back > 0 {
                use std::fmt::Write;
                let _ = write!(message, " ({} more held back since {})", last.held_back, last.time);
            }
        }
        if self.raised.len() >= METRICS_MAX && !self.raised.contains_key(&cause.metric) {
            self.forget_oldest();
        }
        let id = format!("alert:{pipeline}:{}:{}:{}", escape(&cause.metric), name(cause.severity), cause.time.0);
        self.raised.insert(cause.metric, Raised { severity: cause.severity, time: cause.time, held_back: 0 });
        let (severity, source, time, evidence) = (cause.severity, cause.source, cause.time, cause.evidence);
        Some(Output::new(id, pipeline, cause.at, Body::Alert(Alert { severity, source, time, message, evidence })))
    }

    fn forget_oldest(&mut self) {
        let oldest = self.raised.iter().min_by_key(|(_, raised)| raised.time).map(|(metric, _)| metric.clone());
        if let Some(metric) = oldest {
            self.raised.remove(&metric);
        }
    }
}

/// The word for a severity, as in JSON.
pub const fn name(severity: Severity) -> &'static str {
    match severity {
        Severity::Low => "low",
        Severity::Medium => "medium",
        Severity::High => "high",
        Severity::Critical => "critical",
    }
}

/// `text` without the characters that separate the parts of an id.
fn escape(text: &str) -> String {
    text.replace('%', "%25").replace(':', "%3A")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(metric: &str, severity: Severity, seconds: i64) -> Cause {
        Cause {
            metric: metric.into(),
            source: metric.into(),
            severity,
            time: Timestamp(seconds * 1_000_000_000),
            at: Seq(0),
            message: "look".into(),
            evidence: serde_json::Value::Null,
        }
    }

    #[test]
    fn one_metric_does_not_hide_another_and_a_higher_severity_breaks_through() {
        let mut book = AlertBook::new(AlertConfig::default());
        let pipeline: Arc<str> = "p".into();
        let mut raised = |metric: &str, severity, seconds| book.raise(&pipeline, cause(metric, severity, seconds)).is_some();
        assert!(raised("temperature", Severity::Medium, 0));
        assert!(!raised("temperature", Severity::Medium, 299));
        assert!(raised("laser_power", Severity::Medium, 1));
        assert!(raised("temperature", Severity::High, 2));
        assert!(!raised("temperature", Severity::Medium, 3));
        assert!(raised("temperature", Severity::Medium, 302));
    }

    #[test]
    fn what_was_held_back_is_told_with_the_next() {
        let mut book = AlertBook::new(AlertConfig { cooldown_ns: 10_000_000_000 });
        let pipeline: Arc<str> = "p".into();
        for seconds in 0..5 {
            book.raise(&pipeline, cause("m", Severity::Low, seconds));
        }
        let next = book.raise(&pipeline, cause("m", Severity::Low, 11));
        let Some(Output { body: Body::Alert(alert), .. }) = next else { panic!("no alert") };
        assert_eq!(alert.message, "look (4 more held back since 1970-01-01T00:00:00Z)");
    }
}

//! Alerts: raised once, then quiet for a while; known until somebody takes note of them, louder if nobody does.
//!
//! An alert is known by its pipeline, its metric (a chart, key and rule; a checkpoint; a silent signal …) and its severity. After one was
//! raised, the same metric stays quiet at that severity and below for the cooldown; a higher severity breaks through, and other metrics
//! are not touched. Cooldowns run in event time, so a replay raises the same alerts. What was held back is counted and told with the
//! next one.
//!
//! An alert that nobody acknowledged for `escalate_after`, by the appliance's clock, is raised again one severity higher, up to
//! critical. Acknowledging any of the alerts of such a row of escalations ends it.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::model::{Alert, Body, Output, Seq, Severity, Timestamp};

/// How alerts behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AlertConfig {
    /// How long the same metric stays quiet at the same severity.
    pub cooldown_ns: i64,
    /// After how long without acknowledgement an alert is raised again, one severity higher; `None` = never.
    pub escalate_after_ns: Option<i64>,
}

impl Default for AlertConfig {
    /// Five minutes, as AM-QADF has it; no escalation.
    fn default() -> Self {
        Self { cooldown_ns: 300_000_000_000, escalate_after_ns: None }
    }
}

/// At most this many metrics are remembered; the one quiet for longest is forgotten first.
const METRICS_MAX: usize = 65_536;
/// Alerts in the history: acknowledged ones leave first, then the oldest.
pub const HISTORY_MAX: usize = 1000;

#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
struct Raised {
    severity: Severity,
    time: Timestamp,
    held_back: u64,
}

/// Something that may become an alert.
#[derive(Debug, Clone, PartialEq)]
pub struct Cause {
    /// What the cooldown is kept for, within its pipeline.
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

/// Who took note of an alert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledged {
    /// A person's name.
    pub name: Arc<str>,
    /// What they said.
    pub note: Arc<str>,
    /// When.
    pub time: Timestamp,
}

/// An alert that was raised, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its id, then those of its escalations.
    pub ids: Vec<String>,
    /// The pipeline; `appliance` for what concerns no single one.
    pub pipeline: Arc<str>,
    /// What raised it.
    pub source: Arc<str>,
    /// How much it matters by now.
    pub severity: Severity,
    /// Event time.
    pub time: Timestamp,
    /// What happened.
    pub message: String,
    /// The figures behind it, as JSON.
    pub evidence: String,
    /// Who took note, if anybody did.
    pub acknowledged: Option<Acknowledged>,
    metric: String,
    /// When it became what it is, by the appliance's clock.
    since: Timestamp,
}

/// Which alerts of the history are wanted; `None` = any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// At least this severe.
    pub severity: Option<Severity>,
    /// Raised by this source.
    pub source: Option<Arc<str>>,
    /// Acknowledged, or not.
    pub acknowledged: Option<bool>,
    /// Not before this event time.
    pub from: Option<Timestamp>,
}

impl Filter {
    fn takes(&self, record: &Record) -> bool {
        self.severity.is_none_or(|least| record.severity >= least)
            && self.source.as_ref().is_none_or(|source| *source == record.source)
            && self.acknowledged.is_none_or(|wanted| record.acknowledged.is_some() == wanted)
            && self.from.is_none_or(|from| record.time >= from)
    }
}

/// The memory of what was raised when, and what became of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
pub struct AlertBook {
    cooldown_ns: i64,
    escalate_after_ns: Option<i64>,
    /// The appliance's clock, as far as it is known.
    clock: Timestamp,
    raised: BTreeMap<String, Raised>,
    /// Oldest first. Stored apart, as it is large and seldom changes.
    #[serde(skip)]
    history: VecDeque<Record>,
    /// Whether the history has changed since it was last taken.
    #[serde(skip)]
    changed: bool,
}

impl AlertBook {
    /// An empty book.
    pub fn new(config: AlertConfig) -> Self {
        let mut book = Self { clock: Timestamp::MIN, ..Self::default() };
        book.reconfigure(config);
        book
    }

    /// How it behaves.
    pub const fn config(&self) -> AlertConfig {
        AlertConfig { cooldown_ns: self.cooldown_ns, escalate_after_ns: self.escalate_after_ns }
    }

    /// The history, if it has changed since this was last asked.
    pub fn take_changed_history(&mut self) -> Option<&VecDeque<Record>> {
        std::mem::take(&mut self.changed).then_some(&self.history)
    }

    /// Goes on with a stored history; more than [`HISTORY_MAX`] records are cut.
    pub fn set_history(&mut self, mut history: VecDeque<Record>) {
        history.drain(..history.len().saturating_sub(HISTORY_MAX));
        self.history = history;
    }

    /// Takes over other times, as after a reload.
    pub const fn reconfigure(&mut self, config: AlertConfig) {
        (self.cooldown_ns, self.escalate_after_ns) = (config.cooldown_ns, config.escalate_after_ns);
    }

    /// The appliance's clock went by `step_ns`: nothing escalates sooner or later because of that.
    pub fn clock_was_set(&mut self, step_ns: i64) {
        self.clock = self.clock.by_set_clock(step_ns);
        for record in &mut self.history {
            record.since = record.since.by_set_clock(step_ns);
            self.changed = true;
        }
    }

    /// It is `now`, by the appliance's clock, which goes back only when it is set.
    pub fn set_clock(&mut self, now: Timestamp) {
        self.clock = self.clock.max(now);
    }

    /// Whether a cause would be held back now; if so, it counts as held back. For causes that are expensive to put into words.
    pub fn holds_back(&mut self, pipeline: &str, metric: &str, severity: Severity, time: Timestamp) -> bool {
        match self.raised.get_mut(&place(pipeline, metric)) {
            Some(last) if time.since(last.time) < self.cooldown_ns && severity <= last.severity => {
                last.held_back += 1;
                true
            }
            _ => false,
        }
    }

    /// The alert that `cause` makes, unless its metric is in its cooldown.
    pub fn raise(&mut self, pipeline: &Arc<str>, cause: Cause) -> Option<Output> {
        if self.holds_back(pipeline, &cause.metric, cause.severity, cause.time) {
            return None;
        }
        let Cause { metric, source, severity, time, at, mut message, evidence } = cause;
        let place = place(pipeline, &metric);
        if let Some(last) = self.raised.get(&place).filter(|last| last.held_back > 0) {
            // Writing to a String cannot fail.
            let _ = write!(message, " ({} more held back since {})", last.held_back, last.time);
        }
        if self.raised.len() >= METRICS_MAX && !self.raised.contains_key(&place) {
            self.forget_oldest();
        }
        self.raised.insert(place, Raised { severity, time, held_back: 0 });
        let id = id(pipeline, &metric, severity, time);
        self.remember(Record {
            ids: vec![id.clone()],
            pipeline: Arc::clone(pipeline),
            source: Arc::clone(&source),
            severity,
            time,
            message: message.clone(),
            evidence: evidence.to_string(),
            acknowledged: None,
            metric,
            since: self.clock,
        });
        Some(Output::new(id, pipeline, at, Body::Alert(Alert { severity, source, time, message, evidence })))
    }

    fn remember(&mut self, record: Record) {
        self.changed = true;
        if self.history.len() >= HISTORY_MAX {
            let first = self.history.iter().position(|record| record.acknowledged.is_some()).unwrap_or(0);
            self.history.remove(first);
        }
        self.history.push_back(record);
    }

    fn forget_oldest(&mut self) {
        let oldest = self.raised.iter().min_by_key(|(_, raised)| raised.time).map(|(metric, _)| metric.clone());
        if let Some(metric) = oldest {
            self.raised.remove(&metric);
        }
    }

    /// Somebody takes note of the alert `id` (or of what it escalates); whether it is known. The first to do so is remembered.
    pub fn acknowledge(&mut self, id: &str, who: Acknowledged) -> bool {
        let Some(record) = self.history.iter_mut().rev().find(|record| record.ids.iter().any(|known| known == id)) else {
            return false;
        };
        record.acknowledged.get_or_insert(who);
        self.changed = true;
        true
    }

    /// By the appliance's clock: when the next alert escalates.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let after = self.escalate_after_ns?;
        self.history.iter().filter(|record| record.escalates()).map(|record| record.since.saturating_add(after)).min()
    }

    /// Raises again, one severity higher, what nobody took note of in time. `at` is the newest row.
    pub fn escalate(&mut self, at: Seq) -> Vec<Output> {
        let Some(after) = self.escalate_after_ns else { return Vec::new() };
        let now = self.clock;
        let due = self.history.iter_mut().filter(|record| record.escalates() && now.since(record.since) >= after);
        let outputs: Vec<Output> = due.map(|record| record.escalate(now, at)).collect();
        self.changed |= !outputs.is_empty();
        for output in &outputs {
            // The louder one holds back what follows, like any other.
            if let Body::Alert(alert) = &output.body
                && let Some(record) = self.history.iter().find(|one| one.ids.contains(&output.id))
                && let Some(last) = self.raised.get_mut(&place(&record.pipeline, &record.metric))
            {
                last.severity = last.severity.max(alert.severity);
            }
        }
        outputs
    }

    /// The alert `id`, or that of which `id` is an escalation.
    pub fn find(&self, id: &str) -> Option<&Record> {
        self.history.iter().rev().find(|record| record.ids.iter().any(|known| known == id))
    }

    /// What was raised, newest first.
    pub fn history<'a>(&'a self, filter: &'a Filter) -> impl Iterator<Item = &'a Record> {
        self.history.iter().rev().filter(|record| filter.takes(record))
    }
}

impl Record {
    fn escalates(&self) -> bool {
        // One that was raised before there was a clock has no age.
        self.acknowledged.is_none() && self.severity < Severity::Critical && self.since > Timestamp::MIN
    }

    fn escalate(&mut self, now: Timestamp, at: Seq) -> Output {
        self.severity = match self.severity {
            Severity::Low => Severity::Medium,
            Severity::Medium => Severity::High,
            Severity::High | Severity::Critical => Severity::Critical,
        };
        let first = self.ids.first().cloned().unwrap_or_default();
        let id = format!("{first}:{}", self.severity.name());
        let evidence = serde_json::json!({"escalates": first, "raised": self.time, "unacknowledged_since": self.since});
        let message = format!("not acknowledged since {}: {}", self.since, self.message);
        self.ids.push(id.clone());
        self.since = now;
        let (severity, source) = (self.severity, Arc::clone(&self.source));
        Output::new(id, &self.pipeline, at, Body::Alert(Alert { severity, source, time: now, message, evidence }))
    }
}

/// What the cooldown is kept for.
fn place(pipeline: &str, metric: &str) -> String {
    format!("{}:{metric}", escape(pipeline))
}

fn id(pipeline: &str, metric: &str, severity: Severity, time: Timestamp) -> String {
    format!("alert:{}:{}:{}:{}", escape(pipeline), escape(metric), severity.name(), time.0)
}

/// `text` without the characters that separate the parts of an id.
fn escape(text: &str) -> String {
    text.replace('%', "%25").replace(':', "%3A")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn cause(metric: &str, severity: Severity, seconds: i64) -> Cause {
        Cause {
            metric: metric.into(),
            source: metric.into(),
            severity,
            time: Timestamp(seconds * SECOND),
            at: Seq(0),
            message: "look".into(),
            evidence: serde_json::Value::Null,
        }
    }

    fn alert(output: &Output) -> &Alert {
        let Body::Alert(alert) = &output.body else { panic!("no alert") };
        alert
    }

    #[test]
    fn one_metric_does_not_hide_another_and_a_higher_severity_breaks_through() {
        let mut book = AlertBook::new(AlertConfig::default());
        let (one, other): (Arc<str>, Arc<str>) = ("p".into(), "q".into());
        let mut raised =
            |pipeline: &Arc<str>, metric: &str, severity, seconds| book.raise(pipeline, cause(metric, severity, seconds)).is_some();
        assert!(raised(&one, "temperature", Severity::Medium, 0));
        assert!(!raised(&one, "temperature", Severity::Medium, 299));
        assert!(raised(&one, "laser_power", Severity::Medium, 1));
        assert!(raised(&other, "temperature", Severity::Medium, 1));
        assert!(raised(&one, "temperature", Severity::High, 2));
        assert!(!raised(&one, "temperature", Severity::Medium, 3));
        assert!(raised(&one, "temperature", Severity::Medium, 302));
    }

    #[test]
    fn what_was_held_back_is_told_with_the_next() {
        let mut book = AlertBook::new(AlertConfig { cooldown_ns: 10 * SECOND, ..AlertConfig::default() });
        let pipeline: Arc<str> = "p".into();
        for seconds in 0..5 {
            book.raise(&pipeline, cause("m", Severity::Low, seconds));
        }
        let next = book.raise(&pipeline, cause("m", Severity::Low, 11)).unwrap();
        assert_eq!(alert(&next).message, "look (4 more held back since 1970-01-01T00:00:00Z)");
    }

    #[test]
    fn an_alert_that_nobody_acknowledges_gets_louder_until_somebody_does() {
        let config = AlertConfig { escalate_after_ns: Some(60 * SECOND), ..AlertConfig::default() };
        let mut book = AlertBook::new(config);
        let pipeline: Arc<str> = "p".into();
        book.set_clock(Timestamp(100 * SECOND));
        let first = book.raise(&pipeline, cause("m", Severity::Medium, 5)).unwrap();
        assert_eq!(book.next_deadline(), Some(Timestamp(160 * SECOND)));
        book.set_clock(Timestamp(159 * SECOND));
        assert!(book.escalate(Seq(7)).is_empty());
        book.set_clock(Timestamp(160 * SECOND));
        let louder = book.escalate(Seq(7)).remove(0);
        assert_eq!((alert(&louder).severity, louder.at), (Severity::High, Seq(7)));
        assert_eq!(louder.id, format!("{}:high", first.id));
        assert!(alert(&louder).message.contains("not acknowledged since"));
        // The louder one keeps the metric quiet.
        assert!(book.raise(&pipeline, cause("m", Severity::High, 6)).is_none());

        let who = Acknowledged { name: "ada".into(), note: "on it".into(), time: Timestamp(170 * SECOND) };
        assert!(!book.acknowledge("alert:nix", who.clone()));
        assert!(book.acknowledge(&format!("{}:high", first.id), who.clone()));
        let later = Acknowledged { name: "bob".into(), ..who.clone() };
        assert!(book.acknowledge(&first.id, later));
        assert_eq!(book.history(&Filter::default()).next().unwrap().acknowledged, Some(who));
        book.set_clock(Timestamp(1000 * SECOND));
        assert_eq!((book.next_deadline(), book.escalate(Seq(8)).len()), (None, 0));
    }

    #[test]
    fn critical_is_as_loud_as_it_gets() {
        let mut book = AlertBook::new(AlertConfig { escalate_after_ns: Some(SECOND), ..AlertConfig::default() });
        book.set_clock(Timestamp(0));
        book.raise(&"p".into(), cause("m", Severity::Low, 0));
        for (seconds, want) in [(1, Some(Severity::Medium)), (2, Some(Severity::High)), (3, Some(Severity::Critical)), (9, None)] {
            book.set_clock(Timestamp(seconds * SECOND));
            assert_eq!(book.escalate(Seq(0)).first().map(|output| alert(output).severity), want);
        }
        assert_eq!(book.history(&Filter::default()).next().unwrap().ids.len(), 4);
    }

    #[test]
    fn the_history_is_bounded_filtered_and_newest_first() {
        let mut book = AlertBook::new(AlertConfig { cooldown_ns: 0, ..AlertConfig::default() });
        let pipeline: Arc<str> = "p".into();
        for i in 0..HISTORY_MAX as i64 + 5 {
            let severity = if i % 100 == 0 { Severity::High } else { Severity::Low };
            let raised = book.raise(&pipeline, cause("m", severity, i)).unwrap();
            if i == 3 {
                book.acknowledge(&raised.id, Acknowledged { name: "a".into(), note: "".into(), time: Timestamp(0) });
            }
        }
        let all: Vec<i64> = book.history(&Filter::default()).map(|record| record.time.0 / SECOND).collect();
        assert_eq!((all.len(), all[0], all[HISTORY_MAX - 1]), (HISTORY_MAX, 1004, 4 + 1 - 1 + 1));
        assert!(!all.contains(&3), "what somebody took note of leaves first");
        let filter = Filter { severity: Some(Severity::High), from: Some(Timestamp(500 * SECOND)), ..Filter::default() };
        let high: Vec<i64> = book.history(&filter).map(|record| record.time.0 / SECOND).collect();
        assert_eq!(high, [1000, 900, 800, 700, 600, 500]);
        assert_eq!(book.history(&Filter { acknowledged: Some(true), ..Filter::default() }).count(), 0);
    }
}

//! What a chart says: result objects, the onsets that alerts are made of, and counters.
//!
//! This is the only place that allocates while points are judged, and it is reached only for points that are shown.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    judge::{Judged, Sums},
    key::result_id,
    lines::line,
    rules::{Rule, RuleMask, prioritise, shared_name},
    setup::Setup,
    state::KeyState,
};
use crate::model::{Body, Capability, Key, Limits, Output, Seq, Severity, SpcPoint, Spread, Timestamp};

/// Points of a CUSUM run named as evidence: the newest ones.
const EVIDENCE_MAX: u64 = 100;
/// Onsets kept until they are drained.
const ONSETS_MAX: usize = 10_000;

/// Which points become results; `limits` and `capability` always do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emit {
    /// All of them.
    All,
    /// Those that violate a rule, and the first of several that cannot be judged.
    Changes,
}

/// Who changed a baseline, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    /// A person's name.
    pub author: Arc<str>,
    /// The assignable cause, the change of process.
    pub reason: Arc<str>,
}

/// What happened on a chart since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Rows that reached the chart.
    pub rows: u64,
    /// Points formed.
    pub points: u64,
    /// Points that should have been there: without a value, of bad quality, empty time slots.
    pub missing: u64,
    /// Points that violate a rule.
    pub violations: u64,
    /// Points without limits to judge them by.
    pub unjudged: u64,
    /// Rows whose count or size is impossible; their point is missing.
    pub invalid: u64,
    /// Rows of a time slot that was over, or without the layer or tag that subgroups go by.
    pub unplaced: u64,
    /// Rows of keys beyond the bound.
    pub keys_refused: u64,
    /// Onsets beyond the bound, not handed out.
    pub onsets_lost: u64,
}

/// A rule's pattern began to hold (its first point of a run), or points began to be unjudged: what an alert is for.
#[derive(Debug, Clone, PartialEq)]
pub struct Onset {
    /// The chart's id.
    pub chart: Arc<str>,
    /// The key.
    pub key: Key,
    /// The point.
    pub index: u64,
    /// Its event time.
    pub time: Timestamp,
    /// The row that completed the point.
    pub at: Seq,
    /// The rules; none for a point that cannot be judged.
    pub rules: RuleMask,
    /// The same for the R, S or moving-range half.
    pub spread_rules: RuleMask,
    /// That of the most urgent rule.
    pub severity: Severity,
    /// What was plotted.
    pub statistic: Option<f64>,
    /// Centre line.
    pub center: Option<f64>,
    /// Lower control limit.
    pub lcl: Option<f64>,
    /// Upper control limit.
    pub ucl: Option<f64>,
    /// Why the point cannot be judged.
    pub status: Option<String>,
}

impl Onset {
    /// What happened, for a person.
    pub fn message(&self) -> String {
        if let Some(status) = &self.status {
            return format!("chart `{}`, point {}: {status}", self.chart, self.index);
        }
        let mut rules: Vec<String> = prioritise(self.rules).into_iter().map(|rule| rule.name().to_owned()).collect();
        rules.extend(prioritise(self.spread_rules).into_iter().map(|rule| format!("{} on the spread", rule.name())));
        let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value}"));
        format!(
            "chart `{}`, point {}: {} (statistic {}, limits {} to {})",
            self.chart,
            self.index,
            rules.join(", "),
            number(self.statistic),
            number(self.lcl),
            number(self.ucl)
        )
    }
}

/// Where a key's results go.
pub(super) struct Sink<'a> {
    pub emit: Emit,
    pub out: &'a mut Vec<Output>,
    pub onsets: &'a mut Vec<Onset>,
    pub counts: &'a mut Counters,
    pub key: &'a Key,
    /// The middle of its ids.
    pub stem: &'a str,
    /// The row that is being looked at.
    pub at: Seq,
    /// The text that was looked up for limits or nominal values.
    pub lookup: Option<&'a str>,
}

impl Sink<'_> {
    #[inline]
    pub fn wants_all(&self) -> bool {
        self.emit == Emit::All
    }

    fn push(&mut self, setup: &Setup, body: Body, number: u64) {
        let id = result_id(body.kind(), self.stem, number);
        self.out.push(Output::new(id, &setup.pipeline, self.at, body));
    }

    pub fn limits(&mut self, setup: &Setup, limits: Limits, version: u32) {
        let limits = Limits { key: self.key.clone(), ..limits };
        self.push(setup, Body::Limits(Box::new(limits)), u64::from(version));
    }

    pub fn capability(&mut self, setup: &Setup, capability: Capability) {
        let n = capability.n;
        let capability = Capability { chart: Arc::clone(&setup.config.id), key: self.key.clone(), ..capability };
        self.push(setup, Body::Capability(Box::new(capability)), n);
    }

    /// A point; `offset` is what a multivariate chart squared.
    #[expect(clippy::too_many_arguments, reason = "each is one field of the result")]
    pub fn point(
        &mut self,
        setup: &Setup,
        index: u64,
        time: i64,
        judged: &Judged,
        state: &KeyState,
        offset: &[f64],
        phase: u8,
        status: Option<String>,
    ) {
        let sums = judged.sums;
        let spread_lines = state.judge.lines.spread;
        let in_phase_2 = phase == 2 && judged.center.is_finite();
        let spread_line = |value: f64| if in_phase_2 { line(value) } else { None };
        let spread = (setup.config.half() != super::config::Half::None).then(|| Spread {
            statistic: line(judged.spread),
            center: spread_line(spread_lines.center),
            lcl: spread_line(spread_lines.lcl),
            ucl: spread_line(spread_lines.ucl),
            violations: judged.spread_rules.names(),
        });
        let point = SpcPoint {
            chart: Arc::clone(&setup.config.id),
            key: self.key.clone(),
            index,
            time: Timestamp(time),
            statistic: line(judged.statistic),
            center: line(judged.center),
            lcl: line(judged.lcl),
            ucl: line(judged.ucl),
            spread,
            upper: sums.map(|sums| sums.upper),
            lower: sums.map(|sums| sums.lower),
            h: sums.map(|sums| sums.h),
            n_upper: sums.map(|sums| sums.n_upper),
            n_lower: sums.map(|sums| sums.n_lower),
            contributions: contributions(setup, state, offset),
            violations: judged.rules.names(),
            evidence: evidence(setup, state, judged, index),
            phase,
            status,
        };
        self.push(setup, Body::Spc(Box::new(point)), index);
    }

    pub fn onset(&mut self, setup: &Setup, index: u64, time: i64, judged: &Judged, [rules, spread]: [RuleMask; 2]) {
        if rules.is_empty() && spread.is_empty() {
            return;
        }
        let severity = rules.or(spread).iter().map(Rule::severity).max().unwrap_or(Severity::Low);
        let onset = Onset {
            chart: Arc::clone(&setup.config.id),
            key: self.key.clone(),
            index,
            time: Timestamp(time),
            at: self.at,
            rules,
            spread_rules: spread,
            severity,
            statistic: line(judged.statistic),
            center: line(judged.center),
            lcl: line(judged.lcl),
            ucl: line(judged.ucl),
            status: None,
        };
        self.keep(onset);
    }

    pub fn unjudged(&mut self, setup: &Setup, index: u64, time: i64, status: String) {
        let onset = Onset {
            chart: Arc::clone(&setup.config.id),
            key: self.key.clone(),
            index,
            time: Timestamp(time),
            at: self.at,
            rules: RuleMask::NONE,
            spread_rules: RuleMask::NONE,
            severity: Severity::Medium,
            statistic: None,
            center: None,
            lcl: None,
            ucl: None,
            status: Some(status),
        };
        self.keep(onset);
    }

    fn keep(&mut self, onset: Onset) {
        if self.onsets.len() < ONSETS_MAX {
            self.onsets.push(onset);
        } else {
            self.counts.onsets_lost += 1;
        }
    }
}

fn contributions(setup: &Setup, state: &KeyState, offset: &[f64]) -> BTreeMap<Arc<str>, f64> {
    match &state.frozen {
        Some(super::lines::Frozen::Vector { ellipsoid, .. }) if offset.len() == ellipsoid.signals() => {
            setup.config.signals.iter().cloned().zip(ellipsoid.contributions(offset)).collect()
        }
        _ => BTreeMap::new(),
    }
}

/// The points behind each rule that fired on the statistic.
fn evidence(setup: &Setup, state: &KeyState, judged: &Judged, index: u64) -> BTreeMap<Arc<str>, Vec<u64>> {
    let points = |rule: Rule| match (judged.sums, rule) {
        (Some(Sums { since_upper, .. }), Rule::CusumUpper) => run(since_upper, index),
        (Some(Sums { since_lower, .. }), Rule::CusumLower) => run(since_lower, index),
        _ => state.judge.rules.evidence(rule, index, &setup.plan),
    };
    let mut evidence = BTreeMap::new();
    for rule in judged.rules.iter() {
        evidence.insert(shared_name(rule), points(rule));
    }
    evidence
}

fn run(first: u64, last: u64) -> Vec<u64> {
    (first.max(last.saturating_sub(EVIDENCE_MAX - 1))..=last).collect()
}

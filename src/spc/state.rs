//! One chart for one key: Phase I, frozen limits, Phase II.
//!
//! Indices count from 0 through both phases, missing points included. Limits are used as they are from the moment they are frozen; only
//! [`KeyState::rebaseline`] and [`KeyState::exclude`] change them, and both leave a new version. Run rules and moving ranges go on from
//! Phase I into Phase II; averages and sums (EWMA, CUSUM, moving average, MEWMA) start there at the centre.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    baseline::{Baseline, WithinSum},
    config::{ChartKind, Half, Spec},
    emit::{Act, Sink},
    judge::{Judge, Judged, attribute_statistic},
    lines::Frozen,
    moments::{Moments, Running},
    recent::Recent,
    rules::RuleMask,
    sample::{Open, Sample},
    setup::Setup,
};
/// Where a key stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Phase {
    /// Phase I.
    Collecting,
    /// Phase II.
    Judging,
    /// The baseline was full and gave no limits, for this reason.
    Failed(Arc<str>),
}

/// What charted rows add up to, for capability.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Totals {
    pub rows: Running,
    /// Rows outside the specification.
    pub outside: u64,
    pub within: WithinSum,
    /// The individual before, `NaN` after a break.
    pub last: f64,
    /// Rows behind the capability said last.
    pub said: u64,
}

impl Default for Totals {
    fn default() -> Self {
        Self { rows: Running::default(), outside: 0, within: WithinSum::default(), last: f64::NAN, said: 0 }
    }
}

impl Totals {
    /// Adds a row that is a point by itself.
    #[inline]
    pub fn individual(&mut self, value: f64, spec: &Spec) {
        self.rows.push(value);
        self.outside += u64::from(spec.excludes(value));
        let range = (value - self.last).abs();
        if !range.is_nan() {
            self.within.moving_range(range);
        }
        self.last = value;
    }
}

/// What the rows at hand are judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Context {
    /// There is one source of limits.
    Always,
    /// Entry of the table of limits or of nominal values.
    Entry(u32),
    /// A text that the table does not have.
    Unknown,
}

/// The whole state of one key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct KeyState {
    pub next_index: u64,
    pub version: u32,
    pub phase: Phase,
    pub frozen: Option<Frozen>,
    pub judge: Judge,
    pub open: Option<Box<Open>>,
    /// Shared with a snapshot that is being written: once it is full it changes only when somebody asks.
    pub baseline: Option<Arc<Baseline>>,
    pub totals: Option<Box<Totals>>,
    pub context: Context,
    /// What the newest point violated: an alert is for the first point of a run.
    pub fired: RuleMask,
    pub spread_fired: RuleMask,
    /// Whether the newest point could not be judged.
    pub unjudged: bool,
    /// Who asked for the baseline that is being collected.
    pub asked: Option<Box<Act>>,
    pub recent: Option<Box<Recent>>,
}

impl KeyState {
    pub fn new(setup: &Setup) -> Self {
        let collecting = setup.baseline_points() > 0;
        let judge = setup.fixed.as_ref().map_or_else(Judge::idle, |frozen| Judge::new(setup, frozen));
        Self {
            next_index: 0,
            version: 0,
            phase: if collecting { Phase::Collecting } else { Phase::Judging },
            frozen: setup.fixed.clone(),
            judge,
            open: None,
            baseline: collecting.then(|| Arc::new(Baseline::for_points(setup.baseline_points(), &setup.config))),
            totals: setup.config.spec.is_some().then(Box::default),
            context: Context::Always,
            fired: RuleMask::NONE,
            spread_fired: RuleMask::NONE,
            unjudged: false,
            asked: None,
            recent: None,
        }
    }

    /// Whether the parts of a restored state fit the chart.
    pub fn is_consistent(&self, setup: &Setup) -> bool {
        let vectors = match &self.frozen {
            Some(Frozen::Vector { ellipsoid, .. }) => {
                setup.config.kind.is_multivariate() && ellipsoid.signals() == setup.columns.len() && ellipsoid.is_consistent()
            }
            Some(Frozen::Scalar { .. }) => !setup.config.kind.is_multivariate(),
            None => true,
        };
        vectors
            && self.baseline.as_ref().is_none_or(|baseline| baseline.is_consistent(&setup.config))
            && self.recent.as_ref().is_none_or(|recent| recent.is_consistent())
            && !matches!(self.context, Context::Entry(entry) if entry as usize >= setup.known.len().max(setup.nominal.len()))
    }

    pub fn break_runs(&mut self) {
        self.judge.break_runs();
        (self.fired, self.spread_fired) = (RuleMask::NONE, RuleMask::NONE);
        if let Some(totals) = &mut self.totals {
            totals.last = f64::NAN;
        }
    }

    /// `count` points that should be there and are not.
    pub fn missing(&mut self, count: u64, sink: &mut Sink<'_>) {
        self.next_index = self.next_index.saturating_add(count);
        sink.counts.missing = sink.counts.missing.saturating_add(count);
        self.break_runs();
    }

    /// The rows that follow are judged by something else.
    pub fn switch(&mut self, setup: &Setup, context: Context) {
        self.context = context;
        if let (Context::Entry(entry), false) = (context, setup.known.is_empty()) {
            self.break_runs();
            let frozen = setup.known.get(entry as usize).map(|(_, known)| setup.scalar(known));
            if let Some(frozen) = &frozen {
                self.judge = Judge::new(setup, frozen);
            }
            self.frozen = frozen;
        }
        if context == Context::Unknown {
            self.break_runs();
        }
    }

    /// A complete point. `row` holds the signals of a multivariate chart.
    pub fn point(&mut self, setup: &Setup, sample: &Sample, row: &[f64], time: i64, sink: &mut Sink<'_>) {
        let index = self.next_index;
        self.next_index += 1;
        sink.counts.points += 1;
        if self.context == Context::Unknown {
            let judged = plotted(setup, sample);
            let text = sink.lookup.unwrap_or("null").to_owned();
            return self
                .unjudged(setup, index, time, &judged, sink, |tag| format!("`{tag}` {text} has no limits here: not judged"));
        }
        match &self.phase {
            Phase::Collecting => self.collect(setup, index, sample, row, time, sink),
            Phase::Failed(reason) => {
                let reason = Arc::clone(reason);
                let judged = plotted(setup, sample);
                self.unjudged(setup, index, time, &judged, sink, |_| reason.to_string());
            }
            Phase::Judging => self.judge_point(setup, index, sample, row, time, sink),
        }
    }

    fn judge_point(&mut self, setup: &Setup, index: u64, sample: &Sample, row: &[f64], time: i64, sink: &mut Sink<'_>) {
        let Some(frozen) = &self.frozen else { return };
        let mut offset = [0.0; 32];
        let offset = &mut offset[..row.len().min(32)];
        let judged = match frozen {
            Frozen::Scalar { .. } => self.judge.scalar(setup, frozen, sample, index),
            Frozen::Vector { ellipsoid, ucl } => self.judge.vector(setup, ellipsoid, *ucl, row, offset),
        };
        if judged.too_large {
            return self.unjudged(setup, index, time, &judged, sink, |_| {
                "a range of more than 100 rows has no constants: use xbar_s".to_owned()
            });
        }
        self.add_totals(setup, sample);
        self.record(setup, index, time, &judged, offset, sink);
    }

    /// Shows and says a judged point.
    #[inline]
    pub fn record(&mut self, setup: &Setup, index: u64, time: i64, judged: &Judged, offset: &[f64], sink: &mut Sink<'_>) {
        if let Some(recent) = &mut self.recent {
            recent.push(index, time, judged, 2);
        }
        self.tell(setup, index, time, judged, offset, sink);
    }

    /// Says a judged point if it is to be said.
    #[inline]
    pub fn tell(&mut self, setup: &Setup, index: u64, time: i64, judged: &Judged, offset: &[f64], sink: &mut Sink<'_>) {
        self.unjudged = false;
        let quiet = judged.rules.is_empty() && judged.spread_rules.is_empty();
        if !quiet || sink.wants_all() {
            self.announce(setup, index, time, judged, offset, sink);
        }
        (self.fired, self.spread_fired) = (judged.rules, judged.spread_rules);
    }

    #[cold]
    #[inline(never)]
    fn announce(&mut self, setup: &Setup, index: u64, time: i64, judged: &Judged, offset: &[f64], sink: &mut Sink<'_>) {
        let quiet = judged.rules.is_empty() && judged.spread_rules.is_empty();
        if !quiet {
            sink.counts.violations += 1;
            let fresh = [judged.rules.without(self.fired), judged.spread_rules.without(self.spread_fired)];
            sink.onset(setup, index, time, judged, fresh);
        }
        sink.point(setup, index, time, judged, self, offset, 2, None);
    }

    /// A point that nothing can be said about: shown, and announced when that begins.
    fn unjudged(
        &mut self,
        setup: &Setup,
        index: u64,
        time: i64,
        judged: &Judged,
        sink: &mut Sink<'_>,
        reason: impl FnOnce(&str) -> String,
    ) {
        sink.counts.unjudged += 1;
        self.break_runs();
        if let Some(recent) = &mut self.recent {
            recent.push(index, time, judged, 2);
        }
        let begins = !std::mem::replace(&mut self.unjudged, true);
        if begins || sink.wants_all() {
            let tag = setup.lookup_tag_name();
            let status = reason(&tag);
            let phase = if matches!(self.phase, Phase::Judging) { 2 } else { 1 };
            sink.point(setup, index, time, judged, self, &[], phase, Some(status.clone()));
            if begins {
                sink.unjudged(setup, index, time, status);
            }
        }
    }

    fn collect(&mut self, setup: &Setup, index: u64, sample: &Sample, row: &[f64], time: i64, sink: &mut Sink<'_>) {
        let wanted = setup.baseline_points();
        let Some(baseline) = self.baseline.as_mut().map(Arc::make_mut) else { return };
        let mut judged = plotted(setup, sample);
        if setup.config.half() == Half::MovingRange {
            judged.spread = baseline.value_before(index).map_or(f64::NAN, |before| (sample.value - before).abs());
        }
        baseline.push(index, sample, row, &setup.config);
        let have = baseline.len();
        self.add_totals(setup, sample);
        if let Some(recent) = &mut self.recent {
            recent.push(index, time, &judged, 1);
        }
        if sink.wants_all() {
            let status = (have < wanted).then(|| format!("baseline: {have} of {wanted} points, not judged"));
            sink.point(setup, index, time, &judged, self, &[], 1, status);
        }
        if have >= wanted {
            let asked = self.asked.take();
            self.freeze(setup, asked.as_deref(), true, sink);
        }
    }

    #[inline]
    fn add_totals(&mut self, setup: &Setup, sample: &Sample) {
        let (Some(totals), Some(spec)) = (&mut self.totals, &setup.config.spec) else { return };
        if setup.config.is_individual() {
            totals.individual(sample.value, spec);
        } else {
            totals.rows.merge(&Moments { count: sample.n as u64, mean: sample.value, squares: sample.squares });
            totals.outside += u64::from(sample.outside);
            totals.within.subgroup(sample, setup.config.estimator);
        }
    }
}

/// What the chart plots before there are limits: values, fractions or counts, with the spread of the rows.
fn plotted(setup: &Setup, sample: &Sample) -> Judged {
    let statistic = match &setup.config.kind {
        ChartKind::Attribute { attribute, .. } => attribute_statistic(*attribute, sample),
        ChartKind::T2 { .. } | ChartKind::Mewma { .. } => f64::NAN,
        _ => sample.value,
    };
    let spread = match setup.config.half() {
        Half::Range => sample.range,
        Half::Deviation => sample.deviation(),
        _ => f64::NAN,
    };
    Judged::bare(statistic, spread)
}

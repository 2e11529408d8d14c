//! The acts that set limits: the baseline is full, a person takes points out, a person asks for a new baseline.

use std::sync::Arc;

use super::{
    baseline::Baseline,
    capability::{Within, figures},
    config::{ChartKind, LimitSource},
    emit::{Act, Sink},
    judge::Judge,
    lines::{Frozen, Lines, line},
    rules::RuleMask,
    setup::Setup,
    state::{KeyState, Phase},
};
use crate::model::{Capability, IndexedViolation, Limits, Spread};

/// What the points of a baseline violate under its own limits.
struct Look {
    /// By index, on the statistic.
    violations: Vec<(u64, RuleMask, RuleMask)>,
    /// The judge after the last of them.
    judge: Judge,
}

impl KeyState {
    /// Sets limits from the baseline, and says so. Rule state `continues` when the baseline has just become full.
    pub fn freeze(&mut self, setup: &Setup, act: Option<&Act>, continues: bool, sink: &mut Sink<'_>) {
        self.version += 1;
        let Some(baseline) = &self.baseline else { return };
        let estimated = baseline.estimate(&setup.config, |points| setup.vector_limit(Some(points)));
        let warnings: Vec<String> = baseline.autocorrelation(&setup.config).into_iter().collect();
        match estimated {
            Err(reason) => {
                self.phase = Phase::Failed(reason.as_str().into());
                self.frozen = None;
                self.judge = Judge::idle();
                self.break_runs();
                sink.limits(setup, self.limits(setup, &[], Some(reason), warnings, act), self.version);
            }
            Ok(frozen) => {
                let look = self.look(setup, &frozen);
                self.adopt(setup, frozen, &look, continues);
                let limits = self.limits(setup, &look.violations, None, warnings, act);
                sink.limits(setup, limits, self.version);
                self.say_capability(setup, true, sink);
            }
        }
    }

    fn adopt(&mut self, setup: &Setup, frozen: Frozen, look: &Look, continues: bool) {
        let dependent = matches!(
            setup.config.kind,
            ChartKind::Ewma { .. } | ChartKind::Cusum { .. } | ChartKind::MovingAverage { .. } | ChartKind::Mewma { .. }
        );
        if continues && !dependent {
            self.judge = look.judge.clone();
            if let Some((index, rules, spread)) = look.violations.last()
                && index + 1 == self.next_index
            {
                (self.fired, self.spread_fired) = (*rules, *spread);
            }
        } else {
            self.judge = Judge::new(setup, &frozen);
            self.break_runs();
        }
        if let Some(recent) = &mut self.recent {
            for (index, rules, spread) in &look.violations {
                recent.mark(*index, *rules, *spread);
            }
        }
        self.frozen = Some(frozen);
        self.phase = Phase::Judging;
    }

    /// Judges the baseline's own points.
    fn look(&self, setup: &Setup, frozen: &Frozen) -> Look {
        let mut look = Look { violations: Vec::new(), judge: Judge::new(setup, frozen) };
        let Some(baseline) = &self.baseline else { return look };
        let phase_1_limit = setup.phase_1_limit(baseline.len());
        let mut offset = vec![0.0; setup.columns.len()];
        for i in 0..baseline.len() {
            let (index, follows, sample, row) = baseline.point(i, setup.columns.len());
            if i > 0 && !follows {
                look.judge.break_runs();
            }
            let judged = match frozen {
                Frozen::Scalar { .. } => look.judge.scalar(setup, frozen, &sample, index),
                Frozen::Vector { ellipsoid, .. } => look.judge.vector(setup, ellipsoid, phase_1_limit, row, &mut offset),
            };
            if !judged.rules.is_empty() || !judged.spread_rules.is_empty() {
                look.violations.push((index, judged.rules, judged.spread_rules));
            }
        }
        look
    }

    /// The `limits` object for what is frozen now.
    fn limits(
        &self,
        setup: &Setup,
        violations: &[(u64, RuleMask, RuleMask)],
        status: Option<String>,
        warnings: Vec<String>,
        act: Option<&Act>,
    ) -> Limits {
        let lines = self.usual_lines(setup);
        let (center, sigma) = match &self.frozen {
            Some(Frozen::Scalar { center, sigma, .. }) => (Some(*center), Some(Self::row_sigma(setup, *center, *sigma))),
            _ => (None, None),
        };
        let spread_rules = violations.iter().fold(RuleMask::NONE, |all, (.., spread)| all.or(*spread));
        let named = |(index, rules, _): &(u64, RuleMask, RuleMask)| {
            let index = *index;
            rules.names().into_iter().map(move |rule| -> IndexedViolation { (index, rule) })
        };
        Limits {
            chart: setup.config.id.clone(),
            key: crate::model::Key::new(),
            version: self.version,
            center,
            sigma,
            lcl: line(lines.zones.lcl),
            ucl: line(lines.zones.ucl),
            spread: lines.spread.center.is_finite().then(|| Spread {
                statistic: None,
                center: line(lines.spread.center),
                lcl: line(lines.spread.lcl),
                ucl: line(lines.spread.ucl),
                violations: spread_rules.names(),
            }),
            violations: violations.iter().flat_map(named).collect(),
            status,
            warnings,
            author: act.map(|act| act.author.clone()),
            reason: act.map(|act| act.reason.clone()),
        }
    }

    /// Sigma of one row, as results state it.
    pub fn row_sigma(setup: &Setup, center: f64, sigma: f64) -> f64 {
        match &setup.config.kind {
            ChartKind::Attribute { attribute, .. } => {
                let noise = if attribute.is_binomial() { center * (1.0 - center) } else { center };
                let ratio = if attribute.is_laney() { sigma } else { 1.0 };
                ratio * noise.sqrt()
            }
            _ => sigma,
        }
    }

    /// The lines for points of the usual size; without one (sizes vary), only the centre. An EWMA's are those long after the start.
    pub fn usual_lines(&self, setup: &Setup) -> Lines {
        let Some(frozen) = &self.frozen else { return Lines::none() };
        let size = match (&self.baseline, setup.grouping) {
            (Some(baseline), _) if baseline.len() > 0 => baseline.common_size(),
            (_, super::setup::Grouping::Row) => setup.size_column.is_none().then_some(setup.size),
            (_, super::setup::Grouping::Size(n)) => Some(n as f64 * setup.size),
            _ => None,
        };
        let mut lines = Lines::none();
        match (frozen, &setup.config.kind) {
            (Frozen::Vector { ucl, .. }, _) => (lines.zones.lcl, lines.zones.ucl) = (0.0, *ucl),
            (Frozen::Scalar { center, .. }, ChartKind::Cusum { .. }) => lines.zones.center = *center,
            _ => {
                lines = size.and_then(|n| Lines::new(&setup.config, frozen, n)).unwrap_or(lines);
                if let ChartKind::Ewma { lambda, .. } = setup.config.kind {
                    lines.scale((lambda / (2.0 - lambda)).sqrt());
                } else if let ChartKind::MovingAverage { span } = setup.config.kind {
                    lines.scale((span as f64).sqrt().recip());
                }
            }
        }
        lines
    }

    /// Says the capability: `of_baseline` that of the rows behind the limits, else that of all charted rows.
    pub fn say_capability(&mut self, setup: &Setup, of_baseline: bool, sink: &mut Sink<'_>) {
        let Some(capability) = self.capability(setup, of_baseline) else { return };
        if let Some(totals) = &mut self.totals {
            if !of_baseline && totals.said == capability.n {
                return;
            }
            totals.said = capability.n;
        }
        sink.capability(setup, capability);
    }

    /// The capability figures, if the chart has a specification.
    pub fn capability(&self, setup: &Setup, of_baseline: bool) -> Option<Capability> {
        let spec = setup.config.spec.as_ref()?;
        let totals = self.totals.as_ref()?;
        let baseline = self.baseline.as_ref().filter(|baseline| of_baseline && baseline.len() > 0);
        let Some(baseline) = baseline else {
            return Some(figures(&totals.rows.moments(), Some(totals.outside), totals.within.within(setup.config.estimator), spec));
        };
        let rows = baseline.rows();
        let outside = baseline.outside(|value| spec.excludes(value));
        // As long as the baseline is all there is, the totals know what single rows did.
        let outside = outside.or((rows.count == totals.rows.moments().count).then_some(totals.outside));
        let within: Within = baseline.within(setup.config.estimator);
        Some(figures(&rows, outside, within, spec))
    }

    /// Takes points with an assignable cause out of the baseline and sets limits anew.
    pub fn exclude(&mut self, setup: &Setup, indices: &[u64], act: &Act, sink: &mut Sink<'_>) -> Result<usize, String> {
        let Some(baseline) = self.baseline.as_mut().filter(|_| !matches!(self.phase, Phase::Collecting)) else {
            return Err("there is no complete baseline to take points from".to_owned());
        };
        let smaller = baseline.without(indices, &setup.config);
        let gone = baseline.len() - smaller.len();
        if gone == 0 {
            return Err("none of these indices is a point of the baseline".to_owned());
        }
        if smaller.len() < 2 {
            return Err(format!("{} points would be left: too few for limits", smaller.len()));
        }
        *baseline = Arc::new(smaller);
        self.freeze(setup, Some(act), false, sink);
        Ok(gone)
    }

    /// Starts Phase I again; limits come with the next version once it is full.
    pub fn rebaseline(&mut self, setup: &Setup, act: &Act) -> Result<(), String> {
        if !matches!(setup.config.limits, LimitSource::Baseline(_)) {
            return Err("the limits of this chart are configured: change them there".to_owned());
        }
        self.asked = Some(Box::new(act.clone()));
        self.phase = Phase::Collecting;
        self.baseline = Some(Arc::new(Baseline::for_points(setup.baseline_points(), &setup.config)));
        self.frozen = None;
        self.judge = Judge::idle();
        self.break_runs();
        Ok(())
    }
}

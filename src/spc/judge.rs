//! One point against frozen limits: the arithmetic of each kind of chart.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{
    config::{Attribute, ChartKind, Half, Variance},
    lines::{Frozen, Lines},
    multivariate::Ellipsoid,
    rules::{Rule, RuleMask, RuleState, Zones},
    sample::Sample,
    setup::Setup,
};

/// What a chart with a memory remembers besides rule state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Memory {
    /// Nothing.
    None,
    /// The average, and (1 − λ)^2i.
    Ewma { z: f64, decay: f64 },
    /// Both sums in data units, points since each was zero, and the index at which each run began.
    Cusum { upper: f64, lower: f64, n_upper: u64, n_lower: u64, since_upper: u64, since_lower: u64 },
    /// The last points.
    Window(VecDeque<f64>),
    /// The forecast of the next value.
    Forecast(f64),
    /// The averaged offset, and (1 − λ)^2i.
    Vector { z: Vec<f64>, decay: f64 },
}

impl Memory {
    /// The memory of a chart that has seen no point yet.
    pub fn start(setup: &Setup, frozen: &Frozen) -> Self {
        match (&setup.config.kind, frozen) {
            (ChartKind::Ewma { .. }, Frozen::Scalar { center, .. }) => Self::Ewma { z: *center, decay: 1.0 },
            (ChartKind::Cusum { head_start, .. }, Frozen::Scalar { sigma, .. }) => {
                // In sigma of a point of the usual size.
                let scale = match setup.config.subgroup {
                    super::config::Subgroup::Size(n) => sigma / (n as f64).sqrt(),
                    _ => *sigma,
                };
                let start = head_start * scale;
                Self::Cusum { upper: start, lower: start, n_upper: 0, n_lower: 0, since_upper: 0, since_lower: 0 }
            }
            (ChartKind::MovingAverage { span }, _) => Self::Window(VecDeque::with_capacity(*span)),
            (ChartKind::EwmaResidual { .. }, Frozen::Scalar { center, .. }) => Self::Forecast(*center),
            (ChartKind::Mewma { .. }, Frozen::Vector { ellipsoid, .. }) => {
                Self::Vector { z: vec![0.0; ellipsoid.signals()], decay: 1.0 }
            }
            _ => Self::None,
        }
    }
}

/// The CUSUM's figures at one point, data units.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sums {
    pub upper: f64,
    pub lower: f64,
    pub h: f64,
    pub n_upper: u64,
    pub n_lower: u64,
    pub since_upper: u64,
    pub since_lower: u64,
}

/// A judged point; `NaN` and infinities are lines that do not exist.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Judged {
    pub statistic: f64,
    pub center: f64,
    pub lcl: f64,
    pub ucl: f64,
    pub rules: RuleMask,
    /// Statistic of the R, S or moving-range half.
    pub spread: f64,
    pub spread_rules: RuleMask,
    pub sums: Option<Sums>,
    /// The range of so many rows has no constants.
    pub too_large: bool,
}

impl Judged {
    /// A statistic without limits.
    pub const fn bare(statistic: f64, spread: f64) -> Self {
        Self {
            statistic,
            center: f64::NAN,
            lcl: f64::NAN,
            ucl: f64::NAN,
            rules: RuleMask::NONE,
            spread,
            spread_rules: RuleMask::NONE,
            sums: None,
            too_large: false,
        }
    }

    fn against(statistic: f64, zones: &Zones, rules: RuleMask) -> Self {
        Self { center: zones.center, lcl: zones.lcl, ucl: zones.ucl, rules, ..Self::bare(statistic, f64::NAN) }
    }
}

/// The part of a key's state that judging changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Judge {
    pub lines: Lines,
    pub rules: RuleState,
    pub spread_rules: RuleState,
    /// The plotted value before, `NaN` after a break.
    pub previous: f64,
    pub memory: Memory,
}

impl Judge {
    pub fn new(setup: &Setup, frozen: &Frozen) -> Self {
        let mut judge = Self::idle();
        judge.memory = Memory::start(setup, frozen);
        judge
    }

    /// Before there are limits.
    pub fn idle() -> Self {
        Self {
            lines: Lines::none(),
            rules: RuleState::default(),
            spread_rules: RuleState::default(),
            previous: f64::NAN,
            memory: Memory::None,
        }
    }

    /// A missing point, a gap, or another recipe: no pattern reaches across it. Averages and sums hold what they have.
    pub fn break_runs(&mut self) {
        self.rules.break_runs();
        self.spread_rules.break_runs();
        self.previous = f64::NAN;
        if let Memory::Window(values) = &mut self.memory {
            values.clear();
        }
    }

    /// Judges a point of a chart of one signal.
    #[inline]
    pub fn scalar(&mut self, setup: &Setup, frozen: &Frozen, sample: &Sample, index: u64) -> Judged {
        if sample.n != self.lines.n {
            if let Some(lines) = Lines::new(&setup.config, frozen, sample.n) {
                self.lines = lines;
            } else {
                self.break_runs();
                return Judged { too_large: true, ..Judged::bare(sample.value, sample.range) };
            }
        }
        match &setup.config.kind {
            ChartKind::Attribute { attribute, .. } => self.shewhart(setup, attribute_statistic(*attribute, sample), f64::NAN),
            ChartKind::Ewma { lambda, variance } => self.ewma(setup, sample, *lambda, *variance),
            ChartKind::Cusum { k, h, .. } => self.cusum(frozen, sample, *k, *h, index),
            ChartKind::MovingAverage { span } => self.moving_average(setup, sample, *span),
            ChartKind::EwmaResidual { .. } => {
                let (Memory::Forecast(forecast), Frozen::Scalar { lambda, .. }) = (&mut self.memory, frozen) else {
                    return Judged::bare(sample.value, f64::NAN);
                };
                let error = sample.value - *forecast;
                *forecast += lambda * error;
                let range = (error - self.previous).abs();
                self.shewhart(setup, error, range)
            }
            _ => {
                let spread = match setup.config.half() {
                    Half::MovingRange => (sample.value - self.previous).abs(),
                    Half::Deviation => sample.deviation(),
                    _ => sample.range,
                };
                self.shewhart(setup, sample.value, spread)
            }
        }
    }

    #[inline]
    fn shewhart(&mut self, setup: &Setup, statistic: f64, spread: f64) -> Judged {
        self.previous = statistic;
        let rules = self.rules.step(statistic, &self.lines.zones, &setup.plan);
        let mut judged = Judged::against(statistic, &self.lines.zones, rules);
        judged.spread = spread;
        if spread.is_nan() {
            self.spread_rules.break_runs();
        } else if !setup.spread_plan.enabled.is_empty() {
            judged.spread_rules = self.spread_rules.step(spread, &self.lines.spread, &setup.spread_plan);
        }
        judged
    }

    fn ewma(&mut self, setup: &Setup, sample: &Sample, lambda: f64, variance: Variance) -> Judged {
        let Memory::Ewma { z, decay } = &mut self.memory else { return Judged::bare(sample.value, f64::NAN) };
        *z = lambda * sample.value + (1.0 - lambda) * *z;
        *decay *= (1.0 - lambda) * (1.0 - lambda);
        let started = if variance == Variance::Exact { 1.0 - *decay } else { 1.0 };
        let center = self.lines.zones.center;
        let sigma = (self.lines.zones.plus_1 - center) * (lambda / (2.0 - lambda) * started).sqrt();
        let zones = Zones::new(center, sigma, setup.config.width, [f64::NEG_INFINITY, f64::INFINITY]);
        Judged::against(*z, &zones, beyond(*z, &zones).and(setup.plan.enabled))
    }

    fn moving_average(&mut self, setup: &Setup, sample: &Sample, span: usize) -> Judged {
        let Memory::Window(values) = &mut self.memory else { return Judged::bare(sample.value, f64::NAN) };
        if values.len() >= span {
            values.pop_front();
        }
        values.push_back(sample.value);
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let center = self.lines.zones.center;
        let sigma = (self.lines.zones.plus_1 - center) / count.sqrt();
        let zones = Zones::new(center, sigma, setup.config.width, [f64::NEG_INFINITY, f64::INFINITY]);
        Judged::against(mean, &zones, beyond(mean, &zones).and(setup.plan.enabled))
    }

    fn cusum(&mut self, frozen: &Frozen, sample: &Sample, k: f64, h: f64, index: u64) -> Judged {
        let bare = Judged::bare(sample.value, f64::NAN);
        let Frozen::Scalar { center, sigma, .. } = frozen else { return bare };
        let Memory::Cusum { upper, lower, n_upper, n_lower, since_upper, since_lower } = &mut self.memory else { return bare };
        let sigma = sigma / sample.n.sqrt();
        let (allowance, interval) = (k * sigma, h * sigma);
        let grow = |sum: &mut f64, count: &mut u64, since: &mut u64, step: f64| {
            *sum = (step + *sum).max(0.0);
            if *sum > 0.0 {
                *count += 1;
                if *count == 1 {
                    *since = index;
                }
            } else {
                *count = 0;
            }
        };
        grow(upper, n_upper, since_upper, sample.value - (center + allowance));
        grow(lower, n_lower, since_lower, (center - allowance) - sample.value);
        let mut rules = RuleMask::NONE;
        if *upper > interval {
            rules = rules.or(Rule::CusumUpper.mask());
        }
        if *lower > interval {
            rules = rules.or(Rule::CusumLower.mask());
        }
        let sums = Sums {
            upper: *upper,
            lower: *lower,
            h: interval,
            n_upper: *n_upper,
            n_lower: *n_lower,
            since_upper: *since_upper,
            since_lower: *since_lower,
        };
        Judged { center: *center, rules, sums: Some(sums), ..bare }
    }

    /// Judges a row of a multivariate chart; what was squared is left in `offset`.
    #[inline]
    pub fn vector(&mut self, setup: &Setup, ellipsoid: &Ellipsoid, ucl: f64, row: &[f64], offset: &mut [f64]) -> Judged {
        for ((offset, value), center) in offset.iter_mut().zip(row).zip(ellipsoid.center()) {
            *offset = value - center;
        }
        let mut scale = 1.0;
        if let (ChartKind::Mewma { lambda, variance, .. }, Memory::Vector { z, decay }) = (&setup.config.kind, &mut self.memory) {
            for (z, offset) in z.iter_mut().zip(offset.iter_mut()) {
                *z = lambda * *offset + (1.0 - lambda) * *z;
                *offset = *z;
            }
            *decay *= (1.0 - lambda) * (1.0 - lambda);
            let started = if *variance == Variance::Exact { 1.0 - *decay } else { 1.0 };
            scale = lambda / (2.0 - lambda) * started;
        }
        if scale != 1.0 {
            let factor = f64::sqrt(scale).recip();
            for offset in offset.iter_mut() {
                *offset *= factor;
            }
        }
        let square = ellipsoid.square(offset);
        let rules = if square > ucl { RuleMask::BEYOND_LIMITS.and(setup.plan.enabled) } else { RuleMask::NONE };
        Judged { lcl: 0.0, ucl, rules, ..Judged::bare(square, f64::NAN) }
    }
}

/// What an attribute chart plots.
pub(super) fn attribute_statistic(attribute: Attribute, sample: &Sample) -> f64 {
    match attribute {
        Attribute::Np | Attribute::C => sample.value,
        _ => sample.value / sample.n,
    }
}

/// Rule 1 by itself.
fn beyond(x: f64, zones: &Zones) -> RuleMask {
    if x > zones.ucl || x < zones.lcl { RuleMask::BEYOND_LIMITS } else { RuleMask::NONE }
}

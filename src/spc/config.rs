//! A chart that cannot be wrong: the checked form of [`ChartSettings`].
//!
//! Defaults, all stated here: baseline 25 points; width 3 sigma (EWMA 2.962 with λ 0.2); CUSUM k 0.5, h 5, no head start; moving
//! average of 5; `t2` alpha 0.0027; `mewma` λ 0.1 and one false alarm in 200 points; rule `nelson_1`. The set names `nelson` and
//! `western_electric` mean every rule on charts of measurements, the rules without zones (Nelson 1–4, Western Electric 1 and 4) on
//! attribute charts, and rule 1 on charts whose points depend on each other (EWMA, CUSUM, moving average, T², MEWMA); R, S and
//! moving-range halves are judged by rule 1 unless `conventions.spread_rules` names more.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    check,
    rules::RuleMask,
    settings::{ChartSettings, ConventionSettings},
};

/// What is wrong with a chart's settings, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("chart `{chart}`, `{key}`: {message}")]
pub struct ConfigError {
    /// The chart's id.
    pub chart: String,
    /// The key inside `[[pipelines.charts]]`, dotted.
    pub key: String,
    /// What is wrong, and what to do.
    pub message: String,
}

/// Which sides `nelson_8` must see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum RuleSides {
    /// Points on both sides, as Nelson wrote it.
    #[default]
    Both,
    /// Any points outside one sigma.
    Either,
}

/// Where products differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conventions {
    /// Points of a trend: 6 or 7.
    pub trend_points: u8,
    /// Alternating points: 14 or 15.
    pub alternation_points: u8,
    /// Sides of `nelson_8`.
    pub rule_8_sides: RuleSides,
    /// Whether 2 of 3 and 4 of 5 wait for three and five points.
    pub full_window: bool,
}

impl Default for Conventions {
    fn default() -> Self {
        Self { trend_points: 6, alternation_points: 14, rule_8_sides: RuleSides::Both, full_window: false }
    }
}

/// Limits of an average that has just begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Variance {
    /// Of that very point: narrow at first.
    #[default]
    Exact,
    /// Of a point long after the start.
    Asymptotic,
}

/// Rows inspected behind one count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Size {
    /// The same for every row.
    Constant(f64),
    /// The signal that holds it.
    Signal(Arc<str>),
}

/// The attribute charts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Attribute {
    P,
    Np,
    C,
    U,
    LaneyP,
    LaneyU,
}

impl Attribute {
    /// Whether counts are of defective items, so that a count is at most its size.
    pub const fn is_binomial(self) -> bool {
        matches!(self, Self::P | Self::Np | Self::LaneyP)
    }

    /// Whether the variation between points widens the limits.
    pub const fn is_laney(self) -> bool {
        matches!(self, Self::LaneyP | Self::LaneyU)
    }
}

/// What a part should measure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Nominal {
    /// Nominal value.
    pub target: f64,
    /// By what the deviation is divided; 1 for plain deviations.
    pub scale: f64,
}

/// How a multivariate limit is set.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Bound {
    /// By the rate of false alarms.
    Alpha(f64),
    /// As given.
    Ucl(f64),
}

/// The kind of chart, with its parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum ChartKind {
    Individuals,
    XbarR,
    XbarS,
    Ewma {
        lambda: f64,
        variance: Variance,
    },
    /// All in sigma of the point.
    Cusum {
        k: f64,
        h: f64,
        head_start: f64,
    },
    Attribute {
        attribute: Attribute,
        size: Size,
    },
    MovingAverage {
        span: usize,
    },
    /// Deviations from nominal, on individuals or (with subgroups) X̄-R limits.
    ShortRun {
        by: Arc<str>,
        table: BTreeMap<Arc<str>, Nominal>,
    },
    T2 {
        bound: Bound,
    },
    Mewma {
        lambda: f64,
        bound: Bound,
        variance: Variance,
    },
    /// One-step forecast errors of an EWMA, on individuals limits: for autocorrelated data. λ is fitted to the baseline if not given.
    EwmaResidual {
        lambda: Option<f64>,
    },
}

impl ChartKind {
    /// Whether points are vectors.
    pub const fn is_multivariate(&self) -> bool {
        matches!(self, Self::T2 { .. } | Self::Mewma { .. })
    }
}

/// How rows form a point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Subgroup {
    /// Each row is a point.
    Row,
    /// So many consecutive rows; a missing one leaves a smaller subgroup.
    Size(usize),
    /// Until the layer changes.
    Layer,
    /// Until the tag changes.
    Tag(Arc<str>),
    /// Nanoseconds of event time, aligned to the epoch.
    Every(i64),
}

/// Centre and sigma as given.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Known {
    /// Centre line.
    pub center: f64,
    /// Standard deviation of one row; Laney charts: the ratio `σ_z`; unused on other attribute charts.
    pub sigma: f64,
}

/// Where centre and sigma come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum LimitSource {
    /// Phase I: so many points, then frozen.
    Baseline(usize),
    /// Given.
    Fixed(Known),
    /// Given, for a vector: centre and covariance row by row.
    FixedVector(Vec<f64>, Vec<f64>),
    /// Given by the text of a tag; other texts are not judged.
    ByTag(Arc<str>, BTreeMap<Arc<str>, Known>),
}

/// How sigma is estimated from a baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Estimator {
    /// R̄ / d2
    Range,
    /// S̄ / c4
    Deviation,
    /// Mean moving range / d2(2)
    MovingRange,
    /// Median moving range / 0.9539
    MedianMovingRange,
    /// Square root of the pooled variance, / c4 of its degrees of freedom.
    Pooled,
}

/// Specification limits: at least one, and never from data.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Spec {
    /// Lower limit.
    pub lsl: Option<f64>,
    /// Upper limit.
    pub usl: Option<f64>,
    /// Target.
    pub target: Option<f64>,
}

impl Spec {
    /// Whether `value` is outside; a value on a limit is inside.
    #[inline]
    pub fn excludes(&self, value: f64) -> bool {
        self.lsl.is_some_and(|lsl| value < lsl) || self.usl.is_some_and(|usl| value > usl)
    }
}

/// A checked chart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChartConfig {
    pub(super) id: Arc<str>,
    pub(super) kind: ChartKind,
    pub(super) signals: Vec<Arc<str>>,
    pub(super) subgroup: Subgroup,
    pub(super) limits: LimitSource,
    pub(super) estimator: Estimator,
    pub(super) width: f64,
    pub(super) rules: RuleMask,
    pub(super) spread_rules: RuleMask,
    pub(super) conventions: Conventions,
    pub(super) spec: Option<Spec>,
    pub(super) group_by: Vec<Arc<str>>,
}

impl ChartConfig {
    /// Checks `settings`.
    ///
    /// # Errors
    /// Every fault found, each with its key.
    pub fn check(settings: &ChartSettings) -> Result<Self, Vec<ConfigError>> {
        check::check(settings)
    }

    /// The chart's name in results.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// The kind and its parameters.
    pub fn kind(&self) -> &ChartKind {
        &self.kind
    }

    /// The charted signals, by name.
    pub fn signals(&self) -> &[Arc<str>] {
        &self.signals
    }

    /// The tags that make one chart each.
    pub fn group_by(&self) -> &[Arc<str>] {
        &self.group_by
    }

    /// The specification limits, if any.
    pub fn spec(&self) -> Option<Spec> {
        self.spec
    }

    /// The word in `type`.
    pub fn type_name(&self) -> &'static str {
        match &self.kind {
            ChartKind::Individuals => "i_mr",
            ChartKind::XbarR => "xbar_r",
            ChartKind::XbarS => "xbar_s",
            ChartKind::Ewma { .. } => "ewma",
            ChartKind::Cusum { .. } => "cusum",
            ChartKind::Attribute { attribute, .. } => match attribute {
                Attribute::P => "p",
                Attribute::Np => "np",
                Attribute::C => "c",
                Attribute::U => "u",
                Attribute::LaneyP => "laney_p",
                Attribute::LaneyU => "laney_u",
            },
            ChartKind::MovingAverage { .. } => "moving_average",
            ChartKind::ShortRun { .. } => "short_run",
            ChartKind::T2 { .. } => "t2",
            ChartKind::Mewma { .. } => "mewma",
            ChartKind::EwmaResidual { .. } => "ewma_residual",
        }
    }

    /// Which spread the points have.
    pub(super) fn half(&self) -> Half {
        match (&self.kind, &self.subgroup) {
            (ChartKind::XbarS, _) => Half::Deviation,
            (ChartKind::ShortRun { .. }, Subgroup::Row) | (ChartKind::Individuals | ChartKind::EwmaResidual { .. }, _) => {
                Half::MovingRange
            }
            (ChartKind::XbarR | ChartKind::ShortRun { .. }, _) => Half::Range,
            _ => Half::None,
        }
    }

    /// Whether each point counts as one value, whatever it was made of.
    pub(super) fn is_individual(&self) -> bool {
        matches!(self.kind, ChartKind::Individuals | ChartKind::EwmaResidual { .. }) || self.subgroup == Subgroup::Row
    }
}

/// The other half of a pair of charts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    None,
    Range,
    Deviation,
    MovingRange,
}

impl Half {
    /// The letter of its chart.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Range => Some("R"),
            Self::Deviation => Some("S"),
            Self::MovingRange => Some("MR"),
        }
    }
}

impl ConventionSettings {
    /// The checked variants, or the key and message of the first fault.
    pub(super) fn check(&self) -> Result<Conventions, (&'static str, String)> {
        let one_of = |key, value: Option<u64>, allowed: [u8; 2]| match value {
            None => Ok(allowed[0]),
            Some(n) if n == u64::from(allowed[0]) || n == u64::from(allowed[1]) => Ok(n as u8),
            Some(n) => Err((key, format!("{n} is no convention: {} or {}", allowed[0], allowed[1]))),
        };
        Ok(Conventions {
            trend_points: one_of("conventions.trend_points", self.trend_points, [6, 7])?,
            alternation_points: one_of("conventions.alternation_points", self.alternation_points, [14, 15])?,
            rule_8_sides: match self.rule_8.as_deref() {
                None | Some("both") => RuleSides::Both,
                Some("either") => RuleSides::Either,
                Some(other) => return Err(("conventions.rule_8", format!("`{other}`: write `both` or `either`"))),
            },
            full_window: match self.windows.as_deref() {
                None | Some("early") => false,
                Some("full") => true,
                Some(other) => return Err(("conventions.windows", format!("`{other}`: write `early` or `full`"))),
            },
        })
    }
}

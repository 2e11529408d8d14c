//! A chart as the configuration file spells it, before anything is checked.
//!
//! Field names are the keys of `[[pipelines.charts]]`; unknown keys are refused. [`super::ChartConfig::check`] turns settings into a
//! chart that cannot be wrong, or lists every fault with its key.

use std::collections::BTreeMap;

use serde::Deserialize;

/// One `[[pipelines.charts]]` table.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChartSettings {
    /// The chart's name in results.
    pub id: String,
    /// `i_mr xbar_r xbar_s ewma cusum p np c u laney_p laney_u moving_average short_run t2 mewma ewma_residual`
    #[serde(rename = "type")]
    pub kind: String,
    /// The charted signal.
    pub signal: Option<String>,
    /// The charted signals of `t2` and `mewma`.
    pub signals: Vec<String>,
    /// How rows form a point.
    pub subgroup: Option<SubgroupSettings>,
    /// Where centre and sigma come from; by default a baseline of 25 points.
    pub limits: Option<LimitSettings>,
    /// `range`, `deviation`, `moving_range`, `median_moving_range` or `pooled`; by default what fits the chart.
    pub estimator: Option<String>,
    /// Distance of the control limits from the centre line, in sigma of the statistic.
    pub width: Option<f64>,
    /// Weight of the newest value: `ewma`, `mewma`, `ewma_residual`.
    pub lambda: Option<f64>,
    /// `exact` or `asymptotic`: `ewma`, `mewma`.
    pub variance: Option<String>,
    /// CUSUM: allowance in sigma.
    pub k: Option<f64>,
    /// CUSUM: decision interval in sigma.
    pub h: Option<f64>,
    /// CUSUM: where both sums start, in sigma (fast initial response: h / 2).
    pub head_start: Option<f64>,
    /// Moving average: how many points.
    pub span: Option<u64>,
    /// Attribute charts: rows inspected behind one count, a number or the name of a signal.
    pub size: Option<SizeSettings>,
    /// `t2`: false alarms a point; `mewma`: one false alarm in 1 / alpha points.
    pub alpha: Option<f64>,
    /// `t2`, `mewma`: the limit itself.
    pub ucl: Option<f64>,
    /// `short_run`: the nominal values by tag.
    pub nominal: Option<NominalSettings>,
    /// Rule names, `nelson`, `western_electric`; by default `nelson_1`.
    pub rules: Option<Vec<String>>,
    /// Specification limits, which never come from data.
    pub spec: Option<SpecSettings>,
    /// One chart for each combination of these tags.
    pub group_by: Vec<String>,
    /// Where products differ.
    pub conventions: ConventionSettings,
}

/// `{ size = 5 }`, `{ by = "layer" }`, `{ every = "1s" }`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SubgroupSettings {
    /// Consecutive rows.
    pub size: Option<u64>,
    /// `layer`, or a tag: a change starts the next subgroup.
    pub by: Option<String>,
    /// A duration of event time.
    pub every: Option<String>,
}

/// `{ baseline = 25 }`, `{ center = 74.0, sigma = 0.01 }` (also inside `fixed`), `{ by = "recipe", table = { … } }`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitSettings {
    /// Phase I: how many points.
    pub baseline: Option<u64>,
    /// Known centre; one number a signal for `t2` and `mewma`.
    pub center: Option<Numbers>,
    /// Known standard deviation of one row.
    pub sigma: Option<f64>,
    /// Known covariance of `t2` and `mewma`, row by row.
    pub covariance: Option<Vec<Vec<f64>>>,
    /// `center`, `sigma`, `covariance` may also stand in here.
    pub fixed: Option<Box<LimitSettings>>,
    /// The tag that selects from `table`.
    pub by: Option<String>,
    /// Centre and sigma by the tag's text.
    pub table: BTreeMap<String, LineSettings>,
}

/// Known centre and sigma.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineSettings {
    /// Centre line.
    pub center: f64,
    /// Standard deviation of one row; attribute charts derive it.
    pub sigma: Option<f64>,
}

/// One number, or one a signal.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Numbers {
    /// A number.
    One(f64),
    /// One a signal.
    Many(Vec<f64>),
}

/// A number, or the name of a signal that holds it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum SizeSettings {
    /// The same for every row.
    Number(f64),
    /// The column.
    Signal(String),
}

/// `{ by = "part", table = { A = { target = 10.0, sigma = 0.2 } } }`; with `sigma` deviations are standardised.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NominalSettings {
    /// The tag.
    pub by: String,
    /// Nominal values by the tag's text.
    pub table: BTreeMap<String, TargetSettings>,
}

/// What a part should measure.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetSettings {
    /// Nominal value.
    pub target: f64,
    /// Its known standard deviation; for all or for none.
    pub sigma: Option<f64>,
}

/// `{ lsl = 73.95, usl = 74.05, target = 74.0 }`
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpecSettings {
    /// Lower specification limit.
    pub lsl: Option<f64>,
    /// Upper specification limit.
    pub usl: Option<f64>,
    /// Target.
    pub target: Option<f64>,
}

/// The variants of the rules, with their defaults.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConventionSettings {
    /// Points of a trend (`nelson_3`): 6, or 7 as in some products.
    pub trend_points: Option<u64>,
    /// Alternating points (`nelson_4`): 14, or 15.
    pub alternation_points: Option<u64>,
    /// `nelson_8`: `both` sides must be present, or `either`.
    pub rule_8: Option<String>,
    /// 2 of 3 and 4 of 5: `early` as soon as the pattern is there, or `full` windows only.
    pub windows: Option<String>,
    /// Rules on the R, S or moving-range half; by default the configured rule 1.
    pub spread_rules: Option<Vec<String>>,
}

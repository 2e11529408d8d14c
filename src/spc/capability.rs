//! How well a process fits its specification: Cp, Cpk, Pp, Ppk, Cpm, confidence intervals, parts per million.
//!
//! Specification limits come from the configuration, never from data. With one limit only, Cp, Pp and Cpm are undefined and Cpk, Ppk
//! are the one-sided index. `within` is the variation inside subgroups (the chart's estimator), `overall` the standard deviation of
//! all rows. Intervals (95 %): Cp and Pp by chi-square, Cpk and Ppk after Bissell (1990); the degrees of freedom of a within sigma
//! follow from the variance of its estimator: `2ν = (E/sd)²`.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    config::Spec,
    distribution::{chi_square_upper, normal_above, normal_quantile},
    moments::Moments,
};
use crate::model::{Capability, Key};

/// The indices for one mean and one standard deviation; what no limit defines is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Indices {
    /// (usl − lsl) / 6 sigma
    pub cp: Option<f64>,
    /// (usl − mean) / 3 sigma
    pub cpu: Option<f64>,
    /// (mean − lsl) / 3 sigma
    pub cpl: Option<f64>,
    /// The smaller of `cpu` and `cpl`.
    pub cpk: Option<f64>,
    /// (usl − lsl) / 6 √(sigma² + (mean − target)²)
    pub cpm: Option<f64>,
    /// How far off the middle, in half widths of the specification: |middle − mean| / ((usl − lsl) / 2).
    pub k: Option<f64>,
}

/// The indices of a process with `mean` and `sigma`; none without variation.
pub fn indices(mean: f64, sigma: f64, spec: &Spec) -> Indices {
    if !(mean.is_finite() && sigma.is_finite() && sigma > 0.0) {
        return Indices::default();
    }
    let cpu = spec.usl.map(|usl| (usl - mean) / (3.0 * sigma));
    let cpl = spec.lsl.map(|lsl| (mean - lsl) / (3.0 * sigma));
    let span = spec.usl.zip(spec.lsl).map(|(usl, lsl)| (usl - lsl, 0.5 * (usl + lsl)));
    Indices {
        cp: span.map(|(width, _)| width / (6.0 * sigma)),
        cpk: [cpu, cpl].into_iter().flatten().min_by(f64::total_cmp),
        cpm: span.zip(spec.target).map(|((width, _), target)| width / (6.0 * sigma.hypot(mean - target))),
        k: span.map(|(width, middle)| (middle - mean).abs() / (0.5 * width)),
        cpu,
        cpl,
    }
}

/// A word for a Cpk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Rating {
    Excellent,
    Adequate,
    Marginal,
    Inadequate,
}

/// The rating of a Cpk: from 1.67 excellent, from 1.33 adequate, from 1.0 marginal.
pub fn rating(cpk: f64) -> Rating {
    match cpk {
        _ if cpk >= 1.67 => Rating::Excellent,
        _ if cpk >= 1.33 => Rating::Adequate,
        _ if cpk >= 1.0 => Rating::Marginal,
        _ => Rating::Inadequate,
    }
}

/// Parts per million outside the specification, expected of a normal law.
pub fn ppm_expected(mean: f64, sigma: f64, spec: &Spec) -> Option<f64> {
    if !(mean.is_finite() && sigma.is_finite() && sigma > 0.0) {
        return None;
    }
    let above = spec.usl.map_or(0.0, |usl| normal_above((usl - mean) / sigma));
    let below = spec.lsl.map_or(0.0, |lsl| normal_above((mean - lsl) / sigma));
    Some((above + below) * 1e6)
}

/// 95 % interval of a Cp or Pp whose sigma has `degrees` of freedom.
pub fn cp_interval(cp: f64, degrees: f64) -> Option<[f64; 2]> {
    (degrees >= 1.0).then(|| {
        let root = |alpha: f64| (chi_square_upper(alpha, degrees) / degrees).sqrt();
        [cp * root(0.975), cp * root(0.025)]
    })
}

/// 95 % interval of a Cpk or Ppk from `n` rows whose sigma has `degrees` of freedom.
pub fn cpk_interval(cpk: f64, n: f64, degrees: f64) -> Option<[f64; 2]> {
    (degrees >= 1.0 && n >= 2.0).then(|| {
        let half = normal_quantile(0.975) * (1.0 / (9.0 * n) + cpk * cpk / (2.0 * degrees)).sqrt();
        [cpk - half, cpk + half]
    })
}

/// A within-subgroup sigma and how well it is known.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Within {
    /// The estimate.
    pub sigma: Option<f64>,
    /// Its degrees of freedom.
    pub degrees: f64,
}

/// The figures of one chart and key; the caller fills in whose they are.
pub(super) fn figures(rows: &Moments, outside: Option<u64>, within: Within, spec: &Spec) -> Capability {
    let n = rows.count as f64;
    let mean = (rows.count > 0).then_some(rows.mean);
    let overall = rows.deviation();
    let of = |sigma: Option<f64>| mean.zip(sigma).map(|(mean, sigma)| indices(mean, sigma, spec)).unwrap_or_default();
    let (short, long) = (of(within.sigma), of(overall));
    let mut intervals: BTreeMap<Arc<str>, [f64; 2]> = BTreeMap::new();
    let mut keep = |name: &str, interval: Option<[f64; 2]>| {
        if let Some(interval) = interval {
            intervals.insert(name.into(), interval);
        }
    };
    keep("cp", short.cp.and_then(|cp| cp_interval(cp, within.degrees)));
    keep("cpk", short.cpk.and_then(|cpk| cpk_interval(cpk, n, within.degrees)));
    keep("pp", long.cp.and_then(|pp| cp_interval(pp, n - 1.0)));
    keep("ppk", long.cpk.and_then(|ppk| cpk_interval(ppk, n, n - 1.0)));
    Capability {
        chart: "".into(),
        key: Key::new(),
        n: rows.count,
        mean,
        sigma_within: within.sigma,
        sigma_overall: overall,
        cp: short.cp,
        cpk: short.cpk,
        pp: long.cp,
        ppk: long.cpk,
        cpm: long.cpm,
        intervals,
        ppm_observed: outside.filter(|_| rows.count > 0).map(|outside| outside as f64 / n * 1e6),
        ppm_expected: mean.zip(overall).and_then(|(mean, sigma)| ppm_expected(mean, sigma, spec)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_limit_defines_only_its_own_index() {
        let spec = Spec { usl: Some(12.0), ..Spec::default() };
        let got = indices(9.0, 1.0, &spec);
        assert_eq!((got.cp, got.cpk, got.cpm, got.cpl), (None, Some(1.0), None, None));
        assert!((ppm_expected(9.0, 1.0, &spec).unwrap() - 1_349.898_031_630_1).abs() < 1e-6);
    }

    #[test]
    fn no_variation_gives_no_index() {
        let spec = Spec { lsl: Some(0.0), usl: Some(2.0), target: None };
        assert_eq!(indices(1.0, 0.0, &spec), Indices::default());
        let mut rows = Moments::default();
        rows.push(1.0);
        rows.push(1.0);
        let got = figures(&rows, Some(0), Within::default(), &spec);
        assert_eq!((got.cp, got.ppk, got.ppm_expected, got.ppm_observed), (None, None, None, Some(0.0)));
    }

    #[test]
    fn intervals_agree_with_montgomery() {
        // Montgomery, example 8.4: s = 1.75 of n = 20, Cp 2.29: 1.57 to 3.01. Example 8.5: Cpk 1.33, n = 20: 0.88 to 1.78.
        let [low, high] = cp_interval(2.29, 19.0).unwrap();
        assert!((low - 1.57).abs() < 0.01 && (high - 3.01).abs() < 0.01, "{low} {high}");
        let [low, high] = cpk_interval(1.33, 20.0, 19.0).unwrap();
        assert!((low - 0.88).abs() < 0.01 && (high - 1.78).abs() < 0.01, "{low} {high}");
    }
}

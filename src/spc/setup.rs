//! What all keys of a chart share: the configuration, what follows from it, and where its columns are.

use std::sync::Arc;

use super::{
    config::{Bound, ChartConfig, ChartKind, ConfigError, Known, LimitSource, Nominal, Size, Subgroup},
    lines::Frozen,
    mewma, multivariate,
    multivariate::Ellipsoid,
    rules::Plan,
};
use crate::model::Stream;

/// Where the rows of a subgroup end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grouping {
    Row,
    Size(usize),
    Layer,
    Tag(usize),
    Every(i64),
}

/// The resolved chart.
#[derive(Debug)]
pub(super) struct Setup {
    pub config: ChartConfig,
    pub pipeline: Arc<str>,
    pub plan: Plan,
    pub spread_plan: Plan,
    /// Signal columns.
    pub columns: Vec<usize>,
    /// The column of inspected sizes, or the size of every row.
    pub size_column: Option<usize>,
    pub size: f64,
    pub grouping: Grouping,
    /// Tag columns of the key, in order of `group_by`.
    pub group: Vec<usize>,
    /// The tag that selects limits or nominal values.
    pub lookup_tag: Option<usize>,
    pub known: Vec<(Arc<str>, Known)>,
    pub nominal: Vec<(Arc<str>, Nominal)>,
    /// Every tag column at which a run of equal rows ends.
    pub split: Vec<usize>,
    /// Limits that need no data.
    pub fixed: Option<Frozen>,
    /// The limit on the MEWMA's T².
    mewma_limit: f64,
}

impl Setup {
    pub fn new(pipeline: Arc<str>, config: ChartConfig, stream: &Stream) -> Result<Self, ConfigError> {
        let fault = |key: &str, message: String| ConfigError { chart: config.id.to_string(), key: key.to_owned(), message };
        let signal = |key: &str, name: &str| {
            stream.signal(name).ok_or_else(|| fault(key, format!("stream `{}` has no signal `{name}`", stream.id)))
        };
        let tag = |key: &str, name: &str| {
            stream.tag(name).ok_or_else(|| fault(key, format!("stream `{}` has no tag `{name}`", stream.id)))
        };
        let columns = config.signals.iter().map(|name| signal("signal", name)).collect::<Result<Vec<_>, _>>()?;
        let group = config.group_by.iter().map(|name| tag("group_by", name)).collect::<Result<Vec<_>, _>>()?;
        let (mut size_column, mut size) = (None, 1.0);
        if let ChartKind::Attribute { size: configured, .. } = &config.kind {
            match configured {
                Size::Constant(n) => size = *n,
                Size::Signal(name) => size_column = Some(signal("size", name)?),
            }
        }
        let grouping = match &config.subgroup {
            Subgroup::Row => Grouping::Row,
            Subgroup::Size(n) => Grouping::Size(*n),
            Subgroup::Layer => Grouping::Layer,
            Subgroup::Tag(name) => Grouping::Tag(tag("subgroup.by", name)?),
            Subgroup::Every(ns) => Grouping::Every(*ns),
        };
        let (mut lookup_tag, mut known, mut nominal) = (None, Vec::new(), Vec::new());
        if let LimitSource::ByTag(by, table) = &config.limits {
            lookup_tag = Some(tag("limits.by", by)?);
            known = table.iter().map(|(text, known)| (Arc::clone(text), *known)).collect();
        }
        if let ChartKind::ShortRun { by, table } = &config.kind {
            lookup_tag = Some(tag("nominal.by", by)?);
            nominal = table.iter().map(|(text, nominal)| (Arc::clone(text), *nominal)).collect();
        }
        let mut split: Vec<usize> = group.iter().copied().chain(lookup_tag).collect();
        if let Grouping::Tag(column) = grouping {
            split.push(column);
        }
        split.sort_unstable();
        split.dedup();
        let mewma_limit = match &config.kind {
            ChartKind::Mewma { bound: Bound::Ucl(ucl), .. } => *ucl,
            ChartKind::Mewma { bound: Bound::Alpha(_), lambda, .. } if *lambda < mewma::LAMBDA_MIN => {
                return Err(fault("alpha", format!("lambda below {}: give `ucl`", mewma::LAMBDA_MIN)));
            }
            ChartKind::Mewma { bound: Bound::Alpha(alpha), lambda, .. } => mewma::limit(columns.len(), *lambda, 1.0 / alpha),
            _ => f64::NAN,
        };
        let mut setup = Self {
            plan: Plan::new(config.rules, config.conventions),
            spread_plan: Plan::new(config.spread_rules, config.conventions),
            pipeline,
            columns,
            size_column,
            size,
            grouping,
            group,
            lookup_tag,
            known,
            nominal,
            split,
            fixed: None,
            mewma_limit,
            config,
        };
        setup.fixed = setup.known_limits()?;
        Ok(setup)
    }

    fn known_limits(&self) -> Result<Option<Frozen>, ConfigError> {
        Ok(match &self.config.limits {
            LimitSource::Fixed(known) => Some(self.scalar(known)),
            LimitSource::FixedVector(center, covariance) => {
                let ellipsoid = Ellipsoid::new(center.clone(), covariance).map_err(|row| ConfigError {
                    chart: self.config.id.to_string(),
                    key: "limits.covariance".to_owned(),
                    message: format!("singular at row {}", row + 1),
                })?;
                Some(Frozen::Vector { ellipsoid: Box::new(ellipsoid), ucl: self.vector_limit(None) })
            }
            LimitSource::Baseline(_) | LimitSource::ByTag(..) => None,
        })
    }

    /// The frozen form of given limits.
    pub fn scalar(&self, known: &Known) -> Frozen {
        let lambda = match self.config.kind {
            ChartKind::EwmaResidual { lambda } => lambda.unwrap_or(0.2),
            _ => 0.0,
        };
        Frozen::Scalar { center: known.center, sigma: known.sigma, lambda }
    }

    /// Phase II limit on T² with a baseline of `points`, or with known parameters.
    pub fn vector_limit(&self, points: Option<usize>) -> f64 {
        let p = self.columns.len();
        match (&self.config.kind, points) {
            (ChartKind::T2 { bound: Bound::Ucl(ucl) }, _) => *ucl,
            (ChartKind::T2 { bound: Bound::Alpha(alpha) }, None) => multivariate::known_limit(p, *alpha),
            (ChartKind::T2 { bound: Bound::Alpha(alpha) }, Some(m)) => multivariate::phase_2_limit(m, p, *alpha),
            _ => self.mewma_limit,
        }
    }

    /// Limit on T² for the `points` baseline rows themselves.
    pub fn phase_1_limit(&self, points: usize) -> f64 {
        match &self.config.kind {
            ChartKind::T2 { bound: Bound::Alpha(alpha) } => multivariate::phase_1_limit(points, self.columns.len(), *alpha),
            _ => self.vector_limit(Some(points)),
        }
    }

    /// Baseline points, where limits come from data.
    pub fn baseline_points(&self) -> usize {
        match self.config.limits {
            LimitSource::Baseline(points) => points,
            _ => 0,
        }
    }

    /// The name of the tag that selects limits or nominal values.
    pub fn lookup_tag_name(&self) -> Arc<str> {
        match (&self.config.limits, &self.config.kind) {
            (LimitSource::ByTag(by, _), _) | (_, ChartKind::ShortRun { by, .. }) => Arc::clone(by),
            _ => "".into(),
        }
    }

    /// Fewest values that make a subgroup a point.
    pub fn least_values(&self) -> u64 {
        match self.config.half() {
            super::config::Half::Range | super::config::Half::Deviation => 2,
            _ => 1,
        }
    }
}

//! Phase I: the points that limits come from, and what is estimated from them.
//!
//! A baseline keeps its points after it is frozen, so that one with an assignable cause can be taken out later. Points that do not
//! follow each other (a missing one lay between) form no moving range and break every run.

use serde::{Deserialize, Serialize};

use super::{
    capability::Within,
    config::{Attribute, ChartConfig, ChartKind, Estimator, Half},
    constants::{D4_OF_TWO, c4, c5, constants},
    lines::Frozen,
    moments::{Moments, lag_1, lag_1_bound},
    multivariate::{Ellipsoid, covariance},
    sample::Sample,
};

/// The collected points, in columns; those that no estimate needs are empty.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Baseline {
    /// Index of the first point.
    first: u64,
    /// How many points.
    count: usize,
    /// Index of each, counted from the first; empty as long as they all follow each other.
    offsets: Vec<u32>,
    /// One number a signal and point.
    values: Vec<f64>,
    ranges: Vec<f64>,
    squares: Vec<f64>,
    /// Size of each; empty as long as all are `size`.
    sizes: Vec<f64>,
    size: f64,
}

/// Which columns a chart's baseline has.
struct Columns {
    sizes: bool,
    ranges: bool,
    squares: bool,
}

impl Columns {
    fn of(config: &ChartConfig) -> Self {
        let attribute = matches!(config.kind, ChartKind::Attribute { .. });
        let grouped = !attribute && !config.kind.is_multivariate() && !config.is_individual();
        let range = config.estimator == Estimator::Range || config.half() == Half::Range;
        let squares = config.estimator != Estimator::Range || config.half() == Half::Deviation || config.spec.is_some();
        Self { sizes: attribute || grouped, ranges: grouped && range, squares: grouped && squares }
    }
}

impl Baseline {
    /// Room for as many points as are wanted, and not more.
    pub fn for_points(points: usize, config: &ChartConfig) -> Self {
        let columns = Columns::of(config);
        let room = |wanted: bool| Vec::with_capacity(if wanted { points } else { 0 });
        Self {
            values: Vec::with_capacity(points * config.signals.len()),
            ranges: room(columns.ranges),
            squares: room(columns.squares),
            ..Self::default()
        }
    }

    pub fn len(&self) -> usize {
        self.count
    }

    /// Adds a point: a sample, or the row of a multivariate chart.
    pub fn push(&mut self, index: u64, sample: &Sample, row: &[f64], config: &ChartConfig) {
        let columns = Columns::of(config);
        if self.count == 0 {
            (self.first, self.size) = (index, sample.n);
        }
        let offset = u32::try_from(index - self.first).unwrap_or(u32::MAX);
        if !self.offsets.is_empty() || offset as usize != self.count {
            let so_far = self.count as u32;
            if self.offsets.is_empty() {
                self.offsets.extend(0..so_far);
            }
            self.offsets.push(offset);
        }
        if columns.sizes && (!self.sizes.is_empty() || sample.n != self.size) {
            if self.sizes.is_empty() {
                self.sizes.resize(self.count, self.size);
            }
            self.sizes.push(sample.n);
        }
        if config.kind.is_multivariate() {
            self.values.extend_from_slice(row);
        } else {
            self.values.push(sample.value);
        }
        if columns.ranges {
            self.ranges.push(sample.range);
        }
        if columns.squares {
            self.squares.push(sample.squares);
        }
        self.count += 1;
    }

    /// Bytes it holds.
    pub fn bytes(&self) -> usize {
        let columns = [&self.values, &self.ranges, &self.squares, &self.sizes];
        let floats: usize = columns.iter().map(|column| column.capacity()).sum();
        size_of::<Self>() + 8 * floats + 4 * self.offsets.capacity()
    }

    /// Whether columns agree; a snapshot from elsewhere might not.
    pub fn is_consistent(&self, config: &ChartConfig) -> bool {
        let columns = Columns::of(config);
        let all = |wanted: bool, len: usize| len == if wanted { self.count } else { 0 };
        self.count.checked_mul(config.signals.len()) == Some(self.values.len())
            && all(columns.ranges, self.ranges.len())
            && all(columns.squares, self.squares.len())
            && (self.sizes.is_empty() || all(columns.sizes, self.sizes.len()))
            && (self.offsets.is_empty() || self.offsets.len() == self.count)
    }

    fn offset(&self, i: usize) -> u64 {
        self.offsets.get(i).map_or(i as u64, |offset| u64::from(*offset))
    }

    fn size(&self, i: usize) -> f64 {
        self.sizes.get(i).copied().unwrap_or(self.size)
    }

    fn follows(&self, i: usize) -> bool {
        i > 0 && self.offset(i) == self.offset(i - 1) + 1
    }

    /// Point `i`: its index, whether it follows the one before, the sample, and its row.
    pub fn point(&self, i: usize, signals: usize) -> (u64, bool, Sample, &[f64]) {
        let row = &self.values[i * signals..(i + 1) * signals];
        let sample = Sample {
            value: row[0],
            n: self.size(i),
            range: self.ranges.get(i).copied().unwrap_or(f64::NAN),
            squares: self.squares.get(i).copied().unwrap_or(0.0),
            outside: 0,
        };
        (self.first + self.offset(i), self.follows(i), sample, row)
    }

    /// The last point if it is the one before `index`.
    pub fn value_before(&self, index: u64) -> Option<f64> {
        let last = self.first + self.offset(self.count.checked_sub(1)?);
        (last + 1 == index).then(|| self.values.last().copied()).flatten()
    }

    /// Without the points with these indices.
    pub fn without(&self, indices: &[u64], config: &ChartConfig) -> Self {
        let signals = config.signals.len();
        let mut rest = Self::for_points(self.count, config);
        for i in 0..self.count {
            let (index, _, sample, row) = self.point(i, signals);
            if !indices.contains(&index) {
                rest.push(index, &sample, row, config);
            }
        }
        rest
    }

    /// Size of every point, if they share one.
    pub fn common_size(&self) -> Option<f64> {
        self.sizes.iter().all(|size| *size == self.size).then_some(self.size)
    }

    /// Absolute differences of neighbours in `values`, a column in step with the points.
    fn moving_ranges<'a>(&'a self, values: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
        (1..values.len()).filter(|i| self.follows(*i)).map(|i| (values[i] - values[i - 1]).abs())
    }

    /// The values with a missing one wherever neighbours do not follow each other.
    fn with_gaps(&self) -> Vec<f64> {
        let mut values = Vec::with_capacity(self.values.len());
        for (i, value) in self.values.iter().enumerate() {
            if i > 0 && !self.follows(i) {
                values.push(f64::NAN);
            }
            values.push(*value);
        }
        values
    }

    /// Centre and sigma, or in words why there are none. `vector_limit` is the limit on T² for that many points.
    pub fn estimate(&self, config: &ChartConfig, vector_limit: impl Fn(usize) -> f64) -> Result<Frozen, String> {
        match &config.kind {
            ChartKind::Attribute { attribute, .. } => self.rate(*attribute),
            ChartKind::T2 { .. } | ChartKind::Mewma { .. } => self.ellipsoid(config, vector_limit),
            ChartKind::EwmaResidual { lambda } => self.forecast_errors(*lambda),
            _ => {
                let center = self.center();
                let sigma = self.within(config.estimator).sigma;
                Ok(Frozen::Scalar { center, sigma: positive(sigma, center)?, lambda: 0.0 })
            }
        }
    }

    /// Mean of all rows.
    fn center(&self) -> f64 {
        let mut all = Moments::default();
        for (i, value) in self.values.iter().enumerate() {
            all.merge(&Moments { count: self.size(i) as u64, mean: *value, squares: 0.0 });
        }
        all.mean
    }

    /// Moments of all rows.
    pub fn rows(&self) -> Moments {
        let mut all = Moments::default();
        for (i, value) in self.values.iter().enumerate() {
            let squares = self.squares.get(i).copied().unwrap_or(0.0);
            all.merge(&Moments { count: self.size(i) as u64, mean: *value, squares });
        }
        all
    }

    /// How many values of an individuals chart lie outside; unknown for subgroups.
    pub fn outside(&self, outside: impl Fn(f64) -> bool) -> Option<u64> {
        (self.common_size() == Some(1.0)).then(|| self.values.iter().filter(|value| outside(**value)).count() as u64)
    }

    /// The variation inside subgroups, or between neighbours.
    pub fn within(&self, estimator: Estimator) -> Within {
        let mut sum = WithinSum::default();
        match estimator {
            Estimator::MovingRange => self.moving_ranges(&self.values).for_each(|range| sum.moving_range(range)),
            Estimator::MedianMovingRange => {
                let mut ranges: Vec<f64> = self.moving_ranges(&self.values).collect();
                ranges.sort_by(f64::total_cmp);
                for range in &ranges {
                    sum.moving_range(*range);
                }
                let middle = ranges.len() / 2;
                let median = match ranges.len() {
                    0 => return Within::default(),
                    n if n % 2 == 1 => ranges[middle],
                    _ => 0.5 * (ranges[middle - 1] + ranges[middle]),
                };
                return Within { sigma: Some(median / D4_OF_TWO), ..sum.within(Estimator::MovingRange) };
            }
            _ => {
                for i in 0..self.len() {
                    let (.., sample, _) = self.point(i, 1);
                    sum.subgroup(&sample, estimator);
                }
            }
        }
        sum.within(estimator)
    }

    fn rate(&self, attribute: Attribute) -> Result<Frozen, String> {
        let counted: f64 = self.values.iter().sum();
        let inspected: f64 =
            if attribute == Attribute::C { self.len() as f64 } else { (0..self.count).map(|i| self.size(i)).sum() };
        let rate = counted / inspected;
        if rate.is_nan() || rate <= 0.0 {
            return Err("the baseline counts nothing: no limits; a longer baseline is needed".to_owned());
        }
        if attribute.is_binomial() && rate >= 1.0 {
            return Err("every item of the baseline is defective: no limits".to_owned());
        }
        let mut ratio = 1.0;
        if attribute.is_laney() {
            let noise = if attribute == Attribute::LaneyP { rate * (1.0 - rate) } else { rate };
            let score = |(i, x): (usize, &f64)| (x / self.size(i) - rate) / (noise / self.size(i)).sqrt();
            let scores: Vec<f64> = self.values.iter().enumerate().map(score).collect();
            let mut sum = WithinSum::default();
            self.moving_ranges(&scores).for_each(|range| sum.moving_range(range));
            ratio = positive(sum.within(Estimator::MovingRange).sigma, 0.0)?;
        }
        Ok(Frozen::Scalar { center: rate, sigma: ratio, lambda: 0.0 })
    }

    fn ellipsoid(&self, config: &ChartConfig, limit: impl Fn(usize) -> f64) -> Result<Frozen, String> {
        let p = config.signals.len();
        if self.len() < p + 2 {
            return Err(format!("{} points are too few for {p} signals: no limits; at least {} are needed", self.len(), p + 2));
        }
        let (center, matrix) = covariance(&self.values, p);
        match Ellipsoid::new(center, &matrix) {
            Ok(ellipsoid) => Ok(Frozen::Vector { ellipsoid: Box::new(ellipsoid), ucl: limit(self.len()) }),
            Err(signal) => {
                let name = config.signals.get(signal).map_or("", |name| name);
                Err(format!("the covariance is singular: `{name}` is constant or follows from the signals before it; no limits"))
            }
        }
    }

    /// λ (fitted by least squares unless given) and the sigma of one-step forecast errors.
    fn forecast_errors(&self, lambda: Option<f64>) -> Result<Frozen, String> {
        let center = self.center();
        let errors = |lambda: f64| {
            let mut forecast = center;
            self.values.iter().map(move |value| {
                let error = value - forecast;
                forecast += lambda * error;
                error
            })
        };
        let squares = |lambda: f64| errors(lambda).map(|error| error * error).sum::<f64>();
        let lambda = lambda.unwrap_or_else(|| {
            let grid = (1..=100).map(|step| f64::from(step) / 100.0);
            grid.min_by(|a, b| squares(*a).total_cmp(&squares(*b))).unwrap_or(0.2)
        });
        let errors: Vec<f64> = errors(lambda).collect();
        let mut sum = WithinSum::default();
        self.moving_ranges(&errors).for_each(|range| sum.moving_range(range));
        let sigma = positive(sum.within(Estimator::MovingRange).sigma, center)?;
        Ok(Frozen::Scalar { center, sigma, lambda })
    }

    /// A warning if neighbours are alike, so that limits from moving ranges are too narrow.
    pub fn autocorrelation(&self, config: &ChartConfig) -> Option<String> {
        let individuals = matches!(config.kind, ChartKind::Individuals | ChartKind::ShortRun { .. }) && config.is_individual();
        if !individuals || self.len() < 10 {
            return None;
        }
        let r = lag_1(&self.with_gaps())?;
        let bound = lag_1_bound(self.len() as u64);
        (r.abs() > bound).then(|| {
            format!(
                "neighbouring points are correlated (lag 1: {r:.2}, beyond ±{bound:.2}): limits of an individuals chart do not hold; use type ewma_residual"
            )
        })
    }
}

/// `sigma` if it can be divided by.
fn positive(sigma: Option<f64>, center: f64) -> Result<f64, String> {
    match sigma {
        None => Err("no two neighbouring points: sigma cannot be estimated; no limits".to_owned()),
        Some(sigma) if sigma.is_finite() && sigma > 1e-15 * center.abs() => Ok(sigma),
        Some(_) => Err("the baseline has no variation (a stuck sensor?): no limits".to_owned()),
    }
}

/// Running sums behind a within-subgroup sigma.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct WithinSum {
    /// Estimates of sigma, one a point (pooled: sums of squares).
    sum: f64,
    /// How many (pooled: degrees of freedom).
    count: f64,
    /// Squared relative noise of those estimates.
    noise: f64,
}

impl WithinSum {
    #[inline]
    pub fn moving_range(&mut self, range: f64) {
        self.sum += range;
        self.count += 1.0;
    }

    #[inline]
    pub fn subgroup(&mut self, sample: &Sample, estimator: Estimator) {
        if sample.n < 2.0 {
            return;
        }
        match estimator {
            Estimator::Range => {
                if let Some(c) = constants(sample.n as usize) {
                    self.sum += sample.range / c.d2;
                    self.count += 1.0;
                    self.noise += (c.d3 / c.d2) * (c.d3 / c.d2);
                }
            }
            Estimator::Pooled => {
                self.sum += sample.squares;
                self.count += sample.n - 1.0;
            }
            _ => {
                let c4 = c4(sample.n as usize);
                self.sum += sample.deviation() / c4;
                self.count += 1.0;
                self.noise += (c5(c4) / c4) * (c5(c4) / c4);
            }
        }
    }

    pub fn within(&self, estimator: Estimator) -> Within {
        if self.count <= 0.0 {
            return Within::default();
        }
        let mean = self.sum / self.count;
        match estimator {
            Estimator::MovingRange | Estimator::MedianMovingRange => {
                // Variance of the mean moving range of n normal values (Cryer and Ryan 1990), n = count + 1.
                let n = self.count + 1.0;
                let d2 = 2.0 / std::f64::consts::PI.sqrt();
                Within { sigma: Some(mean / d2), degrees: (n - 1.0) * (n - 1.0) / (2.0 * (0.8264 * n - 1.082).max(0.5)) }
            }
            Estimator::Pooled => Within { sigma: Some(mean.sqrt() / c4(self.count as usize + 1)), degrees: self.count },
            _ => Within { sigma: Some(mean), degrees: self.count * self.count / (2.0 * self.noise) },
        }
    }
}

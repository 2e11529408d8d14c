//! Frozen parameters → the lines a point is judged against.

use serde::{Deserialize, Serialize};

use super::{
    config::{Attribute, ChartConfig, ChartKind, Half},
    constants::{c4, c5, constants},
    multivariate::Ellipsoid,
    rules::Zones,
};

const EVERYWHERE: [f64; 2] = [f64::NEG_INFINITY, f64::INFINITY];

/// What a baseline (or the configuration) fixed, until somebody re-baselines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Frozen {
    /// Charts of one signal. `center` is the rate on attribute charts; `sigma` is that of one row (of a residual; the ratio `σ_z` of a
    /// Laney chart); `lambda` is that of a residual chart.
    Scalar { center: f64, sigma: f64, lambda: f64 },
    /// Charts of several.
    Vector { ellipsoid: Box<Ellipsoid>, ucl: f64 },
}

/// The lines for points of one size.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Lines {
    /// Rows in the point, or what was inspected.
    pub n: f64,
    /// For the statistic.
    pub zones: Zones,
    /// For the R, S or moving-range half; `NaN` where there is none.
    pub spread: Zones,
}

impl Lines {
    /// Lines that judge nothing.
    pub fn none() -> Self {
        let nothing = Zones::new(f64::NAN, f64::NAN, f64::NAN, [f64::NAN; 2]);
        Self { n: f64::NAN, zones: nothing, spread: nothing }
    }

    /// Draws the limits and zones of the statistic together by `factor`.
    pub fn scale(&mut self, factor: f64) {
        let zones = &mut self.zones;
        let near = |line: f64| zones.center + factor * (line - zones.center);
        *zones = Zones {
            center: zones.center,
            lcl: near(zones.lcl),
            ucl: near(zones.ucl),
            minus_2: near(zones.minus_2),
            minus_1: near(zones.minus_1),
            plus_1: near(zones.plus_1),
            plus_2: near(zones.plus_2),
        };
    }

    /// The lines of `config` for points of size `n`; `None` where the range has no constants (more than 100 rows).
    pub fn new(config: &ChartConfig, frozen: &Frozen, n: f64) -> Option<Self> {
        let Frozen::Scalar { center, sigma, .. } = *frozen else { return Some(Self::none()) };
        let zones = match &config.kind {
            ChartKind::Attribute { attribute, .. } => attribute_zones(*attribute, center, sigma, n, config.width),
            ChartKind::EwmaResidual { .. } => Zones::new(0.0, sigma, config.width, EVERYWHERE),
            _ => Zones::new(center, sigma / n.sqrt(), config.width, EVERYWHERE),
        };
        Some(Self { n, zones, spread: spread_zones(config.half(), sigma, n, config.width)? })
    }
}

fn attribute_zones(attribute: Attribute, rate: f64, ratio: f64, n: f64, width: f64) -> Zones {
    let (center, sigma, high) = match attribute {
        Attribute::P => (rate, (rate * (1.0 - rate) / n).sqrt(), 1.0),
        Attribute::LaneyP => (rate, ratio * (rate * (1.0 - rate) / n).sqrt(), 1.0),
        Attribute::Np => (n * rate, (n * rate * (1.0 - rate)).sqrt(), n),
        Attribute::C => (rate, rate.sqrt(), f64::INFINITY),
        Attribute::U => (rate, (rate / n).sqrt(), f64::INFINITY),
        Attribute::LaneyU => (rate, ratio * (rate / n).sqrt(), f64::INFINITY),
    };
    Zones::new(center, sigma, width, [0.0, high])
}

fn spread_zones(half: Half, sigma: f64, n: f64, width: f64) -> Option<Zones> {
    let (mean, noise) = match half {
        Half::None => return Some(Lines::none().spread),
        Half::Range => constants(n as usize).map(|c| (c.d2, c.d3))?,
        Half::MovingRange => constants(2).map(|c| (c.d2, c.d3))?,
        Half::Deviation => {
            let c4 = c4(n as usize);
            (c4, c5(c4))
        }
    };
    Some(Zones::new(mean * sigma, noise * sigma, width, [0.0, f64::INFINITY]))
}

/// A line that exists, for a result.
pub(super) fn line(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

//! Baselines that follow a process on purpose, and a test of whether it has drifted.
//!
//! Charts never do this: their limits are frozen. These are for people who decide that a slow, understood change (tool wear, a new lot) is
//! to be followed, and for asking how far the process has gone since a baseline was taken.

use super::moments::Moments;

/// A process in three numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Level {
    /// Mean.
    pub mean: f64,
    /// Standard deviation, divided by n − 1.
    pub deviation: f64,
    /// How many values it rests on.
    pub count: u64,
}

impl Level {
    /// The level of `values`; `None` below two.
    pub fn of(values: &[f64]) -> Option<Self> {
        let moments = Moments::of(values);
        Some(Self { mean: moments.mean, deviation: moments.deviation()?, count: moments.count })
    }

    /// Weighs mean and variance of `values` with `alpha` in (0, 1], what was known with the rest. Fewer than two values change nothing.
    #[must_use]
    pub fn exponential(self, values: &[f64], alpha: f64) -> Self {
        let Some(new) = Self::of(values) else { return self };
        let blend = |old: f64, new: f64| (1.0 - alpha) * old + alpha * new;
        Self {
            mean: blend(self.mean, new.mean),
            deviation: blend(self.deviation * self.deviation, new.deviation * new.deviation).sqrt(),
            count: self.count + new.count,
        }
    }

    /// As if all values had been there from the start.
    #[must_use]
    pub fn cumulative(self, values: &[f64]) -> Self {
        let degrees = self.count.saturating_sub(1) as f64;
        let mut all = Moments { count: self.count, mean: self.mean, squares: self.deviation * self.deviation * degrees };
        all.merge(&Moments::of(values));
        Self { mean: all.mean, deviation: all.deviation().unwrap_or(self.deviation), count: all.count }
    }

    /// Only the last `rows` of `values`; what was known is kept if they are too few.
    #[must_use]
    pub fn window(self, values: &[f64], rows: usize) -> Self {
        Self::of(&values[values.len().saturating_sub(rows)..]).unwrap_or(self)
    }
}

/// The outcome of a drift test.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drift {
    /// Distance of the recent mean from the baseline in its standard errors.
    pub z: f64,
    /// Whether that is no accident (95 %).
    pub drifted: bool,
}

/// Fewest recent values for a drift test.
pub const DRIFT_VALUES_MIN: u64 = 10;

/// Whether the mean of `count` recent values has left the baseline; `None` with too few, or a baseline without variation.
pub fn drift(baseline: &Level, recent_mean: f64, count: u64) -> Option<Drift> {
    if count < DRIFT_VALUES_MIN || baseline.deviation.is_nan() || baseline.deviation <= 0.0 {
        return None;
    }
    let z = (recent_mean - baseline.mean) / (baseline.deviation / (count as f64).sqrt());
    Some(Drift { z, drifted: z.abs() > 1.96 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cumulative_is_the_level_of_all_values() {
        let all = [1.0, 2.0, 4.0, 8.0, 16.0];
        let grown = Level::of(&all[..2]).unwrap().cumulative(&all[2..]);
        let whole = Level::of(&all).unwrap();
        assert!((grown.mean - whole.mean).abs() < 1e-12 && (grown.deviation - whole.deviation).abs() < 1e-12);
        assert_eq!(whole.window(&[5.0, 6.0, 7.0], 2), Level::of(&[6.0, 7.0]).unwrap());
    }

    #[test]
    fn nothing_is_no_drift_test() {
        let flat = Level { mean: 1.0, deviation: 0.0, count: 30 };
        assert_eq!(drift(&flat, 2.0, 30), None);
        assert_eq!(drift(&Level { deviation: 1.0, ..flat }, 2.0, 9), None);
    }
}

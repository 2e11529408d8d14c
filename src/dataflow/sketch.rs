//! Quantiles of any number of values in bounded memory: DDSketch (Masson, Rim, Lee, VLDB 2019).
//!
//! Values fall into buckets whose bounds grow by the factor γ = (1 + α) / (1 − α); the middle of a bucket is within the relative error α
//! of every value in it. Counts merge by adding, so the result depends neither on order nor on how rows were cut. Beyond
//! [`BUCKETS_MAX`] buckets the ones nearest to zero are folded together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The relative error of a quantile.
pub const RELATIVE_ERROR: f64 = 0.01;
/// Buckets of one sign: with α = 0.01 enough for eighteen decimal orders of magnitude.
pub const BUCKETS_MAX: usize = 2048;
/// Smaller values count as zero.
const ZERO_BELOW: f64 = 1e-300;

/// Values by size.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Sketch {
    positive: BTreeMap<i32, u64>,
    negative: BTreeMap<i32, u64>,
    zeros: u64,
    count: u64,
}

fn bucket(size: f64) -> i32 {
    (size.ln() / gamma().ln()).ceil() as i32
}

fn gamma() -> f64 {
    (1.0 + RELATIVE_ERROR) / (1.0 - RELATIVE_ERROR)
}

fn middle(bucket: i32) -> f64 {
    2.0 * gamma().powi(bucket) / (gamma() + 1.0)
}

impl Sketch {
    /// Adds a finite value.
    pub fn add(&mut self, value: f64) {
        self.count += 1;
        if value.abs() < ZERO_BELOW {
            self.zeros += 1;
            return;
        }
        let side = if value > 0.0 { &mut self.positive } else { &mut self.negative };
        *side.entry(bucket(value.abs())).or_insert(0) += 1;
        fold(side);
    }

    /// Adds all values of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (side, more) in [(&mut self.positive, &other.positive), (&mut self.negative, &other.negative)] {
            for (bucket, count) in more {
                *side.entry(*bucket).or_insert(0) += count;
            }
            fold(side);
        }
        self.zeros += other.zeros;
        self.count += other.count;
    }

    /// The value below which the share `q` of the values lies; none of nothing.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let rank = (q * self.count.checked_sub(1)? as f64).floor() as u64;
        let mut seen = 0;
        let falling = self.negative.iter().rev().map(|(bucket, count)| (-middle(*bucket), *count));
        let rising = self.positive.iter().map(|(bucket, count)| (middle(*bucket), *count));
        for (value, count) in falling.chain([(0.0, self.zeros)]).chain(rising) {
            seen += count;
            if seen > rank {
                return Some(value);
            }
        }
        None
    }
}

fn fold(side: &mut BTreeMap<i32, u64>) {
    while side.len() > BUCKETS_MAX {
        let Some((_, lowest)) = side.pop_first() else { return };
        if let Some(mut next) = side.first_entry() {
            *next.get_mut() += lowest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_the_stated_error() {
        let mut sketch = Sketch::default();
        let values: Vec<f64> = (-500..=1500).map(|step| f64::from(step) * 0.37).collect();
        let (left, right) = values.split_at(700);
        let mut other = Sketch::default();
        left.iter().for_each(|value| sketch.add(*value));
        right.iter().for_each(|value| other.add(*value));
        sketch.merge(&other);
        for q in [0.0, 0.1, 0.25, 0.5, 0.9, 0.99, 1.0] {
            let exact = values[(q * (values.len() - 1) as f64).floor() as usize];
            let got = sketch.quantile(q).unwrap();
            assert!((got - exact).abs() <= exact.abs() * RELATIVE_ERROR + 1e-12, "{q}: {got} for {exact}");
        }
        assert_eq!(Sketch::default().quantile(0.5), None);
    }
}

//! Quantiles of any number of values in bounded memory: DDSketch (Masson, Rim, Lee, VLDB 2019).
//!
//! Values fall into buckets whose bounds grow by the factor γ = (1 + α) / (1 − α); the middle of a bucket is within the relative error α
//! of every value in it. Counts merge by adding, so the result depends neither on order nor on how rows were cut. Of each
//! sign, the [`BUCKETS_MAX`] buckets furthest from zero are told apart; what is nearer counts in the nearest of them.

use serde::{Deserialize, Serialize};

/// The relative error of a quantile.
pub const RELATIVE_ERROR: f64 = 0.01;
/// Buckets of one sign: with α = 0.01 enough for seventeen decimal orders of magnitude.
pub const BUCKETS_MAX: usize = 2048;
/// Smaller values count as zero.
const ZERO_BELOW: f64 = 1e-300;
const GAMMA: f64 = (1.0 + RELATIVE_ERROR) / (1.0 - RELATIVE_ERROR);
/// 1 / ln γ.
const PER_LN: f64 = 49.998_333_288_886_78;

/// Values by size.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Sketch {
    positive: Side,
    negative: Side,
    zeros: u64,
    count: u64,
}

/// Values of one sign: counts of adjacent buckets.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
struct Side {
    /// The number of the first bucket.
    first: i32,
    /// The last one is not empty; nor is the first one, unless others were folded into it.
    counts: Vec<u64>,
}

fn bucket(size: f64) -> i32 {
    (size.ln() * PER_LN).ceil() as i32
}

fn middle(bucket: i32) -> f64 {
    2.0 * GAMMA.powi(bucket) / (GAMMA + 1.0)
}

impl Side {
    /// Makes room for buckets `from..=to`, folding what is then too near to zero.
    fn cover(&mut self, from: i32, to: i32) {
        if self.counts.is_empty() {
            self.first = from.max(to - (BUCKETS_MAX as i32 - 1));
            self.counts.resize((to - self.first) as usize + 1, 0);
            return;
        }
        let last = (self.first + self.counts.len() as i32 - 1).max(to);
        let first = self.first.min(from).max(last - (BUCKETS_MAX as i32 - 1));
        if first < self.first {
            let more = (self.first - first) as usize;
            self.counts.splice(0..0, std::iter::repeat_n(0, more));
        } else if first > self.first {
            let gone = ((first - self.first) as usize).min(self.counts.len());
            let folded: u64 = self.counts.drain(..gone).sum();
            if self.counts.is_empty() {
                self.counts.push(0);
            }
            self.counts[0] += folded;
        }
        self.first = first;
        self.counts.resize((last - first) as usize + 1, 0);
    }

    #[inline]
    fn add(&mut self, bucket: i32) {
        let place = bucket.wrapping_sub(self.first) as usize;
        if let Some(count) = self.counts.get_mut(place) {
            *count += 1;
            return;
        }
        self.cover(bucket, bucket);
        let place = (bucket - self.first).max(0) as usize;
        self.counts[place] += 1;
    }

    fn merge(&mut self, other: &Self) {
        if other.counts.is_empty() {
            return;
        }
        self.cover(other.first, other.first + other.counts.len() as i32 - 1);
        let skip = ((self.first - other.first).max(0) as usize).min(other.counts.len());
        self.counts[0] += other.counts[..skip].iter().sum::<u64>();
        let from = (other.first - self.first).max(0) as usize;
        for (into, more) in self.counts[from..].iter_mut().zip(&other.counts[skip..]) {
            *into += more;
        }
    }

    fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The middle of the bucket in which the value with this rank is, counted from zero.
    fn at(&self, rank: u64) -> f64 {
        let mut seen = 0;
        let holds = |count: &u64| {
            seen += count;
            seen > rank
        };
        let place = self.counts.iter().position(holds).unwrap_or(self.counts.len().saturating_sub(1));
        middle(self.first + place as i32)
    }
}

impl Sketch {
    /// Adds a finite value.
    #[inline]
    pub fn add(&mut self, value: f64) {
        self.count += 1;
        if value.abs() < ZERO_BELOW {
            self.zeros += 1;
        } else if value > 0.0 {
            self.positive.add(bucket(value));
        } else {
            self.negative.add(bucket(-value));
        }
    }

    /// Adds all values of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.positive.merge(&other.positive);
        self.negative.merge(&other.negative);
        self.zeros += other.zeros;
        self.count += other.count;
    }

    /// The value below which the share `q` of the values lies; none of nothing.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let rank = (q * self.count.checked_sub(1)? as f64).floor() as u64;
        let negative = self.negative.total();
        Some(if rank < negative {
            -self.negative.at(negative - 1 - rank)
        } else if rank < negative + self.zeros {
            0.0
        } else {
            self.positive.at(rank - negative - self.zeros)
        })
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

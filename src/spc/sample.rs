//! Rows → points: the open subgroup of one chart and key.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{config::Spec, moments::Moments};

/// One complete point before it is judged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    /// Mean of the rows; on attribute charts the count.
    pub value: f64,
    /// Rows; on attribute charts what was inspected.
    pub n: f64,
    /// Largest minus smallest row.
    pub range: f64,
    /// Sum of squared deviations of the rows from their mean.
    pub squares: f64,
    /// Rows outside the specification.
    pub outside: u32,
}

impl Sample {
    /// A row by itself.
    pub const fn single(value: f64) -> Self {
        Self { value, n: 1.0, range: f64::NAN, squares: 0.0, outside: 0 }
    }

    /// Standard deviation of the rows.
    pub fn deviation(&self) -> f64 {
        (self.squares / (self.n - 1.0)).sqrt()
    }
}

/// What separates one subgroup from the next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Boundary {
    /// The count of rows alone.
    Count,
    /// The layer.
    Layer(i32),
    /// The text of a tag.
    Tag(Arc<str>),
    /// Start of the time slot, nanoseconds.
    Slot(i64),
}

/// Rows of a subgroup that is not complete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Open {
    pub boundary: Boundary,
    /// Rows seen, missing ones included.
    pub rows: u64,
    /// By count: the values themselves, so that a subgroup gives the same point whether or not its rows came in one batch.
    pub values: Vec<f64>,
    /// Values, or on attribute charts counts.
    pub moments: Moments,
    pub min: f64,
    pub max: f64,
    /// Attribute charts: sums of counts and of sizes.
    pub count: f64,
    pub size: f64,
    /// Rows outside the specification.
    pub outside: u32,
    /// Event time of the last row.
    pub time: i64,
}

impl Open {
    pub fn new(boundary: Boundary) -> Self {
        Self {
            boundary,
            rows: 0,
            values: Vec::new(),
            moments: Moments::default(),
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            count: 0.0,
            size: 0.0,
            outside: 0,
            time: i64::MIN,
        }
    }

    /// Adds a row; `NaN` is a missing one.
    pub fn push(&mut self, value: f64, size: f64, time: i64, spec: Option<&Spec>) {
        self.rows += 1;
        self.time = time;
        if value.is_nan() {
            return;
        }
        if self.boundary == Boundary::Count {
            self.values.push(value);
        }
        self.moments.push(value);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.count += value;
        self.size += size;
        self.outside += u32::from(spec.is_some_and(|spec| spec.excludes(value)));
    }

    /// The subgroup as a point of a chart of measurements; `None` if fewer than `least` values are there.
    pub fn measured(&self, least: u64, spec: Option<&Spec>) -> Option<Sample> {
        if self.moments.count < least.max(1) {
            return None;
        }
        if self.boundary == Boundary::Count {
            return whole(&self.values, spec);
        }
        Some(Sample {
            value: self.moments.mean,
            n: self.moments.count as f64,
            range: self.max - self.min,
            squares: self.moments.squares,
            outside: self.outside,
        })
    }

    /// Empties it for the next subgroup, keeping its memory.
    pub fn reset(&mut self) {
        let mut values = std::mem::take(&mut self.values);
        values.clear();
        *self = Self { values, ..Self::new(self.boundary.clone()) };
    }

    /// The subgroup as a point of an attribute chart.
    pub fn counted(&self) -> Option<Sample> {
        (self.moments.count > 0).then_some(Sample { value: self.count, n: self.size, range: f64::NAN, squares: 0.0, outside: 0 })
    }
}

/// A full subgroup of values that are all there. `None` if one is missing.
#[inline]
pub(super) fn whole(values: &[f64], spec: Option<&Spec>) -> Option<Sample> {
    let (mut sum, mut min, mut max) = (0.0, f64::INFINITY, f64::NEG_INFINITY);
    for value in values {
        sum += value;
        min = if *value < min { *value } else { min };
        max = if *value > max { *value } else { max };
    }
    let n = values.len() as f64;
    let mean = sum / n;
    if mean.is_nan() {
        return None;
    }
    let squares = values.iter().map(|value| (value - mean) * (value - mean)).sum();
    let outside = spec.map_or(0, |spec| values.iter().filter(|value| spec.excludes(**value)).count() as u32);
    Some(Sample { value: mean, n, range: max - min, squares, outside })
}

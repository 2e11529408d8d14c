//! How large a parcel may be: a backlog travels in larger ones while the far end takes them quickly.
//!
//! Every parcel costs the far end some things once, whatever its size: a round trip, a sync, the end of a transaction. So a parcel that was full
//! and quick lets the next be twice as large, up to [`GROWTH_MAX`] times the limit; one that took long halves it again, and a failure begins anew: what is
//! sent again after an outage, over a slow line or to a server that has just come up, is small.

use std::time::Duration;

use super::ReadLimits;

/// The largest parcel, in limits.
pub const GROWTH_MAX: usize = 4;
/// A full parcel that was delivered within this lets the next be larger.
const QUICK: Duration = Duration::from_millis(500);
/// After one that took longer than this, the next is smaller.
const SLOW: Duration = Duration::from_secs(2);

/// The size of the next parcel.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    limits: ReadLimits,
    growth: usize,
    growth_max: usize,
}

impl Pace {
    /// Parcels of `limits`, which grow if they may.
    pub fn new(limits: ReadLimits, may_grow: bool) -> Self {
        Self { limits, growth: 1, growth_max: if may_grow { GROWTH_MAX } else { 1 } }
    }

    /// What the next parcel may hold.
    pub fn limits(&self) -> ReadLimits {
        ReadLimits { rows: self.limits.rows.saturating_mul(self.growth), results: self.limits.results.saturating_mul(self.growth) }
    }

    /// A full parcel was delivered.
    pub fn delivered(&mut self, took: Duration) {
        if took <= QUICK {
            self.growth = (self.growth * 2).min(self.growth_max);
        } else if took > SLOW {
            self.growth = (self.growth / 2).max(1);
        }
    }

    /// A delivery failed.
    pub fn failed(&mut self) {
        self.growth = 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(pace: &Pace) -> usize {
        pace.limits().rows
    }

    fn pace(may_grow: bool) -> Pace {
        Pace::new(ReadLimits { rows: 10, results: 3 }, may_grow)
    }

    #[test]
    fn quick_parcels_grow_to_a_bound_and_slow_ones_shrink() {
        let mut pace = pace(true);
        let sizes: Vec<usize> = (0..4).map(|_| (rows(&pace), pace.delivered(QUICK)).0).collect();
        assert_eq!(sizes, [10, 20, 40, 40]);
        pace.delivered(SLOW);
        assert_eq!(rows(&pace), 40);
        let sizes: Vec<usize> = (0..4).map(|_| (pace.delivered(SLOW * 2), rows(&pace)).1).collect();
        assert_eq!(sizes, [20, 10, 10, 10]);
    }

    #[test]
    fn a_failure_begins_anew() {
        let mut pace = pace(true);
        (0..3).for_each(|_| pace.delivered(QUICK));
        pace.failed();
        assert_eq!(pace.limits(), ReadLimits { rows: 10, results: 3 });
    }

    #[test]
    fn what_a_failure_would_lose_does_not_grow() {
        let mut pace = pace(false);
        pace.delivered(QUICK);
        assert_eq!(rows(&pace), 10);
    }
}

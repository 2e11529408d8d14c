//! The last points of a key, for the screen and the API: a view, no part of any decision.

use serde::{Deserialize, Serialize};

use super::{judge::Judged, rules::RuleMask};

/// How many points a key's view holds.
pub const RECENT_POINTS_MAX: usize = 120;
/// How many keys of a chart have a view: the newest ones.
pub const RECENT_KEYS_MAX: usize = 64;

/// A point as the view holds it; `NaN` and infinities are values and lines that do not exist.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct RecentPoint {
    pub index: u64,
    pub time: i64,
    pub statistic: f64,
    pub center: f64,
    pub lcl: f64,
    pub ucl: f64,
    /// The spread; of a CUSUM the lower sum, whose `statistic` is then the upper one.
    pub spread: f64,
    pub rules: RuleMask,
    pub spread_rules: RuleMask,
    pub phase: u8,
}

/// A ring of them.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Recent {
    points: Vec<RecentPoint>,
    next: usize,
}

impl Recent {
    #[inline]
    pub fn push(&mut self, index: u64, time: i64, judged: &Judged, phase: u8) {
        let (statistic, spread) = match &judged.sums {
            Some(sums) => (sums.upper, sums.lower),
            None => (judged.statistic, judged.spread),
        };
        let [center, lcl, ucl] = match &judged.sums {
            Some(sums) => [0.0, -sums.h, sums.h],
            None => [judged.center, judged.lcl, judged.ucl],
        };
        let Judged { rules, spread_rules, .. } = *judged;
        let point = RecentPoint { index, time, statistic, center, lcl, ucl, spread, rules, spread_rules, phase };
        match self.points.get_mut(self.next) {
            Some(slot) => *slot = point,
            None => self.points.push(point),
        }
        self.next += 1;
        if self.next >= RECENT_POINTS_MAX {
            self.next = 0;
        }
    }

    /// Marks what a baseline point turned out to violate.
    pub fn mark(&mut self, index: u64, rules: RuleMask, spread_rules: RuleMask) {
        if let Some(point) = self.points.iter_mut().find(|point| point.index == index) {
            (point.rules, point.spread_rules) = (rules, spread_rules);
        }
    }

    /// Oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &RecentPoint> {
        let (newer, older) = self.points.split_at(self.next.min(self.points.len()));
        older.iter().chain(newer)
    }

    /// Whether the ring is within its bound; a snapshot from elsewhere might not be.
    pub fn is_consistent(&self) -> bool {
        self.points.len() <= RECENT_POINTS_MAX && self.next <= self.points.len() && self.next < RECENT_POINTS_MAX
    }
}

//! Event-time order of a ring's rows, paid for only while rows are out of order.
//!
//! Rows mostly arrive in order. Then arrival order *is* event-time order and nothing is kept but a count of *descents*: neighbours
//! whose time goes back. From the first descent on, a sorted set of (time, row) is kept, at O(log n) a row whatever the disorder; when the
//! last descent has been overwritten the set is dropped again. Rows of equal time stay in order of arrival.

use std::collections::BTreeSet;

/// What is known of the order of the rows in a ring.
#[derive(Debug, Clone, Default)]
pub(super) struct Order {
    /// Rows in the ring whose time is earlier than that of the row before.
    descents: usize,
    /// (time, row number), present exactly while `descents > 0`.
    sorted: Option<BTreeSet<(i64, u64)>>,
}

impl Order {
    /// Whether arrival order is event-time order.
    pub fn is_by_arrival(&self) -> bool {
        self.sorted.is_none()
    }

    /// (time, row number) in event-time order; `None` while that is the order of arrival.
    pub fn sorted(&self) -> Option<&BTreeSet<(i64, u64)>> {
        self.sorted.as_ref()
    }

    /// The ring was emptied.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The oldest `leaving` rows of the ring whose rows from number `first` on have `times` are about to go.
    pub fn evict(&mut self, first: u64, times: &[i64], leaving: usize) {
        if leaving == times.len() {
            return self.clear();
        }
        let Some(sorted) = &mut self.sorted else { return };
        for (row, time) in times[..leaving].iter().enumerate() {
            sorted.remove(&(*time, first + row as u64));
        }
        let seen = &times[..times.len().min(leaving + 1)];
        self.descents -= descents(seen);
        if self.descents == 0 {
            self.sorted = None;
        }
    }

    /// Rows came in behind `before`, the times in the ring from row number `first` on.
    pub fn append(&mut self, first: u64, before: &[i64], added: &[i64]) {
        let seam = matches!((before.last(), added.first()), (Some(last), Some(next)) if next < last);
        let new_descents = descents(added) + usize::from(seam);
        if self.sorted.is_none() && new_descents == 0 {
            return;
        }
        self.descents += new_descents;
        let numbered = |times: &[i64], from: u64| times.iter().copied().zip(from..).collect::<Vec<_>>();
        let added = numbered(added, first + before.len() as u64);
        match &mut self.sorted {
            Some(sorted) => sorted.extend(added),
            // Built at once, which is several times faster than row by row.
            None => self.sorted = Some(numbered(before, first).into_iter().chain(added).collect()),
        }
    }
}

fn descents(times: &[i64]) -> usize {
    times.windows(2).filter(|pair| pair[1] < pair[0]).count()
}

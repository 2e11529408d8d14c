//! The candidates of one key: rows that may yet become a match, and how one more row changes them.
//!
//! A candidate is the rows it has so far. Candidates are in the order of their first rows. For a sequence, a later one is never
//! further on than an earlier one, because those at the same step go on together; so the candidates at a step are neighbours.

use std::{collections::VecDeque, sync::Arc};

use crate::model::Row;

/// A row that meets a condition.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Item {
    /// Counts the rows that meet a condition, in order of arrival.
    pub number: u64,
    pub key: u32,
    /// A bit for each condition that is met.
    pub met: u64,
    pub row: Row,
}

impl Item {
    /// Event time, then arrival.
    pub fn order(&self) -> (i64, u64) {
        (self.row.time.0, self.number)
    }

    fn meets(&self, condition: usize) -> bool {
        self.met >> condition & 1 == 1
    }
}

pub(super) type Rows = Vec<Arc<Item>>;

/// The first condition of an absence: what must not come. The second starts the time.
const ABSENT: usize = 0;
const AFTER: usize = 1;

/// One key's candidates.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    /// Each has at least one row. For `all` and an absence, exactly one.
    pub open: VecDeque<Rows>,
    /// For `all`: how many candidates meet each condition.
    counts: Vec<u32>,
    /// When the first is over, as the operator has noted it.
    pub timer: Option<(i64, u64)>,
    /// How many rows of the key the watermark has not passed.
    pub pending: usize,
}

impl Candidates {
    /// The first row of the first candidate.
    pub fn first(&self) -> Option<&Arc<Item>> {
        self.open.front().and_then(|rows| rows.first())
    }

    /// The next row of a sequence of `steps`. No candidate is over at its time.
    pub fn sequence(&mut self, item: Arc<Item>, steps: usize) -> Option<Rows> {
        // From the last step down, so that the row is one step only.
        for step in (1..steps).rev().filter(|step| item.meets(*step)) {
            let start = self.open.partition_point(|rows| rows.len() > step);
            let end = self.open.partition_point(|rows| rows.len() >= step);
            self.open.range_mut(start..end).for_each(|rows| rows.push(Arc::clone(&item)));
        }
        let complete = self.open.front().is_some_and(|rows| rows.len() == steps);
        if !complete && item.meets(0) {
            self.open.push_back(vec![item]);
        }
        let complete = self.open.front().is_some_and(|rows| rows.len() == steps);
        let found = if complete { self.open.pop_front() } else { None };
        if found.is_some() {
            // The others have rows at or before its end.
            self.clear();
        }
        found
    }

    /// The next row where `conditions` must all be met. No candidate is over at its time.
    pub fn all(&mut self, item: Arc<Item>, conditions: usize) -> Option<Rows> {
        self.add(item, conditions);
        if self.counts.contains(&0) {
            return None;
        }
        let (mut met, mut found) = (0, Rows::new());
        for item in self.open.iter().flatten() {
            if item.met & !met != 0 {
                met |= item.met;
                found.push(Arc::clone(item));
            }
        }
        self.clear();
        Some(found)
    }

    /// Adds a candidate of one row where `conditions` must all be met.
    pub fn add(&mut self, item: Arc<Item>, conditions: usize) {
        self.counts.resize(conditions, 0);
        for (condition, count) in self.counts.iter_mut().enumerate() {
            *count += u32::from(item.meets(condition));
        }
        self.open.push_back(vec![item]);
    }

    fn clear(&mut self) {
        self.open.clear();
        self.counts.fill(0);
    }

    /// Removes the candidate at `place`.
    fn remove(&mut self, place: usize) -> Option<Rows> {
        let rows = self.open.remove(place)?;
        for (condition, count) in self.counts.iter_mut().enumerate() {
            *count -= u32::from(rows.first().is_some_and(|first| first.meets(condition)));
        }
        Some(rows)
    }

    /// The next row of an absence. The candidate is not over at its time.
    pub fn absence(&mut self, item: Arc<Item>) {
        if item.meets(ABSENT) {
            self.open.clear();
        }
        if item.meets(AFTER) && self.open.is_empty() {
            self.open.push_back(vec![item]);
        }
    }

    /// Drops the candidates whose time is over at the end of instant `time`; the first of them, if any.
    pub fn expire(&mut self, time: i64, within_ns: i64) -> Option<Rows> {
        let mut first = None;
        while self.first().is_some_and(|row| row.row.time.saturating_add(within_ns).0 <= time) {
            let over = self.remove(0);
            first = first.or(over);
        }
        first
    }

    /// Drops candidates until at most `count` are left, each the oldest that a later one can stand in for; how many.
    ///
    /// Of a sequence, that is one whose successor is at the same step; of `all`, one whose conditions are all met again. With more
    /// candidates than conditions there always is one.
    pub fn evict(&mut self, count: usize) -> u64 {
        let mut evicted = 0;
        while self.open.len() > count {
            let spare = if self.counts.is_empty() { self.spare_of_sequence() } else { self.spare_of_all() };
            self.remove(spare.unwrap_or(0));
            evicted += 1;
        }
        evicted
    }

    fn spare_of_sequence(&self) -> Option<usize> {
        self.open.iter().zip(self.open.iter().skip(1)).position(|(rows, next)| rows.len() == next.len())
    }

    fn spare_of_all(&self) -> Option<usize> {
        let again = |item: &Item| self.counts.iter().enumerate().all(|(condition, count)| *count > 1 || !item.meets(condition));
        self.open.iter().position(|rows| rows.first().is_some_and(|item| again(item)))
    }
}

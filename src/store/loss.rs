//! What is missing from a store, as ranges of numbers: exact, and bounded in length.
//!
//! A report is kept in the table `lost` for as long as the store lives, so that a gap in the numbers is never a riddle.

use std::fmt::Write;

use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use super::error::StoreError;
use crate::model::Timestamp;

/// Ranges that a report names; the count goes on.
const RANGES_MAX: usize = 10_000;
/// Ranges that a sentence names.
const RANGES_SAID: usize = 5;

/// Numbers, both ends of each range included, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ranges {
    /// How many numbers.
    pub count: u64,
    /// Which; the first ten thousand ranges.
    pub ranges: Vec<(u64, u64)>,
}

impl Ranges {
    /// Adds `first..=last`, which comes after everything that is there.
    pub fn push(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        self.count = self.count.saturating_add(last - first + 1);
        let named = self.ranges.len();
        match self.ranges.last_mut() {
            Some(range) if range.1.checked_add(1) == Some(first) => range.1 = last,
            _ if named < RANGES_MAX => self.ranges.push((first, last)),
            _ => {}
        }
    }

    /// Adds what of `first..=last` is not in `known`, which is in order.
    pub fn push_unknown(&mut self, first: u64, last: u64, known: &[(u64, u64)]) {
        let mut from = first;
        for (known_first, known_last) in known.iter().filter(|range| range.1 >= first && range.0 <= last) {
            self.push(from, known_first.saturating_sub(1).min(last));
            from = from.max(known_last.saturating_add(1));
        }
        self.push(from, last);
    }

    /// How many of the named numbers come after `number`.
    pub fn count_after(&self, number: u64) -> u64 {
        self.ranges.iter().map(|(first, last)| last.saturating_add(1).saturating_sub((*first).max(number.saturating_add(1)))).sum()
    }

    /// As people read it.
    pub fn said(&self) -> String {
        let said = |(first, last): &(u64, u64)| if first == last { format!("{first}") } else { format!("{first} to {last}") };
        let some: Vec<String> = self.ranges.iter().take(RANGES_SAID).map(said).collect();
        let more = if self.ranges.len() > RANGES_SAID { ", …" } else { "" };
        format!("{}{more}", some.join(", "))
    }
}

/// Numbers of all three kinds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Numbers {
    /// Of the inbox.
    pub records: Ranges,
    /// Of the inbox.
    pub rows: Ranges,
    /// Of the outbox.
    pub results: Ranges,
}

impl Numbers {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.records.count == 0 && self.rows.count == 0 && self.results.count == 0
    }
}

/// How many of each kind there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Kept {
    /// Of the inbox.
    pub records: u64,
    /// Of the inbox.
    pub rows: u64,
    /// Of the outbox.
    pub results: u64,
    /// Dead letters.
    pub dead_letters: u64,
}

/// What a salvage or a repair could not bring back.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Loss {
    /// When, RFC 3339.
    pub at: String,
    /// What was wrong with the file.
    pub why: String,
    /// The damaged file, which is kept beside the store.
    pub set_aside: String,
    /// What was brought back.
    pub kept: Kept,
    /// What was there and is gone.
    pub lost: Numbers,
    /// Numbers that were left out, because it is not known whether they had been given.
    pub skipped: Numbers,
    /// What else has to be known, in words.
    pub notes: Vec<String>,
}

impl Loss {
    /// One paragraph for the log.
    pub fn said(&self) -> String {
        let Self { lost, kept, .. } = self;
        let mut said = format!("the store was damaged ({}); the file is kept as {}", self.why, self.set_aside);
        let _ = write!(
            said,
            "; {} records with {} rows, {} results and {} dead letters were brought back",
            kept.records, kept.rows, kept.results, kept.dead_letters
        );
        for (what, ranges) in [("records", &lost.records), ("rows", &lost.rows), ("results", &lost.results)] {
            if ranges.count > 0 {
                let _ = write!(said, "; {} {what} are lost: {}", ranges.count, ranges.said());
            }
        }
        for note in &self.notes {
            said.push_str("; ");
            said.push_str(note);
        }
        said
    }

    /// Keeps the report.
    ///
    /// # Errors
    /// As the disk's.
    pub fn keep(&self, connection: &Connection, at: Timestamp) -> Result<(), StoreError> {
        let report = serde_json::to_string(self).map_err(|error| StoreError::Refused(error.to_string()))?;
        let text = "INSERT INTO lost VALUES ((SELECT coalesce(max(number), 0) + 1 FROM lost), ?1, ?2)";
        connection.execute(text, (at.0, report))?;
        Ok(())
    }
}

/// Gaps that are accounted for: lost or left out, each list in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Known {
    /// Of the inbox.
    pub records: Vec<(u64, u64)>,
    /// Of the inbox.
    pub rows: Vec<(u64, u64)>,
    /// Of the outbox.
    pub results: Vec<(u64, u64)>,
}

impl Known {
    /// From all reports that are kept.
    pub fn load(connection: &Connection) -> Result<Self, StoreError> {
        let mut known = Self::default();
        let mut statement = connection.prepare("SELECT report FROM lost ORDER BY number")?;
        let mut reports = statement.query([])?;
        while let Some(report) = reports.next()? {
            // A report of a release that wrote another one explains nothing here.
            let loss: Loss = serde_json::from_str(report.get_ref(0)?.as_str()?).unwrap_or_default();
            for numbers in [loss.lost, loss.skipped] {
                known.records.extend(numbers.records.ranges);
                known.rows.extend(numbers.rows.ranges);
                known.results.extend(numbers.results.ranges);
            }
        }
        [&mut known.records, &mut known.rows, &mut known.results].into_iter().for_each(|ranges| ranges.sort_unstable());
        Ok(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(gaps: &[(u64, u64)], known: &[(u64, u64)], expected: &[(u64, u64)], count: u64) {
        let mut ranges = Ranges::default();
        gaps.iter().for_each(|(first, last)| ranges.push_unknown(*first, *last, known));
        assert_eq!((ranges.ranges.as_slice(), ranges.count), (expected, count));
    }

    #[test]
    fn gaps_are_exact_and_known_ones_are_left_out() {
        check(&[(5, 4)], &[], &[], 0);
        check(&[(3, 5), (6, 6), (9, 9)], &[], &[(3, 6), (9, 9)], 5);
        check(&[(3, 10)], &[(1, 3), (5, 5), (10, 20)], &[(4, 4), (6, 9)], 5);
        check(&[(3, 10)], &[(1, 30)], &[], 0);
        check(&[(3, 10)], &[(11, 30), (1, 2)], &[(3, 10)], 8);
    }

    #[test]
    fn what_comes_after_a_number_is_counted() {
        let mut ranges = Ranges::default();
        ranges.push(3, 5);
        ranges.push(8, 8);
        assert_eq!([0, 3, 5, 7, 8].map(|number| ranges.count_after(number)), [4, 3, 1, 1, 0]);
    }

    #[test]
    fn a_report_names_a_bounded_number_of_ranges_and_counts_all() {
        let mut ranges = Ranges::default();
        (0..20_000).for_each(|number| ranges.push(number * 2, number * 2));
        assert_eq!((ranges.count, ranges.ranges.len()), (20_000, RANGES_MAX));
        assert_eq!(ranges.said(), "0, 2, 4, 6, 8, …");
    }
}

//! What may be removed, and when.
//!
//! ```text
//! 0 ...... hold_above ........ remove_above ...... refuse_above ...... file_bytes_max | log |= max_bytes
//!          sources that can    oldest go           appends are          SQLite itself
//!          wait do                                 answered "full"      refuses
//! ```
//! The first bound is of what some sink still needs, the others are of what is in use.
//! Steps and cursors are taken in the last zone too: they are what makes room again.
//!
//! Age is counted from arrival by the appliance's clock, and clocks are set: a boot in 1970, a step of a day. Every step that the
//! wall clock makes against the monotonic one is kept with the record it happened at, and arrivals before it are moved along, so
//! that a step makes nothing older or younger than it is ([`AgeClock`]). The engine hears of it through the inbox (`commit/clock.rs`).

use rusqlite::{Connection, OptionalExtension};

use super::error::StoreError;
use crate::model::Timestamp;

/// What to do when the budget is full of rows that some sink still needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// The oldest go, counted as expired at every sink that had not confirmed them.
    #[default]
    ShedOldest,
    /// They stay; what comes in is refused, and the source waits or sheds it.
    ShedNewest,
}

/// The log may grow to this beside the file, unless the whole budget is smaller than four times as much.
const LOG_BYTES: u64 = 64 << 20;

/// The zones of a budget, bytes of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Needed by a sink: above, sources that can wait are not read; again below `release_below`.
    pub hold_above: u64,
    /// See `hold_above`.
    pub release_below: u64,
    /// Above, the oldest go.
    pub remove_above: u64,
    /// Above, appends are refused.
    pub refuse_above: u64,
    /// Above, nothing is taken.
    pub file_bytes_max: u64,
}

impl Budget {
    /// The zones within `max_bytes` for file and log together.
    pub const fn new(max_bytes: u64) -> Self {
        let log = if max_bytes / 4 < LOG_BYTES { max_bytes / 4 } else { LOG_BYTES };
        let file = max_bytes - log;
        Self {
            hold_above: file - file / 6,
            release_below: file - file / 4,
            remove_above: file - file / 16,
            refuse_above: file - file / 32,
            file_bytes_max: file,
        }
    }
}

/// A step of the wall clock that is worth remembering: more than a leap second or what a time server puts right bit by bit.
const STEP_NS_MIN: i64 = 2_000_000_000;

/// Before this a clock has not been set.
const SET_FROM_NS: i64 = Timestamp::CLOCK_SET_FROM.0;
/// No row comes in within a second of the boot in 1970.
const EARLIEST_NS: i64 = 1_000_000_000;

/// Where the next record, result and dead letter go: what came before a step, and what after.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The number of the next record.
    pub record: u64,
    /// The number of the next result.
    pub result: u64,
    /// The number of the next dead letter.
    pub letter: u64,
}

/// A step of the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// What was next when it was made.
    pub place: Place,
    /// How far the clock went, ns.
    pub step_ns: i64,
}

/// Where [`Place::result`] and [`Place::letter`] of a step are, in the table `state`: two numbers as text.
fn key(record: u64) -> String {
    format!("clock_step/{record:020}")
}

impl Step {
    /// Writes it down.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn keep(&self, connection: &Connection) -> Result<(), StoreError> {
        let Place { record, result, letter } = self.place;
        let text = "INSERT OR REPLACE INTO clock_steps VALUES (?1, ?2)";
        connection.prepare_cached(text)?.execute((record as i64, self.step_ns))?;
        let places = format!("{result} {letter}");
        connection.prepare_cached("INSERT OR REPLACE INTO state VALUES (?1, ?2)")?.execute((key(record), places.as_bytes()))?;
        Ok(())
    }
}

/// The appliance's clock over steps, for ages.
#[derive(Debug, Default, Clone)]
pub struct AgeClock {
    /// Wall minus monotonic, when last looked.
    offset_ns: Option<i64>,
    /// In order.
    steps: Vec<Step>,
}

impl AgeClock {
    /// The steps that are known from before.
    pub fn load(connection: &Connection) -> Result<Self, StoreError> {
        let mut steps = Vec::new();
        let mut statement = connection.prepare_cached("SELECT record, step FROM clock_steps ORDER BY record")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let record = row.get::<_, i64>(0)? as u64;
            let text = "SELECT value FROM state WHERE key = ?1";
            let places: Option<Vec<u8>> = connection.prepare_cached(text)?.query_row([key(record)], |row| row.get(0)).optional()?;
            let places = places.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
            let mut places = places.split(' ').map(|number| number.parse().unwrap_or(0));
            let (result, letter) = (places.next().unwrap_or(0), places.next().unwrap_or(0));
            steps.push(Step { place: Place { record, result, letter }, step_ns: row.get(1)? });
        }
        Ok(Self { offset_ns: None, steps })
    }

    /// Looks at both clocks when `next` is next; the step to keep, if there was one.
    ///
    /// At the first look after a start, a wall clock before the latest arrival is a step too; one after it is time that passed, unless the
    /// clock had not been set then: how long ago that was nobody knows, and what came in is taken for new.
    pub fn look(&mut self, wall_ns: i64, monotonic_ns: i64, arrival_last: i64, next: Place) -> Option<Step> {
        let offset = wall_ns.saturating_sub(monotonic_ns);
        let step_ns = match self.offset_ns {
            Some(before) => offset.saturating_sub(before),
            None if (EARLIEST_NS..SET_FROM_NS).contains(&arrival_last) && wall_ns >= SET_FROM_NS => wall_ns - arrival_last,
            None => wall_ns.saturating_sub(arrival_last).min(0),
        };
        self.offset_ns = Some(offset);
        if step_ns.abs() < STEP_NS_MIN {
            return None;
        }
        match self.steps.last_mut() {
            Some(last) if last.place.record == next.record => last.step_ns = last.step_ns.saturating_add(step_ns),
            _ => self.steps.push(Step { place: next, step_ns }),
        }
        self.steps.last().copied()
    }

    /// The age of what came at `arrival_ns`, ns; `is_before` says of which steps it came before.
    fn age(&self, arrival_ns: i64, wall_ns: i64, is_before: impl Fn(&Place) -> bool) -> i64 {
        let steps = self.steps.iter().filter(|step| is_before(&step.place));
        wall_ns.saturating_sub(steps.fold(arrival_ns, |arrival, step| arrival.saturating_add(step.step_ns)))
    }

    /// The age of `record`, which arrived at `arrival_ns`, ns.
    pub fn record_age(&self, record: u64, arrival_ns: i64, wall_ns: i64) -> i64 {
        self.age(arrival_ns, wall_ns, |place| record < place.record)
    }

    /// The age of a result, ns.
    pub fn result_age(&self, result: u64, arrival_ns: i64, wall_ns: i64) -> i64 {
        self.age(arrival_ns, wall_ns, |place| result < place.result)
    }

    /// The age of a dead letter, ns.
    pub fn letter_age(&self, letter: u64, arrival_ns: i64, wall_ns: i64) -> i64 {
        self.age(arrival_ns, wall_ns, |place| letter < place.letter)
    }

    /// Forgets steps before everything that is left.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn forget_before(&mut self, connection: &Connection, oldest: Place) -> Result<(), StoreError> {
        let is_over = |step: &Step| {
            step.place.record <= oldest.record && step.place.result <= oldest.result && step.place.letter <= oldest.letter
        };
        for step in self.steps.iter().filter(|step| is_over(step)) {
            connection.execute("DELETE FROM clock_steps WHERE record = ?1", [step.place.record as i64])?;
            connection.execute("DELETE FROM state WHERE key = ?1", [key(step.place.record)])?;
        }
        self.steps.retain(|step| !is_over(step));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000_000_000;
    const DAY: i64 = 1_440 * MINUTE;

    #[test]
    fn zones_are_in_order_at_every_size() {
        for max in [0, 1, 4096, 1 << 20, 1 << 30, 20_000_000_000, u64::MAX] {
            let budget = Budget::new(max);
            assert!(budget.remove_above <= budget.refuse_above && budget.refuse_above <= budget.file_bytes_max);
            assert!(budget.file_bytes_max <= max);
        }
    }

    /// Before record `record`, and as many results and letters.
    fn at(record: u64) -> Place {
        Place { record, result: record, letter: record }
    }

    fn step(record: u64, step_ns: i64) -> Step {
        Step { place: at(record), step_ns }
    }

    #[test]
    fn a_clock_that_is_set_makes_nothing_older() {
        let mut clock = AgeClock::default();
        // A boot in 1970; a row; then the clock is set to 2026.
        assert_eq!(clock.look(0, 0, 0, at(1)), None);
        let now = 56 * 365 * DAY;
        assert_eq!(clock.look(now, MINUTE, 0, at(5)), Some(step(5, now - MINUTE)));
        for age in [AgeClock::record_age, AgeClock::result_age, AgeClock::letter_age] {
            assert_eq!(age(&clock, 3, MINUTE / 2, now), MINUTE / 2);
            assert_eq!(age(&clock, 5, now, now + MINUTE), MINUTE);
        }
    }

    #[test]
    fn a_start_in_1970_keeps_the_ages_of_before() {
        let mut clock = AgeClock::default();
        let before = 56 * 365 * DAY;
        assert_eq!(clock.look(0, 7, before, at(10)), Some(step(10, -before)));
        assert_eq!(clock.record_age(9, before, MINUTE), MINUTE);
        clock.look(before + DAY + MINUTE, 7 + MINUTE, before, at(12));
        assert_eq!(clock.record_age(9, before, before + DAY + MINUTE), MINUTE);
        assert_eq!(clock.record_age(11, MINUTE, before + DAY + MINUTE), 0);
    }

    #[test]
    fn time_that_passed_while_off_counts() {
        let mut clock = AgeClock::default();
        assert_eq!(clock.look(DAY, 0, MINUTE, at(10)), None);
        assert_eq!(clock.record_age(9, MINUTE, DAY), DAY - MINUTE);
    }

    #[test]
    fn what_came_in_by_a_clock_that_was_never_set_is_new_at_the_next_start() {
        let mut clock = AgeClock::default();
        let now = 56 * 366 * DAY;
        assert_eq!(clock.look(now, 0, 3 * MINUTE, at(10)), Some(step(10, now - 3 * MINUTE)));
        assert_eq!(clock.record_age(9, 2 * MINUTE, now), MINUTE);
    }

    #[test]
    fn a_leap_second_is_no_step() {
        let mut clock = AgeClock::default();
        clock.look(DAY, 0, 0, at(1));
        assert_eq!(clock.look(DAY + MINUTE - 1_000_000_000, MINUTE, DAY, at(2)), None);
    }
}

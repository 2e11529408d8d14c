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
//! that a step makes nothing older or younger than it is ([`AgeClock`]).

use rusqlite::Connection;

use super::error::StoreError;

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

/// A step of the wall clock that is worth remembering.
const STEP_NS_MIN: i64 = 60_000_000_000;

/// The appliance's clock over steps, for ages.
#[derive(Debug, Default, Clone)]
pub struct AgeClock {
    /// Wall minus monotonic, when last looked.
    offset_ns: Option<i64>,
    /// (the first record after the step, how far the clock went), in order.
    steps: Vec<(u64, i64)>,
}

impl AgeClock {
    /// The steps that are known from before.
    pub fn load(connection: &Connection) -> Result<Self, StoreError> {
        let mut statement = connection.prepare_cached("SELECT record, step FROM clock_steps ORDER BY record")?;
        let steps = statement.query_map([], |row| Ok((row.get::<_, i64>(0)? as u64, row.get(1)?)))?;
        Ok(Self { offset_ns: None, steps: steps.collect::<Result<_, _>>()? })
    }

    /// Looks at both clocks before record `next_record`; the step to keep, if there was one.
    ///
    /// At the first look after a start, a wall clock before the latest arrival is a step too; one after it is time that passed.
    pub fn look(&mut self, wall_ns: i64, monotonic_ns: i64, arrival_last: i64, next_record: u64) -> Option<(u64, i64)> {
        let offset = wall_ns.saturating_sub(monotonic_ns);
        let step = match self.offset_ns {
            Some(before) => offset.saturating_sub(before),
            None => wall_ns.saturating_sub(arrival_last).min(0),
        };
        self.offset_ns = Some(offset);
        if step.abs() < STEP_NS_MIN {
            return None;
        }
        match self.steps.last_mut() {
            Some(last) if last.0 == next_record => last.1 = last.1.saturating_add(step),
            _ => self.steps.push((next_record, step)),
        }
        self.steps.last().copied()
    }

    /// The age of `record`, which arrived at `arrival_ns`, ns.
    pub fn age(&self, record: u64, arrival_ns: i64, wall_ns: i64) -> i64 {
        let moved =
            self.steps.iter().filter(|step| record < step.0).fold(arrival_ns, |arrival, step| arrival.saturating_add(step.1));
        wall_ns.saturating_sub(moved)
    }

    /// Forgets steps before every record that is left.
    pub fn forget_before(&mut self, record: u64) {
        self.steps.retain(|step| step.0 > record);
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

    #[test]
    fn a_clock_that_is_set_makes_nothing_older() {
        let mut clock = AgeClock::default();
        // A boot in 1970; a row; then the clock is set to 2026.
        assert_eq!(clock.look(0, 0, 0, 1), None);
        let now = 56 * 365 * DAY;
        assert_eq!(clock.look(now, MINUTE, 0, 5), Some((5, now - MINUTE)));
        assert_eq!(clock.age(3, MINUTE / 2, now), MINUTE / 2);
        assert_eq!(clock.age(5, now, now + MINUTE), MINUTE);
    }

    #[test]
    fn a_start_in_1970_keeps_the_ages_of_before() {
        let mut clock = AgeClock::default();
        let before = 56 * 365 * DAY;
        assert_eq!(clock.look(0, 7, before, 10), Some((10, -before)));
        assert_eq!(clock.age(9, before, MINUTE), MINUTE);
        clock.look(before + DAY + MINUTE, 7 + MINUTE, before, 12);
        assert_eq!(clock.age(9, before, before + DAY + MINUTE), MINUTE);
        assert_eq!(clock.age(11, MINUTE, before + DAY + MINUTE), 0);
    }

    #[test]
    fn time_that_passed_while_off_counts() {
        let mut clock = AgeClock::default();
        assert_eq!(clock.look(DAY, 0, MINUTE, 10), None);
        assert_eq!(clock.age(9, MINUTE, DAY), DAY - MINUTE);
    }
}

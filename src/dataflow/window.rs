//! Which windows a row belongs to.
//!
//! Bounds are half-open. Tumbling and sliding windows are aligned to the epoch plus an offset; with a time zone, tumbling windows are
//! aligned to civil midnight: whole days are calendar days (23, 24 or 25 hours); shorter windows are bounded where the wall clock shows a
//! multiple of the size, so that the repeated hour of autumn is two windows and a shift keeps its hours on the clock.

use std::sync::Arc;

use jiff::{SignedDuration, Span, tz::TimeZone};

use super::Aggregate;

const DAY_NS: i64 = 86_400_000_000_000;

/// The kinds of windows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WindowKind {
    /// Each row in exactly one.
    Tumbling {
        /// Length.
        size_ns: i64,
        /// Length in days of the time zone, if it is one.
        calendar_days: Option<u32>,
    },
    /// Each row in as many as overlap; none in a gap.
    Sliding {
        /// Length.
        size_ns: i64,
        /// From one start to the next.
        slide_ns: i64,
    },
    /// Rows of a key that follow each other.
    Session {
        /// Silence that ends it.
        gap_ns: i64,
        /// Hard cut after the first row.
        max_duration_ns: Option<i64>,
    },
}

/// What a late firing carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accumulation {
    /// Everything in the window.
    #[default]
    Accumulating,
    /// What came since the last firing.
    Discarding,
}

/// A window specification.
#[derive(Debug, Clone, PartialEq)]
pub struct WindowConfig {
    /// The configured id.
    pub id: Arc<str>,
    /// The kind.
    pub kind: WindowKind,
    /// Shift of the bounds.
    pub offset_ns: i64,
    /// How long a fired window is kept for late rows.
    pub allowed_lateness_ns: i64,
    /// What a late firing carries.
    pub accumulation: Accumulation,
    /// Civil time of the bounds; `None` = UTC.
    pub timezone: Option<TimeZone>,
    /// One window for each combination of these tags.
    pub group_by: Vec<Arc<str>>,
    /// Name and function of each value.
    pub aggregates: Vec<(Arc<str>, Aggregate)>,
}

/// A specification that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}`: {message}")]
pub struct WindowError {
    /// The configuration key.
    pub key: &'static str,
    /// What is wrong, and what to do.
    pub message: String,
}

impl WindowConfig {
    /// Checks that the specification makes sense.
    ///
    /// # Errors
    /// The first key that does not.
    pub fn check(&self) -> Result<(), WindowError> {
        let fault = |key, message: &str| Err(WindowError { key, message: message.to_owned() });
        match self.kind {
            WindowKind::Tumbling { size_ns, .. } if size_ns <= 0 => fault("size", "a window has to have a positive size"),
            WindowKind::Sliding { size_ns, .. } if size_ns <= 0 => fault("size", "a window has to have a positive size"),
            WindowKind::Sliding { slide_ns, .. } if slide_ns <= 0 => fault("slide", "the slide has to be positive"),
            WindowKind::Session { gap_ns, .. } if gap_ns <= 0 => fault("gap", "the gap of a session has to be positive"),
            WindowKind::Session { max_duration_ns: Some(max), .. } if max <= 0 => {
                fault("max_duration", "the longest duration has to be positive")
            }
            _ if self.allowed_lateness_ns < 0 => fault("allowed_lateness", "lateness is zero or more"),
            WindowKind::Sliding { .. } | WindowKind::Session { .. } if self.timezone.is_some() => {
                fault("timezone", "only tumbling windows follow civil time: remove it, or use type = \"tumbling\"")
            }
            _ => Ok(()),
        }
    }

    /// The start and end of the tumbling window around `time`.
    pub fn tumbling(&self, time: i64) -> (i64, i64) {
        let WindowKind::Tumbling { size_ns, calendar_days } = self.kind else { return (time, time) };
        match (&self.timezone, calendar_days) {
            (Some(zone), Some(days)) => calendar(zone, days, self.offset_ns, time).unwrap_or_else(|| self.plain(size_ns, time)),
            (Some(zone), None) => civil(zone, size_ns, self.offset_ns, time).unwrap_or_else(|| self.plain(size_ns, time)),
            (None, _) => self.plain(size_ns, time),
        }
    }

    fn plain(&self, size_ns: i64, time: i64) -> (i64, i64) {
        let start = floor_to(time, size_ns, self.offset_ns);
        (start, start.saturating_add(size_ns))
    }
}

/// The largest multiple of `step` plus `offset` that is not above `time`.
pub fn floor_to(time: i64, step: i64, offset: i64) -> i64 {
    let within = (i128::from(time) - i128::from(offset)).rem_euclid(i128::from(step.max(1)));
    i64::try_from(i128::from(time) - within).unwrap_or(i64::MIN)
}

fn instant(zone: &TimeZone, time: i64) -> Option<jiff::Zoned> {
    Some(jiff::Timestamp::from_nanosecond(i128::from(time)).ok()?.to_zoned(zone.clone()))
}

fn ns(zoned: &jiff::Zoned) -> Option<i64> {
    i64::try_from(zoned.timestamp().as_nanosecond()).ok()
}

/// Days of the zone, counted in blocks of `days` from 1970-01-01, each beginning at civil midnight plus `offset`.
fn calendar(zone: &TimeZone, days: u32, offset_ns: i64, time: i64) -> Option<(i64, i64)> {
    let days = i64::from(days);
    let shifted = instant(zone, time)?.datetime().checked_sub(SignedDuration::from_nanos(offset_ns)).ok()?;
    let since = shifted.date().since(jiff::civil::date(1970, 1, 1)).ok()?.get_days();
    let first = i64::from(since).div_euclid(days) * days;
    let bound = |day: i64| -> Option<i64> {
        let midnight = jiff::civil::date(1970, 1, 1).checked_add(Span::new().days(day)).ok()?.at(0, 0, 0, 0);
        let shifted = midnight.checked_add(SignedDuration::from_nanos(offset_ns)).ok()?;
        ns(&shifted.to_zoned(zone.clone()).ok()?)
    };
    Some((bound(first)?, bound(first + days)?))
}

/// Windows of civil time within a day: bounds are the instants at which the wall clock shows midnight plus a multiple of `size`.
fn civil(zone: &TimeZone, size_ns: i64, offset_ns: i64, time: i64) -> Option<(i64, i64)> {
    if size_ns > DAY_NS {
        return None;
    }
    let at = jiff::Timestamp::from_nanosecond(i128::from(time)).ok()?;
    let clock = Clock { zone_ns: i64::from(zone.to_offset(at).seconds()) * 1_000_000_000, size_ns, offset_ns };
    let instant = |jump: &jiff::tz::TimeZoneTransition<'_>| i64::try_from(jump.timestamp().as_nanosecond()).ok();
    let of = |jump: &jiff::tz::TimeZoneTransition<'_>| i64::from(jump.offset().seconds()) * 1_000_000_000;
    let mut start = time - clock.since_bound(time);
    let until_now = at.checked_add(SignedDuration::from_nanos(1)).ok()?;
    if let Some((jump, moment)) = zone.preceding(until_now).next().and_then(|jump| Some((instant(&jump)?, jump)))
        && start < jump
    {
        let before = moment.timestamp().checked_sub(SignedDuration::from_nanos(1)).ok()?;
        let old = Clock { zone_ns: i64::from(zone.to_offset(before).seconds()) * 1_000_000_000, ..clock };
        start = jump - old.since_bound(jump);
    }
    let mut end = time + clock.until_bound(time);
    if let Some((jump, zone_ns)) = zone.following(at).next().and_then(|jump| Some((instant(&jump)?, of(&jump))))
        && end > jump
    {
        let new = Clock { zone_ns, ..clock };
        end = if new.since_bound(jump) == 0 { jump } else { jump + new.until_bound(jump) };
    }
    Some((start, end))
}

/// A wall clock between two jumps of its zone's offset.
#[derive(Clone, Copy)]
#[expect(clippy::struct_field_names, reason = "all have the same unit, and it is said")]
struct Clock {
    zone_ns: i64,
    size_ns: i64,
    offset_ns: i64,
}

impl Clock {
    fn of_day(self, time: i64) -> i64 {
        (i128::from(time) + i128::from(self.zone_ns) - i128::from(self.offset_ns)).rem_euclid(i128::from(DAY_NS)) as i64
    }

    /// Since the last bound, on this clock.
    fn since_bound(self, time: i64) -> i64 {
        self.of_day(time) % self.size_ns
    }

    /// To the next bound after `time`, on this clock; midnight is one.
    fn until_bound(self, time: i64) -> i64 {
        (self.size_ns - self.since_bound(time)).min(DAY_NS - self.of_day(time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(size_ns: i64, days: Option<u32>, zone: &str) -> WindowConfig {
        WindowConfig {
            id: "w".into(),
            kind: WindowKind::Tumbling { size_ns, calendar_days: days },
            offset_ns: 0,
            allowed_lateness_ns: 0,
            accumulation: Accumulation::Accumulating,
            timezone: Some(TimeZone::get(zone).unwrap()),
            group_by: vec![],
            aggregates: vec![],
        }
    }

    const HOUR: i64 = 3_600_000_000_000;

    fn at(text: &str) -> i64 {
        text.parse::<crate::model::Timestamp>().unwrap().0
    }

    #[test]
    fn days_of_a_zone_have_23_24_or_25_hours() {
        let day = window(24 * HOUR, Some(1), "Europe/Berlin");
        for (time, hours) in [("2026-03-29T12:00:00Z", 23), ("2026-10-25T12:00:00Z", 25), ("2026-06-01T12:00:00Z", 24)] {
            let (start, end) = day.tumbling(at(time));
            assert_eq!((end - start) / HOUR, hours, "{time}");
        }
        assert_eq!(day.tumbling(at("2026-06-01T22:00:00Z")).0, at("2026-06-01T22:00:00Z"));
    }

    #[test]
    fn the_repeated_hour_of_autumn_is_two_windows() {
        let hour = window(HOUR, None, "Europe/Berlin");
        let first = hour.tumbling(at("2026-10-25T00:30:00Z"));
        let second = hour.tumbling(at("2026-10-25T01:30:00Z"));
        assert_eq!(first, (at("2026-10-25T00:00:00Z"), at("2026-10-25T01:00:00Z")));
        assert_eq!(second, (at("2026-10-25T01:00:00Z"), at("2026-10-25T02:00:00Z")));
    }

    #[test]
    fn shifts_of_eight_hours_follow_the_clock() {
        let shift = window(8 * HOUR, None, "Europe/Berlin");
        assert_eq!(shift.tumbling(at("2026-06-01T05:59:00Z")), (at("2026-05-31T22:00:00Z"), at("2026-06-01T06:00:00Z")));
        // The night in which the clock goes back, and the one in which it goes forward: nine and seven hours.
        let long = (at("2026-10-24T22:00:00Z"), at("2026-10-25T07:00:00Z"));
        for time in ["2026-10-24T22:30:00Z", "2026-10-25T00:59:00Z", "2026-10-25T01:30:00Z", "2026-10-25T06:00:00Z"] {
            assert_eq!(shift.tumbling(at(time)), long, "{time}");
        }
        let short = (at("2026-03-28T23:00:00Z"), at("2026-03-29T06:00:00Z"));
        for time in ["2026-03-28T23:30:00Z", "2026-03-29T01:30:00Z"] {
            assert_eq!(shift.tumbling(at(time)), short, "{time}");
        }
    }

    #[test]
    fn floors_below_zero_and_at_the_ends_of_time() {
        assert_eq!(floor_to(-1, 7, 0), -7);
        assert_eq!(floor_to(2, 7, 3), -4);
        assert_eq!(floor_to(i64::MIN, 7, 0), i64::MIN);
        assert_eq!(floor_to(i64::MAX, 10, 0), i64::MAX - 7);
    }
}

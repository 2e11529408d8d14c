//! Instants as integer nanoseconds.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Nanoseconds since the Unix epoch, UTC; covers the years 1677 to 2262.
///
/// Shown and serialised as RFC 3339 with as many decimals as it needs (at most nine) and a `Z`; read from RFC 3339 text or
/// an integer of nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Before every row: what a watermark holds until something is known.
    pub const MIN: Self = Self(i64::MIN);
    /// After every row: what a watermark holds at the end of input.
    pub const MAX: Self = Self(i64::MAX);
    /// The start of 2025: a clock that shows an earlier time has not been set since its machine was booted.
    pub const CLOCK_SET_FROM: Self = Self(1_735_689_600_000_000_000);

    /// This instant moved by `ns`, stopping at the ends of the range.
    #[must_use]
    pub const fn saturating_add(self, ns: i64) -> Self {
        Self(self.0.saturating_add(ns))
    }

    /// This instant moved back by `ns`, stopping at the ends of the range.
    #[must_use]
    pub const fn saturating_sub(self, ns: i64) -> Self {
        Self(self.0.saturating_sub(ns))
    }

    /// What this instant, stamped before a clock was set by `step_ns`, is by that clock; what means "never" stays.
    #[must_use]
    pub const fn by_set_clock(self, step_ns: i64) -> Self {
        if self.0 == i64::MIN { self } else { self.saturating_add(step_ns) }
    }

    /// Nanoseconds from `earlier` to here, stopping at the ends of the range.
    pub const fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The earliest and the latest of `times`; the ends of time the wrong way round if there are none.
pub fn time_bounds(times: impl IntoIterator<Item = i64>) -> (i64, i64) {
    times.into_iter().fold((i64::MAX, i64::MIN), |(earliest, latest), time| (earliest.min(time), latest.max(time)))
}

/// A text that is no RFC 3339 instant between 1677 and 2262.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a time: write RFC 3339 such as 2026-01-31T12:00:00.5Z, or integer nanoseconds since 1970")]
pub struct ParseTimeError(pub String);

impl FromStr for Timestamp {
    type Err = ParseTimeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let instant: jiff::Timestamp = text.parse().map_err(|_| ParseTimeError(text.to_owned()))?;
        i64::try_from(instant.as_nanosecond()).map(Self).map_err(|_| ParseTimeError(text.to_owned()))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_nanosecond(i128::from(self.0)) {
            Ok(instant) => instant.fmt(out),
            Err(_) => write!(out, "{}", self.0),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        if out.is_human_readable() { out.collect_str(self) } else { out.serialize_i64(self.0) }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visit;
        impl serde::de::Visitor<'_> for Visit {
            type Value = Timestamp;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("RFC 3339 text or integer nanoseconds")
            }
            fn visit_i64<E: serde::de::Error>(self, ns: i64) -> Result<Timestamp, E> {
                Ok(Timestamp(ns))
            }
            fn visit_u64<E: serde::de::Error>(self, ns: u64) -> Result<Timestamp, E> {
                i64::try_from(ns).map(Timestamp).map_err(E::custom)
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Timestamp, E> {
                text.parse().map_err(E::custom)
            }
        }
        if from.is_human_readable() { from.deserialize_any(Visit) } else { from.deserialize_i64(Visit) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back_keeps_every_nanosecond() {
        for ns in [0, 1, -1, 1_470_902_048_450_000_000, i64::MAX, i64::MIN, 999_999_999] {
            let text = Timestamp(ns).to_string();
            assert!(text.ends_with('Z'), "{text}");
            assert_eq!(text.parse(), Ok(Timestamp(ns)), "{text}");
        }
    }

    #[test]
    fn offsets_are_brought_to_utc() {
        assert_eq!("1970-01-01T01:00:00+01:00".parse(), Ok(Timestamp(0)));
        assert!("yesterday".parse::<Timestamp>().is_err());
        assert!("9999-01-01T00:00:00Z".parse::<Timestamp>().is_err());
    }
}

//! Times as text: RFC 3339, quickly.

use crate::model::{TimeUnit, Timestamp};

const NS_PER_S: i64 = 1_000_000_000;

/// Nanoseconds since 1970 of an RFC 3339 text, or `None` where it is none or lies outside the years 1677 to 2262.
///
/// Texts of the form `2026-01-31T12:00:00.123456789Z` take a fast path without allocation; offsets, leap seconds and lower-case letters
/// go through `jiff`.
pub fn parse_time(text: &str) -> Option<i64> {
    parse_utc(text.as_bytes()).or_else(|| text.parse().ok().map(|Timestamp(ns)| ns))
}

/// An integer of `unit`, as text, in nanoseconds.
pub(super) fn parse_integer_time(text: &str, unit: TimeUnit) -> Option<i64> {
    text.parse::<i64>().ok()?.checked_mul(unit.ns())
}

/// The common case; `None` = look closer.
fn parse_utc(text: &[u8]) -> Option<i64> {
    let (head, tail) = text.split_at_checked(19)?;
    let separators = head[4] == b'-' && head[7] == b'-' && head[10] == b'T' && head[13] == b':' && head[16] == b':';
    let [year, month, day] = [digits(&head[..4])?, digits(&head[5..7])?, digits(&head[8..10])?];
    let [hour, minute, second] = [digits(&head[11..13])?, digits(&head[14..16])?, digits(&head[17..19])?];
    let valid = separators
        && (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    let fraction_ns = parse_fraction(tail)?;
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    // In i128 because the first second of the range is below -2^63 ns while its last nanoseconds are not.
    i64::try_from(i128::from(seconds) * i128::from(NS_PER_S) + i128::from(fraction_ns)).ok().filter(|_| valid)
}

/// Nanoseconds of `Z` or `.1` to `.123456789` and `Z`.
fn parse_fraction(tail: &[u8]) -> Option<i64> {
    match tail {
        b"Z" => Some(0),
        [b'.', fraction @ .., b'Z'] if (1..=9).contains(&fraction.len()) => {
            digits(fraction).map(|value| value * 10_i64.pow(9 - fraction.len() as u32))
        }
        _ => None,
    }
}

/// The number that at most nine decimal digits write.
fn digits(text: &[u8]) -> Option<i64> {
    text.iter().try_fold(0_i64, |value, byte| byte.is_ascii_digit().then(|| value * 10 + i64::from(byte - b'0')))
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days from 1970-01-01 in the Gregorian calendar, counting years from March so that the leap day is the last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_fast_path_knows_what_it_does_not_know() {
        let check = |text: &str, expected: Option<i64>| assert_eq!(parse_time(text), expected, "{text}");
        check("1970-01-01T00:00:00Z", Some(0));
        check("1970-01-01T00:00:00.000000001Z", Some(1));
        check("1969-12-31T23:59:59.9Z", Some(-100_000_000));
        check("1970-01-01T01:00:00+01:00", Some(0));
        check("2016-12-31T23:59:60Z", parse_time("2016-12-31T23:59:59Z"));
        check("2024-02-29T00:00:00Z", Some(1_709_164_800_000_000_000));
        check("2023-02-29T00:00:00Z", None);
        check("2100-02-29T00:00:00Z", None);
        check("2023-13-01T00:00:00Z", None);
        check("2023-01-01T24:00:00Z", None);
        check("1677-09-21T00:12:43.145224192Z", Some(i64::MIN));
        check("1677-09-21T00:12:43.145224191Z", None);
        check("2262-04-11T23:47:16.854775807Z", Some(i64::MAX));
        check("2262-04-11T23:47:16.854775808Z", None);
        check("9999-12-31T00:00:00Z", None);
        check("2024-01-01T00:00:00", None);
        check("2024-01-01", None);
        check("", None);
        check("2024-01-01T00:00:00.Z", None);
        check("2024-01-0\u{661}T00:00:00Z", None);
    }

    proptest! {
        #[test]
        fn the_fast_path_agrees_with_the_slow_one(ns: i64) {
            let text = Timestamp(ns).to_string();
            prop_assert_eq!(parse_utc(text.as_bytes()), Some(ns));
        }

        #[test]
        fn any_text_is_survived(text in "\\PC{0,40}|[0-9TZ:.-]{0,32}") {
            let _ = parse_time(&text);
        }
    }
}

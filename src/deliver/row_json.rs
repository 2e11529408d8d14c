//! Rows as JSON objects, straight from the columns.
//!
//! The same object that [`crate::model::Row`] serialises to, with `appliance` in front, and `historical` behind where it is true. What is the
//! same for all rows of a stream (quoted names, commas) is made once a batch.

use std::io::Write;

use super::ResultRecord;
use crate::model::{Batch, Flags, Timestamp};

const SECOND_NS: i64 = 1_000_000_000;
const DAY_S: i64 = 86_400;

/// Writes rows of one batch as JSON.
pub struct RowWriter<'a> {
    batch: &'a Batch,
    /// `{"appliance":…,"stream":…,"time":"`
    head: Vec<u8>,
    /// `,"name":` by tag.
    tags: Vec<Vec<u8>>,
    /// `,"name":` by signal.
    signals: Vec<Vec<u8>>,
    tail: &'static [u8],
}

impl<'a> RowWriter<'a> {
    /// For the rows of `batch`.
    pub fn new(appliance: &str, batch: &'a Batch, historical: bool) -> Self {
        let mut head = b"{\"appliance\":".to_vec();
        write_text(&mut head, appliance);
        head.extend_from_slice(b",\"stream\":");
        write_text(&mut head, &batch.stream.id);
        head.extend_from_slice(b",\"time\":\"");
        Self {
            batch,
            head,
            tags: batch.stream.tags.iter().map(|name| member(name)).collect(),
            signals: batch.stream.signals.iter().map(|signal| member(&signal.name)).collect(),
            tail: if historical { b",\"historical\":true}" } else { b"}" },
        }
    }

    /// Appends `row` to `out`.
    pub fn write(&self, row: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        write_time(out, Timestamp(self.batch.time[row]));
        out.push(b'"');
        self.write_place(row, out);
        for (name, column) in self.tags.iter().zip(&self.batch.tags) {
            out.extend_from_slice(name);
            match column.get(row) {
                Some(text) => write_text(out, text),
                None => out.extend_from_slice(b"null"),
            }
        }
        for (name, column) in self.signals.iter().zip(&self.batch.signals) {
            if !column[row].is_nan() {
                out.extend_from_slice(name);
                write_number(out, column[row]);
            }
        }
        self.write_flags(row, out);
        out.extend_from_slice(self.tail);
    }

    fn write_place(&self, row: usize, out: &mut Vec<u8>) {
        if let Some(position) = self.batch.position(row) {
            for (name, value) in [b",\"x\":", b",\"y\":", b",\"z\":"].into_iter().zip(position) {
                out.extend_from_slice(name);
                write_number(out, value);
            }
        }
        if let Some(layer) = self.batch.layer(row) {
            out.extend_from_slice(b",\"layer\":");
            write_into(out, format_args!("{layer}"));
        }
    }

    fn write_flags(&self, row: usize, out: &mut Vec<u8>) {
        let flags = self.batch.flags(row);
        for (_, name) in Flags::NAMED.into_iter().filter(|(flag, _)| flags.has(*flag)) {
            write_into(out, format_args!(",\"{name}\":true"));
        }
    }
}

/// Appends a result's JSON object with `appliance`, `stream` and, where it is true, `historical` in front of its own members.
pub fn write_result(out: &mut Vec<u8>, appliance: &str, result: &ResultRecord) {
    out.extend_from_slice(b"{\"appliance\":");
    write_text(out, appliance);
    if let Some(stream) = &result.stream {
        out.extend_from_slice(b",\"stream\":");
        write_text(out, stream);
    }
    if result.historical {
        out.extend_from_slice(b",\"historical\":true");
    }
    write_rest(out, &result.json);
}

/// Appends a row's JSON object with its `id` and the `kind` `row` in front.
pub fn write_named_row(out: &mut Vec<u8>, id: &str, row: &[u8]) {
    out.extend_from_slice(b"{\"id\":");
    write_text(out, id);
    out.extend_from_slice(b",\"kind\":\"row\"");
    write_rest(out, row);
}

/// Closes an object that has members already with those of `json`, which is an object.
fn write_rest(out: &mut Vec<u8>, json: &[u8]) {
    let inner = json.trim_ascii().strip_prefix(b"{").unwrap_or(b"}").trim_ascii_start();
    if !inner.starts_with(b"}") {
        out.push(b',');
    }
    out.extend_from_slice(inner);
}

fn member(name: &str) -> Vec<u8> {
    let mut out = vec![b','];
    write_text(&mut out, name);
    out.push(b':');
    out
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    // Writing to memory cannot fail.
    let _ = serde_json::to_writer(out, text);
}

fn write_number(out: &mut Vec<u8>, value: f64) {
    // Writing to memory cannot fail; what is not finite becomes null, as everywhere.
    let _ = serde_json::to_writer(out, &value);
}

fn write_into(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing to memory cannot fail.
    let _ = out.write_fmt(text);
}

/// Appends `time` as [`Timestamp`] shows itself: RFC 3339 in UTC, as many decimals as it needs.
pub fn write_time(out: &mut Vec<u8>, time: Timestamp) {
    let (seconds, mut fraction) = (time.0.div_euclid(SECOND_NS), time.0.rem_euclid(SECOND_NS));
    let (year, month, day) = civil(seconds.div_euclid(DAY_S));
    let of_day = seconds.rem_euclid(DAY_S);
    push_digits(out, year, 4);
    for (mark, part) in [(b'-', month), (b'-', day), (b'T', of_day / 3600), (b':', of_day / 60 % 60), (b':', of_day % 60)] {
        out.push(mark);
        push_digits(out, part, 2);
    }
    if fraction > 0 {
        let mut digits = 9;
        while fraction % 10 == 0 {
            fraction /= 10;
            digits -= 1;
        }
        out.push(b'.');
        push_digits(out, fraction, digits);
    }
    out.push(b'Z');
}

/// Appends the last `digits` decimal digits of `number`, which is not negative.
fn push_digits(out: &mut Vec<u8>, mut number: i64, digits: usize) {
    let start = out.len();
    out.resize(start + digits, b'0');
    for digit in out[start..].iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Year, month and day of a number of days since 1970, in the proleptic Gregorian calendar (Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms", `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::model::{Positions, Seq, Stream};

    fn batch() -> Batch {
        let stream = Arc::new(Stream::new("melt \"pool\"", &["intensity", "power"], &["part"]));
        let mut batch = Batch::new(stream, "s".into(), "s/0".into(), Timestamp(5));
        batch.time = vec![0, 1_470_902_048_450_000_000, i64::MIN];
        batch.signals = vec![vec![1.0, f64::NAN, 3.25e-9], vec![-0.1, 1e300, f64::NAN]];
        for text in [Some("A\n\"3\""), None, Some("b")] {
            batch.tags[0].push(text);
        }
        batch.positions = Some(Positions { x: vec![1.0, f64::NAN, 2.0], y: vec![0.0, f64::NAN, 0.0], z: vec![0.0, f64::NAN, 0.5] });
        batch.layer = Some(vec![1, crate::model::NO_LAYER, -3]);
        batch.set_flag(1, Flags::FUTURE);
        batch.set_flag(2, Flags::FLAGGED.with(Flags::ARRIVAL_TIME));
        batch
    }

    fn written(batch: &Batch, row: usize, historical: bool) -> String {
        let mut out = Vec::new();
        RowWriter::new("lpbf-07", batch, historical).write(row, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_row_is_what_the_model_serialises_with_the_appliance() {
        let batch = batch();
        for row in 0..batch.rows() {
            let model = serde_json::to_string(&batch.row(row)).unwrap();
            assert_eq!(written(&batch, row, false), model.replacen('{', r#"{"appliance":"lpbf-07","#, 1));
        }
    }

    #[test]
    fn backlog_says_so() {
        let batch = batch();
        assert_eq!(written(&batch, 0, true), written(&batch, 0, false).replace("-0.1}", r#"-0.1,"historical":true}"#));
    }

    #[test]
    fn a_result_gets_its_members_in_front() {
        let check = |stream: Option<&str>, historical, json: &str, expected: &str| {
            let result = ResultRecord {
                seq: Seq(1),
                id: "i".into(),
                kind: "late".into(),
                pipeline: "p".into(),
                stream: stream.map(Into::into),
                historical,
                json: json.as_bytes().into(),
            };
            let mut out = Vec::new();
            write_result(&mut out, "a", &result);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        };
        check(Some("s"), false, r#"{"kind":"late"}"#, r#"{"appliance":"a","stream":"s","kind":"late"}"#);
        check(None, true, " { } ", r#"{"appliance":"a","historical":true}"#);
    }

    proptest! {
        #[test]
        fn a_time_is_written_as_it_shows_itself(ns: i64, whole in -5_000_000_000_i64..5_000_000_000) {
            for ns in [ns, whole * SECOND_NS, whole * 1_000_000, i64::MAX, i64::MIN] {
                let mut out = Vec::new();
                write_time(&mut out, Timestamp(ns));
                prop_assert_eq!(String::from_utf8(out).unwrap(), Timestamp(ns).to_string());
            }
        }
    }
}

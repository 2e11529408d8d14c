//! Numbers for rows that come without: a record's place in its partition.
//!
//! What is not committed comes again after a crash, and the inbox knows it by (source, device, boot, seq). Here `seq` is the record's offset; the device
//! is the partition and the stream; `boot` holds the row's place in the record, and the time of the record in steps of 65.5 s, so that the
//! records of a topic that was deleted and made anew are not taken for those of the old one.

use crate::{
    ingest::decode::Decoded,
    model::{Batch, NO_TAG, Origin, TagColumn},
};

/// Bits of `boot` for the row's place in a record, more than a record's rows need.
const PLACE_BITS: u32 = 17;
/// Bits of a record's time, ms, that are left out: its steps.
const TIME_BITS: u32 = 16;

/// A record's place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'a> {
    /// Topic and number.
    pub partition: &'a str,
    pub offset: i64,
    /// When it was made or came to the broker, ms since 1970; the same whenever it is read.
    pub time_ms: i64,
}

/// How many rows each batch has.
pub(super) fn rows(decoded: &Decoded) -> Vec<usize> {
    decoded.batches.iter().map(Batch::rows).collect()
}

/// Numbers the rows that `record` added to batches that had `before` rows.
pub(super) fn number(decoded: &mut Decoded, before: &[usize], record: Record<'_>) {
    let mut places: Vec<(std::sync::Arc<str>, i64)> = Vec::new();
    for (index, batch) in decoded.batches.iter_mut().enumerate() {
        let first = before.get(index).copied().unwrap_or(0);
        if first == batch.rows() {
            continue;
        }
        // A stream has a second batch in a record only behind a watermark, which records do not hold; but then its rows go on.
        let known = places.iter().position(|(stream, _)| *stream == batch.stream.id);
        let at = known.unwrap_or_else(|| {
            places.push((batch.stream.id.clone(), 0));
            places.len() - 1
        });
        let place = &mut places[at].1;
        let device = format!("{}#{}", record.partition, batch.stream.id);
        let (rows, time) = (batch.rows(), (record.time_ms >> TIME_BITS) << PLACE_BITS);
        let origin = batch.origin.get_or_insert_with(|| Origin {
            device: TagColumn::constant(None, rows),
            boot: vec![None; rows],
            seq: vec![None; rows],
        });
        let code = code(&mut origin.device, &device);
        for row in first..rows {
            if origin.seq[row].is_none() {
                origin.device.codes[row] = code;
                (origin.boot[row], origin.seq[row]) = (Some(time.saturating_add(*place)), Some(record.offset));
            }
            *place += 1;
        }
    }
}

fn code(column: &mut TagColumn, text: &str) -> u32 {
    let known = column.names.iter().position(|name| &**name == text);
    let place = known.unwrap_or_else(|| {
        column.names.push(text.into());
        column.names.len() - 1
    });
    u32::try_from(place).unwrap_or(NO_TAG)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        ingest::decode::{Context, Json, Routes},
        model::{Stream, Timestamp},
    };

    const HOUR_MS: i64 = 3_600_000;

    fn read(records: &[(i64, i64, &str)]) -> Vec<(String, i64, i64)> {
        let streams = ["a", "b"].map(|id| Arc::new(Stream::new(id, &[], &[])));
        let mut json = Json::new(Routes::by_row(&streams, Some("a")).unwrap());
        let context = Context::new("s".into(), "t/0".into(), Timestamp(0));
        let mut decoded = Decoded::default();
        for (offset, time_ms, text) in records {
            let before = rows(&decoded);
            json.message(text.as_bytes(), &context, &mut decoded);
            number(&mut decoded, &before, Record { partition: "t/0", offset: *offset, time_ms: *time_ms });
        }
        let of = |batch: &Batch| {
            assert!(batch.is_consistent());
            let origin = batch.origin.clone().unwrap();
            let row = |row| (origin.device.get(row).unwrap().to_string(), origin.boot[row].unwrap_or(-1), origin.seq[row].unwrap());
            (0..batch.rows()).map(row).collect::<Vec<_>>()
        };
        decoded.batches.iter().flat_map(of).collect()
    }

    #[test]
    fn every_row_has_a_number_that_does_not_depend_on_its_neighbours() {
        let one = (7, 0, r#"[{"stream":"b","time":1},{"time":2},{"stream":"b","time":3}]"#);
        let two = (8, 0, r#"{"time":4}"#);
        let mut together = read(&[two, one]);
        let mut apart = [read(&[one]), read(&[two])].concat();
        together.sort();
        apart.sort();
        assert_eq!(together, apart);
        let expected = [("t/0#a", 0, 7), ("t/0#a", 0, 8), ("t/0#b", 0, 7), ("t/0#b", 1, 7)];
        assert_eq!(together, expected.map(|(device, boot, seq)| (device.to_owned(), boot, seq)));
    }

    #[test]
    fn a_row_with_a_number_of_its_own_keeps_it() {
        let rows = read(&[(7, 0, r#"{"time":1,"device":"d","boot":2,"seq":3}"#), (8, 0, r#"{"time":1,"device":"d"}"#)]);
        assert_eq!(rows, [("d".to_owned(), 2, 3), ("t/0#a".to_owned(), 0, 8)]);
    }

    #[test]
    fn the_records_of_a_topic_made_anew_are_others() {
        let rows = read(&[(7, 5 * HOUR_MS, r#"{"time":1}"#), (7, 6 * HOUR_MS, r#"{"time":1}"#)]);
        assert_ne!(rows[0], rows[1]);
    }
}

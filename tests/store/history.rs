//! Recorded rows between two event times.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Instant;

use qadf_edge::model::{Input, Timestamp};
use qadf_edge::store::{Append, Reader, Store};

use super::fixture::{directory, open, rows_of};

/// Small, odd strides through the times, so that batches overlap in every way.
fn times(record: u64) -> Vec<i64> {
    let mut state = record.wrapping_mul(2_862_933_555_777_941_757) + 3_037_000_493;
    (0..=(record % 7))
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (record as i64 * 10 + (state >> 55) as i64) % 9_000
        })
        .collect()
}

/// Appends records of two streams, each with its own partition so that none are joined; what stream `s` was given, as (time, number).
fn fill(store: &Store, records: std::ops::Range<u64>) -> Vec<(i64, u64)> {
    let (sender, receiver) = channel();
    for record in records {
        let mut batch = rows_of(if record % 5 == 0 { "other" } else { "s" }, 0, times(record).len());
        batch.partition = format!("{record}").into();
        batch.time = times(record);
        let sender = sender.clone();
        store.writer().append_blocking(Append {
            input: Some(Input::Batch(Arc::new(batch))),
            dead_letters: Vec::new(),
            decoded_at: Instant::now(),
            on_synced: Box::new(move |outcome| sender.send((record, outcome.unwrap().first_seq.0)).unwrap()),
        });
    }
    drop(sender);
    let given = receiver.iter().filter(|(record, _)| record % 5 != 0);
    given.flat_map(|(record, first)| times(record).into_iter().zip(first..)).collect()
}

fn found(reader: &mut Reader, from: i64, to: i64, page: usize) -> Vec<(i64, u64)> {
    let mut history = reader.history("s", Timestamp(from), Timestamp(to)).unwrap();
    let mut all = Vec::new();
    loop {
        let rows = history.next(reader, page).unwrap();
        if rows.is_empty() {
            return all;
        }
        assert!(rows.len() <= page);
        all.extend(rows.iter().map(|row| (row.time.0, row.seq.0)));
    }
}

#[test]
fn rows_between_two_times_come_in_order_of_time_both_ends_included() {
    let dir = directory();
    let store = open(dir.path());
    let mut given = fill(&store, 0..2_600);
    given.sort_unstable();
    let mut reader = store.reader().unwrap();
    for (from, to) in [(i64::MIN, i64::MAX), (0, 0), (1_000, 1_001), (500, 8_000), (8_999, 20_000), (20_000, 30_000), (700, 600)] {
        let expected: Vec<_> = given.iter().copied().filter(|row| (from..=to).contains(&row.0)).collect();
        assert_eq!(found(&mut reader, from, to, 1_000), expected, "{from}..={to}");
    }
    assert_eq!(found(&mut reader, 900, 1_100, 1), found(&mut reader, 900, 1_100, 1_000));
    assert!(reader.history("unknown", Timestamp::MIN, Timestamp::MAX).unwrap().next(&mut reader, 10).unwrap().is_empty());
}

#[test]
fn rows_committed_meanwhile_make_none_appear_twice() {
    let dir = directory();
    let store = open(dir.path());
    let given = fill(&store, 0..600);
    let mut reader = store.reader().unwrap();
    let mut history = reader.history("s", Timestamp::MIN, Timestamp::MAX).unwrap();
    let mut all: Vec<_> = history.next(&mut reader, 100).unwrap();
    fill(&store, 600..1_600);
    loop {
        let rows = history.next(&mut reader, 500).unwrap();
        if rows.is_empty() {
            break;
        }
        all.extend(rows);
    }
    let mut numbers: Vec<_> = all.iter().map(|row| row.seq.0).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!((all.len(), numbers.len()), (given.len(), given.len()));
}

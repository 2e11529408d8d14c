//! Rows go in once, in order, and come out as they were.

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use qadf_edge::model::{Input, Timestamp};
use qadf_edge::store::{Append, DeadLetter, Reader, RecordNo, Store, StoreConfig, StoreError};

use super::fixture::{directory, numbered, open, output, rows, rows_of, seq, step, stored};

#[test]
fn every_acknowledged_row_is_there_after_reopening() {
    let dir = directory();
    let mut expected = Vec::new();
    for _ in 0..3 {
        let store = open(dir.path());
        for count in [1, 7, 300, 1, 1, 2_000] {
            let first = expected.len() as u64;
            let accepted = store.writer().append(rows(first, count)).unwrap();
            assert_eq!((accepted.first_seq, accepted.rows), (seq(first + 1), count as u64));
            expected.extend((first..first + count as u64).map(|number| (number + 1, number as f64)));
        }
        drop(store);
        assert_eq!(stored(dir.path()), expected);
    }
}

#[test]
fn rows_of_many_sources_are_all_there_and_each_source_in_order() {
    let dir = directory();
    let store = open(dir.path());
    let (sender, answers) = channel();
    std::thread::scope(|scope| {
        for source in 0..4_u64 {
            let (writer, sender) = (store.writer(), sender.clone());
            scope.spawn(move || {
                for message in 0..200 {
                    let first = source * 1_000_000 + message * 3;
                    let sender = sender.clone();
                    writer.append_blocking(Append {
                        input: Some(rows(first, 3)),
                        dead_letters: Vec::new(),
                        decoded_at: Instant::now(),
                        on_synced: Box::new(move |accepted| sender.send((first, accepted)).unwrap()),
                    });
                }
            });
        }
    });
    drop(sender);
    let answers: Vec<_> = answers.into_iter().collect();
    let counters = store.counters();
    assert_eq!((counters.rows, answers.len()), (2_400, 800));
    assert!(counters.records <= 800 && counters.commits <= 800, "{counters:?}");
    drop(store);
    let found = stored(dir.path());
    for (first, accepted) in answers {
        let at = accepted.unwrap().first_seq.0;
        let rows: Vec<_> = (0..3).map(|row| (at + row, (first + row) as f64)).collect();
        assert_eq!(found[at as usize - 1..at as usize + 2], rows, "each append knows its own numbers");
    }
    for source in 0..4 {
        let range = f64::from(source) * 1e6..f64::from(source + 1) * 1e6;
        let own: Vec<f64> = found.iter().map(|row| row.1).filter(|value| range.contains(value)).collect();
        assert!(own.is_sorted() && own.len() == 600);
    }
}

#[test]
fn a_large_batch_is_split_and_keeps_its_numbers() {
    let dir = directory();
    let store = open(dir.path());
    let accepted = store.writer().append(rows(0, 150_000)).unwrap();
    assert_eq!((accepted.first_seq, accepted.rows, accepted.record), (seq(1), 150_000, RecordNo(3)));
    assert_eq!(stored(dir.path()).len(), 150_000);
}

#[test]
fn a_redelivered_row_is_not_taken_again_even_after_a_restart() {
    let dir = directory();
    let store = open(dir.path());
    let writer = store.writer();
    assert_eq!(writer.append(numbered(0, 100)).unwrap().duplicates, 0);
    let again = writer.append(numbered(50, 100)).unwrap();
    assert_eq!((again.first_seq, again.rows, again.duplicates), (seq(101), 50, 50));
    drop(store);
    for _ in 0..2 {
        let store = open(dir.path());
        let again = store.writer().append(numbered(0, 150)).unwrap();
        assert_eq!((again.rows, again.duplicates), (0, 150));
    }
    // Past the tail, which is written every 1,024 records.
    let store = open(dir.path());
    for message in 0..1_100 {
        store.writer().append(numbered(150 + message * 300, 300)).unwrap();
    }
    drop(store);
    let store = open(dir.path());
    let last = store.writer().append(numbered(150 + 1_099 * 300, 301)).unwrap();
    assert_eq!((last.rows, last.duplicates), (1, 300));
}

#[test]
fn watermarks_and_ticks_are_records_between_rows() {
    let dir = directory();
    let store = open(dir.path());
    let writer = store.writer();
    let watermark = Input::Watermark {
        stream: "s".into(),
        partition: "p".into(),
        time: Timestamp(5),
        arrival: Timestamp(super::fixture::now()),
    };
    writer.append(rows(0, 2)).unwrap();
    writer.append(watermark.clone()).unwrap();
    writer.append(Input::Tick(Timestamp(9))).unwrap();
    writer.append(rows(2, 1)).unwrap();
    let inputs = store.reader().unwrap().inputs_after(RecordNo(0), 100).unwrap();
    let seqs: Vec<u64> = inputs.iter().map(|input| input.first_seq.0).collect();
    assert_eq!(seqs, [1, 3, 3, 3]);
    assert_eq!((&inputs[1].input, &inputs[2].input), (&watermark, &Input::Tick(Timestamp(9))));
    assert!(matches!(writer.append(Input::End), Err(StoreError::Refused(_))));
}

#[test]
fn dead_letters_are_kept_with_their_bytes_until_they_are_taken_in() {
    let dir = directory();
    let store = open(dir.path());
    let letter = DeadLetter {
        source: "floor".into(),
        partition: "topic".into(),
        stream: None,
        arrival: Timestamp(super::fixture::now()),
        reason: "syntax".to_owned(),
        detail: "expected `}` at 9".to_owned(),
        raw: b"{\"time\": \xff".to_vec(),
    };
    let (sender, answer) = channel();
    store.writer().append_blocking(Append {
        input: None,
        dead_letters: vec![letter.clone(), letter.clone()],
        decoded_at: Instant::now(),
        on_synced: Box::new(move |outcome| sender.send(outcome).unwrap()),
    });
    assert_eq!(answer.recv().unwrap().unwrap().rows, 0);
    let reader = store.reader().unwrap();
    assert_eq!(reader.dead_letters(0, 10).unwrap(), [(1, letter.clone()), (2, letter.clone())]);
    store.writer().remove_dead_letter(1).unwrap();
    assert_eq!(reader.dead_letters(0, 10).unwrap(), [(2, letter)]);
}

#[test]
fn an_engine_that_is_slow_gets_every_input_once_and_in_order() {
    let dir = directory();
    let config = StoreConfig { feed_inputs: 4, ..StoreConfig::default() };
    let (store, _) = Store::open(dir.path(), config).unwrap();
    let writer = store.writer();
    for message in 0..50 {
        writer.append(rows(message * 300, 300)).unwrap();
    }
    let mut feed = store.feed(RecordNo(10)).unwrap();
    let mut given = Vec::new();
    for message in 50..200 {
        writer.append(rows(message * 300, 300)).unwrap();
        if message % 40 == 0 {
            for _ in 0..30 {
                given.extend(feed.next(Duration::ZERO).unwrap());
            }
        }
    }
    drop(store);
    while let Ok(Some(input)) = feed.next(Duration::from_secs(10)) {
        given.push(input);
    }
    let records: Vec<u64> = given.iter().map(|input| input.record.0).collect();
    assert_eq!(records, (11..=200).collect::<Vec<_>>());
    assert!(matches!(feed.next(Duration::ZERO), Err(StoreError::Closed)));
}

#[test]
fn two_processes_cannot_write_to_one_directory() {
    let dir = directory();
    let _store = open(dir.path());
    let Err(StoreError::Locked { pid, .. }) = Store::open(dir.path(), StoreConfig::default()) else { panic!("opened twice") };
    assert_eq!(pid, std::process::id().to_string());
    Reader::open(dir.path()).unwrap();
}

#[test]
fn the_identity_is_made_once() {
    let (dir, other) = (directory(), directory());
    let identity = open(dir.path()).identity();
    assert_eq!(open(dir.path()).identity(), identity);
    assert_ne!(open(other.path()).identity(), identity);
}

#[test]
fn a_full_queue_refuses_and_tells_when_there_is_room() {
    let dir = directory();
    let (store, _) = Store::open(dir.path(), StoreConfig { queue_bytes: 1, ..StoreConfig::default() }).unwrap();
    let writer = store.writer();
    let (sender, answers) = channel();
    let append = |first| Append {
        input: Some(rows(first, 2_000)),
        dead_letters: Vec::new(),
        decoded_at: Instant::now(),
        on_synced: {
            let sender = sender.clone();
            Box::new(move |outcome: Result<_, _>| sender.send(outcome.map(|_| ())).unwrap())
        },
    };
    let mut held_back = 0;
    for message in 0..100 {
        let mut taken = writer.try_append(append(message * 2_000));
        held_back += u64::from(taken.is_err());
        while let Err(append) = taken {
            let (room, told) = channel();
            writer.when_room(Box::new(move || room.send(()).unwrap()));
            told.recv().unwrap();
            taken = writer.try_again(append);
        }
    }
    assert_eq!(store.counters().appends_held_back, held_back, "each that waited counts once");
    drop(store);
    drop(sender);
    assert_eq!(answers.iter().flatten().count(), 100);
    assert_eq!(stored(dir.path()).len(), 200_000);
}

#[test]
fn after_closing_everything_is_answered_with_closed() {
    let dir = directory();
    let store = open(dir.path());
    let writer = store.writer();
    drop(store);
    assert_eq!(writer.append(rows(0, 1)).unwrap_err(), StoreError::Closed);
    assert_eq!(writer.commit_step_and_wait(step(1, vec![output("a", "p")], None)).unwrap_err(), StoreError::Closed);
}

#[test]
fn a_batch_that_is_no_batch_is_refused() {
    let dir = directory();
    let store = open(dir.path());
    let mut batch = rows_of("s", 0, 3);
    batch.signals[0].pop();
    assert!(matches!(store.writer().append(Input::Batch(batch.into())), Err(StoreError::Refused(_))));
}

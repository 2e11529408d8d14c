//! The budget holds; what goes before it was delivered is counted.

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use qadf_edge::model::{Input, Timestamp};
use qadf_edge::store::{
    Append, CursorMove, DeadLetter, Lane, RecordNo, StartAt, Store, StoreConfig, StoreError, StoreStatus, Subscription, WhenFull,
};

use super::fixture::{directory, now, output, rows, rows_of, seq, step, stored};

const MAX_BYTES: u64 = 4 << 20;

fn open(dir: &std::path::Path, when_full: WhenFull) -> Store {
    Store::open(dir, StoreConfig { max_bytes: MAX_BYTES, when_full, ..StoreConfig::default() }).unwrap().0
}

fn follow(store: &Store, sink: &str) {
    let wish = Subscription { sink: sink.into(), lane: Lane::Rows, only: None, start: StartAt::Oldest };
    store.writer().subscribe(wish).unwrap();
}

/// Rows that do not compress, 8 KB a thousand.
fn noise(first: u64, count: usize) -> Input {
    let mut batch = rows_of("s", first, count);
    let mut state = first.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for value in &mut batch.signals[0] {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *value = f64::from_bits(0x3ff0_0000_0000_0000 | state >> 12);
    }
    Input::Batch(batch.into())
}

#[test]
fn the_oldest_go_and_every_sink_knows_what_it_missed() {
    let dir = directory();
    let store = open(dir.path(), WhenFull::ShedOldest);
    let writer = store.writer();
    follow(&store, "slow");
    follow(&store, "dead");
    for message in 0..2_000_u64 {
        writer.append(noise(message * 1_000, 1_000)).unwrap();
        if message == 100 {
            let go = CursorMove { sink: "slow".into(), lane: Lane::Rows, from: seq(1), through: seq(100_000), delivered: 100_000 };
            writer.move_cursor_and_wait(go).unwrap();
        }
    }
    let counters = store.counters();
    assert!(counters.bytes_file <= MAX_BYTES, "{counters:?}");
    let oldest = store.reader().unwrap().oldest(Lane::Rows).unwrap().unwrap().0;
    assert!(oldest > 1_000_000);
    for balance in store.balances() {
        let delivered = if &*balance.sink == "slow" { 100_000 } else { 0 };
        assert_eq!((balance.accepted, balance.delivered), (2_000_000, delivered));
        assert_eq!(balance.expired, oldest - 1 - delivered, "{balance:?}");
        let kept = store.reader().unwrap().count_after(Lane::Rows, balance.seq, None).unwrap();
        assert_eq!(balance.buffered, kept);
    }
    drop(store);
    let store = open(dir.path(), WhenFull::ShedOldest);
    assert!(store.balances().iter().all(|balance| balance.accepted == 2_000_000));
    assert_eq!(stored(dir.path()).first().unwrap().0, oldest);
}

#[test]
fn what_is_needed_stays_and_the_source_is_told_to_wait() {
    let dir = directory();
    let store = open(dir.path(), WhenFull::ShedNewest);
    let writer = store.writer();
    follow(&store, "dead");
    let mut taken = 0;
    let refused = loop {
        match writer.append(noise(taken, 1_000)) {
            Ok(_) => taken += 1_000,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, StoreError::Full(_)), "{refused:?}");
    assert!(taken > 200_000, "{taken}");
    assert!(matches!(store.counters().status, StoreStatus::Full(_)));
    assert!(store.counters().bytes_file <= MAX_BYTES);
    // Results and cursors are still taken: they are what makes room.
    writer.commit_step_and_wait(step(1, vec![output("a", "p")], None)).unwrap();
    let go = CursorMove { sink: "dead".into(), lane: Lane::Rows, from: seq(1), through: seq(taken), delivered: taken };
    writer.move_cursor_and_wait(go).unwrap();
    while writer.append(noise(taken, 1_000)).is_err() {}
    assert_eq!(store.counters().status, StoreStatus::Good);
    let balance = &store.balances()[0];
    assert_eq!((balance.accepted, balance.delivered, balance.expired), (taken + 1_000, taken, 0));
}

#[test]
fn sources_that_can_wait_are_held_before_anything_is_shed_and_let_go_when_there_is_room() {
    for when_full in [WhenFull::ShedOldest, WhenFull::ShedNewest] {
        let dir = directory();
        let store = open(dir.path(), when_full);
        let writer = store.writer();
        follow(&store, "dead");
        let mut taken = 0;
        while !writer.holds_sources() {
            writer.append(noise(taken, 1_000)).unwrap();
            taken += 1_000;
            assert_eq!(store.balances()[0].expired, 0);
        }
        let counters = store.counters();
        assert_eq!((counters.rows_removed_for_room, counters.status), (0, StoreStatus::Good));
        let go = CursorMove { sink: "dead".into(), lane: Lane::Rows, from: seq(1), through: seq(taken), delivered: taken };
        writer.move_cursor_and_wait(go).unwrap();
        while writer.holds_sources() {
            std::thread::yield_now();
        }
        assert_eq!(store.balances()[0].expired, 0);
    }
}

#[test]
fn what_the_checkpoint_does_not_cover_is_never_removed() {
    let dir = directory();
    let store = open(dir.path(), WhenFull::ShedOldest);
    let writer = store.writer();
    for message in 0..3 {
        writer.append(noise(message * 1_000, 1_000)).unwrap();
    }
    let checkpoint = qadf_edge::store::Checkpoint { position: RecordNo(2), ..Default::default() };
    writer.commit_step_and_wait(step(2, Vec::new(), Some(checkpoint))).unwrap();
    let mut message = 3;
    while writer.append(noise(message * 1_000, 1_000)).is_ok() {
        message += 1;
    }
    let first = store.reader().unwrap().inputs_after(RecordNo(0), 1).unwrap()[0].record;
    assert!(first <= RecordNo(3), "{first:?}");
}

#[test]
fn rows_older_than_the_age_go() {
    let dir = directory();
    let config = StoreConfig { max_age_ns: 3_600_000_000_000, ..StoreConfig::default() };
    let (store, _) = Store::open(dir.path(), config.clone()).unwrap();
    let writer = store.writer();
    for message in 0..10 {
        let mut batch = rows_of("s", message * 300, 300);
        if message < 4 {
            batch.arrival = Timestamp(now() - 7_200_000_000_000);
        }
        writer.append(Input::Batch(batch.into())).unwrap();
    }
    drop(store);
    // Ages are looked at first of all after a start.
    let (store, _) = Store::open(dir.path(), config).unwrap();
    store.writer().append(rows(3_000, 1)).unwrap();
    store.writer().append(rows(3_001, 1)).unwrap();
    assert_eq!(stored(dir.path()).first().unwrap().0, 1_201);
    let counters = store.counters();
    assert_eq!((counters.rows_removed_by_age, counters.rows_removed_for_room), (1_200, 0));
}

#[test]
fn the_newest_row_and_result_stay_so_that_numbers_go_on() {
    let dir = directory();
    let config = StoreConfig { max_age_ns: 1, ..StoreConfig::default() };
    for round in 0..3 {
        let (store, _) = Store::open(dir.path(), config.clone()).unwrap();
        let accepted = store.writer().append(rows(0, 300)).unwrap();
        assert_eq!(accepted.first_seq, seq(round * 300 + 1));
        let result = output(&round.to_string(), "p");
        let step = store.writer().commit_step_and_wait(step(1, vec![result], None)).unwrap();
        assert_eq!(step.last_seq, seq(round + 1));
    }
}

/// One dead letter of a kilobyte.
fn refuse(store: &Store) {
    let letter = DeadLetter {
        source: "floor".into(),
        partition: "topic".into(),
        stream: None,
        arrival: Timestamp(now()),
        reason: "undecodable".to_owned(),
        detail: String::new(),
        raw: vec![b'x'; 1_000],
    };
    let (sender, answer) = channel();
    store.writer().append_blocking(Append {
        input: None,
        dead_letters: vec![letter],
        decoded_at: Instant::now(),
        on_synced: Box::new(move |outcome| sender.send(outcome).unwrap()),
    });
    answer.recv().unwrap().unwrap();
}

#[test]
fn dead_letters_keep_to_their_share_of_the_budget_and_the_newest_stay() {
    let dir = directory();
    let store = open(dir.path(), WhenFull::ShedOldest);
    let reader = store.reader().unwrap();
    let deadline = Instant::now() + Duration::from_mins(1);
    // They are looked at once a second: the first time with hardly any there, later with too many.
    let mut last = 0;
    loop {
        refuse(&store);
        last += 1;
        let kept = reader.dead_letters(0, 10_000).unwrap();
        assert_eq!(kept.last().unwrap().0, last);
        if kept[0].0 > 1 {
            let bytes = kept.len() as u64 * 1_000;
            assert!((MAX_BYTES / 40..MAX_BYTES / 10).contains(&bytes), "{bytes}");
            break;
        }
        assert!(Instant::now() < deadline, "none has gone");
    }
}

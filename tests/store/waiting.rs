//! Rows from before the clock was set: the store with clocks that somebody holds in the hand.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use qadf_edge::model::{Batch, Flags, Input, MissingTime, Order, Origin, Seq, Stream, TagColumn, Timestamp};
use qadf_edge::store::{CLOCK_WAIT_NS_MAX, Clocks, DeadLetter, Feed, Reader, Reading, RecordNo, StepCommit, Store, StoreConfig};

use super::fixture::{directory, output, step};

const SECOND: i64 = 1_000_000_000;
/// 2026-06-01T00:00:00Z.
const JUNE: i64 = 1_780_272_000 * SECOND;

/// The machine's clocks.
#[derive(Clone)]
struct Hands(Arc<Mutex<Reading>>);

impl Hands {
    /// Booted at this moment, in 1970.
    fn booted() -> Self {
        Self(Arc::new(Mutex::new(Reading { wall_ns: 3 * SECOND, monotonic_ns: 0, boot: "first".into() })))
    }

    /// Time passes; the wall clock at the end of it.
    fn pass(&self, seconds: i64) -> i64 {
        let mut reading = self.0.lock().unwrap();
        reading.wall_ns += seconds * SECOND;
        reading.monotonic_ns += seconds * SECOND;
        reading.wall_ns
    }

    /// Somebody sets the wall clock.
    fn set(&self, wall_ns: i64) {
        self.0.lock().unwrap().wall_ns = wall_ns;
    }

    /// The power goes and comes.
    fn reboot(&self) {
        *self.0.lock().unwrap() = Reading { wall_ns: 3 * SECOND, monotonic_ns: 0, boot: "second".into() };
    }

    fn wall(&self) -> i64 {
        self.0.lock().unwrap().wall_ns
    }

    fn open(&self, directory: &Path) -> Store {
        let read = self.clone();
        let clocks = Clocks::new(move || read.0.lock().unwrap().clone());
        Store::open(directory, StoreConfig { clocks, ..StoreConfig::default() }).unwrap().0
    }
}

/// Rows `first..first + count` of a device without a clock, stamped with `arrival`, as the decoders make them.
fn unclocked(first: i64, count: usize, arrival: i64) -> Input {
    let mut stream = Stream::new("unclocked", &["number"], &[]);
    stream.time_missing = MissingTime::Arrival;
    let mut batch = Batch::new(Arc::new(stream), "line".into(), "line".into(), Timestamp(arrival));
    batch.time = vec![arrival; count];
    batch.signals[0] = (first..).take(count).map(|number| number as f64).collect();
    batch.flags = Some(vec![Flags::ARRIVAL_TIME; count]);
    let device = TagColumn::constant(Some("head"), count);
    batch.origin = Some(Origin { device, boot: vec![Some(1); count], seq: (first..).take(count).map(Some).collect() });
    Input::Batch(Arc::new(batch))
}

/// A row of a device that knows the time.
fn clocked(number: i64, time: i64, arrival: i64) -> Input {
    let mut batch =
        Batch::new(Arc::new(Stream::new("clocked", &["number"], &[])), "line".into(), "line".into(), Timestamp(arrival));
    batch.time = vec![time];
    batch.signals[0] = vec![number as f64];
    Input::Batch(Arc::new(batch))
}

/// One row of the inbox.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Seen {
    number: f64,
    time: i64,
    arrival: i64,
    flags: Flags,
}

fn rows_of(inputs: impl Iterator<Item = Input>) -> Vec<Seen> {
    let of = |batch: &Batch| {
        let row =
            |row| Seen { number: batch.signals[0][row], time: batch.time[row], arrival: batch.arrival.0, flags: batch.flags(row) };
        (0..batch.rows()).map(row).collect::<Vec<_>>()
    };
    inputs.flat_map(|input| if let Input::Batch(batch) = &input { of(batch) } else { Vec::new() }).collect()
}

fn stored(directory: &Path) -> Vec<Seen> {
    let inputs = Reader::open(directory).unwrap().inputs_after(RecordNo(0), 10_000).unwrap();
    rows_of(inputs.into_iter().map(|committed| committed.input))
}

fn numbers(rows: &[Seen]) -> Vec<i64> {
    rows.iter().map(|row| row.number as i64).collect()
}

const REBASED: Flags = Flags(Flags::ARRIVAL_TIME.0 | Flags::REBASED.0);
const UNKNOWN: Flags = Flags(Flags::ARRIVAL_TIME.0 | Flags::CLOCK_UNSET.0);

/// What the engine is given until `rows` have come.
fn fed(feed: &mut Feed, rows: usize) -> Vec<Input> {
    let mut inputs = Vec::new();
    while rows_of(inputs.iter().cloned()).len() < rows {
        inputs.push(feed.next(Duration::from_mins(1)).unwrap().expect("rows come").input);
    }
    inputs
}

#[test]
fn rows_from_before_the_clock_was_set_get_the_time_they_really_had() {
    let (dir, clock) = (directory(), Hands::booted());
    let store = clock.open(dir.path());
    let (writer, mut feed) = (store.writer(), store.feed(RecordNo(0)).unwrap());
    for first in [0, 300, 600] {
        let accepted = writer.append(unclocked(first, 300, clock.pass(7))).unwrap();
        assert_eq!((accepted.rows, accepted.waiting, accepted.duplicates), (0, 300, 0));
    }
    assert_eq!((stored(dir.path()).len(), store.counters().rows_waiting_for_clock), (0, 900));
    // What knows its time does not wait.
    writer.append(clocked(5_000, JUNE, clock.pass(1))).unwrap();
    assert_eq!(stored(dir.path()).len(), 1);
    // Two seconds later, 24 after the boot, it is June.
    clock.pass(2);
    clock.set(JUNE);
    let inputs = fed(&mut feed, 901);
    let rows = stored(dir.path());
    assert_eq!(numbers(&rows[1..]), (0..900).collect::<Vec<_>>());
    for (place, seconds_before) in [(1, 17), (301, 10), (601, 3)] {
        let true_time = JUNE - seconds_before * SECOND;
        let expected = Seen { number: (place - 1) as f64, time: true_time, arrival: true_time, flags: REBASED };
        assert_eq!(rows[place], expected);
    }
    assert_eq!(rows_of(inputs.iter().cloned()), rows, "the engine sees the same");
    // And before all of them, that the clock was set.
    let step = inputs.iter().position(|input| matches!(input, Input::Order { order: Order::ClockSet { .. }, .. }));
    let Some(Input::Order { time, order: Order::ClockSet { step_ns } }) = step.map(|at| &inputs[at]) else { panic!("{inputs:?}") };
    assert_eq!((*time, *step_ns), (Timestamp(JUNE), JUNE - 27 * SECOND));
    assert_eq!(store.counters().rows_waiting_for_clock, 0);
}

#[test]
fn a_crash_while_rows_wait_loses_and_doubles_none() {
    let (dir, clock) = (directory(), Hands::booted());
    let store = clock.open(dir.path());
    let stamp = clock.pass(5);
    store.writer().append(unclocked(0, 10, stamp)).unwrap();
    drop(store);
    // The same boot: what the device sends again is known, and the difference of the clocks too.
    clock.pass(5);
    let store = clock.open(dir.path());
    assert_eq!(store.counters().rows_waiting_for_clock, 10);
    let again = store.writer().append(unclocked(5, 10, clock.wall())).unwrap();
    assert_eq!((again.duplicates, again.waiting), (5, 5));
    clock.set(JUNE);
    let later = store.writer().append(unclocked(15, 5, JUNE)).unwrap();
    assert_eq!((later.rows + later.waiting, later.duplicates), (5, 0));
    drop(store);
    let rows = stored(dir.path());
    assert_eq!(numbers(&rows), (0..20).collect::<Vec<_>>());
    let (first, second, third) = (rows[0], rows[10], rows[15]);
    assert_eq!((first.time, first.flags), (JUNE - 5 * SECOND, REBASED));
    assert_eq!((second.time, second.flags), (JUNE, REBASED));
    assert_eq!((third.time, third.flags), (JUNE, Flags::ARRIVAL_TIME));
    // Nothing is left that could come again.
    let store = clock.open(dir.path());
    store.writer().append(clocked(1, JUNE, JUNE)).unwrap();
    assert_eq!((stored(dir.path()).len(), store.counters().rows_waiting_for_clock), (21, 0));
}

#[test]
fn after_another_boot_nobody_knows_the_time_and_the_row_says_so() {
    let (dir, clock) = (directory(), Hands::booted());
    let store = clock.open(dir.path());
    let stamp = clock.pass(5);
    store.writer().append(unclocked(0, 3, stamp)).unwrap();
    drop(store);
    clock.reboot();
    let store = clock.open(dir.path());
    let mut feed = store.feed(RecordNo(0)).unwrap();
    store.writer().append(unclocked(3, 3, clock.pass(4))).unwrap();
    clock.set(JUNE);
    let rows = rows_of(fed(&mut feed, 6).into_iter());
    assert_eq!(numbers(&rows), [0, 1, 2, 3, 4, 5]);
    // It came before now: what is kept by age counts from here.
    assert_eq!((rows[0].time, rows[0].arrival, rows[0].flags), (stamp, JUNE, UNKNOWN));
    assert_eq!((rows[3].time, rows[3].flags), (JUNE, REBASED));
}

#[test]
fn a_clock_that_is_never_set_holds_rows_up_for_ten_minutes_and_no_longer() {
    let (dir, clock) = (directory(), Hands::booted());
    let store = clock.open(dir.path());
    let mut feed = store.feed(RecordNo(0)).unwrap();
    let stamp = clock.pass(5);
    store.writer().append(unclocked(0, 3, stamp)).unwrap();
    clock.pass(CLOCK_WAIT_NS_MAX / SECOND);
    let rows = rows_of(fed(&mut feed, 3).into_iter());
    assert_eq!((numbers(&rows), rows[0].time, rows[0].flags), (vec![0, 1, 2], stamp, UNKNOWN));
    // From then on nothing waits.
    let at_once = store.writer().append(unclocked(3, 300, clock.wall())).unwrap();
    assert_eq!((at_once.rows, at_once.waiting), (300, 0));
    let rows = rows_of(fed(&mut feed, 300).into_iter());
    assert_eq!((rows[0].number, rows[0].flags), (3.0, UNKNOWN));
    clock.set(JUNE);
    store.writer().append(unclocked(303, 1, JUNE)).unwrap();
    let rows = rows_of(fed(&mut feed, 1).into_iter());
    assert_eq!((rows[0].number, rows[0].time, rows[0].flags), (303.0, JUNE, Flags::ARRIVAL_TIME));
}

#[test]
fn rows_behind_a_full_room_keep_their_order_over_many_transactions() {
    let (dir, clock) = (directory(), Hands::booted());
    let store = clock.open(dir.path());
    let writer = store.writer();
    // More than one transaction lets out: values that do not compress.
    let (batches, rows) = (24, 30_000);
    let noisy = |batch: i64, arrival| {
        let Input::Batch(shared) = unclocked(batch * rows, rows as usize, arrival) else { panic!("rows") };
        let mut noisy = Batch::clone(&shared);
        let mut state = 0x9e37_79b9_u64 + batch as u64;
        for (row, value) in noisy.signals[0].iter_mut().enumerate() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *value = (batch * rows + row as i64) as f64 + (state >> 11) as f64 / (1_u64 << 54) as f64;
        }
        Input::Batch(Arc::new(noisy))
    };
    for batch in 0..batches {
        writer.append(noisy(batch, clock.pass(1))).unwrap();
    }
    let mut feed = store.feed(RecordNo(0)).unwrap();
    clock.set(JUNE);
    let last = writer.append(noisy(batches, JUNE)).unwrap();
    assert_eq!(last.rows + last.waiting, rows as u64);
    let fed = rows_of(fed(&mut feed, ((batches + 1) * rows) as usize).into_iter());
    assert_eq!(numbers(&fed), (0..(batches + 1) * rows).collect::<Vec<_>>());
    assert!(fed.is_sorted_by_key(|row| row.time), "in the order in which they came");
    assert_eq!((fed[0].time, fed.last().unwrap().time), (JUNE - (batches - 1) * SECOND, JUNE));
}

#[test]
fn a_step_of_a_plausible_clock_moves_no_row() {
    let (dir, clock) = (directory(), Hands::booted());
    clock.set(JUNE);
    let store = clock.open(dir.path());
    let mut feed = store.feed(RecordNo(0)).unwrap();
    store.writer().append(unclocked(0, 1, clock.pass(1))).unwrap();
    clock.set(JUNE + 86_400 * SECOND);
    store.writer().append(unclocked(1, 1, clock.wall())).unwrap();
    let inputs = fed(&mut feed, 2);
    let rows = rows_of(inputs.iter().cloned());
    assert_eq!((rows[0].time, rows[0].flags), (JUNE + SECOND, Flags::ARRIVAL_TIME));
    let told = Input::Order { time: Timestamp(clock.wall()), order: Order::ClockSet { step_ns: 86_399 * SECOND } };
    assert_eq!(inputs[1], told, "and the engine knows before the first row that has the new time");
}

#[test]
fn results_and_dead_letters_of_1970_are_not_too_old_once_the_clock_is_set() {
    let (dir, clock) = (directory(), Hands::booted());
    let store = clock.open(dir.path());
    let writer = store.writer();
    writer.append(clocked(0, JUNE, clock.wall())).unwrap();
    let letter = |arrival: i64| DeadLetter {
        source: "floor".into(),
        partition: "topic".into(),
        stream: None,
        arrival: Timestamp(arrival),
        reason: "undecodable".to_owned(),
        detail: String::new(),
        raw: b"x".to_vec(),
    };
    let results = (0..3).map(|number| output(&format!("early {number}"), "p")).collect();
    let early = StepCommit { dead_letters: vec![letter(clock.wall()), letter(clock.wall())], ..step(1, results, None) };
    writer.commit_step_and_wait(early).unwrap();
    clock.pass(20);
    clock.set(JUNE);
    // Ages are looked at once a second, and first of all after a start.
    writer.append(clocked(1, JUNE, JUNE)).unwrap();
    drop((writer, store));
    for seconds in [1, 29 * 86_400] {
        clock.pass(seconds);
        let store = clock.open(dir.path());
        for number in 0..2 {
            store.writer().append(clocked(seconds + number, clock.wall(), clock.wall())).unwrap();
        }
        let reader = store.reader().unwrap();
        assert_eq!(reader.results_after(Seq(0), 10, None).unwrap().0.len(), 3);
        assert_eq!(reader.dead_letters(0, 10).unwrap().len(), 2);
    }
    // A month later they are.
    clock.pass(2 * 86_400);
    let store = clock.open(dir.path());
    for number in 0..2 {
        store.writer().append(clocked(number, clock.wall(), clock.wall())).unwrap();
    }
    let reader = store.reader().unwrap();
    let left = (reader.results_after(Seq(0), 10, None).unwrap().0.len(), reader.dead_letters(0, 10).unwrap().len());
    assert_eq!(left, (1, 1), "the newest stay, so that numbers go on");
}

#[test]
fn what_was_stamped_just_before_the_clock_was_set_is_moved_along_when_it_comes_after() {
    let (dir, clock) = (directory(), Hands::booted());
    let store = clock.open(dir.path());
    let stamp = clock.pass(9);
    clock.pass(1);
    clock.set(JUNE);
    store.writer().append(clocked(0, JUNE - SECOND, stamp)).unwrap();
    store.writer().append(unclocked(1, 1, stamp)).unwrap();
    let rows = stored(dir.path());
    let seen = |row: &Seen| (row.time, row.arrival, row.flags);
    assert_eq!(seen(&rows[0]), (JUNE - SECOND, JUNE - SECOND, Flags::NONE), "by its stamp it would be too old to be kept");
    assert_eq!(seen(&rows[1]), (JUNE - SECOND, JUNE - SECOND, REBASED));
}

#[test]
fn rows_of_a_boot_that_never_knew_the_time_are_kept_by_the_next_one() {
    let (dir, clock) = (directory(), Hands::booted());
    let store = clock.open(dir.path());
    store.writer().append(clocked(0, JUNE, clock.pass(5))).unwrap();
    drop(store);
    clock.reboot();
    clock.set(JUNE);
    for number in 1..4 {
        let store = clock.open(dir.path());
        store.writer().append(clocked(number, JUNE, clock.pass(2))).unwrap();
        store.writer().append(clocked(10 + number, JUNE, clock.wall())).unwrap();
        assert_eq!(stored(dir.path()).len() as i64, 1 + 2 * number);
    }
}

//! Rings against the cases of `cases/amqadf.json`, against a plain list of rows, and against themselves at rest.

use std::sync::Arc;

use proptest::prelude::*;
use qadf_edge::{
    buffer::{Ring, RingState},
    model::{Batch, Seq, Stream, Timestamp},
};
use serde_json::Value;

const SECOND: i64 = 1_000_000_000;

fn stream() -> Arc<Stream> {
    Arc::new(Stream::new("melt", &["intensity"], &["part"]))
}

fn ring(capacity: usize) -> Ring {
    Ring::new(stream(), capacity).unwrap()
}

/// Rows of (time ns, value), numbered from `first_seq`; the tag is the value's last decimal digit, or null for 0.
fn batch(rows: &[(i64, f64)], first_seq: u64) -> Batch {
    let mut batch = Batch::new(stream(), "s".into(), "s/0".into(), Timestamp(7));
    batch.first_seq = Seq(first_seq);
    for (time, value) in rows {
        batch.time.push(*time);
        batch.signals[0].push(*value);
        let digit = (*value as i64).rem_euclid(10);
        batch.tags[0].push((digit > 0).then(|| digit.to_string()).as_deref());
    }
    batch
}

fn add(ring: &mut Ring, rows: &[(i64, f64)]) {
    ring.append(&batch(rows, 1), 0..rows.len());
}

/// 0, 1, 2 … at t0 + i s.
fn ramp(count: i64) -> Vec<(i64, f64)> {
    (0..count).map(|second| (second * SECOND, second as f64)).collect()
}

fn case(id: &str) -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases/amqadf.json");
    let cases: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    cases["cases"].as_array().unwrap().iter().find(|case| case["id"] == id).unwrap_or_else(|| panic!("no case {id}")).clone()
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

#[test]
fn overflow_is_counted_and_the_oldest_is_right_after_it() {
    let case = case("BUF-01");
    let (expected, mut ring) = (&case["expected"], ring(case["input"]["capacity"].as_u64().unwrap() as usize));
    for row in ramp(12) {
        add(&mut ring, &[row]);
    }
    let statistics = ring.statistics();
    assert_eq!(statistics.rows, expected["size"].as_u64().unwrap() as usize);
    assert_eq!(ring.sliding(10).signal(0).to_vec(), floats(&expected["window10"]));
    assert_eq!(statistics.evicted, expected["overflow"].as_u64().unwrap());
    assert_eq!(statistics.evicted, expected["evicted"].as_u64().unwrap());
    assert_eq!(statistics.oldest, Some(Timestamp(7 * SECOND)));
    assert_eq!(expected["oldest"], "t0+7s");
    assert_eq!(statistics.span_ns, expected["span_s"].as_i64().unwrap() * SECOND);
    assert_eq!((statistics.added, statistics.utilisation_percent), (12, 100.0));
}

#[test]
fn a_window_of_none_is_empty() {
    let case = case("BUF-02");
    let mut ring = ring(5);
    let held: Vec<_> = floats(&case["input"]["buffer"]).into_iter().map(|value| (value as i64, value)).collect();
    add(&mut ring, &held);
    let sizes = case["input"]["sizes"].as_array().unwrap();
    let found: Vec<_> = sizes.iter().map(|size| ring.sliding(size.as_u64().unwrap() as usize).signal(0).to_vec()).collect();
    let expected: Vec<_> = case["expected"]["r"].as_array().unwrap().iter().map(floats).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_flush_takes_all_rows_out() {
    let case = case("BUF-04");
    let mut ring = ring(10);
    let rows: Vec<_> = floats(&case["input"]["add"]).into_iter().map(|value| (value as i64, value)).collect();
    add(&mut ring, &rows);
    let flushed = ring.flush();
    assert_eq!(flushed.signals[0], floats(&case["expected"]["data"]));
    assert_eq!(ring.len() as u64, case["expected"]["size_after"]);
    assert_eq!(ring.statistics().removed, case["expected"]["removed"]);
    assert_eq!(ring.statistics().oldest, None);
    add(&mut ring, &[(9, 9.0)]);
    assert_eq!(ring.clear(), 1);
}

#[test]
fn time_windows_include_both_ends() {
    let mut ring = ring(8);
    add(&mut ring, &ramp(12));
    let window = ring.time_window(2 * SECOND, Timestamp(9 * SECOND));
    assert_eq!(window.contiguous().unwrap().signal(0).to_vec(), [7.0, 8.0, 9.0]);
    assert_eq!(ring.time_window(-1, Timestamp(9 * SECOND)).len(), 0);
    assert_eq!(ring.time_window(i64::MAX, Timestamp(9 * SECOND)).len(), 6);
    assert_eq!(ring.time_window(SECOND, Timestamp(-5)).len(), 0);
}

/// A ring as a plain list: what it should do, slowly.
#[derive(Debug, Default, Clone)]
struct Model {
    rows: Vec<(i64, f64)>,
    added: u64,
    evicted: u64,
    removed: u64,
}

impl Model {
    fn add(&mut self, rows: &[(i64, f64)], capacity: usize) {
        self.added += rows.len() as u64;
        self.rows.extend(rows);
        let over = self.rows.len().saturating_sub(capacity);
        self.evicted += over as u64;
        self.rows.drain(..over);
    }

    fn by_time(&self) -> Vec<(i64, f64)> {
        let mut rows = self.rows.clone();
        rows.sort_by_key(|row| row.0);
        rows
    }

    fn clear_older(&mut self, time: i64) {
        let before = self.rows.len();
        self.rows.retain(|row| row.0 >= time);
        self.removed += (before - self.rows.len()) as u64;
    }
}

#[derive(Debug, Clone)]
enum Step {
    Add(Vec<(i64, f64)>),
    ClearOlder(i64),
    Clear,
    Rest,
}

fn step() -> impl Strategy<Value = Step> {
    let row = (0_i64..60, 0_i32..100).prop_map(|(time, value)| (time, f64::from(value)));
    let in_order = (0_i64..60, 1_usize..40).prop_map(|(from, count)| (0..count).map(|at| (from + at as i64, at as f64)).collect());
    prop_oneof![
        6 => prop::collection::vec(row, 1..12).prop_map(Step::Add),
        6 => in_order.prop_map(Step::Add),
        1 => (0_i64..80).prop_map(Step::ClearOlder),
        1 => Just(Step::Clear),
        1 => Just(Step::Rest),
    ]
}

fn at_rest(ring: &Ring) -> Ring {
    let bytes = postcard::to_stdvec(&ring.snapshot()).unwrap();
    let state: RingState = postcard::from_bytes(&bytes).unwrap();
    Ring::restore(stream(), ring.capacity(), state).unwrap()
}

fn assert_is(ring: &Ring, model: &Model) {
    let all = ring.sliding(usize::MAX);
    let rows: Vec<(i64, f64)> = all.times().iter().copied().zip(all.signal(0).iter().copied()).collect();
    assert_eq!(rows, model.rows);
    let by_time = ring.by_time();
    assert_eq!(by_time.times().zip(by_time.signal(0)).collect::<Vec<_>>(), model.by_time());
    let window = ring.between(Timestamp(20), Timestamp(40));
    let expected: Vec<_> = model.by_time().into_iter().filter(|row| (20..=40).contains(&row.0)).collect();
    assert_eq!(window.times().zip(window.signal(0)).collect::<Vec<_>>(), expected);
    assert_eq!(window.to_batch().time, expected.iter().map(|row| row.0).collect::<Vec<_>>());
    let statistics = ring.statistics();
    assert_eq!((statistics.added, statistics.evicted, statistics.removed), (model.added, model.evicted, model.removed));
    assert_eq!(statistics.oldest, model.rows.iter().map(|row| Timestamp(row.0)).min());
    assert_eq!(statistics.newest, model.rows.iter().map(|row| Timestamp(row.0)).max());
    let recent = ring.recent(3);
    assert!(recent.is_consistent());
    assert_eq!(recent.signals[0], model.rows[model.rows.len().saturating_sub(3)..].iter().map(|row| row.1).collect::<Vec<_>>());
    for row in 0..recent.rows() {
        let digit = (recent.signals[0][row] as i64) % 10;
        assert_eq!(recent.tags[0].get(row).map(ToString::to_string), (digit > 0).then(|| digit.to_string()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_ring_is_a_list_that_forgets_its_oldest(capacity in 1_usize..50, steps in prop::collection::vec(step(), 1..40)) {
        let (mut ring, mut model) = (ring(capacity), Model::default());
        for step in steps {
            match step {
                Step::Add(rows) => {
                    add(&mut ring, &rows);
                    model.add(&rows, capacity);
                }
                Step::ClearOlder(time) => {
                    ring.clear_older_than(Timestamp(time));
                    model.clear_older(time);
                }
                Step::Clear => {
                    model.removed += model.rows.len() as u64;
                    model.rows.clear();
                    ring.clear();
                }
                Step::Rest => ring = at_rest(&ring),
            }
            assert_is(&ring, &model);
        }
    }
}

#[test]
fn numbers_in_the_inbox_survive_gaps_and_rest() {
    let mut ring = ring(10);
    ring.append(&batch(&ramp(5), 100), 1..3);
    ring.append(&batch(&ramp(5), 200), 0..2);
    let seqs = [101, 102, 200, 201];
    assert_eq!(ring.sliding(10).seqs().to_vec(), seqs);
    assert_eq!(at_rest(&ring).sliding(10).seqs().to_vec(), seqs);
    assert_eq!(ring.recent(2).first_seq, Seq(200));
    assert_eq!(ring.recent(3).first_seq, Seq(0));
}

#[test]
fn a_state_of_another_shape_is_refused() {
    let mut ring = ring(4);
    add(&mut ring, &ramp(3));
    let other = Arc::new(Stream::new("melt", &["intensity", "power"], &["part"]));
    assert!(Ring::restore(other, 4, ring.snapshot()).is_err());
}

#[test]
fn windows_are_views_of_columns_that_are_allocated_once() {
    let mut ring = ring(8);
    add(&mut ring, &ramp(8));
    let places = |ring: &Ring| (0..8).map(|rows| ring.sliding(rows + 1).signal(0).as_ptr() as usize).collect::<Vec<_>>();
    let before = places(&ring);
    // Each lap leaves the newest row in the same slot.
    for lap in 1..50 {
        let rows: Vec<_> = ramp(8).into_iter().map(|(time, value)| (time + lap * 8 * SECOND, value)).collect();
        add(&mut ring, &rows);
        assert_eq!(places(&ring), before, "lap {lap}");
    }
    let by_time = ring.time_window(2 * SECOND, Timestamp(399 * SECOND));
    assert_eq!(by_time.contiguous().unwrap().signal(0).as_ptr(), ring.sliding(3).signal(0).as_ptr());
    assert_eq!(ring.statistics().evicted, 49 * 8);
}

#[test]
fn a_readers_copy_stays_as_it_was() {
    let mut ring = ring(4);
    add(&mut ring, &ramp(4));
    let copy = ring.recent(3);
    add(&mut ring, &[(9 * SECOND, 9.0), (10 * SECOND, 10.0), (11 * SECOND, 11.0)]);
    assert_eq!(copy.signals[0], [1.0, 2.0, 3.0]);
    assert_eq!(ring.recent(3).signals[0], [9.0, 10.0, 11.0]);
}

#[test]
fn statistics_follow_every_way_out() {
    let mut ring = ring(4);
    let empty = ring.statistics();
    assert_eq!((empty.rows, empty.utilisation_percent, empty.oldest, empty.newest, empty.span_ns), (0, 0.0, None, None, 0));
    add(&mut ring, &[(5, 1.0), (3, 2.0), (9, 3.0)]);
    let some = ring.statistics();
    assert_eq!((some.oldest, some.newest, some.span_ns), (Some(Timestamp(3)), Some(Timestamp(9)), 6));
    assert_eq!((some.utilisation_percent, some.capacity), (75.0, 4));
    add(&mut ring, &[(10, 4.0), (11, 5.0), (12, 6.0)]);
    assert_eq!(ring.clear_older_than(Timestamp(11)), 2);
    let left = ring.statistics();
    assert_eq!((left.rows, left.added, left.evicted, left.removed), (2, 6, 2, 2));
    assert_eq!((left.oldest, left.newest), (Some(Timestamp(11)), Some(Timestamp(12))));
}

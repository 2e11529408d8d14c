//! The interval join against Flink's own cases and against a comparison of every row with every other.

use std::{collections::BTreeSet, sync::Arc};

use proptest::prelude::*;
use qadf_edge::{
    dataflow::join::{JoinConfig, JoinError, JoinOperator, JoinType},
    model::{Batch, Body, Flags, Output, Seq, Stream, Timestamp},
};
use serde_json::Value;

fn stream(id: &str) -> Arc<Stream> {
    Arc::new(Stream::new(id, &["v"], &["part"]))
}

fn operator(config: JoinConfig) -> JoinOperator {
    JoinOperator::new("p".into(), config, &stream("left"), &stream("right")).expect("the configuration is right")
}

/// Rows of one stream, numbered from `seq`.
fn batch(id: &str, seq: u64, rows: &[(Option<&str>, i64)]) -> Batch {
    let mut batch = Batch::new(stream(id), id.into(), id.into(), Timestamp(0));
    batch.first_seq = Seq(seq);
    for (part, time) in rows {
        batch.time.push(*time);
        batch.signals[0].push(*time as f64);
        batch.tags[0].push(*part);
    }
    batch
}

fn config(spec: &Value) -> JoinConfig {
    JoinConfig {
        lower_ns: spec["lower"].as_i64().expect("a bound"),
        upper_ns: spec["upper"].as_i64().expect("a bound"),
        lower_inclusive: spec["lower_inclusive"].as_bool().unwrap_or(true),
        upper_inclusive: spec["upper_inclusive"].as_bool().unwrap_or(true),
        ..JoinConfig::within("j", &["part"], 0)
    }
}

/// What a case says about one run of an operator.
#[derive(Default)]
struct Seen {
    pairs: Vec<(usize, String, i64, i64)>,
    late: [Vec<(usize, String, i64)>; 2],
    buffers: Vec<(usize, Vec<i64>, Vec<i64>)>,
}

/// Runs the events of a case, one row a batch, watermarks made exclusive; `restart` saves and restores after every event.
fn run(case: &Value, restart: bool) -> Seen {
    let mut join = operator(config(&case["spec"]));
    let (mut seen, mut watermarks) = (Seen::default(), [i64::MIN; 2]);
    for (index, event) in case["events"].as_array().expect("events").iter().enumerate() {
        let mut out = Vec::new();
        let (what, value) = event.as_object().and_then(|event| event.iter().next()).expect("one entry");
        match what.as_str() {
            "l" | "r" => {
                let row = [(value[0].as_str(), value[1].as_i64().expect("a time"))];
                if what == "l" {
                    join.push_left(&batch("left", index as u64, &row), 0..1, &mut out);
                } else {
                    join.push_right(&batch("right", index as u64, &row), 0..1, &mut out);
                }
            }
            "wl" | "wr" => {
                watermarks[usize::from(what == "wr")] = value.as_i64().expect("a watermark") + 1;
                join.advance(Timestamp(watermarks[0].min(watermarks[1])), &mut out);
            }
            "buffers" => {
                let key = value.as_str();
                seen.buffers.push((index, join.waiting_left(&[key]), join.waiting_right(&[key])));
            }
            other => panic!("unknown event {other}"),
        }
        for output in out {
            match output.body {
                Body::Join(pair) => {
                    let right = pair.right.expect("an inner join");
                    let part = pair.left.tags[0].as_deref().unwrap_or_default().to_owned();
                    seen.pairs.push((index, part, pair.left.time.0, right.time.0));
                }
                Body::Late(late) => {
                    let part = late.row.tags[0].as_deref().unwrap_or_default().to_owned();
                    seen.late[usize::from(what == "r")].push((index, part, late.row.time.0));
                }
                other => panic!("unexpected {other:?}"),
            }
        }
        if restart {
            let saved = postcard::to_allocvec(&join.snapshot()).expect("saved");
            join = operator(config(&case["spec"]));
            join.restore(&postcard::from_bytes(&saved).expect("read")).expect("restored");
        }
    }
    seen
}

#[test]
fn flinks_interval_join_cases_hold() {
    let file: Value = serde_json::from_str(include_str!("cases/windows.json")).expect("JSON");
    let cases = file["cases"].as_array().expect("cases").iter().filter(|case| case["spec"]["kind"] == "interval_join");
    let mut count = 0;
    for (case, restart) in cases.flat_map(|case| [(case, false), (case, true)]) {
        count += 1;
        let (seen, expected, name) = (run(case, restart), &case["expected"], &case["name"]);
        if !expected["pairs"].is_null() {
            let mut wanted: Vec<(usize, String, i64, i64)> = serde_json::from_value(expected["pairs"].clone()).expect("pairs");
            wanted.sort();
            let mut pairs = seen.pairs;
            pairs.sort();
            assert_eq!(pairs, wanted, "{name}");
        }
        for (side, late) in ["late_left", "late_right"].iter().zip(seen.late) {
            if !expected[side].is_null() {
                let wanted: Vec<(usize, String, i64)> = serde_json::from_value(expected[side].clone()).expect("late rows");
                assert_eq!(late, wanted, "{name} {side}");
            }
        }
        if !expected["buffers"].is_null() {
            let wanted: Vec<(usize, Vec<i64>, Vec<i64>)> = serde_json::from_value(expected["buffers"].clone()).expect("buffers");
            assert_eq!(seen.buffers, wanted, "{name}");
        }
    }
    assert!(count >= 16, "only {count} runs of interval join cases in the file");
}

const PARTS: [Option<&str>; 4] = [Some("a"), Some("b"), Some("c"), None];

/// One thing that happens to a join.
#[derive(Debug, Clone)]
enum Event {
    Row { left: bool, part: usize, time: i64 },
    Watermark(i64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        8 => (any::<bool>(), 0..4usize, 0..60i64).prop_map(|(left, part, time)| Event::Row { left, part, time }),
        1 => (0..60i64).prop_map(Event::Watermark),
    ];
    prop::collection::vec(event, 0..120)
}

/// Everything that comes out: rows of like kind next to each other are `chunk` to a batch; saved and restored before event `restart`.
fn outputs(config: &JoinConfig, events: &[Event], chunk: usize, restart: usize) -> (Vec<Output>, JoinOperator) {
    let (mut join, mut out, mut at) = (operator(config.clone()), Vec::new(), 0);
    while at < events.len() {
        if at >= restart && at < restart + chunk {
            let saved = join.snapshot();
            join = operator(config.clone());
            join.restore(&saved).expect("restored");
        }
        match &events[at] {
            Event::Watermark(time) => {
                join.advance(Timestamp(*time), &mut out);
                at += 1;
            }
            Event::Row { left, .. } => {
                let side = *left;
                let same = |event: &&Event| matches!(event, Event::Row { left, .. } if *left == side);
                let count = events[at..].iter().take_while(same).take(chunk).count();
                let row = |event: &Event| match event {
                    Event::Row { part, time, .. } => (PARTS[*part], *time),
                    Event::Watermark(_) => unreachable!("only rows were counted"),
                };
                let rows: Vec<_> = events[at..at + count].iter().map(row).collect();
                if side {
                    join.push_left(&batch("left", at as u64, &rows), 0..count, &mut out);
                } else {
                    join.push_right(&batch("right", at as u64, &rows), 0..count, &mut out);
                }
                at += count;
            }
        }
    }
    join.advance(Timestamp::MAX, &mut out);
    (out, join)
}

/// Ids of every pair, late row and unmatched left row, by comparing all with all.
fn oracle(config: &JoinConfig, events: &[Event]) -> BTreeSet<String> {
    let (mut ids, mut rows, mut watermark) = (BTreeSet::new(), Vec::new(), i64::MIN);
    for (seq, event) in events.iter().enumerate() {
        match event {
            Event::Watermark(time) => watermark = watermark.max(*time),
            Event::Row { time, .. } if *time < watermark => {
                ids.insert(format!("late:p:j:{seq}"));
            }
            Event::Row { left, part, time } => rows.push((seq, *left, PARTS[*part], *time)),
        }
    }
    for (seq, _, part, time) in rows.iter().filter(|row| row.1) {
        let matches = |right: &&(usize, bool, Option<&str>, i64)| {
            let apart = right.3 - time;
            let above = if config.lower_inclusive { apart >= config.lower_ns } else { apart > config.lower_ns };
            let below = if config.upper_inclusive { apart <= config.upper_ns } else { apart < config.upper_ns };
            !right.1 && part.is_some() && right.2 == *part && above && below
        };
        let mut found = rows.iter().filter(matches).peekable();
        if found.peek().is_none() && config.kind == JoinType::Left {
            ids.insert(format!("join:p:j:{seq}:-"));
        }
        ids.extend(found.map(|right| format!("join:p:j:{seq}:{}", right.0)));
    }
    ids
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_join_is_what_comparing_all_rows_with_all_gives(
        events in events(),
        lower in -20..20i64,
        width in 0..20i64,
        inclusive in any::<(bool, bool)>(),
        outer in any::<bool>(),
        chunk in 1..40usize,
        restart in 0..120usize,
    ) {
        let config = JoinConfig {
            lower_ns: lower,
            upper_ns: lower + width + 2,
            lower_inclusive: inclusive.0,
            upper_inclusive: inclusive.1,
            kind: if outer { JoinType::Left } else { JoinType::Inner },
            ..JoinConfig::within("j", &["part"], 0)
        };
        let (out, join) = outputs(&config, &events, 1, usize::MAX / 2);
        let ids: BTreeSet<String> = out.iter().map(|output| output.id.clone()).collect();
        prop_assert_eq!(ids.len(), out.len(), "an id twice");
        prop_assert_eq!(ids, oracle(&config, &events));
        prop_assert_eq!((join.waiting(), join.deadline()), ((0, 0), None));
        let (again, _) = outputs(&config, &events, chunk, restart);
        prop_assert_eq!(out, again);
    }

    #[test]
    fn advancing_only_at_deadlines_gives_the_same(events in events(), outer in any::<bool>()) {
        let kind = if outer { JoinType::Left } else { JoinType::Inner };
        let config = JoinConfig { kind, ..JoinConfig::within("j", &["part"], 7) };
        let mut join = operator(config);
        let mut out = Vec::new();
        for (seq, event) in events.iter().enumerate() {
            match event {
                Event::Row { left: true, part, time } => join.push_left(&batch("left", seq as u64, &[(PARTS[*part], *time)]), 0..1, &mut out),
                Event::Row { part, time, .. } => join.push_right(&batch("right", seq as u64, &[(PARTS[*part], *time)]), 0..1, &mut out),
                Event::Watermark(time) => {
                    let (waiting, emitted) = (join.waiting(), out.len());
                    let due = join.deadline().is_some_and(|deadline| deadline <= Timestamp(*time));
                    join.advance(Timestamp(*time), &mut out);
                    prop_assert_eq!(due, join.waiting() != waiting, "a deadline is the first watermark that frees");
                    prop_assert!(due || out.len() == emitted);
                }
            }
        }
    }
}

#[test]
fn rows_without_a_key_and_of_the_future_join_nothing() {
    let mut join = operator(JoinConfig { kind: JoinType::Left, ..JoinConfig::within("j", &["part"], 10) });
    let mut out = Vec::new();
    join.push_right(&batch("right", 1, &[(None, 0), (Some("a"), 0)]), 0..2, &mut out);
    let mut left = batch("left", 3, &[(None, 0), (Some("a"), 0)]);
    left.set_flag(1, Flags::FUTURE);
    join.push_left(&left, 0..2, &mut out);
    join.advance(Timestamp::MAX, &mut out);
    let ids: Vec<_> = out.iter().map(|output| output.id.as_str()).collect();
    assert_eq!(ids, ["join:p:j:3:-"]);
}

#[test]
fn a_full_side_frees_its_earliest_row_and_counts_it() {
    let mut join = operator(JoinConfig { kind: JoinType::Left, rows_max: 2, ..JoinConfig::within("j", &["part"], 10) });
    let mut out = Vec::new();
    join.push_left(&batch("left", 1, &[(Some("a"), 5), (Some("b"), 3), (Some("a"), 4)]), 0..3, &mut out);
    assert_eq!((out.len(), out[0].id.as_str(), join.waiting(), join.counters().evicted), (1, "join:p:j:2:-", (2, 0), 1));
    join.push_right(&batch("right", 4, &[(Some("a"), 5), (Some("b"), 3)]), 0..2, &mut out);
    assert_eq!(out[1..].iter().map(|output| output.id.as_str()).collect::<Vec<_>>(), ["join:p:j:3:4", "join:p:j:1:4"]);
}

#[test]
fn what_cannot_be_a_join_is_refused() {
    let new = |config| JoinOperator::new("p".into(), config, &stream("left"), &stream("right")).map(|_| ());
    let empty = JoinConfig { lower_ns: 1, upper_ns: 1, upper_inclusive: false, ..JoinConfig::within("j", &[], 0) };
    assert_eq!(new(empty), Err(JoinError::EmptyInterval("j".into())));
    let unknown = new(JoinConfig::within("j", &["parts"], 0)).expect_err("no such tag");
    assert!(unknown.to_string().contains("`parts`"), "{unknown}");
}

#[test]
fn a_saved_state_of_other_streams_is_refused() {
    let mut join = operator(JoinConfig::within("j", &["part"], 10));
    join.push_left(&batch("left", 1, &[(Some("a"), 5)]), 0..1, &mut Vec::new());
    let other = Arc::new(Stream::new("left", &["v", "w"], &["part"]));
    let mut changed =
        JoinOperator::new("p".into(), JoinConfig::within("j", &["part"], 10), &other, &stream("right")).expect("right");
    assert_eq!(changed.restore(&join.snapshot()), Err(JoinError::Snapshot("j".into())));
    assert_eq!(changed.waiting(), (0, 0));
}

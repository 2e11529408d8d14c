//! Patterns against a search over all rows at once, and the policy case by case.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;
use qadf_edge::{
    dataflow::pattern::{PatternConfig, PatternError, PatternKind, PatternOperator},
    model::{Batch, Body, Flags, Output, Seq, Stream, Timestamp},
};

fn stream() -> Arc<Stream> {
    Arc::new(Stream::new("s", &["v"], &["part"]))
}

fn texts(conditions: &[&str]) -> Vec<Box<str>> {
    conditions.iter().map(|text| (*text).into()).collect()
}

fn config(kind: PatternKind, within_ns: i64) -> PatternConfig {
    PatternConfig { id: "x".into(), kind, within_ns, group_by: vec!["part".into()], rows_max: PatternConfig::ROWS_MAX }
}

fn sequence(conditions: &[&str]) -> PatternKind {
    PatternKind::Sequence(texts(conditions))
}

fn all(conditions: &[&str]) -> PatternKind {
    PatternKind::All(texts(conditions))
}

fn absence(absence: &str, after: &str) -> PatternKind {
    PatternKind::Absence { absence: absence.into(), after: after.into() }
}

fn operator(config: &PatternConfig) -> PatternOperator {
    PatternOperator::new("p".into(), config.clone(), &stream()).unwrap_or_else(|error| panic!("{error}"))
}

type Event = (Option<&'static str>, i64, f64);

fn batch(seq: u64, rows: &[Event]) -> Batch {
    let mut batch = Batch::new(stream(), "s".into(), "s".into(), Timestamp(0));
    batch.first_seq = Seq(seq);
    for (part, time, value) in rows {
        batch.time.push(*time);
        batch.signals[0].push(*value);
        batch.tags[0].push(*part);
    }
    batch
}

/// What comes out of rows of one part, given as (time, value) and numbered from 0: (start, end, numbers of the rows).
fn matches(config: &PatternConfig, rows: &[(i64, i64)]) -> Vec<(i64, i64, Vec<u64>)> {
    let mut join = operator(config);
    let rows: Vec<Event> = rows.iter().map(|(time, value)| (Some("a"), *time, *value as f64)).collect();
    let mut out = Vec::new();
    join.push(&batch(0, &rows), 0..rows.len(), &mut out);
    assert!(out.is_empty(), "nothing is known before the watermark");
    join.advance(Timestamp::MAX, &mut out);
    assert_eq!((join.deadline(), join.key_count()), (None, 0));
    let found = |output: Output| match output.body {
        Body::Pattern(found) => (found.start.0, found.end.0, found.rows.iter().map(|row| row.seq.0).collect()),
        other => panic!("unexpected {other:?}"),
    };
    out.into_iter().map(found).collect()
}

#[test]
fn a_sequence_skips_what_does_not_fit_and_takes_the_first_that_does() {
    let config = config(sequence(&["v == 1", "v == 2"]), 10);
    assert_eq!(matches(&config, &[(0, 1), (1, 9), (2, 2), (3, 2)]), [(0, 2, vec![0, 2])]);
    assert_eq!(matches(&config, &[(0, 2), (1, 1)]), []);
    // Order is that of event time.
    assert_eq!(matches(&config, &[(5, 2), (1, 1)]), [(1, 5, vec![1, 0])]);
    // The earlier of two starts counts, and nothing is used twice.
    assert_eq!(matches(&config, &[(0, 1), (1, 1), (2, 2), (3, 2)]), [(0, 2, vec![0, 2])]);
    assert_eq!(matches(&config, &[(0, 1), (1, 2), (2, 1), (3, 2)]), [(0, 1, vec![0, 1]), (2, 3, vec![2, 3])]);
}

#[test]
fn within_includes_its_end_and_a_later_start_takes_over() {
    let config = config(sequence(&["v == 1", "v == 2"]), 10);
    assert_eq!(matches(&config, &[(0, 1), (10, 2)]), [(0, 10, vec![0, 1])]);
    assert_eq!(matches(&config, &[(0, 1), (11, 2)]), []);
    assert_eq!(matches(&config, &[(0, 1), (5, 1), (11, 2)]), [(5, 11, vec![1, 2])]);
}

#[test]
fn a_row_is_one_step_of_a_sequence() {
    let twice = config(sequence(&["v > 0", "v > 0"]), 10);
    assert_eq!(matches(&twice, &[(0, 1), (1, 1), (2, 1)]), [(0, 1, vec![0, 1])]);
    let once = config(sequence(&["v > 0"]), 10);
    assert_eq!(matches(&once, &[(0, 1), (1, 0), (2, 1)]), [(0, 0, vec![0]), (2, 2, vec![2])]);
}

#[test]
fn all_of_a_set_come_in_any_order() {
    let config = config(all(&["v == 1", "v == 2", "v >= 2"]), 10);
    assert_eq!(matches(&config, &[(0, 3), (1, 1), (1, 1), (5, 2)]), [(0, 5, vec![0, 1, 3])]);
    // One row can meet several conditions.
    assert_eq!(matches(&config, &[(0, 2), (10, 1)]), [(0, 10, vec![0, 1])]);
    assert_eq!(matches(&config, &[(0, 2), (11, 1)]), []);
    assert_eq!(matches(&config, &[(0, 2), (1, 2), (11, 1)]), [(1, 11, vec![1, 2])]);
}

#[test]
fn an_absence_is_known_when_its_time_is_over() {
    let config = config(absence("v == 0", "v == 1"), 10);
    assert_eq!(matches(&config, &[(0, 1)]), [(0, 10, vec![0])]);
    assert_eq!(matches(&config, &[(0, 1), (10, 0)]), []);
    assert_eq!(matches(&config, &[(0, 1), (11, 0)]), [(0, 10, vec![0])]);
    // Further starts change nothing until it is over.
    assert_eq!(matches(&config, &[(0, 1), (5, 1), (10, 1), (11, 1)]), [(0, 10, vec![0]), (11, 21, vec![3])]);
    assert_eq!(matches(&config, &[(0, 1), (5, 1), (10, 0), (12, 1)]), [(12, 22, vec![3])]);
    let mut watch = operator(&config);
    let mut out = Vec::new();
    watch.push(&batch(7, &[(Some("a"), 0, 1.0)]), 0..1, &mut out);
    watch.advance(Timestamp(10), &mut out);
    assert_eq!((out.len(), watch.deadline()), (0, Some(Timestamp(11))));
    watch.advance(Timestamp(11), &mut out);
    assert_eq!(out[0].id, "pattern:p:x:part=a:7:7");
}

#[test]
fn an_event_that_is_both_ends_one_wait_and_starts_the_next() {
    let config = config(absence("v >= 0", "v == 1"), 10);
    assert_eq!(matches(&config, &[(0, 1), (4, 1)]), [(4, 14, vec![1])]);
}

#[test]
fn late_rows_are_reported_if_they_could_have_mattered() {
    let config = config(sequence(&["v == 1", "v == 2"]), 10);
    let mut search = operator(&config);
    let mut out = Vec::new();
    search.advance(Timestamp(5), &mut out);
    let mut rows =
        batch(0, &[(Some("a"), 4, 1.0), (Some("a"), 4, 7.0), (Some("a"), 5, 1.0), (None, 6, f64::NAN), (Some("a"), 6, 2.0)]);
    search.push(&rows, 0..5, &mut out);
    search.advance(Timestamp(7), &mut out);
    let ids: Vec<&str> = out.iter().map(|output| output.id.as_str()).collect();
    assert_eq!(ids, ["late:p:x:0", "pattern:p:x:part=a:2:4"]);
    let counters = search.counters();
    assert_eq!((counters.late, counters.matches, counters.errors), (1, 1, 0), "null == 1 is false, not an error");
    rows.time.iter_mut().for_each(|time| *time += 100);
    rows.set_flag(4, Flags::FUTURE);
    search.push(&rows, 0..5, &mut out);
    search.advance(Timestamp::MAX, &mut out);
    assert_eq!(out.len(), 2, "a row of the future is passed over");
}

#[test]
fn a_flood_of_candidates_is_bounded_and_the_match_still_found() {
    let flood = |kind, rows: &mut dyn Iterator<Item = (i64, i64)>| {
        let config = PatternConfig { rows_max: 65, ..config(kind, 10_000) };
        matches(&config, &rows.collect::<Vec<_>>())
    };
    let rows = |middle: i64| (0..1000).map(move |time| (time, if time == 100 { middle } else { 1 })).chain([(1000, 3)]);
    let found = flood(sequence(&["v == 1", "v == 2", "v == 3"]), &mut rows(2));
    assert_eq!((found.len(), found[0].1, found[0].2.len(), found[0].2[1]), (1, 1000, 3, 100), "{found:?}");
    let found = flood(all(&["v == 3", "v == 2", "v == 1"]), &mut rows(2));
    assert_eq!((found.len(), found[0].0, found[0].1), (1, 100, 1000), "{found:?}");
}

#[test]
fn what_cannot_be_a_pattern_is_refused() {
    let refused = |config: PatternConfig| PatternOperator::new("p".into(), config, &stream()).expect_err("refused");
    assert_eq!(refused(config(sequence(&["v > 0"]), 0)), PatternError::Within("x".into()));
    assert_eq!(refused(config(sequence(&[]), 1)), PatternError::ConditionCount { pattern: "x".into(), count: 0 });
    assert!(matches!(refused(config(sequence(&["v > 0"; 65]), 1)), PatternError::ConditionCount { count: 65, .. }));
    let text = refused(config(absence("v > 0", "w > 0"), 1)).to_string();
    assert!(text.starts_with("condition 2 of pattern `x`, `w > 0`: column 1: `w`"), "{text}");
    let unknown = PatternConfig { group_by: vec!["parts".into()], ..config(sequence(&["v > 0"]), 1) };
    assert!(refused(unknown).to_string().contains("`parts`"));
}

#[test]
fn a_saved_state_of_another_pattern_is_refused() {
    let mut search = operator(&config(sequence(&["v == 1", "v == 2", "v == 3"]), 10));
    search.push(&batch(0, &[(None, 0, 1.0), (None, 1, 2.0)]), 0..2, &mut Vec::new());
    search.advance(Timestamp(5), &mut Vec::new());
    let mut other = operator(&config(absence("v == 1", "v == 2"), 10));
    assert_eq!(other.restore(&search.snapshot()), Err(PatternError::Snapshot("x".into())));
    assert_eq!(other.deadline(), None);
}

const PARTS: [Option<&str>; 3] = [Some("a"), Some("b"), None];

/// The rows of one key in the order (time, arrival): (time, number, value).
type Line = Vec<(i64, u64, i64)>;

fn sequence_oracle(rows: &Line, steps: &[i64], within: i64) -> Vec<Vec<u64>> {
    let (mut found, mut from) = (Vec::new(), 0);
    loop {
        let run = |start: usize| {
            let mut places = vec![start];
            for step in &steps[1..] {
                let last = *places.last()?;
                places.push((last + 1..rows.len()).find(|place| rows[*place].2 & step != 0)?);
            }
            let last = *places.last()?;
            (rows[last].0 - rows[start].0 <= within).then_some((last, start, places))
        };
        let starts = (from..rows.len()).filter(|place| rows[*place].2 & steps[0] != 0);
        let Some((last, _, places)) = starts.filter_map(run).min() else { return found };
        found.push(places.iter().map(|place| rows[*place].1).collect());
        from = last + 1;
    }
}

fn all_oracle(rows: &Line, conditions: &[i64], within: i64) -> Vec<Vec<u64>> {
    let (mut found, mut from) = (Vec::new(), 0);
    for end in 0..rows.len() {
        let near = || (from..=end).filter(|place| rows[end].0 - rows[*place].0 <= within);
        let firsts = conditions.iter().map(|condition| near().find(|place| rows[*place].2 & condition != 0));
        if let Some(mut places) = firsts.collect::<Option<Vec<usize>>>() {
            places.sort_unstable();
            places.dedup();
            found.push(places.iter().map(|place| rows[*place].1).collect());
            from = end + 1;
        }
    }
    found
}

fn absence_oracle(rows: &Line, [absent, after]: [i64; 2], within: i64) -> Vec<Vec<u64>> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < rows.len() {
        let end = rows[at].0 + within;
        if rows[at].2 & after == 0 {
            at += 1;
        } else if let Some(ended) = (at + 1..rows.len()).find(|place| rows[*place].0 <= end && rows[*place].2 & absent != 0) {
            at = ended;
        } else {
            found.push(vec![rows[at].1]);
            at = (at..rows.len()).find(|place| rows[*place].0 > end).unwrap_or(rows.len());
        }
    }
    found
}

#[derive(Debug, Clone)]
enum Step {
    Row(usize, i64, i64),
    Watermark(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..3usize, 0..60i64, 0..8i64).prop_map(|(part, time, value)| Step::Row(part, time, value)),
        1 => (0..60i64).prop_map(Step::Watermark),
    ];
    prop::collection::vec(step, 0..100)
}

/// Conditions on single bits of the value.
const BITS: [&str; 3] = ["int(v) % 2 == 1", "v == 2 || v == 3 || v == 6 || v == 7", "v >= 4"];

/// Everything that comes out, rows `chunk` to a batch, saved and restored before step `restart`.
fn outputs(config: &PatternConfig, steps: &[Step], chunk: usize, restart: usize) -> Vec<Output> {
    let (mut search, mut out, mut at) = (operator(config), Vec::new(), 0);
    while at < steps.len() {
        if at >= restart && at < restart + chunk {
            let saved = postcard::to_allocvec(&search.snapshot()).expect("saved");
            search = operator(config);
            search.restore(&postcard::from_bytes(&saved).expect("read")).expect("restored");
        }
        let rows: Vec<Event> = steps[at..]
            .iter()
            .map_while(|step| match step {
                Step::Row(part, time, value) => Some((PARTS[*part], *time, *value as f64)),
                Step::Watermark(_) => None,
            })
            .take(chunk)
            .collect();
        match &steps[at] {
            Step::Watermark(time) => search.advance(Timestamp(*time), &mut out),
            Step::Row(..) => search.push(&batch(at as u64, &rows), 0..rows.len(), &mut out),
        }
        at += rows.len().max(1);
    }
    search.advance(Timestamp::MAX, &mut out);
    assert_eq!((search.deadline(), search.key_count()), (None, 0));
    out
}

/// (part, numbers of the rows) of every match; numbers of late rows.
type Found = (Vec<(Option<Arc<str>>, Vec<u64>)>, Vec<u64>);

fn sorted(out: &[Output]) -> Found {
    let (mut found, mut late) = (Vec::new(), Vec::new());
    for output in out {
        match &output.body {
            Body::Pattern(one) => found.push((one.key["part"].clone(), one.rows.iter().map(|row| row.seq.0).collect())),
            Body::Late(one) => late.push(one.row.seq.0),
            other => panic!("unexpected {other:?}"),
        }
    }
    found.sort();
    (found, late)
}

fn oracle(config: &PatternConfig, steps: &[Step], bits: &[i64]) -> Found {
    let (mut lines, mut late, mut watermark): (BTreeMap<usize, Line>, _, _) = (BTreeMap::new(), Vec::new(), i64::MIN);
    let any = bits.iter().fold(0, |any, bit| any | bit);
    for (number, step) in (0..).zip(steps) {
        match step {
            Step::Watermark(time) => watermark = watermark.max(*time),
            Step::Row(_, time, value) if *time < watermark => late.extend((value & any != 0).then_some(number)),
            Step::Row(part, time, value) => lines.entry(*part).or_default().push((*time, number, *value)),
        }
    }
    let mut found = Vec::new();
    for (part, mut rows) in lines {
        rows.sort_unstable();
        let matches = match &config.kind {
            PatternKind::Sequence(_) => sequence_oracle(&rows, bits, config.within_ns),
            PatternKind::All(_) => all_oracle(&rows, bits, config.within_ns),
            PatternKind::Absence { .. } => absence_oracle(&rows, [bits[0], bits[1]], config.within_ns),
        };
        found.extend(matches.into_iter().map(|rows| (PARTS[part].map(Arc::from), rows)));
    }
    found.sort();
    (found, late)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_search_is_what_looking_at_all_rows_at_once_gives(
        steps in steps(),
        order in prop::sample::select(vec![[0, 1, 2], [2, 0, 1], [1, 1, 0], [0, 0, 0]]),
        length in 1..4usize,
        kind in 0..3usize,
        within in 1..20i64,
        chunk in 1..40usize,
        restart in 0..100usize,
    ) {
        let length = if kind == 2 { 2 } else { length };
        let conditions: Vec<&str> = order[..length].iter().map(|bit| BITS[*bit]).collect();
        let bits: Vec<i64> = order[..length].iter().map(|bit| 1 << bit).collect();
        let kind = match kind {
            0 => sequence(&conditions),
            1 => all(&conditions),
            _ => absence(conditions[0], conditions[1]),
        };
        let config = config(kind, within);
        let out = outputs(&config, &steps, 1, usize::MAX / 2);
        prop_assert_eq!(sorted(&out), oracle(&config, &steps, &bits));
        prop_assert_eq!(out, outputs(&config, &steps, chunk, restart));
    }

    #[test]
    fn how_often_the_watermark_moves_changes_nothing(steps in steps(), within in 1..20i64) {
        let config = config(sequence(&[BITS[0], BITS[1]]), within);
        let mut rows: Vec<Step> = steps.iter().filter(|step| matches!(step, Step::Row(..))).cloned().collect();
        let once = outputs(&config, &rows, 7, usize::MAX / 2);
        rows.sort_by_key(|step| if let Step::Row(_, time, _) = step { *time } else { 0 });
        let in_order = outputs(&config, &rows, 7, usize::MAX / 2);
        let often: Vec<Step> = rows.iter().flat_map(|step| match step {
            Step::Row(_, time, _) => [Step::Watermark(*time), step.clone()],
            Step::Watermark(_) => unreachable!("only rows were kept"),
        }).collect();
        let times = |out: &[Output]| out.iter().map(|output| match &output.body {
            Body::Pattern(found) => (found.key.clone(), found.start, found.end),
            other => panic!("unexpected {other:?}"),
        }).collect::<Vec<_>>();
        prop_assert_eq!(times(&in_order), times(&outputs(&config, &often, 7, usize::MAX / 2)));
        prop_assert_eq!(times(&once).len(), times(&in_order).len());
    }
}

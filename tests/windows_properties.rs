//! Windows against brute force: whatever the order within the delay, the batches, and the restarts.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;
use qadf_edge::{
    dataflow::{
        Accumulation, Aggregate, WatermarkConfig, Watermarks, WindowConfig, WindowKind, WindowOperator, WindowState, drive,
    },
    model::{Batch, Body, Number, Output, Seq, Stream, Timestamp, WindowResult},
};

const AGGREGATES: [&str; 10] =
    ["count()", "sum(v)", "mean(v)", "min(v)", "max(v)", "variance(v)", "first(v)", "last(v)", "quantile(v, 0.9)", "distinct(v)"];
const DELAY: i64 = 40;

type Sample = (u8, i64, f64);

fn stream() -> Arc<Stream> {
    Arc::new(Stream::new("s", &["v"], &["part", "side"]))
}

fn config(kind: WindowKind, offset: i64, lateness: i64) -> WindowConfig {
    let parse = |text: &str| Aggregate::parse(text, &stream()).expect("the aggregate is right");
    WindowConfig {
        id: "w".into(),
        kind,
        offset_ns: offset,
        allowed_lateness_ns: lateness,
        accumulation: Accumulation::Accumulating,
        timezone: None,
        group_by: vec!["part".into(), "side".into()],
        aggregates: AGGREGATES.iter().map(|text| ((*text).into(), parse(text))).collect(),
    }
}

fn key(part: u8) -> (Option<&'static str>, Option<&'static str>) {
    (["a", "b", "c"].get(part as usize % 4).copied(), ["l", "r"].get(part as usize / 4).copied())
}

fn batch(first: usize, samples: &[Sample]) -> Batch {
    let mut batch = Batch::new(stream(), "s".into(), "s".into(), Timestamp(0));
    batch.first_seq = Seq(first as u64 + 1);
    for (part, time, value) in samples {
        batch.time.push(*time);
        batch.signals[0].push(*value);
        batch.tags[0].push(key(*part).0);
        batch.tags[1].push(key(*part).1);
    }
    batch
}

/// Runs the samples cut at `cuts`; before each batch whose number is in `restarts`, everything is saved and read back.
fn run(config: &WindowConfig, samples: &[Sample], cuts: &[usize], restarts: &[usize]) -> Vec<Output> {
    let make = || WindowOperator::new("p".into(), config.clone(), &stream()).expect("the configuration is right");
    let (mut windows, mut out) = (make(), Vec::new());
    let marks = WatermarkConfig { delay_ns: DELAY, ..WatermarkConfig::default() };
    let mut watermarks = Watermarks::new(marks, false);
    let mut bounds: Vec<usize> = cuts.iter().map(|cut| cut % (samples.len() + 1)).chain([0, samples.len()]).collect();
    bounds.sort_unstable();
    bounds.dedup();
    for (number, run) in bounds.windows(2).enumerate() {
        if restarts.contains(&number) {
            let bytes = postcard::to_stdvec(&windows.snapshot()).expect("state is serialised");
            windows = make();
            let state: WindowState = postcard::from_bytes(&bytes).expect("state is read");
            windows.restore(state).expect("state fits");
        }
        let batch = batch(run[0], &samples[run[0]..run[1]]);
        let (flow, _) = watermarks.observe(&batch);
        drive(&mut windows, &batch, None, &flow, &mut out);
    }
    windows.finish(&mut out);
    assert_eq!(windows.open_count(), 0, "everything is freed at the end");
    out
}

fn results(out: &[Output]) -> Vec<&WindowResult> {
    let window = |output| match output {
        &Output { body: Body::Window(ref window), .. } => Some(window),
        _ => None,
    };
    out.iter().filter_map(window).collect()
}

fn late(out: &[Output]) -> Vec<u64> {
    let seq = |output: &Output| if let Body::Late(late) = &output.body { Some(late.row.seq.0) } else { None };
    out.iter().filter_map(seq).collect()
}

fn real(window: &WindowResult, name: &str) -> Option<f64> {
    match window.values[name] {
        Number::Real(value) => Some(value),
        Number::Integer(value) => Some(value as f64),
        Number::Null => None,
    }
}

fn near(got: Option<f64>, expected: Option<f64>) -> bool {
    match (got, expected) {
        (Some(got), Some(expected)) => (got - expected).abs() <= 1e-12 * expected.abs().max(got.abs()).max(1.0),
        (got, expected) => got == expected,
    }
}

type Place = (i64, i64, Option<&'static str>, Option<&'static str>);

/// The last word of each window.
fn last_words(out: &[Output]) -> BTreeMap<Place, &WindowResult> {
    let name = |text: &Option<Arc<str>>| ["a", "b", "c", "l", "r"].into_iter().find(|known| text.as_deref() == Some(*known));
    results(out).into_iter().map(|w| ((w.start.0, w.end.0, name(&w.key["part"]), name(&w.key["side"])), w)).collect()
}

/// Which window of each kind a row that is not late goes into, by the definition.
fn members(kind: &WindowKind, offset: i64, samples: &[Sample]) -> BTreeMap<Place, Vec<Sample>> {
    let mut members: BTreeMap<Place, Vec<Sample>> = BTreeMap::new();
    let (size, slide) = match kind {
        WindowKind::Tumbling { size_ns, .. } => (*size_ns, *size_ns),
        WindowKind::Sliding { size_ns, slide_ns } => (*size_ns, *slide_ns),
        WindowKind::Session { gap_ns, max_duration_ns } => return sessions(*gap_ns, *max_duration_ns, samples),
    };
    for sample in samples {
        let (part, side) = key(sample.0);
        let mut start = (sample.1 - offset).div_euclid(slide) * slide + offset;
        while start > sample.1 - size {
            members.entry((start, start + size, part, side)).or_default().push(*sample);
            start -= slide;
        }
    }
    members
}

fn sessions(gap: i64, max: Option<i64>, samples: &[Sample]) -> BTreeMap<Place, Vec<Sample>> {
    let mut members = BTreeMap::new();
    for number in 0..8 {
        let mut of: Vec<Sample> = samples.iter().filter(|sample| sample.0 == number).copied().collect();
        of.sort_by_key(|sample| sample.1);
        let mut session: Vec<Sample> = Vec::new();
        let (part, side) = key(number);
        let mut close = |session: &mut Vec<Sample>| {
            if let (Some(first), Some(last)) = (session.first(), session.last()) {
                let end = (last.1 + gap).min(max.map_or(i64::MAX, |max| first.1 + max));
                members.insert((first.1, end, part, side), std::mem::take(session));
            }
        };
        for sample in of {
            let goes_on = session
                .first()
                .zip(session.last())
                .is_some_and(|(first, last)| sample.1 <= last.1 + gap && max.is_none_or(|max| sample.1 < first.1 + max));
            if !goes_on {
                close(&mut session);
            }
            session.push(sample);
        }
        close(&mut session);
    }
    members
}

fn check_values(window: &WindowResult, rows: &[Sample]) -> Result<(), TestCaseError> {
    let values: Vec<f64> = rows.iter().map(|row| row.2).collect();
    let count = values.len() as f64;
    let sum: f64 = values.iter().sum();
    let mean = sum / count;
    let variance = (values.len() > 1).then(|| values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0));
    let mut sorted = values.clone();
    sorted.sort_by(f64::total_cmp);
    let rank = (0.9 * (count - 1.0)).floor() as usize;
    let mut different = sorted.clone();
    different.dedup();
    prop_assert_eq!(window.values["count()"], Number::Integer(values.len() as i64));
    prop_assert_eq!(window.values["distinct(v)"], Number::Integer(different.len() as i64));
    prop_assert!(real(window, "min(v)") == sorted.first().copied() && real(window, "max(v)") == sorted.last().copied());
    prop_assert!(near(real(window, "sum(v)"), Some(sum)) && near(real(window, "mean(v)"), Some(mean)));
    prop_assert!(near(real(window, "variance(v)"), variance), "{:?} {:?}", window.values, variance);
    let quantile = real(window, "quantile(v, 0.9)").expect("there are rows");
    prop_assert!((quantile - sorted[rank]).abs() <= sorted[rank].abs() * 0.010_001, "{} for {}", quantile, sorted[rank]);
    Ok(())
}

fn kinds() -> impl Strategy<Value = (WindowKind, i64)> {
    let tumbling = (1..60_i64).prop_map(|size_ns| WindowKind::Tumbling { size_ns, calendar_days: None });
    let sliding = (1..200_i64, 1..60_i64).prop_map(|(size_ns, slide_ns)| WindowKind::Sliding { size_ns, slide_ns });
    let session = (1..15_i64, proptest::option::of(1..60_i64))
        .prop_map(|(gap_ns, max_duration_ns)| WindowKind::Session { gap_ns, max_duration_ns });
    (prop_oneof![tumbling, sliding, session], -50..50_i64)
}

/// Rows whose times rise, but for as much as the delay.
fn in_time() -> impl Strategy<Value = Vec<Sample>> {
    // A row that is the whole delay late is at the watermark, where a session may have ended: a case of its own.
    let row = (0..8_u8, 0..12_i64, 0..DELAY, -20..80_i32);
    proptest::collection::vec(row, 1..150).prop_map(|rows| {
        let mut now = 0;
        let row = |(part, step, back, value): (u8, i64, i64, i32)| {
            now += step;
            (part, now - back, f64::from(value) / 8.0)
        };
        rows.into_iter().map(row).collect()
    })
}

/// A row as late as the delay is not late; the session that it touches has ended all the same.
#[test]
fn a_row_at_the_watermark_begins_a_session_of_its_own() {
    let kind = WindowKind::Session { gap_ns: 10, max_duration_ns: None };
    let out = run(&config(kind, 0, 0), &[(0, 0, 1.0), (1, 10 + DELAY, 0.0), (0, 10, 2.0)], &[1, 2], &[]);
    let ids: Vec<&str> = out.iter().map(|output| &*output.id).collect();
    assert_eq!(ids, ["window:p:w:part=a,side=l:0:10:0", "window:p:w:part=a,side=l:10:20:0", "window:p:w:part=b,side=l:50:60:0"]);
}

/// A late row can cut a session in two where it was two before: the second half has the bounds, and not the id, of what was taken back.
#[test]
fn a_session_that_is_cut_off_again_has_an_id_of_its_own() {
    let kind = WindowKind::Session { gap_ns: 10, max_duration_ns: Some(8) };
    let samples = [(0, 100, 1.0), (1, 200, 0.0), (0, 95, 2.0), (0, 90, 3.0)];
    let out = run(&config(kind, 0, 1_000), &samples, &[1, 2, 3], &[3]);
    let said: Vec<(&str, Vec<&str>)> = out
        .iter()
        .filter_map(|output| match &output.body {
            Body::Window(window) => Some((&*output.id, window.replaces.iter().map(|id| &**id).collect())),
            _ => None,
        })
        .collect();
    let ids: std::collections::BTreeSet<&str> = said.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids.len(), said.len(), "{said:?}");
    assert!(said.iter().filter(|(id, _)| id.contains(":100:")).count() == 2, "{said:?}");
    // What is replaced was said, and nothing twice.
    let replaced: Vec<&str> = said.iter().flat_map(|(_, replaces)| replaces.iter().copied()).collect();
    assert!(replaced.iter().all(|id| ids.contains(id)), "{said:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn windows_are_those_of_the_definition_in_any_order_within_the_delay((kind, offset) in kinds(), samples in in_time()) {
        // Sorted by the order of arrival, `newest - time <= DELAY` holds for each row, so that none is late for a window that it makes.
        let out = run(&config(kind.clone(), offset, 0), &samples, &[], &[]);
        prop_assert!(late(&out).is_empty());
        let (got, expected) = (last_words(&out), members(&kind, offset, &samples));
        prop_assert_eq!(results(&out).len(), expected.len(), "each window fires once");
        prop_assert_eq!(got.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (place, rows) in &expected {
            check_values(got[place], rows)?;
        }
        let mut sorted = samples.clone();
        sorted.sort_by_key(|sample| sample.1);
        let other = run(&config(kind, offset, 0), &sorted, &[], &[]);
        let other = last_words(&other);
        prop_assert_eq!(got.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
        for (place, window) in got {
            for name in ["count()", "min(v)", "max(v)", "distinct(v)", "quantile(v, 0.9)"] {
                prop_assert_eq!(window.values[name], other[&place].values[name], "{}", name);
            }
            for name in ["sum(v)", "mean(v)", "variance(v)"] {
                prop_assert!(near(real(window, name), real(other[&place], name)), "{}", name);
            }
        }
    }

    #[test]
    fn neither_batches_nor_restarts_change_a_byte(
        (kind, offset) in kinds(),
        samples in in_time(),
        jumps in proptest::collection::vec((0..150_usize, 0..300_i64), 0..8),
        lateness in prop_oneof![Just(0_i64), 0..200_i64],
        cuts in proptest::collection::vec(0..150_usize, 0..12),
        restarts in proptest::collection::vec(0..12_usize, 0..6),
        discarding: bool,
    ) {
        // Some rows are later than the delay.
        let mut samples = samples;
        for (at, back) in jumps {
            let at = at % samples.len();
            samples[at].1 -= back;
        }
        let mut config = config(kind, offset, lateness);
        if discarding {
            config.accumulation = Accumulation::Discarding;
        }
        let whole = run(&config, &samples, &[], &[]);
        let cut = run(&config, &samples, &cuts, &[]);
        prop_assert_eq!(&whole, &cut);
        let restarted = run(&config, &samples, &cuts, &restarts);
        prop_assert_eq!(&whole, &restarted);
        let each = run(&config, &samples, &(0..samples.len()).collect::<Vec<_>>(), &(0..samples.len()).collect::<Vec<_>>());
        prop_assert_eq!(&whole, &each);
        let ids: std::collections::BTreeSet<&str> = whole.iter().map(|output| &*output.id).collect();
        prop_assert_eq!(ids.len(), whole.len(), "no two results have one id");
    }

    #[test]
    fn every_row_is_in_exactly_its_windows_or_reported_late(
        size in 1..100_i64,
        slide in 1..60_i64,
        samples in in_time(),
        jumps in proptest::collection::vec((0..150_usize, 0..300_i64), 0..8),
        lateness in prop_oneof![Just(0_i64), 0..200_i64],
    ) {
        let kind = WindowKind::Sliding { size_ns: size, slide_ns: slide };
        let mut samples = samples;
        for (at, back) in jumps {
            let at = at % samples.len();
            samples[at].1 -= back;
        }
        let out = run(&config(kind, 0, lateness), &samples, &[], &[]);
        // By the definition: the watermark before each row, the windows that are not freed then.
        let (mut newest, mut expected, mut expected_late) = (i64::MIN, BTreeMap::<Place, i64>::new(), Vec::new());
        for (at, (part, time, _)) in samples.iter().enumerate() {
            let watermark = newest.saturating_sub(DELAY);
            let mut starts = Vec::new();
            let mut start = time.div_euclid(slide) * slide;
            while start > time - size {
                starts.push(start);
                start -= slide;
            }
            let open: Vec<i64> = starts.iter().copied().filter(|start| start + size + lateness > watermark).collect();
            if open.is_empty() && !starts.is_empty() {
                expected_late.push(at as u64 + 1);
            }
            for start in open {
                *expected.entry((start, start + size, key(*part).0, key(*part).1)).or_default() += 1;
            }
            newest = newest.max(*time);
        }
        let got: BTreeMap<Place, i64> = last_words(&out).into_iter().map(|(place, window)| match window.values["count()"] {
            Number::Integer(count) => (place, count),
            _ => (place, -1),
        }).collect();
        prop_assert_eq!(got, expected);
        prop_assert_eq!(late(&out), expected_late);
    }

    #[test]
    fn revisions_of_a_window_count_up_from_nought((kind, offset) in kinds(), samples in in_time(), lateness in 0..300_i64) {
        let mut samples = samples;
        samples.reverse();
        let out = run(&config(kind, offset, lateness), &samples, &[], &[]);
        let mut next: BTreeMap<Place, u32> = BTreeMap::new();
        let is_session = out.iter().any(|output| matches!(&output.body, Body::Window(window) if !window.replaces.is_empty()));
        for output in &out {
            let one = std::slice::from_ref(output);
            for (place, window) in last_words(one) {
                let revision = next.entry(place).or_default();
                prop_assert!(window.revision == *revision || is_session, "{:?}", window);
                *revision = window.revision + 1;
            }
        }
    }
}

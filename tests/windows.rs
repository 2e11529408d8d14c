//! Windows against the published cases of Flink, Beam and Kafka Streams, and what the specification says beyond them.

use std::sync::Arc;

use qadf_edge::{
    dataflow::{Accumulation, Aggregate, WindowConfig, WindowKind, WindowOperator},
    model::{Batch, Body, Flags, Number, Output, Seq, Stream, Timestamp},
};
use serde_json::Value;

fn stream() -> Arc<Stream> {
    Arc::new(Stream::new("s", &["v"], &["part"]))
}

fn config(kind: WindowKind, aggregates: &[(&str, &str)]) -> WindowConfig {
    let parse = |text: &str| Aggregate::parse(text, &stream()).expect("the aggregate is right");
    WindowConfig {
        id: "w".into(),
        kind,
        offset_ns: 0,
        allowed_lateness_ns: 0,
        accumulation: Accumulation::Accumulating,
        timezone: None,
        group_by: vec!["part".into()],
        aggregates: aggregates.iter().map(|(name, text)| ((*name).into(), parse(text))).collect(),
    }
}

fn operator(config: WindowConfig) -> WindowOperator {
    WindowOperator::new("p".into(), config, &stream()).expect("the configuration is right")
}

fn rows(seq: u64, rows: &[(Option<&str>, i64, f64)]) -> Batch {
    let mut batch = Batch::new(stream(), "s".into(), "s".into(), Timestamp(0));
    batch.first_seq = Seq(seq);
    for (part, time, value) in rows {
        batch.time.push(*time);
        batch.signals[0].push(*value);
        batch.tags[0].push(*part);
    }
    batch
}

fn int(value: &Value) -> i64 {
    value.as_i64().expect("an integer")
}

/// The window specification of a case; its own units are taken as nanoseconds.
fn from_spec(spec: &Value) -> WindowConfig {
    let kind = match spec["type"].as_str().expect("a type") {
        "tumbling" => WindowKind::Tumbling { size_ns: int(&spec["size"]), calendar_days: None },
        "sliding" => WindowKind::Sliding { size_ns: int(&spec["size"]), slide_ns: int(&spec["slide"]) },
        "session" => WindowKind::Session { gap_ns: int(&spec["gap"]), max_duration_ns: None },
        other => panic!("{other} is no kind of window"),
    };
    let aggregate = if spec["agg"] == "sum" { "sum(v)" } else { "count()" };
    let mut config = config(kind, &[("a", aggregate)]);
    config.offset_ns = spec["offset"].as_i64().unwrap_or(0);
    config.allowed_lateness_ns = spec["lateness"].as_i64().unwrap_or(0);
    if spec["accumulation"] == "discarding" {
        config.accumulation = Accumulation::Discarding;
    }
    config
}

type Fired = (usize, String, i64, i64, i64);

/// Runs the events of a case; `restart` saves and restores after each of them. Watermarks of the cases are inclusive.
fn run(case: &Value, restart: bool) -> (Vec<Fired>, Vec<(usize, i64)>, usize) {
    let mut windows = operator(from_spec(&case["spec"]));
    let delay = case["spec"]["watermark"]["delay"].as_i64();
    let (mut watermark, mut newest) = (Timestamp::MIN, i64::MIN);
    let (mut fired, mut late) = (Vec::new(), Vec::new());
    for (index, event) in case["events"].as_array().expect("events").iter().enumerate() {
        let mut out = Vec::new();
        if let Some(row) = event.get("ev") {
            let (time, value) = (int(&row[1]), int(&row[2]) as f64);
            windows.push(&rows(index as u64 + 1, &[(row[0].as_str(), time, value)]), 0..1, watermark, &mut out);
            newest = newest.max(time);
            if let Some(delay) = delay {
                watermark = watermark.max(Timestamp(newest - delay));
                windows.advance(watermark, &mut out);
            }
        } else if let Some(to) = event.get("wm") {
            watermark = watermark.max(Timestamp(int(to) + 1));
            windows.advance(watermark, &mut out);
        }
        if restart || event.get("snapshot").is_some() {
            let bytes = postcard::to_stdvec(&windows.snapshot()).expect("state is serialised");
            windows = operator(from_spec(&case["spec"]));
            windows.restore(postcard::from_bytes(&bytes).expect("state is read")).expect("state fits");
        }
        for output in out {
            match output.body {
                Body::Window(window) => {
                    let key = window.key["part"].as_deref().unwrap_or("").to_owned();
                    let value = match window.values["a"] {
                        Number::Integer(value) => value,
                        Number::Real(value) => value as i64,
                        Number::Null => panic!("a window without rows fired"),
                    };
                    fired.push((index, key, window.start.0, window.end.0, value));
                }
                Body::Late(row) => late.push((index, row.row.time.0)),
                other => panic!("{other:?} is no result of a window"),
            }
        }
    }
    (fired, late, windows.open_count())
}

fn cases() -> Vec<Value> {
    let text = std::fs::read_to_string("tests/cases/windows.json").expect("the cases are there");
    let file: Value = serde_json::from_str(&text).expect("the cases are JSON");
    file["cases"].as_array().expect("a list").clone()
}

#[test]
fn firings_and_late_rows_are_those_of_flink_and_kafka() {
    let mut seen = 0;
    for case in cases().iter().filter(|case| case["spec"]["kind"] == "window") {
        seen += 1;
        let expected = &case["expected"];
        let list = |key: &str| expected[key].as_array().cloned().unwrap_or_default();
        let firings: Vec<Fired> = list("firings")
            .iter()
            .map(|f| (int(&f[0]) as usize, f[1].as_str().expect("a key").to_owned(), int(&f[2]), int(&f[3]), int(&f[4])))
            .collect();
        let late: Vec<(usize, i64)> = list("late").iter().map(|row| (int(&row[0]) as usize, int(&row[2]))).collect();
        for restart in [false, true] {
            let (got_fired, mut got_late, open) = run(case, restart);
            // Within one step the cases list by key, then start; here it is end, start, key.
            let sorted = |mut list: Vec<Fired>| {
                list.sort();
                list
            };
            assert_eq!(sorted(got_fired), sorted(firings.clone()), "{} restart {restart}", case["name"]);
            got_late.sort_unstable();
            assert_eq!(got_late, late, "{} restart {restart}", case["name"]);
            if let Some(retained) = expected.get("retained") {
                assert_eq!(open, retained.as_array().expect("a list").len(), "{}", case["name"]);
            }
        }
    }
    assert!(seen >= 13, "the cases were found: {seen}");
}

#[test]
fn rows_are_assigned_to_the_windows_of_flink_and_beam() {
    let mut seen = 0;
    for case in cases().iter().filter(|case| case["spec"]["kind"] == "assign") {
        seen += 1;
        let spec = &case["spec"];
        let calendar = spec["type"] == "calendar_days";
        // Calendar cases are in milliseconds; the others have no unit.
        let scale = if calendar { 1_000_000 } else { 1 };
        let config = if calendar {
            let days = int(&spec["days"]) as u32;
            let kind = WindowKind::Tumbling { size_ns: i64::from(days) * 86_400_000_000_000, calendar_days: Some(days) };
            let mut config = config(kind, &[("a", "count()")]);
            config.timezone = Some(jiff::tz::TimeZone::get(spec["tz"].as_str().expect("a zone")).expect("a known zone"));
            config
        } else {
            from_spec(spec)
        };
        for expected in case["expected"]["windows"].as_array().expect("a list") {
            let mut windows = operator(config.clone());
            let mut out = Vec::new();
            windows.push(&rows(1, &[(Some("k"), int(&expected[0]) * scale, 1.0)]), 0..1, Timestamp::MIN, &mut out);
            windows.finish(&mut out);
            let got: Vec<(i64, i64)> = bounds(&out);
            let wanted: Vec<(i64, i64)> =
                expected[1].as_array().expect("a list").iter().map(|pair| (int(&pair[0]) * scale, int(&pair[1]) * scale)).collect();
            assert_eq!(got, wanted, "{} at {}", case["name"], expected[0]);
        }
    }
    assert!(seen >= 9, "the cases were found: {seen}");
}

fn bounds(out: &[Output]) -> Vec<(i64, i64)> {
    out.iter()
        .filter_map(|output| match &output.body {
            Body::Window(window) => Some((window.start.0, window.end.0)),
            _ => None,
        })
        .collect()
}

fn windows_of(out: &[Output]) -> Vec<&qadf_edge::model::WindowResult> {
    out.iter()
        .filter_map(|output| match &output.body {
            Body::Window(window) => Some(window),
            _ => None,
        })
        .collect()
}

#[test]
fn every_aggregate_says_what_it_means() {
    let texts = [
        "count()",
        "count(v)",
        "sum(v)",
        "mean(v)",
        "min(v)",
        "max(v)",
        "stddev(v)",
        "variance(v)",
        "first(v)",
        "last(v)",
        "range(v)",
        "quantile(v, 0.5)",
        "distinct(v)",
        "distinct(part)",
        "count(part)",
    ];
    let named: Vec<(&str, &str)> = texts.iter().map(|text| (*text, *text)).collect();
    let mut config = config(WindowKind::Tumbling { size_ns: 100, calendar_days: None }, &named);
    config.group_by.clear();
    let mut windows = operator(config);
    let mut out = Vec::new();
    let sample = [
        (Some("a"), 20, 4.0),
        (Some("b"), 10, 2.0),
        (None, 30, f64::NAN),
        (Some("a"), 40, 4.0),
        (Some("a"), 40, 9.0),
        (Some("a"), 110, f64::NAN),
    ];
    windows.push(&rows(1, &sample), 0..6, Timestamp::MIN, &mut out);
    windows.finish(&mut out);
    let all = windows_of(&out);
    let value = |window: usize, name: &str| all[window].values[name];
    for (name, expected) in [("count()", 5), ("count(v)", 4), ("distinct(v)", 3), ("distinct(part)", 2), ("count(part)", 4)] {
        assert_eq!(value(0, name), Number::Integer(expected), "{name}");
    }
    let variance = (0.75_f64.powi(2) * 2.0 + 2.75_f64.powi(2) + 4.25_f64.powi(2)) / 3.0;
    let reals = [
        ("sum(v)", 19.0),
        ("mean(v)", 4.75),
        ("min(v)", 2.0),
        ("max(v)", 9.0),
        ("variance(v)", variance),
        ("stddev(v)", variance.sqrt()),
        ("first(v)", 2.0),
        ("last(v)", 9.0),
        ("range(v)", 7.0),
    ];
    for (name, expected) in reals {
        let Number::Real(got) = value(0, name) else { panic!("{name} is {:?}", value(0, name)) };
        assert!((got - expected).abs() < 1e-12, "{name}: {got} for {expected}");
    }
    let error = all[0].errors["quantile(v, 0.5)"];
    let Number::Real(median) = value(0, "quantile(v, 0.5)") else { panic!("there is a median") };
    assert!((median - 4.0).abs() <= 4.0 * error, "{median}");
    for name in ["sum(v)", "mean(v)", "min(v)", "variance(v)", "first(v)", "range(v)", "quantile(v, 0.5)"] {
        assert_eq!(value(1, name), Number::Null, "{name} of nothing");
    }
    assert_eq!(value(1, "count()"), Number::Integer(1));
    assert_eq!(value(1, "count(v)"), Number::Integer(0));
}

#[test]
fn firings_are_ordered_by_end_then_key_with_null_first() {
    let mut windows = operator(config(WindowKind::Tumbling { size_ns: 10, calendar_days: None }, &[("n", "count()")]));
    let mut out = Vec::new();
    let sample = [(Some("z"), 1, 1.0), (Some("a"), 11, 1.0), (None, 2, 1.0), (Some("b"), 3, 1.0), (Some("a"), 4, 1.0)];
    windows.push(&rows(1, &sample), 0..5, Timestamp::MIN, &mut out);
    windows.finish(&mut out);
    let keys: Vec<(i64, Option<&str>)> = windows_of(&out).iter().map(|w| (w.start.0, w.key["part"].as_deref())).collect();
    assert_eq!(keys, [(0, None), (0, Some("a")), (0, Some("b")), (0, Some("z")), (10, Some("a"))]);
}

#[test]
fn a_late_row_fires_every_kept_window_with_the_next_revision() {
    let mut spec = config(WindowKind::Sliding { size_ns: 30, slide_ns: 10 }, &[("s", "sum(v)")]);
    spec.allowed_lateness_ns = 15;
    let mut windows = operator(spec);
    let mut out = Vec::new();
    windows.push(&rows(1, &[(Some("k"), 25, 1.0)]), 0..1, Timestamp::MIN, &mut out);
    windows.advance(Timestamp(41), &mut out);
    assert_eq!(bounds(&out), [(0, 30), (10, 40)]);
    out.clear();
    // 20..50 is open; 10..40 and 0..30 have fired and are kept until 55 and 45.
    windows.push(&rows(2, &[(Some("k"), 26, 2.0)]), 0..1, Timestamp(41), &mut out);
    assert_eq!(bounds(&out), [(0, 30), (10, 40)]);
    assert!(windows_of(&out).iter().all(|window| window.revision == 1 && window.values["s"] == Number::Real(3.0)));
    assert!(out.iter().all(|output| output.at == Seq(2)));
    out.clear();
    windows.advance(Timestamp(46), &mut out);
    windows.push(&rows(3, &[(Some("k"), 27, 4.0)]), 0..1, Timestamp(46), &mut out);
    assert_eq!(bounds(&out), [(10, 40)]);
    out.clear();
    windows.advance(Timestamp::MAX, &mut out);
    assert_eq!(windows_of(&out).iter().map(|w| (w.revision, w.values["s"])).collect::<Vec<_>>(), [(0, Number::Real(7.0))]);
    out.clear();
    windows.push(&rows(4, &[(Some("k"), 27, 4.0)]), 0..1, Timestamp::MAX, &mut out);
    assert!(matches!(out[0].body, Body::Late(_)));
    assert_eq!(windows.late_count(), 1);
}

#[test]
fn rows_between_windows_belong_to_none_and_are_not_late() {
    let mut windows = operator(config(WindowKind::Sliding { size_ns: 10, slide_ns: 30 }, &[("n", "count()")]));
    let mut out = Vec::new();
    windows.push(&rows(1, &[(None, 5, 1.0), (None, 10, 1.0), (None, 29, 1.0), (None, 30, 1.0)]), 0..4, Timestamp::MIN, &mut out);
    windows.finish(&mut out);
    windows.push(&rows(5, &[(None, 15, 1.0)]), 0..1, Timestamp::MAX, &mut out);
    assert_eq!(bounds(&out), [(0, 10), (30, 40)]);
    assert_eq!((out.len(), windows.late_count()), (2, 0));
}

#[test]
fn silence_fires_what_is_open_once_and_progress_fires_what_came_since() {
    for (accumulation, second) in [(Accumulation::Accumulating, 7.0), (Accumulation::Discarding, 4.0)] {
        let mut spec = config(WindowKind::Sliding { size_ns: 20, slide_ns: 10 }, &[("s", "sum(v)")]);
        spec.accumulation = accumulation;
        let mut windows = operator(spec);
        let mut out = Vec::new();
        windows.push(&rows(1, &[(Some("k"), 5, 1.0), (Some("k"), 12, 2.0)]), 0..2, Timestamp::MIN, &mut out);
        windows.fire_open(&mut out);
        assert_eq!(bounds(&out), [(-10, 10), (0, 20), (10, 30)]);
        out.clear();
        windows.fire_open(&mut out);
        assert_eq!(bounds(&out), [], "nothing is new");
        windows.push(&rows(3, &[(Some("k"), 7, 4.0)]), 0..1, Timestamp::MIN, &mut out);
        windows.finish(&mut out);
        assert_eq!(bounds(&out), [(-10, 10), (0, 20)]);
        let last = windows_of(&out)[1];
        assert_eq!((last.revision, last.values["s"]), (1, Number::Real(second)));
    }
}

#[test]
fn a_row_of_the_future_is_in_no_window() {
    let mut windows = operator(config(WindowKind::Tumbling { size_ns: 10, calendar_days: None }, &[("n", "count()")]));
    let mut batch = rows(1, &[(Some("k"), 5, 1.0), (Some("k"), 1000, 1.0)]);
    batch.set_flag(1, Flags::FUTURE);
    let mut out = Vec::new();
    windows.push(&batch, 0..2, Timestamp::MIN, &mut out);
    windows.finish(&mut out);
    assert_eq!(bounds(&out), [(0, 10)]);
}

#[test]
fn sessions_are_cut_exactly_at_their_longest_duration() {
    let kind = WindowKind::Session { gap_ns: 10, max_duration_ns: Some(25) };
    for order in [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [3, 0, 5, 1, 4, 2]] {
        let mut windows = operator(config(kind.clone(), &[("n", "count()")]));
        let times = [0, 8, 16, 24, 25, 33];
        let mut out = Vec::new();
        let sample: Vec<_> = order.iter().map(|at| (Some("k"), times[*at], 1.0)).collect();
        windows.push(&rows(1, &sample), 0..6, Timestamp::MIN, &mut out);
        windows.finish(&mut out);
        assert_eq!(bounds(&out), [(0, 25), (25, 43)], "{order:?}");
        assert_eq!(windows_of(&out)[0].values["n"], Number::Integer(4));
    }
}

#[test]
fn rows_exactly_a_gap_apart_are_one_session() {
    let mut windows = operator(config(WindowKind::Session { gap_ns: 10, max_duration_ns: None }, &[("n", "count()")]));
    let mut out = Vec::new();
    windows.push(&rows(1, &[(Some("k"), 0, 1.0), (Some("k"), 10, 1.0), (Some("k"), 21, 1.0)]), 0..3, Timestamp::MIN, &mut out);
    windows.finish(&mut out);
    assert_eq!(bounds(&out), [(0, 20), (21, 31)]);
}

#[test]
fn a_merged_session_names_the_results_it_replaces() {
    let mut spec = config(WindowKind::Session { gap_ns: 10, max_duration_ns: None }, &[("n", "count()")]);
    spec.allowed_lateness_ns = 100;
    let mut windows = operator(spec);
    let mut out = Vec::new();
    windows.push(&rows(1, &[(Some("k"), 0, 1.0), (Some("k"), 15, 1.0)]), 0..2, Timestamp::MIN, &mut out);
    windows.advance(Timestamp(30), &mut out);
    let ids: Vec<String> = out.iter().map(|output| output.id.clone()).collect();
    assert_eq!(ids.len(), 2);
    out.clear();
    windows.push(&rows(3, &[(Some("k"), 8, 1.0)]), 0..1, Timestamp(30), &mut out);
    let merged = windows_of(&out)[0];
    assert_eq!((merged.start.0, merged.end.0, merged.values["n"]), (0, 25, Number::Integer(3)));
    assert_eq!(merged.replaces, ids);
    // A row inside, which moves no bound, is the next revision of the same result.
    out.clear();
    windows.push(&rows(4, &[(Some("k"), 9, 1.0)]), 0..1, Timestamp(30), &mut out);
    let again = windows_of(&out)[0];
    assert_eq!((again.revision, again.replaces.len()), (1, 0));
}

#[test]
fn days_in_berlin_have_23_and_25_hours() {
    let hour = 3_600_000_000_000;
    let mut spec = config(WindowKind::Tumbling { size_ns: 24 * hour, calendar_days: Some(1) }, &[("n", "count()")]);
    spec.timezone = Some(jiff::tz::TimeZone::get("Europe/Berlin").expect("a known zone"));
    let at = |text: &str| text.parse::<Timestamp>().expect("a time").0;
    for (first, hours) in [("2026-03-28T23:00:00Z", 23), ("2026-10-24T22:00:00Z", 25), ("2026-06-30T22:00:00Z", 24)] {
        let mut windows = operator(spec.clone());
        let sample: Vec<_> = (0..hours).rev().map(|n| (Some("k"), at(first) + n * hour, 1.0)).collect();
        let mut out = Vec::new();
        windows.push(&rows(1, &sample), 0..sample.len(), Timestamp::MIN, &mut out);
        windows.finish(&mut out);
        assert_eq!(bounds(&out), [(at(first), at(first) + hours * hour)], "{first}");
    }
}

#[test]
fn the_ends_of_time_are_windows_like_others() {
    for kind in [
        WindowKind::Tumbling { size_ns: 7, calendar_days: None },
        WindowKind::Sliding { size_ns: 25, slide_ns: 10 },
        WindowKind::Session { gap_ns: 10, max_duration_ns: None },
        WindowKind::Session { gap_ns: 10, max_duration_ns: Some(15) },
        WindowKind::Tumbling { size_ns: i64::MAX, calendar_days: None },
    ] {
        let mut windows = operator(config(kind, &[("n", "count()")]));
        let mut out = Vec::new();
        let sample =
            [(None, i64::MIN, 1.0), (None, i64::MIN + 1, 1.0), (None, i64::MAX - 1, 1.0), (None, 0, 1.0), (None, i64::MAX, 1.0)];
        windows.push(&rows(1, &sample), 0..5, Timestamp::MIN, &mut out);
        windows.finish(&mut out);
        let is_window = |(start, end): (i64, i64)| start < end || end == i64::MAX;
        assert!(bounds(&out).into_iter().all(is_window), "{:?}", bounds(&out));
        assert_eq!(windows.open_count(), 0);
    }
}

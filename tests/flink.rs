//! What Apache Flink makes of random streams of out-of-order rows, and what this program makes of them: bounds, values, late rows.
//!
//! `tests/flink/record.py` runs Flink and writes down what it says; `tests/flink/windows.json` is such a record. `QADF_FLINK` names another
//! file to be held to: the nightly run makes a new one every time.

use std::{collections::BTreeMap, fmt::Write as _, fs, process::Command, time::Duration};

use qadf_edge::{
    model::{Timestamp, WindowResult},
    processor::{
        MemorySink, MemorySource, SessionWindow, SlidingWindow, StreamConfig, StreamProcessor, TumblingWindow, Watermark,
        WindowSpec, count, max, mean, min, sum,
    },
};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Debug, Deserialize)]
struct Record {
    streams: Vec<Recorded>,
}

/// A stream, and what Flink made of it. Times are milliseconds.
#[derive(Debug, Deserialize)]
struct Recorded {
    spec: Spec,
    /// Part, time, value.
    rows: Vec<(String, i64, f64)>,
    firings: Vec<Firing>,
    late: Vec<usize>,
}

#[derive(Debug, Deserialize)]
struct Spec {
    r#type: String,
    delay: u64,
    lateness: u64,
    size: Option<u64>,
    slide: Option<u64>,
    gap: Option<u64>,
    offset: Option<i64>,
}

/// Part, start, end; count, sum, mean, least and largest value.
type Firing = (String, i64, i64, i64, f64, f64, f64, f64);
/// Part, time, value, place.
type Row = (String, i64, f64, usize);
/// What a window of a part said, firing by firing.
type Said = BTreeMap<(String, i64, i64), Vec<(i64, [f64; 4])>>;

fn recorded() -> Vec<Recorded> {
    let text = std::env::var_os("QADF_FLINK").map(|file| fs::read_to_string(file).expect("the file is there"));
    let record: Record =
        serde_json::from_str(text.as_deref().unwrap_or(include_str!("flink/windows.json"))).expect("it is a record");
    assert!(record.streams.len() >= 40, "the streams are there");
    record.streams
}

/// Firings of one window and part keep their order; that of different ones is each system's own.
fn said(firings: impl Iterator<Item = Firing>) -> Said {
    let mut said = Said::new();
    for (part, start, end, count, sum, mean, min, max) in firings {
        said.entry((part, start, end)).or_default().push((count, [sum, mean, min, max]));
    }
    said
}

fn near(left: f64, right: f64) -> bool {
    (left - right).abs() <= 1e-12 * left.abs().max(right.abs())
}

#[track_caller]
fn alike(number: usize, stream: &Recorded, got: impl Iterator<Item = Firing>, late: &[usize]) {
    let (got, expected) = (said(got), said(stream.firings.iter().cloned()));
    let windows = |said: &Said| said.iter().map(|(window, firings)| (window.clone(), firings.len())).collect::<Vec<_>>();
    assert_eq!(windows(&got), windows(&expected), "the windows of stream {number}: {:?}", stream.spec);
    for (window, firings) in &expected {
        for ((count, values), (got_count, got_values)) in firings.iter().zip(&got[window]) {
            let is_same = count == got_count && values.iter().zip(got_values).all(|(value, got)| near(*value, *got));
            assert!(is_same, "{window:?} of stream {number}: {got_count} {got_values:?} for {count} {values:?}");
        }
    }
    assert_eq!(late, stream.late, "the late rows of stream {number}: {:?}", stream.spec);
}

fn ms(time: Timestamp) -> i64 {
    time.0 / 1_000_000
}

fn window_of(spec: &Spec) -> WindowSpec {
    let length = |ms: Option<u64>| Duration::from_millis(ms.expect("its kind has it"));
    // An offset of this type is not negative: one size or slide later is the same.
    let offset = |period: Option<u64>| {
        let (offset, period) = (spec.offset.unwrap_or(0), period.expect("its kind has it") as i64);
        Duration::from_millis(offset.rem_euclid(period) as u64)
    };
    match spec.r#type.as_str() {
        "tumbling" => TumblingWindow::new(length(spec.size)).offset(offset(spec.size)).into(),
        "sliding" => SlidingWindow::new(length(spec.size), length(spec.slide)).offset(offset(spec.slide)).into(),
        _ => SessionWindow::new(length(spec.gap)).into(),
    }
}

fn firing(window: &WindowResult) -> Firing {
    let real = |name: &str| window.real(name).expect("a number");
    let part = window.tag("part").expect("a part").to_owned();
    let count = window.integer("count").expect("a number");
    (part, ms(window.start), ms(window.end), count, real("sum"), real("mean"), real("min"), real("max"))
}

#[test]
fn the_typed_processor_says_what_flink_says() {
    for (number, stream) in recorded().iter().enumerate() {
        let rows = stream.rows.iter().enumerate().map(|(at, (part, time, value))| (part.clone(), *time, *value, at));
        let (out, late) = (MemorySink::new(), MemorySink::new());
        let config = StreamConfig::default().parallelism(1 + number % 3).max_records_per_batch(1 + number * 7 % 50);
        let mut processor = StreamProcessor::new(config);
        processor
            .from_source(MemorySource::new(rows.collect::<Vec<Row>>()))
            .with_watermark(Watermark::by_ms(|row: &Row| row.1).delay(Duration::from_millis(stream.spec.delay)))
            .window(window_of(&stream.spec))
            .allowed_lateness(Duration::from_millis(stream.spec.lateness))
            .late_to(late.clone())
            .group_by("part", |row| &row.0)
            .aggregate([count(), sum(|row: &Row| row.2), mean(|row: &Row| row.2), min(|row: &Row| row.2), max(|row: &Row| row.2)])
            .to_sink(out.clone());
        processor.start().expect("it starts");
        assert!(processor.await_termination(Some(Duration::from_mins(2))));
        assert_eq!(processor.error(), None);
        let late: Vec<usize> = late.take().into_iter().map(|row| row.3).collect();
        alike(number, stream, out.take().iter().map(firing), &late);
    }
}

/// A stream and its pipeline in a configuration.
fn toml(number: usize, spec: &Spec) -> String {
    let mut toml = format!(
        "[streams.s{number}]\nsignals = {{ v = \"1\", at = \"1\" }}\ntags = [\"part\"]\nwatermark = {{ delay = \"{}ms\" }}\n\
         [[pipelines]]\nid = \"p{number}\"\nstream = \"s{number}\"\n[[pipelines.windows]]\nid = \"w\"\ngroup_by = [\"part\"]\n\
         type = \"{}\"\nallowed_lateness = \"{}ms\"\n\
         aggregate = {{ count = \"count()\", sum = \"sum(v)\", mean = \"mean(v)\", min = \"min(v)\", max = \"max(v)\" }}\n",
        spec.delay, spec.r#type, spec.lateness
    );
    for (name, value) in [("size", spec.size), ("slide", spec.slide), ("gap", spec.gap)] {
        if let Some(value) = value {
            let _ = writeln!(toml, "{name} = \"{value}ms\"");
        }
    }
    if let Some(offset) = spec.offset {
        let _ = writeln!(toml, "offset = \"{offset}ms\"");
    }
    toml
}

fn time(value: &Value) -> i64 {
    ms(value.as_str().expect("a time").parse().expect("RFC 3339"))
}

#[test]
fn configured_pipelines_say_what_flink_says() {
    let streams = recorded();
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = "[appliance]\nid = \"t\"\n".to_owned();
    let mut lines = String::new();
    for (number, stream) in streams.iter().enumerate() {
        config.push_str(&toml(number, &stream.spec));
        for (at, (part, time, value)) in stream.rows.iter().enumerate() {
            let row = json!({ "stream": format!("s{number}"), "part": part, "time": time * 1_000_000, "v": value, "at": at });
            let _ = writeln!(lines, "{row}");
        }
    }
    fs::write(folder.path().join("c.toml"), config).expect("it is written");
    fs::write(folder.path().join("rows.jsonl"), lines).expect("it is written");
    let arguments = ["replay", "-c", "c.toml", "--input", "rows.jsonl"];
    let ran = Command::new(env!("CARGO_BIN_EXE_qadf-edge")).args(arguments).current_dir(folder.path()).output().expect("it runs");
    let errors = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success() && !errors.contains("\"reason\""), "{errors}");

    let mut firings = vec![Vec::new(); streams.len()];
    let mut late = vec![Vec::new(); streams.len()];
    for line in String::from_utf8(ran.stdout).expect("it is text").lines() {
        let result: Value = serde_json::from_str(line).expect("a result is JSON");
        let number: usize = result["pipeline"].as_str().expect("a pipeline")[1..].parse().expect("its number");
        if result["kind"] == "late" {
            late[number].push(result["row"]["at"].as_f64().expect("its place") as usize);
            continue;
        }
        let value = |name: &str| result["values"][name].as_f64().expect("a number");
        let part = result["key"]["part"].as_str().expect("a part").to_owned();
        let count = value("count") as i64;
        let (start, end) = (time(&result["start"]), time(&result["end"]));
        firings[number].push((part, start, end, count, value("sum"), value("mean"), value("min"), value("max")));
    }
    for (number, stream) in streams.iter().enumerate() {
        alike(number, stream, firings[number].iter().cloned(), &late[number]);
    }
}

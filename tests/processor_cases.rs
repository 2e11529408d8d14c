//! The published cases of Flink, Beam and Kafka Streams through the typed processor.

mod window_cases;

use std::time::{Duration, Instant};

use qadf_edge::{
    dataflow::Accumulation,
    model::{Number, Timestamp, WindowResult},
    processor::{
        AggregateOf, MemorySink, SessionWindow, SlidingWindow, StreamConfig, StreamProcessor, TumblingWindow, Watermark,
        WindowSpec, channel, count, sum,
    },
};
use serde_json::Value;
use window_cases::int;

/// A row of a case, or what it states of the watermark.
#[derive(Debug, Clone)]
struct Event {
    part: Option<String>,
    time: i64,
    value: f64,
    mark: Option<Timestamp>,
}

/// Watermarks of the cases are inclusive; saving and restoring has tests of its own.
fn event(event: &Value) -> Option<Event> {
    let row = |part: Option<&str>, time, value, mark| Event { part: part.map(str::to_owned), time, value, mark };
    match (&event["ev"], &event["wm"]) {
        (Value::Array(one), _) => Some(row(one[0].as_str(), int(&one[1]), int(&one[2]) as f64, None)),
        (_, Value::Number(_)) => Some(row(None, 0, 0.0, Some(Timestamp(int(&event["wm"]) + 1)))),
        _ => None,
    }
}

/// The units of the cases are taken as nanoseconds.
fn window(spec: &Value) -> WindowSpec {
    let length = |key: &str| Duration::from_nanos(spec[key].as_u64().expect("a length"));
    match spec["type"].as_str().expect("a type") {
        "tumbling" => TumblingWindow::new(length("size")).into(),
        "sliding" => SlidingWindow::new(length("size"), length("slide")).into(),
        "session" => SessionWindow::new(length("gap")).into(),
        other => panic!("{other} is no kind of window"),
    }
}

fn value(window: &WindowResult) -> i64 {
    match window.values["a"] {
        Number::Integer(value) => value,
        Number::Real(value) => value as i64,
        Number::Null => panic!("a window without rows fired"),
    }
}

/// What fires and what is late when a case's events go in as chunks of `max` rows, on `threads` threads.
fn run(case: &Value, max: usize, threads: usize) -> (Vec<WindowResult>, Vec<Event>) {
    let spec = &case["spec"];
    let aggregate: AggregateOf<Event> = if spec["agg"] == "sum" { sum(|event: &Event| event.value) } else { count() };
    let clock = Watermark::by(|event: &Event| Timestamp(event.time));
    let clock = match spec["watermark"]["delay"].as_u64() {
        Some(delay) => clock.delay(Duration::from_nanos(delay)),
        None => clock.punctuated(|event| event.mark),
    };
    let discards = spec["accumulation"] == "discarding";
    let (emitter, source) = channel(1000);
    let (fired, late) = (MemorySink::new(), MemorySink::new());
    let mut processor = StreamProcessor::new(StreamConfig::default().max_records_per_batch(max).parallelism(threads));
    processor
        .from_source(source)
        .with_watermark(clock)
        .filter(|event| event.mark.is_none())
        .window(window(spec))
        .allowed_lateness(Duration::from_nanos(spec["lateness"].as_u64().unwrap_or(0)))
        .accumulation(if discards { Accumulation::Discarding } else { Accumulation::Accumulating })
        .late_to(late.clone())
        .key_by("part", |event| event.part.clone())
        .aggregate([aggregate.alias("a")])
        .to_sink(fired.clone());
    let events: Vec<Event> = case["events"].as_array().expect("events").iter().filter_map(event).collect();
    let count = events.len() as u64;
    for event in events {
        emitter.emit(event).expect("it is taken before the processor ends");
    }
    processor.start().expect("it starts");
    let patience = Instant::now() + Duration::from_mins(1);
    while processor.metrics().records_processed < count && Instant::now() < patience {
        std::thread::yield_now();
    }
    // Windows that are open stay so: the source does not end.
    processor.stop(true);
    assert!(processor.await_termination(Some(Duration::from_mins(1))), "{:?}", processor.error());
    drop(emitter);
    (fired.rows(), late.rows())
}

#[test]
fn firings_and_late_rows_are_those_of_flink_and_kafka() {
    let cases = window_cases::cases("window");
    assert!(cases.len() >= 13, "the cases were found");
    for (case, (max, threads)) in cases.iter().flat_map(|case| [(1000, 1), (1, 1), (3, 2)].map(|how| (case, how))) {
        let (fired, late) = run(case, max, threads);
        let fired: Vec<_> = fired
            .iter()
            .map(|window| (window.tag("part").unwrap_or("").to_owned(), window.start.0, window.end.0, value(window)))
            .collect();
        let (expected, expected_late) = window_cases::expected(case);
        assert_eq!(fired, expected, "{} in chunks of {max} on {threads} threads", case["name"]);
        let late: Vec<i64> = late.iter().map(|event| event.time).collect();
        assert_eq!(late, expected_late, "{}", case["name"]);
    }
}

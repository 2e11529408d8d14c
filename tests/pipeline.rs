//! Filter and derived signals of a configured pipeline, and its counters.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use qadf_edge::{
    config,
    engine::{Clock, Emit, Engine, Step},
    model::{Batch, Body, Input, Number, Seq, Timestamp},
};

const PIPELINE: &str = r#"
[appliance]
id = "t"
[streams.s]
signals = { power = "W", intensity = "V" }
watermark = { delay = "0s" }
[[pipelines]]
id = "p"
stream = "s"
filter = "power > 50.0 && intensity < 100.0"
derive = { ratio = "intensity / power", doubled = "ratio * 2.0 + 1.0" }
[[pipelines.windows]]
id = "w"
type = "tumbling"
size = "1s"
aggregate = { n = "count()", ratio = "sum(ratio)", doubled = "sum(doubled)" }
[[pipelines]]
id = "all"
stream = "s"
[[pipelines.windows]]
id = "w"
type = "tumbling"
size = "1s"
aggregate = { n = "count()", power = "count(power)" }
"#;

fn engine() -> Engine {
    let config = config::parse(PIPELINE).expect("it is a configuration");
    Engine::new(&config.engine, Emit::All, Clock::EventTime).expect("it fits together")
}

fn rows(engine: &Engine) -> Batch {
    let stream = &engine.streams()[0].stream;
    let mut batch = Batch::new(Arc::clone(stream), "s".into(), "s".into(), Timestamp(0));
    batch.first_seq = Seq(1);
    batch.time = (0..6).collect();
    // Two stay; one has too little power, one too much intensity; of the last two the filter cannot say.
    let columns =
        [("power", [100.0, 200.0, 10.0, 100.0, f64::NAN, 100.0]), ("intensity", [10.0, 10.0, 10.0, 500.0, 1.0, f64::NAN])];
    for (name, values) in columns {
        let signal = stream.signals.iter().position(|signal| *signal.name == *name).expect("it has the signal");
        batch.signals[signal] = values.to_vec();
    }
    batch
}

#[test]
fn what_a_filter_leaves_out_and_what_it_fails_on_are_counted_apart() {
    let (mut engine, mut step) = (engine(), Step::default());
    let batch = rows(&engine);
    engine.step(&Input::Batch(Arc::new(batch)), &mut step);
    engine.end(true, &mut step);
    let [first, all] = engine.pipelines() else { panic!("there are two pipelines") };
    let (counters, others) = (first.counters, all.counters);
    assert_eq!((counters.processed, counters.filtered, counters.failed, counters.results), (6, 2, 2, 1));
    assert_eq!((others.processed, others.filtered, others.failed, others.results), (6, 0, 0, 1));
}

#[test]
fn derived_signals_come_in_order_behind_the_filter_and_change_no_other_pipeline_nor_the_rows_kept() {
    let (mut engine, mut step) = (engine(), Step::default());
    let batch = rows(&engine);
    engine.step(&Input::Batch(Arc::new(batch)), &mut step);
    engine.end(true, &mut step);
    let values = |pipeline: &str, name: &str| {
        let mut windows = step.outputs.iter().filter(|output| *output.pipeline == *pipeline);
        match windows.next().map(|output| &output.body) {
            Some(Body::Window(window)) => window.values.get(name).copied(),
            _ => None,
        }
    };
    assert_eq!(values("p", "n"), Some(Number::Integer(2)));
    let Some(Number::Real(ratio)) = values("p", "ratio") else { panic!("there is a sum") };
    let Some(Number::Real(doubled)) = values("p", "doubled") else { panic!("there is a sum") };
    assert!((ratio - 0.15).abs() < 1e-12 && (doubled - 2.3).abs() < 1e-12);
    assert_eq!((values("all", "n"), values("all", "power")), (Some(Number::Integer(6)), Some(Number::Integer(5))));
    assert_eq!((engine.streams()[0].ring.len(), engine.streams()[0].stream.signals.len()), (6, 2));
}

#[test]
fn each_operator_counts_what_went_through_it_and_is_timed() {
    let (mut engine, mut step) = (engine(), Step::default());
    engine.set_stopwatch(|| {
        static READINGS: AtomicU64 = AtomicU64::new(0);
        READINGS.fetch_add(5, Ordering::Relaxed)
    });
    let batch = rows(&engine);
    engine.step(&Input::Batch(Arc::new(batch)), &mut step);
    engine.end(true, &mut step);
    let [first, all] = engine.pipelines() else { panic!("there are two pipelines") };
    let seen: Vec<_> = first.operators().iter().map(|one| (one.kind, &*one.id, one.rows_in, one.out, one.failed)).collect();
    let expected =
        [("filter", "p", 6, 2, 2), ("derive", "ratio", 2, 2, 0), ("derive", "doubled", 2, 2, 0), ("window", "w", 2, 1, 0)];
    assert_eq!(seen, expected);
    assert_eq!(all.operators().iter().map(|one| (one.kind, one.rows_in, one.out)).collect::<Vec<_>>(), [("window", 6, 1)]);
    let timed: Vec<u64> = first.operators().iter().map(|one| one.time_ns).collect();
    assert_eq!(timed, [5, 5, 5, 10], "a reading before and one after; windows once for the rows and once for the end");
}

#[test]
fn a_stopped_pipeline_puts_nothing_out_until_it_is_started() {
    let config =
        config::parse(&PIPELINE.replace("delay = \"0s\"", "delay = \"0s\", idle = \"2s\"")).expect("it is a configuration");
    let mut engine = Engine::new(&config.engine, Emit::All, Clock::Arrivals).expect("it fits together");
    let came = |step: &Step| -> Vec<String> { step.outputs.iter().map(|output| output.pipeline.to_string()).collect() };
    let second = |second: i64| Timestamp(second * 1_000_000_000);
    let mut step = Step::default();
    engine.step(&Input::Batch(Arc::new(rows(&engine))), &mut step);
    assert!(engine.set_running("p", false));
    // The stream falls silent, which closes windows; the other pipeline's comes out, this one's stays open.
    engine.step(&Input::Tick(second(10)), &mut step);
    assert_eq!(came(&step), ["all"]);
    // Nor does the end of everything get anything out of it.
    let mut ended = Step::default();
    engine.end(true, &mut ended);
    assert!(!came(&ended).contains(&"p".to_owned()), "{:?}", came(&ended));
    // Started, it goes on: the next row closes what its time has come for.
    assert!(engine.set_running("p", true));
    let mut later = rows(&engine);
    (later.first_seq, later.arrival) = (Seq(7), second(11));
    later.time = (0..6).map(|row| second(5).0 + row).collect();
    let mut step = Step::default();
    engine.step(&Input::Batch(Arc::new(later)), &mut step);
    let windows: Vec<&Body> = step.outputs.iter().filter(|output| *output.pipeline == *"p").map(|output| &output.body).collect();
    assert!(matches!(windows[..], [Body::Window(window)] if window.values["n"] == Number::Integer(2)), "{windows:?}");
}

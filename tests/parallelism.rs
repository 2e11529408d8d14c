//! `parallelism` of configured pipelines: the results, their order and what is kept are the same for every number of threads.

use std::{collections::BTreeMap, sync::Arc};

use qadf_edge::{
    config,
    engine::{Clock, Emit, Engine, Step},
    model::{Batch, Input, NO_TAG, Seq, TagColumn, Timestamp},
};

const WINDOWS: &str = r#"
[appliance]
id = "t"
[streams.s]
signals = { v = "V" }
tags = ["part", "recipe"]
watermark = { delay = "20ms" }
[[pipelines]]
id = "p"
stream = "s"
filter = "v > -3.0"
parallelism = THREADS
[[pipelines.windows]]
id = "tumbling"
type = "tumbling"
size = "50ms"
group_by = ["part"]
allowed_lateness = "30ms"
aggregate = { n = "count()", mean = "mean(v)", first = "first(v)", q = "quantile(v, 0.9)" }
[[pipelines.windows]]
id = "sliding"
type = "sliding"
size = "70ms"
slide = "20ms"
group_by = ["recipe", "part"]
aggregate = { sum = "sum(v)", recipes = "distinct(recipe)" }
[[pipelines.windows]]
id = "session"
type = "session"
gap = "3ms"
max_duration = "40ms"
group_by = ["part"]
allowed_lateness = "10ms"
aggregate = { n = "count()", last = "last(v)" }
[[pipelines.windows]]
id = "all"
type = "tumbling"
size = "100ms"
aggregate = { n = "count()" }
"#;

/// A second pipeline on the same rows, with something of each kind that puts out results at once.
const BESIDE: &str = r#"
[[pipelines]]
id = "beside"
stream = "s"
parallelism = THREADS
[[pipelines.checkpoints]]
name = "not_low"
check = "v > -2.5"
on_fail = "flag"
[[pipelines.windows]]
id = "short"
type = "tumbling"
size = "10ms"
group_by = ["recipe"]
aggregate = { n = "count()" }
[[pipelines.charts]]
id = "chart"
type = "i_mr"
signal = "v"
group_by = ["recipe"]
[[pipelines]]
id = "last"
stream = "s"
[[pipelines.windows]]
id = "whole"
type = "tumbling"
size = "30ms"
group_by = ["recipe"]
aggregate = { n = "count()" }
"#;

const ROWS: usize = 40_000;

fn engine(threads: usize) -> Engine {
    let config = config::parse(&WINDOWS.replace("THREADS", &threads.to_string())).expect("it is a configuration");
    Engine::new(&config.engine, Emit::All, Clock::EventTime).expect("it fits together")
}

/// Rows 50 µs apart, up to 120 ms late; some without a part, some that the filter leaves out. Batches are long and short in turn.
fn inputs(engine: &Engine) -> Vec<Input> {
    let mut state = 7_u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let names: Vec<Arc<str>> = (0..40).map(|part| format!("part-{part}").into()).collect();
    let recipes: Vec<Arc<str>> = ["thin", "thick", "a recipe with a long name"].map(Into::into).to_vec();
    let (mut inputs, mut next) = (Vec::new(), 0);
    while next < ROWS {
        let rows = next..ROWS.min(next + [9000, 1, 300, 2500][inputs.len() % 4]);
        let stream = &engine.streams()[0].stream;
        let mut batch = Batch::new(Arc::clone(stream), "s".into(), "s".into(), Timestamp(0));
        batch.first_seq = Seq(rows.start as u64 + 1);
        for row in rows.clone() {
            let late_ns = if random(50) == 0 { random(120_000_000) } else { random(15_000_000) };
            batch.time.push(1_700_000_000_000_000_000 + row as i64 * 50_000 - late_ns as i64);
            batch.signals[0].push(random(1000) as f64 / 100.0 - 3.2);
        }
        let mut codes = |texts: u32| {
            let code = |_| match random(u64::from(texts) + 1) as u32 {
                code if code == texts => NO_TAG,
                code => code,
            };
            rows.clone().map(code).collect()
        };
        batch.tags[0] = TagColumn { codes: codes(40), names: names.clone() };
        batch.tags[1] = TagColumn { codes: codes(3), names: recipes.clone() };
        inputs.push(Input::Batch(Arc::new(batch)));
        next = rows.end;
    }
    inputs
}

fn run(engine: &mut Engine, inputs: &[Input], ends: bool) -> Vec<String> {
    let mut step = Step::default();
    for input in inputs {
        engine.step(input, &mut step);
    }
    if ends {
        engine.end(true, &mut step);
    }
    step.outputs.iter().map(|output| serde_json::to_string(output).expect("results are JSON")).collect()
}

#[test]
fn threads_change_no_result_and_no_order() {
    let mut one = engine(1);
    let inputs = inputs(&one);
    let expected = run(&mut one, &inputs, true);
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for result in &expected {
        let result: serde_json::Value = serde_json::from_str(result).expect("results are JSON");
        *kinds.entry(format!("{} {}", result["kind"], result["window"])).or_default() += 1;
    }
    assert_eq!(kinds.len(), 8, "four windows fire, and each has late rows: {kinds:?}");
    for threads in [2, 3, 7] {
        let mut many = engine(threads);
        assert!(run(&mut many, &inputs, true) == expected, "{threads} threads");
        assert_eq!(many.pipelines()[0].counters, one.pipelines()[0].counters);
    }
}

#[test]
fn inputs_that_are_begun_together_give_what_they_give_one_by_one() {
    let build = |threads: usize| {
        let toml = format!("{WINDOWS}{BESIDE}").replace("THREADS", &threads.to_string());
        let config = config::parse(&toml).unwrap_or_else(|faults| panic!("{faults:?}"));
        Engine::new(&config.engine, Emit::All, Clock::Arrivals).expect("it fits together")
    };
    let mut one = build(1);
    let mut inputs = inputs(&one);
    for input in &mut inputs {
        let Input::Batch(batch) = input else { unreachable!() };
        Arc::make_mut(batch).arrival = Timestamp(batch.time.iter().copied().max().unwrap_or(0));
    }
    // What is no batch acts on everything that was begun before it.
    let watermark = |place: i64| Input::Watermark {
        stream: "s".into(),
        partition: "s".into(),
        time: Timestamp(1_700_000_000_000_000_000 + place * 60_000_000),
        arrival: Timestamp(1_700_000_000_000_000_000 + place * 60_000_000),
    };
    (1..6).for_each(|place| inputs.insert(place * 2 + 1, watermark(place as i64)));
    inputs.push(Input::Tick(Timestamp(1_700_000_060_000_000_000)));
    let said = |step: &Step| -> Vec<String> {
        step.outputs.iter().map(|output| format!("{} {}", output.at.0, serde_json::to_string(output).expect("JSON"))).collect()
    };
    let mut step = Step::default();
    inputs.iter().for_each(|input| one.step(input, &mut step));
    let expected = said(&step);
    for kind in ["window", "late", "spc", "checkpoint"] {
        assert!(expected.iter().any(|result| result.contains(&format!("\"kind\":\"{kind}"))), "{kind}");
    }
    for (threads, together) in [(1, 4), (2, 1), (2, 3), (3, 5), (5, 100)] {
        let (mut many, mut step) = (build(threads), Step::default());
        for inputs in inputs.chunks(together) {
            inputs.iter().for_each(|input| many.begin(input, &mut step));
            many.settle(&mut step);
        }
        assert!(said(&step) == expected, "{threads} threads, {together} inputs together");
        for (many, one) in many.pipelines().iter().zip(one.pipelines()) {
            assert_eq!(many.counters, one.counters);
        }
    }
}

#[test]
fn state_saved_with_one_number_of_threads_goes_on_with_another() {
    let inputs = inputs(&engine(1));
    let (before, after) = inputs.split_at(inputs.len() / 2);
    let mut undisturbed = engine(1);
    run(&mut undisturbed, before, false);
    let saved = undisturbed.snapshot().expect("it can be saved");
    let expected = run(&mut undisturbed, after, true);
    for (first, then) in [(1, 3), (3, 1), (3, 2)] {
        let mut engine_before = engine(first);
        run(&mut engine_before, before, false);
        let parts = engine_before.snapshot().expect("it can be saved");
        assert!(parts == saved, "what is kept does not tell of {first} threads");
        let mut engine_after = engine(then);
        assert_eq!(engine_after.restore(parts).expect("it is a snapshot"), Vec::<String>::new());
        assert!(run(&mut engine_after, after, true) == expected, "{first} threads, then {then}");
    }
}

#[test]
fn rows_that_pass_a_stopped_pipeline_by_change_no_order() {
    let inputs = inputs(&engine(1));
    let run = |threads: usize| {
        let mut engine = engine(threads);
        let mut results = Vec::new();
        for (number, inputs) in inputs.chunks(3).enumerate() {
            assert!(engine.set_running("p", number % 3 != 1));
            results.extend(run(&mut engine, inputs, false));
        }
        results
    };
    let expected = run(1);
    assert!(expected.len() > 1000);
    for threads in [2, 5] {
        assert!(run(threads) == expected, "{threads} threads");
    }
}

#[test]
fn no_thread_or_too_many_are_refused_with_their_place() {
    for threads in ["0", "65", "-1", "\"two\""] {
        let faults = config::parse(&WINDOWS.replace("THREADS", threads)).expect_err("it makes no sense");
        let [fault] = faults.as_slice() else { panic!("{faults:?}") };
        assert_eq!((fault.line, fault.column), (12, 15), "{}", fault.message);
    }
}

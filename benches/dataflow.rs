//! Keyed windows through both faces of the engine, on the rows that `benches/peers` gives to other systems: `cargo bench --bench dataflow`.
//!
//! Row `n` is 10 µs after the one before it, out of order by up to 4 ms, of one of 1,000 parts: 100 rows a part and second.
//!
//! At the end it says what an open window of a key takes of the process's resident memory.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use criterion::{BatchSize, Criterion, Throughput, criterion_group};
use qadf_edge::{
    config,
    dataflow::{Accumulation, Aggregate, WindowConfig, WindowKind, WindowOperator},
    engine::{Clock, Emit, Engine, Step},
    model::{Batch, Input, Seq, Stream, TagColumn, Timestamp},
    processor::{
        AggregateOf, CountingSink, GeneratorSource, StreamConfig, StreamProcessor, TumblingWindow, Watermark, mean, quantile,
    },
};

const ROWS: usize = 2_000_000;
const PARTS: usize = 1000;
const BATCH_ROWS: usize = 10_000;
/// Batches that go through the engine before it settles: the appliance takes up to 262,144 rows that wait.
const TOGETHER: usize = 26;
const START_MS: i64 = 1_700_000_000_000;

#[derive(Clone, Copy)]
struct Row {
    at_ms: i64,
    part: &'static str,
    number: u32,
    value: f64,
}

fn parts() -> Vec<Arc<str>> {
    (0..PARTS).map(|part| format!("part-{part:03}").into()).collect()
}

fn at_ms(n: usize) -> i64 {
    START_MS + (n / 100) as i64 - (n * 7919 % 5) as i64
}

fn part_of(n: usize) -> usize {
    ((n as u64 * 2_654_435_761 % (1 << 32)) >> 12) as usize % PARTS
}

fn value_of(n: usize) -> f64 {
    74.0 + (n % 17) as f64 * 0.01
}

/// The rows, and their parts' names, live as long as the program: what is measured is not how memory is given back.
fn rows() -> &'static [Row] {
    let parts: Vec<&'static str> = (0..PARTS).map(|part| &*format!("part-{part:03}").leak()).collect();
    let row = |n: usize| Row { at_ms: at_ms(n), part: parts[part_of(n)], number: part_of(n) as u32, value: value_of(n) };
    (0..ROWS).map(row).collect::<Vec<Row>>().leak()
}

/// What the windows are grouped by.
#[derive(Clone, Copy)]
enum By {
    Text,
    Number,
}

/// All rows through tumbling windows of a second; how many fired.
fn run(rows: &'static [Row], by: By, threads: usize, aggregate: AggregateOf<Row>) -> u64 {
    let out = CountingSink::new();
    let mut processor = StreamProcessor::new(StreamConfig::default().parallelism(threads));
    let windows = processor
        .from_source(GeneratorSource::new(|n| rows[n as usize]).rows(rows.len() as u64))
        .with_watermark(Watermark::by_ms(|row: &Row| row.at_ms).delay(Duration::from_millis(5)))
        .window(TumblingWindow::new(Duration::from_secs(1)));
    let windows = match by {
        By::Text => windows.group_by("part", |row| row.part),
        By::Number => windows.key_by("part", |row| Some(row.number)),
    };
    windows.aggregate([aggregate]).to_sink(out.clone());
    processor.start().expect("it starts");
    assert!(processor.await_termination(None));
    out.count()
}

type MakeAggregate = fn() -> AggregateOf<Row>;

fn typed(criterion: &mut Criterion) {
    let rows = rows();
    let mut group = criterion.benchmark_group("typed");
    group.throughput(Throughput::Elements(ROWS as u64)).sample_size(10);
    let aggregates: [(&str, MakeAggregate); 2] =
        [("mean", || mean(|row: &Row| row.value)), ("quantile", || quantile(0.99, |row: &Row| row.value))];
    for (name, aggregate) in aggregates {
        for (kind, by) in [("text", By::Text), ("number", By::Number)] {
            for (suffix, threads) in [("", 1), (", two threads", 2)] {
                let fired = run(rows, by, threads, aggregate());
                assert_eq!(fired as usize, windows_expected(rows), "every window fires once");
                group.bench_function(format!("{name} by {kind}{suffix}"), |bencher| {
                    bencher.iter(|| run(rows, by, threads, aggregate()));
                });
            }
        }
    }
    group.finish();
}

/// Parts and seconds that have rows.
fn windows_expected(rows: &[Row]) -> usize {
    let windows: BTreeSet<(i64, u32)> = rows.iter().map(|row| (row.at_ms.div_euclid(1000), row.number)).collect();
    windows.len()
}

fn batches(stream: &Arc<Stream>) -> Vec<Input> {
    let names = parts();
    let batch = |number: usize| {
        let rows = number * BATCH_ROWS..(number + 1) * BATCH_ROWS;
        let arrival = Timestamp(at_ms(rows.end) * 1_000_000);
        let mut batch = Batch::new(Arc::clone(stream), "bench".into(), "bench".into(), arrival);
        batch.first_seq = Seq(rows.start as u64 + 1);
        batch.time = rows.clone().map(|n| at_ms(n) * 1_000_000).collect();
        batch.signals[0] = rows.clone().map(value_of).collect();
        batch.tags[0] = TagColumn { codes: rows.map(|n| part_of(n) as u32).collect(), names: names.clone() };
        Input::Batch(Arc::new(batch))
    };
    (0..ROWS / BATCH_ROWS).map(batch).collect()
}

fn configured(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("configured");
    group.throughput(Throughput::Elements(ROWS as u64)).sample_size(10);
    let one = [("mean", "mean(v)", 1), ("quantile", "quantile(v, 0.99)", 1)];
    let two = [("mean, two threads", "mean(v)", 2), ("quantile, two threads", "quantile(v, 0.99)", 2)];
    for (name, aggregate, threads) in one.into_iter().chain(two) {
        let toml = format!(
            "[appliance]\nid = \"bench\"\n[streams.s]\nsignals = {{ v = \"V\" }}\ntags = [\"part\"]\nwatermark = {{ delay = \"5ms\" }}\n\
             [[pipelines]]\nid = \"p\"\nstream = \"s\"\nparallelism = {threads}\n[[pipelines.windows]]\nid = \"w\"\ntype = \"tumbling\"\nsize = \"1s\"\n\
             group_by = [\"part\"]\naggregate = {{ a = \"{aggregate}\" }}\n"
        );
        let config = config::parse(&toml).expect("the text above is a configuration");
        let inputs = batches(&config.engine.streams[0].stream);
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || Engine::new(&config.engine, Emit::Changes, Clock::Arrivals).expect("and fits together"),
                |mut engine| {
                    let (mut results, mut step) = (0, Step::default());
                    for inputs in inputs.chunks(TOGETHER) {
                        inputs.iter().for_each(|input| engine.begin(input, &mut step));
                        engine.settle(&mut step);
                        results += step.outputs.len();
                        step.clear();
                    }
                    assert!(results > PARTS, "windows fired");
                    (results, engine)
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// Pages of this process in memory, in bytes.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

/// A million panes of a row each: 1,000 keys with 1,000 slices.
fn memory() {
    for (kind, slides) in [("tumbling", 1), ("sliding, 10 windows a row", 10)] {
        for aggregate in ["count()", "mean(v)", "min(v)", "variance(v)", "quantile(v, 0.99)"] {
            let stream = Arc::new(Stream::new("s", &["v"], &["part"]));
            let window = WindowConfig {
                id: "w".into(),
                kind: match slides {
                    1 => WindowKind::Tumbling { size_ns: 1_000_000, calendar_days: None },
                    _ => WindowKind::Sliding { size_ns: slides * 1_000_000, slide_ns: 1_000_000 },
                },
                offset_ns: 0,
                allowed_lateness_ns: 0,
                accumulation: Accumulation::Accumulating,
                timezone: None,
                group_by: vec!["part".into()],
                aggregates: vec![("a".into(), Aggregate::parse(aggregate, &stream).expect("the aggregate is right"))],
            };
            let mut windows = WindowOperator::new("p".into(), window, &stream).expect("the specification is right");
            let names = parts();
            let before = resident_bytes();
            for slice in 0..1000_i64 {
                let mut batch = Batch::new(Arc::clone(&stream), "s".into(), "s".into(), Timestamp(0));
                batch.time = vec![slice * 1_000_000; PARTS];
                batch.signals[0] = (0..PARTS).map(value_of).collect();
                batch.tags[0] = TagColumn { codes: (0..PARTS as u32).collect(), names: names.clone() };
                windows.push(&batch, 0..PARTS, Timestamp::MIN, &mut Vec::new());
            }
            let open = windows.open_count();
            println!(
                "{kind}, {aggregate}: {open} open windows, {} bytes each",
                resident_bytes().saturating_sub(before) / open.max(1)
            );
        }
    }
}

criterion_group!(benches, typed, configured);

fn main() {
    benches();
    Criterion::default().configure_from_args().final_summary();
    memory();
}

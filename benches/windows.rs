//! Rows a second into windows on one core: `cargo bench --bench windows`.
//!
//! A stream of rows over some keys, out of order by up to a few milliseconds, in batches of 10,000, driven as the engine drives it: each row
//! before the watermark moves from it. Throughput is rows in; results are counted and thrown away.

use std::sync::Arc;

use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use qadf_edge::{
    dataflow::{Accumulation, Aggregate, Flow, WatermarkConfig, Watermarks, WindowConfig, WindowKind, WindowOperator, drive},
    model::{Batch, Seq, Stream, TagColumn, Timestamp},
};

const ROWS: usize = 10_000;
const MS: i64 = 1_000_000;
/// From one row to the next.
const STEP_NS: i64 = 10_000;

struct Load {
    batches: Vec<(Batch, Flow)>,
    rows: usize,
}

fn load(keys: usize, rows: usize, disorder_ns: i64) -> Load {
    let stream = Arc::new(Stream::new("s", &["v"], &["part"]));
    let names: Vec<Arc<str>> = (0..keys).map(|key| Arc::from(format!("part-{key:05}"))).collect();
    let config = WatermarkConfig { delay_ns: disorder_ns, ..WatermarkConfig::default() };
    let mut watermarks = Watermarks::new(config, false);
    let mut random = 1_u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        random >> 33
    };
    let batches = (0..rows / ROWS)
        .map(|number| {
            let mut batch = Batch::new(Arc::clone(&stream), "s".into(), "s".into(), Timestamp(0));
            batch.first_seq = Seq((number * ROWS) as u64 + 1);
            let at = |row: usize| (number * ROWS + row) as i64 * STEP_NS;
            batch.time = (0..ROWS).map(|row| at(row) - next() as i64 % disorder_ns.max(1)).collect();
            batch.signals[0] = (0..ROWS).map(|row| 74.0 + (row % 17) as f64 * 0.01).collect();
            let codes = (0..ROWS).map(|_| (next() % keys as u64) as u32).collect();
            batch.tags[0] = TagColumn { codes, names: names.clone() };
            let (flow, _) = watermarks.observe(&batch);
            (batch, flow)
        })
        .collect();
    Load { batches, rows }
}

fn operator(load: &Load, kind: WindowKind, aggregates: &[&str]) -> WindowOperator {
    let stream = &load.batches[0].0.stream;
    let parse = |text: &&str| ((*text).into(), Aggregate::parse(text, stream).expect("the aggregate is right"));
    let config = WindowConfig {
        id: "w".into(),
        kind,
        offset_ns: 0,
        allowed_lateness_ns: 0,
        accumulation: Accumulation::Accumulating,
        timezone: None,
        group_by: vec!["part".into()],
        aggregates: aggregates.iter().map(parse).collect(),
    };
    WindowOperator::new("p".into(), config, stream).expect("the configuration is right")
}

fn run(windows: &mut WindowOperator, load: &Load) -> usize {
    let (mut out, mut results) = (Vec::new(), 0);
    for (batch, flow) in &load.batches {
        drive(windows, batch, None, flow, &mut out);
        results += out.len();
        out.clear();
    }
    results
}

fn bench(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, load: &Load, kind: &WindowKind, aggregates: &[&str]) {
    group.throughput(Throughput::Elements(load.rows as u64));
    let make = || operator(load, kind.clone(), aggregates);
    group.bench_function(name, |bencher| {
        bencher.iter_batched(make, |mut windows| (run(&mut windows, load), windows), BatchSize::PerIteration);
    });
}

fn tumbling(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tumbling");
    group.sample_size(10);
    // 1,000 keys, 100 rows a key and window.
    let rows = load(1000, 1_000_000, 5 * MS);
    let kind = WindowKind::Tumbling { size_ns: 1000 * MS, calendar_days: None };
    bench(&mut group, "mean", &rows, &kind, &["mean(v)"]);
    bench(&mut group, "mean variance min max", &rows, &kind, &["mean(v)", "variance(v)", "min(v)", "max(v)"]);
    bench(&mut group, "quantile", &rows, &kind, &["quantile(v, 0.99)"]);
    bench(&mut group, "distinct", &rows, &kind, &["distinct(v)"]);
    group.finish();
}

/// One hundred rows a key and slide, whatever the number of windows around a row; beside each, tumbling windows of one slide.
fn sliding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sliding");
    group.sample_size(10);
    for (keys, slide_ns, sizes) in [(100, 100 * MS, &[1, 10, 100][..]), (10, 10 * MS, &[1, 100, 1000]), (1, MS, &[1, 1000, 10_000])]
    {
        let rows = load(keys, 2_000_000, 5 * MS);
        for windows in sizes {
            let kind = WindowKind::Sliding { size_ns: slide_ns * windows, slide_ns };
            bench(&mut group, &format!("mean, {keys} keys, {windows} windows a row"), &rows, &kind, &["mean(v)"]);
        }
    }
    let rows = load(100, 2_000_000, 5 * MS);
    let kind = WindowKind::Sliding { size_ns: 1050 * MS, slide_ns: 100 * MS };
    bench(&mut group, "mean, slide does not divide the size", &rows, &kind, &["mean(v)"]);
    let kind = WindowKind::Sliding { size_ns: 1000 * MS, slide_ns: 100 * MS };
    bench(&mut group, "quantile, 10 windows a row", &rows, &kind, &["quantile(v, 0.99)"]);
    group.finish();
}

fn session(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("session");
    group.sample_size(10);
    let rows = load(1000, 500_000, 5 * MS);
    let kind = WindowKind::Session { gap_ns: 50 * MS, max_duration_ns: Some(1000 * MS) };
    bench(&mut group, "mean", &rows, &kind, &["mean(v)"]);
    group.finish();
}

criterion_group!(benches, tumbling, sliding, session);
criterion_main!(benches);

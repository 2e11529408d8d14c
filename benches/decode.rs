//! What decoding costs: a JSON message of 133 bytes, a row of an array, a line, a CSV row.
//!
//! `cargo bench --bench decode`; batches of 1,000 messages, so divide by 1,000 or read the throughput in elements (rows) a second.

use std::{hint::black_box, sync::Arc};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use qadf_edge::{
    ingest::decode::{Context, Csv, Decoded, Json, JsonLines, Routes},
    model::{Stream, Timestamp},
};

const ROWS: usize = 1_000;

fn context() -> Context {
    Context::new("floor".into(), "plant/a".into(), Timestamp(77))
}

fn routes() -> Routes {
    Routes::one(&Arc::new(Stream::new("melt", &["intensity", "laser_power"], &["part"]))).expect("the names differ")
}

fn messages() -> Vec<String> {
    let message = |row: usize| {
        let (nanos, x, intensity) = (row * 1_000, row as f64 * 0.01, 3.2 + row as f64 * 0.001);
        format!(
            r#"{{"time":"2026-01-31T12:00:00.{nanos:09}Z","x":{x:.2},"y":12.5,"z":0.03,"layer":17,"part":"A3","intensity":{intensity:.4},"laser_power":195.25}}"#
        )
    };
    (0..ROWS).map(message).collect()
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(ROWS as u64));
    let (context, messages) = (context(), messages());
    let array = format!("[{}]", messages.join(","));
    let lines = messages.join("\n") + "\n";
    let mut json = Json::new(routes());
    group.bench_function("json, a message a row", |bencher| {
        bencher.iter_batched_ref(
            Decoded::default,
            |out| messages.iter().for_each(|message| json.message(black_box(message.as_bytes()), &context, out)),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("json, an array of rows", |bencher| {
        bencher.iter_batched_ref(
            Decoded::default,
            |out| json.message(black_box(array.as_bytes()), &context, out),
            BatchSize::SmallInput,
        );
    });
    let mut json_lines = JsonLines::new(routes());
    group.bench_function("json lines", |bencher| {
        bencher.iter_batched_ref(
            Decoded::default,
            |out| json_lines.feed(black_box(lines.as_bytes()), &context, out),
            BatchSize::SmallInput,
        );
    });
    let cells =
        |row: usize| format!("2026-01-31T12:00:00.{:09}Z,{:.2},12.5,0.03,17,A3,3.2001,195.25\n", row * 1_000, row as f64 * 0.01);
    let table: String = (0..ROWS).map(cells).collect();
    let mut csv = Csv::new(routes());
    csv.feed(b"time,x,y,z,layer,part,intensity,laser_power\n", &context, &mut Decoded::default());
    group.bench_function("csv", |bencher| {
        bencher.iter_batched_ref(
            Decoded::default,
            |out| csv.feed(black_box(table.as_bytes()), &context, out),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);

//! Rows a second through an interval join on one core: `cargo bench --bench join`.

use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use qadf_edge::{
    dataflow::join::{JoinConfig, JoinOperator},
    model::{Batch, Seq, Stream, TagColumn, Timestamp},
};

const ROWS: usize = 1000;
const BATCHES: usize = 100;
const KEYS: usize = 100;
const MS: i64 = 1_000_000;

/// 100 batches of 1,000 rows, a row a millisecond over 100 keys, out of order by up to 50 ms, all later by `shift` ms.
fn batches(id: &str, shift: i64) -> Vec<Batch> {
    let stream = Arc::new(Stream::new(id, &["a", "b"], &["part"]));
    let names: Vec<Arc<str>> = (0..KEYS).map(|key| Arc::from(format!("part-{key}"))).collect();
    let batch = |number: usize| {
        let mut batch = Batch::new(Arc::clone(&stream), id.into(), id.into(), Timestamp(0));
        batch.first_seq = Seq((number * ROWS) as u64 + 1);
        let row = |row: usize| (number * ROWS + row) as i64;
        batch.time = (0..ROWS).map(|at| (row(at) - (row(at) * 7919 % 50) + shift) * MS).collect();
        batch.signals = vec![(0..ROWS).map(|at| at as f64).collect(); 2];
        let codes = (0..ROWS).map(|at| (row(at) * 104_729 % KEYS as i64) as u32).collect();
        batch.tags[0] = TagColumn { codes, names: names.clone() };
        batch
    };
    (0..BATCHES).map(batch).collect()
}

fn join(criterion: &mut Criterion) {
    let (left, right) = (batches("left", 0), batches("right", 10));
    let mut group = criterion.benchmark_group("join");
    group.throughput(Throughput::Elements((2 * ROWS * BATCHES) as u64)).sample_size(20);
    // A key has a row every 100 ms on each side: 0, 1 and 11 pairs for each left row.
    for (name, within) in [("no pairs", MS), ("a pair a left row", 50 * MS), ("eleven pairs a left row", 500 * MS)] {
        let mut pairs = 0;
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || {
                    let config = JoinConfig::within("j", &["part"], within);
                    let join = JoinOperator::new("p".into(), config, &left[0].stream, &right[0].stream)
                        .expect("the configuration is right");
                    (join, Vec::new())
                },
                |(mut join, mut out)| {
                    for (number, (left, right)) in left.iter().zip(&right).enumerate() {
                        join.push_left(left, 0..ROWS, &mut out);
                        join.push_right(right, 0..ROWS, &mut out);
                        join.advance(Timestamp((number as i64 * ROWS as i64 + 949) * MS), &mut out);
                        out.clear();
                    }
                    pairs = join.counters().pairs;
                },
                BatchSize::PerIteration,
            );
        });
        println!("{name}: {pairs} pairs of {} rows", 2 * ROWS * BATCHES);
    }
    group.finish();
}

criterion_group!(benches, join);
criterion_main!(benches);

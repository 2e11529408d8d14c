//! Rows a second into a ring, and what a window costs whatever the ring's capacity.
//!
//! `cargo bench --bench buffer` prints one line a figure: the median of several runs, one thread, by its time on the processor.

use std::{hint::black_box, sync::Arc};

use qadf_edge::{
    buffer::Ring,
    model::{Batch, Positions, Stream, Timestamp},
};

const RUNS: usize = 7;
const BATCH_ROWS: usize = 1000;

/// Two signals, a tag, positions and layers; `jitter_ns` moves times back and forth.
fn batches(count: usize, jitter_ns: i64) -> Vec<Batch> {
    let stream = Arc::new(Stream::new("melt", &["intensity", "laser_power"], &["part"]));
    let mut state = 1_u64;
    (0..count)
        .map(|number| {
            let mut batch = Batch::new(Arc::clone(&stream), "s".into(), "s/0".into(), Timestamp(0));
            for row in 0..BATCH_ROWS {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let jitter = if jitter_ns == 0 { 0 } else { (state >> 33) as i64 % jitter_ns };
                batch.time.push((number * BATCH_ROWS + row) as i64 * 1_000 + jitter);
                batch.tags[0].push(Some("A3"));
            }
            batch.signals = vec![vec![3.2; BATCH_ROWS], vec![200.0; BATCH_ROWS]];
            batch.positions = Some(Positions { x: vec![1.0; BATCH_ROWS], y: vec![2.0; BATCH_ROWS], z: vec![0.0; BATCH_ROWS] });
            batch.layer = Some(vec![1; BATCH_ROWS]);
            batch
        })
        .collect()
}

/// How long this thread has been on the processor.
fn processor_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux has it");
    let ns = text.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).expect("its first number");
    ns as f64 / 1e9
}

fn median(mut run: impl FnMut() -> f64) -> f64 {
    run();
    let mut figures: Vec<f64> = (0..RUNS).map(|_| run()).collect();
    figures.sort_by(f64::total_cmp);
    figures[RUNS / 2]
}

fn append(what: &str, capacity: usize, batches: &[Batch]) {
    let mut ring = Ring::new(Arc::clone(&batches[0].stream), capacity).expect("valid");
    let rate = median(|| {
        let start = processor_seconds();
        for batch in batches {
            ring.append(batch, 0..BATCH_ROWS);
        }
        (batches.len() * BATCH_ROWS) as f64 / (processor_seconds() - start) / 1e6
    });
    println!("{what:40} capacity {capacity:9} {rate:9.1} M rows/s");
}

fn windows(what: &str, capacity: usize, batches: &[Batch]) {
    // Enough of them that the scheduler's clock, which moves by milliseconds, says something.
    const CALLS: usize = 1_000_000;
    let mut ring = Ring::new(Arc::clone(&batches[0].stream), capacity).expect("valid");
    for batch in batches.iter().cycle().take(capacity / BATCH_ROWS + 1) {
        ring.append(batch, 0..BATCH_ROWS);
    }
    let timed = |read: &dyn Fn() -> f64| {
        median(|| {
            let start = processor_seconds();
            (0..CALLS).for_each(|_| {
                black_box(read());
            });
            (processor_seconds() - start) * 1e9 / CALLS as f64
        })
    };
    let newest = ring.statistics().newest.expect("not empty");
    let view = timed(&|| {
        let window = black_box(&ring).sliding(black_box(100));
        window.signal(0)[0] + window.signal(1)[99] + window.times()[0] as f64
    });
    let sum = timed(&|| black_box(&ring).sliding(black_box(100)).signal(0).sum());
    let time = timed(&|| black_box(&ring).time_window(black_box(100_000), newest).len() as f64);
    println!(
        "{what}, capacity {capacity:9}: sliding window of 100 rows {view:5.1} ns, and its sum {sum:5.1} ns; time window {time:5.1} ns"
    );
}

fn main() {
    let in_order = batches(4000, 0);
    let jittered = batches(200, 20_000);
    for capacity in [1_000, 100_000, 1_000_000] {
        append("append, 2 signals, tag, position, layer", capacity, &in_order);
        append("the same, times jittered by 20 rows", capacity, &jittered);
    }
    for capacity in [1_000, 100_000, 1_000_000] {
        windows("in order", capacity, &in_order);
        windows("jittered", capacity, &jittered);
    }
}

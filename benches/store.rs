//! The store against the disk: durable rows, and the same bytes appended to a bare file and synced, in turns in the same run. Then batches
//! that are encoded already, so that the disk's part and the encoding's can be told apart.
//!
//! The rows are those of the demo machine's fastest sensor, without the device's numbers, since rows that come twice would be refused.
//!
//! `cargo bench --bench store` prints a table. `STORE_BENCH_DIR` names a directory on the disk to measure (default: the working
//! directory, since `/tmp` may be memory); `STORE_BENCH_SECONDS` how long each measurement takes (default 3).

#[path = "common/mod.rs"]
mod common;

use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use common::DemoRows;
use qadf_edge::config;
use qadf_edge::model::{Batch, Input, Row, Seq};
use qadf_edge::store::encoding::{Decoder, encode_batch};
use qadf_edge::store::{Accepted, Append, CursorMove, Lane, StartAt, Store, StoreConfig, StoreError, Subscription, Writer};

/// The demo machine's stream with the most rows.
const FASTEST: &str = "acoustic";
/// Rows that are encoded before they are handed over, at a time.
const ENCODED_ROWS: usize = 4_000_000;

/// Rounds that store and bare file take in turns.
const ROUNDS: usize = 5;
/// Batches that are sent again and again.
const BATCHES: usize = 64;

/// The demo machine's fastest sensor in batches of `rows`, each of one source's partition.
fn batches(rows: usize, source: usize) -> Vec<Arc<Batch>> {
    let streams = config::parse(common::DEMO).unwrap_or_else(|faults| panic!("{faults:?}")).streams();
    let mut machine = DemoRows::new(&streams, common::now());
    let mut sampled: Vec<Row> = Vec::new();
    while sampled.len() < rows * BATCHES {
        let (decoded, _) = machine.next();
        let fastest = decoded.batches.iter().filter(|batch| &*batch.stream.id == FASTEST);
        sampled.extend(fastest.flat_map(|batch| (0..batch.rows()).map(|row| batch.row(row))));
    }
    let batch = |rows: &[Row]| {
        let mut batch = Batch::of_rows(&rows[0].stream, rows);
        (batch.source, batch.partition) = ("scan_head".into(), format!("partition {source}").into());
        (batch.arrival, batch.seqs, batch.flags) = (common::now(), None, None);
        Arc::new(batch)
    };
    sampled.chunks_exact(rows).take(BATCHES).map(batch).collect()
}

/// The same rows with signals that no converter's grid holds.
fn mantissas(batch: &Batch) -> Batch {
    let mut batch = batch.clone();
    batch.signals.iter_mut().flatten().for_each(|value| *value *= std::f64::consts::PI);
    batch
}

fn seconds() -> Duration {
    let text = std::env::var("STORE_BENCH_SECONDS").unwrap_or_default();
    Duration::from_secs_f64(text.parse().unwrap_or(3.0))
}

fn fresh(name: &str) -> PathBuf {
    let root = std::env::var_os("STORE_BENCH_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from);
    let directory = root.join(format!("store-bench-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).expect("a directory on the disk to measure");
    directory
}

fn encoding() {
    println!("encoding                        rows  bytes/row  encode ns/row  decode ns/row");
    for (name, is_full) in [("grid", false), ("full mantissas", true)] {
        for rows in [1, 64, 1_000] {
            let batch = &batches(rows, 0)[0];
            let batch = if is_full { mantissas(batch) } else { Batch::clone(batch) };
            let blob = encode_batch(&batch);
            let rounds = 200_000 / rows;
            let per_row = |started: Instant| started.elapsed().as_nanos() as f64 / (rounds * rows) as f64;
            let started = Instant::now();
            for _ in 0..rounds {
                black_box(encode_batch(black_box(&batch)));
            }
            let encode = per_row(started);
            let mut decoder = Decoder::default();
            let started = Instant::now();
            for _ in 0..rounds {
                black_box(decoder.decode(black_box(&blob), Seq(1)).expect("a blob just written"));
            }
            let decode = per_row(started);
            println!("{name:<28} {rows:>7} {:>10.2} {encode:>14.1} {decode:>14.1}", blob.len() as f64 / rows as f64);
        }
    }
}

struct Load {
    rows_a_batch: usize,
    sources: usize,
    page_bytes: u32,
    /// Whether a sink reads all rows as they come.
    with_sink: bool,
    /// Rows a second over all sources; `None` = as many as go.
    rate: Option<f64>,
}

struct Measured {
    rows_per_second: f64,
    bytes_per_commit: usize,
    rows_per_commit: f64,
    text: String,
}

impl Measured {
    /// Over a bare file that is given the same bytes in the same pieces, right afterwards.
    fn of_bare(&self) -> f64 {
        let bytes_per_row = self.bytes_per_commit as f64 / self.rows_per_commit;
        self.rows_per_second * bytes_per_row / bare(self.bytes_per_commit)
    }
}

/// Sources append as fast as they are acknowledged, a sink reads and moves its cursor, the oldest rows go.
fn durable(load: &Load) -> Measured {
    let directory = fresh("store");
    let config = StoreConfig { page_bytes: load.page_bytes, max_bytes: 2_000_000_000, ..StoreConfig::default() };
    let (store, _) = Store::open(&directory, config).expect("a store");
    if load.with_sink {
        let wish = Subscription { sink: "sink".into(), lane: Lane::Rows, only: None, start: StartAt::Oldest };
        store.writer().subscribe(wish).expect("a subscription");
    }
    let (stop, rows) = (AtomicBool::new(false), Arc::new(AtomicU64::new(0)));
    let by_source: Vec<_> = (0..load.sources).map(|source| batches(load.rows_a_batch, source)).collect();
    let started = Instant::now();
    std::thread::scope(|scope| {
        for batches in &by_source {
            let (writer, stop, rows) = (store.writer(), &stop, Arc::clone(&rows));
            scope.spawn(move || append(&writer, load, batches, stop, &rows, started));
        }
        if load.with_sink {
            scope.spawn(|| follow(&store, &stop));
        }
        std::thread::sleep(seconds());
        stop.store(true, Ordering::Relaxed);
    });
    let measured = measured(&store, rows.load(Ordering::Relaxed), started.elapsed());
    drop(store);
    let _ = std::fs::remove_dir_all(&directory);
    measured
}

/// A sink that reads all rows and moves its cursor.
fn follow(store: &Store, stop: &AtomicBool) {
    let (writer, mut reader) = (store.writer(), store.reader().expect("a reader"));
    let mut at = Seq(0);
    while !stop.load(Ordering::Relaxed) {
        let page = reader.rows_after(at, 200_000, None).expect("rows");
        if page.through > at {
            let delivered = page.batches.iter().map(|batch| batch.rows() as u64).sum();
            let go = CursorMove { sink: "sink".into(), lane: Lane::Rows, from: Seq(at.0 + 1), through: page.through, delivered };
            writer.move_cursor_and_wait(go).expect("a cursor");
            at = page.through;
        } else {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn measured(store: &Store, rows: u64, took: Duration) -> Measured {
    let rows_per_second = rows as f64 / took.as_secs_f64();
    let counters = store.counters();
    let commits = counters.commits.max(1);
    let text = format!(
        "{:>12.0} rows/s {:>8.2} B/row {:>6.0} commits/s {:>8.0} B/commit  commit p50 {:.2} p99 {:.2} max {:.1} ms  ack p50 {:.2} p99 {:.2} ms",
        rows_per_second,
        counters.row_bytes as f64 / counters.rows.max(1) as f64,
        counters.commits as f64 / took.as_secs_f64(),
        counters.row_bytes as f64 / commits as f64,
        counters.commit_ms.p50,
        counters.commit_ms.p99,
        counters.commit_ms.max,
        counters.acknowledge_ms.p50,
        counters.acknowledge_ms.p99,
    );
    Measured {
        rows_per_second,
        bytes_per_commit: (counters.row_bytes / commits) as usize,
        rows_per_commit: counters.rows as f64 / commits as f64,
        text,
    }
}

fn append(writer: &Writer, load: &Load, batches: &[Arc<Batch>], stop: &AtomicBool, rows: &Arc<AtomicU64>, started: Instant) {
    let interval = load.rate.map(|rate| Duration::from_secs_f64((load.rows_a_batch * load.sources) as f64 / rate));
    let mut message = 0;
    while !stop.load(Ordering::Relaxed) {
        if let Some(interval) = interval {
            std::thread::sleep((started + interval * message).saturating_duration_since(Instant::now()));
        }
        let (rows, count) = (Arc::clone(rows), load.rows_a_batch as u64);
        writer.append_blocking(Append {
            input: Some(Input::Batch(Arc::clone(&batches[message as usize % batches.len()]))),
            dead_letters: Vec::new(),
            decoded_at: Instant::now(),
            on_synced: Box::new(move |outcome| {
                rows.fetch_add(outcome.map_or(0, |_| count), Ordering::Relaxed);
            }),
        });
        message += 1;
    }
}

/// Batches that are encoded already, through the store's queue and commit: what of [`durable`] is not encoding and not the sink.
fn committed(rows_a_batch: usize, page_bytes: u32) -> Measured {
    let directory = fresh("committed");
    let config = StoreConfig { page_bytes, max_bytes: 2_000_000_000, queue_bytes: 1 << 30, ..StoreConfig::default() };
    let (store, _) = Store::open(&directory, config).expect("a store");
    let (writer, batches) = (store.writer(), batches(rows_a_batch, 0));
    let (mut took, mut rows) = (Duration::ZERO, 0);
    while took < seconds() {
        let (answer, answers) = channel();
        let encoded: Vec<_> = (0..ENCODED_ROWS / rows_a_batch)
            .map(|message| {
                let (answer, batch) = (answer.clone(), Arc::clone(&batches[message % batches.len()]));
                let on_synced = Box::new(move |outcome: Result<Accepted, StoreError>| {
                    let _ = answer.send(outcome.map_or(0, |accepted| accepted.rows));
                });
                let append =
                    Append { input: Some(Input::Batch(batch)), dead_letters: Vec::new(), decoded_at: Instant::now(), on_synced };
                Writer::encoded(append).expect("a batch within the limits")
            })
            .collect();
        drop(answer);
        let started = Instant::now();
        for append in encoded {
            assert!(writer.try_again(append).is_ok(), "a queue that holds all");
        }
        rows += answers.iter().sum::<u64>();
        took += started.elapsed();
    }
    let measured = measured(&store, rows, took);
    drop(store);
    let _ = std::fs::remove_dir_all(&directory);
    measured
}

/// The same bytes in the same pieces, appended to a file and synced; bytes a second.
fn bare(bytes_per_commit: usize) -> f64 {
    let directory = fresh("bare");
    let mut file = File::create(directory.join("bare")).expect("a file");
    let mut piece = vec![0; bytes_per_commit.max(1)];
    let mut state = 1_u64;
    for byte in &mut piece {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *byte = (state >> 56) as u8;
    }
    let (started, mut written) = (Instant::now(), 0);
    while started.elapsed() < seconds() {
        file.write_all(&piece).expect("room on the disk");
        file.sync_data().expect("a sync");
        written += piece.len();
    }
    let per_second = written as f64 / started.elapsed().as_secs_f64();
    let _ = std::fs::remove_dir_all(&directory);
    per_second
}

/// Store and bare file in turns; every round, then the median of the ratios.
fn rounds(name: &str, measure: impl Fn() -> Measured) {
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let measured = measure();
        ratios.push(measured.of_bare());
        println!("{name}: {}  {:.2} of bare", measured.text, ratios[ratios.len() - 1]);
    }
    println!("{name}: {} of bare", common::spread(&ratios, 2));
}

fn main() {
    encoding();
    println!("\ndurable appends");
    for (rows_a_batch, page_bytes, with_sink) in [
        (1_000, 8_192, false),
        (1_000, 8_192, true),
        (1_000, 4_096, false),
        (1_000, 4_096, true),
        (1_000, 16_384, false),
        (1_000, 16_384, true),
        (64, 8_192, false),
        (64, 8_192, true),
        (1, 8_192, true),
    ] {
        let sink = if with_sink { "a sink that follows" } else { "no sink" };
        let load = Load { rows_a_batch, sources: 2, page_bytes, with_sink, rate: None };
        rounds(&format!("{rows_a_batch:>6} rows a batch, pages {page_bytes:>6}, {sink}"), || durable(&load));
    }
    println!("\nbatches that are encoded already, through the commit alone, without a sink");
    for page_bytes in [8_192, 4_096, 16_384] {
        rounds(&format!("  1000 rows a batch, pages {page_bytes:>6}"), || committed(1_000, page_bytes));
    }
    println!("\nat a given rate, pages of 8,192 bytes");
    for (rows_a_batch, rate) in [(64, 62_100.0), (64, 100_000.0), (1_000, 1_000_000.0)] {
        let measured = durable(&Load { rows_a_batch, sources: 2, page_bytes: 8_192, with_sink: true, rate: Some(rate) });
        println!("{rows_a_batch:>6} rows a batch, {rate:>9} rows/s: {}", measured.text);
    }
}

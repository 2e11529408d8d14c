//! The store against the disk: durable rows, and the same bytes appended to a bare file and synced, in turns in the same run. Then batches
//! that are encoded already, so that the disk's part and the encoding's can be told apart.
//!
//! `cargo bench --bench store` prints a table. `STORE_BENCH_DIR` names a directory on the disk to measure (default: the working
//! directory, since `/tmp` may be memory); `STORE_BENCH_SECONDS` how long each measurement takes (default 3).

use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant, SystemTime};

use qadf_edge::model::{Batch, Input, Positions, Seq, Stream, TagColumn, Timestamp};
use qadf_edge::store::encoding::{Decoder, encode_batch};
use qadf_edge::store::{Accepted, Append, CursorMove, Lane, StartAt, Store, StoreConfig, StoreError, Subscription, Writer};

/// Rows that are encoded before they are handed over, at a time.
const ENCODED_ROWS: usize = 4_000_000;

/// Rows of a melt pool sensor on a converter's grid, the shape of the prototype's measurements.
fn batch(rows: usize, first: i64, grid: bool) -> Batch {
    let stream = Arc::new(Stream::new("meltpool", &["intensity", "laser_power"], &["part"]));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64);
    let mut batch = Batch::new(stream, "scan_head".into(), "/dev/serial/by-id/usb-scan-head".into(), Timestamp(now));
    let mut state = first as u64 * 2 + 1;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    batch.time = (first..).take(rows).map(|row| 1_700_000_000_000_000_000 + row * 20_000 + (random() * 200.0) as i64).collect();
    for signal in 0..2 {
        let mut walk = 2_048.0;
        batch.signals[signal] = (0..rows)
            .map(|_| {
                walk += (random() - 0.5) * 20.0;
                if grid { f64::round(walk) / 1_000.0 } else { walk }
            })
            .collect();
    }
    batch.tags[0] = TagColumn::constant(Some("A3"), rows);
    let along = |step: f64| (0..rows).map(|row| f64::round((10.0 + row as f64 * step) * 1e4) / 1e4).collect();
    batch.positions = Some(Positions { x: along(0.016), y: along(0.007), z: vec![0.03; rows] });
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
    for (name, grid) in [("grid", true), ("full mantissas", false)] {
        for rows in [1, 64, 1_000] {
            let batch = batch(rows, 0, grid);
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
    let config =
        StoreConfig { page_bytes: load.page_bytes, max_bytes: 2_000_000_000, queue_bytes: 16 << 20, ..StoreConfig::default() };
    let (store, _) = Store::open(&directory, config).expect("a store");
    let writer = store.writer();
    let wish = Subscription { sink: "sink".into(), lane: Lane::Rows, only: None, start: StartAt::Oldest };
    writer.subscribe(wish).expect("a subscription");
    let (stop, rows) = (AtomicBool::new(false), Arc::new(AtomicU64::new(0)));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for source in 0..load.sources {
            let (writer, stop, rows) = (store.writer(), &stop, Arc::clone(&rows));
            scope.spawn(move || append(&writer, load, source, stop, &rows, started));
        }
        scope.spawn(|| {
            let mut reader = store.reader().expect("a reader");
            let mut at = Seq(0);
            while !stop.load(Ordering::Relaxed) {
                let page = reader.rows_after(at, 200_000, None).expect("rows");
                if page.through > at {
                    let delivered = page.batches.iter().map(|batch| batch.rows() as u64).sum();
                    let go =
                        CursorMove { sink: "sink".into(), lane: Lane::Rows, from: Seq(at.0 + 1), through: page.through, delivered };
                    writer.move_cursor_and_wait(go).expect("a cursor");
                    at = page.through;
                } else {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        });
        std::thread::sleep(seconds());
        stop.store(true, Ordering::Relaxed);
    });
    let measured = measured(&store, rows.load(Ordering::Relaxed), started.elapsed());
    drop(store);
    let _ = std::fs::remove_dir_all(&directory);
    measured
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

fn batches(rows: usize, source: usize) -> Vec<Arc<Batch>> {
    let numbered = |message: usize| {
        let mut batch = batch(rows, (message * rows) as i64, true);
        batch.partition = format!("partition {source}").into();
        Arc::new(batch)
    };
    (0..64).map(numbered).collect()
}

fn append(writer: &Writer, load: &Load, source: usize, stop: &AtomicBool, rows: &Arc<AtomicU64>, started: Instant) {
    let batches = batches(load.rows_a_batch, source);
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

fn main() {
    encoding();
    println!("\ndurable appends, with a sink that follows");
    for (rows_a_batch, sources, page_bytes) in
        [(1_000, 1, 4_096), (1_000, 2, 4_096), (1_000, 2, 16_384), (1_000, 2, 65_536), (64, 2, 4_096), (1, 2, 4_096)]
    {
        let measured = durable(&Load { rows_a_batch, sources, page_bytes, rate: None });
        println!(
            "{rows_a_batch:>6} rows a batch, {sources} sources, pages {page_bytes:>6}: {}  {:.2} of bare",
            measured.text,
            measured.of_bare()
        );
    }
    println!("\nbatches that are encoded already, through the commit alone, without a sink");
    for (rows_a_batch, page_bytes) in [(1_000, 4_096), (1_000, 16_384), (1_000, 65_536)] {
        let measured = committed(rows_a_batch, page_bytes);
        println!("{rows_a_batch:>6} rows a batch, pages {page_bytes:>6}: {}  {:.2} of bare", measured.text, measured.of_bare());
    }
    println!("\nat a given rate");
    for (rows_a_batch, rate) in [(64, 62_100.0), (64, 100_000.0), (1_000, 1_000_000.0)] {
        let measured = durable(&Load { rows_a_batch, sources: 2, page_bytes: 4_096, rate: Some(rate) });
        println!("{rows_a_batch:>6} rows a batch, {rate:>9} rows/s: {}", measured.text);
    }
}

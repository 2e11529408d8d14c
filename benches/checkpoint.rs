//! How long a checkpoint holds the engine up: copying the state, which is all that the engine's thread waits for, and how long another thread
//! then makes bytes of it; and, since keys that get rows meanwhile are copied then, the longest step beside that thread. The demo's rate, a checkpoint a second, and the state of a large line: 1,000 keys in windows with quantiles and in
//! charts, a voxel grid that is written to all over.
//!
//! `cargo bench --bench checkpoint` prints the pause of a second with its quantiles, and what a checkpoint comes to. `CHECKPOINT_KEYS` and
//! `CHECKPOINT_SECONDS` change how much there is.

#[path = "common/mod.rs"]
mod common;

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use common::{setting, spread};
use qadf_edge::{
    config,
    engine::{Clock, Emit, Engine, Parts, Step},
    model::{Batch, Input, Positions, Seq, Stream, TagColumn, Timestamp},
};

const ROWS_PER_SECOND: usize = 62_100;
const BATCH_ROWS: usize = 500;
const START_NS: i64 = 1_769_860_800_000_000_000;
const PARTS: [(&str, &str); 4] = [
    (
        "windows",
        r#"
[[pipelines.windows]]
id = "tumbling"
type = "tumbling"
size = "10s"
group_by = ["part"]
aggregate = { n = "count()", mean = "mean(intensity)", stddev = "stddev(intensity)", p99 = "quantile(intensity, 0.99)" }
[[pipelines.windows]]
id = "sliding"
type = "sliding"
size = "10s"
slide = "1s"
group_by = ["part"]
aggregate = { n = "count()", mean = "mean(intensity)", min = "min(intensity)", max = "max(intensity)" }
"#,
    ),
    (
        "charts",
        r#"
[[pipelines.charts]]
id = "xbar"
type = "xbar_r"
signal = "intensity"
subgroup = { size = 5 }
limits = { baseline = 25 }
group_by = ["part"]
rules = ["nelson"]
[[pipelines.charts]]
id = "i"
type = "i_mr"
signal = "intensity"
limits = { baseline = 100 }
group_by = ["part"]
rules = ["nelson"]
"#,
    ),
    (
        "voxels",
        r#"
[voxels.build]
stream = "s"
signals = ["intensity"]
origin = [0.0, 0.0, 0.0]
size = [250.0, 250.0, 60.0]
voxel = 0.5
"#,
    ),
    ("nothing", ""),
];

const STREAM: &str = r#"
[appliance]
id = "bench"
[streams.s]
signals = { intensity = "V", laser_power = "W" }
tags = ["part"]
watermark = { delay = "200ms" }
[[pipelines]]
id = "p"
stream = "s"
"#;

/// Rows of all keys in turn, on a raster over the plate with 100 µm between rows.
struct Rows {
    stream: Arc<Stream>,
    keys: Arc<[Arc<str>]>,
    next: usize,
    state: u64,
}

impl Rows {
    fn batch(&mut self) -> Input {
        let mut batch = Batch::new(Arc::clone(&self.stream), "bench".into(), "bench".into(), Timestamp(START_NS));
        let (mut positions, mut tags) = (Positions::default(), TagColumn::default());
        batch.first_seq = Seq(self.next as u64 + 1);
        for _ in 0..BATCH_ROWS {
            let row = self.next;
            self.next += 1;
            batch.time.push(START_NS + (row as i64) * 1_000_000_000 / ROWS_PER_SECOND as i64);
            positions.x.push((row as f64 * 0.1) % 250.0);
            positions.y.push((row / 2_500) as f64 * 0.1 % 250.0);
            positions.z.push(0.04);
            // xorshift64* (Vigna 2016)
            self.state ^= self.state >> 12;
            self.state ^= self.state << 25;
            self.state ^= self.state >> 27;
            let noise = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 44;
            batch.signals[0].push(73.5 + (noise % 1_000) as f64 / 1_000.0);
            batch.signals[1].push(200.0);
            tags.push(Some(&self.keys[row % self.keys.len()]));
        }
        (batch.tags, batch.positions) = (vec![tags], Some(positions));
        batch.arrival = Timestamp(batch.time[BATCH_ROWS - 1]);
        Input::Batch(Arc::new(batch))
    }
}

fn measure(name: &str, parts: &str, keys: u64, seconds: usize) {
    let config = config::parse(&format!("{STREAM}{parts}")).unwrap_or_else(|faults| panic!("{faults:?}"));
    let mut engine = Engine::new(&config.engine, Emit::Changes, Clock::Arrivals).expect("it fits together");
    let stream = Arc::clone(&config.engine.streams[0].stream);
    let keys = (0..keys).map(|key| format!("part {key}").into()).collect();
    let mut rows = Rows { stream, keys, next: 0, state: 88_172_645_463_325_252 };
    let mut step = Step::default();
    let (mut stepped, mut pauses, mut beside, mut encodings, mut bytes) = (0.0, Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut encoding: Option<JoinHandle<(Duration, Parts)>> = None;
    for second in 0..seconds + 10 {
        let mut longest = Duration::ZERO;
        for _ in 0..ROWS_PER_SECOND / BATCH_ROWS {
            let batch = rows.batch();
            let is_beside = encoding.as_ref().is_some_and(|encoding| !encoding.is_finished());
            let started = Instant::now();
            engine.step(&batch, &mut step);
            let took = started.elapsed();
            step.clear();
            stepped += took.as_secs_f64();
            longest = longest.max(if is_beside { took } else { Duration::ZERO });
        }
        if let Some(encoding) = encoding.take() {
            let (took, parts) = encoding.join().expect("it does not panic");
            // The first fill the windows and end the baselines.
            if second > 10 {
                beside.push(longest.as_secs_f64() * 1e3);
                encodings.push(took.as_secs_f64() * 1e3);
                bytes.push(parts.iter().map(|(_, bytes)| bytes.as_ref().map_or(0, Vec::len)).sum::<usize>() as f64 / 1e3);
            }
        }
        let started = Instant::now();
        let captured = engine.capture().expect("it serialises");
        if second >= 10 {
            pauses.push(started.elapsed().as_secs_f64() * 1e3);
        }
        encoding = Some(thread::spawn(move || {
            let started = Instant::now();
            let parts = captured.encode().expect("it serialises");
            (started.elapsed(), parts)
        }));
    }
    if let Some(encoding) = encoding {
        encoding.join().expect("it does not panic");
    }
    let mut sorted = pauses.clone();
    sorted.sort_by(f64::total_cmp);
    let p99 = sorted[(sorted.len() * 99).div_ceil(100) - 1];
    println!(
        "{name:<12} pause {} ms, p99 {p99:.2}; longest step of {BATCH_ROWS} rows beside the encoding {} ms; encoded in {} ms; \
         {} kB a checkpoint; rows take {:.0} ms a second",
        spread(&pauses, 2),
        spread(&beside, 2),
        spread(&encodings, 1),
        spread(&bytes, 0),
        stepped * 1e3 / (seconds + 10) as f64
    );
}

fn main() {
    let (keys, seconds) = (setting("CHECKPOINT_KEYS", 1_000), setting("CHECKPOINT_SECONDS", 50) as usize);
    println!("{keys} keys, {ROWS_PER_SECOND} rows and a checkpoint a second");
    for (name, part) in PARTS {
        measure(name, part, keys, seconds);
    }
    measure("all of it", &PARTS.map(|(_, part)| part).concat(), keys, seconds);
}

//! `bench`: the whole path on this machine: decoded rows → inbox (durable) → engine → outbox (durable).
//!
//! Rows of `--streams` streams in batches of 1,000, as a fast decoder hands them on; every row has a position, two signals and a tag, and goes
//! through a tumbling window, an X̄-R chart and a voxel grid. The rows are made before the clock starts, but for their times; as many parcels
//! are under way as the store takes.

use std::{
    fmt::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    Failure, fresh, runtime,
    totals::{Given, Totals},
};
use crate::{
    appliance::{Appliance, Brokers, Usage},
    config::{self, Config},
    ingest::{Accepted, InboxError, decode::Decoded},
    model::{Batch, Positions, Stream, TagColumn, Timestamp},
    status::SourceRows,
};

/// What `bench` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// How many rows in all
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1000..))]
    rows: u64,
    /// Over how many streams
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=64))]
    streams: u64,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

const BATCH_ROWS: usize = 1000;
/// Different batches of a stream; then they repeat, later.
const POOL: usize = 64;
/// Between two rows of a stream.
const PERIOD_NS: i64 = 100_000;
/// Parcels under way.
const UNDER_WAY_MAX: usize = 256;
/// How long the engine may take for what is left.
const CATCH_UP_MAX: Duration = Duration::from_mins(2);

/// Runs it.
///
/// # Errors
/// No fresh directory on a disk, or an address that cannot be had.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let folder = fresh("qadf-edge-bench").map_err(Failure::failed)?;
    let totals = runtime()?.block_on(load(arguments, &folder.path))?;
    println!("{}", if arguments.json { totals.to_json() } else { totals.to_text() });
    Ok(())
}

fn configuration(streams: u64, folder: &std::path::Path) -> Result<Config, Failure> {
    let mut text = String::from("[appliance]\nid = \"bench\"\n[store]\nmax_bytes = \"20GB\"\n");
    for number in 0..streams {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            r#"
[streams.s{number}]
signals = {{ intensity = "V", laser_power = "W" }}
tags = ["part"]
watermark = {{ delay = "1s", idle = "1h", max_future = "36500d" }}
[[pipelines]]
id = "p{number}"
stream = "s{number}"
[[pipelines.windows]]
id = "w{number}"
type = "tumbling"
size = "1s"
aggregate = {{ n = "count()", mean = "mean(intensity)", min = "min(intensity)", max = "max(intensity)" }}
[[pipelines.charts]]
id = "c{number}"
type = "xbar_r"
signal = "intensity"
subgroup = {{ size = 5 }}
limits = {{ baseline = 100 }}
rules = ["nelson_1"]
[voxels.g{number}]
stream = "s{number}"
signals = ["intensity"]
origin = [0.0, 0.0, 0.0]
size = [250.0, 250.0, 60.0]
voxel = 0.5
"#
        );
    }
    let mut config = config::parse(&text)
        .map_err(|faults| Failure::Failed(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")))?;
    config.appliance.data_dir = folder.join("data");
    config.http.api = super::free_port(config.http.api);
    config.http.metrics = super::free_port(config.http.metrics);
    Ok(config)
}

/// Batches of one stream: a laser going to and fro over a square, a signal around 74 with noise.
fn pool(stream: &Arc<Stream>, seed: u64) -> Vec<Batch> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut noise = move || {
        // xorshift64* (Vigna 2016); the top 53 bits as a fraction.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1_u64 << 53) as f64
    };
    (0..POOL)
        .map(|number| {
            let mut batch = Batch::new(Arc::clone(stream), "bench".into(), "bench".into(), Timestamp(0));
            let mut positions = Positions::default();
            for row in 0..BATCH_ROWS {
                let along = row as f64 * 0.1 % 20.0;
                positions.x.push(50.0 + if number % 2 == 0 { along } else { 20.0 - along });
                positions.y.push(50.0 + number as f64 * 0.1);
                positions.z.push(0.04);
            }
            let centred: Vec<f64> = (0..BATCH_ROWS).map(|_| 74.0 + (noise() + noise() + noise() - 1.5) * 0.02).collect();
            // A converter's grid, as a real sensor has it.
            batch.signals = vec![
                centred.iter().map(|value| (value * 1000.0).round() / 1000.0).collect(),
                (0..BATCH_ROWS).map(|_| 200.0 + (noise() * 10.0).round() / 10.0).collect(),
            ];
            batch.tags = vec![TagColumn::constant(Some("1"), BATCH_ROWS)];
            batch.positions = Some(positions);
            batch.time = vec![0; BATCH_ROWS];
            batch
        })
        .collect()
}

type Synced = oneshot::Receiver<Result<Accepted, InboxError>>;

async fn load(arguments: &Arguments, folder: &std::path::Path) -> Result<Totals, Failure> {
    let config = configuration(arguments.streams, folder)?;
    let streams = config.streams();
    let data_dir = config.appliance.data_dir.clone();
    let appliance = Appliance::start(config, &mut Brokers::new()).await.map_err(Failure::failed)?;
    let pools: Vec<Vec<Batch>> = streams.iter().zip(1..).map(|(stream, seed)| pool(stream, seed)).collect();
    let intake = appliance.intake();
    let cpu_seconds_before = Usage::now().cpu_seconds;
    let begun = crate::appliance::now();
    let mut under_way: std::collections::VecDeque<Synced> = std::collections::VecDeque::new();
    let mut accepted = 0;
    let mut sent = 0;
    for round in 0_usize.. {
        for pool in &pools {
            if sent >= arguments.rows {
                break;
            }
            let mut batch = pool[round % POOL].clone();
            let first = begun.0 + (round * BATCH_ROWS) as i64 * PERIOD_NS;
            batch.time.iter_mut().zip(0_i64..).for_each(|(time, row)| *time = first + row * PERIOD_NS);
            batch.arrival = crate::appliance::now();
            sent += batch.rows() as u64;
            let (synced, answer) = oneshot::channel();
            let mut decoded = Decoded::default();
            decoded.batches.push(batch);
            intake.take(decoded, synced).await;
            under_way.push_back(answer);
            if under_way.len() >= UNDER_WAY_MAX
                && let Some(oldest) = under_way.pop_front()
            {
                accepted += answered(oldest).await?;
            }
        }
        if sent >= arguments.rows {
            break;
        }
    }
    for answer in under_way {
        accepted += answered(answer).await?;
    }
    let begun_waiting = Instant::now();
    if !appliance.caught_up(CATCH_UP_MAX).await {
        return Err(Failure::Failed(format!("the engine is not through after {:.0} s", begun_waiting.elapsed().as_secs_f64())));
    }
    let summary = appliance.stop().await;
    let rows = SourceRows { received: sent, accepted, ..SourceRows::default() };
    Ok(Totals::new(&summary, Given { rows, missing: sent - accepted, cpu_seconds_before }, &data_dir))
}

async fn answered(answer: Synced) -> Result<u64, Failure> {
    match answer.await {
        Ok(Ok(accepted)) => Ok(accepted.rows),
        Ok(Err(error)) => Err(Failure::failed(error)),
        Err(_) => Err(Failure::Failed("the inbox gave no answer".into())),
    }
}

//! Mean intensity of each part, second by second, of a melt pool sensor whose rows come out of order: `cargo run --example windowed_mean`.
//!
//! Rows without exposure are left out; a part's windows fire once no earlier row is expected; parts that ran cold go to a file too.

use std::time::Duration;

use qadf_edge::{
    model::WindowResult,
    processor::{
        ConsoleSink, FileSink, GeneratorSource, MemorySink, ProcessorError, StreamConfig, StreamProcessor, TumblingWindow,
        Watermark, count, mean, quantile,
    },
};

/// One sample of the sensor.
#[derive(Clone, Debug)]
struct Sample {
    at_ms: i64,
    part: &'static str,
    laser_power: f64,
    intensity: f64,
}

/// What a second of a part looked like.
#[derive(Clone, Debug, serde::Serialize)]
struct Second {
    part: String,
    start: String,
    samples: i64,
    mean: f64,
    p99: f64,
}

/// A thousand samples a second of three parts, each up to 40 ms late, for five seconds.
fn sample(n: u64) -> Sample {
    let wave = (n as f64 * 0.01).sin();
    Sample {
        at_ms: 1_700_000_000_000 + n as i64 - (n * 7919 % 40) as i64,
        part: ["bracket", "strut", "block"][n as usize % 3],
        laser_power: if n % 50 < 45 { 195.0 } else { 0.0 },
        intensity: 3.2 + 0.2 * wave,
    }
}

#[expect(clippy::needless_pass_by_value, reason = "rows are handed on by value")]
fn second(window: WindowResult) -> Result<Second, String> {
    Ok(Second {
        part: window.tag("part").ok_or("no part")?.to_owned(),
        start: window.start.to_string(),
        samples: window.integer("samples").ok_or("no count")?,
        mean: window.real("mean").ok_or("no mean")?,
        p99: window.real("p99").ok_or("no quantile")?,
    })
}

fn main() -> Result<(), ProcessorError> {
    let cold = std::env::temp_dir().join(format!("cold-{}.jsonl", std::process::id()));
    let all = MemorySink::new();
    let mut processor = StreamProcessor::new(StreamConfig::default().parallelism(2));
    processor
        .from_source(GeneratorSource::new(sample).rows(5_000))
        .filter(|sample| sample.laser_power > 50.0)
        .with_watermark(Watermark::by_ms(|sample: &Sample| sample.at_ms).delay(Duration::from_millis(50)))
        .window(TumblingWindow::new(Duration::from_secs(1)))
        .group_by("part", |sample| sample.part)
        .aggregate([
            count().alias("samples"),
            mean(|sample: &Sample| sample.intensity).alias("mean"),
            quantile(0.99, |sample: &Sample| sample.intensity).alias("p99"),
        ])
        .try_map(second)
        .to_sink(ConsoleSink::new())
        .to_sink(all.clone())
        .filter(|second| second.mean < 3.2)
        .to_sink(FileSink::json_lines(&cold));

    processor.start()?;
    if !processor.await_termination(Some(Duration::from_hours(1))) {
        processor.stop(true);
    }
    if let Some(error) = processor.error() {
        return Err(error);
    }
    let metrics = processor.metrics();
    println!(
        "{} samples, {} seconds, {} late; cold ones in {}",
        metrics.records_processed,
        all.len(),
        metrics.late_records,
        cold.display()
    );
    for step in &metrics.steps {
        println!("{:>16}: {:6} in, {:6} out, {:?}", step.name, step.rows_in, step.rows_out, step.time);
    }
    Ok(())
}

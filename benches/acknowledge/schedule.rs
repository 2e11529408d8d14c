//! When what is sent, and how long the acknowledgements took.

use std::{
    fmt::Write,
    thread,
    time::{Duration, Instant},
};

use super::common::{now, setting};

/// What is sent.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Rows a second.
    pub rate: u64,
    /// Rows in a request or message.
    pub rows: u64,
    /// How long.
    pub duration: Duration,
    /// How often.
    pub runs: u64,
}

impl Load {
    /// What the environment asks for, or what is usual.
    pub fn from_environment() -> Self {
        Self {
            rate: setting("ACKNOWLEDGE_RATE", 100_000),
            rows: setting("ACKNOWLEDGE_ROWS", 100),
            duration: Duration::from_secs(setting("ACKNOWLEDGE_SECONDS", 10)),
            runs: setting("ACKNOWLEDGE_RUNS", 5),
        }
    }

    /// From one request or message to the next.
    pub fn period(&self) -> Duration {
        Duration::from_secs_f64(self.rows as f64 / self.rate as f64)
    }

    /// Requests or messages in a run.
    pub fn count(&self) -> u64 {
        (self.duration.as_secs_f64() / self.period().as_secs_f64()) as u64
    }
}

/// Latencies of a run, ms.
#[derive(Default)]
pub struct Latencies {
    /// One a request or message.
    pub all: Vec<f64>,
    /// From the first that was due to the last acknowledgement.
    pub took: Duration,
}

impl Latencies {
    /// So many are at most this.
    pub fn quantile(&mut self, share: f64) -> f64 {
        self.all.sort_by(f64::total_cmp);
        let at = ((self.all.len() as f64 * share).ceil() as usize).clamp(1, self.all.len().max(1)) - 1;
        self.all.get(at).copied().unwrap_or(f64::NAN)
    }

    /// Of what was acknowledged.
    pub fn rows_per_second(&self, load: &Load) -> f64 {
        self.all.len() as f64 * load.rows as f64 / self.took.as_secs_f64()
    }
}

/// Waits until `due`.
pub fn wait_until(due: Instant) {
    thread::sleep(due.saturating_duration_since(Instant::now()));
}

/// `rows` rows from now on, the row after the last 10 µs later, one in a line.
pub fn rows(rows: u64, number: u64, separator: char) -> String {
    let (mut text, first) = (String::with_capacity(rows as usize * 110), now().0);
    for row in 0..rows {
        let at = (number * rows + row) % 20_000;
        if row > 0 {
            text.push(separator);
        }
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            r#"{{"time":{},"x":{}.{:03},"y":50.5,"z":0.04,"part":"A{}","intensity":{}.{:03},"laser_power":200.1}}"#,
            first + row as i64 * 10_000,
            at / 1_000,
            at % 1_000,
            at % 4,
            73 + at % 3,
            at * 7 % 1_000,
        );
    }
    text
}

//! What the engine's thread shows of itself, and is told.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use super::{fold::NextEngine, locked, view::EngineView};
use crate::{status::DURATION_BOUNDS_SECONDS, store::RecordNo};

/// A row slower than ten minutes counts as one of ten minutes.
const LATENCY_US_MAX: u64 = 600_000_000;

/// What the engine's thread has measured.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// Rows that went through the engine since the start.
    pub rows_processed: u64,
    /// From decoding to the commit of the step, milliseconds: half of the rows are faster.
    pub latency_ms_p50: f64,
    /// 99 % of the rows are faster.
    pub latency_ms_p99: f64,
    /// The slowest row.
    pub latency_ms_max: f64,
    /// When the first row since the start was committed to the inbox, and when the last one had gone through.
    pub first_to_last: Option<(Instant, Instant)>,
    /// Steps by duration: cumulative counts at the bounds of the metric, then all.
    pub step_seconds_buckets: Vec<u64>,
    /// Sum of all step durations.
    pub step_seconds_sum: f64,
    /// How long a checkpoint held the engine up, milliseconds: half of them were shorter.
    pub checkpoint_ms_p50: f64,
    /// 99 % of the checkpoints were shorter.
    pub checkpoint_ms_p99: f64,
    /// The longest.
    pub checkpoint_ms_max: f64,
    /// Checkpoints by duration, as the steps.
    pub checkpoint_seconds_buckets: Vec<u64>,
    /// Sum of all checkpoints' durations.
    pub checkpoint_seconds_sum: f64,
}

/// Durations by the bounds of the metrics.
#[derive(Default)]
struct Durations {
    buckets: [u64; DURATION_BOUNDS_SECONDS.len() + 1],
    seconds_sum: f64,
}

impl Durations {
    fn add(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = DURATION_BOUNDS_SECONDS.iter().position(|bound| seconds <= *bound);
        self.buckets[bucket.unwrap_or(DURATION_BOUNDS_SECONDS.len())] += 1;
        self.seconds_sum += seconds;
    }

    fn cumulative(&self) -> Vec<u64> {
        let mut cumulative = 0;
        let sum = |count: &u64| {
            cumulative += count;
            cumulative
        };
        self.buckets.iter().map(sum).collect()
    }
}

struct Measured {
    latency_us: Histogram<u64>,
    /// Of the rows since somebody asked last, to two digits.
    latency_us_newest: Histogram<u64>,
    rows_processed: u64,
    first_to_last: Option<(Instant, Instant)>,
    steps: Durations,
    checkpoints: Durations,
    checkpoint_us: Histogram<u64>,
}

/// What others see of the engine's thread, and tell it.
pub(super) struct Shared {
    pub(super) through: AtomicU64,
    pub(super) stop_after: Mutex<Option<u64>>,
    pub(super) beat: Mutex<Instant>,
    pub(super) failure: Mutex<Option<String>>,
    /// What the engine shall go on as.
    pub(super) next_engine: Mutex<Option<NextEngine>>,
    measured: Mutex<Option<Measured>>,
    pub(super) view: Mutex<EngineView>,
}

impl Default for Shared {
    fn default() -> Self {
        let histogram = |digits| Histogram::new_with_bounds(1, LATENCY_US_MAX, digits).ok();
        let histograms = histogram(3).zip(histogram(2)).zip(histogram(2));
        let measured = histograms.map(|((latency_us, latency_us_newest), checkpoint_us)| Measured {
            latency_us,
            latency_us_newest,
            rows_processed: 0,
            first_to_last: None,
            steps: Durations::default(),
            checkpoints: Durations::default(),
            checkpoint_us,
        });
        Self {
            through: AtomicU64::new(0),
            stop_after: Mutex::new(None),
            beat: Mutex::new(Instant::now()),
            failure: Mutex::new(None),
            next_engine: Mutex::new(None),
            measured: Mutex::new(measured),
            view: Mutex::new(EngineView::default()),
        }
    }
}

impl Shared {
    /// The last record whose step is committed.
    pub fn through(&self) -> u64 {
        self.through.load(Ordering::Acquire)
    }

    /// Ends the thread once everything up to `record` has gone through.
    pub fn stop_after(&self, record: u64) {
        *locked(&self.stop_after) = Some(record);
    }

    /// Since the thread last looked around.
    pub fn idle_for(&self) -> Duration {
        locked(&self.beat).elapsed()
    }

    /// Something has ended that should not: the process has to start again.
    pub fn fail(&self, why: String) {
        locked(&self.failure).get_or_insert(why);
    }

    /// Why the thread has ended on its own, if it has.
    pub fn failure(&self) -> Option<String> {
        locked(&self.failure).clone()
    }

    /// The newest view for the status page.
    pub fn view(&self) -> EngineView {
        locked(&self.view).clone()
    }

    /// See [`Figures`].
    pub fn figures(&self) -> Figures {
        let measured = locked(&self.measured);
        let Some(measured) = &*measured else { return Figures::default() };
        let ms = |us: u64| us as f64 / 1e3;
        Figures {
            rows_processed: measured.rows_processed,
            latency_ms_p50: ms(measured.latency_us.value_at_quantile(0.5)),
            latency_ms_p99: ms(measured.latency_us.value_at_quantile(0.99)),
            latency_ms_max: ms(measured.latency_us.max()),
            first_to_last: measured.first_to_last,
            step_seconds_buckets: measured.steps.cumulative(),
            step_seconds_sum: measured.steps.seconds_sum,
            checkpoint_ms_p50: ms(measured.checkpoint_us.value_at_quantile(0.5)),
            checkpoint_ms_p99: ms(measured.checkpoint_us.value_at_quantile(0.99)),
            checkpoint_ms_max: ms(measured.checkpoint_us.max()),
            checkpoint_seconds_buckets: measured.checkpoints.cumulative(),
            checkpoint_seconds_sum: measured.checkpoints.seconds_sum,
        }
    }

    /// 99 % of the rows since this was asked last are faster, milliseconds; none if there were none.
    pub fn latency_ms_newest(&self) -> Option<f64> {
        let mut measured = locked(&self.measured);
        let newest = &mut measured.as_mut()?.latency_us_newest;
        let p99 = (!newest.is_empty()).then(|| newest.value_at_quantile(0.99) as f64 / 1e3);
        newest.reset();
        p99
    }

    pub fn stepped(&self, took: Duration) {
        if let Some(measured) = &mut *locked(&self.measured) {
            measured.steps.add(took);
        }
    }

    /// A checkpoint held the engine up for so long.
    pub fn checkpointed(&self, took: Duration) {
        if let Some(measured) = &mut *locked(&self.measured) {
            measured.checkpoints.add(took);
            measured.checkpoint_us.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        }
    }

    /// A step with these rows is committed.
    pub fn committed(&self, through: RecordNo, rows: &[(Option<Instant>, u64)]) {
        let now = Instant::now();
        if let Some(measured) = &mut *locked(&self.measured) {
            for (decoded_at, rows) in rows.iter().filter(|(_, rows)| *rows > 0) {
                measured.rows_processed += rows;
                let first = measured.first_to_last.map_or(decoded_at.unwrap_or(now), |(first, _)| first);
                measured.first_to_last = Some((first, now));
                if let Some(decoded_at) = decoded_at {
                    let us = u64::try_from(now.duration_since(*decoded_at).as_micros()).unwrap_or(u64::MAX);
                    measured.latency_us.saturating_record(us);
                    // One call a batch is enough: its rows have the same latency.
                    let us = us.clamp(1, LATENCY_US_MAX);
                    let _ = measured.latency_us.record_n(us, rows.saturating_sub(1));
                    let _ = measured.latency_us_newest.record_n(us, *rows);
                }
            }
        }
        self.through.fetch_max(through.0, Ordering::AcqRel);
    }
}

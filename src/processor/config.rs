//! What a processor, a watermark and a window are told.

use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::{
    dataflow::{Accumulation, AllIdle, WatermarkConfig, WatermarkMode, WindowConfig, WindowError, WindowKind},
    model::Timestamp,
};

/// How often what a row gives reaches a sink, also when the program ends in between and is started again with the same checkpoint directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord)]
pub enum DeliveryGuarantee {
    /// Never twice; what is under way when the program ends is lost. The sources' positions are saved before rows are processed.
    AtMostOnce,
    /// Never lost; what comes after the last checkpoint is repeated.
    AtLeastOnce,
    /// Never lost, never twice: a sink goes back to what it held at the checkpoint, or makes its part of a checkpoint visible in one
    /// transaction. Without a checkpoint directory this holds for as long as the program runs.
    #[default]
    ExactlyOnce,
}

/// What a processor is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamConfig {
    /// Where checkpoints are kept; none = nothing survives the program.
    pub checkpoint_dir: Option<PathBuf>,
    /// From one checkpoint to the next.
    pub checkpoint_interval: Duration,
    /// How much out of order rows may be, where [`Watermark::delay`] does not say.
    pub watermark_delay: Duration,
    /// At most this many rows go through the steps together.
    pub max_records_per_batch: usize,
    /// How often results reach a sink.
    pub delivery_guarantee: DeliveryGuarantee,
    /// Threads that the keys of a window are spread over.
    pub parallelism: usize,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            checkpoint_dir: None,
            checkpoint_interval: Duration::from_secs(10),
            watermark_delay: Duration::from_secs(5),
            max_records_per_batch: 10_000,
            delivery_guarantee: DeliveryGuarantee::ExactlyOnce,
            parallelism: 1,
        }
    }
}

impl StreamConfig {
    /// Keeps checkpoints in `dir`.
    #[must_use]
    pub fn checkpoint_dir(self, dir: impl Into<PathBuf>) -> Self {
        Self { checkpoint_dir: Some(dir.into()), ..self }
    }

    /// Saves a checkpoint every `interval`.
    #[must_use]
    pub fn checkpoint_interval(self, checkpoint_interval: Duration) -> Self {
        Self { checkpoint_interval, ..self }
    }

    /// Expects rows to be out of order by at most this.
    #[must_use]
    pub fn watermark_delay(self, watermark_delay: Duration) -> Self {
        Self { watermark_delay, ..self }
    }

    /// Takes at most so many rows at a time.
    #[must_use]
    pub fn max_records_per_batch(self, max_records_per_batch: usize) -> Self {
        Self { max_records_per_batch, ..self }
    }

    /// Delivers results so often.
    #[must_use]
    pub fn delivery_guarantee(self, delivery_guarantee: DeliveryGuarantee) -> Self {
        Self { delivery_guarantee, ..self }
    }

    /// Spreads keys over so many threads.
    #[must_use]
    pub fn parallelism(self, parallelism: usize) -> Self {
        Self { parallelism, ..self }
    }
}

/// Nanoseconds of a duration, stopping at 292 years.
pub(super) fn ns(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// What a row states of the watermark, if it does.
type MarkOf<T> = Box<dyn FnMut(&T) -> Option<Timestamp> + Send>;

/// The times of some rows.
type TimeOf<T> = Box<dyn FnMut(&[T], &mut Vec<i64>) + Send>;

/// How event time is read from rows, and how it progresses.
pub struct Watermark<T> {
    pub(super) time_of: TimeOf<T>,
    pub(super) delay: Option<Duration>,
    pub(super) idle: Option<Duration>,
    pub(super) max_future: Option<Duration>,
    pub(super) all_idle: AllIdle,
    pub(super) mark_of: Option<MarkOf<T>>,
}

impl<T> Watermark<T> {
    /// The time of a row is what `time_of` says.
    pub fn by(mut time_of: impl FnMut(&T) -> Timestamp + Send + 'static) -> Self {
        let time_of: TimeOf<T> = Box::new(move |rows, times| times.extend(rows.iter().map(|row| time_of(row).0)));
        Self { time_of, delay: None, idle: None, max_future: None, all_idle: AllIdle::Close, mark_of: None }
    }

    /// The time of a row is what `time_of` says, milliseconds since 1970.
    pub fn by_ms(mut time_of: impl FnMut(&T) -> i64 + Send + 'static) -> Self {
        Self::by(move |row| Timestamp(time_of(row).saturating_mul(1_000_000)))
    }

    /// Rows may be out of order by this much.
    #[must_use]
    pub fn delay(self, delay: Duration) -> Self {
        Self { delay: Some(delay), ..self }
    }

    /// A source partition that is silent for this long holds the others up no longer.
    #[must_use]
    pub fn idle(self, idle: Duration) -> Self {
        Self { idle: Some(idle), ..self }
    }

    /// A row further ahead of the clock than this goes on, but into no window, and moves no watermark.
    #[must_use]
    pub fn max_future(self, max_future: Duration) -> Self {
        Self { max_future: Some(max_future), ..self }
    }

    /// What happens when every partition is silent; without [`Watermark::idle`] none ever is.
    #[must_use]
    pub fn all_idle(self, all_idle: AllIdle) -> Self {
        Self { all_idle, ..self }
    }

    /// Only what rows state moves the watermark: behind one for which `mark_of` gives a time, nothing earlier is expected of its partition.
    #[must_use]
    pub fn punctuated(self, mark_of: impl FnMut(&T) -> Option<Timestamp> + Send + 'static) -> Self {
        Self { mark_of: Some(Box::new(mark_of)), ..self }
    }

    pub(super) fn config(&self, default_delay: Duration) -> WatermarkConfig {
        WatermarkConfig {
            mode: if self.mark_of.is_some() { WatermarkMode::Punctuated } else { WatermarkMode::Bounded },
            delay_ns: ns(self.delay.unwrap_or(default_delay)),
            idle_ns: self.idle.map(ns),
            max_future_ns: self.max_future.map(ns),
            all_idle: self.all_idle,
        }
    }
}

/// Windows of equal size that do not overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TumblingWindow {
    size: Duration,
    offset: Duration,
    timezone: Option<String>,
}

impl TumblingWindow {
    /// Windows of this size, aligned to 1970-01-01T00:00:00Z.
    pub fn new(size: Duration) -> Self {
        Self { size, offset: Duration::ZERO, timezone: None }
    }

    /// Moves the bounds.
    #[must_use]
    pub fn offset(self, offset: Duration) -> Self {
        Self { offset, ..self }
    }

    /// Aligns to midnight of an IANA time zone: whole days are calendar days, shorter windows keep their hours on the wall clock.
    #[must_use]
    pub fn timezone(self, timezone: &str) -> Self {
        Self { timezone: Some(timezone.to_owned()), ..self }
    }
}

/// Windows of equal size that begin a slide apart, and overlap if the slide is less than the size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlidingWindow {
    size: Duration,
    slide: Duration,
    offset: Duration,
}

impl SlidingWindow {
    /// Windows of this size, one each slide.
    pub fn new(size: Duration, slide: Duration) -> Self {
        Self { size, slide, offset: Duration::ZERO }
    }

    /// Moves the bounds.
    #[must_use]
    pub fn offset(self, offset: Duration) -> Self {
        Self { offset, ..self }
    }
}

/// Windows around rows of a key that follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionWindow {
    gap: Duration,
    max_duration: Option<Duration>,
}

impl SessionWindow {
    /// A silence longer than `gap` ends a session.
    pub fn new(gap: Duration) -> Self {
        Self { gap, max_duration: None }
    }

    /// A session is cut this long after its first row.
    #[must_use]
    pub fn max_duration(self, max_duration: Duration) -> Self {
        Self { max_duration: Some(max_duration), ..self }
    }
}

/// The kinds of windows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WindowSpec {
    /// One after the other.
    Tumbling(TumblingWindow),
    /// A slide apart.
    Sliding(SlidingWindow),
    /// Around rows that follow each other.
    Session(SessionWindow),
}

impl From<TumblingWindow> for WindowSpec {
    fn from(window: TumblingWindow) -> Self {
        Self::Tumbling(window)
    }
}

impl From<SlidingWindow> for WindowSpec {
    fn from(window: SlidingWindow) -> Self {
        Self::Sliding(window)
    }
}

impl From<SessionWindow> for WindowSpec {
    fn from(window: SessionWindow) -> Self {
        Self::Session(window)
    }
}

const DAY_NS: i64 = 86_400_000_000_000;

impl WindowSpec {
    /// The engine's words for it, without keys and aggregates.
    pub(super) fn config(&self, allowed_lateness: Duration, accumulation: Accumulation) -> Result<WindowConfig, WindowError> {
        let (kind, offset, timezone) = match self {
            Self::Tumbling(window) => {
                let size_ns = ns(window.size);
                let days = window.timezone.as_ref().filter(|_| size_ns > 0 && size_ns % DAY_NS == 0).map(|_| size_ns / DAY_NS);
                let calendar_days = days.and_then(|days| u32::try_from(days).ok());
                (WindowKind::Tumbling { size_ns, calendar_days }, window.offset, window.timezone.as_deref())
            }
            Self::Sliding(window) => {
                (WindowKind::Sliding { size_ns: ns(window.size), slide_ns: ns(window.slide) }, window.offset, None)
            }
            Self::Session(window) => {
                let kind = WindowKind::Session { gap_ns: ns(window.gap), max_duration_ns: window.max_duration.map(ns) };
                (kind, Duration::ZERO, None)
            }
        };
        let timezone = timezone.map(|name| {
            let message = format!("there is no time zone `{name}`: use an IANA name such as Europe/Berlin");
            jiff::tz::TimeZone::get(name).map_err(|_| WindowError { key: "timezone", message })
        });
        let config = WindowConfig {
            id: Arc::from("window"),
            kind,
            offset_ns: ns(offset),
            allowed_lateness_ns: ns(allowed_lateness),
            accumulation,
            timezone: timezone.transpose()?,
            group_by: Vec::new(),
            aggregates: Vec::new(),
        };
        config.check()?;
        Ok(config)
    }
}

/// Time since 1970 by the clock of this machine.
pub(super) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp(ns(since))
}

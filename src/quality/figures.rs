//! Limits on the appliance's own figures: what is beyond one for a while becomes an alert.
//!
//! A figure that is not known (no row came, so nothing has a latency) is beyond no limit. What lasts is told once, and again after it had
//! been within. Comparisons are strict: a figure on a limit is within.

use crate::model::{Severity, Timestamp};

/// What can be limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    /// Rows a second that reach the engine, of all streams.
    RowsPerSecond,
    /// 99th percentile of the newest rows, from decoding to the commit of their step, milliseconds.
    LatencyMs,
    /// Share of rows that were rejected, 0 to 1.
    ErrorShare,
    /// Share of all cores in use by the appliance, 0 to 1.
    CpuShare,
    /// Resident memory, bytes.
    MemoryBytes,
    /// Rows that wait for the sink that is furthest behind.
    WaitingRows,
}

impl Figure {
    /// All of them, by the name in configuration and alerts.
    pub const ALL: [(&'static str, Self); 6] = [
        ("rows_per_second", Self::RowsPerSecond),
        ("latency_ms", Self::LatencyMs),
        ("error_share", Self::ErrorShare),
        ("cpu_share", Self::CpuShare),
        ("memory_bytes", Self::MemoryBytes),
        ("waiting_rows", Self::WaitingRows),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, figure)| *figure == self).map_or("", |(name, _)| name)
    }
}

/// The figures of this moment; `None` = not known.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[allow(missing_docs)]
pub struct Figures {
    pub rows_per_second: Option<f64>,
    pub latency_ms: Option<f64>,
    pub error_share: Option<f64>,
    pub cpu_share: Option<f64>,
    pub memory_bytes: Option<f64>,
    pub waiting_rows: Option<f64>,
}

impl Figures {
    fn of(&self, figure: Figure) -> Option<f64> {
        match figure {
            Figure::RowsPerSecond => self.rows_per_second,
            Figure::LatencyMs => self.latency_ms,
            Figure::ErrorShare => self.error_share,
            Figure::CpuShare => self.cpu_share,
            Figure::MemoryBytes => self.memory_bytes,
            Figure::WaitingRows => self.waiting_rows,
        }
    }
}

/// A limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FigureLimit {
    /// On what.
    pub figure: Figure,
    /// It should not be above.
    pub above: Option<f64>,
    /// It should not be below.
    pub below: Option<f64>,
    /// For how long it may be, nanoseconds.
    pub lasting_ns: i64,
    /// How much it matters.
    pub severity: Severity,
}

impl FigureLimit {
    /// How long a figure may be beyond unless another time is given.
    pub const LASTING_NS: i64 = 10_000_000_000;

    /// The limits that hold unless others are configured. How many rows a second are few only the machine's owner knows: none on those.
    pub fn defaults() -> Vec<Self> {
        let above =
            |figure, above, severity| Self { figure, above: Some(above), below: None, lasting_ns: Self::LASTING_NS, severity };
        vec![
            above(Figure::LatencyMs, 1000.0, Severity::Critical),
            above(Figure::ErrorShare, 0.05, Severity::Critical),
            above(Figure::CpuShare, 0.8, Severity::Medium),
            above(Figure::MemoryBytes, 1e9, Severity::Medium),
            above(Figure::WaitingRows, 1e6, Severity::Medium),
        ]
    }

    /// In words, if `value` is beyond.
    fn crossed(&self, value: f64) -> Option<String> {
        let (name, seconds) = (self.figure.name(), self.lasting_ns as f64 / 1e9);
        let words = |side: &str, limit: f64| format!("{name}: {value} is {side} {limit}, for {seconds} s and longer");
        match (self.above, self.below) {
            (Some(above), _) if value > above => Some(words("above", above)),
            (_, Some(below)) if value < below => Some(words("below", below)),
            _ => None,
        }
    }
}

/// What is beyond its limit for too long.
#[derive(Debug, Clone, PartialEq)]
pub struct Crossing {
    /// Of what.
    pub figure: Figure,
    /// How much it matters.
    pub severity: Severity,
    /// In words.
    pub message: String,
}

/// Limits, and since when each is crossed.
#[derive(Debug)]
pub struct FigureWatch {
    /// With each: since when it is crossed, and whether that was told.
    limits: Vec<(FigureLimit, Option<(Timestamp, bool)>)>,
}

impl FigureWatch {
    /// A watch over `limits`.
    pub fn new(limits: &[FigureLimit]) -> Self {
        Self { limits: limits.iter().map(|limit| (*limit, None)).collect() }
    }

    /// What has to be told now.
    pub fn due(&mut self, figures: &Figures, at: Timestamp) -> Vec<Crossing> {
        let mut due = Vec::new();
        for (limit, since) in &mut self.limits {
            let Some(message) = figures.of(limit.figure).and_then(|value| limit.crossed(value)) else {
                *since = None;
                continue;
            };
            let (start, told) = since.get_or_insert((at, false));
            if !*told && at.0.saturating_sub(start.0) >= limit.lasting_ns {
                *told = true;
                due.push(Crossing { figure: limit.figure, severity: limit.severity, message });
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(watch: &mut FigureWatch, seconds: i64, figures: Figures) -> Vec<String> {
        let due = watch.due(&figures, Timestamp(seconds * 1_000_000_000));
        due.into_iter().map(|crossing| format!("{} {}", crossing.severity.name(), crossing.message)).collect()
    }

    #[test]
    fn what_lasts_beyond_a_limit_is_told_once_and_again_after_it_was_within() {
        let mut watch = FigureWatch::new(&FigureLimit::defaults());
        let slow = Figures { latency_ms: Some(1500.0), error_share: Some(0.05), ..Figures::default() };
        assert!(told(&mut watch, 0, slow).is_empty());
        assert!(told(&mut watch, 9, slow).is_empty());
        assert_eq!(told(&mut watch, 10, slow), ["critical latency_ms: 1500 is above 1000, for 10 s and longer"]);
        assert!(told(&mut watch, 60, slow).is_empty());
        // Nothing comes any more: nothing is slow.
        assert!(told(&mut watch, 61, Figures::default()).is_empty());
        assert!(told(&mut watch, 62, slow).is_empty());
        assert_eq!(told(&mut watch, 72, slow).len(), 1);
    }

    #[test]
    fn a_figure_has_limits_on_both_sides() {
        let limit = FigureLimit {
            figure: Figure::RowsPerSecond,
            above: Some(100.0),
            below: Some(10.0),
            lasting_ns: 0,
            severity: Severity::Low,
        };
        let mut watch = FigureWatch::new(&[limit]);
        let rows = |rows| Figures { rows_per_second: Some(rows), ..Figures::default() };
        assert_eq!(told(&mut watch, 0, rows(9.0)), ["low rows_per_second: 9 is below 10, for 0 s and longer"]);
        assert!(told(&mut watch, 1, rows(10.0)).is_empty());
        assert_eq!(told(&mut watch, 2, rows(101.0)).len(), 1);
    }
}

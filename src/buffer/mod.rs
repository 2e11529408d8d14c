//! Rings of recent rows: one a stream, columnar, of fixed capacity, read as views without copying.
//!
//! - [`Ring`] takes rows in order of arrival and overwrites the oldest when full, counting them. Columns are allocated once (those for
//!   positions, layers and flags with the first row that has one) and kept twice over (`mirror`), so that the last `n` rows
//!   are one slice a column, at a cost that does not depend on the capacity.
//! - [`View`] is rows in order of arrival, [`TimeView`] rows in event-time order (`order` says what that costs).
//! - [`RingState`] is what a checkpoint keeps.
//!
//! The engine's thread owns a ring and nobody else sees it: readers outside are given a copy of the newest rows
//! ([`Ring::recent`]), so that none can hold up the writer.
//!
//! Invariants: rows are numbered from 0 in order of arrival; row `r` lives in slot `r mod capacity`; the ring holds exactly the
//! rows `first..next`, at most `capacity` of them; `added = held + evicted + removed`.

mod mirror;
mod order;
mod state;
mod tags;
mod view;

use std::{ops::Range, sync::Arc};

use serde::Serialize;

use crate::model::{Batch, Flags, NO_LAYER, Positions, Stream, Timestamp};

use mirror::Mirror;
use order::Order;
use tags::Tags;

pub use state::RingState;
pub use view::{TimeView, View};

/// A ring's columns may take this much memory; more is refused.
const RING_BYTES_MAX: u128 = 8 << 30;

/// Why there is no ring.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// A ring holds at least one row.
    #[error("a buffer of 0 rows holds nothing: set `rows` to 1 or more")]
    Empty,
    /// The columns would not fit memory.
    #[error("a buffer of {rows} rows takes {bytes} bytes, more than the {RING_BYTES_MAX} allowed: set fewer `rows`")]
    TooLarge {
        /// As configured.
        rows: usize,
        /// What it would take.
        bytes: u128,
    },
    /// A stored ring has other columns than the stream.
    #[error("the stored rows have other columns than the stream: start with an empty buffer")]
    Shape,
}

/// How full a ring is and what went through it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RingStatistics {
    /// Rows held.
    pub rows: usize,
    /// Rows it can hold.
    pub capacity: usize,
    /// Rows held per row it can hold, in percent.
    pub utilisation_percent: f64,
    /// Earliest event time held.
    pub oldest: Option<Timestamp>,
    /// Latest event time held.
    pub newest: Option<Timestamp>,
    /// From `oldest` to `newest`, nanoseconds; 0 when empty.
    pub span_ns: i64,
    /// Rows ever taken.
    pub added: u64,
    /// Rows overwritten by newer ones.
    pub evicted: u64,
    /// Rows flushed or cleared.
    pub removed: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    added: u64,
    evicted: u64,
    removed: u64,
}

/// Where the newest rows came from.
#[derive(Debug, Clone)]
struct Latest {
    source: Arc<str>,
    partition: Arc<str>,
    arrival: Timestamp,
}

/// The newest rows of a stream. See the module's page.
#[derive(Debug, Clone)]
pub struct Ring {
    stream: Arc<Stream>,
    capacity: usize,
    /// The number of the oldest row held.
    first: u64,
    /// The number of the next row.
    next: u64,
    counts: Counts,
    time: Mirror<i64>,
    seq: Mirror<u64>,
    signals: Vec<Mirror<f64>>,
    tags: Vec<Tags>,
    positions: Option<[Mirror<f64>; 3]>,
    layer: Option<Mirror<i32>>,
    flags: Option<Mirror<Flags>>,
    order: Order,
    latest: Latest,
}

impl Ring {
    /// An empty ring of `capacity_rows`.
    ///
    /// # Errors
    /// A capacity of 0, or one whose columns would not fit memory.
    pub fn new(stream: Arc<Stream>, capacity_rows: usize) -> Result<Self, RingError> {
        if capacity_rows == 0 {
            return Err(RingError::Empty);
        }
        let bytes = bytes_needed(&stream, capacity_rows);
        if bytes > RING_BYTES_MAX {
            return Err(RingError::TooLarge { rows: capacity_rows, bytes });
        }
        Ok(Self {
            capacity: capacity_rows,
            first: 0,
            next: 0,
            counts: Counts::default(),
            time: Mirror::new(capacity_rows, 0),
            seq: Mirror::new(capacity_rows, 0),
            signals: stream.signals.iter().map(|_| Mirror::new(capacity_rows, f64::NAN)).collect(),
            tags: stream.tags.iter().map(|_| Tags::new(capacity_rows)).collect(),
            positions: None,
            layer: None,
            flags: None,
            order: Order::default(),
            latest: Latest { source: "".into(), partition: "".into(), arrival: Timestamp(0) },
            stream,
        })
    }

    /// Takes the rows `rows` of `batch`, which must be of this ring's stream (a batch of another shape is ignored, as is a range beyond
    /// its end), overwriting the oldest.
    pub fn append(&mut self, batch: &Batch, rows: Range<usize>) {
        let rows = rows.start.min(batch.rows())..rows.end.min(batch.rows());
        if rows.is_empty() || batch.signals.len() != self.signals.len() || batch.tags.len() != self.tags.len() {
            return;
        }
        self.counts.added += rows.len() as u64;
        self.latest = Latest { source: Arc::clone(&batch.source), partition: Arc::clone(&batch.partition), arrival: batch.arrival };
        let kept = rows.len().min(self.capacity);
        let passed_over = (rows.len() - kept) as u64;
        self.make_room(kept);
        self.counts.evicted += passed_over;
        self.write(batch, rows.end - kept..rows.end);
    }

    /// The last `n` rows in order of arrival, or as many as there are.
    pub fn sliding(&self, n: usize) -> View<'_> {
        let len = n.min(self.len());
        View::new(self, self.len() - len, len)
    }

    /// The rows with an event time from `now - duration_ns` to `now`, both inclusive, in event-time order.
    pub fn time_window(&self, duration_ns: i64, now: Timestamp) -> TimeView<'_> {
        self.between(now.saturating_sub(duration_ns), now)
    }

    /// The rows with an event time from `from` to `to`, both inclusive, in event-time order.
    pub fn between(&self, from: Timestamp, to: Timestamp) -> TimeView<'_> {
        let all = self.sliding(self.len());
        if from > to {
            return TimeView::run(all, 0, 0);
        }
        let (from, to) = (from.0, to.0);
        match self.order.between((from, to), self.time.cells(), self.slot(self.first), self.len()) {
            None => {
                let times = self.times(0, self.len());
                let start = times.partition_point(|time| *time < from);
                let end = times.partition_point(|time| *time <= to);
                TimeView::run(all, start, end - start)
            }
            Some(places) => TimeView::picked(all, places),
        }
    }

    /// All rows in event-time order.
    pub fn by_time(&self) -> TimeView<'_> {
        self.between(Timestamp::MIN, Timestamp::MAX)
    }

    /// A copy of the last `n` rows, for readers outside the engine.
    pub fn recent(&self, n: usize) -> Batch {
        self.sliding(n).to_batch()
    }

    /// Takes all rows out.
    pub fn flush(&mut self) -> Batch {
        let batch = self.recent(self.len());
        self.clear();
        batch
    }

    /// Removes all rows; how many there were.
    pub fn clear(&mut self) -> usize {
        let removed = self.len();
        self.counts.removed += removed as u64;
        self.first = self.next;
        self.order.clear();
        removed
    }

    /// Removes the rows with an event time before `time`; how many there were.
    pub fn clear_older_than(&mut self, time: Timestamp) -> usize {
        let times = self.times(0, self.len());
        let removed = if self.order.is_by_arrival() {
            let removed = times.partition_point(|held| *held < time.0);
            self.first += removed as u64;
            removed
        } else {
            let kept: Vec<usize> = (0..times.len()).filter(|row| times[*row] >= time.0).collect();
            let removed = times.len() - kept.len();
            self.keep_only(&kept);
            removed
        };
        self.counts.removed += removed as u64;
        removed
    }

    /// How full the ring is and what went through it.
    pub fn statistics(&self) -> RingStatistics {
        let (oldest, newest) = self.span();
        RingStatistics {
            rows: self.len(),
            capacity: self.capacity,
            utilisation_percent: self.len() as f64 / self.capacity as f64 * 100.0,
            oldest: oldest.map(Timestamp),
            newest: newest.map(Timestamp),
            span_ns: newest.unwrap_or(0).saturating_sub(oldest.unwrap_or(0)),
            added: self.counts.added,
            evicted: self.counts.evicted,
            removed: self.counts.removed,
        }
    }

    /// Rows held.
    pub fn len(&self) -> usize {
        (self.next - self.first) as usize
    }

    /// Whether no row is held.
    pub fn is_empty(&self) -> bool {
        self.first == self.next
    }

    /// Rows it can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The shape of the rows.
    pub fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    fn slot(&self, row: u64) -> usize {
        (row % self.capacity as u64) as usize
    }

    /// Lets the oldest rows go so that `rows` more fit.
    fn make_room(&mut self, rows: usize) {
        let leaving = (self.len() + rows).saturating_sub(self.capacity);
        let times = self.time.window(self.slot(self.first), self.len());
        self.order.evict(times, leaving);
        self.first += leaving as u64;
        self.counts.evicted += leaving as u64;
    }

    /// Writes rows for which there is room behind the newest.
    fn write(&mut self, batch: &Batch, rows: Range<usize>) {
        let slot = self.slot(self.next);
        let held = (self.slot(self.first), self.len());
        let times = &batch.time[rows.clone()];
        self.order.append(self.time.window(held.0, held.1), times);
        self.time.write(slot, times);
        self.order.written(self.time.cells(), slot, times.len());
        let seqs: Vec<u64> = rows.clone().map(|row| batch.seq(row).0).collect();
        self.seq.write(slot, &seqs);
        for (column, values) in self.signals.iter_mut().zip(&batch.signals) {
            column.write(slot, &values[rows.clone()]);
        }
        for (column, values) in self.tags.iter_mut().zip(&batch.tags) {
            column.write(slot, values, rows.start, rows.end, held);
        }
        self.write_positions(slot, batch.positions.as_ref(), rows.clone());
        write_sparse(&mut self.layer, self.capacity, slot, NO_LAYER, batch.layer.as_deref(), rows.clone());
        write_sparse(&mut self.flags, self.capacity, slot, Flags::NONE, batch.flags.as_deref(), rows.clone());
        self.next += rows.len() as u64;
    }

    fn write_positions(&mut self, slot: usize, positions: Option<&Positions>, rows: Range<usize>) {
        match (positions, &mut self.positions) {
            (None, None) => {}
            (None, Some(axes)) => axes.iter_mut().for_each(|axis| axis.fill(slot, rows.len(), f64::NAN)),
            (Some(at), axes) => {
                let capacity = self.capacity;
                let axes = axes.get_or_insert_with(|| [(); 3].map(|()| Mirror::new(capacity, f64::NAN)));
                for (axis, values) in axes.iter_mut().zip([&at.x, &at.y, &at.z]) {
                    axis.write(slot, &values[rows.clone()]);
                }
            }
        }
    }

    /// Closes the gaps between the rows at `places`.
    fn keep_only(&mut self, places: &[usize]) {
        let seqs: Vec<u64> = places.iter().map(|place| self.seqs(0, self.len())[*place]).collect();
        let batch = self.recent(self.len()).take(places);
        self.first = self.next;
        self.order.clear();
        let slot = self.slot(self.next);
        self.write(&batch, 0..batch.rows());
        self.seq.write(slot, &seqs);
    }

    fn span(&self) -> (Option<i64>, Option<i64>) {
        match self.order.bounds(self.time.cells(), self.slot(self.first), self.len()) {
            Some((oldest, newest)) => (Some(oldest), Some(newest)),
            None => {
                let times = self.times(0, self.len());
                (times.first().copied(), times.last().copied())
            }
        }
    }

    fn counts(&self) -> Counts {
        self.counts
    }

    fn set_counts(&mut self, added: u64, evicted: u64, removed: u64) {
        self.counts = Counts { added, evicted, removed };
    }

    fn latest(&self) -> Latest {
        self.latest.clone()
    }

    fn times(&self, skip: usize, len: usize) -> &[i64] {
        self.time.window(self.slot(self.first + skip as u64), len)
    }

    fn seqs(&self, skip: usize, len: usize) -> &[u64] {
        self.seq.window(self.slot(self.first + skip as u64), len)
    }

    fn signal(&self, signal: usize, skip: usize, len: usize) -> &[f64] {
        self.signals[signal].window(self.slot(self.first + skip as u64), len)
    }

    fn tag_codes(&self, tag: usize, skip: usize, len: usize) -> &[u32] {
        self.tags[tag].codes(self.slot(self.first + skip as u64), len)
    }

    fn tag_names(&self, tag: usize) -> &[Arc<str>] {
        self.tags[tag].names()
    }

    fn positions(&self, skip: usize, len: usize) -> Option<[&[f64]; 3]> {
        let slot = self.slot(self.first + skip as u64);
        self.positions.as_ref().map(|axes| axes.each_ref().map(|axis| axis.window(slot, len)))
    }

    fn layers(&self, skip: usize, len: usize) -> Option<&[i32]> {
        self.layer.as_ref().map(|column| column.window(self.slot(self.first + skip as u64), len))
    }

    fn flags(&self, skip: usize, len: usize) -> Option<&[Flags]> {
        self.flags.as_ref().map(|column| column.window(self.slot(self.first + skip as u64), len))
    }
}

/// Writes a column that exists from the first row on that has something in it.
fn write_sparse<T: Copy>(
    column: &mut Option<Mirror<T>>,
    capacity: usize,
    slot: usize,
    empty: T,
    values: Option<&[T]>,
    rows: Range<usize>,
) {
    match (values, column) {
        (None, None) => {}
        (None, Some(column)) => column.fill(slot, rows.len(), empty),
        (Some(values), column) => column.get_or_insert_with(|| Mirror::new(capacity, empty)).write(slot, &values[rows]),
    }
}

/// Bytes of all columns, those that come with the first position, layer or flag included.
fn bytes_needed(stream: &Stream, rows: usize) -> u128 {
    let wide = 2 + stream.signals.len() + 3;
    let row = wide * 8 + stream.tags.len() * 4 + 4 + 1;
    2 * row as u128 * rows as u128
}

#[cfg(test)]
mod tests;

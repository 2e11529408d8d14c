//! Interval join: rows of two streams with equal tags whose times are no further apart than the interval allows.
//!
//! A pair is `lower <= right.time - left.time <= upper` (each bound can exclude itself). It is emitted as soon as its second row
//! comes, in the order of the other side's (time, arrival). Rows wait per key and side, sorted by time; a row without one of the key's
//! tags matches nothing.
//!
//! **Progress.** The watermark `w` given to [`JoinOperator::advance`] is the smaller of the two streams', exclusive: no row earlier
//! than `w` follows (Flink's inclusive watermark plus one). A row with `time < w` is late: it joins nothing and goes to the late lane.
//! A left row is freed once `w > time + max(upper, 0)`, a right row once `w > time - min(lower, 0)`, as in Flink: no row that is not
//! late can match it any more. An unmatched row of a left join is emitted at that moment, so never retracted. Freed rows come out by
//! (time, inbox number).
//!
//! **Bound.** At most `rows_max` rows wait on a side. When one more comes, the row that would be freed first is freed early and
//! counted as evicted.
//!
//! Ids: `join:{pipeline}:{join}:{left seq}:{right seq or -}`, `late:{pipeline}:{join}:{seq}`. Rows of the future
//! ([`Flags::FUTURE`]) are passed over.

mod side;

use std::{ops::Range, sync::Arc};

use serde::{Deserialize, Serialize};

use super::keys::{KeyCache, KeyTable};
pub use side::SideSnapshot;
use side::{Freed, Side};

use crate::model::{Batch, Body, Flags, JoinResult, LateRow, Output, Row, Stream, Timestamp};

/// Which rows a join gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum JoinType {
    /// Pairs alone.
    #[default]
    Inner,
    /// Pairs, and each left row that found none.
    Left,
}

/// What an interval join is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinConfig {
    /// The configured id.
    pub id: Arc<str>,
    /// The tags that must be equal and not null; none = every row matches every other in the interval.
    pub on: Vec<Arc<str>>,
    /// Which rows come out.
    pub kind: JoinType,
    /// Least `right.time - left.time`, nanoseconds.
    pub lower_ns: i64,
    /// Greatest `right.time - left.time`, nanoseconds.
    pub upper_ns: i64,
    /// Whether exactly `lower_ns` apart is a pair.
    pub lower_inclusive: bool,
    /// Whether exactly `upper_ns` apart is a pair.
    pub upper_inclusive: bool,
    /// How many rows may wait on each side.
    pub rows_max: usize,
}

impl JoinConfig {
    /// Rows that wait on a side unless configured: some 100 MB with a dozen columns.
    pub const ROWS_MAX: usize = 1_000_000;

    /// An inner join of rows at most `within_ns` apart, either way.
    pub fn within(id: &str, on: &[&str], within_ns: i64) -> Self {
        Self {
            id: id.into(),
            on: on.iter().map(|tag| (*tag).into()).collect(),
            kind: JoinType::Inner,
            lower_ns: within_ns.saturating_neg(),
            upper_ns: within_ns,
            lower_inclusive: true,
            upper_inclusive: true,
            rows_max: Self::ROWS_MAX,
        }
    }
}

/// Why there is no such join.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The lower bound is above the upper one.
    #[error("the interval of join `{0}` is empty: `lower` must be at most `upper` (below it, where one excludes itself)")]
    EmptyInterval(Arc<str>),
    /// A tag to join on that a stream does not have.
    #[error("join `{join}` is on tag `{tag}`, which stream `{stream}` does not have: declare it in `tags`")]
    UnknownTag {
        /// The join.
        join: Arc<str>,
        /// The tag.
        tag: Arc<str>,
        /// The stream without it.
        stream: Arc<str>,
    },
    /// A snapshot that does not fit.
    #[error("the saved state of join `{0}` does not fit its streams: they have changed since")]
    Snapshot(Arc<str>),
}

/// What a join has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct JoinCounters {
    /// Pairs emitted.
    pub pairs: u64,
    /// Left rows emitted without a right one.
    pub unmatched: u64,
    /// Rows of the left stream that came too late.
    pub late_left: u64,
    /// Rows of the right stream that came too late.
    pub late_right: u64,
    /// Rows freed early because `rows_max` was reached.
    pub evicted: u64,
}

/// A join's whole state, for a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JoinSnapshot {
    watermark_ns: i64,
    counters: JoinCounters,
    left: SideSnapshot,
    right: SideSnapshot,
}

/// Which stream a row is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Left,
    Right,
}

/// Joins two streams; see the module's page.
#[derive(Debug)]
pub struct JoinOperator {
    pipeline: Arc<str>,
    config: JoinConfig,
    /// `join:{pipeline}:{join}:`
    id_prefix: String,
    /// Least and greatest `right.time - left.time`, both inclusive, nanoseconds.
    bounds_ns: [i64; 2],
    keys: KeyTable,
    left_keys: KeyCache,
    right_keys: KeyCache,
    left: Side,
    right: Side,
    watermark: Timestamp,
    counters: JoinCounters,
    /// Keys of rows freed since the last [`Self::advance`], which may have no rows left.
    emptied: Vec<u32>,
    /// Reused between rows.
    near: Vec<u32>,
    /// Reused between calls.
    freed: Vec<Freed>,
}

impl JoinOperator {
    /// A join of `left` (the pipeline's stream) with `right`.
    ///
    /// # Errors
    /// An empty interval, or a tag to join on that one of the streams lacks.
    pub fn new(pipeline: Arc<str>, config: JoinConfig, left: &Arc<Stream>, right: &Arc<Stream>) -> Result<Self, JoinError> {
        let lower_ns = config.lower_ns.saturating_add(i64::from(!config.lower_inclusive));
        let upper_ns = config.upper_ns.saturating_sub(i64::from(!config.upper_inclusive));
        if lower_ns > upper_ns {
            return Err(JoinError::EmptyInterval(config.id));
        }
        let (left_tags, right_tags) = (tags(&config, left)?, tags(&config, right)?);
        Ok(Self {
            id_prefix: format!("join:{pipeline}:{}:", config.id),
            bounds_ns: [lower_ns, upper_ns],
            keys: KeyTable::default(),
            left_keys: KeyCache::new(left_tags.clone()),
            right_keys: KeyCache::new(right_tags.clone()),
            left: Side::new(Arc::clone(left), left_tags, upper_ns.max(0)),
            right: Side::new(Arc::clone(right), right_tags, lower_ns.min(0).saturating_neg()),
            watermark: Timestamp::MIN,
            counters: JoinCounters::default(),
            emptied: Vec::new(),
            near: Vec::new(),
            freed: Vec::new(),
            pipeline,
            config,
        })
    }

    /// What it is about.
    pub fn config(&self) -> &JoinConfig {
        &self.config
    }

    /// What it has done so far.
    pub fn counters(&self) -> JoinCounters {
        self.counters
    }

    /// How many rows wait, left and right.
    pub fn waiting(&self) -> (usize, usize) {
        (self.left.len(), self.right.len())
    }

    /// The times of the left rows that wait under a key, given by the texts of its tags, in order.
    pub fn waiting_left(&self, key: &[Option<&str>]) -> Vec<i64> {
        self.keys.find(key).map_or_else(Vec::new, |key| self.left.times(key))
    }

    /// The times of the right rows that wait under a key, given by the texts of its tags, in order.
    pub fn waiting_right(&self, key: &[Option<&str>]) -> Vec<i64> {
        self.keys.find(key).map_or_else(Vec::new, |key| self.right.times(key))
    }

    /// Takes `rows` of the left stream (clipped to what `batch` has) and emits the pairs they complete.
    pub fn push_left(&mut self, batch: &Batch, rows: Range<usize>, out: &mut Vec<Output>) {
        self.push(Origin::Left, batch, rows, out);
    }

    /// Takes `rows` of the right stream (clipped to what `batch` has) and emits the pairs they complete.
    pub fn push_right(&mut self, batch: &Batch, rows: Range<usize>, out: &mut Vec<Output>) {
        self.push(Origin::Right, batch, rows, out);
    }

    fn push(&mut self, from: Origin, batch: &Batch, rows: Range<usize>, out: &mut Vec<Output>) {
        let rows = rows.start.min(batch.rows())..rows.end.min(batch.rows());
        if from == Origin::Left { &mut self.left_keys } else { &mut self.right_keys }.start(batch, rows.len());
        for row in rows {
            if batch.flags(row).has(Flags::FUTURE) {
                continue;
            }
            let cache = if from == Origin::Left { &mut self.left_keys } else { &mut self.right_keys };
            if batch.time[row] < self.watermark.0 {
                self.late(from, batch.row(row), out);
            } else if !cache.is_null(batch, row) {
                let key = cache.number(batch, row, &mut self.keys);
                self.pair(from, key, batch, row, out);
            } else if from == Origin::Left {
                self.unmatched(batch.row(row), out);
            }
        }
    }

    fn late(&mut self, from: Origin, row: Row, out: &mut Vec<Output>) {
        match from {
            Origin::Left => self.counters.late_left += 1,
            Origin::Right => self.counters.late_right += 1,
        }
        let id = format!("late:{}:{}:{}", self.pipeline, self.config.id, row.seq.0);
        let at = row.seq;
        let body = Body::Late(Box::new(LateRow { window: Arc::clone(&self.config.id), row }));
        out.push(Output::new(id, &self.pipeline, at, body));
    }

    /// Pairs a row with those that wait on the other side, and lets it wait on its own.
    fn pair(&mut self, from: Origin, key: u32, batch: &Batch, row: usize, out: &mut Vec<Output>) {
        let (time, [lower, upper]) = (batch.time[row], self.bounds_ns);
        let mut near = std::mem::take(&mut self.near);
        near.clear();
        match from {
            Origin::Left => {
                self.right.between(key, time.saturating_add(lower), time.saturating_add(upper), &mut near);
                for slot in &near {
                    out.push(self.output(batch.row(row), Some(self.right.row(*slot))));
                }
                self.left.insert(key, batch, row, !near.is_empty());
            }
            Origin::Right => {
                self.left.between(key, time.saturating_sub(upper), time.saturating_sub(lower), &mut near);
                for slot in &near {
                    self.left.set_matched(*slot);
                    out.push(self.output(self.left.row(*slot), Some(batch.row(row))));
                }
                self.right.insert(key, batch, row, !near.is_empty());
            }
        }
        self.counters.pairs += near.len() as u64;
        self.near = near;
        self.evict(from, out);
    }

    /// Keeps the side of `from` within its bound.
    fn evict(&mut self, from: Origin, out: &mut Vec<Output>) {
        let side = if from == Origin::Left { &mut self.left } else { &mut self.right };
        if side.len() > self.config.rows_max
            && let Some(freed) = side.evict()
        {
            self.counters.evicted += 1;
            self.free(from, freed, out);
        }
    }

    /// Lets go of a row, and says so where a left join asks for it.
    fn free(&mut self, from: Origin, freed: Freed, out: &mut Vec<Output>) {
        match from {
            Origin::Left => {
                if !freed.matched {
                    self.unmatched_in(freed.slot, out);
                }
                self.left.release(freed.slot);
            }
            Origin::Right => self.right.release(freed.slot),
        }
        self.emptied.push(freed.key);
    }

    fn unmatched_in(&mut self, slot: u32, out: &mut Vec<Output>) {
        if self.config.kind == JoinType::Left {
            let row = self.left.row(slot);
            self.unmatched(row, out);
        }
    }

    fn unmatched(&mut self, row: Row, out: &mut Vec<Output>) {
        if self.config.kind == JoinType::Left {
            self.counters.unmatched += 1;
            out.push(self.output(row, None));
        }
    }

    fn output(&self, left: Row, right: Option<Row>) -> Output {
        let mut id = String::with_capacity(self.id_prefix.len() + 24);
        id.push_str(&self.id_prefix);
        push_decimal(&mut id, left.seq.0);
        id.push(':');
        match &right {
            Some(right) => push_decimal(&mut id, right.seq.0),
            None => id.push('-'),
        }
        // A pair comes about at the later of its rows.
        let at = right.as_ref().map_or(left.seq, |right| right.seq.max(left.seq));
        let body = Body::Join(Box::new(JoinResult { join: Arc::clone(&self.config.id), left, right }));
        Output::new(id, &self.pipeline, at, body)
    }

    /// The watermark ran ahead with a clock that is set back to `now`: rows from then on are not late.
    pub fn clock_was_set_back(&mut self, now: Timestamp) {
        self.watermark = self.watermark.min(now);
    }

    /// Moves event time on to `watermark`, the smaller of the two streams' (one that is not later does nothing): frees the rows that
    /// nothing can match any more, and emits them where they are unmatched in a left join.
    pub fn advance(&mut self, watermark: Timestamp, out: &mut Vec<Output>) {
        if watermark <= self.watermark {
            return;
        }
        self.watermark = watermark;
        for from in [Origin::Left, Origin::Right] {
            let mut freed = std::mem::take(&mut self.freed);
            freed.clear();
            if from == Origin::Left { &mut self.left } else { &mut self.right }.expire(watermark, &mut freed);
            freed.sort_unstable();
            for one in &freed {
                self.free(from, *one, out);
            }
            self.freed = freed;
        }
        let mut emptied = std::mem::take(&mut self.emptied);
        for key in emptied.drain(..) {
            if !self.left.has_rows_of(key) && !self.right.has_rows_of(key) {
                self.keys.release(key);
            }
        }
        self.emptied = emptied;
    }

    /// The earliest watermark at which [`Self::advance`] frees a row; `None` = nothing waits.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.left.deadline().into_iter().chain(self.right.deadline()).min()
    }

    /// The whole state.
    pub fn snapshot(&self) -> JoinSnapshot {
        JoinSnapshot {
            watermark_ns: self.watermark.0,
            counters: self.counters,
            left: self.left.snapshot(&self.keys),
            right: self.right.snapshot(&self.keys),
        }
    }

    /// Puts a saved state in place of this one, after which everything goes on as if undisturbed.
    ///
    /// # Errors
    /// The streams have other columns than when it was saved; this state is then as good as new.
    pub fn restore(&mut self, saved: &JoinSnapshot) -> Result<(), JoinError> {
        self.keys = KeyTable::default();
        self.emptied.clear();
        let fits = self.left.restore(&saved.left, &mut self.keys).and_then(|()| self.right.restore(&saved.right, &mut self.keys));
        if fits.is_none() {
            let [left, right] = [&self.left.stream, &self.right.stream].map(Arc::clone);
            *self = Self::new(Arc::clone(&self.pipeline), self.config.clone(), &left, &right)?;
            return Err(JoinError::Snapshot(Arc::clone(&self.config.id)));
        }
        self.watermark = Timestamp(saved.watermark_ns);
        self.counters = saved.counters;
        Ok(())
    }
}

/// The columns of `stream` to join on.
fn tags(config: &JoinConfig, stream: &Stream) -> Result<Vec<usize>, JoinError> {
    let unknown = |tag: &Arc<str>| JoinError::UnknownTag {
        join: Arc::clone(&config.id),
        tag: Arc::clone(tag),
        stream: Arc::clone(&stream.id),
    };
    config.on.iter().map(|tag| stream.tag(tag).ok_or_else(|| unknown(tag))).collect()
}

/// Appends `number`, at a tenth of the cost of the formatting machinery.
fn push_decimal(text: &mut String, mut number: u64) {
    let mut digits = [0_u8; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    text.extend(digits[start..].iter().map(|digit| char::from(*digit)));
}

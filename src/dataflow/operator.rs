//! Windows over rows: panes of accumulators per window and key, fired and freed by the watermark.
//!
//! A window fires when the watermark reaches its end, once per key that has rows; it is freed when the watermark reaches its end plus the
//! allowed lateness. A row that lands in a window that has fired fires it again at once, with the next revision; a row whose windows have all
//! been freed is late, and reported. Sessions are in `session`.
//!
//! Firings come in the order end, start, key (null before text). Nothing that is put out depends on where batches were cut.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    ops::Range,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    Accumulation, Aggregate, Function, WindowConfig, WindowError, WindowKind, aggregate::Accumulator, session::Sessions,
    sketch::RELATIVE_ERROR, window::floor_to,
};
use crate::model::{Batch, Body, Flags, Key, LateRow, Output, Seq, Stream, Timestamp, WindowResult};

/// The values of the grouping tags.
pub(super) type KeyTexts = Vec<Option<Arc<str>>>;

/// What is known of one window and key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Cell {
    pub accumulators: Vec<Accumulator>,
    pub rows: u64,
    /// The revision of the next firing.
    pub revision: u32,
    /// Rows came since the last firing.
    pub fresh: bool,
}

/// What turns cells into results.
#[derive(Debug, Clone)]
pub(super) struct Maker {
    pipeline: Arc<str>,
    pub config: WindowConfig,
    tags: Vec<usize>,
    errors: BTreeMap<Arc<str>, f64>,
}

/// A window that is open, for people.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OpenWindow {
    /// The configured id.
    pub window: Arc<str>,
    /// First instant inside.
    pub start: Timestamp,
    /// First instant after.
    pub end: Timestamp,
    /// The group.
    pub key: Key,
    /// Rows so far.
    pub rows: u64,
}

/// Panes by (end, start), then by key.
type Panes = BTreeMap<(i64, i64), BTreeMap<KeyTexts, Cell>>;

/// What a checkpoint keeps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WindowState {
    panes: Panes,
    sessions: Sessions,
    late: u64,
    fired: u64,
}

/// Windows of one specification.
#[derive(Debug)]
pub struct WindowOperator {
    maker: Maker,
    state: WindowState,
}

impl Maker {
    pub(super) fn key_of(&self, batch: &Batch, row: usize) -> KeyTexts {
        self.tags.iter().map(|tag| batch.tags[*tag].get(row).cloned()).collect()
    }

    pub(super) fn cell(&self) -> Cell {
        let accumulators = self.config.aggregates.iter().map(|(_, aggregate)| aggregate.start()).collect();
        Cell { accumulators, rows: 0, revision: 0, fresh: false }
    }

    pub(super) fn add(&self, cell: &mut Cell, batch: &Batch, row: usize) {
        for ((_, aggregate), accumulator) in self.config.aggregates.iter().zip(&mut cell.accumulators) {
            aggregate.add(accumulator, batch, row);
        }
        cell.rows += 1;
        cell.fresh = true;
    }

    /// The id of the last firing of a cell.
    pub(super) fn id(&self, key: &KeyTexts, start: i64, end: i64, revision: u32) -> String {
        format!("window:{}:{}:{}:{start}:{end}:{revision}", self.pipeline, self.config.id, key_text(&self.config.group_by, key))
    }

    /// Fires `cell`.
    pub(super) fn fire(
        &self,
        key: &KeyTexts,
        bounds: (i64, i64),
        cell: &mut Cell,
        replaces: Vec<String>,
        at: Seq,
        out: &mut Vec<Output>,
    ) {
        let (start, end) = bounds;
        let values = self
            .config
            .aggregates
            .iter()
            .zip(&cell.accumulators)
            .map(|((name, aggregate), accumulator)| (Arc::clone(name), aggregate.value(accumulator)))
            .collect();
        let body = WindowResult {
            window: Arc::clone(&self.config.id),
            start: Timestamp(start),
            end: Timestamp(end),
            key: self.config.group_by.iter().cloned().zip(key.iter().cloned()).collect(),
            values,
            revision: cell.revision,
            replaces,
            errors: self.errors.clone(),
        };
        out.push(Output::new(self.id(key, start, end, cell.revision), &self.pipeline, at, Body::Window(body)));
        cell.revision += 1;
        cell.fresh = false;
        if self.config.accumulation == Accumulation::Discarding {
            cell.accumulators = self.cell().accumulators;
        }
    }

    /// Reports a row that is late for every window it belongs to.
    pub(super) fn late(&self, batch: &Batch, row: usize, out: &mut Vec<Output>) {
        let seq = batch.seq(row);
        let id = format!("late:{}:{}:{}", self.pipeline, self.config.id, seq.0);
        let body = LateRow { window: Arc::clone(&self.config.id), row: batch.row(row) };
        out.push(Output::new(id, &self.pipeline, seq, Body::Late(body)));
    }

    /// Whether the window that ends at `end` is gone.
    pub(super) fn is_freed(&self, end: i64, watermark: i64) -> bool {
        end.saturating_add(self.config.allowed_lateness_ns) <= watermark
    }
}

/// A key as it stands in ids.
fn key_text(names: &[Arc<str>], key: &KeyTexts) -> String {
    let parts = names.iter().zip(key).map(|(name, value)| match value {
        Some(value) => format!("{}={}", escape(name), escape(value)),
        None => escape(name),
    });
    parts.collect::<Vec<_>>().join(",")
}

fn escape(text: &str) -> String {
    text.replace('%', "%25").replace(':', "%3A").replace('=', "%3D").replace(',', "%2C")
}

impl WindowOperator {
    /// Windows of `config` over rows of `stream`.
    ///
    /// # Errors
    /// A specification that makes no sense, or a tag that the stream does not have.
    pub fn new(pipeline: Arc<str>, config: WindowConfig, stream: &Stream) -> Result<Self, WindowError> {
        config.check()?;
        let tag = |name: &Arc<str>| {
            let message = format!("the stream `{}` has no tag `{name}`: declare it in `tags`", stream.id);
            stream.tag(name).ok_or(WindowError { key: "group_by", message })
        };
        let tags = config.group_by.iter().map(tag).collect::<Result<_, _>>()?;
        let is_quantile = |aggregate: &Aggregate| matches!(aggregate.function, Function::Quantile(_));
        let errors = config
            .aggregates
            .iter()
            .filter(|(_, aggregate)| is_quantile(aggregate))
            .map(|(name, _)| (Arc::clone(name), RELATIVE_ERROR))
            .collect();
        let state = WindowState { panes: Panes::new(), sessions: Sessions::default(), late: 0, fired: 0 };
        Ok(Self { maker: Maker { pipeline, config, tags, errors }, state })
    }

    /// The specification.
    pub fn config(&self) -> &WindowConfig {
        &self.maker.config
    }

    /// The smallest watermark above `watermark` at which anything can happen, if rows from `earliest` on go in first.
    pub fn quiet_until(&self, earliest: Timestamp, watermark: Timestamp) -> Timestamp {
        let rows = self.bound_after(earliest, watermark);
        self.deadline().map_or(rows, |deadline| deadline.min(rows))
    }

    /// The first end, or end plus lateness, after `watermark` of any window that a row from `earliest` on may belong to.
    fn bound_after(&self, earliest: Timestamp, watermark: Timestamp) -> Timestamp {
        let config = &self.maker.config;
        let (size_ns, step_ns) = match config.kind {
            WindowKind::Tumbling { size_ns, .. } if config.timezone.is_none() => (size_ns, size_ns),
            WindowKind::Sliding { size_ns, slide_ns } => (size_ns, slide_ns),
            _ => return earliest.saturating_add(1),
        };
        let next = |shift_ns: i64| {
            // Ends are at offset + size + k · step; the row's own time is before the end of its windows.
            let after =
                watermark.0.max(earliest.0.saturating_sub(1).min(i64::MAX - 1)).saturating_sub(shift_ns).max(i64::MIN + step_ns);
            let from = if watermark.0.saturating_sub(shift_ns) >= earliest.0.saturating_sub(1) {
                watermark.0.saturating_sub(shift_ns).max(i64::MIN + step_ns)
            } else {
                after
            };
            let bound = floor_to(from, step_ns, config.offset_ns.wrapping_add(size_ns)).saturating_add(step_ns);
            bound.saturating_add(shift_ns)
        };
        let ends = next(0);
        let bound = if config.allowed_lateness_ns > 0 { ends.min(next(config.allowed_lateness_ns)) } else { ends };
        Timestamp(bound.max(watermark.0.saturating_add(1)))
    }

    /// Takes in rows while the watermark stands at `watermark`.
    pub fn push(&mut self, batch: &Batch, rows: Range<usize>, watermark: Timestamp, out: &mut Vec<Output>) {
        for row in rows {
            if batch.flags(row).has(Flags::FUTURE) {
                continue;
            }
            let taken = match self.maker.config.kind {
                WindowKind::Tumbling { .. } => {
                    let bounds = self.maker.config.tumbling(batch.time[row]);
                    self.add(batch, row, bounds, watermark, out)
                }
                WindowKind::Sliding { size_ns, slide_ns } => self.slide(batch, row, (size_ns, slide_ns), watermark, out),
                WindowKind::Session { gap_ns, max_duration_ns } => {
                    self.state.sessions.push(&self.maker, (gap_ns, max_duration_ns), batch, row, watermark.0, out)
                }
            };
            if !taken {
                self.state.late += 1;
                self.maker.late(batch, row, out);
            }
        }
    }

    /// Adds the row to every window it belongs to; whether it need not be reported as late.
    fn slide(
        &mut self,
        batch: &Batch,
        row: usize,
        (size_ns, slide_ns): (i64, i64),
        watermark: Timestamp,
        out: &mut Vec<Output>,
    ) -> bool {
        let time = batch.time[row];
        let mut start = floor_to(time, slide_ns, self.maker.config.offset_ns);
        let mut windows = Vec::new();
        while start > time.saturating_sub(size_ns) {
            windows.push((start, start.saturating_add(size_ns)));
            let Some(before) = start.checked_sub(slide_ns) else { break };
            start = before;
        }
        let mut taken = windows.is_empty();
        for bounds in windows.into_iter().rev() {
            taken |= self.add(batch, row, bounds, watermark, out);
        }
        taken
    }

    fn add(&mut self, batch: &Batch, row: usize, (start, end): (i64, i64), watermark: Timestamp, out: &mut Vec<Output>) -> bool {
        if self.maker.is_freed(end, watermark.0) {
            return false;
        }
        let key = self.maker.key_of(batch, row);
        let cells = self.state.panes.entry((end, start)).or_default();
        let cell = match cells.entry(key.clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(self.maker.cell()),
        };
        self.maker.add(cell, batch, row);
        if end <= watermark.0 {
            self.maker.fire(&key, (start, end), cell, Vec::new(), batch.seq(row), out);
            self.state.fired += 1;
        }
        true
    }

    /// The watermark is here now: windows that end fire, windows past their lateness are freed.
    pub fn advance(&mut self, watermark: Timestamp, out: &mut Vec<Output>) {
        let before = out.len();
        for ((end, start), cells) in self.state.panes.range_mut(..=(watermark.0, i64::MAX)) {
            for (key, cell) in cells.iter_mut().filter(|(_, cell)| cell.fresh) {
                self.maker.fire(key, (*start, *end), cell, Vec::new(), Seq(0), out);
            }
        }
        while let Some(first) = self.state.panes.first_entry() {
            if !self.maker.is_freed(first.key().0, watermark.0) {
                break;
            }
            first.remove();
        }
        self.state.sessions.advance(&self.maker, watermark.0, out);
        self.state.fired += (out.len() - before) as u64;
    }

    /// Fires every open window that has something new, and keeps it.
    pub fn fire_open(&mut self, out: &mut Vec<Output>) {
        for ((end, start), cells) in &mut self.state.panes {
            for (key, cell) in cells.iter_mut().filter(|(_, cell)| cell.fresh) {
                self.maker.fire(key, (*start, *end), cell, Vec::new(), Seq(0), out);
            }
        }
        self.state.sessions.fire_open(&self.maker, out);
    }

    /// The end of input: every window closes.
    pub fn finish(&mut self, out: &mut Vec<Output>) {
        self.advance(Timestamp::MAX, out);
    }

    /// The earliest watermark at which a window that is open fires or is freed.
    pub fn deadline(&self) -> Option<Timestamp> {
        let lateness = self.maker.config.allowed_lateness_ns;
        let fires = |(end, cells): (i64, &BTreeMap<KeyTexts, Cell>)| {
            if cells.values().any(|cell| cell.fresh) { end } else { end.saturating_add(lateness) }
        };
        let panes = if lateness == 0 {
            self.state.panes.first_key_value().map(|((end, _), _)| *end)
        } else {
            self.state.panes.iter().map(|((end, _), cells)| fires((*end, cells))).min()
        };
        panes.into_iter().chain(self.state.sessions.deadline(&self.maker)).min().map(Timestamp)
    }

    /// Windows (with keys) that are open.
    pub fn open_count(&self) -> usize {
        self.state.panes.values().map(BTreeMap::len).sum::<usize>() + self.state.sessions.len()
    }

    /// The first open windows, by end and start.
    pub fn open_windows(&self, limit: usize) -> Vec<OpenWindow> {
        let panes = self
            .state
            .panes
            .iter()
            .flat_map(|((end, start), cells)| cells.iter().map(move |(key, cell)| (*start, *end, key, cell)));
        panes
            .chain(self.state.sessions.open())
            .take(limit)
            .map(|(start, end, key, cell)| OpenWindow {
                window: Arc::clone(&self.maker.config.id),
                start: Timestamp(start),
                end: Timestamp(end),
                key: self.maker.config.group_by.iter().cloned().zip(key.iter().cloned()).collect(),
                rows: cell.rows,
            })
            .collect()
    }

    /// Rows that came too late.
    pub fn late_count(&self) -> u64 {
        self.state.late
    }

    /// What a checkpoint keeps.
    pub fn snapshot(&self) -> WindowState {
        self.state.clone()
    }

    /// Goes on from a checkpoint.
    pub fn restore(&mut self, state: WindowState) {
        self.state = state;
    }
}

//! Windows over rows, fired and freed by the watermark.
//!
//! A window fires when the watermark reaches its end, once per key that has rows; it is freed when the watermark reaches its end plus the
//! allowed lateness. A row that lands in a window that has fired fires it again at once, with the next revision; a row whose windows have all
//! been freed is late, and reported. Tumbling and sliding windows are put together from [`super::panes`]; sessions are in [`super::session`].
//!
//! Firings come in the order end, start, key (null before text). Nothing that is put out depends on where batches were cut.

use std::{ops::Range, sync::Arc};

use serde::Serialize;

use super::{
    Accumulation, WindowConfig, WindowError,
    captured::{CapturedKey, CapturedShard, KeyState, WindowState},
    drive::{Rows, TimedRows},
    keys::{KeyMemo, KeyTable, KeyTexts},
    lanes::Plan,
    maker::Maker,
    panes::{Panes, Spoken},
    session::Sessions,
    slices::{Slice, Slices},
};
use crate::model::{Batch, Flags, Key, Output, Seq, Stream, Timestamp, time_bounds};

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

/// Windows of one specification.
#[derive(Debug)]
pub struct WindowOperator {
    maker: Maker,
    /// None for sessions.
    slices: Option<Slices>,
    panes: Panes,
    keys: KeyTable,
    memo: KeyMemo,
    /// Key numbers by their texts, as of a version of the table.
    order: (u64, Vec<u32>),
    sessions: Sessions,
    watermark: i64,
    late: u64,
    fired: u64,
    /// If late rows are not results: their places in the batch.
    late_rows: Option<Vec<u32>>,
    /// Rows that have a place but are not added yet.
    pending: (Vec<u32>, Vec<u32>),
    /// A window was fired while open, and discards: what comes into it is kept apart too.
    apart: bool,
}

impl TimedRows for WindowOperator {
    fn quiet_until(&self, earliest: Timestamp, watermark: Timestamp) -> Timestamp {
        Self::quiet_until(self, earliest, watermark)
    }

    fn push_some(&mut self, batch: &Batch, rows: Rows<'_>, watermark: Timestamp, out: &mut Vec<Output>) {
        let Rows { places, range, bounds } = rows;
        match places {
            Some(places) => self.push_rows(batch, places[range].iter().map(|row| *row as usize), bounds, watermark, out),
            None => self.push_rows(batch, range, bounds, watermark, out),
        }
    }

    fn advance(&mut self, watermark: Timestamp, out: &mut Vec<Output>) {
        Self::advance(self, watermark, out);
    }
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
        let tags: Vec<usize> = config.group_by.iter().map(tag).collect::<Result<_, _>>()?;
        let plan = Plan::new(config.aggregates.iter().map(|(_, aggregate)| *aggregate));
        let slices = Slices::of(&config);
        Ok(Self {
            sessions: Sessions::new(&config, plan.clone(), tags.clone()),
            maker: Maker::new(pipeline, config, plan.clone()),
            slices,
            panes: Panes::new(plan),
            keys: KeyTable::default(),
            memo: KeyMemo::new(tags),
            order: (0, Vec::new()),
            watermark: i64::MIN,
            late: 0,
            fired: 0,
            late_rows: None,
            pending: (Vec::new(), Vec::new()),
            apart: false,
        })
    }

    /// The specification.
    pub fn config(&self) -> &WindowConfig {
        self.maker.config()
    }

    /// The smallest watermark above `watermark` at which anything can happen, if rows from `earliest` on go in first.
    pub fn quiet_until(&self, earliest: Timestamp, watermark: Timestamp) -> Timestamp {
        let rows = match &self.slices {
            Some(slices) => {
                let lateness_ns = self.config().allowed_lateness_ns;
                let end = slices.next_end(watermark.0.max(earliest.0));
                let freed = slices.next_end(watermark.0.saturating_sub(lateness_ns).max(earliest.0)).saturating_add(lateness_ns);
                Timestamp(end.min(freed).max(watermark.0.saturating_add(1)))
            }
            None => earliest.saturating_add(self.sessions.shortest_ns()),
        };
        self.deadline().map_or(rows, |deadline| deadline.min(rows))
    }

    /// The last window that has been freed when the watermark is at `watermark`.
    fn freed(&self, slices: &Slices) -> i64 {
        match self.watermark {
            i64::MAX => i64::MAX,
            watermark => slices.ended(watermark.saturating_sub(self.config().allowed_lateness_ns)),
        }
    }

    /// Takes in rows while the watermark stands at `watermark`.
    pub fn push(&mut self, batch: &Batch, rows: Range<usize>, watermark: Timestamp, out: &mut Vec<Output>) {
        self.push_rows(batch, rows, None, watermark, out);
    }

    fn push_rows(
        &mut self,
        batch: &Batch,
        rows: impl Iterator<Item = usize> + Clone,
        bounds: Option<(i64, i64)>,
        watermark: Timestamp,
        out: &mut Vec<Output>,
    ) {
        let Some(first) = rows.clone().next() else { return };
        if watermark.0 > self.watermark {
            let fired = out.len();
            self.advance(watermark, out);
            out[fired..].iter_mut().for_each(|output| output.at = batch.seq(first));
        }
        match self.slices.take() {
            Some(slices) => {
                self.push_sliced(&slices, batch, rows, bounds, out);
                self.slices = Some(slices);
            }
            None => self.push_sessions(batch, rows, out),
        }
    }

    fn push_sliced(
        &mut self,
        slices: &Slices,
        batch: &Batch,
        rows: impl Iterator<Item = usize> + Clone,
        bounds: Option<(i64, i64)>,
        out: &mut Vec<Output>,
    ) {
        let (ended, freed) = (slices.ended(self.watermark), self.freed(slices));
        // Where nothing needs to be known of single rows, those of one slice go in together.
        let together = batch.flags.is_none() && !self.apart;
        let bounds = || bounds.unwrap_or_else(|| time_bounds(rows.clone().map(|row| batch.time[row])));
        if let Some(slice) = together.then(bounds).and_then(|bounds| only_slice(slices, bounds, ended)) {
            self.pending.0.extend(rows.map(|row| row as u32));
            self.memo.numbers(batch, &self.pending.0, &mut self.keys, &mut self.pending.1);
            self.panes.places(slice.number, &mut self.pending.1);
            self.flush(batch);
            return;
        }
        let mut slice = Slice { number: 0, start: 0, end: 0, first: 0, last: -1 };
        let flagged = batch.flags.is_some();
        for row in rows {
            if flagged && batch.flags(row).has(Flags::FUTURE) {
                continue;
            }
            let time = batch.time[row];
            if time < slice.start || time >= slice.end {
                slice = slices.around(time);
            }
            if slice.last < slice.first {
                continue;
            }
            if slice.last <= freed {
                self.report_late(batch, row, out);
                continue;
            }
            let key = self.memo.number(batch, row, &mut self.keys);
            if slice.first <= ended {
                self.revise(slices, batch, row, key, slice, (freed, ended), out);
            } else {
                let place = self.panes.place(key, slice.number);
                self.pending.0.push(row as u32);
                self.pending.1.push(place);
            }
            if self.apart {
                self.keep_apart(batch, row, key, slice, ended);
            }
        }
        self.flush(batch);
    }

    fn push_sessions(&mut self, batch: &Batch, rows: impl Iterator<Item = usize>, out: &mut Vec<Output>) {
        for row in rows.filter(|row| !batch.flags(*row).has(Flags::FUTURE)) {
            let before = out.len();
            if self.sessions.push(&self.maker, batch, row, self.watermark, out) {
                self.fired += (out.len() - before) as u64;
            } else {
                self.report_late(batch, row, out);
            }
        }
    }

    fn report_late(&mut self, batch: &Batch, row: usize, out: &mut Vec<Output>) {
        self.late += 1;
        match &mut self.late_rows {
            Some(rows) => rows.push(row as u32),
            None => self.maker.late(batch, row, out),
        }
    }

    /// From here on, the codes of the grouping tag keep their texts from batch to batch, for as long as this is called with the same number.
    pub fn codes_last(&mut self, since: u64) {
        self.memo.last(since);
    }

    /// From here on, late rows are no results: their places are kept for [`Self::take_late_rows`].
    pub fn keep_late_rows(&mut self) {
        self.late_rows.get_or_insert_default();
    }

    /// From here on, results have no id.
    pub fn without_ids(&mut self) {
        self.maker.without_ids();
    }

    /// The places of the rows that were late since they were last taken.
    pub fn take_late_rows(&mut self) -> Vec<u32> {
        self.late_rows.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn flush(&mut self, batch: &Batch) {
        self.panes.add(batch, &self.pending.0, &self.pending.1);
        self.pending.0.clear();
        self.pending.1.clear();
    }

    /// Adds a row to windows of which the first have fired, which fires those again.
    #[expect(clippy::too_many_arguments, reason = "a row and what is known of it")]
    fn revise(
        &mut self,
        slices: &Slices,
        batch: &Batch,
        row: usize,
        key: u32,
        slice: Slice,
        (freed, ended): (i64, i64),
        out: &mut Vec<Output>,
    ) {
        self.flush(batch);
        let again = slice.first.max(freed.saturating_add(1))..=slice.last.min(ended);
        let had: Vec<bool> = again.clone().map(|window| self.panes.any(key, slices.run(window))).collect();
        let place = self.panes.place(key, slice.number);
        self.panes.add(batch, &[row as u32], &[place]);
        for (window, had) in again.zip(had) {
            let spoken = self.panes.spoken(key).and_then(|spoken| spoken.get(&window));
            let revision = spoken.map_or(u32::from(had), |spoken| spoken.revision);
            let discards = self.config().accumulation == Accumulation::Discarding;
            let alone;
            let pane = if discards {
                let mut pane = self.panes.plan().start();
                self.panes.plan().add(&mut pane, batch, row);
                alone = pane;
                Some(&alone)
            } else {
                self.panes.window(key, slices.run(window))
            };
            let Some(pane) = pane else { continue };
            let rows = pane.rows;
            self.maker.fire_numbered(&self.keys, key, slices.bounds(window), revision, pane, batch.seq(row), out);
            self.fired += 1;
            if let Some(spoken) = self.panes.spoken_mut(key) {
                spoken.insert(window, Spoken { revision: revision + 1, rows, since: None });
            }
        }
    }

    /// Adds a row to what has come into open windows since they fired.
    fn keep_apart(&mut self, batch: &Batch, row: usize, key: u32, slice: Slice, ended: i64) {
        let plan = self.panes.plan().clone();
        let Some(spoken) = self.panes.spoken_mut(key) else { return };
        for (_, spoken) in spoken.range_mut(slice.first.max(ended.saturating_add(1))..=slice.last.max(ended.saturating_add(1))) {
            if let Some(since) = &mut spoken.since {
                plan.add(since, batch, row);
            }
        }
    }

    /// The watermark ran ahead with a clock that is set back to `now`. Windows around now have fired: rows in no later one are late, those
    /// of windows that begin from now on are not.
    pub fn clock_was_set_back(&mut self, now: Timestamp) {
        let fired = self.slices.as_ref().map_or(now.0, |slices| slices.bounds(slices.around(now.0).last).1.max(now.0));
        self.watermark = self.watermark.min(fired);
    }

    /// The watermark is here now: windows that end fire, windows past their lateness are freed.
    pub fn advance(&mut self, watermark: Timestamp, out: &mut Vec<Output>) {
        if watermark.0 <= self.watermark {
            return;
        }
        let before = out.len();
        let Some(slices) = self.slices.take() else {
            self.watermark = watermark.0;
            self.sessions.advance(&self.maker, watermark.0, out);
            self.fired += (out.len() - before) as u64;
            return;
        };
        let from = slices.ended(self.watermark);
        self.watermark = watermark.0;
        self.fire(&slices, from, slices.ended(watermark.0), false, out);
        self.fired += (out.len() - before) as u64;
        let freed = self.freed(&slices);
        let gone = self.panes.free_before(slices.run(freed.saturating_add(1)).0, freed);
        if !gone.is_empty() {
            for key in gone {
                self.keys.release(key);
                self.maker.forget(key);
            }
            self.memo.clear();
        }
        self.slices = Some(slices);
    }

    /// The first window after `after` that has rows.
    fn next_window(&self, slices: &Slices, after: i64) -> Option<i64> {
        let window = after.checked_add(1)?;
        // At the ends of time a slice can look like one of windows that it is not in: the windows of the slice decide.
        let (first, last) = slices.windows(self.panes.next_slice(slices.run(window).0)?);
        Some(first.max(window)).filter(|window| *window <= last)
    }

    /// Fires the windows after `after` up to `until`, for each key that has something new.
    fn fire(&mut self, slices: &Slices, after: i64, until: i64, open: bool, out: &mut Vec<Output>) {
        let mut at = after;
        while let Some(window) = self.next_window(slices, at).filter(|window| *window <= until) {
            at = window;
            let bounds = slices.bounds(window);
            let run = slices.run(window);
            self.sort_keys();
            for index in 0..self.order.1.len() {
                let key = self.order.1[index];
                if self.panes.spoken(key).is_some() || open {
                    self.fire_again(key, window, bounds, run, open, out);
                } else if let Some(pane) = self.panes.window(key, run) {
                    self.maker.fire_numbered(&self.keys, key, bounds, 0, pane, Seq(0), out);
                }
            }
        }
    }

    /// Fires a window that has, or may then have, said something before.
    fn fire_again(&mut self, key: u32, window: i64, bounds: (i64, i64), run: (i64, i64), open: bool, out: &mut Vec<Output>) {
        let rows = self.panes.rows(key, run);
        let said = self.panes.spoken(key).and_then(|spoken| spoken.get(&window)).cloned();
        if rows <= said.as_ref().map_or(0, |said| said.rows) {
            return;
        }
        let revision = said.as_ref().map_or(0, |said| said.revision);
        let since = said.and_then(|said| said.since);
        let pane = since.as_ref().or_else(|| self.panes.window(key, run));
        let Some(pane) = pane else { return };
        self.maker.fire_numbered(&self.keys, key, bounds, revision, pane, Seq(0), out);
        if !open && revision == 0 {
            return;
        }
        let apart = open && self.config().accumulation == Accumulation::Discarding;
        self.apart |= apart;
        let since = apart.then(|| self.panes.plan().start());
        if let Some(spoken) = self.panes.spoken_mut(key) {
            spoken.insert(window, Spoken { revision: revision + 1, rows, since });
        }
    }

    fn sort_keys(&mut self) {
        if self.order.0 != self.keys.version() {
            self.order = (self.keys.version(), self.keys.sorted());
        }
    }

    /// Fires every open window that has something new, and keeps it.
    pub fn fire_open(&mut self, out: &mut Vec<Output>) {
        let before = out.len();
        if let Some(slices) = self.slices.take() {
            let last = self.panes.last_slice().map_or(i64::MIN, |slice| slices.windows(slice).1);
            self.fire(&slices, slices.ended(self.watermark), last, true, out);
            self.slices = Some(slices);
        }
        self.sessions.fire_open(&self.maker, out);
        self.fired += (out.len() - before) as u64;
    }

    /// The end of input: every window closes.
    pub fn finish(&mut self, out: &mut Vec<Output>) {
        self.advance(Timestamp::MAX, out);
    }

    /// The earliest watermark at which a window that is open fires or is freed.
    pub fn deadline(&self) -> Option<Timestamp> {
        let Some(slices) = &self.slices else { return self.sessions.deadline().map(Timestamp) };
        let fires = self.next_window(slices, slices.ended(self.watermark)).map(|window| slices.bounds(window).1);
        let lateness_ns = self.config().allowed_lateness_ns;
        if lateness_ns == 0 {
            return fires.map(Timestamp);
        }
        let first =
            self.panes.next_slice(i64::MIN).map(|slice| slices.bounds(slices.windows(slice).1).1.saturating_add(lateness_ns));
        fires.into_iter().chain(first).min().map(Timestamp)
    }

    /// The windows of `key` that are not freed and have rows, in order.
    fn open_of(&self, slices: &Slices, key: u32) -> Vec<Range<i64>> {
        let mut next = self.freed(slices).saturating_add(1);
        let mut open = Vec::new();
        for slice in self.panes.slices_of(key) {
            let (first, last) = slices.windows(slice);
            let (first, end) = (first.max(next), last.saturating_add(1));
            if first < end {
                open.push(first..end);
                next = end;
            }
        }
        open
    }

    /// Windows (with keys) that are open.
    pub fn open_count(&self) -> usize {
        let Some(slices) = &self.slices else { return self.sessions.len() };
        let of = |key: u32| self.open_of(slices, key).into_iter().map(|run| run.end.abs_diff(run.start) as usize).sum::<usize>();
        self.keys.numbers().map(of).sum()
    }

    /// The first open windows, by end and start.
    pub fn open_windows(&self, limit: usize) -> Vec<OpenWindow> {
        let make = |(start, end): (i64, i64), key: Key, rows| OpenWindow {
            window: Arc::clone(&self.config().id),
            start: Timestamp(start),
            end: Timestamp(end),
            key,
            rows,
        };
        let names = &self.config().group_by;
        let Some(slices) = &self.slices else {
            let shown = |key: &KeyTexts| names.iter().cloned().zip(key.iter().cloned()).collect();
            return self.sessions.open().take(limit).map(|(bounds, key, rows)| make(bounds, shown(key), rows)).collect();
        };
        let mut open: Vec<(i64, &KeyTexts, u32)> = Vec::new();
        for key in self.keys.numbers() {
            let windows = self.open_of(slices, key).into_iter().flatten().take(limit);
            open.extend(windows.map(|window| (window, self.keys.texts(key), key)));
        }
        open.sort_unstable();
        let one = |(window, _, key): (i64, &KeyTexts, u32)| {
            make(slices.bounds(window), self.keys.shown(key, names), self.panes.rows(key, slices.run(window)))
        };
        open.into_iter().take(limit).map(one).collect()
    }

    /// Rows that came too late.
    pub fn late_count(&self) -> u64 {
        self.late
    }

    /// Firings so far.
    pub fn fired_count(&self) -> u64 {
        self.fired
    }

    /// What a checkpoint keeps.
    pub fn snapshot(&self) -> WindowState {
        self.capture().state()
    }

    /// The first half of [`Self::snapshot`], which is what the rows have to wait for.
    pub(super) fn capture(&self) -> CapturedShard {
        let freed = self.slices.as_ref().map_or(i64::MAX, |slices| self.freed(slices));
        let (mut slices, mut places) = (Vec::new(), Vec::new());
        let mut keys = Vec::with_capacity(self.keys.len());
        for key in self.keys.numbers() {
            let before = slices.len();
            for (slice, place) in self.panes.places_of(key) {
                slices.push(slice);
                places.push(place);
            }
            if slices.len() > before {
                // What was said of freed windows is forgotten with the panes of any key.
                let spoken = self.panes.spoken(key).into_iter().flatten().filter(|(window, _)| **window > freed);
                let spoken = spoken.map(|(window, spoken)| (*window, spoken.clone())).collect();
                keys.push(CapturedKey { key: Arc::clone(self.keys.texts(key)), panes: slices.len() - before, spoken });
            }
        }
        let (rows, cells) = self.panes.columns(&places);
        CapturedShard {
            cut: self.slices.as_ref().map(Slices::signature),
            watermark: self.watermark,
            keys,
            slices,
            rows,
            cells,
            sessions: self.sessions.snapshot(),
            late: self.late,
            fired: self.fired,
        }
    }

    /// Whether a checkpoint is of windows like these.
    ///
    /// # Errors
    /// It is of windows of another size, or with other aggregates.
    pub fn fits(&self, state: &WindowState) -> Result<(), WindowError> {
        let plan = self.panes.plan();
        let fits = state.keys.iter().flat_map(|key| &key.panes).all(|(_, pane)| plan.fits(pane))
            && state.sessions.fit(plan, self.config().group_by.len());
        let same_keys = state.keys.iter().all(|key| key.key.len() == self.config().group_by.len());
        if state.cut == self.slices.as_ref().map(Slices::signature) && fits && same_keys {
            return Ok(());
        }
        let message = format!("window `{}` was configured otherwise when its state was saved: it starts anew", self.config().id);
        Err(WindowError { key: "windows", message })
    }

    /// Goes on from a checkpoint, in an operator that has seen nothing.
    ///
    /// # Errors
    /// One that does not [fit](Self::fits); the operator then starts anew.
    pub fn restore(&mut self, state: WindowState) -> Result<(), WindowError> {
        self.fits(&state)?;
        for KeyState { key, panes, spoken } in state.keys {
            let number = self.keys.number(key.iter().map(Option::as_ref));
            for (slice, pane) in panes {
                self.panes.put(number, slice, pane);
            }
            if let (false, Some(known)) = (spoken.is_empty(), self.panes.spoken_mut(number)) {
                self.apart |= spoken.iter().any(|(_, spoken)| spoken.since.is_some());
                known.extend(spoken);
            }
        }
        self.sessions.restore(state.sessions);
        (self.watermark, self.late, self.fired) = (state.watermark, state.late, state.fired);
        Ok(())
    }
}

/// The slice around all rows with times between these, if it is one whose windows have not fired.
fn only_slice(slices: &Slices, (earliest, latest): (i64, i64), ended: i64) -> Option<Slice> {
    let slice = slices.around(earliest);
    (latest < slice.end && slice.first <= slice.last && slice.first > ended).then_some(slice)
}

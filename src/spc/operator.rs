//! A chart as the engine runs it: batches of rows in inbox order, keys by tags, results and onsets out.
//!
//! Rows are taken in segments: consecutive rows with the same key, the same source of limits and the same subgroup boundary. A key is
//! looked up once a segment, by tag codes through a cache that lives for one call. Nothing is allocated for a point that is not shown.
//!
//! A row without a value or with the flag of a failed checkpoint is a missing point: it counts in the index, prints nothing, breaks every
//! run and forms no moving range. Inside a subgroup it leaves a smaller one, judged by the limits of its size; a subgroup with fewer
//! than two values (one, for charts of means alone) is missing. Subgroups by time close when a row of a later slot arrives; rows of a
//! slot that is over, or with a clock in the future, are left out and counted.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    config::{ChartConfig, ConfigError},
    emit::{Act, Counters, Emit, Onset, Sink},
    key::{id_stem, key_text},
    recent::{RECENT_KEYS_MAX, Recent},
    rows::{Numbers, Segment},
    sample::Boundary,
    setup::{Grouping, Setup},
    state::{Context, KeyState},
};
use crate::model::{Batch, Flags, Key, NO_LAYER, Output, Seq, Stream};

/// Keys of one chart; rows of further keys are counted and left out.
pub const KEYS_MAX: usize = 100_000;
/// Combinations of tag codes that the cache of a call spans.
const CACHE_MAX: usize = 4096;
const UNSEEN: u32 = u32::MAX;
const REFUSED: u32 = u32::MAX - 1;

/// The texts of a key's tags, in order of `group_by`.
type Texts = Vec<Option<Arc<str>>>;

#[derive(Debug)]
pub(super) struct Entry {
    pub key: Key,
    /// The middle of its ids.
    pub stem: String,
    /// Shared with a snapshot until bytes are made of that one: a key that gets a point before is copied then, and no other.
    pub state: Arc<KeyState>,
}

/// One configured chart with the state of all its keys.
#[derive(Debug)]
pub struct ChartOperator {
    pub(super) setup: Setup,
    pub(super) entries: Vec<Entry>,
    by_texts: BTreeMap<Arc<Texts>, u32>,
    /// By entry; shared with snapshots, since keys come seldom.
    texts_by_entry: Arc<Vec<Arc<Texts>>>,
    /// How many keys have lost their view to newer ones.
    first_viewed: usize,
    counters: Counters,
    onsets: Vec<Onset>,
    cache: Vec<u32>,
    texts: Texts,
}

/// A chart's state as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    config: ChartConfig,
    keys: Vec<(Arc<Texts>, Arc<KeyState>)>,
    counters: Counters,
}

/// A chart's state at a moment: keys that get points later are copied then.
pub struct Captured {
    config: ChartConfig,
    texts: Arc<Vec<Arc<Texts>>>,
    /// Beside `texts`.
    states: Vec<Arc<KeyState>>,
    counters: Counters,
}

impl Captured {
    /// As it is stored: keys in order of appearance, so that restoring gives the same places.
    pub fn snapshot(self) -> Snapshot {
        let keys = self.texts.iter().map(Arc::clone).zip(self.states).collect();
        Snapshot { config: self.config, keys, counters: self.counters }
    }
}

/// Why a snapshot cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The chart was configured differently when the snapshot was taken.
    #[error("chart `{0}` is configured differently now: it starts anew")]
    OtherConfig(String),
    /// The parts of the snapshot do not fit each other.
    #[error("the stored state of chart `{0}` is damaged: it starts anew")]
    Damaged(String),
}

impl ChartOperator {
    /// The chart for rows of `stream`.
    ///
    /// # Errors
    /// A name that the stream does not have.
    pub fn new(pipeline: Arc<str>, config: ChartConfig, stream: &Stream) -> Result<Self, ConfigError> {
        Ok(Self {
            setup: Setup::new(pipeline, config, stream)?,
            entries: Vec::new(),
            by_texts: BTreeMap::new(),
            texts_by_entry: Arc::default(),
            first_viewed: 0,
            counters: Counters::default(),
            onsets: Vec::new(),
            cache: Vec::new(),
            texts: Vec::new(),
        })
    }

    /// The checked configuration.
    pub fn config(&self) -> &ChartConfig {
        &self.setup.config
    }

    /// The chart's id.
    pub fn id(&self) -> &Arc<str> {
        &self.setup.config.id
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Hands out what alerts are made of, in order.
    pub fn drain_onsets(&mut self) -> std::vec::Drain<'_, Onset> {
        self.onsets.drain(..)
    }

    /// Takes the `rows` of `batch`.
    pub fn push(&mut self, batch: &Batch, rows: Range<usize>, emit: Emit, out: &mut Vec<Output>) {
        let end = rows.end.min(batch.rows());
        let mut start = rows.start;
        if start >= end {
            return;
        }
        self.counters.rows += (end - start) as u64;
        self.prepare_cache(batch, end - start);
        let columns: Vec<&[f64]> = self.setup.columns.iter().map(|column| batch.signals[*column].as_slice()).collect();
        let mut views = columns.clone();
        while start < end {
            let stop = self.segment_end(batch, start, end);
            for (view, column) in views.iter_mut().zip(&columns) {
                *view = &column[start..stop];
            }
            self.segment(batch, start..stop, &views, emit, out);
            start = stop;
        }
    }

    /// The end of the run of rows like the one at `start`.
    fn segment_end(&self, batch: &Batch, start: usize, end: usize) -> usize {
        let same = |column: &[u32], end: usize| {
            let code = column[start];
            column[start..end].iter().position(|other| *other != code).map_or(end, |at| start + at)
        };
        let mut end = self.setup.split.iter().fold(end, |end, column| same(&batch.tags[*column].codes, end));
        match (self.setup.grouping, &batch.layer) {
            (Grouping::Layer, Some(layers)) => {
                let layer = layers[start];
                end = layers[start..end].iter().position(|other| *other != layer).map_or(end, |at| start + at);
            }
            (Grouping::Every(ns), _) => {
                let slot = slot(batch.time[start], ns);
                let future = batch.flags(start).has(Flags::FUTURE);
                let other = |row: &usize| !slot.contains(&batch.time[*row]) || batch.flags(*row).has(Flags::FUTURE) != future;
                end = (start + 1..end).find(other).unwrap_or(end);
            }
            _ => {}
        }
        end
    }

    fn segment(&mut self, batch: &Batch, rows: Range<usize>, values: &[&[f64]], emit: Emit, out: &mut Vec<Output>) {
        let at = self.entry_at(batch, rows.start);
        let Some(entry) = self.entries.get_mut(at as usize) else {
            self.counters.keys_refused += rows.len() as u64;
            return;
        };
        let setup = &self.setup;
        let lookup = setup.lookup_tag.map(|column| batch.tags[column].get(rows.start).map(|text| &**text));
        let mut sink = Sink {
            emit,
            out,
            onsets: &mut self.onsets,
            counts: &mut self.counters,
            key: &entry.key,
            stem: &entry.stem,
            at: batch.seq(rows.start),
            lookup: lookup.flatten(),
        };
        let state = Arc::make_mut(&mut entry.state);
        let context = context(setup, lookup);
        if context != state.context {
            state.cut(setup, &mut sink);
            state.switch(setup, context);
        }
        match boundary(setup, batch, rows.start, state) {
            Place::Anywhere => {}
            Place::Inside(boundary) => state.turn_to(setup, boundary, &mut sink),
            Place::Nowhere => {
                sink.counts.unplaced += rows.len() as u64;
                return;
            }
        }
        let nominal = match context {
            Context::Entry(entry) => setup.nominal.get(entry as usize),
            _ => None,
        };
        let segment = Segment {
            values,
            sizes: setup.size_column.map(|column| &batch.signals[column][rows.clone()]),
            time: &batch.time[rows.clone()],
            seqs: match &batch.seqs {
                Some(seqs) => Numbers::Listed(&seqs[rows.clone()]),
                None => Numbers::From(batch.first_seq.0 + rows.start as u64),
            },
            flags: batch.flags.as_ref().map(|flags| &flags[rows.clone()]),
            shift: nominal.map_or(0.0, |(_, nominal)| nominal.target),
            scale: nominal.map_or(1.0, |(_, nominal)| nominal.scale),
        };
        state.rows(setup, &segment, &mut sink);
    }

    /// Sizes the cache for the tag codes of `batch`, if they are few.
    fn prepare_cache(&mut self, batch: &Batch, rows: usize) {
        self.cache.clear();
        let mut codes = self.setup.group.iter().map(|column| batch.tags[*column].names.len() + 1);
        let product = codes.try_fold(1_usize, usize::checked_mul);
        if let Some(product) = product.filter(|product| *product <= CACHE_MAX.min(4 * rows + 64)) {
            self.cache.resize(product, UNSEEN);
        }
    }

    /// The place of the key of `row`, made if it is new; [`REFUSED`] beyond the bound.
    fn entry_at(&mut self, batch: &Batch, row: usize) -> u32 {
        let mut slot = 0_usize;
        for column in &self.setup.group {
            let tag = &batch.tags[*column];
            // Null comes after all names.
            slot = slot.saturating_mul(tag.names.len() + 1).saturating_add((tag.codes[row] as usize).min(tag.names.len()));
        }
        match self.cache.get(slot) {
            Some(&at) if at != UNSEEN => return at,
            _ => {}
        }
        self.texts.clear();
        self.texts.extend(self.setup.group.iter().map(|column| batch.tags[*column].get(row).cloned()));
        let at = match self.by_texts.get(&self.texts) {
            Some(at) => *at,
            None if self.entries.len() >= KEYS_MAX => REFUSED,
            None => self.add_entry(Arc::new(self.texts.clone()), Arc::new(KeyState::new(&self.setup))),
        };
        if let Some(cached) = self.cache.get_mut(slot) {
            *cached = at;
        }
        at
    }

    fn add_entry(&mut self, texts: Arc<Texts>, mut state: Arc<KeyState>) -> u32 {
        let key: Key = self.setup.config.group_by.iter().cloned().zip(texts.iter().cloned()).collect();
        let stem = id_stem(&self.setup.pipeline, &self.setup.config.id, &key);
        let at = self.entries.len() as u32;
        Arc::make_mut(&mut self.texts_by_entry).push(Arc::clone(&texts));
        self.by_texts.insert(texts, at);
        Arc::make_mut(&mut state).recent.get_or_insert_with(|| Box::new(Recent::default()));
        self.entries.push(Entry { key, stem, state });
        while self.entries.len() - self.first_viewed > RECENT_KEYS_MAX {
            Arc::make_mut(&mut self.entries[self.first_viewed].state).recent = None;
            self.first_viewed += 1;
        }
        at
    }

    /// The end of a replay: subgroups by layer, tag or time close (unless `flush` is false; those by count that are not full never
    /// become points), and every key says its capability. `at` is the last row there was.
    pub fn finish(&mut self, flush: bool, emit: Emit, at: Seq, out: &mut Vec<Output>) {
        for place in 0..self.entries.len() {
            self.with(place, emit, at, out, |state, setup, sink| {
                if flush && !matches!(setup.grouping, Grouping::Row | Grouping::Size(_)) {
                    state.close(setup, sink);
                }
                state.say_capability(setup, false, sink);
            });
        }
    }

    /// Takes baseline points with an assignable cause out, by index, and sets limits anew; says the new limits. How many were taken out.
    ///
    /// # Errors
    /// In words, when there is no such key, baseline or point.
    pub fn exclude(&mut self, key: &Key, indices: &[u64], act: &Act, at: Seq, out: &mut Vec<Output>) -> Result<usize, String> {
        let place = self.place(key)?;
        self.with(place, Emit::Changes, at, out, |state, setup, sink| state.exclude(setup, indices, act, sink))
    }

    /// Starts Phase I of one key again; the limits in force end here.
    ///
    /// # Errors
    /// In words, when there is no such key, or limits are configured.
    pub fn rebaseline(&mut self, key: &Key, act: &Act) -> Result<(), String> {
        let at = self.place(key)?;
        let state = Arc::make_mut(&mut self.entries[at].state);
        state.rebaseline(&self.setup, act)
    }

    fn place(&self, key: &Key) -> Result<usize, String> {
        let found = self.entries.iter().position(|entry| entry.key == *key);
        found.ok_or_else(|| format!("chart `{}` has no key `{}`", self.id(), key_text(key)))
    }

    fn with<T>(
        &mut self,
        place: usize,
        emit: Emit,
        at: Seq,
        out: &mut Vec<Output>,
        act: impl FnOnce(&mut KeyState, &Setup, &mut Sink<'_>) -> T,
    ) -> T {
        let entry = &mut self.entries[place];
        let mut sink = Sink {
            emit,
            out,
            onsets: &mut self.onsets,
            counts: &mut self.counters,
            key: &entry.key,
            stem: &entry.stem,
            at,
            lookup: None,
        };
        act(Arc::make_mut(&mut entry.state), &self.setup, &mut sink)
    }

    /// Everything that a restart must not forget. Onsets have been drained by then.
    pub fn snapshot(&self) -> Snapshot {
        self.capture().snapshot()
    }

    /// The first half of [`Self::snapshot`], which is what the rows have to wait for.
    pub fn capture(&self) -> Captured {
        Captured {
            config: self.setup.config.clone(),
            texts: Arc::clone(&self.texts_by_entry),
            states: self.entries.iter().map(|entry| Arc::clone(&entry.state)).collect(),
            counters: self.counters,
        }
    }

    /// Goes on from `snapshot`.
    ///
    /// # Errors
    /// When the chart was configured differently then, or the snapshot does not fit together; the operator is then as it was.
    pub fn restore(&mut self, snapshot: Snapshot) -> Result<(), RestoreError> {
        let id = || self.id().to_string();
        if snapshot.config != self.setup.config {
            return Err(RestoreError::OtherConfig(id()));
        }
        let tags = self.setup.group.len();
        let fits = |(texts, state): &(Arc<Texts>, Arc<KeyState>)| texts.len() == tags && state.is_consistent(&self.setup);
        if snapshot.keys.len() > KEYS_MAX || !snapshot.keys.iter().all(fits) {
            return Err(RestoreError::Damaged(id()));
        }
        self.entries.clear();
        self.by_texts.clear();
        self.texts_by_entry = Arc::default();
        self.onsets.clear();
        self.first_viewed = 0;
        self.counters = snapshot.counters;
        for (texts, state) in snapshot.keys {
            self.add_entry(texts, state);
        }
        Ok(())
    }
}

/// What selects the limits of rows whose looked-up tag is `text`: none where nothing is looked up, a null text where the row has none.
#[expect(clippy::option_option, reason = "a chart without a table, a row without the tag")]
fn context(setup: &Setup, text: Option<Option<&str>>) -> Context {
    let Some(text) = text else { return Context::Always };
    let Some(text) = text else { return Context::Unknown };
    let known = setup.known.binary_search_by(|(name, _)| (**name).cmp(text));
    let nominal = setup.nominal.binary_search_by(|(name, _)| (**name).cmp(text));
    match (known, nominal, setup.known.is_empty(), setup.nominal.is_empty()) {
        (Ok(at), _, _, true) | (_, Ok(at), true, _) => Context::Entry(at as u32),
        _ => Context::Unknown,
    }
}

/// Where the rows of a segment go.
enum Place {
    Anywhere,
    Inside(Boundary),
    Nowhere,
}

fn boundary(setup: &Setup, batch: &Batch, row: usize, state: &KeyState) -> Place {
    let boundary = match setup.grouping {
        Grouping::Row | Grouping::Size(_) => return Place::Anywhere,
        Grouping::Layer => batch.layer.as_ref().map(|layer| layer[row]).filter(|layer| *layer != NO_LAYER).map(Boundary::Layer),
        Grouping::Tag(column) => batch.tags[column].get(row).cloned().map(Boundary::Tag),
        Grouping::Every(_) if batch.flags(row).has(Flags::FUTURE) => None,
        Grouping::Every(ns) => Some(Boundary::Slot(slot(batch.time[row], ns).start)),
    };
    match (boundary, state.open.as_ref().map(|open| &open.boundary)) {
        (None, _) => Place::Nowhere,
        (Some(Boundary::Slot(here)), Some(Boundary::Slot(open))) if here < *open => Place::Nowhere,
        (Some(boundary), _) => Place::Inside(boundary),
    }
}

/// The slot of `ns` nanoseconds that `time` lies in.
fn slot(time: i64, ns: i64) -> Range<i64> {
    let start = time.saturating_sub(time.rem_euclid(ns));
    start..start.saturating_add(ns)
}

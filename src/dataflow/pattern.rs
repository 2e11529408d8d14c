//! Patterns of events: a sequence, all of a set, or an absence, within a duration, per key, in event time.
//!
//! Rows are looked at in the order (time, arrival), once the watermark is past them; only rows that meet a condition wait at all. A
//! condition that cannot be evaluated is not met, and counted. `within` includes its end: events exactly that far apart match, as in
//! joins (Flink CEP leaves that one instant out).
//!
//! **Sequence** `[c1, c2, …]`: a row that meets `c1`, a later one that meets `c2`, and so on, the last at most `within` after the first.
//! Rows between them do not matter, and each step takes the first row that fits (Flink's `followedBy`). A row is one step only.
//!
//! **All** `[c1, c2, …]`: a row for each condition in any order, all at most `within` apart; one row can meet several. For each
//! condition the earliest row in time is taken.
//!
//! **Absence** `A` after `B`: a row that meets `B`, and no later row up to and including `within` after it that meets `A`. It is
//! known, and emitted, when the watermark passes that end. While one `B` waits, further ones change nothing.
//!
//! **After a match** the search goes on behind its end (Flink's `SKIP_PAST_LAST_EVENT`): no row is in two matches, and of two
//! candidates that end at the same row the one that started first counts. An absence ends when its time is over, so it comes at most
//! once per `within` and key.
//!
//! **Late rows.** A row before the watermark that meets a condition goes to the late lane; one that meets none is of no interest.
//! Rows of the future ([`Flags::FUTURE`]) are passed over.
//!
//! **Bounds.** Candidates live as long as `within`. Of a key at most `rows_max` are kept: beyond that the oldest one goes that a
//! later one can stand in for, so a match is still found, with a later first row. At most [`PENDING_MAX`] rows wait for the
//! watermark; more are shed and counted.
//!
//! Ids: `pattern:{pipeline}:{pattern}:{tag=text,…}:{first row seq}:{last row seq}`, `late:{pipeline}:{pattern}:{seq}`.

mod candidates;
mod saved;

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use serde::{Deserialize, Serialize};

use super::keys::{KeyCache, KeyTable};
use crate::{
    expr::{Bools, Expr, ExprError, Scratch, Type},
    model::{Batch, Body, Flags, Key, LateRow, Output, PatternMatch, Row, Stream, Timestamp},
};
use candidates::{Candidates, Item};
pub use saved::PatternSnapshot;

/// Rows that may wait for the watermark, over all keys.
pub const PENDING_MAX: usize = 1_000_000;
/// Conditions of one pattern: the bits of a word.
pub const CONDITIONS_MAX: usize = 64;
/// The least `rows_max`: one candidate for each condition, and one more.
const ROWS_MAX_MIN: usize = CONDITIONS_MAX + 1;

/// What has to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PatternKind {
    /// One condition after the other.
    Sequence(Vec<Box<str>>),
    /// Every condition, in any order.
    All(Vec<Box<str>>),
    /// Nothing that meets `absence` follows what meets `after`.
    Absence {
        /// What must not come.
        absence: Box<str>,
        /// What starts the time.
        after: Box<str>,
    },
}

impl PatternKind {
    fn conditions(&self) -> Vec<&str> {
        match self {
            Self::Sequence(conditions) | Self::All(conditions) => conditions.iter().map(|text| &**text).collect(),
            Self::Absence { absence, after } => vec![absence, after],
        }
    }
}

/// What a pattern is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatternConfig {
    /// The configured id.
    pub id: Arc<str>,
    /// What has to happen.
    pub kind: PatternKind,
    /// In how long, nanoseconds; above 0.
    pub within_ns: i64,
    /// The tags that make a key; null is a value of its own.
    pub group_by: Vec<Arc<str>>,
    /// How many candidates are kept for a key; at least 65.
    pub rows_max: usize,
}

impl PatternConfig {
    /// Candidates for a key unless configured.
    pub const ROWS_MAX: usize = 1000;
}

/// Why there is no such pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A condition that is no expression over the stream.
    #[error("condition {place} of pattern `{pattern}`, `{text}`: {error}")]
    Condition {
        /// The pattern.
        pattern: Arc<str>,
        /// 1-based; of an absence, `absence` is 1 and `after` 2.
        place: usize,
        /// The condition.
        text: Box<str>,
        /// What is wrong with it.
        error: ExprError,
    },
    /// None or too many.
    #[error("pattern `{pattern}` has {count} conditions: write 1 to {CONDITIONS_MAX}")]
    ConditionCount {
        /// The pattern.
        pattern: Arc<str>,
        /// How many it has.
        count: usize,
    },
    /// A duration that is not above zero.
    #[error("`within` of pattern `{0}` must be above zero")]
    Within(Arc<str>),
    /// A tag to group by that the stream does not have.
    #[error("pattern `{pattern}` groups by tag `{tag}`, which stream `{stream}` does not have: declare it in `tags`")]
    UnknownTag {
        /// The pattern.
        pattern: Arc<str>,
        /// The tag.
        tag: Arc<str>,
        /// The stream without it.
        stream: Arc<str>,
    },
    /// A snapshot that does not fit.
    #[error("the saved state of pattern `{0}` does not fit its stream: it has changed since")]
    Snapshot(Arc<str>),
}

/// What a pattern has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PatternCounters {
    /// Matches emitted.
    pub matches: u64,
    /// Rows that met a condition but came too late.
    pub late: u64,
    /// Evaluations of a condition that raised an error.
    pub errors: u64,
    /// Candidates dropped because a key had `rows_max`.
    pub evicted: u64,
    /// Rows dropped because [`PENDING_MAX`] waited.
    pub shed: u64,
}

/// Looks for one pattern in one stream; see the module's page.
#[derive(Debug)]
pub struct PatternOperator {
    pipeline: Arc<str>,
    config: PatternConfig,
    stream: Arc<Stream>,
    conditions: Vec<Expr>,
    /// The columns of `group_by`.
    tags: Vec<usize>,
    keys: KeyTable,
    key_cache: KeyCache,
    /// By key number.
    candidates: Vec<Candidates>,
    /// Rows the watermark has not passed, by (time, number).
    pending: BTreeMap<(i64, u64), Arc<Item>>,
    /// When a key's first candidate is over, by (last instant, number of its first row).
    timers: BTreeMap<(i64, u64), u32>,
    /// The number of the next row that meets a condition.
    next_number: u64,
    watermark: Timestamp,
    counters: PatternCounters,
    /// Keys that may have nothing left.
    emptied: Vec<u32>,
    scratch: Scratch,
    bools: Bools,
    /// By row of a batch, a bit for each condition that is met.
    met: Vec<u64>,
}

impl PatternOperator {
    /// A search for `config` in `stream`.
    ///
    /// # Errors
    /// Conditions that do not compile, none or too many of them, a `within` of zero, an unknown tag.
    pub fn new(pipeline: Arc<str>, config: PatternConfig, stream: &Arc<Stream>) -> Result<Self, PatternError> {
        if config.within_ns <= 0 {
            return Err(PatternError::Within(config.id));
        }
        let (conditions, tags) = (conditions(&config, stream)?, tags(&config, stream)?);
        Ok(Self {
            pipeline,
            stream: Arc::clone(stream),
            conditions,
            keys: KeyTable::default(),
            key_cache: KeyCache::new(tags.clone()),
            tags,
            candidates: Vec::new(),
            pending: BTreeMap::new(),
            timers: BTreeMap::new(),
            next_number: 0,
            watermark: Timestamp::MIN,
            counters: PatternCounters::default(),
            emptied: Vec::new(),
            scratch: Scratch::default(),
            bools: Bools::default(),
            met: Vec::new(),
            config,
        })
    }

    /// What it is about.
    pub fn config(&self) -> &PatternConfig {
        &self.config
    }

    /// What it has done so far.
    pub fn counters(&self) -> PatternCounters {
        self.counters
    }

    /// How many keys have rows that wait or candidates.
    pub fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// Takes `rows` (clipped to what `batch` has): those that meet a condition wait for the watermark, or are late.
    pub fn push(&mut self, batch: &Batch, rows: Range<usize>, out: &mut Vec<Output>) {
        let rows = rows.start.min(batch.rows())..rows.end.min(batch.rows());
        self.evaluate(batch, rows.clone());
        self.key_cache.start(batch, rows.len());
        for (row, place) in rows.zip(0..) {
            let met = self.met[place];
            if met == 0 || batch.flags(row).has(Flags::FUTURE) {
                continue;
            }
            if batch.time[row] < self.watermark.0 {
                self.late(batch.row(row), out);
            } else if self.pending.len() >= PENDING_MAX {
                self.counters.shed += 1;
            } else {
                let key = self.key_cache.number(batch, row, &mut self.keys);
                self.wait(Item { number: self.next_number, key, met, row: batch.row(row) });
            }
        }
    }

    /// Fills `met`.
    fn evaluate(&mut self, batch: &Batch, rows: Range<usize>) {
        self.met.clear();
        self.met.resize(rows.len(), 0);
        for (bit, condition) in self.conditions.iter().enumerate() {
            condition.eval_bool(batch, rows.clone(), &mut self.scratch, &mut self.bools);
            self.counters.errors += self.bools.count_errors() as u64;
            for (met, truth) in self.met.iter_mut().zip(self.bools.as_slice()) {
                *met |= u64::from(*truth == crate::expr::TRUE) << bit;
            }
        }
    }

    fn wait(&mut self, item: Item) {
        self.next_number = self.next_number.max(item.number + 1);
        self.state(item.key).pending += 1;
        self.pending.insert(item.order(), Arc::new(item));
    }

    fn state(&mut self, key: u32) -> &mut Candidates {
        if self.candidates.len() <= key as usize {
            self.candidates.resize_with(key as usize + 1, Candidates::default);
        }
        &mut self.candidates[key as usize]
    }

    fn late(&mut self, row: Row, out: &mut Vec<Output>) {
        self.counters.late += 1;
        let id = format!("late:{}:{}:{}", self.pipeline, self.config.id, row.seq.0);
        let at = row.seq;
        let body = Body::Late(Box::new(LateRow { window: Arc::clone(&self.config.id), row }));
        out.push(Output::new(id, &self.pipeline, at, body));
    }

    /// The watermark ran ahead with a clock that is set back to `now`: rows from then on are not late.
    pub fn clock_was_set_back(&mut self, now: Timestamp) {
        self.watermark = self.watermark.min(now);
    }

    /// Moves event time on to `watermark` (exclusive: no row earlier than it follows; one that is not later does nothing): looks at the
    /// rows before it in the order of their times, and at the ends of what was waited for.
    pub fn advance(&mut self, watermark: Timestamp, out: &mut Vec<Output>) {
        if watermark <= self.watermark {
            return;
        }
        self.watermark = watermark;
        let over = |time: i64| time < watermark.0 || watermark == Timestamp::MAX;
        loop {
            let row = self.pending.keys().next().map(|(time, _)| *time).filter(|time| over(*time));
            let timer = self.timers.keys().next().map(|(time, _)| *time).filter(|time| over(*time));
            match (row, timer) {
                (None, None) => break,
                // A row at the last instant still belongs to what is waited for.
                (Some(row), timer) if timer.is_none_or(|timer| row <= timer) => self.next_row(out),
                _ => self.next_timer(out),
            }
        }
        self.release();
    }

    fn next_row(&mut self, out: &mut Vec<Output>) {
        let Some((_, item)) = self.pending.pop_first() else { return };
        let key = item.key;
        let (within_ns, rows_max) = (self.config.within_ns, self.config.rows_max.max(ROWS_MAX_MIN));
        let state = &mut self.candidates[key as usize];
        state.pending -= 1;
        let found = match &self.config.kind {
            PatternKind::Sequence(steps) => state.sequence(item, steps.len()),
            PatternKind::All(conditions) => state.all(item, conditions.len()),
            PatternKind::Absence { .. } => {
                state.absence(item);
                None
            }
        };
        self.counters.evicted += state.evict(rows_max);
        self.schedule(key, within_ns);
        if let Some(rows) = found {
            let end = rows.last().map_or(Timestamp::MIN, |row| row.row.time);
            self.emit(key, &rows, end, out);
        }
        self.emptied.push(key);
    }

    fn next_timer(&mut self, out: &mut Vec<Output>) {
        let Some(((time, _), key)) = self.timers.pop_first() else { return };
        let within_ns = self.config.within_ns;
        let over = self.candidates[key as usize].expire(time, within_ns);
        self.schedule(key, within_ns);
        if let (PatternKind::Absence { .. }, Some(rows)) = (&self.config.kind, over) {
            self.emit(key, &rows, Timestamp(time), out);
        }
        self.emptied.push(key);
    }

    /// Brings the timer of a key in line with its first candidate.
    fn schedule(&mut self, key: u32, within_ns: i64) {
        let state = &mut self.candidates[key as usize];
        let timer = state.first().map(|first| (first.row.time.saturating_add(within_ns).0, first.number));
        if timer != state.timer {
            if let Some(old) = std::mem::replace(&mut state.timer, timer) {
                self.timers.remove(&old);
            }
            if let Some(new) = timer {
                self.timers.insert(new, key);
            }
        }
    }

    fn emit(&mut self, key: u32, rows: &[Arc<Item>], end: Timestamp, out: &mut Vec<Output>) {
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return };
        self.counters.matches += 1;
        let shown = self.keys.shown(key, &self.config.group_by);
        let id =
            format!("pattern:{}:{}:{}:{}:{}", self.pipeline, self.config.id, key_text(&shown), first.row.seq.0, last.row.seq.0);
        let body = Body::Pattern(PatternMatch {
            pattern: Arc::clone(&self.config.id),
            key: shown,
            start: first.row.time,
            end,
            rows: rows.iter().map(|item| item.row.clone()).collect(),
        });
        out.push(Output::new(id, &self.pipeline, last.row.seq, body));
    }

    /// Gives back the numbers of keys that have nothing left.
    fn release(&mut self) {
        for key in self.emptied.drain(..) {
            let state = &self.candidates[key as usize];
            if state.pending == 0 && state.first().is_none() {
                self.keys.release(key);
            }
        }
    }

    /// The earliest watermark at which [`Self::advance`] does something; `None` = nothing waits.
    pub fn deadline(&self) -> Option<Timestamp> {
        let next = |times: Option<&(i64, u64)>| times.map(|(time, _)| Timestamp(*time).saturating_add(1));
        next(self.pending.keys().next()).into_iter().chain(next(self.timers.keys().next())).min()
    }
}

fn conditions(config: &PatternConfig, stream: &Stream) -> Result<Vec<Expr>, PatternError> {
    let texts = config.kind.conditions();
    if texts.is_empty() || texts.len() > CONDITIONS_MAX {
        return Err(PatternError::ConditionCount { pattern: Arc::clone(&config.id), count: texts.len() });
    }
    let compile = |(place, text): (usize, &&str)| {
        Expr::compile(text, stream, Type::Bool).map_err(|error| PatternError::Condition {
            pattern: Arc::clone(&config.id),
            place: place + 1,
            text: (*text).into(),
            error,
        })
    };
    texts.iter().enumerate().map(compile).collect()
}

fn tags(config: &PatternConfig, stream: &Stream) -> Result<Vec<usize>, PatternError> {
    let unknown = |tag: &Arc<str>| PatternError::UnknownTag {
        pattern: Arc::clone(&config.id),
        tag: Arc::clone(tag),
        stream: Arc::clone(&stream.id),
    };
    config.group_by.iter().map(|tag| stream.tag(tag).ok_or_else(|| unknown(tag))).collect()
}

/// `part=A3,recipe=B`; a null has no `=`.
fn key_text(key: &Key) -> String {
    let one = |(tag, text): (&Arc<str>, &Option<Arc<str>>)| text.as_ref().map_or(tag.to_string(), |text| format!("{tag}={text}"));
    key.iter().map(one).collect::<Vec<_>>().join(",")
}

//! The windows of one specification, their keys spread over shards that may be on threads of their own.
//!
//! Each shard has the windows of its own keys, and sees the watermark along all rows. A row belongs to one shard; what it causes at once comes
//! from there, in order. What the watermark causes comes from all shards, and is put in the order end, start, key, which is that of one
//! operator. So the number of shards changes nothing of what is put out, nor of what a checkpoint keeps.

use std::{
    cmp::Ordering,
    hash::{BuildHasher, Hasher},
    sync::Arc,
    vec,
};

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use rustc_hash::FxBuildHasher;

use super::{CapturedWindows, Flow, OpenWindow, WindowConfig, WindowError, WindowOperator, WindowState, drive::drive_some};
use crate::model::{Batch, Body, Key, Output, Seq, Stream, Timestamp};

/// More shards than this are refused.
pub const SHARDS_MAX: usize = 64;

/// Below so many rows a shard, waking threads costs more than it gains.
const ROWS_MIN: usize = 1024;

/// The hash that decides on the shard of a text: the same in every run.
pub fn hash_of_text(text: Option<&str>) -> u64 {
    let mut hasher = FxBuildHasher.build_hasher();
    hasher.write(text.unwrap_or_default().as_bytes());
    hasher.write_u8(u8::from(text.is_some()));
    hasher.finish()
}

/// The hash of the texts before and of one more.
#[inline]
pub fn hash_with(before: u64, text: u64) -> u64 {
    before.rotate_left(5) ^ text
}

#[inline]
fn shard_of(hash: u64, shards: usize) -> usize {
    // The low bits of this hash are the weak ones.
    ((u128::from(hash.wrapping_mul(0x9e37_79b9_7f4a_7c15)) * shards as u128) >> 64) as usize
}

/// The shard of the key with these texts.
pub fn shard_of_key(key: &[Option<Arc<str>>], shards: usize) -> usize {
    let hash = key.iter().fold(0_u64, |hash, text| hash_with(hash, hash_of_text(text.as_deref())));
    shard_of(hash, shards)
}

/// The rows of `shard`, by the hashes of all rows; in `rows`, which keeps its room.
pub fn rows_of<'r>(hashes: &[u64], shard: usize, shards: usize, rows: &'r mut Vec<u32>) -> &'r [u32] {
    if rows.len() < hashes.len() {
        rows.resize(hashes.len(), 0);
    }
    let mut count = 0;
    // Whether a row is ours is as good as random: no branch depends on it.
    for (row, hash) in (0..).zip(hashes) {
        rows[count] = row;
        count += usize::from(shard_of(*hash, shards) == shard);
    }
    &rows[..count]
}

/// What brought a result about; of one place in the flow in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The watermark before the rows: it moved while the windows were not told.
    Before,
    /// The row with this number.
    Row(Seq),
    /// The watermark behind a row.
    Watermark,
}

/// Results of one shard, in order, and what brought them about.
#[derive(Debug, Default)]
pub struct Part {
    /// What is put out.
    pub outputs: Vec<Output>,
    /// Beside it.
    pub causes: Vec<Cause>,
}

impl Part {
    /// Results that are all caused by the watermark.
    pub fn of_watermark(outputs: Vec<Output>) -> Self {
        Self { causes: vec![Cause::Watermark; outputs.len()], outputs }
    }

    /// Takes `some` rows of `batch` (`None`: all) through `operator`, along the whole flow.
    pub fn driven(
        operator: &mut WindowOperator,
        batch: &Batch,
        some: Option<&[u32]>,
        places: Option<&[usize]>,
        flow: &Flow,
    ) -> Self {
        let mut part = Self::default();
        part.advance(operator, flow, flow.before, Cause::Before);
        let first = part.outputs.len();
        let mut fired = Vec::new();
        drive_some(operator, batch, some, places, flow, &mut part.outputs, |range| fired.push(range));
        part.causes.extend(part.outputs[first..].iter().map(|output| Cause::Row(output.at)));
        for range in fired {
            part.causes[range].fill(Cause::Watermark);
        }
        part.advance(operator, flow, flow.last(), Cause::Watermark);
        part
    }

    /// Takes `operator` to a watermark of the flow, if it has any: at its ends all shards stand at the same one, whatever their rows.
    fn advance(&mut self, operator: &mut WindowOperator, flow: &Flow, watermark: i64, cause: Cause) {
        let Some(last) = flow.after.len().checked_sub(1) else { return };
        let known = self.outputs.len();
        operator.advance(Timestamp(watermark), &mut self.outputs);
        let place = if cause == Cause::Before { 0 } else { last };
        self.outputs[known..].iter_mut().for_each(|output| output.at = Seq(flow.first_seq + place as u64));
        self.causes.resize(self.outputs.len(), cause);
    }
}

/// The results of all shards, as one operator would have given them.
pub fn merged(parts: Vec<Part>, group_by: &[Arc<str>]) -> Vec<Output> {
    let mut all = Vec::with_capacity(parts.iter().map(|part| part.outputs.len()).sum());
    let mut heads: Vec<_> = parts.into_iter().map(|part| (part.outputs.into_iter(), part.causes.into_iter())).collect();
    while let Some(least) = least(&heads, group_by) {
        let (outputs, causes) = &mut heads[least];
        causes.next();
        all.extend(outputs.next());
    }
    all
}

/// What is left of a shard's results, and what brought them about.
type Head = (vec::IntoIter<Output>, vec::IntoIter<Cause>);

/// The shard whose next result comes first.
fn least(heads: &[Head], group_by: &[Arc<str>]) -> Option<usize> {
    let next = |at: usize| heads[at].0.as_slice().first().zip(heads[at].1.as_slice().first());
    let mut least = None;
    for at in 0..heads.len() {
        if let Some(one) = next(at)
            && least.and_then(next).is_none_or(|known| order(one, known, group_by) == Ordering::Less)
        {
            least = Some(at);
        }
    }
    least
}

fn order((left, left_cause): (&Output, &Cause), (right, right_cause): (&Output, &Cause), group_by: &[Arc<str>]) -> Ordering {
    let order = (left.at, left_cause).cmp(&(right.at, right_cause));
    let (Body::Window(left), Body::Window(right)) = (&left.body, &right.body) else { return order };
    order
        .then_with(|| (left.end, left.start).cmp(&(right.end, right.start)))
        .then_with(|| by_texts(&left.key, &right.key, group_by))
}

fn by_texts(left: &Key, right: &Key, group_by: &[Arc<str>]) -> Ordering {
    if group_by.len() == 1 {
        return left.values().next().cmp(&right.values().next());
    }
    group_by.iter().map(|name| left.get(name)).cmp(group_by.iter().map(|name| right.get(name)))
}

/// Windows of one specification in shards. Batches that are large enough are worked on by as many threads.
#[derive(Debug)]
pub struct SpreadWindows {
    shards: Vec<WindowOperator>,
    tags: Vec<usize>,
    hashes: Vec<u64>,
    /// By shard: room for the places of its rows.
    rows: Vec<Vec<u32>>,
    /// A thread for each shard but the first, which is worked on by whoever calls.
    pool: Option<ThreadPool>,
}

impl SpreadWindows {
    /// Windows of `config` over rows of `stream`, in `shards` shards; in one if they are not grouped.
    ///
    /// # Errors
    /// A specification that makes no sense, a tag that the stream does not have, or more shards than [`SHARDS_MAX`].
    pub fn new(pipeline: &Arc<str>, config: &WindowConfig, stream: &Stream, shards: usize) -> Result<Self, WindowError> {
        if !(1..=SHARDS_MAX).contains(&shards) {
            let message = format!("{shards} threads: write a number from 1 to {SHARDS_MAX}");
            return Err(WindowError { key: "parallelism", message });
        }
        let count = if config.group_by.is_empty() { 1 } else { shards };
        let make = |_| WindowOperator::new(Arc::clone(pipeline), config.clone(), stream);
        let shards: Vec<WindowOperator> = (0..count).map(make).collect::<Result<_, _>>()?;
        let tags = config.group_by.iter().filter_map(|name| stream.tag(name)).collect();
        let pool = ThreadPoolBuilder::new().num_threads(count - 1).thread_name(|number| format!("windows-{}", number + 1));
        let failed = |error: ThreadPoolBuildError| WindowError {
            key: "parallelism",
            message: format!("its threads could not be started: {error}"),
        };
        let pool = (count > 1).then(|| pool.build()).transpose().map_err(failed)?;
        Ok(Self { shards, tags, hashes: Vec::new(), rows: vec![Vec::new(); count], pool })
    }

    /// The specification.
    pub fn config(&self) -> &WindowConfig {
        self.shards[0].config()
    }

    /// Feeds `batch`, whose row `i` came in at place `places[i]` of the flow (`None`: at place `i`).
    pub fn drive(&mut self, batch: &Batch, places: Option<&[usize]>, flow: &Flow, out: &mut Vec<Output>) {
        if let [operator] = self.shards.as_mut_slice() {
            out.append(&mut Part::driven(operator, batch, None, places, flow).outputs);
            return;
        }
        self.hash(batch);
        let (count, hashes) = (self.shards.len(), &self.hashes[..]);
        let work = |number: usize, operator: &mut WindowOperator, rows: &mut Vec<u32>| {
            Part::driven(operator, batch, Some(rows_of(hashes, number, count, rows)), places, flow)
        };
        let mut shards = self.shards.iter_mut().zip(&mut self.rows).enumerate();
        let pool = self.pool.as_ref().filter(|_| batch.rows() >= count * ROWS_MIN);
        let parts = if let Some(pool) = pool {
            let mut parts: Vec<Part> = (0..count).map(|_| Part::default()).collect();
            let (mut slots, work) = (parts.iter_mut(), &work);
            pool.in_place_scope(|scope| {
                let mine = shards.next().zip(slots.next());
                for ((number, (operator, rows)), slot) in shards.zip(slots) {
                    scope.spawn(move |_| *slot = work(number, operator, rows));
                }
                if let Some(((number, (operator, rows)), slot)) = mine {
                    *slot = work(number, operator, rows);
                }
            });
            parts
        } else {
            shards.map(|(number, (operator, rows))| work(number, operator, rows)).collect()
        };
        out.extend(merged(parts, &self.shards[0].config().group_by));
    }

    /// The hashes of the rows' keys.
    fn hash(&mut self, batch: &Batch) {
        self.hashes.clear();
        self.hashes.resize(batch.rows(), 0);
        for tag in &self.tags {
            let column = &batch.tags[*tag];
            let null = hash_of_text(None);
            if column.names.len() > batch.rows() {
                for (row, hash) in self.hashes.iter_mut().enumerate() {
                    *hash = hash_with(*hash, hash_of_text(column.get(row).map(|text| &**text)));
                }
                continue;
            }
            let by_code: Vec<u64> = column.names.iter().map(|text| hash_of_text(Some(&**text))).collect();
            for (hash, code) in self.hashes.iter_mut().zip(&column.codes) {
                *hash = hash_with(*hash, by_code.get(*code as usize).copied().unwrap_or(null));
            }
        }
    }

    /// The watermark is here now: windows that end fire, windows past their lateness are freed.
    pub fn advance(&mut self, watermark: Timestamp, out: &mut Vec<Output>) {
        self.each(out, |operator, out| operator.advance(watermark, out));
    }

    /// Fires every open window that has something new, and keeps it.
    pub fn fire_open(&mut self, out: &mut Vec<Output>) {
        self.each(out, WindowOperator::fire_open);
    }

    fn each(&mut self, out: &mut Vec<Output>, mut act: impl FnMut(&mut WindowOperator, &mut Vec<Output>)) {
        if let [operator] = self.shards.as_mut_slice() {
            act(operator, out);
            return;
        }
        let mut part = |operator: &mut WindowOperator| {
            let mut outputs = Vec::new();
            act(operator, &mut outputs);
            Part::of_watermark(outputs)
        };
        let parts = self.shards.iter_mut().map(&mut part).collect();
        out.extend(merged(parts, &self.shards[0].config().group_by));
    }

    /// Windows (with keys) that are open.
    pub fn open_count(&self) -> usize {
        self.shards.iter().map(WindowOperator::open_count).sum()
    }

    /// The first open windows, by end and start.
    pub fn open_windows(&self, limit: usize) -> Vec<OpenWindow> {
        let mut open: Vec<OpenWindow> = self.shards.iter().flat_map(|operator| operator.open_windows(limit)).collect();
        if self.shards.len() > 1 {
            let group_by = &self.config().group_by;
            open.sort_by(|left, right| {
                (left.end, left.start).cmp(&(right.end, right.start)).then_with(|| by_texts(&left.key, &right.key, group_by))
            });
            open.truncate(limit);
        }
        open
    }

    /// Rows that came too late.
    pub fn late_count(&self) -> u64 {
        self.shards.iter().map(WindowOperator::late_count).sum()
    }

    /// Firings so far.
    pub fn fired_count(&self) -> u64 {
        self.shards.iter().map(WindowOperator::fired_count).sum()
    }

    /// The first half of [`Self::snapshot`], which is what the rows have to wait for.
    pub fn capture(&self) -> CapturedWindows {
        CapturedWindows { shards: self.shards.iter().map(WindowOperator::capture).collect() }
    }

    /// What a checkpoint keeps: that of one operator, whatever the number of shards.
    pub fn snapshot(&self) -> WindowState {
        let first = self.shards[0].snapshot();
        self.shards[1..].iter().fold(first, |whole, operator| whole.with(operator.snapshot()))
    }

    /// Goes on from a checkpoint, in shards that have seen nothing.
    ///
    /// # Errors
    /// A checkpoint of windows of another size, or with other aggregates; the windows then start anew.
    pub fn restore(&mut self, state: WindowState) -> Result<(), WindowError> {
        let count = self.shards.len();
        self.shards[0].fits(&state)?;
        for (operator, part) in self.shards.iter_mut().zip(state.split(count, |key| shard_of_key(key, count))) {
            operator.restore(part)?;
        }
        Ok(())
    }
}

//! Windows over rows of one's own type.

use std::{borrow::Cow, collections::VecDeque, hash::Hash, marker::PhantomData, sync::Arc, time::Duration};

use hashbrown::HashTable;
use rustc_hash::FxHashMap;

use super::{
    Sink, Stream, Timed, WindowSpec,
    chunk::{Chunk, Turn},
    error::ProcessorError,
    life::FlowPlan,
    shards::{AHEAD_MAX, Job, Outcome, Shards},
    sink::SinkStep,
    step::{AnyChunk, Around, Counts, Step, chunk_of},
};
use crate::{
    dataflow::{
        Accumulation, Aggregate, Function, WindowConfig, WindowError,
        aggregate::{Column, Custom},
    },
    model::{Batch, Body, NO_TAG, Number, Output, Seq, Stream as Shape, TagColumn, WindowResult},
};

/// A number that an aggregate takes: no value is skipped, and so is one that is not finite.
pub trait Measure {
    /// As a float; `NaN` = no value.
    fn measure(self) -> f64;
}

macro_rules! measures {
    ($($number:ty),*) => { $(impl Measure for $number {
        #[allow(clippy::cast_lossless, clippy::cast_precision_loss)]
        fn measure(self) -> f64 { self as f64 }
    })* };
}
measures!(f64, f32, i64, i32, i16, i8, u64, u32, u16, u8, usize);

impl<N: Measure> Measure for Option<N> {
    fn measure(self) -> f64 {
        self.map_or(f64::NAN, N::measure)
    }
}

/// The values of some rows; `NaN` = none.
type ValueOf<T> = Box<dyn FnMut(&[T], &mut Vec<f64>) + Send>;

/// An aggregate of rows of type `T`, with the name that its value has in results.
pub struct AggregateOf<T> {
    name: Cow<'static, str>,
    function: Function,
    value_of: Option<ValueOf<T>>,
}

impl<T> AggregateOf<T> {
    /// Calls the value `name` in results; without, it is called as its function.
    #[must_use]
    pub fn alias(self, name: &'static str) -> Self {
        Self { name: Cow::Borrowed(name), ..self }
    }

    fn of<M: Measure>(name: &'static str, function: Function, mut value: impl FnMut(&T) -> M + Send + 'static) -> Self {
        let value_of: ValueOf<T> = Box::new(move |rows, values| {
            values.extend(rows.iter().map(|row| {
                let value = value(row).measure();
                if value.is_finite() { value } else { f64::NAN }
            }));
        });
        Self { name: Cow::Borrowed(name), function, value_of: Some(value_of) }
    }
}

/// How many rows.
pub fn count<T>() -> AggregateOf<T> {
    AggregateOf { name: Cow::Borrowed("count"), function: Function::Count, value_of: None }
}

macro_rules! aggregates {
    ($($(#[$doc:meta])* $name:ident $function:ident;)*) => { $(
        $(#[$doc])*
        pub fn $name<T, M: Measure>(value: impl FnMut(&T) -> M + Send + 'static) -> AggregateOf<T> {
            AggregateOf::of(stringify!($name), Function::$function, value)
        }
    )* };
}

aggregates! {
    /// The sum, with the rounding error carried along; null of nothing.
    sum Sum;
    /// The mean; null of nothing.
    mean Mean;
    /// The smallest.
    min Min;
    /// The largest.
    max Max;
    /// The standard deviation with n − 1; null below two values.
    stddev Stddev;
    /// The variance with n − 1; null below two values.
    variance Variance;
    /// The value of the earliest row.
    first First;
    /// The value of the latest row.
    last Last;
    /// Largest minus smallest.
    range Range;
    /// How many different values.
    distinct Distinct;
}

/// The value below which this share of the values lies, within the relative error that the result states.
pub fn quantile<T, M: Measure>(share: f64, value: impl FnMut(&T) -> M + Send + 'static) -> AggregateOf<T> {
    AggregateOf::of("quantile", Function::Quantile(share.clamp(0.0, 1.0)), value)
}

/// A function of one's own.
pub fn custom<T, M: Measure>(function: &'static Custom, value: impl FnMut(&T) -> M + Send + 'static) -> AggregateOf<T> {
    AggregateOf::of(function.name, Function::Custom(function), value)
}

/// Reads one grouping text of a row into a column.
trait KeyOf<T>: Send {
    /// Codes keep their texts for as long as this returns the same number.
    fn read(&mut self, rows: &[T], column: &mut TagColumn) -> u64;
}

/// Texts are numbered anew beyond this many, so that keys that never come again cost no memory.
const TEXTS_MAX: usize = 1 << 16;

/// The texts of a tag by code. Columns are filled in turn, and catch up with the texts when they are.
#[derive(Default)]
struct Texts {
    names: Vec<Arc<str>>,
    /// Counts how often they were forgotten.
    since: u64,
}

impl Texts {
    fn is_full(&self) -> bool {
        self.names.len() > TEXTS_MAX
    }

    fn forget(&mut self) {
        *self = Self { since: self.since + 1, ..Self::default() };
    }

    fn add(&mut self, text: &str) -> u32 {
        self.names.push(text.into());
        (self.names.len() - 1) as u32
    }

    /// Makes `column` show all texts.
    fn finish(&self, column: &mut TagColumn) -> u64 {
        let is_older = column.names.len() <= self.names.len()
            && column.names.last().zip(self.names.get(column.names.len().wrapping_sub(1))).is_none_or(|(a, b)| Arc::ptr_eq(a, b));
        if !is_older {
            column.names.clear();
        }
        column.names.extend_from_slice(&self.names[column.names.len()..]);
        self.since
    }
}

struct TextKey<T, F> {
    text_of: F,
    codes: TextCodes,
    texts: Texts,
    rows: PhantomData<fn(&T)>,
}

/// Codes of texts. Short ones, as nearly all are, are compared as two words.
#[derive(Default)]
struct TextCodes {
    short: HashTable<((u64, u64), u32)>,
    long: FxHashMap<Box<str>, u32>,
}

/// A text of up to 15 bytes as two words: its length is in the last byte.
#[inline]
fn packed(text: &str) -> Option<(u64, u64)> {
    let bytes = text.as_bytes();
    let length = (bytes.len() as u64) << 56;
    if let (Some((first, _)), Some((_, last))) = (bytes.split_first_chunk::<8>(), bytes.split_last_chunk::<8>()) {
        // What the first word has of the last one is shifted out.
        let beyond = 16_u32.checked_sub(bytes.len() as u32).filter(|beyond| *beyond > 0)?;
        let last = u64::from_le_bytes(*last).checked_shr(8 * beyond).unwrap_or(0);
        return Some((u64::from_le_bytes(*first), last | length));
    }
    if let (Some((first, _)), Some((_, last))) = (bytes.split_first_chunk::<4>(), bytes.split_last_chunk::<4>()) {
        return Some((u64::from(u32::from_le_bytes(*first)) << 32 | u64::from(u32::from_le_bytes(*last)), length));
    }
    Some((bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)), length))
}

/// A hash of two words of which every bit counts: both halves of their product (Yi, wyhash, 2019).
#[inline]
fn hash_of((first, last): (u64, u64)) -> u64 {
    let product = u128::from(first ^ 0x9e37_79b9_7f4a_7c15) * u128::from(last ^ 0xe703_7ed1_a0b4_28db);
    product as u64 ^ (product >> 64) as u64
}

impl TextCodes {
    fn clear(&mut self) {
        *self = Self::default();
    }

    fn of(&mut self, text: &str, add: impl FnOnce() -> u32) -> u32 {
        match packed(text) {
            Some(words) => {
                let hash = hash_of(words);
                if let Some((_, code)) = self.short.find(hash, |(known, _)| *known == words) {
                    return *code;
                }
                let code = add();
                self.short.insert_unique(hash, (words, code), |(words, _)| hash_of(*words));
                code
            }
            None => self.long.get(text).copied().unwrap_or_else(|| {
                let code = add();
                self.long.insert(text.into(), code);
                code
            }),
        }
    }
}

struct ValueKey<K, F> {
    value_of: F,
    codes: FxHashMap<K, u32>,
    texts: Texts,
}

impl<T, F> KeyOf<T> for TextKey<T, F>
where
    F: FnMut(&T) -> &str + Send,
{
    fn read(&mut self, rows: &[T], column: &mut TagColumn) -> u64 {
        if self.texts.is_full() {
            self.codes.clear();
            self.texts.forget();
        }
        let Self { text_of, codes, texts, .. } = self;
        column.codes.extend(rows.iter().map(|row| {
            let text = text_of(row);
            codes.of(text, || texts.add(text))
        }));
        self.texts.finish(column)
    }
}

impl<T, K, F> KeyOf<T> for ValueKey<K, F>
where
    K: Hash + Eq + ToString + Send,
    F: FnMut(&T) -> Option<K> + Send,
{
    fn read(&mut self, rows: &[T], column: &mut TagColumn) -> u64 {
        if self.texts.is_full() {
            self.codes.clear();
            self.texts.forget();
        }
        let Self { value_of, codes, texts } = self;
        column.codes.extend(rows.iter().map(|row| {
            let Some(value) = value_of(row) else { return NO_TAG };
            codes.get(&value).copied().unwrap_or_else(|| {
                let code = texts.add(&value.to_string());
                codes.insert(value, code);
                code
            })
        }));
        self.texts.finish(column)
    }
}

/// A window of rows of type `T`, under construction.
pub struct Windowed<'p, T> {
    plan: &'p mut FlowPlan,
    spec: WindowSpec,
    allowed_lateness: Duration,
    accumulation: Accumulation,
    late: Option<Box<dyn Step>>,
    names: Vec<Arc<str>>,
    keys: Vec<Box<dyn KeyOf<T>>>,
}

/// The same, once grouped.
pub type Grouped<'p, T> = Windowed<'p, T>;

impl<'p, T: Send + 'static> Windowed<'p, T> {
    pub(super) fn new(plan: &'p mut FlowPlan, spec: WindowSpec) -> Self {
        Self {
            plan,
            spec,
            allowed_lateness: Duration::ZERO,
            accumulation: Accumulation::default(),
            late: None,
            names: Vec::new(),
            keys: Vec::new(),
        }
    }

    /// Keeps windows that have fired for this long; a late row fires them again, with the next revision.
    #[must_use]
    pub fn allowed_lateness(self, allowed_lateness: Duration) -> Self {
        Self { allowed_lateness, ..self }
    }

    /// What a late firing carries.
    #[must_use]
    pub fn accumulation(self, accumulation: Accumulation) -> Self {
        Self { accumulation, ..self }
    }

    /// Writes rows that are too late for every window to `sink`.
    #[must_use]
    pub fn late_to(mut self, sink: impl Sink<T>) -> Self {
        self.plan.need(sink.guarantee());
        self.late = Some(Box::new(SinkStep { sink, rows: PhantomData }));
        self
    }

    /// One window for each text that `text_of` gives; to be called again for more tags.
    #[must_use]
    pub fn group_by<F>(mut self, name: &str, text_of: F) -> Self
    where
        F: FnMut(&T) -> &str + Send + 'static,
    {
        self.names.push(name.into());
        self.keys.push(Box::new(TextKey { text_of, codes: TextCodes::default(), texts: Texts::default(), rows: PhantomData }));
        self
    }

    /// One window for each value that `value_of` gives, which results show as text; none is a group of its own.
    #[must_use]
    pub fn key_by<K>(mut self, name: &str, value_of: impl FnMut(&T) -> Option<K> + Send + 'static) -> Self
    where
        K: Hash + Eq + ToString + Send + 'static,
    {
        self.names.push(name.into());
        self.keys.push(Box::new(ValueKey { value_of, codes: FxHashMap::default(), texts: Texts::default() }));
        self
    }

    /// Says of each window and group what the aggregates say.
    ///
    /// A specification that makes no sense is an error of [`super::StreamProcessor::start`].
    pub fn aggregate(self, aggregates: impl IntoIterator<Item = AggregateOf<T>>) -> Stream<'p, WindowResult, Timed> {
        let shards = self.plan.config.parallelism;
        let Self { plan, spec, allowed_lateness, accumulation, late, names, keys } = self;
        let aggregates: Vec<AggregateOf<T>> = aggregates.into_iter().collect();
        let made = spec
            .config(allowed_lateness, accumulation)
            .and_then(|config| WindowStep::new(&plan.next_name("window"), config, names, keys, aggregates, late, shards));
        match made {
            Ok(step) => plan.add("window", Box::new(step)),
            Err(error) => plan.fail(error.to_string()),
        }
        Stream::new(plan)
    }
}

/// Windows as a step.
struct WindowStep<T> {
    keys: Vec<Box<dyn KeyOf<T>>>,
    values: Vec<ValueOf<T>>,
    late: Option<Box<dyn Step>>,
    shards: Shards,
    /// Columns that are filled anew for each chunk; elsewhere only for a moment.
    columns: Option<Batch>,
    /// With one key: the codes' texts are the same while this is.
    texts_since: u64,
    /// Rows so far: their numbers tell which of two at one time came first.
    seen: u64,
    /// What shards are at work on; with the rows, if one that is late is to be written somewhere.
    under_way: VecDeque<Chunk<T>>,
}

impl<T: Send + 'static> WindowStep<T> {
    fn new(
        id: &Arc<str>,
        mut config: WindowConfig,
        names: Vec<Arc<str>>,
        keys: Vec<Box<dyn KeyOf<T>>>,
        aggregates: Vec<AggregateOf<T>>,
        late: Option<Box<dyn Step>>,
        shards: usize,
    ) -> Result<Self, WindowError> {
        if let Some(name) = names.iter().enumerate().find_map(|(at, name)| names[..at].contains(name).then_some(name)) {
            return Err(WindowError { key: "group_by", message: format!("two keys are called `{name}`") });
        }
        let mut values = Vec::new();
        for AggregateOf { name, function, value_of } in aggregates {
            if config.aggregates.iter().any(|(known, _)| **known == *name) {
                let message = format!("two values are called `{name}`: name one of them with .alias(..)");
                return Err(WindowError { key: "aggregate", message });
            }
            let column = match value_of {
                Some(value_of) => {
                    values.push(value_of);
                    Column::Signal(values.len() - 1)
                }
                None => Column::Rows,
            };
            config.aggregates.push((Arc::from(&*name), Aggregate { function, column }));
        }
        let signals: Vec<String> = (0..values.len()).map(|value| value.to_string()).collect();
        let signals: Vec<&str> = signals.iter().map(String::as_str).collect();
        let tags: Vec<&str> = names.iter().map(|name| &**name).collect();
        let shape = Arc::new(Shape::new("rows", &signals, &tags));
        config.group_by = names;
        config.id = Arc::clone(id);
        let shards = Shards::new(id, &config, &shape, if keys.is_empty() { 1 } else { shards.max(1) })?;
        let columns = Some(Batch::new(shape, "".into(), "".into(), crate::model::Timestamp(0)));
        Ok(Self { keys, values, late, shards, columns, texts_since: 0, seen: 0, under_way: VecDeque::new() })
    }

    /// Reads the columns of `chunk`.
    fn fill(&mut self, batch: &mut Batch, chunk: &mut Chunk<T>) {
        let rows = &chunk.rows[..];
        batch.time = std::mem::take(&mut chunk.time);
        batch.flags = if chunk.flags.is_empty() { None } else { Some(std::mem::take(&mut chunk.flags)) };
        batch.first_seq = Seq(self.seen);
        self.seen += rows.len() as u64;
        for (column, value_of) in batch.signals.iter_mut().zip(&mut self.values) {
            column.clear();
            value_of(rows, column);
        }
        for (column, key_of) in batch.tags.iter_mut().zip(&mut self.keys) {
            column.codes.clear();
            self.texts_since = key_of.read(rows, column);
        }
    }

    /// What shards gave goes on, until at most so many chunks are under way.
    fn collect(&mut self, ahead: usize, around: &mut Around<'_>, out: &mut Vec<AnyChunk>) -> Result<(), ProcessorError> {
        while self.under_way.len() > ahead {
            let Some(chunk) = self.under_way.pop_front() else { return Ok(()) };
            let outcome = self.shards.wait()?;
            self.give(chunk, outcome, around, out)?;
        }
        Ok(())
    }

    fn give(
        &mut self,
        mut chunk: Chunk<T>,
        outcome: Outcome,
        around: &mut Around<'_>,
        out: &mut Vec<AnyChunk>,
    ) -> Result<(), ProcessorError> {
        around.counts.late += outcome.late.len() as u64;
        around.counts.windows_open = outcome.open;
        around.counts.windows_fired += outcome.outputs.len() as u64;
        around.counts.rows_out += outcome.outputs.len() as u64;
        if let (Some(late), false) = (&mut self.late, outcome.late.is_empty()) {
            let mut at = 0..;
            let mut is_late = outcome.late.iter().peekable();
            let rows = std::mem::take(&mut chunk.rows);
            let rows = rows.into_iter().filter(|_| at.next().is_some_and(|at: u32| is_late.next_if(|late| **late == at).is_some()));
            let rows = Chunk::<T>::new(rows.collect(), Arc::clone(&chunk.partition), chunk.arrival, Turn::Go);
            let mut counts = Counts::default();
            late.run(Box::new(rows), &mut Around { counts: &mut counts, ..reborrow(around) }, &mut Vec::new())?;
        }
        out.push(Box::new(results(chunk, outcome.outputs)));
        Ok(())
    }
}

/// The same surroundings, for a shorter while.
fn reborrow<'a>(around: &'a mut Around<'_>) -> Around<'a> {
    Around { counts: around.counts, letters: around.letters, name: around.name, abort: around.abort }
}

/// Window results as rows: their event time is the last instant of their window.
fn results<T>(chunk: Chunk<T>, outputs: Vec<Output>) -> Chunk<WindowResult> {
    let (mut rows, mut time, mut places) =
        (Vec::with_capacity(outputs.len()), Vec::with_capacity(outputs.len()), Vec::with_capacity(outputs.len()));
    for output in outputs {
        if let Body::Window(window) = output.body {
            time.push(window.end.0.saturating_sub(1));
            places.push(output.at.0 as usize);
            rows.push(window);
        }
    }
    let Chunk { flow, turn, partition, arrival, .. } = chunk;
    Chunk { rows, is_timed: true, time, places: Some(places), flags: Vec::new(), flow, turn, partition, arrival }
}

impl<T: Send + 'static> Step for WindowStep<T> {
    fn run(&mut self, chunk: AnyChunk, around: &mut Around<'_>, out: &mut Vec<AnyChunk>) -> Result<(), ProcessorError> {
        let mut chunk = chunk_of::<T>(chunk)?;
        around.counts.rows_in += chunk.rows.len() as u64;
        let Some(mut columns) = self.columns.take() else {
            return Err(ProcessorError::Failed("a window step goes on after it has failed".into()));
        };
        self.fill(&mut columns, &mut chunk);
        if self.late.is_none() {
            chunk.rows.clear();
        }
        let places = chunk.places.take();
        let flow = Arc::clone(&chunk.flow);
        let turn = chunk.turn;
        let job = Job { places, flow, turn, texts_since: self.texts_since };
        self.columns = Some(self.shards.begin(columns, job));
        self.under_way.push_back(chunk);
        // With one shard the outcome is there already; and nothing is held back when nothing follows.
        let ahead = if self.shards.count() == 1 || turn != Turn::Go { 0 } else { AHEAD_MAX };
        self.collect(ahead, around, out)
    }

    fn save(&mut self) -> Result<Vec<u8>, ProcessorError> {
        let late = self.late.as_mut().map(|late| late.save()).transpose()?;
        postcard::to_stdvec(&(self.shards.snapshot(), late, self.seen)).map_err(ProcessorError::checkpoint)
    }

    fn load(&mut self, state: &[u8]) -> Result<(), ProcessorError> {
        let (state, late, seen): (_, Option<Vec<u8>>, u64) = postcard::from_bytes(state).map_err(ProcessorError::checkpoint)?;
        self.seen = seen;
        if let (Some(step), Some(late)) = (&mut self.late, late) {
            step.load(&late)?;
        }
        self.shards.restore(state)
    }

    fn commit(&mut self, checkpoint: u64) -> Result<(), ProcessorError> {
        self.late.as_mut().map_or(Ok(()), |late| late.commit(checkpoint))
    }

    fn committed(&mut self) -> Result<Option<u64>, ProcessorError> {
        self.late.as_mut().map_or(Ok(None), |late| late.committed())
    }
}

impl WindowResult {
    /// The value called `name` as a float; none if it is null or there is none.
    pub fn real(&self, name: &str) -> Option<f64> {
        match self.values.get(name)? {
            Number::Real(value) => Some(*value),
            Number::Integer(value) => Some(*value as f64),
            Number::Null => None,
        }
    }

    /// The value called `name` as an integer; none unless it counts something.
    pub fn integer(&self, name: &str) -> Option<i64> {
        match self.values.get(name)? {
            Number::Integer(value) => Some(*value),
            Number::Real(_) | Number::Null => None,
        }
    }

    /// The text of the grouping tag called `name`.
    pub fn tag(&self, name: &str) -> Option<&str> {
        self.key.get(name)?.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn different_texts_are_different_words() {
        let mut seen = BTreeMap::new();
        let letters = ["", "a", "\0", "ab", "é"];
        let mut texts: Vec<String> = letters.iter().map(|text| (*text).to_owned()).collect();
        for length in 0..=16 {
            for place in 0..length {
                for letter in ['b', '\0'] {
                    texts.push((0..length).map(|at| if at == place { letter } else { 'a' }).collect());
                }
            }
            texts.push("a".repeat(length));
        }
        texts.sort();
        texts.dedup();
        for text in texts {
            match packed(&text) {
                Some(words) => assert_eq!(seen.insert(words, text.clone()), None, "{text:?}"),
                None => assert_eq!(text.len(), 16),
            }
        }
    }
}

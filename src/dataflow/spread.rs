//! The windows of one specification, their keys spread over shards that may be on threads of their own.
//!
//! Each shard has the windows of its own keys, and sees the watermark along all rows. A row belongs to one shard; what it causes at once comes
//! from there, in order. What the watermark causes comes from all shards, and is put in the order end, start, key, which is that of one
//! operator. So the number of shards changes nothing of what is put out, nor of what a checkpoint keeps.

use std::{cmp::Ordering, collections::VecDeque, panic::resume_unwind, sync::Arc, vec};

use super::{
    CapturedWindows, Flow, OpenWindow, WindowConfig, WindowError, WindowOperator, WindowState,
    assign::{Assignment, shard_of_key},
    drive::drive_some,
};
use crate::{
    crew::Crew,
    model::{Batch, Body, Key, Output, Seq, Stream, Timestamp},
};

/// More shards than this are refused.
pub const SHARDS_MAX: usize = 64;

/// Below so many rows a shard, waking threads costs more than it gains.
const ROWS_MIN: usize = 1024;
/// Rows that wait before threads begin with them: waking a thread takes as long as some hundred rows.
const ROWS_TOGETHER: usize = 8192;

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
        let Some(last) = flow.rows.checked_sub(1) else { return };
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

/// A batch, or what is left of it, on its way to the shards.
#[derive(Debug)]
struct Piece {
    batch: Arc<Batch>,
    places: Option<Arc<Vec<usize>>>,
    flow: Arc<Flow>,
}

#[derive(Debug)]
struct Shard {
    operator: WindowOperator,
    assignment: Assignment,
}

impl Shard {
    fn work(&mut self, pieces: &[Piece]) -> Vec<Part> {
        pieces.iter().map(|piece| self.part(piece)).collect()
    }

    fn part(&mut self, Piece { batch, places, flow }: &Piece) -> Part {
        let rows = self.assignment.rows(batch, None);
        Part::driven(&mut self.operator, batch, Some(rows), places.as_ref().map(|places| &places[..]), flow)
    }
}

#[derive(Debug)]
enum Shards {
    One(Box<WindowOperator>),
    Many(Crew<Shard, Vec<Piece>, Vec<Part>>),
}

/// Windows of one specification in shards, on threads of their own if there are several.
///
/// Batches are begun, and their results are taken later in the same order: until then the threads are at work beside whoever calls. Small
/// batches go to the threads together; what would not be worth it is done by whoever takes the results.
#[derive(Debug)]
pub struct SpreadWindows {
    config: WindowConfig,
    shards: Shards,
    /// Begun, but not with the threads yet.
    waiting: Vec<Piece>,
    waiting_rows: usize,
    /// How often the threads were given something that has not come back.
    given: usize,
    /// By batch that was begun.
    finished: VecDeque<Vec<Output>>,
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
        let make = || WindowOperator::new(Arc::clone(pipeline), config.clone(), stream);
        let shards = if count == 1 {
            Shards::One(Box::new(make()?))
        } else {
            let tags: Vec<usize> = config.group_by.iter().filter_map(|name| stream.tag(name)).collect();
            let shard = |number| Ok(Shard { operator: make()?, assignment: Assignment::new(number, count, &tags) });
            let shards: Vec<Shard> = (0..count).map(shard).collect::<Result<_, WindowError>>()?;
            let failed = |error| WindowError { key: "parallelism", message: format!("its threads could not be started: {error}") };
            Shards::Many(Crew::new("windows", shards, |shard: &mut Shard, pieces: &Vec<Piece>| shard.work(pieces)).map_err(failed)?)
        };
        Ok(Self { config: config.clone(), shards, waiting: Vec::new(), waiting_rows: 0, given: 0, finished: VecDeque::new() })
    }

    /// The specification.
    pub fn config(&self) -> &WindowConfig {
        &self.config
    }

    /// Whether there are threads that work while batches are begun.
    pub fn is_spread(&self) -> bool {
        matches!(self.shards, Shards::Many(_))
    }

    /// Feeds `batch`, whose row `i` came in at place `places[i]` of the flow (`None`: at place `i`); nothing may be under way.
    pub fn drive(&mut self, batch: &Arc<Batch>, places: Option<&Arc<Vec<usize>>>, flow: &Arc<Flow>, out: &mut Vec<Output>) {
        self.begin(batch, places, flow);
        self.finish(out);
    }

    /// Begins with `batch`, which [`Self::drive`] would do at once.
    pub fn begin(&mut self, batch: &Arc<Batch>, places: Option<&Arc<Vec<usize>>>, flow: &Arc<Flow>) {
        match &mut self.shards {
            Shards::One(operator) => {
                let part = Part::driven(operator, batch, None, places.map(|places| &places[..]), flow);
                self.finished.push_back(part.outputs);
            }
            Shards::Many(_) => {
                self.waiting.push(Piece { batch: Arc::clone(batch), places: places.map(Arc::clone), flow: Arc::clone(flow) });
                self.waiting_rows += batch.rows();
                if self.waiting_rows >= ROWS_TOGETHER {
                    self.give();
                }
            }
        }
    }

    /// Takes the results of the first batch that was begun.
    pub fn finish(&mut self, out: &mut Vec<Output>) {
        if self.finished.is_empty() {
            self.collect();
        }
        out.extend(self.finished.pop_front().into_iter().flatten());
    }

    /// Has the threads begin with what waits.
    fn give(&mut self) {
        let Shards::Many(crew) = &self.shards else { return };
        self.waiting_rows = 0;
        self.given += 1;
        crew.begin(&Arc::new(std::mem::take(&mut self.waiting)));
    }

    /// Waits until nothing is under way.
    fn collect(&mut self) {
        let Shards::Many(crew) = &self.shards else { return };
        if self.given == 0 && self.waiting_rows < crew.len() * ROWS_MIN {
            let pieces = std::mem::take(&mut self.waiting);
            self.waiting_rows = 0;
            let parts = crew.states().map(|mut shard| shard.work(&pieces)).collect();
            self.finished.extend(by_piece(parts).map(|parts| merged(parts, &self.config.group_by)));
            return;
        }
        if !self.waiting.is_empty() {
            self.give();
        }
        let Shards::Many(crew) = &self.shards else { return };
        for _ in 0..std::mem::take(&mut self.given) {
            let parts = crew.wait().unwrap_or_else(|panic| resume_unwind(panic));
            self.finished.extend(by_piece(parts).map(|parts| merged(parts, &self.config.group_by)));
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
        self.collect();
        match &mut self.shards {
            Shards::One(operator) => act(operator, out),
            Shards::Many(crew) => {
                let mut parts = Vec::with_capacity(crew.len());
                for mut shard in crew.states() {
                    let mut outputs = Vec::new();
                    act(&mut shard.operator, &mut outputs);
                    parts.push(Part::of_watermark(outputs));
                }
                out.extend(merged(parts, &self.config.group_by));
            }
        }
    }

    /// What is to be known of every shard. Nothing may be under way.
    fn of_each<T>(&self, ask: impl Fn(&WindowOperator) -> T) -> Vec<T> {
        match &self.shards {
            Shards::One(operator) => vec![ask(operator)],
            Shards::Many(crew) => crew.states().map(|shard| ask(&shard.operator)).collect(),
        }
    }

    /// Windows (with keys) that are open.
    pub fn open_count(&self) -> usize {
        self.of_each(WindowOperator::open_count).into_iter().sum()
    }

    /// The first open windows, by end and start.
    pub fn open_windows(&self, limit: usize) -> Vec<OpenWindow> {
        let mut open = self.of_each(|operator| operator.open_windows(limit)).concat();
        if self.is_spread() {
            let group_by = &self.config.group_by;
            open.sort_by(|left, right| {
                (left.end, left.start).cmp(&(right.end, right.start)).then_with(|| by_texts(&left.key, &right.key, group_by))
            });
            open.truncate(limit);
        }
        open
    }

    /// The watermark ran ahead with a clock that is set back to `now` ([`WindowOperator::clock_was_set_back`]).
    pub fn clock_was_set_back(&mut self, now: Timestamp) {
        match &mut self.shards {
            Shards::One(operator) => operator.clock_was_set_back(now),
            Shards::Many(crew) => crew.states().for_each(|mut shard| shard.operator.clock_was_set_back(now)),
        }
    }

    /// Rows that came too late.
    pub fn late_count(&self) -> u64 {
        self.of_each(WindowOperator::late_count).into_iter().sum()
    }

    /// Firings so far.
    pub fn fired_count(&self) -> u64 {
        self.of_each(WindowOperator::fired_count).into_iter().sum()
    }

    /// The first half of [`Self::snapshot`], which is what the rows have to wait for.
    pub fn capture(&self) -> CapturedWindows {
        CapturedWindows { shards: self.of_each(WindowOperator::capture) }
    }

    /// What a checkpoint keeps: that of one operator, whatever the number of shards.
    pub fn snapshot(&self) -> WindowState {
        self.capture().state()
    }

    /// Goes on from a checkpoint, in shards that have seen nothing.
    ///
    /// # Errors
    /// A checkpoint of windows of another size, or with other aggregates; the windows then start anew.
    pub fn restore(&mut self, state: WindowState) -> Result<(), WindowError> {
        match &mut self.shards {
            Shards::One(operator) => operator.restore(state),
            Shards::Many(crew) => {
                let count = crew.len();
                crew.states().try_for_each(|shard| shard.operator.fits(&state))?;
                let parts = state.split(count, |key| shard_of_key(key, count));
                crew.states().zip(parts).try_for_each(|(mut shard, part)| shard.operator.restore(part))
            }
        }
    }
}

/// Parts by shard, then by piece → by piece, then by shard.
pub fn by_piece(parts: Vec<Vec<Part>>) -> impl Iterator<Item = Vec<Part>> {
    let mut shards: Vec<_> = parts.into_iter().map(Vec::into_iter).collect();
    std::iter::from_fn(move || shards.iter_mut().map(Iterator::next).collect())
}

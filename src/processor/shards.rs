//! The windows of a step, spread over threads by key.
//!
//! Each shard has the windows of its own keys, and sees the watermark along all rows. A row belongs to one shard; what it causes at once comes
//! from there, in order. What the watermark causes comes from all shards, and is put in the order end, start, key, which is that of one
//! operator. So the number of shards changes nothing of what is put out.

use std::{
    hash::{BuildHasher, Hasher},
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use rustc_hash::FxBuildHasher;

use super::{chunk::Turn, error::ProcessorError};
use crate::{
    dataflow::{Flow, WindowConfig, WindowError, WindowOperator, WindowState, drive::drive_some},
    model::{Batch, Body, Output, Seq, Stream, Timestamp, WindowResult},
};

/// What is to be done besides the rows.
#[derive(Debug)]
pub struct Job {
    pub places: Option<Vec<usize>>,
    pub flow: Arc<Flow>,
    pub turn: Turn,
    /// With one key: codes keep their texts while this is the same.
    pub texts_since: u64,
}

/// What came of a batch.
#[derive(Debug, Default)]
pub struct Outcome {
    pub outputs: Vec<Output>,
    /// Rows that were late, rising.
    pub late: Vec<u32>,
    /// Windows that were open when they were last counted.
    pub open: u64,
}

/// Results of one shard, and which of them the watermark caused.
#[derive(Debug, Default)]
struct Part {
    outputs: Vec<Output>,
    caused_by_watermark: Vec<bool>,
    late: Vec<u32>,
    open: u64,
}

enum Order {
    Rows { batch: Arc<Batch>, rows: Vec<u32>, job: Arc<Job> },
    Snapshot,
    Restore(Box<WindowState>),
}

enum Answer {
    Part(Box<Part>),
    Snapshot(Box<WindowState>),
    Restored(Result<(), WindowError>),
}

struct Worker {
    orders: Sender<Order>,
    answers: Receiver<Answer>,
}

enum Crew {
    One(Box<Shard>),
    Many(Vec<Worker>),
}

/// All shards of a step.
pub struct Shards {
    crew: Crew,
    group_by: Vec<Arc<str>>,
    /// What the only shard has ready.
    ready: Option<Part>,
    /// A batch that comes back when shards are done, to be filled again.
    lent: Option<Arc<Batch>>,
}

/// One operator and its counting.
struct Shard {
    operator: WindowOperator,
    jobs: u64,
    open: u64,
}

/// Windows are counted once in so many jobs.
const COUNTED_EVERY: u64 = 64;

/// The hash that decides on the shard of a text: the same in every run.
pub fn shard_of_text(text: Option<&str>) -> u64 {
    let mut hasher = FxBuildHasher.build_hasher();
    hasher.write(text.unwrap_or_default().as_bytes());
    hasher.write_u8(u8::from(text.is_some()));
    hasher.finish()
}

fn shard_of(hash: u64, shards: usize) -> usize {
    // The low bits of this hash are the weak ones.
    ((u128::from(hash.wrapping_mul(0x9e37_79b9_7f4a_7c15)) * shards as u128) >> 64) as usize
}

fn shard_of_key(key: &[Option<Arc<str>>], shards: usize) -> usize {
    let hash = key.iter().fold(0_u64, |hash, text| hash.rotate_left(5) ^ shard_of_text(text.as_deref()));
    shard_of(hash, shards)
}

fn gone<E>(_: E) -> ProcessorError {
    ProcessorError::Failed("a thread of a window step ended".into())
}

impl Shard {
    fn work(&mut self, batch: &Batch, rows: Option<&[u32]>, job: &Job) -> Part {
        self.operator.codes_last(job.texts_since);
        let mut part = Part::default();
        let mut fired = Vec::new();
        drive_some(&mut self.operator, batch, rows, job.places.as_deref(), &job.flow, &mut part.outputs, |range| fired.push(range));
        let before = part.outputs.len();
        match job.turn {
            Turn::Go | Turn::Idle(_) | Turn::Flush => {}
            Turn::Advance(watermark) => self.operator.advance(Timestamp(watermark), &mut part.outputs),
            Turn::Close(watermark) => {
                self.operator.advance(Timestamp(watermark), &mut part.outputs);
                self.operator.fire_open(&mut part.outputs);
            }
            Turn::End => self.operator.finish(&mut part.outputs),
        }
        let behind = Seq(job.flow.after.len() as u64);
        part.outputs[before..].iter_mut().for_each(|output| output.at = behind);
        fired.push(before..part.outputs.len());
        part.caused_by_watermark = vec![false; part.outputs.len()];
        for range in fired {
            part.caused_by_watermark[range].fill(true);
        }
        part.late = self.operator.take_late_rows();
        self.jobs += 1;
        if self.jobs % COUNTED_EVERY == 1 || !matches!(job.turn, Turn::Go | Turn::Flush) {
            self.open = self.operator.open_count() as u64;
        }
        part.open = self.open;
        part
    }
}

fn serve(mut shard: Shard, orders: &Receiver<Order>, answers: &Sender<Answer>) {
    while let Ok(order) = orders.recv() {
        let answer = match order {
            Order::Rows { batch, rows, job } => {
                let part = shard.work(&batch, Some(&rows), &job);
                drop((batch, job));
                Answer::Part(Box::new(part))
            }
            Order::Snapshot => Answer::Snapshot(Box::new(shard.operator.snapshot())),
            Order::Restore(state) => Answer::Restored(shard.operator.restore(*state)),
        };
        if answers.send(answer).is_err() {
            return;
        }
    }
}

impl Shards {
    /// As many operators of `config`, each on a thread of its own unless it is the only one.
    pub fn new(id: &Arc<str>, config: &WindowConfig, stream: &Stream, count: usize) -> Result<Self, WindowError> {
        let make = || -> Result<Shard, WindowError> {
            let mut operator = WindowOperator::new(Arc::clone(id), config.clone(), stream)?;
            operator.keep_late_rows();
            Ok(Shard { operator, jobs: 0, open: 0 })
        };
        let crew = if count <= 1 {
            Crew::One(Box::new(make()?))
        } else {
            let mut workers = Vec::new();
            for number in 0..count {
                let shard = make()?;
                let ((orders, inbox), (outbox, answers)) = (channel(), channel());
                let thread = thread::Builder::new().name(format!("windows-{number}"));
                thread.spawn(move || serve(shard, &inbox, &outbox)).map_err(|error| WindowError {
                    key: "parallelism",
                    message: format!("a thread could not be started: {error}"),
                })?;
                workers.push(Worker { orders, answers });
            }
            Crew::Many(workers)
        };
        Ok(Self { crew, group_by: config.group_by.clone(), ready: None, lent: None })
    }

    pub fn count(&self) -> usize {
        match &self.crew {
            Crew::One(_) => 1,
            Crew::Many(workers) => workers.len(),
        }
    }

    /// Begins with `batch`, whose rows have these hashes if there are several shards. What comes of it is to be waited for before the next one.
    pub fn begin(&mut self, batch: &mut Batch, hashes: &[u64], job: Job) -> Result<(), ProcessorError> {
        let workers = match &mut self.crew {
            Crew::One(shard) => {
                self.ready = Some(shard.work(batch, None, &job));
                return Ok(());
            }
            Crew::Many(workers) => workers,
        };
        let mut rows: Vec<Vec<u32>> = vec![Vec::with_capacity(hashes.len() / workers.len() + hashes.len() / 8); workers.len()];
        for (row, hash) in (0..).zip(hashes) {
            rows[shard_of(*hash, workers.len())].push(row);
        }
        // The columns of the batch before last are filled next.
        let empty = self.lent.take().and_then(Arc::into_inner).unwrap_or_else(|| emptied(batch));
        let batch = Arc::new(std::mem::replace(batch, empty));
        let job = Arc::new(job);
        for (worker, rows) in workers.iter().zip(rows) {
            worker.orders.send(Order::Rows { batch: Arc::clone(&batch), rows, job: Arc::clone(&job) }).map_err(gone)?;
        }
        self.lent = Some(batch);
        Ok(())
    }

    /// What came of the last batch.
    pub fn wait(&mut self) -> Result<Outcome, ProcessorError> {
        let Crew::Many(workers) = &mut self.crew else {
            let part = self.ready.take().unwrap_or_default();
            return Ok(Outcome { outputs: part.outputs, late: part.late, open: part.open });
        };
        let mut outcome = Outcome::default();
        let mut outputs = Vec::new();
        for worker in workers {
            let Answer::Part(part) = worker.answers.recv().map_err(gone)? else { return Err(gone(())) };
            outcome.open += part.open;
            outcome.late.extend(part.late);
            outputs.extend(part.outputs.into_iter().zip(part.caused_by_watermark));
        }
        outcome.late.sort_unstable();
        outputs.sort_by(|(left, left_fired), (right, right_fired)| {
            let order = (left.at, left_fired).cmp(&(right.at, right_fired));
            if *left_fired { order.then_with(|| self.order_of(left).cmp(&self.order_of(right))) } else { order }
        });
        outcome.outputs = outputs.into_iter().map(|(output, _)| output).collect();
        Ok(outcome)
    }

    fn order_of<'o>(&self, output: &'o Output) -> Option<(Timestamp, Timestamp, Vec<Option<&'o str>>)> {
        let Body::Window(WindowResult { start, end, key, .. }) = &output.body else { return None };
        let texts = self.group_by.iter().map(|name| key.get(name).and_then(Option::as_deref));
        Some((*end, *start, texts.collect()))
    }

    /// The state of all shards, as one operator would have it.
    pub fn snapshot(&mut self) -> Result<WindowState, ProcessorError> {
        let workers = match &mut self.crew {
            Crew::One(shard) => return Ok(shard.operator.snapshot()),
            Crew::Many(workers) => workers,
        };
        let mut whole: Option<WindowState> = None;
        for worker in workers {
            worker.orders.send(Order::Snapshot).map_err(gone)?;
            let Answer::Snapshot(state) = worker.answers.recv().map_err(gone)? else { return Err(gone(())) };
            whole = Some(match whole {
                Some(whole) => whole.with(*state),
                None => *state,
            });
        }
        whole.ok_or_else(|| gone(()))
    }

    /// Goes on from such a state, whatever the number of shards that it comes from.
    pub fn restore(&mut self, state: WindowState) -> Result<(), ProcessorError> {
        let workers = match &mut self.crew {
            Crew::One(shard) => return shard.operator.restore(state).map_err(ProcessorError::checkpoint),
            Crew::Many(workers) => workers,
        };
        let count = workers.len();
        for (number, part) in state.split(count, |key| shard_of_key(key, count)).into_iter().enumerate() {
            workers[number].orders.send(Order::Restore(Box::new(part))).map_err(gone)?;
            match workers[number].answers.recv().map_err(gone)? {
                Answer::Restored(done) => done.map_err(ProcessorError::checkpoint)?,
                Answer::Part(_) | Answer::Snapshot(_) => return Err(gone(())),
            }
        }
        Ok(())
    }
}

/// A batch of the same shape without rows.
fn emptied(batch: &Batch) -> Batch {
    Batch::new(Arc::clone(&batch.stream), Arc::clone(&batch.source), Arc::clone(&batch.partition), batch.arrival)
}

//! The windows of a step, their keys spread over threads that live as long as the step.
//!
//! The thread of the flow reads the columns of the next chunks while these threads are at work on the ones before: chunks wait in a queue of
//! [`AHEAD_MAX`], so that neither waits for the other at each chunk. What comes out is merged as in [`crate::dataflow::spread`].

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use super::{chunk::Turn, error::ProcessorError};
use crate::{
    dataflow::{
        Flow, WindowConfig, WindowError, WindowOperator, WindowState,
        spread::{Part, merged, rows_of, shard_of_key},
    },
    model::{Batch, Output, Seq, Stream, Timestamp},
};

/// Chunks that are under way at most.
pub const AHEAD_MAX: usize = 4;

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

/// What came of a batch in one shard.
#[derive(Debug, Default)]
struct Share {
    part: Part,
    late: Vec<u32>,
    open: u64,
}

/// Columns of a chunk, and the hashes of the rows' keys if there are several shards.
#[derive(Debug)]
pub struct Columns {
    pub batch: Batch,
    pub hashes: Vec<u64>,
}

enum Order {
    Rows { columns: Arc<Columns>, job: Arc<Job> },
    Snapshot,
    Restore(Box<WindowState>),
}

enum Answer {
    Share(Box<Share>),
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
    ready: Option<Share>,
    /// Columns that come back when shards are done, to be filled again.
    lent: Vec<Arc<Columns>>,
}

/// One operator and its counting.
struct Shard {
    operator: WindowOperator,
    jobs: u64,
    open: u64,
    /// Which of how many.
    number: (usize, usize),
    rows: Vec<u32>,
}

/// Windows are counted once in so many jobs.
const COUNTED_EVERY: u64 = 64;

fn gone<E>(_: E) -> ProcessorError {
    ProcessorError::Failed("a thread of a window step ended".into())
}

impl Shard {
    fn work(&mut self, columns: &Columns, job: &Job) -> Share {
        let Columns { batch, hashes } = columns;
        self.operator.codes_last(job.texts_since);
        let (number, count) = self.number;
        let some = (count > 1).then(|| rows_of(hashes, number, count, &mut self.rows));
        let mut part = Part::driven(&mut self.operator, batch, some, job.places.as_deref(), &job.flow);
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
        part.caused_by_watermark.resize(part.outputs.len(), true);
        let late = self.operator.take_late_rows();
        self.jobs += 1;
        if self.jobs % COUNTED_EVERY == 1 || !matches!(job.turn, Turn::Go | Turn::Flush) {
            self.open = self.operator.open_count() as u64;
        }
        Share { part, late, open: self.open }
    }
}

fn serve(mut shard: Shard, orders: &Receiver<Order>, answers: &Sender<Answer>) {
    while let Ok(order) = orders.recv() {
        let answer = match order {
            Order::Rows { columns, job } => {
                let share = shard.work(&columns, &job);
                drop((columns, job));
                Answer::Share(Box::new(share))
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
        let make = |number: usize| -> Result<Shard, WindowError> {
            let mut operator = WindowOperator::new(Arc::clone(id), config.clone(), stream)?;
            operator.keep_late_rows();
            operator.without_ids();
            Ok(Shard { operator, jobs: 0, open: 0, number: (number, count), rows: Vec::new() })
        };
        let crew = if count <= 1 {
            Crew::One(Box::new(make(0)?))
        } else {
            let mut workers = Vec::new();
            for number in 0..count {
                let shard = make(number)?;
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
        Ok(Self { crew, group_by: config.group_by.clone(), ready: None, lent: Vec::new() })
    }

    pub fn count(&self) -> usize {
        match &self.crew {
            Crew::One(_) => 1,
            Crew::Many(workers) => workers.len(),
        }
    }

    /// Begins with `columns`, and gives others to be filled. What comes of it is to be waited for in the order of beginning: at once if there
    /// is one shard.
    pub fn begin(&mut self, columns: Columns, job: Job) -> Result<Columns, ProcessorError> {
        let workers = match &mut self.crew {
            Crew::One(shard) => {
                self.ready = Some(shard.work(&columns, &job));
                return Ok(columns);
            }
            Crew::Many(workers) => workers,
        };
        let free = self.lent.iter().position(|lent| Arc::strong_count(lent) == 1);
        let empty = free.and_then(|at| Arc::into_inner(self.lent.swap_remove(at)));
        let empty = empty.unwrap_or_else(|| Columns { batch: emptied(&columns.batch), hashes: Vec::new() });
        let (columns, job) = (Arc::new(columns), Arc::new(job));
        for worker in workers {
            worker.orders.send(Order::Rows { columns: Arc::clone(&columns), job: Arc::clone(&job) }).map_err(gone)?;
        }
        self.lent.push(columns);
        Ok(empty)
    }

    /// What came of the first batch that has not been waited for.
    pub fn wait(&mut self) -> Result<Outcome, ProcessorError> {
        let Crew::Many(workers) = &mut self.crew else {
            let share = self.ready.take().unwrap_or_default();
            return Ok(Outcome { outputs: share.part.outputs, late: share.late, open: share.open });
        };
        let mut outcome = Outcome::default();
        let mut parts = Vec::with_capacity(workers.len());
        for worker in workers {
            let Answer::Share(share) = worker.answers.recv().map_err(gone)? else { return Err(gone(())) };
            outcome.open += share.open;
            outcome.late.extend(share.late);
            parts.push(share.part);
        }
        outcome.late.sort_unstable();
        outcome.outputs = merged(parts, &self.group_by);
        Ok(outcome)
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
                Answer::Share(_) | Answer::Snapshot(_) => return Err(gone(())),
            }
        }
        Ok(())
    }
}

/// A batch of the same shape without rows.
fn emptied(batch: &Batch) -> Batch {
    Batch::new(Arc::clone(&batch.stream), Arc::clone(&batch.source), Arc::clone(&batch.partition), batch.arrival)
}

//! The windows of a step, their keys spread over threads that live as long as the step.
//!
//! The thread of the flow reads the columns of the next chunks while these threads are at work on the ones before: chunks wait in a queue of
//! [`AHEAD_MAX`], so that neither waits for the other at each chunk. What comes out is merged as in [`crate::dataflow::spread`].

use std::sync::Arc;

use super::{chunk::Turn, error::ProcessorError};
use crate::{
    crew::Crew,
    dataflow::{
        Flow, WindowConfig, WindowError, WindowOperator, WindowState,
        assign::{Assignment, shard_of_key},
        spread::{Cause, Part, SHARDS_MAX, merged},
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

/// Columns of a chunk and what is to be done with them.
struct Task {
    columns: Batch,
    job: Job,
}

enum Members {
    One(Box<Shard>),
    Many(Crew<Shard, Task, Share>),
}

/// All shards of a step.
pub struct Shards {
    members: Members,
    group_by: Vec<Arc<str>>,
    /// What the only shard has ready.
    ready: Option<Share>,
    /// Columns that come back when shards are done, to be filled again.
    lent: Vec<Arc<Task>>,
}

/// One operator and its counting.
struct Shard {
    operator: WindowOperator,
    jobs: u64,
    open: u64,
    /// If there are several.
    assignment: Option<Assignment>,
}

/// Windows are counted once in so many jobs.
const COUNTED_EVERY: u64 = 64;

impl Shard {
    fn work(&mut self, batch: &Batch, job: &Job) -> Share {
        self.operator.codes_last(job.texts_since);
        let some = self.assignment.as_mut().map(|assignment| assignment.rows(batch, Some(job.texts_since)));
        let mut part = Part::driven(&mut self.operator, batch, some, job.places.as_deref(), &job.flow);
        for (output, cause) in part.outputs.iter_mut().zip(&part.causes) {
            if let Cause::Row(number) = cause {
                let row = (number.0 - batch.first_seq.0) as usize;
                output.at = Seq(job.places.as_ref().map_or(row, |places| places[row]) as u64);
            }
        }
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
        let behind = Seq(job.flow.rows as u64);
        part.outputs[before..].iter_mut().for_each(|output| output.at = behind);
        part.causes.resize(part.outputs.len(), Cause::Watermark);
        let late = self.operator.take_late_rows();
        self.jobs += 1;
        if self.jobs % COUNTED_EVERY == 1 || !matches!(job.turn, Turn::Go | Turn::Flush) {
            self.open = self.operator.open_count() as u64;
        }
        Share { part, late, open: self.open }
    }
}

impl Shards {
    /// As many operators of `config`, each on a thread of its own unless it is the only one; keys are the texts of all tags of `stream`.
    pub fn new(id: &Arc<str>, config: &WindowConfig, stream: &Stream, count: usize) -> Result<Self, WindowError> {
        if count > SHARDS_MAX {
            return Err(WindowError { key: "parallelism", message: format!("{count} threads: at most {SHARDS_MAX} are started") });
        }
        let tags: Vec<usize> = (0..stream.tags.len()).collect();
        let make = |number: usize| -> Result<Shard, WindowError> {
            let mut operator = WindowOperator::new(Arc::clone(id), config.clone(), stream)?;
            operator.keep_late_rows();
            operator.without_ids();
            let assignment = (count > 1).then(|| Assignment::new(number, count, &tags));
            Ok(Shard { operator, jobs: 0, open: 0, assignment })
        };
        let members =
            if count <= 1 {
                Members::One(Box::new(make(0)?))
            } else {
                let shards = (0..count).map(make).collect::<Result<_, _>>()?;
                let crew = Crew::new("windows", shards, |shard: &mut Shard, task: &Task| shard.work(&task.columns, &task.job));
                Members::Many(crew.map_err(|error| WindowError {
                    key: "parallelism",
                    message: format!("a thread could not be started: {error}"),
                })?)
            };
        Ok(Self { members, group_by: config.group_by.clone(), ready: None, lent: Vec::new() })
    }

    pub fn count(&self) -> usize {
        match &self.members {
            Members::One(_) => 1,
            Members::Many(crew) => crew.len(),
        }
    }

    /// Begins with `columns`, and gives others to be filled. What comes of it is to be waited for in the order of beginning: at once if there
    /// is one shard.
    pub fn begin(&mut self, columns: Batch, job: Job) -> Batch {
        let crew = match &mut self.members {
            Members::One(shard) => {
                self.ready = Some(shard.work(&columns, &job));
                return columns;
            }
            Members::Many(crew) => crew,
        };
        let free = self.lent.iter().position(|lent| Arc::strong_count(lent) == 1);
        let free = free.and_then(|at| Arc::into_inner(self.lent.swap_remove(at)));
        let empty = free.map_or_else(|| emptied(&columns), |task| task.columns);
        let task = Arc::new(Task { columns, job });
        crew.begin(&task);
        self.lent.push(task);
        empty
    }

    /// What came of the first batch that has not been waited for.
    pub fn wait(&mut self) -> Result<Outcome, ProcessorError> {
        let Members::Many(crew) = &self.members else {
            let share = self.ready.take().unwrap_or_default();
            return Ok(Outcome { outputs: share.part.outputs, late: share.late, open: share.open });
        };
        let shares = crew.wait().map_err(|panic| ProcessorError::panicked(&*panic))?;
        let mut outcome = Outcome::default();
        let mut parts = Vec::with_capacity(shares.len());
        for share in shares {
            outcome.open += share.open;
            outcome.late.extend(share.late);
            parts.push(share.part);
        }
        outcome.late.sort_unstable();
        outcome.outputs = merged(parts, &self.group_by);
        Ok(outcome)
    }

    /// The state of all shards, as one operator would have it; nothing may be under way.
    pub fn snapshot(&self) -> WindowState {
        match &self.members {
            Members::One(shard) => shard.operator.snapshot(),
            Members::Many(crew) => {
                crew.states().map(|shard| shard.operator.snapshot()).reduce(WindowState::with).unwrap_or_default()
            }
        }
    }

    /// Goes on from such a state, whatever the number of shards that it comes from.
    pub fn restore(&mut self, state: WindowState) -> Result<(), ProcessorError> {
        let restored = match &mut self.members {
            Members::One(shard) => shard.operator.restore(state),
            Members::Many(crew) => {
                let parts = state.split(crew.len(), |key| shard_of_key(key, crew.len()));
                crew.states().zip(parts).try_for_each(|(mut shard, part)| shard.operator.restore(part))
            }
        };
        restored.map_err(ProcessorError::checkpoint)
    }
}

/// A batch of the same shape without rows.
fn emptied(batch: &Batch) -> Batch {
    Batch::new(Arc::clone(&batch.stream), Arc::clone(&batch.source), Arc::clone(&batch.partition), batch.arrival)
}

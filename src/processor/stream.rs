//! The steps of a flow, one call each.

use std::{fmt::Display, marker::PhantomData, sync::Arc};

use super::{
    KeyedState, Operator, Sink, Watermark, WindowSpec, Windowed,
    chunk::{Chunk, Turn},
    error::ProcessorError,
    life::FlowPlan,
    operator::OperatorStep,
    sink::SinkStep,
    step::{AnyChunk, Apply, Around, Step, chunk_of},
};
use crate::{
    dataflow::{Flow, Ticked, Watermarks, WatermarksState},
    model::{Batch, Flags, Stream as Shape, Timestamp},
};

/// Rows whose event time is not known.
#[derive(Debug, Clone, Copy)]
pub struct Untimed;
/// Rows with an event time.
#[derive(Debug, Clone, Copy)]
pub struct Timed;

/// A flow under construction, whose rows are of type `T` here. Dropping it leaves the flow as it is.
pub struct Stream<'p, T, Time = Untimed> {
    pub(super) plan: &'p mut FlowPlan,
    rows: PhantomData<fn(T) -> Time>,
}

#[expect(clippy::return_self_not_must_use, reason = "the step is in the plan: a flow may end with any of them")]
impl<'p, T: Send + 'static, Time> Stream<'p, T, Time> {
    pub(super) fn new(plan: &'p mut FlowPlan) -> Self {
        Self { plan, rows: PhantomData }
    }

    pub(super) fn step<U: Send + 'static, Then>(self, name: &str, step: impl Step + 'static) -> Stream<'p, U, Then> {
        self.plan.add(name, Box::new(step));
        Stream::new(self.plan)
    }

    fn apply<U: Send + 'static>(
        self,
        name: &str,
        function: impl FnMut(Chunk<T>, &mut Around<'_>) -> Result<Chunk<U>, ProcessorError> + Send + 'static,
    ) -> Stream<'p, U, Time> {
        self.step(name, Apply::new(function))
    }

    /// Keeps the rows for which `keep` holds.
    pub fn filter(self, mut keep: impl FnMut(&T) -> bool + Send + 'static) -> Self {
        self.apply("filter", move |mut chunk: Chunk<T>, _| {
            chunk.retain(&mut keep);
            Ok(chunk)
        })
    }

    /// Keeps the rows for which `keep` holds; one on which it fails is counted and kept as a dead letter.
    pub fn try_filter<E: Display>(self, mut keep: impl FnMut(&T) -> Result<bool, E> + Send + 'static) -> Self {
        self.apply("try_filter", move |mut chunk: Chunk<T>, around| {
            chunk.retain(|row| {
                keep(row).unwrap_or_else(|error| {
                    around.refuse(error.to_string());
                    false
                })
            });
            Ok(chunk)
        })
    }

    /// Makes each row another one; the event time stays.
    pub fn map<U: Send + 'static>(self, mut function: impl FnMut(T) -> U + Send + 'static) -> Stream<'p, U, Time> {
        self.apply("map", move |mut chunk: Chunk<T>, _| {
            let rows = std::mem::take(&mut chunk.rows).into_iter().map(&mut function).collect();
            Ok(chunk.with_rows(rows, None))
        })
    }

    /// Makes each row another one; one on which it fails is counted and kept as a dead letter.
    pub fn try_map<U: Send + 'static, E: Display>(
        self,
        mut function: impl FnMut(T) -> Result<U, E> + Send + 'static,
    ) -> Stream<'p, U, Time> {
        self.apply("try_map", move |mut chunk: Chunk<T>, around| {
            let (mut rows, mut from) = (Vec::with_capacity(chunk.rows.len()), Vec::with_capacity(chunk.rows.len()));
            for (at, row) in std::mem::take(&mut chunk.rows).into_iter().enumerate() {
                match function(row) {
                    Ok(row) => {
                        rows.push(row);
                        from.push(at);
                    }
                    Err(error) => around.refuse(error.to_string()),
                }
            }
            Ok(chunk.with_rows(rows, Some(&from)))
        })
    }

    /// Makes any number of rows of each, in order; the event time is that of the row.
    pub fn flat_map<U: Send + 'static, I: IntoIterator<Item = U>>(
        self,
        mut function: impl FnMut(T) -> I + Send + 'static,
    ) -> Stream<'p, U, Time> {
        self.apply("flat_map", move |mut chunk: Chunk<T>, _| {
            let (mut rows, mut from) = (Vec::new(), Vec::new());
            for (at, row) in std::mem::take(&mut chunk.rows).into_iter().enumerate() {
                rows.extend(function(row));
                from.resize(rows.len(), at);
            }
            Ok(chunk.with_rows(rows, Some(&from)))
        })
    }

    /// Shows each row to `function`, which changes nothing of the flow.
    pub fn foreach(self, mut function: impl FnMut(&T) + Send + 'static) -> Self {
        self.apply("foreach", move |chunk: Chunk<T>, _| {
            chunk.rows.iter().for_each(&mut function);
            Ok(chunk)
        })
    }

    /// Counts rows by a text of theirs from the start, and gives each with its number: the first row of a text has 1.
    pub fn count_by_key(self, mut key: impl FnMut(&T) -> String + Send + 'static) -> Stream<'p, (String, u64), Time> {
        let counts = KeyedState::new();
        self.stateful("count_by_key", counts, move |state, row| {
            let key = key(&row);
            let count = state.get::<u64>(&key).unwrap_or(0) + 1;
            state.put(&key, &count);
            Some((key, count))
        })
    }

    /// Makes rows of rows and of what is remembered under keys. The state is part of checkpoints, and can be looked at from outside.
    ///
    /// Entries with a time to live are forgotten by event time, if it is known here, else by the clock.
    pub fn with_state<U: Send + 'static, I: IntoIterator<Item = U>>(
        self,
        state: KeyedState,
        function: impl FnMut(&mut KeyedState, T) -> I + Send + 'static,
    ) -> Stream<'p, U, Time> {
        self.stateful("with_state", state, function)
    }

    /// Takes rows through an operator of one's own, which figures call `name`.
    pub fn operator<O: Operator<T>>(self, name: &str, operator: O) -> Stream<'p, O::Out, Time> {
        self.step(name, OperatorStep { operator, rows: PhantomData })
    }

    fn stateful<U: Send + 'static, I: IntoIterator<Item = U>>(
        self,
        name: &str,
        state: KeyedState,
        function: impl FnMut(&mut KeyedState, T) -> I + Send + 'static,
    ) -> Stream<'p, U, Time> {
        self.step(name, super::state::Stateful { state, function, rows: PhantomData })
    }

    /// Writes each row to `sink`, and goes on with the same rows: a flow may have several sinks.
    pub fn to_sink(self, sink: impl Sink<T>) -> Self {
        self.plan.need(sink.guarantee());
        self.step("sink", SinkStep { sink, rows: PhantomData })
    }
}

impl<'p, T: Send + 'static> Stream<'p, T, Untimed> {
    /// From here on, rows have an event time, and a watermark says how far it has come: the least over the source's partitions.
    pub fn with_watermark(self, watermark: Watermark<T>) -> Stream<'p, T, Timed> {
        let config = watermark.config(self.plan.config.watermark_delay);
        let arrivals = watermark.idle.is_some() || watermark.max_future.is_some();
        let shape = Arc::new(Shape::new("rows", &[], &[]));
        let watermarks = Watermarks::new(config, arrivals);
        self.step("with_watermark", Clock { watermark, watermarks, shape })
    }
}

impl<'p, T: Send + 'static> Stream<'p, T, Timed> {
    /// Puts rows into windows.
    pub fn window(self, spec: impl Into<WindowSpec>) -> Windowed<'p, T> {
        Windowed::new(self.plan, spec.into())
    }
}

/// Reads event times, and keeps the watermarks.
struct Clock<T> {
    watermark: Watermark<T>,
    watermarks: Watermarks,
    shape: Arc<Shape>,
}

impl<T: Send + 'static> Step for Clock<T> {
    fn run(&mut self, chunk: AnyChunk, around: &mut Around<'_>, out: &mut Vec<AnyChunk>) -> Result<(), ProcessorError> {
        let mut chunk = chunk_of::<T>(chunk)?;
        around.counts.rows_in += chunk.rows.len() as u64;
        let mut batch =
            Batch::new(Arc::clone(&self.shape), Arc::clone(&chunk.partition), Arc::clone(&chunk.partition), chunk.arrival);
        batch.time.reserve(chunk.rows.len());
        (self.watermark.time_of)(&chunk.rows, &mut batch.time);
        let mut flow = Flow { before: self.watermarks.combined().0, ..Flow::default() };
        if !batch.is_empty() {
            let future;
            (flow, future) = self.watermarks.observe(&batch);
            if !future.is_empty() {
                chunk.flags = vec![Flags::NONE; chunk.rows.len()];
                future.into_iter().for_each(|row| chunk.flags[row] = Flags::FUTURE);
            }
        }
        if let Some(mark_of) = &mut self.watermark.mark_of {
            for (place, row) in chunk.rows.iter().enumerate() {
                if let Some(mark) = mark_of(row) {
                    self.watermarks.punctuate(&chunk.partition, mark, chunk.arrival);
                }
                let after = self.watermarks.combined().0;
                if after > flow.last() {
                    flow.moves.push((place, after));
                }
            }
        }
        chunk.is_timed = true;
        chunk.time = std::mem::take(&mut batch.time);
        chunk.flow = Arc::new(flow);
        if let Turn::Idle(now) = chunk.turn {
            chunk.turn = match self.watermarks.tick(now) {
                Ticked::Nothing => chunk.turn,
                Ticked::Moved => Turn::Advance(self.watermarks.combined().0),
                Ticked::Closed => Turn::Close(self.watermarks.combined().0),
            };
        }
        around.counts.rows_out += chunk.rows.len() as u64;
        around.counts.watermark = Some(self.watermarks.combined().0).filter(|watermark| *watermark != Timestamp::MIN.0);
        out.push(Box::new(chunk));
        Ok(())
    }

    fn save(&mut self) -> Result<Vec<u8>, ProcessorError> {
        postcard::to_stdvec(&self.watermarks.snapshot()).map_err(ProcessorError::checkpoint)
    }

    fn load(&mut self, state: &[u8]) -> Result<(), ProcessorError> {
        let state: WatermarksState = postcard::from_bytes(state).map_err(ProcessorError::checkpoint)?;
        self.watermarks.restore(state);
        Ok(())
    }
}

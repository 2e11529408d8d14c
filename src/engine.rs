//! The fold: every row, tick and watermark of the inbox goes through [`Engine::step`], and what comes out is the outbox.
//!
//! The order within a step is watch ▸ ring ▸ filter ▸ derive ▸ checkpoints (gate) ▸ { windows, joins, patterns, charts, thresholds, voxels }. The engine
//! has no clock: time comes with the inputs, and [`Engine::next_deadline`] says when it wants to be told of it again.
//! [`Engine::snapshot`] and [`Engine::restore`] carry all state over a restart; restoring and replaying what followed gives what an
//! undisturbed run gives.
//!
//! - `config`: what it is made of.
//! - `pipeline`: one pipeline; `meter`: what went through its operators.
//! - `space`: a grid in a pipeline, and layers that leave memory.
//! - `alarms`: what makes somebody look; `orders`: what somebody asks for.
//! - `state`: snapshots.

mod alarms;
mod config;
mod meter;
mod orders;
mod pipeline;
mod space;
mod state;

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    buffer::Ring,
    dataflow::{Ticked, Watermarks},
    model::{Batch, Flags, Input, Order, Output, Seq, Stream, Timestamp},
    quality::{alert::AlertBook, watch::Watch},
    voxel::Grid,
};

pub use crate::quality::checkpoint::Emit;
pub use alarms::words as key_words;
pub use config::{EngineConfig, GridSource, PipelineConfig, StreamConfig};
pub use meter::{OperatorCounters, Stopwatch};
pub use pipeline::{Pipeline, PipelineCounters, Rejected};
pub use space::{GridLane, summaries};
pub use state::{Captured, Parts, StateError, cold_layer, cold_tile};

use alarms::Alarms;
use pipeline::Deferred;

/// A clock that is this far behind what it said has been set; smaller differences are those between sources.
const CLOCK_STEP_NS: i64 = 60_000_000_000;

/// What one step gave.
#[derive(Debug, Default)]
pub struct Step {
    /// Results, in order.
    pub outputs: Vec<Output>,
    /// Rows for the dead-letter lane.
    pub rejected: Vec<Rejected>,
    /// What became of each order.
    pub orders: Vec<Result<(), String>>,
    /// Results that are not there yet, in the order in which they will be.
    deferred: Vec<(usize, Deferred)>,
}

impl Step {
    /// Empties it for the next step.
    pub fn clear(&mut self) {
        self.outputs.clear();
        self.rejected.clear();
        self.orders.clear();
    }
}

/// A configuration that does not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EngineError(pub String);

/// A stream with its recent rows and its watermark.
#[derive(Debug)]
pub struct StreamLane {
    /// The shape of its rows.
    pub stream: Arc<Stream>,
    /// The newest rows.
    pub ring: Ring,
    /// Rows in its default sliding window.
    pub window_rows: usize,
    /// Progress by partition.
    pub watermarks: Watermarks,
    /// Rows so far.
    pub rows: u64,
    /// The newest time seen, future rows left out.
    pub newest: Timestamp,
    /// Whether it is silent or stands still.
    pub watch: Watch,
}

/// Whether arrival times mean something: they do in `run`, and in a replay of a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// Idleness and `max_future` act.
    Arrivals,
    /// Event time alone.
    EventTime,
}

/// The state of everything, and the fold over it.
#[derive(Debug)]
pub struct Engine {
    streams: Vec<StreamLane>,
    places: BTreeMap<Arc<str>, usize>,
    pipelines: Vec<Pipeline>,
    alarms: Alarms,
    emit: Emit,
    clock: Clock,
    last_seq: Seq,
    /// Of the last input that has one.
    arrival: Timestamp,
}

impl Engine {
    /// From here on, operators' time is taken by `stopwatch`.
    pub fn set_stopwatch(&mut self, stopwatch: Stopwatch) {
        self.pipelines.iter_mut().for_each(|pipeline| pipeline.set_stopwatch(stopwatch));
    }

    /// An engine that has seen nothing.
    ///
    /// # Errors
    /// What does not fit together, in words; `config` finds the same before it gets here.
    pub fn new(config: &EngineConfig, emit: Emit, clock: Clock) -> Result<Self, EngineError> {
        let mut streams = Vec::new();
        for one in config.streams.iter().chain(config.grids.iter().filter_map(|grid| grid.summaries.as_ref())) {
            let ring = Ring::new(Arc::clone(&one.stream), one.buffer_rows).map_err(|error| EngineError(error.to_string()))?;
            streams.push(StreamLane {
                stream: Arc::clone(&one.stream),
                ring,
                window_rows: one.window_rows,
                watermarks: Watermarks::new(one.watermark.clone(), clock == Clock::Arrivals),
                rows: 0,
                newest: Timestamp::MIN,
                watch: Watch::new(one.watch.clone(), &one.stream),
            });
        }
        let places: BTreeMap<Arc<str>, usize> =
            streams.iter().enumerate().map(|(at, lane)| (Arc::clone(&lane.stream.id), at)).collect();
        let find = |id: &str| places.get(id).map(|at| Arc::clone(&streams[*at].stream));
        let mut pipelines = Vec::new();
        for one in &config.pipelines {
            let stream = find(&one.stream)
                .ok_or_else(|| EngineError(format!("pipeline `{}`: there is no stream `{}`", one.id, one.stream)))?;
            pipelines.push(Pipeline::new(one, &stream, find).map_err(EngineError)?);
        }
        let alarms = Alarms::new(config.alerts);
        let mut engine = Self { streams, places, pipelines, alarms, emit, clock, last_seq: Seq(0), arrival: Timestamp::MIN };
        for grid in &config.grids {
            engine.add_grid(grid)?;
        }
        Ok(engine)
    }

    /// A grid is fed by a pipeline; a stream without any gets one that does nothing else.
    fn add_grid(&mut self, source: &GridSource) -> Result<(), EngineError> {
        let id = Arc::clone(&source.grid.settings().id);
        let fits = |pipeline: &Pipeline| match &source.pipeline {
            Some(wanted) => pipeline.id == *wanted,
            None => pipeline.stream.id == source.stream,
        };
        let at = match self.pipelines.iter().position(fits) {
            Some(at) => at,
            None => {
                let bare = PipelineConfig {
                    id: format!("voxels.{id}").into(),
                    stream: Arc::clone(&source.stream),
                    sinks: None,
                    filter: None,
                    derive: Vec::new(),
                    checkpoints: Vec::new(),
                    windows: Vec::new(),
                    joins: Vec::new(),
                    patterns: Vec::new(),
                    charts: Vec::new(),
                    thresholds: Vec::new(),
                    parallelism: 1,
                };
                let lane =
                    self.stream(&source.stream).ok_or_else(|| EngineError(format!("there is no stream `{}`", source.stream)))?;
                let pipeline = Pipeline::new(&bare, &lane.stream, |_| None).map_err(EngineError)?;
                self.pipelines.push(pipeline);
                self.pipelines.len() - 1
            }
        };
        let pipeline = &mut self.pipelines[at];
        let grid = Grid::new(source.grid.clone(), Arc::clone(&pipeline.stream)).map_err(|error| EngineError(error.to_string()))?;
        let fault = |error| EngineError(format!("grid `{id}`: {error}"));
        let find = |id: &str| self.places.get(id).map(|at| Arc::clone(&self.streams[*at].stream));
        pipeline.add_grid(GridLane::new(grid, source, find).map_err(fault)?);
        Ok(())
    }

    /// One input through everything; what comes of it is added to `step`.
    pub fn step(&mut self, input: &Input, step: &mut Step) {
        self.begin(input, step);
        self.settle(step);
    }

    /// One input through everything but windows that have threads of their own, which go on beside whoever calls: of several inputs that are
    /// begun one after the other, the results are complete, and in the order in which [`Self::step`] gives them, once they are
    /// [settled](Self::settle) with the same `step`. Until then, nothing may be taken from it, nor be asked of the engine.
    pub fn begin(&mut self, input: &Input, step: &mut Step) {
        if !matches!(input, Input::Batch(_)) {
            self.settle(step);
        }
        match input {
            Input::Batch(batch) => self.batch(batch, step),
            Input::Watermark { stream, partition, time, arrival } => {
                self.arrival = *arrival;
                if let Some(at) = self.places.get(stream).copied() {
                    self.streams[at].watermarks.punctuate(partition, *time, *arrival);
                    self.advance(at, step);
                }
            }
            Input::Tick(now) => {
                self.arrival = *now;
                self.time_passes(*now, step);
                for at in 0..self.streams.len() {
                    let ticked = self.streams[at].watermarks.tick(*now);
                    if ticked != Ticked::Nothing {
                        self.advance(at, step);
                    }
                    if ticked == Ticked::Closed {
                        self.close(at, step);
                    }
                }
            }
            Input::Order { time, order } => {
                if let Order::ClockSet { step_ns } = order {
                    self.clock_was_set(*step_ns);
                }
                self.time_passes(*time, step);
                let outcome = self.obey(*time, order, step);
                step.orders.push(outcome);
            }
            Input::End => self.end(true, step),
        }
        self.report(step);
    }

    /// Waits for what was begun.
    pub fn settle(&mut self, step: &mut Step) {
        if step.deferred.is_empty() {
            return;
        }
        let mut known = std::mem::take(&mut step.outputs).into_iter();
        let mut at = 0;
        for (pipeline, deferred) in std::mem::take(&mut step.deferred) {
            step.outputs.extend(known.by_ref().take(deferred.place - at));
            at = deferred.place;
            self.pipelines[pipeline].complete(deferred, step);
        }
        step.outputs.extend(known);
    }

    /// Takes what grids have to tell of finished layers to the pipelines that read it.
    fn report(&mut self, step: &mut Step) {
        let lanes = self.pipelines.iter_mut().filter(|pipeline| pipeline.running).flat_map(|pipeline| &mut pipeline.grids);
        let told: Vec<Batch> = lanes.filter_map(|lane| lane.report(self.arrival)).collect();
        for mut batch in told {
            let Some(at) = self.places.get(&batch.stream.id).copied() else { continue };
            batch.first_seq = Seq(self.streams[at].rows + 1);
            self.take_in(at, &Arc::new(batch), step);
        }
    }

    /// The appliance's clock went by `step_ns`: what has lasted for a while has lasted as long by the new clock.
    fn clock_was_set(&mut self, step_ns: i64) {
        self.arrival = self.arrival.by_set_clock(step_ns);
        self.alarms.book.clock_was_set(step_ns);
        for lane in &mut self.streams {
            lane.watermarks.clock_was_set(step_ns);
            lane.watch.clock_was_set(step_ns);
        }
        if step_ns < 0 {
            for at in 0..self.streams.len() {
                self.clock_was_set_back(at);
            }
        }
    }

    /// Rows that the clock stamped while it was ahead must not make those late that come now.
    fn clock_was_set_back(&mut self, at: usize) {
        let lane = &mut self.streams[at];
        if !lane.watermarks.clock_was_set_back(self.arrival) {
            return;
        }
        let id = Arc::clone(&lane.stream.id);
        let is_of = |pipeline: &&mut Pipeline| pipeline.stream.id == id || pipeline.join_with.contains(&id);
        self.pipelines.iter_mut().filter(is_of).for_each(|pipeline| pipeline.clock_was_set_back(self.arrival));
    }

    /// Tells of silence and standstill, and of alerts that nobody took note of.
    fn time_passes(&mut self, now: Timestamp, step: &mut Step) {
        if self.clock == Clock::EventTime {
            return;
        }
        let at = self.last_seq;
        self.alarms.book.set_clock(now);
        let mut causes = Vec::new();
        for lane in &mut self.streams {
            lane.watch.tick(now, at, &mut causes);
        }
        self.alarms.raise(&alarms::APPLIANCE.into(), causes, &mut step.outputs);
        step.outputs.extend(self.alarms.book.escalate(at));
    }

    /// The end of a replayed input: every window closes if `flush`, and charts say what they have.
    pub fn end(&mut self, flush: bool, step: &mut Step) {
        if flush {
            self.pipelines.iter_mut().flat_map(|pipeline| &mut pipeline.grids).for_each(GridLane::finish_all);
            self.report(step);
        }
        for pipeline in &mut self.pipelines {
            pipeline.end(flush, self.emit, self.last_seq, &mut self.alarms, step);
        }
    }

    fn batch(&mut self, batch: &Arc<Batch>, step: &mut Step) {
        let Some(at) = self.places.get(&batch.stream.id).copied() else { return };
        if batch.is_empty() {
            return;
        }
        let conformed = self.conformed(at, batch);
        let batch = conformed.as_ref().unwrap_or(batch);
        if self.clock == Clock::Arrivals {
            self.alarms.book.set_clock(batch.arrival);
            let mut causes = Vec::new();
            self.streams[at].watch.observe(batch, &mut causes);
            self.alarms.raise(&alarms::APPLIANCE.into(), causes, &mut step.outputs);
        }
        self.last_seq = batch.seq(batch.rows() - 1);
        self.arrival = batch.arrival;
        self.take_in(at, batch, step);
    }

    /// Rows of stream `at` through every pipeline that reads it.
    fn take_in(&mut self, at: usize, batch: &Arc<Batch>, step: &mut Step) {
        let lane = &mut self.streams[at];
        let (flow, future) = lane.watermarks.observe(batch);
        let flow = Arc::new(flow);
        let marked = mark_future(batch, &future);
        let batch = marked.as_ref().unwrap_or(batch);
        lane.ring.append(batch, 0..batch.rows());
        lane.rows += batch.rows() as u64;
        lane.newest = lane.newest.max(lane.watermarks.newest());
        for index in 0..self.pipelines.len() {
            let rights = self.rights(index);
            let pipeline = &mut self.pipelines[index];
            if pipeline.stream.id == batch.stream.id {
                let deferred = pipeline.process(batch, &flow, &rights, self.emit, &mut self.alarms, step);
                step.deferred.extend(deferred.map(|deferred| (index, deferred)));
                pipeline.counters.flagged += if pipeline.running { future.len() as u64 } else { 0 };
            } else if pipeline.join_with.contains(&batch.stream.id) {
                let left = self.places.get(&pipeline.stream.id).map_or(i64::MIN, |at| self.streams[*at].watermarks.combined().0);
                pipeline.process_right(batch, &flow, left, step);
            }
            if pipeline.stream.id != batch.stream.id {
                pipeline.grids.iter_mut().for_each(|lane| lane.listen(batch));
            }
        }
    }

    /// The batch in the shape that its stream has now, if it was recorded when the configuration gave it another.
    fn conformed(&self, at: usize, batch: &Arc<Batch>) -> Option<Arc<Batch>> {
        let stream = &self.streams[at].stream;
        let alike = Arc::ptr_eq(stream, &batch.stream) || **stream == *batch.stream;
        (!alike).then(|| Arc::new(batch.conformed(stream)))
    }

    /// Puts rows into their ring that went through before: a ring is not part of a snapshot. Rows after `last` are left out.
    pub fn remember(&mut self, batch: &Arc<Batch>, last: Seq) {
        let Some(at) = self.places.get(&batch.stream.id).copied() else { return };
        let rows = (0..batch.rows()).take_while(|row| batch.seq(*row) <= last).count();
        let conformed = self.conformed(at, batch);
        self.streams[at].ring.append(conformed.as_ref().unwrap_or(batch), 0..rows);
    }

    /// The watermark of stream `at` moved without a row.
    fn advance(&mut self, at: usize, step: &mut Step) {
        let watermark = self.streams[at].watermarks.combined();
        let id = Arc::clone(&self.streams[at].stream.id);
        for index in 0..self.pipelines.len() {
            let rights = self.rights(index);
            let pipeline = &mut self.pipelines[index];
            if pipeline.stream.id == id {
                pipeline.advance(watermark, &rights, self.last_seq, step);
            } else if pipeline.join_with.contains(&id) {
                let left = self.places.get(&pipeline.stream.id).map_or(i64::MIN, |at| self.streams[*at].watermarks.combined().0);
                pipeline.advance_right(&id, watermark.0.min(left), self.last_seq, step);
            }
        }
    }

    /// All partitions of stream `at` are silent.
    fn close(&mut self, at: usize, step: &mut Step) {
        let id = Arc::clone(&self.streams[at].stream.id);
        for pipeline in self.pipelines.iter_mut().filter(|pipeline| pipeline.stream.id == id) {
            pipeline.close(self.last_seq, step);
        }
    }

    /// The watermarks of the streams that a pipeline joins with.
    fn rights(&self, pipeline: usize) -> Vec<i64> {
        let of = |id: &Arc<str>| self.places.get(id).map_or(i64::MIN, |at| self.streams[*at].watermarks.combined().0);
        self.pipelines[pipeline].join_with.iter().map(of).collect()
    }

    /// By the appliance's clock: when a [`Input::Tick`] would change something.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        if self.clock == Clock::EventTime {
            return None;
        }
        let streams = self.streams.iter().flat_map(|lane| [lane.watermarks.next_deadline(), lane.watch.next_deadline()]);
        streams.flatten().chain(self.alarms.book.next_deadline()).min()
    }

    /// Whether the engine is to be told that it is `now`: a deadline has come, or the clock was set back, so that every deadline of before is
    /// too far away.
    pub fn wants_tick(&self, now: Timestamp) -> bool {
        let was_set_back = self.arrival.since(now) > CLOCK_STEP_NS && self.arrival > Timestamp::MIN;
        self.next_deadline().is_some_and(|deadline| deadline <= now || was_set_back)
    }

    /// What was raised, and what became of it.
    pub fn alerts(&self) -> &AlertBook {
        &self.alarms.book
    }

    /// The newest row that went through.
    pub fn last_seq(&self) -> Seq {
        self.last_seq
    }

    /// All streams.
    pub fn streams(&self) -> &[StreamLane] {
        &self.streams
    }

    /// A stream by its id.
    pub fn stream(&self, id: &str) -> Option<&StreamLane> {
        self.places.get(id).map(|at| &self.streams[*at])
    }

    /// All pipelines.
    pub fn pipelines(&self) -> &[Pipeline] {
        &self.pipelines
    }

    /// Feeds a pipeline, or no longer; whether there is one.
    pub fn set_running(&mut self, id: &str, running: bool) -> bool {
        let found = self.pipelines.iter_mut().find(|pipeline| *pipeline.id == *id);
        found.map(|pipeline| pipeline.running = running).is_some()
    }

    /// Whether much waits to leave memory with the next snapshot.
    pub fn wants_snapshot(&self) -> bool {
        self.grids().any(GridLane::wants_snapshot)
    }

    /// A grid by its id.
    pub fn grid(&self, id: &str) -> Option<&GridLane> {
        self.pipelines.iter().flat_map(|pipeline| &pipeline.grids).find(|lane| *lane.id == *id)
    }

    /// All grids.
    pub fn grids(&self) -> impl Iterator<Item = &GridLane> {
        self.pipelines.iter().flat_map(|pipeline| &pipeline.grids)
    }
}

/// The batch with its too-far-future rows marked, if it has any.
fn mark_future(batch: &Arc<Batch>, future: &[usize]) -> Option<Arc<Batch>> {
    if future.is_empty() {
        return None;
    }
    let mut marked = Batch::clone(batch);
    for row in future {
        marked.set_flag(*row, Flags::FUTURE);
    }
    Some(Arc::new(marked))
}

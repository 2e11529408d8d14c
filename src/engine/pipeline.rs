//! One pipeline: filter ▸ derive ▸ checkpoints (gate) ▸ { windows, joins, patterns, charts, thresholds, voxels }.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{OperatorCounters, PipelineConfig, Step, Stopwatch, alarms::Alarms, meter::Meter, space::GridLane};
use crate::{
    dataflow::{
        Flow, SpreadWindows, drive,
        join::JoinOperator,
        pattern::PatternOperator,
        timed::{Join, Pattern},
    },
    expr::{Bools, Expr, Scratch, Type},
    model::{Batch, Body, Output, Row, Seq, Signal, Stream, Timestamp},
    quality::{
        checkpoint::{Checkpoint, CheckpointState, Emit, validate},
        threshold::Threshold,
    },
    spc::ChartOperator,
};

/// A row that a checkpoint refused: it goes to the dead-letter lane.
#[derive(Debug, Clone, PartialEq)]
pub struct Rejected {
    /// The pipeline.
    pub pipeline: Arc<str>,
    /// The checkpoint.
    pub checkpoint: Arc<str>,
    /// The row.
    pub row: Row,
}

/// Rows through a pipeline, kept over restarts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipelineCounters {
    /// Rows that went through, filtered ones included.
    pub processed: u64,
    /// Rows that the filter left out.
    pub filtered: u64,
    /// Rows that were too late for a window or join.
    pub late: u64,
    /// Rows that were marked: by a checkpoint, or because their time is too far ahead.
    pub flagged: u64,
    /// Rows that a checkpoint rejected.
    pub rejected: u64,
    /// Rows on which the filter could not be evaluated.
    pub failed: u64,
    /// Results.
    pub results: u64,
    /// Arrival of the last row.
    pub last_activity: Timestamp,
}

/// A batch of which the windows are still at work.
#[derive(Debug)]
pub struct Deferred {
    /// How many results of the step come before.
    pub place: usize,
    /// What comes before the windows' results, where the same row caused it; and what comes behind.
    before: Vec<Output>,
    behind: Vec<Output>,
}

/// A running pipeline.
#[derive(Debug)]
pub struct Pipeline {
    /// The configured id.
    pub id: Arc<str>,
    /// The sinks it feeds; `None` = all.
    pub sinks: Option<Vec<Arc<str>>>,
    /// The stream's columns and the derived ones.
    pub stream: Arc<Stream>,
    /// Whether it is fed. One that is not puts nothing out either, until it is again: what is open in it stays open.
    pub running: bool,
    /// Rows so far.
    pub counters: PipelineCounters,
    /// In the configured order.
    pub checkpoints: Vec<Checkpoint>,
    /// In the configured order.
    pub windows: Vec<SpreadWindows>,
    /// The other stream of each join.
    pub join_with: Vec<Arc<str>>,
    /// In the configured order.
    pub joins: Vec<JoinOperator>,
    /// In the configured order.
    pub patterns: Vec<PatternOperator>,
    /// In the configured order.
    pub charts: Vec<ChartOperator>,
    /// In the configured order.
    pub thresholds: Vec<Threshold>,
    /// Fed after the gate.
    pub grids: Vec<GridLane>,
    filter: Option<Expr>,
    derive: Vec<Expr>,
    meter: Meter,
    scratch: Scratch,
    bools: Bools,
}

/// What a checkpoint of the appliance keeps of a pipeline, but for its operators.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PipelineState {
    pub(super) running: bool,
    pub(super) counters: PipelineCounters,
    pub(super) checkpoints: Vec<CheckpointState>,
}

impl Pipeline {
    /// Builds the pipeline over `stream`; `other` finds the streams it joins with.
    ///
    /// # Errors
    /// Whatever of the configuration does not fit the stream, in words.
    pub fn new(config: &PipelineConfig, stream: &Stream, other: impl Fn(&str) -> Option<Arc<Stream>>) -> Result<Self, String> {
        let place = |what: &str, error: &dyn std::fmt::Display| format!("pipeline `{}`, {what}: {error}", config.id);
        let filter = config
            .filter
            .as_ref()
            .map(|text| Expr::compile(text, stream, Type::Bool))
            .transpose()
            .map_err(|error| place("filter", &error))?;
        let mut extended = stream.clone();
        let mut derive = Vec::new();
        for (name, text) in &config.derive {
            derive.push(Expr::compile(text, &extended, Type::Number).map_err(|error| place(name, &error))?);
            extended.signals.push(Signal { name: Arc::clone(name), unit: "".into() });
        }
        let stream = Arc::new(extended);
        let id = || Arc::clone(&config.id);
        let mut pipeline = Self {
            id: id(),
            sinks: config.sinks.clone(),
            stream: Arc::clone(&stream),
            running: true,
            counters: PipelineCounters::default(),
            checkpoints: Vec::new(),
            windows: Vec::new(),
            join_with: Vec::new(),
            joins: Vec::new(),
            patterns: Vec::new(),
            charts: Vec::new(),
            thresholds: Vec::new(),
            grids: Vec::new(),
            filter,
            derive,
            meter: Meter::new(),
            scratch: Scratch::default(),
            bools: Bools::default(),
        };
        for checkpoint in &config.checkpoints {
            let built = Checkpoint::new(checkpoint.clone(), &stream).map_err(|error| place(&checkpoint.name, &error))?;
            pipeline.checkpoints.push(built);
        }
        for window in &config.windows {
            let built =
                SpreadWindows::new(&config.id, window, &stream, config.parallelism).map_err(|error| place("windows", &error))?;
            pipeline.windows.push(built);
        }
        for (with, join) in &config.joins {
            let right = other(with).ok_or_else(|| place("joins", &format!("there is no stream `{with}`")))?;
            let built = JoinOperator::new(id(), join.clone(), &stream, &right).map_err(|error| place("joins", &error))?;
            pipeline.join_with.push(Arc::clone(with));
            pipeline.joins.push(built);
        }
        for pattern in &config.patterns {
            let built = PatternOperator::new(id(), pattern.clone(), &stream).map_err(|error| place("patterns", &error))?;
            pipeline.patterns.push(built);
        }
        for chart in &config.charts {
            let built = ChartOperator::new(id(), chart.clone(), &stream).map_err(|error| place("charts", &error))?;
            pipeline.charts.push(built);
        }
        for threshold in &config.thresholds {
            let built = Threshold::new(threshold.clone(), &stream).map_err(|error| place(&threshold.name, &error))?;
            pipeline.thresholds.push(built);
        }
        pipeline.meter_operators(config);
        Ok(pipeline)
    }

    /// In the order in which rows go through them.
    fn meter_operators(&mut self, config: &PipelineConfig) {
        let meter = &mut self.meter;
        if self.filter.is_some() {
            meter.add("filter", &self.id);
        }
        config.derive.iter().for_each(|(name, _)| meter.add("derive", name));
        self.checkpoints.iter().for_each(|one| meter.add("checkpoint", one.name()));
        self.windows.iter().for_each(|one| meter.add("window", &one.config().id));
        self.joins.iter().for_each(|one| meter.add("join", &one.config().id));
        self.patterns.iter().for_each(|one| meter.add("pattern", &one.config().id));
        self.charts.iter().for_each(|one| meter.add("chart", one.id()));
        self.thresholds.iter().for_each(|one| meter.add("threshold", one.name()));
    }

    /// From here on, operators' time is taken by `stopwatch`.
    pub fn set_stopwatch(&mut self, stopwatch: Stopwatch) {
        self.meter.set_stopwatch(stopwatch);
    }

    /// What went through each operator since the program started.
    pub fn operators(&self) -> &[OperatorCounters] {
        self.meter.operators()
    }

    /// Adds a grid that is fed after the gate.
    pub fn add_grid(&mut self, lane: GridLane) {
        self.meter.add("voxels", &lane.id);
        self.grids.push(lane);
    }

    /// Takes a batch of the pipeline's stream through all operators; results are sorted by the row that caused them. Where windows have
    /// threads of their own, what is returned is to be [completed](Self::complete) later.
    pub fn process(
        &mut self,
        batch: &Arc<Batch>,
        flow: &Arc<Flow>,
        rights: &[i64],
        emit: Emit,
        alarms: &mut Alarms,
        step: &mut Step,
    ) -> Option<Deferred> {
        if !self.running {
            return None;
        }
        let mut out = Vec::new();
        self.counters.processed += batch.rows() as u64;
        self.counters.last_activity = batch.arrival;
        let mut rows: Option<Vec<usize>> = None;
        let passed = self.filtered(batch, &mut rows);
        let derived = self.derived(passed);
        let gated = self.gate(derived, &mut rows, emit, alarms, &mut out, step);
        let gated = match gated {
            Cow::Borrowed(_) => Arc::clone(batch),
            Cow::Owned(gated) => Arc::new(gated),
        };
        let shared_places = rows.map(Arc::new);
        let places = shared_places.as_ref().map(|places| &places[..]);
        let meter = &mut self.meter;
        let mut deferred = (self.windows.iter().any(SpreadWindows::is_spread)).then(|| Deferred {
            place: step.outputs.len(),
            before: std::mem::take(&mut out),
            behind: Vec::new(),
        });
        for (place, window) in (meter.first("window")..).zip(&mut self.windows) {
            meter.measure(place, gated.rows(), &mut out, |out| match &deferred {
                Some(_) => window.begin(&gated, shared_places.as_ref(), flow),
                None => window.drive(&gated, shared_places.as_ref(), flow, out),
            });
        }
        for (place, (join, right)) in (meter.first("join")..).zip(self.joins.iter_mut().zip(rights)) {
            meter.measure(place, gated.rows(), &mut out, |out| drive(&mut Join::left(join, *right), &gated, places, flow, out));
        }
        for (place, pattern) in (meter.first("pattern")..).zip(&mut self.patterns) {
            let (lap, failed) = (meter.lap(out.len()), pattern.counters().errors);
            drive(&mut Pattern(pattern), &gated, places, flow, &mut out);
            meter.done(place, lap, gated.rows(), out.len(), pattern.counters().errors - failed);
        }
        for (place, chart) in (meter.first("chart")..).zip(&mut self.charts) {
            meter.measure(place, gated.rows(), &mut out, |out| {
                chart.push(&gated, 0..gated.rows(), chart_emit(emit), out);
                alarms.onsets(&self.id, chart.drain_onsets(), out);
            });
        }
        for (place, threshold) in (meter.first("threshold")..).zip(&mut self.thresholds) {
            meter.measure(place, gated.rows(), &mut out, |out| threshold.push(&self.id, &gated, &mut alarms.book, out));
        }
        for (place, lane) in (meter.first("voxels")..).zip(&mut self.grids) {
            meter.measure(place, gated.rows(), &mut out, |out| {
                out.extend(lane.fill(&self.id, (&gated, places), batch, emit));
                lane.advance(Timestamp(flow.last()));
            });
        }
        match &mut deferred {
            Some(deferred) => deferred.behind = out,
            None => self.finish(out, step),
        }
        deferred
    }

    /// Waits for the windows, and puts out what [`Self::process`] has left.
    pub fn complete(&mut self, deferred: Deferred, step: &mut Step) {
        let mut out = deferred.before;
        for (place, window) in (self.meter.first("window")..).zip(&mut self.windows) {
            self.meter.measure(place, 0, &mut out, |out| window.finish(out));
        }
        out.extend(deferred.behind);
        self.finish(out, step);
    }

    /// Takes a batch of a stream that this pipeline joins with.
    pub fn process_right(&mut self, batch: &Batch, flow: &Flow, left: i64, step: &mut Step) {
        if !self.running {
            return;
        }
        let mut out = Vec::new();
        for (place, (join, with)) in (self.meter.first("join")..).zip(self.joins.iter_mut().zip(&self.join_with)) {
            if **with == *batch.stream.id {
                self.meter
                    .measure(place, batch.rows(), &mut out, |out| drive(&mut Join::right(join, left), batch, None, flow, out));
            }
        }
        self.finish(out, step);
    }

    /// The watermark of the pipeline's stream is at `watermark`, without a row having come in; `rights` are those of the joined streams.
    pub fn advance(&mut self, watermark: Timestamp, rights: &[i64], at: Seq, step: &mut Step) {
        if !self.running {
            return;
        }
        let mut out = Vec::new();
        let meter = &mut self.meter;
        for (place, window) in (meter.first("window")..).zip(&mut self.windows) {
            meter.measure(place, 0, &mut out, |out| window.advance(watermark, out));
        }
        for (place, (join, right)) in (meter.first("join")..).zip(self.joins.iter_mut().zip(rights)) {
            meter.measure(place, 0, &mut out, |out| join.advance(Timestamp(watermark.0.min(*right)), out));
        }
        for (place, pattern) in (meter.first("pattern")..).zip(&mut self.patterns) {
            meter.measure(place, 0, &mut out, |out| pattern.advance(watermark, out));
        }
        for lane in &mut self.grids {
            lane.advance(watermark);
        }
        for output in &mut out {
            output.at = at;
        }
        self.finish(out, step);
    }

    /// The watermark that counts for the joins with `stream` is at `watermark`.
    pub fn advance_right(&mut self, stream: &str, watermark: i64, at: Seq, step: &mut Step) {
        if !self.running {
            return;
        }
        let mut out = Vec::new();
        for (place, (join, with)) in (self.meter.first("join")..).zip(self.joins.iter_mut().zip(&self.join_with)) {
            if **with == *stream {
                self.meter.measure(place, 0, &mut out, |out| join.advance(Timestamp(watermark), out));
            }
        }
        for output in &mut out {
            output.at = at;
        }
        self.finish(out, step);
    }

    /// The stream's watermark ran ahead with a clock that is set back to `now`.
    pub fn clock_was_set_back(&mut self, now: Timestamp) {
        self.windows.iter_mut().for_each(|window| window.clock_was_set_back(now));
        self.joins.iter_mut().for_each(|join| join.clock_was_set_back(now));
        self.patterns.iter_mut().for_each(|pattern| pattern.clock_was_set_back(now));
    }

    /// All partitions of the stream are silent: windows that are open say what they have.
    pub fn close(&mut self, at: Seq, step: &mut Step) {
        if !self.running {
            return;
        }
        let mut out = Vec::new();
        for (place, window) in (self.meter.first("window")..).zip(&mut self.windows) {
            self.meter.measure(place, 0, &mut out, |out| window.fire_open(out));
        }
        for output in &mut out {
            output.at = at;
        }
        self.finish(out, step);
    }

    /// The end of a replayed input: windows close (if `flush`), and charts say what they have.
    pub fn end(&mut self, flush: bool, emit: Emit, at: Seq, alarms: &mut Alarms, step: &mut Step) {
        if !self.running {
            return;
        }
        if flush {
            let rights = vec![i64::MAX; self.joins.len()];
            self.advance(Timestamp::MAX, &rights, at, step);
        }
        let mut out = Vec::new();
        for (place, chart) in (self.meter.first("chart")..).zip(&mut self.charts) {
            self.meter.measure(place, 0, &mut out, |out| {
                chart.finish(flush, chart_emit(emit), at, out);
                alarms.onsets(&self.id, chart.drain_onsets(), out);
            });
        }
        self.finish(out, step);
    }

    fn filtered<'b>(&mut self, batch: &'b Batch, rows: &mut Option<Vec<usize>>) -> Cow<'b, Batch> {
        let Some(filter) = &self.filter else { return Cow::Borrowed(batch) };
        let lap = self.meter.lap(0);
        filter.eval_bool(batch, 0..batch.rows(), &mut self.scratch, &mut self.bools);
        let kept = self.bools.count_true();
        let failed = self.bools.count_errors();
        self.counters.failed += failed as u64;
        self.counters.filtered += (batch.rows() - kept - failed) as u64;
        let passed = if kept == batch.rows() {
            Cow::Borrowed(batch)
        } else {
            let keep: Vec<usize> = (0..batch.rows()).filter(|row| self.bools.holds(*row)).collect();
            let taken = batch.take(&keep);
            *rows = Some(keep);
            Cow::Owned(taken)
        };
        self.meter.done(self.meter.first("filter"), lap, batch.rows(), kept, failed as u64);
        passed
    }

    fn derived<'b>(&mut self, batch: Cow<'b, Batch>) -> Cow<'b, Batch> {
        if self.derive.is_empty() {
            return batch;
        }
        let (meter, count) = (&mut self.meter, batch.rows());
        let (mut place, mut lap) = (meter.first("derive"), meter.lap(0));
        derive(&self.derive, &self.stream, batch, &mut self.scratch, |column| {
            let failed = column.iter().filter(|value| value.is_nan()).count();
            meter.done(place, lap, count, count - failed, failed as u64);
            (place, lap) = (place + 1, meter.lap(0));
        })
    }

    fn gate<'b>(
        &mut self,
        batch: Cow<'b, Batch>,
        rows: &mut Option<Vec<usize>>,
        emit: Emit,
        alarms: &mut Alarms,
        out: &mut Vec<Output>,
        step: &mut Step,
    ) -> Cow<'b, Batch> {
        if self.checkpoints.is_empty() {
            return batch;
        }
        let mut batch = batch.into_owned();
        for (place, checkpoint) in (self.meter.first("checkpoint")..).zip(&mut self.checkpoints) {
            let (lap, count) = (self.meter.lap(0), batch.rows());
            let verdict = checkpoint.judge(&self.id, &mut batch, emit, &mut self.scratch, &mut alarms.book, out);
            self.counters.flagged += verdict.flagged;
            let refused = verdict.rejected.len();
            self.counters.rejected += refused as u64;
            self.meter.done(place, lap, count, count - refused, refused as u64);
            if verdict.rejected.is_empty() {
                continue;
            }
            step.rejected.extend(verdict.rejected.iter().map(|row| Rejected {
                pipeline: Arc::clone(&self.id),
                checkpoint: Arc::clone(checkpoint.name()),
                row: batch.row(*row),
            }));
            let keep: Vec<usize> = (0..batch.rows()).filter(|row| verdict.rejected.binary_search(row).is_err()).collect();
            let places = keep.iter().map(|row| rows.as_ref().map_or(*row, |rows| rows[*row])).collect();
            batch = batch.take(&keep);
            *rows = Some(places);
        }
        Cow::Owned(batch)
    }

    fn finish(&mut self, mut out: Vec<Output>, step: &mut Step) {
        out.sort_by_key(|output| output.at);
        self.counters.results += out.len() as u64;
        self.counters.late += out.iter().filter(|output| matches!(output.body, Body::Late(_))).count() as u64;
        step.outputs.append(&mut out);
    }

    /// Asks the checkpoint called `checkpoint`, or all, about each row of `batch`, a batch of the pipeline's stream: nothing is counted
    /// and nothing follows. The filter is not asked.
    pub fn validate(&self, batch: &Batch, checkpoint: Option<&str>) -> Vec<BTreeMap<Arc<str>, bool>> {
        let mut scratch = Scratch::default();
        let batch = derive(&self.derive, &self.stream, Cow::Borrowed(batch), &mut scratch, |_| {});
        (0..batch.rows()).map(|row| validate(&self.checkpoints, checkpoint, &batch, row, &mut scratch)).collect()
    }

    pub(super) fn state(&self) -> PipelineState {
        PipelineState {
            running: self.running,
            counters: self.counters,
            checkpoints: self.checkpoints.iter().map(|checkpoint| checkpoint.state).collect(),
        }
    }

    pub(super) fn set_state(&mut self, state: &PipelineState) {
        self.running = state.running;
        self.counters = state.counters;
        for (checkpoint, stored) in self.checkpoints.iter_mut().zip(&state.checkpoints) {
            checkpoint.state = *stored;
        }
    }
}

/// `batch` with its derived signals, as rows of `stream`.
fn derive<'b>(
    derive: &[Expr],
    stream: &Arc<Stream>,
    batch: Cow<'b, Batch>,
    scratch: &mut Scratch,
    mut done: impl FnMut(&[f64]),
) -> Cow<'b, Batch> {
    if derive.is_empty() {
        return batch;
    }
    let mut batch = batch.into_owned();
    for expr in derive {
        let column = expr.eval_number(&batch, 0..batch.rows(), scratch).to_vec();
        done(&column);
        batch.signals.push(column);
    }
    batch.stream = Arc::clone(stream);
    Cow::Owned(batch)
}

const fn chart_emit(emit: Emit) -> crate::spc::Emit {
    match emit {
        Emit::All => crate::spc::Emit::All,
        Emit::Changes => crate::spc::Emit::Changes,
    }
}

//! The thread of a processor: rows from sources through the steps, and checkpoints in between.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{
    DeadLetter, DeliveryGuarantee, Poll, Polled, Source, StreamConfig,
    checkpoint::{Checkpoints, FlowState, Saved},
    chunk::{Chunk, Turn},
    config::now,
    error::ProcessorError,
    life::{ABORT, Figures, FlowPlan, RUN, Shared, locked},
    step::{AnyChunk, Around, Counts, Step},
};

/// How long the thread sleeps when no source has anything.
const PAUSE: Duration = Duration::from_millis(2);
/// How often steps are told the time while no row comes.
const IDLE_EVERY: Duration = Duration::from_millis(100);

/// A source whose type is forgotten.
pub trait AnySource: Send {
    /// Up to `max` rows as a chunk, if there are any, and what was refused.
    fn poll(&mut self, max: usize) -> Result<Fed, ProcessorError>;
    fn position(&self) -> Vec<u8>;
    fn seek(&mut self, position: &[u8]) -> Result<(), ProcessorError>;
    fn acknowledge(&mut self, position: &[u8]) -> Result<(), ProcessorError>;
    /// A chunk without rows.
    fn empty(&self, turn: Turn) -> AnyChunk;
}

/// What a source gave.
pub struct Fed {
    chunk: Option<(AnyChunk, u64)>,
    letters: Vec<DeadLetter>,
    poll: Poll,
}

/// A source and what it hands over next.
pub struct Feed<S: Source> {
    source: S,
    polled: Polled<S::Row>,
}

impl<S: Source> Feed<S> {
    pub fn new(source: S) -> Self {
        Self { source, polled: Polled::new() }
    }
}

impl<S: Source> AnySource for Feed<S> {
    fn poll(&mut self, max: usize) -> Result<Fed, ProcessorError> {
        let failed = |error: super::SourceError| ProcessorError::Failed(format!("source: {error}"));
        let poll = self.source.poll(max, &mut self.polled).map_err(failed)?;
        let letter = |(reason, raw)| DeadLetter { step: "source".into(), reason, raw };
        let letters = self.polled.rejected.drain(..).map(letter).collect();
        let count = self.polled.rows.len();
        let chunk = (count > 0).then(|| {
            let rows = std::mem::replace(&mut self.polled.rows, Vec::with_capacity(count));
            let chunk = Chunk::new(rows, Arc::clone(&self.polled.partition), now(), Turn::Go);
            (Box::new(chunk) as AnyChunk, count as u64)
        });
        Ok(Fed { chunk, letters, poll })
    }

    fn position(&self) -> Vec<u8> {
        self.source.position()
    }

    fn seek(&mut self, position: &[u8]) -> Result<(), ProcessorError> {
        self.source.seek(position).map_err(ProcessorError::checkpoint)
    }

    fn acknowledge(&mut self, position: &[u8]) -> Result<(), ProcessorError> {
        self.source.acknowledge(position).map_err(|error| ProcessorError::Failed(format!("source: {error}")))
    }

    fn empty(&self, turn: Turn) -> AnyChunk {
        Box::new(Chunk::<S::Row>::new(Vec::new(), Arc::clone(&self.polled.partition), now(), turn))
    }
}

struct Running {
    source: Box<dyn AnySource>,
    steps: Vec<(Arc<str>, Box<dyn Step>)>,
    /// Where the figures of its steps begin.
    first: usize,
    ended: bool,
    told_time: Instant,
    /// Rows went in since steps were told that nothing follows.
    stirred: bool,
}

/// All flows on their way.
pub struct Runner {
    config: StreamConfig,
    flows: Vec<Running>,
    shared: Arc<Shared>,
    checkpoints: Option<Checkpoints>,
    number: u64,
    saved: Instant,
}

impl Runner {
    pub fn new(config: StreamConfig, plans: Vec<FlowPlan>, shared: Arc<Shared>) -> Self {
        let mut figures = Figures::default();
        let mut flows = Vec::new();
        for plan in plans {
            let first = figures.steps.len();
            figures.steps.extend(plan.steps.iter().map(|(name, _)| (Arc::clone(name), Counts::default(), Duration::ZERO)));
            let (source, steps) = (plan.source, plan.steps);
            flows.push(Running { source, steps, first, ended: false, told_time: Instant::now(), stirred: false });
        }
        *locked(&shared.figures) = figures;
        let checkpoints = config.checkpoint_dir.clone().map(Checkpoints::new);
        Self { config, flows, shared, checkpoints, number: 0, saved: Instant::now() }
    }

    /// Goes on from the last checkpoint that every sink agrees with.
    pub fn restore(&mut self) -> Result<(), ProcessorError> {
        let Some(checkpoints) = self.checkpoints.take() else { return Ok(()) };
        let restored = self.restore_from(&checkpoints);
        self.checkpoints = Some(checkpoints);
        restored
    }

    fn restore_from(&mut self, checkpoints: &Checkpoints) -> Result<(), ProcessorError> {
        let mut committed: Option<u64> = None;
        for (_, step) in self.flows.iter_mut().flat_map(|flow| &mut flow.steps) {
            if let Some(number) = step.committed()? {
                committed = Some(committed.map_or(number, |least| least.min(number)));
            }
        }
        let exactly_once = self.config.delivery_guarantee == DeliveryGuarantee::ExactlyOnce;
        let saved = checkpoints.load(committed.filter(|_| exactly_once))?;
        // Checkpoints are numbered on, also if one is not gone on from.
        self.number = checkpoints.last_number().max(committed.unwrap_or(0));
        if let Some(saved) = saved {
            self.load(saved)?;
        }
        if self.config.delivery_guarantee == DeliveryGuarantee::AtMostOnce
            && let Some(positions) = checkpoints.positions()
        {
            for (flow, position) in self.flows.iter_mut().zip(positions) {
                flow.source.seek(&position)?;
            }
        }
        Ok(())
    }

    fn load(&mut self, saved: Saved) -> Result<(), ProcessorError> {
        let differs = || ProcessorError::Checkpoint("it is of other flows: use another directory, or remove it".into());
        if saved.flows.len() != self.flows.len() {
            return Err(differs());
        }
        let goes_back = self.config.delivery_guarantee == DeliveryGuarantee::ExactlyOnce;
        for (flow, state) in self.flows.iter_mut().zip(saved.flows) {
            if flow.steps.len() != state.steps.len() {
                return Err(differs());
            }
            flow.source.seek(&state.position)?;
            for ((name, step), (saved_name, state)) in flow.steps.iter_mut().zip(state.steps) {
                if **name != *saved_name {
                    return Err(differs());
                }
                if goes_back || !step.is_sink() {
                    step.load(&state)?;
                }
            }
        }
        Ok(())
    }

    /// Until the sources end, it is told to stop, or something fails.
    pub fn run(mut self) {
        let end = catch_unwind(AssertUnwindSafe(|| self.turns()));
        let end = end.unwrap_or_else(|panic| Err(ProcessorError::panicked(&*panic)));
        let shared = Arc::clone(&self.shared);
        // Sinks and sources are closed before anybody hears of the end.
        drop(self);
        *locked(&shared.end) = Some(end);
        shared.ended.notify_all();
    }

    fn turns(&mut self) -> Result<(), ProcessorError> {
        loop {
            match self.shared.order.load(Ordering::Acquire) {
                RUN => {}
                ABORT => return Ok(()),
                _ => return self.checkpoint(),
            }
            let mut is_busy = false;
            for at in 0..self.flows.len() {
                is_busy |= self.turn(at)?;
            }
            if self.flows.iter().all(|flow| flow.ended) {
                return self.checkpoint();
            }
            if self.checkpoints.is_some() && self.saved.elapsed() >= self.config.checkpoint_interval {
                self.checkpoint()?;
            }
            if !is_busy {
                thread::park_timeout(PAUSE);
            }
        }
    }

    /// One batch of one flow; whether there was anything.
    fn turn(&mut self, at: usize) -> Result<bool, ProcessorError> {
        let flow = &mut self.flows[at];
        if flow.ended {
            return Ok(false);
        }
        let Fed { chunk, letters, poll } = flow.source.poll(self.config.max_records_per_batch)?;
        let is_busy = chunk.is_some() || !letters.is_empty();
        {
            let mut figures = locked(&self.shared.figures);
            figures.records += chunk.as_ref().map_or(0, |(_, rows)| *rows);
            letters.into_iter().for_each(|letter| figures.letters.add(letter));
        }
        if self.config.delivery_guarantee == DeliveryGuarantee::AtMostOnce && chunk.is_some() {
            self.give_up_positions()?;
        }
        if let Some((chunk, _)) = chunk {
            self.flows[at].stirred = true;
            self.pass(at, 0, chunk)?;
        }
        match poll {
            Poll::Ready => {}
            Poll::Pending => self.idle(at)?,
            Poll::End => {
                self.flows[at].ended = true;
                let end = self.flows[at].source.empty(Turn::End);
                self.pass(at, 0, end)?;
            }
        }
        Ok(is_busy)
    }

    /// Nothing comes: what is held back goes on, and now and then steps are told the time.
    fn idle(&mut self, at: usize) -> Result<(), ProcessorError> {
        let flow = &mut self.flows[at];
        if std::mem::take(&mut flow.stirred) {
            let flush = flow.source.empty(Turn::Flush);
            self.pass(at, 0, flush)?;
        } else if flow.told_time.elapsed() >= IDLE_EVERY {
            flow.told_time = Instant::now();
            let idle = flow.source.empty(Turn::Idle(now()));
            self.pass(at, 0, idle)?;
        }
        Ok(())
    }

    /// Takes `chunk` through the steps of flow `at` from `step` on.
    fn pass(&mut self, at: usize, step: usize, chunk: AnyChunk) -> Result<(), ProcessorError> {
        let flow = &mut self.flows[at];
        let place = flow.first + step;
        let Some((name, stage)) = flow.steps.get_mut(step) else { return Ok(()) };
        let began = Instant::now();
        let (mut counts, mut letters) = {
            let mut figures = locked(&self.shared.figures);
            (figures.steps[place].1, std::mem::take(&mut figures.letters))
        };
        let abort = || self.shared.order.load(Ordering::Acquire) == ABORT;
        let mut out = Vec::new();
        let done = stage.run(chunk, &mut Around { counts: &mut counts, letters: &mut letters, name, abort: &abort }, &mut out);
        {
            let mut figures = locked(&self.shared.figures);
            figures.steps[place].1 = counts;
            figures.steps[place].2 += began.elapsed();
            figures.letters = letters;
        }
        done?;
        out.into_iter().try_for_each(|chunk| self.pass(at, step + 1, chunk))
    }

    /// At most once: what has been handed over is not asked for again, whatever becomes of it.
    fn give_up_positions(&mut self) -> Result<(), ProcessorError> {
        let Some(checkpoints) = &self.checkpoints else { return Ok(()) };
        let positions: Vec<Vec<u8>> = self.flows.iter().map(|flow| flow.source.position()).collect();
        checkpoints.give_up(&positions)?;
        self.flows.iter_mut().zip(positions).try_for_each(|(flow, position)| flow.source.acknowledge(&position))
    }

    /// Saves everything under the next number; then sinks make it visible, and sources forget it.
    fn checkpoint(&mut self) -> Result<(), ProcessorError> {
        for at in 0..self.flows.len() {
            let flush = self.flows[at].source.empty(Turn::Flush);
            self.pass(at, 0, flush)?;
        }
        let mut flows = Vec::new();
        for flow in &mut self.flows {
            let position = flow.source.position();
            let mut steps = Vec::new();
            for (name, step) in &mut flow.steps {
                steps.push((name.to_string(), step.save()?));
            }
            flows.push(FlowState { position, steps });
        }
        self.number += 1;
        let saved = Saved { number: self.number, flows };
        if let Some(checkpoints) = &mut self.checkpoints {
            checkpoints.save(&saved)?;
        }
        for (flow, state) in self.flows.iter_mut().zip(&saved.flows) {
            flow.steps.iter_mut().try_for_each(|(_, step)| step.commit(saved.number))?;
            flow.source.acknowledge(&state.position)?;
        }
        self.saved = Instant::now();
        locked(&self.shared.figures).checkpoints += 1;
        Ok(())
    }
}

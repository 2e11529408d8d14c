//! The processor as its owner sees it: flows are added, it runs, it ends.

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{
    DeadLetter, DeliveryGuarantee, Source, Stream, StreamConfig, Untimed,
    error::ProcessorError,
    letters::Letters,
    run::{AnySource, Feed, Runner},
    step::{Counts, Step},
};
use crate::model::Timestamp;

/// What a processor is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Not started yet.
    Created,
    /// At work.
    Running,
    /// Ended: its sources have, or it was told to.
    Stopped,
    /// Ended by an error, see [`StreamProcessor::error`].
    Failed,
}

/// Rows through one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepMetrics {
    /// The step, such as `filter`; a second one of the kind is `filter-2`.
    pub name: Arc<str>,
    /// Rows that came in.
    pub rows_in: u64,
    /// Rows that went out.
    pub rows_out: u64,
    /// Rows that it refused.
    pub failed: u64,
    /// Time spent in it.
    pub time: Duration,
}

/// What a processor has done so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Rows that sources handed over.
    pub records_processed: u64,
    /// Rows that a source could not read, or a step refused.
    pub failed_records: u64,
    /// Rows too late for every window.
    pub late_records: u64,
    /// Windows that fired.
    pub windows_triggered: u64,
    /// Windows open, when they were last counted.
    pub active_windows: u64,
    /// The watermark; none before the first row.
    pub current_watermark: Option<Timestamp>,
    /// Checkpoints saved.
    pub checkpoints: u64,
    /// By step, in order, one flow behind the other.
    pub steps: Vec<StepMetrics>,
}

/// A flow before it runs.
pub(super) struct FlowPlan {
    pub config: StreamConfig,
    pub source: Box<dyn AnySource>,
    pub steps: Vec<(Arc<str>, Box<dyn Step>)>,
    pub guarantee: DeliveryGuarantee,
    fault: Option<String>,
}

impl FlowPlan {
    /// What the next step of this kind is called.
    pub fn next_name(&self, kind: &str) -> Arc<str> {
        let named = |(name, _): &&(Arc<str>, Box<dyn Step>)| name.split('-').next() == Some(kind);
        match self.steps.iter().filter(named).count() {
            0 => kind.into(),
            count => format!("{kind}-{}", count + 1).into(),
        }
    }

    pub fn add(&mut self, kind: &str, step: Box<dyn Step>) {
        let name = self.next_name(kind);
        self.steps.push((name, step));
    }

    /// A sink can do no more than this.
    pub fn need(&mut self, guarantee: DeliveryGuarantee) {
        self.guarantee = self.guarantee.min(guarantee);
    }

    pub fn fail(&mut self, fault: String) {
        self.fault.get_or_insert(fault);
    }
}

pub(super) const RUN: u8 = 0;
pub(super) const STOP: u8 = 1;
pub(super) const ABORT: u8 = 2;

/// What the owner and the thread both see.
pub(super) struct Shared {
    pub order: AtomicU8,
    pub end: Mutex<Option<Result<(), ProcessorError>>>,
    pub ended: Condvar,
    pub figures: Mutex<Figures>,
}

#[derive(Default)]
pub(super) struct Figures {
    pub records: u64,
    pub checkpoints: u64,
    pub steps: Vec<(Arc<str>, Counts, Duration)>,
    pub letters: Letters,
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs flows of rows. See the [module's page](crate::processor).
pub struct StreamProcessor {
    config: StreamConfig,
    plans: Vec<FlowPlan>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl StreamProcessor {
    /// A processor without flows.
    pub fn new(config: StreamConfig) -> Self {
        let shared = Shared {
            order: AtomicU8::new(RUN),
            end: Mutex::new(None),
            ended: Condvar::new(),
            figures: Mutex::new(Figures::default()),
        };
        Self { config, plans: Vec::new(), shared: Arc::new(shared), thread: None }
    }

    /// Begins a flow with the rows of `source`. One that is begun after the start never runs.
    pub fn from_source<S: Source>(&mut self, source: S) -> Stream<'_, S::Row, Untimed> {
        self.plans.push(FlowPlan {
            config: self.config.clone(),
            source: Box::new(Feed::new(source)),
            steps: Vec::new(),
            guarantee: DeliveryGuarantee::ExactlyOnce,
            fault: None,
        });
        let last = self.plans.len() - 1;
        Stream::new(&mut self.plans[last])
    }

    /// Starts the flows, from the last checkpoint if there is one, and returns at once.
    ///
    /// # Errors
    /// A second start; a window or a configuration that makes no sense; a sink that cannot keep the guarantee over a restart; a checkpoint that
    /// cannot be read.
    pub fn start(&mut self) -> Result<&mut Self, ProcessorError> {
        if self.thread.is_some() || self.status() != Status::Created {
            return Err(ProcessorError::Started);
        }
        self.check()?;
        let plans = std::mem::take(&mut self.plans);
        let mut runner = Runner::new(self.config.clone(), plans, Arc::clone(&self.shared));
        runner.restore()?;
        let thread = std::thread::Builder::new().name("stream-processor".into());
        let started = thread.spawn(move || runner.run());
        self.thread = Some(started.map_err(|error| ProcessorError::Failed(format!("no thread could be started: {error}")))?);
        Ok(self)
    }

    fn check(&self) -> Result<(), ProcessorError> {
        let fault = |message: String| Err(ProcessorError::Configuration(message));
        if let Some(message) = self.plans.iter().find_map(|plan| plan.fault.clone()) {
            return fault(message);
        }
        if self.plans.is_empty() {
            return fault("there is no flow: begin one with from_source(..)".into());
        }
        if self.config.max_records_per_batch == 0 || self.config.parallelism == 0 {
            return fault("max_records_per_batch and parallelism are at least 1".into());
        }
        let wanted = self.config.delivery_guarantee;
        if self.config.checkpoint_dir.is_some() && self.plans.iter().any(|plan| plan.guarantee < wanted) {
            return fault(format!(
                "a sink cannot do {wanted:?} over a restart: use another, or ask for DeliveryGuarantee::AtLeastOnce"
            ));
        }
        Ok(())
    }

    /// Ends it. Gracefully: rows under way are finished and a checkpoint is saved; open windows stay in it, and do not fire. Otherwise
    /// at once: what came after the last checkpoint is as if the program had been killed.
    pub fn stop(&self, graceful: bool) {
        self.shared.order.store(if graceful { STOP } else { ABORT }, Ordering::Release);
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }

    /// Waits until it has ended, for at most `timeout`; whether it has. One that was never started has not.
    pub fn await_termination(&self, timeout: Option<Duration>) -> bool {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut end = locked(&self.shared.end);
        while end.is_none() {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            end = match left {
                Some(Duration::ZERO) => return false,
                Some(left) => self.shared.ended.wait_timeout(end, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.shared.ended.wait(end).unwrap_or_else(PoisonError::into_inner),
            };
        }
        true
    }

    /// What it is doing.
    pub fn status(&self) -> Status {
        match (&*locked(&self.shared.end), &self.thread) {
            (Some(Ok(())), _) => Status::Stopped,
            (Some(Err(_)), _) => Status::Failed,
            (None, Some(_)) => Status::Running,
            (None, None) => Status::Created,
        }
    }

    /// The error that ended it, if it failed.
    pub fn error(&self) -> Option<ProcessorError> {
        locked(&self.shared.end).as_ref().and_then(|end| end.as_ref().err().cloned())
    }

    /// What it has done so far, also while it runs.
    pub fn metrics(&self) -> Metrics {
        let figures = locked(&self.shared.figures);
        let sum = |of: fn(&Counts) -> u64| figures.steps.iter().map(|(_, counts, _)| of(counts)).sum();
        let steps = figures.steps.iter().map(|(name, counts, time)| StepMetrics {
            name: Arc::clone(name),
            rows_in: counts.rows_in,
            rows_out: counts.rows_out,
            failed: counts.failed,
            time: *time,
        });
        Metrics {
            records_processed: figures.records,
            failed_records: figures.letters.count,
            late_records: sum(|counts| counts.late),
            windows_triggered: sum(|counts| counts.windows_fired),
            active_windows: sum(|counts| counts.windows_open),
            current_watermark: figures.steps.iter().filter_map(|(_, counts, _)| counts.watermark).min().map(Timestamp),
            checkpoints: figures.checkpoints,
            steps: steps.collect(),
        }
    }

    /// The last rows that were refused, at most 1,000.
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        locked(&self.shared.figures).letters.last.iter().cloned().collect()
    }
}

impl Drop for StreamProcessor {
    /// Ends it gracefully, if it runs.
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = self.shared.order.compare_exchange(RUN, STOP, Ordering::AcqRel, Ordering::Acquire);
            thread.thread().unpark();
            // A panic of the thread has been noted as its end.
            let _ = thread.join();
        }
    }
}

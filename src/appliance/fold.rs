//! The engine's thread: committed inputs in, steps out.
//!
//! Inputs are taken in groups: whatever the store has committed meanwhile goes through the engine and is committed as one step, so that a
//! slow disk makes larger groups instead of a longer queue. Every [`Parts::checkpoint_interval`] the engine's state is copied, and made bytes of
//! and committed by [`super::checkpoints`]. Between
//! steps, questions of API clients are answered and the view for the status page is taken.
//!
//! When a deadline of the engine comes, a tick is appended to the inbox; it acts when it comes back through the feed, so that a replay of the
//! journal sees time pass at the same place.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock, Weak, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::{
    StartError,
    checkpoints::{Encoder, Moment},
    intake, locked, now,
    orders::Pending,
    shared::Shared,
    space::Answering,
    view::{EngineView, INTERVAL},
};
use crate::{
    api::{Act, Event, Request},
    engine::{Clock, Emit, Engine, EngineConfig, Rejected, Step},
    model::{Body, Input, Output, Seq, Timestamp},
    store::{
        Append, Checkpoint, CommittedInput, DeadLetter, Feed, RecordNo, Recovered, StepAccepted, StepCommit, StepOutput, Store,
        StoreError, Writer,
    },
};

/// Inputs that go through the engine before their step is committed.
const GROUP_INPUTS_MAX: usize = 512;
/// Rows, likewise.
const GROUP_ROWS_MAX: u64 = 262_144;
/// How long the thread sleeps at most, so that a question is answered soon.
const SLEEP_MAX: Duration = Duration::from_millis(20);
/// A tick that has not come back after this long is sent again: the store had no room for it.
const TICK_AGAIN: Duration = Duration::from_secs(1);
/// Rows before the checkpoint that are read to fill the rings again.
const REFILL_ROWS: u64 = 1_000_000;
const REFILL_PAGE_ROWS: usize = 65_536;

/// What the thread works with.
pub(super) struct Parts {
    pub engine: Engine,
    pub store: Arc<Store>,
    pub resume_after: RecordNo,
    /// What the engine refused of inputs up to here is among the dead letters.
    pub refused_through: RecordNo,
    pub checkpoint_interval: Duration,
    pub shared: Arc<Shared>,
    pub committed: Arc<watch::Sender<(Seq, Seq)>>,
    pub events: broadcast::Sender<Arc<Event>>,
    pub requests: mpsc::Receiver<Request>,
}

/// The engine in another shape, and who waits for it.
pub(super) struct NextEngine {
    pub config: EngineConfig,
    pub reply: oneshot::Sender<Result<(), StartError>>,
}

/// The engine and its surroundings, on their way through the inbox.
pub(super) struct Fold {
    pub(super) engine: Engine,
    /// Not what keeps the store open.
    store: Weak<Store>,
    pub(super) writer: Writer,
    /// Orders on their way through the inbox, with who waits for them.
    pub(super) pending: Pending,
    feed: Feed,
    shared: Arc<Shared>,
    committed: Arc<watch::Sender<(Seq, Seq)>>,
    events: broadcast::Sender<Arc<Event>>,
    requests: mpsc::Receiver<Request>,
    checkpoint_interval: Duration,
    /// The last input that went in.
    record: RecordNo,
    /// Whether the engine began with nothing: what the store holds of an earlier one is dropped with the first checkpoint.
    is_fresh: bool,
    /// Dead letters of inputs up to here are in the store already.
    answered_before: RecordNo,
    checkpointed: (RecordNo, Instant),
    encoder: Encoder,
    published: Instant,
    tick_sent: Option<Instant>,
    pub(super) step: Step,
    /// What the engine refused since the last commit.
    letters: Vec<DeadLetter>,
    /// Of the store.
    pub(super) directory: PathBuf,
    pub(super) answering: Answering,
}

impl Fold {
    pub fn new(parts: Parts) -> Result<Self, StoreError> {
        let feed = parts.store.feed(parts.resume_after)?;
        let answered_before = parts.refused_through;
        parts.shared.through.store(parts.resume_after.0, Ordering::Release);
        // Who asks before the thread has looked around sees what was recovered.
        *locked(&parts.shared.view) = EngineView::of(&parts.engine);
        let writer = parts.store.writer();
        let encoder = Encoder::start(writer.clone(), Arc::clone(&parts.shared))?;
        Ok(Self {
            engine: parts.engine,
            store: Arc::downgrade(&parts.store),
            writer,
            encoder,
            pending: Pending::default(),
            feed,
            shared: parts.shared,
            committed: parts.committed,
            events: parts.events,
            requests: parts.requests,
            checkpoint_interval: parts.checkpoint_interval,
            is_fresh: parts.resume_after == RecordNo(0),
            record: parts.resume_after,
            answered_before,
            checkpointed: (parts.resume_after, Instant::now()),
            published: Instant::now(),
            tick_sent: None,
            step: Step::default(),
            directory: parts.store.directory().to_owned(),
            answering: Answering::default(),
            letters: Vec::new(),
        })
    }

    /// Until it is told to stop, or the store ends.
    pub fn run(mut self) {
        let mut guard = Ended { shared: Arc::clone(&self.shared), why: Some("the engine's thread panicked".to_owned()) };
        guard.why = match self.turns() {
            Ok(()) | Err(StoreError::Closed) => None,
            Err(error) => Some(error.to_string()),
        };
    }

    fn turns(&mut self) -> Result<(), StoreError> {
        loop {
            *locked(&self.shared.beat) = Instant::now();
            let group = self.take()?;
            if !group.is_empty() {
                self.go(group)?;
            } else if self.checkpointed.0 < self.record && self.is_due() {
                self.checkpoint()?;
            }
            let stop = *locked(&self.shared.stop_after);
            if stop.is_none() {
                self.tick();
            }
            let next = locked(&self.shared.next_engine).take();
            if let Some(NextEngine { config, reply }) = next {
                // Gone only if the appliance is.
                let _ = reply.send(self.replace_engine(&config));
            }
            while let Ok(request) = self.requests.try_recv() {
                match request {
                    Request { act: Act::Order(order), reply } => self.order(order, reply),
                    other => self.respond(other),
                }
            }
            if self.published.elapsed() >= INTERVAL {
                self.publish();
            }
            // A tick that is under way comes before the end too, so that the last checkpoint leaves nothing to be gone over again.
            if stop.is_some_and(|last| self.record.0 >= last) && !self.tick_is_under_way() {
                self.commit_and_wait()?;
                self.publish();
                return Ok(());
            }
        }
    }

    /// What is committed by now, or will be in a moment.
    fn take(&mut self) -> Result<Vec<CommittedInput>, StoreError> {
        let Some(first) = self.feed.next(self.sleep())? else { return Ok(Vec::new()) };
        let mut rows = first.rows;
        let mut group = vec![first];
        while group.len() < GROUP_INPUTS_MAX && rows < GROUP_ROWS_MAX {
            let Some(input) = self.feed.next(Duration::ZERO)? else { break };
            rows += input.rows;
            group.push(input);
        }
        Ok(group)
    }

    fn sleep(&self) -> Duration {
        let deadline = self.engine.next_deadline().filter(|_| self.tick_sent.is_none());
        let until = deadline.map_or(SLEEP_MAX, |at| Duration::from_nanos(at.since(now()).max(0) as u64));
        until.min(SLEEP_MAX)
    }

    fn go(&mut self, group: Vec<CommittedInput>) -> Result<(), StoreError> {
        let mut rows = Vec::with_capacity(group.len());
        let started = Instant::now();
        for committed in group {
            if matches!(committed.input, Input::Tick(_)) {
                self.tick_sent = None;
            }
            self.engine.begin(&committed.input, &mut self.step);
            if let Input::Order { time, order } = &committed.input {
                self.ordered(*time, order);
            }
            self.record = committed.record;
            rows.push((committed.decoded_at, committed.rows));
            if committed.record > self.answered_before {
                self.letters.extend(self.step.rejected.drain(..).map(|rejected| dead_letter(&rejected)));
            } else {
                self.step.rejected.clear();
            }
        }
        self.engine.settle(&mut self.step);
        self.shared.stepped(started.elapsed());
        let step = self.step_commit(rows, None);
        self.writer.commit_step(step);
        if self.is_due() || self.engine.wants_snapshot() {
            self.checkpoint()?;
        }
        Ok(())
    }

    /// Whether it is time for a checkpoint, and the last one is out of the way.
    fn is_due(&self) -> bool {
        self.checkpointed.1.elapsed() >= self.checkpoint_interval && self.encoder.is_idle()
    }

    /// Has the state of this moment committed, behind the step that led to it.
    fn checkpoint(&mut self) -> Result<(), StoreError> {
        let moment = self.moment()?;
        self.encoder.hand_on(moment);
        Ok(())
    }

    fn moment(&mut self) -> Result<Moment, StoreError> {
        let started = Instant::now();
        self.checkpointed = (self.record, started);
        let captured = self.engine.capture().map_err(|error| StoreError::Refused(error.to_string()))?;
        self.shared.checkpointed(started.elapsed());
        Ok(Moment { position: self.record, complete: std::mem::take(&mut self.is_fresh), captured })
    }

    /// Commits what there is with a checkpoint, and waits for the sync.
    pub(super) fn commit_and_wait(&mut self) -> Result<RecordNo, StoreError> {
        // An earlier state must not come after a later one.
        self.encoder.finish();
        let checkpoint = self.moment()?.encode()?;
        let step = self.step_commit(Vec::new(), Some(checkpoint));
        self.writer.commit_step_and_wait(step)?;
        Ok(self.record)
    }

    fn step_commit(&mut self, rows: Vec<(Option<Instant>, u64)>, checkpoint: Option<Checkpoint>) -> StepCommit {
        let outputs: Vec<Output> = std::mem::take(&mut self.step.outputs);
        let outputs: Vec<StepOutput> = outputs.iter().map(|output| self.step_output(output)).collect();
        let listened = self.events.receiver_count() > 0;
        let told: Vec<Arc<Event>> = if listened { outputs.iter().map(event).collect() } else { Vec::new() };
        let last_row = self.engine.last_seq();
        let (shared, committed, events, through) =
            (Arc::clone(&self.shared), Arc::clone(&self.committed), self.events.clone(), self.record);
        let on_committed = move |outcome: Result<StepAccepted, StoreError>| {
            if let Ok(accepted) = outcome {
                shared.committed(through, &rows);
                // Rows that waited for the clock came in without an append that could tell of them.
                intake::advance(&committed, last_row, accepted.last_seq);
                for event in told {
                    // Without a listener there is nobody to tell.
                    let _ = events.send(event);
                }
            }
        };
        let dead_letters = std::mem::take(&mut self.letters);
        StepCommit { through: self.record, outputs, dead_letters, checkpoint, on_committed: Box::new(on_committed) }
    }

    fn step_output(&self, output: &Output) -> StepOutput {
        let stream = self.engine.pipelines().iter().find(|pipeline| pipeline.id == output.pipeline);
        StepOutput {
            id: output.id.clone(),
            kind: output.body.kind(),
            pipeline: Arc::clone(&output.pipeline),
            stream: stream.map(|pipeline| Arc::clone(&pipeline.stream.id)),
            time: time_of(&output.body),
            json: serde_json::to_vec(output).unwrap_or_default(),
        }
    }

    /// Unless one was sent so long ago that it is taken for lost.
    fn tick_is_under_way(&self) -> bool {
        self.tick_sent.is_some_and(|sent| sent.elapsed() < TICK_AGAIN)
    }

    fn tick(&mut self) {
        if self.tick_is_under_way() {
            return;
        }
        let time = now();
        if self.engine.wants_tick(time) {
            self.tick_sent = Some(Instant::now());
            self.writer.append_blocking(Append {
                input: Some(Input::Tick(time)),
                dead_letters: Vec::new(),
                decoded_at: Instant::now(),
                on_synced: Box::new(|_| ()),
            });
        }
    }

    /// Goes on as an engine of another configuration, from a checkpoint of this moment: what both have keeps its state. An error leaves the
    /// one that runs.
    fn replace_engine(&mut self, config: &EngineConfig) -> Result<(), StartError> {
        let build = || build(config);
        build()?;
        let position = self.commit_and_wait()?;
        let store = self.store.upgrade().ok_or(StoreError::Closed)?;
        let checkpoint = store.reader()?.checkpoint()?;
        let recovered = Recovered { checkpoint, resume_after: position, ..Recovered::default() };
        let (engine, resumed) = restore(build, &store, recovered)?;
        if resumed != position {
            return Err(StartError::Engine("the engine cannot go on from its checkpoint".into()));
        }
        self.engine = engine;
        self.publish();
        tracing::info!("the engine goes on with another configuration");
        Ok(())
    }

    fn publish(&mut self) {
        self.published = Instant::now();
        let view = EngineView::of(&self.engine);
        *locked(&self.shared.view) = view;
    }
}

/// Says why the thread has ended, also when it unwinds.
struct Ended {
    shared: Arc<Shared>,
    why: Option<String>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(why) = self.why.take() {
            *locked(&self.shared.failure) = Some(why);
        }
    }
}

fn event(output: &StepOutput) -> Arc<Event> {
    let json = String::from_utf8_lossy(&output.json).into_owned();
    Arc::new(Event { id: output.id.clone(), kind: output.kind.to_owned(), json })
}

fn dead_letter(rejected: &Rejected) -> DeadLetter {
    DeadLetter {
        source: format!("checkpoint {}", rejected.checkpoint).into(),
        partition: Arc::clone(&rejected.pipeline),
        stream: Some(Arc::clone(&rejected.row.stream.id)),
        arrival: now(),
        reason: "checkpoint_failed".to_owned(),
        detail: format!("checkpoint `{}` of pipeline `{}` failed", rejected.checkpoint, rejected.pipeline),
        raw: serde_json::to_vec(&rejected.row).unwrap_or_default(),
    }
}

/// The event time by which a result is looked up.
fn time_of(body: &Body) -> Timestamp {
    match body {
        Body::Window(window) => window.end,
        Body::Late(late) => late.row.time,
        Body::Join(join) => join.left.time,
        Body::Spc(point) => point.time,
        Body::Checkpoint(result) => result.time,
        Body::Pattern(found) => found.end,
        Body::Alert(alert) => alert.time,
        Body::Limits(_) | Body::Capability(_) | Body::VoxelUpdate(_) | Body::Voxel(_) => now(),
    }
}

/// An engine as `run` has it.
pub(super) fn build(config: &EngineConfig) -> Result<Engine, StartError> {
    let mut engine = Engine::new(config, Emit::Changes, Clock::Arrivals).map_err(|error| StartError::Engine(error.to_string()))?;
    engine.set_stopwatch(monotonic_ns);
    Ok(engine)
}

/// Nanoseconds since this was first asked.
fn monotonic_ns() -> u64 {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    BEGAN.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// Takes the engine to where the last run's checkpoint left it, and fills its rings again.
pub(super) fn restore(
    build: impl Fn() -> Result<Engine, StartError>,
    store: &Store,
    recovered: Recovered,
) -> Result<(Engine, RecordNo), StartError> {
    let mut engine = build()?;
    let Some(checkpoint) = recovered.checkpoint else { return Ok((engine, recovered.resume_after)) };
    match engine.restore(checkpoint.parts) {
        Ok(left_out) => left_out.iter().for_each(|what| tracing::warn!("left out of the checkpoint: {what}")),
        Err(error) => {
            tracing::warn!("{error}; the engine starts from the oldest row that is kept");
            return Ok((build()?, RecordNo(0)));
        }
    }
    let last = engine.last_seq();
    let mut reader = store.reader()?;
    let mut after = Seq(last.0.saturating_sub(REFILL_ROWS));
    while after < last {
        let page = reader.rows_after(after, REFILL_PAGE_ROWS, None)?;
        for batch in &page.batches {
            engine.remember(batch, last);
        }
        if page.at_end || page.through <= after {
            break;
        }
        after = page.through;
    }
    Ok((engine, recovered.resume_after))
}

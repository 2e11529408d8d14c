//! One life of the appliance: from opening the store to the crash.

use std::{
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    Settings,
    backlog::FaultyBacklog,
    clock::{Clock, SimulatedWorld, Tasks, locked},
    disk::Disk,
    ends::{FarEnd, Kind},
};
use crate::{
    appliance::dead_letter,
    config,
    deliver::{self, BacklogError, Config, Delivery, Route, SinkCounters, StoredBacklog},
    engine::{self, Engine, EngineConfig, Step},
    ingest::{
        BridgeHost,
        decode::{Decoded, Json, Routes},
    },
    model::{Body, Input, Output, Seq, Timestamp},
    simulate::Random,
    store::{Append, Checkpoint, DeadLetter, Feed, RecordNo, StartAt, StepCommit, StepOutput, Writer},
};

/// A result that has to come at once, and does, unless the program has stopped.
const AT_ONCE: Duration = Duration::from_mins(1);

/// Windows over the line's rows, whatever the clocks do, and over the broker's, which are marked when they seem to come from the future.
const CONFIGURATION: &str = r#"
[appliance]
id = "simulated"
data_dir = "/dev/null"
[streams.line]
signals = { n = "1" }
watermark = { delay = "5s", idle = "36500d", max_future = "36500d" }
[streams.floor]
signals = { n = "1" }
watermark = { delay = "5s", idle = "30s" }
[[pipelines]]
id = "line_counts"
stream = "line"
[[pipelines.windows]]
id = "line_10s"
type = "tumbling"
size = "10s"
aggregate = { rows = "count()", last = "last(n)" }
[[pipelines]]
id = "floor_counts"
stream = "floor"
[[pipelines.windows]]
id = "floor_10s"
type = "tumbling"
size = "10s"
aggregate = { rows = "count()" }
"#;

/// What the engine is made of.
pub fn configuration() -> Result<EngineConfig, String> {
    let parsed = config::parse(CONFIGURATION);
    parsed.map(|config| config.engine).map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
}

/// See the module.
pub struct Life {
    /// The partner of the machine.
    pub host: BridgeHost,
    /// The decoder of the broker's messages.
    pub json: Json,
    /// The sinks' loops.
    pub tasks: Tasks<Result<(), BacklogError>>,
    engine: Engine,
    feed: Feed,
    writer: Writer,
    step: Step,
    /// The last input that went through the engine, and the last that a step committed.
    record: RecordNo,
    stepped: RecordNo,
    is_fresh: bool,
    committed: watch::Sender<(Seq, Seq)>,
    /// Never told: a crash comes unannounced.
    stop: watch::Sender<bool>,
    disk: Arc<Mutex<Disk>>,
}

/// What a source hears of what it handed over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    /// Rows that the inbox knew.
    pub duplicates: u64,
    last_row: u64,
    record: RecordNo,
}

impl Life {
    /// Opens what the last crash left.
    pub fn start(disk: &Arc<Mutex<Disk>>, engine: &EngineConfig) -> Result<Self, String> {
        let failed = |error: &dyn std::fmt::Display| error.to_string();
        let mut held = locked(disk);
        let recovered = held.open()?;
        let store = held.store()?;
        let mut fold = Engine::new(engine, engine::Emit::Changes, engine::Clock::Arrivals).map_err(|error| failed(&error))?;
        let (resume_after, to_replay) = (recovered.resume_after, recovered.to_replay);
        if let Some(checkpoint) = recovered.checkpoint {
            let left_out = fold.restore(checkpoint.parts).map_err(|error| failed(&error))?;
            if !left_out.is_empty() {
                return Err(format!("left out of a checkpoint: {left_out:?}"));
            }
        }
        let inventory = store.reader().and_then(|reader| reader.inventory()).map_err(|error| failed(&error))?;
        let newest = (Seq(inventory.seq_next.saturating_sub(1)), Seq(inventory.result_next.saturating_sub(1)));
        let streams: Vec<_> = engine.streams.iter().map(|lane| Arc::clone(&lane.stream)).collect();
        let named = |id: &str| streams.iter().find(|stream| &*stream.id == id).cloned().ok_or_else(|| format!("no stream {id}"));
        let mut life = Self {
            host: BridgeHost::new(vec![named("line")?]),
            json: Json::new(Routes::one(&named("floor")?).map_err(|error| failed(&error))?),
            tasks: Tasks::default(),
            engine: fold,
            feed: store.feed(resume_after).map_err(|error| failed(&error))?,
            writer: store.writer(),
            step: Step::default(),
            record: resume_after,
            stepped: resume_after,
            is_fresh: resume_after == RecordNo(0),
            committed: watch::channel(newest).0,
            stop: watch::channel(false).0,
            disk: Arc::clone(disk),
        };
        held.seen();
        drop(held);
        for _ in 0..to_replay {
            life.fold()?;
        }
        Ok(life)
    }

    /// Starts the loop of one far end.
    pub fn attach(
        &mut self,
        place: usize,
        end: &FarEnd,
        settings: Settings,
        clock: &Clock,
        random: &mut Random,
    ) -> Result<(), String> {
        let failed = |error: &dyn std::fmt::Display| error.to_string();
        let reader = locked(&self.disk).store()?.reader().map_err(|error| failed(&error))?;
        let name = format!("{:?}", end.kind);
        let stored = StoredBacklog::open(reader, self.writer.clone(), &name, Route::default(), StartAt::Oldest);
        let stored = stored.map_err(|error| failed(&error))?;
        locked(&self.disk).seen();
        let mut draw = || Random::new(random.bits(), 51);
        let faults = settings.is_faulty.then(|| Arc::new(Mutex::new(draw())));
        let backlog = FaultyBacklog::new(stored, Arc::clone(&self.disk), faults);
        let delivery = match end.kind {
            Kind::Upserts | Kind::Compares => Delivery::AtLeastOnce,
            Kind::Transactions => Delivery::ExactlyOnce,
            Kind::AtMostOnce => Delivery::AtMostOnce,
        };
        // A simulated second is a millisecond: parcels of every 50 ms would be most of the work.
        let linger = Duration::from_millis(1_000 + draw().below(4_000) as u64);
        let config = Config { linger, delivery, seed: draw().bits(), ..Config::default() };
        let (world, committed, stop) = (SimulatedWorld::new(clock, draw()), self.committed.subscribe(), self.stop.subscribe());
        let running = deliver::run_in(world, config, end.clone(), backlog, committed, Arc::<SinkCounters>::default(), stop);
        self.tasks.add(place, Box::pin(running));
        Ok(())
    }

    /// Appends what was decoded, and waits.
    pub fn append(&mut self, decoded: Decoded) -> Result<Taken, String> {
        let (inputs, rejects) = decoded.into_inputs();
        let mut letters: Vec<DeadLetter> = rejects.into_iter().map(dead_letter).collect();
        let mut taken = Taken::default();
        let inputs = inputs.into_iter().map(Some);
        let pieces: Vec<Option<Input>> = if letters.is_empty() { inputs.collect() } else { inputs.chain([None]).collect() };
        for input in pieces {
            let rows = if let Some(Input::Batch(batch)) = &input { batch.rows() as u64 } else { 0 };
            let dead_letters = if input.is_none() { std::mem::take(&mut letters) } else { Vec::new() };
            let (sender, receiver) = mpsc::sync_channel(1);
            // Nobody is gone while this waits.
            let on_synced = Box::new(move |outcome| drop(sender.send(outcome)));
            self.writer.append_blocking(Append { input, dead_letters, decoded_at: Instant::now(), on_synced });
            let accepted = receiver.recv_timeout(AT_ONCE).map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
            if accepted.rows + accepted.duplicates != rows {
                return Err(format!("out of balance: {rows} rows received, {accepted:?}"));
            }
            taken.duplicates += accepted.duplicates;
            taken.last_row = (accepted.first_seq.0 + accepted.rows).saturating_sub(1);
            taken.record = accepted.record;
            locked(&self.disk).committed();
        }
        Ok(taken)
    }

    /// What was appended is known: the engine goes over it, the sinks are told.
    pub fn note(&mut self, taken: Taken) -> Result<(), String> {
        locked(&self.disk).seen();
        self.announce(Seq(taken.last_row), Seq(0));
        while self.record < taken.record {
            self.fold()?;
        }
        Ok(())
    }

    /// One committed input through the engine.
    fn fold(&mut self) -> Result<(), String> {
        let input = self.feed.next(AT_ONCE).map_err(|error| error.to_string())?.ok_or("the feed gives nothing")?;
        if input.record.0 != self.record.0 + 1 {
            return Err(format!("the feed gives {:?} after {:?}", input.record, self.record));
        }
        self.engine.step(&input.input, &mut self.step);
        self.record = input.record;
        Ok(())
    }

    /// Lets the engine know of the time, if it wants to.
    pub fn tick(&mut self, wall: Timestamp) -> Result<(), String> {
        if !self.engine.wants_tick(wall) {
            return Ok(());
        }
        let accepted = self.writer.append(Input::Tick(wall)).map_err(|error| error.to_string())?;
        locked(&self.disk).committed();
        while self.record < accepted.record {
            self.fold()?;
        }
        Ok(())
    }

    /// Commits what the engine made, with its state, and waits; what the sinks may be told of then.
    pub fn commit(&mut self) -> Result<Seq, String> {
        if self.record == self.stepped && self.step.outputs.is_empty() {
            return Ok(Seq(0));
        }
        let parts = self.engine.snapshot().map_err(|error| error.to_string())?;
        let checkpoint = Checkpoint { position: self.record, complete: std::mem::take(&mut self.is_fresh), parts };
        let outputs = std::mem::take(&mut self.step.outputs).iter().map(step_output).collect::<Result<_, _>>()?;
        let step = StepCommit {
            through: self.record,
            outputs,
            dead_letters: Vec::new(),
            checkpoint: Some(checkpoint),
            on_committed: Box::new(|_| {}),
        };
        let accepted = self.writer.commit_step_and_wait(step).map_err(|error| error.to_string())?;
        self.stepped = self.record;
        locked(&self.disk).committed();
        Ok(accepted.last_seq)
    }

    /// Tells the sinks' loops how far rows and results are committed.
    pub fn announce(&self, rows: Seq, results: Seq) {
        self.committed.send_if_modified(|seen| {
            let later = (seen.0.max(rows), seen.1.max(results));
            std::mem::replace(seen, later) != later
        });
    }

    /// How far rows and results are committed.
    pub fn newest(&self) -> (Seq, Seq) {
        *self.committed.borrow()
    }

    /// Rows of the broker that were marked instead of counted in windows.
    pub fn flagged(&self) -> u64 {
        self.engine
            .pipelines()
            .iter()
            .filter(|pipeline| &*pipeline.id == "floor_counts")
            .map(|pipeline| pipeline.counters.flagged)
            .sum()
    }

    /// Every balance of the store, and whether there is nothing left to deliver.
    pub fn balances(&self) -> Result<bool, String> {
        let (mut is_done, disk) = (true, locked(&self.disk));
        for balance in disk.store()?.balances() {
            if balance.accepted != balance.delivered + balance.buffered + balance.expired || balance.expired > 0 {
                return Err(format!("out of balance: {balance:?}"));
            }
            is_done &= balance.buffered == 0;
        }
        Ok(is_done)
    }
}

fn step_output(output: &Output) -> Result<StepOutput, String> {
    let time = if let Body::Window(window) = &output.body { window.end } else { Timestamp(0) };
    let json = serde_json::to_vec(output).map_err(|error| error.to_string())?;
    let (id, pipeline) = (output.id.clone(), Arc::clone(&output.pipeline));
    Ok(StepOutput { id, kind: output.body.kind(), pipeline, stream: None, time, json })
}

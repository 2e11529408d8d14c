//! The composition root: opens the store, recovers the engine, runs sources, sinks and the API, and ends them in order.
//!
//! ```text
//! sources ─parcels─▶ intake ─append─▶ store ─feed─▶ fold (engine, own thread) ─step─▶ store ─cursors─▶ sinks
//!    ▲                  │ synced        │ committed                                        ▲
//!    └──acknowledge─────┘               └──────────────── watch (row, result) ─────────────┘
//! ```
//! What each part may assume: a parcel is answered only after its rows are synced; the engine sees exactly what the store committed, in
//! that order; a sink reads only committed rows and results. Starting is recovering: the engine continues from its last checkpoint
//! and goes over what followed again; results that the outbox has already are ignored there.
//!
//! Ending: sources stop and drain, the engine goes through all that was committed and writes a last checkpoint, sinks get a moment
//! to deliver, the store closes.
//!
//! - [`fold`]: the engine's thread; [`checkpoints`]: its state becomes bytes; [`intake`]: parcels into the store; [`publish`]: the status snapshot, [`view`] the engine's part of it, [`shared`] what its thread
//!   shows; [`acts`]: what the API asks of the engine, [`answer`] what answers are made with; [`space`]: of its grids; [`layers`]: layers that left memory; [`mod@recorded`]: rows of the past; [`orders`]: acts
//!   through the inbox; [`reports`]: troubles of its own; [`process`]: processor time and memory;
//! - [`running`]: sources, sinks and channels, each on its own; [`mod@reload`]: another configuration while they run.

mod acts;
mod answer;
mod checkpoints;
mod fold;
mod intake;
pub mod layers;
mod losses;
mod orders;
mod process;
mod publish;
mod recorded;
mod reload;
mod reports;
mod running;
mod shared;
mod space;
mod view;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::{
    sync::{broadcast, mpsc, watch},
    task::{JoinSet, spawn_blocking},
};

use crate::{
    api,
    config::Config,
    deliver::Route,
    engine::Engine,
    ingest::{self, BrokerConfig, MqttUrl},
    model::{Seq, Timestamp},
    status::Snapshot,
    store::{Store, StoreConfig, StoreError, WhenFull},
};

pub use intake::Intake;
pub(crate) use intake::dead_letter;
pub use process::{Usage, file_system};
pub use recorded::{RecordedError, Wanted, recorded};
pub use reload::Reloaded;
pub use shared::Figures;

use running::{ChannelPart, Part, SharedRoster, SinkPart, SourcePart, finish, guard};

/// Questions of API clients that wait for the engine.
const REQUESTS_MAX: usize = 64;
/// Results that a slow event client may be behind.
const EVENTS_MAX: usize = 4_096;
/// Parcels of a source that wait for the intake.
const PARCELS_MAX: usize = 64;
/// How long the end may take for sources to drain.
const DRAIN_MAX: Duration = Duration::from_secs(15);
/// How long a sink's cursor may stand while something waits: an attempt and an open circuit, twice.
const STALLED_AFTER: Duration = Duration::from_mins(2);
/// How long sinks may still deliver at the end.
const DELIVER_MAX: Duration = Duration::from_secs(10);

/// Why the appliance does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The engine cannot be built from the configuration.
    #[error("{0}")]
    Engine(String),
    /// The API or the metrics page.
    #[error("{0}")]
    Listen(#[from] api::ListenError),
    /// The embedded broker.
    #[error("{0}")]
    Broker(#[from] ingest::BrokerError),
    /// A sink's place in the store.
    #[error("{0}")]
    Sink(String),
    /// A thread.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// Embedded brokers that run in this process, by address: they live until the process ends.
pub type Brokers = BTreeMap<SocketAddr, MqttUrl>;

/// A running appliance.
pub struct Appliance {
    config: Config,
    store: Option<Arc<Store>>,
    fold: Option<JoinHandle<()>>,
    shared: Arc<shared::Shared>,
    sources: Vec<SourcePart>,
    sinks: Vec<SinkPart>,
    channels: Vec<ChannelPart>,
    /// What is configured, for those who show it.
    roster: SharedRoster,
    /// The last row and result that are committed.
    committed: watch::Receiver<(Seq, Seq)>,
    others: JoinSet<()>,
    stop_others: watch::Sender<bool>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    api: SocketAddr,
    metrics: SocketAddr,
    intake: intake::Intake,
    fatal: watch::Receiver<Option<String>>,
}

/// What a run came to.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// The last snapshot.
    pub snapshot: Snapshot,
    /// What the engine's thread measured.
    pub figures: Figures,
}

impl Appliance {
    /// Opens, recovers and starts everything.
    ///
    /// # Errors
    /// What cannot be had: the data directory, an address, the broker's port. A server that is down is no error: its sink retries.
    pub async fn start(mut config: Config, brokers: &mut Brokers) -> Result<Self, StartError> {
        let api_listener = api::bind_api(config.http.api, config.http.tls.as_ref()).await?;
        let metrics_listener = api::bind(config.http.metrics).await?;
        let api_address = api_listener.local_addr().unwrap_or(config.http.api);
        let metrics_address = metrics_listener.local_addr().unwrap_or(config.http.metrics);
        reload::resolve(&mut config, brokers).await?;
        let opened = open(&config).await?;
        let (fatal_sender, fatal) = watch::channel(None);
        let store = Arc::new(opened.store);
        store.when_fatal(Box::new(move |error: StoreError| drop(fatal_sender.send(Some(error.to_string())))));

        let (committed, committed_seen) = watch::channel(opened.newest);
        let committed = Arc::new(committed);
        let (events, _) = broadcast::channel(EVENTS_MAX);
        let (requests, asked) = mpsc::channel(REQUESTS_MAX);
        let shared = Arc::new(shared::Shared::default());
        let fold = fold::Fold::new(fold::Parts {
            engine: opened.engine,
            store: Arc::clone(&store),
            resume_after: opened.resume_after,
            refused_through: opened.refused_through,
            checkpoint_interval: config.store.checkpoint_interval,
            shared: Arc::clone(&shared),
            committed: Arc::clone(&committed),
            events: events.clone(),
            requests: asked,
        })?;
        let fold = std::thread::Builder::new().name("engine".into()).spawn(move || fold.run()).map_err(StartError::Thread)?;

        let intake = intake::Intake::new(store.writer(), Arc::clone(&committed));
        let mut appliance = Self {
            store: Some(Arc::clone(&store)),
            fold: Some(fold),
            shared: Arc::clone(&shared),
            sources: Vec::new(),
            sinks: Vec::new(),
            channels: Vec::new(),
            roster: SharedRoster::default(),
            committed: committed_seen,
            others: JoinSet::new(),
            stop_others: watch::channel(false).0,
            snapshot: watch::channel(Arc::new(Snapshot::default())).1,
            api: api_address,
            metrics: metrics_address,
            intake,
            fatal,
            config,
        };
        appliance.start_parts(&store)?;
        let posted = Arc::default();
        let mut publisher = publish::Publisher::new(
            &appliance.config,
            &store,
            appliance.intake.clone(),
            Arc::clone(&shared),
            appliance.roster.clone(),
            Arc::clone(&posted),
        );
        let (snapshot_sender, snapshot) = watch::channel(Arc::new(publisher.snapshot()));
        appliance.snapshot = snapshot.clone();
        let task = publisher.run(snapshot_sender, appliance.stop_others.subscribe());
        guard(&mut appliance.others, &appliance.shared, "the status".to_owned(), task);
        let (api_requests, api_asked) = mpsc::channel(REQUESTS_MAX);
        let desk = acts::Desk {
            engine: requests,
            intake: appliance.intake.clone(),
            writer: store.writer(),
            roster: appliance.roster.clone(),
            rows: posted,
        };
        let task = desk.run(api_asked, appliance.stop_others.subscribe());
        guard(&mut appliance.others, &appliance.shared, "the API".to_owned(), task);
        let token = appliance.config.http.token.clone();
        let handle = api::Handle { snapshot, requests: api_requests, events, token };
        let task = api::serve(api_listener, handle.clone(), appliance.stop_others.subscribe());
        guard(&mut appliance.others, &appliance.shared, "the API".to_owned(), task);
        let task = api::serve_metrics(metrics_listener, handle, appliance.stop_others.subscribe());
        guard(&mut appliance.others, &appliance.shared, "the metrics page".to_owned(), task);
        Ok(appliance)
    }

    /// Sinks first, so that the store keeps for them what sources bring.
    fn start_parts(&mut self, store: &Arc<Store>) -> Result<(), StartError> {
        self.forget_sinks(store);
        for (number, (sink, route)) in self.wanted_sinks().into_iter().enumerate() {
            let (part, opened) = self.start_sink(store, number, sink, route);
            opened?;
            self.sinks.push(part);
        }
        for (number, channel) in self.config.alerts.channels.clone().into_iter().enumerate() {
            let part = self.start_channel(store, number, channel)?;
            self.channels.push(part);
        }
        for entry in self.config.sources.clone() {
            let part = self.start_source(entry);
            self.sources.push(part);
        }
        self.post_roster();
        Ok(())
    }

    /// Where the API listens.
    pub fn api_address(&self) -> SocketAddr {
        self.api
    }

    /// Where the metrics page listens.
    pub fn metrics_address(&self) -> SocketAddr {
        self.metrics
    }

    /// The newest state of everything.
    pub fn snapshot(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.clone()
    }

    /// The way of rows into the store, for a source in this process.
    pub fn intake(&self) -> intake::Intake {
        self.intake.clone()
    }

    /// What the engine's thread has measured so far.
    pub fn figures(&self) -> Figures {
        self.shared.figures()
    }

    /// Whether the engine's thread still runs and has looked around within `within`.
    pub fn is_alive(&self, within: Duration) -> bool {
        self.fold.as_ref().is_some_and(|fold| !fold.is_finished()) && self.shared.idle_for() < within
    }

    /// Resolves when the store or the engine has ended for a reason that only a restart can mend.
    pub async fn failed(&self) -> String {
        let mut fatal = self.fatal.clone();
        let engine = async {
            loop {
                if let Some(why) = self.shared.failure() {
                    return why;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        let store = async {
            match fatal.wait_for(Option::is_some).await {
                Ok(why) => why.clone().unwrap_or_default(),
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! { why = engine => why, why = store => why }
    }

    /// Waits until the engine has gone through all that is committed by now, at most `within`; whether it did.
    pub async fn caught_up(&self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        let committed = self.store.as_ref().map_or(0, |store| store.counters().committed);
        while self.shared.through() < committed {
            if Instant::now() > deadline || self.fold.as_ref().is_none_or(JoinHandle::is_finished) {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        true
    }

    /// Ends everything in order; nothing that was accepted is lost.
    pub async fn stop(mut self) -> Summary {
        if !Part::end_all(std::mem::take(&mut self.sources), DRAIN_MAX).await {
            tracing::warn!("a source did not end in time; what it had not acknowledged comes again");
        }
        let committed = self.store.as_ref().map_or(0, |store| store.counters().committed);
        self.shared.stop_after(committed);
        if let Some(fold) = self.fold.take()
            && spawn_blocking(move || fold.join()).await.is_ok_and(|joined| joined.is_err())
        {
            tracing::error!("the engine's thread panicked; the next start goes on from its last checkpoint");
        }
        // The last look, with everything processed; also gives sinks the time of one round.
        tokio::time::sleep(view::INTERVAL * 2).await;
        let (sinks, channels) = (std::mem::take(&mut self.sinks), std::mem::take(&mut self.channels));
        tokio::join!(Part::end_all(sinks, DELIVER_MAX), Part::end_all(channels, DELIVER_MAX));
        let summary = Summary { snapshot: Snapshot::clone(&self.snapshot.borrow()), figures: self.shared.figures() };
        let _ = self.stop_others.send(true);
        // An event stream that a client holds open would keep the API for ever.
        if tokio::time::timeout(Duration::from_millis(500), finish(&mut self.others)).await.is_err() {
            self.others.abort_all();
            finish(&mut self.others).await;
        }
        if let Some(store) = self.store.take() {
            // The last holder closes the store, which commits what waits.
            let _ = spawn_blocking(move || drop(store)).await;
        }
        summary
    }
}

async fn start_broker(broker: BrokerConfig, running: &mut Brokers) -> Result<MqttUrl, StartError> {
    if let Some(url) = running.get(&broker.listen) {
        return Ok(url.clone());
    }
    let url = ingest::start_broker(broker).await?;
    running.insert(broker.listen, url.clone());
    Ok(url)
}

/// The store and the engine as the last run left them.
struct Opened {
    store: Store,
    engine: Engine,
    resume_after: crate::store::RecordNo,
    refused_through: crate::store::RecordNo,
    newest: (Seq, Seq),
}

async fn open(config: &Config) -> Result<Opened, StartError> {
    let settled = config.engine.clone();
    let build = move || fold::build(&settled);
    let directory: PathBuf = config.appliance.data_dir.clone();
    let settings = StoreConfig {
        max_bytes: config.store.bytes_max,
        max_age_ns: config.store.age_max_ns,
        when_full: if config.store.shed_newest { WhenFull::ShedNewest } else { WhenFull::ShedOldest },
        ..StoreConfig::default()
    };
    let work = move || match open_at(&directory, settings.clone(), &build) {
        // Damage that only the rows of the rings showed: it is marked, and the next to open the store salvages what can be read.
        Err(StartError::Store(StoreError::Corrupt(why))) => {
            tracing::error!("the store is corrupt: {why}; it is opened again, to salvage it");
            open_at(&directory, settings, &build)
        }
        opened => opened,
    };
    spawn_blocking(work).await.unwrap_or_else(|error| Err(StartError::Engine(error.to_string())))
}

fn open_at(directory: &Path, settings: StoreConfig, build: &impl Fn() -> Result<Engine, StartError>) -> Result<Opened, StartError> {
    let (store, recovered) = Store::open(directory, settings)?;
    for notice in &recovered.notices {
        tracing::warn!("{notice}");
    }
    let (refused_through, newest) = (recovered.refused_through, recovered.newest);
    losses::announce(&store)?;
    let (engine, resume_after) = fold::restore(build, &store, recovered)?;
    Ok(Opened { store, engine, resume_after, refused_through, newest })
}

/// Which rows and results go to `sink`: those of pipelines that name it or name none, and of streams that such a pipeline reads or no
/// pipeline at all.
fn route(config: &Config, sink: &Arc<str>) -> Route {
    let feeds = |sinks: &Option<Vec<Arc<str>>>| sinks.as_ref().is_none_or(|sinks| sinks.contains(sink));
    let pipelines = &config.engine.pipelines;
    if pipelines.iter().all(|pipeline| feeds(&pipeline.sinks)) {
        return Route::default();
    }
    let mut chosen: Vec<Arc<str>> = pipelines.iter().filter(|one| feeds(&one.sinks)).map(|one| Arc::clone(&one.id)).collect();
    chosen.extend(config.engine.grids.iter().map(|grid| format!("voxels.{}", grid.grid.settings().id).into()));
    chosen.push("appliance".into());
    let streams = config
        .streams()
        .iter()
        .map(|stream| Arc::clone(&stream.id))
        .filter(|id| {
            let mut readers = pipelines.iter().filter(|pipeline| pipeline.stream == *id).peekable();
            readers.peek().is_none() || readers.any(|pipeline| feeds(&pipeline.sinks))
        })
        .collect();
    Route { streams: Some(streams), pipelines: Some(chosen) }
}

/// A mutex whose holders leave nothing half done.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The appliance's clock.
pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

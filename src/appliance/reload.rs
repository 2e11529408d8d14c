//! Another configuration without an end: what is new starts, what is gone ends, what changed does both, and everything else goes on.
//!
//! | changed | what happens |
//! |---|---|
//! | `[sources.*]`, or the shape of a stream it carries | that source ends (what it had not acknowledged comes again) and starts |
//! | `[sinks.*]`, or which pipelines feed it | that sink ends and starts where its cursor is; one that is gone loses its cursor |
//! | `[[alerts.channels]]` | likewise |
//! | streams, pipelines, grids, how alerts behave | the engine writes a checkpoint and goes on from it in its new shape; rows wait in the store |
//! | limits on figures | from the next look on |
//! | `[appliance]`, `[store]`, `[checkpoints]`, `[api]`, `[metrics]` | [`Reloaded::Restart`]: everything ends in order and starts |
//!
//! What may fail comes first, so that a configuration that cannot be had changes nothing.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::{
    Appliance, Brokers, DELIVER_MAX, DRAIN_MAX, PARCELS_MAX, STALLED_AFTER, StartError,
    fold::NextEngine,
    locked, route,
    running::{ChannelPart, Part, Roster, SinkPart, SourcePart, take_out},
    start_broker,
};
use crate::{
    config::{ChannelConfig, Config, SinkConfig, SourceEntry},
    deliver::{self, Endpoint, Identity, Route, StoredBacklog, channel::Channel},
    ingest::{self, SourceKind},
    store::{StartAt, Store, StoreError},
};

/// What became of a new configuration.
pub enum Reloaded {
    /// It is in effect.
    Done,
    /// It cannot be while the appliance runs: stop it, and start it with this.
    Restart(Box<Config>),
}

/// The addresses of embedded brokers, each started if it does not run yet.
pub(super) async fn resolve(config: &mut Config, brokers: &mut Brokers) -> Result<(), StartError> {
    for entry in &mut config.sources {
        if let (Some(broker), SourceKind::Mqtt(mqtt)) = (entry.broker, &mut entry.source.kind) {
            mqtt.url = start_broker(broker, brokers).await?;
        }
    }
    Ok(())
}

impl Appliance {
    /// Goes on with `config`.
    ///
    /// # Errors
    /// What the new configuration needs and cannot have; the one of before is still in effect.
    pub async fn reload(&mut self, config: Config, brokers: &mut Brokers) -> Result<Reloaded, StartError> {
        let (mut config, now) = (config, &self.config);
        if config.appliance != now.appliance || config.store != now.store || config.http != now.http {
            return Ok(Reloaded::Restart(Box::new(config)));
        }
        let Some(store) = self.store.clone() else { return Ok(Reloaded::Restart(Box::new(config))) };
        resolve(&mut config, brokers).await?;
        if config.engine != self.config.engine {
            let (reply, replaced) = oneshot::channel();
            *locked(&self.shared.next_engine) = Some(NextEngine { config: config.engine.clone(), reply });
            replaced.await.unwrap_or_else(|_| Err(StartError::Engine("the engine has ended".into())))?;
        }
        self.config = config;
        self.reload_sinks(&store).await;
        self.reload_sources().await;
        self.post_roster();
        Ok(Reloaded::Done)
    }

    async fn reload_sinks(&mut self, store: &Arc<Store>) {
        let (sinks, channels) = (self.wanted_sinks(), self.config.alerts.channels.clone());
        let old = take_out(&mut self.sinks, |part| sinks.contains(&part.settings));
        Part::end_all(old, DELIVER_MAX).await;
        let old = take_out(&mut self.channels, |part| channels.contains(&part.settings));
        Part::end_all(old, DELIVER_MAX).await;
        self.forget_sinks(store);
        for (number, (sink, route)) in sinks.into_iter().enumerate() {
            if self.sinks.iter().any(|part| part.settings.0.id == sink.id) {
                continue;
            }
            tracing::info!(sink = %sink.id, "new or changed: it starts");
            let (part, opened) = self.start_sink(store, number, sink, route);
            if let Err(error) = opened {
                tracing::warn!("{error}; it is tried again");
            }
            self.sinks.push(part);
        }
        for (number, channel) in channels.into_iter().enumerate() {
            if self.channels.iter().all(|part| part.settings.id != channel.id) {
                match self.start_channel(store, number, channel) {
                    Ok(part) => self.channels.push(part),
                    Err(error) => tracing::error!("{error}; a reload tries again"),
                }
            }
        }
    }

    async fn reload_sources(&mut self) {
        let wanted = self.config.sources.clone();
        let old = take_out(&mut self.sources, |part| wanted.contains(&part.settings));
        if !Part::end_all(old, DRAIN_MAX).await {
            tracing::warn!("a source did not end in time; what it had not acknowledged comes again");
        }
        for entry in wanted {
            if self.sources.iter().all(|part| part.settings.source.id != entry.source.id) {
                tracing::info!(source = %entry.source.id, "new or changed: it starts");
                let part = self.start_source(entry);
                self.sources.push(part);
            }
        }
    }

    /// Every sink with its route.
    pub(super) fn wanted_sinks(&self) -> Vec<(SinkConfig, Route)> {
        self.config.sinks.iter().map(|sink| (sink.clone(), route(&self.config, &sink.id))).collect()
    }

    /// Drops the cursors of sinks and channels that are configured no more: otherwise the store would keep for them what nobody fetches.
    pub(super) fn forget_sinks(&self, store: &Store) {
        let sinks = self.config.sinks.iter().map(|sink| &sink.id);
        let wanted: Vec<&Arc<str>> = sinks.chain(self.config.alerts.channels.iter().map(|channel| &channel.id)).collect();
        let mut gone: Vec<Arc<str>> = store.balances().into_iter().map(|balance| balance.sink).collect();
        gone.sort();
        gone.dedup();
        for sink in gone.iter().filter(|sink| !wanted.contains(sink)) {
            match store.writer().drop_sink(sink) {
                Ok(()) => tracing::info!(%sink, "no longer configured: its cursor is dropped"),
                Err(error) => tracing::warn!(%sink, "its cursor is kept until the next start: {error}"),
            }
        }
    }

    pub(super) fn start_source(&self, entry: SourceEntry) -> SourcePart {
        let mut part: SourcePart = Part::new(entry);
        let source = part.settings.source.clone();
        let (sender, receiver) = mpsc::channel(PARCELS_MAX);
        let run = ingest::run(source.clone(), sender, Arc::clone(&part.state), part.stop_order());
        part.spawn(&self.shared, format!("the intake of source `{}`", source.id), self.intake.clone().run(receiver));
        part.spawn(&self.shared, format!("source `{}`", source.id), run);
        part
    }

    /// A sink that runs; and whether the store knows it already, so that what comes from here on is kept for it.
    pub(super) fn start_sink(
        &self,
        store: &Arc<Store>,
        number: usize,
        sink: SinkConfig,
        route: Route,
    ) -> (SinkPart, Result<(), StartError>) {
        let open = {
            let (store, id, route) = (Arc::downgrade(store), Arc::clone(&sink.id), route.clone());
            move || {
                let store = store.upgrade().ok_or(StoreError::Closed)?;
                StoredBacklog::open(store.reader()?, store.writer(), &id, route.clone(), StartAt::Oldest)
            }
        };
        let opened = open().map(drop).map_err(|error| StartError::Sink(format!("sink `{}`: {error}", sink.id)));
        let config = deliver::Config {
            limits: sink.limits,
            delivery: sink.settings.delivery(),
            seed: number as u64,
            ..deliver::Config::default()
        };
        let connect = Endpoint { name: Arc::clone(&sink.id), identity: self.identity(store), settings: sink.settings.clone() };
        let mut part: SinkPart = Part::new((sink, route));
        let name = Arc::clone(&part.settings.0.id);
        let supervised = deliver::Supervised {
            name: Arc::clone(&name),
            config,
            connect,
            committed: self.committed.clone(),
            counters: Arc::clone(&part.state),
            stop: part.stop_order(),
            stalled_after: STALLED_AFTER,
        };
        part.spawn(&self.shared, format!("sink `{name}`"), deliver::supervise(supervised, open));
        (part, opened)
    }

    pub(super) fn start_channel(&self, store: &Store, number: usize, channel: ChannelConfig) -> Result<ChannelPart, StartError> {
        // No rows, and the alerts of all pipelines; a new channel does not tell of the past.
        let route = Route { streams: Some(Vec::new()), pipelines: None };
        let id = Arc::clone(&channel.id);
        let backlog = StoredBacklog::open(store.reader()?, store.writer(), &id, route, StartAt::Next)
            .map_err(|error| StartError::Sink(format!("alert channel `{id}`: {error}")))?;
        let config = deliver::Config { seed: u64::MAX - number as u64, ..deliver::Config::default() };
        let far = Channel::new(self.identity(store), channel.far.clone(), channel.min_severity);
        let mut part: ChannelPart = Part::new(channel);
        let (committed, counters, stop) = (self.committed.clone(), Arc::clone(&part.state), part.stop_order());
        part.spawn(&self.shared, format!("alert channel `{id}`"), async move {
            if let Err(error) = deliver::run(config, far, backlog, committed, counters, stop).await {
                tracing::error!(channel = %id, "the alert channel ended: {error}");
            }
        });
        Ok(part)
    }

    fn identity(&self, store: &Store) -> Identity {
        Identity { appliance: Arc::clone(&self.config.appliance.id), store: store.identity() }
    }

    /// Tells those who show it what is configured now.
    pub(super) fn post_roster(&self) {
        let Config { sources, sinks, alerts, .. } = &self.config;
        let source = |entry: &SourceEntry| {
            let part = self.sources.iter().find(|part| part.settings.source.id == entry.source.id)?;
            Some((Arc::clone(&entry.source.id), entry.source.kind.word(), Arc::clone(&part.state)))
        };
        let sink = |sink: &SinkConfig| {
            let part = self.sinks.iter().find(|part| part.settings.0.id == sink.id)?;
            Some((Arc::clone(&sink.id), sink.kind(), Arc::clone(&part.state)))
        };
        let channel = |channel: &ChannelConfig| {
            let part = self.channels.iter().find(|part| part.settings.id == channel.id)?;
            Some((Arc::clone(&channel.id), channel.far.kind(), Arc::clone(&part.state)))
        };
        self.roster.post(Roster {
            sources: sources.iter().filter_map(source).collect(),
            sinks: sinks.iter().filter_map(sink).chain(alerts.channels.iter().filter_map(channel)).collect(),
            streams: self.config.streams(),
            figures: alerts.figures.clone(),
        });
    }
}

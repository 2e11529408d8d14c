//! Sources, sinks and alert channels that run, each on its own: one can be started, ended or replaced while the others go on.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{sync::watch, task::JoinSet};

use super::{locked, shared::Shared};
use crate::{
    config::{ChannelConfig, SinkConfig, SourceEntry},
    deliver::{Route, SinkCounters},
    ingest::SourceStatus,
    model::Stream,
    quality::figures::FigureLimit,
};

/// A source with its intake.
pub(super) type SourcePart = Part<SourceEntry, SourceStatus>;
/// A sink, and what is routed to it.
pub(super) type SinkPart = Part<(SinkConfig, Route), SinkCounters>;
/// An alert channel.
pub(super) type ChannelPart = Part<ChannelConfig, SinkCounters>;

/// Tasks that belong together, with an order to stop of their own.
pub(super) struct Part<C, S> {
    /// What it was started with.
    pub settings: C,
    /// What it counts.
    pub state: Arc<S>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl<C, S: Default> Part<C, S> {
    /// Without a task yet.
    pub fn new(settings: C) -> Self {
        Self { settings, state: Arc::default(), stop: watch::channel(false).0, tasks: JoinSet::new() }
    }

    /// Hears the order to stop.
    pub fn stop_order(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Runs a task; one that panics makes the appliance fail, so that nothing goes on without it unseen.
    pub fn spawn(&mut self, shared: &Arc<Shared>, what: String, task: impl Future<Output = ()> + Send + 'static) {
        guard(&mut self.tasks, shared, what, task);
    }

    /// Tells all of `parts` to stop and waits until they have, together at most `within`; what runs then is broken off. Whether all
    /// ended by themselves.
    pub async fn end_all(parts: Vec<Self>, within: Duration) -> bool {
        let mut parts = parts;
        for part in &parts {
            let _ = part.stop.send(true);
        }
        let in_time = tokio::time::timeout(within, async {
            for part in &mut parts {
                finish(&mut part.tasks).await;
            }
        });
        let ended = in_time.await.is_ok();
        for part in &mut parts {
            part.tasks.abort_all();
            finish(&mut part.tasks).await;
        }
        ended
    }
}

/// Runs a task; one that panics makes the appliance fail.
pub(super) fn guard(tasks: &mut JoinSet<()>, shared: &Arc<Shared>, what: String, task: impl Future<Output = ()> + Send + 'static) {
    let shared = Arc::clone(shared);
    tasks.spawn(async move {
        if AssertUnwindSafe(task).catch_unwind().await.is_err() {
            shared.fail(format!("{what} panicked"));
        }
    });
}

/// Waits for all of them.
pub(super) async fn finish(tasks: &mut JoinSet<()>) {
    while tasks.join_next().await.is_some() {}
}

/// A source: its name, its kind, what it counts.
pub(super) type SourceLine = (Arc<str>, &'static str, Arc<SourceStatus>);
/// A sink or alert channel, likewise.
pub(super) type SinkLine = (Arc<str>, &'static str, Arc<SinkCounters>);

/// What is configured at this moment, for those who show it or read rows by it.
#[derive(Debug, Default, Clone)]
pub(super) struct Roster {
    /// In the order of the file.
    pub sources: Vec<SourceLine>,
    /// Likewise, alert channels last.
    pub sinks: Vec<SinkLine>,
    /// Shapes of rows.
    pub streams: Vec<Arc<Stream>>,
    /// Limits on the appliance's own figures.
    pub figures: Vec<FigureLimit>,
}

/// The roster, and the one who changes it is the appliance.
#[derive(Debug, Default, Clone)]
pub(super) struct SharedRoster(Arc<Mutex<Roster>>);

impl SharedRoster {
    /// As it is now.
    pub fn now(&self) -> Roster {
        locked(&self.0).clone()
    }

    /// From now on.
    pub fn post(&self, roster: Roster) {
        *locked(&self.0) = roster;
    }
}

/// Takes the parts out of `running` for which `keep` is false.
pub(super) fn take_out<P>(running: &mut Vec<P>, keep: impl Fn(&P) -> bool) -> Vec<P> {
    running.extract_if(.., |part| !keep(part)).collect()
}

//! Keeps one sink's loop running, and starts it anew when it ends before its time, panics, or gets nowhere.
//!
//! Nothing is lost with a loop: its cursor is in the store. While the cursor stands although something waits ([`ProgressWatch`]), the
//! counters say so, which is the alarm that the status page shows.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::{JoinSet, spawn_blocking},
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use super::{
    Backlog, BacklogError, Config, Connect, SinkCounters, run,
    watch::{Look, ProgressWatch},
};
use crate::model::Seq;

/// From a look at the cursor to the next at most; at least eight fall into the time that a cursor may stand.
const LOOK_EVERY_MAX: Duration = Duration::from_millis(500);
/// Before a loop that ended is started again, at most.
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(1);

/// What a sink's loop is made of.
#[derive(Debug, Clone)]
pub struct Supervised<C> {
    /// The sink's name, for the log.
    pub name: Arc<str>,
    /// How the loop treats its sink.
    pub config: Config,
    /// How it connects.
    pub connect: C,
    /// The last row and result that are committed.
    pub committed: watch::Receiver<(Seq, Seq)>,
    /// What the outside sees.
    pub counters: Arc<SinkCounters>,
    /// The order to stop.
    pub stop: watch::Receiver<bool>,
    /// How long the cursor may stand while something waits: longer than an attempt and an open circuit together, or a sink that is merely
    /// down is started again for nothing.
    pub stalled_after: Duration,
}

/// Why a loop is no more.
enum End {
    Stopped,
    /// It shall be started again.
    Lost(String),
}

/// Runs until the order to stop. `open` gives the sink's backlog, from where its cursor is; it may block.
pub async fn supervise<C, B>(what: Supervised<C>, open: impl Fn() -> Result<B, BacklogError> + Send + Sync + 'static)
where
    C: Connect + Clone,
    B: Backlog,
{
    let (open, mut stop) = (Arc::new(open), what.stop.clone());
    let started = Instant::now();
    let mut progress = ProgressWatch::new(u64::try_from(what.stalled_after.as_millis()).unwrap_or(u64::MAX));
    loop {
        let opening = Arc::clone(&open);
        let end = match spawn_blocking(move || opening()).await {
            Ok(Ok(backlog)) => watched(&what, backlog, &mut progress, started).await,
            Ok(Err(error)) => End::Lost(error.to_string()),
            Err(error) => End::Lost(error.to_string()),
        };
        let End::Lost(why) = end else { return };
        tracing::error!(sink = %what.name, "the sink starts again: {why}");
        what.counters.restarted(&why);
        tokio::select! {
            () = sleep(AGAIN_AFTER_MAX.min(what.stalled_after)) => {}
            // Both mean that the appliance is closing.
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Runs one loop and watches it.
async fn watched<C, B>(what: &Supervised<C>, backlog: B, progress: &mut ProgressWatch, started: Instant) -> End
where
    C: Connect + Clone,
    B: Backlog,
{
    // Ends with this function, however that ends.
    let mut running = JoinSet::new();
    let Supervised { config, connect, committed, counters, stop, .. } = what;
    running.spawn(run(*config, connect.clone(), backlog, committed.clone(), Arc::clone(counters), stop.clone()));
    let mut looks = interval(LOOK_EVERY_MAX.min(what.stalled_after / 8));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            ended = running.join_next() => return match ended {
                Some(Ok(Ok(()))) | None => End::Stopped,
                Some(Ok(Err(error))) => End::Lost(error.to_string()),
                Some(Err(error)) => End::Lost(error.to_string()),
            },
            _ = looks.tick() => {}
        }
        let now_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let look = progress.look(counters.snapshot().cursor, *committed.borrow(), now_ms);
        counters.standing_ms(match look {
            Look::GetsOn => 0,
            Look::Stalled { for_ms, .. } => for_ms,
        });
        if let Look::Stalled { for_ms, restart: true } = look
            && !*stop.borrow()
        {
            return End::Lost(format!("its cursor has not moved for {} s although rows or results wait", for_ms / 1000));
        }
    }
}

//! The one retry loop: cursor, parcel, attempt, back-off, circuit breaker, limits, shutdown.
//!
//! ```text
//!   wait for rows ─▶ breaker admits? ─▶ connected? ─▶ read a parcel ─▶ deliver ─▶ confirm ─▶ …
//!        ▲              │ no: wait         │ no: connect      │ meanwhile: read the next     │
//!        └──────────────┴──────────────────┴──── a failure drops the connection ─────────────┘
//! ```
//!
//! The loop knows the store as a [`Backlog`], the far end as [`Connect`], time and threads as [`World`]: with all three simulated it runs
//! deterministically ([`run_in`]).
//!
//! A full parcel is followed at once by the next, which is read while the first is under way; after one that was not full the
//! loop lingers, so that a slow machine's rows travel in parcels worth a round trip.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::{
    Connect, Delivered, Delivery, Item, Parcel, Progress, Refused, Sink, SinkCounters, SinkError,
    breaker::{Breaker, Policy},
    counters::Count,
    pace::Pace,
    world::{Threads, World, within},
};
use crate::model::Seq;

/// How much a parcel may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadLimits {
    /// Rows; a batch that alone has more is read alone.
    pub rows: usize,
    /// Results.
    pub results: usize,
}

/// What was read after a progress.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Lot {
    /// What goes to the sink; without rows and results if all that was read is for others.
    pub parcel: Parcel,
    /// Whether a limit ended it, so that more is there.
    pub full: bool,
}

/// What became of everything between two places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirmation {
    /// The first row and result of the parcel; those of nothing if it had none.
    pub from: Progress,
    /// The last that was looked at: where the cursor goes.
    pub through: Progress,
    /// What the far end holds.
    pub delivered: Count,
    /// What it will never hold.
    pub given_up: Count,
}

impl Confirmation {
    fn of(parcel: &Parcel, given_up: Count) -> Self {
        let after = |seq: Seq| Seq(seq.0.saturating_add(1));
        let from = Progress {
            rows: parcel.rows.first().map_or(after(parcel.through.rows), |lot| lot.batch.first_seq),
            results: parcel.results.first().map_or(after(parcel.through.results), |result| result.seq),
        };
        Self { from, through: parcel.through, delivered: parcel.count().less(given_up), given_up }
    }
}

/// The store failed; the sink's loop ends with it.
#[derive(Debug, thiserror::Error)]
#[error("the store: {0}")]
pub struct BacklogError(pub String);

/// One thing the far end refused for good, for the dead-letter lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The stream it is of, if it is of one.
    pub stream: Option<Arc<str>>,
    /// What the far end said.
    pub reason: String,
    /// The row or result as JSON.
    pub raw: Vec<u8>,
}

/// Where parcels come from and cursors are kept: the store.
pub trait Backlog: Send + 'static {
    /// The cursor as kept.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn cursor(&mut self) -> Result<Progress, BacklogError>;

    /// What is committed after `after`, within `limits`; empty if nothing is.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn read(&mut self, after: Progress, limits: ReadLimits) -> Result<Lot, BacklogError>;

    /// Moves the cursor, at the store's leisure: losing it repeats a delivery, which is harmless.
    ///
    /// # Errors
    /// When the store takes nothing more.
    fn confirm(&mut self, done: Confirmation) -> Result<(), BacklogError>;

    /// Moves the cursor and returns once that is durable.
    ///
    /// # Errors
    /// When the store takes nothing more.
    fn confirm_durably(&mut self, done: Confirmation) -> Result<(), BacklogError>;

    /// The far end says that it holds everything after the cursor up to `through`: the cursor was lost in a crash. Returns how much that is.
    ///
    /// # Errors
    /// When the store cannot be read or takes nothing more.
    fn catch_up(&mut self, cursor: Progress, through: Progress) -> Result<Count, BacklogError>;

    /// Keeps what the far end refused, and returns once that is durable.
    ///
    /// # Errors
    /// When the store takes nothing more.
    fn reject(&mut self, refusals: Vec<Refusal>) -> Result<(), BacklogError>;
}

/// How the loop treats its sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// How much a parcel may hold; one of a backlog up to [`GROWTH_MAX`](super::pace::GROWTH_MAX) times as much.
    pub limits: ReadLimits,
    /// From one parcel to the next, while parcels are not full.
    pub linger: Duration,
    /// After this an attempt has failed; a frozen server looks like this. A batch of more rows than `limits` is one parcel all the same, and
    /// has as much more time.
    pub attempt_within: Duration,
    /// How long an attempt under way may still take after the order to stop.
    pub stop_within: Duration,
    /// When to try again.
    pub policy: Policy,
    /// Whether the cursor moves before or after the delivery.
    pub delivery: Delivery,
    /// Of the jitter.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            limits: ReadLimits { rows: 20_000, results: 1_000 },
            linger: Duration::from_millis(50),
            attempt_within: Duration::from_secs(30),
            stop_within: Duration::from_secs(5),
            policy: Policy::default(),
            delivery: Delivery::default(),
            seed: 0,
        }
    }
}

/// Delivers what is committed (`committed` holds the last row and result that are) until `stop` says true or its sender is gone.
///
/// # Errors
/// When the store fails; a failing sink never ends the loop.
pub async fn run<C: Connect, B: Backlog>(
    config: Config,
    connect: C,
    backlog: B,
    committed: watch::Receiver<(Seq, Seq)>,
    counters: Arc<SinkCounters>,
    stop: watch::Receiver<bool>,
) -> Result<(), BacklogError> {
    run_in(Threads::new(), config, connect, backlog, committed, counters, stop).await
}

/// [`run`] in a world of the caller's.
///
/// # Errors
/// As for [`run`].
pub async fn run_in<W: World, C: Connect, B: Backlog>(
    world: W,
    config: Config,
    connect: C,
    backlog: B,
    committed: watch::Receiver<(Seq, Seq)>,
    counters: Arc<SinkCounters>,
    stop: watch::Receiver<bool>,
) -> Result<(), BacklogError> {
    let mut backlog = backlog;
    let progress = backlog.cursor()?;
    let breaker = Breaker::new(config.policy, config.seed);
    counters.cursor(progress);
    let mut courier = Courier {
        world,
        config,
        connect,
        backlog: Some(backlog),
        committed,
        counters,
        stop,
        breaker,
        pace: Pace::new(config.limits, config.delivery != Delivery::AtMostOnce),
        link: None,
        progress,
        ahead: None,
    };
    courier.run().await
}

struct Courier<W, C: Connect, B> {
    world: W,
    config: Config,
    connect: C,
    /// Away while a blocking thread reads from it.
    backlog: Option<B>,
    committed: watch::Receiver<(Seq, Seq)>,
    counters: Arc<SinkCounters>,
    stop: watch::Receiver<bool>,
    breaker: Breaker,
    pace: Pace,
    link: Option<C::Sink>,
    /// Where the sink is.
    progress: Progress,
    /// The lot after `progress`, if it was read during the last delivery.
    ahead: Option<Lot>,
}

/// A lot that is being read, and the backlog it is read from.
type Reading<B> = BoxFuture<'static, Result<(B, Result<Lot, BacklogError>), String>>;

/// What comes after a turn of the loop.
enum Next {
    /// Another turn at once.
    Turn,
    /// Another turn after this long.
    After(Duration),
    /// Another turn when something is committed.
    Commit,
    /// The order to stop came in the middle.
    Stop,
}

impl<W: World, C: Connect, B: Backlog> Courier<W, C, B> {
    async fn run(&mut self) -> Result<(), BacklogError> {
        while !*self.stop.borrow() {
            self.committed.mark_unchanged();
            let next = self.turn().await?;
            self.counters.circuit(self.breaker.circuit());
            let mut stop = self.stop.clone();
            // Both end for good when their senders are gone: the appliance is closing.
            let stopped = async move { drop(stop.wait_for(|stop| *stop).await) };
            match next {
                Next::Turn => {}
                Next::Stop => break,
                Next::After(wait) => tokio::select! { biased; () = stopped => break, () = self.world.sleep(wait) => {} },
                Next::Commit => tokio::select! {
                    biased;
                    changed = self.committed.changed() => if changed.is_err() { break },
                    () = stopped => break,
                },
            }
        }
        Ok(())
    }

    async fn turn(&mut self) -> Result<Next, BacklogError> {
        if self.link.is_some() && self.ahead.is_none() && !self.anything_new() {
            return Ok(Next::Commit);
        }
        if let Err(wait_ms) = self.breaker.admit(self.now_ms()) {
            return Ok(Next::After(Duration::from_millis(wait_ms)));
        }
        if self.link.is_none()
            && let Err(error) = self.connect().await?
        {
            return Ok(self.failed(&error));
        }
        let started_ms = self.world.now_ms();
        let lot = self.next_lot().await?;
        if lot.parcel.through == self.progress {
            return Ok(Next::Commit);
        }
        let parcel = Arc::new(lot.parcel);
        if parcel.is_empty() {
            self.move_over(&parcel, Count::default())?;
            return Ok(Next::Turn);
        }
        let next = self.attempt(&parcel, lot.full).await?;
        Ok(match next {
            Next::Turn if !lot.full => {
                let took = Duration::from_millis(self.world.now_ms().saturating_sub(started_ms));
                Next::After(self.config.linger.saturating_sub(took))
            }
            next => next,
        })
    }

    /// Delivers `parcel`, and reads the next meanwhile if there is one.
    async fn attempt(&mut self, parcel: &Arc<Parcel>, read_ahead: bool) -> Result<Next, BacklogError> {
        if self.config.delivery == Delivery::AtMostOnce {
            // Whatever becomes of it: nobody will try again.
            let done = Confirmation::of(parcel, Count::default());
            self.with_backlog(move |backlog| backlog.confirm_durably(done)).await?;
        }
        let ahead = read_ahead.then(|| self.start_reading(parcel.through)).flatten();
        let started_ms = self.world.now_ms();
        let outcome = self.deliver(parcel).await;
        if read_ahead && let Some(Ok(_)) = &outcome {
            self.pace.delivered(Duration::from_millis(self.world.now_ms().saturating_sub(started_ms)));
        }
        if let Some(ahead) = ahead {
            let (backlog, lot) = ahead.await.map_err(BacklogError)?;
            self.backlog = Some(backlog);
            self.ahead = Some(lot?);
        }
        let Some(outcome) = outcome else { return Ok(Next::Stop) };
        self.settle(parcel, outcome).await
    }

    /// `None` if the order to stop came and the attempt took too long after it.
    async fn deliver(&mut self, parcel: &Arc<Parcel>) -> Option<Result<Delivered, SinkError>> {
        let Self { world, config, link, stop, .. } = self;
        let (link, mut stop) = (link.as_mut()?, stop.clone());
        let times = 1 + parcel.row_count() / config.limits.rows.max(1);
        let allowed = config.attempt_within * u32::try_from(times).unwrap_or(u32::MAX);
        let stopped = async {
            drop(stop.wait_for(|stop| *stop).await);
            world.sleep(config.stop_within).await;
        };
        tokio::select! {
            biased;
            outcome = within(world, allowed, link.deliver(parcel)) => {
                Some(outcome.unwrap_or_else(|| Err(no_answer(allowed))))
            }
            () = stopped => None,
        }
    }

    /// Books what became of an attempt.
    async fn settle(&mut self, parcel: &Parcel, outcome: Result<Delivered, SinkError>) -> Result<Next, BacklogError> {
        let (delivered, refused) = match outcome {
            Ok(delivered) => (delivered, Vec::new()),
            Err(SinkError::Reject { which, rest }) => (rest, which),
            Err(error) if self.config.delivery == Delivery::AtMostOnce => {
                self.counters.lost(parcel.count());
                self.progress = parcel.through;
                self.counters.cursor(self.progress);
                return Ok(self.failed(&error));
            }
            Err(error) => {
                self.ahead = None;
                return Ok(self.failed(&error));
            }
        };
        let rows = refused.iter().filter(|refused| matches!(refused.what, Item::Row { .. })).count() as u64;
        let rejected = Count { rows, results: refused.len() as u64 - rows };
        if !refused.is_empty() {
            let refusals = refused.into_iter().map(|refused| refusal(parcel, refused)).collect();
            self.with_backlog(move |backlog| backlog.reject(refusals)).await?;
        }
        self.counters.delivered(parcel.count().less(rejected), rejected, delivered.repeated);
        self.breaker.succeeded();
        self.move_over(parcel, rejected)?;
        Ok(Next::Turn)
    }

    /// The cursor goes behind `parcel`, of which the far end took all but `given_up`.
    fn move_over(&mut self, parcel: &Parcel, given_up: Count) -> Result<(), BacklogError> {
        self.progress = parcel.through;
        self.counters.cursor(self.progress);
        if self.config.delivery == Delivery::AtMostOnce && !parcel.is_empty() {
            return Ok(());
        }
        self.backlog_mut()?.confirm(Confirmation::of(parcel, given_up))
    }

    fn failed(&mut self, error: &SinkError) -> Next {
        let text = error.to_string();
        self.link = None;
        self.pace.failed();
        let now_ms = self.now_ms();
        match error {
            SinkError::Fatal(_) => self.breaker.failed_for_good(now_ms),
            SinkError::Retry(_) | SinkError::Reject { .. } => self.breaker.failed(now_ms),
        }
        tracing::warn!(error = %text, circuit = ?self.breaker.circuit(), "a delivery failed");
        self.counters.failed(&text);
        Next::Turn
    }

    async fn connect(&mut self) -> Result<Result<(), SinkError>, BacklogError> {
        let allowed = self.config.attempt_within;
        let connected = within(&self.world, allowed, self.connect.connect()).await;
        let connected = connected.unwrap_or_else(|| Err(no_answer(allowed)));
        let (link, known) = match connected {
            Ok(connected) => connected,
            Err(error) => return Ok(Err(error)),
        };
        self.link = Some(link);
        self.counters.connected();
        let (cursor, known) = (self.progress, self.progress.max(known.unwrap_or_default()));
        if known != cursor {
            let held = self.with_backlog(move |backlog| backlog.catch_up(cursor, known)).await?;
            self.counters.repeated(held.rows + held.results);
            self.progress = known;
            self.ahead = None;
            self.counters.cursor(known);
        }
        Ok(Ok(()))
    }

    async fn next_lot(&mut self) -> Result<Lot, BacklogError> {
        if let Some(lot) = self.ahead.take() {
            return Ok(lot);
        }
        let (after, limits) = (self.progress, self.pace.limits());
        self.with_backlog(move |backlog| backlog.read(after, limits)).await
    }

    fn start_reading(&mut self, after: Progress) -> Option<Reading<B>> {
        let (mut backlog, limits) = (self.backlog.take()?, self.pace.limits());
        Some(self.world.start(move || {
            let lot = backlog.read(after, limits);
            (backlog, lot)
        }))
    }

    /// The store's work touches the disk, so it goes to a blocking thread.
    async fn with_backlog<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut B) -> Result<T, BacklogError> + Send + 'static,
    ) -> Result<T, BacklogError> {
        let Some(mut backlog) = self.backlog.take() else { return Err(gone()) };
        let task = self.world.start(move || {
            let done = work(&mut backlog);
            (backlog, done)
        });
        let (backlog, done) = task.await.map_err(BacklogError)?;
        self.backlog = Some(backlog);
        done
    }

    fn backlog_mut(&mut self) -> Result<&mut B, BacklogError> {
        self.backlog.as_mut().ok_or_else(gone)
    }

    fn anything_new(&self) -> bool {
        let (rows, results) = *self.committed.borrow();
        rows > self.progress.rows || results > self.progress.results
    }

    fn now_ms(&self) -> u64 {
        self.world.now_ms()
    }
}

fn no_answer(within: Duration) -> SinkError {
    SinkError::Retry(format!("no answer within {} s", within.as_secs_f64()))
}

fn gone() -> BacklogError {
    BacklogError("a read ended before its time".to_owned())
}

fn refusal(parcel: &Parcel, refused: Refused) -> Refusal {
    let (stream, raw) = match refused.what {
        Item::Row { lot, row } => match parcel.rows.get(lot).filter(|lot| row < lot.batch.rows()) {
            Some(lot) => (Some(&lot.batch.stream.id), serde_json::to_vec(&lot.batch.row(row)).unwrap_or_default()),
            None => (None, Vec::new()),
        },
        Item::Result { index } => match parcel.results.get(index) {
            Some(result) => (result.stream.as_ref(), result.json.to_vec()),
            None => (None, Vec::new()),
        },
    };
    Refusal { stream: stream.cloned(), reason: refused.reason, raw }
}

//! The one retry loop: cursor, parcel, attempt, back-off, circuit breaker, limits, shutdown.
//!
//! ```text
//!   wait for rows ─▶ breaker admits? ─▶ connected? ─▶ read a parcel ─▶ deliver ─▶ confirm ─▶ …
//!        ▲              │ no: wait         │ no: connect      │ meanwhile: read the next     │
//!        └──────────────┴──────────────────┴──── a failure drops the connection ─────────────┘
//! ```
//!
//! The loop knows the store as a [`Backlog`] and the far end as [`Connect`]: with both simulated and tokio's clock paused it runs
//! deterministically.
//!
//! A full parcel is followed at once by the next, which is read while the first is under way; after one that was not full the
//! loop lingers, so that a slow machine's rows travel in parcels worth a round trip.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{
    Connect, Delivered, Delivery, Item, Parcel, Progress, Refused, Sink, SinkCounters, SinkError,
    breaker::{Breaker, Circuit, Policy},
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
    /// What goes to the sink.
    pub parcel: Parcel,
    /// Rows passed over because their stream is not routed to the sink.
    pub rows_passed: u64,
    /// Rows that are in the store no more.
    pub rows_expired: u64,
    /// Results that are in the store no more.
    pub results_expired: u64,
    /// Whether a limit ended it, so that more is there.
    pub full: bool,
}

/// The store failed; the sink's loop ends with it.
#[derive(Debug, thiserror::Error)]
#[error("the store: {0}")]
pub struct BacklogError(pub String);

/// One thing the far end refused for good, for the dead-letter lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
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
    fn confirm(&mut self, through: Progress) -> Result<(), BacklogError>;

    /// Moves the cursor and returns once that is durable.
    ///
    /// # Errors
    /// When the store takes nothing more.
    fn confirm_durably(&mut self, through: Progress) -> Result<(), BacklogError>;

    /// Keeps what the far end refused.
    ///
    /// # Errors
    /// When the store takes nothing more.
    fn reject(&mut self, refusals: Vec<Refusal>) -> Result<(), BacklogError>;
}

/// How the loop treats its sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// How much a parcel may hold.
    pub limits: ReadLimits,
    /// From one parcel to the next, while parcels are not full.
    pub linger: Duration,
    /// After this an attempt has failed; a frozen server looks like this.
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
            limits: ReadLimits { rows: 10_000, results: 1_000 },
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
    let mut backlog = backlog;
    let progress = backlog.cursor()?;
    let breaker = Breaker::new(config.policy, config.seed);
    let (epoch, offered) = (Instant::now(), progress.rows);
    let mut courier = Courier {
        config,
        connect,
        backlog: Some(backlog),
        committed,
        counters,
        stop,
        breaker,
        epoch,
        link: None,
        progress,
        offered,
        ahead: None,
    };
    courier.run().await
}

struct Courier<C: Connect, B> {
    config: Config,
    connect: C,
    /// Away while a blocking thread reads from it.
    backlog: Option<B>,
    committed: watch::Receiver<(Seq, Seq)>,
    counters: Arc<SinkCounters>,
    stop: watch::Receiver<bool>,
    breaker: Breaker,
    epoch: Instant,
    link: Option<C::Sink>,
    /// Where the sink is.
    progress: Progress,
    /// The last row that is counted as accepted.
    offered: Seq,
    /// The lot after `progress`, if it was read during the last delivery.
    ahead: Option<Lot>,
}

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

impl<C: Connect, B: Backlog> Courier<C, B> {
    async fn run(&mut self) -> Result<(), BacklogError> {
        while !*self.stop.borrow() {
            let (head, _) = *self.committed.borrow_and_update();
            self.offer(head);
            let next = self.turn().await?;
            self.counters.circuit(self.breaker.circuit());
            let mut stop = self.stop.clone();
            // Both end for good when their senders are gone: the appliance is closing.
            let stopped = async move { drop(stop.wait_for(|stop| *stop).await) };
            match next {
                Next::Turn => {}
                Next::Stop => break,
                Next::After(wait) => tokio::select! { () = sleep(wait) => {}, () = stopped => break },
                Next::Commit => tokio::select! {
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
            && let Err(error) = self.connect().await
        {
            return Ok(self.failed(&error));
        }
        let started = Instant::now();
        let lot = self.next_lot().await?;
        if lot.parcel.through == self.progress {
            return Ok(Next::Commit);
        }
        self.offer(lot.parcel.through.rows);
        self.counters.passed_by(lot.rows_passed);
        self.counters.expired(lot.rows_expired, lot.results_expired);
        let parcel = Arc::new(lot.parcel);
        if parcel.is_empty() {
            self.move_to(parcel.through)?;
            return Ok(Next::Turn);
        }
        let next = self.attempt(&parcel, lot.full).await?;
        Ok(match next {
            Next::Turn if !lot.full => Next::After(self.config.linger.saturating_sub(started.elapsed())),
            next => next,
        })
    }

    /// Delivers `parcel`, and reads the next meanwhile if there is one.
    async fn attempt(&mut self, parcel: &Arc<Parcel>, read_ahead: bool) -> Result<Next, BacklogError> {
        if self.config.delivery == Delivery::AtMostOnce {
            let through = parcel.through;
            self.with_backlog(move |backlog| backlog.confirm_durably(through)).await?;
        }
        let ahead = read_ahead.then(|| self.start_reading(parcel.through)).flatten();
        let outcome = self.deliver(parcel).await;
        if let Some(ahead) = ahead {
            let (backlog, lot) = finished(ahead.await)?;
            self.backlog = Some(backlog);
            self.ahead = Some(lot?);
        }
        let Some(outcome) = outcome else { return Ok(Next::Stop) };
        self.settle(parcel, outcome)
    }

    /// `None` if the order to stop came and the attempt took too long after it.
    async fn deliver(&mut self, parcel: &Arc<Parcel>) -> Option<Result<Delivered, SinkError>> {
        let within = self.config.attempt_within;
        let link = self.link.as_mut()?;
        let mut stop = self.stop.clone();
        let stop_within = self.config.stop_within;
        let stopped = async move {
            drop(stop.wait_for(|stop| *stop).await);
            sleep(stop_within).await;
        };
        tokio::select! {
            outcome = timeout(within, link.deliver(parcel)) => Some(outcome.unwrap_or_else(|_| Err(no_answer(within)))),
            () = stopped => None,
        }
    }

    /// Books what became of an attempt.
    fn settle(&mut self, parcel: &Parcel, outcome: Result<Delivered, SinkError>) -> Result<Next, BacklogError> {
        let (rows, results) = (parcel.row_count() as u64, parcel.results.len() as u64);
        match outcome {
            Ok(delivered) => {
                self.counters.delivered(rows, results, delivered.repeated);
                self.delivered_through(parcel.through)?;
                Ok(Next::Turn)
            }
            Err(SinkError::Reject { which, rest }) => {
                let refused_rows = which.iter().filter(|refused| matches!(refused.what, Item::Row { .. })).count() as u64;
                let refused_results = which.len() as u64 - refused_rows;
                let refusals = which.into_iter().map(|refused| refusal(parcel, refused)).collect();
                self.backlog_mut()?.reject(refusals)?;
                self.counters.rejected(refused_rows, refused_results);
                let (rows, results) = (rows.saturating_sub(refused_rows), results.saturating_sub(refused_results));
                self.counters.delivered(rows, results, rest.repeated);
                self.delivered_through(parcel.through)?;
                Ok(Next::Turn)
            }
            Err(error) => {
                if self.config.delivery == Delivery::AtMostOnce {
                    self.counters.expired(rows, results);
                    self.progress = parcel.through;
                    self.show_cursor();
                } else {
                    self.ahead = None;
                }
                Ok(self.failed(&error))
            }
        }
    }

    fn delivered_through(&mut self, through: Progress) -> Result<(), BacklogError> {
        let was = self.breaker.circuit();
        self.breaker.succeeded();
        if was != Circuit::Closed && self.breaker.circuit() == Circuit::Closed {
            tracing::info!("a sink takes rows again");
        }
        self.move_to(through)
    }

    fn move_to(&mut self, through: Progress) -> Result<(), BacklogError> {
        self.progress = through;
        self.show_cursor();
        if self.config.delivery == Delivery::AtMostOnce {
            return Ok(());
        }
        self.backlog_mut()?.confirm(through)
    }

    fn failed(&mut self, error: &SinkError) -> Next {
        let text = error.to_string();
        self.link = None;
        let now_ms = self.now_ms();
        match error {
            SinkError::Fatal(_) => self.breaker.failed_for_good(now_ms),
            SinkError::Retry(_) | SinkError::Reject { .. } => self.breaker.failed(now_ms),
        }
        tracing::warn!(error = %text, circuit = ?self.breaker.circuit(), "a delivery failed");
        self.counters.failed(&text);
        Next::Turn
    }

    async fn connect(&mut self) -> Result<(), SinkError> {
        let within = self.config.attempt_within;
        let (link, known) = timeout(within, self.connect.connect()).await.unwrap_or_else(|_| Err(no_answer(within)))?;
        self.link = Some(link);
        self.counters.connected();
        let known = self.progress.max(known.unwrap_or_default());
        if known != self.progress {
            // An earlier attempt got through, but its cursor was lost: the far end knows better.
            self.offer(known.rows);
            let (rows, results) = (known.rows.0 - self.progress.rows.0, known.results.0 - self.progress.results.0);
            self.counters.delivered(rows, results, rows + results);
            self.progress = known;
            self.ahead = None;
            self.show_cursor();
        }
        Ok(())
    }

    async fn next_lot(&mut self) -> Result<Lot, BacklogError> {
        if let Some(lot) = self.ahead.take() {
            return Ok(lot);
        }
        let (after, limits) = (self.progress, self.config.limits);
        self.with_backlog(move |backlog| backlog.read(after, limits)).await
    }

    fn start_reading(&mut self, after: Progress) -> Option<tokio::task::JoinHandle<(B, Result<Lot, BacklogError>)>> {
        let (mut backlog, limits) = (self.backlog.take()?, self.config.limits);
        Some(tokio::task::spawn_blocking(move || {
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
        let task = tokio::task::spawn_blocking(move || {
            let done = work(&mut backlog);
            (backlog, done)
        });
        let (backlog, done) = finished(task.await)?;
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

    /// Counts rows up to `head` as accepted; what was read may be newer than what was announced.
    fn offer(&mut self, head: Seq) {
        let new = head.0.saturating_sub(self.offered.0);
        self.offered = self.offered.max(head);
        self.counters.offered(new);
        self.show_cursor();
    }

    fn show_cursor(&self) {
        let (_, results) = *self.committed.borrow();
        self.counters.cursor(self.progress, results.0.saturating_sub(self.progress.results.0));
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

fn no_answer(within: Duration) -> SinkError {
    SinkError::Retry(format!("no answer within {} s", within.as_secs_f64()))
}

fn gone() -> BacklogError {
    BacklogError("a read ended before its time".to_owned())
}

fn finished<T>(joined: Result<T, tokio::task::JoinError>) -> Result<T, BacklogError> {
    joined.map_err(|error| BacklogError(error.to_string()))
}

fn refusal(parcel: &Parcel, refused: Refused) -> Refusal {
    let raw = match refused.what {
        Item::Row { lot, row } => parcel
            .rows
            .get(lot)
            .filter(|lot| row < lot.batch.rows())
            .and_then(|lot| serde_json::to_vec(&lot.batch.row(row)).ok())
            .unwrap_or_default(),
        Item::Result { index } => parcel.results.get(index).map(|result| result.json.to_vec()).unwrap_or_default(),
    };
    Refusal { reason: refused.reason, raw }
}

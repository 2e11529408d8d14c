//! The store as the loop's backlog.
//!
//! Rows and results are read with a connection of the loop's own; cursors go to the store's writer, which commits them with
//! whatever else it has at hand. A cursor's move that the store could not take (its disk is full) is kept and goes with the next one, so
//! that what was delivered is counted in the store's balance in any case.

use std::{
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use super::{Backlog, BacklogError, Confirmation, Count, Lot, Parcel, Progress, ReadLimits, Refusal, ResultRecord, RowLot};
use crate::{
    model::{Seq, Timestamp},
    store::{Append, CursorMove, DeadLetter, Lane, Reader, StartAt, StoreError, StoredResult, Subscription, Writer},
};

/// Delivered longer than this after they arrived, rows and results are marked as historical.
const LIVE_NS: i64 = 5_000_000_000;

/// What one sink gets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Route {
    /// The streams whose rows it gets; `None` = all.
    pub streams: Option<Vec<Arc<str>>>,
    /// The pipelines whose results it gets; `None` = all.
    pub pipelines: Option<Vec<Arc<str>>>,
}

/// One sink's view of the store.
pub struct StoredBacklog {
    reader: Reader,
    writer: Writer,
    sink: Arc<str>,
    route: Route,
    /// How far the cursors are, or will be once the moves on their way are committed.
    moved: Progress,
    /// Moves that the store answered with an error; the writer's thread puts them here.
    failed: Arc<Mutex<Vec<(CursorMove, StoreError)>>>,
}

impl StoredBacklog {
    /// For the sink called `sink`; `start` says where it begins if the store does not know it.
    ///
    /// # Errors
    /// When the store takes no subscription.
    pub fn open(reader: Reader, writer: Writer, sink: &str, route: Route, start: StartAt) -> Result<Self, BacklogError> {
        let sink: Arc<str> = sink.into();
        let subscribe = |lane, only: &Option<Vec<Arc<str>>>| {
            writer.subscribe(Subscription { sink: Arc::clone(&sink), lane, only: only.clone(), start })
        };
        let rows = subscribe(Lane::Rows, &route.streams)?;
        let moved = Progress { rows, results: subscribe(Lane::Results, &route.pipelines)? };
        Ok(Self { reader, writer, sink, route, moved, failed: Arc::default() })
    }

    /// The moves to make, each with what failed before of its lane.
    fn moves(&mut self, done: Confirmation) -> Result<Vec<CursorMove>, BacklogError> {
        // What the far end will never hold is settled too: otherwise it would count as waiting for ever.
        let mut settled = done.delivered;
        settled.add(done.given_up);
        let go = |lane, from, through, delivered| CursorMove { sink: Arc::clone(&self.sink), lane, from, through, delivered };
        let mut moves = Vec::with_capacity(2);
        if done.through.rows > self.moved.rows {
            moves.push(go(Lane::Rows, done.from.rows, done.through.rows, settled.rows));
        }
        if done.through.results > self.moved.results {
            moves.push(go(Lane::Results, done.from.results, done.through.results, settled.results));
        }
        self.moved = self.moved.max(done.through);
        for (earlier, error) in std::mem::take(&mut *self.failed.lock().unwrap_or_else(PoisonError::into_inner)) {
            if !error.is_retryable() {
                return Err(error.into());
            }
            match moves.iter_mut().find(|go| go.lane == earlier.lane) {
                Some(go) => {
                    go.from = go.from.min(earlier.from);
                    go.delivered += earlier.delivered;
                }
                None => moves.push(earlier),
            }
        }
        Ok(moves)
    }

    fn move_all(&mut self, done: Confirmation) -> Result<(), BacklogError> {
        for go in self.moves(done)? {
            let (failed, kept) = (Arc::clone(&self.failed), go.clone());
            let answer = move |outcome: Result<(), StoreError>| {
                if let Err(error) = outcome {
                    failed.lock().unwrap_or_else(PoisonError::into_inner).push((kept, error));
                }
            };
            self.writer.move_cursor(go, Box::new(answer));
        }
        Ok(())
    }

    /// How much the store has between two numbers, and the first number of that: what was removed before has expired, what is removed
    /// from here on counts as held.
    fn count_between(&self, lane: Lane, after: Seq, through: Seq) -> Result<(Seq, u64), BacklogError> {
        let only = match lane {
            Lane::Rows => self.route.streams.as_deref(),
            Lane::Results => self.route.pipelines.as_deref(),
        };
        let (oldest, held) = self.reader.count_between(lane, after, through, only)?;
        Ok((oldest.unwrap_or_default().max(Seq(after.0 + 1)), held))
    }
}

impl Backlog for StoredBacklog {
    fn cursor(&mut self) -> Result<Progress, BacklogError> {
        Ok(self.moved)
    }

    fn read(&mut self, after: Progress, limits: ReadLimits) -> Result<Lot, BacklogError> {
        let page = self.reader.rows_after(after.rows, limits.rows, self.route.streams.as_deref())?;
        let (results, results_through) =
            self.reader.results_after(after.results, limits.results, self.route.pipelines.as_deref())?;
        let now = now();
        let is_old = |arrival: Timestamp| now.since(arrival) > LIVE_NS;
        let full = !page.at_end || results.len() == limits.results;
        let rows = page.batches.into_iter().map(|batch| RowLot { historical: is_old(batch.arrival), batch }).collect();
        let results = results.into_iter().map(|result| record(result, &is_old)).collect();
        let through = Progress { rows: page.through, results: results_through };
        Ok(Lot { parcel: Parcel { rows, results, through }, full })
    }

    fn confirm(&mut self, done: Confirmation) -> Result<(), BacklogError> {
        self.move_all(done)
    }

    fn confirm_durably(&mut self, done: Confirmation) -> Result<(), BacklogError> {
        for go in self.moves(done)? {
            self.writer.move_cursor_and_wait(go)?;
        }
        Ok(())
    }

    fn catch_up(&mut self, cursor: Progress, through: Progress) -> Result<Count, BacklogError> {
        let (first_row, rows) = self.count_between(Lane::Rows, cursor.rows, through.rows)?;
        let (first_result, results) = self.count_between(Lane::Results, cursor.results, through.results)?;
        let held = Count { rows, results };
        let from = Progress { rows: first_row, results: first_result };
        self.move_all(Confirmation { from, through, delivered: held, given_up: Count::default() })?;
        Ok(held)
    }

    fn reject(&mut self, refusals: Vec<Refusal>) -> Result<(), BacklogError> {
        let dead_letters = refusals.into_iter().map(|refusal| dead_letter(&self.sink, refusal)).collect();
        let (sender, receiver) = mpsc::sync_channel(1);
        let on_synced = move |outcome| {
            // Gone only if the waiting thread is.
            let _ = sender.send(outcome);
        };
        let append = Append { input: None, dead_letters, decoded_at: Instant::now(), on_synced: Box::new(on_synced) };
        self.writer.append_blocking(append);
        receiver.recv().unwrap_or(Err(StoreError::Closed))?;
        Ok(())
    }
}

fn record(result: StoredResult, is_old: &impl Fn(Timestamp) -> bool) -> ResultRecord {
    ResultRecord {
        seq: result.seq,
        historical: is_old(result.arrival),
        id: result.id.into(),
        kind: result.kind.into(),
        pipeline: result.pipeline.into(),
        stream: result.stream.map(Into::into),
        json: result.json.into(),
    }
}

fn dead_letter(sink: &Arc<str>, refusal: Refusal) -> DeadLetter {
    DeadLetter {
        source: format!("sink {sink}").into(),
        partition: Arc::clone(sink),
        stream: refusal.stream,
        arrival: now(),
        reason: "refused_by_sink".to_owned(),
        detail: refusal.reason,
        raw: refusal.raw,
    }
}

/// The wall clock: what arrivals are stamped with too.
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

impl From<StoreError> for BacklogError {
    fn from(error: StoreError) -> Self {
        Self(error.to_string())
    }
}

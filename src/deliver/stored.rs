//! The store as the loop's backlog.
//!
//! Rows and results are read with a connection of the loop's own; cursors go to the store's writer, which commits them with
//! whatever else it has at hand. A cursor's move that the store could not take (its disk is full) is kept and goes with the next one, so
//! that what was delivered is counted in the store's balance in any case.

use std::{
    sync::{Arc, Mutex, PoisonError},
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
        for (lane, only) in [(Lane::Rows, &route.streams), (Lane::Results, &route.pipelines)] {
            let wish = Subscription { sink: Arc::clone(&sink), lane, only: only.clone(), start };
            writer.subscribe(wish).map_err(fault)?;
        }
        Ok(Self { reader, writer, sink, route, failed: Arc::default() })
    }

    /// The moves of both lanes, each with what failed before of its lane.
    fn moves(&self, done: Confirmation) -> Result<Vec<CursorMove>, BacklogError> {
        let row = CursorMove {
            sink: Arc::clone(&self.sink),
            lane: Lane::Rows,
            from: done.from.rows,
            through: done.through.rows,
            // What it will never hold is settled too: otherwise it would count as waiting for ever.
            delivered: done.delivered.rows + done.given_up.rows,
        };
        let result = CursorMove {
            sink: Arc::clone(&self.sink),
            lane: Lane::Results,
            from: done.from.results,
            through: done.through.results,
            delivered: done.delivered.results + done.given_up.results,
        };
        let mut moves = vec![row, result];
        for (earlier, error) in std::mem::take(&mut *self.failed.lock().unwrap_or_else(PoisonError::into_inner)) {
            if !error.is_retryable() {
                return Err(fault(error));
            }
            for go in moves.iter_mut().filter(|go| go.lane == earlier.lane) {
                go.from = go.from.min(earlier.from);
                go.through = go.through.max(earlier.through);
                go.delivered += earlier.delivered;
            }
        }
        // Nothing was ever read there.
        moves.retain(|go| go.through.0 > 0);
        Ok(moves)
    }

    fn move_all(&self, done: Confirmation) -> Result<(), BacklogError> {
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

    fn count_between(&self, lane: Lane, after: Seq, through: Seq) -> Result<u64, BacklogError> {
        let only = match lane {
            Lane::Rows => self.route.streams.as_deref(),
            Lane::Results => self.route.pipelines.as_deref(),
        };
        let count = |seq| self.reader.count_after(lane, seq, only).map_err(fault);
        Ok(count(after)?.saturating_sub(count(through)?))
    }
}

impl Backlog for StoredBacklog {
    fn cursor(&mut self) -> Result<Progress, BacklogError> {
        let mut progress = Progress::default();
        for balance in self.reader.balances().map_err(fault)?.into_iter().filter(|balance| balance.sink == self.sink) {
            match balance.lane {
                Lane::Rows => progress.rows = balance.seq,
                Lane::Results => progress.results = balance.seq,
            }
        }
        Ok(progress)
    }

    fn read(&mut self, after: Progress, limits: ReadLimits) -> Result<Lot, BacklogError> {
        let page = self.reader.rows_after(after.rows, limits.rows, self.route.streams.as_deref()).map_err(fault)?;
        let (results, results_through) =
            self.reader.results_after(after.results, limits.results, self.route.pipelines.as_deref()).map_err(fault)?;
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
            self.writer.move_cursor_and_wait(go).map_err(fault)?;
        }
        Ok(())
    }

    fn catch_up(&mut self, cursor: Progress, through: Progress) -> Result<Count, BacklogError> {
        let held = Count {
            rows: self.count_between(Lane::Rows, cursor.rows, through.rows)?,
            results: self.count_between(Lane::Results, cursor.results, through.results)?,
        };
        let from = Progress { rows: Seq(cursor.rows.0 + 1), results: Seq(cursor.results.0 + 1) };
        self.move_all(Confirmation { from, through, delivered: held, given_up: Count::default() })?;
        Ok(held)
    }

    fn reject(&mut self, refusals: Vec<Refusal>) -> Result<(), BacklogError> {
        let dead_letters = refusals.into_iter().map(|refusal| dead_letter(&self.sink, refusal)).collect();
        let failed = Arc::clone(&self.failed);
        let nothing = CursorMove { sink: Arc::clone(&self.sink), lane: Lane::Rows, from: Seq(0), through: Seq(0), delivered: 0 };
        let on_synced = move |outcome: Result<_, StoreError>| {
            if let Err(error) = outcome {
                failed.lock().unwrap_or_else(PoisonError::into_inner).push((nothing, error));
            }
        };
        self.writer.append_blocking(Append {
            input: None,
            dead_letters,
            decoded_at: Instant::now(),
            on_synced: Box::new(on_synced),
        });
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

fn fault(error: StoreError) -> BacklogError {
    BacklogError(error.to_string())
}

//! What the writer does about the clocks, at the head of each transaction: notes a step, and lets rows in that waited for one.
//!
//! A step of the wall clock becomes an order in the inbox before anything that is stamped by the new time, so that the engine moves what it
//! measures by arrivals along at exactly that place, also when it goes over the inbox again.

use std::sync::Arc;
use std::time::Instant;

use super::Committer;
use crate::model::{Batch, Input, Order, Seq, Timestamp};
use crate::store::command::{Accepted, DeadLetter, Encoded};
use crate::store::error::StoreError;
use crate::store::merge::SMALL_ROWS;
use crate::store::waiting::{self, Left};

impl Committer {
    /// Keeps a step of the wall clock, and lets in what waited for it.
    pub(super) fn heed_clocks(&mut self) -> Result<(), StoreError> {
        let now = self.waiting.look().clone();
        if let Some(step) = self.sweeper.look_at_clocks(&self.state, &now) {
            step.keep(&self.connection)?;
            let order = Order::ClockSet { step_ns: step.step_ns };
            let set = Input::Order { time: Timestamp(now.wall_ns), order };
            self.append_other(&set, Instant::now())?;
        }
        if self.waiting.is_due() {
            for left in self.waiting.leave(&self.connection)? {
                match left {
                    Left::Rows(batch) => self.let_in(batch, None, Instant::now())?,
                    Left::Damaged(raw, error) => self.append_dead_letter(&damaged(raw, &error, now.wall_ns))?,
                }
            }
        }
        Ok(())
    }

    /// Has rows wait that came before the clock was set, if it may still be; gives back those that do not wait, marked if nobody knows their
    /// time.
    pub(super) fn hold_back(
        &mut self,
        batch: Arc<Batch>,
        encoded: &mut Option<&Encoded>,
        accepted: &mut Accepted,
    ) -> Result<Option<Arc<Batch>>, StoreError> {
        if self.waiting.takes(&batch) {
            self.waiting.put(&self.connection, &batch, encoded.map(|encoded| &encoded.body[..]))?;
            accepted.waiting += batch.rows() as u64;
            return Ok(None);
        }
        let overtaken_by_ns = self.waiting.overtaken_by_ns(batch.arrival);
        if overtaken_by_ns.is_none() && !waiting::is_stamped_unset(&batch) {
            return Ok(Some(batch));
        }
        let mut changed = Arc::unwrap_or_clone(batch);
        match overtaken_by_ns {
            Some(step_ns) => waiting::rebase(&mut changed, step_ns),
            None => waiting::mark_unset(&mut changed),
        }
        *encoded = None;
        Ok(Some(Arc::new(changed)))
    }

    /// Keeps a dead letter, with the time at which it really came.
    pub(super) fn append_letter(&mut self, letter: &DeadLetter) -> Result<(), StoreError> {
        match self.waiting.overtaken_by_ns(letter.arrival) {
            Some(step_ns) => {
                self.append_dead_letter(&DeadLetter { arrival: letter.arrival.saturating_add(step_ns), ..letter.clone() })
            }
            None => self.append_dead_letter(letter),
        }
    }

    /// Puts rows into the inbox, with the next numbers.
    pub(super) fn let_in(&mut self, batch: Arc<Batch>, encoded: Option<&Encoded>, decoded_at: Instant) -> Result<(), StoreError> {
        let (rows, first_seq) = (batch.rows() as u64, Seq(self.state.next_seq));
        self.tally.rows += rows;
        if encoded.is_none() && batch.rows() < SMALL_ROWS {
            self.join_or_hold(&batch, first_seq, decoded_at)?;
            self.state.next_seq += rows;
            return Ok(());
        }
        self.flush_joining()?;
        self.state.next_seq += rows;
        self.insert_batch(batch, first_seq, encoded, decoded_at)
    }
}

fn damaged(raw: Vec<u8>, error: &dyn std::fmt::Display, wall_ns: i64) -> DeadLetter {
    DeadLetter {
        source: "store".into(),
        partition: "waiting".into(),
        stream: None,
        arrival: Timestamp(wall_ns),
        reason: "damaged".to_owned(),
        detail: format!("rows that waited for the clock cannot be read back: {error}"),
        raw,
    }
}

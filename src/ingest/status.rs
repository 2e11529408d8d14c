//! What is known of a running source: is it up, and where did its rows go.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use super::Accepted;
use crate::model::Timestamp;

/// Whether a source is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceState {
    /// Not tried to the end yet.
    Connecting,
    /// Connected.
    Up {
        /// Since when.
        since: Timestamp,
    },
    /// Not connected; tried again after a back-off.
    Down {
        /// Since when.
        since: Timestamp,
        /// What went wrong, with what, and what to do.
        why: String,
    },
    /// Read to its end: a file that is not followed, or a source that was shut down.
    Ended,
}

/// Rows of a source by what became of them: `received = accepted + rejected + duplicate + shed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Everything that came in and was decided on.
    pub received: u64,
    /// Stored and synced.
    pub accepted: u64,
    /// Refused, kept as dead letters.
    pub rejected: u64,
    /// Known already.
    pub duplicate: u64,
    /// Given up for want of room.
    pub shed: u64,
}

/// A source's state and counts, shared with whoever shows them.
///
/// Behind a lock, because the counts must balance whenever one looks; it is held for a few instructions, once a parcel.
#[derive(Debug)]
pub struct SourceStatus(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    state: SourceState,
    counts: Counts,
    last_arrival: Option<Timestamp>,
    lost: u64,
}

impl Default for SourceStatus {
    fn default() -> Self {
        Self(Mutex::new(Inner { state: SourceState::Connecting, counts: Counts::default(), last_arrival: None, lost: 0 }))
    }
}

impl SourceStatus {
    /// Whether it is up.
    pub fn state(&self) -> SourceState {
        self.lock().state.clone()
    }

    /// Where its rows went since the start of this process.
    pub fn counts(&self) -> Counts {
        self.lock().counts
    }

    /// When something last came in.
    pub fn last_arrival(&self) -> Option<Timestamp> {
        self.lock().last_arrival
    }

    /// Rows that a device numbered and never got through with, since the start of this process; they are in no count of [`Counts`].
    pub fn lost(&self) -> u64 {
        self.lock().lost
    }

    pub(super) fn up(&self) {
        let mut inner = self.lock();
        if !matches!(inner.state, SourceState::Up { .. }) {
            inner.state = SourceState::Up { since: now() };
        }
    }

    /// Keeps the time since when, as long as it stays down.
    pub(super) fn down(&self, why: String) {
        let mut inner = self.lock();
        let since = match inner.state {
            SourceState::Down { since, .. } => since,
            _ => now(),
        };
        inner.state = SourceState::Down { since, why };
    }

    pub(super) fn ended(&self) {
        self.lock().state = SourceState::Ended;
    }

    pub(super) fn arrived(&self, at: Timestamp) {
        self.lock().last_arrival = Some(at);
    }

    /// A parcel with `rejected` refused rows was synced.
    pub(super) fn synced(&self, accepted: Accepted, rejected: u64) {
        let counts = &mut self.lock().counts;
        counts.accepted += accepted.rows;
        counts.duplicate += accepted.duplicates;
        counts.shed += accepted.shed;
        counts.rejected += rejected;
        counts.received += accepted.rows + accepted.duplicates + accepted.shed + rejected;
    }

    /// Rows were given up before they reached the inbox.
    pub(super) fn shed(&self, rows: u64) {
        let counts = &mut self.lock().counts;
        counts.shed += rows;
        counts.received += rows;
    }

    /// Rows that were numbered will not come any more.
    pub(super) fn add_lost(&self, rows: u64) {
        self.lock().lost += rows;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code between lock and unlock can leave half a change behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The appliance's clock; a time before 1970 or after 2262 stops at the end of the range.
pub(super) fn now() -> Timestamp {
    let saturated = |ns: u128| i64::try_from(ns).unwrap_or(i64::MAX);
    Timestamp(match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => saturated(since.as_nanos()),
        Err(before) => -saturated(before.duration().as_nanos()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledger_balances() {
        let status = SourceStatus::default();
        status.synced(Accepted { rows: 5, duplicates: 2, shed: 1 }, 3);
        status.shed(4);
        let counts = status.counts();
        assert_eq!(counts, Counts { received: 15, accepted: 5, rejected: 3, duplicate: 2, shed: 5 });
    }

    #[test]
    fn the_time_since_when_a_source_is_down_stays() {
        let status = SourceStatus::default();
        status.down("first".into());
        let SourceState::Down { since: first, .. } = status.state() else { panic!("not down") };
        status.down("second".into());
        assert_eq!(status.state(), SourceState::Down { since: first, why: "second".into() });
    }
}

//! The engine's end of the inbox: every input after a record, in order, each once.
//!
//! The writer hands over what it has just committed through a short bounded channel and never waits for it. Whoever is behind, because it
//! has just started or because the engine is slower than the sources for a while, reads the difference from the store: starting up
//! and catching up are the same thing, and neither costs memory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use super::command::{CommittedInput, RecordNo};
use super::error::StoreError;
use super::reader::Reader;
use super::shared::Shared;

/// Rows that are read back at once.
const ROWS_READ: usize = 65_536;

/// See the module.
pub struct Feed {
    reader: Reader,
    fresh: Receiver<CommittedInput>,
    shared: Arc<Shared>,
    /// The last record that was given.
    given: RecordNo,
    /// Read back, waiting to be given.
    read: VecDeque<CommittedInput>,
    /// Came through the channel too early: what lies before it is read back first.
    early: Option<CommittedInput>,
    closed: bool,
}

impl Feed {
    pub(super) fn new(reader: Reader, fresh: Receiver<CommittedInput>, shared: Arc<Shared>, given: RecordNo) -> Self {
        Self { reader, fresh, shared, given, read: VecDeque::new(), early: None, closed: false }
    }

    /// The next input, waiting for it at most `timeout`; `None` if none came.
    ///
    /// # Errors
    /// [`StoreError::Closed`] once the store is closed and everything was given; errors of the disk.
    pub fn next(&mut self, timeout: Duration) -> Result<Option<CommittedInput>, StoreError> {
        if let Some(input) = self.at_hand()? {
            return Ok(Some(input));
        }
        match if self.closed { Err(RecvTimeoutError::Disconnected) } else { self.fresh.recv_timeout(timeout) } {
            Ok(input) => self.sort(input),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                self.closed = true;
                return match self.at_hand()? {
                    None => Err(StoreError::Closed),
                    some => Ok(some),
                };
            }
        }
        self.at_hand()
    }

    /// The last record that was given.
    pub fn given(&self) -> RecordNo {
        self.given
    }

    /// How many records are committed and not given yet.
    pub fn behind(&self) -> u64 {
        self.shared.committed.load(Ordering::Acquire).saturating_sub(self.given.0)
    }

    /// The next input without waiting.
    fn at_hand(&mut self) -> Result<Option<CommittedInput>, StoreError> {
        loop {
            if let Some(input) = self.read.pop_front() {
                return Ok(Some(self.give(input)));
            }
            while self.early.is_none() && !self.closed {
                match self.fresh.try_recv() {
                    Ok(input) => self.sort(input),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => self.closed = true,
                }
            }
            if let Some(early) = self.early.take_if(|early| early.record.0 == self.given.0 + 1) {
                return Ok(Some(self.give(early)));
            }
            // Known before it is read, so that what is committed in between is not taken for removed.
            let committed = RecordNo(self.shared.committed.load(Ordering::Acquire));
            if committed <= self.given && self.early.is_none() {
                return Ok(None);
            }
            self.read = self.reader.inputs_after(self.given, ROWS_READ)?.into();
            self.early = self.early.take().filter(|early| self.read.back().is_none_or(|last| last.record < early.record));
            if self.read.is_empty() {
                // What lies between was removed or is damaged.
                match self.early.take() {
                    Some(early) => return Ok(Some(self.give(early))),
                    None => self.given = committed,
                }
            }
        }
    }

    /// Keeps an input from the channel unless it was read back already.
    fn sort(&mut self, input: CommittedInput) {
        if input.record > self.given {
            self.early = Some(input);
        }
    }

    fn give(&mut self, input: CommittedInput) -> CommittedInput {
        self.given = input.record;
        input
    }
}

//! The engine's state becomes bytes beside the engine: its thread only copies what there is ([`Captured`]); the thread here encodes it and hands
//! it to the store.
//!
//! Invariants:
//! - Checkpoints are committed in the order they were taken, each after the step that led to it: the store's queue is first come, first
//!   served. A crash in between leaves the earlier checkpoint and results that are known when they come again.
//! - At most [`WAITING_MAX`] wait; the engine takes no further one meanwhile, unless memory has to be freed: then it waits.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
};

use super::shared::Shared;
use crate::{
    engine::Captured,
    store::{Checkpoint, RecordNo, StepCommit, StoreError, Writer},
};

/// States that wait for the thread.
const WAITING_MAX: usize = 1;

/// The engine's state after an input.
pub(super) struct Moment {
    /// The last input that went in.
    pub position: RecordNo,
    /// Whether what the store holds of an earlier engine goes.
    pub complete: bool,
    pub captured: Captured,
}

impl Moment {
    /// As the store takes it.
    pub fn encode(self) -> Result<Checkpoint, StoreError> {
        let parts = self.captured.encode().map_err(|error| StoreError::Refused(error.to_string()))?;
        Ok(Checkpoint { position: self.position, complete: self.complete, parts })
    }
}

/// How many states are on their way.
#[derive(Default)]
struct UnderWay {
    count: Mutex<usize>,
    fewer: Condvar,
}

impl UnderWay {
    fn lock(&self) -> MutexGuard<'_, usize> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One on its way; says that it no longer is, whatever became of it.
struct Way(Arc<UnderWay>);

impl Way {
    fn new(under_way: &Arc<UnderWay>) -> Self {
        *under_way.lock() += 1;
        Self(Arc::clone(under_way))
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        *self.0.lock() -= 1;
        self.0.fewer.notify_all();
    }
}

/// Without the thread there would be no checkpoints any more, and nobody would see it.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fail("the thread that writes checkpoints panicked".to_owned());
        }
    }
}

/// The way to the thread, which ends with it.
pub(super) struct Encoder {
    sender: mpsc::SyncSender<(Moment, Way)>,
    under_way: Arc<UnderWay>,
}

impl Encoder {
    /// Starts the thread.
    pub fn start(writer: Writer, shared: Arc<Shared>) -> Result<Self, StoreError> {
        let (sender, moments) = mpsc::sync_channel::<(Moment, Way)>(WAITING_MAX);
        let work = move || {
            let _ended = Ended(Arc::clone(&shared));
            for (moment, _way) in moments {
                let through = moment.position;
                match moment.encode() {
                    Ok(checkpoint) => writer.commit_step(StepCommit {
                        through,
                        outputs: Vec::new(),
                        dead_letters: Vec::new(),
                        checkpoint: Some(checkpoint),
                        on_committed: Box::new(|_| ()),
                    }),
                    Err(error) => shared.fail(error.to_string()),
                }
            }
        };
        let spawned = thread::Builder::new().name("checkpoint".into()).spawn(work);
        spawned.map_err(|error| StoreError::Refused(format!("the thread `checkpoint` cannot be started: {error}")))?;
        Ok(Self { sender, under_way: Arc::default() })
    }

    /// Whether nothing is on its way.
    pub fn is_idle(&self) -> bool {
        *self.under_way.lock() == 0
    }

    /// Hands a state on; waits while [`WAITING_MAX`] are before it.
    pub fn hand_on(&self, moment: Moment) {
        // Without its receiver the thread is gone, and has said why.
        let _ = self.sender.send((moment, Way::new(&self.under_way)));
    }

    /// Returns once everything that was handed on is in the store's queue.
    pub fn finish(&self) {
        let mut count = self.under_way.lock();
        while *count > 0 {
            count = self.under_way.fewer.wait(count).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

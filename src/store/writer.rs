//! The handle that everybody who writes has: puts commands into the queue, large batches encoded already on the caller's thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Instant;

use super::command::{
    Accepted, Answer, Append, Command, CommittedInput, CursorMove, Encoded, Prepared, StepAccepted, StepCommit, Subscription,
};
use super::encoding::{fits, rows_max};
use super::error::StoreError;
use super::merge::SMALL_ROWS;
use super::queue::{Refused, Waker};
use super::reader::Reader;
use super::shared::Shared;
use crate::model::{Batch, Input, Seq};

/// A way to the writer's thread; cheap to clone.
#[derive(Clone)]
pub struct Writer {
    shared: Arc<Shared>,
}

/// An append that there is no room for now; try again when told ([`Writer::when_room`]).
pub struct NotTaken(Prepared);

impl Writer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// A connection to read with; damage that it meets is noted as when the store itself meets it.
    ///
    /// # Errors
    /// As the disk's.
    pub fn reader(&self) -> Result<Reader, StoreError> {
        Ok(Reader::open(&self.shared.directory)?.of(Arc::clone(&self.shared)))
    }

    /// Hands rows over, waiting while the queue is full. The answer comes through `on_synced`, errors too.
    pub fn append_blocking(&self, append: Append) {
        let Some(prepared) = prepare(append) else { return };
        let pushed = self.shared.queue.try_push(Command::Append(prepared)).or_else(|refused| match refused {
            Refused::NoRoom(command) => {
                self.held_back();
                self.shared.queue.push_blocking(command)
            }
            closed @ Refused::Closed(..) => Err(closed),
        });
        if let Err(refused) = pushed {
            refuse(refused);
        }
    }

    /// An append that is checked, split and encoded already, to be handed over with [`Self::try_again`]; `None` if it was answered.
    pub fn encoded(append: Append) -> Option<NotTaken> {
        prepare(append).map(NotTaken)
    }

    /// Hands rows over if the queue has room.
    ///
    /// # Errors
    /// The append, to be tried again with [`Self::try_again`].
    pub fn try_append(&self, append: Append) -> Result<(), NotTaken> {
        prepare(append).map_or(Ok(()), |prepared| self.try_again(NotTaken(prepared))).inspect_err(|_| self.held_back())
    }

    fn held_back(&self) {
        self.shared.held_back.fetch_add(1, Ordering::Relaxed);
    }

    /// Tries once more.
    ///
    /// # Errors
    /// The append again.
    pub fn try_again(&self, append: NotTaken) -> Result<(), NotTaken> {
        match self.shared.queue.try_push(Command::Append(append.0)) {
            Err(Refused::NoRoom(Command::Append(append))) => Err(NotTaken(append)),
            Err(refused) => {
                refuse(refused);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Calls `waker` once there is room for another append: at once if there is, or if the store is closed.
    pub fn when_room(&self, waker: Waker) {
        self.shared.queue.when_room(waker);
    }

    /// Whether sources that can wait shall, because the budget is nearly full of what some sink still needs.
    pub fn holds_sources(&self) -> bool {
        self.shared.live().counters.holds_sources
    }

    /// Hands rows over and waits for the sync.
    ///
    /// # Errors
    /// As the commit's.
    pub fn append(&self, input: Input) -> Result<Accepted, StoreError> {
        Self::wait(|on_synced| {
            let decoded_at = Instant::now();
            self.append_blocking(Append { input: Some(input), dead_letters: Vec::new(), decoded_at, on_synced });
        })
    }

    /// Hands over what the engine made.
    pub fn commit_step(&self, step: StepCommit) {
        self.send(Command::Step(step));
    }

    /// Hands over what the engine made and waits for the sync.
    ///
    /// # Errors
    /// As the commit's.
    pub fn commit_step_and_wait(&self, step: StepCommit) -> Result<StepAccepted, StoreError> {
        let StepCommit { through, outputs, dead_letters, checkpoint, on_committed } = step;
        let waited =
            Self::wait(|answer| self.commit_step(StepCommit { through, outputs, dead_letters, checkpoint, on_committed: answer }));
        on_committed(waited.clone());
        waited
    }

    /// Registers a sink, or changes what it wants, and waits; where it stands.
    ///
    /// # Errors
    /// As the commit's.
    pub fn subscribe(&self, wish: Subscription) -> Result<Seq, StoreError> {
        Self::wait(|answer| self.send(Command::Subscribe(wish, answer)))
    }

    /// Moves a sink's cursor; `on_committed` tells when it is synced.
    pub fn move_cursor(&self, go: CursorMove, on_committed: Answer<()>) {
        self.send(Command::Move(go, on_committed));
    }

    /// Moves a sink's cursor and waits.
    ///
    /// # Errors
    /// As the commit's; [`StoreError::Refused`] if the sink has not subscribed.
    pub fn move_cursor_and_wait(&self, go: CursorMove) -> Result<(), StoreError> {
        Self::wait(|answer| self.move_cursor(go, answer))
    }

    /// Forgets a sink and its cursors, and waits.
    ///
    /// # Errors
    /// As the commit's.
    pub fn drop_sink(&self, sink: &str) -> Result<(), StoreError> {
        Self::wait(|answer| self.send(Command::DropSink(sink.into(), answer)))
    }

    /// Keeps a small value under a key (`None` = forgets it), and waits.
    ///
    /// # Errors
    /// As the commit's.
    pub fn put_state(&self, key: &str, value: Option<Vec<u8>>) -> Result<(), StoreError> {
        Self::wait(|answer| self.send(Command::PutState(key.to_owned(), value, answer)))
    }

    /// Removes a dead letter that was taken in after all, and waits.
    ///
    /// # Errors
    /// As the commit's.
    pub fn remove_dead_letter(&self, number: u64) -> Result<(), StoreError> {
        Self::wait(|answer| self.send(Command::Resubmitted(number, answer)))
    }

    pub(super) fn attach(&self, feed: SyncSender<CommittedInput>) -> Result<(), StoreError> {
        match self.shared.queue.push_blocking(Command::Attach(feed)) {
            Ok(()) => Ok(()),
            Err(Refused::Closed(_, error)) => Err(*error),
            Err(Refused::NoRoom(_)) => Err(StoreError::Closed),
        }
    }

    fn send(&self, command: Command) {
        if let Err(refused) = self.shared.queue.push_blocking(command) {
            refuse(refused);
        }
    }

    fn wait<T: Send + 'static>(send: impl FnOnce(Answer<T>)) -> Result<T, StoreError> {
        let (sender, receiver) = sync_channel(1);
        send(Box::new(move |outcome| {
            // Gone only if the waiting thread is.
            let _ = sender.send(outcome);
        }));
        receiver.recv().unwrap_or(Err(StoreError::Closed))
    }
}

fn refuse(refused: Refused) {
    match refused {
        Refused::Closed(command, error) => command.refuse(*error),
        Refused::NoRoom(command) => command.refuse(StoreError::Closed),
    }
}

/// Checks, splits and encodes; `None` if it was answered already.
fn prepare(append: Append) -> Option<Prepared> {
    let Append { input, dead_letters, decoded_at, on_synced } = append;
    let parts = match input {
        None => Vec::new(),
        Some(Input::Batch(batch)) => match split(batch) {
            Ok(batches) => batches.into_iter().map(encoded).collect(),
            Err(error) => {
                on_synced(Err(error));
                return None;
            }
        },
        Some(Input::End) => {
            on_synced(Err(StoreError::Refused("the end of an input is not stored".to_owned())));
            return None;
        }
        Some(other) => vec![(other, None)],
    };
    let letters: usize = dead_letters.iter().map(|letter| 256 + letter.raw.len() + letter.detail.len()).sum();
    let bytes = 256 + letters + parts.iter().map(part_bytes).sum::<usize>();
    Some(Prepared { parts, dead_letters, decoded_at, enqueued_at: Instant::now(), bytes, on_synced })
}

fn encoded(batch: Arc<Batch>) -> (Input, Option<Encoded>) {
    let encoded = (batch.rows() >= SMALL_ROWS).then(|| Encoded::of(&batch));
    (Input::Batch(batch), encoded)
}

fn part_bytes((input, encoded): &(Input, Option<Encoded>)) -> usize {
    let rows = match input {
        Input::Batch(batch) => 512 + batch.rows() * (8 * batch.signals.len() + 4 * batch.tags.len() + 48),
        _ => 256,
    };
    rows + encoded.as_ref().map_or(0, |encoded| encoded.body.len())
}

/// Pieces that each fit into one record.
fn split(batch: Arc<Batch>) -> Result<Vec<Arc<Batch>>, StoreError> {
    if !batch.is_consistent() {
        return Err(StoreError::Refused(format!("a batch of `{}` has columns of unequal length", batch.stream.id)));
    }
    let rows_max = rows_max(&batch);
    let batches = if batch.rows() <= rows_max {
        vec![batch]
    } else {
        let rows: Vec<usize> = (0..batch.rows()).collect();
        rows.chunks(rows_max).map(|piece| Arc::new(batch.take(piece))).collect()
    };
    if batches.iter().all(|batch| fits(batch)) {
        Ok(batches)
    } else {
        Err(StoreError::Refused("a batch has more columns, or longer or more tag values, than a record can hold".to_owned()))
    }
}

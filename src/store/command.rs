//! What is asked of the writer: each command is answered once, through its own closure, after the commit that holds it.

use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::encoding::encode_batch;
use super::error::StoreError;
use crate::model::{Batch, Input, Seq, Timestamp, time_bounds};

/// The number of a record of the inbox, from 1 without gaps: a batch, a watermark or a tick. Rows have a [`Seq`] besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RecordNo(pub u64);

/// Called once with the outcome, on the writer's thread: it must be short and must not wait.
pub type Answer<T> = Box<dyn FnOnce(Result<T, StoreError>) + Send>;

/// A row, frame or message that was refused at the door, kept with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The configured source.
    pub source: Arc<str>,
    /// The source partition.
    pub partition: Arc<str>,
    /// The stream it was meant for, if that is known.
    pub stream: Option<Arc<str>>,
    /// When it came in.
    pub arrival: Timestamp,
    /// The kind of fault, for counting.
    pub reason: String,
    /// What exactly is wrong, for people.
    pub detail: String,
    /// The bytes as they came; more than [`DEAD_LETTER_BYTES_MAX`] are cut.
    pub raw: Vec<u8>,
}

impl DeadLetter {
    /// Everything but the raw bytes, as JSON.
    pub fn head(&self, number: u64) -> serde_json::Value {
        serde_json::json!({
            "number": number, "source": self.source, "partition": self.partition, "stream": self.stream, "arrival": self.arrival,
            "reason": self.reason, "detail": self.detail, "bytes": self.raw.len(),
        })
    }
}

/// The bytes of a dead letter that are kept.
pub const DEAD_LETTER_BYTES_MAX: usize = 256 * 1024;

/// Something for the inbox: rows, a watermark or a tick, dead letters, or both.
pub struct Append {
    /// What came in; [`Input::End`] is refused.
    pub input: Option<Input>,
    /// What was refused at the door; committed together with the rest.
    pub dead_letters: Vec<DeadLetter>,
    /// When the rows were decoded, for the latency of the whole path.
    pub decoded_at: Instant,
    /// Told once all of it is synced: only now may the source be acknowledged.
    pub on_synced: Answer<Accepted>,
}

/// What became of an [`Append`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Accepted {
    /// The number of the first row that is new; the others follow without gaps. Without rows: the number of the next one.
    pub first_seq: Seq,
    /// Rows that are new.
    pub rows: u64,
    /// Rows that the inbox already had, and has not taken again.
    pub duplicates: u64,
    /// Rows that are stored, and come into the inbox when the clock is set.
    pub waiting: u64,
    /// The last record that holds any of it.
    pub record: RecordNo,
}

/// A result for the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepOutput {
    /// Derived from the inputs; an id that the outbox already has is ignored.
    pub id: String,
    /// As in the result's `kind`.
    pub kind: &'static str,
    /// The pipeline it comes from.
    pub pipeline: Arc<str>,
    /// The stream it is about, if it is about one.
    pub stream: Option<Arc<str>>,
    /// Event time, for looking it up.
    pub time: Timestamp,
    /// The result as JSON.
    pub json: Vec<u8>,
}

/// The engine's state after a record, by parts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checkpoint {
    /// The last record that the state includes.
    pub position: RecordNo,
    /// Whether parts that are not named are dropped; otherwise they stay as they are.
    pub complete: bool,
    /// Parts that changed: a name and its bytes, or nothing if it is gone.
    pub parts: Vec<(String, Option<Vec<u8>>)>,
}

/// What the engine made of the inbox up to a record: one commit.
pub struct StepCommit {
    /// The last record that went in.
    pub through: RecordNo,
    /// What came out, in order.
    pub outputs: Vec<StepOutput>,
    /// Rows that the engine refused.
    pub dead_letters: Vec<DeadLetter>,
    /// The state, when it is time for one.
    pub checkpoint: Option<Checkpoint>,
    /// Told once it is synced. While the disk is full the writer keeps the step and tries again: nothing is told until then.
    pub on_committed: Answer<StepAccepted>,
}

/// What became of a [`StepCommit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StepAccepted {
    /// Results that are new.
    pub outputs: u64,
    /// Results that the outbox already had.
    pub repeated: u64,
    /// The number of the last result in the outbox.
    pub last_seq: Seq,
}

/// What a cursor walks over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// Rows of the inbox.
    Rows,
    /// Results of the outbox.
    Results,
}

impl Lane {
    /// The number in the tables.
    pub(super) const fn number(self) -> i64 {
        match self {
            Self::Rows => 0,
            Self::Results => 1,
        }
    }

    /// Back from the number in the tables.
    pub(super) const fn from_number(number: i64) -> Option<Self> {
        match number {
            0 => Some(Self::Rows),
            1 => Some(Self::Results),
            _ => None,
        }
    }
}

/// Where a new sink starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// At the oldest that is kept.
    Oldest,
    /// With what comes next.
    Next,
}

/// A sink that follows a lane. A sink that is known keeps its place; only what it wants is taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The configured sink.
    pub sink: Arc<str>,
    /// What it follows.
    pub lane: Lane,
    /// The streams (rows) or pipelines (results) that it gets; `None` = all.
    pub only: Option<Vec<Arc<str>>>,
    /// Where it starts if it is new.
    pub start: StartAt,
}

/// A sink confirmed everything that is for it in `from..=through`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorMove {
    /// The configured sink.
    pub sink: Arc<str>,
    /// What it follows.
    pub lane: Lane,
    /// The first number that was read for this delivery; what was skipped before it had been removed, and stays counted as expired.
    pub from: Seq,
    /// The last number; the cursor stands here afterwards, and never moves back.
    pub through: Seq,
    /// Rows or results that were confirmed, without those that other sinks get.
    pub delivered: u64,
}

/// One thing for the writer to do.
pub(super) enum Command {
    Append(Prepared),
    Step(StepCommit),
    Subscribe(Subscription, Answer<Seq>),
    Move(CursorMove, Answer<()>),
    DropSink(Arc<str>, Answer<()>),
    PutState(String, Option<Vec<u8>>, Answer<()>),
    Resubmitted(u64, Answer<()>),
    Attach(std::sync::mpsc::SyncSender<CommittedInput>),
}

/// An [`Append`] within the limits of one commit, large batches already encoded by the caller's thread.
pub(super) struct Prepared {
    pub parts: Vec<(Input, Option<Encoded>)>,
    pub dead_letters: Vec<DeadLetter>,
    pub decoded_at: Instant,
    pub enqueued_at: Instant,
    pub bytes: usize,
    pub on_synced: Answer<Accepted>,
}

/// A batch as it goes into the inbox.
pub(super) struct Encoded {
    pub body: Vec<u8>,
    /// Earliest and latest event time, ns.
    pub times: (i64, i64),
}

impl Encoded {
    pub fn of(batch: &Batch) -> Self {
        let times = time_bounds(batch.time.iter().copied());
        Self { body: encode_batch(batch), times }
    }
}

impl Command {
    /// Answers with an error.
    pub fn refuse(self, error: StoreError) {
        match self {
            Self::Append(append) => (append.on_synced)(Err(error)),
            Self::Step(step) => (step.on_committed)(Err(error)),
            Self::Subscribe(_, answer) => answer(Err(error)),
            Self::Move(_, answer) | Self::DropSink(_, answer) | Self::PutState(_, _, answer) | Self::Resubmitted(_, answer) => {
                answer(Err(error));
            }
            Self::Attach(_) => {}
        }
    }

    /// About how much memory it holds.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Append(append) => append.bytes,
            Self::Step(step) => {
                let parts = step.checkpoint.iter().flat_map(|checkpoint| &checkpoint.parts);
                let letters = step.dead_letters.iter().map(|letter| letter.raw.len() + 256).sum::<usize>();
                256 + letters
                    + step.outputs.iter().map(|output| output.json.len() + 256).sum::<usize>()
                    + parts.map(|(_, body)| 64 + body.as_ref().map_or(0, Vec::len)).sum::<usize>()
            }
            _ => 256,
        }
    }
}

/// An input as it was committed, on its way to the engine.
#[derive(Debug, Clone)]
pub struct CommittedInput {
    /// Its record.
    pub record: RecordNo,
    /// The number of its first row; for other inputs, of the row that comes next.
    pub first_seq: Seq,
    /// How many rows it has.
    pub rows: u64,
    /// What it is; batches carry their row numbers.
    pub input: Input,
    /// When its rows were decoded; `None` if it was read back from the store.
    pub decoded_at: Option<Instant>,
}

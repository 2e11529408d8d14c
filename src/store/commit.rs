//! The writer's thread: takes what waits, puts it into one transaction, syncs, answers.
//!
//! - A commit starts as soon as anything waits and takes everything that waits, up to [`GROUP_BYTES_MAX`]: a lone row is synced at
//!   once, and under load many share a sync. No timer is involved.
//! - Nothing is answered before the commit that holds it has returned from its sync.
//! - A transaction that failed leaves nothing behind: it is rolled back and the memory is loaded again from the tables. Appends are
//!   answered with the error, so that their sources can wait or shed; steps and cursors, which have nowhere to go, are kept and tried
//!   again every [`RETRY`].
//! - A sync that failed is never retried: everything is answered with [`StoreError::Fatal`] and the thread ends.
//! - The engine is handed what was committed if it keeps up; if not, it reads it back ([`super::feed`]). It is never waited for.

mod clock;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::command::{
    Accepted, Command, CommittedInput, DEAD_LETTER_BYTES_MAX, DeadLetter, Encoded, Lane, Prepared, RecordNo, StepAccepted,
    StepCommit, Subscription,
};
use super::counters::StoreStatus;
use super::duplicates::Admitted;
use super::encoding::encode;
use super::error::StoreError;
use super::merge::{join, joins};
use super::schema::set_meta;
use super::shared::Shared;
use super::state::State;
use super::sweep::Sweeper;
use super::tables::{self, NewRecord, insert_dead_letter, insert_output, insert_record};
use super::waiting::Waiting;
use crate::model::{Batch, Input, Seq};

/// Bytes in memory that share a commit: enough to drown the cost of a sync, little enough (encoded 1 MB or less) to be written in a few
/// milliseconds.
const GROUP_BYTES_MAX: usize = 16 << 20;
/// Commands that share a commit.
const GROUP_COMMANDS_MAX: usize = 4_096;
/// How long the thread sleeps when there is nothing to do but look at ages.
const IDLE: Duration = Duration::from_secs(1);
/// How long a disk that refused is left alone.
const RETRY: Duration = Duration::from_secs(1);

/// What one command is answered with after the commit.
enum Outcome {
    Append(Accepted),
    Step(StepAccepted),
    Place(Seq),
    Done,
    Refused(StoreError),
}

/// Small batches on their way into one record.
struct Joining {
    batch: Batch,
    decoded_at: Instant,
}

/// The one who writes.
pub struct Committer {
    connection: Connection,
    state: State,
    sweeper: Sweeper,
    waiting: Waiting,
    shared: Arc<Shared>,
    feeds: Vec<SyncSender<CommittedInput>>,
    /// Steps and cursors that a failed transaction left over.
    kept: Vec<Command>,
    /// Why the last transaction failed, and when to try again.
    refused: Option<(StoreError, Instant)>,
    /// Records of the transaction under way, for the engine; batches without their numbers.
    fresh: Vec<CommittedInput>,
    joining: Option<Joining>,
    tally: Tally,
}

/// Counts of the transaction under way.
#[derive(Default)]
struct Tally {
    records: u64,
    rows: u64,
    duplicates: u64,
    dead_letters: u64,
    outputs: u64,
    repeated: u64,
    row_bytes: u64,
    output_bytes: u64,
    engine_through: u64,
}

impl Committer {
    /// Takes over the connection.
    pub fn new(connection: Connection, state: State, sweeper: Sweeper, waiting: Waiting, shared: Arc<Shared>) -> Self {
        let mut committer = Self {
            connection,
            state,
            sweeper,
            waiting,
            shared,
            feeds: Vec::new(),
            kept: Vec::new(),
            refused: None,
            fresh: Vec::new(),
            joining: None,
            tally: Tally::default(),
        };
        committer.publish();
        committer
    }

    /// Works until the queue is closed and empty, or a sync fails. `on_corrupt` hears of damage before anybody else does.
    pub fn run(mut self, on_corrupt: impl FnOnce(&str)) {
        let ended = self.work();
        let error = ended.err().unwrap_or(StoreError::Closed);
        self.shared.queue.close(error.clone());
        let (rest, _) = self.shared.queue.take(usize::MAX, usize::MAX, Duration::ZERO);
        self.kept.drain(..).chain(rest).for_each(|command| command.refuse(error.clone()));
        if let StoreError::Corrupt(why) = &error {
            on_corrupt(why);
        }
        if error != StoreError::Closed {
            self.shared.fatal(error);
        }
    }

    fn work(&mut self) -> Result<(), StoreError> {
        loop {
            self.waiting.look();
            let idle = match (&self.refused, self.waiting.is_due()) {
                (Some(_), _) => RETRY.min(IDLE),
                (None, true) => Duration::ZERO,
                (None, false) => IDLE,
            };
            let (group, over) = self.shared.queue.take(GROUP_BYTES_MAX, GROUP_COMMANDS_MAX, idle);
            self.commit_or_keep(group, over)?;
            self.sweep()?;
            if over && (self.kept.is_empty() || self.refused.is_some()) {
                return self.close();
            }
        }
    }

    /// Leaves a store that opens without a tail to fold and without a log.
    fn close(&mut self) -> Result<(), StoreError> {
        if self.refused.is_none() && self.state.tail_is_dirty() {
            let written = self.connection.execute_batch("BEGIN IMMEDIATE").map_err(StoreError::from).and_then(|()| {
                self.state.write_tail(&self.connection)?;
                Ok(self.connection.execute_batch("COMMIT")?)
            });
            if let Err(error @ StoreError::Fatal(_)) = written {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Commits a group, unless the disk refused a moment ago.
    fn commit_or_keep(&mut self, group: Vec<Command>, over: bool) -> Result<(), StoreError> {
        let mut group: Vec<Command> = self.kept.drain(..).chain(group).collect();
        if let Some((error, again_at)) = &self.refused {
            let error = error.clone();
            if Instant::now() < *again_at && !over {
                self.keep(group, &error);
                return Ok(());
            }
        } else if group.is_empty() && (over || !self.waiting.is_due()) {
            return Ok(());
        }
        if let Some(reason) = self.sweeper.full() {
            group = self.refuse_appends(group, &StoreError::Full(reason));
            if group.is_empty() && self.refused.is_none() && !self.waiting.is_due() {
                return Ok(());
            }
        }
        let started = Instant::now();
        match self.transact(&group) {
            Ok(outcomes) => {
                self.refused = None;
                self.sweeper.clocks_are_kept();
                self.answer(group, outcomes, started);
                Ok(())
            }
            Err(error) => self.roll_back(group, &error),
        }
    }

    /// One transaction with all of `group`.
    fn transact(&mut self, group: &[Command]) -> Result<Vec<Outcome>, StoreError> {
        self.tally = Tally::default();
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        self.heed_clocks()?;
        let mut outcomes = Vec::with_capacity(group.len());
        for command in group {
            match self.apply(command) {
                Err(error @ StoreError::Refused(_)) => outcomes.push(Outcome::Refused(error)),
                other => outcomes.push(other?),
            }
        }
        self.flush_joining()?;
        if self.refused.is_some() {
            // Even a transaction that asks for nothing has to show that the disk takes it.
            set_meta(&self.connection, "tried", self.state.next_record as i64)?;
        }
        if self.state.tail_is_long() {
            self.state.write_tail(&self.connection)?;
        }
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        Ok(outcomes)
    }

    fn apply(&mut self, command: &Command) -> Result<Outcome, StoreError> {
        match command {
            Command::Append(append) => self.append(append).map(Outcome::Append),
            Command::Step(step) => self.step(step).map(Outcome::Step),
            Command::Subscribe(wish, _) => self.subscribe(wish).map(Outcome::Place),
            Command::Move(go, _) => self.state.advance(&self.connection, go).map(|()| Outcome::Done),
            Command::DropSink(sink, _) => self.state.drop_sink(&self.connection, sink).map(|()| Outcome::Done),
            Command::PutState(key, value, _) => self.put_state(key, value.as_deref()).map(|()| Outcome::Done),
            Command::Resubmitted(number, _) => {
                self.connection.prepare_cached("DELETE FROM dead_letters WHERE number = ?1")?.execute([*number as i64])?;
                self.sweeper.forget_letters();
                Ok(Outcome::Done)
            }
            Command::Attach(feed) => {
                self.feeds.push(feed.clone());
                Ok(Outcome::Done)
            }
        }
    }

    fn append(&mut self, append: &Prepared) -> Result<Accepted, StoreError> {
        let mut accepted = self.state.nothing_accepted();
        for (input, encoded) in &append.parts {
            match input {
                Input::Batch(batch) => self.append_batch(batch, encoded.as_ref(), append.decoded_at, &mut accepted)?,
                other => self.append_other(other, append.decoded_at)?,
            }
        }
        for letter in &append.dead_letters {
            self.append_letter(letter)?;
        }
        // A batch that still waits for neighbours gets the next record.
        accepted.record = RecordNo(self.state.next_record - u64::from(self.joining.is_none()));
        Ok(accepted)
    }

    fn append_batch(
        &mut self,
        batch: &Arc<Batch>,
        encoded: Option<&Encoded>,
        decoded_at: Instant,
        accepted: &mut Accepted,
    ) -> Result<(), StoreError> {
        let rows_before = batch.rows() as u64;
        let (mut kept, mut encoded) = (Arc::clone(batch), encoded);
        if let Admitted::Some(rows) = self.state.duplicates.admit(batch) {
            (kept, encoded) = (Arc::new(batch.take(&rows)), None);
        }
        let rows = kept.rows() as u64;
        accepted.duplicates += rows_before - rows;
        self.tally.duplicates += rows_before - rows;
        if rows == 0 {
            return Ok(());
        }
        let Some(kept) = self.hold_back(kept, &mut encoded, accepted)? else { return Ok(()) };
        accepted.rows += rows;
        self.let_in(kept, encoded, decoded_at)
    }

    /// Puts a small batch with its neighbours, or makes it the first of the next ones.
    fn join_or_hold(&mut self, batch: &Batch, first_seq: Seq, decoded_at: Instant) -> Result<(), StoreError> {
        if let Some(joining) = self.joining.as_mut().filter(|joining| joins(&joining.batch, batch)) {
            join(&mut joining.batch, batch);
            return Ok(());
        }
        self.flush_joining()?;
        self.joining = Some(Joining { batch: Batch { first_seq, seqs: None, ..batch.clone() }, decoded_at });
        Ok(())
    }

    fn flush_joining(&mut self) -> Result<(), StoreError> {
        match self.joining.take() {
            Some(Joining { batch, decoded_at }) => {
                let first_seq = batch.first_seq;
                self.insert_batch(Arc::new(batch), first_seq, None, decoded_at)
            }
            None => Ok(()),
        }
    }

    /// A batch that is not encoded yet is small, or has lost rows that were there already.
    fn insert_batch(
        &mut self,
        batch: Arc<Batch>,
        first_seq: Seq,
        encoded: Option<&Encoded>,
        decoded_at: Instant,
    ) -> Result<(), StoreError> {
        let mut now = None;
        let Encoded { body, times } = encoded.unwrap_or_else(|| now.insert(Encoded::of(&batch)));
        let stream = self.state.number_stream(&self.connection, &batch.stream.id)?;
        let (record, seq, rows) = (self.state.next_record, first_seq.0, batch.rows() as u64);
        let new = NewRecord { record, seq, rows, stream: Some(stream), arrival: batch.arrival.0, times: Some(*times), body };
        insert_record(&self.connection, &new)?;
        self.tally.row_bytes += body.len() as u64;
        self.state.note_rows(record, stream, &batch.stream.id, rows, *times);
        let (arrival, record) = (batch.arrival.0, RecordNo(record));
        let input = Input::Batch(batch);
        self.note_record(arrival, CommittedInput { record, first_seq, rows, input, decoded_at: Some(decoded_at) });
        Ok(())
    }

    fn append_other(&mut self, input: &Input, decoded_at: Instant) -> Result<(), StoreError> {
        self.flush_joining()?;
        let arrival = match input {
            Input::Watermark { arrival, .. } => arrival.0,
            Input::Tick(time) | Input::Order { time, .. } => time.0,
            Input::Batch(_) | Input::End => self.state.arrival_last,
        };
        let Some(body) = encode(input) else { return Ok(()) };
        let (record, seq) = (self.state.next_record, self.state.next_seq);
        insert_record(&self.connection, &NewRecord { record, seq, rows: 0, stream: None, arrival, times: None, body: &body })?;
        self.note_record(
            arrival,
            CommittedInput {
                record: RecordNo(record),
                first_seq: Seq(seq),
                rows: 0,
                input: input.clone(),
                decoded_at: Some(decoded_at),
            },
        );
        Ok(())
    }

    fn note_record(&mut self, arrival: i64, input: CommittedInput) {
        self.state.note_record();
        self.state.next_record += 1;
        self.state.arrival_last = arrival;
        self.tally.records += 1;
        if !self.feeds.is_empty() {
            self.fresh.push(input);
        }
    }

    fn append_dead_letter(&mut self, letter: &DeadLetter) -> Result<(), StoreError> {
        insert_dead_letter(&self.connection, self.state.next_dead_letter, letter)?;
        self.sweeper.note_letter(letter.raw.len().min(DEAD_LETTER_BYTES_MAX));
        self.state.next_dead_letter += 1;
        self.tally.dead_letters += 1;
        Ok(())
    }

    fn step(&mut self, step: &StepCommit) -> Result<StepAccepted, StoreError> {
        let arrival = self.waiting.wall_ns();
        let mut accepted = StepAccepted::default();
        for output in &step.outputs {
            if insert_output(&self.connection, self.state.next_result, arrival, output)? {
                self.state.note_result(&output.pipeline);
                self.state.next_result += 1;
                accepted.outputs += 1;
                self.tally.output_bytes += output.json.len() as u64;
            } else {
                accepted.repeated += 1;
            }
        }
        for letter in &step.dead_letters {
            self.append_letter(letter)?;
        }
        if !step.dead_letters.is_empty() {
            set_meta(&self.connection, "refused_through", step.through.0 as i64)?;
        }
        if let Some(checkpoint) = &step.checkpoint {
            super::checkpoint::write(&self.connection, checkpoint)?;
            self.state.checkpoint = checkpoint.position.0;
        }
        self.tally.outputs += accepted.outputs;
        self.tally.repeated += accepted.repeated;
        self.tally.engine_through = self.tally.engine_through.max(step.through.0);
        accepted.last_seq = Seq(self.state.next_result - 1);
        Ok(accepted)
    }

    fn subscribe(&mut self, wish: &Subscription) -> Result<Seq, StoreError> {
        self.flush_joining()?;
        let next = match wish.lane {
            Lane::Rows => self.state.next_seq,
            Lane::Results => self.state.next_result,
        };
        let oldest = tables::oldest(&self.connection, wish.lane)?.unwrap_or(next);
        self.state.subscribe(&self.connection, wish, Seq(oldest))
    }

    fn put_state(&mut self, key: &str, value: Option<&[u8]>) -> Result<(), StoreError> {
        match value {
            Some(value) => self.connection.prepare_cached("INSERT OR REPLACE INTO state VALUES (?1, ?2)")?.execute((key, value))?,
            None => self.connection.prepare_cached("DELETE FROM state WHERE key = ?1")?.execute([key])?,
        };
        Ok(())
    }

    /// Tells everybody, then hands the records to the engine.
    fn answer(&mut self, group: Vec<Command>, outcomes: Vec<Outcome>, started: Instant) {
        let ended = Instant::now();
        self.publish_commit(group.len(), &group, ended, ended - started);
        for (command, outcome) in group.into_iter().zip(outcomes) {
            match (command, outcome) {
                (command, Outcome::Refused(error)) => command.refuse(error),
                (Command::Append(append), Outcome::Append(accepted)) => (append.on_synced)(Ok(accepted)),
                (Command::Step(step), Outcome::Step(accepted)) => (step.on_committed)(Ok(accepted)),
                (Command::Subscribe(_, answer), Outcome::Place(seq)) => answer(Ok(seq)),
                (
                    Command::Move(_, answer)
                    | Command::DropSink(_, answer)
                    | Command::PutState(_, _, answer)
                    | Command::Resubmitted(_, answer),
                    _,
                ) => answer(Ok(())),
                _ => {}
            }
        }
        self.feed();
    }

    fn feed(&mut self) {
        let mut spilled = 0;
        for input in self.fresh.drain(..).map(numbered) {
            self.feeds.retain(|feed| match feed.try_send(input.clone()) {
                Ok(()) => true,
                Err(TrySendError::Full(_)) => {
                    spilled += 1;
                    true
                }
                Err(TrySendError::Disconnected(_)) => false,
            });
        }
        self.shared.committed.store(self.state.next_record - 1, Ordering::Release);
        if spilled > 0 {
            self.shared.live().counters.inputs_spilled += spilled;
        }
    }

    /// The transaction failed: brings the memory back in line, and says no to those who can wait.
    fn roll_back(&mut self, group: Vec<Command>, error: &StoreError) -> Result<(), StoreError> {
        self.fresh.clear();
        self.joining = None;
        self.sweeper.forget_letters();
        let reloaded = match error {
            StoreError::Fatal(_) | StoreError::Corrupt(_) => Err(error.clone()),
            _ => self.reload(),
        };
        if let Err(error) = reloaded {
            group.into_iter().for_each(|command| command.refuse(error.clone()));
            return Err(error);
        }
        self.refused = Some((error.clone(), Instant::now() + RETRY));
        let status = match &error {
            StoreError::Full(reason) => StoreStatus::Full(reason.clone()),
            other => StoreStatus::Degraded(other.to_string()),
        };
        self.shared.live().counters.status = status;
        self.keep(group, error);
        Ok(())
    }

    fn reload(&mut self) -> Result<(), StoreError> {
        if !self.connection.is_autocommit() {
            self.connection.execute_batch("ROLLBACK")?;
        }
        self.state = self.state.reload(&self.connection)?;
        self.waiting.load(&self.connection, &mut self.state.duplicates)?;
        Ok(())
    }

    /// Keeps steps and cursors for the next try; appends are refused.
    fn keep(&mut self, group: Vec<Command>, error: &StoreError) {
        self.kept = self.refuse_appends(group, error);
    }

    /// Refuses rows; watermarks and ticks carry no data, but without them nothing would be lost by waiting either.
    fn refuse_appends(&mut self, group: Vec<Command>, error: &StoreError) -> Vec<Command> {
        let (appends, rest): (Vec<_>, Vec<_>) = group.into_iter().partition(|command| matches!(command, Command::Append(_)));
        self.shared.live().counters.appends_refused += appends.len() as u64;
        appends.into_iter().for_each(|command| command.refuse(error.clone()));
        rest
    }

    /// Removes what is too old or too much.
    fn sweep(&mut self) -> Result<(), StoreError> {
        if self.refused.as_ref().is_some_and(|(error, _)| !matches!(error, StoreError::Full(_))) {
            return Ok(());
        }
        match self.sweeper.sweep(&self.connection, &mut self.state, self.waiting.wall_ns()) {
            Ok(swept) => {
                let mut live = self.shared.live();
                live.counters.rows_removed_by_age += swept.rows_by_age;
                live.counters.rows_removed_for_room += swept.rows_for_room;
                (live.counters.bytes_used, live.counters.bytes_file) = (swept.bytes_used, swept.bytes_file);
                live.counters.autonomy_seconds = self.sweeper.autonomy_seconds();
                live.counters.bytes_needed = self.sweeper.bytes_needed();
                live.counters.holds_sources = self.sweeper.holds_sources();
                if self.refused.is_none() {
                    live.counters.status = self.sweeper.full().map_or(StoreStatus::Good, StoreStatus::Full);
                }
                if swept.rows_by_age + swept.rows_for_room > 0 {
                    live.balances = self.state.balances();
                }
                Ok(())
            }
            Err(error) => self.roll_back(Vec::new(), &error),
        }
    }

    fn publish(&mut self) {
        self.shared.committed.store(self.state.next_record - 1, Ordering::Release);
        let mut live = self.shared.live();
        live.balances = self.state.balances();
        live.counters.committed = self.state.next_record - 1;
        live.counters.engine_through = self.state.checkpoint;
        live.counters.bytes_max = self.sweeper.bytes_max();
        live.counters.rows_waiting_for_clock = self.waiting.rows();
    }

    fn publish_commit(&mut self, commands: usize, group: &[Command], ended: Instant, took: Duration) {
        self.sweeper.note_written(self.tally.row_bytes + self.tally.output_bytes);
        let status = self.sweeper.full().map_or(StoreStatus::Good, StoreStatus::Full);
        let mut live = self.shared.live();
        live.commits.add(took);
        for command in group {
            if let Command::Append(append) = command {
                live.acknowledgements.add(ended - append.enqueued_at);
            }
        }
        live.balances = self.state.balances();
        let counters = &mut live.counters;
        counters.status = status;
        counters.commits += 1;
        counters.commands += commands as u64;
        counters.records += self.tally.records;
        counters.rows += self.tally.rows;
        counters.duplicates += self.tally.duplicates;
        counters.dead_letters += self.tally.dead_letters;
        counters.outputs += self.tally.outputs;
        counters.outputs_repeated += self.tally.repeated;
        counters.row_bytes += self.tally.row_bytes;
        counters.output_bytes += self.tally.output_bytes;
        counters.rows_waiting_for_clock = self.waiting.rows();
        counters.devices_forgotten = self.state.duplicates.forgotten();
        counters.committed = self.state.next_record - 1;
        counters.engine_through = counters.engine_through.max(self.tally.engine_through);
        drop(live);
        self.shared.wake_checkpointer();
    }
}

/// The input with its rows' numbers. By now whoever sent it has been answered and has let go of it, so that its columns need no copy.
fn numbered(input: CommittedInput) -> CommittedInput {
    match input.input {
        Input::Batch(batch) if batch.first_seq != input.first_seq || batch.seqs.is_some() => {
            let mut batch = Arc::unwrap_or_clone(batch);
            (batch.first_seq, batch.seqs) = (input.first_seq, None);
            CommittedInput { input: Input::Batch(Arc::new(batch)), ..input }
        }
        _ => input,
    }
}

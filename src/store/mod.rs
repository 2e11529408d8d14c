//! The embedded store: inbox, outbox, cursors, checkpoints, dead letters; group commit; retention.
//!
//! One file, `store.db`, in `data_dir`: SQLite in WAL mode with `synchronous=FULL`, `auto_vacuum` off. One thread writes
//! ([`commit`](self)); everybody else sends it commands through a [`Writer`] and is answered after the sync, or reads with connections
//! of their own ([`Reader`]).
//!
//! ```text
//! meta          name, value                identity, checkpoint (record), tail_record, tail_result, next_result, refused_through,
//!                                          first_record, first_seq, first_result (the oldest that are kept)
//! streams       number, id                 what inbox.stream and spans.stream mean
//! inbox         record*, seq, rows, stream, arrival, time_min, time_max, body
//!                                          one input a record; `body` as in encoding.rs; rows have the numbers seq … seq+rows−1
//! spans         stream*, record_first*, record_last, time_min, time_max
//!                                          where to look for a time; every 1,024 records
//! devices       key, state                 numbers that duplicates are told by (duplicates.rs); every 1,024 records
//! totals        lane*, name*, total        rows by stream, results by pipeline, ever; every 1,024 records
//! outbox        seq*, id (unique), kind, pipeline, stream, time, arrival, body (JSON)
//! cursors       sink*, lane*, seq, only_names (JSON or null), base, delivered, expired
//! checkpoint    name, body                 parts of the engine's state (checkpoint.rs)
//! dead_letters  number*, arrival, source, partition, stream, reason, detail, raw
//! state         key, value                 small things that others keep, and rows that wait for the clock (waiting.rs)
//! clock_steps   record*, step              how far the wall clock was set (retention.rs; likewise clock_step/… in `state`)
//! lost          number*, at, report (JSON) what a salvage could not bring back
//! ```
//! Times are nanoseconds; lanes are 0 = rows, 1 = results.
//!
//! Invariants:
//! - Records and results are numbered from 1 without gaps in the order of commit, rows likewise; a salvage may leave gaps, and says so.
//!   Numbers are never given twice: the newest record and result are never removed.
//! - A command is answered only after the sync of the transaction that holds it; a transaction holds all of a command or nothing.
//! - A damaged file never stops a start: what can be read of it is in the new one, and what cannot is named in `lost` (salvage.rs).
//! - Removal is from the oldest on; nothing after the engine's checkpoint is removed.
//! - What a crash leaves is what the last synced transaction left: opening is recovering, and reads at most the last 1,024 records.
//!
//! What is assumed of the medium: a sync that returned is kept; what was written after the last sync may be there, torn, reordered or
//! missing, which the log's checksums tell. A sync that failed tells nothing: the process must end.

mod carve;
mod checkpoint;
mod clocks;
mod columns;
mod command;
mod commit;
mod counters;
mod duplicates;
pub mod encoding;
mod error;
mod feed;
mod history;
mod lock;
mod log;
mod loss;
mod merge;
mod packing;
mod queue;
mod reader;
mod rebuild;
mod renumber;
mod retention;
mod salvage;
mod schema;
mod settle;
mod shared;
mod state;
mod sweep;
mod tables;
mod verify;
mod waiting;
mod wire;
mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

pub use clocks::{Clocks, Reading};
pub use command::{
    Accepted, Answer, Append, Checkpoint, CommittedInput, CursorMove, DEAD_LETTER_BYTES_MAX, DeadLetter, Lane, RecordNo, StartAt,
    StepAccepted, StepCommit, StepOutput, Subscription,
};
pub use counters::{Quantiles, StoreCounters, StoreStatus};
pub use duplicates::{Admitted, Duplicates};
pub use error::StoreError;
pub use feed::Feed;
pub use history::History;
pub use loss::{Kept, Loss, Numbers, Ranges};
pub use queue::Waker;
pub use reader::{Inventory, Reader, RowsPage, StoredResult};
pub use retention::WhenFull;
pub use schema::FILE_NAME;
pub use shared::OnFatal;
pub use state::Balance;
pub use sweep::NOTHING_TO_REMOVE;
pub use verify::{StoreFile, Verified, files, repair, verify};
pub use waiting::WAIT_NS_MAX as CLOCK_WAIT_NS_MAX;
pub use writer::{NotTaken, Writer};

use carve::Pages;
use commit::Committer;
use lock::DirectoryLock;
use salvage::Making;
use shared::Shared;
use state::State;
use sweep::Sweeper;
use waiting::Waiting;

use crate::model::Seq;

/// How the store is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// File and log together, bytes.
    pub max_bytes: u64,
    /// From arrival, ns.
    pub max_age_ns: i64,
    /// What goes when the budget is full of rows that some sink still needs.
    pub when_full: WhenFull,
    /// Of a new file: small for small commits (less wear of the flash), large for bulk; records of 1,000 rows, 2 to 4 KB, fill pages of
    /// 8 KiB and leave those of 4 KiB a third empty. A power of two, 512 to 65,536.
    pub page_bytes: u32,
    /// Rows that wait to be committed, bytes in memory.
    pub queue_bytes: usize,
    /// Inputs that wait for the engine; beyond, it reads them back.
    pub feed_inputs: usize,
    /// What stamps are compared with, and ages counted by.
    pub clocks: Clocks,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            max_bytes: 20_000_000_000,
            max_age_ns: 30 * 86_400 * 1_000_000_000,
            when_full: WhenFull::default(),
            page_bytes: 8_192,
            queue_bytes: 64 << 20,
            feed_inputs: 1_024,
            clocks: Clocks::default(),
        }
    }
}

/// What was found at the start.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    /// The engine's state; `None` = it starts anew, from the oldest record that is kept.
    pub checkpoint: Option<Checkpoint>,
    /// The record after which the engine goes on.
    pub resume_after: RecordNo,
    /// The dead letters of inputs up to here are in the store, whatever the engine goes over again.
    pub refused_through: RecordNo,
    /// How many records it has to go over again.
    pub to_replay: u64,
    /// The last row and the last result that were committed.
    pub newest: (Seq, Seq),
    /// What could not be used, in words: a damaged checkpoint or file.
    pub notices: Vec<String>,
    /// The store was damaged, and has just been salvaged: what is lost.
    pub loss: Option<Loss>,
}

/// The store, open for writing. Dropping it commits what waits and closes it.
pub struct Store {
    directory: PathBuf,
    identity: u64,
    config: StoreConfig,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    _lock: DirectoryLock,
}

impl Store {
    /// Opens the store in `directory`, or makes one.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another process has it; errors of the disk. A damaged file is not an error: it is set aside and salvaged.
    pub fn open(directory: &Path, config: StoreConfig) -> Result<(Self, Recovered), StoreError> {
        std::fs::create_dir_all(directory).map_err(|error| StoreError::file(directory, &error))?;
        let lock = DirectoryLock::take(directory)?;
        let Opened { connection, state, sweeper, waiting, identity, recovered } = open_or_salvage(directory, &config)?;
        let file = directory.join(FILE_NAME);

        let (wake, woken) = sync_channel(1);
        let shared = Arc::new(Shared::new(directory, config.queue_bytes, wake)?);
        let checkpointer = schema::open_checkpointer(&file)?;
        let committer = Committer::new(connection, state, sweeper, waiting, Arc::clone(&shared));
        let threads = vec![
            spawn("store", {
                let (shared, directory) = (Arc::clone(&shared), directory.to_owned());
                move || {
                    let _closing = CloseAtEnd(shared);
                    committer.run(|why| salvage::mark(&directory, why));
                }
            })?,
            spawn("store-log", {
                let shared = Arc::clone(&shared);
                move || move_log(&checkpointer, &woken, &shared)
            })?,
        ];
        let store = Self { directory: directory.to_owned(), identity, config, shared, threads, _lock: lock };
        Ok((store, recovered))
    }

    /// What makes row ids of this store its own.
    pub fn identity(&self) -> u64 {
        self.identity
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A way to the writer.
    pub fn writer(&self) -> Writer {
        Writer::new(Arc::clone(&self.shared))
    }

    /// A connection to read with.
    ///
    /// # Errors
    /// As the disk's.
    pub fn reader(&self) -> Result<Reader, StoreError> {
        self.writer().reader()
    }

    /// Every input after `record`, for an engine.
    ///
    /// # Errors
    /// As the disk's; [`StoreError::Closed`].
    pub fn feed(&self, record: RecordNo) -> Result<Feed, StoreError> {
        let (sender, receiver) = sync_channel(self.config.feed_inputs.max(1));
        self.writer().attach(sender)?;
        Ok(Feed::new(self.reader()?, receiver, Arc::clone(&self.shared), record))
    }

    /// Counts and sizes.
    pub fn counters(&self) -> StoreCounters {
        self.shared.counters()
    }

    /// The balance of every sink, as of the last commit.
    pub fn balances(&self) -> Vec<Balance> {
        self.shared.live().balances.clone()
    }

    /// Has `told` called, once, when the store has ended after a fatal error: the process must end then.
    pub fn when_fatal(&self, told: OnFatal) {
        self.shared.when_fatal(told);
    }

    /// Commits what waits, and closes.
    pub fn close(self) {}
}

impl Drop for Store {
    fn drop(&mut self) {
        self.shared.queue.close(StoreError::Closed);
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so, and has closed the queue.
            let _ = thread.join();
            self.shared.release_checkpointer();
        }
    }
}

/// Nobody waits for a writer that is gone, however it went.
struct CloseAtEnd(Arc<Shared>);

impl Drop for CloseAtEnd {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.queue.close(StoreError::Closed);
            let (rest, _) = self.0.queue.take(usize::MAX, usize::MAX, Duration::ZERO);
            rest.into_iter().for_each(|command| command.refuse(StoreError::Closed));
            self.0.fatal(StoreError::Fatal("the writer's thread panicked".to_owned()));
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StoreError> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(work);
    spawned.map_err(|error| StoreError::Refused(format!("the thread `{name}` cannot be started: {error}")))
}

/// A store that was read as far as a start reads it.
struct Opened {
    connection: rusqlite::Connection,
    state: State,
    sweeper: Sweeper,
    waiting: Waiting,
    identity: u64,
    recovered: Recovered,
}

/// Opens what is there; if that is damaged, what can be salvaged of it.
fn open_or_salvage(directory: &Path, config: &StoreConfig) -> Result<Opened, StoreError> {
    let making = Making::new(config.page_bytes)?;
    let mut loss = salvage::finish(directory)?;
    let opened = match salvage::marked(directory) {
        Some(why) => Err(StoreError::Corrupt(why)),
        None => open_sound(directory, config, making),
    };
    let opened = match opened {
        Err(StoreError::Disk(why)) => match salvage::unreadable(&directory.join(FILE_NAME)) {
            Some(why) => Err(StoreError::Corrupt(why)),
            None => Err(StoreError::Disk(why)),
        },
        other => other,
    };
    let mut opened = match opened {
        Err(StoreError::Corrupt(why)) => {
            loss = Some(salvage::salvage(directory, making, &why)?);
            open_sound(directory, config, making)?
        }
        other => other?,
    };
    if let Some(loss) = loss {
        opened.recovered.notices.push(loss.said());
        opened.recovered.loss = Some(loss);
    }
    Ok(opened)
}

/// Opens a store that is not damaged, or makes one.
fn open_sound(directory: &Path, config: &StoreConfig, making: Making) -> Result<Opened, StoreError> {
    let file = directory.join(FILE_NAME);
    if !file.exists() {
        if directory.join(salvage::LOG).exists() {
            return Err(StoreError::Corrupt("there is a log without its file".to_owned()));
        }
        salvage::create(directory, making)?;
    }
    if let Some(why) = salvage::log_damage(directory, making)? {
        return Err(StoreError::Corrupt(why));
    }
    let connection = schema::open_writer(&file)?;
    let pages = Pages::open(&file, &directory.join(salvage::LOG), config.page_bytes);
    schema::probe(&connection, &pages.map_err(|error| StoreError::file(&file, &error))?)?;
    let mut state = State::load(&connection)?;
    let mut waiting = Waiting::new(config.clocks.clone());
    waiting.load(&connection, &mut state.duplicates)?;
    let recovered = recover(&connection, &state)?;
    let identity = schema::meta(&connection, "identity")? as u64;
    let sweeper = Sweeper::new(&connection, config.max_bytes, config.max_age_ns, config.when_full)?;
    schema::trust(&connection)?;
    Ok(Opened { connection, state, sweeper, waiting, identity, recovered })
}

/// Where the engine goes on.
fn recover(connection: &rusqlite::Connection, state: &State) -> Result<Recovered, StoreError> {
    let newest = (Seq(state.next_seq.saturating_sub(1)), Seq(state.next_result.saturating_sub(1)));
    let mut recovered = Recovered { newest, ..Recovered::default() };
    match checkpoint::read(connection) {
        Ok(found) => recovered.checkpoint = found,
        Err(StoreError::Corrupt(what)) => recovered.notices.push(format!("{what}: the engine starts from the oldest record")),
        Err(error) => return Err(error),
    }
    recovered.resume_after = recovered.checkpoint.as_ref().map_or(RecordNo(0), |checkpoint| checkpoint.position);
    recovered.refused_through = RecordNo(schema::meta(connection, "refused_through")?.max(0) as u64);
    let oldest: Option<i64> = connection.query_row("SELECT min(record) FROM inbox", [], |row| row.get(0))?;
    let before = match oldest.unwrap_or(1) {
        oldest @ 1.. => oldest as u64 - 1,
        wrong => return Err(StoreError::Corrupt(format!("a record has the number {wrong}"))),
    };
    let first = recovered.resume_after.0.max(before);
    recovered.to_replay = (state.next_record - 1).saturating_sub(first);
    Ok(recovered)
}

/// Moves the log into the file whenever something was committed, beside the writer, so that no commit has to.
fn move_log(connection: &rusqlite::Connection, woken: &Receiver<()>, shared: &Shared) {
    let (mut moved_before, mut behind) = (0, false);
    while woken.recv().is_ok() {
        if !behind {
            // Moving less often moves a page that changes in every commit only once.
            thread::sleep(LOG_INTERVAL);
        }
        let log = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get(1)?, row.get(2)?)));
        match log.map_err(StoreError::from) {
            Ok((pages, moved)) => {
                let bytes = |pages: i64| pages.max(0) as u64 * page_bytes(connection);
                // The count starts again whenever the log does.
                behind = bytes(if moved < moved_before { moved } else { moved - moved_before }) > MOVED_BYTES_MAX;
                moved_before = moved;
                shared.live().counters.bytes_log = bytes(pages);
            }
            Err(error @ StoreError::Fatal(_)) => {
                shared.queue.close(error.clone());
                shared.fatal(error);
                return;
            }
            // Full or refused: the writer meets it too, and says so.
            Err(_) => {}
        }
    }
    // The last one out leaves no log behind; if it cannot, the next start reads the log.
    let _ = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
}

/// After more than this was moved at once, the next is not waited for: a log that gets away has to be moved by a commit.
const MOVED_BYTES_MAX: u64 = 512 << 10;
/// See [`move_log`].
const LOG_INTERVAL: Duration = Duration::from_millis(20);

fn page_bytes(connection: &rusqlite::Connection) -> u64 {
    connection.pragma_query_value(None, "page_size", |row| row.get::<_, i64>(0)).map_or(0, |bytes| bytes.max(0) as u64)
}

/// Makes the names of new files durable.
fn sync_directory(directory: &Path) -> Result<(), StoreError> {
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(|error| StoreError::file(directory, &error))
}

//! What the writer's thread shares with everybody else.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::counters::{Durations, StoreCounters, StoreStatus};
use super::error::StoreError;
use super::queue::Queue;
use super::salvage;
use super::state::Balance;

/// Damaged records that are counted; the first one makes the next start salvage.
const DAMAGED_MAX: usize = 65_536;

/// Called once, when the store has ended after a fatal error.
pub type OnFatal = Box<dyn FnOnce(StoreError) + Send>;

/// Looked at by many, changed by the writer after each commit; locked for a copy, never while anything is done.
pub struct Live {
    /// Without the durations and the queue.
    pub counters: StoreCounters,
    /// Of every sink.
    pub balances: Vec<Balance>,
    /// From the start of a transaction to the end of its sync.
    pub commits: Durations,
    /// From handing an append over to its acknowledgement.
    pub acknowledgements: Durations,
    on_fatal: Option<OnFatal>,
    /// Records that cannot be read, whoever asked for them.
    damaged: BTreeSet<u64>,
}

/// See the module.
pub struct Shared {
    /// The way to the writer.
    pub queue: Queue,
    /// The last record that is committed.
    pub committed: AtomicU64,
    /// Appends that found no room at first.
    pub held_back: AtomicU64,
    /// Where the store is.
    pub directory: PathBuf,
    live: Mutex<Live>,
    checkpointer: Mutex<Option<SyncSender<()>>>,
}

impl Shared {
    /// With nothing done yet.
    pub fn new(directory: &Path, queue_bytes_max: usize, checkpointer: SyncSender<()>) -> Result<Self, StoreError> {
        Ok(Self {
            directory: directory.to_owned(),
            queue: Queue::new(queue_bytes_max),
            committed: AtomicU64::new(0),
            held_back: AtomicU64::new(0),
            live: Mutex::new(Live {
                counters: StoreCounters::default(),
                balances: Vec::new(),
                commits: Durations::new()?,
                acknowledgements: Durations::new()?,
                on_fatal: None,
                damaged: BTreeSet::new(),
            }),
            checkpointer: Mutex::new(Some(checkpointer)),
        })
    }

    /// The counters and balances, to look at or to change.
    pub fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A snapshot.
    pub fn counters(&self) -> StoreCounters {
        let (commands, bytes) = self.queue.held();
        let live = self.live();
        StoreCounters {
            commit_ms: live.commits.quantiles(),
            acknowledge_ms: live.acknowledgements.quantiles(),
            queued_commands: commands as u64,
            queued_bytes: bytes as u64,
            committed: self.committed.load(Ordering::Acquire),
            appends_held_back: self.held_back.load(Ordering::Relaxed),
            ..live.counters.clone()
        }
    }

    /// A record cannot be read. It is passed over; the next start salvages.
    pub fn damaged(&self, record: u64) {
        {
            let mut live = self.live();
            if live.damaged.len() < DAMAGED_MAX {
                live.damaged.insert(record);
                live.counters.records_damaged = live.damaged.len() as u64;
            }
        }
        self.note_damage(&format!("record {record} does not match its checksum"));
    }

    /// A read met what SQLite cannot make sense of: nobody would get past it, so the process has to end and start again.
    pub fn met(&self, error: &StoreError) {
        match error {
            StoreError::Corrupt(_) => {
                self.queue.close(error.clone());
                self.fatal(error.clone());
            }
            StoreError::Disk(why) => self.note_damage(&format!("{}{why}", salvage::REFUSED_READ)),
            _ => {}
        }
    }

    fn note_damage(&self, why: &str) {
        let is_first = self.live().counters.damage.is_none();
        if is_first {
            self.live().counters.damage = Some(why.to_owned());
            salvage::mark(&self.directory, why);
        }
    }

    /// The store has ended.
    pub fn fatal(&self, error: StoreError) {
        if let StoreError::Corrupt(why) = &error {
            self.note_damage(why);
        }
        let mut live = self.live();
        live.counters.status = StoreStatus::Fatal(error.to_string());
        let told = live.on_fatal.take();
        drop(live);
        if let Some(told) = told {
            told(error);
        }
    }

    /// Has `told` called when the store ends; at once if it has.
    pub fn when_fatal(&self, told: OnFatal) {
        let mut live = self.live();
        if let StoreStatus::Fatal(reason) = &live.counters.status {
            let error = StoreError::Fatal(reason.clone());
            drop(live);
            told(error);
        } else {
            live.on_fatal = Some(told);
        }
    }

    /// Something was committed: the log may be moved.
    pub fn wake_checkpointer(&self) {
        let checkpointer = self.checkpointer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(checkpointer) = &*checkpointer {
            // Full: it is awake already. Gone: the store is closing.
            let _ = checkpointer.try_send(());
        }
    }

    /// The checkpointer may end.
    pub fn release_checkpointer(&self) {
        self.checkpointer.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

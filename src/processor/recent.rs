//! Sinks that are looked into while the processor runs: the newest rows, and rows to be taken one by one.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::Duration,
};

use super::{Sink, SinkError};
use crate::model::Timestamp;

/// Keeps the newest rows for whoever holds another handle of it.
///
/// ```
/// use qadf_edge::{model::Timestamp, processor::{MemorySource, RecentSink, StreamConfig, StreamProcessor}};
///
/// let recent = RecentSink::new(3, |row: &(i64, &str)| Timestamp(row.0));
/// let mut processor = StreamProcessor::new(StreamConfig::default());
/// processor.from_source(MemorySource::new([(1, "a"), (2, "b"), (3, "a"), (4, "a")])).to_sink(recent.clone());
/// processor.start()?;
/// processor.await_termination(None);
/// assert_eq!(recent.newest(2), [(3, "a"), (4, "a")]);
/// assert_eq!(recent.within(Timestamp(2), Timestamp(3)), [(2, "b"), (3, "a")]);
/// assert_eq!(recent.count_by(1000, |row| row.1).into_iter().collect::<Vec<_>>(), [("a", 2), ("b", 1)]);
/// # Ok::<(), qadf_edge::processor::ProcessorError>(())
/// ```
pub struct RecentSink<T> {
    rows: Arc<Mutex<VecDeque<T>>>,
    capacity: usize,
    time_of: Arc<dyn Fn(&T) -> Timestamp + Send + Sync>,
}

impl<T> Clone for RecentSink<T> {
    fn clone(&self) -> Self {
        Self { rows: Arc::clone(&self.rows), capacity: self.capacity, time_of: Arc::clone(&self.time_of) }
    }
}

impl<T: Clone> RecentSink<T> {
    /// The newest `capacity` rows, whose time is what `time_of` says.
    pub fn new(capacity: usize, time_of: impl Fn(&T) -> Timestamp + Send + Sync + 'static) -> Self {
        Self { rows: Arc::default(), capacity, time_of: Arc::new(time_of) }
    }

    fn locked(&self) -> MutexGuard<'_, VecDeque<T>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last `count` rows in the order they came.
    pub fn newest(&self, count: usize) -> Vec<T> {
        let rows = self.locked();
        rows.range(rows.len().saturating_sub(count)..).cloned().collect()
    }

    /// The rows with times from `from` to `to`, both included, in the order they came.
    pub fn within(&self, from: Timestamp, to: Timestamp) -> Vec<T> {
        let is_within = |row: &&T| (from..=to).contains(&(self.time_of)(row));
        self.locked().iter().filter(is_within).cloned().collect()
    }

    /// The last `count` rows by what `key_of` says of them.
    pub fn group_by<K: Ord>(&self, count: usize, key_of: impl Fn(&T) -> K) -> BTreeMap<K, Vec<T>> {
        let mut groups = BTreeMap::<K, Vec<T>>::new();
        for row in self.newest(count) {
            groups.entry(key_of(&row)).or_default().push(row);
        }
        groups
    }

    /// How many of the last `count` rows have which key.
    pub fn count_by<K: Ord>(&self, count: usize, key_of: impl Fn(&T) -> K) -> BTreeMap<K, usize> {
        self.group_by(count, key_of).into_iter().map(|(key, rows)| (key, rows.len())).collect()
    }
}

impl<T: Clone + Send + 'static> Sink<T> for RecentSink<T> {
    fn write(&mut self, rows: &[T]) -> Result<(), SinkError> {
        let mut kept = self.locked();
        kept.extend(rows[rows.len().saturating_sub(self.capacity)..].iter().cloned());
        let surplus = kept.len().saturating_sub(self.capacity);
        kept.drain(..surplus);
        Ok(())
    }
}

/// Takes rows out of a processor one by one.
pub struct Outlet<T> {
    rows: mpsc::Receiver<T>,
}

impl<T> Outlet<T> {
    /// The next row; none if there is none within `patience`, or never will be.
    pub fn next(&self, patience: Duration) -> Option<T> {
        self.rows.recv_timeout(patience).ok()
    }
}

/// The end of an [`outlet`] that a processor writes to.
pub struct OutletSink<T> {
    rows: mpsc::SyncSender<T>,
    /// Rows of the write that waits, which are handed over already.
    done: usize,
}

/// A sink that at most `capacity` rows fit in, and where they come out. A full one holds the processor back, and with it its source; one
/// whose outlet is dropped fails it.
pub fn outlet<T: Clone + Send + 'static>(capacity: usize) -> (OutletSink<T>, Outlet<T>) {
    let (sink, rows) = mpsc::sync_channel(capacity);
    (OutletSink { rows: sink, done: 0 }, Outlet { rows })
}

impl<T: Clone + Send + 'static> Sink<T> for OutletSink<T> {
    fn write(&mut self, rows: &[T]) -> Result<(), SinkError> {
        // A write that waits is repeated with the same rows.
        for row in &rows[self.done..] {
            match self.rows.try_send(row.clone()) {
                Ok(()) => self.done += 1,
                Err(mpsc::TrySendError::Full(_)) => return Err(SinkError::Retry("nobody takes rows out".into())),
                Err(mpsc::TrySendError::Disconnected(_)) => return Err(SinkError::Fatal("the outlet is gone".into())),
            }
        }
        self.done = 0;
        Ok(())
    }
}

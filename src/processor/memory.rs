//! Sources and sinks in memory.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
};

use super::{DeliveryGuarantee, Poll, Polled, Sink, SinkError, Source, SourceError};

/// Rows that are there already, in partitions that are read in turn.
pub struct MemorySource<T> {
    partitions: Vec<(Arc<str>, VecDeque<T>, u64)>,
    next: usize,
}

impl<T> MemorySource<T> {
    /// Rows of one partition, called `memory`.
    pub fn new(rows: impl IntoIterator<Item = T>) -> Self {
        Self { partitions: vec![("memory".into(), rows.into_iter().collect(), 0)], next: 0 }
    }

    /// Adds a partition.
    #[must_use]
    pub fn partition(mut self, name: &str, rows: impl IntoIterator<Item = T>) -> Self {
        self.partitions.push((name.into(), rows.into_iter().collect(), 0));
        self
    }
}

impl<T: Send + 'static> Source for MemorySource<T> {
    type Row = T;

    fn poll(&mut self, max: usize, into: &mut Polled<T>) -> Result<Poll, SourceError> {
        let count = self.partitions.len();
        let next = (self.next..self.next + count).map(|at| at % count).find(|at| !self.partitions[*at].1.is_empty());
        let Some(at) = next else { return Ok(Poll::End) };
        let (name, rows, taken) = &mut self.partitions[at];
        into.partition = Arc::clone(name);
        let some = max.min(rows.len());
        if some == rows.len() && into.rows.is_empty() {
            into.rows = std::mem::take(rows).into();
        } else {
            into.rows.extend(rows.drain(..some));
        }
        *taken += some as u64;
        self.next = at + 1;
        Ok(if self.partitions.iter().all(|(_, rows, _)| rows.is_empty()) { Poll::End } else { Poll::Ready })
    }

    fn position(&self) -> Vec<u8> {
        let taken = self.partitions.iter().flat_map(|(_, _, taken)| taken.to_le_bytes());
        taken.chain((self.next as u64).to_le_bytes()).collect()
    }

    fn seek(&mut self, position: &[u8]) -> Result<(), SourceError> {
        let (numbers, rest) = position.as_chunks::<8>();
        let [taken @ .., next] = numbers else { return Err(SourceError("a position of another source".into())) };
        if !rest.is_empty() || taken.len() != self.partitions.len() {
            return Err(SourceError("a position of another source".into()));
        }
        for ((_, rows, before), taken) in self.partitions.iter_mut().zip(taken) {
            let taken = u64::from_le_bytes(*taken);
            let skip = usize::try_from(taken.saturating_sub(*before)).unwrap_or(usize::MAX).min(rows.len());
            rows.drain(..skip);
            *before = taken;
        }
        self.next = u64::from_le_bytes(*next) as usize;
        Ok(())
    }
}

/// The far end of a [`channel`] is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the processor takes no more rows")]
pub struct Closed;

/// Hands rows to a processor, from any number of threads.
#[derive(Debug)]
pub struct Emitter<T> {
    rows: mpsc::SyncSender<T>,
}

impl<T> Clone for Emitter<T> {
    fn clone(&self) -> Self {
        Self { rows: self.rows.clone() }
    }
}

impl<T> Emitter<T> {
    /// Hands over a row, waiting while the processor is behind.
    ///
    /// # Errors
    /// The processor has ended.
    pub fn emit(&self, row: T) -> Result<(), Closed> {
        self.rows.send(row).map_err(|_| Closed)
    }
}

struct ChannelSource<T> {
    rows: mpsc::Receiver<T>,
}

/// A source that gives what is emitted, at most `capacity` rows behind; it ends when the last emitter is dropped.
pub fn channel<T: Send + 'static>(capacity: usize) -> (Emitter<T>, impl Source<Row = T>) {
    let (emitter, rows) = mpsc::sync_channel(capacity);
    (Emitter { rows: emitter }, ChannelSource { rows })
}

impl<T: Send + 'static> Source for ChannelSource<T> {
    type Row = T;

    fn poll(&mut self, max: usize, into: &mut Polled<T>) -> Result<Poll, SourceError> {
        while into.rows.len() < max {
            match self.rows.try_recv() {
                Ok(row) => into.rows.push(row),
                Err(mpsc::TryRecvError::Empty) => return Ok(Poll::Pending),
                Err(mpsc::TryRecvError::Disconnected) => return Ok(Poll::End),
            }
        }
        Ok(Poll::Ready)
    }
}

/// Keeps rows for whoever holds another handle of it.
pub struct MemorySink<T> {
    rows: Arc<Mutex<Vec<T>>>,
}

impl<T> Clone for MemorySink<T> {
    fn clone(&self) -> Self {
        Self { rows: Arc::clone(&self.rows) }
    }
}

impl<T> Default for MemorySink<T> {
    fn default() -> Self {
        Self { rows: Arc::default() }
    }
}

impl<T> fmt::Debug for MemorySink<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "MemorySink({} rows)", self.len())
    }
}

impl<T> MemorySink<T> {
    /// Without rows.
    pub fn new() -> Self {
        Self::default()
    }

    fn locked(&self) -> MutexGuard<'_, Vec<T>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many rows it has.
    pub fn len(&self) -> usize {
        self.locked().len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes all rows out.
    pub fn take(&self) -> Vec<T> {
        std::mem::take(&mut self.locked())
    }
}

impl<T: Clone> MemorySink<T> {
    /// All rows so far.
    pub fn rows(&self) -> Vec<T> {
        self.locked().clone()
    }
}

impl<T: Clone + Send + 'static> Sink<T> for MemorySink<T> {
    fn write(&mut self, rows: &[T]) -> Result<(), SinkError> {
        self.locked().extend_from_slice(rows);
        Ok(())
    }

    fn guarantee(&self) -> DeliveryGuarantee {
        DeliveryGuarantee::ExactlyOnce
    }

    fn flush(&mut self) -> Result<Vec<u8>, SinkError> {
        Ok((self.len() as u64).to_le_bytes().to_vec())
    }

    fn rewind(&mut self, position: &[u8]) -> Result<(), SinkError> {
        let position = position.try_into().map_err(|_| SinkError::Fatal("a position of another sink".into()))?;
        self.locked().truncate(u64::from_le_bytes(position) as usize);
        Ok(())
    }
}

/// Counts rows, and keeps the newest one.
pub struct CountingSink<T> {
    seen: Arc<Mutex<(u64, Option<T>)>>,
}

impl<T> Clone for CountingSink<T> {
    fn clone(&self) -> Self {
        Self { seen: Arc::clone(&self.seen) }
    }
}

impl<T> Default for CountingSink<T> {
    fn default() -> Self {
        Self { seen: Arc::new(Mutex::new((0, None))) }
    }
}

impl<T: Clone> CountingSink<T> {
    /// Has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many rows it has seen.
    pub fn count(&self) -> u64 {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// The newest row.
    pub fn latest(&self) -> Option<T> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }
}

impl<T: Clone + Send + 'static> Sink<T> for CountingSink<T> {
    fn write(&mut self, rows: &[T]) -> Result<(), SinkError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.0 += rows.len() as u64;
        seen.1 = rows.last().cloned().or(seen.1.take());
        Ok(())
    }

    fn guarantee(&self) -> DeliveryGuarantee {
        DeliveryGuarantee::ExactlyOnce
    }

    fn flush(&mut self) -> Result<Vec<u8>, SinkError> {
        Ok(self.count().to_le_bytes().to_vec())
    }

    fn rewind(&mut self, position: &[u8]) -> Result<(), SinkError> {
        let position = position.try_into().map_err(|_| SinkError::Fatal("a position of another sink".into()))?;
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).0 = u64::from_le_bytes(position);
        Ok(())
    }
}

//! What a step remembers under keys.

use std::{
    collections::{BTreeMap, BTreeSet},
    marker::PhantomData,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::model::Flags;

use super::{
    chunk::{Chunk, Turn},
    config::ns,
    error::ProcessorError,
    step::{AnyChunk, Around, Step, chunk_of},
};

/// Values under text keys, in the order of the keys. Handles share one state: one is given to a step, others look at it.
///
/// With a time to live, an entry that was not written for longer is gone. Time is that of rows where they have one: the state of a replay is
/// that of the original run.
#[derive(Debug, Clone, Default)]
pub struct KeyedState {
    ttl: Option<Duration>,
    entries: Arc<Mutex<Entries>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Entries {
    by_key: BTreeMap<String, (i64, Vec<u8>)>,
    /// By the time of the last writing, so that the oldest are found.
    by_time: BTreeSet<(i64, String)>,
    now: i64,
}

impl Entries {
    fn remove(&mut self, key: &str) -> bool {
        let Some((written, _)) = self.by_key.remove(key) else { return false };
        self.by_time.remove(&(written, key.to_owned()));
        true
    }

    fn put(&mut self, key: &str, bytes: Vec<u8>) {
        self.remove(key);
        self.by_time.insert((self.now, key.to_owned()));
        self.by_key.insert(key.to_owned(), (self.now, bytes));
    }

    fn expire(&mut self, ttl_ns: i64) {
        while let Some((written, key)) = self.by_time.pop_first() {
            if self.now.saturating_sub(written) < ttl_ns {
                self.by_time.insert((written, key));
                return;
            }
            self.by_key.remove(&key);
        }
    }
}

impl KeyedState {
    /// Entries live until they are removed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Entries live this long after they were last written.
    pub fn with_ttl(ttl: Duration) -> Self {
        Self { ttl: Some(ttl), ..Self::default() }
    }

    fn locked(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value under `key`, if there is one of this type.
    pub fn get<V: DeserializeOwned>(&self, key: &str) -> Option<V> {
        let entries = self.locked();
        postcard::from_bytes(&entries.by_key.get(key)?.1).ok()
    }

    /// Puts `value` under `key`; whether it could be, which it always can unless its type cannot be serialised.
    pub fn put<V: Serialize>(&self, key: &str, value: &V) -> bool {
        let Ok(bytes) = postcard::to_stdvec(value) else { return false };
        self.locked().put(key, bytes);
        true
    }

    /// Removes what is under `key`; whether there was anything.
    pub fn remove(&self, key: &str) -> bool {
        self.locked().remove(key)
    }

    /// What is under keys that begin with `prefix`, in their order.
    pub fn list<V: DeserializeOwned>(&self, prefix: &str) -> Vec<(String, V)> {
        let entries = self.locked();
        let below = entries.by_key.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        below.filter_map(|(key, (_, bytes))| Some((key.clone(), postcard::from_bytes(bytes).ok()?))).collect()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.locked().by_key.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Time is at least this: what is too old goes.
    fn pass(&self, now: i64) {
        let mut entries = self.locked();
        entries.now = entries.now.max(now);
        if let Some(ttl) = self.ttl {
            entries.expire(ns(ttl));
        }
    }
}

/// A function with a state, as a step.
pub(super) struct Stateful<T, F> {
    pub state: KeyedState,
    pub function: F,
    pub rows: PhantomData<fn(T)>,
}

impl<T, U, I, F> Step for Stateful<T, F>
where
    T: Send + 'static,
    U: Send + 'static,
    I: IntoIterator<Item = U>,
    F: FnMut(&mut KeyedState, T) -> I + Send,
{
    fn run(&mut self, chunk: AnyChunk, around: &mut Around<'_>, out: &mut Vec<AnyChunk>) -> Result<(), ProcessorError> {
        let mut chunk = chunk_of::<T>(chunk)?;
        around.counts.rows_in += chunk.rows.len() as u64;
        let (mut rows, mut from) = (Vec::with_capacity(chunk.rows.len()), Vec::with_capacity(chunk.rows.len()));
        for (at, row) in std::mem::take(&mut chunk.rows).into_iter().enumerate() {
            // A row too far in the future makes nothing old.
            if chunk.flags.get(at).is_none_or(|flags| !flags.has(Flags::FUTURE)) {
                self.state.pass(chunk.time.get(at).map_or(chunk.arrival.0, |time| *time));
            }
            rows.extend((self.function)(&mut self.state, row));
            from.resize(rows.len(), at);
        }
        match chunk.turn {
            Turn::Advance(watermark) | Turn::Close(watermark) => self.state.pass(watermark),
            Turn::Idle(now) if !chunk.is_timed => self.state.pass(now.0),
            _ => {}
        }
        around.counts.rows_out += rows.len() as u64;
        let chunk: Chunk<U> = chunk.with_rows(rows, Some(&from));
        out.push(Box::new(chunk));
        Ok(())
    }

    fn save(&mut self) -> Result<Vec<u8>, ProcessorError> {
        postcard::to_stdvec(&*self.state.locked()).map_err(ProcessorError::checkpoint)
    }

    fn load(&mut self, state: &[u8]) -> Result<(), ProcessorError> {
        *self.state.locked() = postcard::from_bytes(state).map_err(ProcessorError::checkpoint)?;
        Ok(())
    }
}

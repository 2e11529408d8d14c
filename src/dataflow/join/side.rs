//! The rows of one stream that wait for the other: columns by slot, and per key a queue of slots sorted by time.
//!
//! A heap holds, for every key with rows, an entry not later than its first row; freeing follows the heap, so its cost does not depend
//! on how many keys there are. Slots of freed rows are filled again.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::dataflow::keys::KeyTable;
use crate::model::{Batch, Flags, NO_LAYER, Row, Seq, Stream, Timestamp};

/// A row in its key's queue.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    time: i64,
    slot: u32,
}

/// What a slot holds besides values and texts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Head {
    time: i64,
    seq: u64,
    position: Option<[f64; 3]>,
    layer: i32,
    flags: u8,
    matched: bool,
}

/// A row that is freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Freed {
    pub time: i64,
    pub seq: u64,
    pub slot: u32,
    pub key: u32,
    pub matched: bool,
}

#[derive(Debug)]
pub(super) struct Side {
    pub stream: Arc<Stream>,
    /// The columns of the tags to join on.
    pub tags: Vec<usize>,
    /// A row is of use until the watermark is beyond its time plus this, nanoseconds.
    keep_ns: i64,
    heads: Vec<Head>,
    /// By slot, as many as the stream has signals.
    values: Vec<f64>,
    /// By slot, as many as the stream has tags.
    texts: Vec<Option<Arc<str>>>,
    free: Vec<u32>,
    /// By key number.
    queues: Vec<VecDeque<Waiting>>,
    firsts: BinaryHeap<Reverse<(i64, u32)>>,
}

/// The rows of a side, key by key, in the order they wait.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SideSnapshot {
    heads: Vec<Head>,
    values: Vec<f64>,
    /// Places in `names`.
    texts: Vec<Option<u32>>,
    names: Vec<Arc<str>>,
}

impl Side {
    pub fn new(stream: Arc<Stream>, tags: Vec<usize>, keep_ns: i64) -> Self {
        Self {
            stream,
            tags,
            keep_ns,
            heads: Vec::new(),
            values: Vec::new(),
            texts: Vec::new(),
            free: Vec::new(),
            queues: Vec::new(),
            firsts: BinaryHeap::new(),
        }
    }

    /// How many rows wait.
    pub fn len(&self) -> usize {
        self.heads.len() - self.free.len()
    }

    pub fn has_rows_of(&self, key: u32) -> bool {
        self.queues.get(key as usize).is_some_and(|queue| !queue.is_empty())
    }

    /// Appends the slots of the rows of `key` with a time in `from..=to`, by (time, arrival).
    pub fn between(&self, key: u32, from: i64, to: i64, slots: &mut Vec<u32>) {
        let Some(queue) = self.queues.get(key as usize) else { return };
        let start = queue.partition_point(|one| one.time < from);
        slots.extend(queue.range(start..).take_while(|one| one.time <= to).map(|one| one.slot));
    }

    pub fn set_matched(&mut self, slot: u32) {
        self.heads[slot as usize].matched = true;
    }

    /// The row in a slot.
    pub fn row(&self, slot: u32) -> Row {
        let (slot, signals, tags) = (slot as usize, self.stream.signals.len(), self.stream.tags.len());
        let head = &self.heads[slot];
        let values = &self.values[slot * signals..(slot + 1) * signals];
        Row {
            stream: Arc::clone(&self.stream),
            seq: Seq(head.seq),
            time: Timestamp(head.time),
            position: head.position,
            layer: Some(head.layer).filter(|layer| *layer != NO_LAYER),
            tags: self.texts[slot * tags..(slot + 1) * tags].to_vec(),
            values: values.iter().map(|value| Some(*value).filter(|value| !value.is_nan())).collect(),
            flags: Flags(head.flags),
        }
    }

    /// Lets a row of a batch wait.
    pub fn insert(&mut self, key: u32, batch: &Batch, row: usize, matched: bool) {
        let head = Head {
            time: batch.time[row],
            seq: batch.seq(row).0,
            position: batch.position(row),
            layer: batch.layer(row).unwrap_or(NO_LAYER),
            flags: batch.flags(row).0,
            matched,
        };
        let slot = self.slot(head);
        let (signals, tags) = (self.stream.signals.len(), self.stream.tags.len());
        let values = &mut self.values[slot * signals..(slot + 1) * signals];
        for (signal, value) in values.iter_mut().enumerate() {
            *value = batch.signals.get(signal).map_or(f64::NAN, |column| column[row]);
        }
        let texts = &mut self.texts[slot * tags..(slot + 1) * tags];
        for (tag, text) in texts.iter_mut().enumerate() {
            *text = batch.tags.get(tag).and_then(|column| column.get(row)).cloned();
        }
        self.enqueue(key, head.time, slot as u32);
    }

    /// A place for a row; what its columns hold is left from the row before.
    fn slot(&mut self, head: Head) -> usize {
        if let Some(slot) = self.free.pop() {
            self.heads[slot as usize] = head;
            return slot as usize;
        }
        self.heads.push(head);
        self.values.resize(self.heads.len() * self.stream.signals.len(), f64::NAN);
        self.texts.resize(self.heads.len() * self.stream.tags.len(), None);
        self.heads.len() - 1
    }

    fn enqueue(&mut self, key: u32, time: i64, slot: u32) {
        if self.queues.len() <= key as usize {
            self.queues.resize_with(key as usize + 1, VecDeque::new);
        }
        let queue = &mut self.queues[key as usize];
        let waiting = Waiting { time, slot };
        if queue.back().is_none_or(|last| last.time <= time) {
            queue.push_back(waiting);
        } else {
            queue.insert(queue.partition_point(|one| one.time <= time), waiting);
        }
        if queue.front().is_some_and(|first| first.slot == slot) {
            self.firsts.push(Reverse((time, key)));
        }
    }

    fn is_over(&self, time: i64, watermark: Timestamp) -> bool {
        watermark.0 > time.saturating_add(self.keep_ns) || watermark == Timestamp::MAX
    }

    /// Takes every row out of its queue that is of no more use at `watermark`. The slots stay filled until [`Self::release`].
    pub fn expire(&mut self, watermark: Timestamp, freed: &mut Vec<Freed>) {
        while let Some(Reverse((time, key))) = self.firsts.peek().copied()
            && self.is_over(time, watermark)
        {
            self.firsts.pop();
            while let Some(first) = self.queues[key as usize].front().copied()
                && self.is_over(first.time, watermark)
            {
                self.queues[key as usize].pop_front();
                freed.push(self.freed(key, first));
            }
            self.schedule(key);
        }
    }

    /// Takes the row out of its queue that would be freed first.
    pub fn evict(&mut self) -> Option<Freed> {
        while let Some(Reverse((time, key))) = self.firsts.pop() {
            let queue = &mut self.queues[key as usize];
            // An entry can be of a row that has gone already.
            let is_first = queue.front().is_some_and(|first| first.time == time);
            let first = if is_first { queue.pop_front() } else { None };
            self.schedule(key);
            if let Some(first) = first {
                return Some(self.freed(key, first));
            }
        }
        None
    }

    /// Puts the first row of `key` into the heap.
    fn schedule(&mut self, key: u32) {
        if let Some(first) = self.queues[key as usize].front() {
            self.firsts.push(Reverse((first.time, key)));
        }
    }

    fn freed(&self, key: u32, waiting: Waiting) -> Freed {
        let Head { seq, matched, .. } = self.heads[waiting.slot as usize];
        Freed { time: waiting.time, seq, slot: waiting.slot, key, matched }
    }

    /// Gives the slot of a freed row back.
    pub fn release(&mut self, slot: u32) {
        let tags = self.stream.tags.len();
        // Lets go of texts that nothing else may hold.
        self.texts[slot as usize * tags..(slot as usize + 1) * tags].fill(None);
        self.free.push(slot);
    }

    /// The watermark from which on a row is freed.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.firsts.peek().map(|Reverse((time, _))| Timestamp(*time).saturating_add(self.keep_ns).saturating_add(1))
    }

    pub fn snapshot(&self, keys: &KeyTable) -> SideSnapshot {
        let mut saved = SideSnapshot { heads: Vec::new(), values: Vec::new(), texts: Vec::new(), names: Vec::new() };
        let (signals, tags) = (self.stream.signals.len(), self.stream.tags.len());
        let mut places = std::collections::BTreeMap::new();
        let queues = keys.sorted().into_iter().filter_map(|key| self.queues.get(key as usize));
        for slot in queues.flatten().map(|waiting| waiting.slot as usize) {
            saved.heads.push(self.heads[slot]);
            saved.values.extend(&self.values[slot * signals..(slot + 1) * signals]);
            saved.texts.extend(self.texts[slot * tags..(slot + 1) * tags].iter().map(|text| {
                text.as_ref().map(|text| {
                    *places.entry(Arc::clone(text)).or_insert_with(|| {
                        saved.names.push(Arc::clone(text));
                        (saved.names.len() - 1) as u32
                    })
                })
            }));
        }
        saved
    }

    /// Takes saved rows over; `None` if they are not of this stream's shape.
    pub fn restore(&mut self, saved: &SideSnapshot, keys: &mut KeyTable) -> Option<()> {
        let (signals, tags) = (self.stream.signals.len(), self.stream.tags.len());
        let rows = saved.heads.len();
        let text = |text: &Option<u32>| text.is_none_or(|place| (place as usize) < saved.names.len());
        if saved.values.len() != rows * signals || saved.texts.len() != rows * tags || !saved.texts.iter().all(text) {
            return None;
        }
        self.values.clone_from(&saved.values);
        self.heads.clone_from(&saved.heads);
        self.texts = saved.texts.iter().map(|text| text.map(|place| Arc::clone(&saved.names[place as usize]))).collect();
        self.free.clear();
        self.queues.clear();
        self.firsts.clear();
        for slot in 0..rows {
            let key = keys.number(self.tags.iter().map(|tag| self.texts[slot * tags + tag].as_ref()));
            self.enqueue(key, self.heads[slot].time, slot as u32);
        }
        Some(())
    }

    /// The times that wait under `key`.
    pub fn times(&self, key: u32) -> Vec<i64> {
        self.queues.get(key as usize).into_iter().flatten().map(|one| one.time).collect()
    }
}

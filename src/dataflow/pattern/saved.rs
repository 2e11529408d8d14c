//! A pattern's state in a checkpoint: every row that waits or is part of a candidate once, and who refers to it.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{CONDITIONS_MAX, Item, PatternCounters, PatternError, PatternKind, PatternOperator, candidates::Rows};
use crate::model::{Flags, Row, Seq, Stream, Timestamp};

/// A row without its stream's shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct SavedRow {
    number: u64,
    met: u64,
    seq: u64,
    time_ns: i64,
    position: Option<[f64; 3]>,
    layer: Option<i32>,
    tags: Vec<Option<Arc<str>>>,
    values: Vec<Option<f64>>,
    flags: u8,
}

/// A pattern's whole state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PatternSnapshot {
    watermark_ns: i64,
    next_number: u64,
    counters: PatternCounters,
    /// By number.
    rows: Vec<SavedRow>,
    /// Numbers of the rows that wait for the watermark.
    pending: Vec<u64>,
    /// Numbers of the rows of each candidate, key by key, in the order of the candidates.
    candidates: Vec<Vec<u64>>,
}

impl SavedRow {
    fn new(item: &Item) -> Self {
        let row = &item.row;
        Self {
            number: item.number,
            met: item.met,
            seq: row.seq.0,
            time_ns: row.time.0,
            position: row.position,
            layer: row.layer,
            tags: row.tags.clone(),
            values: row.values.clone(),
            flags: row.flags.0,
        }
    }

    /// The row again, if it has the shape of `stream`.
    fn row(&self, stream: &Arc<Stream>) -> Option<Row> {
        let fits = self.tags.len() == stream.tags.len() && self.values.len() == stream.signals.len();
        fits.then(|| Row {
            stream: Arc::clone(stream),
            seq: Seq(self.seq),
            time: Timestamp(self.time_ns),
            position: self.position,
            layer: self.layer,
            tags: self.tags.clone(),
            values: self.values.clone(),
            flags: Flags(self.flags),
        })
    }
}

impl PatternOperator {
    /// The whole state.
    pub fn snapshot(&self) -> PatternSnapshot {
        let keys = self.keys.sorted();
        let candidates: Vec<&Rows> =
            keys.iter().filter_map(|key| self.candidates.get(*key as usize)).flat_map(|one| &one.open).collect();
        let items = self.pending.values().chain(candidates.iter().copied().flatten());
        let rows: BTreeMap<u64, SavedRow> = items.map(|item| (item.number, SavedRow::new(item))).collect();
        PatternSnapshot {
            watermark_ns: self.watermark.0,
            next_number: self.next_number,
            counters: self.counters,
            rows: rows.into_values().collect(),
            pending: self.pending.values().map(|item| item.number).collect(),
            candidates: candidates.iter().map(|rows| rows.iter().map(|item| item.number).collect()).collect(),
        }
    }

    /// Puts a saved state in place of this one, after which everything goes on as if undisturbed.
    ///
    /// # Errors
    /// The stream or the pattern is another than when it was saved; this state is then as good as new.
    pub fn restore(&mut self, saved: &PatternSnapshot) -> Result<(), PatternError> {
        *self = Self::new(Arc::clone(&self.pipeline), self.config.clone(), &Arc::clone(&self.stream))?;
        if self.fill(saved).is_none() {
            *self = Self::new(Arc::clone(&self.pipeline), self.config.clone(), &Arc::clone(&self.stream))?;
            return Err(PatternError::Snapshot(Arc::clone(&self.config.id)));
        }
        self.watermark = Timestamp(saved.watermark_ns);
        self.next_number = saved.next_number;
        self.counters = saved.counters;
        Ok(())
    }

    fn fill(&mut self, saved: &PatternSnapshot) -> Option<()> {
        let bits = self.conditions.len();
        let mut items = BTreeMap::new();
        for one in &saved.rows {
            if bits < CONDITIONS_MAX && one.met >> bits != 0 {
                return None;
            }
            let row = one.row(&self.stream)?;
            let key = self.keys.number(self.tags.iter().map(|tag| row.tags[*tag].as_ref()));
            items.insert(one.number, Item { number: one.number, key, met: one.met, row });
        }
        let items: BTreeMap<u64, Arc<Item>> = items.into_iter().map(|(number, item)| (number, Arc::new(item))).collect();
        for number in &saved.pending {
            let item = Arc::clone(items.get(number)?);
            self.state(item.key).pending += 1;
            self.pending.insert(item.order(), item);
        }
        for numbers in &saved.candidates {
            let rows: Option<Rows> = numbers.iter().map(|number| items.get(number).cloned()).collect();
            self.open(rows?)?;
        }
        for key in self.keys.sorted() {
            self.state(key);
            self.schedule(key, self.config.within_ns);
        }
        Some(())
    }

    /// Takes a saved candidate over, if it can be one of this pattern.
    fn open(&mut self, rows: Rows) -> Option<()> {
        let key = rows.first()?.key;
        let (one, length) = (rows.len() == 1, rows.len());
        match &self.config.kind {
            PatternKind::Sequence(steps) if length < steps.len() => self.state(key).open.push_back(rows),
            PatternKind::All(conditions) if one => {
                let conditions = conditions.len();
                for item in rows {
                    self.state(key).add(item, conditions);
                }
            }
            PatternKind::Absence { .. } if one => self.state(key).open.push_back(rows),
            _ => return None,
        }
        Some(())
    }
}

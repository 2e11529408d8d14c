//! What a checkpoint keeps of a ring: the rows in it and the counters, nothing else.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::{Batch, Flags, Positions, Seq, Stream, TagColumn, Timestamp};

use super::{Ring, RingError};

/// A ring at rest, by columns in order of arrival.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RingState {
    source: Arc<str>,
    partition: Arc<str>,
    arrival: i64,
    added: u64,
    evicted: u64,
    removed: u64,
    time: Vec<i64>,
    seq: Vec<u64>,
    signals: Vec<Vec<f64>>,
    tags: Vec<(Vec<u32>, Vec<Arc<str>>)>,
    positions: Option<[Vec<f64>; 3]>,
    layer: Option<Vec<i32>>,
    flags: Option<Vec<u8>>,
}

impl Ring {
    /// The rows in the ring and its counters, for a checkpoint.
    pub fn snapshot(&self) -> RingState {
        let all = self.sliding(self.len());
        let batch = all.to_batch();
        let counts = self.counts();
        RingState {
            source: batch.source,
            partition: batch.partition,
            arrival: batch.arrival.0,
            added: counts.added,
            evicted: counts.evicted,
            removed: counts.removed,
            time: batch.time,
            seq: all.seqs().to_vec(),
            signals: batch.signals,
            tags: batch.tags.into_iter().map(|column| (column.codes, column.names)).collect(),
            positions: batch.positions.map(|at| [at.x, at.y, at.z]),
            layer: batch.layer,
            flags: batch.flags.map(|flags| flags.into_iter().map(|flags| flags.0).collect()),
        }
    }

    /// The ring that gave `state`; with a smaller capacity the newest rows of it.
    ///
    /// # Errors
    /// A capacity that [`Ring::new`] refuses, or a state of another stream's shape.
    pub fn restore(stream: Arc<Stream>, capacity_rows: usize, state: RingState) -> Result<Self, RingError> {
        let mut ring = Self::new(Arc::clone(&stream), capacity_rows)?;
        let mut batch = Batch::new(stream, state.source, state.partition, Timestamp(state.arrival));
        batch.time = state.time;
        batch.signals = state.signals;
        batch.tags = state.tags.into_iter().map(|(codes, names)| TagColumn { codes, names }).collect();
        batch.positions = state.positions.map(|[x, y, z]| Positions { x, y, z });
        batch.layer = state.layer;
        batch.flags = state.flags.map(|flags| flags.into_iter().map(Flags).collect());
        if !batch.is_consistent() || state.seq.len() != batch.rows() {
            return Err(RingError::Shape);
        }
        let rows = batch.rows();
        for (row, seq) in run_starts(&state.seq) {
            batch.first_seq = Seq(seq.wrapping_sub(row.start as u64));
            ring.append(&batch, row);
        }
        ring.set_counts(state.added, state.evicted.saturating_add(rows.saturating_sub(capacity_rows) as u64), state.removed);
        Ok(ring)
    }
}

/// Cuts the rows into runs whose numbers follow each other; each with its first number.
fn run_starts(seqs: &[u64]) -> Vec<(std::ops::Range<usize>, u64)> {
    let mut runs = Vec::new();
    let mut start = 0;
    for row in 1..=seqs.len() {
        if row == seqs.len() || seqs[row] != seqs[row - 1].wrapping_add(1) {
            runs.push((start..row, seqs[start]));
            start = row;
        }
    }
    runs
}

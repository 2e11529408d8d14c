//! Feeds operators that live in event time, so that each row is processed before the watermark moves from it.
//!
//! [`Flow`] knows the combined watermark before the batch and after each of its rows. An operator says up to which watermark it can
//! take rows without being told about progress; the rows up to the one that moves the watermark there go in together, then the
//! operator advances. What the operator puts out therefore does not depend on where batches were cut.

use crate::model::{Batch, Output, Seq, Timestamp};

/// The watermark along one batch as it came in.
#[derive(Debug, Clone, Default)]
pub struct Flow {
    /// Before the first row.
    pub before: i64,
    /// After each row; never falling.
    pub after: Vec<i64>,
    /// The number of each row in the inbox is `first_seq` plus its place.
    pub first_seq: u64,
}

impl Flow {
    /// After the last row.
    pub fn last(&self) -> i64 {
        self.after.last().copied().unwrap_or(self.before)
    }
}

/// An operator driven by rows and a watermark.
pub trait Timed {
    /// Up to this watermark (exclusive), nothing happens that the operator must be told of, even if rows from `earliest` on go in first;
    /// later than `watermark`, where it stands.
    fn quiet_until(&self, earliest: Timestamp, watermark: Timestamp) -> Timestamp;
    /// Takes in rows while the watermark stands at `watermark`.
    fn push(&mut self, batch: &Batch, rows: std::ops::Range<usize>, watermark: Timestamp, out: &mut Vec<Output>);
    /// The watermark is here now.
    fn advance(&mut self, watermark: Timestamp, out: &mut Vec<Output>);
}

/// Feeds `batch`, whose row `i` came in at place `places[i]` of the flow (`None`: at place `i`).
pub fn drive<T: Timed>(operator: &mut T, batch: &Batch, places: Option<&[usize]>, flow: &Flow, out: &mut Vec<Output>) {
    let rows = batch.rows();
    let earliest = earliest_from(&batch.time);
    let (mut next, mut watermark, mut seen) = (0, Timestamp(flow.before), 0);
    loop {
        // Progress is made even if an operator has nothing quiet to offer: at least one place of the flow goes by in each turn.
        let quiet = operator.quiet_until(Timestamp(earliest[next]), watermark);
        let moves = seen + flow.after[seen..].partition_point(|after| *after < quiet.0);
        let until = places.map_or(rows.min(moves + 1), |places| places.partition_point(|place| *place <= moves)).max(next);
        if until > next {
            operator.push(batch, next..until, watermark, out);
        }
        next = until;
        if moves >= flow.after.len() {
            return;
        }
        watermark = Timestamp(flow.after[moves]);
        let fired = out.len();
        operator.advance(watermark, out);
        for output in &mut out[fired..] {
            output.at = Seq(flow.first_seq + moves as u64);
        }
        seen = moves + 1;
    }
}

/// The earliest time from each row on; the last entry, after all rows, is the end of time.
fn earliest_from(times: &[i64]) -> Vec<i64> {
    let mut earliest = vec![i64::MAX; times.len() + 1];
    for row in (0..times.len()).rev() {
        earliest[row] = earliest[row + 1].min(times[row]);
    }
    earliest
}

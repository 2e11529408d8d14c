//! How each operator is driven by rows and a watermark.

use std::ops::Range;

use super::{WindowOperator, drive::Timed, join::JoinOperator, pattern::PatternOperator};
use crate::model::{Batch, Output, Timestamp};

impl Timed for WindowOperator {
    fn quiet_until(&self, earliest: Timestamp, watermark: Timestamp) -> Timestamp {
        Self::quiet_until(self, earliest, watermark)
    }

    fn push(&mut self, batch: &Batch, rows: Range<usize>, watermark: Timestamp, out: &mut Vec<Output>) {
        Self::push(self, batch, rows, watermark, out);
    }

    fn advance(&mut self, watermark: Timestamp, out: &mut Vec<Output>) {
        Self::advance(self, watermark, out);
    }
}

/// One side of a join, while the other side's watermark stands still.
pub struct Join<'a> {
    operator: &'a mut JoinOperator,
    other: i64,
    left: bool,
}

impl<'a> Join<'a> {
    /// Rows of the left side.
    pub fn left(operator: &'a mut JoinOperator, right: i64) -> Self {
        Self { operator, other: right, left: true }
    }

    /// Rows of the right side.
    pub fn right(operator: &'a mut JoinOperator, left: i64) -> Self {
        Self { operator, other: left, left: false }
    }
}

impl Timed for Join<'_> {
    /// A row is late as soon as the watermark passes its time, so the watermark is told before it passes the earliest.
    fn quiet_until(&self, earliest: Timestamp, _: Timestamp) -> Timestamp {
        let rows = earliest.saturating_add(1);
        let quiet = self.operator.deadline().map_or(rows, |deadline| deadline.min(rows));
        if quiet.0 > self.other { Timestamp::MAX } else { quiet }
    }

    fn push(&mut self, batch: &Batch, rows: Range<usize>, _: Timestamp, out: &mut Vec<Output>) {
        if self.left {
            self.operator.push_left(batch, rows, out);
        } else {
            self.operator.push_right(batch, rows, out);
        }
    }

    fn advance(&mut self, watermark: Timestamp, out: &mut Vec<Output>) {
        self.operator.advance(Timestamp(watermark.0.min(self.other)), out);
    }
}

/// A pattern.
pub struct Pattern<'a>(pub &'a mut PatternOperator);

impl Timed for Pattern<'_> {
    fn quiet_until(&self, earliest: Timestamp, _: Timestamp) -> Timestamp {
        let rows = earliest.saturating_add(1);
        self.0.deadline().map_or(rows, |deadline| deadline.min(rows))
    }

    fn push(&mut self, batch: &Batch, rows: Range<usize>, _: Timestamp, out: &mut Vec<Output>) {
        self.0.push(batch, rows, out);
    }

    fn advance(&mut self, watermark: Timestamp, out: &mut Vec<Output>) {
        self.0.advance(watermark, out);
    }
}

//! Feeds operators that live in event time, so that each row is processed before the watermark moves from it.
//!
//! [`Flow`] knows the combined watermark before the batch and after each of its rows. An operator says up to which watermark it can
//! take rows without being told about progress; the rows up to the one that moves the watermark there go in together, then the
//! operator advances. What the operator puts out therefore does not depend on where batches were cut.

use std::ops::Range;

use crate::model::{Batch, Output, Seq, Timestamp, time_bounds};

/// The watermark along one batch as it came in.
#[derive(Debug, Clone, Default)]
pub struct Flow {
    /// Before the first row.
    pub before: i64,
    /// Where it moves: the place of a row, and the watermark after it; both rising.
    pub moves: Vec<(usize, i64)>,
    /// Rows of the batch.
    pub rows: usize,
    /// The number of each row in the inbox is `first_seq` plus its place.
    pub first_seq: u64,
}

impl Flow {
    /// After the last row.
    pub fn last(&self) -> i64 {
        self.moves.last().map_or(self.before, |(_, after)| *after)
    }

    /// After each row.
    pub fn after(&self) -> impl Iterator<Item = i64> {
        let (mut moves, mut after) = (self.moves.iter().copied().peekable(), self.before);
        (0..self.rows).map(move |row| {
            if let Some((_, moved)) = moves.next_if(|(place, _)| *place == row) {
                after = moved;
            }
            after
        })
    }
}

/// An operator driven by rows and a watermark.
pub trait Timed {
    /// Up to this watermark (exclusive), nothing happens that the operator must be told of, even if rows from `earliest` on go in first;
    /// later than `watermark`, where it stands.
    fn quiet_until(&self, earliest: Timestamp, watermark: Timestamp) -> Timestamp;
    /// Takes in rows while the watermark stands at `watermark`.
    fn push(&mut self, batch: &Batch, rows: Range<usize>, watermark: Timestamp, out: &mut Vec<Output>);
    /// The watermark is here now.
    fn advance(&mut self, watermark: Timestamp, out: &mut Vec<Output>);
}

/// Feeds `batch`, whose row `i` came in at place `places[i]` of the flow (`None`: at place `i`).
pub fn drive<T: Timed>(operator: &mut T, batch: &Batch, places: Option<&[usize]>, flow: &Flow, out: &mut Vec<Output>) {
    drive_some(&mut Whole(operator), batch, None, places, flow, out, |_| {});
}

/// An operator that takes rows by their places in a batch.
pub trait TimedRows {
    /// As [`Timed::quiet_until`].
    fn quiet_until(&self, earliest: Timestamp, watermark: Timestamp) -> Timestamp;
    /// Takes in `rows` while the watermark stands at `watermark`.
    fn push_some(&mut self, batch: &Batch, rows: Rows<'_>, watermark: Timestamp, out: &mut Vec<Output>);
    /// The watermark is here now.
    fn advance(&mut self, watermark: Timestamp, out: &mut Vec<Output>);
}

/// Rows of a batch.
#[derive(Debug, Clone)]
pub struct Rows<'r> {
    /// Their places are `places[range]`; `None`: `range`.
    pub places: Option<&'r [u32]>,
    /// See `places`.
    pub range: Range<usize>,
    /// Their earliest and their latest time, if that is known.
    pub bounds: Option<(i64, i64)>,
}

struct Whole<'o, T>(&'o mut T);

impl<T: Timed> TimedRows for Whole<'_, T> {
    fn quiet_until(&self, earliest: Timestamp, watermark: Timestamp) -> Timestamp {
        self.0.quiet_until(earliest, watermark)
    }

    fn push_some(&mut self, batch: &Batch, rows: Rows<'_>, watermark: Timestamp, out: &mut Vec<Output>) {
        self.0.push(batch, rows.range, watermark, out);
    }

    fn advance(&mut self, watermark: Timestamp, out: &mut Vec<Output>) {
        self.0.advance(watermark, out);
    }
}

/// Feeds the rows `some` of `batch`, rising (`None`: all), along the whole flow. `fired` is told which results the watermark caused, as
/// places of `out`; the others were caused by rows.
pub fn drive_some<T: TimedRows>(
    operator: &mut T,
    batch: &Batch,
    some: Option<&[u32]>,
    places: Option<&[usize]>,
    flow: &Flow,
    out: &mut Vec<Output>,
    mut fired: impl FnMut(Range<usize>),
) {
    let rows = some.map_or(batch.rows(), <[u32]>::len);
    let mut earliest: Option<Vec<i64>> = None;
    let until = |next: usize, last: usize| match (some, places) {
        (None, None) => rows.min(last + 1),
        (None, Some(places)) => places.partition_point(|place| *place <= last),
        (Some(some), None) => next + some[next..].partition_point(|row| *row as usize <= last),
        (Some(some), Some(places)) => next + some[next..].partition_point(|row| places[*row as usize] <= last),
    };
    let (mut next, mut watermark, mut moves) = (0, Timestamp(flow.before), &flow.moves[..]);
    loop {
        // Progress is made even if an operator has nothing quiet to offer: at least one move of the flow goes by in each turn.
        let (from, bounds) = match &earliest {
            Some(earliest) => (earliest[next], None),
            None => {
                let bounds = bounds_of(&batch.time, some);
                (bounds.0, Some(bounds))
            }
        };
        let quiet = operator.quiet_until(Timestamp(from), watermark);
        moves = &moves[moves.partition_point(|(_, after)| *after < quiet.0)..];
        let moved = moves.split_first();
        let until = moved.map_or(rows, |((place, _), _)| until(next, *place).max(next));
        if until > next {
            let bounds = bounds.filter(|_| until - next == rows);
            operator.push_some(batch, Rows { places: some, range: next..until, bounds }, watermark, out);
        }
        next = until;
        let Some(((place, after), behind)) = moved else { return };
        earliest.get_or_insert_with(|| earliest_from(&batch.time, some));
        watermark = Timestamp(*after);
        let before = out.len();
        operator.advance(watermark, out);
        for output in &mut out[before..] {
            output.at = Seq(flow.first_seq + *place as u64);
        }
        if out.len() > before {
            fired(before..out.len());
        }
        moves = behind;
    }
}

/// The earliest and the latest time of all rows.
fn bounds_of(times: &[i64], some: Option<&[u32]>) -> (i64, i64) {
    match some {
        Some(some) => time_bounds(some.iter().map(|row| times[*row as usize])),
        None => time_bounds(times.iter().copied()),
    }
}

/// The earliest time from each row on; the last entry, after all rows, is the end of time.
fn earliest_from(times: &[i64], some: Option<&[u32]>) -> Vec<i64> {
    let rows = some.map_or(times.len(), <[u32]>::len);
    let time = |row: usize| some.map_or(times[row], |some| times[some[row] as usize]);
    let mut earliest = vec![i64::MAX; rows + 1];
    for row in (0..rows).rev() {
        earliest[row] = earliest[row + 1].min(time(row));
    }
    earliest
}

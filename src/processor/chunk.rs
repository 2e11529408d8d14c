//! Rows on their way through the steps, together.

use std::sync::Arc;

use crate::{
    dataflow::Flow,
    model::{Flags, Timestamp},
};

/// What happens behind the rows of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nothing.
    Go,
    /// What is held back goes on.
    Flush,
    /// No row has come for a while: what is held back goes on, and the clock says this.
    Idle(Timestamp),
    /// The watermark moves here.
    Advance(i64),
    /// The watermark moves here, and every open window says what it has.
    Close(i64),
    /// The source has ended.
    End,
}

/// Some rows of one source partition.
#[derive(Debug)]
pub struct Chunk<T> {
    pub rows: Vec<T>,
    /// Whether rows have an event time here.
    pub is_timed: bool,
    /// Event time by row; empty while it is not known.
    pub time: Vec<i64>,
    /// The place of each row in the flow; none = row `i` is at place `i`.
    pub places: Option<Vec<usize>>,
    /// What is known of each row besides; empty = nothing of any.
    pub flags: Vec<Flags>,
    /// The watermark along the rows as they came in.
    pub flow: Arc<Flow>,
    pub turn: Turn,
    pub partition: Arc<str>,
    pub arrival: Timestamp,
}

fn pick<C>(column: &mut Vec<C>, kept: &[bool]) {
    let mut kept = kept.iter();
    column.retain(|_| kept.next().copied().unwrap_or(false));
}

impl<T> Chunk<T> {
    /// Rows from a source.
    pub fn new(rows: Vec<T>, partition: Arc<str>, arrival: Timestamp, turn: Turn) -> Self {
        Self {
            rows,
            is_timed: false,
            time: Vec::new(),
            places: None,
            flags: Vec::new(),
            flow: Arc::default(),
            turn,
            partition,
            arrival,
        }
    }

    /// The same with other rows, each from the row at its place in `from`; none = one from each, in order.
    pub fn with_rows<U>(self, rows: Vec<U>, from: Option<&[usize]>) -> Chunk<U> {
        let (mut time, mut places, mut flags) = (self.time, self.places, self.flags);
        if let Some(from) = from.filter(|_| !time.is_empty()) {
            places = Some(from.iter().map(|row| places.as_ref().map_or(*row, |places| places[*row])).collect());
            time = from.iter().map(|row| time[*row]).collect();
            flags = if flags.is_empty() { flags } else { from.iter().map(|row| flags[*row]).collect() };
        }
        let Self { is_timed, flow, turn, partition, arrival, .. } = self;
        Chunk { rows, is_timed, time, places, flags, flow, turn, partition, arrival }
    }

    /// Keeps the rows for which `keep` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        if self.time.is_empty() {
            self.rows.retain(keep);
            return;
        }
        let kept: Vec<bool> = self.rows.iter().map(&mut keep).collect();
        if kept.iter().all(|kept| *kept) {
            return;
        }
        let mut places = self.places.take().unwrap_or_else(|| (0..self.rows.len()).collect());
        pick(&mut places, &kept);
        self.places = Some(places);
        pick(&mut self.rows, &kept);
        pick(&mut self.time, &kept);
        pick(&mut self.flags, &kept);
    }
}

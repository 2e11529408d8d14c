//! Windows over a ring, as views: nothing is copied until a batch is asked for.
//!
//! A [`View`] is rows that lie side by side in order of arrival: each column is one slice, given as an `ndarray` view. A [`TimeView`]
//! is rows in event-time order: the same slices while rows arrive in order, otherwise places into the ring.

use std::sync::Arc;

use ndarray::ArrayView1;

use crate::model::{Batch, Flags, Positions, Seq, TagColumn};

use super::Ring;

/// Consecutive rows of a ring in order of arrival.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    ring: &'a Ring,
    /// Rows of the ring before the view.
    skip: usize,
    len: usize,
}

impl<'a> View<'a> {
    pub(super) fn new(ring: &'a Ring, skip: usize, len: usize) -> Self {
        Self { ring, skip, len }
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Event times, nanoseconds.
    pub fn times(&self) -> ArrayView1<'a, i64> {
        self.ring.times(self.skip, self.len).into()
    }

    /// Numbers in the inbox.
    pub fn seqs(&self) -> ArrayView1<'a, u64> {
        self.ring.seqs(self.skip, self.len).into()
    }

    /// The values of a signal of the stream; `NaN` = no value.
    pub fn signal(&self, signal: usize) -> ArrayView1<'a, f64> {
        self.ring.signal(signal, self.skip, self.len).into()
    }

    /// The codes of a tag of the stream into [`View::tag_names`], or [`crate::model::NO_TAG`].
    pub fn tag_codes(&self, tag: usize) -> ArrayView1<'a, u32> {
        self.ring.tag_codes(tag, self.skip, self.len).into()
    }

    /// The texts of a tag of the stream, by code.
    pub fn tag_names(&self, tag: usize) -> &'a [Arc<str>] {
        self.ring.tag_names(tag)
    }

    /// x, y, z in mm, if any row of the ring ever had a position; `NaN` = none.
    pub fn positions(&self) -> Option<[ArrayView1<'a, f64>; 3]> {
        self.ring.positions(self.skip, self.len).map(|axes| axes.map(Into::into))
    }

    /// Layer numbers, if any row of the ring ever had one; [`crate::model::NO_LAYER`] = none.
    pub fn layers(&self) -> Option<ArrayView1<'a, i32>> {
        self.ring.layers(self.skip, self.len).map(Into::into)
    }

    /// What is known of each row besides, if of any.
    pub fn flags(&self) -> Option<&'a [Flags]> {
        self.ring.flags(self.skip, self.len)
    }

    /// The rows as a batch of their own: the copy that readers outside the engine are given. Source, partition and arrival are those
    /// of the newest batch in the ring; `first_seq` is 0 where the rows do not follow each other in the inbox.
    pub fn to_batch(&self) -> Batch {
        let ring = self.ring;
        let latest = ring.latest();
        let mut batch = Batch::new(Arc::clone(ring.stream()), latest.source, latest.partition, latest.arrival);
        batch.time = self.times().to_vec();
        batch.first_seq = first_of_run(ring.seqs(self.skip, self.len));
        batch.signals = (0..batch.signals.len()).map(|signal| self.signal(signal).to_vec()).collect();
        batch.tags = (0..batch.tags.len())
            .map(|tag| TagColumn { codes: self.tag_codes(tag).to_vec(), names: self.tag_names(tag).to_vec() })
            .collect();
        batch.positions = self.positions().map(|[x, y, z]| Positions { x: x.to_vec(), y: y.to_vec(), z: z.to_vec() });
        batch.layer = self.layers().map(|layers| layers.to_vec());
        batch.flags = self.flags().map(<[Flags]>::to_vec);
        batch
    }
}

fn first_of_run(seqs: &[u64]) -> Seq {
    match (seqs.first(), seqs.last()) {
        (Some(first), Some(last)) if last.checked_sub(*first) == Some(seqs.len() as u64 - 1) => Seq(*first),
        _ => Seq(0),
    }
}

/// Rows of a ring in event-time order; equal times in order of arrival.
#[derive(Debug, Clone)]
pub struct TimeView<'a> {
    all: View<'a>,
    rows: Rows,
}

#[derive(Debug, Clone)]
enum Rows {
    /// Arrival order is event-time order: (first, count) in the ring.
    Run(usize, usize),
    /// Places in the ring.
    Picked(Vec<usize>),
}

impl<'a> TimeView<'a> {
    pub(super) fn run(all: View<'a>, first: usize, len: usize) -> Self {
        Self { all, rows: Rows::Run(first, len) }
    }

    pub(super) fn picked(all: View<'a>, rows: Vec<usize>) -> Self {
        Self { all, rows: Rows::Picked(rows) }
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        match &self.rows {
            Rows::Run(_, len) => *len,
            Rows::Picked(rows) => rows.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same rows as one run of slices, if the ring's rows came in order.
    pub fn contiguous(&self) -> Option<View<'a>> {
        match self.rows {
            Rows::Run(first, len) => Some(View::new(self.all.ring, first, len)),
            Rows::Picked(_) => None,
        }
    }

    /// The permutation: places counted from the ring's oldest row, in event-time order.
    pub fn places(&self) -> impl Iterator<Item = usize> + '_ {
        let (first, len) = match &self.rows {
            Rows::Run(first, len) => (*first, *len),
            Rows::Picked(rows) => (0, rows.len()),
        };
        (first..first + len).map(|at| match &self.rows {
            Rows::Run(..) => at,
            Rows::Picked(rows) => rows[at],
        })
    }

    /// Event times, nanoseconds, never going back.
    pub fn times(&self) -> impl Iterator<Item = i64> + '_ {
        let times = self.all.times();
        self.places().map(move |row| times[row])
    }

    /// The values of a signal of the stream; `NaN` = no value.
    pub fn signal(&self, signal: usize) -> impl Iterator<Item = f64> + '_ {
        let values = self.all.signal(signal);
        self.places().map(move |row| values[row])
    }

    /// The rows as a batch of their own, in event-time order.
    pub fn to_batch(&self) -> Batch {
        match &self.rows {
            Rows::Run(first, len) => View::new(self.all.ring, *first, *len).to_batch(),
            Rows::Picked(rows) => {
                let mut batch = self.all.to_batch().take(rows);
                batch.first_seq = Seq(0);
                batch
            }
        }
    }
}

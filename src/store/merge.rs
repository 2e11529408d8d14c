//! Small batches that lie next to each other in a commit become one record: a frame of eight rows costs 30 bytes a row on its own, and
//! 3 in company.
//!
//! Only neighbours of one source partition with the same shape join, so that the order of the inbox stays that of the queue, and only
//! if they arrived within [`ARRIVAL_SPREAD_NS_MAX`], since a record has one time of arrival: that of its first batch.

use std::sync::Arc;

use crate::model::{Batch, Flags, NO_LAYER, NO_TAG, Origin, Positions, TagColumn};

/// Batches from here on are left alone: they already compress well.
pub const SMALL_ROWS: usize = 256;
/// Rows of a joined record.
const JOINED_ROWS_MAX: usize = 4_096;
/// Ten milliseconds: below what any `idle` or `max_future` can tell apart.
const ARRIVAL_SPREAD_NS_MAX: i64 = 10_000_000;

/// Whether `next` may be appended to `batch`.
pub fn joins(batch: &Batch, next: &Batch) -> bool {
    let spread = next.arrival.since(batch.arrival);
    batch.rows() + next.rows() <= JOINED_ROWS_MAX
        && next.rows() < SMALL_ROWS
        && (0..=ARRIVAL_SPREAD_NS_MAX).contains(&spread)
        && batch.partition == next.partition
        && batch.source == next.source
        && (Arc::ptr_eq(&batch.stream, &next.stream) || batch.stream == next.stream)
}

/// Appends the rows of `next`, which [`joins`].
pub fn join(batch: &mut Batch, next: &Batch) {
    let (before, added) = (batch.rows(), next.rows());
    batch.time.extend_from_slice(&next.time);
    for (column, more) in batch.signals.iter_mut().zip(&next.signals) {
        column.extend_from_slice(more);
    }
    for (column, more) in batch.tags.iter_mut().zip(&next.tags) {
        join_tags(column, more);
    }
    let positions = |rows| Positions { x: vec![f64::NAN; rows], y: vec![f64::NAN; rows], z: vec![f64::NAN; rows] };
    join_optional(
        &mut batch.positions,
        next.positions.as_ref(),
        || positions(before),
        || positions(added),
        |at, more| {
            at.x.extend_from_slice(&more.x);
            at.y.extend_from_slice(&more.y);
            at.z.extend_from_slice(&more.z);
        },
    );
    let layer = |rows| vec![NO_LAYER; rows];
    join_optional(&mut batch.layer, next.layer.as_ref(), || layer(before), || layer(added), |to, more| to.extend_from_slice(more));
    let flags = |rows| vec![Flags::NONE; rows];
    join_optional(&mut batch.flags, next.flags.as_ref(), || flags(before), || flags(added), |to, more| to.extend_from_slice(more));
    let origin = |rows| Origin { device: TagColumn::constant(None, rows), boot: vec![None; rows], seq: vec![None; rows] };
    join_optional(
        &mut batch.origin,
        next.origin.as_ref(),
        || origin(before),
        || origin(added),
        |to, more| {
            join_tags(&mut to.device, &more.device);
            to.boot.extend_from_slice(&more.boot);
            to.seq.extend_from_slice(&more.seq);
        },
    );
}

fn join_optional<T>(
    to: &mut Option<T>,
    more: Option<&T>,
    empty: impl Fn() -> T,
    nothing: impl Fn() -> T,
    extend: impl Fn(&mut T, &T),
) {
    match (to.as_mut(), more) {
        (None, None) => {}
        (Some(to), Some(more)) => extend(to, more),
        (Some(to), None) => extend(to, &nothing()),
        (None, Some(more)) => extend(to.insert(empty()), more),
    }
}

fn join_tags(column: &mut TagColumn, more: &TagColumn) {
    let places: Vec<u32> = more
        .names
        .iter()
        .map(|name| {
            column.names.iter().position(|known| known == name).unwrap_or_else(|| {
                column.names.push(Arc::clone(name));
                column.names.len() - 1
            }) as u32
        })
        .collect();
    column.codes.extend(more.codes.iter().map(|code| if *code == NO_TAG { NO_TAG } else { places[*code as usize] }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Stream, Timestamp};

    fn batch(arrival: i64, texts: &[Option<&str>], full: bool) -> Batch {
        let mut batch = Batch::new(Arc::new(Stream::new("s", &["a"], &["part"])), "src".into(), "p".into(), Timestamp(arrival));
        let rows = texts.len();
        batch.time = (0..rows as i64).map(|i| arrival + i).collect();
        batch.signals[0] = vec![1.0; rows];
        texts.iter().for_each(|text| batch.tags[0].push(*text));
        if full {
            batch.positions = Some(Positions { x: vec![1.0; rows], y: vec![2.0; rows], z: vec![3.0; rows] });
            batch.layer = Some(vec![4; rows]);
            batch.flags = Some(vec![Flags::FUTURE; rows]);
            batch.origin =
                Some(Origin { device: TagColumn::constant(Some("d"), rows), boot: vec![None; rows], seq: vec![Some(9); rows] });
        }
        batch
    }

    fn check(left: &Batch, right: &Batch) {
        let mut joined = left.clone();
        join(&mut joined, right);
        assert!(joined.is_consistent());
        let rows = |batch: &Batch| {
            (0..batch.rows()).map(|row| crate::model::Row { seq: crate::model::Seq(0), ..batch.row(row) }).collect::<Vec<_>>()
        };
        assert_eq!(rows(&joined), [rows(left), rows(right)].concat());
    }

    #[test]
    fn joined_rows_are_the_rows_of_both() {
        for (left, right) in [(false, false), (true, true), (true, false), (false, true)] {
            check(&batch(0, &[Some("a"), None], left), &batch(5, &[Some("b"), Some("a"), None], right));
        }
    }

    #[test]
    fn only_neighbours_of_one_partition_and_moment_join() {
        let first = batch(0, &[None], false);
        assert!(joins(&first, &batch(ARRIVAL_SPREAD_NS_MAX, &[None], true)));
        assert!(!joins(&first, &batch(ARRIVAL_SPREAD_NS_MAX + 1, &[None], false)));
        assert!(!joins(&first, &batch(-1, &[None], false)));
        assert!(!joins(&first, &batch(0, &[None; SMALL_ROWS], false)));
        let other = Batch { partition: "q".into(), ..first.clone() };
        assert!(!joins(&first, &other));
    }
}

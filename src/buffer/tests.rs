use super::*;
use crate::model::Seq;

const SECOND: i64 = 1_000_000_000;

fn stream() -> Arc<Stream> {
    Arc::new(Stream::new("melt", &["intensity"], &["part"]))
}

/// One row a (time in s, value); the tag is the value as text, absent for odd values.
fn batch(rows: &[(i64, f64)]) -> Batch {
    let mut batch = Batch::new(stream(), "s".into(), "s/0".into(), Timestamp(0));
    for (seconds, value) in rows {
        batch.time.push(seconds * SECOND);
        batch.signals[0].push(*value);
        batch.tags[0].push((value % 2.0 == 0.0).then(|| value.to_string()).as_deref());
    }
    batch.first_seq = Seq(100);
    batch
}

fn filled(capacity: usize, rows: &[(i64, f64)]) -> Ring {
    let mut ring = Ring::new(stream(), capacity).unwrap();
    for row in rows {
        ring.append(&batch(&[*row]), 0..1);
    }
    ring
}

#[test]
fn tags_that_never_repeat_do_not_pile_up() {
    let mut ring = Ring::new(stream(), 4).unwrap();
    for value in 0..10_000 {
        ring.append(&batch(&[(value, value as f64 * 2.0)]), 0..1);
    }
    assert!(ring.tag_names(0).len() <= 4 * 2 + 1024 + 1, "{}", ring.tag_names(0).len());
    let texts: Vec<_> = (0..4).map(|row| ring.recent(4).tags[0].get(row).unwrap().to_string()).collect();
    assert_eq!(texts, ["19992", "19994", "19996", "19998"]);
}

#[test]
fn order_is_dropped_once_the_disorder_is_overwritten() {
    let mut ring = filled(3, &[(1, 0.0), (3, 1.0), (2, 2.0)]);
    assert!(ring.by_time().contiguous().is_none());
    assert_eq!(ring.by_time().signal(0).collect::<Vec<_>>(), [0.0, 2.0, 1.0]);
    ring.append(&batch(&[(4, 3.0), (5, 4.0)]), 0..2);
    assert!(ring.by_time().contiguous().is_some());
    assert_eq!(ring.by_time().times().collect::<Vec<_>>(), [2 * SECOND, 4 * SECOND, 5 * SECOND]);
}

#[test]
fn columns_that_come_later_are_empty_for_earlier_rows() {
    let mut ring = filled(3, &[(1, 0.0)]);
    let mut placed = batch(&[(2, 1.0)]);
    placed.positions = Some(Positions { x: vec![1.0], y: vec![2.0], z: vec![3.0] });
    placed.layer = Some(vec![7]);
    placed.set_flag(0, Flags::FUTURE);
    ring.append(&placed, 0..1);
    ring.append(&batch(&[(3, 2.0)]), 0..1);
    let recent = ring.recent(9);
    assert!(recent.is_consistent());
    assert_eq!([0, 1, 2].map(|row| recent.position(row)), [None, Some([1.0, 2.0, 3.0]), None]);
    assert_eq!([0, 1, 2].map(|row| recent.layer(row)), [None, Some(7), None]);
    assert_eq!([0, 1, 2].map(|row| recent.flags(row)), [Flags::NONE, Flags::FUTURE, Flags::NONE]);
}

#[test]
fn a_batch_larger_than_the_ring_leaves_its_newest_rows() {
    let mut ring = filled(3, &[(0, 0.0)]);
    let rows: Vec<_> = (1..=7).map(|second| (second, second as f64)).collect();
    ring.append(&batch(&rows), 0..7);
    assert_eq!(ring.sliding(9).signal(0).to_vec(), [5.0, 6.0, 7.0]);
    assert_eq!(ring.sliding(9).seqs().to_vec(), [104, 105, 106]);
    let statistics = ring.statistics();
    assert_eq!((statistics.added, statistics.evicted, statistics.rows), (8, 5, 3));
}

#[test]
fn clearing_older_rows_closes_the_gaps() {
    let mut ring = filled(4, &[(5, 0.0), (1, 1.0), (6, 2.0), (2, 3.0)]);
    assert_eq!(ring.clear_older_than(Timestamp(5 * SECOND)), 2);
    assert_eq!(ring.sliding(4).signal(0).to_vec(), [0.0, 2.0]);
    assert!(ring.by_time().contiguous().is_some());
    ring.append(&batch(&[(7, 4.0), (8, 5.0), (9, 6.0)]), 0..3);
    assert_eq!(ring.sliding(4).signal(0).to_vec(), [2.0, 4.0, 5.0, 6.0]);
    assert_eq!(ring.clear_older_than(Timestamp(8 * SECOND)), 2);
    assert_eq!(ring.sliding(4).signal(0).to_vec(), [5.0, 6.0]);
}

#[test]
fn impossible_capacities_are_refused() {
    assert_eq!(Ring::new(stream(), 0).unwrap_err(), RingError::Empty);
    let error = Ring::new(stream(), usize::MAX).unwrap_err().to_string();
    assert!(error.contains("18446744073709551615 rows takes"), "{error}");
}

#[test]
fn a_batch_of_another_shape_is_ignored() {
    let mut ring = filled(2, &[(1, 1.0)]);
    let other = Arc::new(Stream::new("other", &["a", "b"], &[]));
    let mut batch = Batch::new(other, "s".into(), "s".into(), Timestamp(0));
    batch.time = vec![1];
    batch.signals = vec![vec![1.0], vec![1.0]];
    ring.append(&batch, 0..1);
    assert_eq!(ring.len(), 1);
}

//! A store that an earlier build wrote opens, gives back every bit, and is written to as before.
//!
//! `tests/cases/store-1.db` holds what [`batches`] makes, appended one after the other, as the first encoder of columns wrote it.

use std::sync::Arc;

use qadf_edge::model::{Batch, Flags, Input, Origin, Positions, Seq, Stream, TagColumn, Timestamp};
use qadf_edge::store::{Store, StoreConfig};

/// Columns of every encoding: decimal, single and full precision, with and without gaps, constant and even; times even, jittering and
/// accelerating; more and fewer rows than a block has.
pub fn batches() -> Vec<Batch> {
    [300, 1, 128, 129, 700].into_iter().enumerate().map(|(place, rows)| batch(place as i64, rows)).collect()
}

fn batch(place: i64, rows: usize) -> Batch {
    let names = ["decimal", "single", "full", "gaps", "constant", "wide"];
    let stream = Arc::new(Stream::new("melt", &names, &["part"]));
    let mut batch = Batch::new(stream, "scan_head".into(), "/dev/tty0".into(), Timestamp(1_000 + place));
    let mut state = place as u64 * 2 + 1;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for row in 0..rows as i64 {
        let jitter = [0, random(200) as i64, row * row][place as usize % 3];
        batch.time.push(1_700_000_000_000_000_000 + row * 20_000 + jitter);
        let values = [
            (random(4_000) as f64 - 2_000.0) / 1_000.0,
            f64::from(random(1 << 20) as f32 / 3.0),
            random(1 << 30) as f64 / 7.0,
            if random(3) == 0 { f64::NAN } else { random(50) as f64 / 10.0 },
            -0.0,
            random(1 << 31) as f64 * 1e6,
        ];
        batch.signals.iter_mut().zip(values).for_each(|(column, value)| column.push(value));
        batch.tags[0].push([Some("A3"), None, Some("B1")][random(3) as usize]);
    }
    let along = |step: f64| (0..rows).map(|row| f64::round((10.0 + row as f64 * step) * 1e4) / 1e4).collect();
    batch.positions = Some(Positions { x: along(0.016), y: along(0.007), z: vec![0.03; rows] });
    batch.layer = Some((0..rows).map(|row| (row / 100) as i32).collect());
    batch.flags = Some((0..rows).map(|row| Flags((row % 3) as u8)).collect());
    let device = TagColumn::constant(Some("d1"), rows);
    let seq = (0..rows as i64).map(|row| (row % 50 != 7).then_some(place * 1_000 + row)).collect();
    batch.origin = Some(Origin { device, boot: vec![Some(3); rows], seq });
    batch
}

/// `NaN` is not equal to itself; its text is.
fn text(batches: impl Iterator<Item = Batch>) -> Vec<String> {
    let mut seq = 1;
    let numbered = |mut batch: Batch| {
        batch.first_seq = Seq(seq);
        seq += batch.rows() as u64;
        format!("{batch:?}")
    };
    batches.map(numbered).collect()
}

#[test]
fn a_store_of_the_first_encoder_opens_and_gives_back_every_bit() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases/store-1.db"), directory.path().join("store.db")).unwrap();
    let (store, recovered) = Store::open(directory.path(), StoreConfig::default()).unwrap();
    assert!(recovered.loss.is_none() && recovered.notices.is_empty(), "{recovered:?}");
    let page = store.reader().unwrap().rows_after(Seq(0), usize::MAX, None).unwrap();
    assert_eq!(text(page.batches.iter().map(|batch| (**batch).clone())), text(batches().into_iter()));

    // The same rows again are known; others go on from there.
    let rows = page.through.0;
    let again = store.writer().append(Input::Batch(Arc::new(batch(0, 300)))).unwrap();
    assert_eq!((again.rows, again.duplicates), (6, 294), "only rows without a number are taken twice");
    let next = store.writer().append(Input::Batch(Arc::new(batch(9, 200)))).unwrap();
    assert_eq!((next.first_seq, next.rows), (Seq(rows + 7), 200));
}

//! A crash at every point and every torn length of the log.
//!
//! A read transaction, held open from the start, keeps every commit in the log. The length of the log after each acknowledgement is what
//! a crash can at least not take away: whatever is cut, zeroed or garbled after it, the acknowledged rows are there.

use std::fs;
use std::path::Path;

use rusqlite::Connection;
use tempfile::TempDir;

use super::fixture::{directory, numbered, open, output, step, stored};

struct Image {
    _dir: TempDir,
    file: Vec<u8>,
    log: Vec<u8>,
    /// (length of the log, rows) after each acknowledgement.
    acknowledged: Vec<(usize, usize)>,
}

/// A store of which everything is still in the log.
fn image() -> Image {
    let dir = directory();
    drop(open(dir.path()));
    let file = fs::read(dir.path().join("store.db")).unwrap();
    let store = open(dir.path());
    let reader = Connection::open(dir.path().join("store.db")).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM inbox;").unwrap();
    reader.query_row("SELECT count(*) FROM inbox", [], |_| Ok(())).unwrap();
    let log_path = dir.path().join("store.db-wal");
    let mut acknowledged = vec![(0, 0)];
    let mut rows = 0;
    for count in [1, 3, 300, 1, 2_000, 5, 700, 1, 1, 64] {
        store.writer().append(numbered(rows as u64, count)).unwrap();
        rows += count;
        acknowledged.push((fs::metadata(&log_path).unwrap().len() as usize, rows));
        let result = output(&format!("r{rows}"), "p");
        store.writer().commit_step_and_wait(step(1, vec![result], None)).unwrap();
    }
    let log = fs::read(&log_path).unwrap();
    assert_eq!(fs::read(dir.path().join("store.db")).unwrap(), file, "nothing left the log");
    drop(reader);
    drop(store);
    Image { _dir: dir, file, log, acknowledged }
}

/// Opens what a crash left and checks that at least `rows_min` rows are there, whole appends only, and that it goes on from there.
fn check(image: &Image, log: &[u8], rows_min: usize) {
    let dir = directory();
    write(dir.path(), &image.file, log);
    let store = open(dir.path());
    let found = stored(dir.path());
    assert!(found.len() >= rows_min, "{} of {rows_min} rows", found.len());
    assert!(image.acknowledged.iter().any(|(_, rows)| *rows == found.len()), "{} rows are no whole appends", found.len());
    assert!(found.iter().enumerate().all(|(place, row)| *row == (place as u64 + 1, place as f64)));
    let again = store.writer().append(numbered(0, found.len() + 10)).unwrap();
    assert_eq!((again.rows, again.duplicates), (10, found.len() as u64));
    drop(store);
    assert_eq!(stored(dir.path()).len(), found.len() + 10);
}

fn write(dir: &Path, file: &[u8], log: &[u8]) {
    fs::write(dir.join("store.db"), file).unwrap();
    fs::write(dir.join("store.db-wal"), log).unwrap();
}

fn rows_at(image: &Image, len: usize) -> usize {
    image.acknowledged.iter().filter(|(end, _)| *end <= len).map(|(_, rows)| *rows).max().unwrap()
}

const FRAME: usize = 24 + 4_096;

/// Around every frame and every acknowledgement, and some lengths within.
fn lengths(image: &Image) -> Vec<usize> {
    let mut lengths: Vec<usize> = vec![0, 1, 31, 32, 33, image.log.len()];
    for frame in (32..image.log.len()).step_by(FRAME) {
        lengths.extend([frame.saturating_sub(1), frame, frame + 23, frame + 24, frame + 1_777]);
    }
    lengths.extend(image.acknowledged.iter().map(|(len, _)| *len));
    lengths.retain(|len| *len <= image.log.len());
    lengths.sort_unstable();
    lengths.dedup();
    lengths
}

#[test]
fn a_log_cut_anywhere_keeps_every_acknowledged_row() {
    let image = image();
    let lengths = lengths(&image);
    assert!(lengths.len() > 100, "{} lengths", lengths.len());
    for len in lengths {
        check(&image, &image.log[..len], rows_at(&image, len));
    }
}

#[test]
fn what_was_written_after_the_last_sync_may_be_anything() {
    let image = image();
    for (len, rows) in &image.acknowledged {
        for fill in [0_u8, 0xff, 0x5a] {
            let mut log = image.log.clone();
            log[*len..].fill(fill);
            check(&image, &log, *rows);
        }
        // A later frame of the transaction under way reached the disk before an earlier one.
        let next = image.acknowledged.iter().map(|(end, _)| *end).find(|end| end > len).unwrap_or(image.log.len());
        let mut log = image.log[..next].to_vec();
        let hole = *len..(*len + FRAME).min(next);
        log[hole].fill(0);
        check(&image, &log, *rows);
    }
}

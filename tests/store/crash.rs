//! A crash at every point and every torn length of the log.
//!
//! A read transaction, held open from the start, keeps every commit in the log. The length of the log after each acknowledgement is what
//! a crash can at least not take away: whatever is cut, zeroed or garbled after it, the acknowledged rows are there.

use std::fs;
use std::path::Path;

use rusqlite::Connection;
use tempfile::TempDir;

use super::fixture::{memory, numbered, output, step, stored};
use qadf_edge::store::{Store, StoreConfig};

struct Image {
    _dir: TempDir,
    config: StoreConfig,
    file: Vec<u8>,
    log: Vec<u8>,
    /// (length of the log, rows) after each acknowledgement.
    acknowledged: Vec<(usize, usize)>,
}

fn opened(directory: &Path, config: &StoreConfig) -> Store {
    let (store, recovered) = Store::open(directory, config.clone()).unwrap();
    assert_eq!(recovered.loss, None, "a crash is no damage");
    store
}

/// A store of which everything is still in the log, each of `counts` rows a commit.
fn image(config: StoreConfig, counts: &[usize]) -> Image {
    let dir = memory();
    drop(opened(dir.path(), &config));
    let file = fs::read(dir.path().join("store.db")).unwrap();
    let store = opened(dir.path(), &config);
    let reader = Connection::open(dir.path().join("store.db")).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM inbox;").unwrap();
    reader.query_row("SELECT count(*) FROM inbox", [], |_| Ok(())).unwrap();
    let log_path = dir.path().join("store.db-wal");
    let mut acknowledged = vec![(0, 0)];
    let mut rows = 0;
    for count in counts.iter().copied() {
        store.writer().append(numbered(rows as u64, count)).unwrap();
        rows += count;
        acknowledged.push((fs::metadata(&log_path).unwrap().len() as usize, rows));
        let result = output(&format!("r{rows}"), "p");
        store.writer().commit_step_and_wait(step(1, vec![result], None)).unwrap();
        acknowledged.push((fs::metadata(&log_path).unwrap().len() as usize, rows));
    }
    let log = fs::read(&log_path).unwrap();
    assert_eq!(fs::read(dir.path().join("store.db")).unwrap(), file, "nothing left the log");
    drop(reader);
    drop(store);
    Image { _dir: dir, config, file, log, acknowledged }
}

/// Opens what a crash left and checks that at least `rows_min` rows are there, whole appends only, and that it goes on from there.
fn check(image: &Image, log: &[u8], rows_min: usize) {
    let dir = memory();
    write(dir.path(), &image.file, log);
    let store = opened(dir.path(), &image.config);
    let found = stored(dir.path());
    assert!(found.len() >= rows_min, "{} of {rows_min} rows", found.len());
    assert!(image.acknowledged.iter().any(|(_, rows)| *rows == found.len()), "{} rows are no whole appends", found.len());
    assert!(found.iter().enumerate().all(|(place, row)| *row == (place as u64 + 1, place as f64)));
    // As many as are remembered of a device.
    let resent = found.len().min(65_000);
    let again = store.writer().append(numbered((found.len() - resent) as u64, resent + 10)).unwrap();
    assert_eq!((again.rows, again.duplicates), (10, resent as u64));
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

const SIZES: [usize; 10] = [1, 3, 300, 1, 2_000, 5, 700, 1, 1, 64];

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
    let image = image(StoreConfig::default(), &SIZES);
    let lengths = lengths(&image);
    assert!(lengths.len() > 100, "{} lengths", lengths.len());
    for len in lengths {
        check(&image, &image.log[..len], rows_at(&image, len));
    }
}

#[test]
fn what_was_written_after_the_last_sync_may_be_anything() {
    let image = image(StoreConfig::default(), &SIZES);
    // Without the log's header, which is synced before the first frame, there is nothing to leave out.
    for (len, rows) in &image.acknowledged[1..] {
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

#[test]
fn a_log_cut_at_every_single_byte_keeps_every_acknowledged_row() {
    let image = image(StoreConfig { page_bytes: 512, ..StoreConfig::default() }, &[1, 2, 1]);
    for len in 0..=image.log.len() {
        let dir = memory();
        write(dir.path(), &image.file, &image.log[..len]);
        drop(opened(dir.path(), &image.config));
        let found = stored(dir.path()).len();
        let least = rows_at(&image, len);
        assert!(found >= least && image.acknowledged.iter().any(|(_, rows)| *rows == found), "cut at {len}: {found} of {least}");
    }
}

/// Commits of one row and of the most that fits a record, and more than one tail of 1,024 records.
#[test]
fn with_the_settings_of_production_a_cut_log_keeps_every_acknowledged_row() {
    let mut counts = vec![1; 1_040];
    counts.extend([65_536, 1, 70_000, 300]);
    let image = image(StoreConfig::default(), &counts);
    let frames = (image.log.len() - 32) / FRAME;
    let mut lengths: Vec<usize> = (0..24).map(|place| 32 + place * frames / 24 * FRAME + 997 * place % FRAME).collect();
    lengths.extend(image.acknowledged.iter().rev().take(6).flat_map(|(len, _)| [*len, len.saturating_sub(1)]));
    lengths.extend(image.acknowledged.iter().skip(2_044).take(4).map(|(len, _)| *len));
    for len in lengths {
        check(&image, &image.log[..len], rows_at(&image, len));
    }
}

//! Files that grow, are renamed, cut and read again after a crash.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use qadf_edge::ingest::{FileCodec, FileConfig, Parcel, SourceKind, SourceState};

use super::{Running, routes, synced};

struct Case {
    directory: tempfile::TempDir,
    codec: FileCodec,
    follow: bool,
}

impl Case {
    fn new(codec: FileCodec, follow: bool) -> Self {
        Self { directory: tempfile::tempdir().expect("there is room"), codec, follow }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    fn start(&self) -> Running {
        Running::start(SourceKind::File(FileConfig {
            path: self.path(),
            codec: self.codec.clone(),
            follow: self.follow,
            position: self.directory.path().join("positions/floor.json"),
            routes: routes(),
        }))
    }

    fn append(&self, text: &str) {
        append(&self.path(), text);
    }
}

fn append(path: &Path, text: &str) {
    let mut file = OpenOptions::new().create(true).append(true).open(path).expect("the directory is ours");
    file.write_all(text.as_bytes()).expect("there is room");
}

fn lines(times: std::ops::Range<i64>) -> String {
    let line = |mut text: String, time| {
        use std::fmt::Write;
        writeln!(text, "{{\"time\":{time},\"intensity\":1.5}}").expect("a text takes everything");
        text
    };
    times.fold(String::new(), line)
}

/// The numbers by which an inbox knows rows again, with their times.
fn numbered(parcel: &Parcel) -> Vec<((String, i64, i64), i64)> {
    let of = |batch: &qadf_edge::model::Batch| {
        let origin = batch.origin.clone().expect("rows are numbered");
        let number = |row: usize| {
            let device = origin.device.get(row).expect("a device").to_string();
            ((device, origin.boot[row].expect("a generation"), origin.seq[row].expect("a number")), batch.time[row])
        };
        (0..batch.rows()).map(number).collect::<Vec<_>>()
    };
    parcel.decoded.batches.iter().flat_map(of).collect()
}

#[tokio::test]
async fn a_file_is_read_to_its_end_once() {
    let case = Case::new(FileCodec::JsonLines, false);
    let mut source = case.start();
    source.until_down("cannot read").await;
    case.append(&format!("{}rubbish\n{{\"time\":3}}", lines(0..3)));
    let (times, reasons) = source.sync(5).await;
    assert_eq!((times, reasons.len()), (vec![0, 1, 2, 3], 1));
    source.until(|status| status.state() == SourceState::Ended).await;
    source.end().await;
    let again = case.start();
    again.until(|status| status.state() == SourceState::Ended).await;
    assert_eq!(again.status.counts().received, 0);
    again.end().await;
    case.append("\n{\"time\":4}\n");
    let mut more = case.start();
    assert_eq!(more.sync(1).await.0, [4]);
    more.until(|status| status.state() == SourceState::Ended).await;
    more.end().await;
}

#[tokio::test]
async fn a_followed_file_may_grow_be_renamed_and_be_cut() {
    let case = Case::new(FileCodec::JsonLines, true);
    case.append(&lines(0..3));
    let mut source = case.start();
    assert_eq!(source.sync(3).await.0, [0, 1, 2]);
    case.append("{\"time\":3");
    let mut old = OpenOptions::new().append(true).open(case.path()).unwrap();
    fs::rename(case.path(), case.directory.path().join("log.1")).unwrap();
    // Its writer still has it open.
    old.write_all(b"}\n{\"time\":4}\n{\"time\":5}").unwrap();
    case.append(&lines(6..8));
    let (times, reasons) = source.sync(5).await;
    assert_eq!((times, reasons), (vec![3, 4, 5, 6, 7], vec![]));
    File::create(case.path()).unwrap();
    case.append("{\"time\":8}\n");
    assert_eq!(source.sync(1).await.0, [8]);
    source.end().await;
}

#[tokio::test]
async fn a_file_renamed_while_nobody_read_is_finished_first() {
    let case = Case::new(FileCodec::JsonLines, true);
    case.append(&lines(0..3));
    let mut source = case.start();
    assert_eq!(source.sync(3).await.0, [0, 1, 2]);
    source.end().await;
    case.append(&lines(3..5));
    fs::rename(case.path(), case.directory.path().join("log.1")).unwrap();
    case.append(&lines(5..7));
    let mut source = case.start();
    assert_eq!(source.sync(4).await.0, [3, 4, 5, 6]);
    source.end().await;
}

#[tokio::test]
async fn after_a_crash_rows_come_again_under_the_same_numbers() {
    let case = Case::new(FileCodec::JsonLines, true);
    case.append(&lines(0..20_000));
    let mut seen = BTreeSet::new();
    for crash in 0..3 {
        let mut source = case.start();
        for _ in 0..=crash {
            let parcel = source.parcel().await;
            seen.extend(numbered(&parcel));
            synced(parcel);
        }
        // The position of the last parcels may be kept or not.
        source.task.abort();
    }
    let mut source = case.start();
    while seen.len() < 20_000 {
        let parcel = source.parcel().await;
        seen.extend(numbered(&parcel));
        synced(parcel);
    }
    source.end().await;
    let times: Vec<i64> = seen.iter().map(|(_, time)| *time).collect();
    assert!(times.into_iter().eq(0..20_000), "a number for each row, and the same after a crash");
    let numbers: BTreeSet<_> = seen.iter().map(|(number, _)| number.clone()).collect();
    assert_eq!(numbers.len(), 20_000);
}

#[tokio::test]
async fn another_file_in_the_same_place_has_other_numbers() {
    let case = Case::new(FileCodec::JsonLines, false);
    let mut numbers = BTreeSet::new();
    for first in [10, 30, 50] {
        case.append(&lines(first..first + 10));
        let mut source = case.start();
        let parcel = source.parcel().await;
        numbers.extend(numbered(&parcel).into_iter().map(|(number, _)| number));
        synced(parcel);
        source.until(|status| status.state() == SourceState::Ended).await;
        source.end().await;
        fs::remove_file(case.path()).unwrap();
    }
    assert_eq!(numbers.len(), 30);
}

#[tokio::test]
async fn csv_goes_on_in_the_middle_without_its_header() {
    let case = Case::new(FileCodec::Csv { columns: None }, true);
    case.append("intensity,time\n1.5,0\n2.5,1\n");
    let mut source = case.start();
    assert_eq!(source.sync(2).await.0, [0, 1]);
    source.end().await;
    case.append("3.5,2\nx,3\n");
    let mut source = case.start();
    let (times, reasons) = source.sync(2).await;
    assert_eq!((times, reasons.len()), (vec![2], 1));
    source.end().await;
}

#[tokio::test]
async fn rows_that_were_refused_are_read_again() {
    let case = Case::new(FileCodec::JsonLines, true);
    case.append(&lines(0..5));
    let mut source = case.start();
    let refused = source.parcel().await;
    let numbers = numbered(&refused);
    drop(refused);
    source.until_down("no answer").await;
    let again = source.parcel().await;
    assert_eq!(numbered(&again), numbers);
    synced(again);
    source.until(|status| status.counts().accepted == 5).await;
    source.end().await;
}

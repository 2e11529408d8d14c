//! Damage anywhere in the store: it starts, every row is there with its value or named as lost, and no number is given twice.

use std::fs;
use std::path::Path;

use qadf_edge::model::{Input, Timestamp};
use qadf_edge::store::{
    Append, Checkpoint, CursorMove, DeadLetter, Lane, Loss, Reader, RecordNo, StartAt, Store, StoreConfig, Subscription, repair,
    verify,
};
use tempfile::TempDir;

use super::fixture::{memory, now, numbered, output, seq, step};

/// Files of a store that holds a bit of everything.
struct Image {
    files: Vec<(&'static str, Vec<u8>)>,
    rows: u64,
    results: u64,
    config: StoreConfig,
}

const FILES: [&str; 2] = ["store.db", "store.db-wal"];

/// How the process ended that wrote it.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Closed,
    /// With this share of its commits, in percent, in the log only.
    Killed(usize),
}

fn image(config: StoreConfig, batches: &[usize], end: End) -> Image {
    let dir = memory();
    let (store, _) = Store::open(dir.path(), config.clone()).unwrap();
    let mut reader = None;
    let (mut rows, mut results) = (0, 0);
    let subscribe = |sink: &str, lane, start| {
        store.writer().subscribe(Subscription { sink: sink.into(), lane, only: None, start }).unwrap();
    };
    subscribe("all", Lane::Rows, StartAt::Oldest);
    subscribe("all", Lane::Results, StartAt::Oldest);
    for (place, count) in batches.iter().enumerate() {
        if end == End::Killed(batches.len() - place)
            || matches!(end, End::Killed(share) if 100 * (batches.len() - place) == share * batches.len())
        {
            reader = Some(hold_log(dir.path()));
        }
        let accepted = store.writer().append(numbered(rows, *count)).unwrap();
        rows += *count as u64;
        results += 1;
        let id = format!("result {results}");
        let parts = vec![("engine".to_owned(), Some(vec![place as u8; 300]))];
        let checkpoint = (place % 4 == 0).then_some(Checkpoint { position: accepted.record, complete: false, parts });
        store.writer().commit_step_and_wait(step(accepted.record.0, vec![output(&id, "p")], checkpoint)).unwrap();
        if place == batches.len() / 3 {
            deliver(&store, rows / 2);
            subscribe("late", Lane::Rows, StartAt::Next);
        }
        if place % 5 == 2 {
            store.writer().append(Input::Tick(Timestamp(now()))).unwrap();
            letter(&store);
            store.writer().put_state(&format!("key {place}"), Some(vec![7; 20])).unwrap();
        }
    }
    let files = match end {
        End::Closed => {
            drop(store);
            read(dir.path())
        }
        End::Killed(_) => {
            let files = read(dir.path());
            drop(store);
            files
        }
    };
    drop(reader);
    Image { files, rows, results, config }
}

/// Keeps what is committed from now on in the log.
fn hold_log(directory: &Path) -> rusqlite::Connection {
    let reader = rusqlite::Connection::open(directory.join("store.db")).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    reader.query_row("SELECT count(*) FROM inbox", [], |_| Ok(())).unwrap();
    reader
}

fn deliver(store: &Store, through: u64) {
    let go = CursorMove { sink: "all".into(), lane: Lane::Rows, from: seq(1), through: seq(through), delivered: through };
    store.writer().move_cursor_and_wait(go).unwrap();
}

fn letter(store: &Store) {
    let letter = DeadLetter {
        source: "source".into(),
        partition: "partition".into(),
        stream: Some("s".into()),
        arrival: Timestamp(now()),
        reason: "not_a_number".to_owned(),
        detail: "x is no number".to_owned(),
        raw: vec![b'x'; 50],
    };
    let decoded_at = std::time::Instant::now();
    store.writer().append_blocking(Append {
        input: None,
        dead_letters: vec![letter],
        decoded_at,
        on_synced: Box::new(|done| assert!(done.is_ok())),
    });
}

fn read(directory: &Path) -> Vec<(&'static str, Vec<u8>)> {
    FILES.iter().filter_map(|name| Some((*name, fs::read(directory.join(name)).ok()?))).collect()
}

fn write(image: &Image) -> TempDir {
    let dir = memory();
    for (name, bytes) in &image.files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

fn covers(ranges: &[(u64, u64)], number: u64) -> bool {
    ranges.iter().any(|(first, last)| (*first..=*last).contains(&number))
}

/// (number, value) of every row that can be read.
fn rows(directory: &Path) -> Vec<(u64, f64)> {
    let mut reader = Reader::open(directory).unwrap();
    let (mut found, mut after) = (Vec::new(), RecordNo(0));
    loop {
        let inputs = reader.inputs_after(after, 10_000).unwrap();
        let Some(last) = inputs.last() else { return found };
        after = last.record;
        for input in &inputs {
            if let Input::Batch(batch) = &input.input {
                let first = input.first_seq.0;
                found.extend(batch.signals[0].iter().enumerate().map(|(row, value)| (first + row as u64, *value)));
            }
        }
    }
}

fn reports(directory: &Path) -> Vec<Loss> {
    let lost = Reader::open(directory).unwrap().inventory().unwrap().lost;
    lost.into_iter().map(|report| serde_json::from_value(report).unwrap()).collect()
}

/// What became of a damaged store.
#[derive(Debug, Default, PartialEq)]
struct Survived {
    at_start: bool,
    by_repair: bool,
    rows_lost: u64,
    skipped: bool,
}

/// Starts a damaged store, goes on with it, repairs it, and holds it to the promise.
fn survive(image: &Image, dir: &Path, what: &str) -> Survived {
    let (store, recovered) = Store::open(dir, image.config.clone()).unwrap_or_else(|error| panic!("{what}: {error}"));
    let added = store.writer().append(numbered(image.rows, 3)).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(added.first_seq.0 > image.rows, "{what}: number {} is given twice", added.first_seq.0);
    drop(store);
    let at_start = recovered.loss.is_some();
    let by_repair = repair(dir).unwrap_or_else(|error| panic!("{what}: {error}")).is_some();
    let verified = verify(dir).unwrap();
    assert!(verified.sound, "{what}: {:?}", verified.faults);
    let reports = reports(dir);
    let lost: Vec<_> = reports.iter().flat_map(|report| report.lost.rows.ranges.clone()).collect();
    let left_out: Vec<_> = reports.iter().flat_map(|report| report.skipped.rows.ranges.clone()).collect();
    let skipped = !left_out.is_empty();
    let found = rows(dir);
    let (old, new): (Vec<_>, Vec<_>) = found.into_iter().partition(|(number, _)| *number <= image.rows);
    let new_numbers: Vec<_> = new.iter().map(|row| row.0).collect();
    let expected: Vec<_> = (added.first_seq.0..added.first_seq.0 + added.rows).collect();
    assert_eq!(new_numbers, expected, "{what}: what came after is there");
    let mut rows_lost = 0;
    let mut old = old.into_iter().peekable();
    for number in 1..=image.rows {
        match old.next_if(|row| row.0 == number) {
            Some((_, value)) => {
                assert_eq!(value, (number - 1) as f64, "{what}: row {number} has its value");
                assert!(!covers(&lost, number), "{what}: row {number} is there and said to be lost");
            }
            None => {
                rows_lost += 1;
                let said = covers(&lost, number) || covers(&left_out, number);
                assert!(said, "{what}: row {number} is lost and nobody says so: {reports:?}");
            }
        }
    }
    Survived { at_start, by_repair, rows_lost, skipped }
}

/// 512 bytes a page, so that a small file has all kinds of pages.
fn small() -> StoreConfig {
    StoreConfig { page_bytes: 512, ..StoreConfig::default() }
}

fn batches(count: usize) -> Vec<usize> {
    (0..count).map(|place| [1, 40, 7, 130, 3][place % 5]).collect()
}

#[test]
fn an_image_without_damage_is_sound_and_loses_nothing() {
    for (config, end) in [(small(), End::Closed), (StoreConfig::default(), End::Killed(50)), (small(), End::Killed(100))] {
        let image = image(config, &batches(40), end);
        assert!(image.results > 0);
        let dir = write(&image);
        assert_eq!(verify(dir.path()).unwrap().faults, Vec::<String>::new());
        assert_eq!(survive(&image, dir.path(), "no damage"), Survived::default());
    }
}

/// Flips bytes at `offsets` of the file called `name`, one at a time.
fn flip(image: &Image, name: &str, offsets: impl Iterator<Item = usize>) -> Vec<Survived> {
    let file = image.files.iter().position(|file| file.0 == name).unwrap();
    let (mut all, mut failed) = (Vec::new(), Vec::new());
    for (place, at) in offsets.enumerate() {
        let dir = write(image);
        let mut bytes = image.files[file].1.clone();
        bytes[at] ^= [0x01, 0x80, 0xff, 0x24][place % 4];
        fs::write(dir.path().join(name), bytes).unwrap();
        let what = format!("{name} flipped at {at} (page {}, byte {})", at / 512 + 1, at % 512);
        match std::panic::catch_unwind(|| survive(image, dir.path(), &what)) {
            Ok(survived) => all.push(survived),
            Err(_) => failed.push(what),
        }
    }
    assert_eq!(failed, Vec::<String>::new());
    all
}

fn length(image: &Image, name: &str) -> usize {
    image.files.iter().find(|file| file.0 == name).unwrap().1.len()
}

#[test]
fn a_flipped_byte_of_the_header_never_stops_a_start_and_loses_no_row() {
    let image = image(small(), &batches(12), End::Closed);
    let all = flip(&image, "store.db", 0..100);
    assert!(all.iter().all(|survived| survived.rows_lost == 0 && !survived.skipped), "{all:?}");
    assert!(all.iter().filter(|survived| survived.at_start).count() > 20, "{all:?}");
}

#[test]
fn a_flipped_byte_of_the_file_costs_what_it_is_in_and_nothing_else() {
    let image = image(small(), &batches(60), End::Closed);
    let length = length(&image, "store.db");
    let all = flip(&image, "store.db", (100..length).step_by((length / 250) | 1));
    assert!(all.len() >= 200, "{} places", all.len());
    assert!(all.iter().any(|survived| survived.rows_lost > 0));
    assert!(all.iter().all(|survived| survived.rows_lost <= 400), "{all:?}");
}

#[test]
fn a_flipped_byte_of_the_log_of_a_killed_process_costs_what_it_is_in() {
    let image = image(small(), &batches(40), End::Killed(50));
    let length = length(&image, "store.db-wal");
    let header = flip(&image, "store.db-wal", 0..32);
    assert!(header.iter().all(|survived| survived.rows_lost == 0), "{header:?}");
    let all = flip(&image, "store.db-wal", (32..length - 4 * 536).step_by((length / 200) | 1));
    assert!(all.len() >= 150 && all.iter().all(|survived| survived.at_start), "{all:?}");
    assert!(all.iter().all(|survived| survived.rows_lost <= 400), "{all:?}");
}

/// Cuts the file to `lengths`, one at a time; the rows at its end are lost, and it is known that it may be more than can be named.
fn cut(image: &Image, lengths: impl Iterator<Item = usize>) -> Vec<Survived> {
    let mut all = Vec::new();
    for length in lengths {
        let dir = write(image);
        fs::write(dir.path().join("store.db"), &image.files[0].1[..length]).unwrap();
        all.push(survive(image, dir.path(), &format!("store.db cut at {length}")));
    }
    all
}

#[test]
fn a_file_that_is_cut_anywhere_keeps_what_is_before_the_cut() {
    let image = image(small(), &batches(60), End::Closed);
    let length = length(&image, "store.db");
    let all = cut(&image, (0..length).step_by((length / 100) | 1).chain([1, 99, 100, 511, 512, length - 1]));
    assert!(all.iter().all(|survived| survived.at_start && !survived.by_repair), "{all:?}");
    let late = &all[80..100];
    assert!(late.iter().all(|survived| survived.rows_lost < image.rows / 2), "{late:?}");
}

#[test]
fn a_file_that_is_gone_or_nothing_but_zeros_or_text_never_stops_a_start() {
    let image = image(small(), &batches(20), End::Killed(100));
    for content in [None, Some(vec![]), Some(vec![0; 8_192]), Some(b"nothing of ours\n".repeat(1_000))] {
        let dir = write(&image);
        let path = dir.path().join("store.db");
        match &content {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let what = format!("{:?} bytes", content.map(|bytes| bytes.len()));
        let survived = survive(&image, dir.path(), &what);
        assert!(survived.at_start, "{what}");
        // All of it was in the log.
        assert_eq!(survived.rows_lost, 0, "{what}");
    }
}

/// Writes zeros over whole sectors, as a disk does that gives up.
fn zero(image: &Image, sector: usize, step: usize) -> Vec<Survived> {
    let length = length(image, "store.db");
    let mut all = Vec::new();
    for at in (0..length - sector).step_by(step) {
        let dir = write(image);
        let mut bytes = image.files[0].1.clone();
        bytes[at / 512 * 512..][..sector].fill(0);
        fs::write(dir.path().join("store.db"), bytes).unwrap();
        all.push(survive(image, dir.path(), &format!("zeros at {at}")));
    }
    all
}

#[test]
fn sectors_of_zeros_cost_the_rows_in_them_and_nothing_else() {
    let image = image(small(), &batches(60), End::Closed);
    let all = zero(&image, 512, length(&image, "store.db") / 100);
    assert!(all.len() >= 90 && all.iter().all(|survived| survived.rows_lost <= 600), "{all:?}");
}

/// As it is run: pages of 4,096 bytes, records of up to 65,536 rows, more than one tail of 1,024 records.
#[test]
fn with_the_settings_of_production_damage_costs_its_rows_and_nothing_else() {
    let mut sizes = vec![2; 1_100];
    sizes.extend([65_536, 20_000, 70_000, 3, 5_000]);
    let image = image(StoreConfig::default(), &sizes, End::Closed);
    let length = length(&image, "store.db");
    let all = flip(&image, "store.db", (0..24).map(|place| (place * length / 24 + 37 * place) % length));
    assert!(all.iter().all(|survived| survived.rows_lost <= 65_536), "{all:?}");
    let cut = cut(&image, [length / 3, length - 4_096, length - 1].into_iter());
    assert!(cut.iter().all(|survived| survived.at_start), "{cut:?}");
    let zeros = zero(&image, 4_096, length / 8);
    assert!(zeros.iter().all(|survived| survived.rows_lost <= 65_536 + 20_000), "{zeros:?}");
}

#[test]
fn a_record_whose_number_cannot_be_is_salvaged_and_the_others_stay() {
    let image = image(StoreConfig::default(), &[300; 4], End::Closed);
    for number in [0, -7] {
        let dir = write(&image);
        let connection = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
        connection.execute("UPDATE inbox SET record = ?1 WHERE record = 1", [number]).unwrap();
        drop(connection);
        let (store, recovered) = Store::open(dir.path(), image.config.clone()).unwrap();
        let page = store.reader().unwrap().rows_after(seq(0), 2_000, None).unwrap();
        let rows: usize = page.batches.iter().map(|batch| batch.rows()).sum();
        assert!(recovered.loss.is_some() && rows >= 900, "{rows} rows, {:?}", recovered.loss);
    }
}

/// The bytes of the store's file, changed by `change`.
fn changed(image: &Image, change: impl FnOnce(&mut Vec<u8>)) -> TempDir {
    let dir = write(image);
    let mut bytes = image.files[0].1.clone();
    change(&mut bytes);
    fs::write(dir.path().join("store.db"), bytes).unwrap();
    dir
}

/// Where the blob of the `number`th record is, by the stream's name in it.
fn blob(bytes: &[u8], number: usize) -> usize {
    let shape = b"\x01s\x04time";
    let found = bytes.windows(shape.len()).enumerate().filter(|(_, window)| window == shape).nth(number);
    found.unwrap().0
}

#[test]
fn a_damaged_record_is_passed_over_while_running_and_reported_at_the_next_start() {
    let image = image(StoreConfig::default(), &[300; 300], End::Closed);
    let dir = changed(&image, |bytes| {
        let at = blob(bytes, 150) + 40;
        bytes[at] ^= 1;
    });
    let (store, recovered) = Store::open(dir.path(), image.config.clone()).unwrap();
    assert_eq!(recovered.loss, None);
    let mut reader = store.reader().unwrap();
    let (mut read, mut after) = (0, seq(0));
    loop {
        let page = reader.rows_after(after, 1_000, None).unwrap();
        read += page.batches.iter().map(|batch| batch.rows()).sum::<usize>();
        after = page.through;
        if page.at_end {
            break;
        }
    }
    assert_eq!(read as u64, image.rows - 300);
    let counters = store.counters();
    assert_eq!(counters.records_damaged, 1);
    assert!(counters.damage.is_some_and(|why| why.contains("does not match its checksum")));
    store.writer().append(numbered(image.rows, 1)).unwrap();
    drop((reader, store));
    let (store, recovered) = Store::open(dir.path(), image.config.clone()).unwrap();
    let lost = recovered.loss.unwrap().lost;
    assert_eq!((lost.records.count, lost.rows.count), (1, 300));
    drop(store);
    let (_store, recovered) = Store::open(dir.path(), image.config.clone()).unwrap();
    assert_eq!(recovered.loss, None, "once is enough");
}

#[test]
fn a_page_that_nobody_gets_past_ends_the_process_and_the_next_start_salvages() {
    let image = image(StoreConfig::default(), &[300; 300], End::Closed);
    let dir = changed(&image, |bytes| {
        let page = blob(bytes, 150) / 4_096 * 4_096;
        bytes[page..page + 8].fill(0xff);
    });
    let (store, recovered) = Store::open(dir.path(), image.config.clone()).unwrap();
    assert_eq!(recovered.loss, None);
    let (told, ended) = std::sync::mpsc::channel();
    store.when_fatal(Box::new(move |error| told.send(error).unwrap()));
    let mut feed = store.feed(RecordNo(0)).unwrap();
    let outcome = loop {
        match feed.next(std::time::Duration::ZERO) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(ended.recv().unwrap(), outcome);
    assert!(store.writer().append(numbered(image.rows, 1)).is_err());
    drop((feed, store));
    let survived = survive(&image, dir.path(), "a page of the middle");
    assert!(survived.at_start && survived.rows_lost > 0 && survived.rows_lost <= 300 * 60, "{survived:?}");
}

/// Names in a directory.
fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

#[test]
fn a_salvage_that_a_crash_interrupts_is_brought_to_its_end() {
    let image = image(small(), &batches(20), End::Killed(50));
    let mut files = image.files.clone();
    files[0].1[..100].fill(0);
    // What a salvage leaves, to put every moment of it together again.
    let whole = write(&Image { files: files.clone(), config: image.config.clone(), ..image });
    let (store, recovered) = Store::open(whole.path(), image.config.clone()).unwrap();
    drop(store);
    let aside = recovered.loss.unwrap().set_aside;
    // Before it is opened, it has no log.
    rusqlite::Connection::open(whole.path().join("store.db")).unwrap().pragma_update(None, "journal_mode", "DELETE").unwrap();
    let done = fs::read(whole.path().join("store.db")).unwrap();
    let (file, log) = (files[0].1.clone(), files[1].1.clone());
    let aside_log = format!("{aside}-wal");
    let moments: [&[(&str, &[u8])]; 6] = [
        &[("store.db", &file), ("store.db-wal", &log), ("store.db.salvaging", &done[..done.len() / 2])],
        &[("store.db", &file), ("store.db-wal", &log), ("store.db.salvaged", &done), ("store.damaged", b"why")],
        &[(&aside, &file), ("store.db-wal", &log), ("store.db.salvaged", &done)],
        &[(&aside, &file), (&aside_log, &log), ("store.db.salvaged", &done)],
        // And the new one is damaged in its turn.
        &[(&aside, &file), (&aside_log, &log), ("store.db.salvaged", &done[..4_000])],
        &[(&aside, &file), (&aside_log, &log), ("store.db", &done)],
    ];
    for (moment, left) in moments.into_iter().enumerate() {
        let dir = memory();
        for (name, bytes) in left {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        let survived = survive(&image, dir.path(), &format!("moment {moment}"));
        assert_eq!((survived.rows_lost, survived.by_repair), (0, false), "moment {moment}");
        let names = names(dir.path());
        assert!(!names.iter().any(|name| name.contains("salvag") || name == "store.damaged"), "moment {moment}: {names:?}");
        let kept = names.iter().find(|name| name.starts_with("store.db.damaged-") && !name.ends_with("-wal")).unwrap();
        assert_eq!(fs::read(dir.path().join(kept)).unwrap(), file, "moment {moment}");
    }
}

#[test]
fn only_the_last_damaged_file_is_kept() {
    let image = image(small(), &batches(10), End::Closed);
    let dir = write(&image);
    for round in 0..3 {
        let mut bytes = fs::read(dir.path().join("store.db")).unwrap();
        bytes[..100].fill(round);
        fs::write(dir.path().join("store.db"), &bytes).unwrap();
        drop(Store::open(dir.path(), image.config.clone()).unwrap());
        let aside: Vec<_> = names(dir.path()).into_iter().filter(|name| name.starts_with("store.db.damaged-")).collect();
        assert_eq!(aside.len(), 1, "{aside:?}");
        assert_eq!(fs::read(dir.path().join(&aside[0])).unwrap(), bytes);
    }
    assert_eq!(reports(dir.path()).len(), 3);
}

#[test]
fn a_salvaged_store_keeps_cursors_checkpoint_results_letters_and_state() {
    let image = image(small(), &batches(40), End::Closed);
    let whole = write(&image);
    let dir = changed(&image, |bytes| bytes[..16].fill(0));
    let (before, after) = (Reader::open(whole.path()).unwrap(), survive(&image, dir.path(), "the header"));
    assert_eq!((after.at_start, after.rows_lost, after.skipped), (true, 0, false));
    let salvaged = Reader::open(dir.path()).unwrap();
    assert_eq!(salvaged.identity().unwrap(), before.identity().unwrap());
    assert_eq!(salvaged.checkpoint().unwrap(), before.checkpoint().unwrap());
    assert_eq!(salvaged.results_after(seq(0), 10_000, None).unwrap(), before.results_after(seq(0), 10_000, None).unwrap());
    assert_eq!(salvaged.dead_letters(0, 100).unwrap(), before.dead_letters(0, 100).unwrap());
    assert_eq!(salvaged.state("", 100).unwrap(), before.state("", 100).unwrap());
    let places = |reader: &Reader| -> Vec<_> {
        reader
            .balances()
            .unwrap()
            .into_iter()
            .map(|balance| (balance.sink, balance.seq, balance.delivered, balance.expired))
            .collect()
    };
    assert_eq!(places(&salvaged), places(&before));
}

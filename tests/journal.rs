//! A damaged store as people meet it: the `journal` commands while the service is down, and a service that starts all the same.

mod servers;

#[path = "appliance/process.rs"]
mod process;

use std::{fs, os::unix::fs::FileExt, path::Path};

use process::{Site, list, run, stderr, stdout};
use qadf_edge::{
    model::{Batch, Input, Seq, Stream, Timestamp},
    store::{DeadLetter, Reader, Store, StoreConfig},
};
use serde_json::Value;

const STREAM: &str = "[streams.melt]\nsignals = { intensity = \"V\" }\n";
const ROWS: u64 = 40 * 500;

fn now_ns() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64
}

/// A store of forty records with five hundred rows each, closed.
fn fill(directory: &Path) {
    // Not a pattern, so that a record is longer than what a page holds.
    fill_with(directory, |row, record| ((row * 7_919 + record) % 100_003) as f64 * 0.37);
}

fn fill_with(directory: &Path, value: impl Fn(u64, u64) -> f64) {
    let store = Store::open(directory, StoreConfig::default()).unwrap().0;
    let stream = std::sync::Arc::new(Stream::new("melt", &["intensity"], &[]));
    let now = now_ns();
    for record in 0..40_i64 {
        let mut batch = Batch::new(stream.clone(), "source".into(), "partition".into(), Timestamp(now));
        batch.time = (0..500).map(|row| now + record * 500 + row).collect();
        batch.signals[0] = (0..500).map(|row| value(row, record as u64)).collect();
        store.writer().append(Input::Batch(batch.into())).unwrap();
    }
}

/// Flips a byte in the blob of a record in the middle.
fn damage(directory: &Path) {
    let path = directory.join("store.db");
    let bytes = fs::read(&path).unwrap();
    let page_bytes = usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
    // What a page held before it became an inner one is still there, and nobody reads it.
    let is_leaf = |at: usize| bytes[at - at % page_bytes] == 0x0d;
    let named = bytes.windows(4).enumerate().filter(|(at, four)| **four == *b"melt" && is_leaf(*at));
    let found: Vec<usize> = named.map(|(at, _)| at).collect();
    assert!(found.len() >= 40, "{} blobs", found.len());
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[!bytes[found[20] + 60]], found[20] as u64 + 60).unwrap();
}

fn journal(word: &str, directory: &Path) -> (Option<i32>, Value, String) {
    let ran = run(&["journal", word, "--dir", directory.to_str().unwrap()]);
    (ran.status.code(), serde_json::from_str(&stdout(&ran)).unwrap_or_default(), stderr(&ran))
}

#[test]
fn a_sound_store_is_inspected_and_verified_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let (code, inspected, _) = journal("inspect", dir.path());
    assert_eq!(code, Some(0));
    assert_eq!(
        (&inspected["records"], &inspected["seq_next"], &inspected["readable"]),
        (&40.into(), &(ROWS + 1).into(), &true.into())
    );
    assert_eq!(inspected["files"][0]["name"], "store.db");
    let (code, verified, _) = journal("verify", dir.path());
    assert_eq!((code, &verified["sound"], &verified["kept"]["rows"]), (Some(0), &true.into(), &ROWS.into()));
    let before = fs::read(dir.path().join("store.db")).unwrap();
    let (code, repaired, _) = journal("repair", dir.path());
    assert_eq!((code, &repaired["repaired"]), (Some(0), &false.into()));
    assert_eq!(fs::read(dir.path().join("store.db")).unwrap(), before);
}

#[test]
fn a_damaged_record_is_named_and_repair_loses_it_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    damage(dir.path());
    let (code, verified, said) = journal("verify", dir.path());
    assert_eq!((code, &verified["sound"]), (Some(1), &false.into()));
    assert!(said.contains("journal repair"), "{said}");
    let damaged = verified["damaged"]["rows"]["ranges"].clone();
    assert_eq!(verified["damaged"]["records"]["count"], 1);
    assert_eq!(verified["damaged"]["rows"]["count"], 500);
    let (code, repaired, said) = journal("repair", dir.path());
    assert_eq!((code, &repaired["repaired"]), (Some(0), &true.into()));
    assert!(said.contains("500 rows are lost"), "{said}");
    assert_eq!(repaired["loss"]["lost"]["rows"]["ranges"], damaged);
    let aside = repaired["loss"]["set_aside"].as_str().unwrap();
    assert!(dir.path().join(aside).exists());
    let (code, verified, _) = journal("verify", dir.path());
    assert_eq!((code, &verified["kept"]["rows"]), (Some(0), &(ROWS - 500).into()));
    let (_, inspected, _) = journal("inspect", dir.path());
    assert_eq!(inspected["lost"][0]["lost"]["rows"]["ranges"], damaged);
}

#[test]
fn what_cannot_be_opened_is_said_and_repaired() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    fs::File::options().write(true).open(dir.path().join("store.db")).unwrap().write_all_at(&[0; 100], 0).unwrap();
    let (code, inspected, said) = journal("inspect", dir.path());
    assert_eq!((code, &inspected["readable"]), (Some(1), &false.into()));
    assert!(said.contains("journal repair"), "{said}");
    assert_eq!(journal("verify", dir.path()).0, Some(1));
    let (code, repaired, _) = journal("repair", dir.path());
    assert_eq!((code, &repaired["loss"]["kept"]["rows"]), (Some(0), &ROWS.into()));
    assert_eq!(journal("verify", dir.path()).0, Some(0));
}

#[test]
fn exit_codes_tell_a_wrong_call_from_a_wrong_store() {
    let dir = tempfile::tempdir().unwrap();
    let (code, _, said) = journal("inspect", dir.path());
    assert_eq!(code, Some(1));
    assert!(said.contains("there is no store here"), "{said}");
    let (code, _, said) = journal("repair", dir.path());
    assert_eq!((code, fs::read_dir(dir.path()).unwrap().count()), (Some(1), 0), "{said}");
    assert_eq!(run(&["journal", "inspect", "-c", "a", "--dir", "b"]).status.code(), Some(2));
    assert_eq!(run(&["journal", "mend"]).status.code(), Some(2));
    let config = dir.path().join("wrong.toml");
    fs::write(&config, "[appliance]\nidd = 1\n").unwrap();
    assert_eq!(run(&["journal", "verify", "-c", config.to_str().unwrap()]).status.code(), Some(78));
}

#[test]
fn a_store_in_use_is_inspected_and_verified_and_not_repaired() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let store = Store::open(dir.path(), StoreConfig::default()).unwrap().0;
    assert_eq!(journal("inspect", dir.path()).0, Some(0));
    assert_eq!(journal("verify", dir.path()).0, Some(0));
    let (code, _, said) = journal("repair", dir.path());
    assert_eq!(code, Some(1));
    assert!(said.contains("in use by process"), "{said}");
    drop(store);
}

#[test]
fn a_service_starts_on_a_damaged_store_and_says_so_until_somebody_takes_note() {
    let site = Site::new("damaged");
    site.configure(STREAM);
    fill(&site.data_dir());
    let path = site.data_dir().join("store.db");
    // The page that the next row goes to, and the header.
    let length = fs::metadata(&path).unwrap().len();
    fs::File::options().write(true).open(&path).unwrap().write_all_at(&[0xff; 100], 0).unwrap();
    let appliance = site.start();
    let problem = |status: &Value| {
        let said = list(status, "problems").iter().filter_map(Value::as_str).find(|one| one.contains("was damaged"));
        said.map(str::to_owned)
    };
    let of_store = |status: &Value| list(status, "alerts").iter().find(|alert| alert["source"] == "store").cloned();
    let status = appliance.until("the problem and the alert are there", |status| problem(status).is_some());
    assert!(problem(&status).is_some_and(|said| said.contains("store.db.damaged-")));
    assert_eq!(status["state"], "degraded");
    let alert = of_store(&status).unwrap();
    assert_eq!(alert["severity"], "critical");
    let found = Reader::open(&site.data_dir()).unwrap().inventory().unwrap();
    assert_eq!((found.lost.len(), found.seq_next), (1, ROWS + 1));
    let aside = fs::read_dir(site.data_dir())
        .unwrap()
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with("store.db.damaged-"));
    assert_eq!(aside.unwrap().metadata().unwrap().len(), length);
    let id = alert["id"].as_str().unwrap().bytes().fold(String::new(), |id, byte| format!("{id}%{byte:02X}"));
    let noted = appliance.ask("POST", &format!("/alerts/{id}/acknowledge"), r#"{"name":"Ada"}"#);
    assert_eq!(noted.status, 200, "{noted:?}");
    appliance.until("the problem goes", |status| problem(status).is_none());
    appliance.stop();
}

#[test]
fn a_service_starts_although_a_page_of_its_last_rows_is_gone() {
    let site = Site::new("gone");
    site.configure(STREAM);
    // Two records a page, as noise takes that much.
    let noise = |row: u64, record: u64| ((record * 500 + row + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 12) as f64 / 3.0;
    fill_with(&site.data_dir(), noise);
    // With a checkpoint: the next start fills the rings from the rows.
    let appliance = site.start();
    appliance.until("the engine has the rows", |status| list(status, "streams")[0]["rows"] == ROWS);
    appliance.stop();
    let path = site.data_dir().join("store.db");
    let whole = fs::read(&path).unwrap();
    let page_bytes = usize::from(u16::from_be_bytes([whole[16], whole[17]]));
    let is_blob = |page: &&[u8]| page[0] == 0x0d && page.windows(4).any(|four| four == b"melt");
    let pages: Vec<usize> = whole.chunks(page_bytes).enumerate().filter(|(_, page)| is_blob(page)).map(|(at, _)| at).collect();
    assert!(pages.len() > 10, "{pages:?}");
    let places = [pages[pages.len() / 2], pages[pages.len() - 3]];
    for (place, rubbish) in places.into_iter().flat_map(|place| [(place, 0), (place, 0xa5)]) {
        fs::remove_dir_all(site.data_dir()).unwrap();
        fs::create_dir_all(site.data_dir()).unwrap();
        fs::write(&path, &whole).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.write_all_at(&vec![rubbish; page_bytes], (place * page_bytes) as u64).unwrap();
        let appliance = site.start();
        appliance
            .until("the loss is told", |status| list(status, "problems").iter().any(|one| one.to_string().contains("was damaged")));
        let lost = format!("{} rows are lost", ROWS - kept_rows(&site));
        let status = appliance.status();
        assert!(status["problems"].to_string().contains(&lost), "page {place}: {lost}, {}", status["problems"]);
        assert!(kept_rows(&site) > 0, "other pages have rows too");
        appliance.stop();
    }
}

#[test]
fn damage_that_a_question_meets_is_said_and_salvaged_at_the_next_start() {
    let site = Site::new("asked");
    site.configure(STREAM);
    fill(&site.data_dir());
    let appliance = site.start();
    appliance.until("the engine has the rows", |status| list(status, "streams")[0]["rows"] == ROWS);
    damage(&site.data_dir());
    for _ in 0..3 {
        let history = appliance.get("/streams/melt/history?limit=100000");
        assert_eq!((list(&history, "rows").len() as u64, &history["complete"]), (ROWS - 500, &false.into()));
    }
    let status =
        appliance.until("it is said", |status| list(status, "problems").iter().any(|one| one.to_string().contains("damaged")));
    assert!(status["problems"].to_string().contains("1 records cannot be read"), "{}", status["problems"]);
    appliance.stop();
    let written = run(&["history", "-c", site.config().to_str().unwrap(), "--stream", "melt"]);
    assert_eq!((stdout(&written).lines().count() as u64, written.status.code()), (ROWS - 500, Some(1)));
    assert!(stderr(&written).contains("1 records are damaged"), "{}", stderr(&written));
    let appliance = site.start();
    appliance.until("the loss is told", |status| status["problems"].to_string().contains("500 rows are lost"));
    appliance.stop();
}

/// Rows that the site's store has.
fn kept_rows(site: &Site) -> u64 {
    let mut reader = Reader::open(&site.data_dir()).unwrap();
    let (mut rows, mut after) = (0, Seq(0));
    loop {
        let page = reader.rows_after(after, 10_000, None).unwrap();
        rows += page.batches.iter().map(|batch| batch.rows() as u64).sum::<u64>();
        if page.at_end {
            return rows;
        }
        after = page.through;
    }
}

#[test]
fn dead_letters_of_a_damaged_store_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let store = Store::open(dir.path(), StoreConfig::default()).unwrap().0;
    let letter = DeadLetter {
        source: "source".into(),
        partition: "partition".into(),
        stream: None,
        arrival: Timestamp(now_ns()),
        reason: "not_json".to_owned(),
        detail: "no JSON".to_owned(),
        raw: b"{".to_vec(),
    };
    let writer = store.writer();
    writer.append_blocking(qadf_edge::store::Append {
        input: None,
        dead_letters: vec![letter.clone(); 4],
        decoded_at: std::time::Instant::now(),
        on_synced: Box::new(|done| assert!(done.is_ok())),
    });
    writer.remove_dead_letter(2).unwrap();
    drop(store);
    let numbers = || {
        let letters = Reader::open(dir.path()).unwrap().dead_letters(0, 10).unwrap();
        letters.iter().map(|(number, _)| *number).collect::<Vec<_>>()
    };
    assert_eq!(numbers(), [1, 3, 4]);
    damage(dir.path());
    let (code, said, _) = journal("repair", dir.path());
    assert_eq!(code, Some(0));
    assert!(said["loss"]["notes"].to_string().contains("dead letters 2 are not there"), "{said}");
    assert_eq!(numbers(), [1, 3, 4]);
    let letters = Reader::open(dir.path()).unwrap().dead_letters(0, 10).unwrap();
    assert_eq!(letters[0].1.raw, letter.raw);
}

//! The file sink: no server, the same promises.

use std::{fs, io::Write, path::Path};

use qadf_edge::deliver::{
    Progress,
    file::{FileSink, Settings},
};
use qadf_edge::model::Seq;

use crate::material::{identity, parcel};

fn ids(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).expect("the file is there");
    let id = |line: &str| {
        let object: serde_json::Value = serde_json::from_str(line).expect("every line is an object");
        object["id"].as_str().expect("every object has an id").to_owned()
    };
    text.lines().map(id).collect()
}

fn expected(parcels: &[(u64, usize)]) -> Vec<String> {
    let mut ids = Vec::new();
    for (first, rows) in parcels {
        ids.extend((*first..).take(*rows).map(|seq| identity("a").row_id(Seq(seq))));
        ids.extend([format!("alert-{}", first * 2), format!("window-{}", first * 2 + 1)]);
    }
    ids
}

#[tokio::test]
async fn lines_that_the_cursor_does_not_know_are_written_again_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = Settings { path: dir.path().join("rows.jsonl"), rotate_bytes: None };
    let (mut sink, known) = FileSink::open(&settings, identity("a")).await.expect("opened");
    assert_eq!(known, None);
    sink.deliver(&parcel(1, 3)).await.expect("delivered");
    let cursor = fs::read(dir.path().join("rows.jsonl.cursor")).expect("there is a cursor");
    sink.deliver(&parcel(4, 3)).await.expect("delivered");
    drop(sink);
    // A crash before the second cursor was written, in the middle of a third parcel.
    fs::write(dir.path().join("rows.jsonl.cursor"), cursor).expect("written");
    let mut torn = fs::OpenOptions::new().append(true).open(&settings.path).expect("opened");
    torn.write_all(b"{\"id\":\"torn").expect("written");
    let (mut sink, known) = FileSink::open(&settings, identity("a")).await.expect("opened");
    assert_eq!(known, Some(Progress { rows: Seq(3), results: Seq(3) }));
    sink.deliver(&parcel(4, 3)).await.expect("delivered");
    assert_eq!(ids(&settings.path), expected(&[(1, 3), (4, 3)]));
}

#[tokio::test]
async fn a_full_file_is_renamed_and_nothing_is_lost() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = Settings { path: dir.path().join("rows.jsonl"), rotate_bytes: Some(1) };
    let (mut sink, _) = FileSink::open(&settings, identity("a")).await.expect("opened");
    sink.deliver(&parcel(1, 2)).await.expect("delivered");
    sink.deliver(&parcel(3, 2)).await.expect("delivered");
    assert_eq!(ids(&dir.path().join("rows.jsonl.2-3")), expected(&[(1, 2)]));
    assert_eq!(ids(&settings.path), expected(&[(3, 2)]));
    // A crash between the renaming and the next file.
    fs::rename(&settings.path, dir.path().join("rows.jsonl.4-7")).expect("renamed");
    let (mut sink, known) = FileSink::open(&settings, identity("a")).await.expect("opened");
    assert_eq!(known, Some(Progress { rows: Seq(4), results: Seq(7) }));
    sink.deliver(&parcel(5, 2)).await.expect("delivered");
    assert_eq!(ids(&settings.path), expected(&[(5, 2)]));
}

#[tokio::test]
async fn a_file_of_somebody_else_is_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = Settings { path: dir.path().join("rows.jsonl"), rotate_bytes: None };
    fs::write(&settings.path, "{\"id\":\"theirs\"}\n").expect("written");
    let (mut sink, known) = FileSink::open(&settings, identity("a")).await.expect("opened");
    assert_eq!(known, None);
    sink.deliver(&parcel(1, 1)).await.expect("delivered");
    let mut all = vec!["theirs".to_owned()];
    all.extend(expected(&[(1, 1)]));
    assert_eq!(ids(&settings.path), all);
}

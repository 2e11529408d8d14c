//! Results, checkpoints, cursors and the balance of every sink.

use std::sync::Arc;

use qadf_edge::model::{Input, Timestamp};
use qadf_edge::store::{
    Checkpoint, CursorMove, DeadLetter, Lane, RecordNo, StartAt, StepCommit, Store, StoreConfig, StoreError, Subscription,
};

use super::fixture::{directory, open, output, rows, rows_of, seq, step};

fn follow(sink: &str, lane: Lane, only: Option<&[&str]>, start: StartAt) -> Subscription {
    Subscription { sink: sink.into(), lane, only: only.map(|names| names.iter().map(|name| Arc::from(*name)).collect()), start }
}

fn go(sink: &str, lane: Lane, from: u64, through: u64, delivered: u64) -> CursorMove {
    CursorMove { sink: sink.into(), lane, from: seq(from), through: seq(through), delivered }
}

/// (accepted, delivered, expired, buffered)
fn balance(store: &Store, sink: &str, lane: Lane) -> (u64, u64, u64, u64) {
    let balances = store.balances();
    let found = balances.iter().find(|balance| &*balance.sink == sink && balance.lane == lane).unwrap();
    assert_eq!(found.accepted, found.delivered + found.buffered + found.expired);
    (found.accepted, found.delivered, found.expired, found.buffered)
}

#[test]
fn a_result_is_taken_once_whatever_is_repeated() {
    let dir = directory();
    let store = open(dir.path());
    let writer = store.writer();
    let first = writer.commit_step_and_wait(step(1, vec![output("a", "p"), output("b", "p")], None)).unwrap();
    assert_eq!((first.outputs, first.repeated, first.last_seq), (2, 0, seq(2)));
    drop(store);
    let store = open(dir.path());
    let again =
        store.writer().commit_step_and_wait(step(2, vec![output("b", "p"), output("c", "q"), output("c", "q")], None)).unwrap();
    assert_eq!((again.outputs, again.repeated, again.last_seq), (1, 2, seq(3)));
    let reader = store.reader().unwrap();
    let (results, through) = reader.results_after(seq(0), 10, None).unwrap();
    let ids: Vec<_> = results.iter().map(|result| (result.seq.0, result.id.as_str())).collect();
    assert_eq!((ids, through), (vec![(1, "a"), (2, "b"), (3, "c")], seq(3)));
    let (some, through) = reader.results_after(seq(0), 10, Some(&["q".into()])).unwrap();
    assert_eq!((some.len(), through), (1, seq(3)));
    assert_eq!(reader.result("b").unwrap().unwrap().json, b"{\"id\":\"b\"}");
}

#[test]
fn a_checkpoint_changes_only_the_parts_it_names() {
    let dir = directory();
    let (store, recovered) = Store::open(dir.path(), StoreConfig::default()).unwrap();
    assert_eq!((recovered.checkpoint, recovered.resume_after), (None, RecordNo(0)));
    let writer = store.writer();
    for message in 0..4 {
        writer.append(rows(message * 300, 300)).unwrap();
    }
    let part = |name: &str, body: Option<&[u8]>| (name.to_owned(), body.map(<[u8]>::to_vec));
    let first = Checkpoint {
        position: RecordNo(2),
        complete: true,
        parts: vec![part("engine", Some(b"1")), part("tile/0", Some(b"x")), part("tile/1", Some(b"y"))],
    };
    writer.commit_step_and_wait(step(2, Vec::new(), Some(first))).unwrap();
    let second =
        Checkpoint { position: RecordNo(3), complete: false, parts: vec![part("engine", Some(b"2")), part("tile/1", None)] };
    writer.commit_step_and_wait(step(3, Vec::new(), Some(second))).unwrap();
    drop(store);
    let (store, recovered) = Store::open(dir.path(), StoreConfig::default()).unwrap();
    let found = recovered.checkpoint.unwrap();
    assert_eq!(found.parts, [part("engine", Some(b"2")), part("tile/0", Some(b"x"))]);
    assert_eq!((recovered.resume_after, recovered.to_replay), (RecordNo(3), 1));
    let third = Checkpoint { position: RecordNo(4), complete: true, parts: vec![part("engine", Some(b"3"))] };
    store.writer().commit_step_and_wait(step(4, Vec::new(), Some(third))).unwrap();
    assert_eq!(store.reader().unwrap().checkpoint().unwrap().unwrap().parts, [part("engine", Some(b"3"))]);
}

#[test]
fn a_damaged_checkpoint_is_no_checkpoint() {
    let dir = directory();
    let store = open(dir.path());
    store.writer().append(rows(0, 300)).unwrap();
    let part = Checkpoint { position: RecordNo(1), complete: true, parts: vec![("engine".to_owned(), Some(vec![1, 2, 3]))] };
    store.writer().commit_step_and_wait(step(1, Vec::new(), Some(part))).unwrap();
    drop(store);
    let file = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
    file.execute("UPDATE checkpoint SET body = x'01020400000000'", []).unwrap();
    drop(file);
    let (_store, recovered) = Store::open(dir.path(), StoreConfig::default()).unwrap();
    assert_eq!((recovered.checkpoint, recovered.resume_after, recovered.to_replay), (None, RecordNo(0), 1));
    assert!(recovered.notices[0].contains("engine"), "{:?}", recovered.notices);
}

#[test]
fn a_sink_gets_its_rows_from_its_cursor_on() {
    let dir = directory();
    let store = open(dir.path());
    let writer = store.writer();
    for message in 0..20_u64 {
        let stream = if message % 2 == 0 { "even" } else { "odd" };
        writer.append(Input::Batch(Arc::new(rows_of(stream, message * 300, 300)))).unwrap();
    }
    let mut reader = store.reader().unwrap();
    let only: [Arc<str>; 1] = ["odd".into()];
    let (mut at, mut found) = (seq(450), Vec::new());
    loop {
        let page = reader.rows_after(at, 700, Some(&only)).unwrap();
        assert!(page.through > at || page.at_end);
        found.extend(page.batches.iter().flat_map(|batch| (0..batch.rows() as u64).map(|row| batch.first_seq.0 + row)));
        at = page.through;
        if page.at_end {
            break;
        }
    }
    let expected: Vec<u64> = (451..=6_000).filter(|number| (number - 1) / 300 % 2 == 1).collect();
    assert_eq!((found, at), (expected, seq(6_000)));
    // At the end, what comes next is found from the same place.
    assert!(reader.rows_after(at, 700, Some(&only)).unwrap().batches.is_empty());
    writer.append(Input::Batch(Arc::new(rows_of("odd", 0, 2)))).unwrap();
    let page = reader.rows_after(at, 700, Some(&only)).unwrap();
    assert_eq!((page.batches[0].first_seq, page.through), (seq(6_001), seq(6_002)));
}

#[test]
fn balances_are_kept_over_restarts() {
    let dir = directory();
    let store = open(dir.path());
    let writer = store.writer();
    let add = |stream, count| writer.append(Input::Batch(Arc::new(rows_of(stream, 0, count)))).unwrap();
    add("a", 300);
    writer.subscribe(follow("all", Lane::Rows, None, StartAt::Oldest)).unwrap();
    writer.subscribe(follow("late", Lane::Rows, Some(&["a"]), StartAt::Next)).unwrap();
    writer.subscribe(follow("all", Lane::Results, Some(&["p"]), StartAt::Oldest)).unwrap();
    add("b", 100);
    add("a", 50);
    writer.commit_step_and_wait(step(1, vec![output("1", "p"), output("2", "q"), output("3", "p")], None)).unwrap();
    writer.move_cursor_and_wait(go("all", Lane::Rows, 1, 350, 350)).unwrap();
    writer.move_cursor_and_wait(go("all", Lane::Results, 1, 1, 1)).unwrap();
    let check = |store: &Store| {
        assert_eq!(balance(store, "all", Lane::Rows), (450, 350, 0, 100));
        assert_eq!(balance(store, "late", Lane::Rows), (50, 0, 0, 50));
        assert_eq!(balance(store, "all", Lane::Results), (2, 1, 0, 1));
        let reader = store.reader().unwrap();
        assert_eq!(reader.count_after(Lane::Rows, seq(350), None).unwrap(), 100);
        assert_eq!(reader.count_after(Lane::Results, seq(1), Some(&["p".into()])).unwrap(), 1);
        assert_eq!(reader.balances().unwrap(), store.balances());
    };
    check(&store);
    drop(store);
    check(&open(dir.path()));
    // As after a crash: nothing but the tables, and the tail folded again.
    let file = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
    file.execute_batch("DELETE FROM totals; UPDATE meta SET value = 0 WHERE name IN ('tail_record', 'tail_result')").unwrap();
    drop(file);
    check(&open(dir.path()));
}

#[test]
fn a_sink_that_wants_something_else_keeps_its_place_and_its_balance() {
    let dir = directory();
    let store = open(dir.path());
    let writer = store.writer();
    let add = |stream, count| writer.append(Input::Batch(Arc::new(rows_of(stream, 0, count)))).unwrap();
    writer.subscribe(follow("sink", Lane::Rows, Some(&["a"]), StartAt::Oldest)).unwrap();
    add("a", 300);
    add("b", 300);
    writer.move_cursor_and_wait(go("sink", Lane::Rows, 1, 100, 100)).unwrap();
    assert_eq!(writer.subscribe(follow("sink", Lane::Rows, None, StartAt::Next)).unwrap(), seq(100));
    assert_eq!(balance(&store, "sink", Lane::Rows), (600, 100, 0, 500));
    writer.drop_sink("sink").unwrap();
    assert!(store.balances().is_empty());
}

#[test]
fn a_cursor_goes_nowhere_it_cannot_be() {
    let dir = directory();
    let store = open(dir.path());
    let writer = store.writer();
    writer.append(rows(0, 300)).unwrap();
    let refused = |outcome| assert!(matches!(outcome, Err(StoreError::Refused(_))), "{outcome:?}");
    refused(writer.move_cursor_and_wait(go("nobody", Lane::Rows, 1, 10, 10)));
    writer.subscribe(follow("sink", Lane::Rows, None, StartAt::Oldest)).unwrap();
    refused(writer.move_cursor_and_wait(go("sink", Lane::Rows, 1, 301, 301)));
    writer.move_cursor_and_wait(go("sink", Lane::Rows, 1, 300, 300)).unwrap();
    writer.move_cursor_and_wait(go("sink", Lane::Rows, 1, 200, 200)).unwrap();
    assert_eq!(balance(&store, "sink", Lane::Rows), (300, 300, 0, 0));
}

#[test]
fn small_things_are_kept_under_their_keys() {
    let dir = directory();
    let store = open(dir.path());
    let writer = store.writer();
    // In no order; one is given again, one is taken away, and neighbours of a prefix are not in it.
    for (key, value) in [("b", "7"), ("alert/2", "old"), ("alert", "x"), ("alert/10", "c"), ("alert/1", "a"), ("alert0", "y")] {
        writer.put_state(key, Some(value.as_bytes().to_vec())).unwrap();
    }
    writer.put_state("alert/2", Some(b"b".to_vec())).unwrap();
    writer.put_state("alert/1", None).unwrap();
    writer.put_state("never there", None).unwrap();
    drop(store);
    let store = open(dir.path());
    let reader = store.reader().unwrap();
    let found = |prefix: &str, values_max| -> Vec<(String, String)> {
        let found = reader.state(prefix, values_max).unwrap();
        found.into_iter().map(|(key, value)| (key, String::from_utf8(value).unwrap())).collect()
    };
    let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    assert_eq!(found("alert/", 10), pairs(&[("alert/10", "c"), ("alert/2", "b")]));
    assert_eq!(found("alert/", 1), pairs(&[("alert/10", "c")]));
    assert_eq!(found("alert/2", 10), pairs(&[("alert/2", "b")]));
    assert_eq!(found("alert/1/", 10), []);
    let all = pairs(&[("alert", "x"), ("alert/10", "c"), ("alert/2", "b"), ("alert0", "y"), ("b", "7")]);
    assert_eq!(found("", 10), all);
}

#[test]
fn where_dead_letters_of_steps_end_is_known_after_a_crash() {
    let dir = directory();
    let store = open(dir.path());
    let writer = store.writer();
    for message in 0..3 {
        writer.append(rows(message * 300, 300)).unwrap();
    }
    let letter = DeadLetter {
        source: "checkpoint bright".into(),
        partition: "q".into(),
        stream: Some("s".into()),
        arrival: Timestamp(1),
        reason: "checkpoint_failed".to_owned(),
        detail: String::new(),
        raw: b"{}".to_vec(),
    };
    let refused = StepCommit { dead_letters: vec![letter.clone()], ..step(2, Vec::new(), None) };
    writer.commit_step_and_wait(refused).unwrap();
    writer.commit_step_and_wait(step(3, Vec::new(), None)).unwrap();
    drop(store);
    let (store, recovered) = Store::open(dir.path(), StoreConfig::default()).unwrap();
    assert_eq!((recovered.resume_after, recovered.refused_through), (RecordNo(0), RecordNo(2)));
    assert_eq!(store.reader().unwrap().dead_letters(0, 10).unwrap(), [(1, letter)]);
}

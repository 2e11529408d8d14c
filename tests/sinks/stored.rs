//! The loop with the store behind it: routes, balances, cursors over restarts, dead letters.

use std::{path::Path, sync::Arc, time::SystemTime};

use qadf_edge::{
    deliver::{Backlog, Delivery, Progress, Route, StoredBacklog},
    model::{Batch, Input, Seq, Timestamp},
    store::{Balance, Lane, RecordNo, StartAt, StepCommit, StepOutput, Store, StoreConfig},
};

use crate::{FarEnd, Order, drain_until, material, numbers};

fn open(directory: &Path) -> Store {
    Store::open(directory, StoreConfig::default()).expect("opened").0
}

fn append(store: &Store, stream: &str, rows: usize, arrival: Timestamp) {
    let batch = Batch { arrival, ..(*material::batch(stream, 1, rows)).clone() };
    store.writer().append(Input::Batch(Arc::new(batch))).expect("synced");
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    Timestamp(since.as_nanos() as i64)
}

fn step(store: &Store, through: u64, pipelines: &[&str]) {
    let output = |(index, pipeline): (usize, &&str)| StepOutput {
        id: format!("{through}-{index}"),
        kind: "window",
        pipeline: (*pipeline).into(),
        stream: None,
        time: Timestamp(0),
        json: b"{}".to_vec(),
    };
    let outputs = pipelines.iter().enumerate().map(output).collect();
    let commit = StepCommit {
        through: RecordNo(through),
        outputs,
        dead_letters: Vec::new(),
        checkpoint: None,
        on_committed: Box::new(|_| {}),
    };
    store.writer().commit_step_and_wait(commit).expect("synced");
}

fn backlog(store: &Store, route: Route) -> StoredBacklog {
    let reader = store.reader().expect("opened");
    StoredBacklog::open(reader, store.writer(), "plant", route, StartAt::Oldest).expect("subscribed")
}

/// (accepted, delivered, buffered, expired), once the moves on their way are in the store.
fn balance(store: &Store, lane: Lane) -> (u64, u64, u64, u64) {
    // The writer answers in order: whatever was sent before this is done after it.
    store.writer().put_state("test", None).expect("synced");
    let of = |balance: &&Balance| &*balance.sink == "plant" && balance.lane == lane;
    let balances = store.balances();
    let found = balances.iter().find(of).expect("subscribed");
    (found.accepted, found.delivered, found.buffered, found.expired)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_gets_what_is_routed_to_it_and_its_balance_holds() {
    let directory = tempfile::tempdir().expect("made");
    let store = open(directory.path());
    append(&store, "meltpool", 50, now());
    append(&store, "chamber", 30, now());
    append(&store, "meltpool", 20, now());
    append(&store, "chamber", 5, now());
    step(&store, 4, &["melt", "air", "melt"]);
    let only = |name: &str| Some(vec![Arc::from(name)]);
    let route = Route { streams: only("meltpool"), pipelines: only("melt") };
    let far_end = FarEnd::default();
    let seen = drain_until(Delivery::AtLeastOnce, &far_end, backlog(&store, route), (Seq(105), Seq(3))).await;
    let rows: Vec<u64> = (1..=50).chain(81..=100).collect();
    far_end.state(|state| assert_eq!((&state.rows, &state.results), (&rows, &vec![1, 3])));
    assert_eq!((seen.delivered.rows, seen.delivered.results), (70, 2));
    assert_eq!(balance(&store, Lane::Rows), (70, 70, 0, 0));
    assert_eq!(balance(&store, Lane::Results), (2, 2, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cursor_survives_a_restart() {
    let directory = tempfile::tempdir().expect("made");
    let far_end = FarEnd::default();
    for round in 1..=3 {
        let store = open(directory.path());
        append(&store, "meltpool", 40, now());
        step(&store, round, &["melt"]);
        drain_until(Delivery::AtLeastOnce, &far_end, backlog(&store, Route::default()), (Seq(round * 40), Seq(round))).await;
        assert_eq!(balance(&store, Lane::Rows), (round * 40, round * 40, 0, 0));
    }
    far_end.state(|state| assert_eq!((&state.rows, &state.results), (&numbers(120), &vec![1, 2, 3])));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_far_end_knows_counts_as_delivered() {
    let directory = tempfile::tempdir().expect("made");
    let store = open(directory.path());
    append(&store, "meltpool", 40, now());
    append(&store, "meltpool", 40, now());
    step(&store, 2, &["melt", "melt"]);
    let far_end = FarEnd::default();
    far_end.state(|state| state.known = Some(Progress { rows: Seq(40), results: Seq(1) }));
    drain_until(Delivery::ExactlyOnce, &far_end, backlog(&store, Route::default()), (Seq(80), Seq(2))).await;
    far_end.state(|state| assert_eq!((state.rows[0], state.rows.len(), &state.results), (41, 40, &vec![2])));
    assert_eq!(balance(&store, Lane::Rows), (80, 80, 0, 0));
    assert_eq!(balance(&store, Lane::Results), (2, 2, 0, 0));
}

#[test]
fn what_expired_before_the_far_end_was_asked_stays_expired_and_nothing_waits_for_ever() {
    let directory = tempfile::tempdir().expect("made");
    let config = StoreConfig { max_bytes: 2 << 20, ..StoreConfig::default() };
    let (store, _) = Store::open(directory.path(), config).expect("opened");
    let mut backlog = backlog(&store, Route::default());
    let cursor = backlog.cursor().expect("known");
    // Rows go for want of room before the sink has connected to a far end that had them all in an earlier life.
    let mut state = 1_u64;
    while balance(&store, Lane::Rows).3 == 0 {
        let mut batch = Batch { arrival: now(), ..Batch::clone(&material::batch("meltpool", 1, 1_000)) };
        for value in &mut batch.signals[0] {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *value = f64::from_bits(0x3ff0_0000_0000_0000 | state >> 12);
        }
        store.writer().append(Input::Batch(batch.into())).expect("the oldest go");
    }
    let (accepted, .., expired) = balance(&store, Lane::Rows);
    let through = Progress { rows: Seq(accepted), results: Seq(0) };
    let held = backlog.catch_up(cursor, through).expect("the store is fine");
    assert_eq!(held.rows, accepted - expired);
    while balance(&store, Lane::Rows).1 == 0 {
        std::thread::yield_now();
    }
    let (accepted, delivered, buffered, expired) = balance(&store, Lane::Rows);
    assert_eq!((delivered + expired, buffered), (accepted, 0), "{accepted} {delivered} {expired}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_a_dead_letter_and_waits_no_more() {
    let directory = tempfile::tempdir().expect("made");
    let store = open(directory.path());
    append(&store, "meltpool", 40, now());
    let far_end = FarEnd::with([Order::RefuseRow(3)]);
    drain_until(Delivery::AtLeastOnce, &far_end, backlog(&store, Route::default()), (Seq(40), Seq(0))).await;
    assert_eq!(balance(&store, Lane::Rows), (40, 40, 0, 0));
    let letters = store.reader().expect("opened").dead_letters(0, 10).expect("read");
    let (_, letter) = letters.first().expect("one was refused");
    assert_eq!((&*letter.source, letter.detail.as_str(), letter.stream.as_deref()), ("sink plant", "ugly", Some("meltpool")));
    let raw: serde_json::Value = serde_json::from_slice(&letter.raw).expect("a row as JSON");
    assert_eq!(raw["intensity"], 4.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_waited_long_say_that_they_are_backlog() {
    let directory = tempfile::tempdir().expect("made");
    let store = open(directory.path());
    append(&store, "meltpool", 10, Timestamp(now().0 - 3_600_000_000_000));
    append(&store, "meltpool", 10, now());
    let far_end = FarEnd::default();
    drain_until(Delivery::AtLeastOnce, &far_end, backlog(&store, Route::default()), (Seq(20), Seq(0))).await;
    far_end.state(|state| assert_eq!((state.rows.len(), state.historical), (20, 1)));
}

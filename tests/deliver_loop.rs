//! The retry loop against a far end that fails to order, from a backlog in memory and from the store.

// The sinks' tests use all of it.
#[allow(dead_code)]
#[path = "sinks/material.rs"]
mod material;
#[path = "sinks/stored.rs"]
mod stored;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use material::Memory;
use qadf_edge::{
    deliver::{
        Backlog, Config, Connect, Count, Delivered, Delivery, Item, Parcel, Progress, ReadLimits, Refusal, Refused, Sink,
        SinkCounters, SinkError, Supervised,
        breaker::{Circuit, Policy},
        counters::Snapshot,
        run, supervise,
    },
    model::Seq,
};
use tokio::sync::watch;

/// What happens to the next attempt.
enum Order {
    Deliver,
    /// The far end has it all, and says that it failed.
    LoseTheAnswer,
    Fail,
    FailForGood,
    RefuseRow(usize),
    Hang,
    Panic,
}

/// A far end that keeps what it is given; a clone is the same one.
#[derive(Clone, Default)]
struct FarEnd(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    orders: VecDeque<Order>,
    rows: Vec<u64>,
    results: Vec<u64>,
    connections: usize,
    known: Option<Progress>,
    historical: usize,
}

impl FarEnd {
    fn with(orders: impl IntoIterator<Item = Order>) -> Self {
        let far_end = Self::default();
        far_end.state(|state| state.orders.extend(orders));
        far_end
    }

    fn state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().expect("no test panics while it holds this"))
    }
}

impl Connect for FarEnd {
    type Sink = Self;

    async fn connect(&self) -> Result<(Self, Option<Progress>), SinkError> {
        let known = self.state(|state| {
            state.connections += 1;
            state.known
        });
        Ok((self.clone(), known))
    }
}

impl Sink for FarEnd {
    async fn deliver(&mut self, parcel: &Arc<Parcel>) -> Result<Delivered, SinkError> {
        let rows = parcel.rows.iter().flat_map(|lot| (lot.batch.first_seq.0..).take(lot.batch.rows())).collect::<Vec<_>>();
        let order = self.state(|state| state.orders.pop_front()).unwrap_or(Order::Deliver);
        if let Order::Deliver | Order::LoseTheAnswer | Order::RefuseRow(_) = order {
            self.state(|state| {
                state.rows.extend(&rows);
                state.historical += parcel.rows.iter().filter(|lot| lot.historical).count();
                state.results.extend(parcel.results.iter().map(|result| result.seq.0));
            });
        }
        match order {
            Order::Deliver => Ok(Delivered { rows: rows.len() as u64, ..Delivered::default() }),
            Order::LoseTheAnswer | Order::Fail => Err(SinkError::Retry("not now".to_owned())),
            Order::FailForGood => Err(SinkError::Fatal("never".to_owned())),
            Order::RefuseRow(row) => {
                let refused = Refused { what: Item::Row { lot: 0, row }, reason: "ugly".to_owned() };
                Err(SinkError::Reject { which: vec![refused], rest: Delivered::default() })
            }
            Order::Hang => std::future::pending().await,
            Order::Panic => panic!("as ordered"),
        }
    }
}

fn config(delivery: Delivery) -> Config {
    Config {
        limits: ReadLimits { rows: 20, results: 10 },
        linger: Duration::ZERO,
        attempt_within: Duration::from_millis(50),
        stop_within: Duration::ZERO,
        policy: Policy { backoff_first_ms: 1, open_for_ms: 5, ..Policy::default() },
        delivery,
        seed: 1,
    }
}

/// Runs the loop until the cursor is at the end.
async fn drain(delivery: Delivery, far_end: &FarEnd, backlog: &Memory) -> Snapshot {
    drain_until(delivery, far_end, backlog.clone(), backlog.head()).await
}

async fn drain_until(delivery: Delivery, far_end: &FarEnd, backlog: impl Backlog, (rows, results): (Seq, Seq)) -> Snapshot {
    let counters = Arc::new(SinkCounters::default());
    let (stop, stopped) = watch::channel(false);
    let (_committed, announced) = watch::channel((rows, results));
    let running = tokio::spawn(run(config(delivery), far_end.clone(), backlog, announced, Arc::clone(&counters), stopped));
    let deadline = Instant::now() + Duration::from_secs(30);
    while counters.snapshot().cursor != (Progress { rows, results }) {
        assert!(Instant::now() < deadline, "not drained: {:?}", counters.snapshot());
        tokio::task::yield_now().await;
    }
    stop.send_replace(true);
    running.await.expect("it does not panic").expect("the store is fine");
    counters.snapshot()
}

fn count(rows: u64, results: u64) -> Count {
    Count { rows, results }
}

fn numbers(last: u64) -> Vec<u64> {
    (1..=last).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_repeated_until_every_row_has_arrived_in_order() {
    let orders = [Order::Fail, Order::Fail, Order::Deliver, Order::FailForGood, Order::Hang, Order::Deliver, Order::Fail];
    let (far_end, backlog) = (FarEnd::with(orders), Memory::of(200, 5));
    let now = drain(Delivery::AtLeastOnce, &far_end, &backlog).await;
    far_end.state(|state| {
        assert_eq!(state.rows, numbers(200));
        assert_eq!(state.results, numbers(40));
        assert_eq!(state.connections, 6);
    });
    assert_eq!(backlog.content().cursor, Progress { rows: Seq(200), results: Seq(40) });
    assert_eq!((now.retries, now.delivered, now.circuit), (5, count(200, 40), Circuit::Closed));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_repeats_the_parcel_and_counts_it_once() {
    let (far_end, backlog) = (FarEnd::with([Order::LoseTheAnswer]), Memory::of(100, 5));
    let now = drain(Delivery::AtLeastOnce, &far_end, &backlog).await;
    let repeated: Vec<u64> = numbers(20).into_iter().chain(numbers(100)).collect();
    far_end.state(|state| assert_eq!(state.rows, repeated));
    assert_eq!((now.delivered, now.lost), (count(100, 20), count(0, 0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_once_gives_up_what_fails() {
    let (far_end, backlog) = (FarEnd::with([Order::Deliver, Order::LoseTheAnswer, Order::Fail]), Memory::of(100, 5));
    let now = drain(Delivery::AtMostOnce, &far_end, &backlog).await;
    let arrived: Vec<u64> = (1..=40).chain(61..=100).collect();
    far_end.state(|state| assert_eq!(state.rows, arrived));
    assert_eq!((now.delivered, now.lost), (count(60, 10), count(40, 10)));
    assert_eq!(backlog.content().cursor.rows, Seq(100));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_far_end_that_knows_more_than_the_cursor_is_believed() {
    let (far_end, backlog) = (FarEnd::default(), Memory::of(100, 5));
    far_end.state(|state| state.known = Some(Progress { rows: Seq(60), results: Seq(12) }));
    let now = drain(Delivery::ExactlyOnce, &far_end, &backlog).await;
    far_end.state(|state| assert_eq!((state.rows[0], state.rows.len(), state.results[0]), (61, 40, 13)));
    assert_eq!((now.delivered, now.repeated), (count(40, 8), 72));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_goes_to_the_dead_letters_and_the_rest_counts() {
    let (far_end, backlog) = (FarEnd::with([Order::Deliver, Order::RefuseRow(3)]), Memory::of(100, 5));
    let now = drain(Delivery::AtLeastOnce, &far_end, &backlog).await;
    let refusals: Vec<Refusal> = backlog.content().refusals.clone();
    assert_eq!((refusals.len(), refusals[0].reason.as_str()), (1, "ugly"));
    let raw: serde_json::Value = serde_json::from_slice(&refusals[0].raw).expect("a row as JSON");
    assert_eq!(raw["intensity"], 24.0);
    assert_eq!((now.delivered, now.rejected), (count(99, 20), count(1, 0)));
    let confirmed = backlog.content().confirmed[1];
    assert_eq!((confirmed.from.rows, confirmed.through.rows), (Seq(21), Seq(40)));
    assert_eq!((confirmed.delivered.rows, confirmed.given_up.rows), (19, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_to_stop_ends_a_hanging_attempt_and_keeps_the_cursor() {
    let (far_end, backlog) = (FarEnd::with([Order::Deliver, Order::Hang]), Memory::of(100, 5));
    let config = Config { attempt_within: Duration::from_hours(1), ..config(Delivery::AtLeastOnce) };
    let (stop, stopped) = watch::channel(false);
    let (_committed, announced) = watch::channel(backlog.head());
    let running = tokio::spawn(run(config, far_end.clone(), backlog.clone(), announced, Arc::default(), stopped));
    while far_end.state(|state| state.orders.len()) > 0 {
        tokio::task::yield_now().await;
    }
    stop.send_replace(true);
    running.await.expect("it does not panic").expect("the store is fine");
    assert_eq!(backlog.content().cursor.rows, Seq(20));
}

/// Runs the supervised loop until `done`.
async fn supervised(far_end: &FarEnd, backlog: &Memory, stalled_after: Duration, done: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let counters = Arc::new(SinkCounters::default());
    let (stop, stopped) = watch::channel(false);
    let (_committed, committed) = watch::channel(backlog.head());
    let what = Supervised {
        name: "far".into(),
        config: Config { attempt_within: Duration::from_hours(24), ..config(Delivery::AtLeastOnce) },
        connect: far_end.clone(),
        committed,
        counters: Arc::clone(&counters),
        stop: stopped,
        stalled_after,
    };
    let backlog = backlog.clone();
    let running = tokio::spawn(supervise(what, move || Ok(backlog.clone())));
    let deadline = Instant::now() + Duration::from_mins(1);
    while !done(&counters.snapshot()) {
        assert!(Instant::now() < deadline, "{:?}", counters.snapshot());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    stop.send_replace(true);
    running.await.expect("it does not panic");
    counters.snapshot()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_stands_while_rows_wait_is_an_alarm_and_starts_the_sink_again() {
    let hangs = std::iter::repeat_with(|| Order::Hang).take(1_000);
    let (far_end, backlog) = (FarEnd::with(std::iter::once(Order::Deliver).chain(hangs)), Memory::of(100, 5));
    let allowed = Duration::from_millis(80);
    let alarmed = supervised(&far_end, &backlog, allowed, |now| now.standing_ms > 0).await;
    assert!(alarmed.standing_ms >= 80, "{alarmed:?}");
    assert_eq!(backlog.content().cursor.rows, Seq(20));

    let (far_end, backlog) = (FarEnd::with([Order::Deliver, Order::Hang, Order::Hang]), Memory::of(100, 5));
    let healed = |now: &Snapshot| now.cursor.rows == Seq(100) && now.standing_ms == 0;
    let now = supervised(&far_end, &backlog, allowed, healed).await;
    assert!(now.restarts >= 2, "{now:?}");
    // What was on its way when the loop was started again comes again, with the same ids; nothing is left out or out of order.
    far_end.state(|state| {
        let mut seen = std::collections::BTreeSet::new();
        let first: Vec<_> = state.rows.iter().copied().filter(|row| seen.insert(*row)).collect();
        assert_eq!(first, numbers(100));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_that_panics_starts_again_where_its_cursor_is() {
    let (far_end, backlog) = (FarEnd::with([Order::Deliver, Order::Panic]), Memory::of(100, 5));
    let now = supervised(&far_end, &backlog, Duration::from_hours(1), |now| now.cursor.rows == Seq(100)).await;
    assert_eq!(now.restarts, 1);
    far_end.state(|state| assert_eq!(state.rows, numbers(100)));
}

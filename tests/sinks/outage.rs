//! The whole loop while its server is killed, frozen or not there yet: nothing lost, nothing doubled, and it heals by itself.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use qadf_edge::deliver::{
    BacklogError, Config, Delivery, Endpoint, ReadLimits, Settings, SinkCounters, breaker::Policy, counters::Snapshot, run,
};
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    kafka, material,
    material::{Memory, identity, row_ids, unique},
    mongo, redis,
    servers::{Kind, Server},
};

const ROWS: u64 = 20_000;
/// Of a backlog, in one parcel.
const PARCEL_ROWS_MAX: u64 = 800;
const WITHIN: Duration = Duration::from_secs(90);

/// A running loop.
struct Loop {
    counters: Arc<SinkCounters>,
    stop: watch::Sender<bool>,
    committed: watch::Sender<(qadf_edge::model::Seq, qadf_edge::model::Seq)>,
    task: JoinHandle<Result<(), BacklogError>>,
}

impl Loop {
    fn start(appliance: &str, settings: Settings, backlog: &Memory) -> Self {
        let config = Config {
            limits: ReadLimits { rows: 200, results: 100 },
            linger: Duration::ZERO,
            attempt_within: Duration::from_secs(20),
            policy: Policy { backoff_first_ms: 20, open_for_ms: 200, ..Policy::default() },
            delivery: settings.delivery(),
            ..Config::default()
        };
        let endpoint = Endpoint { name: "plant".into(), identity: identity(appliance), settings };
        let counters = Arc::new(SinkCounters::default());
        let (stop, stopped) = watch::channel(false);
        let (committed, announced) = watch::channel(backlog.head());
        let task = tokio::spawn(run(config, endpoint, backlog.clone(), announced, Arc::clone(&counters), stopped));
        Self { counters, stop, committed, task }
    }

    /// Polls until `reached`; fails with the counters.
    async fn until(&self, reached: impl Fn(&Snapshot) -> bool) {
        let deadline = Instant::now() + WITHIN;
        loop {
            let now = self.counters.snapshot();
            if reached(&now) {
                return;
            }
            assert!(Instant::now() < deadline, "not reached: {now:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Everything is behind the cursor.
    async fn until_delivered(&self, rows: u64) {
        let (_, results) = *self.committed.borrow();
        self.until(|now| now.cursor.rows.0 == rows && now.cursor.results == results).await;
    }

    async fn stop(self) {
        self.stop.send_replace(true);
        self.task.await.expect("it does not panic").expect("the store is fine");
        drop(self.committed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mongodb_killed_half_way_has_every_row_once() {
    let mut server = Server::own(Kind::Mongodb);
    let name = unique("outage");
    let appliance = unique("appliance");
    let backlog = Memory::of(ROWS, 50);
    let running = Loop::start(&appliance, Settings::Mongo(mongo::settings(&server, &name)), &backlog);
    running.until(|now| now.delivered.rows > 2_000).await;
    server.kill();
    running.until(|now| !now.up).await;
    server.start();
    running.until_delivered(ROWS).await;
    running.stop().await;
    let mut ids = mongo::ids(&mongo::database(&server, &name).await).await;
    let mut expected = row_ids(&appliance, ROWS);
    ids.sort_unstable();
    expected.sort_unstable();
    assert_eq!(ids, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_killed_half_way_has_every_row_once_and_in_order() {
    let mut server = Server::own(Kind::Kafka);
    let topic = unique("outage");
    let appliance = unique("appliance");
    let backlog = Memory::of(ROWS, 50);
    let running = Loop::start(&appliance, Settings::Kafka(kafka::settings(&server, &topic, Delivery::ExactlyOnce)), &backlog);
    running.until(|now| now.delivered.rows > 1_000).await;
    server.kill();
    running.until(|now| !now.up).await;
    server.start();
    running.until_delivered(ROWS).await;
    running.stop().await;
    let records = kafka::records(&server, &topic);
    assert_eq!(kafka::row_ids_of(&records), row_ids(&appliance, ROWS));
    assert_eq!(records.len() as u64, ROWS + ROWS / 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_sees_each_row_once_although_the_store_forgets_every_cursor() {
    let server = Server::of(Kind::Kafka);
    let topic = unique("forgetful");
    let settings = || Settings::Kafka(kafka::settings(&server, &topic, Delivery::ExactlyOnce));
    let appliance = unique("appliance");
    let backlog = Memory::of(4_000, 50);
    backlog.content().forgetful = true;
    for delivered in [1_000, 2_000, 3_000] {
        let running = Loop::start(&appliance, settings(), &backlog);
        // What an earlier process had brought about counts as repeated here.
        running.until(|now| now.delivered.rows + now.repeated > delivered).await;
        // The process is gone at once, wherever it was.
        running.task.abort();
    }
    let running = Loop::start(&appliance, settings(), &backlog);
    running.until_delivered(4_000).await;
    running.stop().await;
    assert_eq!(kafka::row_ids_of(&kafka::records(&server, &topic)), row_ids(&appliance, 4_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_at_least_once_loses_nothing_when_killed() {
    let mut server = Server::own(Kind::Kafka);
    let topic = unique("at_least_once");
    let appliance = unique("appliance");
    let backlog = Memory::of(ROWS, 50);
    let running = Loop::start(&appliance, Settings::Kafka(kafka::settings(&server, &topic, Delivery::AtLeastOnce)), &backlog);
    running.until(|now| now.delivered.rows > 1_000).await;
    server.kill();
    server.start();
    running.until_delivered(ROWS).await;
    running.stop().await;
    let mut ids = kafka::row_ids_of(&kafka::records(&server, &topic));
    ids.sort_unstable();
    ids.dedup();
    let mut expected = row_ids(&appliance, ROWS);
    expected.sort_unstable();
    assert_eq!(ids, expected);
}

/// What a process that is killed between delivery and cursor costs: nothing, with `exactly_once`
/// ([`kafka_sees_each_row_once_although_the_store_forgets_every_cursor`]); here, what it sent comes again.
#[tokio::test(flavor = "multi_thread")]
async fn kafka_at_least_once_doubles_what_a_killed_process_had_sent() {
    let server = Server::of(Kind::Kafka);
    let topic = unique("twice");
    let settings = || Settings::Kafka(kafka::settings(&server, &topic, Delivery::AtLeastOnce));
    let appliance = unique("appliance");
    let backlog = Memory::of(4_000, 50);
    backlog.content().forgetful = true;
    let killed = Loop::start(&appliance, settings(), &backlog);
    killed.until(|now| now.delivered.rows >= 1_000).await;
    let sent = killed.counters.snapshot().delivered.rows;
    killed.task.abort();
    backlog.content().forgetful = false;
    let running = Loop::start(&appliance, settings(), &backlog);
    running.until_delivered(4_000).await;
    running.stop().await;
    let mut ids = kafka::row_ids_of(&kafka::records(&server, &topic));
    let all = ids.len() as u64;
    ids.sort_unstable();
    ids.dedup();
    let mut expected = row_ids(&appliance, 4_000);
    expected.sort_unstable();
    assert_eq!(ids, expected, "none is lost");
    assert!(all >= 4_000 + sent, "{all} records: what was sent before is there twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_at_most_once_doubles_nothing_and_counts_what_an_outage_loses() {
    let mut server = Server::own(Kind::Kafka);
    let topic = unique("at_most_once");
    let appliance = unique("appliance");
    let backlog = Memory::of(ROWS, 50);
    let running = Loop::start(&appliance, Settings::Kafka(kafka::settings(&server, &topic, Delivery::AtMostOnce)), &backlog);
    running.until(|now| now.delivered.rows > 1_000).await;
    server.kill();
    running.until(|now| now.lost.rows > 0).await;
    server.start();
    running.until_delivered(ROWS).await;
    let counters = running.counters.snapshot();
    running.stop().await;
    let ids = kafka::row_ids_of(&kafka::records(&server, &topic));
    let expected = row_ids(&appliance, ROWS);
    let mut all = expected.iter();
    assert!(ids.iter().all(|id| all.any(|one| one == id)), "in order, and none twice");
    assert_eq!(counters.delivered.rows + counters.lost.rows, ROWS);
    // Nobody acknowledges: what was on its way to the broker when it was killed is missing besides what is counted, and a part of the
    // parcel that counts as lost may be there.
    let there = ids.len() as u64;
    assert!(there < ROWS && there <= counters.delivered.rows + PARCEL_ROWS_MAX, "{there} of {counters:?}");
}

/// Commits a few rows more, so that something waits although the server was quick; how many there are now.
fn more(running: &Loop, backlog: &Memory) -> u64 {
    backlog.content().batches.push(material::batch("meltpool", ROWS + 1, 50));
    running.committed.send_replace(backlog.head());
    ROWS + 50
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_killed_half_way_shows_the_latest_row_again() {
    let mut server = Server::own(Kind::Redis);
    let appliance = unique("appliance");
    let backlog = Memory::of(ROWS, 50);
    let running = Loop::start(&appliance, Settings::Redis(redis::settings(&server)), &backlog);
    running.until(|now| now.delivered.rows > 2_000).await;
    server.kill();
    let rows = more(&running, &backlog);
    running.until(|now| !now.up).await;
    server.start();
    running.until_delivered(rows).await;
    running.stop().await;
    assert_eq!(redis::latest_seq(&server, &appliance).await, rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_counts_as_gone_and_heals_when_it_goes_on() {
    let server = Server::own(Kind::Redis);
    let appliance = unique("appliance");
    let backlog = Memory::of(ROWS, 50);
    let running = Loop::start(&appliance, Settings::Redis(redis::settings(&server)), &backlog);
    running.until(|now| now.delivered.rows > 2_000).await;
    server.pause();
    let rows = more(&running, &backlog);
    running.until(|now| !now.up && !now.last_error.is_empty()).await;
    server.resume();
    running.until_delivered(rows).await;
    running.stop().await;
    assert_eq!(redis::latest_seq(&server, &appliance).await, rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_at_the_start_is_found_when_it_comes() {
    let mut server = Server::own(Kind::Mongodb);
    server.kill();
    let name = unique("late");
    let appliance = unique("appliance");
    let backlog = Memory::of(500, 50);
    let running = Loop::start(&appliance, Settings::Mongo(mongo::settings(&server, &name)), &backlog);
    running.until(|now| now.retries > 0).await;
    server.start();
    running.until_delivered(500).await;
    // What is committed later is delivered as well.
    backlog.content().batches.push(material::batch("meltpool", 501, 10));
    running.committed.send_replace(backlog.head());
    running.until_delivered(510).await;
    running.stop().await;
    assert_eq!(backlog.content().cursor.rows.0, 510);
    assert_eq!(mongo::ids(&mongo::database(&server, &name).await).await, row_ids(&appliance, 510));
}

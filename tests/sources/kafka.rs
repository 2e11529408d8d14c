//! The Kafka source against Apache Kafka.

use std::{collections::BTreeSet, time::Duration};

use qadf_edge::ingest::{KafkaConfig, KafkaOptions, KafkaStart, Parcel, SourceKind};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    producer::{FutureProducer, FutureRecord},
};

use super::{
    PATIENCE, Running, routes,
    servers::{Kind, Server},
    synced,
};

const PARTITIONS: i32 = 2;

async fn create_topic(brokers: &str, topic: &str) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    let new = NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1));
    let created = admin.create_topics([&new], &AdminOptions::new().operation_timeout(Some(PATIENCE))).await.unwrap();
    assert_eq!(created, [Ok(topic.to_owned())]);
}

/// Sends a record for each text, in turn to the partitions.
async fn produce(brokers: &str, topic: &str, texts: impl IntoIterator<Item = String>) {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("enable.idempotence", "true")
        .set("linger.ms", "5")
        .create()
        .unwrap();
    let sent = texts.into_iter().enumerate().map(|(index, text)| {
        let producer = &producer;
        async move {
            let record = FutureRecord::<(), str>::to(topic).payload(&text).partition(index as i32 % PARTITIONS);
            producer.send(record, PATIENCE).await.map_err(|(error, _)| error).expect("the broker takes it");
        }
    });
    futures_util::future::join_all(sent).await;
}

fn row(time: i64) -> String {
    format!("{{\"time\":{time},\"intensity\":1.5}}")
}

fn kind(brokers: &str, topic: &str) -> SourceKind {
    let options = KafkaOptions {
        brokers: vec![brokers.to_owned()],
        topics: vec![topic.to_owned()],
        group: "edge".into(),
        start: KafkaStart::Earliest,
        options: [("reconnect.backoff.max.ms".to_owned(), "500".to_owned())].into(),
    };
    SourceKind::Kafka(KafkaConfig { options, routes: routes() })
}

/// The numbers by which an inbox knows rows again, with their times.
fn numbered(parcel: &Parcel) -> Vec<((String, i64, i64), i64)> {
    let of = |batch: &qadf_edge::model::Batch| {
        let origin = batch.origin.clone().expect("rows are numbered");
        assert!(batch.partition.starts_with("rows/") || batch.partition.starts_with("bad/"), "{}", batch.partition);
        let number = |row: usize| {
            let device = origin.device.get(row).expect("a partition").to_string();
            ((device, origin.boot[row].expect("a time"), origin.seq[row].expect("an offset")), batch.time[row])
        };
        (0..batch.rows()).map(number).collect::<Vec<_>>()
    };
    parcel.decoded.batches.iter().flat_map(of).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_kafka_come_in_once_whatever_ends_or_is_killed() {
    let mut server = tokio::task::spawn_blocking(|| Server::own(Kind::Kafka)).await.unwrap();
    let brokers = server.url().to_owned();

    let mut source = Running::start(kind(&brokers, "rows"));
    source.until_down("rows").await;
    create_topic(&brokers, "rows").await;
    source.until_up().await;

    // What was synced is committed, and does not come again.
    produce(&brokers, "rows", (0..1000).map(row)).await;
    let mut seen = BTreeSet::new();
    while seen.len() < 1000 {
        let parcel = source.parcel().await;
        seen.extend(numbered(&parcel));
        synced(parcel);
    }
    source.end().await;

    // What was not synced comes again, under the same numbers.
    produce(&brokers, "rows", (1000..2000).map(row)).await;
    let mut source = Running::start(kind(&brokers, "rows"));
    let mut unsynced = BTreeSet::new();
    while unsynced.len() < 1000 {
        let parcel = source.parcel().await;
        unsynced.extend(numbered(&parcel));
        std::mem::forget(parcel);
    }
    assert!(unsynced.iter().all(|(_, time)| *time >= 1000), "what was committed does not come again");
    source.task.abort();
    let mut source = Running::start(kind(&brokers, "rows"));
    let mut again = BTreeSet::new();
    while again.len() < 1000 {
        let parcel = source.parcel().await;
        again.extend(numbered(&parcel));
        synced(parcel);
    }
    assert_eq!(again, unsynced);
    seen.extend(again);

    // The broker is killed and comes back.
    let restarted = tokio::task::spawn_blocking(move || {
        server.kill();
        server
    });
    let mut server = restarted.await.unwrap();
    source.until_down("Kafka").await;
    let server = tokio::task::spawn_blocking(move || {
        server.start();
        server
    });
    let server = server.await.unwrap();
    source.until_up().await;
    produce(&brokers, "rows", (2000..3000).map(row)).await;
    while seen.len() < 3000 {
        let parcel = source.parcel().await;
        seen.extend(numbered(&parcel));
        synced(parcel);
    }
    let times: BTreeSet<i64> = seen.iter().map(|(_, time)| *time).collect();
    assert_eq!((seen.len(), times.len()), (3000, 3000));
    source.end().await;

    // What is refused comes again; what is no row is a dead letter.
    create_topic(&brokers, "bad").await;
    produce(&brokers, "bad", ["[{\"time\":1},{\"time\":2},{}]", "rubbish"].map(str::to_owned)).await;
    let mut source = Running::start(kind(&brokers, "bad"));
    let refused = source.parcel().await;
    drop(refused);
    let (mut times, reasons) = source.sync(4).await;
    times.sort_unstable();
    assert_eq!((times, reasons.len()), (vec![1, 2], 2));
    tokio::time::timeout(PATIENCE + Duration::from_secs(1), source.end()).await.expect("it leaves its group in time");
    drop(server);
}

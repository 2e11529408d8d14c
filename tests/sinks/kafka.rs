//! Kafka, read back by a consumer of its own.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use qadf_edge::deliver::{
    Delivery, Identity, Progress, SinkError,
    kafka::{KafkaSink, Settings},
};
use qadf_edge::model::Seq;
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::Headers,
};

use crate::{
    material::{identity, parcel, row_ids, unique},
    servers::{Kind, Server},
};

const WITHIN: Duration = Duration::from_secs(30);

pub fn settings(server: &Server, topic: &str, delivery: Delivery) -> Settings {
    let brokers = server.url().split(',').map(str::to_owned).collect();
    Settings { brokers, topic: topic.to_owned(), delivery, options: BTreeMap::new() }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub key: String,
    pub value: serde_json::Value,
    pub headers: BTreeMap<String, String>,
}

impl Record {
    pub fn id(&self) -> &str {
        &self.headers["id"]
    }
}

/// All records that a `read_committed` consumer sees, in order (the topic has one partition).
pub fn records(server: &Server, topic: &str) -> Vec<Record> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", server.url()).set("group.id", topic).set("isolation.level", "read_committed");
    config.set("enable.partition.eof", "true").set("enable.auto.commit", "false").set("log_level", "0");
    let consumer: BaseConsumer = config.create().expect("the settings are valid");
    let mut partitions = TopicPartitionList::new();
    partitions.add_partition_offset(topic, 0, Offset::Beginning).expect("valid");
    consumer.assign(&partitions).expect("assigned");
    let (deadline, mut records) = (Instant::now() + WITHIN, Vec::new());
    while Instant::now() < deadline {
        match consumer.poll(WITHIN) {
            Some(Ok(message)) => records.push(record(&message)),
            Some(Err(KafkaError::PartitionEOF(_))) => return records,
            // The client tries again by itself.
            Some(Err(KafkaError::MessageConsumption(_))) | None => {}
            Some(Err(error)) => panic!("{error}"),
        }
    }
    panic!("no end of {topic} within {WITHIN:?}")
}

fn record(message: &impl Message) -> Record {
    let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.expect("present").to_vec()).expect("UTF-8");
    let headers = message.headers().expect("every record has headers");
    Record {
        key: text(message.key()),
        value: serde_json::from_slice(message.payload().expect("every record has a value")).expect("JSON"),
        headers: headers.iter().map(|header| (header.key.to_owned(), text(header.value))).collect(),
    }
}

/// The ids of the rows, in order.
pub fn row_ids_of(records: &[Record]) -> Vec<String> {
    records.iter().filter(|record| record.headers["kind"] == "row").map(|record| record.id().to_owned()).collect()
}

/// Connected; a broker that has just started may take a while to answer.
async fn connected(settings: &Settings, identity: Identity) -> (KafkaSink, Option<Progress>) {
    let deadline = Instant::now() + 3 * WITHIN;
    loop {
        match KafkaSink::connect(settings, "plant", identity.clone()).await {
            Ok(connected) => return connected,
            Err(SinkError::Retry(_)) if Instant::now() < deadline => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn rows_and_results_have_the_contracts_shapes() {
    let server = Server::of(Kind::Kafka);
    for delivery in [Delivery::AtMostOnce, Delivery::AtLeastOnce, Delivery::ExactlyOnce] {
        let topic = unique("shapes");
        let settings = settings(&server, &topic, delivery);
        let (mut sink, _) = connected(&settings, identity("lpbf-07")).await;
        sink.deliver(&parcel(1, 2)).await.expect("delivered");
        let all = records(&server, &topic);
        assert_eq!(all.len(), 4, "{delivery:?}");
        let row = &all[0];
        assert_eq!(row.key, "meltpool");
        assert_eq!(
            row.value,
            serde_json::json!({
                "appliance": "lpbf-07", "stream": "meltpool", "time": "2026-01-31T12:00:00.001000007Z",
                "x": 1.5, "y": -2.0, "z": 0.03, "layer": 4, "part": "A3", "recipe": null, "intensity": 1.0
            })
        );
        let headers = [("id", "lpbf-07-0123456789abcdef-1"), ("kind", "row"), ("schema", "qadf-edge/1")];
        assert_eq!(row.headers, headers.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect());
        let alert = &all[2];
        assert_eq!((alert.key.as_str(), alert.id(), alert.headers["kind"].as_str()), ("melt_quality", "alert-2", "alert"));
        assert_eq!(alert.value["appliance"], "lpbf-07");
        assert_eq!(alert.value["stream"], "meltpool");
        assert_eq!(alert.value["evidence"]["n"], 2);
    }
}

#[tokio::test]
async fn a_crash_between_commit_and_cursor_repeats_nothing() {
    let server = Server::of(Kind::Kafka);
    let topic = unique("crash");
    let appliance = unique("appliance");
    let settings = settings(&server, &topic, Delivery::ExactlyOnce);
    let (mut sink, known) = connected(&settings, identity(&appliance)).await;
    assert_eq!(known, None);
    sink.deliver(&parcel(1, 100)).await.expect("delivered");
    sink.deliver(&parcel(101, 100)).await.expect("delivered");
    // The process ends here: the store's cursor never moved. The topic's did.
    drop(sink);
    let (mut sink, known) = connected(&settings, identity(&appliance)).await;
    assert_eq!(known, Some(Progress { rows: Seq(200), results: Seq(203) }));
    sink.deliver(&parcel(201, 100)).await.expect("delivered");
    assert_eq!(row_ids_of(&records(&server, &topic)), row_ids(&appliance, 300));
    // Another appliance, or the same one with a new store, knows nothing of it.
    let (_, known) = connected(&settings, identity(&unique("other"))).await;
    assert_eq!(known, None);
    let mut fresh = identity(&appliance);
    fresh.store += 1;
    let (_, known) = connected(&settings, fresh).await;
    assert_eq!(known, None);
}

#[tokio::test]
async fn a_forgotten_older_process_is_fenced_off() {
    let server = Server::of(Kind::Kafka);
    let topic = unique("fenced");
    let appliance = unique("appliance");
    let settings = settings(&server, &topic, Delivery::ExactlyOnce);
    let (mut older, _) = connected(&settings, identity(&appliance)).await;
    older.deliver(&parcel(1, 1)).await.expect("delivered");
    let (mut newer, known) = connected(&settings, identity(&appliance)).await;
    assert_eq!(known, Some(Progress { rows: Seq(1), results: Seq(3) }));
    let error = older.deliver(&parcel(2, 1)).await.expect_err("the newer has taken its place");
    assert!(matches!(error, SinkError::Fatal(_)), "{error:?}");
    newer.deliver(&parcel(2, 1)).await.expect("delivered");
    assert_eq!(row_ids_of(&records(&server, &topic)), row_ids(&appliance, 2));
}

#[tokio::test]
async fn a_record_too_large_for_the_broker_is_refused_and_the_rest_arrives() {
    let server = Server::of(Kind::Kafka);
    let topic = unique("large");
    let appliance = unique("appliance");
    let settings = settings(&server, &topic, Delivery::ExactlyOnce);
    let (mut sink, _) = connected(&settings, identity(&appliance)).await;
    let mut parcel = (*parcel(1, 3)).clone();
    parcel.results[0].json = format!("{{\"message\":\"{}\"}}", "x".repeat(2_000_000)).into_bytes().into();
    let error = sink.deliver(&parcel.into()).await.expect_err("2 MB is more than a record may have");
    assert!(matches!(&error, SinkError::Reject { which, .. } if which.len() == 1), "{error:?}");
    let all = records(&server, &topic);
    assert_eq!(row_ids_of(&all), row_ids(&appliance, 3));
    assert_eq!(all.len(), 4);
}

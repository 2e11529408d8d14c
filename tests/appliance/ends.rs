//! What is at the far ends: the store read by another process, MongoDB, Kafka and Redis read by clients of their own.

// Each test file uses a part of this.
#![allow(dead_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use futures_util::TryStreamExt;
use mongodb::{
    Client,
    bson::{Document, doc},
};
use qadf_edge::{
    model::Seq,
    store::{DeadLetter, Reader},
};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::Headers,
};
use serde_json::Value;

use crate::{
    process::{PATIENCE, Site},
    servers::Server,
};

/// A row in the store, as far as these tests compare it.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    pub stream: String,
    pub source: String,
    pub time_ns: i64,
    pub first_value: Option<f64>,
    /// The device, its start and its number, where it gave them.
    pub number: Option<(String, i64, i64)>,
}

/// All rows of a site's store, by number.
pub fn stored(store: &mut Reader) -> BTreeMap<u64, Stored> {
    let (mut rows, mut after) = (BTreeMap::new(), Seq(0));
    loop {
        let page = store.rows_after(after, 100_000, None).expect("the store is readable");
        for batch in &page.batches {
            for row in 0..batch.rows() {
                let number = batch
                    .origin
                    .as_ref()
                    .and_then(|origin| Some((origin.device.get(row)?.to_string(), origin.boot[row]?, origin.seq[row]?)));
                let stored = Stored {
                    stream: batch.stream.id.to_string(),
                    source: batch.source.to_string(),
                    time_ns: batch.time[row],
                    first_value: batch.value(0, row),
                    number,
                };
                assert_eq!(rows.insert(batch.seq(row).0, stored), None, "a number stands for one row");
            }
        }
        if page.at_end || page.through <= after {
            return rows;
        }
        after = page.through;
    }
}

/// How many rows of each stream a site's store has; every look reads only what came since the last.
#[derive(Debug, Default)]
pub struct StoredCount {
    through: Seq,
    rows: BTreeMap<String, u64>,
}

impl StoredCount {
    /// Counts on.
    pub fn look(&mut self, store: &mut Reader) {
        loop {
            let page = store.rows_after(self.through, 100_000, None).expect("the store is readable");
            for batch in &page.batches {
                *self.rows.entry(batch.stream.id.to_string()).or_default() += batch.rows() as u64;
            }
            let is_over = page.at_end || page.through <= self.through;
            self.through = page.through;
            if is_over {
                return;
            }
        }
    }

    /// The rows of a stream as of the last look.
    pub fn of(&self, stream: &str) -> u64 {
        self.rows.get(stream).copied().unwrap_or(0)
    }
}

/// The ids of all results in a site's outbox, in order.
pub fn results(store: &Reader) -> Vec<(String, String)> {
    let (mut all, mut after) = (Vec::new(), Seq(0));
    loop {
        let (results, through) = store.results_after(after, 10_000, None).expect("the store is readable");
        all.extend(results.into_iter().map(|result| (result.id, result.kind)));
        if through <= after {
            return all;
        }
        after = through;
    }
}

/// All dead letters of a site.
pub fn dead_letters(site: &Site) -> Vec<DeadLetter> {
    let letters = site.store().dead_letters(0, 100_000).expect("the store is readable");
    letters.into_iter().map(|(_, letter)| letter).collect()
}

/// A record of Kafka.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub key: String,
    pub value: Value,
    pub id: String,
    pub kind: String,
}

/// All records of `topic` that a `read_committed` consumer sees, in order (it has one partition).
pub fn kafka(server: &Server, topic: &str) -> Vec<Record> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", server.url()).set("group.id", topic).set("isolation.level", "read_committed");
    config.set("enable.partition.eof", "true").set("enable.auto.commit", "false").set("log_level", "0");
    let consumer: BaseConsumer = config.create().expect("the settings are valid");
    let mut partitions = TopicPartitionList::new();
    partitions.add_partition_offset(topic, 0, Offset::Beginning).expect("valid");
    consumer.assign(&partitions).expect("assigned");
    let (deadline, mut records) = (Instant::now() + PATIENCE, Vec::new());
    while Instant::now() < deadline {
        match consumer.poll(Duration::from_secs(1)) {
            Some(Ok(message)) => records.push(record(&message)),
            Some(Err(KafkaError::PartitionEOF(_))) => return records,
            // The client tries again by itself.
            Some(Err(KafkaError::MessageConsumption(_))) | None => {}
            Some(Err(error)) => panic!("{error}"),
        }
    }
    panic!("no end of {topic} within {PATIENCE:?}")
}

fn record(message: &impl Message) -> Record {
    let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.expect("present").to_vec()).expect("UTF-8");
    let headers = message.headers().expect("every record has headers");
    let headers: BTreeMap<&str, String> = headers.iter().map(|header| (header.key, text(header.value))).collect();
    assert_eq!(headers["schema"], "qadf-edge/1");
    Record {
        key: text(message.key()),
        value: serde_json::from_slice(message.payload().expect("every record has a value")).expect("JSON"),
        id: headers["id"].clone(),
        kind: headers["kind"].clone(),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// All documents of a collection.
pub fn mongodb(server: &Server, database: &str, collection: &str) -> Vec<Document> {
    runtime().block_on(async {
        let client = Client::with_uri_str(server.url()).await.expect("a valid URL");
        let found = client.database(database).collection(collection).find(doc! {}).await.expect("found");
        found.try_collect().await.expect("read")
    })
}

/// A connection to Redis.
pub fn redis(server: &Server) -> redis::Connection {
    redis::Client::open(server.url()).expect("a valid URL").get_connection().expect("connected")
}

/// Holds MongoDB and Kafka against the store: every accepted row and every result is there exactly once, none besides, and says the
/// same. Gives the rows.
pub fn check_everything_arrived_once(site: &Site, mongo: &Server, broker: &Server) -> BTreeMap<u64, Stored> {
    let mut store = site.store();
    let identity = store.identity().expect("the store is readable");
    let rows = stored(&mut store);
    assert!(rows.keys().copied().eq(1..=rows.len() as u64), "rows are numbered without gaps");
    let prefix = format!("{}-{identity:016x}-", site.id);
    let number = |id: &str| id.strip_prefix(&prefix).and_then(|number| number.parse::<u64>().ok());

    let documents = mongodb(mongo, &site.id, "stream_data");
    for document in &documents {
        let id = document.get_str("_id").expect("text");
        let row = number(id).and_then(|number| rows.get(&number)).unwrap_or_else(|| panic!("no row has the id {id}"));
        let text = |key: &str| document.get_str(key).unwrap_or_else(|error| panic!("{key}: {error}"));
        assert_eq!((text("stream"), text("appliance")), (&*row.stream, &*site.id));
        assert_eq!(document.get_i64("time_ns").ok(), Some(row.time_ns));
        let timestamp = document.get_datetime("timestamp").expect("a date").timestamp_millis();
        assert_eq!(timestamp, row.time_ns.div_euclid(1_000_000));
    }
    // `_id` is unique, so that as many as there are rows are all of them.
    assert_eq!(documents.len(), rows.len(), "documents in MongoDB");

    let records = kafka(broker, &site.id);
    let (of_rows, of_results): (Vec<_>, Vec<_>) = records.iter().partition(|record| record.kind == "row");
    let mut seen = BTreeSet::new();
    for record in &of_rows {
        let number = number(&record.id).unwrap_or_else(|| panic!("no row has the id {}", record.id));
        assert!(seen.insert(number), "row {number} is in Kafka twice");
        let row = &rows[&number];
        assert_eq!(
            (&*record.key, record.value["stream"].as_str(), record.value["appliance"].as_str()),
            (&*row.stream, Some(&*row.stream), Some(&*site.id))
        );
        let time: qadf_edge::model::Timestamp = record.value["time"].as_str().expect("text").parse().expect("a time");
        assert_eq!(time.0, row.time_ns);
    }
    assert_eq!(seen.len(), rows.len(), "rows in Kafka");

    let results = results(&store);
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, kind) in &results {
        *kinds.entry(&**kind).or_default() += 1;
    }
    let expected: BTreeMap<&str, &str> = results.iter().map(|(id, kind)| (&**id, &**kind)).collect();
    assert_eq!(expected.len(), results.len(), "a result's id stands for one result");
    let in_kafka: BTreeMap<&str, &str> = of_results.iter().map(|record| (&*record.id, &*record.kind)).collect();
    assert_eq!(of_results.len(), results.len(), "results in Kafka");
    assert_eq!(in_kafka, expected);
    let in_mongo = mongodb(mongo, &site.id, "stream_results");
    let in_mongo: BTreeSet<&str> = in_mongo.iter().map(|document| document.get_str("_id").expect("text")).collect();
    let ids: BTreeSet<String> = expected.keys().map(|id| format!("{}-{id}", site.id)).collect();
    assert!(in_mongo.iter().copied().eq(ids.iter().map(String::as_str)), "results in MongoDB");
    rows
}

/// Holds the rows of each numbering device against its numbers: from its first row on none is missing, none is there twice. Gives
/// how many there are.
pub fn check_numbers_are_gapless(rows: &BTreeMap<u64, Stored>, source: &str) -> u64 {
    let mut devices: BTreeMap<(&str, i64), BTreeSet<i64>> = BTreeMap::new();
    let mut count = 0;
    for row in rows.values().filter(|row| row.source == source) {
        let (device, boot, seq) = row.number.as_ref().expect("the machine numbers its rows");
        assert!(devices.entry((device, *boot)).or_default().insert(*seq), "row {seq} of {device} is there twice");
        count += 1;
    }
    for (device, numbers) in &devices {
        let (first, last) = (*numbers.first().expect("not empty"), *numbers.last().expect("not empty"));
        assert!(first <= 1, "{device:?} begins with {first}");
        let missing: Vec<i64> = (first..=last).filter(|number| !numbers.contains(number)).take(20).collect();
        assert_eq!(numbers.len() as i64, last - first + 1, "{device:?}: {first} to {last}, missing {missing:?} …");
    }
    assert!(count > 0, "{source} has brought rows");
    count
}

/// Holds a metrics page against the contract's ledger: every source's and every sink's rows balance.
pub fn check_ledger(page: &str) {
    let mut ledger: BTreeMap<(String, String), BTreeMap<String, i64>> = BTreeMap::new();
    for line in page.lines().filter_map(|line| line.strip_prefix("qadf_rows_total{")) {
        let (labels, value) = line.split_once("} ").expect("labels and a value");
        let labels: Vec<(&str, &str)> = labels.split(',').filter_map(|label| label.split_once('=')).collect();
        let text = |at: usize| labels[at].1.trim_matches('"').to_owned();
        assert_eq!((labels.len(), labels[1].0), (2, "state"), "{line}");
        let value = value.parse::<f64>().expect("a number") as i64;
        ledger.entry((labels[0].0.to_owned(), text(0))).or_default().insert(text(1), value);
    }
    assert!(!ledger.is_empty(), "no ledger on the page:\n{page}");
    for ((what, name), of) in &ledger {
        let balance = match what.as_str() {
            "source" => of["received"] - of["accepted"] - of["rejected"] - of["duplicate"] - of["shed"],
            "sink" => of["accepted"] - of["delivered"] - of["buffered"] - of["expired"],
            other => panic!("a ledger of {other}"),
        };
        assert_eq!(balance, 0, "{what} {name}: {of:?}");
    }
}

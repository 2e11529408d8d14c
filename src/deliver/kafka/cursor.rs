//! The cursor of an `exactly_once` sink: a compacted topic, written in the same transactions as the records.
//!
//! One partition; key `{appliance}/{sink}`; value `{"store":"<16 hex digits>","rows":N,"results":N}`. Many appliances may share it. Segments are
//! small and young, so that compaction keeps it short and reading all of it at a start is cheap.
//!
//! A reader at `read_committed` sees nothing behind the oldest open transaction of anybody, so our own last cursor may be hidden for a while. It
//! waits until what was the end of the partition at the start is settled; brokers see to that within the transaction timeout.

use std::{
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    admin::{NewTopic, TopicReplication},
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    producer::{Producer, ThreadedProducer},
};
use serde::{Deserialize, Serialize};

use super::{CALL_WITHIN, Failures, Settings, fate};
use crate::{
    deliver::{Progress, SinkError},
    model::Seq,
};

/// Longer than the transaction timeout, after which the broker settles what is open.
const SETTLED_WITHIN: Duration = Duration::from_secs(20);
const POLL_EVERY: Duration = Duration::from_millis(20);

#[derive(Serialize, Deserialize)]
struct Value {
    store: String,
    rows: u64,
    results: u64,
}

/// The topic as it is made where it is missing.
pub fn topic(name: &str) -> NewTopic<'_> {
    NewTopic::new(name, 1, TopicReplication::Fixed(-1))
        .set("cleanup.policy", "compact")
        .set("segment.bytes", "8388608")
        .set("segment.ms", "600000")
        .set("min.cleanable.dirty.ratio", "0.1")
}

/// A record's value.
pub fn value(store: u64, progress: Progress) -> Vec<u8> {
    let value = Value { store: format!("{store:016x}"), rows: progress.rows.0, results: progress.results.0 };
    // A struct of a text and two numbers always serialises.
    serde_json::to_vec(&value).unwrap_or_default()
}

fn parse(value: &[u8], store: u64) -> Option<Progress> {
    let value: Value = serde_json::from_slice(value).ok()?;
    // Another store counts its rows anew: its cursor says nothing about ours.
    (value.store == format!("{store:016x}")).then_some(Progress { rows: Seq(value.rows), results: Seq(value.results) })
}

/// The last committed cursor under `key`, if it is of this store. `producer` has settled its own transactions before.
pub fn read(
    settings: &Settings,
    producer: &ThreadedProducer<Failures>,
    key: &str,
    store: u64,
) -> Result<Option<Progress>, SinkError> {
    let topic = settings.cursor_topic();
    let mut config = settings.client();
    config.set("group.id", format!("qadf-edge/{key}"));
    config.set("enable.auto.commit", "false");
    config.set("isolation.level", "read_committed");
    config.set("enable.partition.eof", "true");
    config.set("auto.offset.reset", "earliest");
    let consumer: BaseConsumer = config.create().map_err(|error| fate(&error))?;
    let (start, end) = producer.client().fetch_watermarks(&topic, 0, CALL_WITHIN).map_err(|error| fate(&error))?;
    if start == end {
        return Ok(None);
    }
    wait_until_settled(&consumer, &topic, end)?;
    let mut partitions = TopicPartitionList::new();
    partitions.add_partition_offset(&topic, 0, Offset::Beginning).map_err(|error| fate(&error))?;
    consumer.assign(&partitions).map_err(|error| fate(&error))?;
    last_value(&consumer, key, store)
}

/// The end that this consumer sees is that of settled records.
fn wait_until_settled(consumer: &BaseConsumer, topic: &str, end: i64) -> Result<(), SinkError> {
    let deadline = Instant::now() + SETTLED_WITHIN;
    loop {
        let (_, settled) = consumer.fetch_watermarks(topic, 0, CALL_WITHIN).map_err(|error| fate(&error))?;
        if settled >= end {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(SinkError::Retry(format!("Kafka: a transaction on {topic} stays open, and hides the cursor")));
        }
        thread::sleep(POLL_EVERY);
    }
}

fn last_value(consumer: &BaseConsumer, key: &str, store: u64) -> Result<Option<Progress>, SinkError> {
    let deadline = Instant::now() + SETTLED_WITHIN;
    let mut last = None;
    while Instant::now() < deadline {
        match consumer.poll(CALL_WITHIN) {
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(last),
            Some(Err(error)) => return Err(fate(&error)),
            Some(Ok(message)) if message.key() == Some(key.as_bytes()) => {
                last = message.payload().and_then(|value| parse(value, store));
            }
            Some(Ok(_)) | None => {}
        }
    }
    Err(SinkError::Retry("Kafka: the cursor topic cannot be read to its end in time".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written_and_only_by_its_store() {
        let progress = Progress { rows: Seq(17), results: Seq(3) };
        let text = value(0xabc, progress);
        assert_eq!(String::from_utf8_lossy(&text), r#"{"store":"0000000000000abc","rows":17,"results":3}"#);
        assert_eq!(parse(&text, 0xabc), Some(progress));
        assert_eq!(parse(&text, 0xabd), None);
        assert_eq!(parse(b"{}", 0xabc), None);
    }
}

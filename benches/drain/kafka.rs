//! Kafka in a bare loop: the records that arrived, once more, with the settings and transactions of the sink.

use std::time::{Duration, Instant};

use rdkafka::{
    ClientConfig, Message,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::OwnedMessage,
    producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer},
};

use super::{FarEnd, setting};

const WITHIN: Duration = Duration::from_secs(30);
/// As many rows as the largest parcel of the sink has.
const TRANSACTION_ROWS: u64 = 40_000;

/// The far end.
pub struct Kafka {
    /// The word in `delivery`.
    pub delivery: &'static str,
}

/// Settings of the client library to try, for sink and bare loop alike: `DRAIN_OPTIONS="key=value,…"`.
fn options() -> Vec<(String, String)> {
    let text = std::env::var("DRAIN_OPTIONS").unwrap_or_default();
    text.split(',').filter_map(|option| option.split_once('=')).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn transaction_rows() -> usize {
    setting("DRAIN_TRANSACTION_ROWS", TRANSACTION_ROWS) as usize
}

impl FarEnd for Kafka {
    fn section(&self, url: &str) -> String {
        let Self { delivery } = self;
        let mut text = format!(
            "[sinks.far]\ntype = \"kafka\"\nbrokers = [\"{url}\"]\ntopic = \"far\"\ndelivery = \"{delivery}\"\n[sinks.far.options]\n"
        );
        for (key, value) in options() {
            text.extend(["\"", &key, "\" = \"", &value, "\"\n"]);
        }
        text
    }

    fn bare(&self, url: &str, rows: usize) -> f64 {
        let records = arrived(url, rows);
        let producer = self.producer(url);
        // The topic is there, and the producer knows where.
        self.send(&producer, &records[..records.len().min(transaction_rows())]);
        let started = Instant::now();
        self.send(&producer, &records);
        records.len() as f64 / started.elapsed().as_secs_f64()
    }
}

impl Kafka {
    fn producer(&self, url: &str) -> ThreadedProducer<DefaultProducerContext> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", url).set("log_level", "0").set("compression.codec", "lz4").set("linger.ms", "1");
        config.set("batch.size", "1000000").set("queue.buffering.max.messages", "100000");
        config.set("queue.buffering.max.kbytes", "65536").set("message.timeout.ms", "8000");
        for (key, value) in options() {
            config.set(key, value);
        }
        if self.delivery == "exactly_once" {
            config.set("transactional.id", "bare");
        } else {
            config.set("enable.idempotence", "true");
        }
        let producer: ThreadedProducer<_> = config.create().expect("the settings are valid");
        if self.delivery == "exactly_once" {
            producer.init_transactions(WITHIN).expect("the broker coordinates transactions");
        }
        producer
    }

    fn send(&self, producer: &ThreadedProducer<DefaultProducerContext>, records: &[OwnedMessage]) {
        for chunk in records.chunks(transaction_rows()) {
            if self.delivery == "exactly_once" {
                producer.begin_transaction().expect("no other is open");
            }
            chunk.iter().for_each(|record| produce(producer, record));
            if self.delivery == "exactly_once" {
                flush(producer);
                producer.commit_transaction(WITHIN).expect("committed");
            }
        }
        flush(producer);
    }
}

fn flush(producer: &ThreadedProducer<DefaultProducerContext>) {
    while producer.in_flight_count() > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn produce(producer: &ThreadedProducer<DefaultProducerContext>, record: &OwnedMessage) {
    let mut next = again(record);
    while let Err((error, refused)) = producer.send(next) {
        assert!(matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)), "{error}");
        std::thread::sleep(Duration::from_millis(1));
        next = refused;
    }
}

fn again(record: &OwnedMessage) -> BaseRecord<'_, [u8], [u8]> {
    let sent = BaseRecord::to("bare").payload(record.payload().unwrap_or_default()).key(record.key().unwrap_or_default());
    match record.headers() {
        Some(headers) => sent.headers(headers.clone()),
        None => sent,
    }
}

/// The first `rows` records that a reader of committed records sees from a moment ago.
fn arrived(url: &str, rows: usize) -> Vec<OwnedMessage> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", url)
        .set("group.id", "bare")
        .set("isolation.level", "read_committed")
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .set("queued.max.messages.kbytes", "16384")
        .create()
        .expect("the settings are valid");
    consumer.subscribe(&["far"]).expect("the topic exists");
    let deadline = Instant::now() + WITHIN;
    let mut records = Vec::with_capacity(rows);
    while records.len() < rows {
        assert!(Instant::now() < deadline || !records.is_empty(), "nothing comes");
        match consumer.poll(Duration::from_secs(2)) {
            Some(Ok(record)) => records.push(record.detach()),
            Some(Err(error)) => panic!("{error}"),
            None if records.is_empty() => {}
            None => break,
        }
    }
    records
}

//! The servers that the other tests rely on behave as those tests assume.

mod servers;

use std::time::{Duration, Instant};

use rdkafka::{
    ClientConfig, Message,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    consumer::{BaseConsumer, Consumer},
    producer::{BaseRecord, Producer, ThreadedProducer},
};
use servers::{Kind, Server};

const WITHIN: Duration = Duration::from_secs(30);

fn transactional(brokers: &str, id: &str) -> ThreadedProducer<rdkafka::producer::DefaultProducerContext> {
    let producer: ThreadedProducer<_> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("transactional.id", id)
        .set("log_level", "0")
        .create()
        .expect("the settings are valid");
    producer.init_transactions(WITHIN).expect("the broker coordinates transactions");
    producer
}

fn send(producer: &ThreadedProducer<rdkafka::producer::DefaultProducerContext>, topic: &str, value: &str) {
    producer.begin_transaction().expect("no other is open");
    producer.send(BaseRecord::<(), str>::to(topic).payload(value)).map_err(|(error, _)| error).expect("the queue has room");
    producer.flush(WITHIN).expect("the broker takes it");
}

/// All values in `topic` up to `last`, as a consumer with this isolation level sees them.
fn values(brokers: &str, topic: &str, isolation: &str, last: &str) -> Vec<String> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", isolation)
        .set("isolation.level", isolation)
        .set("auto.offset.reset", "earliest")
        .create()
        .expect("the settings are valid");
    consumer.subscribe(&[topic]).expect("the topic exists");
    let deadline = Instant::now() + WITHIN;
    let mut seen = Vec::new();
    while seen.last().is_none_or(|value| value != last) {
        assert!(Instant::now() < deadline, "only {seen:?} came");
        // `None` also means that the client had something to do for itself.
        let Some(message) = consumer.poll(WITHIN) else { continue };
        let message = message.expect("no error");
        seen.push(String::from_utf8_lossy(message.payload().unwrap_or_default()).into_owned());
    }
    seen
}

fn create_topic(brokers: &str, topic: &str) {
    let admin: AdminClient<_> = ClientConfig::new().set("bootstrap.servers", brokers).create().expect("the settings are valid");
    let topic = NewTopic::new(topic, 1, TopicReplication::Fixed(1));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(admin.create_topics([&topic], &AdminOptions::new())).expect("created");
}

#[test]
fn kafka_shows_committed_transactions_only_and_fences_the_older_producer() {
    let kafka = Server::own(Kind::Kafka);
    let (brokers, topic) = (kafka.url(), "facts");
    create_topic(brokers, topic);
    let first = transactional(brokers, "appliance");
    send(&first, topic, "committed");
    first.commit_transaction(WITHIN).expect("committed");
    send(&first, topic, "aborted");
    first.abort_transaction(WITHIN).expect("aborted");
    send(&first, topic, "fenced");
    let second = transactional(brokers, "appliance");
    let error = first.commit_transaction(WITHIN).expect_err("a second producer with this id has started");
    assert!(error.to_string().contains("fenced") || error.to_string().contains("Fenced"), "{error}");
    send(&second, topic, "last");
    second.commit_transaction(WITHIN).expect("committed");
    assert_eq!(values(brokers, topic, "read_committed", "last"), ["committed", "last"]);
    assert_eq!(values(brokers, topic, "read_uncommitted", "last"), ["committed", "aborted", "fenced", "last"]);
}

#[test]
fn every_server_can_be_killed_and_started_again_on_its_port() {
    for kind in [Kind::Mqtt, Kind::Redis, Kind::Mongodb, Kind::Kafka] {
        let mut server = Server::own(kind);
        server.kill();
        server.start();
        server.pause();
        server.resume();
        server.stop();
        server.start();
    }
}

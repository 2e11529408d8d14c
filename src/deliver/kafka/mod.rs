//! Rows and results as Kafka records.
//!
//! | part | row | result |
//! |---|---|---|
//! | key | stream id | pipeline id |
//! | value | the row as JSON, with `appliance`, `stream` | the result as JSON, with `appliance`, `stream` |
//! | header `id` | `{appliance}-{store}-{seq}` | the result's id |
//! | header `kind` | `row` | the result's kind |
//! | header `schema` | [`SCHEMA`] | [`SCHEMA`] |
//!
//! Records of a stream share a key and so a partition: they stay in order. Their timestamp is that of production, because a broker
//! refuses or deletes records whose times are far off, which event times may be.
//!
//! - `exactly_once`: one transaction a parcel, which also carries the cursor ([`cursor`]). A transaction lives no longer than one attempt; after
//!   any failure the next connection settles it (commits it if it was as good as committed, else aborts it) and goes on from the cursor it finds.
//!   The `transactional.id` is made of appliance and sink, so a forgotten older process is fenced off.
//! - `at_least_once`: an idempotent producer; only a failed attempt that got through in part repeats records.
//! - `at_most_once`: no acknowledgement is asked for, and the loop moves the cursor first.

mod cursor;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    message::{DeliveryResult, Header, OwnedHeaders},
    producer::{BaseRecord, NoCustomPartitioner, Producer, ProducerContext, ThreadedProducer},
};

use super::{
    Delivered, Delivery, Identity, Item, Parcel, Progress, Refused, SinkError, blocking,
    row_json::{RowWriter, write_result},
};

/// The version of the records' format, in their `schema` header.
pub const SCHEMA: &str = "qadf-edge/1";

/// One call to the broker takes at most this; a transaction consists of three.
const CALL_WITHIN: Duration = Duration::from_secs(8);
/// From one look at what is still under way to the next.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// After this the broker aborts a transaction that nobody ends, so that readers do not wait for a dead producer for long.
const TRANSACTION_TIMEOUT_MS: &str = "15000";

/// What is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `host:port` each.
    pub brokers: Vec<String>,
    /// Where records go. The cursor topic is called the same with `.cursors`.
    pub topic: String,
    /// How often a record may reach it.
    pub delivery: Delivery,
    /// Further settings of the client library, by its own names; they win over ours.
    pub options: BTreeMap<String, String>,
}

impl Settings {
    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.brokers.join(","));
        config.set("client.id", "qadf-edge");
        // What goes wrong comes back as errors, and from there to the log.
        config.set("log_level", "0");
        for (key, value) in &self.options {
            config.set(key, value);
        }
        config
    }

    fn cursor_topic(&self) -> String {
        format!("{}.cursors", self.topic)
    }
}

/// A producer, and where it keeps its cursor.
pub struct KafkaSink {
    link: Arc<Link>,
}

struct Link {
    producer: ThreadedProducer<Failures>,
    delivery: Delivery,
    topic: String,
    cursor_topic: String,
    cursor_key: String,
    identity: Identity,
}

/// The first failure that the client library reported after taking a record.
#[derive(Default)]
struct Failures {
    first: Mutex<Option<KafkaError>>,
}

impl Failures {
    fn take(&self) -> Option<KafkaError> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ClientContext for Failures {}

impl ProducerContext for Failures {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| error.clone());
        }
    }
}

impl KafkaSink {
    /// Makes a producer for the sink called `name`, and the topics if they are missing; under `exactly_once` also says where the cursor
    /// topic has it.
    ///
    /// # Errors
    /// [`SinkError::Retry`] if no broker answers; [`SinkError::Fatal`] for settings that the client library refuses.
    pub async fn connect(settings: &Settings, name: &str, identity: Identity) -> Result<(Self, Option<Progress>), SinkError> {
        create_topics(settings).await?;
        let (settings, name) = (settings.clone(), name.to_owned());
        blocking(move || {
            let producer = producer(&settings, &name, &identity)?;
            let cursor_key = format!("{}/{name}", identity.appliance);
            let progress = match settings.delivery {
                Delivery::ExactlyOnce => cursor::read(&settings, &producer, &cursor_key, identity.store)?,
                _ => None,
            };
            let link = Link {
                producer,
                delivery: settings.delivery,
                cursor_topic: settings.cursor_topic(),
                topic: settings.topic,
                cursor_key,
                identity,
            };
            Ok((Self { link: Arc::new(link) }, progress))
        })
        .await
    }

    /// Produces all of `parcel` and waits for the broker's word on it.
    ///
    /// # Errors
    /// [`SinkError::Reject`] for records larger than the broker allows; [`SinkError::Fatal`] when another producer has taken this one's place.
    pub async fn deliver(&mut self, parcel: &Arc<Parcel>) -> Result<Delivered, SinkError> {
        let (link, parcel) = (Arc::clone(&self.link), Arc::clone(parcel));
        blocking(move || link.deliver(&parcel)).await
    }
}

impl Drop for KafkaSink {
    /// Ending a producer waits for its threads, so it happens on a thread of its own.
    fn drop(&mut self) {
        let link = Arc::clone(&self.link);
        thread::spawn(move || drop(link));
    }
}

impl Link {
    fn deliver(&self, parcel: &Parcel) -> Result<Delivered, SinkError> {
        self.producer.context().take();
        let refused = match self.delivery {
            Delivery::AtMostOnce | Delivery::AtLeastOnce => {
                self.send_all(parcel).and_then(|refused| self.flush().map(|()| refused))
            }
            Delivery::ExactlyOnce => self.transact(parcel),
        }?;
        let rest = Delivered { rows: parcel.row_count() as u64, results: parcel.results.len() as u64, repeated: 0 };
        if refused.is_empty() { Ok(rest) } else { Err(SinkError::Reject { which: refused, rest }) }
    }

    fn transact(&self, parcel: &Parcel) -> Result<Vec<Refused>, SinkError> {
        self.producer.begin_transaction().map_err(|error| fate(&error))?;
        let sent = self.send_all(parcel).and_then(|refused| {
            let cursor = cursor::value(self.identity.store, parcel.through);
            let record = || BaseRecord::to(&self.cursor_topic).partition(0).key(self.cursor_key.as_bytes()).payload(&cursor[..]);
            self.send(record).map_err(|error| fate(&error))?;
            self.flush()?;
            Ok(refused)
        });
        match sent {
            Ok(refused) => self.commit().map(|()| refused),
            // The records' own error often says only that they were dropped; whether we were fenced off, the transaction knows.
            Err(error) => Err(match self.producer.abort_transaction(CALL_WITHIN).map_err(|error| fate(&error)) {
                Err(fatal @ SinkError::Fatal(_)) => fatal,
                Ok(()) | Err(_) => error,
            }),
        }
    }

    /// Waits for the broker's word on every record. The library's own flush looks only every 100 ms, and its poll, asked to wait for a
    /// millisecond, keeps a processor busy all the time, which a server on the same machine misses; the producer's own thread polls anyway.
    fn flush(&self) -> Result<(), SinkError> {
        let deadline = Instant::now() + CALL_WITHIN;
        while self.producer.in_flight_count() > 0 {
            if Instant::now() > deadline {
                return Err(SinkError::Retry("Kafka: no word on some records in time".to_owned()));
            }
            thread::sleep(LOOK_EVERY);
        }
        self.producer.context().take().map_or(Ok(()), |error| Err(fate(&error)))
    }

    fn commit(&self) -> Result<(), SinkError> {
        let deadline = Instant::now() + CALL_WITHIN;
        loop {
            match self.producer.commit_transaction(CALL_WITHIN) {
                Ok(()) => return Ok(()),
                Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < deadline => {}
                Err(error) => return Err(fate(&error)),
            }
        }
    }

    fn send_all(&self, parcel: &Parcel) -> Result<Vec<Refused>, SinkError> {
        let mut refused = Vec::new();
        let (mut value, mut ids) = (Vec::new(), self.identity.row_ids());
        for (lot_index, lot) in parcel.rows.iter().enumerate() {
            let writer = RowWriter::new(&self.identity.appliance, &lot.batch, lot.historical);
            for row in 0..lot.batch.rows() {
                value.clear();
                writer.write(row, &mut value);
                let id = ids.of(crate::model::Seq(lot.batch.first_seq.0 + row as u64));
                let sent = self.produce(lot.batch.stream.id.as_bytes(), &value, id, "row");
                keep_refused(sent, Item::Row { lot: lot_index, row }, &mut refused)?;
            }
        }
        for (index, result) in parcel.results.iter().enumerate() {
            value.clear();
            write_result(&mut value, &self.identity.appliance, result);
            let sent = self.produce(result.pipeline.as_bytes(), &value, &result.id, &result.kind);
            keep_refused(sent, Item::Result { index }, &mut refused)?;
        }
        Ok(refused)
    }

    fn produce(&self, key: &[u8], value: &[u8], id: &str, kind: &str) -> KafkaResult<()> {
        self.send(|| {
            let headers = OwnedHeaders::new_with_capacity(3)
                .insert(Header { key: "id", value: Some(id) })
                .insert(Header { key: "kind", value: Some(kind) })
                .insert(Header { key: "schema", value: Some(SCHEMA) });
            BaseRecord::to(&self.topic).key(key).payload(value).headers(headers)
        })
    }

    /// Hands a record to the client library, waiting while its queue is full.
    fn send<'a>(&self, record: impl Fn() -> BaseRecord<'a, [u8], [u8]>) -> KafkaResult<()> {
        let deadline = Instant::now() + CALL_WITHIN;
        loop {
            match self.producer.send(record()) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) if Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(1));
                }
                Err((error, _)) => return Err(error),
            }
        }
    }
}

fn keep_refused(sent: KafkaResult<()>, what: Item, refused: &mut Vec<Refused>) -> Result<(), SinkError> {
    match sent {
        Ok(()) => Ok(()),
        Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge) => {
            refused.push(Refused { what, reason: format!("Kafka: {error}") });
            Ok(())
        }
        Err(error) => Err(fate(&error)),
    }
}

fn producer(settings: &Settings, name: &str, identity: &Identity) -> Result<ThreadedProducer<Failures>, SinkError> {
    let mut config = settings.client();
    let call_ms = CALL_WITHIN.as_millis().to_string();
    let mut set = |key: &str, value: &str| {
        if !settings.options.contains_key(key) {
            config.set(key, value);
        }
    };
    set("compression.codec", "lz4");
    // Parcels are batches already: waiting for more would only delay the last record.
    set("linger.ms", "1");
    set("batch.size", "1000000");
    // The largest parcel fits; memory stays bounded all the same.
    set("queue.buffering.max.messages", "100000");
    set("queue.buffering.max.kbytes", "65536");
    set("message.timeout.ms", &call_ms);
    // What arrived needs no report: that nothing is under way any more says so.
    set("delivery.report.only.error", "true");
    match settings.delivery {
        Delivery::AtMostOnce => {
            set("acks", "0");
            set("retries", "0");
        }
        Delivery::AtLeastOnce => set("enable.idempotence", "true"),
        Delivery::ExactlyOnce => {
            set("transactional.id", &format!("qadf-edge/{}/{name}", identity.appliance));
            set("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS);
        }
    }
    let producer: ThreadedProducer<Failures, NoCustomPartitioner> =
        config.create_with_context(Failures::default()).map_err(|error| SinkError::Fatal(format!("Kafka: {error}")))?;
    if settings.delivery == Delivery::ExactlyOnce {
        producer.init_transactions(CALL_WITHIN).map_err(|error| fate(&error))?;
    } else {
        producer.client().fetch_metadata(Some(&settings.topic), CALL_WITHIN).map_err(|error| fate(&error))?;
    }
    Ok(producer)
}

/// Makes the topics with the broker's own partitions and replication. That they exist, or that we may not make them, is no error here.
async fn create_topics(settings: &Settings) -> Result<(), SinkError> {
    let admin: AdminClient<DefaultClientContext> =
        settings.client().create().map_err(|error| SinkError::Fatal(format!("Kafka: {error}")))?;
    let cursor_topic = settings.cursor_topic();
    let mut topics = vec![NewTopic::new(&settings.topic, -1, TopicReplication::Fixed(-1))];
    if settings.delivery == Delivery::ExactlyOnce {
        topics.push(cursor::topic(&cursor_topic));
    }
    let options = AdminOptions::new().request_timeout(Some(CALL_WITHIN)).operation_timeout(Some(CALL_WITHIN));
    admin.create_topics(&topics, &options).await.map_err(|error| fate(&error))?;
    Ok(())
}

fn fate(error: &KafkaError) -> SinkError {
    let text = format!("Kafka: {error}");
    let fatal = match error {
        KafkaError::Transaction(error) => error.is_fatal(),
        KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_) => true,
        error => matches!(
            error.rdkafka_error_code(),
            Some(
                RDKafkaErrorCode::TopicAuthorizationFailed
                    | RDKafkaErrorCode::ClusterAuthorizationFailed
                    | RDKafkaErrorCode::TransactionalIdAuthorizationFailed
                    | RDKafkaErrorCode::SaslAuthenticationFailed
                    | RDKafkaErrorCode::InvalidTopic
                    | RDKafkaErrorCode::Fatal
            )
        ),
    };
    if fatal { SinkError::Fatal(text) } else { SinkError::Retry(text) }
}

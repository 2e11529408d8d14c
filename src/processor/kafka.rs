//! Kafka topics as sources and sinks of rows; values are JSON.
//!
//! **Source.** All partitions of its topics are read by one processor; each is a source partition of its own. Places are kept in checkpoints. A group,
//! if there is one, is told of them too, and says where to begin when there is no checkpoint.
//!
//! **Sink.** Under `exactly_once`, what lies between two checkpoints is one transaction, which also commits the checkpoint's number as the
//! offset of a group called as its `transactional.id`: so a start finds out which checkpoint readers at `read_committed` have seen, and goes on from that one.
//! Otherwise the producer is idempotent, and what came after the last checkpoint is repeated.

use std::{
    collections::BTreeMap,
    marker::PhantomData,
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{DeliveryGuarantee, Poll, Polled, Sink, SinkError, Source, SourceError, text::parse};

/// How long a call to the brokers may take.
const CALL_WITHIN: Duration = Duration::from_secs(10);
/// How long an empty topic is listened to at a time.
const LISTEN: Duration = Duration::from_millis(5);

fn client(brokers: &str, options: &BTreeMap<String, String>) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("client.id", "qadf-edge").set("log_level", "0");
    for (key, value) in options {
        config.set(key, value);
    }
    config
}

/// A record that was read but belongs to another partition than those before it.
struct Held<T> {
    partition: (String, i32),
    offset: i64,
    row: Result<T, (String, String)>,
}

/// Rows of topics. Records that cannot be read are dead letters.
pub struct KafkaSource<T> {
    brokers: String,
    topics: Vec<String>,
    group: Option<String>,
    latest: bool,
    bounded: bool,
    options: BTreeMap<String, String>,
    consumer: Option<BaseConsumer>,
    held: Option<Held<T>>,
    names: BTreeMap<(String, i32), Arc<str>>,
    /// The offset behind the last record handed over.
    next: BTreeMap<(String, i32), i64>,
    /// If it ends: where.
    ends: BTreeMap<(String, i32), i64>,
    rows: PhantomData<fn() -> T>,
}

impl<T> KafkaSource<T> {
    /// Reads these topics from the oldest record on; `brokers` is `host:port,…`.
    pub fn new(brokers: &str, topics: &[&str]) -> Self {
        Self {
            brokers: brokers.to_owned(),
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
            group: None,
            latest: false,
            bounded: false,
            options: BTreeMap::new(),
            consumer: None,
            held: None,
            names: BTreeMap::new(),
            next: BTreeMap::new(),
            ends: BTreeMap::new(),
            rows: PhantomData,
        }
    }

    /// Goes on where this group was, and tells it.
    #[must_use]
    pub fn group(self, group: &str) -> Self {
        Self { group: Some(group.to_owned()), ..self }
    }

    /// Begins with the next record rather than the oldest.
    #[must_use]
    pub fn from_latest(self) -> Self {
        Self { latest: true, ..self }
    }

    /// Ends at the records that are there at the start.
    #[must_use]
    pub fn bounded(self) -> Self {
        Self { bounded: true, ..self }
    }

    /// A further setting of the client library, by its own name.
    #[must_use]
    pub fn option(mut self, key: &str, value: &str) -> Self {
        self.options.insert(key.to_owned(), value.to_owned());
        self
    }

    fn connect(&mut self) -> Result<(), KafkaError> {
        let mut config = client(&self.brokers, &self.options);
        config.set("group.id", self.group.as_deref().unwrap_or("qadf-edge"));
        config.set("enable.auto.commit", "false").set("isolation.level", "read_committed");
        config.set("auto.offset.reset", if self.latest { "latest" } else { "earliest" });
        let consumer: BaseConsumer = config.create()?;
        let mut wanted = TopicPartitionList::new();
        for topic in &self.topics {
            let metadata = consumer.fetch_metadata(Some(topic), CALL_WITHIN)?;
            for partition in metadata.topics().iter().flat_map(rdkafka::metadata::MetadataTopic::partitions) {
                let place = (topic.clone(), partition.id());
                let fallback = if self.group.is_some() {
                    Offset::Stored
                } else if self.latest {
                    Offset::End
                } else {
                    Offset::Beginning
                };
                let offset = self.next.get(&place).map_or(fallback, |next| Offset::Offset(*next));
                wanted.add_partition_offset(topic, partition.id(), offset)?;
                if self.bounded {
                    let (low, high) = consumer.fetch_watermarks(topic, partition.id(), CALL_WITHIN)?;
                    self.ends.insert(place, if high > low { high } else { 0 });
                }
            }
        }
        consumer.assign(&wanted)?;
        self.consumer = Some(consumer);
        Ok(())
    }

    fn is_at_end(&self) -> bool {
        self.bounded && self.ends.iter().all(|(place, end)| self.next.get(place).copied().unwrap_or(0) >= *end)
    }
}

fn is_passing(error: &KafkaError) -> bool {
    !matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::SaslAuthenticationFailed
                | RDKafkaErrorCode::Fatal
        )
    ) && !matches!(error, KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_))
}

impl<T: DeserializeOwned + Send + 'static> KafkaSource<T> {
    /// The next record, if there is one.
    fn read(&mut self, wait: Duration) -> Result<Option<Held<T>>, SourceError> {
        if let Some(held) = self.held.take() {
            return Ok(Some(held));
        }
        let Some(consumer) = &self.consumer else { return Ok(None) };
        match consumer.poll(wait) {
            None => Ok(None),
            Some(Err(error)) if is_passing(&error) => Ok(None),
            Some(Err(error)) => Err(SourceError(format!("Kafka: {error}"))),
            Some(Ok(message)) => {
                let value = message.payload().unwrap_or_default();
                let row = parse(value).map_err(|reason| (reason, String::from_utf8_lossy(value).into_owned()));
                let partition = (message.topic().to_owned(), message.partition());
                Ok(Some(Held { partition, offset: message.offset(), row }))
            }
        }
    }
}

impl<T: DeserializeOwned + Send + 'static> Source for KafkaSource<T> {
    type Row = T;

    fn poll(&mut self, max: usize, into: &mut Polled<T>) -> Result<Poll, SourceError> {
        if self.consumer.is_none() {
            match self.connect() {
                Ok(()) => {}
                Err(error) if is_passing(&error) => return Ok(Poll::Pending),
                Err(error) => return Err(SourceError(format!("Kafka: {error}"))),
            }
        }
        let mut partition: Option<(String, i32)> = None;
        while into.rows.len() + into.rejected.len() < max {
            let wait = if partition.is_none() { LISTEN } else { Duration::ZERO };
            let Some(held) = self.read(wait)? else { break };
            if partition.as_ref().is_some_and(|partition| *partition != held.partition) {
                self.held = Some(held);
                break;
            }
            self.next.insert(held.partition.clone(), held.offset + 1);
            match held.row {
                Ok(row) => into.rows.push(row),
                Err(rejected) => into.rejected.push(rejected),
            }
            partition.get_or_insert(held.partition);
        }
        let Some(partition) = partition else {
            return Ok(if self.is_at_end() { Poll::End } else { Poll::Pending });
        };
        let name = || Arc::from(format!("{}/{}", partition.0, partition.1));
        into.partition = Arc::clone(self.names.entry(partition.clone()).or_insert_with(name));
        Ok(Poll::Ready)
    }

    fn position(&self) -> Vec<u8> {
        let next: Vec<(&str, i32, i64)> = self.next.iter().map(|((topic, number), next)| (&**topic, *number, *next)).collect();
        // Texts and numbers always serialise.
        postcard::to_stdvec(&next).unwrap_or_default()
    }

    fn seek(&mut self, position: &[u8]) -> Result<(), SourceError> {
        let next: Vec<(String, i32, i64)> =
            postcard::from_bytes(position).map_err(|_| SourceError("a position of another source".into()))?;
        self.next = next.into_iter().map(|(topic, number, next)| ((topic, number), next)).collect();
        (self.consumer, self.held) = (None, None);
        Ok(())
    }

    fn acknowledge(&mut self, position: &[u8]) -> Result<(), SourceError> {
        let (Some(consumer), Some(_)) = (&self.consumer, &self.group) else { return Ok(()) };
        let next: Vec<(String, i32, i64)> = postcard::from_bytes(position).unwrap_or_default();
        let mut places = TopicPartitionList::new();
        for (topic, number, next) in next {
            let added = places.add_partition_offset(&topic, number, Offset::Offset(next));
            added.map_err(|error| SourceError(format!("Kafka: {error}")))?;
        }
        // The group is only told; places that count are in the checkpoint.
        if places.count() > 0 {
            let _ = consumer.commit(&places, CommitMode::Async);
        }
        Ok(())
    }
}

/// The first failure that the client library reported after taking a record.
#[derive(Default)]
struct Reports(std::sync::Mutex<Option<KafkaError>>);

impl rdkafka::ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert_with(|| error.clone());
        }
    }
}

type KeyOf<T> = Box<dyn FnMut(&T) -> Option<String> + Send>;

/// Writes rows to a topic.
pub struct KafkaSink<T> {
    brokers: String,
    topic: String,
    transactional_id: Option<String>,
    options: BTreeMap<String, String>,
    key_of: Option<KeyOf<T>>,
    producer: Option<BaseProducer<Reports>>,
    is_open: bool,
}

impl<T> KafkaSink<T> {
    /// Writes to `topic`; `brokers` is `host:port,…`.
    pub fn new(brokers: &str, topic: &str) -> Self {
        Self {
            brokers: brokers.to_owned(),
            topic: topic.to_owned(),
            transactional_id: None,
            options: BTreeMap::new(),
            key_of: None,
            producer: None,
            is_open: false,
        }
    }

    /// In transactions under this id, which no other sink has. Rows become visible with each checkpoint.
    #[must_use]
    pub fn exactly_once(self, transactional_id: &str) -> Self {
        Self { transactional_id: Some(transactional_id.to_owned()), ..self }
    }

    /// Records with the same key stay in order.
    #[must_use]
    pub fn key(self, key_of: impl FnMut(&T) -> Option<String> + Send + 'static) -> Self {
        Self { key_of: Some(Box::new(key_of)), ..self }
    }

    /// A further setting of the client library, by its own name.
    #[must_use]
    pub fn option(mut self, key: &str, value: &str) -> Self {
        self.options.insert(key.to_owned(), value.to_owned());
        self
    }

    fn connected(&mut self) -> Result<&BaseProducer<Reports>, SinkError> {
        if self.producer.is_none() {
            let mut config = client(&self.brokers, &self.options);
            config.set("compression.codec", "lz4").set("enable.idempotence", "true");
            if let Some(id) = &self.transactional_id {
                config.set("transactional.id", id).set("transaction.timeout.ms", "60000");
            }
            let producer: BaseProducer<Reports> = config.create_with_context(Reports::default()).map_err(|error| fate(&error))?;
            if self.transactional_id.is_some() {
                producer.init_transactions(CALL_WITHIN).map_err(|error| fate(&error))?;
            }
            self.producer = Some(producer);
        }
        self.producer.as_ref().ok_or_else(|| SinkError::Fatal("Kafka: there is no producer".into()))
    }

    /// Opens a transaction, if there are any and none is open.
    fn open(&mut self) -> Result<&BaseProducer<Reports>, SinkError> {
        let (is_open, transacts) = (self.is_open, self.transactional_id.is_some());
        let producer = self.connected()?;
        if transacts && !is_open {
            producer.begin_transaction().map_err(|error| fate(&error))?;
        }
        self.is_open = transacts;
        self.connected()
    }

    /// Waits for the brokers' word on every record.
    fn settle(&mut self) -> Result<(), SinkError> {
        let producer = self.connected()?;
        let deadline = Instant::now() + CALL_WITHIN;
        while producer.in_flight_count() > 0 {
            if Instant::now() > deadline {
                return Err(SinkError::Retry("Kafka: no word on some records in time".into()));
            }
            producer.poll(Duration::from_millis(1));
        }
        let first = producer.context().0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        // The library has repeated what could be repeated: the record is lost unless a restart brings it again.
        first.map_or(Ok(()), |error| Err(SinkError::Fatal(format!("Kafka: {error}"))))
    }
}

fn fate(error: &KafkaError) -> SinkError {
    let text = format!("Kafka: {error}");
    match error {
        KafkaError::Transaction(error) if !error.is_retriable() => SinkError::Fatal(text),
        error if is_passing(error) => SinkError::Retry(text),
        _ => SinkError::Fatal(text),
    }
}

impl<T: Serialize + Send + 'static> Sink<T> for KafkaSink<T> {
    fn write(&mut self, rows: &[T]) -> Result<(), SinkError> {
        let (topic, mut key_of) = (self.topic.clone(), self.key_of.take());
        let producer = self.open()?;
        for row in rows {
            let value = serde_json::to_vec(row).map_err(|error| SinkError::Fatal(error.to_string()))?;
            let key = key_of.as_mut().and_then(|key_of| key_of(row));
            let deadline = Instant::now() + CALL_WITHIN;
            let mut record = BaseRecord::<str, [u8]>::to(&topic).payload(&value[..]);
            record.key = key.as_deref();
            while let Err((error, back)) = producer.send(record) {
                let is_full = error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull);
                if !is_full || Instant::now() > deadline {
                    // Part of the rows is under way, so that they cannot be written again.
                    return Err(SinkError::Fatal(format!("Kafka: {error}")));
                }
                producer.poll(Duration::from_millis(1));
                record = back;
            }
        }
        producer.poll(Duration::ZERO);
        self.key_of = key_of;
        Ok(())
    }

    fn guarantee(&self) -> DeliveryGuarantee {
        if self.transactional_id.is_some() { DeliveryGuarantee::ExactlyOnce } else { DeliveryGuarantee::AtLeastOnce }
    }

    fn flush(&mut self) -> Result<Vec<u8>, SinkError> {
        self.settle().map(|()| Vec::new())
    }

    fn commit(&mut self, checkpoint: u64) -> Result<(), SinkError> {
        let Some(id) = self.transactional_id.clone() else { return Ok(()) };
        let group = cursor(&self.brokers, &self.options, &id)?;
        let metadata =
            group.group_metadata().ok_or_else(|| SinkError::Fatal("Kafka: the cursor's group has no metadata".into()))?;
        let mut place = TopicPartitionList::new();
        let number = Offset::Offset(checkpoint as i64);
        place.add_partition_offset(&self.topic, 0, number).map_err(|error| fate(&error))?;
        let producer = self.open()?;
        producer.send_offsets_to_transaction(&place, &metadata, CALL_WITHIN).map_err(|error| fate(&error))?;
        let deadline = Instant::now() + CALL_WITHIN;
        loop {
            match producer.commit_transaction(CALL_WITHIN) {
                Ok(()) => break,
                Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < deadline => {}
                Err(error) => return Err(fate(&error)),
            }
        }
        self.is_open = false;
        Ok(())
    }

    fn committed(&mut self) -> Result<Option<u64>, SinkError> {
        let Some(id) = self.transactional_id.clone() else { return Ok(None) };
        // What an earlier process left open is settled by this.
        self.connected()?;
        let group = cursor(&self.brokers, &self.options, &id)?;
        let mut place = TopicPartitionList::new();
        place.add_partition(&self.topic, 0);
        let known = group.committed_offsets(place, CALL_WITHIN).map_err(|error| fate(&error))?;
        let number = known.elements().first().map(rdkafka::topic_partition_list::TopicPartitionListElem::offset);
        Ok(Some(match number {
            Some(Offset::Offset(number)) => u64::try_from(number).unwrap_or(0),
            _ => 0,
        }))
    }
}

/// The group whose offset is the number of the last visible checkpoint.
fn cursor(brokers: &str, options: &BTreeMap<String, String>, id: &str) -> Result<BaseConsumer, SinkError> {
    let mut config = client(brokers, options);
    config.set("group.id", format!("qadf-edge.checkpoints.{id}"));
    config.set("enable.auto.commit", "false").set("isolation.level", "read_committed");
    config.create().map_err(|error| fate(&error))
}

//! A Kafka consumer: records of a group's topics, whose offsets are committed once their rows are synced.
//!
//! The library reads ahead, within bounds; while the inbox has no room, nothing is taken from it. What was not committed comes again, and is known by
//! its numbers ([`number`]). Offsets are committed often enough that no more comes again than an inbox remembers.

mod number;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer, StreamConsumer},
    error::KafkaError,
    message::BorrowedMessage,
};
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::{self, Instant},
};

use self::number::{Record, number, rows};
use super::{
    InboxError, Parcel, SourceStatus,
    backoff::Backoff,
    decode::{Context, Decoded, Json, Routes},
    ended,
    outlet::Outlet,
    status::now,
};

/// Most records in one parcel.
const PARCEL_RECORDS_MAX: usize = 1024;
/// A parcel of this many rows takes no further record.
const PARCEL_ROWS: u64 = 4096;
/// How long commits may be behind.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// How many rows they may be behind. With those under way, fewer than the inbox remembers.
const COMMIT_ROWS: u64 = 8192;
/// How long a call to the brokers may take.
const CALL_WITHIN: Duration = Duration::from_secs(8);
/// How often brokers that do not answer are asked again.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// A checked Kafka source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaOptions {
    /// `host:port` each.
    pub brokers: Vec<String>,
    /// What to read.
    pub topics: Vec<String>,
    /// Under which name offsets are committed.
    pub group: String,
    /// Where to begin without committed offsets.
    pub start: KafkaStart,
    /// Further settings of the client library, by its own names; they win over ours, but for how offsets are committed.
    pub options: BTreeMap<String, String>,
}

/// Where a group without committed offsets begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KafkaStart {
    /// With the oldest record there is.
    #[default]
    Earliest,
    /// With the next one.
    Latest,
}

/// A checked Kafka source and where its rows go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaConfig {
    /// How to read.
    pub options: KafkaOptions,
    /// Where the rows go.
    pub routes: Routes,
}

/// Why a session ended.
enum End {
    /// To be tried again.
    Trouble(String),
    /// The source shall end.
    Shutdown,
}

/// A partition up to an offset (the next record's), and how many rows that is more.
struct Receipt {
    partition: Arc<Partition>,
    next_offset: i64,
    rows: u64,
}

/// A partition of a topic.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Partition {
    topic: String,
    number: i32,
    /// Both, as the source partition.
    name: Arc<str>,
}

/// Offsets that wait to be committed.
struct Commits {
    offsets: HashMap<Arc<Partition>, i64>,
    rows: u64,
    last: Instant,
}

struct Reader {
    id: Arc<str>,
    options: KafkaOptions,
    json: Json,
    /// What its rows are of, if it carries one stream.
    stream: Option<Arc<str>>,
    partitions: HashMap<(String, i32), Arc<Partition>>,
    status: Arc<SourceStatus>,
    commits: Commits,
}

/// Runs until `shutdown` or the inbox is closed.
pub(super) async fn run(
    id: Arc<str>,
    config: KafkaConfig,
    inbox: mpsc::Sender<Parcel>,
    status: Arc<SourceStatus>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut backoff = Backoff::new();
    let mut outlet = Outlet::new(Arc::clone(&id), inbox, Arc::clone(&status));
    let mut reader = Reader {
        id,
        options: config.options,
        stream: config.routes.default_stream(),
        json: Json::new(config.routes),
        partitions: HashMap::new(),
        status: Arc::clone(&status),
        commits: Commits::new(),
    };
    loop {
        match reader.session(&mut outlet, &mut shutdown, &mut backoff).await {
            Ok(End::Trouble(why)) => {
                tracing::warn!(source = %reader.id, "{why}");
                status.down(why);
            }
            Ok(End::Shutdown) | Err(_) => break,
        }
        tokio::select! {
            () = time::sleep(backoff.pause()) => {}
            () = ended(&mut shutdown) => break,
        }
    }
    status.ended();
}

impl Reader {
    /// Reads over one consumer. `Err` = the inbox is closed.
    async fn session(
        &mut self,
        outlet: &mut Outlet<Receipt>,
        shutdown: &mut watch::Receiver<bool>,
        backoff: &mut Backoff,
    ) -> Result<End, InboxError> {
        let consumer = tokio::select! {
            consumer = self.connect() => match consumer {
                Ok(consumer) => consumer,
                Err(why) => return Ok(End::Trouble(why)),
            },
            () = ended(shutdown) => return Ok(End::Shutdown),
        };
        backoff.reset();
        self.status.up();
        let end = self.read(&consumer, outlet, shutdown).await;
        if matches!(end, Ok(End::Shutdown)) {
            let deadline = Outlet::<Receipt>::drain_deadline();
            while let Some(receipts) = outlet.drain(deadline).await {
                self.commits.add(receipts);
            }
        }
        // What is under way comes again over the next consumer, and is known again.
        outlet.forget();
        let commits = std::mem::replace(&mut self.commits, Commits::new());
        let id = Arc::clone(&self.id);
        // Leaving the group takes a call to the brokers.
        let leave = spawn_blocking(move || {
            if let Some(offsets) = commits.list()
                && let Err(error) = consumer.commit(&offsets, CommitMode::Sync)
            {
                tracing::warn!(source = %id, "the last offsets are not committed, their records will be read again: {error}");
            }
            drop(consumer);
        });
        // Only a panic of the library ends it in another way, and then there is nothing left to do.
        let _ = leave.await;
        end
    }

    async fn connect(&self) -> Result<Arc<StreamConsumer>, String> {
        let options = self.options.clone();
        let connected = spawn_blocking(move || {
            let consumer: StreamConsumer = options.client().create().map_err(|error| format!("Kafka: {error}"))?;
            look_at_topics(&consumer, &options.topics)?;
            let topics: Vec<&str> = options.topics.iter().map(String::as_str).collect();
            consumer.subscribe(&topics).map_err(|error| format!("Kafka: {error}"))?;
            Ok(Arc::new(consumer))
        });
        connected.await.unwrap_or_else(|error| Err(error.to_string()))
    }

    async fn read(
        &mut self,
        consumer: &Arc<StreamConsumer>,
        outlet: &mut Outlet<Receipt>,
        shutdown: &mut watch::Receiver<bool>,
    ) -> Result<End, InboxError> {
        let mut silent = false;
        loop {
            self.commit(consumer, outlet.is_idle());
            let pause = if silent { ASK_EVERY } else { COMMIT_EVERY };
            let mut trouble = None;
            tokio::select! {
                received = consumer.recv(), if outlet.has_room() => match received {
                    Ok(first) => {
                        silent = false;
                        self.status.up();
                        let (decoded, receipts);
                        (decoded, receipts, trouble) = self.gather(first, consumer);
                        if decoded.is_empty() {
                            self.commits.add_if(outlet.is_idle(), receipts);
                        } else {
                            outlet.hand_on(decoded, receipts).await?;
                        }
                    }
                    Err(error) => trouble = Some(error),
                },
                synced = outlet.next_synced() => match synced {
                    Ok(receipts) => self.commits.add(receipts),
                    Err(InboxError::Refused(why)) => return Ok(End::Trouble(why)),
                    Err(InboxError::Closed) => return Err(InboxError::Closed),
                },
                () = time::sleep(pause), if silent || self.commits.rows > 0 => {
                    if silent {
                        silent = self.ask(consumer).await;
                    }
                }
                () = ended(shutdown) => return Ok(End::Shutdown),
            }
            match trouble {
                Some(error @ (KafkaError::MessageConsumptionFatal(_) | KafkaError::ClientConfig(..))) => {
                    return Ok(End::Trouble(format!("Kafka: {error}")));
                }
                Some(error) => {
                    self.status.down(format!("Kafka: {error}"));
                    silent = true;
                }
                None => {}
            }
        }
    }

    /// Whether the brokers still do not answer.
    async fn ask(&self, consumer: &Arc<StreamConsumer>) -> bool {
        let (consumer, topics) = (Arc::clone(consumer), self.options.topics.clone());
        let asked = spawn_blocking(move || look_at_topics(&consumer, &topics)).await;
        match asked.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(()) => {
                self.status.up();
                false
            }
            Err(why) => {
                self.status.down(why);
                true
            }
        }
    }

    /// Decodes `first` and what waits behind it, up to an error.
    fn gather(&mut self, first: BorrowedMessage<'_>, consumer: &StreamConsumer) -> (Decoded, Vec<Receipt>, Option<KafkaError>) {
        let (mut decoded, mut receipts): (Decoded, Vec<Receipt>) = Default::default();
        let context = Context::new(Arc::clone(&self.id), Arc::clone(&self.id), now());
        let mut context = Context { stream: self.stream.clone(), ..context };
        self.status.arrived(context.arrival);
        let mut next = Some(Ok(first));
        for _ in 0..PARCEL_RECORDS_MAX {
            let record = match next.take().or_else(|| consumer.recv().now_or_never()) {
                Some(Ok(record)) => record,
                Some(Err(error)) => return (decoded, receipts, Some(error)),
                None => break,
            };
            let partition = self.partition(&record);
            context.partition = Arc::clone(&partition.name);
            let (before, rows_before) = (rows(&decoded), decoded.rows());
            self.json.message(record.payload().unwrap_or_default(), &context, &mut decoded);
            let (offset, time_ms) = (record.offset(), record.timestamp().to_millis().unwrap_or(0));
            number(&mut decoded, &before, Record { partition: &partition.name, offset, time_ms });
            let (next_offset, rows) = (offset.saturating_add(1), decoded.rows() - rows_before);
            match receipts.last_mut() {
                Some(receipt) if receipt.partition == partition => {
                    receipt.next_offset = next_offset;
                    receipt.rows += rows;
                }
                _ => receipts.push(Receipt { partition, next_offset, rows }),
            }
            if decoded.received() >= PARCEL_ROWS {
                break;
            }
        }
        (decoded, receipts, None)
    }

    fn partition(&mut self, record: &BorrowedMessage<'_>) -> Arc<Partition> {
        let key = (record.topic().to_owned(), record.partition());
        let partition = self.partitions.entry(key).or_insert_with_key(|(topic, number)| {
            let name = format!("{topic}/{number}").into();
            Arc::new(Partition { topic: topic.clone(), number: *number, name })
        });
        Arc::clone(partition)
    }

    /// Commits what is due; at once if nothing is under way.
    fn commit(&mut self, consumer: &StreamConsumer, idle: bool) {
        let commits = &mut self.commits;
        if !idle && commits.rows < COMMIT_ROWS && commits.last.elapsed() < COMMIT_EVERY {
            return;
        }
        let Some(offsets) = commits.list() else { return };
        match consumer.commit(&offsets, CommitMode::Async) {
            Ok(()) => self.commits = Commits::new(),
            // The next one says all that this one would have.
            Err(error) => {
                tracing::warn!(source = %self.id, "offsets are not committed yet: {error}");
                commits.last = Instant::now();
            }
        }
    }
}

impl Commits {
    fn new() -> Self {
        Self { offsets: HashMap::new(), rows: 0, last: Instant::now() }
    }

    fn add(&mut self, receipts: Vec<Receipt>) {
        for receipt in receipts {
            self.rows += receipt.rows.max(1);
            self.offsets.insert(receipt.partition, receipt.next_offset);
        }
    }

    /// Records that hold nothing may be committed if nothing before them is under way; otherwise those behind them say so too.
    fn add_if(&mut self, idle: bool, receipts: Vec<Receipt>) {
        if idle {
            self.add(receipts);
        }
    }

    fn list(&self) -> Option<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in &self.offsets {
            // Fails for a negative offset only, which no record has.
            list.add_partition_offset(&partition.topic, partition.number, Offset::Offset(*offset)).ok()?;
        }
        (list.count() > 0).then_some(list)
    }
}

impl KafkaOptions {
    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.brokers.join(","));
        config.set("client.id", "qadf-edge");
        config.set("group.id", &self.group);
        config.set("auto.offset.reset", if self.start == KafkaStart::Earliest { "earliest" } else { "latest" });
        // A consumer that was killed holds its partitions for so long.
        config.set("session.timeout.ms", "10000");
        // Read ahead at most, over all partitions.
        config.set("queued.max.messages.kbytes", "16384");
        // What was aborted is not read.
        config.set("isolation.level", "read_committed");
        // What goes wrong comes back as errors, and from there to the log.
        config.set("log_level", "0");
        for (key, value) in &self.options {
            config.set(key, value);
        }
        config.set("enable.auto.commit", "false");
        config
    }
}

/// Whether the brokers answer and have the topics.
fn look_at_topics(consumer: &StreamConsumer, topics: &[String]) -> Result<(), String> {
    for topic in topics {
        let metadata = consumer.fetch_metadata(Some(topic), CALL_WITHIN).map_err(|error| format!("Kafka: {error}"))?;
        if let Some(error) = metadata.topics().iter().find_map(rdkafka::metadata::MetadataTopic::error) {
            let error = rdkafka::types::RDKafkaErrorCode::from(error);
            return Err(format!("Kafka: topic `{topic}`: {error}"));
        }
    }
    Ok(())
}

//! Rows and results to the outside: one retry loop, one small trait, one file a sink.
//!
//! Every sink holds a cursor of its own in the store and reads from there at its own pace, so a sink that is down costs the others
//! nothing, and an outage costs disk, not data. The loop ([`run`]) reads a [`Parcel`] after the cursor, has the sink deliver it, and
//! moves the cursor once the sink has confirmed. A failed attempt is repeated with back-off behind a circuit breaker
//! ([`breaker`]); the connection is made anew each time, so that nothing of a broken one lingers.
//!
//! A loop that ends or gets nowhere is started again ([`mod@supervise`]): a cursor that stands while something waits is an alarm ([`watch`]).
//!
//! A crash between delivery and cursor delivers a parcel again. Every sink makes that harmless: MongoDB by deterministic `_id`s,
//! Redis by comparing sequence numbers, Kafka by keeping the cursor in the same transaction as the records, the file by
//! recording its length with the cursor. The last two tell where they are when they connect ([`Connect::connect`]).
//!
//! Invariants: a cursor moves only over what the sink confirmed (but for `at_most_once`, which moves it first); rows of a stream
//! are delivered in inbox order; a parcel is bounded in rows and results.

pub mod breaker;
pub mod channel;
pub mod console;
pub mod counters;
pub mod courier;
pub mod file;
pub mod kafka;
pub mod mongo;
pub mod pace;
pub mod parcel;
pub mod redis;
pub mod row_json;
pub mod stored;
pub mod supervise;
pub mod watch;
pub mod world;

use std::{future::Future, sync::Arc};

pub use counters::{Count, SinkCounters};
pub use courier::{Backlog, BacklogError, Config, Confirmation, Lot, ReadLimits, Refusal, run, run_in};
pub use parcel::{Identity, Parcel, Progress, ResultRecord, RowLot};
pub use stored::{Route, StoredBacklog};
pub use supervise::{Supervised, supervise};

/// What the far end made of a parcel it confirmed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Rows that the far end holds now.
    pub rows: u64,
    /// Results that the far end holds now.
    pub results: u64,
    /// How many of both it held before: an earlier attempt had got through.
    pub repeated: u64,
}

/// Why a delivery did not succeed, by what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// Try the whole parcel again, later.
    #[error("{0}")]
    Retry(String),
    /// The far end will never take these; it holds all else of the parcel.
    #[error("{} refused for good, the first: {}", .which.len(), .which.first().map_or("", |refused| &refused.reason))]
    Reject {
        /// What was refused.
        which: Vec<Refused>,
        /// What the rest came to.
        rest: Delivered,
    },
    /// Trying again soon cannot help: wrong credentials, a forbidden topic, another appliance with the same name.
    #[error("{0}")]
    Fatal(String),
}

/// A row or result that the far end refuses, whatever the number of attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Which one.
    pub what: Item,
    /// What the far end said.
    pub reason: String,
}

/// One thing in a parcel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    /// `parcel.rows[lot].batch`, row `row`.
    Row {
        /// Index into the parcel's lots.
        lot: usize,
        /// Index into the lot's rows.
        row: usize,
    },
    /// `parcel.results[index]`.
    Result {
        /// Index into the parcel's results.
        index: usize,
    },
}

/// How often a record reaches the far end when something fails on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Delivery {
    /// Never twice; a failure loses it.
    AtMostOnce,
    /// Never lost; a failure may repeat it.
    #[default]
    AtLeastOnce,
    /// Once, whatever fails.
    ExactlyOnce,
}

/// A connection to the far end.
pub trait Sink: Send {
    /// Delivers all of `parcel` and returns once the far end holds it durably. Repeating it does no harm.
    ///
    /// # Errors
    /// See [`SinkError`]. After an error, the caller drops this connection and makes another.
    fn deliver(&mut self, parcel: &Arc<Parcel>) -> impl Future<Output = Result<Delivered, SinkError>> + Send;
}

/// How to connect to a far end.
pub trait Connect: Send + 'static {
    /// What comes of it.
    type Sink: Sink;

    /// Connects, and says how far the far end itself knows it has come, if it keeps that.
    ///
    /// # Errors
    /// [`SinkError::Retry`] if the server is not there, [`SinkError::Fatal`] if it is and refuses.
    fn connect(&self) -> impl Future<Output = Result<(Self::Sink, Option<Progress>), SinkError>> + Send;
}

/// The settings of a sink that comes with the appliance.
#[derive(Debug, Clone, PartialEq)]
pub enum Settings {
    /// Recent rows and alerts in Redis.
    Redis(redis::Settings),
    /// Documents in MongoDB.
    Mongo(mongo::Settings),
    /// Records in Kafka.
    Kafka(kafka::Settings),
    /// JSON Lines in a file.
    File(file::Settings),
    /// Numbered, indented JSON on standard output.
    Console,
}

impl Settings {
    /// How often a record may reach this far end; `AtLeastOnce` where the sink makes repeating harmless by itself.
    pub fn delivery(&self) -> Delivery {
        match self {
            Self::Kafka(settings) => settings.delivery,
            _ => Delivery::AtLeastOnce,
        }
    }
}

/// The settings with whose data it is: what [`run`] connects with.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The sink's name in the configuration.
    pub name: Arc<str>,
    /// Whose rows and results they are.
    pub identity: Identity,
    /// Which far end.
    pub settings: Settings,
}

/// A connection to one of the sinks that come with the appliance.
pub enum AnySink {
    /// See [`redis`].
    Redis(Box<redis::RedisSink>),
    /// See [`mongo`].
    Mongo(Box<mongo::MongoSink>),
    /// See [`kafka`].
    Kafka(kafka::KafkaSink),
    /// See [`file`].
    File(file::FileSink),
    /// See [`console`].
    Console(console::ConsoleSink),
}

impl Connect for Endpoint {
    type Sink = AnySink;

    async fn connect(&self) -> Result<(AnySink, Option<Progress>), SinkError> {
        let identity = self.identity.clone();
        Ok(match &self.settings {
            Settings::Redis(settings) => (AnySink::Redis(Box::new(redis::RedisSink::connect(settings, identity).await?)), None),
            Settings::Mongo(settings) => (AnySink::Mongo(Box::new(mongo::MongoSink::connect(settings, identity).await?)), None),
            Settings::Kafka(settings) => {
                let (sink, progress) = kafka::KafkaSink::connect(settings, &self.name, identity).await?;
                (AnySink::Kafka(sink), progress)
            }
            Settings::File(settings) => {
                let (sink, progress) = file::FileSink::open(settings, identity).await?;
                (AnySink::File(sink), progress)
            }
            Settings::Console => (AnySink::Console(console::ConsoleSink::new(identity)), None),
        })
    }
}

impl Sink for AnySink {
    async fn deliver(&mut self, parcel: &Arc<Parcel>) -> Result<Delivered, SinkError> {
        match self {
            Self::Redis(sink) => sink.deliver(parcel).await,
            Self::Mongo(sink) => sink.deliver(parcel).await,
            Self::Kafka(sink) => sink.deliver(parcel).await,
            Self::File(sink) => sink.deliver(parcel).await,
            Self::Console(sink) => sink.deliver(parcel).await,
        }
    }
}

/// The end of a blocking task that was not cancelled, because nobody aborts it.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, SinkError> + Send + 'static) -> Result<T, SinkError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(SinkError::Retry(format!("the delivery ended before its time: {error}"))),
    }
}

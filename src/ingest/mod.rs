//! Outside to batches: serial, MQTT, Kafka, files; [`decode`] is pure.
//!
//! A source is a task that reads its device, broker or file, decodes what comes, and hands it on as [`Parcel`]s through one bounded channel.
//! Whoever holds the other end stores a parcel and answers when it is **synced**; only then does the source acknowledge outside (MQTT PUBACK and
//! PUBREC, firmware Ack, Kafka offset, position in a file). Several parcels of a source are under way at a time, so that it never waits for
//! one sync to read on; acknowledgements keep the order of what came in.
//!
//! Invariants:
//! - Nothing is acknowledged before it is synced; what is refused or never answered comes again.
//! - A source never ends on its own but for the end of a file that is not followed: what goes wrong is a [`SourceState::Down`] with a reason, and
//!   a new try after a back-off.
//! - What waits inside a source is bounded in rows and bytes. A source that can wait stops reading; a serial line cannot, and sheds and counts.
//! - `received = accepted + rejected + duplicate + shed` whenever one looks ([`SourceStatus::counts`]).

mod backoff;
mod broker;
pub mod decode;
mod file;
mod kafka;
mod mqtt;
mod outlet;
mod serial;
mod status;

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

pub use broker::{BrokerConfig, BrokerError, start_broker};
use decode::Decoded;
pub use file::{FileCodec, FileConfig};
pub use kafka::{KafkaConfig, KafkaOptions, KafkaStart};
pub use mqtt::{MqttCodec, MqttConfig, MqttProtocol, MqttTls, MqttUrl, MqttUrlError, Qos, Subscription};
pub use serial::{BridgeHost, ModbusConfig, SerialCodec, SerialConfig, SerialParity, SerialStopBits};
pub use status::{Counts, SourceState, SourceStatus};

/// What a source hands on to be stored in one piece.
#[derive(Debug)]
pub struct Parcel {
    /// The configured source.
    pub source: Arc<str>,
    /// Rows, watermarks and refused bytes; never empty.
    pub decoded: Decoded,
    /// Whether the source can wait; if not, what finds no room is shed by the inbox's policy instead of left unanswered.
    pub pressure: Pressure,
    /// To be answered once everything in `decoded` is synced; dropped without an answer, the parcel counts as refused.
    pub synced: oneshot::Sender<Result<Accepted, InboxError>>,
}

/// What a source does while its parcels are not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pressure {
    /// It stops reading; the outside keeps what follows.
    Waits,
    /// It keeps reading and sheds what finds no room.
    Sheds,
}

/// What became of a parcel's rows; the three add up to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Accepted {
    /// Stored and synced.
    pub rows: u64,
    /// Known already by (source, device, boot, seq).
    pub duplicates: u64,
    /// Given up by the store's policy.
    pub shed: u64,
}

/// A parcel that is not in the inbox.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InboxError {
    /// It could not be stored now; the source shall bring it again.
    #[error("the inbox refused rows: {0}")]
    Refused(String),
    /// The appliance ends.
    #[error("the inbox is closed")]
    Closed,
}

/// A checked source of the configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceConfig {
    /// The name in `[sources.*]`.
    pub id: Arc<str>,
    /// Its kind, and what that needs.
    pub kind: SourceKind,
}

/// The kinds of sources.
#[derive(Debug, Clone, PartialEq)]
pub enum SourceKind {
    /// A serial line.
    Serial(SerialConfig),
    /// An MQTT broker.
    Mqtt(MqttConfig),
    /// A Kafka topic.
    Kafka(KafkaConfig),
    /// A file of lines.
    File(FileConfig),
}

impl SourceKind {
    /// The word in `type`.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Serial(_) => "serial",
            Self::Mqtt(_) => "mqtt",
            Self::Kafka(_) => "kafka",
            Self::File(_) => "file",
        }
    }
}

/// Runs a source until `shutdown` turns true (its sender dropped counts as true) or the inbox closes. Returns once everything handed on is
/// answered and acknowledged, or after [`outlet::DRAIN_TIME_MAX`].
pub async fn run(config: SourceConfig, inbox: mpsc::Sender<Parcel>, status: Arc<SourceStatus>, shutdown: watch::Receiver<bool>) {
    let SourceConfig { id, kind } = config;
    match kind {
        SourceKind::Serial(config) => serial::run(id, config, inbox, status, shutdown).await,
        SourceKind::Mqtt(config) => mqtt::run(id, config, inbox, status, shutdown).await,
        SourceKind::Kafka(config) => kafka::run(id, config, inbox, status, shutdown).await,
        SourceKind::File(config) => file::run(id, config, inbox, status, shutdown).await,
    }
}

/// Resolves when the source shall end.
async fn ended(shutdown: &mut watch::Receiver<bool>) {
    // An error means that nobody is left who could say so: the appliance is gone.
    let _ = shutdown.wait_for(|end| *end).await;
}

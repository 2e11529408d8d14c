//! MQTT: messages from a broker, acknowledged only when their rows are synced.
//!
//! Two tasks. The **network** task drives the connection and nothing else, so that pings are never late however slow the store is; what comes in
//! goes to a queue that is bounded in bytes. The **pump** decodes what waits there, many messages to one parcel, and acknowledges each when its
//! parcel is synced, in the order they came.
//!
//! The session persists at the broker: after any break the subscriptions are asked for again, and the broker brings again what was not
//! acknowledged. Between brokers and this queue stands the limit of unacknowledged messages (receive maximum, or the broker's own). Should a
//! broker have none, the queue overflows: then the connection is closed until there is room, and the broker keeps the rest. A QoS 0 message that
//! finds no room is shed and counted.
//!
//! QoS 2 rows are stored once while this process lives, as the packet ids of both ends are remembered over reconnections. Over a crash,
//! and for QoS 1, it is `device`, `boot` and `seq` in the rows that make a redelivery harmless.

mod config;
mod exact;
mod network;
mod pump;
mod silence;
mod wire;

use std::sync::Arc;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};

pub use config::{MqttCodec, MqttConfig, MqttProtocol, MqttTls, MqttUrl, MqttUrlError, Qos, Subscription};

use super::{Parcel, SourceStatus, decode::MESSAGE_BYTES_MAX};
use exact::Exact;
use wire::{Acknowledger, Message};

/// Longest packet that is taken: a message and its topic.
const PACKET_BYTES_MAX: usize = MESSAGE_BYTES_MAX + 64 * 1024 + 1024;
/// Bytes of messages inside this source, from the network to the acknowledgement.
const QUEUE_BYTES_MAX: u32 = 32 * 1024 * 1024;
/// What a message costs besides its payload and topic, bytes.
const MESSAGE_OVERHEAD_BYTES: usize = 256;

/// A message on its way from the network to the acknowledgement.
struct Received {
    message: Message,
    acknowledger: Acknowledger,
    /// The number of the connection it came over.
    session: u64,
    /// For QoS 2: which one of the messages with this packet id.
    ticket: u64,
    /// Its share of [`QUEUE_BYTES_MAX`].
    room: OwnedSemaphorePermit,
}

/// What the two tasks share.
struct Shared {
    id: Arc<str>,
    status: Arc<SourceStatus>,
    room: Arc<Semaphore>,
    exact: Exact,
    /// The pump could not store something: the broker shall bring it again.
    refused: Notify,
    /// The connection in use.
    session: std::sync::atomic::AtomicU64,
}

/// Runs until `shutdown` or the inbox is closed.
pub(super) async fn run(
    id: Arc<str>,
    config: MqttConfig,
    inbox: mpsc::Sender<Parcel>,
    status: Arc<SourceStatus>,
    shutdown: watch::Receiver<bool>,
) {
    let shared = Arc::new(Shared {
        id,
        status: Arc::clone(&status),
        room: Arc::new(Semaphore::new(QUEUE_BYTES_MAX as usize)),
        exact: Exact::default(),
        refused: Notify::new(),
        session: std::sync::atomic::AtomicU64::new(0),
    });
    // Bounded in bytes by `room`.
    let (sender, receiver) = mpsc::unbounded_channel();
    let (leave, left) = watch::channel(false);
    let network = tokio::spawn(network::run(config.clone(), Arc::clone(&shared), sender, left));
    pump::run(&config, &shared, receiver, inbox, shutdown).await;
    // The network task sends the last acknowledgements, says farewell and ends; it fails only by a panic, which tokio has reported then.
    leave.send_replace(true);
    let _ = network.await;
    status.ended();
}

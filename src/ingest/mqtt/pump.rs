//! The task that decodes messages, hands them on, and acknowledges them when they are synced.

use std::sync::{Arc, atomic::Ordering};

use rustc_hash::FxHashMap;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

use super::{MqttCodec, MqttConfig, Qos, Received, Shared, Subscription, wire::Acknowledger};
use crate::{
    ingest::{
        InboxError, Parcel,
        decode::{Context, Decoded, Json, Notice, Sparkplug, rebirth_request},
        ended,
        outlet::Outlet,
        status::now,
    },
    model::Timestamp,
};

/// Most messages in one parcel.
const PARCEL_MESSAGES_MAX: usize = 1024;
/// A parcel of this many rows takes no further message.
const PARCEL_ROWS: u64 = 4096;
/// Most topics remembered by name; beyond, new topics of a subscription share its filter as their partition.
const TOPICS_MAX: usize = 4096;

/// What to acknowledge when a parcel is synced.
struct Receipt {
    qos: Qos,
    packet_id: u16,
    ticket: u64,
    acknowledger: Acknowledger,
    /// Given back with the receipt.
    _room: OwnedSemaphorePermit,
}

/// Decodes messages by topic.
struct Decoders<'c> {
    source: Arc<str>,
    subscriptions: Vec<(&'c Subscription, Decoder)>,
    topics: FxHashMap<String, Topic>,
    /// The connection of the last message.
    session: u64,
}

/// A topic's partition and the subscription it belongs to.
#[derive(Clone)]
struct Topic {
    partition: Arc<str>,
    subscription: Option<usize>,
}

enum Decoder {
    Json(Json),
    Sparkplug(Sparkplug),
}

/// Runs until `shutdown` or the inbox is closed, and then until what is under way is acknowledged.
pub(super) async fn run(
    config: &MqttConfig,
    shared: &Shared,
    mut queue: mpsc::UnboundedReceiver<Received>,
    inbox: mpsc::Sender<Parcel>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut outlet = Outlet::new(Arc::clone(&shared.id), inbox, Arc::clone(&shared.status));
    let mut decoders = Decoders::new(Arc::clone(&shared.id), config);
    // Messages of this connection and before come again.
    let mut given_up = 0;
    loop {
        tokio::select! {
            Some(first) = queue.recv(), if outlet.has_room() => {
                let (decoded, receipts) = decoders.gather(first, &mut queue, given_up, shared);
                if decoded.is_empty() {
                    acknowledge(receipts, shared).await;
                } else if outlet.hand_on(decoded, receipts).await.is_err() {
                    break;
                }
            }
            synced = outlet.next_synced() => match synced {
                Ok(receipts) => acknowledge(receipts, shared).await,
                Err(InboxError::Closed) => break,
                Err(InboxError::Refused(why)) => {
                    tracing::warn!(source = %shared.id, "{why}");
                    given_up = shared.session.load(Ordering::Acquire);
                    outlet.forget();
                    shared.refused.notify_one();
                }
            },
            () = ended(&mut shutdown) => break,
        }
    }
    let deadline = Outlet::<Receipt>::drain_deadline();
    while let Some(receipts) = outlet.drain(deadline).await {
        acknowledge(receipts, shared).await;
    }
}

async fn acknowledge(receipts: Vec<Receipt>, shared: &Shared) {
    for receipt in receipts {
        match receipt.qos {
            Qos::AtMostOnce => {}
            Qos::AtLeastOnce => receipt.acknowledger.acknowledge(receipt.qos, receipt.packet_id).await,
            Qos::ExactlyOnce => {
                if let Some(acknowledger) = shared.exact.stored(receipt.packet_id, receipt.ticket) {
                    acknowledger.acknowledge(receipt.qos, receipt.packet_id).await;
                }
            }
        }
    }
}

impl<'c> Decoders<'c> {
    fn new(source: Arc<str>, config: &'c MqttConfig) -> Self {
        let decoder = |subscription: &'c Subscription| match subscription.codec {
            MqttCodec::Json => (subscription, Decoder::Json(Json::new(subscription.routes.clone()))),
            MqttCodec::SparkplugB => (subscription, Decoder::Sparkplug(Sparkplug::new(subscription.routes.clone()))),
        };
        Self { source, subscriptions: config.subscriptions.iter().map(decoder).collect(), topics: FxHashMap::default(), session: 0 }
    }

    /// Decodes `first` and what waits behind it.
    fn gather(
        &mut self,
        first: Received,
        queue: &mut mpsc::UnboundedReceiver<Received>,
        given_up: u64,
        shared: &Shared,
    ) -> (Decoded, Vec<Receipt>) {
        let arrival = now();
        let (mut decoded, mut receipts) = (Decoded::default(), Vec::new());
        let mut next = Some(first);
        while let Some(received) = next {
            if received.session > given_up {
                self.decode(&received, arrival, &mut decoded);
                self.heed(&received.acknowledger, arrival, shared);
                receipts.push(Receipt {
                    qos: received.message.qos,
                    packet_id: received.message.packet_id,
                    ticket: received.ticket,
                    acknowledger: received.acknowledger,
                    _room: received.room,
                });
            } else if received.message.qos == Qos::AtMostOnce {
                shared.status.shed(1);
            }
            let full = receipts.len() >= PARCEL_MESSAGES_MAX || decoded.received() >= PARCEL_ROWS;
            next = if full { None } else { queue.try_recv().ok() };
        }
        shared.status.arrived(arrival);
        (decoded, receipts)
    }

    fn decode(&mut self, received: &Received, arrival: Timestamp, out: &mut Decoded) {
        if std::mem::replace(&mut self.session, received.session) != received.session {
            for (_, decoder) in &mut self.subscriptions {
                decoder.interrupted();
            }
        }
        let topic = self.topic(&received.message.topic);
        let mut context = Context::new(Arc::clone(&self.source), topic.partition, arrival);
        let subscription = topic.subscription.map(|index| &mut self.subscriptions[index]);
        if let Some((subscription, _)) = &subscription {
            context = context.along(&subscription.routes);
        }
        match subscription.map(|(_, decoder)| decoder) {
            Some(Decoder::Json(json)) => json.message(&received.message.payload, &context, out),
            Some(Decoder::Sparkplug(sparkplug)) => {
                sparkplug.message(&received.message.topic, &received.message.payload, &context, out);
            }
            None => out.refuse(&context, "no subscription is for this topic", &received.message.payload),
        }
    }

    /// Tells and does what the decoders ask for.
    fn heed(&mut self, wire: &Acknowledger, arrival: Timestamp, shared: &Shared) {
        let notices = self.subscriptions.iter_mut().flat_map(|(_, decoder)| decoder.take_notices());
        for notice in notices {
            match notice {
                Notice::Told(what) => tracing::warn!(source = %shared.id, "{what}"),
                Notice::Lost { node, messages } => {
                    tracing::warn!(source = %shared.id, node, messages, "messages of an edge node never came");
                    shared.status.add_lost(messages);
                }
                Notice::Rebirth { topic } => {
                    tracing::info!(source = %shared.id, topic, "an edge node is asked for its birth certificate");
                    let time_ms = u64::try_from(arrival.0 / 1_000_000).unwrap_or(0);
                    wire.request(&topic, rebirth_request(time_ms));
                }
            }
        }
    }

    fn topic(&mut self, name: &str) -> Topic {
        if let Some(topic) = self.topics.get(name) {
            return topic.clone();
        }
        let subscription = self.subscriptions.iter().position(|(one, _)| one.matches(name));
        let known = self.topics.len() < TOPICS_MAX;
        let partition = match subscription {
            Some(index) if !known => self.subscriptions[index].0.topic.as_str().into(),
            Some(index) => self.subscriptions[index].1.partition(name),
            None => name.into(),
        };
        let topic = Topic { partition, subscription };
        if known {
            self.topics.insert(name.to_owned(), topic.clone());
        }
        topic
    }
}

impl Decoder {
    /// The source partition of a topic.
    fn partition(&self, topic: &str) -> Arc<str> {
        match self {
            Self::Json(_) => topic.into(),
            Self::Sparkplug(_) => Sparkplug::partition(topic).map_or_else(|| topic.into(), Into::into),
        }
    }

    /// Messages may be missing from here on.
    fn interrupted(&mut self) {
        if let Self::Sparkplug(sparkplug) = self {
            sparkplug.interrupted();
        }
    }

    fn take_notices(&mut self) -> Vec<Notice> {
        match self {
            Self::Json(_) => Vec::new(),
            Self::Sparkplug(sparkplug) => sparkplug.take_notices(),
        }
    }
}

//! MQTT 3.1.1 and 5 on the wire: the only file that knows the client library.
//!
//! A [`Wire`] is one connection. After any error it is thrown away and a new one made with the same client id, so that an acknowledgement can
//! only ever reach the connection its message came over: the broker, which keeps the session, may have given the packet id to another message by then.
//!
//! A broker lets go of a QoS 2 packet id (PUBREL) also over a connection, or to a process, that never saw the message: the acknowledgement went
//! out just before the break. The answer is PUBCOMP all the same (MQTT 3.1.1, section 4.3.3). The library takes an id it does not know for a
//! fault and hangs up, so every connection begins with all ids known ([`PACKET_IDS`]).

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use rumqttc::{TlsConfiguration, Transport, v5};

use super::{MqttConfig, MqttProtocol, Qos, Subscription};

/// Requests (acknowledgements, subscriptions) that wait for the network.
const REQUESTS_MAX: usize = 4096;
/// Silence after which a ping goes out.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Unacknowledged messages that a version 5 broker may send; a version 3.1.1 broker has its own bound (20 in Mosquitto).
const RECEIVE_MAX: u16 = 4096;
/// Where Debian, Fedora and Alpine keep the certificate authorities they trust.
const SYSTEM_AUTHORITIES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
/// A version 5 broker keeps the session for ever; a version 3.1.1 broker always does.
const SESSION_NEVER_EXPIRES: u32 = u32::MAX;

/// All that there are.
const PACKET_IDS: std::ops::RangeInclusive<u16> = 1..=u16::MAX;

/// A connection, or the attempt at one.
pub(super) enum Wire {
    V4(Box<rumqttc::EventLoop>, rumqttc::AsyncClient),
    V5(Box<v5::EventLoop>, v5::AsyncClient),
}

/// What came over the wire.
pub(super) enum Incoming {
    /// Connected; whether the broker remembers the session.
    Connected { session_present: bool },
    /// A message.
    Message(Message),
    /// The broker let go of a QoS 2 packet id.
    Released { packet_id: u16 },
    /// The broker refuses this many of the subscriptions.
    SubscriptionsRefused(usize),
    /// Our own farewell is on its way.
    Left,
    /// Something that needs no answer of ours.
    Other,
}

/// A message as it came.
pub(super) struct Message {
    pub topic: String,
    pub payload: Bytes,
    pub qos: Qos,
    pub packet_id: u16,
}

/// Trouble on the wire.
pub(super) struct WireError {
    pub why: String,
}

/// Sends acknowledgements over one connection; of no effect once that is gone.
#[derive(Debug, Clone)]
pub(super) enum Acknowledger {
    V4(rumqttc::AsyncClient),
    V5(v5::AsyncClient),
}

impl Wire {
    /// Connects with the first [`Self::next`].
    pub fn new(config: &MqttConfig) -> Result<Self, WireError> {
        let transport = transport(config)?;
        Ok(match config.protocol {
            MqttProtocol::V4 => Self::v4(config, transport),
            MqttProtocol::V5 => Self::v5(config, transport),
        })
    }

    fn v4(config: &MqttConfig, transport: Transport) -> Self {
        let mut options = rumqttc::MqttOptions::new(&config.client_id, &config.url.host, config.url.port);
        options.set_transport(transport);
        options.set_clean_session(false);
        options.set_manual_acks(true);
        options.set_keep_alive(KEEP_ALIVE);
        options.set_max_packet_size(super::PACKET_BYTES_MAX, super::PACKET_BYTES_MAX);
        if let Some((user, password)) = &config.credentials {
            options.set_credentials(user, password);
        }
        let (client, mut events) = rumqttc::AsyncClient::new(options, REQUESTS_MAX);
        events.network_options = at_once();
        for pkid in PACKET_IDS {
            let mut publish = rumqttc::Publish::new("", rumqttc::QoS::ExactlyOnce, "");
            publish.pkid = pkid;
            // Marks the id as seen, which is all that happens to a message of this kind here.
            let _ = events.state.handle_incoming_packet(rumqttc::Incoming::Publish(publish));
            events.state.events.clear();
        }
        Self::V4(Box::new(events), client)
    }

    fn v5(config: &MqttConfig, transport: Transport) -> Self {
        let mut options = v5::MqttOptions::new(&config.client_id, &config.url.host, config.url.port);
        options.set_transport(transport);
        options.set_clean_start(false);
        options.set_session_expiry_interval(Some(SESSION_NEVER_EXPIRES));
        options.set_receive_maximum(Some(RECEIVE_MAX));
        options.set_max_packet_size(u32::try_from(super::PACKET_BYTES_MAX).ok());
        options.set_manual_acks(true);
        options.set_keep_alive(KEEP_ALIVE);
        options.set_network_options(at_once());
        if let Some((user, password)) = &config.credentials {
            options.set_credentials(user, password);
        }
        let (client, mut events) = v5::AsyncClient::new(options, REQUESTS_MAX);
        for pkid in PACKET_IDS {
            let mut publish = v5::mqttbytes::v5::Publish::new("-", v5::mqttbytes::QoS::ExactlyOnce, "", None);
            publish.pkid = pkid;
            let _ = events.state.handle_incoming_packet(v5::Incoming::Publish(publish));
            events.state.events.clear();
        }
        Self::V5(Box::new(events), client)
    }

    /// The way to acknowledge what comes over this connection.
    pub fn acknowledger(&self) -> Acknowledger {
        match self {
            Self::V4(_, client) => Acknowledger::V4(client.clone()),
            Self::V5(_, client) => Acknowledger::V5(client.clone()),
        }
    }

    /// Drives the connection until something comes in. Connects first.
    pub async fn next(&mut self) -> Result<Incoming, WireError> {
        match self {
            Self::V4(events, _) => match events.poll().await {
                Ok(rumqttc::Event::Incoming(packet)) => Ok(incoming_v4(packet)),
                Ok(rumqttc::Event::Outgoing(rumqttc::Outgoing::Disconnect)) => Ok(Incoming::Left),
                Ok(rumqttc::Event::Outgoing(_)) => Ok(Incoming::Other),
                Err(error) => Err(WireError { why: error.to_string() }),
            },
            Self::V5(events, _) => match events.poll().await {
                Ok(v5::Event::Incoming(packet)) => Ok(incoming_v5(packet)),
                Ok(v5::Event::Outgoing(rumqttc::Outgoing::Disconnect)) => Ok(Incoming::Left),
                Ok(v5::Event::Outgoing(_)) => Ok(Incoming::Other),
                Err(error) => Err(WireError { why: error.to_string() }),
            },
        }
    }

    /// Asks for the subscriptions. Must not wait: nobody else drives the connection meanwhile.
    pub fn subscribe(&self, subscriptions: &[Subscription]) -> Result<(), WireError> {
        let refused = |error: String| WireError { why: format!("cannot subscribe: {error}") };
        match self {
            Self::V4(_, client) => {
                let filter = |one: &Subscription| rumqttc::SubscribeFilter::new(one.topic.clone(), qos_v4(one.qos));
                client.try_subscribe_many(subscriptions.iter().map(filter)).map_err(|error| refused(error.to_string()))
            }
            Self::V5(_, client) => {
                let filter = |one: &Subscription| v5::mqttbytes::v5::Filter::new(one.topic.clone(), qos_v5(one.qos));
                client.try_subscribe_many(subscriptions.iter().map(filter)).map_err(|error| refused(error.to_string()))
            }
        }
    }
}

/// Acknowledgements are a few bytes each: the system would hold them back for up to 40 ms to send several together.
fn at_once() -> rumqttc::NetworkOptions {
    let mut options = rumqttc::NetworkOptions::new();
    options.set_tcp_nodelay(true);
    options
}

impl Acknowledger {
    /// Acknowledges a message: PUBACK for QoS 1, PUBREC for QoS 2. Waits for room, so not for the task that drives the connection.
    pub async fn acknowledge(&self, qos: Qos, packet_id: u16) {
        // An error means that the connection is gone: the message comes again over the next one.
        match self {
            Self::V4(client) => drop(client.ack(&publish_v4(qos, packet_id)).await),
            Self::V5(client) => drop(client.ack(&publish_v5(qos, packet_id)).await),
        }
    }

    /// The same without waiting; `false` = no room.
    pub fn try_acknowledge(&self, qos: Qos, packet_id: u16) -> bool {
        match self {
            Self::V4(client) => client.try_ack(&publish_v4(qos, packet_id)).is_ok(),
            Self::V5(client) => client.try_ack(&publish_v5(qos, packet_id)).is_ok(),
        }
    }

    /// Publishes a request that may get lost (QoS 0, not retained). Without waiting: one that finds no room is dropped.
    pub fn request(&self, topic: &str, payload: Vec<u8>) {
        // An error means no room or no connection: whoever asks asks again.
        match self {
            Self::V4(client) => drop(client.try_publish(topic, rumqttc::QoS::AtMostOnce, false, payload)),
            Self::V5(client) => drop(client.try_publish(topic, v5::mqttbytes::QoS::AtMostOnce, false, payload)),
        }
    }

    /// Says farewell after everything acknowledged so far.
    pub async fn leave(&self) {
        match self {
            Self::V4(client) => drop(client.disconnect().await),
            Self::V5(client) => drop(client.disconnect().await),
        }
    }
}

fn publish_v4(qos: Qos, packet_id: u16) -> rumqttc::Publish {
    let mut publish = rumqttc::Publish::new("", qos_v4(qos), "");
    publish.pkid = packet_id;
    publish
}

fn publish_v5(qos: Qos, packet_id: u16) -> v5::mqttbytes::v5::Publish {
    let mut publish = v5::mqttbytes::v5::Publish::new("", qos_v5(qos), "", None);
    publish.pkid = packet_id;
    publish
}

fn incoming_v4(packet: rumqttc::Incoming) -> Incoming {
    match packet {
        rumqttc::Incoming::ConnAck(ack) => Incoming::Connected { session_present: ack.session_present },
        rumqttc::Incoming::Publish(publish) => Incoming::Message(Message {
            qos: match publish.qos {
                rumqttc::QoS::AtMostOnce => Qos::AtMostOnce,
                rumqttc::QoS::AtLeastOnce => Qos::AtLeastOnce,
                rumqttc::QoS::ExactlyOnce => Qos::ExactlyOnce,
            },
            topic: publish.topic,
            payload: publish.payload,
            packet_id: publish.pkid,
        }),
        rumqttc::Incoming::PubRel(release) => Incoming::Released { packet_id: release.pkid },
        rumqttc::Incoming::SubAck(ack) => {
            refused(ack.return_codes.iter().filter(|code| matches!(code, rumqttc::SubscribeReasonCode::Failure)).count())
        }
        _ => Incoming::Other,
    }
}

fn incoming_v5(packet: v5::Incoming) -> Incoming {
    match packet {
        v5::Incoming::ConnAck(ack) => Incoming::Connected { session_present: ack.session_present },
        v5::Incoming::Publish(publish) => Incoming::Message(Message {
            qos: match publish.qos {
                v5::mqttbytes::QoS::AtMostOnce => Qos::AtMostOnce,
                v5::mqttbytes::QoS::AtLeastOnce => Qos::AtLeastOnce,
                v5::mqttbytes::QoS::ExactlyOnce => Qos::ExactlyOnce,
            },
            topic: String::from_utf8_lossy(&publish.topic).into_owned(),
            payload: publish.payload,
            packet_id: publish.pkid,
        }),
        v5::Incoming::PubRel(release) => Incoming::Released { packet_id: release.pkid },
        v5::Incoming::SubAck(ack) => {
            let good =
                |code: &v5::mqttbytes::v5::SubscribeReasonCode| matches!(code, v5::mqttbytes::v5::SubscribeReasonCode::Success(_));
            refused(ack.return_codes.iter().filter(|code| !good(code)).count())
        }
        _ => Incoming::Other,
    }
}

fn refused(count: usize) -> Incoming {
    if count == 0 { Incoming::Other } else { Incoming::SubscriptionsRefused(count) }
}

const fn qos_v4(qos: Qos) -> rumqttc::QoS {
    match qos {
        Qos::AtMostOnce => rumqttc::QoS::AtMostOnce,
        Qos::AtLeastOnce => rumqttc::QoS::AtLeastOnce,
        Qos::ExactlyOnce => rumqttc::QoS::ExactlyOnce,
    }
}

const fn qos_v5(qos: Qos) -> v5::mqttbytes::QoS {
    match qos {
        Qos::AtMostOnce => v5::mqttbytes::QoS::AtMostOnce,
        Qos::AtLeastOnce => v5::mqttbytes::QoS::AtLeastOnce,
        Qos::ExactlyOnce => v5::mqttbytes::QoS::ExactlyOnce,
    }
}

/// Plain TCP, or TLS with the system's or the configured authorities.
fn transport(config: &MqttConfig) -> Result<Transport, WireError> {
    if !config.url.tls {
        return Ok(Transport::tcp());
    }
    let read =
        |path: &Path| std::fs::read(path).map_err(|error| WireError { why: format!("cannot read {}: {error}", path.display()) });
    let system = || SYSTEM_AUTHORITIES.iter().map(PathBuf::from).find(|path| path.exists());
    let Some(ca_file) = config.tls.ca_file.clone().or_else(system) else {
        return Err(WireError { why: "no certificate authorities on this system: set `ca_file`".into() });
    };
    let client_auth = match &config.tls.client {
        Some((certificate, key)) => Some((read(certificate)?, read(key)?)),
        None => None,
    };
    Ok(Transport::tls_with_config(TlsConfiguration::Simple { ca: read(&ca_file)?, alpn: None, client_auth }))
}

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
use rumqttc::{Outgoing, TlsConfiguration, Transport, v5};
use tokio::time::Instant;

use super::{MqttConfig, MqttProtocol, Qos, Subscription, silence::Silence};

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
pub(super) struct Wire {
    link: Link,
    silence: Silence,
}

/// The library's side of it.
enum Link {
    V4(Box<rumqttc::EventLoop>, rumqttc::AsyncClient),
    V5(Box<v5::EventLoop>, v5::AsyncClient),
}

/// What the library did.
enum Event {
    Incoming(Incoming),
    /// The answer to a ping.
    Answered,
    Outgoing(rumqttc::Outgoing),
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
        Self::pinging_every(KEEP_ALIVE, config)
    }

    fn pinging_every(keep_alive: Duration, config: &MqttConfig) -> Result<Self, WireError> {
        let transport = transport(config)?;
        let link = match config.protocol {
            MqttProtocol::V4 => Link::v4(config, transport, keep_alive),
            MqttProtocol::V5 => Link::v5(config, transport, keep_alive),
        };
        Ok(Self { link, silence: Silence::default() })
    }

    /// The way to acknowledge what comes over this connection.
    pub fn acknowledger(&self) -> Acknowledger {
        match &self.link {
            Link::V4(_, client) => Acknowledger::V4(client.clone()),
            Link::V5(_, client) => Acknowledger::V5(client.clone()),
        }
    }

    /// Drives the connection until something comes in. Connects first.
    pub async fn next(&mut self) -> Result<Incoming, WireError> {
        let event = self.link.next().await.map_err(|why| WireError { why })?;
        match event {
            Event::Incoming(incoming) => {
                self.silence.heard(Instant::now());
                return Ok(incoming);
            }
            Event::Answered => self.silence.answered(),
            Event::Outgoing(Outgoing::Disconnect) => return Ok(Incoming::Left),
            Event::Outgoing(Outgoing::PubAck(_) | Outgoing::PubRec(_)) => self.silence.acknowledged(),
            Event::Outgoing(Outgoing::PingReq) => {
                if self.silence.pinged(Instant::now()) {
                    return Err(WireError { why: "the broker does not answer pings".to_owned() });
                }
                self.link.await_no_answer();
            }
            Event::Outgoing(_) => {}
        }
        Ok(Incoming::Other)
    }

    /// Asks for the subscriptions. Must not wait: nobody else drives the connection meanwhile.
    pub fn subscribe(&self, subscriptions: &[Subscription]) -> Result<(), WireError> {
        let refused = |error: String| WireError { why: format!("cannot subscribe: {error}") };
        match &self.link {
            Link::V4(_, client) => {
                let filter = |one: &Subscription| rumqttc::SubscribeFilter::new(one.topic.clone(), qos_v4(one.qos));
                client.try_subscribe_many(subscriptions.iter().map(filter)).map_err(|error| refused(error.to_string()))
            }
            Link::V5(_, client) => {
                let filter = |one: &Subscription| v5::mqttbytes::v5::Filter::new(one.topic.clone(), qos_v5(one.qos));
                client.try_subscribe_many(subscriptions.iter().map(filter)).map_err(|error| refused(error.to_string()))
            }
        }
    }
}

impl Link {
    fn v4(config: &MqttConfig, transport: Transport, keep_alive: Duration) -> Self {
        let mut options = rumqttc::MqttOptions::new(&config.client_id, &config.url.host, config.url.port);
        options.set_transport(transport);
        options.set_clean_session(false);
        options.set_manual_acks(true);
        options.set_keep_alive(keep_alive);
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

    fn v5(config: &MqttConfig, transport: Transport, keep_alive: Duration) -> Self {
        let mut options = v5::MqttOptions::new(&config.client_id, &config.url.host, config.url.port);
        options.set_transport(transport);
        options.set_clean_start(false);
        options.set_session_expiry_interval(Some(SESSION_NEVER_EXPIRES));
        options.set_receive_maximum(Some(RECEIVE_MAX));
        options.set_max_packet_size(u32::try_from(super::PACKET_BYTES_MAX).ok());
        options.set_manual_acks(true);
        options.set_keep_alive(keep_alive);
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

    async fn next(&mut self) -> Result<Event, String> {
        Ok(match self {
            Self::V4(events, _) => match events.poll().await.map_err(|error| error.to_string())? {
                rumqttc::Event::Incoming(rumqttc::Incoming::PingResp) => Event::Answered,
                rumqttc::Event::Incoming(packet) => Event::Incoming(incoming_v4(packet)),
                rumqttc::Event::Outgoing(outgoing) => Event::Outgoing(outgoing),
            },
            Self::V5(events, _) => match events.poll().await.map_err(|error| error.to_string())? {
                v5::Event::Incoming(v5::Incoming::PingResp(_)) => Event::Answered,
                v5::Event::Incoming(packet) => Event::Incoming(incoming_v5(packet)),
                v5::Event::Outgoing(outgoing) => Event::Outgoing(outgoing),
            },
        })
    }

    /// The library gives a broker until the next ping, however much it has to read; [`Silence`] decides instead.
    fn await_no_answer(&mut self) {
        match self {
            Self::V4(events, _) => events.state.await_pingresp = false,
            Self::V5(events, _) => events.state.await_pingresp = false,
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

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{Ipv4Addr, TcpListener},
        thread,
    };

    use super::{super::MqttTls, *};

    const MESSAGES: u16 = 100;

    /// Brings messages and reads what comes; gives how many were acknowledged once it has seen three pings, without answering one.
    fn broker(listener: &TcpListener) -> usize {
        let (mut link, _) = listener.accept().unwrap();
        let mut bytes = [0; 1];
        let mut byte = || {
            link.read_exact(&mut bytes).unwrap();
            bytes[0]
        };
        // CONNECT, shorter than 128 bytes.
        let length = [byte(), byte()][1];
        (0..length).for_each(|_| {
            byte();
        });
        let mut sent = vec![0x20, 2, 1, 0];
        for packet in 1..=MESSAGES {
            // PUBLISH at QoS 1 to `t`, without payload.
            sent.extend([0x32, 5, 0, 1, b't', packet.to_be_bytes()[0], packet.to_be_bytes()[1]]);
        }
        link.write_all(&sent).unwrap();
        let (mut acknowledged, mut pings) = (0, 0);
        while pings < 3 {
            let mut head = [0; 2];
            link.read_exact(&mut head).unwrap();
            let mut rest = vec![0; usize::from(head[1])];
            link.read_exact(&mut rest).unwrap();
            match head[0] {
                0x40 => acknowledged += 1,
                0xc0 => pings += 1,
                other => panic!("a client says {other:x}"),
            }
        }
        acknowledged
    }

    #[tokio::test]
    async fn a_broker_with_acknowledgements_to_read_may_be_late_with_its_answer() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let config = MqttConfig {
            url: format!("mqtt://127.0.0.1:{}", listener.local_addr().unwrap().port()).parse().unwrap(),
            client_id: "slow".into(),
            protocol: MqttProtocol::V4,
            credentials: None,
            tls: MqttTls::default(),
            subscriptions: Vec::new(),
        };
        let broker = thread::spawn(move || broker(&listener));
        let mut wire = Wire::pinging_every(Duration::from_secs(1), &config).ok().unwrap();
        let acknowledger = wire.acknowledger();
        while !broker.is_finished() {
            let incoming = tokio::time::timeout(Duration::from_millis(100), wire.next()).await;
            match incoming.map(|incoming| incoming.map_err(|error| error.why)) {
                Ok(Ok(Incoming::Message(message))) => assert!(acknowledger.try_acknowledge(message.qos, message.packet_id)),
                Ok(Ok(_)) | Err(_) => {}
                // The broker hangs up when it has seen enough.
                Ok(Err(why)) => assert!(broker.is_finished() || why.contains("closed"), "{why}"),
            }
        }
        assert_eq!(broker.join().unwrap(), usize::from(MESSAGES));
    }
}

//! Sparkplug B over Mosquitto, with an edge node that is born when it is asked.

use std::sync::Arc;

use qadf_edge::{
    ingest::{MqttCodec, MqttConfig, MqttProtocol, MqttTls, MqttUrl, Qos, SourceKind, Subscription, decode::Routes},
    model::Stream,
};
use rumqttc::{AsyncClient, Event, EventLoop, Incoming, LastWill, MqttOptions, QoS};
use tokio::time::timeout;

use super::{
    PATIENCE, Running,
    mqtt::{Mosquitto, free_port},
};

const NCMD: &str = "spBv1.0/plant/NCMD/gateway";

fn source(url: &MqttUrl, protocol: MqttProtocol) -> Running {
    let stream = Arc::new(Stream::new("chamber", &["Chamber_Oxygen"], &["edge_device"]));
    Running::start(SourceKind::Mqtt(MqttConfig {
        url: url.clone(),
        client_id: "lpbf-07".into(),
        protocol,
        credentials: None,
        tls: MqttTls::default(),
        subscriptions: vec![Subscription {
            topic: "spBv1.0/plant/#".into(),
            qos: Qos::AtMostOnce,
            codec: MqttCodec::SparkplugB,
            routes: Routes::one(&stream).unwrap(),
        }],
    }))
}

/// A length-delimited field.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()][..], bytes].concat()
}

/// A payload of one metric, at a time below 128 ms.
fn payload(ms: u8, seq: u8, metric: &[u8]) -> Vec<u8> {
    assert!(ms < 128 && seq < 128);
    [&[0x08, ms][..], &field(2, metric), &[0x18, seq]].concat()
}

/// The will: `bdSeq` 1 (`UInt64`), without a number.
fn death() -> Vec<u8> {
    field(2, &[&field(1, b"bdSeq")[..], &[0x20, 8, 0x58, 1]].concat())
}

/// `Chamber/Oxygen` (`Double`) by alias.
fn oxygen(value: f64) -> Vec<u8> {
    [&[0x10, 1, 0x69][..], &value.to_le_bytes()].concat()
}

/// An edge node on the broker.
struct Node {
    client: AsyncClient,
    events: EventLoop,
    commands: Vec<Vec<u8>>,
}

impl Node {
    async fn connect(url: &MqttUrl) -> Self {
        let mut options = MqttOptions::new("gateway", &url.host, url.port);
        options.set_last_will(LastWill::new("spBv1.0/plant/NDEATH/gateway", death(), QoS::AtLeastOnce, false));
        let (client, events) = AsyncClient::new(options, 16);
        client.subscribe(NCMD, QoS::AtLeastOnce).await.unwrap();
        let mut node = Self { client, events, commands: Vec::new() };
        node.until(|packet| matches!(packet, Incoming::SubAck(_))).await;
        node
    }

    /// Publishes and waits until the broker has it.
    async fn say(&mut self, kind: &str, device: &str, payload: Vec<u8>) {
        self.client.publish(format!("spBv1.0/plant/{kind}/gateway{device}"), QoS::AtLeastOnce, false, payload).await.unwrap();
        self.until(|packet| matches!(packet, Incoming::PubAck(_))).await;
    }

    /// Announces itself with the oxygen 0.5, and a device likewise.
    async fn is_born(&mut self) {
        let born = [&field(1, b"bdSeq")[..], &[0x20, 8, 0x58, 1]].concat();
        self.say("NBIRTH", "", payload(1, 0, &born)).await;
        let metric = [&field(1, b"Chamber/Oxygen")[..], &[0x20, 10], &oxygen(0.5)].concat();
        self.say("DBIRTH", "/pump", payload(2, 1, &metric)).await;
    }

    async fn until(&mut self, mut found: impl FnMut(&Incoming) -> bool) {
        let heard = async {
            loop {
                let Event::Incoming(packet) = self.events.poll().await.expect("the broker stays") else { continue };
                if let Incoming::Publish(publish) = &packet {
                    assert_eq!(publish.topic, NCMD);
                    self.commands.push(publish.payload.to_vec());
                }
                if found(&packet) {
                    break;
                }
            }
        };
        timeout(PATIENCE, heard).await.expect("the broker answers in time");
    }

    async fn is_asked(&mut self) {
        if self.commands.is_empty() {
            self.until(|packet| matches!(packet, Incoming::Publish(_))).await;
        }
        let command = self.commands.remove(0);
        let name = b"Node Control/Rebirth";
        assert!(command.windows(name.len()).any(|window| window == name), "{command:?}");
    }
}

/// A node that is already up is asked, born, loses a message, and dies by its will.
async fn a_node_lives(protocol: MqttProtocol) {
    let directory = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(directory.path(), free_port()).await;
    let mut source = source(&broker.url, protocol);
    source.until_up().await;
    let mut node = Node::connect(&broker.url).await;

    let ms = |ms: i64| ms * 1_000_000;
    node.say("DDATA", "/pump", payload(3, 40, &oxygen(1.0))).await;
    node.is_asked().await;
    let (_, reasons) = source.sync(1).await;
    assert!(reasons[0].contains("alias 1 is not known"), "{reasons:?}");

    node.is_born().await;
    node.say("DDATA", "/pump", payload(4, 2, &oxygen(2.0))).await;
    let mut rows = Vec::new();
    while rows.len() < 2 {
        let parcel = source.parcel().await;
        for batch in &parcel.decoded.batches {
            rows.extend((0..batch.rows()).map(|row| (batch.partition.to_string(), batch.time[row], batch.signals[0][row])));
        }
        super::synced(parcel);
    }
    let pump = || "plant/gateway/pump".to_owned();
    assert_eq!(rows, [(pump(), ms(2), 0.5), (pump(), ms(4), 2.0)]);

    node.say("DDATA", "/pump", payload(5, 6, &oxygen(3.0))).await;
    assert_eq!(source.sync(1).await.0, [ms(5)]);
    assert_eq!(source.status.lost(), 3, "3, 4 and 5 never came");

    // Hangs up without a farewell: the broker publishes the will.
    drop(node);
    let mut node = Node::connect(&broker.url).await;
    node.say("DDATA", "/pump", payload(6, 7, &oxygen(4.0))).await;
    let (times, reasons) = source.sync(1).await;
    assert_eq!((times.len(), reasons.len()), (0, 1), "the aliases died with the session");
    node.is_born().await;
    assert_eq!(source.sync(1).await.0, [ms(2)]);
    source.end().await;
}

#[tokio::test]
async fn a_node_is_asked_born_and_dies_over_version_4() {
    a_node_lives(MqttProtocol::V4).await;
}

#[tokio::test]
async fn a_node_is_asked_born_and_dies_over_version_5() {
    a_node_lives(MqttProtocol::V5).await;
}

//! The MQTT source against Mosquitto and against the embedded broker.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use qadf_edge::ingest::{
    BrokerConfig, InboxError, MqttCodec, MqttConfig, MqttProtocol, MqttTls, MqttUrl, Qos, SourceKind, Subscription, start_broker,
};
use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, QoS};
use tokio::time::timeout;

use super::{PATIENCE, Running, routes, synced};

/// A Mosquitto of our own that keeps what it acknowledged, in memory over reconnections.
pub(super) struct Mosquitto {
    process: Child,
    pub url: MqttUrl,
}

impl Mosquitto {
    pub async fn start(directory: &Path, port: u16) -> Self {
        Self::start_with(directory, port, &format!("listener {port} 127.0.0.1\nallow_anonymous true\n")).await
    }

    /// With these listeners, of which the one at `port` is plain.
    pub async fn start_with(directory: &Path, port: u16, listeners: &str) -> Self {
        let config = directory.join("mosquitto.conf");
        std::fs::write(&config, format!("{listeners}persistence false\nmax_queued_messages 0\n")).unwrap();
        let process = Command::new("mosquitto")
            .args(["-c", &config.display().to_string()])
            .env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Mosquitto is installed: apt-get install mosquitto");
        let answer = async {
            while tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, answer).await.expect("Mosquitto listens in time");
        Self { process, url: MqttUrl { host: "127.0.0.1".into(), port, tls: false } }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(super) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn config(url: &MqttUrl, protocol: MqttProtocol, qos: Qos) -> SourceKind {
    SourceKind::Mqtt(MqttConfig {
        url: url.clone(),
        client_id: "lpbf-07".into(),
        protocol,
        credentials: None,
        tls: MqttTls::default(),
        subscriptions: vec![Subscription { topic: "plant/+".into(), qos, codec: MqttCodec::Json, routes: routes() }],
    })
}

/// Publishes and waits until the broker has everything.
pub(super) async fn publish(url: &MqttUrl, messages: &[(&str, String)]) {
    let mut options = MqttOptions::new("machine", &url.host, url.port);
    options.set_max_packet_size(1 << 20, 1 << 20);
    // Mosquitto ends connections with more than 20 unanswered messages.
    options.set_inflight(10);
    let (client, mut events) = AsyncClient::new(options, messages.len() + 1);
    for (topic, text) in messages {
        client.publish(*topic, QoS::ExactlyOnce, false, text.as_bytes()).await.unwrap();
    }
    let mut left = messages.len();
    let all = async {
        while left > 0 {
            if let Event::Incoming(Incoming::PubComp(_)) = events.poll().await.expect("the broker takes messages") {
                left -= 1;
            }
        }
    };
    timeout(PATIENCE, all).await.expect("the broker takes messages in time");
}

fn rows(times: std::ops::Range<i64>) -> Vec<(&'static str, String)> {
    times.map(|time| ("plant/a", format!("{{\"time\":{time}}}"))).collect()
}

/// The whole life of a session: rows arrive in order; what is refused comes again; what is acknowledged does not.
async fn rows_are_acknowledged_only_when_synced(url: &MqttUrl, protocol: MqttProtocol, qos: Qos) {
    let mut source = Running::start(config(url, protocol, qos));
    source.until_up().await;
    publish(url, &rows(0..10)).await;
    assert_eq!(source.sync(10).await.0, (0..10).collect::<Vec<_>>());

    publish(url, &rows(10..20)).await;
    let refused = source.parcel().await;
    assert_eq!(refused.decoded.batches[0].time[0], 10);
    refused.synced.send(Err(InboxError::Refused("the disk is full".into()))).unwrap();
    let again = loop {
        let parcel = source.parcel().await;
        // What was under way behind the refused parcel counts as refused with it.
        if parcel.decoded.batches[0].time[0] == 10 {
            break parcel;
        }
    };
    let mut times = synced(again).0;
    while times.len() < 10 {
        times.extend(source.sync(1).await.0);
    }
    assert_eq!(times, (10..20).collect::<Vec<_>>());

    publish(url, &rows(20..25)).await;
    let unanswered = source.parcel().await;
    assert_eq!(unanswered.decoded.batches[0].time[0], 20);
    source.end().await;

    let mut source = Running::start(config(url, protocol, qos));
    assert_eq!(source.sync(5).await.0, (20..25).collect::<Vec<_>>());
    source.until(|status| status.counts().accepted == 5).await;
    source.end().await;

    let mut source = Running::start(config(url, protocol, qos));
    source.until_up().await;
    publish(url, &rows(99..100)).await;
    assert_eq!(source.sync(1).await.0, [99], "nothing that was acknowledged comes again");
    source.end().await;
}

#[tokio::test]
async fn mosquitto_version_4_at_least_once() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(directory.path(), free_port()).await;
    rows_are_acknowledged_only_when_synced(&broker.url, MqttProtocol::V4, Qos::AtLeastOnce).await;
}

#[tokio::test]
async fn mosquitto_version_4_exactly_once() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(directory.path(), free_port()).await;
    rows_are_acknowledged_only_when_synced(&broker.url, MqttProtocol::V4, Qos::ExactlyOnce).await;
}

#[tokio::test]
async fn mosquitto_version_5_at_least_once() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(directory.path(), free_port()).await;
    rows_are_acknowledged_only_when_synced(&broker.url, MqttProtocol::V5, Qos::AtLeastOnce).await;
}

#[tokio::test]
async fn mosquitto_version_5_exactly_once() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(directory.path(), free_port()).await;
    rows_are_acknowledged_only_when_synced(&broker.url, MqttProtocol::V5, Qos::ExactlyOnce).await;
}

#[tokio::test]
async fn the_embedded_broker() {
    let url = start_broker(BrokerConfig { listen: (Ipv4Addr::LOCALHOST, 0).into() }).await.unwrap();
    rows_are_acknowledged_only_when_synced(&url, MqttProtocol::V4, Qos::AtLeastOnce).await;
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error_that_says_so() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let error = start_broker(BrokerConfig { listen: taken.local_addr().unwrap() }).await.unwrap_err();
    assert!(error.to_string().contains("cannot listen on 127.0.0.1"), "{error}");
}

#[tokio::test]
async fn a_broker_that_is_away_is_a_state_and_its_return_heals() {
    let directory = tempfile::tempdir().unwrap();
    let port = free_port();
    let url = MqttUrl { host: "127.0.0.1".into(), port, tls: false };
    let mut source = Running::start(config(&url, MqttProtocol::V4, Qos::AtLeastOnce));
    source.until_down("127.0.0.1").await;
    let broker = Mosquitto::start(directory.path(), port).await;
    source.until_up().await;
    publish(&url, &rows(0..3)).await;
    assert_eq!(source.sync(3).await.0, [0, 1, 2]);
    drop(broker);
    source.until_down("127.0.0.1").await;
    // A new broker knows nothing of the session: the subscriptions must be asked for again.
    let _broker = Mosquitto::start(directory.path(), port).await;
    source.until_up().await;
    publish(&url, &rows(3..6)).await;
    assert_eq!(source.sync(3).await.0, [3, 4, 5]);
    source.end().await;
}

#[tokio::test]
async fn bad_messages_are_refused_and_acknowledged_like_others() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(directory.path(), free_port()).await;
    let mut source = Running::start(config(&broker.url, MqttProtocol::V4, Qos::AtLeastOnce));
    source.until_up().await;
    let long = format!("{{\"time\":2,\"part\":\"{}\"}}", "x".repeat(100_000));
    publish(&broker.url, &[("plant/a", "rubbish".into()), ("plant/b", "[{\"time\":1},{}]".into()), ("plant/b", long)]).await;
    let (times, reasons) = source.sync(4).await;
    assert_eq!((times, reasons.len()), (vec![1], 3));
    source.until(|status| status.counts().rejected == 3).await;
    source.end().await;
}

#[tokio::test]
async fn pings_go_out_while_nothing_is_synced() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(directory.path(), free_port()).await;
    let mut source = Running::start(config(&broker.url, MqttProtocol::V5, Qos::AtLeastOnce));
    source.until_up().await;
    // More messages than the inbox has places: all are taken from the broker nevertheless, up to its own limit, and none is lost.
    publish(&broker.url, &rows(0..500)).await;
    let unanswered = source.parcel().await;
    let mut times = synced(unanswered).0;
    while times.len() < 500 {
        times.extend(source.sync(1).await.0);
    }
    assert_eq!(times, (0..500).collect::<Vec<_>>());
    source.end().await;
}

//! Chamber rows over MQTT: published with `QoS` 1, in order, kept while the broker is away.
//!
//! The client library forgets unacknowledged messages when the broker has lost the session, as a restarted one has. They are taken
//! out of its queue at a disconnection and put back after the next connection; the numbers in the rows make repetitions harmless.

use std::collections::VecDeque;
use std::mem::take;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Outgoing, Packet, QoS};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Rows kept for a broker that is away: an hour.
const ROWS_MAX: usize = 36_000;
/// Messages that wait inside the client library.
const REQUESTS_MAX: usize = 32;
/// From an attempt to connect to the next.
const RETRY: Duration = Duration::from_millis(500);
/// For the last rows at the end.
const FAREWELL: Duration = Duration::from_secs(2);
/// From one look to the next whether those are acknowledged.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Where chamber rows go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Name or address.
    pub host: String,
    /// Usually 1883.
    pub port: u16,
    /// The topic, if the URL has one.
    pub topic: Option<String>,
    /// User and password, if the URL has them.
    pub login: Option<(String, String)>,
}

/// A text that is no broker's URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no broker: write mqtt://host:port, as in mqtt://localhost:1883, with /topic behind it if it is not to be the default"
)]
pub struct ParseTargetError(pub String);

impl std::str::FromStr for Target {
    type Err = ParseTargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseTargetError(text.into());
        let rest = text.strip_prefix("mqtt://").or_else(|| text.strip_prefix("tcp://")).ok_or_else(wrong)?;
        let (authority, topic) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, address) = authority.rsplit_once('@').map_or((None, authority), |(login, address)| (Some(login), address));
        let (host, port) = match address.strip_prefix('[') {
            Some(numeric) => numeric.split_once(']').ok_or_else(wrong)?,
            None => address.split_at(address.find(':').unwrap_or(address.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(number) => number.parse().map_err(|_| wrong())?,
            None if port.is_empty() => 1883,
            None => return Err(wrong()),
        };
        if host.is_empty() || host.contains(['[', ']']) || topic.contains(['+', '#']) {
            return Err(wrong());
        }
        Ok(Self {
            host: host.into(),
            port,
            topic: (!topic.is_empty()).then(|| topic.into()),
            login: login
                .map(|login| login.split_once(':').unwrap_or((login, "")))
                .map(|(user, password)| (user.into(), password.into())),
        })
    }
}

/// Counts of messages since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct MqttCounts {
    /// Acknowledged by the broker.
    pub acknowledged: u64,
    /// Not published because the broker was away for too long.
    pub overrun: u64,
    /// Connections made.
    pub connections: u64,
}

#[derive(Debug, Default)]
struct Shared {
    acknowledged: AtomicU64,
    connections: AtomicU64,
}

/// Publishes in the background.
#[derive(Debug)]
pub struct Publisher {
    rows: mpsc::Sender<String>,
    feeder: JoinHandle<()>,
    driver: JoinHandle<()>,
    shared: Arc<Shared>,
    overrun: u64,
}

impl Publisher {
    /// Connects as `client_id` and publishes to the target's topic, or `topic`. Must be called inside a tokio runtime.
    pub fn start(target: &Target, client_id: &str, topic: &str) -> Self {
        let mut options = MqttOptions::new(client_id, &target.host, target.port);
        options.set_keep_alive(Duration::from_secs(10));
        if let Some((user, password)) = &target.login {
            options.set_credentials(user, password);
        }
        let (client, events) = AsyncClient::new(options, REQUESTS_MAX);
        let (rows, waiting) = mpsc::channel(ROWS_MAX);
        let shared = Arc::new(Shared::default());
        Self {
            rows,
            feeder: tokio::spawn(feed(client, waiting, target.topic.clone().unwrap_or_else(|| topic.into()), Arc::clone(&shared))),
            driver: tokio::spawn(drive(events, Arc::clone(&shared))),
            shared,
            overrun: 0,
        }
    }

    /// Publishes a row, now or when the broker is there.
    pub fn publish(&mut self, row: String) {
        self.overrun += u64::from(self.rows.try_send(row).is_err());
    }

    /// What has happened so far.
    pub fn counts(&self) -> MqttCounts {
        MqttCounts {
            acknowledged: self.shared.acknowledged.load(Ordering::Relaxed),
            overrun: self.overrun,
            connections: self.shared.connections.load(Ordering::Relaxed),
        }
    }

    /// Publishes what is left, if the broker takes it within two seconds, and disconnects.
    pub async fn finish(self) -> MqttCounts {
        let mut counts = self.counts();
        let (feeder, driver) = (self.feeder.abort_handle(), self.driver.abort_handle());
        drop(self.rows);
        let farewell = async { (self.feeder.await, self.driver.await) };
        // A broker that is away gets no farewell.
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
        feeder.abort();
        driver.abort();
        counts.acknowledged = self.shared.acknowledged.load(Ordering::Relaxed);
        counts
    }
}

async fn feed(client: AsyncClient, mut rows: mpsc::Receiver<String>, topic: String, shared: Arc<Shared>) {
    let mut published = 0;
    while let Some(row) = rows.recv().await {
        // Fails only when the driver is gone, at the end.
        if client.publish(&topic, QoS::AtLeastOnce, false, row).await.is_err() {
            return;
        }
        published += 1;
    }
    let acknowledged = async {
        while shared.acknowledged.load(Ordering::Relaxed) < published {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    // What the broker has and has not acknowledged yet is not counted, although it delivers it.
    let _ = tokio::time::timeout(FAREWELL / 2, acknowledged).await;
    let _ = client.disconnect().await;
}

async fn drive(mut events: EventLoop, shared: Arc<Shared>) {
    let mut kept = VecDeque::new();
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                shared.connections.fetch_add(1, Ordering::Relaxed);
                kept.append(&mut events.pending);
                events.pending = take(&mut kept);
            }
            Ok(Event::Incoming(Packet::PubAck(_))) => {
                shared.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Ok(Event::Outgoing(Outgoing::Disconnect)) => return,
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "the broker is away; trying again");
                kept.append(&mut events.pending);
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rumqttc::mqttbytes::v4::{ConnAck, ConnectReturnCode, Packet, PubAck};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A broker's side of one connection, without memory: acknowledges `messages`, hangs up on the next, and gives what it received.
    async fn connection(listener: &TcpListener, messages: usize) -> Vec<String> {
        let (mut socket, _) = listener.accept().await.unwrap();
        let (mut bytes, mut received) = (bytes::BytesMut::new(), Vec::new());
        loop {
            let mut answer = bytes::BytesMut::new();
            match Packet::read(&mut bytes, 10_000) {
                Ok(Packet::Connect(_)) => ConnAck::new(ConnectReturnCode::Success, false).write(&mut answer).unwrap(),
                Ok(Packet::Publish(publish)) => {
                    assert_eq!((&*publish.topic, publish.qos), ("plant/x", QoS::AtLeastOnce));
                    received.push(String::from_utf8(publish.payload.to_vec()).unwrap());
                    if received.len() > messages {
                        return received;
                    }
                    PubAck::new(publish.pkid).write(&mut answer).unwrap()
                }
                Ok(Packet::Disconnect) => return received,
                Ok(_) => 0,
                Err(_) => socket.read_buf(&mut bytes).await.unwrap(),
            };
            socket.write_all(&answer).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_broker_that_forgets_everything_still_gets_every_row_in_order() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target: Target = format!("mqtt://{}", listener.local_addr().unwrap()).parse().unwrap();
        let mut publisher = Publisher::start(&target, "test", "plant/x");
        let rows: Vec<String> = (0..60).map(|row| row.to_string()).collect();
        for row in &rows {
            publisher.publish(row.clone());
        }
        let before = connection(&listener, 5).await;
        assert_eq!(before, rows[..6]);
        let farewell = async {
            // Not before the second connection is there.
            while publisher.counts().connections < 2 {
                tokio::task::yield_now().await;
            }
            publisher.finish().await
        };
        let (after, counts) = tokio::join!(connection(&listener, 1000), farewell);
        assert_eq!(after.last(), rows.last());
        let first: usize = after[0].parse().unwrap();
        assert!(first <= 6);
        assert!(after.iter().eq(&rows[first..]), "{after:?}");
        assert_eq!((counts.overrun, counts.connections), (0, 2));
    }

    #[test]
    fn a_broker_is_read_from_its_url() {
        let target = |text: &str| text.parse::<Target>();
        let plain = Target { host: "localhost".into(), port: 1883, topic: None, login: None };
        assert_eq!(target("mqtt://localhost"), Ok(plain.clone()));
        assert_eq!(target("tcp://localhost:1883/"), Ok(plain));
        let all = target("mqtt://me:p@ss@[::1]:99/plant/lpbf-1/chamber").unwrap();
        assert_eq!((&*all.host, all.port, all.topic.as_deref()), ("::1", 99, Some("plant/lpbf-1/chamber")));
        assert_eq!(all.login, Some(("me".into(), "p@ss".into())));
        for wrong in [
            "localhost:1883",
            "mqtts://localhost",
            "mqtt://",
            "mqtt://localhost:x",
            "mqtt://localhost/a/#",
            "mqtt://:1883",
            "mqtt://][",
            "mqtt://[::1",
            "mqtt://[::1]1883",
            "mqtt://a:b:1",
        ] {
            assert!(target(wrong).is_err(), "{wrong}");
        }
    }
}

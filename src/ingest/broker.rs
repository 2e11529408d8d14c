//! The broker in this process, for a floor that has none.
//!
//! It takes MQTT 3.1.1 from machines and gives it to the MQTT source over the loopback interface, like any other broker. It keeps messages in memory: what
//! machines sent and the source has not stored yet is lost with the process. Where that must not happen, put a broker that writes to disk in its
//! place. The library has no way to stop it: it lives until the process ends.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    thread,
    time::Duration,
};

use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};
use tokio::{net::TcpStream, time};

use super::{MqttUrl, decode::MESSAGE_BYTES_MAX};

/// Bytes of a segment of the log of one subscription filter; old segments go whole.
const SEGMENT_BYTES: usize = 4 * 1024 * 1024;
/// Segments of the log of one subscription filter.
const SEGMENTS_MAX: usize = 8;
/// Machines at a time.
const CONNECTIONS_MAX: usize = 1000;
/// Unacknowledged messages to one subscriber.
const UNACKNOWLEDGED_MAX: usize = 1000;
/// How long the broker may take to listen.
const START_TIME_MAX: Duration = Duration::from_secs(10);

/// A checked embedded broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrokerConfig {
    /// Where machines connect; port 0 takes a free one.
    pub listen: SocketAddr,
}

/// The embedded broker does not run.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The address cannot be had.
    #[error("the embedded broker cannot listen on {0}: {1}; set another `listen`, or the `url` of the broker that is there")]
    Address(SocketAddr, std::io::Error),
    /// It did not begin to listen.
    #[error("the embedded broker does not answer on {0}")]
    NoAnswer(SocketAddr),
}

/// Starts a broker and gives the address to reach it from this machine, once it listens.
///
/// # Errors
/// If the address is taken or not ours, or the broker does not come up.
pub async fn start_broker(config: BrokerConfig) -> Result<MqttUrl, BrokerError> {
    let listen = free_address(config.listen).map_err(|error| BrokerError::Address(config.listen, error))?;
    let thread = thread::Builder::new().name("mqtt-broker".into());
    let serve = move || {
        if let Err(error) = Broker::new(settings(listen)).start() {
            tracing::error!("the embedded broker ended: {error}");
        }
    };
    thread.spawn(serve).map_err(|error| BrokerError::Address(listen, error))?;
    let mut local = listen;
    if listen.ip().is_unspecified() {
        local.set_ip(if listen.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    let answer = async {
        while TcpStream::connect(local).await.is_err() {
            time::sleep(Duration::from_millis(10)).await;
        }
    };
    time::timeout(START_TIME_MAX, answer).await.map_err(|_| BrokerError::NoAnswer(local))?;
    Ok(MqttUrl { host: local.ip().to_string(), port: local.port(), tls: false })
}

/// Tries the address, because the library only logs that it cannot have it.
fn free_address(listen: SocketAddr) -> std::io::Result<SocketAddr> {
    TcpListener::bind(listen)?.local_addr()
}

fn settings(listen: SocketAddr) -> Config {
    let connections = ConnectionSettings {
        connection_timeout_ms: 10_000,
        max_payload_size: MESSAGE_BYTES_MAX,
        max_inflight_count: UNACKNOWLEDGED_MAX,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let server = ServerSettings { name: "mqtt".into(), listen, tls: None, next_connection_delay_ms: 0, connections };
    Config {
        router: RouterConfig {
            max_connections: CONNECTIONS_MAX,
            max_outgoing_packet_count: UNACKNOWLEDGED_MAX as u64,
            max_segment_size: SEGMENT_BYTES,
            max_segment_count: SEGMENTS_MAX,
            ..RouterConfig::default()
        },
        v4: Some(HashMap::from([("mqtt".into(), server)])),
        ..Config::default()
    }
}

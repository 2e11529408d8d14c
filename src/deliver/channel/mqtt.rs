//! An alert as an MQTT message, at QoS 1, not retained.

use std::time::Duration;

use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};

use super::{Alert, Failed};

/// What is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The broker's name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// By which the broker knows us; not that of a source.
    pub client_id: String,
    /// User and password.
    pub credentials: Option<(String, String)>,
    /// Where alerts go.
    pub topic: String,
}

/// Packets that are waiting to go out on one connection: the message and what ends it.
const REQUESTS_MAX: usize = 4;
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Sends one alert.
pub(super) async fn send(settings: &Settings, alert: &Alert) -> Result<(), Failed> {
    let place = || format!("{}:{}", settings.host, settings.port);
    let mut options = MqttOptions::new(&settings.client_id, &settings.host, settings.port);
    options.set_keep_alive(KEEP_ALIVE);
    if let Some((user, password)) = &settings.credentials {
        options.set_credentials(user, password);
    }
    let (client, mut events) = AsyncClient::new(options, REQUESTS_MAX);
    let queued = client.publish(&settings.topic, QoS::AtLeastOnce, false, alert.json.clone()).await;
    queued.map_err(|error| Failed::Retry(format!("{}: {error}", place())))?;
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::PubAck(_))) => break,
            Ok(_) => {}
            Err(error) => return Err(Failed::Retry(format!("{}: {error}", place()))),
        }
    }
    // It has the message; how the connection ends does not matter.
    if client.disconnect().await.is_ok() {
        let _ = events.poll().await;
    }
    Ok(())
}

//! The settings of an MQTT source.

use std::{path::PathBuf, str::FromStr};

use crate::ingest::decode::Routes;

/// A checked MQTT source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MqttConfig {
    /// The broker.
    pub url: MqttUrl,
    /// By which the broker knows the session again; no two clients may share one.
    pub client_id: String,
    /// The version of the protocol.
    pub protocol: MqttProtocol,
    /// User and password.
    pub credentials: Option<(String, String)>,
    /// For `mqtts://`.
    pub tls: MqttTls,
    /// What to listen to; of several that match a topic, the first decodes it.
    pub subscriptions: Vec<Subscription>,
}

/// A broker's address: `mqtt://host:port` or `mqtts://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MqttUrl {
    /// Name or address.
    pub host: String,
    /// 1883, with TLS 8883, unless given.
    pub port: u16,
    /// Whether to speak TLS.
    pub tls: bool,
}

/// Text that is no broker's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not the address of an MQTT broker: write mqtt://host:1883 or mqtts://host:8883 (user and password have keys of their own)"
)]
pub struct MqttUrlError(pub String);

impl FromStr for MqttUrl {
    type Err = MqttUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || MqttUrlError(text.to_owned());
        let (tls, rest) = match text.split_once("://") {
            Some(("mqtt" | "tcp", rest)) => (false, rest),
            Some(("mqtts" | "ssl", rest)) => (true, rest),
            _ => return Err(wrong()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        // The last colon parts the port, unless it stands inside the brackets of an IPv6 address.
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| wrong())?),
            _ => (rest, if tls { 8883 } else { 1883 }),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() || host.contains(['/', '@', '?', ' ', '[', ']']) {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), port, tls })
    }
}

/// The version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MqttProtocol {
    /// 3.1.1, which every broker speaks.
    #[default]
    V4,
    /// 5.
    V5,
}

/// Files for TLS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MqttTls {
    /// The authorities that may sign the broker's certificate (PEM); those of the system without.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate and its key (PEM), for brokers that ask for one; needs `ca_file`.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// A topic filter to listen to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// With `+` and `#`.
    pub topic: String,
    /// The most that the broker promises for it.
    pub qos: Qos,
    /// What the payload means.
    pub codec: MqttCodec,
    /// Where the rows go.
    pub routes: Routes,
}

/// What a message's payload means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MqttCodec {
    /// A row, or an array of rows, in JSON.
    Json,
    /// Sparkplug B: births, deaths and data of edge nodes, who are asked for births that are missed.
    SparkplugB,
}

/// MQTT quality of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Qos {
    /// 0
    AtMostOnce,
    /// 1
    AtLeastOnce,
    /// 2
    ExactlyOnce,
}

impl Subscription {
    /// Whether messages of `topic` belong to it (MQTT 3.1.1, section 4.7; a shared subscription's `$share/group/` does not count).
    pub fn matches(&self, topic: &str) -> bool {
        let shared = self.topic.strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
        let filter = shared.map_or(&*self.topic, |(_, filter)| filter);
        if topic.starts_with('$') && filter.starts_with(['+', '#']) {
            return false;
        }
        let (mut levels, mut wanted) = (topic.split('/'), filter.split('/'));
        loop {
            match (levels.next(), wanted.next()) {
                (_, Some("#")) | (None, None) => return true,
                (Some(_), Some("+")) => {}
                (Some(level), Some(want)) if level == want => {}
                _ => return false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::Stream;

    #[test]
    fn addresses_of_brokers_are_read() {
        let check = |text: &str, expected: Option<(&str, u16, bool)>| {
            let url = text.parse::<MqttUrl>().ok();
            assert_eq!(url.as_ref().map(|url| (&*url.host, url.port, url.tls)), expected, "{text}");
        };
        check("mqtt://localhost", Some(("localhost", 1883, false)));
        check("mqtts://broker.plant:8884/", Some(("broker.plant", 8884, true)));
        check("mqtt://[::1]", Some(("::1", 1883, false)));
        check("mqtt://[::1]:1884", Some(("::1", 1884, false)));
        check("http://localhost", None);
        check("mqtt://", None);
        check("mqtt://user:secret@host", None);
        check("mqtt://host:99999", None);
        check("localhost:1883", None);
    }

    #[test]
    fn filters_match_as_the_standard_says() {
        let check = |filter: &str, topic: &str, expected: bool| {
            let routes = Routes::one(&Arc::new(Stream::new("a", &[], &[]))).unwrap();
            let one = Subscription { topic: filter.into(), qos: Qos::AtLeastOnce, codec: MqttCodec::Json, routes };
            assert_eq!(one.matches(topic), expected, "{filter} {topic}");
        };
        check("plant/+/temp", "plant/a/temp", true);
        check("plant/+/temp", "plant/a/b/temp", false);
        check("plant/#", "plant", true);
        check("plant/#", "plant/a/b", true);
        check("plant/+", "plant", false);
        check("plant/+", "plant/", true);
        check("#", "$SYS/x", false);
        check("+/x", "$SYS/x", false);
        check("$SYS/#", "$SYS/x", true);
        check("$share/g/plant/+", "plant/a", true);
        check("a", "b", false);
    }
}

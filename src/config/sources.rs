//! `[sources.*]`: where rows come from and what the bytes mean.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc};

use super::{
    modbus,
    reader::{At, Section, Value, nearest},
    service::secret,
};
use crate::{
    ingest::{
        BrokerConfig, FileCodec, FileConfig, KafkaConfig, KafkaOptions, KafkaStart, MqttCodec, MqttConfig, MqttProtocol, MqttTls,
        MqttUrl, Qos, SerialCodec, SerialConfig, SerialParity, SerialStopBits, SourceConfig, SourceKind, Subscription,
        decode::Routes,
    },
    model::Stream,
};

/// Where machines find the embedded broker, unless `listen` says otherwise.
const BROKER_LISTEN: &str = "127.0.0.1:1883";

/// `data_dir` unless set; the same as where that section is read.
const DATA_DIR: &str = "/var/lib/qadf-edge";
/// Where positions in files are kept below the data directory, unless `position_file` says otherwise.
const POSITIONS: &str = "sources";

/// A checked source, with the broker it needs in this process.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceEntry {
    /// What to run.
    pub source: SourceConfig,
    /// The embedded broker to start before, whose address then replaces the one in `source`.
    pub broker: Option<BrokerConfig>,
}

#[derive(Clone, Copy)]
enum Kind {
    Serial,
    Mqtt,
    Kafka,
    File,
}

/// Reads all sources.
pub fn read(root: &Section<'_>, streams: &[Arc<Stream>], appliance: &str) -> Vec<SourceEntry> {
    let data_dir = data_dir(root);
    let place = Place { appliance, data_dir };
    root.sections("sources").iter().filter_map(|(name, section)| source(name, section, streams, &place)).collect()
}

/// `[appliance].data_dir`, whose faults are told where that section is read.
fn data_dir(root: &Section<'_>) -> PathBuf {
    let appliance = root.get("appliance").filter(Value::is_table).map(|value| value.plain());
    let named = appliance.as_ref().and_then(|table| table.get("data_dir")).and_then(|value| value.as_str());
    PathBuf::from(named.unwrap_or(DATA_DIR))
}

/// What sources are called after and where they keep things.
struct Place<'a> {
    appliance: &'a str,
    data_dir: PathBuf,
}

fn source(name: &At<String>, section: &Section<'_>, streams: &[Arc<Stream>], place: &Place<'_>) -> Option<SourceEntry> {
    if name.value == "api" {
        section.faults.add(&name.span, "`api` is what rows over HTTP are counted under: give this source another name");
    }
    let kinds = [("serial", Kind::Serial), ("mqtt", Kind::Mqtt), ("kafka", Kind::Kafka), ("file", Kind::File)];
    let kind = section.required("type").and_then(|value| value.choice(&kinds));
    let Some(kind) = kind else {
        section.rest();
        return None;
    };
    let (kind, broker) = match kind {
        Kind::Serial => (SourceKind::Serial(serial(section, streams)?), None),
        Kind::Mqtt => {
            let (mqtt, broker) = mqtt(name, section, streams, place.appliance)?;
            (SourceKind::Mqtt(mqtt), broker)
        }
        Kind::Kafka => (SourceKind::Kafka(kafka(name, section, streams, place.appliance)?), None),
        Kind::File => (SourceKind::File(file(name, section, streams, place)?), None),
    };
    Some(SourceEntry { source: SourceConfig { id: name.value.as_str().into(), kind }, broker })
}

fn serial(section: &Section<'_>, streams: &[Arc<Stream>]) -> Option<SerialConfig> {
    #[derive(Clone, Copy)]
    enum Codec {
        Bridge,
        JsonLines,
        Csv,
        ModbusRtu,
    }
    let device = section.required_string("device");
    let baud = section.integer_or("baud", 115_200, 1..20_000_001) as u32;
    let parities = [("none", SerialParity::None), ("even", SerialParity::Even), ("odd", SerialParity::Odd)];
    let parity = section.choice_or("parity", &parities, SerialParity::None);
    let stop_bits = if section.integer_or("stop_bits", 1, 1..3) == 1 { SerialStopBits::One } else { SerialStopBits::Two };
    let codecs =
        [("bridge", Codec::Bridge), ("json_lines", Codec::JsonLines), ("csv", Codec::Csv), ("modbus_rtu", Codec::ModbusRtu)];
    let codec = section.choice_or("codec", &codecs, Codec::JsonLines);
    let (codec, carried) = match codec {
        Codec::Bridge => {
            let chosen = chosen(section, streams)?;
            (SerialCodec::Bridge { streams: chosen.clone() }, chosen)
        }
        Codec::JsonLines => (SerialCodec::JsonLines, chosen(section, streams)?),
        Codec::Csv => (SerialCodec::Csv { columns: columns(section) }, chosen(section, streams)?),
        Codec::ModbusRtu => {
            let modbus = modbus::read(section, streams)?;
            let carried = modbus.polls.iter().map(|poll| Arc::clone(poll.stream())).collect();
            (SerialCodec::ModbusRtu(modbus), carried)
        }
    };
    let routes = routes(section, &carried)?;
    Some(SerialConfig { device: device?, baud, parity, stop_bits, codec, routes })
}

/// The columns of a CSV source without a header.
fn columns(section: &Section<'_>) -> Option<Vec<String>> {
    section.has("columns").then(|| section.strings("columns").into_iter().map(|name| name.value).collect())
}

fn file(name: &At<String>, section: &Section<'_>, streams: &[Arc<Stream>], place: &Place<'_>) -> Option<FileConfig> {
    let path = section.required_string("path").map(PathBuf::from);
    let follow = section.bool_or("follow", true);
    let is_csv = section.choice_or("codec", &[("json_lines", false), ("csv", true)], false);
    let codec = if is_csv { FileCodec::Csv { columns: columns(section) } } else { FileCodec::JsonLines };
    let kept = place.data_dir.join(POSITIONS).join(format!("{}.json", name.value));
    let position = section.string("position_file").map_or(kept, PathBuf::from);
    let routes = routes(section, &chosen(section, streams)?)?;
    Some(FileConfig { path: path?, codec, follow, position, routes })
}

fn kafka(name: &At<String>, section: &Section<'_>, streams: &[Arc<Stream>], appliance: &str) -> Option<KafkaConfig> {
    let brokers = section.strings("brokers");
    if brokers.is_empty() {
        section.fault_at("brokers", "name at least one broker, as in brokers = [\"localhost:9092\"]");
    }
    for broker in &brokers {
        if broker.value.rsplit_once(':').is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err()) {
            section.faults.add(&broker.span, format!("`{}` is no broker: write host:port", broker.value));
        }
    }
    let topics = if section.has("topic") {
        section.string("topic").into_iter().collect()
    } else {
        section.strings("topics").into_iter().map(|topic| topic.value).collect::<Vec<_>>()
    };
    if topics.is_empty() {
        section.fault(format!("[{}] needs `topic` or `topics`: name what to read", section.path));
    }
    let group = section.string_or("group", &format!("{appliance}-{}", name.value));
    let start =
        section.choice_or("start", &[("earliest", KafkaStart::Earliest), ("latest", KafkaStart::Latest)], KafkaStart::Earliest);
    let options = section.section("options").map_or_else(BTreeMap::new, |table| {
        table.rest().into_iter().filter_map(|(name, value)| Some((name.value, value.string()?))).collect()
    });
    let routes = routes(section, &chosen(section, streams)?)?;
    let brokers: Vec<String> = brokers.into_iter().map(|broker| broker.value).collect();
    (!brokers.is_empty() && !topics.is_empty())
        .then_some(KafkaConfig { options: KafkaOptions { brokers, topics, group, start, options }, routes })
}

/// The streams of a source: `stream`, or `streams` for several (by number in a frame, by name in a row); the only one there is without either.
pub(super) fn chosen(section: &Section<'_>, streams: &[Arc<Stream>]) -> Option<Vec<Arc<Stream>>> {
    if section.has("stream") && section.has("streams") {
        section.fault_at("streams", "`stream` and `streams` exclude each other: keep one");
    }
    let names = if section.has("streams") {
        section.strings("streams")
    } else {
        match (section.get("stream"), streams) {
            (Some(value), _) => vec![At { span: value.span.clone(), value: value.string()? }],
            (None, [only]) => return Some(vec![Arc::clone(only)]),
            (None, _) => {
                section.fault(format!("[{}] needs `stream`: name the stream its rows belong to", section.path));
                return None;
            }
        }
    };
    let found: Vec<_> = names.iter().filter_map(|name| known(section, name, streams)).collect();
    (found.len() == names.len() && !found.is_empty()).then_some(found)
}

fn known(section: &Section<'_>, name: &At<String>, streams: &[Arc<Stream>]) -> Option<Arc<Stream>> {
    let found = streams.iter().find(|stream| *stream.id == *name.value).cloned();
    if found.is_none() {
        let hint = nearest(&name.value, streams.iter().map(|stream| &*stream.id))
            .map_or_else(|| format!("add [streams.{}]", name.value), |near| format!("did you mean `{near}`?"));
        section.faults.add(&name.span, format!("there is no stream `{}`: {hint}", name.value));
    }
    found
}

fn routes(section: &Section<'_>, streams: &[Arc<Stream>]) -> Option<Routes> {
    let routes = match streams {
        [only] => Routes::one(only),
        several => Routes::by_row(several, None),
    };
    routes.map_err(|error| section.fault(error.to_string())).ok()
}

fn mqtt(
    name: &At<String>,
    section: &Section<'_>,
    streams: &[Arc<Stream>],
    appliance: &str,
) -> Option<(MqttConfig, Option<BrokerConfig>)> {
    let broker = broker(section);
    let client_id = section.string_or("client_id", &format!("{appliance}-{}", name.value));
    let protocol = section.choice_or("protocol", &[("3.1.1", MqttProtocol::V4), ("5", MqttProtocol::V5)], MqttProtocol::V4);
    let password = secret(section, "password");
    let credentials = match (section.string("username"), password) {
        (Some(user), password) => Some((user, password.unwrap_or_default())),
        (None, Some(_)) => {
            section.fault_at("password", "a password without `username` is never sent: add `username`");
            None
        }
        (None, None) => None,
    };
    let tls = section.section("tls").map_or_else(MqttTls::default, |tls| {
        let client = match (tls.string("certificate_file"), tls.string("key_file")) {
            (Some(certificate), Some(key)) => Some((PathBuf::from(certificate), PathBuf::from(key))),
            (None, None) => None,
            _ => {
                tls.fault("`certificate_file` and `key_file` belong together: set both or none");
                None
            }
        };
        MqttTls { ca_file: tls.string("ca_file").map(PathBuf::from), client }
    });
    let written = section.required("subscriptions")?.items();
    let subscriptions: Vec<_> = written.iter().filter_map(|value| subscription(value, streams)).collect();
    if written.is_empty() {
        section.fault_at("subscriptions", "a source that subscribes to nothing brings nothing: add { topic = …, stream = … }");
        return None;
    }
    let (url, broker) = broker?;
    Some((MqttConfig { url, client_id, protocol, credentials, tls, subscriptions }, broker))
}

/// The broker outside, or the embedded one.
fn broker(section: &Section<'_>) -> Option<(MqttUrl, Option<BrokerConfig>)> {
    if let Some(text) = section.string("url") {
        if section.has("listen") {
            section.fault_at("listen", "`url` names a broker elsewhere and `listen` starts one here: keep one of them");
        }
        return match text.parse() {
            Ok(url) => Some((url, None)),
            Err(error) => {
                section.fault_at("url", format!("{error}"));
                None
            }
        };
    }
    let text = section.string_or("listen", BROKER_LISTEN);
    let Ok(listen) = text.parse::<SocketAddr>() else {
        section.fault_at("listen", format!("`{text}` is no address: write one such as {BROKER_LISTEN}"));
        section.rest();
        return None;
    };
    let url = MqttUrl { host: listen.ip().to_string(), port: listen.port(), tls: false };
    Some((url, Some(BrokerConfig { listen })))
}

fn subscription(value: &Value<'_>, streams: &[Arc<Stream>]) -> Option<Subscription> {
    let section = value.section()?;
    let topic = section.required_string("topic");
    let qos = match section.integer_or("qos", 1, 0..3) {
        0 => Qos::AtMostOnce,
        1 => Qos::AtLeastOnce,
        _ => Qos::ExactlyOnce,
    };
    let codecs = [("json", MqttCodec::Json), ("sparkplug_b", MqttCodec::SparkplugB)];
    let codec = section.choice_or("codec", &codecs, MqttCodec::Json);
    let routes = routes(&section, &chosen(&section, streams)?)?;
    let topic = topic?;
    if !is_filter(&topic) {
        section.fault_at("topic", format!("`{topic}` is no topic filter: `+` and `#` stand alone between slashes, `#` last"));
    }
    if codec == MqttCodec::SparkplugB && !brings_births(&topic) {
        section.fault_at(
            "topic",
            format!("`{topic}` brings no birth certificates, without which aliases mean nothing: write spBv1.0/GROUP/# or spBv1.0/GROUP/+/NODE/#"),
        );
    }
    Some(Subscription { topic, qos, codec, routes })
}

/// Whether a filter brings Sparkplug B messages of every type: `spBv1.0/GROUP/+/…`, or wider.
fn brings_births(filter: &str) -> bool {
    let levels: Vec<&str> = filter.split('/').collect();
    matches!(levels[..], ["#"] | ["spBv1.0" | "+", "#"] | ["spBv1.0" | "+", _, "#"] | ["spBv1.0" | "+", _, "+", ..])
}

/// MQTT 3.1.1, section 4.7.1.
fn is_filter(topic: &str) -> bool {
    let levels: Vec<&str> = topic.split('/').collect();
    !topic.is_empty()
        && levels.iter().enumerate().all(|(index, level)| match *level {
            "#" => index + 1 == levels.len(),
            "+" => true,
            level => !level.contains(['+', '#', '\0']),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn read(sources: &str) -> Result<Vec<SourceEntry>, Vec<String>> {
        let text = format!(
            "[appliance]\nid = \"lpbf-07\"\ndata_dir = \"/data\"\n[streams.melt]\nsignals = {{ intensity = \"V\" }}\n{sources}"
        );
        match parse(&text) {
            Ok(config) => Ok(config.sources),
            Err(faults) => Err(faults.iter().map(ToString::to_string).collect()),
        }
    }

    #[test]
    fn a_file_is_followed_and_its_position_kept_with_the_data() {
        let sources = read("[sources.log]\ntype = \"file\"\npath = \"/var/log/melt\"").unwrap();
        let SourceKind::File(file) = &sources[0].source.kind else { panic!("a file") };
        assert_eq!(
            (file.follow, &file.codec, &file.position),
            (true, &FileCodec::JsonLines, &PathBuf::from("/data/sources/log.json"))
        );
        let sources = read(
            "[sources.log]\ntype = \"file\"\npath = \"a\"\nfollow = false\ncodec = \"csv\"\ncolumns = [\"time\"]\nposition_file = \"b\"",
        );
        let SourceKind::File(file) = &sources.unwrap()[0].source.kind.clone() else { panic!("a file") };
        let columns = Some(vec!["time".to_owned()]);
        assert_eq!((file.follow, &file.codec, &file.position), (false, &FileCodec::Csv { columns }, &PathBuf::from("b")));
        assert!(read("[sources.log]\ntype = \"file\"").unwrap_err()[0].contains("`path`"));
    }

    #[test]
    fn kafka_needs_brokers_and_topics_and_has_a_group_of_its_own() {
        let sources = read(
            "[sources.plant]\ntype = \"kafka\"\nbrokers = [\"localhost:9092\"]\ntopic = \"rows\"\noptions = { \"security.protocol\" = \"ssl\" }",
        );
        let SourceKind::Kafka(kafka) = &sources.unwrap()[0].source.kind.clone() else { panic!("Kafka") };
        assert_eq!((&*kafka.options.group, kafka.options.start), ("lpbf-07-plant", KafkaStart::Earliest));
        assert_eq!((&*kafka.options.topics, kafka.options.options.len()), (&["rows".to_owned()][..], 1));
        let faults = read("[sources.plant]\ntype = \"kafka\"\nbrokers = [\"localhost\"]").unwrap_err();
        assert!(
            faults.iter().any(|fault| fault.contains("host:port")) && faults.iter().any(|fault| fault.contains("`topic`")),
            "{faults:?}"
        );
    }

    #[test]
    fn sparkplug_needs_a_filter_that_brings_births() {
        let subscription = |topic: &str| {
            let text = "type = \"mqtt\"\nurl = \"mqtt://localhost\"\nsubscriptions = [ { codec = \"sparkplug_b\", topic";
            read(&format!("[sources.floor]\n{text} = \"{topic}\" }} ]"))
        };
        for topic in ["spBv1.0/#", "spBv1.0/plant/#", "+/plant/+/gateway/#", "spBv1.0/plant/+/gateway/#"] {
            let sources = subscription(topic).unwrap();
            let SourceKind::Mqtt(mqtt) = &sources[0].source.kind else { panic!("MQTT") };
            assert_eq!(mqtt.subscriptions[0].codec, MqttCodec::SparkplugB);
        }
        for topic in ["spBv1.0/plant/DDATA/#", "plant/#", "spBv1.0/plant/NDATA/gateway"] {
            let faults = subscription(topic).unwrap_err();
            assert!(faults[0].contains("brings no birth certificates"), "{topic}: {faults:?}");
        }
    }
}

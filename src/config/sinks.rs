//! `[sinks.*]`: where rows and results go.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use super::{
    reader::{At, Section},
    service::secret,
};
use crate::deliver::{Delivery, ReadLimits, Settings, file, kafka, mongo, redis};

const HOUR_NS: i64 = 3_600_000_000_000;

/// A sink as configured.
#[derive(Debug, Clone, PartialEq)]
pub struct SinkConfig {
    /// Its name.
    pub id: Arc<str>,
    /// Which far end.
    pub settings: Settings,
    /// How much goes at a time.
    pub limits: ReadLimits,
}

impl SinkConfig {
    /// The word in `type`.
    pub const fn kind(&self) -> &'static str {
        match self.settings {
            Settings::Redis(_) => "redis",
            Settings::Mongo(_) => "mongodb",
            Settings::Kafka(_) => "kafka",
            Settings::File(_) => "file",
            Settings::Console => "console",
        }
    }

    /// Whether both write to one file. Each would cut off what the other wrote.
    fn writes_to_file_of(&self, other: &Self) -> bool {
        matches!((&self.settings, &other.settings), (Settings::File(own), Settings::File(others)) if own.path == others.path)
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Redis,
    Mongo,
    Kafka,
    File,
    Console,
}

/// Reads all sinks.
pub fn read(root: &Section<'_>) -> Vec<SinkConfig> {
    let mut sinks: Vec<SinkConfig> = Vec::new();
    for (name, section) in &root.sections("sinks") {
        let Some(sink) = sink(name, section) else { continue };
        if let Some(other) = sinks.iter().find(|other| other.writes_to_file_of(&sink)) {
            section.fault_at("path", format!("sink `{}` writes to this file already: each needs its own", other.id));
        }
        sinks.push(sink);
    }
    sinks
}

fn sink(name: &At<String>, section: &Section<'_>) -> Option<SinkConfig> {
    let kinds = [
        ("redis", Kind::Redis),
        ("mongodb", Kind::Mongo),
        ("kafka", Kind::Kafka),
        ("file", Kind::File),
        ("console", Kind::Console),
    ];
    let mut limits = ReadLimits { rows: 10_000, results: 1_000 };
    let Some(kind) = section.required("type").and_then(|value| value.choice(&kinds)) else {
        section.rest();
        return None;
    };
    let settings = match kind {
        Kind::Redis => redis(section)?,
        Kind::Mongo => mongo(section, &mut limits)?,
        Kind::Kafka => kafka(section)?,
        Kind::File => {
            let path = PathBuf::from(section.required_string("path")?);
            Settings::File(file::Settings { path, rotate_bytes: section.get("rotate").and_then(|value| value.bytes()) })
        }
        Kind::Console => Settings::Console,
    };
    Some(SinkConfig { id: name.value.as_str().into(), settings, limits })
}

/// The address in `url` with the password from `password_file` or `password_env` in it.
fn url(section: &Section<'_>, default: &str, schemes: &[&str]) -> Option<String> {
    let url = section.string_or("url", default);
    let user = section.string("username");
    let password = secret(section, "password");
    if !schemes.iter().any(|scheme| url.starts_with(scheme)) {
        section.fault_at("url", format!("`{url}` is not understood: start it with {}", schemes.join(" or ")));
        return None;
    }
    let Some(password) = password else { return Some(url) };
    let (scheme, rest) = url.split_once("://")?;
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    let user = user.unwrap_or_default();
    Some(format!("{scheme}://{}:{}@{host}", percent(&user), percent(&password)))
}

fn percent(text: &str) -> String {
    text.bytes()
        .map(|byte| {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

fn redis(section: &Section<'_>) -> Option<Settings> {
    let ttl_ns = section.duration_or("ttl", HOUR_NS);
    if ttl_ns <= 0 {
        section.fault_at("ttl", "`ttl` is not positive: write how long recent rows stay, such as \"1h\"");
    }
    let recent_rows = section.integer_or("recent_rows", 10_000, 1..10_000_001) as usize;
    let url = url(section, "redis://localhost:6379/0", &["redis://", "rediss://", "unix://"])?;
    Some(Settings::Redis(redis::Settings { url, ttl: Duration::from_nanos(ttl_ns.max(1) as u64), recent_rows }))
}

fn mongo(section: &Section<'_>, limits: &mut ReadLimits) -> Option<Settings> {
    let batch_rows = section.integer_or("batch_rows", 1000, 1..100_001) as usize;
    limits.rows = limits.rows.max(batch_rows);
    let (database, collection) = (section.string_or("database", "am_qadf"), section.string_or("collection", "stream_data"));
    let url = url(section, "mongodb://localhost:27017", &["mongodb://", "mongodb+srv://"])?;
    Some(Settings::Mongo(mongo::Settings { url, database, collection, batch_rows }))
}

fn kafka(section: &Section<'_>) -> Option<Settings> {
    let deliveries =
        [("at_most_once", Delivery::AtMostOnce), ("at_least_once", Delivery::AtLeastOnce), ("exactly_once", Delivery::ExactlyOnce)];
    let delivery = section.choice_or("delivery", &deliveries, Delivery::ExactlyOnce);
    let brokers: Vec<String> = if section.has("brokers") {
        section.strings("brokers").into_iter().map(|broker| broker.value).collect()
    } else {
        vec!["localhost:9092".into()]
    };
    for broker in section.strings("brokers") {
        if broker.value.rsplit_once(':').is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err()) {
            section.faults.add(&broker.span, format!("`{}` is no broker: write host:port", broker.value));
        }
    }
    if brokers.is_empty() {
        section.fault_at("brokers", "name at least one broker as host:port");
        return None;
    }
    let topic = section.string_or("topic", "am_qadf_monitoring");
    let options = section.section("options").map_or_else(BTreeMap::new, |table| {
        table.rest().into_iter().filter_map(|(name, value)| Some((name.value, value.string()?))).collect()
    });
    Some(Settings::Kafka(kafka::Settings { brokers, topic, delivery, options }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_rows_stay_in_redis_for_an_hour_unless_it_says_otherwise() {
        let ttl = |more: &str| {
            let text = format!("[streams.s]\nsignals = {{ v = \"\" }}\n[sinks.recent]\ntype = \"redis\"\n{more}");
            match &crate::config::parse(&text).expect("it is a configuration").sinks[0].settings {
                Settings::Redis(settings) => settings.ttl,
                _ => panic!("it is a Redis sink"),
            }
        };
        assert_eq!(ttl(""), Duration::from_hours(1));
        assert_eq!(ttl("ttl = \"90s\"\n"), Duration::from_secs(90));
    }

    #[test]
    fn two_sinks_do_not_share_a_file_and_an_empty_text_is_no_configuration() {
        let sink = |name: &str, path: &str| format!("[sinks.{name}]\ntype = \"file\"\npath = \"{path}\"\n");
        let faults = |text: &str| match crate::config::parse(text) {
            Ok(_) => String::new(),
            Err(faults) => faults.iter().map(ToString::to_string).collect(),
        };
        let both =
            |second: &str| faults(&format!("[streams.s]\nsignals = {{ v = \"\" }}\n{}{}", sink("a", "one"), sink("b", second)));
        assert_eq!(both("two"), "");
        assert!(both("one").contains("`a` writes to this file already"), "{}", both("one"));
        assert!(faults("# being written\n").contains("nothing is configured"));
    }
}

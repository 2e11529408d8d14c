//! The tables about the appliance itself: `[appliance] [store] [checkpoints] [alerts] [api] [metrics]`.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use super::{
    reader::{Section, Value},
    words::{SEVERITIES, not_negative, positive},
};
use crate::{
    api::tls::TlsFiles,
    deliver::channel::{Far, email, mqtt, webhook},
    ingest::MqttUrl,
    model::Severity,
    quality::{
        alert::AlertConfig,
        figures::{Figure, FigureLimit},
    },
};

const SECOND_NS: i64 = 1_000_000_000;

/// `[appliance]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplianceConfig {
    /// In topics, documents and metric labels.
    pub id: Arc<str>,
    /// Where the store is.
    pub data_dir: PathBuf,
}

/// `[store]` and `[checkpoints]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreSection {
    /// Disk budget.
    pub bytes_max: u64,
    /// How long rows are kept, counted from arrival.
    pub age_max_ns: i64,
    /// What goes when the budget is used up.
    pub shed_newest: bool,
    /// Between two checkpoints of the engine.
    pub checkpoint_interval: Duration,
}

/// An alert channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelConfig {
    /// By which the store knows how far it has come.
    pub id: Arc<str>,
    /// Where alerts go.
    pub far: Far,
    /// Less severe alerts are not sent.
    pub min_severity: Severity,
}

/// `[alerts]`
#[derive(Debug, Clone, PartialEq)]
pub struct AlertsSection {
    /// Cooldown, and when an alert that nobody acknowledged is raised again, one severity higher.
    pub book: AlertConfig,
    /// Where they go besides the outbox.
    pub channels: Vec<ChannelConfig>,
    /// Limits on the appliance's own figures.
    pub figures: Vec<FigureLimit>,
}

impl Default for AlertsSection {
    fn default() -> Self {
        Self { book: AlertConfig::default(), channels: Vec::new(), figures: FigureLimit::defaults() }
    }
}

/// `[api]` and `[metrics]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSection {
    /// The API's address.
    pub api: SocketAddr,
    /// The metrics page's address.
    pub metrics: SocketAddr,
    /// The bearer token; needed off loopback.
    pub token: Option<Arc<str>>,
    /// Certificate and key; needed off loopback.
    pub tls: Option<TlsFiles>,
}

/// Reads `[appliance]`.
pub fn appliance(root: &Section<'_>) -> ApplianceConfig {
    let defaults = ApplianceConfig { id: "appliance".into(), data_dir: PathBuf::from("/var/lib/qadf-edge") };
    let Some(section) = root.section("appliance") else { return defaults };
    let id = section.string_or("id", &defaults.id);
    if id.is_empty() || !id.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
        section.fault_at("id", "`appliance.id` goes into topics and keys: use letters, digits, `-`, `_` and `.`");
    }
    let data_dir = section.string("data_dir").map_or(defaults.data_dir, PathBuf::from);
    ApplianceConfig { id: id.as_str().into(), data_dir }
}

/// Reads `[store]` and `[checkpoints]`.
pub fn store(root: &Section<'_>) -> StoreSection {
    let mut store = StoreSection {
        bytes_max: 20_000_000_000,
        age_max_ns: 30 * 86_400 * SECOND_NS,
        shed_newest: false,
        checkpoint_interval: Duration::from_secs(1),
    };
    if let Some(section) = root.section("store") {
        store.bytes_max = section.bytes_or("max_bytes", store.bytes_max);
        if store.bytes_max < 16_000_000 {
            section.fault_at("max_bytes", "`store.max_bytes` is too small to work with: give it at least 16MB");
        }
        store.age_max_ns = not_negative(&section, "max_age", store.age_max_ns);
        store.shed_newest = section.choice_or("when_full", &[("shed_oldest", false), ("shed_newest", true)], false);
    }
    if let Some(section) = root.section("checkpoints") {
        let ns = section.duration_or("interval", SECOND_NS);
        if !(10_000_000..=3600 * SECOND_NS).contains(&ns) {
            section.fault_at("interval", "`checkpoints.interval` must be between 10ms and 1h");
        }
        store.checkpoint_interval = Duration::from_nanos(ns.clamp(10_000_000, 3600 * SECOND_NS) as u64);
    }
    store
}

/// Reads `[alerts]`.
pub fn alerts(root: &Section<'_>, appliance: &str, sinks: &[Arc<str>]) -> AlertsSection {
    let mut alerts = AlertsSection::default();
    let Some(section) = root.section("alerts") else { return alerts };
    alerts.book.cooldown_ns = not_negative(&section, "cooldown", alerts.book.cooldown_ns);
    alerts.book.escalate_after_ns = section.has("escalate_after").then(|| positive(&section, "escalate_after")).flatten();
    let channels = section.get("channels").map_or_else(Vec::new, |value| value.items());
    let mut used = sinks.iter().map(ToString::to_string).collect();
    alerts.channels = channels.iter().filter_map(|value| channel(value, appliance, &mut used)).collect();
    if let Some(figures) = section.get("figures") {
        alerts.figures = figures.items().iter().filter_map(figure_limit).collect();
    }
    alerts
}

fn figure_limit(value: &Value<'_>) -> Option<FigureLimit> {
    let section = value.section()?;
    let figure = section.required("figure")?.choice(&Figure::ALL)?;
    let number = |key: &str| section.get(key).and_then(|value| value.number());
    let (above, below) = (number("above"), number("below"));
    match (above, below) {
        (None, None) => section.fault("a limit on a figure needs `above`, `below`, or both"),
        (Some(above), Some(below)) if below >= above => {
            section.fault_at("below", format!("every value is below {below} or above {above}: `below` must be less than `above`"));
        }
        _ => {}
    }
    let lasting_ns = not_negative(&section, "lasting", FigureLimit::LASTING_NS);
    let severity = section.choice_or("severity", &SEVERITIES, Severity::Medium);
    Some(FigureLimit { figure, above, below, lasting_ns, severity })
}

fn channel(value: &Value<'_>, appliance: &str, used: &mut BTreeSet<String>) -> Option<ChannelConfig> {
    #[derive(Clone, Copy)]
    enum Kind {
        Webhook,
        Mqtt,
        Email,
    }
    let section = value.section()?;
    let kind = section.required("type")?.choice(&[("webhook", Kind::Webhook), ("mqtt", Kind::Mqtt), ("email", Kind::Email)])?;
    let min_severity = section.choice_or("min_severity", &SEVERITIES, Severity::High);
    let name = section.string("name");
    let far = match kind {
        Kind::Webhook => webhook(&section)?,
        Kind::Mqtt => mqtt(&section, appliance)?,
        Kind::Email => email(&section)?,
    };
    let mut id = name.clone().unwrap_or_else(|| format!("alerts-{}", far.kind()));
    let first = id.clone();
    for number in 2.. {
        if used.insert(id.clone()) {
            break;
        }
        if name.is_some() {
            section.fault_at("name", format!("`{first}` is used twice: give each channel and sink its own name"));
            break;
        }
        id = format!("{first}-{number}");
    }
    Some(ChannelConfig { id: id.as_str().into(), far, min_severity })
}

fn webhook(section: &Section<'_>) -> Option<Far> {
    let url = section.required_string("url")?;
    if !url.starts_with("http://") && !url.starts_with("https://") {
        section.fault_at("url", format!("`{url}` is no web address: start it with http:// or https://"));
    }
    Some(Far::Webhook(webhook::Settings { url }))
}

fn mqtt(section: &Section<'_>, appliance: &str) -> Option<Far> {
    let (address, topic) = (section.required_string("url")?, section.required_string("topic")?);
    let client_id = section.string_or("client_id", &format!("{appliance}-alerts"));
    let password = secret(section, "password").unwrap_or_default();
    let credentials = section.string("username").map(|user| (user, password));
    if topic.is_empty() || topic.contains(['+', '#']) {
        section.fault_at("topic", format!("`{topic}` is no topic to publish to: leave out `+` and `#`"));
    }
    match address.parse::<MqttUrl>() {
        Ok(MqttUrl { tls: true, .. }) => {
            section.fault_at("url", "alerts go over plain MQTT: write mqtt://, or use a webhook with https://");
            None
        }
        Ok(MqttUrl { host, port, .. }) => Some(Far::Mqtt(mqtt::Settings { host, port, client_id, credentials, topic })),
        Err(error) => {
            section.fault_at("url", error.to_string());
            None
        }
    }
}

fn email(section: &Section<'_>) -> Option<Far> {
    let (server, from) = (section.required_string("server")?, section.required_string("from")?);
    let to: Vec<String> = section.strings("to").into_iter().map(|to| to.value).collect();
    let is_address = |text: &str| text.contains('@') && !text.contains(|c: char| c.is_whitespace() || "<>".contains(c));
    if !is_address(&from) {
        section.fault_at("from", format!("`{from}` is no mail address"));
    }
    if to.is_empty() || to.iter().any(|to| !is_address(to)) {
        section.fault_at("to", "`to` is a list of at least one mail address");
    }
    if server.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
        section.fault_at("server", format!("`{server}` is no mail server: write host:port, such as mail.example:25"));
    }
    Some(Far::Email(email::Settings { server, from, to }))
}

/// Reads `[api]` and `[metrics]`.
pub fn http(root: &Section<'_>) -> HttpSection {
    let api = root.section("api");
    let metrics = root.section("metrics");
    let token = api.as_ref().and_then(|section| secret(section, "token"));
    let listen = |section: Option<&Section<'_>>, port| {
        let default = SocketAddr::from(([127, 0, 0, 1], port));
        section.map_or(default, |section| address(section, default))
    };
    let http = HttpSection {
        api: listen(api.as_ref(), 8080),
        metrics: listen(metrics.as_ref(), 9090),
        token: token.map(Into::into),
        tls: api.as_ref().and_then(tls),
    };
    if let Some(section) = &api
        && !http.api.ip().is_loopback()
    {
        if http.token.is_none() {
            section.fault_at("listen", "off loopback the API needs a token: set `token_file`, or listen on 127.0.0.1");
        }
        if !section.has("tls") {
            let advice = "set `tls = { cert_file = ..., key_file = ... }`, or listen on 127.0.0.1";
            section.fault_at("listen", format!("off loopback the API needs TLS: {advice}"));
        }
    }
    http
}

/// Certificate and key, if they can be used.
fn tls(api: &Section<'_>) -> Option<TlsFiles> {
    let section = api.section("tls")?;
    let file = |key| section.required_string(key).map(PathBuf::from);
    let (cert_file, key_file) = (file("cert_file"), file("key_file"));
    section.finish();
    let files = TlsFiles { cert_file: cert_file?, key_file: key_file? };
    match files.acceptor() {
        Ok(_) => Some(files),
        Err(why) => {
            api.fault_at("tls", why);
            None
        }
    }
}

fn address(section: &Section<'_>, default: SocketAddr) -> SocketAddr {
    let Some(text) = section.string("listen") else { return default };
    match text.parse().ok().or_else(|| text.to_socket_addrs().ok()?.next()) {
        Some(address) => address,
        None => {
            section.fault_at("listen", format!("`{text}` is no address: write host:port, such as 127.0.0.1:{}", default.port()));
            default
        }
    }
}

/// A secret from `{key}_file`, `{key}_env` or, plainly, `key`.
pub fn secret(section: &Section<'_>, key: &str) -> Option<String> {
    let (file_key, env_key) = (format!("{key}_file"), format!("{key}_env"));
    let plain = section.string(key);
    let file = section.string(&file_key);
    let env = section.string(&env_key);
    if let Some(path) = file {
        return match std::fs::read_to_string(&path) {
            Ok(text) => Some(text.trim_end_matches(['\r', '\n']).to_owned()),
            Err(error) => {
                section.fault_at(&file_key, format!("cannot read the secret in {path}: {error}"));
                None
            }
        };
    }
    if let Some(name) = env {
        let found = std::env::var(&name).ok();
        if found.is_none() {
            section.fault_at(&env_key, format!("the environment has no {name}: set it, or use `{file_key}`"));
        }
        return found;
    }
    plain
}

//! Sparkplug B (version 3.0 of the specification): metrics that edge nodes publish, into rows.
//!
//! Topics are `spBv1.0/GROUP/TYPE/NODE[/DEVICE]`. A birth certificate (NBIRTH, DBIRTH) names a node's metrics, their types and aliases; data (NDATA,
//! DDATA) may use the aliases alone. Births carry values too, and make rows like data.
//!
//! The metrics of a message with the same time are one row. A metric belongs to the signal, tag, axis or layer of its name, or of its name with
//! everything that is no letter, digit or `_` as `_` (`Chamber/Oxygen` → `Chamber_Oxygen`). Others are skipped: nodes publish many that are no
//! measurement. The tags `edge_node` and `edge_device`, where a stream has them and no metric is called so, say where a row comes from.
//! Of several streams, the one called as the device, or without a device as the node, is meant.
//!
//! A message is numbered by its node from 0 to 255 and round; a number that does not follow is a [`Notice`], for the messages between are lost.
//! An alias that is not known is a reject, and a [`Notice`] that the node should be asked to be born again.

use std::{borrow::Cow, mem, sync::Arc};

use rustc_hash::FxHashMap;

use super::{
    Context, Decoded, MESSAGE_BYTES_MAX, Reason, Routes, clip,
    columns::{Columns, Field, RowWriter},
    protobuf::{Content, Fields},
};

/// Nodes that are known at a time.
const NODES_MAX: usize = 4096;
/// Metrics of a node that are known.
const METRICS_MAX: usize = 65_536;
/// Notices that wait to be fetched.
const NOTICES_MAX: usize = 1024;
/// Messages of a node that make no sense, until it is asked again to be born.
const ASK_EVERY: u32 = 64;

/// Something to be told or done besides rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// To be told.
    Told(String),
    /// The node whose command topic this is should be asked for its birth certificate ([`rebirth_request`]).
    Rebirth {
        /// Where the request goes.
        topic: String,
    },
}

/// Decodes Sparkplug B messages.
#[derive(Debug, Clone)]
pub struct Sparkplug {
    routes: Routes,
    nodes: FxHashMap<String, Node>,
    notices: Vec<Notice>,
}

/// What is known of an edge node.
#[derive(Debug, Clone, Default)]
struct Node {
    /// From birth certificates, by alias.
    aliases: FxHashMap<u64, Known>,
    /// Likewise, by device and name.
    datatypes: FxHashMap<(String, String), u64>,
    /// The number of the last message.
    seq: Option<u64>,
    /// The number of the session, which a death certificate repeats.
    session: Option<u64>,
    /// Messages since it was asked to be born again.
    senseless: u32,
}

#[derive(Debug, Clone)]
struct Known {
    name: Arc<str>,
    datatype: u64,
}

/// Where a message comes from.
#[derive(Debug, Clone, Copy)]
struct Topic<'a> {
    group: &'a str,
    kind: &'a str,
    node: &'a str,
    device: Option<&'a str>,
}

/// The fields of a metric that matter here.
#[derive(Debug, Clone, Copy, Default)]
struct Metric<'a> {
    name: Option<&'a str>,
    alias: Option<u64>,
    time_ms: Option<u64>,
    datatype: u64,
    value: Option<Raw<'a>>,
}

/// A value as sent.
#[derive(Debug, Clone, Copy)]
enum Raw<'a> {
    Int(u64),
    Real(f64),
    Text(&'a str),
    /// A data set, template, array, …
    Other,
}

/// The fields of a message that matter here.
struct Payload<'a> {
    time_ms: Option<u64>,
    seq: Option<u64>,
    metrics: Vec<Metric<'a>>,
}

/// A metric whose meaning is known.
struct Meant<'a> {
    name: Cow<'a, str>,
    datatype: u64,
    time_ms: Option<u64>,
    value: Option<Raw<'a>>,
}

/// The payload that asks a node for its birth certificate: the metric `Node Control/Rebirth` with the value true.
pub fn rebirth_request() -> Vec<u8> {
    const NAME: &[u8] = b"Node Control/Rebirth";
    let mut metric = vec![0x0a, NAME.len() as u8];
    metric.extend_from_slice(NAME);
    // Datatype 11 = Boolean, boolean_value = true.
    metric.extend_from_slice(&[0x20, 11, 0x70, 1]);
    [&[0x12, metric.len() as u8][..], &metric].concat()
}

impl Sparkplug {
    /// A decoder for rows of `routes`.
    pub fn new(routes: Routes) -> Self {
        Self { routes, nodes: FxHashMap::default(), notices: Vec::new() }
    }

    /// What is to be told or done since the last call.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        mem::take(&mut self.notices)
    }

    /// Decodes one message.
    pub fn message(&mut self, topic: &str, bytes: &[u8], context: &Context, out: &mut Decoded) {
        if bytes.len() > MESSAGE_BYTES_MAX {
            let reason = format!("a message of {} bytes is longer than {MESSAGE_BYTES_MAX}", bytes.len());
            return out.reject(context, reason.into(), bytes);
        }
        let taken = Topic::parse(topic).and_then(|topic| self.take(topic, bytes, context, out));
        if let Err(reason) = taken {
            out.reject(context, reason, bytes);
        }
    }

    fn take(&mut self, topic: Topic<'_>, bytes: &[u8], context: &Context, out: &mut Decoded) -> Result<(), Reason> {
        if matches!(topic.kind, "NCMD" | "DCMD" | "STATE") {
            return Ok(());
        }
        let payload = Payload::parse(bytes)?;
        let node = self.known_node(topic)?;
        match topic.kind {
            "NDEATH" => {
                self.death(&node, &payload);
                return Ok(());
            }
            "DDEATH" => {
                self.count(&node, payload.seq);
                let device = topic.device.unwrap_or_default();
                self.notify(Notice::Told(format!("device `{}` of edge node `{}` went offline", clip(device), clip(topic.node))));
                return Ok(());
            }
            "NBIRTH" => self.node_birth(&node, &payload),
            _ => self.count(&node, payload.seq),
        }
        if matches!(topic.kind, "NBIRTH" | "DBIRTH") {
            self.birth(&node, topic, &payload);
        }
        match self.meanings(&node, topic, &payload) {
            Ok(metrics) => self.rows(topic, payload.time_ms, &metrics, bytes, context, out),
            Err(reason) => {
                self.ask_for_birth(&node, topic);
                Err(reason)
            }
        }
    }

    /// The key of a node, which is known from now on.
    fn known_node(&mut self, topic: Topic<'_>) -> Result<String, Reason> {
        let key = format!("{}/{}", topic.group, topic.node);
        if !self.nodes.contains_key(&key) {
            if self.nodes.len() == NODES_MAX {
                return Err(format!("more than {NODES_MAX} edge nodes").into());
            }
            self.nodes.insert(key.clone(), Node::default());
        }
        Ok(key)
    }

    fn notify(&mut self, notice: Notice) {
        if self.notices.len() < NOTICES_MAX {
            self.notices.push(notice);
        }
    }

    /// Looks whether a message's number follows the last one.
    fn count(&mut self, key: &str, seq: Option<u64>) {
        let Some(node) = self.nodes.get_mut(key) else { return };
        let Some(seq) = seq else { return };
        let expected = node.seq.map(|last| (last + 1) & 0xff);
        node.seq = Some(seq & 0xff);
        if let Some(expected) = expected
            && expected != seq
        {
            let text = format!("edge node `{}`: message {seq} came where {expected} was due: what was between is lost", clip(key));
            self.notify(Notice::Told(text));
        }
    }

    fn node_birth(&mut self, key: &str, payload: &Payload<'_>) {
        let session = payload.session();
        if let Some(node) = self.nodes.get_mut(key) {
            *node = Node { seq: payload.seq, session, ..Node::default() };
        }
    }

    fn death(&mut self, key: &str, payload: &Payload<'_>) {
        let Some(node) = self.nodes.get_mut(key) else { return };
        // The will of an earlier session may come after the birth of the next.
        if node.session.is_none() || node.session == payload.session() {
            node.seq = None;
            self.notify(Notice::Told(format!("edge node `{}` went offline", clip(key))));
        }
    }

    /// Learns names, types and aliases.
    fn birth(&mut self, key: &str, topic: Topic<'_>, payload: &Payload<'_>) {
        let Some(node) = self.nodes.get_mut(key) else { return };
        node.senseless = 0;
        for metric in &payload.metrics {
            let Some(name) = metric.name else { continue };
            if let Some(alias) = metric.alias
                && (node.aliases.len() < METRICS_MAX || node.aliases.contains_key(&alias))
            {
                node.aliases.insert(alias, Known { name: name.into(), datatype: metric.datatype });
            }
            if node.datatypes.len() < METRICS_MAX {
                node.datatypes.insert((topic.device.unwrap_or_default().to_owned(), name.to_owned()), metric.datatype);
            }
        }
    }

    fn ask_for_birth(&mut self, key: &str, topic: Topic<'_>) {
        let Some(node) = self.nodes.get_mut(key) else { return };
        let due = node.senseless.is_multiple_of(ASK_EVERY);
        node.senseless = node.senseless.wrapping_add(1);
        if due {
            self.notify(Notice::Rebirth { topic: format!("spBv1.0/{}/NCMD/{}", topic.group, topic.node) });
        }
    }

    /// The metrics with their names and types.
    fn meanings<'a>(&self, key: &str, topic: Topic<'_>, payload: &Payload<'a>) -> Result<Vec<Meant<'a>>, Reason> {
        let node = self.nodes.get(key).ok_or("the edge node is not known")?;
        let device = topic.device.unwrap_or_default();
        let meaning = |metric: &Metric<'a>| {
            let (name, datatype) = match (metric.name, metric.alias) {
                (Some(name), _) => {
                    let born = || node.datatypes.get(&(device.to_owned(), name.to_owned())).copied().unwrap_or(0);
                    (Cow::Borrowed(name), if metric.datatype == 0 { born() } else { metric.datatype })
                }
                (None, Some(alias)) => {
                    let known = node.aliases.get(&alias);
                    let known =
                        known.ok_or_else(|| format!("alias {alias} is not known: its node's birth certificate has not come"))?;
                    (Cow::Owned(known.name.to_string()), if metric.datatype == 0 { known.datatype } else { metric.datatype })
                }
                (None, None) => return Err("a metric has neither name nor alias".into()),
            };
            Ok(Meant { name, datatype, time_ms: metric.time_ms.or(payload.time_ms), value: metric.value })
        };
        payload.metrics.iter().map(meaning).collect()
    }

    /// A row for each time.
    fn rows(
        &self,
        topic: Topic<'_>,
        time_ms: Option<u64>,
        metrics: &[Meant<'_>],
        bytes: &[u8],
        context: &Context,
        out: &mut Decoded,
    ) -> Result<(), Reason> {
        let index = match self.routes.default() {
            Ok(index) => index,
            Err(_) => self.routes.named(topic.device.unwrap_or(topic.node))?,
        };
        let columns = self.routes.get(index);
        let fields = metrics.iter().filter_map(|metric| Some((field(columns, &metric.name)?, metric)));
        // Rows in the order of their times' first appearance; a field that comes again at the same time begins another row.
        let mut rows: Vec<(Option<u64>, Values<'_>)> = Vec::new();
        let mut latest: FxHashMap<Option<u64>, usize> = FxHashMap::default();
        for (field, metric) in fields {
            let time = metric.time_ms.or(time_ms);
            let known = latest.get(&time).copied().filter(|row| rows[*row].1.iter().all(|(other, _)| *other != field));
            let row = known.unwrap_or_else(|| {
                rows.push((time, Vec::new()));
                rows.len() - 1
            });
            latest.insert(time, row);
            rows[row].1.push((field, metric));
        }
        for (time, values) in rows {
            let mut writer = RowWriter::new(out.batch(context, &columns.stream));
            match write(&mut writer, columns, topic, time, &values).and_then(|()| writer.finish(context)) {
                Ok(()) => {}
                Err(reason) => {
                    writer.abandon();
                    out.reject(context, reason, bytes);
                }
            }
        }
        Ok(())
    }
}

/// The metrics of one row, and where they belong.
type Values<'a> = Vec<(Field, &'a Meant<'a>)>;

/// What a metric's name means for a stream.
fn field(columns: &Columns, name: &str) -> Option<Field> {
    let measured = |name: &str| {
        columns.field(name).filter(|field| matches!(field, Field::Signal(_) | Field::Tag(_) | Field::Axis(_) | Field::Layer))
    };
    measured(name).or_else(|| {
        let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
        measured(&plain)
    })
}

fn write(
    writer: &mut RowWriter<'_>,
    columns: &Columns,
    topic: Topic<'_>,
    time_ms: Option<u64>,
    values: &[(Field, &Meant<'_>)],
) -> Result<(), Reason> {
    let ns = |ms: u64| i64::try_from(ms).ok().and_then(|ms| ms.checked_mul(1_000_000)).ok_or("a time is out of range");
    writer.time(time_ms.map(ns).transpose()?)?;
    for (field, metric) in values {
        match *field {
            Field::Signal(column) => writer.signal(column, metric.number()?)?,
            Field::Axis(axis) => writer.axis(axis, metric.number()?)?,
            Field::Layer => writer.layer(metric.integer()?)?,
            Field::Tag(column) => writer.tag(column, metric.text()?)?,
            _ => {}
        }
    }
    for (tag, text) in [("edge_node", Some(topic.node)), ("edge_device", topic.device)] {
        if let Some(column) = columns.stream.tag(tag).filter(|column| values.iter().all(|(field, _)| *field != Field::Tag(*column)))
        {
            writer.tag(column, text)?;
        }
    }
    Ok(())
}

impl Meant<'_> {
    fn wrong(&self, expected: &str) -> Reason {
        format!("metric `{}` must be {expected}", clip(&self.name)).into()
    }

    /// Signed types are sent as the bits of an unsigned number.
    fn integer(&self) -> Result<Option<i64>, Reason> {
        let Some(value) = self.value else { return Ok(None) };
        let Raw::Int(bits) = value else { return Err(self.wrong("an integer")) };
        Ok(Some(match self.datatype {
            1 => i64::from(bits as u8 as i8),
            2 => i64::from(bits as u16 as i16),
            3 => i64::from(bits as u32 as i32),
            4 => bits as i64,
            _ => i64::try_from(bits).map_err(|_| self.wrong("below 2^63"))?,
        }))
    }

    fn number(&self) -> Result<Option<f64>, Reason> {
        match self.value {
            None => Ok(None),
            Some(Raw::Real(value)) => Ok(Some(value)),
            // Beyond what is signed.
            Some(Raw::Int(bits)) if !(1..=4).contains(&self.datatype) => Ok(Some(bits as f64)),
            Some(Raw::Int(_)) => Ok(self.integer()?.map(|value| value as f64)),
            Some(_) => Err(self.wrong("a number")),
        }
    }

    fn text(&self) -> Result<Option<&str>, Reason> {
        match self.value {
            None => Ok(None),
            Some(Raw::Text(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong("text")),
        }
    }
}

impl<'a> Topic<'a> {
    fn parse(topic: &'a str) -> Result<Self, Reason> {
        let levels: Vec<&str> = topic.split('/').collect();
        let wrong = || Reason::from(format!("`{}` is no Sparkplug B topic: spBv1.0/GROUP/TYPE/NODE[/DEVICE]", clip(topic)));
        let (kind, parsed) = match levels[..] {
            ["spBv1.0", "STATE", host] => ("STATE", Self { group: "", kind: "STATE", node: host, device: None }),
            ["spBv1.0", group, kind, node] => (kind, Self { group, kind, node, device: None }),
            ["spBv1.0", group, kind, node, device] => (kind, Self { group, kind, node, device: Some(device) }),
            _ => return Err(wrong()),
        };
        let of_device = matches!(kind, "DBIRTH" | "DDATA" | "DDEATH" | "DCMD");
        let of_node = matches!(kind, "NBIRTH" | "NDATA" | "NDEATH" | "NCMD" | "STATE");
        if (parsed.device.is_some() && of_device) || (parsed.device.is_none() && of_node) { Ok(parsed) } else { Err(wrong()) }
    }
}

impl<'a> Payload<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, Reason> {
        let mut payload = Self { time_ms: None, seq: None, metrics: Vec::new() };
        for field in Fields::of(bytes) {
            match field? {
                (1, Content::Varint(ms)) => payload.time_ms = Some(ms),
                (2, Content::Bytes(metric)) => payload.metrics.push(Metric::parse(metric)?),
                (3, Content::Varint(seq)) => payload.seq = Some(seq),
                _ => {}
            }
        }
        Ok(payload)
    }

    /// The metric `bdSeq`.
    fn session(&self) -> Option<u64> {
        self.metrics.iter().find(|metric| metric.name == Some("bdSeq")).and_then(|metric| match metric.value {
            Some(Raw::Int(session)) => Some(session),
            _ => None,
        })
    }
}

impl<'a> Metric<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, Reason> {
        let mut metric = Self::default();
        let mut is_null = false;
        for field in Fields::of(bytes) {
            match field? {
                (1, Content::Bytes(name)) => metric.name = Some(text(name)?),
                (2, Content::Varint(alias)) => metric.alias = Some(alias),
                (3, Content::Varint(ms)) => metric.time_ms = Some(ms),
                (4, Content::Varint(datatype)) => metric.datatype = datatype,
                (7, Content::Varint(null)) => is_null = null != 0,
                (10 | 11 | 14, Content::Varint(bits)) => metric.value = Some(Raw::Int(bits)),
                (12, Content::Fixed32(bytes)) => metric.value = Some(Raw::Real(f32::from_le_bytes(bytes).into())),
                (13, Content::Fixed64(bytes)) => metric.value = Some(Raw::Real(f64::from_le_bytes(bytes))),
                (15, Content::Bytes(bytes)) => metric.value = Some(Raw::Text(text(bytes)?)),
                (16..=19, _) => metric.value = Some(Raw::Other),
                _ => {}
            }
        }
        metric.value = metric.value.filter(|_| !is_null);
        Ok(metric)
    }
}

fn text(bytes: &[u8]) -> Result<&str, Reason> {
    std::str::from_utf8(bytes).map_err(|_| Reason::Borrowed("a text is not UTF-8"))
}

//! Sparkplug B (version 3.0 of the specification): metrics that edge nodes publish, into rows.
//!
//! Topics are `spBv1.0/GROUP/TYPE/NODE[/DEVICE]`. A birth certificate (NBIRTH, DBIRTH) names metrics, their types and aliases; data (NDATA, DDATA)
//! may use the aliases alone. Births carry values too, and make rows like data.
//!
//! The metrics of a message with the same time are one row. A metric belongs to the signal, tag, axis or layer of its name, or of its name with
//! everything that is no letter, digit or `_` as `_` (`Chamber/Oxygen` → `Chamber_Oxygen`). Others are skipped: nodes publish many that are no
//! measurement. The tags `edge_node` and `edge_device`, where a stream has them and no metric is called so, say where a row comes from.
//! Of several streams, the one called as the device, or without a device as the node, is meant.
//!
//! Every node, and every device of a node, is a source partition of its own ([`Sparkplug::partition`]).
//!
//! A message is numbered by its node from 0 to 255 and round; numbers that are left out are a [`Notice::Lost`]. After that, after an alias or
//! a type that is not known, and after data without a birth, the node is asked to be born again ([`Notice::Rebirth`]), at most once in five seconds.
//! Aliases stay as they are until it is: the specification lets data flow meanwhile. What cannot be understood is a reject.

mod nodes;
mod payload;
#[cfg(test)]
mod tests;

use std::mem;

use rustc_hash::FxHashMap;

use super::{
    Context, Decoded, MESSAGE_BYTES_MAX, Reason, Routes, clip,
    columns::{Columns, Field, RowWriter},
};
use nodes::Nodes;
use payload::{Metric, Payload, Raw, Topic, push_metric, push_time};

/// Notices that wait to be fetched.
const NOTICES_MAX: usize = 1024;

/// Something to be told or done besides rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// To be told.
    Told(String),
    /// Messages that a node numbered never came.
    Lost {
        /// `GROUP/NODE`.
        node: String,
        /// How many; a multiple of 256 more cannot be seen.
        messages: u64,
    },
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
    nodes: Nodes,
    notices: Vec<Notice>,
}

/// A metric whose meaning is known and which is measured here.
#[derive(Debug, Clone, Copy)]
struct Meant<'a> {
    field: Field,
    datatype: u64,
    metric: Metric<'a>,
}

/// The payload that asks a node for its birth certificate: the metric `Node Control/Rebirth` with the value true, at `time_ms` since 1970.
pub fn rebirth_request(time_ms: u64) -> Vec<u8> {
    const NAME: &[u8] = b"Node Control/Rebirth";
    let mut metric = vec![0x0a, NAME.len() as u8];
    metric.extend_from_slice(NAME);
    // Datatype 11 = Boolean, boolean_value = true.
    metric.extend_from_slice(&[0x20, 11, 0x70, 1]);
    let mut payload = Vec::new();
    push_time(&mut payload, time_ms);
    push_metric(&mut payload, &metric);
    payload
}

impl Sparkplug {
    /// A decoder for rows of `routes`.
    pub fn new(routes: Routes) -> Self {
        Self { routes, nodes: Nodes::default(), notices: Vec::new() }
    }

    /// The source partition of a topic: `GROUP/NODE` or `GROUP/NODE/DEVICE`, whatever the type of the message; `None` = no Sparkplug B topic.
    pub fn partition(topic: &str) -> Option<String> {
        let topic = Topic::parse(topic).ok()?;
        let node = Nodes::key(topic);
        Some(topic.device.map_or_else(|| node.clone(), |device| format!("{node}/{device}")))
    }

    /// What is to be told or done since the last call.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        mem::take(&mut self.notices)
    }

    /// The connection was gone: what came meanwhile may be missing, so that every node is asked for its birth certificate when it is next heard of.
    pub fn interrupted(&mut self) {
        self.nodes.interrupted();
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
        // Commands, of which ours come back, and the states of host applications.
        if matches!(topic.kind, "NCMD" | "DCMD" | "STATE") {
            return Ok(());
        }
        let key = Nodes::key(topic);
        self.nodes.node(&key)?;
        let taken = Payload::parse(bytes).and_then(|payload| self.understand(&key, topic, &payload, context, out));
        if self.nodes.is_to_be_asked(&key, context.arrival) {
            self.notify(Notice::Rebirth { topic: format!("spBv1.0/{}/NCMD/{}", topic.group, topic.node) });
        }
        taken
    }

    fn understand(
        &mut self,
        key: &str,
        topic: Topic<'_>,
        payload: &Payload<'_>,
        context: &Context,
        out: &mut Decoded,
    ) -> Result<(), Reason> {
        match topic.kind {
            "NDEATH" => {
                if self.nodes.node_death(key, payload) {
                    self.notify(Notice::Told(format!("edge node `{}` went offline", clip(key))));
                }
                return Ok(());
            }
            "NBIRTH" => self.nodes.node_birth(key, payload),
            _ => self.count(key, payload.seq)?,
        }
        if topic.kind == "DDEATH" {
            let device = topic.device.unwrap_or_default();
            self.nodes.forget_device(key, device);
            self.notify(Notice::Told(format!("device `{}` of edge node `{}` went offline", clip(device), clip(key))));
            return Ok(());
        }
        let stream = self.stream(topic)?;
        if matches!(topic.kind, "NBIRTH" | "DBIRTH") {
            self.birth(key, topic, stream, payload);
        }
        let metrics = self.meanings(key, topic, stream, payload);
        if metrics.is_err() {
            self.nodes.node(key)?.miss_birth();
        }
        self.rows(topic, stream, payload.time_ms, &metrics?, context, out);
        Ok(())
    }

    /// The stream that the rows of a topic belong to.
    fn stream(&self, topic: Topic<'_>) -> Result<usize, Reason> {
        match self.routes.default() {
            Ok(index) => Ok(index),
            Err(_) => self.routes.named(topic.device.unwrap_or(topic.node)),
        }
    }

    fn notify(&mut self, notice: Notice) {
        if self.notices.len() < NOTICES_MAX {
            self.notices.push(notice);
        }
    }

    /// Looks whether a message's number follows the last one, and whether its node was born.
    fn count(&mut self, key: &str, seq: Option<u64>) -> Result<(), Reason> {
        let node = self.nodes.node(key)?;
        let messages = node.count(seq);
        if !node.is_born() {
            node.miss_birth();
        }
        if messages > 0 {
            self.notify(Notice::Lost { node: key.to_owned(), messages });
        }
        Ok(())
    }

    fn birth(&mut self, key: &str, topic: Topic<'_>, stream: usize, payload: &Payload<'_>) {
        let columns = self.routes.get(stream);
        if self.nodes.birth(key, topic, payload, |name| place(columns, name)).is_err() {
            let text = format!("edge node `{}` announces more metrics than there is room for: its aliases stay unknown", clip(key));
            self.notify(Notice::Told(text));
        }
    }

    /// The metrics that are measured here, with their types.
    fn meanings<'a>(&self, key: &str, topic: Topic<'_>, stream: usize, payload: &Payload<'a>) -> Result<Vec<Meant<'a>>, Reason> {
        let columns = self.routes.get(stream);
        let mut meanings = Vec::new();
        for &metric in &payload.metrics {
            let (field, announced) = match (metric.name, metric.alias) {
                (Some(name), _) => {
                    let field = place(columns, name);
                    (field, field.map_or(0, |field| self.nodes.datatype(key, topic, field)))
                }
                (None, Some(alias)) => {
                    let known = self.nodes.alias(key, topic, alias);
                    let known = known
                        .ok_or_else(|| format!("alias {alias} is not known: the birth certificate that names it has not come"))?;
                    (known.field, known.datatype)
                }
                (None, None) => return Err("a metric has neither name nor alias".into()),
            };
            let datatype = if metric.datatype == 0 { announced } else { metric.datatype };
            let Some(field) = field else { continue };
            if datatype == 0 && matches!(metric.value, Some(Raw::Int(_))) {
                let name = called(columns, field);
                return Err(format!("the type of `{name}` is not known: the birth certificate that says it has not come").into());
            }
            meanings.push(Meant { field, datatype, metric });
        }
        Ok(meanings)
    }

    /// A row for each time.
    fn rows(
        &self,
        topic: Topic<'_>,
        stream: usize,
        time_ms: Option<u64>,
        metrics: &[Meant<'_>],
        context: &Context,
        out: &mut Decoded,
    ) {
        let columns = self.routes.get(stream);
        for (time_ms, values) in by_time(metrics, time_ms) {
            let mut writer = RowWriter::new(out.batch(context, &columns.stream));
            let written = write(&mut writer, columns, topic, time_ms, &values).and_then(|()| writer.finish(context));
            if let Err(reason) = written {
                writer.abandon();
                out.reject(context, reason, &alone(time_ms, &values));
            }
        }
    }
}

/// The metrics of each row, in the order of their times' first appearance; a field that comes again at the same time begins another row.
fn by_time<'m, 'a>(metrics: &'m [Meant<'a>], time_ms: Option<u64>) -> Vec<(Option<u64>, Vec<&'m Meant<'a>>)> {
    let mut rows: Vec<(Option<u64>, Vec<&Meant<'_>>)> = Vec::new();
    let mut latest: FxHashMap<Option<u64>, usize> = FxHashMap::default();
    for meant in metrics {
        let time_ms = meant.metric.time_ms.or(time_ms);
        let begun = latest.get(&time_ms).copied().filter(|row| rows[*row].1.iter().all(|other| other.field != meant.field));
        let row = begun.unwrap_or_else(|| {
            rows.push((time_ms, Vec::new()));
            rows.len() - 1
        });
        latest.insert(time_ms, row);
        rows[row].1.push(meant);
    }
    rows
}

/// A payload of one row's metrics alone, as they came.
fn alone(time_ms: Option<u64>, values: &[&Meant<'_>]) -> Vec<u8> {
    let mut payload = Vec::new();
    if let Some(ms) = time_ms {
        push_time(&mut payload, ms);
    }
    values.iter().for_each(|meant| push_metric(&mut payload, meant.metric.bytes));
    payload
}

/// What a metric's name means for a stream.
fn place(columns: &Columns, name: &str) -> Option<Field> {
    let measured = |name: &str| {
        columns.field(name).filter(|field| matches!(field, Field::Signal(_) | Field::Tag(_) | Field::Axis(_) | Field::Layer))
    };
    measured(name).or_else(|| {
        let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
        measured(&plain)
    })
}

/// The name of a place in a stream.
fn called(columns: &Columns, field: Field) -> &str {
    match field {
        Field::Signal(column) => &columns.stream.signals[column].name,
        Field::Tag(column) => &columns.stream.tags[column],
        Field::Axis(axis) => ["x", "y", "z"][axis],
        _ => "layer",
    }
}

fn write(
    writer: &mut RowWriter<'_>,
    columns: &Columns,
    topic: Topic<'_>,
    time_ms: Option<u64>,
    values: &[&Meant<'_>],
) -> Result<(), Reason> {
    let ns = |ms: u64| i64::try_from(ms).ok().and_then(|ms| ms.checked_mul(1_000_000)).ok_or("a time is out of range");
    writer.time(time_ms.map(ns).transpose()?)?;
    for meant in values {
        let name = || called(columns, meant.field);
        match meant.field {
            Field::Signal(column) => writer.signal(column, meant.number(name)?)?,
            Field::Axis(axis) => writer.axis(axis, meant.number(name)?)?,
            Field::Layer => writer.layer(meant.integer(name)?)?,
            Field::Tag(column) => writer.tag(column, meant.text(name)?)?,
            _ => {}
        }
    }
    for (tag, text) in [("edge_node", Some(topic.node)), ("edge_device", topic.device)] {
        let column = columns.stream.tag(tag).filter(|column| values.iter().all(|meant| meant.field != Field::Tag(*column)));
        if let Some(column) = column {
            writer.tag(column, text)?;
        }
    }
    Ok(())
}

impl<'a> Meant<'a> {
    /// Signed types are sent as the bits of an unsigned number.
    fn integer(&self, name: impl Fn() -> &'a str) -> Result<Option<i64>, Reason> {
        let wrong = |expected: &str| Reason::from(format!("metric `{}` must be {expected}", name()));
        let Some(value) = self.metric.value else { return Ok(None) };
        let Raw::Int(bits) = value else { return Err(wrong("an integer")) };
        Ok(Some(match self.datatype {
            1 => i64::from(bits as u8 as i8),
            2 => i64::from(bits as u16 as i16),
            3 => i64::from(bits as u32 as i32),
            4 => bits as i64,
            _ => i64::try_from(bits).map_err(|_| wrong("below 2^63"))?,
        }))
    }

    fn number(&self, name: impl Fn() -> &'a str) -> Result<Option<f64>, Reason> {
        match self.metric.value {
            None => Ok(None),
            Some(Raw::Real(value)) => Ok(Some(value)),
            Some(Raw::Bool(value)) => Ok(Some(f64::from(u8::from(value)))),
            Some(Raw::Int(bits)) if !(1..=4).contains(&self.datatype) => Ok(Some(bits as f64)),
            Some(Raw::Int(_)) => Ok(self.integer(name)?.map(|value| value as f64)),
            Some(Raw::Text(_) | Raw::Other) => Err(format!("metric `{}` must be a number", name()).into()),
        }
    }

    fn text(&self, name: impl Fn() -> &'a str) -> Result<Option<&'a str>, Reason> {
        match self.metric.value {
            None => Ok(None),
            Some(Raw::Text(text)) => Ok(Some(text)),
            Some(_) => Err(format!("metric `{}` must be text", name()).into()),
        }
    }
}

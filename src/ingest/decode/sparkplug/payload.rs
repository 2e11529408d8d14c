//! The payload of a Sparkplug B message: the fields of `org.eclipse.tahu.protobuf.Payload` that matter here, and its topic.
//!
//! ```text
//! Payload: 1 timestamp (ms), 2 metrics, 3 seq, 4 uuid          (5 body: of compressed payloads, which are refused)
//! Metric:  1 name, 2 alias, 3 timestamp (ms), 4 datatype, 7 is_null,
//!          10 int, 11 long, 12 float, 13 double, 14 boolean, 15 string, 16 … 19 bytes, data set, template, extension
//! ```

use super::super::{
    Reason, clip,
    protobuf::{Content, Fields},
};

/// Most metrics of a message.
const METRICS_MAX: usize = 100_000;
/// Longest topic, bytes.
const TOPIC_BYTES_MAX: usize = 1024;

/// Where a message comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Topic<'a> {
    pub group: &'a str,
    pub kind: &'a str,
    pub node: &'a str,
    pub device: Option<&'a str>,
}

/// The fields of a message that matter here.
#[derive(Debug)]
pub(super) struct Payload<'a> {
    pub time_ms: Option<u64>,
    pub seq: Option<u64>,
    pub metrics: Vec<Metric<'a>>,
}

/// The fields of a metric that matter here.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Metric<'a> {
    pub name: Option<&'a str>,
    pub alias: Option<u64>,
    pub time_ms: Option<u64>,
    /// 0 = not said.
    pub datatype: u64,
    pub value: Option<Raw<'a>>,
    /// As it came.
    pub bytes: &'a [u8],
}

/// A value as sent.
#[derive(Debug, Clone, Copy)]
pub(super) enum Raw<'a> {
    /// The bits of an integer, whose type says what they mean.
    Int(u64),
    Bool(bool),
    Real(f64),
    Text(&'a str),
    /// A data set, template, array, …
    Other,
}

impl<'a> Topic<'a> {
    pub fn parse(topic: &'a str) -> Result<Self, Reason> {
        let levels: Vec<&str> = topic.split('/').take(6).collect();
        let wrong = || Reason::from(format!("`{}` is no Sparkplug B topic: spBv1.0/GROUP/TYPE/NODE[/DEVICE]", clip(topic)));
        let parsed = match levels[..] {
            ["spBv1.0", "STATE", host] => Self { group: "", kind: "STATE", node: host, device: None },
            ["spBv1.0", group, kind, node] => Self { group, kind, node, device: None },
            ["spBv1.0", group, kind, node, device] => Self { group, kind, node, device: Some(device) },
            _ => return Err(wrong()),
        };
        let of_device = matches!(parsed.kind, "DBIRTH" | "DDATA" | "DDEATH" | "DCMD");
        let of_node = matches!(parsed.kind, "NBIRTH" | "NDATA" | "NDEATH" | "NCMD" | "STATE");
        let known = if parsed.device.is_some() { of_device } else { of_node };
        if known && topic.len() <= TOPIC_BYTES_MAX { Ok(parsed) } else { Err(wrong()) }
    }
}

impl<'a> Payload<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Reason> {
        let mut payload = Self { time_ms: None, seq: None, metrics: Vec::new() };
        for field in Fields::of(bytes) {
            match field? {
                (1, Content::Varint(ms)) => payload.time_ms = Some(ms),
                (2, Content::Bytes(_)) if payload.metrics.len() == METRICS_MAX => {
                    return Err(format!("a message of more than {METRICS_MAX} metrics").into());
                }
                (2, Content::Bytes(metric)) => payload.metrics.push(Metric::parse(metric)?),
                (3, Content::Varint(seq)) => payload.seq = Some(seq),
                (4, Content::Bytes(b"SPBV1.0_COMPRESSED")) => {
                    return Err("the payload is compressed: turn compression off at the edge node".into());
                }
                _ => {}
            }
        }
        Ok(payload)
    }

    /// The number of the session: the metric `bdSeq` of a node's birth and death.
    pub fn session(&self) -> Option<u64> {
        self.metrics.iter().find(|metric| metric.name == Some("bdSeq")).and_then(|metric| match metric.value {
            Some(Raw::Int(session)) => Some(session),
            _ => None,
        })
    }
}

impl<'a> Metric<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, Reason> {
        let mut metric = Self { bytes, ..Self::default() };
        let mut is_null = false;
        for field in Fields::of(bytes) {
            match field? {
                // Some nodes send an empty name beside an alias.
                (1, Content::Bytes(name)) => metric.name = Some(text(name)?).filter(|name| !name.is_empty()),
                (2, Content::Varint(alias)) => metric.alias = Some(alias),
                (3, Content::Varint(ms)) => metric.time_ms = Some(ms),
                (4, Content::Varint(datatype)) => metric.datatype = datatype,
                (7, Content::Varint(null)) => is_null = null != 0,
                (10 | 11, Content::Varint(bits)) => metric.value = Some(Raw::Int(bits)),
                (12, Content::Fixed32(bytes)) => metric.value = Some(Raw::Real(f32::from_le_bytes(bytes).into())),
                (13, Content::Fixed64(bytes)) => metric.value = Some(Raw::Real(f64::from_le_bytes(bytes))),
                (14, Content::Varint(bits)) => metric.value = Some(Raw::Bool(bits != 0)),
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

/// Appends a payload's field 2: one metric as it came.
pub(super) fn push_metric(out: &mut Vec<u8>, metric: &[u8]) {
    out.push(0x12);
    push_varint(out, metric.len() as u64);
    out.extend_from_slice(metric);
}

/// Appends a payload's field 1: its time.
pub(super) fn push_time(out: &mut Vec<u8>, ms: u64) {
    out.push(0x08);
    push_varint(out, ms);
}

fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

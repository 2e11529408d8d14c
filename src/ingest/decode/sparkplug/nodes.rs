//! What is known of edge nodes from their birth certificates, and whether their messages are complete.
//!
//! Names are not kept: a birth certificate is looked through once for what the stream of its rows has, and an alias leads to a field.
//! That bounds the memory whatever nodes announce.

use rustc_hash::FxHashMap;

use super::{
    super::{Reason, clip, columns::Field},
    payload::{Payload, Topic},
};
use crate::model::Timestamp;

/// Nodes, and devices of all nodes, that are known at a time.
const NODES_MAX: usize = 4096;
/// Metrics of all nodes that are known at a time.
const METRICS_MAX: usize = 262_144;
/// Shortest time between two requests for a node's birth certificate.
const ASK_PAUSE_NS: u64 = 5_000_000_000;

/// The nodes heard of.
#[derive(Debug, Clone, Default)]
pub(super) struct Nodes {
    known: FxHashMap<String, Node>,
    devices: usize,
    metrics: usize,
}

/// What is known of an edge node.
#[derive(Debug, Clone, Default)]
pub(super) struct Node {
    /// Those that were born; the node's own metrics are under the empty name.
    devices: FxHashMap<String, Device>,
    /// The number of the last message.
    seq: Option<u64>,
    /// The number of the session, which a death certificate repeats.
    session: Option<u64>,
    /// Its birth certificate is missing, or may be.
    wants_birth: bool,
    asked: Option<Timestamp>,
}

/// What a birth certificate said of a device, or of a node itself.
#[derive(Debug, Clone, Default)]
struct Device {
    aliases: FxHashMap<u64, Known>,
    /// The types of what is sent by name.
    datatypes: FxHashMap<Field, u64>,
}

/// A metric that was announced.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    /// Where it belongs; `None` = it is not measured here.
    pub field: Option<Field>,
    pub datatype: u64,
}

/// There is no room for what a birth certificate announces.
pub(super) struct TooMany;

impl Nodes {
    /// The name by which a node is known.
    pub fn key(topic: Topic<'_>) -> String {
        format!("{}/{}", topic.group, topic.node)
    }

    /// A node, which is known from now on.
    pub fn node(&mut self, key: &str) -> Result<&mut Node, Reason> {
        if !self.known.contains_key(key) {
            if self.known.len() == NODES_MAX {
                return Err(format!("more than {NODES_MAX} edge nodes: node `{}` is not read", clip(key)).into());
            }
            self.known.insert(key.to_owned(), Node::default());
        }
        self.known.get_mut(key).ok_or(Reason::Borrowed("the edge node is not known"))
    }

    /// Messages may be missing from here on: certificates too.
    pub fn interrupted(&mut self) {
        for node in self.known.values_mut() {
            node.seq = None;
            node.wants_birth = true;
        }
    }

    /// A node's new session: what was known of it and its devices is of no meaning any more.
    pub fn node_birth(&mut self, key: &str, payload: &Payload<'_>) {
        self.forget_devices(key);
        if let Some(node) = self.known.get_mut(key) {
            (node.seq, node.session, node.wants_birth) = (payload.seq, payload.session(), false);
        }
    }

    /// Whether this ends the node's session, and not an earlier one, whose will may come after the next birth.
    pub fn node_death(&mut self, key: &str, payload: &Payload<'_>) -> bool {
        let Some(node) = self.known.get_mut(key) else { return false };
        if node.session.is_some() && node.session != payload.session() {
            return false;
        }
        (node.seq, node.session) = (None, None);
        self.forget_devices(key);
        true
    }

    /// Learns what the metrics of `topic` mean; `field` finds the place of a name.
    pub fn birth(
        &mut self,
        key: &str,
        topic: Topic<'_>,
        payload: &Payload<'_>,
        field: impl Fn(&str) -> Option<Field>,
    ) -> Result<(), TooMany> {
        let name = topic.device.unwrap_or_default();
        self.forget_device(key, name);
        let mut device = Device::default();
        for metric in &payload.metrics {
            let Some(name) = metric.name else { continue };
            let (field, datatype) = (field(name), metric.datatype);
            if let Some(alias) = metric.alias {
                device.aliases.insert(alias, Known { field, datatype });
            }
            if let Some(field) = field {
                device.datatypes.insert(field, datatype);
            }
        }
        let fits = self.devices < NODES_MAX && self.metrics + device.metrics() <= METRICS_MAX;
        match self.known.get_mut(key) {
            Some(node) if fits => {
                self.devices += 1;
                self.metrics += device.metrics();
                node.devices.insert(name.to_owned(), device);
                Ok(())
            }
            _ => Err(TooMany),
        }
    }

    pub fn forget_device(&mut self, key: &str, name: &str) {
        if let Some(gone) = self.known.get_mut(key).and_then(|node| node.devices.remove(name)) {
            self.devices -= 1;
            self.metrics -= gone.metrics();
        }
    }

    fn forget_devices(&mut self, key: &str) {
        if let Some(node) = self.known.get_mut(key) {
            self.devices -= node.devices.len();
            self.metrics -= node.devices.values().map(Device::metrics).sum::<usize>();
            node.devices.clear();
        }
    }

    /// The metric that `topic` calls by `alias`.
    pub fn alias(&self, key: &str, topic: Topic<'_>, alias: u64) -> Option<Known> {
        self.device(key, topic)?.aliases.get(&alias).copied()
    }

    /// The type that was announced for a field; 0 = none.
    pub fn datatype(&self, key: &str, topic: Topic<'_>, field: Field) -> u64 {
        self.device(key, topic).and_then(|device| device.datatypes.get(&field)).copied().unwrap_or(0)
    }

    fn device(&self, key: &str, topic: Topic<'_>) -> Option<&Device> {
        self.known.get(key)?.devices.get(topic.device.unwrap_or_default())
    }

    /// Whether a node should be asked for its birth certificate now.
    pub fn is_to_be_asked(&mut self, key: &str, now: Timestamp) -> bool {
        let Some(node) = self.known.get_mut(key) else { return false };
        let due = node.wants_birth && node.asked.is_none_or(|asked| now.0.abs_diff(asked.0) >= ASK_PAUSE_NS);
        if due {
            node.asked = Some(now);
        }
        due
    }
}

impl Node {
    /// Notes the number of a message; how many are missing before it.
    pub fn count(&mut self, seq: Option<u64>) -> u64 {
        let Some(seq) = seq.map(|seq| seq & 0xff) else { return 0 };
        let missing = match self.seq.replace(seq) {
            Some(last) => seq.wrapping_sub(last + 1) & 0xff,
            None => 0,
        };
        self.wants_birth |= missing > 0;
        missing
    }

    /// Its birth certificate is missing.
    pub const fn miss_birth(&mut self) {
        self.wants_birth = true;
    }

    /// Whether it was born in this session.
    pub fn is_born(&self) -> bool {
        !self.devices.is_empty()
    }
}

impl Device {
    fn metrics(&self) -> usize {
        self.aliases.len() + self.datatypes.len()
    }
}

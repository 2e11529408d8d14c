use std::sync::Arc;

use super::*;
use crate::model::{Batch, Stream, Timestamp};

const SECOND_NS: i64 = 1_000_000_000;

/// Built field by field as `sparkplug_b.proto` says: the number and wire type of a field, then its content.
#[derive(Default, Clone)]
struct Message(Vec<u8>);

impl Message {
    fn varint(mut self, field: u8, mut value: u64) -> Self {
        self.key(field, 0);
        while value > 0x7f {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }

    fn bytes(mut self, field: u8, bytes: &[u8]) -> Self {
        self.key(field, 2);
        let mut length = bytes.len();
        while length > 0x7f {
            self.0.push(length as u8 | 0x80);
            length >>= 7;
        }
        self.0.push(length as u8);
        self.0.extend_from_slice(bytes);
        self
    }

    fn fixed(mut self, field: u8, wire_type: u8, bytes: &[u8]) -> Self {
        self.key(field, wire_type);
        self.0.extend_from_slice(bytes);
        self
    }

    /// Fields from 16 on have two bytes of key.
    fn key(&mut self, field: u8, wire_type: u8) {
        let key = u16::from(field) << 3 | u16::from(wire_type);
        if key > 0x7f {
            self.0.push(key as u8 | 0x80);
            self.0.push((key >> 7) as u8);
        } else {
            self.0.push(key as u8);
        }
    }

    fn double(self, value: f64) -> Self {
        self.fixed(13, 1, &value.to_le_bytes())
    }

    fn metric(self, metric: &Self) -> Self {
        self.bytes(2, &metric.0)
    }
}

fn payload(ms: u64, seq: u64) -> Message {
    Message::default().varint(1, ms).varint(3, seq)
}

fn named(name: &str, datatype: u64) -> Message {
    Message::default().bytes(1, name.as_bytes()).varint(4, datatype)
}

fn aliased(alias: u64) -> Message {
    Message::default().varint(2, alias)
}

/// Oxygen = alias 1 (Double), layer = 2 (Int32), part = 3 (String), and one that no stream has = 4.
fn birth(seq: u64) -> Message {
    payload(1000, seq)
        .metric(&named("bdSeq", 8).varint(11, 5))
        .metric(&named("Chamber/Oxygen", 10).varint(2, 1).double(0.5))
        .metric(&named("layer", 3).varint(2, 2).varint(10, 7))
        .metric(&named("part", 12).varint(2, 3).bytes(15, b"A3"))
        .metric(&named("Properties/Uptime", 8).varint(2, 4).varint(11, 99))
}

struct Host {
    sparkplug: Sparkplug,
    arrival_ns: i64,
}

impl Host {
    fn new(streams: &[Stream]) -> Self {
        let streams: Vec<_> = streams.iter().cloned().map(Arc::new).collect();
        Self { sparkplug: Sparkplug::new(Routes::by_row(&streams, None).unwrap()), arrival_ns: 0 }
    }

    fn chamber() -> Self {
        Self::new(&[Stream::new("chamber", &["Chamber_Oxygen"], &["part", "edge_node", "edge_device"])])
    }

    /// The rows as JSON, the reasons of rejects, the notices.
    fn hears(&mut self, topic: &str, message: &Message) -> (Vec<String>, Vec<String>, Vec<Notice>) {
        let mut out = Decoded::default();
        let partition = Sparkplug::partition(topic).unwrap_or_default();
        let context = Context::new("floor".into(), partition.into(), Timestamp(self.arrival_ns));
        self.sparkplug.message(topic, &message.0, &context, &mut out);
        assert!(out.batches.iter().all(Batch::is_consistent));
        let rows =
            out.batches.iter().flat_map(|batch| (0..batch.rows()).map(|row| serde_json::to_string(&batch.row(row)).unwrap()));
        let reasons = out.rejects.iter().map(|reject| reject.reason.clone()).collect();
        (rows.collect(), reasons, self.sparkplug.take_notices())
    }

    /// Hears a good message.
    fn takes(&mut self, topic: &str, message: &Message) -> Vec<String> {
        let (rows, reasons, notices) = self.hears(topic, message);
        assert_eq!((reasons, notices), (vec![], vec![]));
        rows
    }
}

fn rebirth() -> Notice {
    Notice::Rebirth { topic: "spBv1.0/plant/NCMD/gateway".into() }
}

#[test]
fn golden_bytes_of_a_birth_and_data_by_alias_are_rows() {
    // timestamp 1000, metric {name "Chamber/Oxygen", alias 1, datatype 10 (Double), double_value 0.5}, seq 0
    #[rustfmt::skip]
    let birth = Message(vec![
        0x08, 0xe8, 0x07,
        0x12, 0x1d,
            0x0a, 0x0e, b'C', b'h', b'a', b'm', b'b', b'e', b'r', b'/', b'O', b'x', b'y', b'g', b'e', b'n',
            0x10, 0x01,
            0x20, 0x0a,
            0x69, 0, 0, 0, 0, 0, 0, 0xe0, 0x3f,
        0x18, 0x00,
    ]);
    // timestamp 2000, metric {alias 1, timestamp 1999, double_value 1.0}, seq 1
    #[rustfmt::skip]
    let data = Message(vec![
        0x08, 0xd0, 0x0f,
        0x12, 0x0e,
            0x10, 0x01,
            0x18, 0xcf, 0x0f,
            0x69, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f,
        0x18, 0x01,
    ]);
    let mut host = Host::chamber();
    assert_eq!(
        host.takes("spBv1.0/plant/NBIRTH/gateway", &birth),
        [
            r#"{"stream":"chamber","time":"1970-01-01T00:00:01Z","part":null,"edge_node":"gateway","edge_device":null,"Chamber_Oxygen":0.5}"#
        ]
    );
    assert_eq!(
        host.takes("spBv1.0/plant/NDATA/gateway", &data),
        [
            r#"{"stream":"chamber","time":"1970-01-01T00:00:01.999Z","part":null,"edge_node":"gateway","edge_device":null,"Chamber_Oxygen":1.0}"#
        ]
    );
}

#[test]
fn golden_bytes_of_a_rebirth_request() {
    #[rustfmt::skip]
    let expected = [
        &[0x08, 0xe8, 0x07, 0x12, 26, 0x0a, 20][..], b"Node Control/Rebirth", &[0x20, 0x0b, 0x70, 0x01],
    ].concat();
    assert_eq!(rebirth_request(1000), expected);
}

#[test]
fn every_type_of_value_is_read() {
    let check = |datatype: u64, value: Message, expected: &str| {
        let mut host = Host::new(&[Stream::new("a", &["v"], &[])]);
        let metric = Message([named("v", datatype).0, value.0].concat());
        let (rows, reasons, _) = host.hears("spBv1.0/plant/NBIRTH/gateway", &payload(0, 0).metric(&metric));
        let shown = rows.first().or(reasons.first()).map_or("", |shown| &**shown);
        assert!(shown.contains(expected), "{datatype}: {shown}");
    };
    let int = |bits: u64| Message::default().varint(10, bits);
    let long = |bits: u64| Message::default().varint(11, bits);
    check(1, int(0xff), "\"v\":-1.0");
    check(1, int(0xffff_ff80), "\"v\":-128.0");
    check(2, int(0xfffe), "\"v\":-2.0");
    check(3, int(0xffff_fffd), "\"v\":-3.0");
    check(4, long(u64::MAX - 3), "\"v\":-4.0");
    check(5, int(0xff), "\"v\":255.0");
    check(6, int(0xffff), "\"v\":65535.0");
    check(7, int(0xffff_ffff), "\"v\":4294967295.0");
    check(8, long(1 << 53), "\"v\":9007199254740992.0");
    check(9, Message::default().fixed(12, 5, &1.5_f32.to_le_bytes()), "\"v\":1.5");
    check(10, Message::default().double(-2.5), "\"v\":-2.5");
    check(11, Message::default().varint(14, 1), "\"v\":1.0");
    check(13, long(1000), "\"v\":1000.0");
    check(10, Message::default().varint(7, 1), "{\"stream\":\"a\",\"time\":\"1970-01-01T00:00:00Z\"}");
    check(10, Message::default().double(f64::NAN), "`v` is not a finite number");
    check(12, Message::default().bytes(15, b"high"), "metric `v` must be a number");
    check(17, Message::default().bytes(16, b"xyz"), "metric `v` must be a number");
    check(0, int(3), "the type of `v` is not known");
}

#[test]
fn devices_have_their_own_aliases_and_the_stream_of_their_name() {
    let chamber = Stream::new("chamber", &["Chamber_Oxygen"], &["part"]);
    let mut host = Host::new(&[chamber, Stream::new("pump", &["speed"], &[]), Stream::new("gateway", &[], &[])]);
    host.takes("spBv1.0/plant/NBIRTH/gateway", &payload(0, 0));
    host.takes("spBv1.0/plant/DBIRTH/gateway/chamber", &birth(1));
    let speed = payload(0, 2).metric(&named("speed", 9).varint(2, 1));
    host.takes("spBv1.0/plant/DBIRTH/gateway/pump", &speed);
    let data = |seq| payload(3000, seq).metric(&aliased(1).double(4.0));
    assert_eq!(
        host.takes("spBv1.0/plant/DDATA/gateway/chamber", &data(3)),
        [r#"{"stream":"chamber","time":"1970-01-01T00:00:03Z","part":null,"Chamber_Oxygen":4.0}"#]
    );
    assert_eq!(
        host.takes("spBv1.0/plant/DDATA/gateway/pump", &data(4)),
        [r#"{"stream":"pump","time":"1970-01-01T00:00:03Z","speed":4.0}"#]
    );
    assert_eq!(Sparkplug::partition("spBv1.0/plant/DDATA/gateway/pump").as_deref(), Some("plant/gateway/pump"));
    assert_eq!(Sparkplug::partition("spBv1.0/plant/NBIRTH/gateway").as_deref(), Some("plant/gateway"));
    let (_, reasons, _) = host.hears("spBv1.0/plant/DBIRTH/gateway/laser", &payload(0, 5));
    assert_eq!(reasons, ["there is no stream `laser`"]);
}

#[test]
fn metrics_of_one_time_are_a_row_and_others_are_their_own() {
    let mut host = Host::chamber();
    host.takes("spBv1.0/plant/NBIRTH/gateway", &birth(0));
    let data = payload(5000, 1)
        .metric(&aliased(1).double(1.0))
        .metric(&aliased(3).bytes(15, b"B1"))
        .metric(&aliased(4).varint(11, 1))
        .metric(&aliased(1).varint(3, 4000).double(2.0))
        .metric(&aliased(1).double(3.0))
        .metric(&aliased(2).varint(10, 8));
    assert_eq!(
        host.takes("spBv1.0/plant/NDATA/gateway", &data),
        [
            r#"{"stream":"chamber","time":"1970-01-01T00:00:05Z","part":"B1","edge_node":"gateway","edge_device":null,"Chamber_Oxygen":1.0}"#,
            r#"{"stream":"chamber","time":"1970-01-01T00:00:04Z","part":null,"edge_node":"gateway","edge_device":null,"Chamber_Oxygen":2.0}"#,
            r#"{"stream":"chamber","time":"1970-01-01T00:00:05Z","layer":8,"part":null,"edge_node":"gateway","edge_device":null,"Chamber_Oxygen":3.0}"#,
        ]
    );
}

#[test]
fn a_bad_row_is_refused_alone_and_its_bytes_decode_again() {
    let mut host = Host::chamber();
    host.takes("spBv1.0/plant/NBIRTH/gateway", &birth(0));
    let bad = aliased(1).varint(3, 4000).bytes(15, b"high");
    let data = payload(5000, 1).metric(&aliased(1).double(1.0)).metric(&bad);
    let mut out = Decoded::default();
    let context = Context::new("s".into(), "p".into(), Timestamp(0));
    host.sparkplug.message("spBv1.0/plant/NDATA/gateway", &data.0, &context, &mut out);
    assert_eq!((out.rows(), out.rejects.len()), (1, 1));
    assert_eq!(out.rejects[0].reason, "metric `Chamber_Oxygen` must be a number");
    assert_eq!(out.rejects[0].raw, Message::default().varint(1, 4000).metric(&bad).0);
}

#[test]
fn a_node_that_was_never_born_is_asked_once_in_five_seconds() {
    let mut host = Host::chamber();
    let data = |seq| payload(0, seq).metric(&aliased(1).double(1.0));
    let (rows, reasons, notices) = host.hears("spBv1.0/plant/NDATA/gateway", &data(7));
    assert_eq!((rows.len(), notices), (0, vec![rebirth()]));
    assert_eq!(reasons, ["alias 1 is not known: the birth certificate that names it has not come"]);
    host.arrival_ns = 5 * SECOND_NS - 1;
    assert_eq!(host.hears("spBv1.0/plant/NDATA/gateway", &data(8)).2, []);
    host.arrival_ns += 1;
    assert_eq!(host.hears("spBv1.0/plant/NDATA/gateway", &data(9)).2, [rebirth()]);
    assert_eq!(host.takes("spBv1.0/plant/NBIRTH/gateway", &birth(0)).len(), 1);
    host.arrival_ns += 60 * SECOND_NS;
    assert_eq!(host.takes("spBv1.0/plant/NDATA/gateway", &data(1)).len(), 1);
}

#[test]
fn data_by_name_is_read_before_the_birth_if_its_type_is_clear() {
    let mut host = Host::chamber();
    let by_name = payload(0, 7).metric(&named("Chamber/Oxygen", 10).double(1.0));
    let (rows, reasons, notices) = host.hears("spBv1.0/plant/NDATA/gateway", &by_name);
    assert_eq!((rows.len(), reasons.len(), notices), (1, 0, vec![rebirth()]));
    host.takes("spBv1.0/plant/NBIRTH/gateway", &birth(0));
    let untyped = payload(0, 1).metric(&Message::default().bytes(1, b"layer").varint(10, 0xffff_ffff));
    assert!(host.takes("spBv1.0/plant/NDATA/gateway", &untyped)[0].contains("\"layer\":-1"));
}

#[test]
fn messages_that_are_missing_are_counted_and_the_node_is_asked() {
    let mut host = Host::chamber();
    host.takes("spBv1.0/plant/NBIRTH/gateway", &birth(0));
    let data = |seq| payload(0, seq).metric(&aliased(1).double(1.0));
    host.takes("spBv1.0/plant/NDATA/gateway", &data(1));
    let (rows, _, notices) = host.hears("spBv1.0/plant/NDATA/gateway", &data(5));
    let lost = |messages| Notice::Lost { node: "plant/gateway".into(), messages };
    assert_eq!((rows.len(), notices), (1, vec![lost(3), rebirth()]), "aliases stay known");
    // The rebirth begins the numbers anew; they wrap after 255.
    host.takes("spBv1.0/plant/NBIRTH/gateway", &birth(0));
    for seq in (1..256).chain(0..3) {
        host.takes("spBv1.0/plant/NDATA/gateway", &data(seq));
    }
}

#[test]
fn after_a_death_aliases_mean_nothing_but_an_old_will_is_ignored() {
    let mut host = Host::chamber();
    host.takes("spBv1.0/plant/NBIRTH/gateway", &birth(0));
    let death = |session| Message::default().varint(1, 0).metric(&named("bdSeq", 8).varint(11, session));
    let data = |seq| payload(0, seq).metric(&aliased(1).double(1.0));
    assert!(host.takes("spBv1.0/plant/NDEATH/gateway", &death(4)).is_empty());
    assert_eq!(host.takes("spBv1.0/plant/NDATA/gateway", &data(1)).len(), 1);
    let (_, _, notices) = host.hears("spBv1.0/plant/NDEATH/gateway", &death(5));
    assert_eq!(notices, [Notice::Told("edge node `plant/gateway` went offline".into())]);
    let (rows, reasons, notices) = host.hears("spBv1.0/plant/NDATA/gateway", &data(2));
    assert_eq!((rows.len(), reasons.len(), notices), (0, 1, vec![rebirth()]));
}

#[test]
fn a_device_that_died_is_forgotten_and_its_node_is_not() {
    let mut host = Host::chamber();
    host.takes("spBv1.0/plant/NBIRTH/gateway", &birth(0));
    host.takes("spBv1.0/plant/DBIRTH/gateway/pump", &birth(1));
    let (_, _, notices) = host.hears("spBv1.0/plant/DDEATH/gateway/pump", &payload(0, 2));
    assert_eq!(notices, [Notice::Told("device `pump` of edge node `plant/gateway` went offline".into())]);
    host.takes("spBv1.0/plant/NDATA/gateway", &payload(0, 3).metric(&aliased(1).double(1.0)));
    let (_, reasons, _) = host.hears("spBv1.0/plant/DDATA/gateway/pump", &payload(0, 4).metric(&aliased(1).double(1.0)));
    assert_eq!(reasons.len(), 1);
}

#[test]
fn after_a_break_of_the_connection_every_node_is_asked_when_it_is_heard_of() {
    let mut host = Host::chamber();
    host.takes("spBv1.0/plant/NBIRTH/gateway", &birth(0));
    host.sparkplug.interrupted();
    let (rows, _, notices) = host.hears("spBv1.0/plant/NDATA/gateway", &payload(0, 77).metric(&aliased(1).double(1.0)));
    assert_eq!((rows.len(), notices), (1, vec![rebirth()]));
}

#[test]
fn what_is_no_data_is_passed_over_and_what_is_no_sparkplug_is_refused() {
    let mut host = Host::chamber();
    for topic in ["spBv1.0/plant/NCMD/gateway", "spBv1.0/plant/DCMD/gateway/pump", "spBv1.0/STATE/host"] {
        assert!(host.takes(topic, &Message(b"{\"online\":true}".to_vec())).is_empty(), "{topic}");
    }
    for topic in ["plant/a", "spBv1.0/plant/NDATA", "spBv1.0/plant/NDATA/a/b", "spBv1.0/plant/DDATA/a", "spBv1.0/a/DDATA/b/c/d"] {
        let (_, reasons, _) = host.hears(topic, &payload(0, 0));
        assert!(reasons[0].contains("no Sparkplug B topic"), "{topic}");
    }
    let compressed = Message::default().bytes(4, b"SPBV1.0_COMPRESSED").bytes(5, b"xyz");
    assert!(host.hears("spBv1.0/plant/NDATA/gateway", &compressed).1[0].contains("compressed"));
    assert!(host.hears("spBv1.0/plant/NDATA/gateway", &Message(vec![0x12, 0x7f, 1])).1[0].contains("longer than its message"));
    let anonymous = payload(0, 0).metric(&Message::default().double(1.0));
    assert!(host.hears("spBv1.0/plant/NDATA/gateway", &anonymous).1[0].contains("neither name nor alias"));
}

#[test]
fn what_nodes_announce_is_bounded() {
    let mut host = Host::chamber();
    let many = (0..90_000).fold(Message::default().varint(1, 0), |message, alias| message.metric(&named("m", 10).varint(2, alias)));
    for device in ["a", "b"] {
        assert!(host.hears(&format!("spBv1.0/plant/DBIRTH/gateway/{device}"), &many).1.is_empty());
    }
    let (_, _, notices) = host.hears("spBv1.0/plant/DBIRTH/gateway/c", &many);
    assert!(matches!(&notices[..], [Notice::Told(text)] if text.contains("more metrics than there is room for")), "{notices:?}");
    // The same device again takes the room it had.
    assert!(host.hears("spBv1.0/plant/DBIRTH/gateway/b", &many).2.is_empty());
    let more = (0..10_001).fold(many, |message, alias| message.metric(&aliased(alias)));
    assert!(host.hears("spBv1.0/plant/NDATA/gateway", &more).1[0].contains("more than 100000 metrics"));
}

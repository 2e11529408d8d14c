//! Every decoder of bytes from outside, under bytes that no device should send: none panics, none grows, and the next good message is read.

use std::{sync::Arc, time::Duration};

use firmware_bridge::{Clock, Head, Rows, Samples, WIRE_BYTES_MAX, encode_data};
use proptest::{collection::vec, prelude::*};
use qadf_edge::{
    ingest::{
        BridgeHost,
        decode::{
            Bridge, Context, Csv, Decoded, HEARD_BYTES_MAX, Json, JsonLines, ModbusAnswer, ModbusFunction, ModbusPoll,
            ModbusRegister, ModbusType, ModbusWordOrder, REJECT_BYTES_MAX, Routes, Sparkplug,
        },
    },
    model::{Batch, MissingTime, Stream, Timestamp},
};

/// The time of the row of a good message.
const GOOD_NS: i64 = 7_000_000_000;

/// A topic and what was published there; a line has no topics.
type Message = (&'static str, Vec<u8>);

/// Decodes what came under a topic.
type Hear = Box<dyn FnMut(&str, &[u8]) -> Decoded>;

/// A decoder under test.
struct Subject {
    name: &'static str,
    hear: Hear,
    /// What ends anything that came before.
    end: &'static [u8],
    /// Gives a row at [`GOOD_NS`] after whatever came before.
    good: Vec<Message>,
}

fn context() -> Context {
    Context::new("floor".into(), "line".into(), Timestamp(1))
}

fn stream() -> Arc<Stream> {
    let mut stream = Stream::new("melt", &["intensity"], &["part"]);
    stream.time_missing = MissingTime::Arrival;
    Arc::new(stream)
}

fn routes() -> Routes {
    Routes::one(&stream()).expect("the names differ")
}

fn decoded(decode: impl FnOnce(&mut Decoded)) -> Decoded {
    let mut out = Decoded::default();
    decode(&mut out);
    out
}

fn subjects() -> Vec<Subject> {
    let mut json = Json::new(routes());
    let mut lines = JsonLines::new(routes());
    let mut csv = Csv::new(routes());
    let mut bridge = Bridge::new(vec![stream()]);
    let (mut host, mut now) = (BridgeHost::new(vec![stream()]), tokio::time::Instant::now());
    let mut sparkplug = Sparkplug::new(routes());
    vec![
        Subject {
            name: "json",
            hear: Box::new(move |_, bytes| decoded(|out| json.message(bytes, &context(), out))),
            end: b"",
            good: vec![("", br#"[{"time":7000000000,"intensity":1.5,"part":"A\u00e93"}]"#.to_vec())],
        },
        Subject {
            name: "json_lines",
            hear: Box::new(move |_, bytes| decoded(|out| lines.feed(bytes, &context(), out))),
            end: b"\n",
            good: vec![("", b"{\"time\":\"1970-01-01T00:00:07Z\",\"intensity\":-1.5e0}\n".to_vec())],
        },
        Subject {
            name: "csv",
            hear: Box::new(move |_, bytes| decoded(|out| csv.feed(bytes, &context(), out))),
            end: b"\n",
            good: vec![("", b"time,intensity,part\r\n7000000000,1.5,\"A,\"\"3\"\r\n".to_vec())],
        },
        Subject {
            name: "bridge",
            hear: Box::new(move |_, bytes| {
                let out = decoded(|out| bridge.feed(bytes, &context(), out));
                bridge.take_heard();
                out
            }),
            end: b"\0",
            good: vec![("", frame())],
        },
        Subject {
            name: "bridge, in order",
            // What waits for rows that nobody sends is given up by and by.
            hear: Box::new(move |_, bytes| {
                let (mut out, mut words) = (host.received(bytes, &context()).0, Vec::new());
                loop {
                    now += Duration::from_secs(2);
                    if host.speak(now, &mut words) {
                        let (mut more, _) = host.release(&context());
                        out.batches.append(&mut more.batches);
                        out.rejects.append(&mut more.rejects);
                    }
                    if host.look_at().is_none() {
                        break;
                    }
                }
                out
            }),
            end: b"\0",
            good: vec![("", frame())],
        },
        Subject {
            name: "sparkplug_b",
            hear: Box::new(move |topic, bytes| {
                let out = decoded(|out| sparkplug.message(topic, bytes, &context(), out));
                assert!(sparkplug.take_notices().len() <= 8, "a message has few notices");
                out
            }),
            end: b"",
            good: vec![("spBv1.0/plant/NBIRTH/a", birth()), ("spBv1.0/plant/NDATA/a", data())],
        },
    ]
}

fn frame() -> Vec<u8> {
    let head = Head {
        device: 7,
        boot: 3,
        seq: 40,
        stream: 0,
        clock: Clock::Utc,
        time_ns: GOOD_NS,
        period_ns: 10,
        layer: Some(2),
        part: Some(12),
    };
    let mut buffer = vec![0; WIRE_BYTES_MAX];
    encode_data(&head, &Rows { position: None, signals: &[Samples::F32(&[1.5])] }, &mut buffer).expect("it fits").to_vec()
}

/// Time 7000 ms, `intensity` = alias 1 (`Double`) = 1.5, number 0.
fn birth() -> Vec<u8> {
    let metric = [&[0x0a, 9][..], b"intensity", &[0x10, 1, 0x20, 10, 0x69], &1.5_f64.to_le_bytes()].concat();
    [&[0x08, 0xd8, 0x36, 0x12, u8::try_from(metric.len()).expect("it is short")][..], &metric, &[0x18, 0]].concat()
}

/// The same by alias, number 1.
fn data() -> Vec<u8> {
    [&[0x08, 0xd8, 0x36, 0x12, 11, 0x10, 1, 0x69][..], &1.5_f64.to_le_bytes(), &[0x18, 1]].concat()
}

/// What one change does to a message.
#[derive(Debug, Clone)]
enum Edit {
    Replace(usize, u8),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    Repeat(usize, usize),
    End(usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Edit::Replace(at, byte)),
        (any::<usize>(), vec(any::<u8>(), 1..8)).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        (any::<usize>(), 1..16_usize).prop_map(|(at, count)| Edit::Remove(at, count)),
        (any::<usize>(), 1..64_usize).prop_map(|(at, count)| Edit::Repeat(at, count)),
        any::<usize>().prop_map(Edit::End),
    ]
}

fn edited(mut bytes: Vec<u8>, edits: &[Edit]) -> Vec<u8> {
    for edit in edits {
        let place = |at: usize| at % (bytes.len() + 1);
        let end = |at: usize, count: usize| (place(at) + count).min(bytes.len());
        match edit {
            Edit::Replace(at, byte) => {
                let at = place(*at);
                bytes.iter_mut().skip(at).take(1).for_each(|old| *old = *byte);
            }
            Edit::Insert(at, more) => {
                let at = place(*at);
                bytes.splice(at..at, more.iter().copied());
            }
            Edit::Remove(at, count) => {
                let range = place(*at)..end(*at, *count);
                bytes.drain(range);
            }
            Edit::Repeat(at, count) => {
                let range = place(*at)..end(*at, *count);
                let again = bytes[range.clone()].to_vec();
                bytes.splice(range.end..range.end, again);
            }
            Edit::End(at) => {
                let at = place(*at);
                bytes.truncate(at);
            }
        }
    }
    bytes
}

/// A message of Protocol Buffers' wire format, with messages inside.
fn protobuf(depth: u32) -> BoxedStrategy<Vec<u8>> {
    let number = || 0..24_u8;
    let varint = (number(), prop_oneof![0..32_u64, any::<u64>()]).prop_map(|(number, value)| {
        let mut bytes = key(number, 0);
        let mut rest = value;
        while rest > 0x7f {
            bytes.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
        bytes
    });
    let fixed32 = (number(), any::<[u8; 4]>()).prop_map(|(number, value)| [key(number, 5), value.to_vec()].concat());
    let fixed64 = (number(), any::<[u8; 8]>()).prop_map(|(number, value)| [key(number, 1), value.to_vec()].concat());
    let text = prop_oneof![
        Just(b"intensity".to_vec()),
        Just(b"part".to_vec()),
        Just(b"layer".to_vec()),
        Just(b"x".to_vec()),
        Just(b"bdSeq".to_vec()),
        vec(any::<u8>(), 0..12)
    ];
    let inner = if depth == 0 { text.boxed() } else { prop_oneof![text, protobuf(depth - 1)].boxed() };
    let bytes = (prop_oneof![Just(1_u8), Just(2), Just(2), number()], inner).prop_map(|(number, value)| {
        let length = u8::try_from(value.len()).unwrap_or(u8::MAX);
        // Beyond 127 the length is wrong on purpose.
        [key(number, 2), vec![length], value].concat()
    });
    vec(prop_oneof![varint, fixed32, fixed64, bytes.clone(), bytes], 0..8).prop_map(|fields| fields.concat()).boxed()
}

fn key(number: u8, wire_type: u8) -> Vec<u8> {
    let key = u16::from(number) << 3 | u16::from(wire_type);
    if key > 0x7f { vec![key as u8 | 0x80, (key >> 7) as u8] } else { vec![key as u8] }
}

fn topic() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "spBv1.0/plant/NBIRTH/a",
        "spBv1.0/plant/NDATA/a",
        "spBv1.0/plant/NDEATH/a",
        "spBv1.0/plant/DBIRTH/a/b",
        "spBv1.0/plant/DDATA/a/b",
        "spBv1.0/plant/DDEATH/a/b",
        "spBv1.0/plant/NCMD/a",
        "spBv1.0/STATE/host",
        "spBv1.0//NDATA/",
        "plant/a",
        "",
    ])
}

/// Hears bytes in pieces; what comes out is in proportion to what came in.
fn survives(subject: &mut Subject, topic: &str, bytes: &[u8], piece: usize) -> Result<(), TestCaseError> {
    let (mut kept, mut rows) = (0, 0);
    for piece in bytes.chunks(piece) {
        let out = (subject.hear)(topic, piece);
        prop_assert!(out.batches.iter().all(Batch::is_consistent), "{}", subject.name);
        prop_assert!(out.rejects.iter().all(|reject| reject.raw.len() <= REJECT_BYTES_MAX), "{}", subject.name);
        kept += out.rejects.iter().map(|reject| reject.raw.len()).sum::<usize>();
        rows += out.rows() as usize;
    }
    prop_assert!(kept <= 64 * bytes.len() + 1024 && rows <= 64 * bytes.len(), "{}: {kept} bytes, {rows} rows", subject.name);
    Ok(())
}

/// After whatever came before, a good message is read.
fn goes_on(subject: &mut Subject) -> Result<(), TestCaseError> {
    (subject.hear)("", subject.end);
    let good = subject.good.clone();
    for (topic, bytes) in good {
        let out = (subject.hear)(topic, &bytes);
        let times: Vec<i64> = out.batches.iter().flat_map(|batch| batch.time.clone()).collect();
        prop_assert_eq!(&*times, &[GOOD_NS][..], "{}: {:?}", subject.name, out.rejects);
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes_are_survived_and_the_next_good_message_is_read(
        bytes in vec(any::<u8>(), 0..2000), topic in topic(), piece in 1..2000_usize,
    ) {
        for mut subject in subjects() {
            survives(&mut subject, topic, &bytes, piece)?;
            goes_on(&mut subject)?;
        }
    }

    #[test]
    fn damaged_messages_are_survived_and_the_next_good_one_is_read(
        copies in 1..4_usize, edits in vec(edit(), 1..8), topic in topic(), piece in 1..200_usize,
    ) {
        for mut subject in subjects() {
            let whole: Vec<u8> = subject.good.iter().flat_map(|(_, bytes)| bytes.repeat(copies)).collect();
            survives(&mut subject, topic, &edited(whole, &edits), piece)?;
            goes_on(&mut subject)?;
            // Whole messages of a message codec, damaged each for itself.
            for (topic, bytes) in subject.good.clone() {
                survives(&mut subject, topic, &edited(bytes, &edits), usize::MAX)?;
            }
            goes_on(&mut subject)?;
        }
    }

    #[test]
    fn any_sequence_of_sparkplug_messages_is_survived(messages in vec((topic(), protobuf(2)), 1..12)) {
        let mut subject = subjects().pop().expect("there are some");
        prop_assert_eq!(subject.name, "sparkplug_b");
        for (topic, bytes) in &messages {
            survives(&mut subject, topic, bytes, usize::MAX)?;
        }
        goes_on(&mut subject)?;
    }

    #[test]
    fn a_modbus_answer_is_found_behind_anything(
        before in vec(any::<u8>(), 0..HEARD_BYTES_MAX), words in vec(any::<u16>(), 3), damage in 0..8_usize,
    ) {
        let register = |signal: &str, address, kind| ModbusRegister { signal: signal.into(), address, kind, scale: 1.0, offset: 0.0 };
        let registers = [register("intensity", 5, ModbusType::F32), register("layer", 7, ModbusType::U16)];
        let poll = ModbusPoll::new(9, ModbusFunction::Input, ModbusWordOrder::Big, &stream(), &registers).expect("it makes sense");
        let request = poll.requests()[0];
        let body: Vec<u8> = [9, 4, 6].into_iter().chain(words.iter().flat_map(|word| word.to_be_bytes())).collect();
        let answer = [&body[..], &checksum(&body)].concat();
        prop_assert_eq!(request.answer(&before), ModbusAnswer::Incomplete);
        let heard = [before, answer].concat();
        prop_assert_eq!(request.answer(&heard), ModbusAnswer::Registers(words.clone()));
        let mut damaged = heard;
        let last = damaged.len() - 1;
        damaged[last - damage] ^= 1;
        prop_assert_eq!(request.answer(&damaged), ModbusAnswer::Incomplete);
        let out = decoded(|out| poll.row(&words, &damaged, &context(), out));
        prop_assert!(out.received() == 1 && out.batches.iter().all(Batch::is_consistent));
        let out = decoded(|out| poll.row(&words[..2], &damaged, &context(), out));
        prop_assert_eq!(out.rejects.len(), 1);
    }
}

/// CRC-16/MODBUS.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let step = |crc: u16, _| if crc & 1 == 1 { crc >> 1 ^ 0xa001 } else { crc >> 1 };
    bytes.iter().fold(0xffff, |crc, byte| (0..8).fold(crc ^ u16::from(*byte), step)).to_le_bytes()
}

/// The memory of this process now and at most, MiB.
fn memory_mib(key: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("it is there");
    line.split_whitespace().next().and_then(|kilobytes| kilobytes.parse::<usize>().ok()).expect("a number") / 1024
}

#[test]
fn floods_that_never_end_a_message_are_held_in_bounded_memory() {
    const PIECE: usize = 64 * 1024;
    const PIECES: usize = 512;
    let before = memory_mib("VmRSS:");
    for mut subject in subjects() {
        for unit in [&b"x"[..], b"[", b"{\"time\":", b"\"", b",", b"\x0a", b"\xff", b"1"] {
            let piece: Vec<u8> = unit.iter().copied().cycle().take(PIECE).collect();
            // A line's decoder holds what has no end; a message's has seen all of it.
            let pieces = if subject.end.is_empty() { 8 } else { PIECES / 8 };
            for _ in 0..pieces {
                (subject.hear)("spBv1.0/plant/NDATA/a", &piece);
            }
        }
        goes_on(&mut subject).expect("the next good message is read");
    }
    let grown = memory_mib("VmHWM:") - before;
    assert!(grown < 128, "{grown} MiB for {} MiB of rubbish", (2 * PIECE * PIECES) >> 20);
}

#[test]
fn nodes_that_announce_themselves_without_end_are_held_in_bounded_memory() {
    let before = memory_mib("VmRSS:");
    let mut sparkplug = Sparkplug::new(routes());
    // A hundred aliases each.
    let metric = |alias: u8| [&[0x12, 15, 0x0a, 9][..], b"intensity", &[0x10, alias % 100 + 1, 0x20, 10]].concat();
    let birth: Vec<u8> = (0..100).flat_map(metric).collect();
    for node in 0..10_000 {
        let name = format!("{node}-{}", "n".repeat(900));
        let out = decoded(|out| sparkplug.message(&format!("spBv1.0/plant/NBIRTH/{name}"), &birth, &context(), out));
        assert_eq!(out.rejects.is_empty(), node < 4096, "beyond, they are refused");
        sparkplug.take_notices();
    }
    let grown = memory_mib("VmHWM:").saturating_sub(before);
    assert!(grown < 128, "{grown} MiB");
}

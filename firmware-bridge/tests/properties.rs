//! What holds for all frames and all bytes.

use firmware_bridge::{
    Accumulator, Ack, Axis, AxisColumn, Clock, Column, DataFrame, EncodeError, Frame, Head, Hello, ROWS_MAX, Reason, Rejected,
    Resend, Rows, Samples, Scale, TEXT_BYTES_MAX, WIRE_BYTES_MAX, decode, encode_ack, encode_data, encode_hello, encode_resend,
};
use proptest::prelude::*;

/// A message that owns its columns.
#[derive(Debug, Clone)]
enum Message {
    Data(Head, Option<[Line; 3]>, Vec<Measured>),
    Hello(u32, String, Vec<String>),
    Ack(Ack),
    Resend(Resend),
}

#[derive(Debug, Clone)]
enum Line {
    Constant(i32),
    PerRow(Vec<i32>),
}

#[derive(Debug, Clone)]
enum Measured {
    I16(Scale, Vec<i16>),
    I32(Scale, Vec<i32>),
    F32(Vec<f32>),
}

impl Message {
    fn encode(&self) -> Vec<u8> {
        let mut buffer = vec![0; WIRE_BYTES_MAX];
        self.write(&mut buffer).expect("the buffer is large enough and the message valid").to_vec()
    }

    fn write<'b>(&self, buffer: &'b mut [u8]) -> Result<&'b [u8], EncodeError> {
        match self {
            Self::Data(head, position, signals) => {
                let axis = |line| match line {
                    &Line::Constant(nm) => Axis::Constant(nm),
                    Line::PerRow(nm) => Axis::PerRow(nm),
                };
                let samples = |measured| match measured {
                    &Measured::I16(scale, ref counts) => Samples::I16(scale, counts),
                    &Measured::I32(scale, ref counts) => Samples::I32(scale, counts),
                    Measured::F32(values) => Samples::F32(values),
                };
                let signals: Vec<Samples<'_>> = signals.iter().map(samples).collect();
                let position = position.as_ref().map(|lines| lines.each_ref().map(axis));
                encode_data(head, &Rows { position, signals: &signals }, buffer)
            }
            Self::Hello(device, name, signals) => encode_hello(&hello(*device, name, signals), buffer),
            Self::Ack(ack) => encode_ack(*ack, buffer),
            Self::Resend(resend) => encode_resend(*resend, buffer),
        }
    }

    fn is(&self, frame: &Frame<'_>) -> bool {
        match (self, frame) {
            (Self::Data(head, position, signals), Frame::Data(data)) => {
                data.head() == head
                    && signals.len() == data.signals().len()
                    && signals.iter().zip(data.signals()).all(|(sent, got)| sent.is(*got, data.rows()))
                    && position.is_some() == data.position().is_some()
                    && position.iter().flatten().zip(data.position().iter().flatten()).all(|(sent, got)| sent.is(*got, data.rows()))
            }
            (Self::Hello(device, name, signals), Frame::Hello(got)) => hello(*device, name, signals) == *got,
            (Self::Ack(sent), Frame::Ack(got)) => sent == got,
            (Self::Resend(sent), Frame::Resend(got)) => sent == got,
            _ => false,
        }
    }
}

fn hello<'a>(device: u32, name: &'a str, signals: &'a [String]) -> Hello<'a> {
    let signals = signals.iter().map(String::as_str).collect();
    Hello { device, boot: 7, firmware: [1, 2, 3], name, stream: 9, stream_name: name, period_ns: 20_000, signals }
}

impl Line {
    fn is(&self, got: AxisColumn<'_>, rows: usize) -> bool {
        match self {
            Self::Constant(nm) => got.nanometres(rows).eq(std::iter::repeat_n(*nm, rows)),
            Self::PerRow(nm) => got.nanometres(rows).eq(nm.iter().copied()),
        }
    }
}

impl Measured {
    fn is(&self, got: Column<'_>, rows: usize) -> bool {
        let values: Vec<Option<f64>> = got.values().collect();
        let mut folded = Vec::new();
        got.values().for_each(|value| folded.push(value));
        let same = |a: Option<f64>, b: Option<f64>| a.map(f64::to_bits) == b.map(f64::to_bits);
        let expected: Vec<Option<f64>> = match self {
            Self::I16(scale, counts) => counts.iter().map(|n| (*n != i16::MIN).then(|| scale.value((*n).into()))).collect(),
            Self::I32(scale, counts) => counts.iter().map(|n| (*n != i32::MIN).then(|| scale.value(*n))).collect(),
            Self::F32(values) => values.iter().map(|value| Some(f64::from(*value))).collect(),
        };
        expected.len() == rows
            && values.len() == rows
            && folded.iter().zip(&expected).all(|(a, b)| same(*a, *b))
            && values.iter().zip(&expected).all(|(a, b)| same(*a, *b))
    }
}

fn scale() -> impl Strategy<Value = Scale> {
    (any::<i32>(), any::<i32>(), -15..=15_i8).prop_map(|(multiplier, offset, exponent)| Scale { multiplier, offset, exponent })
}

fn head() -> impl Strategy<Value = Head> {
    let times = (any::<bool>(), any::<i64>(), any::<u64>());
    let place = (any::<Option<i32>>(), any::<Option<u16>>());
    (any::<(u32, u32, u64, u16)>(), times, place).prop_map(
        |((device, boot, seq, stream), (set, time_ns, period_ns), (layer, part))| {
            let clock = if set { Clock::Utc } else { Clock::SinceStart };
            Head { device, boot, seq, stream, clock, time_ns, period_ns, layer, part }
        },
    )
}

/// Small numbers are frequent: their zeros are what COBS is about.
fn number() -> impl Strategy<Value = i32> {
    prop_oneof![any::<i32>(), -300..300, Just(0), Just(i32::MIN)]
}

fn line(rows: usize) -> impl Strategy<Value = Line> {
    prop_oneof![number().prop_map(Line::Constant), proptest::collection::vec(number(), rows).prop_map(Line::PerRow)]
}

fn measured(rows: usize) -> impl Strategy<Value = Measured> {
    let short = number().prop_map(|number| number as i16);
    prop_oneof![
        (scale(), proptest::collection::vec(short, rows)).prop_map(|(scale, counts)| Measured::I16(scale, counts)),
        (scale(), proptest::collection::vec(number(), rows)).prop_map(|(scale, counts)| Measured::I32(scale, counts)),
        proptest::collection::vec(any::<f32>(), rows).prop_map(Measured::F32),
    ]
}

fn data(rows_max: usize) -> impl Strategy<Value = Message> {
    (1..=rows_max).prop_flat_map(|rows| {
        let position = proptest::option::of([line(rows), line(rows), line(rows)]);
        (head(), position, proptest::collection::vec(measured(rows), 1..=8))
            .prop_map(|(head, position, signals)| Message::Data(head, position, signals))
    })
}

fn message(rows_max: usize) -> impl Strategy<Value = Message> {
    prop_oneof![
        6 => data(rows_max),
        1 => (any::<u32>(), "[a-z/µ]{0,16}", proptest::collection::vec("[a-z_]{0,32}", 0..=8))
            .prop_map(|(device, name, signals)| Message::Hello(device, name, signals)),
        1 => any::<(u32, u64)>().prop_map(|(boot, seq)| Message::Ack(Ack { boot, seq })),
        1 => any::<(u32, u64)>().prop_map(|(boot, seq)| Message::Resend(Resend { boot, seq })),
    ]
}

/// Noise between frames: all bytes but the zero, which would only end it sooner.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(1..=u8::MAX, 0..40)
}

/// Feeds `bytes` in pieces of the given lengths, over and over, and gives what `each` makes of the events.
fn events<T>(bytes: &[u8], pieces: &[usize], mut each: impl FnMut(Result<Frame<'_>, Rejected<'_>>) -> T) -> Vec<T> {
    let mut accumulator = Box::new(Accumulator::<WIRE_BYTES_MAX>::new());
    let (mut seen, mut rest) = (Vec::new(), bytes);
    for length in pieces.iter().cycle() {
        let (piece, tail) = rest.split_at((*length).min(rest.len()));
        accumulator.feed(piece, |event| seen.push(each(event)));
        rest = tail;
        if rest.is_empty() {
            break;
        }
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_sent_is_received_in_pieces_of_any_length(
        messages in proptest::collection::vec(message(40), 1..5),
        pieces in proptest::collection::vec(1_usize..3000, 1..8),
    ) {
        let bytes: Vec<u8> = messages.iter().flat_map(Message::encode).collect();
        let mut sent = messages.iter();
        let received = events(&bytes, &pieces, |event| event.is_ok_and(|frame| sent.next().is_some_and(|message| message.is(&frame))));
        prop_assert_eq!(received, vec![true; messages.len()]);
    }

    #[test]
    fn noise_between_frames_touches_no_frame_and_is_reported(
        parts in proptest::collection::vec((noise(), message(12)), 1..6),
        pieces in proptest::collection::vec(1_usize..300, 1..8),
    ) {
        let bytes: Vec<u8> = parts.iter().flat_map(|(noise, message)| [noise.clone(), message.encode()].concat()).collect();
        let mut sent = parts.iter().map(|(_, message)| message);
        let mut rejected = Vec::new();
        let received = events(&bytes, &pieces, |event| match event {
            Ok(frame) => sent.next().is_some_and(|message| message.is(&frame)),
            Err(bad) => { rejected.push(bad.raw.to_vec()); true }
        });
        prop_assert!(received.iter().all(|same| *same));
        prop_assert!(sent.next().is_none());
        let noise: Vec<Vec<u8>> = parts.into_iter().map(|(noise, _)| noise).filter(|noise| !noise.is_empty()).collect();
        prop_assert_eq!(rejected, noise);
    }

    #[test]
    fn a_damaged_byte_costs_only_the_frames_it_touches(
        messages in proptest::collection::vec(message(12), 2..6),
        at in any::<prop::sample::Index>(), flip in 1..=u8::MAX,
    ) {
        let frames: Vec<Vec<u8>> = messages.iter().map(Message::encode).collect();
        let mut bytes = frames.concat();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        // The frame that holds the byte; a lost zero at its edge joins nothing, as the neighbour brings its own.
        let ends: Vec<usize> = frames.iter().scan(0, |end, frame| { *end += frame.len(); Some(*end) }).collect();
        let touched = ends.iter().position(|end| at < *end).unwrap_or_default();
        let mut good = Vec::new();
        let mut rejected = 0;
        events(&bytes, &[64], |event| match event {
            Ok(frame) => good.extend(messages.iter().position(|message| message.is(&frame))),
            Err(_) => rejected += 1,
        });
        for (index, message) in messages.iter().enumerate() {
            let twin = messages.iter().filter(|other| other.encode() == message.encode()).count() > 1;
            prop_assert!(index == touched || twin || good.contains(&index), "frame {} of {}", index, messages.len());
        }
        prop_assert!(rejected <= 2);
    }

    #[test]
    fn any_bytes_are_refused_or_read_but_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..2000),
        pieces in proptest::collection::vec(1_usize..300, 1..4),
    ) {
        let kept: usize = events(&bytes, &pieces, |event| event.map_or_else(|bad| bad.raw.len(), |_| 0)).iter().sum();
        prop_assert!(kept <= bytes.len());
    }

    #[test]
    fn any_header_behind_a_good_checksum_is_refused_or_read(kind in 0..6_u8, body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut plain = [&[1, kind][..], &body].concat();
        plain.extend(crc32(&plain).to_le_bytes());
        let wire = stuff(&plain);
        let mut buffer = vec![0; wire.len()];
        if let Ok(Frame::Data(data)) = decode(&wire, &mut buffer) {
            touch_all(&data);
        }
    }
}

fn touch_all(data: &DataFrame<'_>) {
    assert!((1..=ROWS_MAX).contains(&data.rows()));
    assert_eq!(data.times_ns().len(), data.rows());
    assert!(data.last_seq() >= data.head().seq);
    for column in data.signals() {
        assert_eq!(column.values().count(), data.rows());
    }
    for axis in data.position().iter().flatten() {
        assert!(axis.millimetres(data.rows()).all(f64::is_finite));
    }
}

/// Bit by bit, from the standard's polynomial: independent of the crate's.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

/// Byte by byte, from the paper: independent of the crate's.
fn stuff(plain: &[u8]) -> Vec<u8> {
    let (mut out, mut code_at) = (vec![0], 0);
    for byte in plain {
        if out.len() - code_at == 255 {
            out[code_at] = 255;
            code_at = out.len();
            out.push(0);
        }
        if *byte == 0 {
            out[code_at] = (out.len() - code_at) as u8;
            code_at = out.len();
            out.push(0);
        } else {
            out.push(*byte);
        }
    }
    out[code_at] = (out.len() - code_at) as u8;
    out
}

fn reason_of(plain: &[u8]) -> Option<Reason> {
    let wire = stuff(&[plain, &crc32(plain).to_le_bytes()].concat());
    let mut buffer = vec![0; wire.len()];
    decode(&wire, &mut buffer).err()
}

#[test]
fn each_way_to_be_wrong_has_its_reason() {
    assert_eq!(reason_of(&[2, 1, 0]), Some(Reason::Version(2)));
    assert_eq!(reason_of(&[1, 77]), Some(Reason::Kind(77)));
    assert_eq!(reason_of(&[1]), Some(Reason::TooShort));
    assert_eq!(reason_of(&[1, 3, 5]), Some(Reason::Header));
    assert_eq!(reason_of(&[1, 3, 5, 6]), None);
    assert_eq!(reason_of(&[1, 3, 5, 6, 7]), Some(Reason::Length { stated: 0, received: 1 }));
    // device, boot, seq, stream, clock, time, period, no layer, no part, rows, no position, signals.
    let header = |rows: u8, signals: &[u8]| [&[1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, rows, 0][..], signals].concat();
    assert_eq!(reason_of(&header(1, &[1, 2, 9, 9, 9, 9])), None);
    assert_eq!(reason_of(&header(0, &[1, 2])), Some(Reason::Limit));
    assert_eq!(reason_of(&header(1, &[0])), Some(Reason::Limit));
    assert_eq!(reason_of(&header(1, &[9, 2, 2, 2, 2, 2, 2, 2, 2, 2])), Some(Reason::Header));
    assert_eq!(reason_of(&header(1, &[1, 0, 2, 0, 16, 9, 9])), Some(Reason::Limit));
    assert_eq!(reason_of(&header(2, &[1, 2, 9, 9, 9, 9])), Some(Reason::Length { stated: 8, received: 4 }));
    let mut buffer = [0; 16];
    assert_eq!(decode(&[9, 1], &mut buffer), Err(Reason::Stuffing));
    assert_eq!(
        decode(&[7, 1, 3, 5, 6, 1, 2], &mut buffer),
        Err(Reason::Checksum { stated: 0x0201_0605, computed: crc32(&[1, 3]) })
    );
}

#[test]
fn what_the_format_cannot_hold_is_not_sent() {
    let head = Head { device: 1, boot: 1, seq: 0, stream: 0, clock: Clock::Utc, time_ns: 0, period_ns: 1, layer: None, part: None };
    let refuse = |position, signals: &[Samples<'_>]| {
        let mut buffer = vec![0; WIRE_BYTES_MAX];
        encode_data(&head, &Rows { position, signals }, &mut buffer).err()
    };
    let counts = [0_i32; 600];
    let column = |rows| Samples::I32(Scale::ONE, &counts[..rows]);
    assert_eq!(refuse(None, &[]), Some(EncodeError::Signals(0)));
    assert_eq!(refuse(None, &[column(1); 9]), Some(EncodeError::Signals(9)));
    assert_eq!(refuse(None, &[column(0)]), Some(EncodeError::Rows(0)));
    assert_eq!(refuse(None, &[column(513)]), Some(EncodeError::Rows(513)));
    assert_eq!(refuse(None, &[column(2), column(3)]), Some(EncodeError::Uneven));
    let short = Axis::PerRow(&counts[..1]);
    assert_eq!(refuse(Some([Axis::Constant(0), Axis::Constant(0), short]), &[column(2)]), Some(EncodeError::Uneven));
    let steep = Scale { exponent: -16, ..Scale::ONE };
    assert_eq!(refuse(None, &[Samples::I32(steep, &counts[..1])]), Some(EncodeError::Exponent(-16)));
    let long = "x".repeat(TEXT_BYTES_MAX + 1);
    let mut buffer = [0; 1000];
    assert_eq!(encode_hello(&hello(1, &long, &[]), &mut buffer), Err(EncodeError::Text(33)));
    assert_eq!(encode_ack(Ack { boot: 1, seq: 2 }, &mut [0; 10]), Err(EncodeError::Buffer));
    assert_eq!(encode_ack(Ack { boot: u32::MAX, seq: u64::MAX }, &mut [0; 32]).map(<[u8]>::len), Ok(24));
}

#[test]
fn the_largest_frames_fit_the_stated_bound() {
    let head = Head {
        device: u32::MAX,
        boot: u32::MAX,
        seq: u64::MAX,
        stream: u16::MAX,
        clock: Clock::SinceStart,
        time_ns: i64::MIN,
        period_ns: u64::MAX,
        layer: Some(i32::MIN),
        part: Some(u16::MAX),
    };
    let line = Line::PerRow(vec![-1; ROWS_MAX]);
    let scale = Scale { multiplier: i32::MIN, offset: i32::MIN, exponent: -15 };
    let signals = vec![Measured::I32(scale, vec![-1; ROWS_MAX]); 8];
    let largest = Message::Data(head, Some([line.clone(), line.clone(), line]), signals);
    let bytes = largest.encode();
    assert!(bytes.len() > ROWS_MAX * 44 && bytes.len() <= WIRE_BYTES_MAX);
    assert_eq!(events(&bytes, &[100], |event| event.is_ok_and(|frame| largest.is(&frame))), [true]);
    let names = vec!["n".repeat(TEXT_BYTES_MAX); 8];
    let hello = Message::Hello(u32::MAX, "d".repeat(TEXT_BYTES_MAX), names);
    assert_eq!(events(&hello.encode(), &[100], |event| event.is_ok_and(|frame| hello.is(&frame))), [true]);
}

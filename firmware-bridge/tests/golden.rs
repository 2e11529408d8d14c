//! Every frame ever shipped stays readable: `golden/v1-*.hex` were written by an independent program from the crate's
//! documentation. If a test here fails, the code is wrong; the files are never edited.

use firmware_bridge::{
    Accumulator, Ack, Axis, Clock, Frame, Head, Hello, Resend, Rows, Samples, Scale, WIRE_BYTES_MAX, encode_ack, encode_data,
    encode_hello, encode_resend,
};

fn golden(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter_map(|digit| char::from(digit).to_digit(16)).map(|digit| digit as u8).collect();
    assert!(!digits.is_empty());
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// Reads the one frame in `bytes`.
fn read(bytes: &[u8], look: impl Fn(&Frame<'_>)) {
    let mut accumulator = Box::new(Accumulator::<WIRE_BYTES_MAX>::new());
    let mut seen = 0;
    accumulator.feed(bytes, |event| {
        look(&event.unwrap());
        seen += 1;
    });
    assert_eq!(seen, 1);
}

const FULL: Head = Head {
    device: 0x0a0b_0c0d,
    boot: 1_700_000_000,
    seq: 4_294_967_296,
    stream: 1,
    clock: Clock::Utc,
    time_ns: 1_700_000_000_123_456_789,
    period_ns: 100_000,
    layer: Some(-7),
    part: Some(300),
};

#[test]
fn a_data_frame_of_version_1_with_everything_in_it() {
    let bytes = golden(include_str!("golden/v1-data.hex"));
    let millivolts = Scale { multiplier: 1, offset: 0, exponent: -3 };
    let celsius = Scale { multiplier: 25, offset: 50_000, exponent: -2 };
    let position =
        [Axis::PerRow(&[1_000_000, -1_016_000, 0]), Axis::PerRow(&[125_000_000, i32::MAX, i32::MIN]), Axis::Constant(1_480_000)];
    let signals = [
        Samples::I16(millivolts, &[3217, i16::MIN, -1]),
        Samples::I32(celsius, &[6001, i32::MIN, 0]),
        Samples::F32(&[0.5, -0.0, f32::MAX]),
    ];
    let mut buffer = [0; 300];
    assert_eq!(encode_data(&FULL, &Rows { position: Some(position), signals: &signals }, &mut buffer), Ok(&bytes[..]));
    read(&bytes, |frame| {
        let Frame::Data(data) = frame else { unreachable!() };
        assert_eq!((data.head(), data.rows(), data.last_seq()), (&FULL, 3, 4_294_967_298));
        let times: Vec<i64> = data.times_ns().map(|time| time - FULL.time_ns).collect();
        assert_eq!(times, [0, 100_000, 200_000]);
        let axes = data.position().unwrap().map(|axis| axis.millimetres(3).collect::<Vec<_>>());
        assert_eq!(axes, [vec![1.0, -1.016, 0.0], vec![125.0, 2_147.483_647, -2_147.483_648], vec![1.48; 3]]);
        let signals: Vec<Vec<Option<f64>>> = data.signals().iter().map(|column| column.values().collect()).collect();
        assert_eq!(signals[0], [Some(3.217), None, Some(-0.001)]);
        assert_eq!(signals[1], [Some(2000.25), None, Some(500.0)]);
        assert_eq!(signals[2], [Some(0.5), Some(-0.0), Some(f64::from(f32::MAX))]);
    });
}

#[test]
fn the_least_data_frame_of_version_1() {
    let bytes = golden(include_str!("golden/v1-least.hex"));
    let head =
        Head { device: 0, boot: 0, seq: 0, stream: 0, clock: Clock::SinceStart, time_ns: 0, period_ns: 0, layer: None, part: None };
    let mut buffer = [0; 64];
    let rows = Rows { position: None, signals: &[Samples::I16(Scale::ONE, &[0])] };
    assert_eq!(encode_data(&head, &rows, &mut buffer), Ok(&bytes[..]));
    read(&bytes, |frame| assert!(matches!(frame, Frame::Data(data) if *data.head() == head && data.rows() == 1)));
}

#[test]
fn a_data_frame_of_version_1_longer_than_a_cobs_block() {
    let bytes = golden(include_str!("golden/v1-long.hex"));
    let head = Head {
        device: 1,
        boot: 1,
        seq: 512,
        stream: 0,
        clock: Clock::Utc,
        time_ns: 0,
        period_ns: 20_000,
        layer: Some(1),
        part: None,
    };
    let counts: Vec<i16> = (257..513).collect();
    let scale = Scale { multiplier: 2, offset: 0, exponent: -4 };
    let mut buffer = [0; 700];
    let rows = Rows { position: None, signals: &[Samples::I16(scale, &counts)] };
    assert_eq!(encode_data(&head, &rows, &mut buffer), Ok(&bytes[..]));
    read(&bytes, |frame| {
        let Frame::Data(data) = frame else { unreachable!() };
        assert!(data.signals()[0].values().eq(counts.iter().map(|count| Some(f64::from(*count) / 5000.0))));
    });
}

#[test]
fn the_other_frames_of_version_1() {
    let mut buffer = [0; 300];
    let hello = Hello {
        device: 7,
        boot: 2,
        firmware: [1, 0, 12],
        name: "scan-head",
        stream: 1,
        stream_name: "optical",
        period_ns: 100_000,
        signals: ["intensity", "laser_power"].into_iter().collect(),
    };
    let bytes = golden(include_str!("golden/v1-hello.hex"));
    assert_eq!(encode_hello(&hello, &mut buffer), Ok(&bytes[..]));
    read(&bytes, |frame| assert_eq!(*frame, Frame::Hello(hello.clone())));

    let ack = Ack { boot: 2, seq: 62_099 };
    let bytes = golden(include_str!("golden/v1-ack.hex"));
    assert_eq!(encode_ack(ack, &mut buffer), Ok(&bytes[..]));
    read(&bytes, |frame| assert_eq!(*frame, Frame::Ack(ack)));

    let resend = Resend { boot: 2, seq: 61_000 };
    let bytes = golden(include_str!("golden/v1-resend.hex"));
    assert_eq!(encode_resend(resend, &mut buffer), Ok(&bytes[..]));
    read(&bytes, |frame| assert_eq!(*frame, Frame::Resend(resend)));
}

//! Modbus RTU on a real pseudo-terminal, with a slave that behaves as it is told.

use std::{
    fs::File,
    io::{Read, Write},
    path::Path,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use qadf_edge::{
    ingest::{
        ModbusConfig, SerialCodec, SerialConfig, SerialParity, SerialStopBits, SourceKind,
        decode::{ModbusFunction, ModbusPoll, ModbusRegister, ModbusType, ModbusWordOrder, Reject, Routes},
    },
    model::{Batch, Flags, MissingTime, Stream},
};
use tokio::time::timeout;

use super::{PATIENCE, Running, serial::Machine, synced};

/// How unit 2 answers; unit 1 is always good unless all are silent.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Good,
    /// Our question comes back, then noise, then the answer.
    Echoing,
    Damaged,
    Refusing,
    Silent,
    /// Only after another unit was asked something.
    Late,
    AllSilent,
}

/// The checksum of Modbus RTU, bit by bit over the whole message, written from the standard's flow chart.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut register = 0xffff_u16;
    for byte in bytes {
        register ^= u16::from(*byte);
        for _ in 0..8 {
            let carry = register & 1;
            register >>= 1;
            if carry == 1 {
                register ^= 0xa001;
            }
        }
    }
    register.to_le_bytes()
}

fn framed(body: &[u8]) -> Vec<u8> {
    [body, &checksum(body)].concat()
}

/// Unit 1 holds 12.5 in holding registers 0 and 1, and -250 in 7; unit 2 holds 65538 in input registers 100 and 101, low word first.
fn registers(unit: u8, function: u8, address: u16) -> &'static [u8] {
    match (unit, function, address) {
        (1, 3, 0) => &[0x41, 0x48, 0x00, 0x00],
        (1, 3, 7) => &[0xff, 0x06],
        (2, 4, 100) => &[0x00, 0x02, 0x00, 0x01],
        other => panic!("nobody should ask for {other:?}"),
    }
}

/// Answers questions until the master hangs up.
fn serve(mut line: File, manner: &Mutex<Manner>) {
    let (mut late, mut question) = (None, [0; 8]);
    while line.read_exact(&mut question).is_ok() {
        let [unit, function, address_hi, address_lo, 0, count, ..] = question else { panic!("{question:?}") };
        assert_eq!(question[6..], checksum(&question[..6]), "{question:?}");
        let registers = registers(unit, function, u16::from_be_bytes([address_hi, address_lo]));
        assert_eq!(registers.len(), 2 * usize::from(count));
        let good = framed(&[&[unit, function, 2 * count], registers].concat());
        let manner = *manner.lock().unwrap();
        let answer = match manner {
            Manner::AllSilent => Vec::new(),
            _ if unit == 1 => [late.take().unwrap_or_default(), good].concat(),
            Manner::Good => good,
            Manner::Echoing => [&question[..], &[0x00, 0xff], &good].concat(),
            Manner::Damaged => good.iter().enumerate().map(|(at, byte)| if at == 4 { byte ^ 1 } else { *byte }).collect(),
            Manner::Refusing => framed(&[unit, function | 0x80, 2]),
            Manner::Silent => Vec::new(),
            Manner::Late => {
                late = Some(good);
                Vec::new()
            }
        };
        if line.write_all(&answer).is_err() {
            return;
        }
    }
}

fn register(signal: &str, address: u16, kind: ModbusType, scale: f64) -> ModbusRegister {
    ModbusRegister { signal: signal.into(), address, kind, scale, offset: 0.0 }
}

fn config(device: &Path) -> SourceKind {
    let mut stream = Stream::new("chamber", &["pressure", "temperature", "runs"], &["unit"]);
    stream.time_missing = MissingTime::Arrival;
    let stream = Arc::new(stream);
    let one = [register("temperature", 7, ModbusType::I16, 0.1), register("pressure", 0, ModbusType::F32, 1.0)];
    let two = [register("runs", 100, ModbusType::U32, 1.0)];
    let polls = vec![
        ModbusPoll::new(2, ModbusFunction::Input, ModbusWordOrder::Little, &stream, &two).unwrap(),
        ModbusPoll::new(1, ModbusFunction::Holding, ModbusWordOrder::Big, &stream, &one).unwrap(),
    ];
    let modbus = ModbusConfig { polls, every: Duration::from_millis(10), timeout: Duration::from_millis(250) };
    SourceKind::Serial(SerialConfig {
        device: device.display().to_string(),
        baud: 115_200,
        parity: SerialParity::None,
        stop_bits: SerialStopBits::One,
        codec: SerialCodec::ModbusRtu(modbus),
        routes: Routes::one(&stream).unwrap(),
    })
}

/// Syncs parcels until `found` is in one.
async fn until<T>(source: &mut Running, found: impl Fn(&[Batch], &[Reject]) -> Option<T>) -> T {
    let search = async {
        loop {
            let parcel = source.parcel().await;
            let found = found(&parcel.decoded.batches, &parcel.decoded.rejects);
            synced(parcel);
            if let Some(found) = found {
                return found;
            }
        }
    };
    timeout(PATIENCE, search).await.expect("it comes in time")
}

/// The next row of a unit: pressure, temperature, runs.
async fn row(source: &mut Running, unit: &str) -> [f64; 3] {
    until(source, |batches, _| {
        batches.iter().find_map(|batch| {
            let row = (0..batch.rows()).find(|row| batch.tags[0].get(*row).is_some_and(|tag| &**tag == unit))?;
            assert_eq!(batch.time[row], batch.arrival.0);
            assert_eq!(batch.flags(row), Flags::ARRIVAL_TIME);
            Some([batch.signals[0][row], batch.signals[1][row], batch.signals[2][row]])
        })
    })
    .await
}

/// The bytes of the next reject for `reason`.
async fn refused(source: &mut Running, reason: &str) -> Vec<u8> {
    until(source, |_, rejects| rejects.iter().find(|reject| reject.reason.contains(reason)).map(|reject| reject.raw.clone())).await
}

#[tokio::test]
async fn units_are_asked_and_whatever_they_do_ends_in_rows_or_rejects() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("plc");
    let manner = Arc::new(Mutex::new(Manner::Good));
    let behave = |how: Manner| *manner.lock().unwrap() = how;
    let machine = Machine::plug_in(&link);
    let slave = thread::spawn({
        let manner = Arc::clone(&manner);
        move || serve(machine.0, &manner)
    });
    let mut source = Running::start(config(&link));

    let [pressure, temperature, runs] = row(&mut source, "1").await;
    assert_eq!((pressure, temperature, runs.is_nan()), (12.5, -25.0, true));
    assert_eq!(row(&mut source, "2").await[2], 65_538.0);

    behave(Manner::Refusing);
    let heard = refused(&mut source, "unit 2, input registers 100 to 101: exception 2: it does not have these registers").await;
    assert_eq!(heard, framed(&[2, 0x84, 2]));

    behave(Manner::Damaged);
    let heard = refused(&mut source, "9 bytes within 250ms, but no whole and undamaged answer").await;
    assert_eq!(heard[..7], [2, 4, 4, 0x00, 0x03, 0x00, 0x01]);

    behave(Manner::Silent);
    assert_eq!(refused(&mut source, "unit 2, input registers 100 to 101: no answer within 250ms").await, b"");
    assert_eq!(row(&mut source, "1").await[0], 12.5, "the others go on");
    source.until_up().await;

    behave(Manner::Echoing);
    assert_eq!(row(&mut source, "2").await[2], 65_538.0);

    behave(Manner::Late);
    refused(&mut source, "no answer within").await;
    let [pressure, temperature, _] = row(&mut source, "1").await;
    assert_eq!((pressure, temperature), (12.5, -25.0), "what is late is no one else's answer");

    behave(Manner::AllSilent);
    // Its rejects wait for their answers meanwhile; the inbox has room for them.
    source.until_down("nobody answers").await;
    behave(Manner::Good);
    assert_eq!(row(&mut source, "2").await[2], 65_538.0);
    source.until_up().await;

    source.end().await;
    slave.join().expect("the questions were right");
}

#[tokio::test]
async fn a_line_that_is_unplugged_is_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("plc");
    let manner = Arc::new(Mutex::new(Manner::Good));
    let machine = Machine::plug_in(&link);
    let mut source = Running::start(config(&link));
    source.until_up().await;
    drop(machine);
    source.until_down("plc failed").await;
    let machine = Machine::plug_in(&link);
    let slave = thread::spawn(move || serve(machine.0, &manner));
    assert_eq!(row(&mut source, "1").await[0], 12.5);
    source.end().await;
    slave.join().expect("the questions were right");
}

//! The machine at the other end of a serial line: it numbers its rows, keeps them until they are acknowledged, and hears only what the
//! line lets through. Its memory and the spoiling of its frames are those of the simulated machine.

use firmware_bridge::{Accumulator, Clock, Frame, Head, Rows, Samples, Scale, WIRE_BYTES_MAX, encode_data};

use crate::simulate::{Faults, Memory, Random, RowFrame, Wire};

/// Rows in a frame.
pub const FRAME_ROWS: u64 = 200;
/// From one row to the next.
pub const PERIOD_NS: u64 = 2_500_000;
/// What the line does to frames, in both directions.
const FAULTS: &str = "crc=0.003,drop=0.002,cut=0.002,duplicate=0.005,garbage=0.001";
/// Enough for every outage there is.
const MEMORY_BYTES: usize = 256 << 20;
const BOOT: u32 = 1;

/// Bytes on their way, and when they arrive.
pub type Sent = Vec<(u64, Vec<u8>)>;

/// One direction of the line: what goes in first comes out first.
struct Direction {
    wire: Wire,
    random: Random,
    last_ns: u64,
}

impl Direction {
    fn new(seed: u64, purpose: u64, is_spoilt: bool) -> Self {
        let faults: Faults = if is_spoilt { FAULTS.parse().unwrap_or_default() } else { Faults::default() };
        Self { wire: Wire::new(seed ^ purpose, faults), random: Random::new(seed, purpose), last_ns: 0 }
    }

    fn carry(&mut self, frame: &[u8], now_ns: u64) -> (u64, Vec<u8>) {
        let mut bytes = Vec::with_capacity(frame.len() + 8);
        self.wire.carry(frame, &mut bytes);
        // One in a hundred is held up.
        let delay_ms = if self.random.chance(0.01) { 600 } else { 20 };
        let delay_ns = 1_000_000 + self.random.below(delay_ms * 1_000_000) as u64;
        self.last_ns = self.last_ns.max(now_ns + delay_ns);
        (self.last_ns, bytes)
    }
}

/// The machine and its line.
pub struct Machine {
    memory: Memory,
    host_bound: Direction,
    device_bound: Direction,
    accumulator: Box<Accumulator<WIRE_BYTES_MAX>>,
    buffer: Box<[u8]>,
    next: u64,
    /// The line is there.
    pub plugged: bool,
}

impl Machine {
    /// Switched on at the start of the simulation.
    pub fn new(seed: u64, is_spoilt: bool) -> Self {
        Self {
            memory: Memory::new(BOOT, MEMORY_BYTES),
            host_bound: Direction::new(seed, 21, is_spoilt),
            device_bound: Direction::new(seed, 22, is_spoilt),
            accumulator: Box::new(Accumulator::new()),
            buffer: vec![0; WIRE_BYTES_MAX].into_boxed_slice(),
            next: 0,
            plugged: false,
        }
    }

    /// Rows taken so far.
    pub const fn rows(&self) -> u64 {
        self.next
    }

    /// Takes a frame of rows, each of which is its own number; `time_ns` is that of the machine's clock.
    pub fn sample(&mut self, time_ns: i64) {
        let numbers: Vec<i32> = (self.next..self.next + FRAME_ROWS).map(|number| number as i32).collect();
        let head = Head {
            device: 7,
            boot: BOOT,
            seq: self.next,
            stream: 0,
            clock: Clock::Utc,
            time_ns,
            period_ns: PERIOD_NS,
            layer: None,
            part: None,
        };
        let signals = [Samples::I32(Scale::ONE, &numbers)];
        // The buffer takes every frame.
        let bytes = encode_data(&head, &Rows { position: None, signals: &signals }, &mut self.buffer).map(Box::from);
        if let Ok(bytes) = bytes {
            self.memory.push(RowFrame { seq: self.next, rows: FRAME_ROWS, bytes });
            self.next += FRAME_ROWS;
        }
    }

    /// What the machine has to send now.
    pub fn send(&mut self, now_ns: u64) -> Sent {
        let mut sent = Sent::new();
        self.memory.look_for_progress(now_ns as i64);
        while self.plugged
            && let Some(frame) = self.memory.next(now_ns as i64)
        {
            sent.push(self.host_bound.carry(&frame.bytes, now_ns));
        }
        sent
    }

    /// What the host says, on its way.
    pub fn told(&mut self, words: &[u8], now_ns: u64) -> Sent {
        if self.plugged { vec![self.device_bound.carry(words, now_ns)] } else { Sent::new() }
    }

    /// Somebody has opened the line.
    pub fn connected(&mut self, now_ns: u64) {
        self.plugged = true;
        *self.accumulator = Accumulator::new();
        self.memory.reconnected(now_ns as i64);
    }

    /// Words of the host have arrived.
    pub fn hear(&mut self, bytes: &[u8], now_ns: u64) {
        let memory = &mut self.memory;
        self.accumulator.feed(bytes, |event| match event {
            Ok(Frame::Ack(ack)) => memory.acknowledge(ack, now_ns as i64),
            Ok(Frame::Resend(resend)) => memory.resend(resend),
            _ => {}
        });
    }
}

//! The machine as one value: time goes in, firmware frames and chamber rows come out, the same for the same settings.

use firmware_bridge::{Axis, Clock, Head, Hello, Rows, Samples, VERSION, WIRE_BYTES_MAX, encode_data, encode_hello};

use super::chamber::{self, Chamber, ChamberRow};
use super::faults::Faults;
use super::memory::RowFrame;
use super::parts::PARTS;
use super::path::{Path, Place, Rotation};
use super::process::Process;
use super::random::Random;
use super::streams::{SAMPLES_HZ, STREAMS, StreamInfo};
use crate::model::Timestamp;

/// A frame spans this much time at most, ns: what a row waits on the machine.
const FRAME_NS: f64 = 50e6;
/// A frame holds this many rows at most.
const FRAME_ROWS: f64 = 500.0;
/// The limits of the rate: one acoustic sample in 20 ms, and one in 10 ns.
const RATE_SCALE: [f64; 2] = [1e-3, 2e3];

/// The limits of a layer's thickness, µm.
const LAYER_UM: [u32; 2] = [20, 100];

/// What is simulated.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Everything that looks random follows from it.
    pub seed: u64,
    /// 1 = 62,100 samples a second.
    pub rate_scale: f64,
    /// The machine's number in frames.
    pub device: u32,
    /// The machine's name in its presentation and in chamber rows; at most 32 bytes.
    pub name: String,
    /// How many times it had started before. A host takes rows of a start it knows for repetitions.
    pub boot: u32,
    /// When it starts.
    pub start: Timestamp,
    /// Thickness of a layer, µm; 30 to 50 is usual, 20 to 100 possible.
    pub layer_um: u32,
    /// How the hatch turns between layers.
    pub rotation: Rotation,
    /// The layer to begin with, from 1.
    pub first_layer: u32,
    /// What goes wrong.
    pub faults: Faults,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 1,
            rate_scale: 1.0,
            device: 1,
            name: "lpbf-1".into(),
            boot: 1,
            start: Timestamp(0),
            layer_um: 40,
            rotation: Rotation::default(),
            first_layer: 1,
            faults: Faults::default(),
        }
    }
}

impl Settings {
    /// The default, scaled to `hz` samples a second of all streams together.
    #[must_use]
    pub fn with_rate_hz(self, hz: f64) -> Self {
        Self { rate_scale: hz / f64::from(SAMPLES_HZ), ..self }
    }

    /// The same machine started at `now`, with a start number no earlier start has had (the second).
    #[must_use]
    pub fn started(self, now: Timestamp) -> Self {
        let boot = u32::try_from(now.0 / 1_000_000_000).unwrap_or(self.boot);
        Self { boot, start: now, ..self }
    }

    /// The time between two acoustic samples, ns.
    pub fn tick_ns(&self) -> i64 {
        let scale = if self.rate_scale.is_finite() { self.rate_scale } else { 1.0 };
        (1e9 / f64::from(STREAMS[0].hz) / scale.clamp(RATE_SCALE[0], RATE_SCALE[1])).round() as i64
    }
}

/// What comes out of the machine.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// For the serial line.
    Frame(RowFrame),
    /// For MQTT.
    Chamber(ChamberRow),
}

/// The machine.
#[derive(Debug)]
pub struct Machine {
    settings: Settings,
    tick_ns: i64,
    /// Counts acoustic samples, also those skipped.
    tick: i64,
    path: Path,
    process: Process,
    chamber: Chamber,
    chamber_due_ns: i64,
    jumps: Jumps,
    streams: [Pending; STREAMS.len()],
    seq: u64,
}

impl Machine {
    /// A machine about to expose its first layer.
    pub fn new(mut settings: Settings) -> Self {
        settings.layer_um = settings.layer_um.clamp(LAYER_UM[0], LAYER_UM[1]);
        let tick_ns = settings.tick_ns();
        let thickness_mm = f64::from(settings.layer_um) / 1000.0;
        let part_of_fastest = |stream: &StreamInfo| i64::from(STREAMS[0].hz / stream.hz);
        Self {
            tick_ns,
            tick: 0,
            path: Path::new(settings.rotation, thickness_mm, settings.first_layer),
            process: Process::new(settings.seed, tick_ns as f64 * 1e-9),
            chamber: Chamber::new(settings.seed, settings.name.clone(), settings.boot),
            chamber_due_ns: 0,
            jumps: Jumps::new(settings.seed, &settings.faults),
            streams: STREAMS.map(|stream| Pending::new(stream, part_of_fastest(&stream), tick_ns)),
            seq: 0,
            settings,
        }
    }

    /// Runs up to `until`, not including it, and appends what comes out. The caller bounds `out` by small steps.
    pub fn advance(&mut self, until: Timestamp, out: &mut Vec<Event>) {
        while self.elapsed_ns() < until.since(self.settings.start) {
            let elapsed_ns = self.elapsed_ns();
            if elapsed_ns >= self.chamber_due_ns {
                self.chamber_row(elapsed_ns, out);
            }
            if self.jumps.due(elapsed_ns) {
                self.flush(out);
            }
            self.sample(elapsed_ns, out);
            self.path.advance(self.tick_ns);
            self.tick += 1;
        }
    }

    /// Sends what waits in unfinished frames.
    pub fn flush(&mut self, out: &mut Vec<Event>) {
        for index in 0..self.streams.len() {
            self.send(index, out);
        }
    }

    /// The machine stood still until `time`: no rows, and the laser where it was. Call [`Machine::flush`] first.
    pub fn skip_to(&mut self, time: Timestamp) {
        let ticks = time.since(self.settings.start) / self.tick_ns;
        if ticks > self.tick {
            // Streams keep sampling at whole parts of the fastest one's instants.
            self.tick = ticks;
            self.chamber_due_ns = self.chamber_due_ns.max(self.elapsed_ns() / chamber::PERIOD_NS * chamber::PERIOD_NS);
        }
    }

    /// The machine's time.
    pub const fn now(&self) -> Timestamp {
        self.settings.start.saturating_add(self.elapsed_ns())
    }

    /// The presentations to send at the beginning of a connection.
    pub fn hello(&self) -> Vec<u8> {
        let mut all = Vec::new();
        let mut buffer = vec![0; WIRE_BYTES_MAX];
        for pending in &self.streams {
            let hello = Hello {
                device: self.settings.device,
                boot: self.settings.boot,
                firmware: [VERSION.into(), 0, 0],
                name: &self.settings.name,
                stream: pending.stream.number,
                stream_name: pending.stream.name,
                period_ns: pending.period_ns as u64,
                signals: pending.stream.signals.iter().map(|signal| signal.name).collect(),
            };
            // A name that is too long leaves the machine without a presentation, which hosts can do without.
            all.extend(encode_hello(&hello, &mut buffer).unwrap_or_default());
        }
        all
    }

    const fn elapsed_ns(&self) -> i64 {
        self.tick.saturating_mul(self.tick_ns)
    }

    fn chamber_row(&mut self, elapsed_ns: i64, out: &mut Vec<Event>) {
        let time = self.settings.start.saturating_add(self.chamber_due_ns);
        let layer = self.path.place().layer;
        out.push(Event::Chamber(self.chamber.step(time, elapsed_ns as f64 * 1e-9, layer)));
        self.chamber_due_ns += chamber::PERIOD_NS;
    }

    fn sample(&mut self, elapsed_ns: i64, out: &mut Vec<Event>) {
        let place = self.path.place();
        self.process.step(&place, f64::from(self.settings.layer_um) / 1000.0);
        let moment = Moment {
            time_ns: self.settings.start.saturating_add(elapsed_ns).saturating_add(self.jumps.offset_ns).0,
            layer: place.layer,
            part: place.part,
        };
        let at = [nanometres(&place, 0), nanometres(&place, 1)];
        for index in 0..self.streams.len() {
            if self.tick % self.streams[index].ticks == 0 {
                if !self.streams[index].continues(&moment) {
                    self.send(index, out);
                }
                self.streams[index].add(moment, at, &mut self.process);
                if self.streams[index].is_full() {
                    self.send(index, out);
                }
            }
        }
    }

    fn send(&mut self, index: usize, out: &mut Vec<Event>) {
        if let Some(frame) = self.streams[index].encode(&self.settings, self.seq) {
            self.seq += frame.rows;
            out.push(Event::Frame(frame));
        }
    }
}

/// The laser's position as its mirrors report it: whole micrometres, in nanometres.
fn nanometres(place: &Place, axis: usize) -> i32 {
    (place.at[axis] * 1000.0).round() as i32 * 1000
}

/// What all rows of a frame share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Moment {
    time_ns: i64,
    layer: u32,
    part: Option<usize>,
}

/// Rows of one stream that wait for their frame.
#[derive(Debug)]
struct Pending {
    stream: StreamInfo,
    /// Samples every so many acoustic ones.
    ticks: i64,
    period_ns: i64,
    rows_max: usize,
    first: Option<Moment>,
    x_nm: Vec<i32>,
    y_nm: Vec<i32>,
    /// `[signal][row]`
    counts: Vec<Vec<i16>>,
    buffer: Vec<u8>,
}

impl Pending {
    fn new(stream: StreamInfo, ticks: i64, tick_ns: i64) -> Self {
        let period_ns = ticks * tick_ns;
        Self {
            stream,
            ticks,
            period_ns,
            rows_max: (FRAME_NS / period_ns as f64).clamp(1.0, FRAME_ROWS) as usize,
            first: None,
            x_nm: Vec::new(),
            y_nm: Vec::new(),
            counts: vec![Vec::new(); stream.signals.len()],
            buffer: vec![0; WIRE_BYTES_MAX],
        }
    }

    /// Whether a row at `moment` goes into the frame that waits.
    fn continues(&self, moment: &Moment) -> bool {
        self.first.is_none_or(|first| {
            let due_ns = first.time_ns.saturating_add(self.x_nm.len() as i64 * self.period_ns);
            (first.layer, first.part, due_ns) == (moment.layer, moment.part, moment.time_ns)
        })
    }

    fn is_full(&self) -> bool {
        self.x_nm.len() >= self.rows_max
    }

    fn add(&mut self, moment: Moment, [x_nm, y_nm]: [i32; 2], process: &mut Process) {
        self.first.get_or_insert(moment);
        self.x_nm.push(x_nm);
        self.y_nm.push(y_nm);
        let values = match self.stream.number {
            0 => [process.amplitude_v(), 0.0],
            1 => [process.intensity_v(), process.laser_power_w()],
            2 => [process.temperature_c(), 0.0],
            3 => [process.plume_mm2(), 0.0],
            _ => [process.strain_um_m(), 0.0],
        };
        for ((column, signal), value) in self.counts.iter_mut().zip(self.stream.signals).zip(values) {
            column.push(signal.count(value));
        }
    }

    fn encode(&mut self, settings: &Settings, seq: u64) -> Option<RowFrame> {
        let first = self.first.take()?;
        let head = Head {
            device: settings.device,
            boot: settings.boot,
            seq,
            stream: self.stream.number,
            clock: Clock::Utc,
            time_ns: first.time_ns,
            period_ns: self.period_ns as u64,
            layer: Some(first.layer as i32),
            part: first.part.map(|index| PARTS[index].number),
        };
        let z_nm = (first.layer * settings.layer_um) as i32 * 1000;
        let position = Some([Axis::PerRow(&self.x_nm), Axis::PerRow(&self.y_nm), Axis::Constant(z_nm)]);
        let signals: Vec<Samples<'_>> =
            self.stream.signals.iter().zip(&self.counts).map(|(signal, counts)| Samples::I16(signal.scale, counts)).collect();
        let frame = encode_data(&head, &Rows { position, signals: &signals }, &mut self.buffer).map(|bytes| RowFrame {
            seq,
            rows: self.x_nm.len() as u64,
            bytes: bytes.into(),
        });
        self.x_nm.clear();
        self.y_nm.clear();
        self.counts.iter_mut().for_each(Vec::clear);
        // One to 500 rows in columns of equal length and a buffer for the longest frame: there is nothing to refuse.
        frame.ok()
    }
}

/// The jumps of the machine's clock.
#[derive(Debug)]
struct Jumps {
    random: Random,
    every_ns: i64,
    by_ns: i64,
    next_ns: i64,
    /// How far the clock is off.
    offset_ns: i64,
}

impl Jumps {
    fn new(seed: u64, faults: &Faults) -> Self {
        let (every_ns, by_ns) = faults.clock_jump.map_or((i64::MAX, 0), |jump| (jump.every_ns, jump.by_ns));
        Self { random: Random::new(seed, 5), every_ns, by_ns, next_ns: every_ns, offset_ns: 0 }
    }

    /// Whether the clock jumps now; if so, it has.
    fn due(&mut self, elapsed_ns: i64) -> bool {
        let due = elapsed_ns >= self.next_ns;
        if due {
            self.next_ns = self.next_ns.saturating_add(self.every_ns);
            self.offset_ns = match self.offset_ns {
                0 if self.random.chance(0.5) => -self.by_ns,
                0 => self.by_ns,
                _ => 0,
            };
        }
        due
    }
}

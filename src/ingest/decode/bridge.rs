//! Frames of `firmware-bridge`: the columns of a frame go into the columns of a batch as they are.
//!
//! A frame's stream is the place of that number among the configured streams, and its signals are the stream's in the order of their declaration: a
//! frame does not name them. The device's [`Hello`] does, but it may be damaged or long past; where it names the same signals in another order, the
//! stream's frames are refused rather than mixed up. A device may well use names of its own. A device without a clock gives rows of the time
//! of arrival, where the stream allows that.
//!
//! Invariants:
//! - A frame that cannot be read, or does not fit its stream, is one [`Reject`](super::Reject) with its bytes; a row with a value that is not finite
//!   is one with a frame of its own, and its neighbours go on.
//! - What was taken of a device's numbering is told in [`Bridge::take_heard`], refused rows included: they are kept too, as dead letters.
//! - Rows leave in the order of their numbers: frames behind a gap ([`Bridge::feed_in_order`]) wait until it is filled or given up, as many as
//!   [`HELD_BYTES_MAX`] allows; then all go on as they are.

use std::{collections::VecDeque, mem, sync::Arc};

use firmware_bridge::{
    Accumulator, Axis, AxisColumn, Clock, Column, DataFrame, Frame, Hello, Rejected, Rows, SIGNALS_MAX, Samples, WIRE_BYTES_MAX,
    decode, encode_data,
};

use super::{Context, Decoded, Reason, clip};
use crate::model::{Batch, Flags, MissingTime, NO_LAYER, Origin, Positions, Stream, TagColumn};

/// Presentations in another order that are remembered; a device has far fewer streams.
const MISFITS_MAX: usize = 64;
/// Bytes of frames that wait behind a gap: more than a device has on its way at a time, at 30 bytes a row.
const HELD_BYTES_MAX: usize = 1 << 20;
/// The tag that takes the part's number.
const PART_TAG: &str = "part";

/// Consecutive rows of a device that came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// The device's number.
    pub device: u32,
    /// The device's count of starts.
    pub boot: u32,
    /// The number of the first row.
    pub first: u64,
    /// The number of the last row.
    pub last: u64,
}

/// Decodes an endless stream of frames into rows of `streams`.
#[derive(Debug)]
pub struct Bridge {
    accumulator: Box<Accumulator<WIRE_BYTES_MAX>>,
    decoder: FrameDecoder,
    held: Held,
}

/// Whether rows may go on: there is no gap before them.
pub type Admit<'a> = &'a mut dyn FnMut(&Heard) -> bool;

/// Frames behind a gap, as they came, by number; all of one start of a device.
#[derive(Debug, Default)]
struct Held {
    frames: VecDeque<(Heard, Box<[u8]>)>,
    bytes: usize,
}

/// What is known beside the bytes of the current frame.
#[derive(Debug)]
struct FrameDecoder {
    streams: Vec<Arc<Stream>>,
    misfits: Vec<Misfit>,
    heard: Vec<Heard>,
}

/// A device that has a stream's signals in another order.
#[derive(Debug)]
struct Misfit {
    device: u32,
    stream: u16,
    /// The device's order.
    names: String,
}

impl Bridge {
    /// A decoder for frames whose stream number is a place in `streams`.
    pub fn new(streams: Vec<Arc<Stream>>) -> Self {
        let decoder = FrameDecoder { streams, misfits: Vec::new(), heard: Vec::new() };
        Self { accumulator: Box::default(), decoder, held: Held::default() }
    }

    /// Decodes the frames that end in `bytes`, in the order they came; the beginning of the next waits for its end.
    pub fn feed(&mut self, bytes: &[u8], context: &Context, out: &mut Decoded) {
        self.feed_in_order(bytes, context, &mut |_| true, out);
    }

    /// Likewise, but what `admit` does not let go on waits.
    pub fn feed_in_order(&mut self, bytes: &[u8], context: &Context, admit: Admit<'_>, out: &mut Decoded) {
        let mut rest = bytes;
        while let Some((raw, event)) = self.accumulator.next_with_bytes(&mut rest) {
            match event {
                Ok(Frame::Data(frame)) => {
                    let heard = heard(&frame);
                    if self.held.is_of_another(&heard) {
                        // Another start: nobody will fill the gap of the one before.
                        self.held.take(&mut |_| true, &mut self.decoder, context, out);
                    }
                    if admit(&heard) {
                        self.decoder.data(&frame, raw, context, out);
                        self.held.take(admit, &mut self.decoder, context, out);
                    } else if !self.held.hold(heard, raw) {
                        self.held.take(&mut |_| true, &mut self.decoder, context, out);
                    }
                }
                Ok(Frame::Hello(hello)) => self.decoder.hello(&hello),
                Ok(Frame::Ack(_) | Frame::Resend(_)) => {
                    out.reject(context, "the frame is one that only a host sends: is the line looped back?".into(), raw);
                }
                Err(rejected) => refuse(&rejected, context, out),
            }
        }
    }

    /// Takes what waits and may go on now.
    pub fn release(&mut self, context: &Context, admit: Admit<'_>, out: &mut Decoded) {
        self.held.take(admit, &mut self.decoder, context, out);
    }

    /// The line is gone: the beginning of a frame is refused. What devices said of themselves stays known.
    pub fn cut_off(&mut self, context: &Context, out: &mut Decoded) {
        if let Some(rejected) = self.accumulator.finish() {
            refuse(&rejected, context, out);
        }
    }

    /// The rows that went on since the last call, in that order; neighbours are one.
    pub fn take_heard(&mut self) -> Vec<Heard> {
        mem::take(&mut self.decoder.heard)
    }
}

impl Held {
    fn is_of_another(&self, heard: &Heard) -> bool {
        self.frames.front().is_some_and(|(first, _)| (first.device, first.boot) != (heard.device, heard.boot))
    }

    /// Keeps a frame; `false` = no more can be kept.
    fn hold(&mut self, heard: Heard, raw: &[u8]) -> bool {
        let at = self.frames.partition_point(|(other, _)| other.first < heard.first);
        if self.frames.get(at).is_none_or(|(other, _)| *other != heard) {
            self.frames.insert(at, (heard, raw.into()));
            self.bytes += raw.len();
        }
        self.bytes <= HELD_BYTES_MAX
    }

    /// Decodes frames from the first on, as long as `admit` lets them.
    fn take(&mut self, admit: Admit<'_>, decoder: &mut FrameDecoder, context: &Context, out: &mut Decoded) {
        while self.frames.front().is_some_and(|(heard, _)| admit(heard)) {
            let Some((_, raw)) = self.frames.pop_front() else { return };
            self.bytes -= raw.len();
            let mut plain = vec![0; raw.len()];
            // It was read as a data frame before.
            if let Ok(Frame::Data(frame)) = decode(&raw, &mut plain) {
                decoder.data(&frame, &raw, context, out);
            }
        }
    }
}

fn heard(frame: &DataFrame<'_>) -> Heard {
    let head = frame.head();
    Heard { device: head.device, boot: head.boot, first: head.seq, last: frame.last_seq() }
}

fn refuse(rejected: &Rejected<'_>, context: &Context, out: &mut Decoded) {
    let Rejected { reason, raw, bytes } = *rejected;
    let kept = raw.len() as u64;
    let more = if kept < bytes { format!(" (the first {kept} of {bytes} bytes are kept)") } else { String::new() };
    out.reject(context, format!("not a frame: {reason}{more}").into(), raw);
}

impl FrameDecoder {
    fn hello(&mut self, hello: &Hello<'_>) {
        let Some(stream) = self.streams.get(usize::from(hello.stream)) else { return };
        self.misfits.retain(|known| (known.device, known.stream) != (hello.device, hello.stream));
        if in_another_order(stream, &hello.signals) && self.misfits.len() < MISFITS_MAX {
            self.misfits.push(Misfit { device: hello.device, stream: hello.stream, names: hello.signals.join(", ") });
        }
    }

    fn data(&mut self, frame: &DataFrame<'_>, raw: &[u8], context: &Context, out: &mut Decoded) {
        self.hear(heard(frame));
        let stream = match self.fitting(frame) {
            Ok(stream) => Arc::clone(stream),
            Err(reason) => return out.reject(context, reason, raw),
        };
        let bad = not_finite(frame);
        for (row, column) in &bad {
            let signal = &stream.signals[*column].name;
            let (reason, bytes) = (format!("`{signal}` is NaN or infinity"), alone(frame, *row));
            out.reject(context, reason.into(), &bytes);
        }
        let rows: Vec<usize> = bad.into_iter().map(|(row, _)| row).collect();
        if rows.len() < frame.rows() {
            fill(out.batch(context, &stream), frame, &rows);
        }
    }

    fn hear(&mut self, heard: Heard) {
        match self.heard.last_mut() {
            Some(before)
                if (before.device, before.boot) == (heard.device, heard.boot)
                    && before.last.checked_add(1) == Some(heard.first) =>
            {
                before.last = heard.last;
            }
            _ => self.heard.push(heard),
        }
    }

    /// The stream of a frame, if the frame fits it.
    fn fitting(&self, frame: &DataFrame<'_>) -> Result<&Arc<Stream>, Reason> {
        let head = frame.head();
        let Some(stream) = self.streams.get(usize::from(head.stream)) else {
            let reason =
                format!("the frame is of stream number {}, and `streams` names {} (from 0)", head.stream, self.streams.len());
            return Err(reason.into());
        };
        let (sent, declared) = (frame.signals().len(), stream.signals.len());
        if sent != declared {
            return Err(format!("the frame has {sent} signals, and stream `{}` declares {declared}", stream.id).into());
        }
        if let Some(misfit) = self.misfits.iter().find(|known| (known.device, known.stream) == (head.device, head.stream)) {
            let reason = format!("the device sends `{}` as {}: declare the signals in that order", stream.id, clip(&misfit.names));
            return Err(reason.into());
        }
        if head.clock == Clock::SinceStart && stream.time_missing == MissingTime::Reject {
            let reason = format!("the device has no clock: set `missing = \"arrival\"` for stream `{}`", stream.id);
            return Err(reason.into());
        }
        if head.layer == Some(NO_LAYER) {
            return Err("`layer` is outside the range of a layer number".into());
        }
        if i64::try_from(frame.last_seq()).is_err() {
            return Err("`seq` is outside the range of a running number".into());
        }
        Ok(stream)
    }
}

/// Whether `names` are those of the stream's signals, but not in their order.
fn in_another_order(stream: &Stream, names: &[&str]) -> bool {
    names.len() == stream.signals.len()
        && stream.signals.iter().all(|signal| names.contains(&&*signal.name))
        && stream.signals.iter().zip(names).any(|(signal, name)| *signal.name != **name)
}

/// Rows with a value that is not finite, each with the first column that has one.
fn not_finite(frame: &DataFrame<'_>) -> Vec<(usize, usize)> {
    let mut bad: Vec<(usize, usize)> = Vec::new();
    for (number, column) in frame.signals().iter().enumerate() {
        // The values of converters are finite by their format.
        if let Column::F32(values) = column {
            let rows = values.iter().enumerate().filter(|(_, bytes)| !f32::from_le_bytes(**bytes).is_finite());
            bad.extend(rows.map(|(row, _)| (row, number)));
        }
    }
    bad.sort_unstable();
    bad.dedup_by_key(|(row, _)| *row);
    bad
}

/// Appends the rows of `frame` but `bad` (ascending) to `batch`.
fn fill(batch: &mut Batch, frame: &DataFrame<'_>, bad: &[usize]) {
    let (before, head) = (batch.rows(), frame.head());
    let added = frame.rows() - bad.len();
    let rows = before + added;
    match head.clock {
        Clock::Utc => extend(&mut batch.time, frame.times_ns(), bad),
        Clock::SinceStart => {
            let arrival = batch.arrival.0;
            batch.time.resize(rows, arrival);
            batch.flags.get_or_insert_with(|| vec![Flags::NONE; before]).resize(rows, Flags::ARRIVAL_TIME);
        }
    }
    if let Some(flags) = &mut batch.flags {
        flags.resize(rows, Flags::NONE);
    }
    for (column, sent) in batch.signals.iter_mut().zip(frame.signals()) {
        extend(column, sent.values().map(|value| value.unwrap_or(f64::NAN)), bad);
    }
    let part = head.part.map(|part| part.to_string());
    for (column, name) in batch.tags.iter_mut().zip(&batch.stream.tags) {
        repeat(column, part.as_deref().filter(|_| &**name == PART_TAG), added);
    }
    fill_positions(batch, frame, rows, bad);
    fill_layer(batch, head.layer, before, rows);
    fill_origin(batch, frame, before, bad);
}

fn fill_positions(batch: &mut Batch, frame: &DataFrame<'_>, rows: usize, bad: &[usize]) {
    if batch.positions.is_none() && frame.position().is_none() {
        return;
    }
    let before = rows - (frame.rows() - bad.len());
    let nowhere = || vec![f64::NAN; before];
    let at = batch.positions.get_or_insert_with(|| Positions { x: nowhere(), y: nowhere(), z: nowhere() });
    let columns = [&mut at.x, &mut at.y, &mut at.z];
    match frame.position() {
        Some(axes) => columns.into_iter().zip(axes).for_each(|(column, axis)| match axis {
            AxisColumn::Constant(_) => column.resize(rows, axis.millimetres(1).next().unwrap_or(f64::NAN)),
            AxisColumn::PerRow(_) => extend(column, axis.millimetres(frame.rows()), bad),
        }),
        None => columns.into_iter().for_each(|column| column.resize(rows, f64::NAN)),
    }
}

fn fill_layer(batch: &mut Batch, layer: Option<i32>, before: usize, rows: usize) {
    if layer.is_some() && batch.layer.is_none() {
        batch.layer = Some(vec![NO_LAYER; before]);
    }
    if let Some(column) = &mut batch.layer {
        column.resize(rows, layer.unwrap_or(NO_LAYER));
    }
}

fn fill_origin(batch: &mut Batch, frame: &DataFrame<'_>, before: usize, bad: &[usize]) {
    let head = frame.head();
    let added = frame.rows() - bad.len();
    let origin = batch.origin.get_or_insert_with(|| Origin {
        device: TagColumn::constant(None, before),
        boot: vec![None; before],
        seq: vec![None; before],
    });
    repeat(&mut origin.device, Some(&head.device.to_string()), added);
    origin.boot.resize(before + added, Some(i64::from(head.boot)));
    // The last number fits: `fitting` looked.
    extend(&mut origin.seq, (0..frame.rows()).map(|row| i64::try_from(head.seq + row as u64).ok()), bad);
}

/// Appends `values` but those at the places `bad` (ascending).
fn extend<T>(column: &mut Vec<T>, values: impl Iterator<Item = T>, bad: &[usize]) {
    column.reserve(values.size_hint().0);
    if bad.is_empty() {
        return values.for_each(|value| column.push(value));
    }
    let mut bad = bad.iter().peekable();
    for (row, value) in values.enumerate() {
        if bad.next_if(|place| **place == row).is_none() {
            column.push(value);
        }
    }
}

/// Appends the same text `rows` times.
fn repeat(column: &mut TagColumn, text: Option<&str>, rows: usize) {
    let Some(more) = rows.checked_sub(1) else { return };
    column.push(text);
    if let Some(&code) = column.codes.last() {
        column.codes.resize(column.codes.len() + more, code);
    }
}

/// One row of a frame as a frame of its own.
fn alone(frame: &DataFrame<'_>, row: usize) -> Vec<u8> {
    /// The row's own element of a column.
    enum One {
        I16(firmware_bridge::Scale, [i16; 1]),
        I32(firmware_bridge::Scale, [i32; 1]),
        F32([f32; 1]),
    }
    fn at<const N: usize>(bytes: &[[u8; N]], row: usize) -> [u8; N] {
        bytes.get(row).copied().unwrap_or([0; N])
    }
    let head = *frame.head();
    let head = firmware_bridge::Head { seq: head.seq.saturating_add(row as u64), time_ns: head.time_ns(row), ..head };
    let position = frame.position().map(|axes| {
        axes.map(|axis| match axis {
            AxisColumn::Constant(nm) => Axis::Constant(nm),
            AxisColumn::PerRow(bytes) => Axis::Constant(i32::from_le_bytes(at(bytes, row))),
        })
    });
    let values: Vec<One> = frame
        .signals()
        .iter()
        .map(|column| match *column {
            Column::I16(scale, bytes) => One::I16(scale, [i16::from_le_bytes(at(bytes, row))]),
            Column::I32(scale, bytes) => One::I32(scale, [i32::from_le_bytes(at(bytes, row))]),
            Column::F32(bytes) => One::F32([f32::from_le_bytes(at(bytes, row))]),
        })
        .collect();
    let signals: Vec<Samples<'_>> = values
        .iter()
        .map(|value| match value {
            One::I16(scale, count) => Samples::I16(*scale, count),
            One::I32(scale, count) => Samples::I32(*scale, count),
            One::F32(value) => Samples::F32(value),
        })
        .collect();
    // A row takes a header and at most 4 bytes a column.
    let mut buffer = [0; 512 + 4 * (SIGNALS_MAX + 3)];
    encode_data(&head, &Rows { position, signals: &signals }, &mut buffer).map(<[u8]>::to_vec).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use firmware_bridge::{Ack, Head, Scale, encode_ack, encode_hello};

    use super::*;
    use crate::model::Timestamp;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn context() -> Context {
        Context::new("s".into(), "s".into(), NOW)
    }

    fn streams() -> Vec<Arc<Stream>> {
        let mut melt = Stream::new("melt", &["intensity", "power"], &["part", "recipe"]);
        melt.time_missing = MissingTime::Arrival;
        vec![Arc::new(Stream::new("sound", &["amplitude"], &[])), Arc::new(melt)]
    }

    fn head(seq: u64) -> Head {
        Head { device: 7, boot: 3, seq, stream: 1, clock: Clock::Utc, time_ns: 100, period_ns: 10, layer: Some(2), part: Some(12) }
    }

    fn data(head: Head, position: Option<[Axis<'_>; 3]>, signals: &[Samples<'_>]) -> Vec<u8> {
        let mut buffer = vec![0; WIRE_BYTES_MAX];
        encode_data(&head, &Rows { position, signals }, &mut buffer).unwrap().to_vec()
    }

    fn pair(seq: u64) -> Vec<u8> {
        let scale = Scale { multiplier: 1, offset: 0, exponent: -1 };
        let position = Some([Axis::PerRow(&[1_000_000, 2_000_000]), Axis::Constant(-500_000), Axis::Constant(30_000)]);
        data(head(seq), position, &[Samples::I16(scale, &[15, i16::MIN]), Samples::F32(&[200.0, 210.0])])
    }

    fn decode(bridge: &mut Bridge, bytes: &[u8]) -> Decoded {
        let mut out = Decoded::default();
        bridge.feed(bytes, &context(), &mut out);
        assert!(out.batches.iter().all(Batch::is_consistent));
        out
    }

    #[test]
    fn columns_come_over_as_they_are() {
        let mut bridge = Bridge::new(streams());
        let out = decode(&mut bridge, &pair(40));
        let batch = &out.batches[0];
        assert_eq!((batch.time.as_slice(), batch.layer.as_deref()), (&[100, 110][..], Some(&[2, 2][..])));
        assert_eq!((batch.position(0), batch.position(1)), (Some([1.0, -0.5, 0.03]), Some([2.0, -0.5, 0.03])));
        assert_eq!((batch.value(0, 0), batch.value(0, 1), batch.value(1, 1)), (Some(1.5), None, Some(210.0)));
        assert_eq!(batch.tags[0].get(1).map(|text| &**text), Some("12"));
        assert_eq!(batch.tags[1].get(1), None);
        let origin = batch.origin.as_ref().unwrap();
        assert_eq!(origin.device.get(1).map(|text| &**text), Some("7"));
        assert_eq!((&*origin.boot, &*origin.seq), (&[Some(3), Some(3)][..], &[Some(40), Some(41)][..]));
        assert_eq!(bridge.take_heard(), [Heard { device: 7, boot: 3, first: 40, last: 41 }]);
        assert_eq!(bridge.take_heard(), []);
    }

    #[test]
    fn frames_of_a_read_share_a_batch_whatever_each_lacks() {
        let mut bridge = Bridge::new(streams());
        let bare = Head { layer: None, part: None, clock: Clock::SinceStart, ..head(2) };
        let bytes = [pair(0), data(bare, None, &[Samples::F32(&[1.0]), Samples::F32(&[2.0])]), pair(3)].concat();
        let out = decode(&mut bridge, &bytes);
        assert_eq!((out.batches.len(), out.rows()), (1, 5));
        let batch = &out.batches[0];
        assert_eq!(batch.time, [100, 110, NOW.0, 100, 110]);
        assert_eq!((batch.flags(1), batch.flags(2), batch.flags(3)), (Flags::NONE, Flags::ARRIVAL_TIME, Flags::NONE));
        assert_eq!((batch.position(2), batch.layer(2), batch.tags[0].get(2)), (None, None, None));
        assert_eq!(batch.position(4), Some([2.0, -0.5, 0.03]));
        assert_eq!(bridge.take_heard(), [Heard { device: 7, boot: 3, first: 0, last: 4 }]);
    }

    fn numbers(out: &Decoded) -> Vec<i64> {
        out.batches.iter().flat_map(|batch| batch.origin.as_ref().unwrap().seq.iter().flatten().copied()).collect()
    }

    #[test]
    fn frames_behind_a_gap_wait_until_it_is_filled() {
        let (mut bridge, mut next) = (Bridge::new(streams()), 0);
        let mut admit = |heard: &Heard| {
            let goes_on = heard.first <= next;
            next = if goes_on { next.max(heard.last + 1) } else { next };
            goes_on
        };
        let mut out = Decoded::default();
        bridge.feed_in_order(&[pair(0), pair(6), pair(4), pair(6)].concat(), &context(), &mut admit, &mut out);
        assert_eq!((numbers(&out), bridge.take_heard().len()), (vec![0, 1], 1));
        bridge.feed_in_order(&pair(2), &context(), &mut admit, &mut out);
        assert_eq!((numbers(&out), out.batches.len()), ((0..8).collect(), 1));
        assert_eq!(bridge.take_heard(), [Heard { device: 7, boot: 3, first: 2, last: 7 }]);
        assert_eq!((bridge.held.frames.len(), bridge.held.bytes), (0, 0));
    }

    #[test]
    fn what_waits_goes_on_when_the_gap_is_given_up_or_the_device_starts_again() {
        let mut bridge = Bridge::new(streams());
        let mut out = Decoded::default();
        bridge.feed_in_order(&[pair(6), pair(2)].concat(), &context(), &mut |_| false, &mut out);
        assert!(out.is_empty());
        bridge.release(&context(), &mut |heard| heard.first < 4, &mut out);
        assert_eq!(numbers(&out), [2, 3]);
        let restarted = data(Head { boot: 4, ..head(0) }, None, &[Samples::F32(&[1.0]), Samples::F32(&[2.0])]);
        bridge.feed_in_order(&restarted, &context(), &mut |heard| heard.boot == 4, &mut out);
        assert_eq!(numbers(&out), [2, 3, 6, 7, 0]);
    }

    #[test]
    fn no_more_waits_than_there_is_room_for() {
        let mut bridge = Bridge::new(streams());
        let (mut out, mut fed) = (Decoded::default(), 0);
        while out.is_empty() {
            bridge.feed_in_order(&pair(1_000_000 - fed), &context(), &mut |_| false, &mut out);
            fed += 2;
            assert!(bridge.held.bytes <= HELD_BYTES_MAX);
        }
        assert_eq!((out.rows(), bridge.held.bytes), (fed, 0));
        assert!(numbers(&out).is_sorted());
    }

    #[test]
    fn a_device_with_the_signals_in_another_order_is_refused() {
        let mut bridge = Bridge::new(streams());
        let mut buffer = vec![0; WIRE_BYTES_MAX];
        let mut say = |bridge: &mut Bridge, names: &[&str]| {
            let hello = Hello {
                device: 7,
                boot: 3,
                firmware: [1, 0, 0],
                name: "scanner",
                stream: 1,
                stream_name: "melt",
                period_ns: 10,
                signals: names.iter().copied().collect(),
            };
            let bytes = encode_hello(&hello, &mut buffer).unwrap().to_vec();
            assert!(decode(bridge, &bytes).is_empty());
            decode(bridge, &pair(0))
        };
        let out = say(&mut bridge, &["power", "intensity"]);
        assert_eq!(
            (out.rows(), &*out.rejects[0].reason),
            (0, "the device sends `melt` as power, intensity: declare the signals in that order")
        );
        assert_eq!(say(&mut bridge, &["intensity", "power"]).rows(), 2);
        assert_eq!(say(&mut bridge, &["channel 1", "channel 2"]).rows(), 2);
    }

    #[test]
    fn a_value_that_is_not_finite_costs_its_row_and_keeps_it() {
        let mut bridge = Bridge::new(streams());
        let signals = [Samples::F32(&[1.0, f32::NAN, 3.0]), Samples::F32(&[1.0, 2.0, f32::INFINITY])];
        let axis = Axis::PerRow(&[1, 2, 3]);
        let out = decode(&mut bridge, &data(head(5), Some([axis; 3]), &signals));
        assert_eq!((out.rows(), out.rejects.len()), (1, 2));
        assert_eq!(out.batches[0].origin.as_ref().unwrap().seq, [Some(5)]);
        assert_eq!(out.rejects[0].reason, "`intensity` is NaN or infinity");
        assert_eq!(out.rejects[1].reason, "`power` is NaN or infinity");
        let mut kept = Accumulator::<512>::new();
        let mut rest: &[u8] = &out.rejects[1].raw;
        let Some(Ok(Frame::Data(frame))) = kept.next(&mut rest) else { panic!("the row is kept as a frame") };
        assert_eq!((frame.head().seq, frame.head().time_ns, frame.rows()), (7, 120, 1));
    }

    #[test]
    fn a_frame_that_does_not_fit_is_refused_with_its_bytes() {
        let mut bridge = Bridge::new(streams());
        let one = [Samples::F32(&[1.0])];
        let cases = [
            (Head { stream: 2, ..head(0) }, "stream number 2"),
            (head(0), "1 signals, and stream `melt` declares 2"),
            (Head { stream: 0, clock: Clock::SinceStart, ..head(0) }, "no clock"),
            (Head { stream: 0, layer: Some(NO_LAYER), ..head(0) }, "`layer`"),
            (Head { stream: 0, seq: u64::MAX, ..head(0) }, "`seq`"),
        ];
        for (head, reason) in cases {
            let bytes = data(head, None, &one);
            let out = decode(&mut bridge, &bytes);
            assert_eq!((out.rows(), out.rejects.len()), (0, 1));
            assert!(out.rejects[0].reason.contains(reason), "{}", out.rejects[0].reason);
            assert_eq!(out.rejects[0].raw, bytes[1..bytes.len() - 1]);
        }
        let mut buffer = [0; 32];
        let looped = encode_ack(Ack { boot: 1, seq: 1 }, &mut buffer).unwrap();
        assert!(decode(&mut bridge, looped).rejects[0].reason.contains("looped back"));
    }

    #[test]
    fn a_damaged_frame_is_refused_and_the_next_is_read() {
        let mut bridge = Bridge::new(streams());
        let mut damaged = pair(0);
        damaged[9] ^= 1;
        let out = decode(&mut bridge, &[damaged, pair(2)].concat());
        assert_eq!((out.rows(), out.rejects.len()), (2, 1));
        assert!(out.rejects[0].reason.starts_with("not a frame: "), "{}", out.rejects[0].reason);
        let whole = pair(4);
        assert!(decode(&mut bridge, &whole[..9]).is_empty());
        let mut out = Decoded::default();
        bridge.cut_off(&context(), &mut out);
        assert_eq!((out.rejects.len(), &*out.rejects[0].raw), (1, &whole[1..9]));
        assert_eq!(decode(&mut bridge, &pair(6)).rows(), 2);
    }

    proptest::proptest! {
        #[test]
        fn pieces_of_any_length_give_the_same_rows(cuts in proptest::collection::vec(0usize..400, 0..12)) {
            let bytes: Vec<u8> = (0..6).flat_map(|index| pair(2 * index)).collect();
            let (mut bridge, mut out) = (Bridge::new(streams()), Decoded::default());
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            let mut start = 0;
            for end in cuts.into_iter().chain([bytes.len()]) {
                bridge.feed(&bytes[start..end], &context(), &mut out);
                start = end;
            }
            let mut whole = Decoded::default();
            Bridge::new(streams()).feed(&bytes, &context(), &mut whole);
            // Values that are missing are NaN, which is not equal to itself.
            proptest::prop_assert_eq!(format!("{out:?}"), format!("{whole:?}"));
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..2000)) {
            let (mut bridge, mut out) = (Bridge::new(streams()), Decoded::default());
            bridge.feed(&bytes, &context(), &mut out);
            bridge.cut_off(&context(), &mut out);
            proptest::prop_assert!(out.batches.iter().all(Batch::is_consistent));
        }
    }
}

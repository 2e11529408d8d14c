//! What frames hold: the parts of a data frame as the firmware has them, and as views into the bytes the host received.

use heapless::Vec;
use serde::{Deserialize, Serialize};

use crate::SIGNALS_MAX;

/// What a frame's times count from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Clock {
    /// The device's clock is set: times count from 1970, UTC.
    Utc,
    /// It is not: times count from the device's start.
    SinceStart,
}

/// What is said once for all rows of a data frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The device's number.
    pub device: u32,
    /// How many times the device had started before.
    pub boot: u32,
    /// The number of the first row since the start, over all streams.
    pub seq: u64,
    /// The device's channel.
    pub stream: u16,
    /// What `time_ns` counts from.
    pub clock: Clock,
    /// The time of the first row, ns.
    pub time_ns: i64,
    /// The time from a row to the next, ns.
    pub period_ns: u64,
    /// The layer being built.
    pub layer: Option<i32>,
    /// The part being built, by the device's numbering.
    pub part: Option<u16>,
}

impl Head {
    /// The time of `row`, stopping at the ends of the range.
    pub fn time_ns(&self, row: usize) -> i64 {
        let since = self.period_ns.saturating_mul(row as u64);
        self.time_ns.saturating_add_unsigned(since)
    }
}

/// How counts become values: `(count · multiplier + offset) · 10^exponent`.
///
/// The integer is exact in an `f64` up to 2^53, and a division by a power of ten rounds once, so the value is the nearest `f64` to
/// the decimal number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scale {
    /// What a count is worth, in units of `10^exponent`.
    pub multiplier: i32,
    /// What a count of 0 is worth, in units of `10^exponent`.
    pub offset: i32,
    /// The decimal exponent, -15 to 15.
    pub exponent: i8,
}

const POWERS_OF_TEN: [f64; 16] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

impl Scale {
    /// Counts as they are.
    pub const ONE: Self = Self { multiplier: 1, offset: 0, exponent: 0 };

    /// The value of `count`; NaN if the exponent is outside its range, which no decoded frame has.
    pub fn value(&self, count: i32) -> f64 {
        let integer = i64::from(count) * i64::from(self.multiplier) + i64::from(self.offset);
        let power = POWERS_OF_TEN.get(usize::from(self.exponent.unsigned_abs())).copied().unwrap_or(f64::NAN);
        if self.exponent < 0 { integer as f64 / power } else { integer as f64 * power }
    }

    pub(crate) const fn is_valid(&self) -> bool {
        (self.exponent.unsigned_abs() as usize) < POWERS_OF_TEN.len()
    }
}

/// One axis of the rows to send, in nanometres.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis<'a> {
    /// The same for all rows.
    Constant(i32),
    /// One each.
    PerRow(&'a [i32]),
}

/// One signal of the rows to send.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Samples<'a> {
    /// Counts of a converter of up to 16 bits; `i16::MIN` = no value.
    I16(Scale, &'a [i16]),
    /// Counts; `i32::MIN` = no value.
    I32(Scale, &'a [i32]),
    /// Values as computed by the device.
    F32(&'a [f32]),
}

impl Samples<'_> {
    pub(crate) const fn len(&self) -> usize {
        match self {
            Self::I16(_, counts) => counts.len(),
            Self::I32(_, counts) => counts.len(),
            Self::F32(values) => values.len(),
        }
    }
}

/// Rows to send, as columns of equal length.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rows<'a> {
    /// x, y, z.
    pub position: Option<[Axis<'a>; 3]>,
    /// One to [`SIGNALS_MAX`] of them.
    pub signals: &'a [Samples<'a>],
}

/// One axis of a received frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AxisColumn<'a> {
    /// The same for all rows, nm.
    Constant(i32),
    /// One each, nm, little-endian.
    PerRow(&'a [[u8; 4]]),
}

impl<'a> AxisColumn<'a> {
    /// The position at each of `rows` rows, nm.
    pub fn nanometres(self, rows: usize) -> impl ExactSizeIterator<Item = i32> + Clone + 'a {
        (0..rows).map(move |row| match self {
            Self::Constant(nm) => nm,
            // A decoded column has all of the frame's rows.
            Self::PerRow(bytes) => bytes.get(row).map_or(0, |nm| i32::from_le_bytes(*nm)),
        })
    }

    /// The position at each of `rows` rows, mm: the nearest `f64` to the decimal number.
    pub fn millimetres(self, rows: usize) -> impl ExactSizeIterator<Item = f64> + Clone + 'a {
        self.nanometres(rows).map(|nm| f64::from(nm) / 1e6)
    }
}

/// One signal of a received frame; elements are little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column<'a> {
    /// Counts; `i16::MIN` = no value.
    I16(Scale, &'a [[u8; 2]]),
    /// Counts; `i32::MIN` = no value.
    I32(Scale, &'a [[u8; 4]]),
    /// Values; may hold NaN and infinities, which the receiver refuses.
    F32(&'a [[u8; 4]]),
}

impl<'a> Column<'a> {
    /// The values in order of rows; `None` = no value.
    pub fn values(self) -> Values<'a> {
        Values { column: self }
    }
}

/// The values of a [`Column`]. `fold` and what builds on it (`for_each`, `sum`) decide the type once, not per row.
#[derive(Debug, Clone)]
pub struct Values<'a> {
    column: Column<'a>,
}

fn from_i16(scale: Scale, bytes: [u8; 2]) -> Option<f64> {
    let count = i16::from_le_bytes(bytes);
    (count != i16::MIN).then(|| scale.value(count.into()))
}

fn from_i32(scale: Scale, bytes: [u8; 4]) -> Option<f64> {
    let count = i32::from_le_bytes(bytes);
    (count != i32::MIN).then(|| scale.value(count))
}

fn from_f32(bytes: [u8; 4]) -> f64 {
    f32::from_le_bytes(bytes).into()
}

impl Iterator for Values<'_> {
    type Item = Option<f64>;

    fn next(&mut self) -> Option<Self::Item> {
        fn split<const N: usize>(rest: &mut &[[u8; N]]) -> Option<[u8; N]> {
            let (first, tail) = rest.split_first()?;
            *rest = tail;
            Some(*first)
        }
        match &mut self.column {
            Column::I16(scale, rest) => split(rest).map(|bytes| from_i16(*scale, bytes)),
            Column::I32(scale, rest) => split(rest).map(|bytes| from_i32(*scale, bytes)),
            Column::F32(rest) => split(rest).map(|bytes| Some(from_f32(bytes))),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = match self.column {
            Column::I16(_, rest) => rest.len(),
            Column::I32(_, rest) | Column::F32(rest) => rest.len(),
        };
        (left, Some(left))
    }

    fn fold<B, F: FnMut(B, Self::Item) -> B>(self, init: B, mut each: F) -> B {
        match self.column {
            Column::I16(scale, rest) => rest.iter().fold(init, |folded, bytes| each(folded, from_i16(scale, *bytes))),
            Column::I32(scale, rest) => rest.iter().fold(init, |folded, bytes| each(folded, from_i32(scale, *bytes))),
            Column::F32(rest) => rest.iter().fold(init, |folded, bytes| each(folded, Some(from_f32(*bytes)))),
        }
    }
}

impl ExactSizeIterator for Values<'_> {}

/// A received data frame: a view into the received bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFrame<'a> {
    pub(crate) head: Head,
    pub(crate) rows: usize,
    pub(crate) position: Option<[AxisColumn<'a>; 3]>,
    pub(crate) signals: Vec<Column<'a>, SIGNALS_MAX>,
}

impl<'a> DataFrame<'a> {
    /// What is said once for all rows.
    pub const fn head(&self) -> &Head {
        &self.head
    }

    /// How many rows: 1 to [`crate::ROWS_MAX`].
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// The number of the last row.
    pub const fn last_seq(&self) -> u64 {
        self.head.seq.saturating_add(self.rows as u64 - 1)
    }

    /// The time of each row, ns, by [`Head::clock`].
    pub fn times_ns(&self) -> impl ExactSizeIterator<Item = i64> + Clone {
        let head = self.head;
        (0..self.rows).map(move |row| head.time_ns(row))
    }

    /// x, y and z.
    pub const fn position(&self) -> Option<[AxisColumn<'a>; 3]> {
        self.position
    }

    /// The signals, in the order of the stream's [`Hello`]: 1 to [`SIGNALS_MAX`].
    pub fn signals(&self) -> &[Column<'a>] {
        &self.signals
    }
}

/// A device presents one of its streams; sent for each at the start and after a reconnection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello<'a> {
    /// The device's number.
    pub device: u32,
    /// How many times the device had started before.
    pub boot: u32,
    /// The firmware's version: major, minor, patch.
    pub firmware: [u16; 3],
    /// The device's name; as every text here at most [`crate::TEXT_BYTES_MAX`] bytes.
    pub name: &'a str,
    /// The stream's number.
    pub stream: u16,
    /// The stream's name.
    pub stream_name: &'a str,
    /// The time from a row to the next, ns.
    pub period_ns: u64,
    /// The signals' names in the order of the columns.
    #[serde(borrow)]
    pub signals: Vec<&'a str, SIGNALS_MAX>,
}

/// The host has the rows of this start up to and including number `seq` durably; the device may forget them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The device's start the number belongs to.
    pub boot: u32,
    /// The last row that is durable.
    pub seq: u64,
}

/// The host misses rows: the device sends from number `seq` on again, as far as it still has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resend {
    /// The device's start the number belongs to.
    pub boot: u32,
    /// The first row that is missing.
    pub seq: u64,
}

/// A good frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Rows.
    Data(DataFrame<'a>),
    /// A device presents a stream.
    Hello(Hello<'a>),
    /// Rows are durable.
    Ack(Ack),
    /// Rows are missing.
    Resend(Resend),
}

/// A data frame's header as it is on the wire.
#[derive(Serialize, Deserialize)]
pub(crate) struct DataHeader {
    pub head: Head,
    pub rows: u16,
    pub position: Option<[AxisForm; 3]>,
    pub signals: Vec<SignalForm, SIGNALS_MAX>,
}

/// How an axis is sent.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) enum AxisForm {
    Constant(i32),
    PerRow,
}

/// How a signal is sent.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) enum SignalForm {
    I16(Scale),
    I32(Scale),
    F32,
}

impl SignalForm {
    pub const fn scale(&self) -> Option<Scale> {
        match self {
            Self::I16(scale) | Self::I32(scale) => Some(*scale),
            Self::F32 => None,
        }
    }
}

/// The numbers of the kinds.
pub(crate) mod kind {
    pub const DATA: u8 = 1;
    pub const HELLO: u8 = 2;
    pub const ACK: u8 = 3;
    pub const RESEND: u8 = 4;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decimal_grid_is_exact() {
        let millivolts = Scale { multiplier: 1, offset: 0, exponent: -3 };
        assert_eq!(millivolts.value(3217), 3.217);
        assert_eq!(millivolts.value(-1), -0.001);
        let pyrometer = Scale { multiplier: 25, offset: 50_000, exponent: -2 };
        assert_eq!(pyrometer.value(6001), 2000.25);
        assert_eq!(Scale { multiplier: 2, offset: 0, exponent: 3 }.value(4), 8000.0);
        assert_eq!(Scale { multiplier: i32::MIN, offset: i32::MIN, exponent: -15 }.value(i32::MIN), 4_611.686_016_279_904);
    }

    #[test]
    fn times_stop_at_the_end_of_the_range() {
        let head = Head {
            device: 0,
            boot: 0,
            seq: 0,
            stream: 0,
            clock: Clock::Utc,
            time_ns: i64::MIN,
            period_ns: u64::MAX,
            layer: None,
            part: None,
        };
        assert_eq!((head.time_ns(0), head.time_ns(1), head.time_ns(2)), (i64::MIN, i64::MAX, i64::MAX));
    }
}

#![no_std]
//! The frames between a machine's firmware and qadf-edge.
//!
//! The firmware numbers its rows, puts some hundred of them into a [data frame](Rows) and keeps it until an [`Ack`] says that its
//! rows are durable. The host reads the line through an [`Accumulator`], which gives good frames and, for bad ones, the reason and
//! the raw bytes. No allocation, no clock, no `std`; the encoder needs the output buffer and some hundred bytes of stack.
//!
//! # On the wire
//!
//! ```text
//! 00  COBS( version  kind  header  payload  crc )  00
//!           1 byte   1     postcard         4, little-endian
//! ```
//!
//! COBS leaves no zero inside a frame, so a zero always ends one: after noise, a cut or a start in the middle, reading goes on at
//! the next zero. The zero in front keeps noise between two frames out of the second. Empty frames mean nothing.
//!
//! `crc` is CRC-32 (IEEE 802.3, as in zlib) over everything before it. Every version keeps COBS, the first byte and the last four,
//! so that a frame of another version is known as such.
//!
//! # Version 1
//!
//! Headers are in postcard's format (version 1): unsigned numbers as varints, signed ones zigzag first, an `Option` as 0 or 1 and
//! the value, an `enum` as its number, an array as its elements, a list or a text with its length in front.
//!
//! | kind | name | direction | header |
//! |---|---|---|---|
//! | 1 | data | to host | [`Head`], `rows: u16`, position, signals |
//! | 2 | [`Hello`] | to host | its fields in order |
//! | 3 | [`Ack`] | to device | its fields in order |
//! | 4 | [`Resend`] | to device | its fields in order |
//!
//! ```text
//! Head       device u32 · boot u32 · seq u64 · stream u16 · clock (0 UTC, 1 since start) · time_ns i64 · period_ns u64
//!            · layer Option<i32> · part Option<u16>
//! position   Option<[axis; 3]>     axis:   0 constant, i32 nanometres | 1 a value per row, in the payload
//! signals    list of 1 to 8        signal: 0 i16 counts, scale | 1 i32 counts, scale | 2 f32
//! scale      multiplier i32 · offset i32 · exponent i8 (-15 to 15)
//! ```
//!
//! The payload of a data frame holds its columns one after the other, little-endian, `rows` elements each: the axes that are not
//! constant (i32 nanometres; x, y, z), then the signals. Other kinds have no payload. Nothing may be left over.
//!
//! Row `i` has the number `seq + i` and the time `time_ns + i · period_ns`. A signal's value is
//! `(count · multiplier + offset) · 10^exponent`, so a converter's grid stays decimal and exact; the smallest count (`i16::MIN`,
//! `i32::MIN`) means *no value*. Positions are integers because a voxel's face is a decimal number that binary fractions miss, and
//! nanometres because 32 bits of them span ±2.147 m, more than any build plate, and are finer than any scanner.
//!
//! Limits: [`ROWS_MAX`] rows, [`SIGNALS_MAX`] signals, [`TEXT_BYTES_MAX`] bytes a text, [`WIRE_BYTES_MAX`] bytes a frame.
//!
//! # Protocol
//!
//! The device counts its starts (`boot`) and numbers its rows over all streams from 0 (`seq`), without gaps. The host acknowledges
//! a number once that row and all before it are synced. What is not acknowledged, the device keeps, as much as it has room for, and
//! sends again after a reconnection or a [`Resend`]; the host knows rows it has by (device, boot, seq). At most
//! [`WINDOW_ROWS`] rows are on their way at a time, fewer than a host remembers.

mod accumulate;
mod cobs;
mod decode;
mod encode;
mod frame;

pub use accumulate::{Accumulator, Rejected};
pub use decode::{Reason, decode};
pub use encode::{EncodeError, encode_ack, encode_data, encode_hello, encode_resend};
pub use frame::{Ack, Axis, AxisColumn, Clock, Column, DataFrame, Frame, Head, Hello, Resend, Rows, Samples, Scale, Values};

/// The version of the format that this crate writes and reads.
pub const VERSION: u8 = 1;
/// Rows in a data frame at most.
pub const ROWS_MAX: usize = 512;
/// Signals in a data frame at most.
pub const SIGNALS_MAX: usize = 8;
/// Bytes of a name at most.
pub const TEXT_BYTES_MAX: usize = 32;
/// Rows sent and not acknowledged at most; half of the 65,536 numbers a host remembers of a device.
pub const WINDOW_ROWS: u64 = 32_768;

/// Version, kind and CRC.
pub(crate) const ENVELOPE_BYTES: usize = 6;
/// A bound on every header: a hello with eight names, the longest, takes 366.
pub(crate) const HEADER_BYTES_MAX: usize = 384;
/// A frame before COBS at most.
pub(crate) const PLAIN_BYTES_MAX: usize = ENVELOPE_BYTES + HEADER_BYTES_MAX + ROWS_MAX * (3 + SIGNALS_MAX) * 4;
/// A frame on the wire at most, with a zero on either side: the buffer that is always large enough.
pub const WIRE_BYTES_MAX: usize = wire_bytes(PLAIN_BYTES_MAX);

/// What `plain` bytes take on the wire at most.
pub(crate) const fn wire_bytes(plain: usize) -> usize {
    plain + plain / 254 + 1 + 2
}

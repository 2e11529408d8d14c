//! Bytes between two zeros into a frame, or the reason why not.
//!
//! Nothing is believed before the CRC holds, and lengths and counts not even then: a frame that says one thing and holds another
//! is refused.

use core::fmt;

use heapless::Vec;
use serde::Deserialize;

use crate::frame::{AxisForm, DataHeader, SignalForm, kind};
use crate::{AxisColumn, Column, DataFrame, ENVELOPE_BYTES, Frame, Hello, ROWS_MAX, SIGNALS_MAX, TEXT_BYTES_MAX, VERSION, cobs};

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No zero came for longer than the longest frame.
    TooLong,
    /// The line ended, or was given up, in the middle.
    Cut,
    /// The stuffing is broken.
    Stuffing,
    /// Too short to be anything.
    TooShort,
    /// The checksum does not fit.
    Checksum {
        /// As the frame states it.
        stated: u32,
        /// As its bytes have it.
        computed: u32,
    },
    /// A version that this crate does not know.
    Version(u8),
    /// A kind that this version does not have.
    Kind(u8),
    /// The header cannot be read.
    Header,
    /// The header states something beyond the limits: rows, signals, exponent or text.
    Limit,
    /// The payload has another length than the header states.
    Length {
        /// Bytes that the header states.
        stated: usize,
        /// Bytes that there are.
        received: usize,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => out.write_str("no end of frame within the longest frame's length"),
            Self::Cut => out.write_str("the frame is cut"),
            Self::Stuffing => out.write_str("the COBS stuffing is broken"),
            Self::TooShort => out.write_str("too short for a frame"),
            Self::Checksum { stated, computed } => write!(out, "CRC-32 is {computed:08x}, the frame states {stated:08x}"),
            Self::Version(version) => write!(out, "format version {version}: this appliance knows {VERSION}"),
            Self::Kind(kind) => write!(out, "unknown kind of frame {kind}"),
            Self::Header => out.write_str("the header cannot be read"),
            Self::Limit => out.write_str("the header states more rows, signals or text than a frame may have"),
            Self::Length { stated, received } => {
                write!(out, "the header states {stated} bytes of columns, the frame has {received}")
            }
        }
    }
}

impl core::error::Error for Reason {}

/// Reads a frame from the bytes between two zeros. `buffer` takes the bytes without their stuffing and must be as long as `bytes`.
///
/// # Errors
/// Why `bytes` are no frame.
pub fn decode<'b>(bytes: &[u8], buffer: &'b mut [u8]) -> Result<Frame<'b>, Reason> {
    let plain = cobs::decode(bytes, buffer).ok_or(Reason::Stuffing)?;
    if plain.len() < ENVELOPE_BYTES {
        return Err(Reason::TooShort);
    }
    let (body, crc) = plain.split_last_chunk::<4>().ok_or(Reason::TooShort)?;
    let (stated, computed) = (u32::from_le_bytes(*crc), crc32fast::hash(body));
    if stated != computed {
        return Err(Reason::Checksum { stated, computed });
    }
    match *body {
        [VERSION, kind::DATA, ref rest @ ..] => data(rest).map(Frame::Data),
        [VERSION, kind::HELLO, ref rest @ ..] => whole(rest).and_then(checked_hello).map(Frame::Hello),
        [VERSION, kind::ACK, ref rest @ ..] => whole(rest).map(Frame::Ack),
        [VERSION, kind::RESEND, ref rest @ ..] => whole(rest).map(Frame::Resend),
        [VERSION, kind, ..] => Err(Reason::Kind(kind)),
        [version, ..] => Err(Reason::Version(version)),
        [] => Err(Reason::TooShort),
    }
}

/// A header without payload.
fn whole<'b, T: Deserialize<'b>>(bytes: &'b [u8]) -> Result<T, Reason> {
    let (header, rest) = postcard::take_from_bytes(bytes).map_err(|_| Reason::Header)?;
    if rest.is_empty() { Ok(header) } else { Err(Reason::Length { stated: 0, received: rest.len() }) }
}

fn checked_hello(hello: Hello<'_>) -> Result<Hello<'_>, Reason> {
    let long = |text: &&str| text.len() > TEXT_BYTES_MAX;
    if long(&hello.name) || long(&hello.stream_name) || hello.signals.iter().any(long) {
        return Err(Reason::Limit);
    }
    Ok(hello)
}

fn data(bytes: &[u8]) -> Result<DataFrame<'_>, Reason> {
    let (header, payload): (DataHeader, _) = postcard::take_from_bytes(bytes).map_err(|_| Reason::Header)?;
    let rows = usize::from(header.rows);
    let invalid = |form: &SignalForm| form.scale().is_some_and(|scale| !scale.is_valid());
    if rows == 0 || rows > ROWS_MAX || header.signals.is_empty() || header.signals.iter().any(invalid) {
        return Err(Reason::Limit);
    }
    let stated = payload_bytes(&header);
    if payload.len() != stated {
        return Err(Reason::Length { stated, received: payload.len() });
    }
    let mut rest = payload;
    let position = header.position.map(|axes| {
        axes.map(|axis| match axis {
            AxisForm::Constant(nm) => AxisColumn::Constant(nm),
            AxisForm::PerRow => AxisColumn::PerRow(take(&mut rest, rows)),
        })
    });
    let signals: Vec<Column<'_>, SIGNALS_MAX> = header
        .signals
        .iter()
        .map(|form| match *form {
            SignalForm::I16(scale) => Column::I16(scale, take(&mut rest, rows)),
            SignalForm::I32(scale) => Column::I32(scale, take(&mut rest, rows)),
            SignalForm::F32 => Column::F32(take(&mut rest, rows)),
        })
        .collect();
    Ok(DataFrame { head: header.head, rows, position, signals })
}

/// The length of all columns; at most 512 rows of eleven columns of four bytes.
fn payload_bytes(header: &DataHeader) -> usize {
    let axes = header.position.iter().flatten().filter(|axis| matches!(axis, AxisForm::PerRow)).count() * 4;
    let signals: usize = header.signals.iter().map(|form| if matches!(form, SignalForm::I16(_)) { 2 } else { 4 }).sum();
    (axes + signals) * usize::from(header.rows)
}

/// Takes the next column; the caller has compared the lengths, so all of it is there.
fn take<'b, const N: usize>(rest: &mut &'b [u8], rows: usize) -> &'b [[u8; N]] {
    let (column, tail) = rest.split_at_checked(rows * N).unwrap_or((&[], &[]));
    *rest = tail;
    column.as_chunks().0
}

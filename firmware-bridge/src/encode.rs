//! Frames into bytes, straight into the caller's buffer.

use core::fmt;

use heapless::Vec;
use serde::Serialize;

use crate::cobs::{Full, Writer};
use crate::frame::{AxisForm, DataHeader, SignalForm, kind};
use crate::{Ack, Axis, HEADER_BYTES_MAX, Head, Hello, ROWS_MAX, Resend, Rows, SIGNALS_MAX, Samples, TEXT_BYTES_MAX, VERSION};

/// Why a frame cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncodeError {
    /// There are no signals, or more than [`SIGNALS_MAX`].
    Signals(usize),
    /// There are no rows, or more than [`ROWS_MAX`].
    Rows(usize),
    /// The columns differ in length.
    Uneven,
    /// A scale's exponent is outside -15 to 15.
    Exponent(i8),
    /// A text has more than [`TEXT_BYTES_MAX`] bytes.
    Text(usize),
    /// The buffer is too small: [`crate::WIRE_BYTES_MAX`] is always enough.
    Buffer,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signals(count) => write!(out, "{count} signals: a frame has 1 to {SIGNALS_MAX}"),
            Self::Rows(count) => write!(out, "{count} rows: a frame has 1 to {ROWS_MAX}"),
            Self::Uneven => out.write_str("columns of different length"),
            Self::Exponent(exponent) => write!(out, "a scale of 10^{exponent}: the exponent is -15 to 15"),
            Self::Text(bytes) => write!(out, "a text of {bytes} bytes: at most {TEXT_BYTES_MAX}"),
            Self::Buffer => out.write_str("the buffer is too small"),
        }
    }
}

impl core::error::Error for EncodeError {}

impl From<Full> for EncodeError {
    fn from(Full: Full) -> Self {
        Self::Buffer
    }
}

/// Writes a data frame with a zero on either side and gives its bytes.
///
/// # Errors
/// If the rows are none, too many or uneven, a scale is invalid, or `out` is too small.
pub fn encode_data<'b>(head: &Head, rows: &Rows<'_>, out: &'b mut [u8]) -> Result<&'b [u8], EncodeError> {
    let header = data_header(head, rows)?;
    let mut sink = Sink::start(out, kind::DATA, &header)?;
    for axis in rows.position.iter().flatten() {
        if let Axis::PerRow(nm) = axis {
            sink.column(nm, i32::to_le_bytes)?;
        }
    }
    for signal in rows.signals {
        match signal {
            Samples::I16(_, counts) => sink.column(counts, i16::to_le_bytes)?,
            Samples::I32(_, counts) => sink.column(counts, i32::to_le_bytes)?,
            Samples::F32(values) => sink.column(values, f32::to_le_bytes)?,
        }
    }
    sink.finish()
}

/// Writes the presentation of a stream and gives its bytes.
///
/// # Errors
/// If a text is too long or `out` is too small.
pub fn encode_hello<'b>(hello: &Hello<'_>, out: &'b mut [u8]) -> Result<&'b [u8], EncodeError> {
    for text in [&hello.name, &hello.stream_name].into_iter().chain(&hello.signals) {
        if text.len() > TEXT_BYTES_MAX {
            return Err(EncodeError::Text(text.len()));
        }
    }
    Sink::start(out, kind::HELLO, hello)?.finish()
}

/// Writes an acknowledgement and gives its bytes; 32 are enough.
///
/// # Errors
/// If `out` is too small.
pub fn encode_ack(ack: Ack, out: &mut [u8]) -> Result<&[u8], EncodeError> {
    Sink::start(out, kind::ACK, &ack)?.finish()
}

/// Writes the wish for rows again and gives its bytes; 32 are enough.
///
/// # Errors
/// If `out` is too small.
pub fn encode_resend(resend: Resend, out: &mut [u8]) -> Result<&[u8], EncodeError> {
    Sink::start(out, kind::RESEND, &resend)?.finish()
}

fn data_header(head: &Head, rows: &Rows<'_>) -> Result<DataHeader, EncodeError> {
    let count = rows.signals.first().map_or(0, Samples::len);
    let mut signals = Vec::new();
    for signal in rows.signals {
        let form = match signal {
            Samples::I16(scale, _) => SignalForm::I16(*scale),
            Samples::I32(scale, _) => SignalForm::I32(*scale),
            Samples::F32(_) => SignalForm::F32,
        };
        if let Some(scale) = form.scale().filter(|scale| !scale.is_valid()) {
            return Err(EncodeError::Exponent(scale.exponent));
        }
        signals.push(form).map_err(|_| EncodeError::Signals(rows.signals.len()))?;
    }
    if signals.is_empty() {
        return Err(EncodeError::Signals(0));
    }
    if count == 0 || count > ROWS_MAX {
        return Err(EncodeError::Rows(count));
    }
    let uneven_axis = |axis: &Axis<'_>| matches!(axis, Axis::PerRow(nm) if nm.len() != count);
    if rows.signals.iter().any(|signal| signal.len() != count) || rows.position.iter().flatten().any(uneven_axis) {
        return Err(EncodeError::Uneven);
    }
    let position = rows.position.map(|axes| {
        axes.map(|axis| match axis {
            Axis::Constant(nm) => AxisForm::Constant(nm),
            Axis::PerRow(_) => AxisForm::PerRow,
        })
    });
    Ok(DataHeader { head: *head, rows: count as u16, position, signals })
}

/// Takes plain bytes, sums them up and stuffs them.
struct Sink<'b> {
    cobs: Writer<'b>,
    crc: crc32fast::Hasher,
}

impl<'b> Sink<'b> {
    fn start(out: &'b mut [u8], kind: u8, header: &impl Serialize) -> Result<Self, EncodeError> {
        let mut sink = Self { cobs: Writer::new(out)?, crc: crc32fast::Hasher::new() };
        sink.put(&[VERSION, kind])?;
        // Headers are bounded below the buffer's length, so this cannot fail.
        let mut buffer = [0; HEADER_BYTES_MAX];
        let header = postcard::to_slice(header, &mut buffer).map_err(|_| EncodeError::Buffer)?;
        sink.put(header)?;
        Ok(sink)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.crc.update(bytes);
        Ok(self.cobs.put(bytes)?)
    }

    /// Adds a column, some elements at a time.
    fn column<T: Copy, const N: usize>(&mut self, elements: &[T], bytes_of: fn(T) -> [u8; N]) -> Result<(), EncodeError> {
        const ELEMENTS: usize = 64;
        let mut buffer = [[0; N]; ELEMENTS];
        for piece in elements.chunks(ELEMENTS) {
            for (place, element) in buffer.iter_mut().zip(piece) {
                *place = bytes_of(*element);
            }
            self.put(buffer[..piece.len()].as_flattened())?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<&'b [u8], EncodeError> {
        self.cobs.put(&self.crc.finalize().to_le_bytes())?;
        Ok(self.cobs.finish()?)
    }
}

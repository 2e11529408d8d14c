//! Bytes as a serial line gives them, in pieces of any length, into frames and rejections.
//!
//! Memory is two buffers of `N` bytes, whatever comes: of a frame that is too long, only the first `N` bytes are kept, for whoever
//! looks at the rejection. A frame that lies whole in a piece is decoded from there, without a copy.

use crate::cobs::find_zero;
use crate::{Frame, Reason, WIRE_BYTES_MAX, decode};

/// Bytes that are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejected<'a> {
    /// Why.
    pub reason: Reason,
    /// As received, without the zeros around; at most the accumulator's `N`.
    pub raw: &'a [u8],
    /// How many there were, also those not kept.
    pub bytes: u64,
}

/// Collects the bytes of a line and gives its frames. The device needs an `N` of 32 for what the host sends.
///
/// ```
/// # use firmware_bridge::{Accumulator, Ack, Frame, encode_ack};
/// let mut buffer = [0; 32];
/// let received = encode_ack(Ack { boot: 1, seq: 41 }, &mut buffer)?;
///
/// let mut accumulator = Accumulator::<32>::new();
/// for piece in received.chunks(3) {
///     let mut rest = piece;
///     while let Some(event) = accumulator.next(&mut rest) {
///         match event {
///             Ok(frame) => assert_eq!(frame, Frame::Ack(Ack { boot: 1, seq: 41 })),
///             Err(rejected) => panic!("{}: {:?}", rejected.reason, rejected.raw),
///         }
///     }
/// }
/// # Ok::<(), firmware_bridge::EncodeError>(())
/// ```
#[derive(Debug)]
pub struct Accumulator<const N: usize = WIRE_BYTES_MAX> {
    /// The beginning of the current frame, as received.
    raw: [u8; N],
    /// How much of `raw` is used.
    kept: usize,
    /// Bytes of the current frame that found no room in `raw`.
    beyond: u64,
    /// A frame without its stuffing.
    plain: [u8; N],
}

impl<const N: usize> Default for Accumulator<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Accumulator<N> {
    /// At the beginning of a line.
    pub const fn new() -> Self {
        Self { raw: [0; N], kept: 0, beyond: 0, plain: [0; N] }
    }

    /// Takes bytes off the front of `input` up to the next frame's end; `None` once all are taken and no frame has ended.
    pub fn next<'a, 'i: 'a>(&'a mut self, input: &mut &'i [u8]) -> Option<Result<Frame<'a>, Rejected<'a>>> {
        self.next_with_bytes(input).map(|(_, event)| event)
    }

    /// As [`Self::next`], with the frame as received, for whoever refuses a good frame and keeps it.
    pub fn next_with_bytes<'a, 'i: 'a>(&'a mut self, input: &mut &'i [u8]) -> Option<(&'a [u8], Result<Frame<'a>, Rejected<'a>>)> {
        loop {
            let Some(zero) = find_zero(input) else {
                self.keep(input);
                *input = &[];
                return None;
            };
            let piece = &input[..zero];
            *input = &input[zero + 1..];
            if self.kept == 0 {
                if piece.is_empty() {
                    continue;
                }
                return Some((piece, read(piece, &mut self.plain)));
            }
            self.keep(piece);
            return Some(self.take());
        }
    }

    /// Calls `each` for every frame that ends in `input`.
    pub fn feed(&mut self, mut input: &[u8], mut each: impl FnMut(Result<Frame<'_>, Rejected<'_>>)) {
        while let Some(event) = self.next(&mut input) {
            each(event);
        }
    }

    /// The line ended: what was received of a frame is rejected as cut, and the next byte begins a new line.
    pub fn finish(&mut self) -> Option<Rejected<'_>> {
        let (kept, beyond) = (core::mem::take(&mut self.kept), core::mem::take(&mut self.beyond));
        (kept > 0).then(|| Rejected { reason: Reason::Cut, raw: &self.raw[..kept], bytes: kept as u64 + beyond })
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = (N - self.kept).min(bytes.len());
        self.raw[self.kept..self.kept + room].copy_from_slice(&bytes[..room]);
        self.kept += room;
        self.beyond = self.beyond.saturating_add((bytes.len() - room) as u64);
    }

    fn take(&mut self) -> (&[u8], Result<Frame<'_>, Rejected<'_>>) {
        let (kept, beyond) = (core::mem::take(&mut self.kept), core::mem::take(&mut self.beyond));
        let raw = &self.raw[..kept];
        if beyond > 0 {
            return (raw, Err(Rejected { reason: Reason::TooLong, raw, bytes: kept as u64 + beyond }));
        }
        (raw, read(raw, &mut self.plain))
    }
}

fn read<'a>(raw: &'a [u8], plain: &'a mut [u8]) -> Result<Frame<'a>, Rejected<'a>> {
    let bytes = raw.len() as u64;
    if raw.len() > plain.len() {
        return Err(Rejected { reason: Reason::TooLong, raw: &raw[..plain.len()], bytes });
    }
    decode(raw, plain).map_err(|reason| Rejected { reason, raw, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Ack, encode_ack};

    fn ack(seq: u64, buffer: &mut [u8; 32]) -> &[u8] {
        encode_ack(Ack { boot: 1, seq }, buffer).unwrap_or_default()
    }

    #[test]
    fn a_frame_that_is_too_long_is_bounded_and_the_next_is_read() {
        let mut accumulator = Accumulator::<16>::new();
        let mut noise: &[u8] = &[7; 1000];
        assert_eq!(accumulator.next(&mut noise), None);
        let mut end: &[u8] = &[7, 0];
        assert_eq!(accumulator.next(&mut end), Some(Err(Rejected { reason: Reason::TooLong, raw: &[7; 16], bytes: 1001 })));
        let mut whole: &[u8] = &[[7; 30], [0; 30]].concat();
        assert_eq!(accumulator.next(&mut whole), Some(Err(Rejected { reason: Reason::TooLong, raw: &[7; 16], bytes: 30 })));
        let mut buffer = [0; 32];
        let mut good = ack(9, &mut buffer);
        assert_eq!(accumulator.next(&mut good), Some(Ok(Frame::Ack(Ack { boot: 1, seq: 9 }))));
        assert_eq!(accumulator.next(&mut good), None);
    }

    #[test]
    fn a_line_that_ends_in_a_frame_reports_it_once() {
        let mut accumulator = Accumulator::<32>::new();
        let mut buffer = [0; 32];
        let bytes = ack(9, &mut buffer);
        let mut half = &bytes[..5];
        assert_eq!(accumulator.next(&mut half), None);
        assert_eq!(accumulator.finish(), Some(Rejected { reason: Reason::Cut, raw: &bytes[1..5], bytes: 4 }));
        assert_eq!(accumulator.finish(), None);
        let mut count = 0;
        accumulator.feed(bytes, |event| count += usize::from(event.is_ok()));
        assert_eq!(count, 1);
    }
}

//! Consistent Overhead Byte Stuffing (Cheshire and Baker, 1999): bytes without zeros, for at most one byte in 254.
//!
//! A block is a code byte and `code - 1` bytes that are not zero; it stands for these bytes and a zero, or without the zero if its
//! code is 255 or it is the last. Both directions copy whole runs between zeros instead of looking at each byte.

/// Bytes of the longest run in a block.
const RUN_BYTES_MAX: usize = 254;

/// Where the first zero is. Looks at eight bytes at a time.
pub(crate) fn find_zero(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let (words, tail) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // The lowest bit set is in the first zero byte; higher ones may be borrowed (Hacker's Delight, 6-1).
        let zeros = word.wrapping_sub(ONES) & !word & (ONES << 7);
        if zeros != 0 {
            return Some(index * 8 + zeros.trailing_zeros() as usize / 8);
        }
    }
    tail.iter().position(|byte| *byte == 0).map(|index| words.len() * 8 + index)
}

/// Encodes into a buffer, piece by piece.
pub(crate) struct Writer<'b> {
    out: &'b mut [u8],
    /// Where the current block's code goes.
    code_at: usize,
    /// Where the next byte goes.
    at: usize,
}

/// The buffer is full.
pub(crate) struct Full;

impl<'b> Writer<'b> {
    /// Starts a frame, with a zero in front.
    pub fn new(out: &'b mut [u8]) -> Result<Self, Full> {
        *out.first_mut().ok_or(Full)? = 0;
        Ok(Self { out, code_at: 1, at: 2 })
    }

    /// Adds bytes.
    pub fn put(&mut self, mut bytes: &[u8]) -> Result<(), Full> {
        while !bytes.is_empty() {
            if self.run_bytes() == RUN_BYTES_MAX {
                self.close_block()?;
            }
            let room = (RUN_BYTES_MAX - self.run_bytes()).min(bytes.len());
            let zero = find_zero(&bytes[..room]);
            let (run, rest) = bytes.split_at(zero.unwrap_or(room));
            self.out.get_mut(self.at..self.at + run.len()).ok_or(Full)?.copy_from_slice(run);
            self.at += run.len();
            bytes = rest;
            if zero.is_some() {
                self.close_block()?;
                bytes = &bytes[1..];
            }
        }
        Ok(())
    }

    /// Ends the frame with a zero and gives all of it.
    pub fn finish(mut self) -> Result<&'b [u8], Full> {
        self.close_block()?;
        // The place for the next block's code takes the zero.
        *self.out.get_mut(self.code_at).ok_or(Full)? = 0;
        Ok(&self.out[..=self.code_at])
    }

    fn run_bytes(&self) -> usize {
        self.at - self.code_at - 1
    }

    fn close_block(&mut self) -> Result<(), Full> {
        // A run has at most 254 bytes.
        *self.out.get_mut(self.code_at).ok_or(Full)? = self.run_bytes() as u8 + 1;
        self.code_at = self.at;
        self.at += 1;
        Ok(())
    }
}

/// Decodes `bytes`, which hold no zero, into `out`, and gives the decoded part; `None` if a block is cut or `out` is too small.
pub(crate) fn decode<'b>(bytes: &[u8], out: &'b mut [u8]) -> Option<&'b [u8]> {
    let (mut from, mut to) = (0, 0);
    while let Some(&code) = bytes.get(from) {
        from += 1;
        let run = usize::from(code).checked_sub(1)?;
        copy(bytes, from, out, to, run)?;
        from += run;
        to += run;
        if code != u8::MAX && from < bytes.len() {
            *out.get_mut(to)? = 0;
            to += 1;
        }
    }
    out.get(..to)
}

/// Copies `count` bytes. Short runs, the most frequent, move as one fixed block where both sides have the room: what goes beyond
/// the run is overwritten by the next.
fn copy(bytes: &[u8], from: usize, out: &mut [u8], to: usize, count: usize) -> Option<()> {
    const SHORT: usize = 16;
    if count <= SHORT
        && let (Some(source), Some(target)) = (bytes.get(from..from + SHORT), out.get_mut(to..to + SHORT))
    {
        target.copy_from_slice(source);
        return Some(());
    }
    out.get_mut(to..to + count)?.copy_from_slice(bytes.get(from..from + count)?);
    Some(())
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::{vec, vec::Vec};

    use super::*;

    fn encode(bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![0xaa; bytes.len() * 2 + 10];
        let Ok(mut writer) = Writer::new(&mut out) else { unreachable!() };
        for piece in bytes.chunks(7) {
            assert!(writer.put(piece).is_ok());
        }
        let Ok(all) = writer.finish() else { unreachable!() };
        assert_eq!((all[0], all[all.len() - 1]), (0, 0));
        all[1..all.len() - 1].to_vec()
    }

    fn check(plain: &[u8], wire: &[u8]) {
        assert_eq!(encode(plain), wire);
        let mut out = vec![0; plain.len()];
        assert_eq!(decode(wire, &mut out), Some(plain));
    }

    #[test]
    fn the_published_examples_hold() {
        let ascending: Vec<u8> = (1..=255).collect();
        check(&[0], &[1, 1]);
        check(&[0, 0], &[1, 1, 1]);
        check(&[0, 0x11, 0], &[1, 2, 0x11, 1]);
        check(&[0x11, 0x22, 0, 0x33], &[3, 0x11, 0x22, 2, 0x33]);
        check(&[0x11, 0, 0, 0], &[2, 0x11, 1, 1, 1]);
        check(&ascending[..254], &[&[255], &ascending[..254]].concat());
        check(&[&[0], &ascending[..254]].concat(), &[&[1, 255], &ascending[..254]].concat());
        check(&ascending, &[&[255], &ascending[..254], &[2, 255]].concat());
        check(&[&ascending[1..], &[0][..]].concat(), &[&[255], &ascending[1..], &[1, 1]].concat());
    }

    #[test]
    fn every_length_and_spacing_of_zeros_comes_back() {
        for length in 0..600 {
            for spacing in [1, 2, 7, 16, 17, 253, 254, 255, 1000] {
                let plain: Vec<u8> =
                    (0..length).map(|i| if i % spacing == spacing - 1 { 0 } else { (i % 255) as u8 + 1 }).collect();
                let wire = encode(&plain);
                assert!(!wire.contains(&0));
                assert!(wire.len() + 2 <= crate::wire_bytes(plain.len()), "{length} {spacing}");
                let mut out = vec![0; plain.len()];
                assert_eq!(decode(&wire, &mut out), Some(&plain[..]), "{length} {spacing}");
            }
        }
    }

    #[test]
    fn a_cut_block_and_a_small_buffer_are_refused() {
        assert_eq!(decode(&[5, 1, 2], &mut [0; 99]), None);
        assert_eq!(decode(&[3, 1, 2], &mut [0; 1]), None);
        assert_eq!(decode(&[1, 1], &mut []), None);
        assert_eq!(decode(&[0], &mut [0; 9]), None);
    }

    #[test]
    fn the_first_zero_is_found_at_every_place() {
        for length in 0..40 {
            for place in 0..=length {
                let bytes: Vec<u8> = (0..length).map(|i| if i < place { 0x80 } else { (i != place).into() }).collect();
                assert_eq!(find_zero(&bytes), (place < length).then_some(place));
            }
        }
    }
}

//! Integers in blocks of [`BLOCK`], each block as its smallest value and the differences to it in as few bits as the largest needs.
//!
//! ```text
//! block   signed minimum, width in bits (0..=64), ⌈count·width/8⌉ bytes of (value − minimum), low bits first
//! ```
//!
//! Eight values of w bits are w bytes, so every eighth value begins at a byte: groups of eight are packed and unpacked without a branch
//! and without a bit carried from one group to the next. Differences wrap, so that no value is out of range.

use super::wire::{Cursor, DecodeError, put_signed};

/// Values of a block; the last of a column may have fewer.
pub const BLOCK: usize = 128;
const GROUP: usize = 8;
/// The bytes of a block of the greatest width, and as many more as the widest load reads past a group.
const PADDED_BYTES: usize = BLOCK * 8 + LOADED_BYTES;
/// The bytes of a group that is read at once: offsets up to 63, and a word there.
const LOADED_BYTES: usize = 72;
/// A value of this width lies in the eight bytes from the one in which it begins.
const LOADED_WIDTH_MAX: u32 = 57;

/// The smallest value of `block`, and how many bits the difference of the greatest to it needs.
pub fn spread(block: &[i64]) -> (i64, u32) {
    // Several chains, since each step of one waits for the last.
    let (fours, rest) = block.as_chunks::<4>();
    let (mut mins, mut maxs) = ([i64::MAX; 4], [i64::MIN; 4]);
    for four in fours {
        mins.iter_mut().zip(four).for_each(|(min, value)| *min = (*min).min(*value));
        maxs.iter_mut().zip(four).for_each(|(max, value)| *max = (*max).max(*value));
    }
    let min = mins.iter().chain(rest).fold(i64::MAX, |min, value| min.min(*value));
    let max = maxs.iter().chain(rest).fold(i64::MIN, |max, value| max.max(*value));
    if block.is_empty() { (0, 0) } else { (min, u64::BITS - (max.wrapping_sub(min) as u64).leading_zeros()) }
}

/// Appends a block of up to [`BLOCK`] values.
pub fn put_block(out: &mut Vec<u8>, block: &[i64]) {
    let (min, width) = spread(block);
    put_signed(out, min);
    out.push(width as u8);
    let start = out.len();
    out.resize(start + block.len().div_ceil(GROUP) * width as usize + size_of::<u128>(), 0);
    let mut rest = &mut out[start..];
    let groups = block.chunks_exact(GROUP);
    let tail = groups.remainder();
    for group in groups {
        let mut deltas = [0; GROUP];
        deltas.iter_mut().zip(group).for_each(|(delta, value)| *delta = value.wrapping_sub(min) as u64);
        put_group(rest, &deltas, width);
        rest = &mut rest[width as usize..];
    }
    let mut deltas = [0; GROUP];
    deltas.iter_mut().zip(tail).for_each(|(delta, value)| *delta = value.wrapping_sub(min) as u64);
    put_group(rest, &deltas, width);
    out.truncate(start + (block.len() * width as usize).div_ceil(8));
}

/// Writes eight values of `width` bits to the beginning of `to`, which is at least 16 bytes longer than they are, or all that they need.
fn put_group(to: &mut [u8], deltas: &[u64; GROUP], width: u32) {
    if width <= 16 {
        let four = |at: usize| deltas[at] | deltas[at + 1] << width | (deltas[at + 2] | deltas[at + 3] << width) << (2 * width);
        // Four values of 16 bits fill a word, and the shifts stay below its length.
        let eight = u128::from(four(0)) | u128::from(four(4)) << (4 * width);
        if let Some(bytes) = to.first_chunk_mut() {
            *bytes = eight.to_le_bytes();
        }
        return;
    }
    let (mut pending, mut bits, mut words) = (0_u128, 0, to.chunks_exact_mut(size_of::<u64>()));
    let mut put = |value: u64, width: u32| {
        pending |= u128::from(value) << bits;
        bits += width;
        if bits >= u64::BITS {
            if let Some(word) = words.next() {
                word.copy_from_slice(&(pending as u64).to_le_bytes());
            }
            pending >>= u64::BITS;
            bits -= u64::BITS;
        }
    };
    if width <= 32 {
        deltas.as_chunks::<2>().0.iter().for_each(|pair| put(pair[0] | pair[1] << width, 2 * width));
    } else {
        deltas.iter().for_each(|delta| put(*delta, width));
    }
    if let Some(word) = words.next() {
        word.copy_from_slice(&(pending as u64).to_le_bytes());
    }
}

/// Reads a block into `values`, which says how many it has: at most [`BLOCK`].
///
/// # Errors
/// What [`put_block`] does not write.
pub fn take_block(cursor: &mut Cursor<'_>, values: &mut [i64]) -> Result<(), DecodeError> {
    let min = cursor.signed()?;
    let width = u32::from(cursor.byte()?);
    if width > u64::BITS {
        return Err(DecodeError::Invalid("a width beyond 64 bits"));
    }
    let packed = cursor.take((values.len() * width as usize).div_ceil(8))?;
    let mut padded = [0; PADDED_BYTES];
    let Some(bytes) = padded.get_mut(..packed.len()) else { return Err(DecodeError::Invalid("a block is too long")) };
    bytes.copy_from_slice(packed);
    if width <= LOADED_WIDTH_MAX {
        take_narrow(&padded, width, min, values);
    } else {
        take_wide(packed, width, min, values);
    }
    Ok(())
}

/// Each value from the eight bytes in which it lies.
fn take_narrow(padded: &[u8; PADDED_BYTES], width: u32, min: i64, values: &mut [i64]) {
    let mask = (1_u64 << width) - 1;
    let places: [(usize, u32); GROUP] = std::array::from_fn(|at| ((at * width as usize) / 8, (at as u32 * width) % 8));
    for (group, values) in values.chunks_mut(GROUP).enumerate() {
        // A group begins within the block's bytes, which are padded by what is loaded.
        let Some(bytes) = padded.get(group * width as usize..).and_then(|rest| rest.first_chunk::<LOADED_BYTES>()) else { return };
        for (value, (offset, shift)) in values.iter_mut().zip(&places) {
            let offset = offset & 63;
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[offset..offset + 8]);
            *value = min.wrapping_add((u64::from_le_bytes(word) >> shift & mask) as i64);
        }
    }
}

fn take_wide(packed: &[u8], width: u32, min: i64, values: &mut [i64]) {
    let mask = u64::MAX >> (u64::BITS - width);
    let (mut pending, mut bits, mut rest) = (0_u128, 0, packed);
    for value in values {
        if bits < width {
            let (word, after) = rest.split_at(rest.len().min(8));
            let mut bytes = [0; 8];
            bytes[..word.len()].copy_from_slice(word);
            rest = after;
            pending |= u128::from(u64::from_le_bytes(bytes)) << bits;
            bits += u64::BITS;
        }
        *value = min.wrapping_add((pending as u64 & mask) as i64);
        pending >>= width;
        bits -= width;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The plainest way to write the format, bit by bit.
    fn bit_by_bit(block: &[i64]) -> Vec<u8> {
        let (min, width) = spread(block);
        let mut out = Vec::new();
        put_signed(&mut out, min);
        out.push(width as u8);
        let start = out.len();
        out.resize(start + (block.len() * width as usize).div_ceil(8), 0);
        for (at, value) in block.iter().enumerate() {
            for bit in (0..width as usize).filter(|bit| value.wrapping_sub(min) as u64 >> bit & 1 == 1) {
                let place = at * width as usize + bit;
                out[start + place / 8] |= 1 << (place % 8);
            }
        }
        out
    }

    #[test]
    fn every_width_and_length_is_the_format_and_comes_back() {
        for width in 0..=64_u32 {
            for count in [1, 2, 7, 8, 9, 63, 64, 100, 127, 128] {
                let mask = u64::MAX.checked_shr(64 - width).unwrap_or(0);
                let mut state = u64::from(width) * 1_000 + count as u64;
                let mut block: Vec<i64> = (0..count)
                    .map(|_| {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        (state & mask).wrapping_sub(1 << 40) as i64
                    })
                    .collect();
                block[0] = 0_u64.wrapping_sub(1 << 40) as i64;
                let mut out = vec![7];
                put_block(&mut out, &block);
                assert_eq!(out[1..], bit_by_bit(&block), "width {width}, {count} values");
                let mut back = vec![0; count];
                let mut cursor = Cursor(&out[1..]);
                take_block(&mut cursor, &mut back).unwrap();
                assert_eq!(back, block);
                assert!(cursor.0.is_empty());
            }
        }
    }
}

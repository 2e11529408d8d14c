//! One column of numbers as few bytes: integers by frame of reference, floating-point numbers through integers where that is exact.
//!
//! ```text
//! integers   0 constant     signed value
//!            1 progression  signed start, signed step: value i = start + i·step
//!            2 packed       order 0|1|2, the first `order` values as signed, then blocks of 128 differences of that order:
//!                           each as packing.rs draws it
//! numbers    0 constant     8 bytes, the bits of the value
//!            1 raw          8 bytes each
//!            2 decimal      exponent e 0..=9, integers k: value = k / 10^e
//!            3 single       integers: the bits of the value as f32, ordered (a negative value's bits are inverted below zero)
//!            4 pco          varint length, a `pco` standalone file
//!            5 sparse       integers 0|1 = no value|value, then numbers: those that are there (no value = the quiet NaN)
//! ```
//!
//! All are exact: a column comes back bit for bit, negative zeros and NaN payloads included. An encoding is chosen only after every
//! value was checked to survive it. Differences wrap, so that no value is out of range.

use std::ops::Range;

use pco::{ChunkConfig, standalone};

use super::packing::{BLOCK, put_block, spread, take_block};
use super::wire::{Cursor, DecodeError, put_signed, put_varint};

/// Blocks of a column that its order of differences is chosen by.
const SAMPLED_BLOCKS: usize = 2;
/// Below this many values `pco`'s own header and set-up (6 µs) cost more than they save.
const PCO_VALUES_MIN: usize = 48;
/// The level at which `pco` costs about 20 ns a value and saves nearly all that it can.
const PCO_LEVEL: usize = 2;
const POWERS_OF_TEN: [f64; 10] = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
/// Scaled values below 2^51 are rounded by adding 1.5·2^52, which leaves no bits for a fraction.
const DECIMAL_MAX: i64 = 1 << 51;
const ROUNDER: f64 = 6_755_399_441_055_744.0;
const EXPONENT_BITS: u64 = 0xfff << 52;
/// Values that decide on the power of ten of a column.
const DECIMAL_HEAD: usize = 64;

/// Appends a column of integers; the reader must know how many.
pub fn put_integers(out: &mut Vec<u8>, values: &[i64]) {
    let [first, rest @ ..] = values else { return out.push(0) };
    if is_constant(values, |value| value as u64) {
        out.push(0);
        return put_signed(out, *first);
    }
    let step = rest[0].wrapping_sub(*first);
    if is_progression(values, step) {
        out.push(1);
        put_signed(out, *first);
        return put_signed(out, step);
    }
    out.push(2);
    put_packed(out, values);
}

/// Whether all values have the same bits. Looks at a block at a time, so that the compiler can take several values together.
fn is_constant<T: Copy>(values: &[T], bits: impl Fn(T) -> u64) -> bool {
    let Some(first) = values.first() else { return true };
    let first = bits(*first);
    values.chunks(BLOCK).all(|block| block.iter().fold(0, |differ, value| differ | (bits(*value) ^ first)) == 0)
}

/// Whether every value is `step` more than the one before it.
fn is_progression(values: &[i64], step: i64) -> bool {
    blocks(values.len(), 1).all(|block| {
        let before = &values[block.start - 1..block.end - 1];
        values[block].iter().zip(before).fold(0, |differ, (now, last)| differ | (now.wrapping_sub(*last) ^ step)) == 0
    })
}

/// Reads `count` integers.
pub fn take_integers(cursor: &mut Cursor<'_>, count: usize) -> Result<Vec<i64>, DecodeError> {
    match cursor.byte()? {
        _ if count == 0 => Ok(Vec::new()),
        0 => Ok(vec![cursor.signed()?; count]),
        1 => {
            let (start, step) = (cursor.signed()?, cursor.signed()?);
            Ok((0..count as i64).map(|i| start.wrapping_add(i.wrapping_mul(step))).collect())
        }
        2 => take_packed(cursor, count),
        _ => Err(DecodeError::Invalid("an unknown encoding of integers")),
    }
}

/// The differences of `order` at the places `block` of `values`, of which the first is at least `order`; written to `room` if need be.
fn differences<'a>(values: &'a [i64], order: usize, block: Range<usize>, room: &'a mut [i64; BLOCK]) -> &'a [i64] {
    let (start, end) = (block.start, block.end);
    let now = &values[block];
    let before = |by: usize| &values[start - by..end - by];
    match order {
        0 => return now,
        1 => room.iter_mut().zip(now.iter().zip(before(1))).for_each(|(room, (now, last))| *room = now.wrapping_sub(*last)),
        _ => room.iter_mut().zip(now.iter().zip(before(1).iter().zip(before(2)))).for_each(|(room, (now, (last, before)))| {
            *room = now.wrapping_sub(*last).wrapping_sub(last.wrapping_sub(*before));
        }),
    }
    &room[..now.len()]
}

/// The blocks of the differences of `order`.
fn blocks(count: usize, order: usize) -> impl Iterator<Item = Range<usize>> {
    (order..count).step_by(BLOCK).map(move |start| start..count.min(start + BLOCK))
}

/// The order of differences that takes the fewest bits: the lowest of those that are equal. A long column is judged by some of its blocks.
fn best_order(values: &[i64]) -> usize {
    let (count, mut room) = (values.len(), [0; BLOCK]);
    let mut bits = |order: usize| {
        let starts = if count <= SAMPLED_BLOCKS * BLOCK { [order, order + BLOCK] } else { [order, count / 2] };
        let block = |start: usize| start.min(count)..count.min(start + BLOCK);
        starts.map(|start| spread(differences(values, order, block(start.min(count)), &mut room)).1).into_iter().max().unwrap_or(0)
    };
    let bits = [bits(0), bits(1), bits(2)];
    (0..3).min_by_key(|order| bits[*order]).unwrap_or(0)
}

fn put_packed(out: &mut Vec<u8>, values: &[i64]) {
    let order = best_order(values);
    let mut room = [0; BLOCK];
    out.push(order as u8);
    // What the first differences start from: the first value, and the first difference.
    values.iter().take(order.min(1)).for_each(|value| put_signed(out, *value));
    values.windows(2).take(order / 2).for_each(|pair| put_signed(out, pair[1].wrapping_sub(pair[0])));
    blocks(values.len(), order).for_each(|block| put_block(out, differences(values, order, block, &mut room)));
}

fn take_packed(cursor: &mut Cursor<'_>, count: usize) -> Result<Vec<i64>, DecodeError> {
    let order = usize::from(cursor.byte()?);
    if order > 2 || order > count {
        return Err(DecodeError::Invalid("an unknown order of differences"));
    }
    let mut values = vec![0; count];
    for value in &mut values[..order] {
        *value = cursor.signed()?;
    }
    for block in values[order..].chunks_mut(BLOCK) {
        take_block(cursor, block)?;
    }
    for start in (1..=order).rev() {
        let mut sum = values[start - 1];
        for value in &mut values[start..] {
            sum = sum.wrapping_add(*value);
            *value = sum;
        }
    }
    Ok(values)
}

/// Appends a column of numbers; the reader must know how many.
pub fn put_numbers(out: &mut Vec<u8>, values: &[f64]) {
    let Some(first) = values.first() else { return out.push(0) };
    if is_constant(values, f64::to_bits) {
        out.push(0);
        return out.extend_from_slice(&first.to_bits().to_le_bytes());
    }
    if let Some((exponent, integers)) = decimal(values) {
        out.extend_from_slice(&[2, exponent as u8]);
        return put_integers(out, &integers);
    }
    if values.iter().copied().any(is_none) {
        out.push(5);
        put_integers(out, &values.iter().map(|value| i64::from(!is_none(*value))).collect::<Vec<_>>());
        return put_numbers(out, &values.iter().copied().filter(|value| !is_none(*value)).collect::<Vec<_>>());
    }
    if let Some(integers) = single(values) {
        out.push(3);
        return put_integers(out, &integers);
    }
    if values.len() >= PCO_VALUES_MIN
        && let Ok(packed) = standalone::simple_compress(values, &ChunkConfig::default().with_compression_level(PCO_LEVEL))
        && packed.len() < values.len() * 8
    {
        out.push(4);
        put_varint(out, packed.len() as u64);
        return out.extend_from_slice(&packed);
    }
    out.push(1);
    values.iter().for_each(|value| out.extend_from_slice(&value.to_bits().to_le_bytes()));
}

/// Reads `count` numbers.
pub fn take_numbers(cursor: &mut Cursor<'_>, count: usize) -> Result<Vec<f64>, DecodeError> {
    match cursor.byte()? {
        _ if count == 0 => Ok(Vec::new()),
        0 => Ok(vec![f64::from_bits(cursor.word()?); count]),
        1 => (0..count).map(|_| cursor.word().map(f64::from_bits)).collect(),
        2 => {
            let power = POWERS_OF_TEN.get(usize::from(cursor.byte()?)).ok_or(DecodeError::Invalid("an unknown power of ten"))?;
            Ok(from_scaled(&take_integers(cursor, count)?, *power))
        }
        3 => take_integers(cursor, count)?.into_iter().map(from_single).collect(),
        4 => take_pco(cursor.bytes()?, count),
        5 => take_sparse(cursor, count),
        _ => Err(DecodeError::Invalid("an unknown encoding of numbers")),
    }
}

/// Whether a value is the one that stands for no value.
fn is_none(value: f64) -> bool {
    value.to_bits() == f64::NAN.to_bits()
}

fn take_sparse(cursor: &mut Cursor<'_>, count: usize) -> Result<Vec<f64>, DecodeError> {
    let there = take_integers(cursor, count)?;
    let dense = there.iter().filter(|there| **there != 0).count();
    if cursor.0.first() == Some(&5) {
        // Bytes from outside would otherwise decide how deep this recurses.
        return Err(DecodeError::Invalid("a sparse column inside a sparse column"));
    }
    let mut dense = take_numbers(cursor, dense)?.into_iter();
    Ok(there.into_iter().map(|there| if there == 0 { f64::NAN } else { dense.next().unwrap_or(f64::NAN) }).collect())
}

fn take_pco(packed: &[u8], count: usize) -> Result<Vec<f64>, DecodeError> {
    let mut values = vec![0.0; count];
    let progress = standalone::simple_decompress_into(packed, &mut values);
    match progress {
        Ok(progress) if progress.n_processed == count && progress.finished => Ok(values),
        _ => Err(DecodeError::Invalid("a compressed column does not hold what it says")),
    }
}

/// The smallest power of ten that makes integers of all values, and these.
fn decimal(values: &[f64]) -> Option<(usize, Vec<i64>)> {
    let mut least = 0;
    for value in values.iter().take(8) {
        least = (least..POWERS_OF_TEN.len()).find(|exponent| scale(&[*value], POWERS_OF_TEN[*exponent], &mut [0]))?;
    }
    let mut integers = vec![0; values.len()];
    let head = values.len().min(DECIMAL_HEAD);
    // Far into the column another power is not worth a second pass over all of it.
    let exponent = (least..POWERS_OF_TEN.len()).find(|exponent| scale(&values[..head], POWERS_OF_TEN[*exponent], &mut integers))?;
    let mut rest = values[head..].chunks(BLOCK).zip(integers[head..].chunks_mut(BLOCK));
    rest.all(|(values, integers)| scale(values, POWERS_OF_TEN[exponent], integers)).then_some((exponent, integers))
}

/// Whether all of `values` are k / `power`, bit for bit, for integers k, which are written. Without branches, several at a time.
///
/// Above [`ROUNDER`] the last bit of a number is a one, so that its bits count up with it.
fn scale(values: &[f64], power: f64, integers: &mut [i64]) -> bool {
    let differ = values.iter().zip(integers).fold(0, |differ, (value, integer)| {
        let scaled = value * power + ROUNDER;
        let back = (scaled - ROUNDER) / power;
        *integer = scaled.to_bits().wrapping_sub(ROUNDER.to_bits()) as i64;
        // Another exponent: out of the range in which the bits count, or not a number.
        differ | (scaled.to_bits() ^ ROUNDER.to_bits()) & EXPONENT_BITS | (back.to_bits() ^ value.to_bits())
    });
    differ == 0
}

/// The numbers k / `power`.
fn from_scaled(integers: &[i64], power: f64) -> Vec<f64> {
    let in_range = |k: &i64| (k.wrapping_add(DECIMAL_MAX) as u64) < 2 * DECIMAL_MAX as u64;
    if integers.chunks(BLOCK).all(|block| block.iter().fold(true, |all, k| all & in_range(k))) {
        let number = |k: &i64| f64::from_bits(ROUNDER.to_bits().wrapping_add(*k as u64)) - ROUNDER;
        integers.iter().map(|k| number(k) / power).collect()
    } else {
        integers.iter().map(|k| *k as f64 / power).collect()
    }
}

/// The ordered bits of values that all are single precision.
fn single(values: &[f64]) -> Option<Vec<i64>> {
    values
        .iter()
        .map(|value| {
            let narrow = *value as f32;
            (f64::from(narrow).to_bits() == value.to_bits()).then(|| {
                let bits = i64::from(narrow.to_bits());
                if bits >> 31 == 0 { bits } else { 0x7fff_ffff - bits }
            })
        })
        .collect()
}

fn from_single(ordered: i64) -> Result<f64, DecodeError> {
    let bits = if ordered >= 0 { ordered } else { 0x7fff_ffff_i64.wrapping_sub(ordered) };
    let bits = u32::try_from(bits).map_err(|_| DecodeError::Invalid("a number is beyond single precision"))?;
    Ok(f64::from(f32::from_bits(bits)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check_integers(values: &[i64], bytes_max: usize) {
        let mut out = Vec::new();
        put_integers(&mut out, values);
        assert!(out.len() <= bytes_max, "{} bytes for {} values", out.len(), values.len());
        let mut cursor = Cursor(&out);
        assert_eq!(take_integers(&mut cursor, values.len()).as_deref(), Ok(values));
        assert!(cursor.0.is_empty());
    }

    fn check_numbers(values: &[f64], encoding: u8, bytes_max: usize) {
        let mut out = Vec::new();
        put_numbers(&mut out, values);
        assert_eq!(out[0], encoding);
        assert!(out.len() <= bytes_max, "{} bytes for {} values", out.len(), values.len());
        let mut cursor = Cursor(&out);
        let back = take_numbers(&mut cursor, values.len()).unwrap();
        assert!(back.iter().map(|v| v.to_bits()).eq(values.iter().map(|v| v.to_bits())));
        assert!(cursor.0.is_empty());
    }

    #[test]
    fn integers_take_what_they_vary() {
        check_integers(&[], 1);
        check_integers(&[7; 1000], 2);
        check_integers(&(0..1000).map(|i| 1_700_000_000_000_000_000 + i * 20_000).collect::<Vec<_>>(), 14);
        check_integers(&(0..1000).map(|i| 1_700_000_000_000_000_000 + i * 20_000 + i * i % 7).collect::<Vec<_>>(), 700);
        check_integers(&[i64::MIN, i64::MAX, 0, -1, i64::MIN], 64);
        check_integers(&(0..300).map(|i| (i * 7919) % 97).collect::<Vec<_>>(), 300);
    }

    #[test]
    fn numbers_take_the_cheapest_exact_form() {
        check_numbers(&[], 0, 1);
        check_numbers(&[f64::NAN; 10], 0, 9);
        check_numbers(&(0..1000).map(|i| f64::from(i % 50) / 100.0).collect::<Vec<_>>(), 2, 900);
        check_numbers(&(0..1000).map(|i| f64::from((f64::from(i) * 0.1).sin() as f32)).collect::<Vec<_>>(), 3, 4200);
        check_numbers(&(0..1000).map(|i| f64::from(i * i % 4096) * 3.3 / 4096.0).collect::<Vec<_>>(), 4, 2000);
        check_numbers(&[0.1, -0.0, 1.0], 1, 25);
        check_numbers(&[-0.0, 0.0, f64::INFINITY], 3, 40);
        check_numbers(&[1.5, -2.5, 1e9], 2, 40);
        check_numbers(&(0..1000).map(|i| if i % 3 == 0 { f64::NAN } else { f64::from(i % 50) }).collect::<Vec<_>>(), 5, 1000);
    }

    proptest! {
        #[test]
        fn any_integers_come_back(values in prop::collection::vec(any::<i64>(), 0..400)) {
            check_integers(&values, usize::MAX);
        }

        #[test]
        fn any_numbers_come_back(values in prop::collection::vec(any::<u64>().prop_map(f64::from_bits), 0..200)) {
            let mut out = Vec::new();
            put_numbers(&mut out, &values);
            let back = take_numbers(&mut Cursor(&out), values.len()).unwrap();
            prop_assert!(back.iter().map(|v| v.to_bits()).eq(values.iter().map(|v| v.to_bits())));
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200), count in 0usize..500) {
            let _ = take_numbers(&mut Cursor(&bytes), count);
            let _ = take_integers(&mut Cursor(&bytes), count);
        }
    }
}

//! One column of numbers as few bytes: integers by frame of reference, floating-point numbers through integers where that is exact.
//!
//! ```text
//! integers   0 constant     signed value
//!            1 progression  signed start, signed step: value i = start + i·step
//!            2 packed       order 0|1|2, the first `order` values as signed, then blocks of 128 differences of that order:
//!                           signed minimum, width in bits (0..=64), ⌈count·width/8⌉ bytes of (difference − minimum), low bits first
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

use pco::{ChunkConfig, standalone};

use super::wire::{Cursor, DecodeError, put_signed, put_varint};

const BLOCK: usize = 128;
/// Below this many values `pco`'s own header and set-up (6 µs) cost more than they save.
const PCO_VALUES_MIN: usize = 48;
/// The level at which `pco` costs about 20 ns a value and saves nearly all that it can.
const PCO_LEVEL: usize = 2;
const POWERS_OF_TEN: [f64; 10] = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
/// Scaled values up to 2^51 are rounded by adding and taking away 1.5·2^52, which leaves no bits for a fraction.
const DECIMAL_MAX: f64 = 2_251_799_813_685_248.0;
const ROUNDER: f64 = 6_755_399_441_055_744.0;

/// Appends a column of integers; the reader must know how many.
pub fn put_integers(out: &mut Vec<u8>, values: &[i64]) {
    let [first, rest @ ..] = values else { return out.push(0) };
    if rest.iter().all(|value| value == first) {
        out.push(0);
        return put_signed(out, *first);
    }
    let step = rest[0].wrapping_sub(*first);
    if values.windows(2).all(|pair| pair[1].wrapping_sub(pair[0]) == step) {
        out.push(1);
        put_signed(out, *first);
        return put_signed(out, step);
    }
    out.push(2);
    put_packed(out, values);
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

/// Replaces values by their differences, leaving the first alone.
fn difference(values: &mut [i64]) {
    for i in (1..values.len()).rev() {
        values[i] = values[i].wrapping_sub(values[i - 1]);
    }
}

/// How many bits the spread of `values` needs.
fn width(values: &[i64]) -> u32 {
    let (min, max) = values.iter().fold((i64::MAX, i64::MIN), |(min, max), value| (min.min(*value), max.max(*value)));
    if values.is_empty() { 0 } else { u64::BITS - (max.wrapping_sub(min) as u64).leading_zeros() }
}

fn put_packed(out: &mut Vec<u8>, values: &[i64]) {
    let mut once = values.to_vec();
    difference(&mut once);
    let mut twice = once.clone();
    difference(&mut twice[1..]);
    let candidates = [(0, values), (1, &once[..]), (2, &twice[..])];
    let best = candidates.into_iter().min_by_key(|(order, column)| width(&column[*order..]));
    let (order, column) = best.unwrap_or((0, values));
    out.push(order as u8);
    column[..order].iter().for_each(|value| put_signed(out, *value));
    column[order..].chunks(BLOCK).for_each(|block| put_block(out, block));
}

fn put_block(out: &mut Vec<u8>, block: &[i64]) {
    let width = width(block);
    let min = block.iter().copied().min().unwrap_or(0);
    put_signed(out, min);
    out.push(width as u8);
    let (mut pending, mut bits) = (0u128, 0);
    for value in block {
        pending |= u128::from(value.wrapping_sub(min) as u64) << bits;
        bits += width;
        if bits >= 64 {
            out.extend_from_slice(&(pending as u64).to_le_bytes());
            pending >>= 64;
            bits -= 64;
        }
    }
    out.extend_from_slice(&pending.to_le_bytes()[..bits.div_ceil(8) as usize]);
}

fn take_packed(cursor: &mut Cursor<'_>, count: usize) -> Result<Vec<i64>, DecodeError> {
    let order = usize::from(cursor.byte()?);
    if order > 2 || order > count {
        return Err(DecodeError::Invalid("an unknown order of differences"));
    }
    let mut values = Vec::with_capacity(count);
    for _ in 0..order {
        values.push(cursor.signed()?);
    }
    while values.len() < count {
        let block = BLOCK.min(count - values.len());
        take_block(cursor, block, &mut values)?;
    }
    for start in (1..=order).rev() {
        for i in start..count {
            values[i] = values[i].wrapping_add(values[i - 1]);
        }
    }
    Ok(values)
}

fn take_block(cursor: &mut Cursor<'_>, count: usize, values: &mut Vec<i64>) -> Result<(), DecodeError> {
    let min = cursor.signed()?;
    let width = u32::from(cursor.byte()?);
    if width > 64 {
        return Err(DecodeError::Invalid("a width beyond 64 bits"));
    }
    let mask = u64::MAX.checked_shr(64 - width).unwrap_or(0);
    let mut packed = Cursor(cursor.take((count * width as usize).div_ceil(8))?);
    let (mut pending, mut bits) = (0u128, 0);
    for _ in 0..count {
        if bits < width {
            pending |= u128::from(next_word(&mut packed)) << bits;
            bits += 64;
        }
        values.push(min.wrapping_add((pending as u64 & mask) as i64));
        pending >>= width;
        bits -= width;
    }
    Ok(())
}

/// The next 8 bytes, or as many as are left.
fn next_word(packed: &mut Cursor<'_>) -> u64 {
    packed.word().unwrap_or_else(|_| {
        let mut bytes = [0; 8];
        bytes[..packed.0.len()].copy_from_slice(packed.0);
        packed.0 = &[];
        u64::from_le_bytes(bytes)
    })
}

/// Appends a column of numbers; the reader must know how many.
pub fn put_numbers(out: &mut Vec<u8>, values: &[f64]) {
    let Some(first) = values.first() else { return out.push(0) };
    if values.iter().all(|value| value.to_bits() == first.to_bits()) {
        out.push(0);
        return out.extend_from_slice(&first.to_bits().to_le_bytes());
    }
    if values.iter().copied().any(is_none) {
        out.push(5);
        put_integers(out, &values.iter().map(|value| i64::from(!is_none(*value))).collect::<Vec<_>>());
        return put_numbers(out, &values.iter().copied().filter(|value| !is_none(*value)).collect::<Vec<_>>());
    }
    if let Some((exponent, integers)) = decimal(values) {
        out.extend_from_slice(&[2, exponent as u8]);
        return put_integers(out, &integers);
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
            Ok(take_integers(cursor, count)?.into_iter().map(|k| k as f64 / power).collect())
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
        least = (least..POWERS_OF_TEN.len()).find(|exponent| scaled(*value, POWERS_OF_TEN[*exponent]).is_some())?;
    }
    'next: for (exponent, power) in POWERS_OF_TEN.iter().enumerate().skip(least) {
        let mut integers = Vec::with_capacity(values.len());
        for value in values {
            match scaled(*value, *power) {
                Some(k) => integers.push(k),
                // Far into the column another power is not worth a second pass over all of it.
                None if integers.len() > 64 => return None,
                None => continue 'next,
            }
        }
        return Some((exponent, integers));
    }
    None
}

/// `k` such that `k / power` is `value`, bit for bit.
fn scaled(value: f64, power: f64) -> Option<i64> {
    let k = (value * power + ROUNDER) - ROUNDER;
    (k.abs() <= DECIMAL_MAX && (k as i64 as f64 / power).to_bits() == value.to_bits()).then_some(k as i64)
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

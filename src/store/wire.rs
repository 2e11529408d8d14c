//! The smallest pieces of the store's blobs: checked reads, and writes of variable-length integers and texts.
//!
//! ```text
//! varint   7 bits a byte, least significant first, high bit = more follows; at most 10 bytes
//! signed   varint of the zigzag form: 0, -1, 1, -2 … = 0, 1, 2, 3 …
//! text     varint length, UTF-8
//! bytes    varint length, bytes
//! ```
//!
//! A read never trusts a length: what is not there is [`DecodeError::Truncated`].

use std::sync::Arc;

/// The longest text in a blob, bytes: names of streams, signals, tags, sources and tag values.
pub const TEXT_BYTES_MAX: usize = 64 * 1024;

/// Why bytes are not what the store wrote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end early.
    #[error("the bytes end early")]
    Truncated,
    /// The checksum does not match.
    #[error("the checksum does not match: the bytes were changed after they were written")]
    Checksum,
    /// Written by a version that this one does not know.
    #[error("format version {0} is not known: it was written by a newer release")]
    Version(u8),
    /// The checksum matches, but the content breaks a rule or a limit of the format.
    #[error("{0}")]
    Invalid(&'static str),
}

/// Appends a varint.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed varint.
pub fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Appends a text, cut to [`TEXT_BYTES_MAX`] at a character's edge.
pub fn put_text(out: &mut Vec<u8>, text: &str) {
    let text = &text[..text.floor_char_boundary(TEXT_BYTES_MAX)];
    put_varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// What is left to read.
#[derive(Debug, Clone, Copy)]
pub struct Cursor<'a>(pub &'a [u8]);

impl<'a> Cursor<'a> {
    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(DecodeError::Truncated)?;
        self.0 = tail;
        Ok(head)
    }

    /// The next byte.
    pub fn byte(&mut self) -> Result<u8, DecodeError> {
        let (head, tail) = self.0.split_first().ok_or(DecodeError::Truncated)?;
        self.0 = tail;
        Ok(*head)
    }

    /// The next 8 bytes, little endian.
    pub fn word(&mut self) -> Result<u64, DecodeError> {
        let (head, tail) = self.0.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.0 = tail;
        Ok(u64::from_le_bytes(*head))
    }

    /// A varint.
    pub fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(DecodeError::Invalid("an integer is longer than ten bytes"))
    }

    /// A signed varint.
    pub fn signed(&mut self) -> Result<i64, DecodeError> {
        let zigzag = self.varint()?;
        Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    /// A varint that counts something and is at most `max`.
    pub fn count(&mut self, max: usize) -> Result<usize, DecodeError> {
        let count = self.varint()?;
        if count > max as u64 { Err(DecodeError::Invalid("a count is beyond its limit")) } else { Ok(count as usize) }
    }

    /// Bytes with their length.
    pub fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.count(self.0.len())?;
        self.take(len)
    }

    /// A text.
    pub fn text(&mut self) -> Result<&'a str, DecodeError> {
        let len = self.count(TEXT_BYTES_MAX)?;
        str::from_utf8(self.take(len)?).map_err(|_| DecodeError::Invalid("a text is not UTF-8"))
    }

    /// A text on its own.
    pub fn shared_text(&mut self) -> Result<Arc<str>, DecodeError> {
        Ok(self.text()?.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_come_back_at_every_length() {
        for value in [0, 1, -1, 63, 64, -64, -65, 8191, i64::MAX, i64::MIN, 1 << 40] {
            let mut out = Vec::new();
            put_signed(&mut out, value);
            put_varint(&mut out, value as u64);
            let mut cursor = Cursor(&out);
            assert_eq!(cursor.signed(), Ok(value));
            assert_eq!(cursor.varint(), Ok(value as u64));
            assert!(cursor.0.is_empty());
        }
    }

    #[test]
    fn a_length_is_not_trusted() {
        assert_eq!(Cursor(&[0x05, b'a']).text(), Err(DecodeError::Truncated));
        assert!(Cursor(&[0xff; 12]).varint().is_err());
        assert_eq!(Cursor(&[0x80]).varint(), Err(DecodeError::Truncated));
        assert!(Cursor(&[0x02, 0xff, 0xff]).text().is_err());
    }
}

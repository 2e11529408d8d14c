//! The fields of a message in Protocol Buffers' wire format, without a schema.

use super::Reason;

/// The fields of one message, one after the other; ends after the first fault.
#[derive(Debug, Clone)]
pub(super) struct Fields<'a>(&'a [u8]);

/// The content of a field.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Content<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    /// A text, bytes or a message.
    Bytes(&'a [u8]),
    Fixed32([u8; 4]),
}

impl<'a> Fields<'a> {
    pub const fn of(message: &'a [u8]) -> Self {
        Self(message)
    }

    fn field(&mut self) -> Result<(u64, Content<'a>), Reason> {
        let key = self.varint()?;
        let content = match key & 7 {
            0 => Content::Varint(self.varint()?),
            1 => Content::Fixed64(*self.take::<8>()?),
            2 => {
                let length = self.varint()?;
                let fits = usize::try_from(length).ok().and_then(|length| self.0.split_at_checked(length));
                let (bytes, rest) = fits.ok_or("a field is longer than its message")?;
                self.0 = rest;
                Content::Bytes(bytes)
            }
            5 => Content::Fixed32(*self.take::<4>()?),
            other => return Err(format!("a field is of type {other}, which is none").into()),
        };
        Ok((key >> 3, content))
    }

    fn varint(&mut self) -> Result<u64, Reason> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or("the message breaks off")?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number has more than 64 bits".into())
    }

    fn take<const N: usize>(&mut self) -> Result<&'a [u8; N], Reason> {
        let (bytes, rest) = self.0.split_first_chunk::<N>().ok_or("the message breaks off")?;
        self.0 = rest;
        Ok(bytes)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Content<'a>), Reason>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_in_order_with_their_numbers() {
        // The example of the format's documentation, and one of each other kind.
        let bytes = [0x08, 0x96, 0x01, 0x12, 0x02, b'h', b'i', 0x1d, 0, 0, 0x80, 0x3f, 0x21, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f];
        let fields: Vec<_> = Fields::of(&bytes).map(Result::unwrap).collect();
        assert_eq!(fields[0], (1, Content::Varint(150)));
        assert_eq!(fields[1], (2, Content::Bytes(b"hi")));
        assert_eq!(fields[2], (3, Content::Fixed32(1.0_f32.to_le_bytes())));
        assert_eq!(fields[3], (4, Content::Fixed64(1.0_f64.to_le_bytes())));
    }

    #[test]
    fn what_breaks_off_is_a_fault_and_ends() {
        for bytes in [&[0x08][..], &[0x08, 0x80], &[0x12, 0x05, b'h'], &[0x1d, 0, 0], &[0x0b], &[0xff; 12]] {
            let fields: Vec<_> = Fields::of(bytes).collect();
            assert!(matches!(&fields[..], [Err(_)]), "{bytes:?}");
        }
    }
}

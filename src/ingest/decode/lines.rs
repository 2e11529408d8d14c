//! An endless stream of bytes, cut into lines of bounded length.

use super::LINE_BYTES_MAX;

/// Holds the beginning of a line until its end arrives.
#[derive(Debug, Clone, Default)]
pub(super) struct Lines {
    /// The line so far; of one that is too long, only the beginning.
    partial: Vec<u8>,
    /// The length of the line so far, kept or not.
    partial_bytes: usize,
}

/// A line, without its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line<'a> {
    Whole(&'a [u8]),
    /// Longer than [`LINE_BYTES_MAX`]; the beginning of it and its length.
    TooLong(&'a [u8], usize),
}

impl Lines {
    /// Calls `each` for every line that ends in `bytes`; `\n` and `\r\n` end a line.
    pub fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(Line)) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            if self.partial_bytes == 0 && line.len() <= LINE_BYTES_MAX {
                each(Line::Whole(line.strip_suffix(b"\r").unwrap_or(line)));
            } else {
                self.keep(line);
                self.end(&mut each);
            }
            bytes = rest;
        }
        self.keep(bytes);
    }

    /// Calls `each` for a last line that has no end.
    pub fn end(&mut self, mut each: impl FnMut(Line)) {
        if self.partial_bytes > LINE_BYTES_MAX {
            each(Line::TooLong(&self.partial, self.partial_bytes));
        } else if self.partial_bytes > 0 {
            each(Line::Whole(self.partial.strip_suffix(b"\r").unwrap_or(&self.partial)));
        }
        self.partial.clear();
        self.partial_bytes = 0;
    }

    /// Calls `each` with the beginning of a line whose end will not come, if there is one.
    pub fn cut_off(&mut self, each: impl FnOnce(&[u8])) {
        if self.partial_bytes > 0 {
            each(&self.partial);
        }
        self.partial.clear();
        self.partial_bytes = 0;
    }

    /// Bytes of the line so far.
    pub const fn partial_bytes(&self) -> usize {
        self.partial_bytes
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = LINE_BYTES_MAX - self.partial.len();
        self.partial.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.partial_bytes = self.partial_bytes.saturating_add(bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        let mut each = |line: Line| match line {
            Line::Whole(line) => found.push(line.to_vec()),
            Line::TooLong(_, bytes) => found.push(bytes.to_string().into_bytes()),
        };
        pieces.iter().for_each(|piece| lines.feed(piece, &mut each));
        lines.end(&mut each);
        found
    }

    #[test]
    fn a_line_that_is_too_long_does_not_spoil_the_next() {
        let long = vec![b'x'; LINE_BYTES_MAX + 1];
        let expected = [(LINE_BYTES_MAX + 1).to_string().into_bytes(), b"ok".to_vec()];
        assert_eq!(cut(&[&long, b"\nok\n"]), expected);
        let whole = [long.as_slice(), b"\nok\n"].concat();
        assert_eq!(cut(&[&whole]), expected);
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(text in "[ab\r\n]{0,40}", at: prop::sample::Index) {
            let bytes = text.as_bytes();
            let (head, tail) = bytes.split_at(at.index(bytes.len() + 1));
            prop_assert_eq!(cut(&[head, tail]), cut(&[bytes]));
            let expected: Vec<Vec<u8>> = text.split_terminator('\n').map(|line| line.strip_suffix('\r').unwrap_or(line).into()).collect();
            prop_assert_eq!(cut(&[bytes]), expected);
        }
    }
}

//! Reads the rows of a table out of the raw pages of an SQLite file, without its index, header or schema.
//!
//! For what is left when the file cannot be read any more. Layout (SQLite file format, sections 1.6 and 4.1):
//!
//! ```text
//! leaf page   0x0d, u16 first free block, u16 cells, u16 content, u8 fragments, u16 place of each cell   (page 1: after 100 bytes)
//! cell        varint payload length, varint row id, payload; what is beyond the local part is in a chain of overflow pages
//! overflow    u32 next page or 0, payload
//! payload     varint header length, varint type of each column, values
//! log         32 bytes header (u32 page size at 8), then frames: u32 page number, 20 bytes, page
//! ```
//! Integers are big endian. What is found may be old (a page that was freed) or torn: the caller checks every blob.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

const LEAF: u8 = 0x0d;
const FILE_HEADER_BYTES: usize = 100;
const LOG_HEADER_BYTES: u64 = 32;
const FRAME_HEADER_BYTES: u64 = 24;
/// No row of ours is longer.
const PAYLOAD_BYTES_MAX: usize = 64 << 20;
const COLUMNS_MAX: usize = 32;

/// A column's value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// NULL, or a number with a fraction, which no column of ours has.
    Null,
    /// INTEGER
    Integer(i64),
    /// TEXT, as bytes.
    Text(Vec<u8>),
    /// BLOB
    Blob(Vec<u8>),
}

impl Value {
    /// As an integer.
    pub fn integer(&self) -> Option<i64> {
        if let Self::Integer(value) = self { Some(*value) } else { None }
    }

    /// As a text.
    pub fn text(&self) -> Option<&str> {
        if let Self::Text(bytes) = self { str::from_utf8(bytes).ok() } else { None }
    }

    /// As a blob.
    pub fn blob(&self) -> Option<&[u8]> {
        if let Self::Blob(bytes) = self { Some(bytes) } else { None }
    }
}

/// The pages of a file, with those of its log in front.
pub struct Pages {
    file: File,
    log: Option<File>,
    /// Where in the log the latest version of a page is.
    logged: BTreeMap<u32, u64>,
    page_bytes: usize,
    pages: u32,
}

impl Pages {
    /// Opens a file and its log, if there is one. `page_bytes` is taken if neither says.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn open(path: &Path, log_path: &Path, page_bytes: u32) -> std::io::Result<Self> {
        let file = File::open(path)?;
        let log = File::open(log_path).ok();
        let stated = |file: Option<&File>, at: u64| {
            let mut bytes = [0; 4];
            file?.read_exact_at(&mut bytes, at).ok()?;
            Some(bytes)
        };
        let in_file = stated(Some(&file), 16).map(|bytes| match u16::from_be_bytes([bytes[0], bytes[1]]) {
            1 => 65_536,
            size => u32::from(size),
        });
        let in_log = stated(log.as_ref(), 8).map(u32::from_be_bytes);
        let page_bytes = [in_log, in_file, Some(page_bytes)].into_iter().flatten().find(|size| is_page_size(*size)).unwrap_or(4_096);
        let mut pages =
            Self { pages: (file.metadata()?.len() / u64::from(page_bytes)) as u32, file, log, logged: BTreeMap::new(), page_bytes: page_bytes as usize };
        pages.index_log()?;
        Ok(pages)
    }

    /// Frames of an older round of the log come after those of the newest, with other salts, and are left out.
    fn index_log(&mut self) -> std::io::Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        let mut header = [0; LOG_HEADER_BYTES as usize];
        if log.read_exact_at(&mut header, 0).is_err() {
            return Ok(());
        }
        let frame_bytes = FRAME_HEADER_BYTES + self.page_bytes as u64;
        for at in (LOG_HEADER_BYTES..log.metadata()?.len()).step_by(frame_bytes as usize) {
            let mut frame = [0; FRAME_HEADER_BYTES as usize];
            if log.read_exact_at(&mut frame, at).is_err() || frame[8..16] != header[16..24] {
                break;
            }
            let page = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]);
            self.logged.insert(page, at + FRAME_HEADER_BYTES);
        }
        self.pages = self.pages.max(self.logged.keys().next_back().copied().unwrap_or(0));
        Ok(())
    }

    /// The page numbered from 1.
    fn page(&self, number: u32) -> Option<Vec<u8>> {
        let mut bytes = vec![0; self.page_bytes];
        let read = match (self.logged.get(&number), &self.log) {
            (Some(at), Some(log)) => log.read_exact_at(&mut bytes, *at),
            _ => self.file.read_exact_at(&mut bytes, u64::from(number.checked_sub(1)?) * self.page_bytes as u64),
        };
        read.ok().map(|()| bytes)
    }

    /// Calls `found` with the row id and columns of every row in every leaf.
    pub fn rows(&self, mut found: impl FnMut(i64, Vec<Value>)) {
        for number in 1..=self.pages {
            let Some(page) = self.page(number) else { continue };
            let start = if number == 1 { FILE_HEADER_BYTES } else { 0 };
            if page.get(start) != Some(&LEAF) {
                continue;
            }
            let cells = short(&page, start + 3).unwrap_or(0);
            for cell in 0..cells {
                let row = short(&page, start + 8 + 2 * cell).and_then(|at| self.cell(&page, at));
                if let Some((id, values)) = row {
                    found(id, values);
                }
            }
        }
    }

    fn cell(&self, page: &[u8], at: usize) -> Option<(i64, Vec<Value>)> {
        let mut rest = page.get(at..)?;
        let length = usize::try_from(varint(&mut rest)?).ok().filter(|length| *length <= PAYLOAD_BYTES_MAX)?;
        let id = varint(&mut rest)?;
        let local = local_bytes(length, self.page_bytes);
        let mut payload = rest.get(..local)?.to_vec();
        if local < length {
            let mut next = u32::from_be_bytes(rest.get(local..local + 4)?.try_into().ok()?);
            while payload.len() < length {
                let overflow = self.page(next).filter(|_| next != 0)?;
                let take = (length - payload.len()).min(self.page_bytes - 4);
                payload.extend_from_slice(&overflow[4..4 + take]);
                next = u32::from_be_bytes(overflow[..4].try_into().ok()?);
            }
        }
        Some((id, columns(&payload)?))
    }
}

const fn is_page_size(size: u32) -> bool {
    size >= 512 && size <= 65_536 && size.is_power_of_two()
}

/// How much of a payload is in the leaf itself.
fn local_bytes(length: usize, page_bytes: usize) -> usize {
    let most = page_bytes - 35;
    if length <= most {
        return length;
    }
    let least = (page_bytes - 12) * 32 / 255 - 23;
    let fitting = least + (length - least) % (page_bytes - 4);
    if fitting <= most { fitting } else { least }
}

fn short(page: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_be_bytes(page.get(at..at + 2)?.try_into().ok()?)))
}

/// An SQLite varint: seven bits a byte, most significant first; the ninth byte has eight.
fn varint(rest: &mut &[u8]) -> Option<i64> {
    let mut value = 0_u64;
    for place in 0..9 {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        if place == 8 {
            value = value << 8 | u64::from(*byte);
            break;
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            break;
        }
    }
    Some(value as i64)
}

fn columns(payload: &[u8]) -> Option<Vec<Value>> {
    let mut rest = payload;
    let header = usize::try_from(varint(&mut rest)?).ok()?;
    let mut types = payload.get(payload.len() - rest.len()..header)?;
    let mut values = payload.get(header..)?;
    let mut found = Vec::new();
    while !types.is_empty() && found.len() < COLUMNS_MAX {
        let kind = varint(&mut types)?;
        found.push(value(kind, &mut values)?);
    }
    Some(found)
}

fn value(kind: i64, values: &mut &[u8]) -> Option<Value> {
    let length = match kind {
        0 | 8 | 9 => 0,
        1..=4 => kind as usize,
        5 => 6,
        6 | 7 => 8,
        12.. => usize::try_from((kind - 12) / 2).ok()?,
        _ => return None,
    };
    let (bytes, tail) = values.split_at_checked(length)?;
    *values = tail;
    Some(match kind {
        0 | 7 => Value::Null,
        8 => Value::Integer(0),
        9 => Value::Integer(1),
        1..=6 => {
            let sign = if bytes[0] & 0x80 == 0 { 0 } else { -1 };
            Value::Integer(bytes.iter().fold(sign, |value, byte| value << 8 | i64::from(*byte)))
        }
        _ if kind % 2 == 0 => Value::Blob(bytes.to_vec()),
        _ => Value::Text(bytes.to_vec()),
    })
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    #[test]
    fn every_row_of_a_file_is_found_without_its_schema() {
        for page_bytes in [512, 4_096, 65_536] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("file");
            let connection = Connection::open(&path).unwrap();
            connection.pragma_update(None, "page_size", page_bytes).unwrap();
            connection.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, a, b, c)").unwrap();
            let sizes = [0, 1, 400, 4_000, 70_000, 3];
            for (id, size) in sizes.iter().enumerate() {
                let number = [0, 1, -1, 300, i64::MAX, i64::MIN][id];
                connection.execute("INSERT INTO t VALUES (?1, ?2, ?3, ?4)", (id as i64, number, "text", vec![7_u8; *size])).unwrap();
            }
            drop(connection);
            // The header is gone, and the page that says what tables there are.
            let file = File::options().write(true).open(&path).unwrap();
            file.write_all_at(&[0; 90], 0).unwrap();
            let mut found = BTreeMap::new();
            let pages = Pages::open(&path, &dir.path().join("none"), page_bytes).unwrap();
            pages.rows(|id, values| {
                if values.len() == 4 && values[3].blob().is_some() {
                    found.insert(id, (values[1].integer().unwrap(), values[2].text().unwrap().to_owned(), values[3].blob().unwrap().len()));
                }
            });
            let expected: BTreeMap<i64, _> = sizes
                .iter()
                .enumerate()
                .map(|(id, size)| (id as i64, ([0, 1, -1, 300, i64::MAX, i64::MIN][id], "text".to_owned(), *size)))
                .collect();
            assert_eq!(found, expected, "pages of {page_bytes}");
        }
    }

    #[test]
    fn any_bytes_are_survived() {
        let dir = tempfile::tempdir().unwrap();
        let (path, log) = (dir.path().join("file"), dir.path().join("log"));
        let mut state = 1_u64;
        for round in 0..200 {
            let bytes: Vec<u8> = (0..4_096)
                .map(|place| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    if place % 512 == 0 { LEAF } else { (state >> 56) as u8 }
                })
                .collect();
            std::fs::write(&path, &bytes).unwrap();
            std::fs::write(&log, &bytes[round..]).unwrap();
            Pages::open(&path, &log, 512).unwrap().rows(|_, _| {});
        }
    }
}

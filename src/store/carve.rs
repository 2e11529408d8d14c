//! Reads rows out of the raw pages of an SQLite file, without its trees, header or schema.
//!
//! For what is left when the file cannot be read any more. Layout (SQLite file format, sections 1.5, 1.6 and 4.1):
//!
//! ```text
//! page 1      100 bytes of header (u16 page size at 16, u32 first trunk of free pages at 32), then as any other
//! page        kind, u16 first free block, u16 cells, u16 content, u8 fragments, [u32 right child], u16 place of each cell
//! kind        0x0d leaf of a table, 0x0a leaf of an index, 0x02 inner page of an index
//! cell        0x0d: varint payload length, varint row id, payload; 0x0a: length, payload; 0x02: u32 left child, length, payload
//!             what is beyond the local part of a payload is in a chain of overflow pages
//! overflow    u32 next page or 0, payload
//! payload     varint header length, varint type of each column, values
//! trunk       u32 next trunk or 0, u32 count, u32 each free page
//! log         32 bytes header (u32 page size at 8, 8 bytes of salt at 16), then frames
//! frame       u32 page number, u32 pages after the commit or 0, 8 bytes of salt, 8 bytes of checksum, page
//! ```
//! Integers are big endian. Tables without row ids are indexes. Free pages are left out if the header can be read; if not, what is found
//! may have been removed before. It may be torn: the caller checks everything.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

const TABLE_LEAF: u8 = 0x0d;
const INDEX_LEAF: u8 = 0x0a;
const INDEX_INNER: u8 = 0x02;
const TABLE_INNER: u8 = 0x05;
/// No tree is deeper.
const LEVELS_MAX: usize = 20;
/// Pages that are looked at to tell how long pages are.
const SAMPLED_PAGES: u64 = 1_024;
const FILE_HEADER_BYTES: usize = 100;
const LOG_HEADER_BYTES: u64 = 32;
const FRAME_HEADER_BYTES: u64 = 24;
/// No row of ours is longer.
const PAYLOAD_BYTES_MAX: usize = 64 << 20;
const COLUMNS_MAX: usize = 32;

/// A row or an entry of an index.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The page it is on, from 1.
    pub page: u32,
    /// The row's id; `None` for an entry of an index.
    pub id: Option<i64>,
    /// Its columns; an `INTEGER PRIMARY KEY` is NULL here and in `id` instead.
    pub values: Vec<Value>,
}

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
    file: Option<File>,
    log: Option<File>,
    /// Where in the log the latest version of a page is.
    logged: BTreeMap<u32, u64>,
    free: BTreeSet<u32>,
    page_bytes: usize,
    /// Of the file alone.
    #[expect(clippy::struct_field_names, reason = "their number")]
    pages: u32,
}

impl Pages {
    /// Opens a file and its log, whichever is there. `page_bytes` is taken if neither says.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn open(path: &Path, log_path: &Path, page_bytes: u32) -> std::io::Result<Self> {
        let (file, log) = (File::open(path).ok(), File::open(log_path).ok());
        let stated = |file: Option<&File>, at: u64| {
            let mut bytes = [0; 4];
            file?.read_exact_at(&mut bytes, at).ok()?;
            Some(bytes)
        };
        let in_file = stated(file.as_ref(), 16).map(|bytes| match u16::from_be_bytes([bytes[0], bytes[1]]) {
            1 => 65_536,
            size => u32::from(size),
        });
        let in_log = stated(log.as_ref(), 8).map(u32::from_be_bytes);
        let file_bytes = file.as_ref().map_or(Ok(0), |file| file.metadata().map(|metadata| metadata.len()))?;
        let stated = [in_log, in_file, Some(page_bytes)].into_iter().flatten().filter(|size| is_page_size(*size));
        // Of a file whose header is damaged: the first of those that fit equally well.
        let likely = |size: &u32| file.as_ref().map_or(0, |file| leaves(file, file_bytes, *size));
        let page_bytes = stated.rev().max_by_key(likely).unwrap_or(4_096) as usize;
        let pages = u32::try_from(file_bytes / page_bytes as u64).unwrap_or(u32::MAX);
        let mut pages = Self { file, log, logged: BTreeMap::new(), free: BTreeSet::new(), page_bytes, pages };
        pages.index_log()?;
        pages.list_free();
        Ok(pages)
    }

    /// Frames of an older round of the log come after those of the newest, with other salts; frames after the last commit were never
    /// committed: both are left out.
    fn index_log(&mut self) -> std::io::Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        let mut header = [0; LOG_HEADER_BYTES as usize];
        if log.read_exact_at(&mut header, 0).is_err() {
            return Ok(());
        }
        let frame_bytes = FRAME_HEADER_BYTES + self.page_bytes as u64;
        let mut uncommitted = Vec::new();
        for at in (LOG_HEADER_BYTES..log.metadata()?.len()).step_by(frame_bytes as usize) {
            let mut frame = [0; FRAME_HEADER_BYTES as usize];
            if log.read_exact_at(&mut frame, at).is_err() || frame[8..16] != header[16..24] {
                break;
            }
            let number = |place: usize| u32::from_be_bytes([frame[place], frame[place + 1], frame[place + 2], frame[place + 3]]);
            uncommitted.push((number(0), at + FRAME_HEADER_BYTES));
            if number(4) != 0 {
                self.logged.extend(uncommitted.drain(..));
            }
        }
        Ok(())
    }

    /// Walks the free pages as far as they can be followed.
    fn list_free(&mut self) {
        let Some(header) = self.page(1).filter(|page| page.starts_with(b"SQLite format 3\0")) else { return };
        let mut trunk = word(&header, 32).unwrap_or(0);
        while trunk != 0 && self.free.insert(trunk) {
            let Some(page) = self.page(trunk) else { return };
            let count = word(&page, 4).unwrap_or(0) as usize;
            self.free.extend((0..count).map_while(|place| word(&page, 8 + 4 * place)));
            trunk = word(&page, 0).unwrap_or(0);
        }
    }

    /// How long a page is, bytes.
    pub fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// The page numbered from 1.
    fn page(&self, number: u32) -> Option<Vec<u8>> {
        let mut bytes = vec![0; self.page_bytes];
        let read = match (self.logged.get(&number), &self.log, &self.file) {
            (Some(at), Some(log), _) => log.read_exact_at(&mut bytes, *at),
            (_, _, Some(file)) => file.read_exact_at(&mut bytes, u64::from(number.checked_sub(1)?) * self.page_bytes as u64),
            _ => return None,
        };
        read.ok().map(|()| bytes)
    }

    /// Calls `found` with everything on every page that can be read, in order of pages.
    ///
    /// # Errors
    /// Those of `found`, at once.
    pub fn each<E>(&self, mut found: impl FnMut(Found) -> Result<(), E>) -> Result<(), E> {
        let beyond = self.logged.keys().copied().filter(|number| *number > self.pages);
        for number in (1..=self.pages).chain(beyond).filter(|number| !self.free.contains(number)) {
            let Some(page) = self.page(number) else { continue };
            let start = start_of(number);
            let Some(kind) = page.get(start).copied().filter(|kind| [TABLE_LEAF, INDEX_LEAF, INDEX_INNER].contains(kind)) else {
                continue;
            };
            let places = start + if kind == INDEX_INNER { 12 } else { 8 };
            for cell in 0..short(&page, start + 3).unwrap_or(0) {
                let Some(at) = short(&page, places + 2 * cell) else { break };
                if let Some((id, values)) = self.cell(kind, &page, at) {
                    found(Found { page: number, id, values })?;
                }
            }
        }
        Ok(())
    }

    /// Whether a page is a leaf of a table whose every byte is accounted for: nothing that was on it is missing.
    pub fn is_whole(&self, number: u32) -> bool {
        self.page(number).is_some_and(|page| accounts(&page, start_of(number), TABLE_LEAF) == Some(true))
    }

    /// Follows the last page of every level of the table at `root`, which is where rows are added; a page that is not whole.
    pub fn broken_edge(&self, root: u32) -> Option<u32> {
        let mut number = root;
        for _ in 0..LEVELS_MAX {
            let start = start_of(number);
            let Some(page) = self.page(number) else { return Some(number) };
            if page.get(start) != Some(&TABLE_INNER) {
                return (accounts(&page, start, TABLE_LEAF) != Some(true)).then_some(number);
            }
            match word(&page, start + 8) {
                Some(next) if accounts(&page, start, TABLE_INNER) == Some(true) => number = next,
                _ => return Some(number),
            }
        }
        Some(number)
    }

    /// Whether the list of free pages, of which the next ones are taken, is as long as the header says and within the file.
    pub fn free_list_is_whole(&self) -> bool {
        let Some(header) = self.page(1) else { return false };
        let pages = word(&header, 28).unwrap_or(0);
        word(&header, 36) == u32::try_from(self.free.len()).ok() && self.free.iter().all(|page| (2..=pages).contains(page))
    }

    fn cell(&self, kind: u8, page: &[u8], at: usize) -> Option<(Option<i64>, Vec<Value>)> {
        let mut rest = page.get(at + if kind == INDEX_INNER { 4 } else { 0 }..)?;
        let length = usize::try_from(varint(&mut rest)?).ok().filter(|length| *length <= PAYLOAD_BYTES_MAX)?;
        let id = if kind == TABLE_LEAF { Some(varint(&mut rest)?) } else { None };
        let local = local_bytes(length, self.page_bytes, kind);
        let mut payload = rest.get(..local)?.to_vec();
        if local < length {
            let mut next = word(rest, local)?;
            while payload.len() < length {
                let overflow = self.page(next).filter(|_| next != 0)?;
                let take = (length - payload.len()).min(self.page_bytes - 4);
                payload.extend_from_slice(&overflow[4..4 + take]);
                next = word(&overflow, 0)?;
            }
        }
        Some((id, columns(&payload)?))
    }
}

/// Where a page's own header is.
const fn start_of(number: u32) -> usize {
    if number == 1 { FILE_HEADER_BYTES } else { 0 }
}

/// Whether cells, free blocks and fragments make up what is between the start of the content and the end of the page, and ids rise.
fn accounts(page: &[u8], start: usize, kind: u8) -> Option<bool> {
    let places = start + if kind == TABLE_INNER { 12 } else { 8 };
    let content = match short(page, start + 5)? {
        0 => 65_536,
        content => content,
    };
    let (cells, mut id_last) = (short(page, start + 3)?, None);
    let mut bytes = usize::from(*page.get(start + 7)?);
    for cell in 0..cells {
        let at = short(page, places + 2 * cell)?;
        let mut rest = page.get(at..).filter(|_| at >= content)?;
        let before = rest.len();
        let beside = if kind == TABLE_INNER {
            rest = rest.get(4..)?;
            0
        } else {
            let length = usize::try_from(varint(&mut rest)?).ok()?;
            let local = local_bytes(length, page.len(), TABLE_LEAF);
            local + if local < length { 4 } else { 0 }
        };
        let id = varint(&mut rest)?;
        bytes += (before - rest.len() + beside).max(4);
        if id_last.replace(id).is_some_and(|last| last >= id) {
            return Some(false);
        }
    }
    let mut free = short(page, start + 1)?;
    while free != 0 {
        let (next, size) = (short(page, free)?, short(page, free + 2)?);
        if size < 4 || (next != 0 && next < free + size) {
            return Some(false);
        }
        bytes += size;
        free = next;
    }
    Some(page.get(start) == Some(&kind) && content >= places + 2 * cells && content + bytes == page.len())
}

/// How much of a sample of the file is leaves of tables if pages have `size` bytes, per thousand.
fn leaves(file: &File, file_bytes: u64, size: u32) -> u64 {
    let pages = file_bytes / u64::from(size);
    let step = (pages / SAMPLED_PAGES).max(1);
    let (mut looked, mut right) = (0, 0);
    let mut page = vec![0; size as usize];
    for number in (1..pages).step_by(usize::try_from(step).unwrap_or(usize::MAX)) {
        looked += 1;
        let read = file.read_exact_at(&mut page, number * u64::from(size));
        right += u64::from(read.is_ok() && accounts(&page, 0, TABLE_LEAF) == Some(true));
    }
    right * 1_000 / looked.max(1)
}

const fn is_page_size(size: u32) -> bool {
    size >= 512 && size <= 65_536 && size.is_power_of_two()
}

/// How much of a payload is in the page itself.
fn local_bytes(length: usize, page_bytes: usize, kind: u8) -> usize {
    let most = if kind == TABLE_LEAF { page_bytes - 35 } else { (page_bytes - 12) * 64 / 255 - 23 };
    if length <= most {
        return length;
    }
    let least = (page_bytes - 12) * 32 / 255 - 23;
    let fitting = least + (length - least) % (page_bytes - 4);
    if fitting <= most { fitting } else { least }
}

fn word(page: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(page.get(at..at + 4)?.try_into().ok()?))
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

    const NUMBERS: [i64; 6] = [0, 1, -1, 300, i64::MAX, i64::MIN];
    const SIZES: [usize; 6] = [0, 1, 400, 4_000, 70_000, 3];

    fn all(path: &Path, page_bytes: u32) -> Vec<Found> {
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        let mut all = Vec::new();
        let pages = Pages::open(path, Path::new(&log), page_bytes).unwrap();
        let each = pages.each(|found| {
            all.push(found);
            Ok::<_, ()>(())
        });
        each.unwrap();
        all
    }

    /// (id, number, size of the blob) of what looks like a row of ours.
    fn ours(found: &[Found]) -> Vec<(Option<i64>, i64, usize)> {
        let mut rows: Vec<_> = found
            .iter()
            .filter_map(|found| match &found.values[..] {
                [_, Value::Integer(number), Value::Text(_), Value::Blob(blob)] => Some((found.id, *number, blob.len())),
                _ => None,
            })
            .collect();
        rows.sort_unstable();
        rows
    }

    fn expected(rowid: bool) -> Vec<(Option<i64>, i64, usize)> {
        let mut rows: Vec<_> = (0..6).map(|row| (rowid.then_some(row as i64), NUMBERS[row], SIZES[row])).collect();
        rows.sort_unstable();
        rows
    }

    fn file(dir: &Path, page_bytes: u32, without: &str) -> (std::path::PathBuf, Connection) {
        let path = dir.join("file");
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "page_size", page_bytes).unwrap();
        connection.execute_batch(&format!("CREATE TABLE t (id INTEGER PRIMARY KEY, a, b, c) {without}")).unwrap();
        for (id, size) in SIZES.iter().enumerate() {
            connection
                .execute("INSERT INTO t VALUES (?1, ?2, ?3, ?4)", (id as i64, NUMBERS[id], "text", vec![7_u8; *size]))
                .unwrap();
        }
        (path, connection)
    }

    #[test]
    fn every_row_of_a_file_is_found_without_its_schema() {
        for (page_bytes, without) in [(512, ""), (4_096, ""), (65_536, ""), (512, "WITHOUT ROWID"), (4_096, "WITHOUT ROWID")] {
            let dir = tempfile::tempdir().unwrap();
            let (path, connection) = file(dir.path(), page_bytes, without);
            drop(connection);
            // The header is gone, and so the page that says what tables there are.
            File::options().write(true).open(&path).unwrap().write_all_at(&[0; 90], 0).unwrap();
            assert_eq!(ours(&all(&path, page_bytes)), expected(without.is_empty()), "pages of {page_bytes} {without}");
        }
    }

    #[test]
    fn what_is_only_in_the_log_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (path, connection) = file(dir.path(), 4_096, "");
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        connection.execute("INSERT INTO t VALUES (9, 77, 'text', x'00')", []).unwrap();
        let log = std::fs::read(dir.path().join("file-wal")).unwrap();
        let found = ours(&all(&path, 4_096));
        assert!(found.contains(&(Some(9), 77, 1)), "{found:?}");
        // The same without the frame's mark of a commit.
        let (other, log_path) = (dir.path().join("other"), dir.path().join("other-wal"));
        std::fs::copy(&path, &other).unwrap();
        let mut torn = log;
        for frame in (LOG_HEADER_BYTES as usize..torn.len()).step_by(4_096 + FRAME_HEADER_BYTES as usize) {
            torn[frame + 4..frame + 8].fill(0);
        }
        std::fs::write(log_path, torn).unwrap();
        assert_eq!(ours(&all(&other, 4_096)), expected(true));
    }

    #[test]
    fn what_was_removed_stays_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, connection) = file(dir.path(), 512, "");
        connection.execute("DELETE FROM t", []).unwrap();
        drop(connection);
        assert_eq!(ours(&all(&path, 512)), []);
    }

    #[test]
    fn any_bytes_are_survived() {
        let dir = tempfile::tempdir().unwrap();
        let (path, log) = (dir.path().join("file"), dir.path().join("file-wal"));
        let mut state = 1_u64;
        for round in 0..200 {
            let kinds = [TABLE_LEAF, INDEX_LEAF, INDEX_INNER];
            let mut bytes: Vec<u8> = (0..4_096)
                .map(|place| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    if place % 512 == 0 { kinds[round % 3] } else { (state >> 56) as u8 }
                })
                .collect();
            if round % 2 == 0 {
                bytes[..16].copy_from_slice(b"SQLite format 3\0");
            }
            std::fs::write(&path, &bytes).unwrap();
            std::fs::write(&log, &bytes[round..]).unwrap();
            all(&path, 512);
        }
    }
}

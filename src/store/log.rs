//! SQLite's log: whether a frame of it is damaged that had reached the disk, and a copy in which that frame is taken all the same.
//!
//! ```text
//! log      header, frames                      numbers big endian; docs: sqlite.org/walformat.html
//! header   magic 0x377f0682|3, version, page size, round, salt 1, salt 2, sum 1, sum 2
//! frame    page number, pages after the commit or 0, salt 1, salt 2, sum 1, sum 2, page
//! ```
//! The sums run on from frame to frame. SQLite takes frames up to the first whose sum is wrong, which is right for what a crash tears. A
//! frame that rots later looks the same, and would silently take every frame after it along, acknowledged rows among them, although the
//! file may hold newer pages already. The difference: a commit is synced before the next one is begun. So a wrong frame which is followed
//! by a commit and by a frame after that had been on disk, whole.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
const MAGIC: u32 = 0x377f_0682;
const VERSION: u32 = 3_007_000;

/// What is known of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checked {
    /// Frames that SQLite takes.
    pub good: u64,
    /// Frames after those that had been synced; 0 = the log is well.
    pub hidden: u64,
    /// Pages of the file after the greatest commit.
    pages: u32,
}

type Sum = (u32, u32);

/// The log's sum over `bytes` of a multiple of eight, continued from `sum`.
fn add(sum: Sum, bytes: &[u8], is_big: bool) -> Sum {
    let word = |bytes: &[u8]| {
        let bytes = [bytes[0], bytes[1], bytes[2], bytes[3]];
        if is_big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    };
    bytes.chunks_exact(8).fold(sum, |(first, second), pair| {
        let first = first.wrapping_add(word(pair)).wrapping_add(second);
        (first, second.wrapping_add(word(&pair[4..])).wrapping_add(first))
    })
}

fn number(bytes: &[u8], place: usize) -> u32 {
    u32::from_be_bytes([bytes[place], bytes[place + 1], bytes[place + 2], bytes[place + 3]])
}

fn stored(bytes: &[u8], place: usize) -> Sum {
    (number(bytes, place), number(bytes, place + 4))
}

/// A log that is read frame by frame.
struct Frames {
    log: BufReader<File>,
    header: [u8; HEADER_BYTES],
    is_big: bool,
    /// The sum that the next frame's continues.
    sum: Sum,
    page_bytes: usize,
}

/// One frame, and how it fits.
struct Frame {
    bytes: Vec<u8>,
    /// Its sum continues the one that the frame before it states.
    is_linked: bool,
    is_of_this_round: bool,
}

impl Frame {
    /// Which page it holds.
    fn page(&self) -> u32 {
        number(&self.bytes, 0)
    }

    /// Pages of the file after the commit that it ends, or 0.
    fn pages(&self) -> u32 {
        number(&self.bytes, 4)
    }
}

impl Frames {
    /// `None` if there is no log or only its header.
    fn open(path: &Path) -> std::io::Result<Option<Self>> {
        let mut header = [0; HEADER_BYTES];
        let mut log = match File::open(path) {
            Ok(log) => BufReader::with_capacity(1 << 20, log),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if log.read_exact(&mut header).is_err() {
            return Ok(None);
        }
        let size = number(&header, 8);
        let page_bytes = if (512..=65_536).contains(&size) && size.is_power_of_two() { size as usize } else { 0 };
        Ok(Some(Self { log, header, is_big: number(&header, 0) == MAGIC | 1, sum: stored(&header, 24), page_bytes }))
    }

    fn header_is_good(&self) -> bool {
        let named = number(&self.header, 0) & !1 == MAGIC && number(&self.header, 4) == VERSION && self.page_bytes > 0;
        named && add((0, 0), &self.header[..24], self.is_big) == self.sum
    }

    /// Reads as if the header said that pages are this long, and of the round that the first frame is of.
    fn assume(&mut self, page_bytes: usize) -> std::io::Result<()> {
        self.page_bytes = page_bytes;
        let mut first = [0; FRAME_HEADER_BYTES];
        self.log.seek(SeekFrom::Start(HEADER_BYTES as u64))?;
        if self.log.read_exact(&mut first).is_ok() {
            self.header[16..24].copy_from_slice(&first[8..16]);
        }
        self.log.seek(SeekFrom::Start(HEADER_BYTES as u64))?;
        Ok(())
    }

    /// The next whole frame.
    fn next(&mut self) -> Option<Frame> {
        let mut bytes = vec![0; FRAME_HEADER_BYTES + self.page_bytes];
        self.log.read_exact(&mut bytes).ok()?;
        let sum = add(add(self.sum, &bytes[..8], self.is_big), &bytes[FRAME_HEADER_BYTES..], self.is_big);
        self.sum = stored(&bytes, 16);
        let is_of_this_round = bytes[8..16] == self.header[16..24];
        Some(Frame { is_linked: sum == self.sum && is_of_this_round, is_of_this_round, bytes })
    }
}

/// Looks through the log at `path`; `page_bytes` is that of the file, should the log's header not say it.
///
/// # Errors
/// Those of the operating system.
pub fn check(path: &Path, page_bytes: usize) -> std::io::Result<Checked> {
    let Some(mut frames) = Frames::open(path)? else { return Ok(Checked::default()) };
    let mut checked = Checked::default();
    let mut is_good = frames.header_is_good();
    if !is_good {
        frames.assume(page_bytes)?;
    }
    // Frames since the first that is wrong, and whether a commit is among them. The header is synced before the first frame.
    let (mut since, mut committed) = (0, !is_good);
    while let Some(frame) = frames.next() {
        is_good &= frame.is_linked;
        checked.pages = checked.pages.max(if frame.is_linked { frame.pages() } else { 0 });
        if is_good {
            checked.good += 1;
            continue;
        }
        since += 1;
        if committed && frame.is_linked {
            checked.hidden = since;
        }
        committed |= frame.pages() > 0 && frame.is_of_this_round;
    }
    Ok(checked)
}

/// Copies the log so that SQLite takes the frames that are hidden too, the wrong ones as they are; `checked` as [`check`] found it.
///
/// # Errors
/// Those of the operating system.
pub fn reseal(from: &Path, to: &Path, checked: Checked, page_bytes: usize) -> std::io::Result<()> {
    let Some(mut frames) = Frames::open(from)? else { return Ok(()) };
    if !frames.header_is_good() {
        frames.assume(page_bytes)?;
        frames.header[..4].copy_from_slice(&(MAGIC | u32::from(frames.is_big)).to_be_bytes());
        frames.header[4..8].copy_from_slice(&VERSION.to_be_bytes());
        frames.header[8..12].copy_from_slice(&u32::try_from(page_bytes).unwrap_or(0).to_be_bytes());
    }
    let mut sum = add((0, 0), &frames.header[..24], frames.is_big);
    let mut out = BufWriter::new(File::create(to)?);
    out.write_all(&frames.header[..24])?;
    write_sum(&mut out, sum)?;
    for _ in 0..checked.good + checked.hidden {
        let Some(frame) = frames.next() else { break };
        // Of a wrong frame it is not known whether its head or its page is; a head that cannot be right is not taken.
        let is_possible = (1..=checked.pages).contains(&frame.page()) && frame.pages() <= checked.pages;
        if frame.is_linked || (frame.is_of_this_round && is_possible) {
            sum = add(add(sum, &frame.bytes[..8], frames.is_big), &frame.bytes[FRAME_HEADER_BYTES..], frames.is_big);
            out.write_all(&frame.bytes[..16])?;
            write_sum(&mut out, sum)?;
            out.write_all(&frame.bytes[FRAME_HEADER_BYTES..])?;
        }
    }
    out.flush()
}

fn write_sum(out: &mut impl Write, sum: Sum) -> std::io::Result<()> {
    out.write_all(&sum.0.to_be_bytes())?;
    out.write_all(&sum.1.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rusqlite::Connection;
    use tempfile::TempDir;

    use super::*;

    const PAGE: usize = 512;
    const FRAME: usize = FRAME_HEADER_BYTES + PAGE;

    /// A file with a log of twenty commits, one row of about a page each.
    fn image() -> (TempDir, PathBuf, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let connection = Connection::open(&path).unwrap();
        let setup = "PRAGMA page_size = 512; PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE t (id INTEGER \
                     PRIMARY KEY, b)";
        connection.execute_batch(setup).unwrap();
        for id in 1..=20 {
            connection.execute("INSERT INTO t VALUES (?1, zeroblob(400))", [id]).unwrap();
        }
        let copy = dir.path().join("copy");
        std::fs::copy(&path, &copy).unwrap();
        let log = std::fs::read(dir.path().join("file-wal")).unwrap();
        (dir, copy, log)
    }

    fn checked(dir: &Path, log: &[u8]) -> Checked {
        std::fs::write(dir.join("log"), log).unwrap();
        check(&dir.join("log"), PAGE).unwrap()
    }

    fn rows(dir: &Path, copy: &Path, log: &[u8]) -> i64 {
        let wal = dir.join("copy-wal");
        let found = checked(dir, log);
        reseal(&dir.join("log"), &wal, found, PAGE).unwrap();
        let connection = Connection::open(copy).unwrap();
        let rows = connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
        drop(connection);
        rows
    }

    #[test]
    fn a_log_that_is_well_or_cut_hides_nothing() {
        let (dir, _, log) = image();
        let frames = ((log.len() - HEADER_BYTES) / FRAME) as u64;
        assert_eq!((checked(dir.path(), &log).good, checked(dir.path(), &log).hidden), (frames, 0));
        for len in (0..log.len()).step_by(97) {
            let found = checked(dir.path(), &log[..len]);
            let whole = len.saturating_sub(HEADER_BYTES) / FRAME;
            assert_eq!((found.good, found.hidden), (whole as u64, 0), "cut at {len}");
        }
        assert_eq!(check(&dir.path().join("none"), PAGE).unwrap(), Checked::default());
    }

    #[test]
    fn a_wrong_frame_before_the_last_commit_is_told_from_a_torn_end() {
        let (dir, _, log) = image();
        let frames = (log.len() - HEADER_BYTES) / FRAME;
        for frame in 0..frames {
            for place in [0, 5, 9, 17, 30, 500] {
                let mut damaged = log.clone();
                damaged[HEADER_BYTES + frame * FRAME + place] ^= 0x41;
                let found = checked(dir.path(), &damaged);
                assert_eq!(found.good, frame as u64);
                // One that is followed by a commit and one more frame.
                if frame + 4 < frames {
                    assert_eq!(found.hidden as usize, frames - frame, "frame {frame}, byte {place}");
                }
            }
        }
        for place in 0..HEADER_BYTES {
            let mut damaged = log.clone();
            damaged[place] ^= 0x41;
            assert_eq!(checked(dir.path(), &damaged).hidden as usize, frames, "header byte {place}");
        }
    }

    #[test]
    fn a_resealed_log_gives_what_comes_after_the_damage() {
        let (dir, copy, log) = image();
        for place in [3, 10, 17, HEADER_BYTES + 4 * FRAME + 18, HEADER_BYTES + 9 * FRAME + 300, HEADER_BYTES + 11 * FRAME + 22] {
            let mut damaged = log.clone();
            damaged[place] ^= 0x41;
            let original = std::fs::read(&copy).unwrap();
            assert!(rows(dir.path(), &copy, &damaged) >= 19, "byte {place}");
            std::fs::write(&copy, original).unwrap();
        }
    }
}

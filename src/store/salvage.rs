//! Sets a damaged store aside and puts what can be read of it in its place.
//!
//! ```text
//! store.db  store.db-wal                  the store
//! store.db.salvaging                      a new one that is being made: worth nothing until it is renamed
//! store.db.salvaged                       a new one, whole and synced, that is about to take the place
//! store.db.damaged-20260102T030405Z[-wal] what was set aside, of the last salvage only: the disk is bounded
//! store.db.source, store.db.source-wal    what is salvaged, if its log has to be mended first: a second name and a copy
//! store.damaged                           why the next start has to salvage; written when damage is met while running
//! ```
//! A crash at any point of it leaves the old store where it was, or a `store.db.salvaged` that the next start puts in place: each step
//! after that file's appearance may be done twice. The report of what is lost is in the new store from its first moment ([`Loss`]).

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::carve::Pages;
use super::clocks::wall_ns;
use super::error::StoreError;
use super::log::{self, Checked};
use super::loss::Loss;
use super::rebuild::{Damaged, Order, Rebuild};
use super::schema::{FILE_NAME, create_file, open_reader};
use super::state::State;
use super::sync_directory;
use crate::model::Timestamp;

const BUILDING: &str = "store.db.salvaging";
const DONE: &str = "store.db.salvaged";
const ASIDE: &str = "store.db.damaged-";
const SOURCE: &str = "store.db.source";
const SOURCE_LOG: &str = "store.db.source-wal";
const SOURCE_LOG_INDEX: &str = "store.db.source-shm";
const MARK: &str = "store.damaged";
/// The log of the store.
pub const LOG: &str = "store.db-wal";
const LOG_INDEX: &str = "store.db-shm";
/// Of what fits, what the next try takes: one part in so many.
const FITTING_PART: u64 = 2;
/// Tries with ever fewer records before none is taken.
const TRIES_MAX: usize = 4;

/// What a new store is made with.
#[derive(Debug, Clone, Copy)]
pub struct Making {
    /// A power of two.
    pub page_bytes: u32,
    /// Used if that of the old store cannot be read.
    pub identity: u64,
}

impl Making {
    /// With an identity of its own.
    ///
    /// # Errors
    /// If the operating system has no random bytes.
    pub fn new(page_bytes: u32) -> Result<Self, StoreError> {
        let path = Path::new("/dev/urandom");
        let mut bytes = [0; 8];
        File::open(path).and_then(|mut file| file.read_exact(&mut bytes)).map_err(|error| StoreError::file(path, &error))?;
        Ok(Self { page_bytes, identity: u64::from_le_bytes(bytes) })
    }
}

/// Has the next start salvage the store in `directory`. Damage that cannot be noted is met again.
pub fn mark(directory: &Path, why: &str) {
    let noted = File::create(directory.join(MARK)).and_then(|mut file| {
        file.write_all(why.as_bytes())?;
        file.sync_all()
    });
    if noted.is_ok() {
        let _ = sync_directory(directory);
    }
}

/// Why the store has to be salvaged, if that was noted.
pub fn marked(directory: &Path) -> Option<String> {
    let why = String::from_utf8_lossy(&fs::read(directory.join(MARK)).ok()?).into_owned();
    if !why.starts_with(REFUSED_READ) {
        return Some(why);
    }
    let still = [FILE_NAME, LOG].into_iter().find_map(|name| unreadable(&directory.join(name)));
    if still.is_none() {
        // It was the cable.
        let _ = fs::remove_file(directory.join(MARK));
    }
    still
}

/// What a note begins with if the disk refused a read: the next start salvages if it still does.
pub const REFUSED_READ: &str = "the disk refused a read: ";

/// Where a file cannot be read, if the disk refuses any of it.
pub fn unreadable(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let (mut chunk, mut at) = (vec![0; 1 << 20], 0);
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return None,
            Ok(read) => at += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Some(format!("the disk cannot read {} after byte {at}: {error}", path.display())),
        }
    }
}

/// Makes an empty store where there is none: whole or not at all.
///
/// # Errors
/// Those of the disk.
pub fn create(directory: &Path, making: Making) -> Result<(), StoreError> {
    let building = directory.join(BUILDING);
    remove(&building)?;
    drop(create_file(&building, making.page_bytes, making.identity)?);
    sync_file(&building)?;
    rename(&building, &directory.join(FILE_NAME))?;
    sync_directory(directory)
}

/// Brings a salvage to its end that a crash interrupted.
///
/// # Errors
/// Those of the disk.
pub fn finish(directory: &Path) -> Result<Option<Loss>, StoreError> {
    remove(&directory.join(BUILDING))?;
    remove_source(directory)?;
    let done = directory.join(DONE);
    if !done.exists() {
        return Ok(None);
    }
    match last_report(&done) {
        Ok(loss) => {
            put_in_place(directory, &loss.set_aside)?;
            Ok(Some(loss))
        }
        // Damaged in its turn: the one it was made from is there, and is salvaged again.
        Err(StoreError::Corrupt(_)) => {
            remove(&done)?;
            restore(directory)?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Salvages the store in `directory`, which is damaged because of `why`.
///
/// # Errors
/// Those of the disk, room for the new store among them; never the damage.
pub fn salvage(directory: &Path, making: Making, why: &str) -> Result<Loss, StoreError> {
    let now = Timestamp(wall_ns());
    let mut damaged = open_damaged(directory, making)?;
    let report = Loss { at: now.to_string(), why: why.to_owned(), set_aside: aside_name(directory, now), ..Loss::default() };
    let mut order = Order { record_first: 0, identity: making.identity, now };
    for tries in 1.. {
        match build(directory, making, &damaged, order, report.clone()) {
            Ok(loss) => {
                drop(damaged);
                remove_source(directory)?;
                rename(&directory.join(BUILDING), &directory.join(DONE))?;
                sync_directory(directory)?;
                put_in_place(directory, &loss.set_aside)?;
                return Ok(loss);
            }
            Err((StoreError::Full(_), fitting)) if order.record_first != u64::MAX => {
                order.record_first = if tries < TRIES_MAX { fitting } else { u64::MAX };
            }
            // What SQLite reads of the small tables contradicts itself: every page is looked at on its own.
            Err((StoreError::Corrupt(_), _)) if damaged.connection.is_some() => damaged.connection = None,
            Err((error, _)) => return Err(error),
        }
    }
    Err(StoreError::Refused("no store could be made".to_owned()))
}

/// One try; an error comes with the record from which on everything would fit.
fn build(directory: &Path, making: Making, damaged: &Damaged, order: Order, mut loss: Loss) -> Result<Loss, (StoreError, u64)> {
    let building = directory.join(BUILDING);
    let plain = |error| (error, u64::MAX);
    remove(&building).map_err(plain)?;
    let to = create_file(&building, making.page_bytes, making.identity).map_err(plain)?;
    if order.record_first > 0 {
        loss.notes.push(format!("there was no room for all of it: what is missing may be in {}", loss.set_aside));
    }
    let built = Rebuild::new(damaged, &to, order, loss).run();
    let loss = built.map_err(|error| (error, fitting(&to)))?;
    State::load(&to).map_err(plain)?;
    to.close().map_err(|(_, error)| plain(error.into()))?;
    sync_file(&building).map_err(plain)?;
    Ok(loss)
}

/// The record from which on a part of as many records as have found room is taken.
fn fitting(to: &Connection) -> u64 {
    let found =
        to.query_row("SELECT max(record), count(*) FROM inbox", [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
    found.map_or(u64::MAX, |(last, count)| (last as u64).saturating_sub(count as u64 / FITTING_PART).saturating_add(1))
}

/// Why SQLite would leave out what had reached the log, if it would.
///
/// # Errors
/// Those of the disk.
pub fn log_damage(directory: &Path, making: Making) -> Result<Option<String>, StoreError> {
    let path = directory.join(LOG);
    let checked = log::check(&path, page_bytes(directory, making)).map_err(|error| StoreError::file(&path, &error))?;
    let (hidden, good) = (checked.hidden, checked.good);
    Ok((hidden > 0).then(|| format!("frame {} of the log is damaged; {hidden} frames from there on had been committed", good + 1)))
}

/// As the header of the file says.
fn page_bytes(directory: &Path, making: Making) -> usize {
    let pages = Pages::open(&directory.join(FILE_NAME), &directory.join("no log"), making.page_bytes);
    pages.map_or(making.page_bytes as usize, |pages| pages.page_bytes())
}

fn open_damaged(directory: &Path, making: Making) -> Result<Damaged, StoreError> {
    let (mut file, mut log_path) = (directory.join(FILE_NAME), directory.join(LOG));
    let failed = |path: &Path, error: std::io::Error| StoreError::file(path, &error);
    let page_bytes = page_bytes(directory, making);
    let checked = log::check(&log_path, page_bytes).map_err(|error| failed(&log_path, error))?;
    // Without a second name, or room for the copy, what SQLite itself takes has to do.
    if checked.hidden > 0 && mend(directory, &checked, page_bytes, None).is_ok() {
        (file, log_path) = (directory.join(SOURCE), directory.join(SOURCE_LOG));
    }
    let pages = Pages::open(&file, &log_path, making.page_bytes).map_err(|error| failed(&file, error))?;
    if let Ok(connection) = open_damaged_file(&file) {
        return Ok(Damaged { pages, connection: Some(connection) });
    }
    // A header is the same in every store; all that depends on it may be well.
    let first = pages.mended_first();
    let mended = mend(directory, &checked, page_bytes, Some(first)).map(|()| directory.join(SOURCE));
    Ok(Damaged { pages, connection: mended.ok().and_then(|file| open_damaged_file(&file).ok()) })
}

fn open_damaged_file(file: &Path) -> Result<Connection, StoreError> {
    let connection = open_reader(file)?;
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(connection)
}

/// A second name for the file, with a log beside it that has everything.
fn mend(directory: &Path, checked: &Checked, page_bytes: usize, first_page: Option<(Vec<u8>, u32)>) -> std::io::Result<()> {
    remove_source(directory).map_err(std::io::Error::other)?;
    fs::hard_link(directory.join(FILE_NAME), directory.join(SOURCE))?;
    log::reseal(&directory.join(LOG), &directory.join(SOURCE_LOG), checked, page_bytes, first_page)
}

fn remove_source(directory: &Path) -> Result<(), StoreError> {
    [SOURCE, SOURCE_LOG, SOURCE_LOG_INDEX].into_iter().try_for_each(|name| remove(&directory.join(name)))
}

/// Every step may have been done before a crash.
fn put_in_place(directory: &Path, aside: &str) -> Result<(), StoreError> {
    for (from, to) in [(FILE_NAME, aside.to_owned()), (LOG, format!("{aside}-wal"))] {
        let from = directory.join(from);
        if from.exists() {
            rename(&from, &directory.join(to))?;
        }
    }
    remove(&directory.join(LOG_INDEX))?;
    sync_directory(directory)?;
    remove(&directory.join(MARK))?;
    rename(&directory.join(DONE), &directory.join(FILE_NAME))?;
    sync_directory(directory)?;
    for (path, _) in asides(directory).into_iter().filter(|(_, name)| name.strip_suffix("-wal").unwrap_or(name) != aside) {
        remove(&path)?;
    }
    Ok(())
}

/// Brings the newest one that was set aside back, if there is no store.
fn restore(directory: &Path) -> Result<(), StoreError> {
    let file = directory.join(FILE_NAME);
    let newest =
        asides(directory).into_iter().filter(|(_, name)| !name.ends_with("-wal")).max_by(|left, right| left.1.cmp(&right.1));
    if let (false, Some((aside, name))) = (file.exists(), newest) {
        let log = directory.join(format!("{name}-wal"));
        if log.exists() {
            rename(&log, &directory.join(LOG))?;
        }
        rename(&aside, &file)?;
    }
    sync_directory(directory)
}

fn asides(directory: &Path) -> Vec<(PathBuf, String)> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let named = entries.flatten().filter_map(|entry| Some((entry.path(), entry.file_name().into_string().ok()?)));
    named.filter(|(_, name)| name.starts_with(ASIDE)).collect()
}

fn aside_name(directory: &Path, now: Timestamp) -> String {
    let whole_seconds = now.to_string().chars().take(19).filter(|letter| !"-:".contains(*letter)).collect::<String>();
    let name = format!("{ASIDE}{whole_seconds}Z");
    let mut unused = name.clone();
    for number in 2..=1_000 {
        if !directory.join(&unused).exists() {
            break;
        }
        unused = format!("{name}-{number}");
    }
    unused
}

fn last_report(file: &Path) -> Result<Loss, StoreError> {
    let connection = open_reader(file)?;
    let report: String = connection.query_row("SELECT report FROM lost ORDER BY number DESC LIMIT 1", [], |row| row.get(0))?;
    serde_json::from_str(&report).map_err(|error| StoreError::Corrupt(error.to_string()))
}

fn sync_file(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| StoreError::Fatal(format!("{}: {error}", path.display())))
}

fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(|error| StoreError::file(from, &error))
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(StoreError::file(path, &error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_the_disk_cannot_read_is_told_from_one_that_it_can() {
        // Nothing is mapped at address 0, which is an error of input and output.
        assert!(unreadable(Path::new("/proc/self/mem")).is_some());
        assert_eq!(unreadable(Path::new("/proc/self/maps")), None);
        assert_eq!(unreadable(Path::new("/nowhere")), None);
    }

    #[test]
    fn a_read_that_was_refused_once_makes_no_salvage() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE_NAME), b"bytes").unwrap();
        mark(dir.path(), &format!("{REFUSED_READ}unplugged"));
        assert_eq!(marked(dir.path()), None);
        mark(dir.path(), "record 7");
        assert_eq!(marked(dir.path()).as_deref(), Some("record 7"));
    }

    #[test]
    fn names_of_what_is_set_aside_are_never_used_twice() {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp(1_700_000_000_123_456_789);
        let first = aside_name(dir.path(), now);
        assert_eq!(first, "store.db.damaged-20231114T221320Z");
        fs::write(dir.path().join(&first), b"").unwrap();
        assert_eq!(aside_name(dir.path(), now), "store.db.damaged-20231114T221320Z-2");
    }
}

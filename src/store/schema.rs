//! The tables, and how each connection is set up. The page of [`super`] explains the layout.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::carve::Pages;
use super::error::StoreError;

/// The file of the store in its directory.
pub const FILE_NAME: &str = "store.db";
/// The version of the tables.
pub const SCHEMA_VERSION: i64 = 1;
/// Marks the file as ours: "QADF".
pub const APPLICATION_ID: i64 = 0x5141_4446;
/// The log is written back into the file by the committing thread itself above this size, should the other connection not keep up.
pub const WAL_BACKSTOP_BYTES: i64 = 16 << 20;
/// After a burst the log's file is cut back to this.
const WAL_KEPT_BYTES: i64 = 64 << 20;
/// How long a connection waits for another's lock; only the start of a log and its recovery take one.
const BUSY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

const TABLES: &str = "
CREATE TABLE meta (name TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID;
CREATE TABLE streams (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE inbox (
  record INTEGER PRIMARY KEY, seq INTEGER NOT NULL, rows INTEGER NOT NULL, stream INTEGER,
  arrival INTEGER NOT NULL, time_min INTEGER, time_max INTEGER, body BLOB NOT NULL) STRICT;
CREATE TABLE spans (
  stream INTEGER NOT NULL, record_first INTEGER NOT NULL, record_last INTEGER NOT NULL,
  time_min INTEGER NOT NULL, time_max INTEGER NOT NULL, PRIMARY KEY (stream, record_first)) STRICT, WITHOUT ROWID;
CREATE TABLE devices (key BLOB PRIMARY KEY, state BLOB NOT NULL) STRICT;
CREATE TABLE outbox (
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, pipeline TEXT NOT NULL, stream TEXT,
  time INTEGER NOT NULL, arrival INTEGER NOT NULL, body BLOB NOT NULL) STRICT;
CREATE TABLE totals (lane INTEGER NOT NULL, name TEXT NOT NULL, total INTEGER NOT NULL, PRIMARY KEY (lane, name)) STRICT, WITHOUT ROWID;
CREATE TABLE cursors (
  sink TEXT NOT NULL, lane INTEGER NOT NULL, seq INTEGER NOT NULL, only_names TEXT, base INTEGER NOT NULL,
  delivered INTEGER NOT NULL, expired INTEGER NOT NULL, PRIMARY KEY (sink, lane)) STRICT, WITHOUT ROWID;
CREATE TABLE checkpoint (name TEXT PRIMARY KEY, body BLOB NOT NULL) STRICT;
CREATE TABLE dead_letters (
  number INTEGER PRIMARY KEY, arrival INTEGER NOT NULL, source TEXT NOT NULL, partition TEXT NOT NULL, stream TEXT,
  reason TEXT NOT NULL, detail TEXT NOT NULL, raw BLOB NOT NULL) STRICT;
CREATE TABLE state (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE TABLE clock_steps (record INTEGER PRIMARY KEY, step INTEGER NOT NULL) STRICT;
CREATE TABLE lost (number INTEGER PRIMARY KEY, at INTEGER NOT NULL, report TEXT NOT NULL) STRICT;
";

/// Makes a file with empty tables, to be synced and put in place as a whole: no log, no syncs.
pub fn create_file(file: &Path, page_bytes: u32, identity: u64) -> Result<Connection, StoreError> {
    let connection = Connection::open(file)?;
    connection.pragma_update(None, "page_size", page_bytes)?;
    connection.pragma_update(None, "auto_vacuum", 0)?;
    connection.pragma_update(None, "journal_mode", "MEMORY")?;
    connection.pragma_update(None, "synchronous", "OFF")?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.set_prepared_statement_cache_capacity(64);
    create(&connection, identity)?;
    Ok(connection)
}

/// Opens the file for writing. Until [`trust`] is called, closing the connection leaves file and log as they are.
pub fn open_writer(file: &Path) -> Result<Connection, StoreError> {
    check_header(file)?;
    let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    configure(&connection)?;
    check_size(&connection, file)?;
    match version(&connection)? {
        (APPLICATION_ID, SCHEMA_VERSION) => Ok(connection),
        (APPLICATION_ID, newer) if !has_our_tables(&connection)? => Err(StoreError::Refused(format!(
            "{} has tables of version {newer}; this release knows version {SCHEMA_VERSION}: run the release that wrote it",
            file.display()
        ))),
        _ => Err(StoreError::Corrupt("the file's header is not that of a store of this program".to_owned())),
    }
}

/// Tables of which every page may be written to at any time.
const SMALL_TABLES: [&str; 9] = ["meta", "streams", "spans", "devices", "totals", "cursors", "state", "clock_steps", "lost"];
/// Tables that grow at their end.
const GROWING_TABLES: [&str; 3] = ["inbox", "outbox", "dead_letters"];

/// Looks at the pages that will be written to first, since writing to a damaged page makes more damage. What is read and never written to
/// again has checksums of its own.
///
/// # Errors
/// [`StoreError::Corrupt`]; those of the disk.
pub fn probe(connection: &Connection, pages: &Pages) -> Result<(), StoreError> {
    for table in SMALL_TABLES {
        let text = format!("PRAGMA quick_check({table})");
        let said: String = connection.query_row(&text, [], |row| row.get(0))?;
        if said != "ok" {
            return Err(StoreError::Corrupt(format!("table {table}: {}", said.replace('\n', "; "))));
        }
    }
    for table in GROWING_TABLES {
        let text = "SELECT rootpage FROM sqlite_schema WHERE name = ?1";
        let root: u32 = connection.query_row(text, [table], |row| row.get(0))?;
        if let Some(page) = pages.broken_edge(root) {
            return Err(StoreError::Corrupt(format!("page {page} at the end of table {table} contradicts itself")));
        }
    }
    if !pages.free_list_is_whole() {
        return Err(StoreError::Corrupt("the list of free pages contradicts itself".to_owned()));
    }
    Ok(())
}

/// Whether SQLite takes the file for one that it may read and write.
fn check_header(file: &Path) -> Result<(), StoreError> {
    let mut header = [0; 100];
    let read = File::open(file).and_then(|mut file| file.read_exact(&mut header));
    match read {
        Ok(()) if matches!(header[18..21], [1, 1, 0] | [2, 2, 0]) => Ok(()),
        Ok(()) => Err(StoreError::Corrupt("the file's header is not one that this program writes".to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err(StoreError::Corrupt("the file is shorter than its header".to_owned()))
        }
        Err(error) => Err(StoreError::file(file, &error)),
    }
}

/// The store is well: the last connection may move the log into the file.
pub fn trust(connection: &Connection) -> Result<(), StoreError> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    Ok(())
}

/// The file never shrinks: a header that knows of fewer pages than there are would have them written over.
fn check_size(connection: &Connection, file: &Path) -> Result<(), StoreError> {
    let read = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (pages, page_bytes) = (read("page_count")?, read("page_size")?.max(512));
    let bytes = file.metadata().map_err(|error| StoreError::file(file, &error))?.len();
    if bytes / page_bytes as u64 > pages as u64 {
        return Err(StoreError::Corrupt(format!("the file has {bytes} bytes and knows of {pages} pages of {page_bytes}")));
    }
    Ok(())
}

fn has_our_tables(connection: &Connection) -> Result<bool, StoreError> {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut ours: Vec<String> = TABLES.split(';').map(words).filter(|text| !text.is_empty()).collect();
    let mut statement = connection.prepare("SELECT sql FROM sqlite_schema WHERE type = 'table'")?;
    let found = statement.query_map([], |row| row.get::<_, String>(0))?;
    let mut found: Vec<String> = found.map(|text| text.map(|text| words(&text))).collect::<Result<_, _>>()?;
    ours.sort_unstable();
    found.sort_unstable();
    Ok(ours == found)
}

/// Settings of a connection that writes or checkpoints.
fn configure(connection: &Connection) -> Result<(), StoreError> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let page_bytes: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
    connection.pragma_update(None, "wal_autocheckpoint", WAL_BACKSTOP_BYTES / page_bytes.max(512))?;
    connection.pragma_update(None, "journal_size_limit", WAL_KEPT_BYTES)?;
    connection.pragma_update(None, "cache_size", -16_384)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

fn create(connection: &Connection, identity: u64) -> Result<(), StoreError> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    connection.execute_batch(TABLES)?;
    connection.execute("INSERT INTO meta VALUES ('identity', ?1)", [identity as i64])?;
    for first in ["first_record", "first_seq", "first_result"] {
        set_meta(connection, first, 1)?;
    }
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    connection.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    connection.execute_batch("COMMIT")?;
    Ok(())
}

fn version(connection: &Connection) -> Result<(i64, i64), StoreError> {
    let read = |name| connection.pragma_query_value(None, name, |row| row.get(0));
    Ok((read("application_id")?, read("user_version")?))
}

/// Opens the file to move the log into it, beside the writer.
pub fn open_checkpointer(file: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    configure(&connection)?;
    Ok(connection)
}

/// Opens the file to read; sees every commit as soon as it is made.
pub fn open_reader(file: &Path) -> Result<Connection, StoreError> {
    // SQLite removes the log of an empty file.
    check_header(file)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "cache_size", -4_096)?;
    connection.set_prepared_statement_cache_capacity(32);
    match version(&connection)? {
        (APPLICATION_ID, SCHEMA_VERSION) => Ok(connection),
        _ => Err(StoreError::Corrupt(format!("{} is not a store of this release", file.display()))),
    }
}

/// A number kept in `meta`, or 0.
pub fn meta(connection: &Connection, name: &str) -> Result<i64, StoreError> {
    let found = connection.prepare_cached("SELECT value FROM meta WHERE name = ?1")?.query_row([name], |row| row.get(0));
    match found {
        Ok(value) => Ok(value),
        Err(rusqlite::Error::QueryReturnedNoRows) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// Keeps a number in `meta`.
pub fn set_meta(connection: &Connection, name: &str, value: i64) -> Result<(), StoreError> {
    connection.prepare_cached("INSERT OR REPLACE INTO meta VALUES (?1, ?2)")?.execute((name, value))?;
    Ok(())
}

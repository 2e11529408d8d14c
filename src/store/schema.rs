//! The tables, and how each connection is set up. The page of [`super`] explains the layout.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

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

/// Opens the file for writing; creates it, with an `identity`, where there is none.
pub fn open_writer(
    file: &Path,
    page_bytes: u32,
    identity: impl FnOnce() -> Result<u64, StoreError>,
) -> Result<Connection, StoreError> {
    let fresh = !file.exists();
    let connection = Connection::open(file)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    if fresh {
        connection.pragma_update(None, "page_size", page_bytes)?;
        connection.pragma_update(None, "auto_vacuum", 0)?;
    }
    configure(&connection)?;
    if fresh || version(&connection)? == (0, 0) {
        create(&connection, identity()?)?;
    }
    match version(&connection)? {
        (APPLICATION_ID, SCHEMA_VERSION) => Ok(connection),
        (APPLICATION_ID, newer) => Err(StoreError::Refused(format!(
            "{} has tables of version {newer}; this release knows version {SCHEMA_VERSION}: run the release that wrote it",
            file.display()
        ))),
        _ => Err(StoreError::Corrupt("the file is not a store of this program".to_owned())),
    }
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

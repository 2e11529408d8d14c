//! The engine's state, by parts, with the record it includes: written in the transaction of a step, so that state, position and results
//! are of one moment.
//!
//! ```text
//! part   bytes, CRC-32 of name and bytes (little endian)
//! ```
//! A checkpoint with a damaged part is no checkpoint: the engine then starts from the oldest record, and the outbox ignores the results
//! it already has.
//!
//! Parts whose name starts with [`KEPT_ASIDE`] are kept and removed like all others but not read with them: what has left memory for good
//! and is looked at piece by piece. A part that is gone and whose name ends with `/` stands for all that begin with it.

use rusqlite::Connection;

use super::command::{Checkpoint, RecordNo};
use super::error::StoreError;
use super::schema::{meta, set_meta};

/// How the names begin of parts that a checkpoint is read without.
pub const KEPT_ASIDE: &str = "cold/";

/// The first name after all that begin with `prefix`, which ends with `/`: `0` follows `/`.
fn after(prefix: &str) -> String {
    format!("{}0", prefix.trim_end_matches('/'))
}

fn checksum(name: &str, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(name.as_bytes());
    hasher.update(body);
    hasher.finalize()
}

/// Writes what changed.
pub fn write(connection: &Connection, checkpoint: &Checkpoint) -> Result<(), StoreError> {
    if checkpoint.complete {
        connection.prepare_cached("DELETE FROM checkpoint")?.execute([])?;
    }
    for (name, body) in &checkpoint.parts {
        match body {
            Some(body) => {
                let mut sealed = Vec::with_capacity(body.len() + 4);
                sealed.extend_from_slice(body);
                sealed.extend_from_slice(&checksum(name, body).to_le_bytes());
                connection.prepare_cached("INSERT OR REPLACE INTO checkpoint VALUES (?1, ?2)")?.execute((name, sealed))?
            }
            None if name.ends_with('/') => {
                connection.prepare_cached("DELETE FROM checkpoint WHERE name >= ?1 AND name < ?2")?.execute((name, after(name)))?
            }
            None => connection.prepare_cached("DELETE FROM checkpoint WHERE name = ?1")?.execute([name])?,
        };
    }
    set_meta(connection, "checkpoint", checkpoint.position.0 as i64)
}

/// Whether `sealed` is a part of this name with its checksum.
pub fn is_sealed(name: &str, sealed: &[u8]) -> bool {
    open(name, sealed).is_some()
}

fn open<'a>(name: &str, sealed: &'a [u8]) -> Option<&'a [u8]> {
    sealed.split_last_chunk::<4>().filter(|(body, sum)| checksum(name, body).to_le_bytes() == **sum).map(|(body, _)| body)
}

/// The latest checkpoint with all its parts, by name; `None` if there is none.
///
/// # Errors
/// [`StoreError::Corrupt`] with the name of a damaged part.
pub fn read(connection: &Connection) -> Result<Option<Checkpoint>, StoreError> {
    let position = meta(connection, "checkpoint")?;
    if position <= 0 {
        return Ok(None);
    }
    let mut parts = Vec::new();
    let text = "SELECT name, body FROM checkpoint WHERE name < ?1 OR name >= ?2 ORDER BY name";
    each(connection, text, (KEPT_ASIDE, after(KEPT_ASIDE)), |name, body| parts.push((name, Some(body.to_vec()))))?;
    Ok(Some(Checkpoint { position: RecordNo(position as u64), complete: true, parts }))
}

/// The parts whose names begin with `prefix`, which ends with `/`, by name; those kept aside too.
///
/// # Errors
/// [`StoreError::Corrupt`] with the name of a damaged part.
pub fn read_under(connection: &Connection, prefix: &str, part: impl FnMut(String, &[u8])) -> Result<(), StoreError> {
    let text = "SELECT name, body FROM checkpoint WHERE name >= ?1 AND name < ?2 ORDER BY name";
    each(connection, text, (prefix, after(prefix)), part)
}

fn each(
    connection: &Connection,
    text: &str,
    (from, to): (&str, String),
    mut part: impl FnMut(String, &[u8]),
) -> Result<(), StoreError> {
    let mut statement = connection.prepare_cached(text)?;
    let mut rows = statement.query((from, to))?;
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        let sealed = row.get_ref(1)?.as_blob()?;
        let Some(body) = open(&name, sealed) else {
            return Err(StoreError::Corrupt(format!("part `{name}` of the checkpoint does not match its checksum")));
        };
        part(name, body);
    }
    Ok(())
}

//! The engine's state, by parts, with the record it includes: written in the transaction of a step, so that state, position and results
//! are of one moment.
//!
//! ```text
//! part   bytes, CRC-32 of name and bytes (little endian)
//! ```
//! A checkpoint with a damaged part is no checkpoint: the engine then starts from the oldest record, and the outbox ignores the results
//! it already has.

use rusqlite::Connection;

use super::command::{Checkpoint, RecordNo};
use super::error::StoreError;
use super::schema::{meta, set_meta};

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
    let mut statement = connection.prepare_cached("SELECT name, body FROM checkpoint ORDER BY name")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        let sealed = row.get_ref(1)?.as_blob()?;
        let Some(body) = open(&name, sealed) else {
            return Err(StoreError::Corrupt(format!("part `{name}` of the checkpoint does not match its checksum")));
        };
        parts.push((name, Some(body.to_vec())));
    }
    Ok(Some(Checkpoint { position: RecordNo(position as u64), complete: true, parts }))
}

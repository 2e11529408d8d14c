//! The statements over inbox and outbox that more than one side uses.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};

use super::command::{DEAD_LETTER_BYTES_MAX, DeadLetter, Lane, StepOutput};
use super::error::StoreError;

/// One record as it goes into the inbox.
pub struct NewRecord<'a> {
    /// Its number.
    pub record: u64,
    /// The number of its first row.
    pub seq: u64,
    /// How many rows.
    pub rows: u64,
    /// The stream's number, for rows.
    pub stream: Option<i64>,
    /// When it came in, ns.
    pub arrival: i64,
    /// Earliest and latest event time, ns, for rows.
    pub times: Option<(i64, i64)>,
    /// The blob.
    pub body: &'a [u8],
}

/// Adds a record to the inbox.
pub fn insert_record(connection: &Connection, new: &NewRecord<'_>) -> Result<(), StoreError> {
    connection.prepare_cached("INSERT INTO inbox VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?.execute((
        new.record as i64,
        new.seq as i64,
        new.rows as i64,
        new.stream,
        new.arrival,
        new.times.map(|times| times.0),
        new.times.map(|times| times.1),
        new.body,
    ))?;
    Ok(())
}

/// Adds a result to the outbox; `false` if it has the id already.
pub fn insert_output(connection: &Connection, seq: u64, arrival: i64, output: &StepOutput) -> Result<bool, StoreError> {
    let added = connection
        .prepare_cached("INSERT INTO outbox VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (id) DO NOTHING")?
        .execute((
            seq as i64,
            &output.id,
            output.kind,
            &*output.pipeline,
            output.stream.as_deref(),
            output.time.0,
            arrival,
            &output.json,
        ))?;
    Ok(added == 1)
}

/// Adds a dead letter.
pub fn insert_dead_letter(connection: &Connection, number: u64, letter: &DeadLetter) -> Result<(), StoreError> {
    let raw = &letter.raw[..letter.raw.len().min(DEAD_LETTER_BYTES_MAX)];
    connection.prepare_cached("INSERT INTO dead_letters VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?.execute((
        number as i64,
        letter.arrival.0,
        &*letter.source,
        &*letter.partition,
        letter.stream.as_deref(),
        &letter.reason,
        &letter.detail,
        raw,
    ))?;
    Ok(())
}

/// The first record that holds a row after number `seq`; `None` if no row follows. Records and row numbers rise together.
pub fn record_after(connection: &Connection, seq: u64) -> Result<Option<i64>, StoreError> {
    let bounds = connection
        .prepare_cached("SELECT (SELECT min(record) FROM inbox), (SELECT max(record) FROM inbox)")?
        .query_row([], |row| Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, Option<i64>>(1)?)))?;
    let (Some(mut low), Some(mut high)) = bounds else { return Ok(None) };
    let mut probe = connection.prepare_cached("SELECT record, seq + rows FROM inbox WHERE record >= ?1 ORDER BY record LIMIT 1")?;
    // Invariant: the record looked for, if there is one, is in low..=high.
    let mut found = None;
    while low <= high {
        let middle = low + (high - low) / 2;
        let at = probe.query_row([middle], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))).optional()?;
        match at {
            Some((record, end)) if end > seq as i64 + 1 => {
                found = Some(record);
                high = middle - 1;
            }
            Some((record, _)) => low = record + 1,
            None => high = middle - 1,
        }
    }
    Ok(found)
}

/// The number of the oldest row or result that is kept; one more than the last if none is.
pub fn oldest(connection: &Connection, lane: Lane) -> Result<Option<u64>, StoreError> {
    let text = match lane {
        Lane::Rows => "SELECT seq FROM inbox ORDER BY record LIMIT 1",
        Lane::Results => "SELECT seq FROM outbox ORDER BY seq LIMIT 1",
    };
    Ok(connection.prepare_cached(text)?.query_row([], |row| row.get::<_, i64>(0)).optional()?.map(|seq| seq as u64))
}

/// How many rows or results of `only` come after `seq`; reads the head of every record, not its rows.
pub fn count_after(connection: &Connection, lane: Lane, seq: u64, only: Option<&[Arc<str>]>) -> Result<u64, StoreError> {
    let wants = |name: Option<&str>| only.is_none_or(|only| name.is_some_and(|name| only.iter().any(|wanted| &**wanted == name)));
    let mut total = 0;
    match lane {
        Lane::Rows => {
            let Some(first) = record_after(connection, seq)? else { return Ok(0) };
            let text = "SELECT s.id, sum(min(i.rows, i.seq + i.rows - 1 - ?2)) FROM inbox i JOIN streams s ON s.number = i.stream \
                        WHERE i.record >= ?1 GROUP BY i.stream";
            let mut statement = connection.prepare_cached(text)?;
            let mut rows = statement.query((first, seq as i64))?;
            while let Some(row) = rows.next()? {
                if wants(Some(row.get_ref(0)?.as_str()?)) {
                    total += row.get::<_, i64>(1)?.max(0) as u64;
                }
            }
        }
        Lane::Results => {
            let mut statement =
                connection.prepare_cached("SELECT pipeline, count(*) FROM outbox WHERE seq > ?1 GROUP BY pipeline")?;
            let mut rows = statement.query([seq as i64])?;
            while let Some(row) = rows.next()? {
                if wants(Some(row.get_ref(0)?.as_str()?)) {
                    total += row.get::<_, i64>(1)?.max(0) as u64;
                }
            }
        }
    }
    Ok(total)
}

/// Bytes in use and bytes of the file, without the log.
pub fn bytes(connection: &Connection) -> Result<(u64, u64), StoreError> {
    let read = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map(|value| value.max(0) as u64);
    let (pages, free, page) = (read("page_count")?, read("freelist_count")?, read("page_size")?);
    Ok((pages.saturating_sub(free) * page, pages * page))
}

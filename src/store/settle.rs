//! Brings the balances of sinks in line with what is there, after something was lost.

use std::sync::Arc;

use rusqlite::Connection;

use super::command::Lane;
use super::error::StoreError;
use super::loss::Loss;
use super::tables::count_after;

/// Brings every sink's balance in line with what is there: what was lost before it was delivered has expired.
///
/// # Errors
/// As the disk's.
pub fn cursors(connection: &Connection, loss: &Loss) -> Result<(), StoreError> {
    type Cursor = (String, i64, i64, Option<String>, i64, i64, i64);
    let cursors: Vec<Cursor> = {
        let mut statement = connection.prepare("SELECT sink, lane, seq, only_names, base, delivered, expired FROM cursors")?;
        let read = |row: &rusqlite::Row<'_>| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?))
        };
        statement.query_map([], read)?.collect::<Result<_, _>>()?
    };
    for (sink, number, seq, names, base, delivered, expired) in cursors {
        let lane = Lane::from_number(number).unwrap_or(Lane::Rows);
        let only: Option<Vec<Arc<str>>> = names.as_deref().and_then(|names| serde_json::from_str(names).ok());
        let total = total(connection, number, only.as_deref())?;
        let buffered = count_after(connection, lane, seq.max(0) as u64, only.as_deref())? as i64;
        let ranges = if lane == Lane::Rows { &loss.lost.rows } else { &loss.lost.results };
        let lost = if only.is_none() { ranges.count_after(seq.max(0) as u64) as i64 } else { 0 };
        let missing = total - base - delivered - buffered;
        let expired = expired.saturating_add(lost).max(missing);
        connection.execute(
            "UPDATE cursors SET base = ?3, expired = ?4 WHERE sink = ?1 AND lane = ?2",
            (sink, number, total - delivered - expired - buffered, expired),
        )?;
    }
    Ok(())
}

fn total(connection: &Connection, lane: i64, only: Option<&[Arc<str>]>) -> Result<i64, StoreError> {
    let mut statement = connection.prepare_cached("SELECT name, total FROM totals WHERE lane = ?1")?;
    let mut rows = statement.query([lane])?;
    let mut sum = 0;
    while let Some(row) = rows.next()? {
        let name = row.get_ref(0)?.as_str()?;
        if only.is_none_or(|only| only.iter().any(|wanted| **wanted == *name)) {
            sum += row.get::<_, i64>(1)?;
        }
    }
    Ok(sum)
}

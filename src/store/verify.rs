//! Reads everything there is in a store and says what is wrong with it; mends it by a salvage.
//!
//! Structure is SQLite's own check. Then every record is decoded, every result parsed, numbers are followed for gaps that no report
//! explains, and every sink's balance is compared with what is there. All of it is of one moment: while a service writes to the store, its
//! log grows for as long as the check takes.

use std::path::Path;

use rusqlite::Connection;
use serde::Serialize;

use super::command::Lane;
use super::encoding::Decoder;
use super::error::StoreError;
use super::lock::DirectoryLock;
use super::loss::{Kept, Known, Loss, Numbers};
use super::salvage::{self, Making};
use super::schema::{FILE_NAME, meta, open_reader};
use super::state::State;
use super::tables::count_after;
use super::{StoreConfig, checkpoint};
use crate::model::{Input, Seq};

/// Faults that are named; more are only counted.
const FAULTS_MAX: usize = 100;

/// What a look at everything has found.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Verified {
    /// Whether there is nothing wrong.
    pub sound: bool,
    /// What is there and can be read.
    pub kept: Kept,
    /// What is there and cannot be read.
    pub damaged: Numbers,
    /// What is not there and should be: no report of a loss explains it.
    pub missing: Numbers,
    /// What is wrong, in words; the first hundred.
    pub faults: Vec<String>,
    /// How many faults there are.
    pub fault_count: u64,
}

impl Verified {
    fn fault(&mut self, what: impl Into<String>) {
        self.fault_count += 1;
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(what.into());
        }
    }
}

/// Looks at everything in the store in `directory`, whether a service has it open or not.
///
/// # Errors
/// If there is no store, or not of this release, or the disk refuses. Damage is not an error.
pub fn verify(directory: &Path) -> Result<Verified, StoreError> {
    let making = Making::new(StoreConfig::default().page_bytes)?;
    let mut found = Verified::default();
    let file = directory.join(FILE_NAME);
    if !file.exists() {
        return Err(StoreError::no_store(&file));
    }
    if let Some(why) = salvage::marked(directory) {
        found.fault(format!("damage was met while the service ran: {why}"));
    }
    // The log of a store that is open is written to, and looks torn at any moment.
    let is_idle = DirectoryLock::take(directory);
    if is_idle.is_ok()
        && let Some(why) = salvage::log_damage(directory, making)?
    {
        found.fault(why);
    }
    drop(is_idle);
    match look(&file, &mut found) {
        Err(StoreError::Corrupt(why)) => found.fault(format!("{why}; what comes after it was neither looked at nor counted")),
        other => other?,
    }
    found.sound = found.fault_count == 0;
    Ok(found)
}

/// Brings a salvage to its end, or salvages a store with faults; what is lost. `None` = there was nothing to mend.
///
/// # Errors
/// [`StoreError::Locked`] while a service has it open; errors of the disk.
pub fn repair(directory: &Path) -> Result<Option<Loss>, StoreError> {
    let making = Making::new(StoreConfig::default().page_bytes)?;
    if files(directory)?.is_empty() {
        return Err(StoreError::no_store(directory));
    }
    let lock = DirectoryLock::take(directory)?;
    if let Some(loss) = salvage::finish(directory)? {
        return Ok(Some(loss));
    }
    drop(lock);
    let found = verify(directory)?;
    let _lock = DirectoryLock::take(directory)?;
    let Some(first) = found.faults.first() else { return Ok(None) };
    let more = if found.fault_count > 1 { format!(" and {} more faults", found.fault_count - 1) } else { String::new() };
    salvage::salvage(directory, making, &format!("{first}{more}")).map(Some)
}

/// A file of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoreFile {
    /// In the store's directory.
    pub name: String,
    /// Its size.
    pub bytes: u64,
}

/// The files of the store in `directory`, those that were set aside among them, by name.
///
/// # Errors
/// If the directory cannot be read.
pub fn files(directory: &Path) -> Result<Vec<StoreFile>, StoreError> {
    let failed = |error: std::io::Error| StoreError::file(directory, &error);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("store.") {
            found.push(StoreFile { name, bytes: entry.metadata().map_err(failed)?.len() });
        }
    }
    found.sort_unstable_by(|left, right| left.name.cmp(&right.name));
    Ok(found)
}

fn look(file: &Path, found: &mut Verified) -> Result<(), StoreError> {
    let connection = open_reader(file)?;
    let moment = connection.unchecked_transaction()?;
    look_at_structure(&connection, found)?;
    let known = Known::load(&connection)?;
    look_at_records(&connection, &known, found)?;
    look_at_results(&connection, &known, found)?;
    found.kept.dead_letters = connection.query_row("SELECT count(*) FROM dead_letters", [], |row| row.get::<_, i64>(0))? as u64;
    if let Err(error) = checkpoint::read(&connection) {
        found.fault(error.to_string());
    }
    look_at_balances(&connection, found)?;
    Ok(moment.finish()?)
}

fn look_at_structure(connection: &Connection, found: &mut Verified) -> Result<(), StoreError> {
    let mut statement = connection.prepare("PRAGMA integrity_check(100)")?;
    let mut lines = statement.query([])?;
    while let Some(line) = lines.next()? {
        let line: String = line.get(0)?;
        line.lines().filter(|line| *line != "ok" && !line.starts_with("***")).for_each(|line| found.fault(line));
    }
    Ok(())
}

fn first(connection: &Connection, name: &str) -> Result<Option<u64>, StoreError> {
    Ok(u64::try_from(meta(connection, name)?).ok().filter(|first| *first > 0))
}

fn look_at_records(connection: &Connection, known: &Known, found: &mut Verified) -> Result<(), StoreError> {
    let (mut next, mut next_seq) = (first(connection, "first_record")?, first(connection, "first_seq")?);
    let mut decoder = Decoder::default();
    let text = "SELECT i.record, i.seq, i.rows, i.arrival, i.time_min, i.time_max, s.id, i.body \
                FROM inbox i LEFT JOIN streams s ON s.number = i.stream ORDER BY i.record";
    let mut statement = connection.prepare(text)?;
    let mut records = statement.query([])?;
    while let Some(row) = records.next()? {
        let number = |place| row.get::<_, i64>(place).map(|number| number.max(0) as u64);
        let (record, seq, rows) = (number(0)?, number(1)?, number(2)?);
        found.missing.records.push_unknown(next.unwrap_or(record), record.saturating_sub(1), &known.records);
        found.missing.rows.push_unknown(next_seq.unwrap_or(seq), seq.saturating_sub(1), &known.rows);
        if next_seq.is_some_and(|next| seq < next) {
            found.fault(format!("record {record} has rows from number {seq} on, which come before those of the record before it"));
        }
        (next, next_seq) = (Some(record.saturating_add(1)), Some(seq.saturating_add(rows)));
        let fault = match decoder.decode(row.get_ref(7)?.as_blob()?, Seq(seq)) {
            Ok(input) => head_fault(row, &input, rows)?,
            Err(error) => Some(error.to_string()),
        };
        if let Some(fault) = fault {
            found.fault(format!("record {record}: {fault}"));
            found.damaged.records.push(record, record);
            found.damaged.rows.push(seq, seq.saturating_add(rows).saturating_sub(1));
        } else {
            found.kept.records += 1;
            found.kept.rows += rows;
        }
    }
    if found.missing.records.count + found.missing.rows.count > 0 {
        let (records, rows) = (found.missing.records.count, found.missing.rows.count);
        found.fault(format!("{records} records with {rows} rows are not there, and no report says why"));
    }
    Ok(())
}

/// What a record's columns say and its blob does not.
fn head_fault(row: &rusqlite::Row<'_>, input: &Input, rows: u64) -> Result<Option<String>, StoreError> {
    let (arrival, times): (i64, (Option<i64>, Option<i64>)) = (row.get(3)?, (row.get(4)?, row.get(5)?));
    let stream = row.get_ref(6)?.as_str_or_null()?;
    let fits = match input {
        Input::Batch(batch) => {
            batch.rows() as u64 == rows
                && batch.arrival.0 == arrival
                && times == (batch.time.iter().min().copied(), batch.time.iter().max().copied())
                && stream == Some(&*batch.stream.id)
        }
        Input::Watermark { arrival: at, .. } | Input::Tick(at) | Input::Order { time: at, .. } => {
            rows == 0 && at.0 == arrival && stream.is_none()
        }
        Input::End => false,
    };
    Ok((!fits).then(|| "its columns are not those of its blob".to_owned()))
}

fn look_at_results(connection: &Connection, known: &Known, found: &mut Verified) -> Result<(), StoreError> {
    let mut next = first(connection, "first_result")?;
    let mut statement = connection.prepare("SELECT seq, id, body FROM outbox ORDER BY seq")?;
    let mut results = statement.query([])?;
    while let Some(row) = results.next()? {
        let seq = row.get::<_, i64>(0)?.max(0) as u64;
        found.missing.results.push_unknown(next.unwrap_or(seq), seq.saturating_sub(1), &known.results);
        next = Some(seq.saturating_add(1));
        let json: Option<serde_json::Value> = serde_json::from_slice(row.get_ref(2)?.as_blob()?).ok();
        let named = json.as_ref().and_then(|json| json.get("id")).and_then(serde_json::Value::as_str);
        if named == Some(row.get_ref(1)?.as_str()?) {
            found.kept.results += 1;
        } else {
            found.fault(format!("result {seq} is not the one that its id names"));
            found.damaged.results.push(seq, seq);
        }
    }
    let count = found.missing.results.count;
    if count > 0 {
        found.fault(format!("{count} results are not there, and no report says why"));
    }
    Ok(())
}

fn look_at_balances(connection: &Connection, found: &mut Verified) -> Result<(), StoreError> {
    for balance in State::load(connection)?.balances_and_names() {
        let (balance, only) = balance;
        let there = count_after(connection, balance.lane, balance.seq.0, only.as_deref())?;
        if there != balance.buffered {
            let what = if balance.lane == Lane::Rows { "rows" } else { "results" };
            let (sink, buffered) = (&balance.sink, balance.buffered);
            found.fault(format!("sink `{sink}` has {buffered} {what} to come by its balance, and {there} are there"));
        }
    }
    Ok(())
}

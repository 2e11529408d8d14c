//! Copies everything that can be read of a damaged file into a new one, and works out what is missing.
//!
//! - Small tables (cursors, devices, totals, …) are read through SQLite as a whole; one that it cannot read to its end is carved out of the
//!   raw pages ([`super::carve`]), or made again from what there is.
//! - Records, results and dead letters are always carved, so that a damaged page costs its own rows and nothing else. A record must have
//!   its checksum, a result must be the JSON object that its id names.
//! - Numbers are never given twice: if the newest records or results may be among the lost ones, [`SKIP`] numbers are left out.
//! - Of every sink accepted = delivered + buffered + expired holds afterwards; what was lost before it was delivered has expired.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rusqlite::{Connection, params_from_iter, types::Value as Sql};

use super::carve::{Found, Pages, Value};
use super::checkpoint;
use super::duplicates::Duplicates;
use super::encoding::Decoder;
use super::error::StoreError;
use super::loss::{Loss, Ranges};
use super::schema::{meta, set_meta};
use super::settle;
use super::tables::{NewRecord, insert_record};
use crate::model::{Input, Seq, Timestamp, time_bounds};

/// Numbers that are left out when it is not known which had been given: more than any store can hold beyond its last whole page.
pub const SKIP: u64 = 1_000_000_000;
/// Numbers beyond this were never given.
pub const NUMBER_MAX: i64 = i64::MAX / 4;
/// Rows in one transaction.
const CHUNK: usize = 4_096;
/// Damaged records whose head is remembered.
const BAD_MAX: usize = 65_536;
/// Said when there was a checkpoint and there is none.
pub const CHECKPOINT_LOST: &str = "the engine's checkpoint is lost: it starts from the oldest record";
/// Records between two entries of `spans`.
const SPAN_RECORDS: i64 = 1_024;

/// The damaged file.
pub struct Damaged {
    /// Its pages.
    pub pages: Pages,
    /// The file through SQLite, if that opens it at all.
    pub connection: Option<Connection>,
}

/// What is done with it.
#[derive(Debug, Clone, Copy)]
pub struct Order {
    /// Records before this one are left where they are: there is no room. [`u64::MAX`] = results too.
    pub record_first: u64,
    /// The identity of the new store if that of the old one cannot be read.
    pub identity: u64,
    /// The wall clock.
    pub now: Timestamp,
}

/// A record whose blob is damaged but whose head could be read.
pub(super) struct Bad {
    pub(super) record: u64,
    rows: u64,
    stream: Option<i64>,
}

/// See the module.
pub struct Rebuild<'a> {
    pub(super) damaged: &'a Damaged,
    pub(super) to: &'a Connection,
    pub(super) order: Order,
    decoder: Decoder,
    whole: BTreeSet<&'static str>,
    streams: BTreeMap<Arc<str>, i64>,
    pub(super) bad: Vec<Bad>,
    /// Entries of the page that is being carved, of small tables only.
    page: Vec<Found>,
    inserted: usize,
    /// What was removed on purpose may still be on free pages.
    first_record: u64,
    first_result: u64,
    /// The highest record and result that were found, and their pages.
    pub(super) record_last: Option<(u64, u32)>,
    pub(super) result_last: Option<(u64, u32)>,
    pub(super) loss: Loss,
}

/// Tables that are copied as they are, if they can be read to their end, with their columns.
const SMALL: [(&str, usize); 9] = [
    ("meta", 2),
    ("streams", 2),
    ("devices", 2),
    ("totals", 3),
    ("cursors", 7),
    ("checkpoint", 2),
    ("state", 2),
    ("clock_steps", 2),
    ("lost", 3),
];

impl<'a> Rebuild<'a> {
    /// From `damaged` into the empty store `to`.
    pub fn new(damaged: &'a Damaged, to: &'a Connection, order: Order, loss: Loss) -> Self {
        Self {
            damaged,
            to,
            order,
            decoder: Decoder::default(),
            whole: BTreeSet::new(),
            streams: BTreeMap::new(),
            bad: Vec::new(),
            page: Vec::new(),
            inserted: 0,
            first_record: 0,
            first_result: 0,
            record_last: None,
            result_last: None,
            loss,
        }
    }

    /// Does all of it.
    ///
    /// # Errors
    /// Those of the new file.
    pub fn run(mut self) -> Result<Loss, StoreError> {
        self.begin()?;
        self.copy_small()?;
        self.carve()?;
        self.drop_contradictions()?;
        self.number()?;
        self.derive()?;
        settle::cursors(self.to, &self.loss)?;
        self.count()?;
        self.loss.keep(self.to, self.order.now)?;
        self.to.execute_batch("COMMIT")?;
        Ok(self.loss)
    }

    fn begin(&self) -> Result<(), StoreError> {
        Ok(self.to.execute_batch("BEGIN IMMEDIATE")?)
    }

    /// How many there are of what a line of SQL selects.
    pub(super) fn number_or_zero(&self, text: &str) -> Result<u64, StoreError> {
        let number: Option<i64> = self.to.query_row(text, [], |row| row.get(0))?;
        Ok(number.unwrap_or(0).clamp(0, NUMBER_MAX) as u64)
    }

    fn is_whole(&self, tables: &[&'static str]) -> bool {
        tables.iter().all(|table| self.whole.contains(table))
    }

    fn copy_small(&mut self) -> Result<(), StoreError> {
        self.to.execute("DELETE FROM meta", [])?;
        for (table, columns) in SMALL {
            let Some(rows) = self.damaged.connection.as_ref().and_then(|connection| read_whole(connection, table, columns)) else {
                continue;
            };
            self.whole.insert(table);
            for row in rows {
                insert(self.to, table, row)?;
            }
        }
        if !self.is_whole(&["meta"]) {
            set_meta(self.to, "identity", self.order.identity as i64)?;
        }
        self.first_record = possible(meta(self.to, "first_record")?);
        self.first_result = possible(meta(self.to, "first_result")?);
        let checked = if self.is_whole(&["meta", "checkpoint"]) { checkpoint::read(self.to) } else { Ok(None) };
        let kept = matches!(checked, Ok(Some(_)));
        let had_none = self.is_whole(&["meta"]) && meta(self.to, "checkpoint")? == 0;
        if !kept {
            self.to.execute("DELETE FROM checkpoint", [])?;
            set_meta(self.to, "checkpoint", 0)?;
        }
        if !kept && !had_none {
            self.loss.notes.push(CHECKPOINT_LOST.to_owned());
        }
        let mut statement = self.to.prepare("SELECT id, number FROM streams")?;
        let named = statement.query_map([], |row| Ok((row.get::<_, String>(0)?.into(), row.get(1)?)))?;
        self.streams = named.collect::<Result<_, _>>()?;
        Ok(())
    }

    fn carve(&mut self) -> Result<(), StoreError> {
        let pages = &self.damaged.pages;
        pages.each(|found| self.take(found))?;
        self.take_page()
    }

    /// One row of any table, told by its shape.
    fn take(&mut self, found: Found) -> Result<(), StoreError> {
        if self.page.first().is_some_and(|first| first.page != found.page) {
            self.take_page()?;
        }
        let added = match (found.id, &found.values[..]) {
            (
                Some(record),
                [_, Value::Integer(seq), Value::Integer(rows), stream, Value::Integer(arrival), _, _, Value::Blob(body)],
            ) => {
                let added = self.take_record((record, *seq, *rows), stream.integer(), *arrival, body)?;
                let is_one = added > 0 || self.bad.last().is_some_and(|bad| bad.record as i64 == record);
                if is_one && self.record_last.is_none_or(|last| last.0 <= record as u64) {
                    self.record_last = Some((record as u64, found.page));
                }
                added
            }
            (Some(seq), [_, Value::Text(_), Value::Text(_), Value::Text(_), _, Value::Integer(_), Value::Integer(_), body]) => {
                let added = self.take_result(seq, &found.values, body)?;
                if added > 0 && self.result_last.is_none_or(|last| last.0 <= seq as u64) {
                    self.result_last = Some((seq as u64, found.page));
                }
                added
            }
            (
                Some(number),
                [_, Value::Integer(_), Value::Text(_), Value::Text(_), _, Value::Text(_), Value::Text(_), Value::Blob(_)],
            ) => insert(self.to, "dead_letters", sql(Some(number), &found.values))?,
            _ => {
                self.page.push(found);
                0
            }
        };
        self.inserted += added;
        if self.inserted >= CHUNK {
            self.inserted = 0;
            self.to.execute_batch("COMMIT")?;
            self.begin()?;
        }
        Ok(())
    }

    fn take_record(
        &mut self,
        (record, seq, rows): (i64, i64, i64),
        stream: Option<i64>,
        arrival: i64,
        body: &[u8],
    ) -> Result<usize, StoreError> {
        let first = self.order.record_first.max(self.first_record);
        if !(1..NUMBER_MAX).contains(&record) || !(1..NUMBER_MAX).contains(&seq) || (record as u64) < first {
            return Ok(0);
        }
        let (record, first_seq) = (record as u64, Seq(seq as u64));
        let Ok(input) = self.decoder.decode(body, first_seq) else {
            if self.bad.len() < BAD_MAX && (0..=65_536).contains(&rows) {
                self.bad.push(Bad { record, rows: rows as u64, stream });
            }
            return Ok(0);
        };
        let mut new = NewRecord { record, seq: first_seq.0, rows: 0, stream: None, arrival, times: None, body };
        if let Input::Watermark { arrival, .. } | Input::Tick(arrival) | Input::Order { time: arrival, .. } = &input {
            new.arrival = arrival.0;
        }
        if let Input::Batch(batch) = &input {
            new.arrival = batch.arrival.0;
            let times = time_bounds(batch.time.iter().copied());
            new.rows = batch.rows() as u64;
            new.stream = Some(self.number_of(&batch.stream.id)?);
            new.times = Some(times);
        }
        if new.rows != rows.max(0) as u64 {
            return Ok(0);
        }
        match insert_record(self.to, &new) {
            Ok(()) => Ok(1),
            // The same record from an older version of its page.
            Err(StoreError::Disk(_)) if self.holds(record)? => Ok(0),
            Err(error) => Err(error),
        }
    }

    fn holds(&self, record: u64) -> Result<bool, StoreError> {
        let mut statement = self.to.prepare_cached("SELECT 1 FROM inbox WHERE record = ?1")?;
        Ok(statement.exists([record as i64])?)
    }

    fn number_of(&mut self, stream: &Arc<str>) -> Result<i64, StoreError> {
        if let Some(number) = self.streams.get(stream) {
            return Ok(*number);
        }
        let number = self.streams.values().max().map_or(1, |last| last + 1);
        self.to.execute("INSERT INTO streams VALUES (?1, ?2)", (number, &**stream))?;
        self.streams.insert(Arc::clone(stream), number);
        Ok(number)
    }

    fn take_result(&mut self, seq: i64, values: &[Value], body: &Value) -> Result<usize, StoreError> {
        let json = body.blob().and_then(|body| serde_json::from_slice::<serde_json::Value>(body).ok());
        let named = json.as_ref().and_then(|json| json.get("id")).and_then(serde_json::Value::as_str);
        let wanted = seq as u64 >= self.first_result && self.order.record_first != u64::MAX;
        if !(1..NUMBER_MAX).contains(&seq) || !wanted || named.is_none() || named != values[1].text() {
            return Ok(0);
        }
        insert(self.to, "outbox", sql(Some(seq), values))
    }

    /// The entries of one page, of which those of tables that were not read as a whole are taken.
    fn take_page(&mut self) -> Result<(), StoreError> {
        let page = std::mem::take(&mut self.page);
        let text = |value: &Value| value.text().map(str::to_owned);
        let is_meta = page.iter().any(|found| found.id.is_none() && found.values.first().and_then(Value::text) == Some("identity"));
        let sealed = |found: &Found| match &found.values[..] {
            [Value::Text(_), Value::Blob(body)] => text(&found.values[0]).is_some_and(|name| checkpoint::is_sealed(&name, body)),
            _ => false,
        };
        let is_checkpoint = page.iter().any(sealed);
        for found in &page {
            let (table, is_it) = match (found.id, &found.values[..]) {
                (None, [Value::Text(_), Value::Integer(_)]) => ("meta", is_meta),
                (
                    None,
                    [
                        Value::Text(_),
                        Value::Integer(0..=1),
                        Value::Integer(0..),
                        _,
                        Value::Integer(_),
                        Value::Integer(0..),
                        Value::Integer(0..),
                    ],
                ) => {
                    self.take_cursor(found)?;
                    continue;
                }
                (Some(_), [Value::Blob(key), Value::Blob(state)]) => ("devices", Duplicates::default().restore(key, state).is_ok()),
                (Some(_), [Value::Text(_), Value::Blob(_)]) => ("state", !is_checkpoint),
                (Some(_), [_, Value::Integer(_)]) => ("clock_steps", true),
                (Some(_), [_, Value::Integer(_), Value::Text(_)]) => ("lost", true),
                _ => continue,
            };
            let name = found.values.first().and_then(Value::text).unwrap_or_default();
            if !is_it || self.whole.contains(table) || (table == "meta" && name != "identity" && name != "next_result") {
                continue;
            }
            let keyed_by_id = ["clock_steps", "lost"].contains(&table);
            let verb = if table == "meta" { "INSERT OR REPLACE" } else { "INSERT OR IGNORE" };
            insert_as(self.to, verb, table, sql(found.id.filter(|_| keyed_by_id), &found.values))?;
        }
        Ok(())
    }

    /// A cursor never moves back: of two versions the later one is the newer.
    fn take_cursor(&mut self, found: &Found) -> Result<(), StoreError> {
        if !self.whole.contains("cursors") {
            let text = "INSERT INTO cursors VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO UPDATE SET seq = excluded.seq, \
                        only_names = excluded.only_names, base = excluded.base, delivered = excluded.delivered, \
                        expired = excluded.expired WHERE excluded.seq > seq";
            self.to.prepare_cached(text)?.execute(params_from_iter(sql(None, &found.values)))?;
        }
        Ok(())
    }

    /// Where two neighbours claim the same rows, the one that does not fit what comes before it has a damaged head.
    fn drop_contradictions(&self) -> Result<(), StoreError> {
        let mut wrong = Vec::new();
        {
            let mut statement = self.to.prepare("SELECT record, seq, rows FROM inbox ORDER BY record")?;
            let mut records = statement.query([])?;
            // (record, the number after its rows, whether it follows right after the one before)
            let mut before: Option<(i64, i64, bool)> = None;
            while let Some(row) = records.next()? {
                let (record, seq, rows): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
                match before {
                    Some((last, end, fits)) if seq < end || (record == last + 1 && seq != end) => {
                        if fits {
                            wrong.push(record);
                        } else {
                            wrong.push(last);
                            before = Some((record, seq + rows, false));
                        }
                    }
                    Some((last, end, _)) => before = Some((record, seq + rows, record == last + 1 && seq == end)),
                    None => before = Some((record, seq + rows, false)),
                }
            }
        }
        for record in wrong {
            self.to.prepare_cached("DELETE FROM inbox WHERE record = ?1")?.execute([record])?;
        }
        Ok(())
    }

    /// What follows from the records: totals, spans of time, and the numbers that duplicates are told by.
    fn derive(&mut self) -> Result<(), StoreError> {
        let folded = self.is_whole(&["meta", "streams", "totals", "devices"]);
        let (tail, tail_result) = if folded { (meta(self.to, "tail_record")?, meta(self.to, "tail_result")?) } else { (0, 0) };
        if !folded {
            self.to.execute("DELETE FROM totals", [])?;
        }
        let text = "INSERT INTO totals SELECT 0, s.id, sum(i.rows) FROM inbox i JOIN streams s ON s.number = i.stream WHERE i.record > ?1 \
                    GROUP BY i.stream ON CONFLICT DO UPDATE SET total = total + excluded.total";
        self.to.execute(text, [tail])?;
        let text = "INSERT INTO totals SELECT 1, pipeline, count(*) FROM outbox WHERE seq > ?1 GROUP BY pipeline \
                    ON CONFLICT DO UPDATE SET total = total + excluded.total";
        self.to.execute(text, [tail_result])?;
        if folded {
            self.count_bad(tail)?;
        }
        let text = "INSERT INTO spans SELECT stream, min(record), max(record), min(time_min), max(time_max) FROM inbox \
                    WHERE stream IS NOT NULL GROUP BY stream, record / ?1";
        self.to.execute(text, [SPAN_RECORDS])?;
        self.fold_devices(tail, folded)?;
        let last: Option<i64> = self.to.query_row("SELECT max(record) FROM inbox", [], |row| row.get(0))?;
        set_meta(self.to, "tail_record", last.unwrap_or(0))?;
        let last: Option<i64> = self.to.query_row("SELECT max(seq) FROM outbox", [], |row| row.get(0))?;
        set_meta(self.to, "tail_result", last.unwrap_or(0))
    }

    /// Rows that were accepted after the totals were written, and are lost.
    fn count_bad(&self, tail: i64) -> Result<(), StoreError> {
        let names: BTreeMap<i64, &Arc<str>> = self.streams.iter().map(|(id, number)| (*number, id)).collect();
        let mut counted = BTreeSet::new();
        for bad in self.bad.iter().filter(|bad| bad.record as i64 > tail) {
            let Some(name) = bad.stream.and_then(|stream| names.get(&stream)) else { continue };
            if !self.holds(bad.record)? && counted.insert(bad.record) {
                let text = "INSERT INTO totals VALUES (0, ?1, ?2) ON CONFLICT DO UPDATE SET total = total + excluded.total";
                self.to.execute(text, (&***name, bad.rows as i64))?;
            }
        }
        Ok(())
    }

    /// A device whose state was kept goes on from there with what came after it; one whose state is lost is made again from all records.
    fn fold_devices(&mut self, tail: i64, folded: bool) -> Result<(), StoreError> {
        let mut kept = Duplicates::default();
        let mut keys = BTreeSet::new();
        {
            let mut statement = self.to.prepare("SELECT key, state FROM devices")?;
            let mut devices = statement.query([])?;
            while let Some(row) = devices.next()? {
                let key = row.get_ref(0)?.as_blob()?;
                if kept.restore(key, row.get_ref(1)?.as_blob()?).is_ok() {
                    keys.insert(key.to_vec());
                }
            }
        }
        let mut fresh = Duplicates::default();
        {
            let mut statement =
                self.to.prepare("SELECT record, seq, body FROM inbox WHERE rows > 0 AND record > ?1 ORDER BY record")?;
            let mut records = statement.query([if folded { tail } else { 0 }])?;
            while let Some(row) = records.next()? {
                let decoded = self.decoder.decode(row.get_ref(2)?.as_blob()?, Seq(row.get::<_, i64>(1)? as u64));
                if let Ok(Input::Batch(batch)) = decoded {
                    fresh.admit(&batch);
                    if folded {
                        kept.admit(&batch);
                    }
                }
            }
        }
        let fresh = fresh.take_changes().into_iter().filter(|(key, _)| !folded && !keys.contains(key));
        for (key, state) in kept.take_changes().into_iter().chain(fresh) {
            if let Some(state) = state {
                self.to.prepare_cached("INSERT OR REPLACE INTO devices VALUES (?1, ?2)")?.execute((key, state))?;
            }
        }
        if !folded && !keys.is_empty() {
            self.loss.notes.push("rows that are sent again may be taken twice".to_owned());
        }
        Ok(())
    }

    fn count(&mut self) -> Result<(), StoreError> {
        let text = "SELECT (SELECT count(*) FROM inbox), (SELECT coalesce(sum(rows), 0) FROM inbox), (SELECT count(*) FROM outbox), \
                    (SELECT count(*) FROM dead_letters)";
        let counts: [i64; 4] = self.to.query_row(text, [], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?]))?;
        let kept = &mut self.loss.kept;
        [kept.records, kept.rows, kept.results, kept.dead_letters] = counts.map(|count| count.max(0) as u64);
        self.note_dead_letters()
    }

    /// Dead letters that are taken in again leave gaps too, so that what is missing between others is not surely lost.
    fn note_dead_letters(&mut self) -> Result<(), StoreError> {
        let mut missing = Ranges::default();
        let mut statement = self.to.prepare("SELECT number FROM dead_letters ORDER BY number")?;
        let mut numbers = statement.query([])?;
        let mut next = None;
        while let Some(row) = numbers.next()? {
            let number = possible(row.get(0)?);
            missing.push(next.unwrap_or(number), number.saturating_sub(1));
            next = Some(number + 1);
        }
        if missing.count > 0 {
            let note = format!("dead letters {} are not there: lost now, or taken in again before", missing.said());
            self.loss.notes.push(note);
        }
        Ok(())
    }
}

/// All rows of a table, or nothing if SQLite cannot read it to its end.
fn read_whole(connection: &Connection, table: &str, columns: usize) -> Option<Vec<Vec<Sql>>> {
    let mut statement = connection.prepare(&format!("SELECT * FROM {table}")).ok()?;
    let row = |row: &rusqlite::Row<'_>| (0..columns).map(|column| row.get(column)).collect();
    if statement.column_count() != columns {
        return None;
    }
    let rows = statement.query_map([], row).ok()?;
    rows.collect::<Result<_, _>>().ok()
}

/// A number that can have been given, or 0.
pub fn possible(number: i64) -> u64 {
    if (1..NUMBER_MAX).contains(&number) { number as u64 } else { 0 }
}

fn sql(id: Option<i64>, values: &[Value]) -> Vec<Sql> {
    let column = |(place, value): (usize, &Value)| match (place, id, value) {
        (0, Some(id), _) => Sql::Integer(id),
        (_, _, Value::Null) => Sql::Null,
        (_, _, Value::Integer(number)) => Sql::Integer(*number),
        // What is no UTF-8 is refused by the table that is strict about texts.
        (_, _, Value::Text(bytes)) => Sql::Text(String::from_utf8_lossy(bytes).into_owned()),
        (_, _, Value::Blob(bytes)) => Sql::Blob(bytes.clone()),
    };
    values.iter().enumerate().map(column).collect()
}

fn insert(connection: &Connection, table: &str, row: Vec<Sql>) -> Result<usize, StoreError> {
    insert_as(connection, "INSERT OR IGNORE", table, row)
}

fn insert_as(connection: &Connection, verb: &str, table: &str, row: Vec<Sql>) -> Result<usize, StoreError> {
    let places: Vec<String> = (1..=row.len()).map(|place| format!("?{place}")).collect();
    let text = format!("{verb} INTO {table} VALUES ({})", places.join(", "));
    match connection.prepare_cached(&text)?.execute(params_from_iter(row)) {
        // A value that the table does not take, such as a text where a number belongs: not a row of ours.
        Err(rusqlite::Error::SqliteFailure(error, _)) if error.code == rusqlite::ErrorCode::ConstraintViolation => Ok(0),
        other => Ok(other?),
    }
}

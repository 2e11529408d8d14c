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

use rusqlite::{Connection, OptionalExtension, params_from_iter, types::Value as Sql};

use super::carve::{Found, Pages, Value};
use super::checkpoint;
use super::command::Lane;
use super::duplicates::Duplicates;
use super::encoding::{Decoder, encode};
use super::error::StoreError;
use super::loss::{Known, Loss};
use super::schema::{meta, set_meta};
use super::tables::{NewRecord, count_after, insert_record};
use crate::model::{Input, Seq, Timestamp};

/// Numbers that are left out when it is not known which had been given: more than any store can hold beyond its last whole page.
pub const SKIP: u64 = 1_000_000_000;
/// Numbers beyond this were never given.
const NUMBER_MAX: i64 = i64::MAX / 4;
/// Rows in one transaction.
const CHUNK: usize = 4_096;
/// Damaged records whose head is remembered.
const BAD_MAX: usize = 65_536;
const CHECKPOINT_LOST: &str = "the engine's checkpoint is lost: it starts from the oldest record";
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
struct Bad {
    record: u64,
    rows: u64,
    stream: Option<i64>,
}

/// First and last number of what the damaged file lists, as far as SQLite can tell.
#[derive(Default)]
struct Edges {
    /// (record, its first row's number)
    first: Option<(u64, u64)>,
    /// (record, the number after its last row); `Some(None)` = there is no record.
    last: Option<Option<(u64, u64)>>,
    result_first: Option<u64>,
    /// `Some(None)` = there is no result.
    result_last: Option<Option<u64>>,
}

/// See the module.
pub struct Rebuild<'a> {
    damaged: &'a Damaged,
    to: &'a Connection,
    order: Order,
    decoder: Decoder,
    whole: BTreeSet<&'static str>,
    streams: BTreeMap<Arc<str>, i64>,
    bad: Vec<Bad>,
    /// Entries of the page that is being carved, of small tables only.
    page: Vec<Found>,
    inserted: usize,
    /// What was removed on purpose may still be on free pages.
    first_record: u64,
    first_result: u64,
    /// The highest record and result that were found, and their pages.
    record_last: Option<(u64, u32)>,
    result_last: Option<(u64, u32)>,
    loss: Loss,
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
        self.settle_cursors()?;
        self.count()?;
        self.loss.keep(self.to, self.order.now)?;
        self.to.execute_batch("COMMIT")?;
        Ok(self.loss)
    }

    fn begin(&self) -> Result<(), StoreError> {
        Ok(self.to.execute_batch("BEGIN IMMEDIATE")?)
    }

    /// How many there are of what a line of SQL selects.
    fn number_or_zero(&self, text: &str) -> Result<u64, StoreError> {
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
        if let Input::Watermark { arrival, .. } | Input::Tick(arrival) = &input {
            new.arrival = arrival.0;
        }
        if let Input::Batch(batch) = &input {
            new.arrival = batch.arrival.0;
            let times = batch.time.iter().fold((i64::MAX, i64::MIN), |(min, max), time| (min.min(*time), max.max(*time)));
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

    /// Finds the gaps, and makes sure that no number is given again.
    fn number(&mut self) -> Result<(), StoreError> {
        let edges = self.damaged.connection.as_ref().map_or_else(Edges::default, edges);
        let known = Known::load(self.to)?;
        self.number_records(&edges, &known)?;
        self.number_results(&edges, &known)?;
        self.drop_impossible()
    }

    /// The lowest number that was kept: as noted when the oldest were removed, else the lowest that SQLite finds.
    fn first(&self, name: &str, found: Option<u64>) -> Result<Option<u64>, StoreError> {
        let noted = meta(self.to, name)?;
        Ok(if (1..NUMBER_MAX).contains(&noted) { Some(noted as u64) } else { found })
    }

    fn number_records(&mut self, edges: &Edges, known: &Known) -> Result<(), StoreError> {
        let first_bad = self.bad.iter().map(|bad| bad.record).min();
        let mut next = self.first("first_record", edges.first.map(|edge| edge.0))?;
        let mut next_seq = self.first("first_seq", edges.first.map(|edge| edge.1))?;
        if next.is_none() && edges.last != Some(None) {
            self.loss.notes.push("it is not known which record was the oldest: older ones than those may be missing".to_owned());
        }
        let start = (next, next_seq);
        let mut arrival_last = self.order.now.0;
        {
            let mut statement = self.to.prepare("SELECT record, seq, rows, arrival FROM inbox ORDER BY record")?;
            let mut records = statement.query([])?;
            while let Some(row) = records.next()? {
                let (record, seq, rows) =
                    (row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64, row.get::<_, i64>(2)? as u64);
                let expected = next.unwrap_or_else(|| first_bad.map_or(record, |bad| bad.min(record)));
                self.loss.lost.records.push_unknown(expected, record - 1, &known.records);
                self.loss.lost.rows.push_unknown(next_seq.unwrap_or(seq), seq - 1, &known.rows);
                (next, next_seq) = (Some(record + 1), Some(seq + rows));
                arrival_last = arrival_last.max(row.get(3)?);
            }
        }
        let (next, next_seq) = (next.unwrap_or(1), next_seq.unwrap_or(1));
        let certain = self.end_is_certain(edges.last.map(|last| last.map(|last| last.0)), self.record_last);
        let (end, end_seq) = match edges.last.flatten() {
            Some((record, end_seq)) if certain => (record + 1, end_seq),
            _ if certain => (1, 1),
            last => self.end_of_rows(last)?,
        };
        let (end, end_seq) = (end.max(next), end_seq.max(next_seq));
        self.loss.lost.records.push_unknown(next, end - 1, &known.records);
        self.loss.lost.rows.push_unknown(next_seq, end_seq - 1, &known.rows);
        let skip = if certain { 0 } else { SKIP };
        if skip > 0 {
            self.loss.skipped.records.push(end, end + skip - 1);
            self.loss.skipped.rows.push(end_seq, end_seq + skip - 1);
        }
        set_meta(self.to, "first_record", start.0.or(self.lowest("inbox", "record")?).unwrap_or(1) as i64)?;
        set_meta(self.to, "first_seq", start.1.or(self.lowest("inbox", "seq")?).unwrap_or(1) as i64)?;
        if skip > 0 || end > next || end_seq > next_seq {
            // A tick holds the place of what was lost at the end, so that the numbers go on after it.
            let body = encode(&Input::Tick(Timestamp(arrival_last))).unwrap_or_default();
            let new = NewRecord {
                record: end + skip,
                seq: end_seq + skip,
                rows: 0,
                stream: None,
                arrival: arrival_last,
                times: None,
                body: &body,
            };
            insert_record(self.to, &new)?;
        }
        Ok(())
    }

    fn lowest(&self, table: &str, column: &str) -> Result<Option<u64>, StoreError> {
        Ok(Some(self.number_or_zero(&format!("SELECT min({column}) FROM {table}"))?).filter(|lowest| *lowest > 0))
    }

    /// Whether the last number that SQLite finds (`Some(None)` = the table is empty) is the last one there was: the highest that is on
    /// any page, on a page of which nothing is missing.
    fn end_is_certain(&self, last: Option<Option<u64>>, carved: Option<(u64, u32)>) -> bool {
        match (last, carved) {
            (Some(None), None) => true,
            (Some(Some(last)), Some((carved, page))) => last == carved && self.damaged.pages.is_whole(page),
            _ => false,
        }
    }

    /// The record and row that would have come next at least, from everything that names one.
    fn end_of_rows(&self, last: Option<(u64, u64)>) -> Result<(u64, u64), StoreError> {
        let (mut end, mut end_seq) = last.map_or((1, 1), |(record, end_seq)| (record + 1, end_seq));
        for bad in &self.bad {
            end = end.max(bad.record + 1);
        }
        for name in ["tail_record", "checkpoint"] {
            end = end.max(possible(meta(self.to, name)?) + 1);
        }
        let text = "SELECT max(seq) FROM cursors WHERE lane = 0 AND seq < ?1";
        let confirmed: Option<i64> = self.to.query_row(text, [NUMBER_MAX], |row| row.get(0))?;
        end_seq = end_seq.max(possible(confirmed.unwrap_or(0)) + 1);
        Ok((end, end_seq))
    }

    fn number_results(&mut self, edges: &Edges, known: &Known) -> Result<(), StoreError> {
        let mut next = self.first("first_result", edges.result_first)?;
        let start = next;
        {
            let mut statement = self.to.prepare("SELECT seq FROM outbox ORDER BY seq")?;
            let mut results = statement.query([])?;
            while let Some(row) = results.next()? {
                let seq = row.get::<_, i64>(0)? as u64;
                self.loss.lost.results.push_unknown(next.unwrap_or(seq), seq - 1, &known.results);
                next = Some(seq + 1);
            }
        }
        let next = next.unwrap_or(1);
        let certain = self.end_is_certain(edges.result_last, self.result_last);
        let mut end = possible(meta(self.to, "next_result")?).max(next).max(edges.result_last.flatten().unwrap_or(0) + 1);
        if !certain {
            let text = "SELECT max(seq) FROM cursors WHERE lane = 1 AND seq < ?1";
            let confirmed: Option<i64> = self.to.query_row(text, [NUMBER_MAX], |row| row.get(0))?;
            end = end.max(possible(confirmed.unwrap_or(0)) + 1).max(possible(meta(self.to, "tail_result")?) + 1);
        }
        self.loss.lost.results.push_unknown(next, end - 1, &known.results);
        if !certain {
            self.loss.skipped.results.push(end, end + SKIP - 1);
            end += SKIP;
        }
        set_meta(self.to, "first_result", start.or(self.lowest("outbox", "seq")?).unwrap_or(1) as i64)?;
        set_meta(self.to, "next_result", end as i64)
    }

    /// What names a number that was never given is damaged itself.
    fn drop_impossible(&mut self) -> Result<(), StoreError> {
        let next_seq: Option<i64> =
            self.to.query_row("SELECT seq + rows FROM inbox ORDER BY record DESC LIMIT 1", [], |row| row.get(0)).optional()?;
        let next_result = meta(self.to, "next_result")?;
        let text =
            "DELETE FROM cursors WHERE seq < 0 OR seq >= CASE lane WHEN 0 THEN ?1 ELSE ?2 END OR delivered < 0 OR expired < 0";
        let dropped = self.to.execute(text, (next_seq.unwrap_or(1), next_result))?;
        if dropped > 0 {
            self.loss.notes.push(format!("{dropped} places of sinks are lost: those sinks start from the oldest row or result"));
        }
        if meta(self.to, "checkpoint")? > self.number_or_zero("SELECT max(record) FROM inbox")? as i64 {
            self.to.execute("DELETE FROM checkpoint", [])?;
            set_meta(self.to, "checkpoint", 0)?;
            self.loss.notes.push(CHECKPOINT_LOST.to_owned());
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

    fn settle_cursors(&mut self) -> Result<(), StoreError> {
        settle_cursors(self.to, &self.loss)
    }

    fn count(&mut self) -> Result<(), StoreError> {
        let text = "SELECT (SELECT count(*) FROM inbox), (SELECT coalesce(sum(rows), 0) FROM inbox), (SELECT count(*) FROM outbox), \
                    (SELECT count(*) FROM dead_letters)";
        let counts: [i64; 4] = self.to.query_row(text, [], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?]))?;
        let kept = &mut self.loss.kept;
        [kept.records, kept.rows, kept.results, kept.dead_letters] = counts.map(|count| count.max(0) as u64);
        Ok(())
    }
}

/// Brings every sink's balance in line with what is there: what was lost before it was delivered has expired.
pub fn settle_cursors(connection: &Connection, loss: &Loss) -> Result<(), StoreError> {
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

fn edges(connection: &Connection) -> Edges {
    let pair = |text| {
        let found = connection.query_row(text, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
        let good = |number: i64| (1..NUMBER_MAX).contains(&number).then_some(number as u64);
        match found.optional() {
            Ok(None) => Some(None),
            Ok(Some((left, right))) => good(left).zip(good(right)).map(Some),
            Err(_) => None,
        }
    };
    Edges {
        first: pair("SELECT record, seq FROM inbox ORDER BY record LIMIT 1").flatten(),
        last: pair("SELECT record, seq + rows FROM inbox ORDER BY record DESC LIMIT 1"),
        result_first: pair("SELECT seq, 1 FROM outbox ORDER BY seq LIMIT 1").flatten().map(|edge| edge.0),
        result_last: pair("SELECT seq, 1 FROM outbox ORDER BY seq DESC LIMIT 1").map(|edge| edge.map(|edge| edge.0)),
    }
}

/// A number that can have been given, or 0.
fn possible(number: i64) -> u64 {
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

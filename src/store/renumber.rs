//! Follows the numbers of what was salvaged: gaps are lost, and none is given again.

use rusqlite::{Connection, OptionalExtension};

use super::encoding::encode;
use super::error::StoreError;
use super::loss::Known;
use super::rebuild::{CHECKPOINT_LOST, NUMBER_MAX, Rebuild, SKIP, possible};
use super::schema::{meta, set_meta};
use super::tables::{NewRecord, insert_record};
use crate::model::{Input, Timestamp};

/// First and last number of what the damaged file lists, as far as SQLite can tell.
#[derive(Default)]
#[expect(clippy::option_option, reason = "not known, none, or this one")]
struct Edges {
    /// (record, its first row's number)
    first: Option<(u64, u64)>,
    /// (record, the number after its last row); `Some(None)` = there is no record.
    last: Option<Option<(u64, u64)>>,
    result_first: Option<u64>,
    /// `Some(None)` = there is no result.
    result_last: Option<Option<u64>>,
}

impl Rebuild<'_> {
    /// Finds the gaps, and makes sure that no number is given again.
    ///
    /// # Errors
    /// Those of the new file.
    pub fn number(&mut self) -> Result<(), StoreError> {
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
    #[expect(clippy::option_option, reason = "not known, none, or this one")]
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

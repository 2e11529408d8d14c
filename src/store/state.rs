//! What the writer keeps in memory: the next numbers, the duplicates, the totals and the cursors.
//!
//! All of it follows from the tables. What would cost a page in every commit (totals, remembered numbers, spans of time) is written
//! every [`TAIL_RECORDS`] records only, and folded again over the records after that at the next start: the *tail*. The same load
//! brings the memory back in line after a transaction that failed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};

use super::command::{Accepted, CursorMove, Lane, RecordNo, StartAt, Subscription};
use super::duplicates::Duplicates;
use super::encoding::Decoder;
use super::error::StoreError;
use super::schema::{meta, set_meta};
use super::tables::count_after;
use crate::model::{Input, Seq};

/// Records after which the tail is written.
pub const TAIL_RECORDS: u64 = 1_024;
/// Rows after which the tail is written, so that folding it takes well under a second.
pub const TAIL_ROWS: u64 = 1 << 20;
/// Removed pieces that a sink may still confirm, for each sink.
const PIECES_MAX: usize = 4_096;

/// The times that the records of a stream cover, within one tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First record.
    pub record_first: u64,
    /// Last record.
    pub record_last: u64,
    /// Earliest event time, ns.
    pub time_min: i64,
    /// Latest event time, ns.
    pub time_max: i64,
}

/// How far a sink is in a lane, and its balance: accepted = delivered + buffered + expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorState {
    /// The last number it confirmed.
    pub seq: Seq,
    /// The streams or pipelines it gets; `None` = all.
    pub only: Option<Vec<Arc<str>>>,
    /// What the totals were when it started: accepted = totals − base.
    base: i64,
    /// Confirmed.
    pub delivered: u64,
    /// Removed before it was confirmed.
    pub expired: u64,
    /// What was removed beyond the cursor and counted as expired, as (first, last, count); a delivery under way may still confirm it.
    removed: VecDeque<(u64, u64, u64)>,
}

impl CursorState {
    /// Whether it gets what carries `name`.
    pub fn wants(&self, name: Option<&str>) -> bool {
        self.only.as_ref().is_none_or(|only| name.is_some_and(|name| only.iter().any(|wanted| &**wanted == name)))
    }

    /// `count` things for it, with numbers `first..=last`, are removed.
    fn expire(&mut self, first: u64, last: u64, count: u64) {
        if last <= self.seq.0 || count == 0 {
            return;
        }
        // Rows of a record are numbered without gaps; a result is on its own.
        let gone = if first > self.seq.0 { count } else { count.min(last - self.seq.0) };
        self.expired += gone;
        if self.removed.len() == PIECES_MAX {
            self.removed.pop_front();
        }
        self.removed.push_back((first.max(self.seq.0 + 1), last, gone));
    }

    fn advance(&mut self, go: &CursorMove) {
        if go.through <= self.seq {
            return;
        }
        self.seq = go.through;
        self.delivered += go.delivered;
        // What was read before it was removed, and is confirmed now, has not expired.
        while let Some((first, last, count)) = self.removed.front().copied().filter(|piece| piece.0 <= go.through.0) {
            self.removed.pop_front();
            let confirmed = if last <= go.through.0 { count } else { count.min(go.through.0 + 1 - first) };
            if first >= go.from.0 {
                self.expired -= confirmed.min(self.expired);
            }
            if last > go.through.0 {
                self.removed.push_front((go.through.0 + 1, last, count - confirmed));
            }
        }
    }
}

/// Everything the writer knows between commits.
#[derive(Debug, Default)]
pub struct State {
    /// The number of the next record.
    pub next_record: u64,
    /// The number of the next row.
    pub next_seq: u64,
    /// The number of the next result.
    pub next_result: u64,
    /// The number of the next dead letter.
    pub next_dead_letter: u64,
    /// The last record in the engine's checkpoint; 0 = there is none.
    pub checkpoint: u64,
    /// Which rows are known.
    pub duplicates: Duplicates,
    /// The latest arrival, ns.
    pub arrival_last: i64,
    streams: BTreeMap<Arc<str>, i64>,
    totals: [BTreeMap<Arc<str>, u64>; 2],
    cursors: BTreeMap<(Arc<str>, Lane), CursorState>,
    spans: BTreeMap<i64, Span>,
    tail_records: u64,
    tail_rows: u64,
    results_dirty: bool,
}

impl State {
    /// What the tables say.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if they contradict themselves; errors of the disk.
    pub fn load(connection: &Connection) -> Result<Self, StoreError> {
        let mut state = Self {
            next_record: meta(connection, "next_record")?.max(1) as u64,
            next_seq: meta(connection, "next_seq")?.max(1) as u64,
            next_result: meta(connection, "next_result")?.max(1) as u64,
            checkpoint: meta(connection, "checkpoint")?.max(0) as u64,
            ..Self::default()
        };
        state.load_streams(connection)?;
        state.load_totals(connection)?;
        state.load_cursors(connection)?;
        state.load_devices(connection)?;
        state.load_tail(connection)?;
        state.load_results(connection)?;
        let last: Option<i64> = connection.query_row("SELECT max(number) FROM dead_letters", [], |row| row.get(0))?;
        state.next_dead_letter = last.unwrap_or(0).max(0) as u64 + 1;
        state.check(connection)?;
        Ok(state)
    }

    /// Nothing names a number that was never given.
    fn check(&self, connection: &Connection) -> Result<(), StoreError> {
        let told = |what: &str, named: u64, next: u64| {
            Err(StoreError::Corrupt(format!("{what} names number {named}, and {next} is the next one to be given")))
        };
        for (what, next) in [("tail_record", self.next_record), ("tail_result", self.next_result), ("checkpoint", self.next_record)]
        {
            let named = meta(connection, what)? as u64;
            if named >= next {
                return told(what, named, next);
            }
        }
        for ((sink, lane), cursor) in &self.cursors {
            let next = if *lane == Lane::Rows { self.next_seq } else { self.next_result };
            if cursor.seq.0 >= next {
                return told(&format!("the cursor of sink `{sink}`"), cursor.seq.0, next);
            }
        }
        Ok(())
    }

    /// What the tables say, after a transaction was rolled back; deliveries under way are still known.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn reload(&self, connection: &Connection) -> Result<Self, StoreError> {
        let mut state = Self::load(connection)?;
        for (key, cursor) in &mut state.cursors {
            if let Some(before) = self.cursors.get(key) {
                cursor.removed.clone_from(&before.removed);
            }
        }
        Ok(state)
    }

    fn load_streams(&mut self, connection: &Connection) -> Result<(), StoreError> {
        let mut statement = connection.prepare_cached("SELECT id, number FROM streams")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            self.streams.insert(row.get::<_, String>(0)?.into(), row.get(1)?);
        }
        Ok(())
    }

    fn load_totals(&mut self, connection: &Connection) -> Result<(), StoreError> {
        let mut statement = connection.prepare_cached("SELECT lane, name, total FROM totals")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let lane = usize::try_from(row.get::<_, i64>(0)?).ok().and_then(|lane| self.totals.get_mut(lane));
            lane.ok_or_else(unknown_lane)?.insert(row.get::<_, String>(1)?.into(), row.get::<_, i64>(2)? as u64);
        }
        Ok(())
    }

    fn load_cursors(&mut self, connection: &Connection) -> Result<(), StoreError> {
        let mut statement =
            connection.prepare_cached("SELECT sink, lane, seq, only_names, base, delivered, expired FROM cursors")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let lane = Lane::from_number(row.get(1)?).ok_or_else(unknown_lane)?;
            let only: Option<String> = row.get(3)?;
            let only = only.map(|names| serde_json::from_str::<Vec<Arc<str>>>(&names)).transpose();
            let cursor = CursorState {
                seq: Seq(row.get::<_, i64>(2)? as u64),
                only: only.map_err(|error| StoreError::Corrupt(format!("a cursor's names: {error}")))?,
                base: row.get(4)?,
                delivered: row.get::<_, i64>(5)? as u64,
                expired: row.get::<_, i64>(6)? as u64,
                removed: VecDeque::new(),
            };
            self.cursors.insert((row.get::<_, String>(0)?.into(), lane), cursor);
        }
        Ok(())
    }

    fn load_devices(&mut self, connection: &Connection) -> Result<(), StoreError> {
        let mut statement = connection.prepare_cached("SELECT key, state FROM devices")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let restored = self.duplicates.restore(row.get_ref(0)?.as_blob()?, row.get_ref(1)?.as_blob()?);
            restored.map_err(|error| StoreError::Corrupt(format!("a device's numbers: {error}")))?;
        }
        Ok(())
    }

    /// Folds the records that came after the tail was written.
    fn load_tail(&mut self, connection: &Connection) -> Result<(), StoreError> {
        let mut statement = connection.prepare_cached(
            "SELECT record, seq, rows, stream, arrival, time_min, time_max, body FROM inbox WHERE record > ?1 ORDER BY record",
        )?;
        let last = "SELECT record, seq + rows, arrival FROM inbox ORDER BY record DESC LIMIT 1";
        let last = connection.query_row(last, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get(2)?)));
        if let Some((record, next_seq, arrival)) = last.optional()? {
            // The stored numbers are higher only after a salvage, so that lost numbers are never given again.
            self.next_record = self.next_record.max(record as u64 + 1);
            self.next_seq = self.next_seq.max(next_seq as u64);
            self.arrival_last = arrival;
        }
        let names: BTreeMap<i64, Arc<str>> = self.streams.iter().map(|(id, number)| (*number, Arc::clone(id))).collect();
        let mut decoder = Decoder::default();
        let mut rows = statement.query([meta(connection, "tail_record")?])?;
        while let Some(row) = rows.next()? {
            let (record, seq, count) = (row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64, row.get::<_, i64>(2)? as u64);
            let body = row.get_ref(7)?.as_blob()?;
            let decoded =
                decoder.decode(body, Seq(seq)).map_err(|error| StoreError::Corrupt(format!("record {record}: {error}")))?;
            self.tail_records += 1;
            if let (Input::Batch(batch), Some(stream)) = (decoded, row.get::<_, Option<i64>>(3)?) {
                let name =
                    names.get(&stream).ok_or_else(|| StoreError::Corrupt(format!("record {record}: its stream has no name")))?;
                self.duplicates.admit(&batch);
                self.note_rows(record, stream, name, count, (row.get(5)?, row.get(6)?));
            }
        }
        Ok(())
    }

    fn load_results(&mut self, connection: &Connection) -> Result<(), StoreError> {
        let last: Option<i64> = connection.query_row("SELECT max(seq) FROM outbox", [], |row| row.get(0))?;
        self.next_result = self.next_result.max(last.unwrap_or(0).max(0) as u64 + 1);
        let mut statement = connection.prepare_cached("SELECT pipeline FROM outbox WHERE seq > ?1")?;
        let mut rows = statement.query([meta(connection, "tail_result")?])?;
        while let Some(row) = rows.next()? {
            self.note_result(row.get_ref(0)?.as_str()?);
        }
        Ok(())
    }

    /// The number of a stream, given now if it has none.
    pub fn number_stream(&mut self, connection: &Connection, id: &Arc<str>) -> Result<i64, StoreError> {
        if let Some(number) = self.streams.get(id) {
            return Ok(*number);
        }
        let number = self.streams.values().max().map_or(1, |last| last + 1);
        connection.prepare_cached("INSERT INTO streams VALUES (?1, ?2)")?.execute((number, &**id))?;
        self.streams.insert(Arc::clone(id), number);
        Ok(number)
    }

    /// A record of rows is in the inbox.
    pub fn note_rows(&mut self, record: u64, stream: i64, name: &Arc<str>, rows: u64, (time_min, time_max): (i64, i64)) {
        *self.totals[0].entry(Arc::clone(name)).or_default() += rows;
        self.tail_rows += rows;
        let span = Span { record_first: record, record_last: record, time_min, time_max };
        let open = self.spans.entry(stream).or_insert(span);
        open.record_last = record;
        open.time_min = open.time_min.min(time_min);
        open.time_max = open.time_max.max(time_max);
    }

    /// A record of any kind is in the inbox.
    pub fn note_record(&mut self) {
        self.tail_records += 1;
    }

    /// A result is in the outbox.
    pub fn note_result(&mut self, pipeline: &str) {
        self.results_dirty = true;
        match self.totals[1].get_mut(pipeline) {
            Some(total) => *total += 1,
            None => {
                self.totals[1].insert(pipeline.into(), 1);
            }
        }
    }

    /// Whether the tail has grown enough to be written.
    pub fn tail_is_long(&self) -> bool {
        self.tail_records >= TAIL_RECORDS || self.tail_rows >= TAIL_ROWS
    }

    /// Writes what the next start would otherwise fold again.
    pub fn write_tail(&mut self, connection: &Connection) -> Result<(), StoreError> {
        for (stream, span) in std::mem::take(&mut self.spans) {
            let times = (span.time_min, span.time_max);
            connection.prepare_cached("INSERT OR REPLACE INTO spans VALUES (?1, ?2, ?3, ?4, ?5)")?.execute((
                stream,
                span.record_first as i64,
                span.record_last as i64,
                times.0,
                times.1,
            ))?;
        }
        for (key, device) in self.duplicates.take_changes() {
            match device {
                Some(state) => {
                    connection.prepare_cached("INSERT OR REPLACE INTO devices VALUES (?1, ?2)")?.execute((key, state))?
                }
                None => connection.prepare_cached("DELETE FROM devices WHERE key = ?1")?.execute([key])?,
            };
        }
        for (lane, totals) in self.totals.iter().enumerate() {
            for (name, total) in totals {
                connection.prepare_cached("INSERT OR REPLACE INTO totals VALUES (?1, ?2, ?3)")?.execute((
                    lane as i64,
                    &**name,
                    *total as i64,
                ))?;
            }
        }
        set_meta(connection, "tail_record", self.next_record as i64 - 1)?;
        set_meta(connection, "tail_result", self.next_result as i64 - 1)?;
        (self.tail_records, self.tail_rows, self.results_dirty) = (0, 0, false);
        Ok(())
    }

    /// Whether there is anything to write in the tail.
    pub fn tail_is_dirty(&self) -> bool {
        self.tail_records > 0 || self.results_dirty
    }

    /// What `only` has been given so far, in all.
    fn total(&self, lane: Lane, only: Option<&[Arc<str>]>) -> u64 {
        let totals = &self.totals[lane.number() as usize];
        match only {
            None => totals.values().sum(),
            Some(names) => names.iter().filter_map(|name| totals.get(name)).sum(),
        }
    }

    /// A sink follows a lane; its place.
    pub fn subscribe(&mut self, connection: &Connection, wish: &Subscription, oldest: Seq) -> Result<Seq, StoreError> {
        let mut only = wish.only.clone();
        if let Some(names) = &mut only {
            names.sort();
            names.dedup();
        }
        let total = self.total(wish.lane, only.as_deref()) as i64;
        let next = match wish.lane {
            Lane::Rows => self.next_seq,
            Lane::Results => self.next_result,
        };
        let key = (Arc::clone(&wish.sink), wish.lane);
        let cursor = match self.cursors.get(&key) {
            Some(known) if known.only == only => known.clone(),
            // What it wants changed: what is still to come is counted again.
            Some(known) => {
                let kept = count_after(connection, wish.lane, known.seq.0, only.as_deref())?;
                let accepted = (known.delivered + known.expired + kept) as i64;
                CursorState { only, base: total - accepted, ..known.clone() }
            }
            None if wish.start == StartAt::Next => new_cursor(next - 1, only, total),
            None => {
                let start = oldest.0.saturating_sub(1);
                let kept = count_after(connection, wish.lane, start, only.as_deref())?;
                new_cursor(start, only, total - kept as i64)
            }
        };
        let seq = cursor.seq;
        self.cursors.insert(key, cursor);
        self.write_cursor(connection, &wish.sink, wish.lane)?;
        Ok(seq)
    }

    fn accepted(&self, lane: Lane, cursor: &CursorState) -> u64 {
        (self.total(lane, cursor.only.as_deref()) as i64 - cursor.base).max(0) as u64
    }

    /// A sink confirmed something.
    pub fn advance(&mut self, connection: &Connection, go: &CursorMove) -> Result<(), StoreError> {
        let next = match go.lane {
            Lane::Rows => self.next_seq,
            Lane::Results => self.next_result,
        };
        let Some(cursor) = self.cursors.get_mut(&(Arc::clone(&go.sink), go.lane)) else {
            return Err(StoreError::Refused(format!("sink `{}` moves a cursor without having subscribed", go.sink)));
        };
        if go.through.0 >= next {
            return Err(StoreError::Refused(format!("sink `{}` confirms number {} before it is given", go.sink, go.through.0)));
        }
        cursor.advance(go);
        self.write_cursor(connection, &go.sink, go.lane)
    }

    fn write_cursor(&self, connection: &Connection, sink: &Arc<str>, lane: Lane) -> Result<(), StoreError> {
        let Some(cursor) = self.cursors.get(&(Arc::clone(sink), lane)) else { return Ok(()) };
        let only = cursor.only.as_ref().map(serde_json::to_string).transpose();
        let only = only.map_err(|error| StoreError::Refused(format!("the names of sink `{sink}`: {error}")))?;
        connection.prepare_cached("INSERT OR REPLACE INTO cursors VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?.execute((
            &**sink,
            lane.number(),
            cursor.seq.0 as i64,
            only,
            cursor.base,
            cursor.delivered as i64,
            cursor.expired as i64,
        ))?;
        Ok(())
    }

    /// A sink is no longer configured.
    pub fn drop_sink(&mut self, connection: &Connection, sink: &Arc<str>) -> Result<(), StoreError> {
        self.cursors.retain(|(name, _), _| name != sink);
        connection.prepare_cached("DELETE FROM cursors WHERE sink = ?1")?.execute([&**sink])?;
        Ok(())
    }

    /// `count` things named `name` with numbers `first..=last` are about to be removed; `true` if a cursor had not passed them.
    pub fn expire(&mut self, lane: Lane, name: Option<&str>, (first, last): (u64, u64), count: u64) -> bool {
        let mut undelivered = false;
        for ((_, on), cursor) in &mut self.cursors {
            if *on == lane && cursor.seq.0 < last && cursor.wants(name) {
                cursor.expire(first, last, count);
                undelivered = true;
            }
        }
        undelivered
    }

    /// Keeps the counts of what expired.
    pub fn write_cursors(&self, connection: &Connection, lane: Lane) -> Result<(), StoreError> {
        self.cursors.keys().filter(|key| key.1 == lane).try_for_each(|key| self.write_cursor(connection, &key.0, lane))
    }

    /// The lowest number that every sink of `lane` has confirmed; `None` without sinks.
    pub fn confirmed(&self, lane: Lane) -> Option<Seq> {
        self.cursors.iter().filter(|(key, _)| key.1 == lane).map(|(_, cursor)| cursor.seq).min()
    }

    /// The balance of every sink.
    pub fn balances(&self) -> Vec<Balance> {
        let balance = |((sink, lane), cursor): (&(Arc<str>, Lane), &CursorState)| {
            let accepted = self.accepted(*lane, cursor);
            Balance {
                sink: Arc::clone(sink),
                lane: *lane,
                seq: cursor.seq,
                accepted,
                delivered: cursor.delivered,
                expired: cursor.expired,
                buffered: accepted.saturating_sub(cursor.delivered + cursor.expired),
            }
        };
        self.cursors.iter().map(balance).collect()
    }

    /// The same, each with the streams or pipelines that the sink gets.
    pub fn balances_and_names(&self) -> impl Iterator<Item = (Balance, Option<Vec<Arc<str>>>)> + '_ {
        self.balances().into_iter().zip(self.cursors.values().map(|cursor| cursor.only.clone()))
    }

    /// What an append without rows is answered with.
    pub fn nothing_accepted(&self) -> Accepted {
        Accepted { first_seq: Seq(self.next_seq), rows: 0, duplicates: 0, waiting: 0, record: RecordNo(self.next_record - 1) }
    }
}

/// The balance of one sink in one lane: accepted = delivered + buffered + expired.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Balance {
    /// The configured sink.
    pub sink: Arc<str>,
    /// Rows or results.
    pub lane: Lane,
    /// The last number it confirmed.
    pub seq: Seq,
    /// Given to it since it subscribed.
    pub accepted: u64,
    /// Confirmed by it.
    pub delivered: u64,
    /// Removed before it was confirmed.
    pub expired: u64,
    /// Still to come.
    pub buffered: u64,
}

fn new_cursor(seq: u64, only: Option<Vec<Arc<str>>>, base: i64) -> CursorState {
    CursorState { seq: Seq(seq), only, base, delivered: 0, expired: 0, removed: VecDeque::new() }
}

fn unknown_lane() -> StoreError {
    StoreError::Corrupt("a lane has an unknown number".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(from: u64, through: u64, delivered: u64) -> CursorMove {
        CursorMove { sink: "s".into(), lane: Lane::Rows, from: Seq(from), through: Seq(through), delivered }
    }

    #[test]
    fn what_expired_stays_expired_when_the_cursor_jumps_over_it() {
        let mut cursor = new_cursor(100, None, 0);
        cursor.expire(51, 150, 100);
        assert_eq!(cursor.expired, 50);
        cursor.expire(151, 200, 50);
        cursor.advance(&moved(201, 300, 100));
        assert_eq!((cursor.seq, cursor.expired, cursor.delivered), (Seq(300), 100, 100));
    }

    #[test]
    fn what_is_confirmed_after_it_was_removed_has_not_expired() {
        let mut cursor = new_cursor(100, None, 0);
        cursor.expire(101, 200, 100);
        cursor.expire(201, 300, 100);
        cursor.advance(&moved(101, 250, 150));
        assert_eq!((cursor.expired, cursor.delivered), (50, 150));
        cursor.advance(&moved(301, 310, 10));
        assert_eq!((cursor.expired, cursor.delivered), (50, 160));
    }

    #[test]
    fn a_cursor_never_moves_back() {
        let mut cursor = new_cursor(100, None, 0);
        cursor.advance(&moved(90, 95, 6));
        assert_eq!((cursor.seq, cursor.delivered), (Seq(100), 0));
    }
}

//! Removes the oldest records and results when they are too old or the budget is used up; counts what some sink still needed.
//!
//! A sweep is a transaction of its own over a few hundred records, so that it never makes an append wait long. It never takes the
//! newest record and result (their numbers are where the next ones continue) nor what the engine's checkpoint does not cover yet.

use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::clocks::Reading;
use super::command::Lane;
use super::error::StoreError;
use super::retention::{AgeClock, Budget, Place, Step, WhenFull};
use super::schema::{meta, set_meta};
use super::state::State;
use super::tables::{self, record_after};

/// In what is said of a store without room.
pub const NOTHING_TO_REMOVE: &str = "bytes are in use and nothing may be removed";
/// Records in one transaction.
const CHUNK: i64 = 512;
/// Results and dead letters in one transaction.
const CHUNK_RESULTS: i64 = 4_096;
/// Of the budget, what dead letters may take: one part in this many.
const DEAD_LETTER_SHARE: u64 = 20;
/// What a dead letter takes beside its raw bytes, about.
const LETTER_OVERHEAD_BYTES: u64 = 200;
/// How long the sweeps between two commits may take together.
const SWEEP_TIME_MAX: Duration = Duration::from_millis(20);
/// How often ages are looked at.
const AGE_INTERVAL: Duration = Duration::from_secs(1);
/// What is needed is looked at as often as ages, and whenever one part in this many of the budget was written.
const LOOK_SHARE: u64 = 64;
/// How often spans of time without records are dropped.
const SPAN_INTERVAL: Duration = Duration::from_mins(1);

/// What one round of sweeping did.
#[derive(Debug, Default, Clone, Copy)]
pub struct Swept {
    /// Rows removed because they were too old.
    pub rows_by_age: u64,
    /// Rows removed because there was no room.
    pub rows_for_room: u64,
    /// Bytes in use afterwards.
    pub bytes_used: u64,
    /// Bytes of the file.
    pub bytes_file: u64,
}

/// Why something is removed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    Age { wall_ns: i64 },
    Room,
}

/// Keeps the store within its budget.
pub struct Sweeper {
    budget: Budget,
    bytes_max: u64,
    age_ns_max: i64,
    when_full: WhenFull,
    clock: AgeClock,
    /// A step that no committed transaction holds yet.
    step: Option<Step>,
    looked_at_age: Option<Instant>,
    looked_at_spans: Instant,
    full: bool,
    used: u64,
    /// What the dead letters take; `None` = to be added up.
    letter_bytes: Option<u64>,
    rate: Rate,
    autonomy_seconds: Option<f64>,
    /// When it was last looked at what is needed.
    used_at_look: u64,
    needed: u64,
    holds_sources: bool,
}

/// Bytes a second, smoothed over about a minute.
struct Rate {
    since: Instant,
    bytes: u64,
    per_second: Option<f64>,
}

impl Rate {
    fn look(&mut self, now: Instant) {
        let seconds = (now - self.since).as_secs_f64();
        if seconds < 1.0 {
            return;
        }
        let current = self.bytes as f64 / seconds;
        let weight = 1.0 - (-seconds / 60.0).exp();
        self.per_second = Some(self.per_second.map_or(current, |smooth| smooth + weight * (current - smooth)));
        (self.since, self.bytes) = (now, 0);
    }
}

impl Sweeper {
    /// Keeps a store within `bytes_max` (file and log) and `age_ns_max`.
    ///
    /// # Errors
    /// As the disk's.
    pub fn new(connection: &Connection, bytes_max: u64, age_ns_max: i64, when_full: WhenFull) -> Result<Self, StoreError> {
        let budget = Budget::new(bytes_max);
        let page: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
        let pages = (budget.file_bytes_max / page.max(512) as u64).clamp(64, u64::from(u32::MAX) - 1);
        connection.pragma_update_and_check(None, "max_page_count", pages as i64, |_| Ok(()))?;
        let now = Instant::now();
        Ok(Self {
            budget,
            bytes_max,
            age_ns_max,
            when_full,
            clock: AgeClock::load(connection)?,
            step: None,
            looked_at_age: None,
            looked_at_spans: now,
            full: false,
            used: 0,
            letter_bytes: None,
            rate: Rate { since: now, bytes: 0, per_second: None },
            autonomy_seconds: None,
            used_at_look: 0,
            needed: 0,
            holds_sources: false,
        })
    }

    /// The whole budget.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Why appends must be refused, if they must.
    pub fn full(&self) -> Option<String> {
        self.full.then(|| {
            format!(
                "{} of {} {NOTHING_TO_REMOVE}: bring the sinks back, raise max_bytes, or choose shed_oldest",
                self.used, self.bytes_max
            )
        })
    }

    /// How long until only what some sink still needs is left, at the present rate.
    pub fn autonomy_seconds(&self) -> Option<f64> {
        self.autonomy_seconds
    }

    /// Bytes that some sink still needs.
    pub fn bytes_needed(&self) -> u64 {
        self.needed
    }

    /// Whether sources that can wait shall: what comes next would cost rows that nobody has fetched.
    pub fn holds_sources(&self) -> bool {
        self.holds_sources
    }

    /// `bytes` were written.
    pub fn note_written(&mut self, bytes: u64) {
        self.rate.bytes += bytes;
    }

    /// A dead letter with so many raw bytes is written.
    pub fn note_letter(&mut self, raw_bytes: usize) {
        self.letter_bytes = self.letter_bytes.map(|bytes| bytes + raw_bytes as u64 + LETTER_OVERHEAD_BYTES);
    }

    /// Dead letters were removed, or not written after all.
    pub fn forget_letters(&mut self) {
        self.letter_bytes = None;
    }

    /// Compares the clocks; a step to keep, if there was one that is not kept yet.
    pub fn look_at_clocks(&mut self, state: &State, now: &Reading) -> Option<Step> {
        let next = Place { record: state.next_record, result: state.next_result, letter: state.next_dead_letter };
        let step = self.clock.look(now.wall_ns, now.monotonic_ns, state.arrival_last, next);
        self.step = step.or(self.step);
        self.step
    }

    /// The transaction with the step was committed.
    pub fn clocks_are_kept(&mut self) {
        self.step = None;
    }

    /// Removes what has to go, within [`SWEEP_TIME_MAX`].
    ///
    /// # Errors
    /// Those of the transaction that failed; the caller rolls back.
    pub fn sweep(&mut self, connection: &Connection, state: &mut State, wall_ns: i64) -> Result<Swept, StoreError> {
        let (now, mut swept) = (Instant::now(), Swept::default());
        if self.looked_at_age.is_none_or(|at| now - at >= AGE_INTERVAL) {
            self.looked_at_age = Some(now);
            while now.elapsed() < SWEEP_TIME_MAX && self.remove(connection, state, Why::Age { wall_ns }, &mut swept)? {}
            self.trim_dead_letters(connection, wall_ns)?;
            self.rate.look(now);
        }
        let used = tables::bytes(connection)?.0;
        if self.looked_at_age == Some(now) || used > self.used_at_look + self.budget.file_bytes_max / LOOK_SHARE {
            self.used_at_look = used;
            self.look_at_needs(connection, state, used)?;
        }
        if now - self.looked_at_spans >= SPAN_INTERVAL {
            self.looked_at_spans = now;
            self.drop_spans(connection)?;
        }
        (self.used, swept.bytes_file) = tables::bytes(connection)?;
        while self.used > self.budget.remove_above && now.elapsed() < SWEEP_TIME_MAX {
            if !self.remove(connection, state, Why::Room, &mut swept)? {
                break;
            }
            self.used = tables::bytes(connection)?.0;
        }
        self.full = self.used > self.budget.refuse_above;
        swept.bytes_used = self.used;
        Ok(swept)
    }

    /// Removes one chunk; `false` if nothing may go.
    fn remove(&self, connection: &Connection, state: &mut State, why: Why, swept: &mut Swept) -> Result<bool, StoreError> {
        if !self.may_remove(connection, why)? {
            return Ok(false);
        }
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        if state.tail_is_dirty() {
            state.write_tail(connection)?;
        }
        let (records, arrival) = self.remove_records(connection, state, why, swept)?;
        let results = self.remove_results(connection, state, why, arrival)?;
        connection.prepare_cached("COMMIT")?.execute([])?;
        Ok(records + results > 0)
    }

    /// A look without a transaction, which is what nearly every round is.
    fn may_remove(&self, connection: &Connection, why: Why) -> Result<bool, StoreError> {
        let Why::Age { wall_ns } = why else { return Ok(true) };
        for (lane, text) in [
            (Lane::Rows, "SELECT record, arrival FROM inbox ORDER BY record LIMIT 1"),
            (Lane::Results, "SELECT seq, arrival FROM outbox ORDER BY seq LIMIT 1"),
        ] {
            let mut statement = connection.prepare_cached(text)?;
            let mut rows = statement.query([])?;
            if let Some(row) = rows.next()? {
                let (number, arrival) = (row.get::<_, i64>(0)? as u64, row.get(1)?);
                let age = match lane {
                    Lane::Rows => self.clock.record_age(number, arrival, wall_ns),
                    Lane::Results => self.clock.result_age(number, arrival, wall_ns),
                };
                if age > self.age_ns_max {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// The last record that may go, for this reason.
    fn record_limit(&self, connection: &Connection, state: &State, why: Why) -> Result<i64, StoreError> {
        let mut limit = state.next_record as i64 - 2;
        if state.checkpoint > 0 {
            limit = limit.min(state.checkpoint as i64);
        }
        if why == Why::Room
            && self.when_full == WhenFull::ShedNewest
            && let Some(confirmed) = state.confirmed(Lane::Rows)
            && let Some(needed) = record_after(connection, confirmed.0)?
        {
            limit = limit.min(needed - 1);
        }
        Ok(limit)
    }

    /// Removes the oldest records; how many, and when the last of them arrived.
    fn remove_records(
        &self,
        connection: &Connection,
        state: &mut State,
        why: Why,
        swept: &mut Swept,
    ) -> Result<(usize, i64), StoreError> {
        let limit = self.record_limit(connection, state, why)?;
        let mut last = None;
        let mut undelivered = false;
        {
            let text = "SELECT i.record, i.seq, i.rows, i.arrival, s.id FROM inbox i LEFT JOIN streams s ON s.number = i.stream \
                        WHERE i.record <= ?1 ORDER BY i.record LIMIT ?2";
            let mut statement = connection.prepare_cached(text)?;
            let mut rows = statement.query((limit, CHUNK))?;
            while let Some(row) = rows.next()? {
                let (record, seq, count): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
                let arrival: i64 = row.get(3)?;
                if let Why::Age { wall_ns } = why
                    && self.clock.record_age(record as u64, arrival, wall_ns) <= self.age_ns_max
                {
                    break;
                }
                if count > 0 {
                    let name = row.get_ref(4)?.as_str_or_null()?;
                    let numbers = (seq as u64, (seq + count - 1) as u64);
                    undelivered |= state.expire(Lane::Rows, name, numbers, count as u64);
                    *if why == Why::Room { &mut swept.rows_for_room } else { &mut swept.rows_by_age } += count as u64;
                }
                last = Some((record, arrival, seq + count));
            }
        }
        let Some((record, arrival, next_seq)) = last else { return Ok((0, i64::MAX)) };
        if undelivered {
            state.write_cursors(connection, Lane::Rows)?;
        }
        let removed = connection.prepare_cached("DELETE FROM inbox WHERE record <= ?1")?.execute([record])?;
        set_meta(connection, "first_record", record + 1)?;
        set_meta(connection, "first_seq", next_seq)?;
        Ok((removed, arrival))
    }

    /// Removes results as old as the records that went, or the oldest ones if no record may go.
    fn remove_results(&self, connection: &Connection, state: &mut State, why: Why, arrival_max: i64) -> Result<usize, StoreError> {
        let mut limit = state.next_result as i64 - 2;
        if why == Why::Room
            && self.when_full == WhenFull::ShedNewest
            && let Some(confirmed) = state.confirmed(Lane::Results)
        {
            limit = limit.min(confirmed.0 as i64);
        }
        let (mut last, mut undelivered) = (None, false);
        {
            let text = "SELECT seq, pipeline, arrival FROM outbox WHERE seq <= ?1 ORDER BY seq LIMIT ?2";
            let mut statement = connection.prepare_cached(text)?;
            let mut rows = statement.query((limit, CHUNK_RESULTS))?;
            while let Some(row) = rows.next()? {
                let (seq, arrival): (i64, i64) = (row.get(0)?, row.get(2)?);
                let too_young = match why {
                    Why::Age { wall_ns } => self.clock.result_age(seq as u64, arrival, wall_ns) <= self.age_ns_max,
                    Why::Room => arrival > arrival_max,
                };
                if too_young {
                    break;
                }
                undelivered |= state.expire(Lane::Results, Some(row.get_ref(1)?.as_str()?), (seq as u64, seq as u64), 1);
                last = Some(seq);
            }
        }
        let Some(last) = last else { return Ok(0) };
        if undelivered {
            state.write_cursors(connection, Lane::Results)?;
        }
        set_meta(connection, "first_result", last + 1)?;
        Ok(connection.prepare_cached("DELETE FROM outbox WHERE seq <= ?1")?.execute([last])?)
    }

    /// Keeps dead letters within their age and their share of the budget.
    fn trim_dead_letters(&mut self, connection: &Connection, wall_ns: i64) -> Result<(), StoreError> {
        let share = self.budget.file_bytes_max / DEAD_LETTER_SHARE;
        let bytes = self.letter_bytes.map_or_else(|| letter_bytes(connection), Ok)?;
        self.letter_bytes = Some(bytes);
        if bytes > share {
            // A little more than has to go, so that the next letters find room without another look at all of them.
            let text = "SELECT max(number) FROM (SELECT number, sum(length(raw) + ?2) OVER (ORDER BY number DESC) AS bytes \
                        FROM dead_letters) WHERE bytes > ?1";
            let bounds = ((share - share / 8) as i64, LETTER_OVERHEAD_BYTES as i64);
            let crowded: Option<i64> = connection.prepare_cached(text)?.query_row(bounds, |row| row.get(0))?;
            if let Some(number) = crowded {
                connection.prepare_cached("DELETE FROM dead_letters WHERE number <= ?1")?.execute([number])?;
            }
            self.letter_bytes = None;
        }
        let mut last = None;
        {
            let text = "SELECT number, arrival FROM dead_letters WHERE number < (SELECT max(number) FROM dead_letters) \
                        ORDER BY number LIMIT ?1";
            let mut statement = connection.prepare_cached(text)?;
            let mut rows = statement.query([CHUNK_RESULTS])?;
            while let Some(row) = rows.next()? {
                let number: i64 = row.get(0)?;
                if self.clock.letter_age(number as u64, row.get(1)?, wall_ns) <= self.age_ns_max {
                    break;
                }
                last = Some(number);
            }
        }
        if let Some(number) = last {
            connection.prepare_cached("DELETE FROM dead_letters WHERE number <= ?1")?.execute([number])?;
            self.letter_bytes = None;
        }
        Ok(())
    }

    fn drop_spans(&mut self, connection: &Connection) -> Result<(), StoreError> {
        let oldest: Option<i64> = connection.query_row("SELECT min(record) FROM inbox", [], |row| row.get(0))?;
        if let Some(oldest) = oldest {
            connection.execute("DELETE FROM spans WHERE record_last < ?1", [oldest])?;
            let first = |text: &str| connection.query_row(text, [], |row| row.get::<_, Option<i64>>(0));
            let result = first("SELECT min(seq) FROM outbox")?.unwrap_or(i64::MAX) as u64;
            let letter = first("SELECT min(number) FROM dead_letters")?.unwrap_or(i64::MAX) as u64;
            self.clock.forget_before(connection, Place { record: oldest as u64, result, letter })?;
        }
        Ok(())
    }

    /// How much some sink still needs, and how long the rest of the budget lasts: what every sink has confirmed counts as room.
    fn look_at_needs(&mut self, connection: &Connection, state: &State, used: u64) -> Result<(), StoreError> {
        let needed = used as f64 * Self::share_needed(connection, state)?;
        self.needed = needed as u64;
        let bound = if self.holds_sources { self.budget.release_below } else { self.budget.hold_above };
        self.holds_sources = self.needed > bound;
        let rate = self.rate.per_second.filter(|rate| *rate > 0.0);
        self.autonomy_seconds = rate.map(|rate| (self.budget.refuse_above as f64 - needed).max(0.0) / rate);
        Ok(())
    }

    /// Of all records, those that some sink has not confirmed.
    fn share_needed(connection: &Connection, state: &State) -> Result<f64, StoreError> {
        let tail = meta(connection, "tail_record")?;
        let bounds: (Option<i64>, Option<i64>) =
            connection.query_row("SELECT (SELECT min(record) FROM inbox), (SELECT max(record) FROM inbox)", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        let (Some(first), Some(last)) = bounds else { return Ok(0.0) };
        let needed = match state.confirmed(Lane::Rows) {
            Some(confirmed) => record_after(connection, confirmed.0)?.unwrap_or(last + 1),
            None => last.min(tail) + 1,
        };
        let share = (last + 1 - needed.max(first)) as f64 / (last + 1 - first).max(1) as f64;
        Ok(share.clamp(0.0, 1.0))
    }
}

/// What all dead letters take; looks at each.
fn letter_bytes(connection: &Connection) -> Result<u64, StoreError> {
    let text = "SELECT coalesce(sum(length(raw) + ?1), 0) FROM dead_letters";
    let bytes: i64 = connection.prepare_cached(text)?.query_row([LETTER_OVERHEAD_BYTES as i64], |row| row.get(0))?;
    Ok(bytes.max(0) as u64)
}

//! Rows that were stamped before the clock was set: they wait in the store until it is, and then get their true time.
//!
//! A machine without a battery for its clock boots in 1970 and is told the time seconds or minutes later. Rows of streams with
//! `missing = "arrival"` have no time but that clock's. They are synced and acknowledged like all others, but into a room of
//! their own; once the clock is set they go into the inbox, in the order in which they came, moved by exactly as much as the wall clock
//! was. So the engine, the sinks, a replay and every question about the past see the true time only, and each row once.
//!
//! ```text
//! clock unset:   row ──▶ room (stamp, wall − monotonic)                      a clock before 2025 has not been set
//! clock set:     room ──▶ inbox: arrival and stamped times + (wall − monotonic now) − (wall − monotonic then), flag `rebased`
//! ```
//! - Rows of such a stream that come while the room is not empty queue behind, so that the order stays.
//! - What the device stamped itself is not moved, only when it arrived; streams whose rows must have a time never wait.
//! - The monotonic clock counts from the boot: an appliance that was killed and started again still knows the difference. After another
//!   boot nobody does; such rows keep their stamps, with the flag `clock_unset`.
//! - A clock that is not set within [`WAIT_NS_MAX`] of the start holds up nothing any more: what waits and what comes from then on keeps
//!   its stamp, flagged `clock_unset`, and is not moved later.
//! - A clock that is wrong but plausible (a day off) cannot be told from a right one: rows from before such a step keep their time.
//!
//! The room is the keys `waiting/NUMBER` of the table `state`: text boot, signed wall − monotonic (ns), 0|1 = stamped by an unset
//! clock, the batch as in encoding.rs, CRC-32 of everything before.

use std::sync::Arc;

use rusqlite::Connection;

use super::clocks::{Clocks, Reading};
use super::duplicates::Duplicates;
use super::encoding::{Decoder, encode_batch};
use super::error::StoreError;
use super::wire::{Cursor, DecodeError, put_signed, put_text};
use crate::model::{Batch, Flags, Input, MissingTime, Seq, Timestamp};

/// How long after the start rows wait for the clock: longer than a network and a time server take to come up.
pub const WAIT_NS_MAX: i64 = 600_000_000_000;
/// Rows that leave the room in one transaction, bytes: that of a large commit.
const LEAVE_BYTES_MAX: usize = 4 << 20;
/// Where the keys begin, and what comes after all of them.
const KEYS: (&str, &str) = ("waiting/", "waiting0");

/// One batch in the room.
struct Held {
    boot: Arc<str>,
    /// Wall minus monotonic when it came.
    offset_ns: i64,
    /// Stamped by a clock that was not set; others only queue behind.
    unset: bool,
    batch: Batch,
}

/// The room, seen by the writer's thread.
#[derive(Debug)]
pub struct Waiting {
    clocks: Clocks,
    /// The latest look.
    now: Reading,
    opened_ns: i64,
    /// Wall minus monotonic while the clock was not set, if it was seen like that.
    unset_offset_ns: Option<i64>,
    next: u64,
    batches: u64,
    rows: u64,
}

/// What left the room.
pub enum Left {
    /// Rows with the best time that is known.
    Rows(Arc<Batch>),
    /// What the disk has changed: the bytes, and what is wrong with them.
    Damaged(Vec<u8>, DecodeError),
}

impl Waiting {
    /// Nothing is known to wait; see [`Self::load`].
    pub fn new(clocks: Clocks) -> Self {
        let now = clocks.read();
        let opened_ns = now.monotonic_ns;
        let mut waiting = Self { clocks, now, opened_ns, unset_offset_ns: None, next: 1, batches: 0, rows: 0 };
        waiting.look();
        waiting
    }

    /// Counts what waits, and makes its numbers known to `duplicates`.
    ///
    /// # Errors
    /// Those of the disk. What is damaged is found when it leaves.
    pub fn load(&mut self, connection: &Connection, duplicates: &mut Duplicates) -> Result<(), StoreError> {
        (self.next, self.batches, self.rows) = (1, 0, 0);
        let mut statement = connection.prepare_cached("SELECT key, value FROM state WHERE key >= ?1 AND key < ?2 ORDER BY key")?;
        let mut entries = statement.query(KEYS)?;
        let mut decoder = Decoder::default();
        while let Some(entry) = entries.next()? {
            self.next = self.next.max(number(entry.get_ref(0)?.as_str()?) + 1);
            self.batches += 1;
            if let Ok(held) = decode(entry.get_ref(1)?.as_blob()?, &mut decoder) {
                self.rows += held.batch.rows() as u64;
                duplicates.admit(&held.batch);
            }
        }
        Ok(())
    }

    /// Reads the clocks.
    pub fn look(&mut self) -> &Reading {
        self.now = self.clocks.read();
        if !self.is_set() {
            self.unset_offset_ns = Some(self.now.offset_ns());
        }
        &self.now
    }

    fn is_set(&self) -> bool {
        Timestamp(self.now.wall_ns) >= Timestamp::CLOCK_SET_FROM
    }

    /// Whether nobody waits for the clock any more.
    fn is_over(&self) -> bool {
        self.now.monotonic_ns.saturating_sub(self.opened_ns) >= WAIT_NS_MAX
    }

    /// The wall clock, as of now.
    pub fn wall_ns(&self) -> i64 {
        self.clocks.read().wall_ns
    }

    /// How many rows wait.
    pub const fn rows(&self) -> u64 {
        self.rows
    }

    /// Whether something may leave.
    pub fn is_due(&self) -> bool {
        self.batches > 0 && (self.is_set() || self.is_over())
    }

    /// Whether `batch` has to wait.
    pub fn takes(&self, batch: &Batch) -> bool {
        if batch.stream.time_missing != MissingTime::Arrival {
            return false;
        }
        self.batches > 0 || (batch.arrival < Timestamp::CLOCK_SET_FROM && !self.is_set() && !self.is_over())
    }

    /// By how much a stamp has to be moved that was made just before the clock was set, and comes after.
    pub fn overtaken_by_ns(&self, stamp: Timestamp) -> Option<i64> {
        let unset = self.unset_offset_ns.filter(|_| self.is_set() && stamp < Timestamp::CLOCK_SET_FROM)?;
        Some(self.now.offset_ns().saturating_sub(unset))
    }

    /// Takes `batch` in; `blob` is what it is encoded as, if it is already.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn put(&mut self, connection: &Connection, batch: &Batch, blob: Option<&[u8]>) -> Result<(), StoreError> {
        let unset_offset_ns = self.unset_offset_ns.filter(|_| batch.arrival < Timestamp::CLOCK_SET_FROM);
        let encoded;
        let body = match blob {
            Some(blob) => blob,
            None => {
                encoded = encode_batch(batch);
                &encoded
            }
        };
        let mut value = Vec::with_capacity(body.len() + 64);
        put_text(&mut value, &self.now.boot);
        put_signed(&mut value, unset_offset_ns.unwrap_or_else(|| self.now.offset_ns()));
        value.push(u8::from(unset_offset_ns.is_some()));
        value.extend_from_slice(body);
        value.extend_from_slice(&crc32fast::hash(&value).to_le_bytes());
        connection.prepare_cached("INSERT INTO state VALUES (?1, ?2)")?.execute((key(self.next), value))?;
        self.next += 1;
        self.batches += 1;
        self.rows += batch.rows() as u64;
        Ok(())
    }

    /// Lets out as much as one transaction should hold, oldest first.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn leave(&mut self, connection: &Connection) -> Result<Vec<Left>, StoreError> {
        let (mut left, mut bytes, mut last) = (Vec::new(), 0, None);
        {
            let text = "SELECT key, value FROM state WHERE key >= ?1 AND key < ?2 ORDER BY key";
            let mut statement = connection.prepare_cached(text)?;
            let mut entries = statement.query(KEYS)?;
            let mut decoder = Decoder::default();
            while bytes < LEAVE_BYTES_MAX
                && let Some(entry) = entries.next()?
            {
                let value = entry.get_ref(1)?.as_blob()?;
                bytes += value.len();
                last = Some(entry.get::<_, String>(0)?);
                left.push(match decode(value, &mut decoder) {
                    Ok(held) => Left::Rows(Arc::new(self.rebased(held))),
                    Err(error) => Left::Damaged(value.to_owned(), error),
                });
            }
        }
        if let Some(last) = last {
            let text = "DELETE FROM state WHERE key >= ?1 AND key <= ?2";
            connection.prepare_cached(text)?.execute((KEYS.0, last))?;
        }
        self.batches -= left.len() as u64;
        let rows = left.iter().map(|left| if let Left::Rows(batch) = left { batch.rows() as u64 } else { 0 }).sum();
        self.rows = if self.batches == 0 { 0 } else { self.rows.saturating_sub(rows) };
        Ok(left)
    }

    /// With the times that its rows really had, if that can be known.
    fn rebased(&self, held: Held) -> Batch {
        let Held { boot, offset_ns, unset, mut batch } = held;
        if !unset {
            return batch;
        }
        match (self.is_set(), boot == self.now.boot) {
            (true, true) => rebase(&mut batch, self.now.offset_ns().saturating_sub(offset_ns)),
            (true, false) => {
                // It came before now; by its stamp it would be too old to be kept.
                batch.arrival = Timestamp(self.now.wall_ns);
                mark_unset(&mut batch);
            }
            (false, _) => mark_unset(&mut batch),
        }
        batch
    }
}

/// Moves what the appliance stamped.
pub fn rebase(batch: &mut Batch, step_ns: i64) {
    batch.arrival = batch.arrival.saturating_add(step_ns);
    for row in 0..batch.rows() {
        if batch.flags(row).has(Flags::ARRIVAL_TIME) {
            batch.time[row] = batch.time[row].saturating_add(step_ns);
            batch.set_flag(row, Flags::REBASED);
        }
    }
}

/// Says of the rows without a time of their own that nobody knows theirs.
pub fn mark_unset(batch: &mut Batch) {
    for row in 0..batch.rows() {
        if batch.flags(row).has(Flags::ARRIVAL_TIME) {
            batch.set_flag(row, Flags::CLOCK_UNSET);
        }
    }
}

/// Whether a row of `batch` has the time of a clock that was not set.
pub fn is_stamped_unset(batch: &Batch) -> bool {
    batch.arrival < Timestamp::CLOCK_SET_FROM
        && batch.flags.as_ref().is_some_and(|flags| flags.iter().any(|flags| flags.has(Flags::ARRIVAL_TIME)))
}

fn key(number: u64) -> String {
    format!("{}{number:020}", KEYS.0)
}

fn number(key: &str) -> u64 {
    key.strip_prefix(KEYS.0).and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn decode(value: &[u8], decoder: &mut Decoder) -> Result<Held, DecodeError> {
    let (body, checksum) = value.split_last_chunk().ok_or(DecodeError::Truncated)?;
    if u32::from_le_bytes(*checksum) != crc32fast::hash(body) {
        return Err(DecodeError::Checksum);
    }
    let mut cursor = Cursor(body);
    let (boot, offset_ns, unset) = (cursor.shared_text()?, cursor.signed()?, cursor.byte()? == 1);
    match decoder.decode(cursor.0, Seq(0))? {
        Input::Batch(batch) => Ok(Held { boot, offset_ns, unset, batch: Arc::unwrap_or_clone(batch) }),
        _ => Err(DecodeError::Invalid("what waits is no rows")),
    }
}

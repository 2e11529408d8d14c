//! Recorded rows of a stream between two event times, in order, in memory for what overlaps only.
//!
//! The inbox is in order of arrival, not of event time. `spans` says which records of a stream can hold a time at all; its 1,024-record
//! pieces are opened in order of their earliest time, then their batches, then their rows: each as late as its first row allows.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};

use super::encoding::Decoder;
use super::error::StoreError;
use super::reader::Reader;
use super::schema::meta;
use crate::model::{Batch, Input, Row, Seq, Timestamp};

/// A batch whose rows are being given.
struct Open {
    batch: Arc<Batch>,
    /// Places of the rows inside the interval, in order of time; the next one last.
    order: Vec<u32>,
}

/// A walk over recorded rows, by event time and then number; both ends are included.
pub struct History {
    stream: Option<i64>,
    from: i64,
    to: i64,
    /// (earliest time, first record, last record), the earliest last.
    spans: Vec<(i64, i64, i64)>,
    /// (earliest time, record)
    batches: BinaryHeap<Reverse<(i64, i64)>>,
    /// (time, number, record) of the next row of every open batch.
    rows: BinaryHeap<Reverse<(i64, u64, i64)>>,
    open: BTreeMap<i64, Open>,
}

impl Reader {
    /// The rows of `stream` from `from` to `to`.
    ///
    /// # Errors
    /// As the disk's.
    pub fn history(&self, stream: &str, from: Timestamp, to: Timestamp) -> Result<History, StoreError> {
        let connection = self.connection();
        let mut history = History {
            stream: None,
            from: from.0,
            to: to.0,
            spans: Vec::new(),
            batches: BinaryHeap::new(),
            rows: BinaryHeap::new(),
            open: BTreeMap::new(),
        };
        // Of one moment: a tail that is written in between would put its records into both lists, or into none.
        let moment = connection.unchecked_transaction()?;
        let number = connection.prepare_cached("SELECT number FROM streams WHERE id = ?1")?.query_row([stream], |row| row.get(0));
        history.stream = number.optional()?;
        if let Some(number) = history.stream {
            let text = "SELECT time_min, record_first, record_last FROM spans WHERE stream = ?1 AND time_max >= ?2 AND time_min <= ?3 \
                        ORDER BY time_min DESC, record_first DESC";
            let mut statement = connection.prepare_cached(text)?;
            let spans = statement.query_map((number, from.0, to.0), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            history.spans = spans.collect::<Result<_, _>>()?;
            history.expand(connection, meta(connection, "tail_record")? + 1, i64::MAX)?;
        }
        moment.finish()?;
        Ok(history)
    }
}

impl History {
    /// The next rows, up to `rows_max`; none at the end.
    ///
    /// # Errors
    /// As the disk's.
    pub fn next(&mut self, reader: &mut Reader, rows_max: usize) -> Result<Vec<Row>, StoreError> {
        let mut found = Vec::new();
        while found.len() < rows_max {
            let sure = self.open_until_sure(reader);
            reader.told(sure)?;
            let Some(Reverse((_, _, record))) = self.rows.pop() else { break };
            let Some(open) = self.open.get_mut(&record) else { break };
            found.extend(open.order.pop().map(|row| open.batch.row(row as usize)));
            self.queue(record);
        }
        Ok(found)
    }

    /// Opens whatever could hold a row before the next one.
    fn open_until_sure(&mut self, reader: &mut Reader) -> Result<(), StoreError> {
        loop {
            let next_row = self.rows.peek().map_or(i64::MAX, |row| row.0.0);
            let next_batch = self.batches.peek().map(|batch| batch.0.0);
            match self.spans.last() {
                Some(&(time, first, last)) if time <= next_row.min(next_batch.unwrap_or(i64::MAX)) => {
                    self.spans.pop();
                    self.expand(reader.connection(), first, last)?;
                }
                _ if next_batch.is_some_and(|time| time <= next_row) => {
                    if let Some(Reverse((_, record))) = self.batches.pop() {
                        let (connection, decoder) = reader.parts();
                        if !self.open_batch(connection, decoder, record)? {
                            reader.note_damaged(record);
                        }
                    }
                }
                _ => return Ok(()),
            }
        }
    }

    fn expand(&mut self, connection: &Connection, first: i64, last: i64) -> Result<(), StoreError> {
        let text = "SELECT time_min, record FROM inbox \
                    WHERE record BETWEEN ?1 AND ?2 AND stream = ?3 AND time_max >= ?4 AND time_min <= ?5";
        let mut statement = connection.prepare_cached(text)?;
        let mut found = statement.query((first, last, self.stream, self.from, self.to))?;
        while let Some(row) = found.next()? {
            self.batches.push(Reverse((row.get(0)?, row.get(1)?)));
        }
        Ok(())
    }

    /// Reads a batch; one that was removed has no rows. Whether it decodes.
    fn open_batch(&mut self, connection: &Connection, decoder: &mut Decoder, record: i64) -> Result<bool, StoreError> {
        let mut statement = connection.prepare_cached("SELECT seq, body FROM inbox WHERE record = ?1")?;
        let mut found = statement.query([record])?;
        let Some(row) = found.next()? else { return Ok(true) };
        let decoded = decoder.decode(row.get_ref(1)?.as_blob()?, Seq(row.get::<_, i64>(0)? as u64));
        let is_good = decoded.is_ok();
        if let Ok(Input::Batch(batch)) = decoded {
            let inside = |row: &u32| (self.from..=self.to).contains(&batch.time[*row as usize]);
            let mut order: Vec<u32> = (0..batch.rows() as u32).filter(inside).collect();
            order.sort_by_key(|row| Reverse((batch.time[*row as usize], *row)));
            self.open.insert(record, Open { batch, order });
            self.queue(record);
        }
        Ok(is_good)
    }

    /// Queues the next row of an open batch, or closes it.
    fn queue(&mut self, record: i64) {
        let next = self.open.get(&record).and_then(|open| {
            let row = *open.order.last()? as usize;
            Some(Reverse((open.batch.time[row], open.batch.first_seq.0 + row as u64, record)))
        });
        match next {
            Some(next) => self.rows.push(next),
            None => {
                self.open.remove(&record);
            }
        }
    }
}

//! Reading beside the writer: every call is one short read of bounded size, so that the log can be moved between two of them.
//!
//! A blob that does not decode is skipped, counted and named in [`Reader::damaged`]; what follows is read as usual.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row as Record};
use serde::Serialize;

use super::command::{Checkpoint, CommittedInput, DeadLetter, Lane, RecordNo};
use super::encoding::Decoder;
use super::error::StoreError;
use super::schema::{FILE_NAME, meta, open_reader};
use super::shared::Shared;
use super::state::{Balance, State};
use super::{checkpoint, tables};
use crate::model::{Batch, Input, Seq, Timestamp};

/// Records that one call looks at, however few rows they hold.
const RECORDS_MAX: i64 = 4_096;
/// Bytes of blobs or results that one call reads.
const BYTES_MAX: usize = 8 << 20;
/// Damaged records that are named; more are only counted.
const DAMAGED_MAX: usize = 1_000;

/// Records that cannot be read.
#[derive(Default)]
struct Damaged {
    records: BTreeSet<u64>,
    count: u64,
    shared: Option<Arc<Shared>>,
}

impl Damaged {
    fn note(&mut self, record: RecordNo) {
        if self.records.contains(&record.0) {
            return;
        }
        self.count += 1;
        if self.records.len() < DAMAGED_MAX {
            self.records.insert(record.0);
            if let Some(shared) = &self.shared {
                shared.damaged(record.0);
            }
        }
    }
}

/// Rows of the inbox after a place.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RowsPage {
    /// In order of the inbox, with their numbers; only the streams that were asked for.
    pub batches: Vec<Arc<Batch>>,
    /// Everything up to here was looked at: where the next page starts, and where a cursor may be put once the batches are delivered.
    pub through: Seq,
    /// Whether there was nothing more to look at.
    pub at_end: bool,
}

/// A result of the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredResult {
    /// Its number in the outbox.
    pub seq: Seq,
    /// Derived from the inputs.
    pub id: String,
    /// As in the result's `kind`.
    pub kind: String,
    /// The pipeline it comes from.
    pub pipeline: String,
    /// The stream it is about, if it is about one.
    pub stream: Option<String>,
    /// Event time.
    pub time: Timestamp,
    /// When it was committed.
    pub arrival: Timestamp,
    /// The result as JSON.
    pub json: Vec<u8>,
}

/// What is in the store.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Inventory {
    /// What makes row ids of this store its own.
    pub identity: u64,
    /// Records kept, first and last.
    pub records: u64,
    /// The first record that is kept; 0 = none.
    pub record_first: u64,
    /// The last record; 0 = none.
    pub record_last: u64,
    /// The number of the first row that is kept.
    pub seq_first: u64,
    /// The number of the row that comes next.
    pub seq_next: u64,
    /// Results kept.
    pub results: u64,
    /// The number of the result that comes next.
    pub result_next: u64,
    /// Dead letters kept.
    pub dead_letters: u64,
    /// The last record in the engine's checkpoint; 0 = none.
    pub checkpoint: u64,
    /// Bytes in use.
    pub bytes_used: u64,
    /// Bytes of the file, without its log.
    pub bytes_file: u64,
    /// Of every sink.
    pub sinks: Vec<Balance>,
    /// Reports of what was lost and set aside, oldest first.
    pub lost: Vec<serde_json::Value>,
}

/// A connection that only reads. Not shared between threads: each opens its own.
pub struct Reader {
    connection: Connection,
    directory: PathBuf,
    /// Of the store that is open in this process.
    shared: Option<Arc<Shared>>,
    decoder: Decoder,
    damaged: Damaged,
    /// Where the last page of rows ended: (number, the record after it).
    place: Option<(u64, i64)>,
}

impl Reader {
    /// Opens the store in `directory`, whether a writer has it open or not.
    ///
    /// # Errors
    /// If there is none, or it is not of this release.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        Self::open_file(directory, &directory.join(FILE_NAME))
    }

    pub(super) fn open_file(directory: &Path, file: &Path) -> Result<Self, StoreError> {
        if !file.exists() {
            return Err(StoreError::no_store(file));
        }
        Ok(Self {
            connection: open_reader(file)?,
            directory: directory.to_owned(),
            decoder: Decoder::default(),
            shared: None,
            damaged: Damaged::default(),
            place: None,
        })
    }

    /// Another one on the same store.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn another(&self) -> Result<Self, StoreError> {
        let another = Self::open(&self.directory)?;
        Ok(match &self.shared {
            Some(shared) => another.of(Arc::clone(shared)),
            None => another,
        })
    }

    /// Tells the store of this process of what cannot be read.
    pub(super) fn of(mut self, shared: Arc<Shared>) -> Self {
        self.damaged.shared = Some(Arc::clone(&shared));
        self.shared = Some(shared);
        self
    }

    /// Passes an outcome on; damage that no reader gets past ends the store.
    pub(super) fn told<T>(&self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        if let (Some(shared), Err(error)) = (&self.shared, &outcome) {
            shared.met(error);
        }
        outcome
    }

    /// What makes row ids of this store its own.
    ///
    /// # Errors
    /// As the disk's.
    pub fn identity(&self) -> Result<u64, StoreError> {
        Ok(meta(&self.connection, "identity")? as u64)
    }

    /// Inputs after `record`, at least one if there is any, then until `rows_max` rows.
    ///
    /// # Errors
    /// As the disk's.
    pub fn inputs_after(&mut self, record: RecordNo, rows_max: usize) -> Result<Vec<CommittedInput>, StoreError> {
        let (mut after, mut inputs) = (record, Vec::new());
        loop {
            let looked = self.inputs_page(after, rows_max, &mut inputs);
            let looked = self.told(looked)?;
            match looked {
                // Nothing but damage so far: what follows may be well.
                Some(last) if inputs.is_empty() => after = last,
                _ => return Ok(inputs),
            }
        }
    }

    /// One read; the last record that was looked at.
    fn inputs_page(
        &mut self,
        after: RecordNo,
        rows_max: usize,
        inputs: &mut Vec<CommittedInput>,
    ) -> Result<Option<RecordNo>, StoreError> {
        let text = "SELECT record, seq, rows, body FROM inbox WHERE record > ?1 ORDER BY record LIMIT ?2";
        let mut statement = self.connection.prepare_cached(text)?;
        let mut records = statement.query((after.0 as i64, RECORDS_MAX))?;
        let (mut rows, mut bytes, mut looked) = (0, 0, None);
        while rows < rows_max && bytes < BYTES_MAX {
            let Some(found) = records.next()? else { break };
            let (record, first_seq, count) = numbers(found)?;
            let body = found.get_ref(3)?.as_blob()?;
            rows += count as usize;
            bytes += body.len();
            looked = Some(record);
            match self.decoder.decode(body, first_seq) {
                Ok(input) => inputs.push(CommittedInput { record, first_seq, rows: count, input, decoded_at: None }),
                Err(_) => self.damaged.note(record),
            }
        }
        Ok(looked)
    }

    /// Rows after number `seq` of the streams in `only` (`None` = all), up to about `rows_max`.
    ///
    /// # Errors
    /// As the disk's.
    pub fn rows_after(&mut self, seq: Seq, rows_max: usize, only: Option<&[Arc<str>]>) -> Result<RowsPage, StoreError> {
        let page = self.rows_page(seq, rows_max, only);
        self.told(page)
    }

    fn rows_page(&mut self, seq: Seq, rows_max: usize, only: Option<&[Arc<str>]>) -> Result<RowsPage, StoreError> {
        let first = match self.place {
            Some((place, record)) if place == seq.0 => record,
            _ => match tables::record_after(&self.connection, seq.0)? {
                Some(record) => record,
                None => return Ok(RowsPage { batches: Vec::new(), through: seq, at_end: true }),
            },
        };
        let wanted = only.map(|only| self.numbers_of(only)).transpose()?;
        let mut page = RowsPage { batches: Vec::new(), through: seq, at_end: true };
        let mut next = first;
        {
            let text = "SELECT record, seq, rows, body, stream FROM inbox WHERE record >= ?1 ORDER BY record LIMIT ?2";
            let mut statement = self.connection.prepare_cached(text)?;
            let mut records = statement.query((first, RECORDS_MAX))?;
            let (mut rows, mut bytes, mut looked) = (0, 0, 0);
            while let Some(found) = records.next()? {
                if rows >= rows_max || bytes >= BYTES_MAX {
                    page.at_end = false;
                    break;
                }
                looked += 1;
                let (record, first_seq, count) = numbers(found)?;
                next = record.0 as i64 + 1;
                let last = (first_seq.0 + count).saturating_sub(1);
                if count == 0 || last <= seq.0 {
                    continue;
                }
                page.through = Seq(last);
                let stream: Option<i64> = found.get(4)?;
                if wanted.as_ref().is_some_and(|wanted| stream.is_none_or(|stream| !wanted.contains(&stream))) {
                    continue;
                }
                let body = found.get_ref(3)?.as_blob()?;
                bytes += body.len();
                rows += count as usize;
                match self.decoder.decode(body, first_seq) {
                    Ok(Input::Batch(batch)) => page.batches.push(after(batch, seq)),
                    Ok(_) => {}
                    Err(_) => self.damaged.note(record),
                }
            }
            page.at_end &= looked < RECORDS_MAX;
        }
        self.place = Some((page.through.0, next));
        Ok(page)
    }

    fn numbers_of(&self, streams: &[Arc<str>]) -> Result<BTreeSet<i64>, StoreError> {
        let mut statement = self.connection.prepare_cached("SELECT number FROM streams WHERE id = ?1")?;
        let mut numbers = BTreeSet::new();
        for stream in streams {
            numbers.extend(statement.query_row([&**stream], |row| row.get::<_, i64>(0)).optional()?);
        }
        Ok(numbers)
    }

    /// Results after number `seq`, up to `results_max`, of the pipelines in `only` (`None` = all); and up to where was looked.
    ///
    /// # Errors
    /// As the disk's.
    pub fn results_after(
        &self,
        seq: Seq,
        results_max: usize,
        only: Option<&[Arc<str>]>,
    ) -> Result<(Vec<StoredResult>, Seq), StoreError> {
        self.told(self.results_page(seq, results_max, only))
    }

    fn results_page(
        &self,
        seq: Seq,
        results_max: usize,
        only: Option<&[Arc<str>]>,
    ) -> Result<(Vec<StoredResult>, Seq), StoreError> {
        let text = "SELECT seq, id, kind, pipeline, stream, time, arrival, body FROM outbox WHERE seq > ?1 ORDER BY seq LIMIT ?2";
        let mut statement = self.connection.prepare_cached(text)?;
        let mut found = statement.query((seq.0 as i64, RECORDS_MAX))?;
        let (mut results, mut through, mut bytes) = (Vec::new(), seq, 0);
        while results.len() < results_max && bytes < BYTES_MAX {
            let Some(row) = found.next()? else { break };
            through = Seq(row.get::<_, i64>(0)? as u64);
            let pipeline = row.get_ref(3)?.as_str()?;
            if only.is_some_and(|only| !only.iter().any(|wanted| &**wanted == pipeline)) {
                continue;
            }
            let result = result(row)?;
            bytes += result.json.len();
            results.push(result);
        }
        Ok((results, through))
    }

    /// A result by its id.
    ///
    /// # Errors
    /// As the disk's.
    pub fn result(&self, id: &str) -> Result<Option<StoredResult>, StoreError> {
        let text = "SELECT seq, id, kind, pipeline, stream, time, arrival, body FROM outbox WHERE id = ?1";
        let mut statement = self.connection.prepare_cached(text)?;
        let mut found = statement.query([id])?;
        found.next()?.map(result).transpose()
    }

    /// Dead letters after `number`, with their numbers, up to `letters_max`.
    ///
    /// # Errors
    /// As the disk's.
    pub fn dead_letters(&self, number: u64, letters_max: usize) -> Result<Vec<(u64, DeadLetter)>, StoreError> {
        let text = "SELECT number, source, partition, stream, arrival, reason, detail, raw FROM dead_letters \
                    WHERE number > ?1 ORDER BY number LIMIT ?2";
        let mut statement = self.connection.prepare_cached(text)?;
        let mut found = statement.query((number as i64, letters_max as i64))?;
        let (mut letters, mut bytes) = (Vec::new(), 0);
        while bytes < BYTES_MAX {
            let Some(row) = found.next()? else { break };
            let raw: Vec<u8> = row.get(7)?;
            bytes += raw.len();
            let letter = DeadLetter {
                source: row.get::<_, String>(1)?.into(),
                partition: row.get::<_, String>(2)?.into(),
                stream: row.get::<_, Option<String>>(3)?.map(Into::into),
                arrival: Timestamp(row.get(4)?),
                reason: row.get(5)?,
                detail: row.get(6)?,
                raw,
            };
            letters.push((row.get::<_, i64>(0)? as u64, letter));
        }
        Ok(letters)
    }

    /// The engine's latest checkpoint, with all its parts.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if a part is damaged.
    pub fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        self.connection.execute_batch("BEGIN")?;
        let found = checkpoint::read(&self.connection);
        self.connection.execute_batch("COMMIT")?;
        found
    }

    /// The checkpoint's parts whose names begin with `prefix`, which ends with `/`, by name; those that it is read without too.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if a part is damaged.
    pub fn parts_under(&self, prefix: &str, part: impl FnMut(String, &[u8])) -> Result<(), StoreError> {
        checkpoint::read_under(&self.connection, prefix, part)
    }

    /// Values kept under keys that start with `prefix`, in order of their keys, up to `values_max`.
    ///
    /// # Errors
    /// As the disk's.
    pub fn state(&self, prefix: &str, values_max: usize) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let mut statement = self.connection.prepare_cached("SELECT key, value FROM state WHERE key >= ?1 ORDER BY key LIMIT ?2")?;
        let mut found = statement.query((prefix, values_max as i64))?;
        let mut values = Vec::new();
        while let Some(row) = found.next()? {
            let key: String = row.get(0)?;
            if !key.starts_with(prefix) {
                break;
            }
            values.push((key, row.get(1)?));
        }
        Ok(values)
    }

    /// How many rows or results of `only` come after `seq`: what a sink's balance must agree with.
    ///
    /// # Errors
    /// As the disk's.
    pub fn count_after(&self, lane: Lane, seq: Seq, only: Option<&[Arc<str>]>) -> Result<u64, StoreError> {
        tables::count_after(&self.connection, lane, seq.0, only)
    }

    /// How many rows or results of `only` come after `after` up to `through`, and the number of the oldest that is kept, all of one moment:
    /// neither what is appended nor what is removed meanwhile changes the count.
    ///
    /// # Errors
    /// As the disk's.
    pub fn count_between(
        &self,
        lane: Lane,
        after: Seq,
        through: Seq,
        only: Option<&[Arc<str>]>,
    ) -> Result<(Option<Seq>, u64), StoreError> {
        let moment = self.connection.unchecked_transaction()?;
        let count = |seq: Seq| tables::count_after(&moment, lane, seq.0, only);
        let held = count(after)?.saturating_sub(count(through)?);
        Ok((tables::oldest(&moment, lane)?.map(Seq), held))
    }

    /// The number of the oldest row or result that is kept.
    ///
    /// # Errors
    /// As the disk's.
    pub fn oldest(&self, lane: Lane) -> Result<Option<Seq>, StoreError> {
        Ok(tables::oldest(&self.connection, lane)?.map(Seq))
    }

    /// The configured sinks and where they stand, as of the last commit.
    ///
    /// # Errors
    /// As the disk's.
    pub fn balances(&self) -> Result<Vec<Balance>, StoreError> {
        Ok(self.load()?.balances())
    }

    /// What is in the store.
    ///
    /// # Errors
    /// As the disk's.
    pub fn inventory(&self) -> Result<Inventory, StoreError> {
        let state = self.load()?;
        let text = "SELECT (SELECT min(record) FROM inbox), (SELECT max(record) FROM inbox), (SELECT count(*) FROM inbox), \
                    (SELECT count(*) FROM outbox), (SELECT count(*) FROM dead_letters)";
        let counts: [i64; 5] = self.connection.query_row(text, [], |row| {
            let mut counts = [0; 5];
            for (place, count) in counts.iter_mut().enumerate() {
                *count = row.get::<_, Option<i64>>(place)?.unwrap_or(0);
            }
            Ok(counts)
        })?;
        let [record_first, record_last, records, results, dead_letters] = counts.map(|count| count.max(0) as u64);
        let (bytes_used, bytes_file) = tables::bytes(&self.connection)?;
        Ok(Inventory {
            identity: self.identity()?,
            records,
            record_first,
            record_last,
            seq_first: self.oldest(Lane::Rows)?.map_or(state.next_seq, |seq| seq.0),
            seq_next: state.next_seq,
            results,
            result_next: state.next_result,
            dead_letters,
            checkpoint: state.checkpoint,
            bytes_used,
            bytes_file,
            sinks: state.balances(),
            lost: self.lost()?,
        })
    }

    /// Of one moment: what is written in between would contradict what was read before.
    fn load(&self) -> Result<State, StoreError> {
        let moment = self.connection.unchecked_transaction()?;
        let state = State::load(&self.connection)?;
        moment.finish()?;
        Ok(state)
    }

    /// Reports of what was lost and set aside, oldest first.
    ///
    /// # Errors
    /// As the disk's.
    pub fn lost(&self) -> Result<Vec<serde_json::Value>, StoreError> {
        let mut statement = self.connection.prepare_cached("SELECT report FROM lost ORDER BY number")?;
        let mut found = statement.query([])?;
        let mut lost = Vec::new();
        while let Some(row) = found.next()? {
            lost.push(serde_json::from_str(row.get_ref(0)?.as_str()?).unwrap_or_default());
        }
        Ok(lost)
    }

    /// Records that could not be decoded so far: how many, and which (the first thousand).
    pub fn damaged(&self) -> (u64, impl Iterator<Item = RecordNo> + '_) {
        (self.damaged.count, self.damaged.records.iter().copied().map(RecordNo))
    }

    pub(super) fn note_damaged(&mut self, record: i64) {
        self.damaged.note(RecordNo(record as u64));
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(super) fn parts(&mut self) -> (&Connection, &mut Decoder) {
        (&self.connection, &mut self.decoder)
    }
}

fn numbers(found: &Record<'_>) -> Result<(RecordNo, Seq, u64), StoreError> {
    let number = |place| found.get::<_, i64>(place).map(|number| number.max(0) as u64);
    Ok((RecordNo(number(0)?), Seq(number(1)?), number(2)?))
}

/// The rows of `batch` after number `seq`.
fn after(batch: Arc<Batch>, seq: Seq) -> Arc<Batch> {
    if seq < batch.first_seq {
        return batch;
    }
    let skip = (seq.0 + 1 - batch.first_seq.0) as usize;
    let rows: Vec<usize> = (skip..batch.rows()).collect();
    let mut rest = batch.take(&rows);
    (rest.first_seq, rest.seqs) = (Seq(seq.0 + 1), None);
    Arc::new(rest)
}

fn result(row: &Record<'_>) -> Result<StoredResult, StoreError> {
    Ok(StoredResult {
        seq: Seq(row.get::<_, i64>(0)? as u64),
        id: row.get(1)?,
        kind: row.get(2)?,
        pipeline: row.get(3)?,
        stream: row.get(4)?,
        time: Timestamp(row.get(5)?),
        arrival: Timestamp(row.get(6)?),
        json: row.get(7)?,
    })
}

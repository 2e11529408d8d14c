//! Rows and results as MongoDB documents.
//!
//! - `stream_data` (or as configured), one document a row: `_id` (the row's id), `appliance`, `stream`, `timestamp` (date, ms), `time_ns` (int64),
//!   `x`, `y`, `z`, `layer`, tags and signals by name; what a row does not have is left out, but tags, which are null. `historical: true` on backlog.
//!   Index `{stream: 1, timestamp: 1}`.
//! - `stream_results`, one document a result: the result's object with `_id` = `{appliance}-{id}`, `appliance`, `stream`, `timestamp`.
//!   Index `{pipeline: 1, timestamp: 1}`.
//!
//! Rows are inserted unordered; a duplicate `_id` is a row that an earlier attempt brought, and a success. Results are replaced by `_id`. Both
//! wait for the journal on a majority, unless the URL says otherwise.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use mongodb::{
    Client, Collection, Database, IndexModel,
    bson::{
        Bson, DateTime, Document, RawDocumentBuf, doc,
        raw::{CStr, cstr},
    },
    error::{Error, ErrorKind},
    options::{ClientOptions, InsertManyOptions, WriteConcern},
};

use super::{Delivered, Identity, Item, Parcel, Refused, ResultRecord, RowLot, SinkError, parcel::RowIds};
use crate::model::{Flags, Seq, Timestamp};

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Batches under way at once: while the server syncs one, it can read the next.
const INSERTS_AT_ONCE: usize = 4;
const DUPLICATE_KEY: i32 = 11_000;
const RESULTS: &str = "stream_results";

/// What is configured.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// `mongodb://[user:password@]host:port[,…]/[?options]`
    pub url: String,
    /// The database.
    pub database: String,
    /// Where rows go.
    pub collection: String,
    /// Rows in one insert.
    pub batch_rows: usize,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Settings")
            .field("database", &self.database)
            .field("collection", &self.collection)
            .field("batch_rows", &self.batch_rows)
            .finish_non_exhaustive()
    }
}

/// A connection to MongoDB.
pub struct MongoSink {
    database: Database,
    rows: Collection<RawDocumentBuf>,
    batch_rows: usize,
    identity: Identity,
    write_concern: Document,
}

impl MongoSink {
    /// Connects, and makes the indexes if they are missing.
    ///
    /// # Errors
    /// [`SinkError::Retry`] if nobody answers; [`SinkError::Fatal`] for a wrong URL or password.
    pub async fn connect(settings: &Settings, identity: Identity) -> Result<Self, SinkError> {
        let mut options = ClientOptions::parse(&settings.url).await.map_err(|error| fate(&error))?;
        options.app_name.get_or_insert_with(|| "qadf-edge".to_owned());
        options.connect_timeout.get_or_insert(CONNECT_WITHIN);
        options.server_selection_timeout.get_or_insert(CONNECT_WITHIN);
        let durable = || WriteConcern::builder().w(mongodb::options::Acknowledgment::Majority).journal(true).build();
        let concern = options.write_concern.get_or_insert_with(durable).clone();
        let write_concern = mongodb::bson::serialize_to_document(&concern)
            .map_err(|error| SinkError::Fatal(format!("MongoDB: write concern: {error}")))?;
        let client = Client::with_options(options).map_err(|error| fate(&error))?;
        let database = client.database(&settings.database);
        let rows = database.collection(&settings.collection);
        let index = |first: &str| IndexModel::builder().keys(doc! { first: 1, "timestamp": 1 }).build();
        rows.create_index(index("stream")).await.map_err(|error| fate(&error))?;
        let results: Collection<Document> = database.collection(RESULTS);
        results.create_index(index("pipeline")).await.map_err(|error| fate(&error))?;
        Ok(Self { database, rows, batch_rows: settings.batch_rows.max(1), identity, write_concern })
    }

    /// Inserts the rows and replaces the results of `parcel`.
    ///
    /// # Errors
    /// [`SinkError::Reject`] for documents that a validation rule of the collection refuses.
    pub async fn deliver(&mut self, parcel: &Arc<Parcel>) -> Result<Delivered, SinkError> {
        let mut outcome = self.insert_rows(parcel).await?;
        for (index, chunk) in parcel.results.chunks(self.batch_rows).enumerate() {
            self.replace_results(chunk, index * self.batch_rows, &mut outcome).await?;
        }
        let rest = Delivered { rows: parcel.row_count() as u64, results: parcel.results.len() as u64, repeated: outcome.repeated };
        if outcome.refused.is_empty() { Ok(rest) } else { Err(SinkError::Reject { which: outcome.refused, rest }) }
    }

    async fn insert_rows(&self, parcel: &Parcel) -> Result<Outcome, SinkError> {
        let mut places = Vec::with_capacity(parcel.row_count());
        for (lot, rows) in parcel.rows.iter().enumerate() {
            places.extend((0..rows.batch.rows()).map(|row| (lot, row)));
        }
        let inserts: Vec<_> = places.chunks(self.batch_rows).map(|places| self.insert(parcel, places)).collect();
        let mut inserts = stream::iter(inserts).buffer_unordered(INSERTS_AT_ONCE);
        let mut outcome = Outcome::default();
        while let Some(inserted) = inserts.next().await {
            let inserted = inserted?;
            outcome.repeated += inserted.repeated;
            outcome.refused.extend(inserted.refused);
        }
        Ok(outcome)
    }

    async fn insert(&self, parcel: &Parcel, places: &[(usize, usize)]) -> Result<Outcome, SinkError> {
        let mut ids = self.identity.row_ids();
        let documents: Result<Vec<_>, _> =
            places.iter().map(|(lot, row)| row_document(&self.identity, &mut ids, &parcel.rows[*lot], *row)).collect();
        let documents = documents.map_err(|error| SinkError::Fatal(format!("MongoDB: a name holds a NUL character: {error}")))?;
        let options = InsertManyOptions::builder().ordered(false).build();
        let Err(error) = self.rows.insert_many(documents).with_options(options).await else { return Ok(Outcome::default()) };
        let ErrorKind::InsertMany(failure) = &*error.kind else { return Err(fate(&error)) };
        if failure.write_concern_error.is_some() {
            return Err(fate(&error));
        }
        let mut outcome = Outcome::default();
        for write in failure.write_errors.iter().flatten() {
            match places.get(write.index) {
                Some((lot, row)) => outcome.note(write.code, &write.message, Item::Row { lot: *lot, row: *row })?,
                None => return Err(fate(&error)),
            }
        }
        Ok(outcome)
    }

    /// The `update` command itself: `bulkWrite` needs a very new server, and one `replaceOne` at a time a round trip each.
    async fn replace_results(&self, results: &[ResultRecord], first: usize, outcome: &mut Outcome) -> Result<(), SinkError> {
        let updates: Vec<Bson> = results
            .iter()
            .map(|result| {
                let document = result_document(&self.identity, result);
                let id = document.get("_id").cloned().unwrap_or(Bson::Null);
                Bson::Document(doc! { "q": { "_id": id }, "u": document, "upsert": true })
            })
            .collect();
        let command = doc! { "update": RESULTS, "updates": updates, "ordered": false, "writeConcern": self.write_concern.clone() };
        let reply = self.database.run_command(command).await.map_err(|error| fate(&error))?;
        if let Ok(concern) = reply.get_document("writeConcernError") {
            return Err(SinkError::Retry(format!("MongoDB: {concern}")));
        }
        for error in reply.get_array("writeErrors").into_iter().flatten().filter_map(Bson::as_document) {
            let index = error.get_i32("index").ok().and_then(|index| usize::try_from(index).ok()).unwrap_or_default();
            let (code, text) = (error.get_i32("code").unwrap_or_default(), error.get_str("errmsg").unwrap_or_default());
            outcome.note(code, text, Item::Result { index: first + index })?;
        }
        Ok(())
    }
}

#[derive(Default)]
struct Outcome {
    repeated: u64,
    refused: Vec<Refused>,
}

impl Outcome {
    /// Books what the server said about one document.
    fn note(&mut self, code: i32, message: &str, what: Item) -> Result<(), SinkError> {
        // BadValue, DocumentValidationFailure, BSONObjectTooLarge, FailedToParse: of the document, not of the moment.
        const OF_THE_DOCUMENT: [i32; 4] = [2, 121, 10_334, 9];
        if code == DUPLICATE_KEY {
            self.repeated += 1;
        } else if OF_THE_DOCUMENT.contains(&code) {
            self.refused.push(Refused { what, reason: format!("MongoDB: {message}") });
        } else {
            return Err(SinkError::Retry(format!("MongoDB: {message} (code {code})")));
        }
        Ok(())
    }
}

fn row_document(
    identity: &Identity,
    ids: &mut RowIds,
    lot: &RowLot,
    row: usize,
) -> Result<RawDocumentBuf, mongodb::bson::error::Error> {
    let batch = &lot.batch;
    let mut document = RawDocumentBuf::new();
    document.append(cstr!("_id"), ids.of(Seq(batch.first_seq.0 + row as u64)));
    document.append(cstr!("appliance"), &*identity.appliance);
    document.append(cstr!("stream"), &*batch.stream.id);
    document.append(cstr!("timestamp"), date(Timestamp(batch.time[row])));
    document.append(cstr!("time_ns"), batch.time[row]);
    if let Some([x, y, z]) = batch.position(row) {
        document.append(cstr!("x"), x);
        document.append(cstr!("y"), y);
        document.append(cstr!("z"), z);
    }
    if let Some(layer) = batch.layer(row) {
        document.append(cstr!("layer"), layer);
    }
    for (name, column) in batch.stream.tags.iter().zip(&batch.tags) {
        let name: &CStr = (&**name).try_into()?;
        match column.get(row) {
            Some(text) => document.append(name, &**text),
            None => document.append(name, mongodb::bson::RawBson::Null),
        }
    }
    for (signal, column) in batch.stream.signals.iter().zip(&batch.signals) {
        if !column[row].is_nan() {
            let name: &CStr = (&*signal.name).try_into()?;
            document.append(name, column[row]);
        }
    }
    let flags = batch.flags(row);
    for (_, name) in Flags::NAMED.into_iter().filter(|(flag, _)| flags.has(*flag)) {
        let name: &CStr = name.try_into()?;
        document.append(name, true);
    }
    if lot.historical {
        document.append(cstr!("historical"), true);
    }
    Ok(document)
}

/// Rounds down, so that a row is found in the millisecond it is in.
fn date(time: Timestamp) -> DateTime {
    DateTime::from_millis(time.0.div_euclid(1_000_000))
}

fn result_document(identity: &Identity, result: &ResultRecord) -> Document {
    let body: serde_json::Value = serde_json::from_slice(&result.json).unwrap_or_default();
    let mut document = doc! {
        "_id": identity.result_id(&result.id),
        "appliance": &*identity.appliance,
    };
    if let Some(stream) = &result.stream {
        document.insert("stream", &**stream);
    }
    if result.historical {
        document.insert("historical", true);
    }
    // A window is found by its end, everything else by its time.
    let time = ["time", "end"].into_iter().find_map(|name| body.get(name)?.as_str()?.parse::<Timestamp>().ok());
    if let Some(time) = time {
        document.insert("timestamp", date(time));
    }
    if let serde_json::Value::Object(members) = body {
        document.extend(members.into_iter().map(|(name, value)| (name, bson(value))));
    }
    document
}

fn bson(value: serde_json::Value) -> Bson {
    use serde_json::Value;
    match value {
        Value::Null => Bson::Null,
        Value::Bool(flag) => Bson::Boolean(flag),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => Bson::Int64(integer),
            (None, Some(real)) => Bson::Double(real),
            (None, None) => Bson::Null,
        },
        Value::String(text) => Bson::String(text),
        Value::Array(items) => Bson::Array(items.into_iter().map(bson).collect()),
        Value::Object(members) => Bson::Document(members.into_iter().map(|(name, value)| (name, bson(value))).collect()),
    }
}

fn fate(error: &Error) -> SinkError {
    // Unauthorized, AuthenticationFailed.
    const REFUSED: [i32; 2] = [13, 18];
    let text = format!("MongoDB: {error}");
    let fatal = match &*error.kind {
        ErrorKind::InvalidArgument { .. } | ErrorKind::Authentication { .. } | ErrorKind::InvalidTlsConfig { .. } => true,
        ErrorKind::Command(command) => REFUSED.contains(&command.code),
        _ => false,
    };
    if fatal { SinkError::Fatal(text) } else { SinkError::Retry(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_never_after_its_row() {
        assert_eq!(date(Timestamp(1_999_999)).timestamp_millis(), 1);
        assert_eq!(date(Timestamp(-1)).timestamp_millis(), -1);
    }

    #[test]
    fn a_result_keeps_its_numbers_apart() {
        let json = serde_json::json!({"count": 5, "mean": 5.0, "big": u64::MAX, "none": null});
        let Bson::Document(document) = bson(json) else { panic!("an object") };
        assert_eq!(document, doc! { "count": 5_i64, "mean": 5.0, "big": 18_446_744_073_709_551_615.0, "none": Bson::Null });
    }
}

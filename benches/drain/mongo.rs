//! MongoDB in a bare loop: the documents that arrived, once more, as many inserts at once as the sink has.

use std::time::Instant;

use futures_util::{StreamExt, TryStreamExt, stream};
use mongodb::{
    Client, Collection, IndexModel,
    bson::{RawDocumentBuf, doc},
    options::{Acknowledgment, ClientOptions, InsertManyOptions, WriteConcern},
};

use super::FarEnd;

const BATCH_ROWS: usize = 1_000;
const INSERTS_AT_ONCE: usize = 4;

/// The far end.
pub struct Mongo<'r> {
    /// Where the client runs.
    pub runtime: &'r tokio::runtime::Runtime,
}

impl FarEnd for Mongo<'_> {
    fn section(&self, url: &str) -> String {
        format!("[sinks.far]\ntype = \"mongodb\"\nurl = \"{url}\"\n")
    }

    fn bare(&self, url: &str, rows: usize) -> f64 {
        self.runtime.block_on(bare(url, rows))
    }
}

async fn bare(url: &str, rows: usize) -> f64 {
    let mut options = ClientOptions::parse(url).await.expect("a URL");
    options.write_concern = Some(WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build());
    let database = Client::with_options(options).expect("a client").database("am_qadf");
    let arrived: Collection<RawDocumentBuf> = database.collection("stream_data");
    let found = arrived.find(doc! {}).limit(rows as i64).await.expect("it answers");
    let documents: Vec<RawDocumentBuf> = found.try_collect().await.expect("it answers");
    // The next round begins with an empty collection too.
    arrived.drop().await.expect("it answers");
    let again: Collection<RawDocumentBuf> = database.collection("bare");
    again.drop().await.expect("it answers");
    again.create_index(IndexModel::builder().keys(doc! { "stream": 1, "timestamp": 1 }).build()).await.expect("it answers");
    let started = Instant::now();
    let inserts = documents.chunks(BATCH_ROWS).map(|chunk| {
        let options = InsertManyOptions::builder().ordered(false).build();
        let again = &again;
        async move { again.insert_many(chunk).with_options(options).await.map(|_| ()) }
    });
    stream::iter(inserts).buffer_unordered(INSERTS_AT_ONCE).try_collect::<()>().await.expect("it takes them");
    let rows_per_second = documents.len() as f64 / started.elapsed().as_secs_f64();
    again.drop().await.expect("it answers");
    rows_per_second
}

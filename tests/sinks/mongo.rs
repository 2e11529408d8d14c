//! MongoDB.

use futures_util::TryStreamExt;
use mongodb::{
    Client, Database,
    bson::{Bson, DateTime, Document, doc},
};
use qadf_edge::deliver::{Item, SinkError, mongo as sink, mongo::MongoSink};

use crate::{
    material::{START_NS, identity, parcel, row_ids, unique},
    servers::{Kind, Server},
};

pub fn settings(server: &Server, database: &str) -> sink::Settings {
    sink::Settings {
        url: server.url().to_owned(),
        database: database.to_owned(),
        collection: "stream_data".to_owned(),
        batch_rows: 100,
    }
}

pub async fn database(server: &Server, name: &str) -> Database {
    Client::with_uri_str(server.url()).await.expect("a valid URL").database(name)
}

async fn documents(database: &Database, collection: &str) -> Vec<Document> {
    let found = database.collection(collection).find(doc! {}).sort(doc! { "time_ns": 1, "_id": 1 }).await.expect("found");
    found.try_collect().await.expect("read")
}

pub async fn ids(database: &Database) -> Vec<String> {
    documents(database, "stream_data").await.iter().filter_map(|row| Some(row.get_str("_id").ok()?.to_owned())).collect()
}

#[tokio::test]
async fn rows_and_results_have_the_contracts_shapes() {
    let server = Server::of(Kind::Mongodb);
    let name = unique("shapes");
    let mut sink = MongoSink::connect(&settings(&server, &name), identity("lpbf-07")).await.expect("connected");
    let delivered = sink.deliver(&parcel(1, 250)).await.expect("delivered");
    assert_eq!((delivered.rows, delivered.results, delivered.repeated), (250, 2, 0));
    let database = database(&server, &name).await;
    let rows = documents(&database, "stream_data").await;
    assert_eq!(ids(&database).await, row_ids("lpbf-07", 250));
    let expected = doc! {
        "_id": "lpbf-07-0123456789abcdef-1",
        "appliance": "lpbf-07",
        "stream": "meltpool",
        "timestamp": DateTime::from_millis(START_NS / 1_000_000 + 1),
        "time_ns": START_NS + 1_000_007,
        "x": 1.5, "y": -2.0, "z": 0.03, "layer": 4,
        "part": "A3", "recipe": Bson::Null,
        "intensity": 1.0,
    };
    assert_eq!(rows[0], expected);
    let results = documents(&database, "stream_results").await;
    assert_eq!(results.len(), 2);
    let alert = doc! {
        "_id": "lpbf-07-alert-2",
        "appliance": "lpbf-07",
        "stream": "meltpool",
        "timestamp": DateTime::from_millis(START_NS / 1_000_000),
        "kind": "alert",
        "severity": "high",
        "source": "melt_xbar",
        "time": "2026-01-31T12:00:00Z",
        "message": "look 2",
        "evidence": { "n": 2_i64, "x": 1.0 },
        "id": "alert-2",
        "pipeline": "melt_quality",
    };
    let sorted = |document: &Document| document.clone().into_iter().collect::<std::collections::BTreeMap<_, _>>();
    assert_eq!(sorted(&results[0]), sorted(&alert));
    let indexes = database.collection::<Document>("stream_data").list_index_names().await.expect("listed");
    assert!(indexes.contains(&"stream_1_timestamp_1".to_owned()), "{indexes:?}");
}

#[tokio::test]
async fn a_repeated_parcel_changes_nothing() {
    let server = Server::of(Kind::Mongodb);
    let name = unique("repeated");
    let mut sink = MongoSink::connect(&settings(&server, &name), identity("a")).await.expect("connected");
    sink.deliver(&parcel(1, 150)).await.expect("delivered");
    let database = database(&server, &name).await;
    let before = (documents(&database, "stream_data").await, documents(&database, "stream_results").await);
    let delivered = sink.deliver(&parcel(1, 150)).await.expect("delivered");
    assert_eq!(delivered.repeated, 150);
    // Half of it is new: an earlier attempt had got through in part.
    let delivered = sink.deliver(&parcel(101, 100)).await.expect("delivered");
    assert_eq!(delivered.repeated, 50);
    let after = (documents(&database, "stream_data").await, documents(&database, "stream_results").await);
    assert_eq!(after.0[..150], before.0);
    assert_eq!(ids(&database).await, row_ids("a", 200));
    assert_eq!(after.1.len(), before.1.len() + 2);
}

#[tokio::test]
async fn what_a_validation_rule_refuses_is_named_and_the_rest_arrives() {
    let server = Server::of(Kind::Mongodb);
    let name = unique("refused");
    let database = database(&server, &name).await;
    database.create_collection("stream_data").validator(doc! { "intensity": { "$ne": 3.0 } }).await.expect("created");
    let mut sink = MongoSink::connect(&settings(&server, &name), identity("a")).await.expect("connected");
    let error = sink.deliver(&parcel(1, 5)).await.expect_err("one row breaks the rule");
    let SinkError::Reject { which, .. } = error else { panic!("{error:?}") };
    assert_eq!(which.len(), 1);
    assert_eq!(which[0].what, Item::Row { lot: 0, row: 2 });
    assert_eq!(ids(&database).await.len(), 4);
}

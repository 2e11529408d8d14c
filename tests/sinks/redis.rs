//! Redis.

use std::{collections::BTreeMap, time::Duration};

use qadf_edge::deliver::{SinkError, redis as sink, redis::RedisSink};
use redis::{AsyncCommands, Client, Value, aio::MultiplexedConnection};

use crate::{
    material::{identity, parcel, unique},
    servers::{Kind, Server},
};

pub fn settings(server: &Server) -> sink::Settings {
    sink::Settings { url: server.url().to_owned(), ttl: Duration::from_hours(1), recent_rows: 100 }
}

async fn client(server: &Server) -> MultiplexedConnection {
    Client::open(server.url()).expect("a valid URL").get_multiplexed_async_connection().await.expect("connected")
}

type Entries = Vec<(String, Vec<String>)>;

async fn entries(client: &mut MultiplexedConnection, key: &str) -> Entries {
    redis::cmd("XRANGE").arg(key).arg("-").arg("+").query_async(client).await.expect("a stream")
}

/// All that the sink has written.
async fn everything(client: &mut MultiplexedConnection, appliance: &str) -> (BTreeMap<String, String>, Entries, Entries) {
    let latest = client.hgetall(format!("qadf:{appliance}:meltpool:latest")).await.expect("a hash");
    let recent = entries(client, &format!("qadf:{appliance}:meltpool:recent")).await;
    (latest, recent, entries(client, &format!("qadf:{appliance}:alerts")).await)
}

#[tokio::test]
async fn rows_and_alerts_have_the_contracts_shapes() {
    let server = Server::of(Kind::Redis);
    let appliance = unique("redis");
    let mut sink = RedisSink::connect(&settings(&server), identity(&appliance)).await.expect("connected");
    let delivered = sink.deliver(&parcel(1, 3)).await.expect("delivered");
    assert_eq!((delivered.rows, delivered.results, delivered.repeated), (3, 2, 0));
    let mut client = client(&server).await;
    let (latest, recent, alerts) = everything(&mut client, &appliance).await;
    let expected = [
        ("id", format!("{appliance}-0123456789abcdef-3")),
        ("time", "2026-01-31T12:00:00.003000007Z".to_owned()),
        ("x", "1.5".to_owned()),
        ("y", "-2".to_owned()),
        ("z", "0.03".to_owned()),
        ("layer", "4".to_owned()),
        ("part", "A3".to_owned()),
        ("intensity", "3".to_owned()),
        ("seq", "3".to_owned()),
        ("store", "0123456789abcdef".to_owned()),
    ];
    assert_eq!(latest, expected.into_iter().map(|(name, value)| (name.to_owned(), value)).collect());
    assert_eq!(recent.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["1-0", "2-0", "3-0"]);
    assert!(recent[0].1.windows(2).any(|pair| pair == ["intensity", "1"]), "{recent:?}");
    let ttl: i64 = client.ttl(format!("qadf:{appliance}:meltpool:recent")).await.expect("a key");
    assert!((3500..=3600).contains(&ttl), "{ttl}");
    assert_eq!(alerts.len(), 1);
    assert_eq!(alerts[0].0, "2-0");
    assert!(alerts[0].1.windows(2).any(|pair| pair == ["severity", "high"]), "{alerts:?}");
}

#[tokio::test]
async fn a_repeated_parcel_changes_nothing() {
    let server = Server::of(Kind::Redis);
    let appliance = unique("redis");
    let mut sink = RedisSink::connect(&settings(&server), identity(&appliance)).await.expect("connected");
    sink.deliver(&parcel(1, 5)).await.expect("delivered");
    sink.deliver(&parcel(6, 5)).await.expect("delivered");
    let mut client = client(&server).await;
    let before = everything(&mut client, &appliance).await;
    let mut again = RedisSink::connect(&settings(&server), identity(&appliance)).await.expect("connected");
    for first in [1, 6, 1] {
        let delivered = again.deliver(&parcel(first, 5)).await.expect("delivered");
        assert_eq!(delivered.repeated, 6);
    }
    assert_eq!(everything(&mut client, &appliance).await, before);
}

#[tokio::test]
async fn recent_rows_are_capped_and_a_new_store_replaces_them() {
    let server = Server::of(Kind::Redis);
    let appliance = unique("redis");
    let mut sink = RedisSink::connect(&settings(&server), identity(&appliance)).await.expect("connected");
    sink.deliver(&parcel(1, 1200)).await.expect("delivered");
    sink.deliver(&parcel(1201, 30)).await.expect("delivered");
    let mut client = client(&server).await;
    let (_, recent, _) = everything(&mut client, &appliance).await;
    let seqs: Vec<_> = recent.iter().map(|(id, _)| id.clone()).collect();
    assert_eq!(seqs, (1131..=1230).map(|seq| format!("{seq}-0")).collect::<Vec<_>>());
    let mut other = identity(&appliance);
    other.store += 1;
    let mut sink = RedisSink::connect(&settings(&server), other).await.expect("connected");
    sink.deliver(&parcel(1, 2)).await.expect("delivered");
    let (latest, recent, alerts) = everything(&mut client, &appliance).await;
    assert_eq!(latest["seq"], "2");
    assert_eq!((recent.len(), alerts.len()), (2, 1));
}

#[tokio::test]
async fn a_key_of_another_type_is_fatal_and_named() {
    let server = Server::of(Kind::Redis);
    let appliance = unique("redis");
    let mut client = client(&server).await;
    let key = format!("qadf:{appliance}:meltpool:recent");
    let _: Value = client.set(&key, "mine").await.expect("set");
    let _: Value = client.hset(format!("qadf:{appliance}:meltpool:latest"), "store", "0123456789abcdef").await.expect("set");
    let _: Value = client.hset(format!("qadf:{appliance}:meltpool:latest"), "seq", "0").await.expect("set");
    let mut sink = RedisSink::connect(&settings(&server), identity(&appliance)).await.expect("connected");
    let error = sink.deliver(&parcel(1, 1)).await.expect_err("the key is taken");
    assert!(matches!(&error, SinkError::Fatal(text) if text.contains("WRONGTYPE")), "{error:?}");
}

pub async fn latest_seq(server: &Server, appliance: &str) -> u64 {
    let mut client = client(server).await;
    client.hget(format!("qadf:{appliance}:meltpool:latest"), "seq").await.expect("the sink wrote it")
}

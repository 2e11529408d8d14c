//! A disk budget that fills behind a dead sink: somebody is told in time with the hours that are left, then sources that can wait do, and
//! nothing is shed while that is enough. When the sink is back, everything arrives.

use serde_json::{Value, json};

use crate::{
    ends::check_ledger,
    mqtt::Publisher,
    process::{Appliance, Site, entry, list, until},
    servers::{Kind, Server},
};

/// The budget; a quarter of it is for the log.
const MAX_BYTES: u64 = 16_000_000;
/// Of it, what may wait for a sink before sources are held, and some more.
const HELD_BYTES: u64 = MAX_BYTES * 3 / 4 * 53 / 60;
const PUBLISHED: u64 = 50;
/// 2026-01-31T12:00:00Z
const START_NS: u64 = 1_769_860_800_000_000_000;

/// Posts `count` rows that do not compress, after `posted` others.
fn post(appliance: &Appliance, posted: &mut u64, count: u64) {
    let noise = |row: u64| {
        let mixed = row.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        f64::from_bits(0x3ff0_0000_0000_0000 | (mixed ^ (mixed >> 32)) >> 12)
    };
    let rows: Vec<Value> = (*posted..*posted + count).map(|row| json!({"time": START_NS + row, "n": noise(row + 1)})).collect();
    let reply = appliance.ask("POST", "/rows?stream=posted", &json!(rows).to_string());
    assert_eq!(reply.status, 202, "{reply:?}");
    *posted += count;
}

/// What waits for sinks once the store has looked again at all that was posted.
fn needed(appliance: &Appliance, posted: u64) -> u64 {
    let mut last = None;
    until("the store has looked", || {
        let status = appliance.status();
        let store = (status["store"]["rows"].as_u64()?, status["store"]["bytes_needed"].as_u64()?);
        let is_settled =
            store.0 >= posted && store.1 > 0 && last.is_some_and(|(since, seen)| seen == store && looks(&status) > since + 8);
        if last.is_none_or(|(_, seen)| seen != store) {
            last = Some((looks(&status), store));
        }
        is_settled.then_some(store.1)
    })
}

/// Counts up four times a second.
fn looks(status: &Value) -> u64 {
    let time: qadf_edge::model::Timestamp = status["time"].as_str().expect("a time").parse().expect("a time");
    time.0 as u64 / 250_000_000
}

#[test]
fn a_budget_that_fills_is_told_holds_the_sources_that_can_wait_and_sheds_nothing() {
    let (broker, mut cache) = (Server::own(Kind::Mqtt), Server::own(Kind::Redis));
    let site = Site::new("budget");
    site.configure(&format!(
        "[streams.posted]\nsignals = {{ n = \"1\" }}\n[streams.floor]\nsignals = {{ n = \"1\" }}\n\
         [sources.floor]\ntype = \"mqtt\"\nurl = \"{}\"\nclient_id = \"{}\"\n\
         subscriptions = [ {{ topic = \"{}/#\", qos = 1, codec = \"json\", stream = \"floor\" }} ]\n\
         [sinks.recent]\ntype = \"redis\"\nurl = \"{}\"\n[store]\nmax_bytes = {MAX_BYTES}\n",
        broker.url(),
        site.id,
        site.id,
        cache.url()
    ));
    let appliance = site.start();
    appliance.until("both servers are there", |status| {
        entry(status, "sources", "floor")["state"] == "up" && entry(status, "sinks", "recent")["up"] == true
    });
    cache.kill();
    let mut posted = 0;
    while appliance.status()["store"]["bytes_needed"].as_u64() < Some(HELD_BYTES / 2) {
        post(&appliance, &mut posted, 10_000);
    }
    // What has been posted until the store looked is at most another half of a look's time.
    let bytes = needed(&appliance, posted);
    assert!(bytes < HELD_BYTES, "{bytes} bytes of {posted} rows");
    let rows = HELD_BYTES * posted / bytes;
    while posted < rows {
        post(&appliance, &mut posted, 10_000);
    }
    let told = appliance.until("sources are held, and somebody is told", |status| {
        status["store"]["holds_sources"] == true && list(status, "alerts").iter().any(|alert| alert["source"] == "disk budget")
    });
    let alert = list(&told, "alerts").iter().find(|alert| alert["source"] == "disk budget").expect("there is one").clone();
    let message = alert["message"].as_str().expect("text");
    assert!(message.contains("bytes wait for recent") && alert["severity"] == "high", "{alert}");
    let page = appliance.metrics();
    assert!(page.contains("qadf_store_rows_removed_total{reason=\"room\"} 0\n"), "{page}");

    // The broker keeps what comes now, and the connection to it.
    let mut publisher = Publisher::new(broker.port(), format!("{}/rows", site.id), 1);
    for number in 1..=PUBLISHED {
        until("there is room", || {
            publisher.listen();
            publisher.has_room().then_some(())
        });
        publisher.publish(number, json!({"time": START_NS + number, "n": number}).to_string().into_bytes());
    }
    until("the broker has all of it", || {
        publisher.listen();
        publisher.is_idle().then_some(())
    });
    // Another source goes on.
    post(&appliance, &mut posted, 10);
    let status = appliance.until("the others are seen", |status| entry(status, "sources", "api")["rows"]["accepted"] == posted);
    let floor = entry(&status, "sources", "floor");
    assert_eq!((&floor["state"], &floor["rows"]["accepted"]), (&json!("up"), &json!(0)), "{floor}");
    assert!(status["store"]["source_waits"].as_u64() > Some(0), "{}", status["store"]);
    check_ledger(&appliance.metrics());

    cache.start();
    let status = appliance.until("the broker's rows are taken", |status| {
        entry(status, "sources", "floor")["rows"]["accepted"] == PUBLISHED && status["store"]["holds_sources"] == false
    });
    assert_eq!(entry(&status, "sources", "floor")["state"], "up");
    let status = appliance.until_delivered();
    let rows = &entry(&status, "sinks", "recent")["rows"];
    assert_eq!((&rows["delivered"], &rows["expired"]), (&json!(posted + PUBLISHED), &json!(0)), "{rows}");
    assert_eq!(status["store"]["rows_removed_for_room"], 0);
    appliance.until("the problem is gone", |status| list(status, "problems").is_empty());
    appliance.stop();
}

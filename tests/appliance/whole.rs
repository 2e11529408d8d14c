//! The main job, from the sensors to the sinks.

use qadf_edge::{model::Input, store::RecordNo};
use redis::Commands;
use rustix::process::Signal;

use crate::{
    ends::{self, check_everything_arrived_once, check_ledger, check_numbers_are_gapless},
    plant,
    process::{Site, entry, until},
    servers::{Kind, Server},
};

/// Samples a second of the simulated machine: enough for every stream to move, little enough for a build without optimisation.
const RATE: &str = "3105";

#[test]
fn every_row_of_the_machine_is_in_every_sink_exactly_once() {
    let [broker, cache, archive, log] = [Kind::Mqtt, Kind::Redis, Kind::Mongodb, Kind::Kafka].map(Server::of);
    let site = Site::new("whole");
    site.configure(
        &[plant::machine(&site), plant::chamber(&site, broker.url()), plant::sinks(&site, &cache, &archive, &log)].concat(),
    );
    let appliance = site.start();
    // A broker keeps nothing for a client that it has never seen.
    appliance.until("the appliance has subscribed", |status| entry(status, "sources", "floor")["state"] == "up");
    let machine = site.machine(Some(broker.url()), &["--rate", RATE, "--seed", "7"]);

    appliance.until("10,000 rows of the machine and 30 of its chamber", |status| {
        check_ledger(&appliance.metrics());
        let rows = |id: &str| entry(status, "sources", id)["rows"]["accepted"].as_u64().unwrap_or_default();
        rows("scan_head") >= 10_000 && rows("floor") >= 30
    });
    let report = machine.switch_off();
    let published = report["mqtt"]["acknowledged"].as_u64();
    appliance
        .until("the chamber's last rows", |status| entry(status, "sources", "floor")["rows"]["accepted"].as_u64() >= published);
    let status = appliance.until_delivered();
    for sink in ["recent", "archive", "plant"] {
        assert_eq!(entry(&status, "sinks", sink)["rows"]["accepted"], status["store"]["rows"], "{sink}");
    }
    appliance.stop();

    let rows = check_everything_arrived_once(&site, &archive, &log);
    let from_machine = check_numbers_are_gapless(&rows, "scan_head");
    let acknowledged = report["serial"]["rows"]["acknowledged"].as_u64().expect("a count");
    assert!(from_machine >= acknowledged, "{from_machine} rows are here, {acknowledged} were acknowledged");
    let from_chamber = check_numbers_are_gapless(&rows, "floor");
    assert_eq!(Some(from_chamber), published, "rows that the broker had are here");

    let mut cache = ends::redis(&cache);
    for stream in ["acoustic", "optical", "thermal", "plume", "strain", "chamber"] {
        let last = rows.values().filter(|row| row.stream == stream).max_by_key(|row| row.time_ns).expect("every stream has rows");
        let latest: std::collections::BTreeMap<String, String> =
            cache.hgetall(format!("qadf:{}:{stream}:latest", site.id)).expect("a hash");
        let time: qadf_edge::model::Timestamp = latest["time"].parse().expect("a time");
        assert_eq!(time.0, last.time_ns, "{stream}: {latest:?}");
        let recent = format!("qadf:{}:{stream}:recent", site.id);
        let (length, ttl): (usize, i64) = (cache.xlen(&recent).expect("a stream"), cache.ttl(&recent).expect("a key"));
        let there = rows.values().filter(|row| row.stream == stream).count();
        assert!(length >= there.min(500) && length <= 1000.min(there), "{stream}: {length} of {there} rows");
        assert!((1..=3600).contains(&ttl), "{stream}: expires in {ttl} s");
    }
}

#[test]
fn a_stop_in_mid_stream_drains_and_the_next_start_goes_on() {
    let [archive, log, cache] = [Kind::Mongodb, Kind::Kafka, Kind::Redis].map(Server::of);
    let site = Site::new("drain");
    site.configure(&[plant::machine(&site), plant::sinks(&site, &cache, &archive, &log)].concat());
    let machine = site.machine(None, &["--rate", RATE]);
    for signal in [Signal::TERM, Signal::INT] {
        let mut appliance = site.start();
        let before = appliance.status()["store"]["rows"].as_u64().expect("a count");
        appliance.until("rows come in", |status| status["store"]["rows"].as_u64() >= Some(before + 3_000));
        let status = appliance.process.end(signal);
        assert_eq!(status.code(), Some(0), "{signal:?}: {}", appliance.process.log());
        // All that was accepted has gone through the engine, and its state is kept. Only what the appliance says of itself may come behind,
        // and a tick that the disk held up.
        let mut store = site.store();
        let checkpoint = store.inventory().expect("the store is readable").checkpoint;
        let left = store.inputs_after(RecordNo(checkpoint), 10_000).expect("the store is readable");
        assert!(left.iter().all(|left| matches!(left.input, Input::Order { .. } | Input::Tick(_))), "{left:?}");
    }
    let appliance = site.start();
    machine.switch_off();
    until("the machine's last rows", || {
        let status = appliance.status();
        (entry(&status, "sources", "scan_head")["state"] == "down").then_some(())
    });
    appliance.until_delivered();
    appliance.stop();
    let rows = check_everything_arrived_once(&site, &archive, &log);
    check_numbers_are_gapless(&rows, "scan_head");
}

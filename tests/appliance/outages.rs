//! Crashes and outages: the appliance killed in mid-stream, each server killed and started again, the serial line unplugged. Nothing is
//! lost, nothing arrives twice, the others go on, the status says what is wrong, and everything heals by itself.

use serde_json::Value;

use crate::{
    ends::{check_everything_arrived_once, check_ledger, check_numbers_are_gapless, dead_letters},
    plant,
    process::{Appliance, Site, entry, list, until},
    servers::{Kind, Server},
};

const RATE: &str = "600";

fn accepted(status: &Value, source: &str) -> u64 {
    entry(status, "sources", source)["rows"]["accepted"].as_u64().expect("a count")
}

fn delivered(status: &Value, sink: &str) -> u64 {
    entry(status, "sinks", sink)["rows"]["delivered"].as_u64().expect("a count")
}

#[test]
fn a_killed_appliance_loses_nothing_and_repeats_nothing() {
    let [broker, cache, archive, log] = [Kind::Mqtt, Kind::Redis, Kind::Mongodb, Kind::Kafka].map(Server::of);
    let site = Site::new("killed");
    site.configure(
        &[plant::machine(&site), plant::chamber(&site, broker.url()), plant::sinks(&site, &cache, &archive, &log)].concat(),
    );
    // The broker knows from here on for whom it keeps messages.
    let mut appliance = site.start();
    appliance.until("the broker knows us", |status| entry(status, "sources", "floor")["state"] == "up");
    let machine = site.machine(Some(broker.url()), &["--rate", RATE]);
    for _ in 0..4 {
        let goal = appliance.status()["store"]["rows"].as_u64().expect("a count") + 2_500;
        appliance.until("rows come in and go out", |status| {
            check_ledger(&appliance.metrics());
            let all_deliver = ["recent", "archive", "plant"].iter().all(|sink| delivered(status, sink) > 0);
            status["store"]["rows"].as_u64() > Some(goal) && accepted(status, "floor") > 5 && all_deliver
        });
        appliance.kill();
        appliance = site.start();
    }
    let report = machine.switch_off();
    let published = report["mqtt"]["acknowledged"].as_u64().expect("a count");
    until_recorded(&appliance, "chamber", published);
    appliance.until_delivered();
    appliance.stop();

    let rows = check_everything_arrived_once(&site, &archive, &log);
    let from_machine = check_numbers_are_gapless(&rows, "scan_head");
    assert!(Some(from_machine) >= report["serial"]["rows"]["acknowledged"].as_u64(), "{from_machine} of {report}");
    assert_eq!(report["serial"]["rows"]["overrun"], 0);
    let from_chamber = check_numbers_are_gapless(&rows, "floor");
    assert_eq!(from_chamber, published);
}

/// Waits until the journal has `rows` rows of `stream`.
fn until_recorded(appliance: &Appliance, stream: &str, rows: u64) {
    until(&format!("{rows} rows of {stream}"), || {
        let history = appliance.get(&format!("/streams/{stream}/history"));
        (list(&history, "rows").len() as u64 >= rows).then_some(())
    });
}

/// Kills a sink's server: it shows, the others go on, and it heals.
fn check_sink_heals(appliance: &Appliance, server: &mut Server, sink: &str) {
    let others: Vec<&str> = ["recent", "archive", "plant"].into_iter().filter(|other| *other != sink).collect();
    server.kill();
    let down = appliance.until("the sink is seen to be down", |status| entry(status, "sinks", sink)["up"] == false);
    assert_eq!(down["state"], "degraded");
    let problems = list(&down, "problems").iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n");
    assert!(problems.contains(&format!("sink {sink}")), "{problems}");
    assert!(appliance.metrics().contains(&format!("qadf_sink_up{{sink=\"{sink}\"}} 0\n")));
    appliance.until("the others go on meanwhile", |status| {
        check_ledger(&appliance.metrics());
        let go_on = others.iter().all(|other| delivered(status, other) > delivered(&down, other) + 500);
        go_on && entry(status, "sinks", sink)["up"] == false && entry(status, "sinks", sink)["rows"]["buffered"] != 0
    });
    server.start();
    appliance.until("the sink has caught up", |status| has_caught_up(status, sink));
}

fn has_caught_up(status: &Value, sink: &str) -> bool {
    let sink = entry(status, "sinks", sink);
    sink["up"] == true && sink["rows"]["buffered"].as_u64() < Some(1_000)
}

#[test]
fn every_server_may_go_away_and_come_back() {
    let site = Site::new("outage");
    let [mut broker, mut cache, mut archive, mut log] = [Kind::Mqtt, Kind::Redis, Kind::Mongodb, Kind::Kafka].map(Server::own);
    site.configure(
        &[plant::machine(&site), plant::chamber(&site, broker.url()), plant::sinks(&site, &cache, &archive, &log)].concat(),
    );
    // A server that is down at the start delays nothing but its own sink.
    archive.kill();
    let appliance = site.start();
    // A broker keeps nothing for a client that it has never seen.
    appliance.until("the appliance has subscribed", |status| entry(status, "sources", "floor")["state"] == "up");
    let machine = site.machine(Some(broker.url()), &["--rate", RATE]);
    appliance.until("the others work", |status| {
        delivered(status, "recent") > 500 && delivered(status, "plant") > 500 && entry(status, "sinks", "archive")["up"] == false
    });
    archive.start();
    appliance.until("MongoDB is there", |status| has_caught_up(status, "archive"));

    check_sink_heals(&appliance, &mut cache, "recent");
    check_sink_heals(&appliance, &mut archive, "archive");
    check_sink_heals(&appliance, &mut log, "plant");

    // A Mosquitto that is killed forgets what it acknowledged since it last saved.
    broker.stop();
    let down = appliance.until("the broker is seen to be down", |status| entry(status, "sources", "floor")["state"] == "down");
    assert_eq!(down["state"], "degraded");
    appliance.until("the line goes on", |status| accepted(status, "scan_head") > accepted(&down, "scan_head") + 500);
    broker.start();
    appliance.until("the chamber's rows come again", |status| {
        entry(status, "sources", "floor")["state"] == "up" && accepted(status, "floor") > accepted(&down, "floor") + 10
    });

    let report = machine.switch_off();
    let status = appliance.until("the machine's last rows", |status| entry(status, "sources", "scan_head")["state"] == "down");
    until_recorded(&appliance, "chamber", report["mqtt"]["acknowledged"].as_u64().expect("a count"));
    assert!(list(&status, "sources").iter().all(|source| source["rows"]["shed"] == 0), "{status}");
    appliance.until_delivered();
    appliance.stop();
    let rows = check_everything_arrived_once(&site, &archive, &log);
    let from_machine = check_numbers_are_gapless(&rows, "scan_head");
    assert!(Some(from_machine) >= report["serial"]["rows"]["acknowledged"].as_u64(), "{from_machine} of {report}");
    let from_chamber = check_numbers_are_gapless(&rows, "floor");
    // The broker may have kept a message whose acknowledgement its end cut off.
    assert!(Some(from_chamber) >= report["mqtt"]["acknowledged"].as_u64(), "{from_chamber} of {report}");
}

#[test]
fn a_bad_line_that_is_unplugged_again_and_again_loses_no_row() {
    let site = Site::new("unplugged");
    site.configure(&plant::machine(&site));
    let appliance = site.start();
    let faults = "crc=0.02,cut=0.01,garbage=0.02,duplicate=0.02,drop=0.01,unplug=3s/500ms";
    let machine = site.machine(None, &["--rate", "2000", "--faults", faults, "--seed", "3"]);
    appliance.until("the line comes in", |status| entry(status, "sources", "scan_head")["state"] == "up");
    for _ in 0..2 {
        let down = appliance.until("the line is unplugged", |status| entry(status, "sources", "scan_head")["state"] == "down");
        assert_eq!(down["state"], "degraded");
        appliance.until("it heals", |status| {
            check_ledger(&appliance.metrics());
            accepted(status, "scan_head") > accepted(&down, "scan_head") + 1_000
        });
    }
    let report = machine.switch_off();
    appliance.until("the machine is off", |status| entry(status, "sources", "scan_head")["state"] == "down");
    appliance.until_delivered();
    let status = appliance.until("the counts stand", |status| {
        let (rows, store) = (&entry(status, "sources", "scan_head")["rows"], &status["store"]);
        (&rows["accepted"], &rows["rejected"]) == (&store["rows"], &store["dead_letters"])
    });
    appliance.stop();

    let rows = crate::ends::stored(&mut site.store());
    let from_machine = check_numbers_are_gapless(&rows, "scan_head");
    let serial = &report["serial"];
    assert!(serial["unplugged"].as_u64() >= Some(2) && serial["rows"]["overrun"] == 0, "{report}");
    assert!(Some(from_machine) >= serial["rows"]["acknowledged"].as_u64(), "{from_machine} of {report}");
    let counts = &entry(&status, "sources", "scan_head")["rows"];
    assert_eq!(counts["accepted"].as_u64(), Some(from_machine), "{counts}");
    assert!(counts["rejected"].as_u64() > Some(0) && counts["duplicate"].as_u64() > Some(0), "{counts}");
    // Every refused frame is kept, with its reason and bytes.
    let letters = dead_letters(&site);
    assert_eq!(Some(letters.len() as u64), counts["rejected"].as_u64());
    assert!(letters.iter().all(|letter| &*letter.source == "scan_head" && !letter.detail.is_empty()));
    assert!(
        letters.iter().any(|letter| letter.detail.contains("CRC")),
        "{:?}",
        letters.iter().map(|letter| &letter.detail).collect::<Vec<_>>()
    );
    assert!(letters.iter().all(|letter| !letter.raw.is_empty()));
}

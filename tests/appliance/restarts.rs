//! Restarts: what a reload may not break, what going over the inbox again may not repeat, and what a start does not read.

use std::{fs, net::TcpListener, thread};

use rustix::process::Signal;
use serde_json::json;

use crate::{
    ends::dead_letters,
    process::{Appliance, Site, ask, entry, until},
};

const CONFIG: &str = r#"
[streams.melt]
signals = { intensity = "V" }
[[pipelines]]
id = "quality"
stream = "melt"
[[pipelines.checkpoints]]
name = "bright"
check = "intensity < 20.0"
on_fail = "reject"
[checkpoints]
interval = "1h"
"#;

/// 2026-01-31T12:00:00Z
const START_NS: u64 = 1_769_860_800_000_000_000;

fn site(name: &str) -> Site {
    let site = Site::new(name);
    site.configure(CONFIG);
    site
}

fn rows(intensities: impl IntoIterator<Item = f64>) -> String {
    let rows = intensities.into_iter().zip(START_NS..).map(|(intensity, time)| json!({"time": time, "intensity": intensity}));
    json!(rows.collect::<Vec<_>>()).to_string()
}

#[test]
fn a_row_that_a_checkpoint_refuses_is_one_dead_letter_whatever_is_gone_over_again() {
    let site = site("refused");
    let appliance = site.start();
    assert_eq!(appliance.ask("POST", "/rows", &rows([10.0, 30.0, 11.0])).status, 202);
    until("the dead letter is kept", || (dead_letters(&site).len() == 1).then_some(()));
    appliance.kill();
    for _ in 0..2 {
        let appliance = site.start();
        until("the engine has gone over it again", || {
            let recent = appliance.get("/streams/melt/recent?rows=3");
            (recent["rows"].as_array().is_some_and(|rows| rows.len() == 3)).then_some(())
        });
        assert_eq!(appliance.ask("POST", "/checkpoint", "").status, 200);
        assert_eq!(dead_letters(&site).len(), 1);
        appliance.kill();
    }
}

#[test]
fn a_checkpoint_comes_at_its_interval_and_not_before() {
    let site = site("interval");
    let processed = |appliance: &Appliance, rows: u64| {
        appliance.until("it went through the engine", |status| entry(status, "pipelines", "quality")["processed"] == rows);
    };
    let place = || {
        let inventory = site.store().inventory().expect("the store is readable");
        (inventory.checkpoint, inventory.record_last)
    };
    let appliance = site.start();
    assert_eq!(appliance.ask("POST", "/rows", &rows([10.0, 11.0, 12.0])).status, 202);
    processed(&appliance, 3);
    let (checkpoint, last) = place();
    assert!(checkpoint < last, "an hour has not passed: {checkpoint:?} of {last:?}");
    appliance.stop();
    let hourly = fs::read_to_string(site.config()).expect("it was written");
    fs::write(site.config(), hourly.replace("\"1h\"", "\"50ms\"")).expect("the folder is ours");
    let appliance = site.start();
    assert_eq!(appliance.ask("POST", "/rows", &rows([13.0, 14.0])).status, 202);
    processed(&appliance, 5);
    until("the checkpoint has everything, though nobody has asked for it", || (place().0 == place().1).then_some(()));
    appliance.kill();
}

/// Bytes that the program has read so far, from whatever file.
fn read_bytes(appliance: &Appliance) -> u64 {
    let io = fs::read_to_string(format!("/proc/{}/io", appliance.process.id())).expect("it runs");
    let read = io.lines().find_map(|line| line.strip_prefix("rchar: ")).expect("the kernel says so");
    read.parse().expect("a number")
}

#[test]
fn a_start_reads_what_follows_its_checkpoint_and_not_what_waits() {
    let site = Site::new("starts");
    site.configure(&[CONFIG, "[sinks.away]\ntype = \"redis\"\nurl = \"redis://127.0.0.1:1\"\n"].concat());
    let (mut posted, mut states) = (0, Vec::new());
    // More than the million rows that the rings are filled from again.
    for posts in [44, 40] {
        let appliance = site.start();
        for _ in 0..posts {
            let intensities = (0..25_000).map(|row| f64::from(row * 7_919 % 19_997) / 1_024.0);
            assert_eq!(appliance.ask("POST", "/rows", &rows(intensities)).status, 202);
            posted += 25_000;
        }
        appliance.until("it went through the engine", |status| {
            entry(status, "pipelines", "quality")["processed"] == posted && status["store"]["bytes"].as_u64() > Some(0)
        });
        appliance.stop();
        let appliance = site.start();
        let status = appliance.until("all of them wait", |status| entry(status, "sinks", "away")["rows"]["buffered"] == posted);
        states.push((read_bytes(&appliance), status["store"]["bytes"].as_u64().expect("a number")));
        appliance.stop();
    }
    let [(read_few, few_bytes), (read_many, many_bytes)] = states[..] else { panic!("two starts") };
    assert!(many_bytes > few_bytes + 2_000_000, "{states:?}");
    assert!(read_many < read_few + (many_bytes - few_bytes) / 10, "{states:?}");
}

#[test]
fn a_configuration_that_cannot_be_started_leaves_the_last_one_running() {
    let site = site("reload");
    let appliance = site.start();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let good = fs::read_to_string(site.config()).expect("it was written");
    let (api, other) = (site.api().replace("http://", ""), taken.local_addr().expect("it is bound").to_string());
    fs::write(site.config(), good.replace(&api, &other)).expect("the folder is ours");
    appliance.process.signal(Signal::HUP);
    until("the log says why", || appliance.process.log().contains("the last one goes on").then_some(()));
    until("it answers again", || ask("GET", &format!("{}/health", site.api()), "").ok());
    appliance.stop();
}

#[test]
fn a_reload_waits_for_no_question() {
    let site = site("asked");
    let appliance = site.start();
    for _ in 0..4 {
        assert_eq!(appliance.ask("POST", "/rows", &rows((0..50_000).map(|row| f64::from(row % 7)))).status, 202);
    }
    let url = format!("{}/streams/melt/history?where=intensity%3C0.0", site.api());
    thread::scope(|scope| {
        for _ in 0..12 {
            // What becomes of the question is of no interest here.
            scope.spawn(|| drop(ask("GET", &url, "")));
        }
        // What only a start can change.
        let before = fs::read_to_string(site.config()).expect("it was written");
        fs::write(site.config(), before.replace("\"1h\"", "\"30m\"")).expect("the folder is ours");
        appliance.process.signal(Signal::HUP);
    });
    until("it runs anew", || (appliance.process.log().matches(" running ").count() >= 2).then_some(()));
    until("it answers again", || ask("GET", &format!("{}/health", site.api()), "").ok());
    appliance.stop();
}

//! Alerts and acts of a running appliance: to a webhook that was down, with a note that survives a power cut, and a new baseline by command.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener},
    sync::mpsc,
    thread,
};

use serde_json::{Value, json};

use crate::{
    process::{Appliance, PATIENCE, Site, entry, list, run, stderr, stdout},
    servers::free_port,
};

const PIPELINE: &str = r#"
[streams.melt]
signals = { intensity = "V" }
tags = ["part"]
[[pipelines]]
id = "quality"
stream = "melt"
derive = { double = "2.0 * intensity" }
[[pipelines.charts]]
id = "i"
type = "i_mr"
signal = "intensity"
limits = { baseline = 5 }
group_by = ["part"]
[[pipelines.checkpoints]]
name = "dim"
check = "double < 40.0"
on_fail = "flag"
[[pipelines.thresholds]]
name = "bright"
signal = "intensity"
upper = 20.0
"#;

/// 2026-01-31T12:00:00Z
const START_NS: i64 = 1_769_860_800_000_000_000;

/// Posts rows of part A, 10 ms apart from row `first` on, and waits until they are processed.
fn post(appliance: &Appliance, first: usize, values: &[f64]) {
    let row =
        |(at, value): (usize, &f64)| json!({"time": START_NS + (first + at) as i64 * 10_000_000, "part": "A", "intensity": value});
    let rows: Vec<Value> = values.iter().enumerate().map(row).collect();
    let reply = appliance.ask("POST", "/rows", &json!(rows).to_string());
    assert_eq!(reply.status, 202, "{reply:?}");
    let wanted = (first + values.len()) as u64;
    appliance.until("the rows are processed", |status| entry(status, "pipelines", "quality")["processed"] == wanted);
}

/// Hands on the bodies that come to `port`.
fn hook(port: u16) -> mpsc::Receiver<Value> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("the port was free");
    let (sender, received) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
            let mut length = 0;
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).expect("a header");
                if line.trim_end().is_empty() {
                    break;
                }
                if let Some(bytes) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = bytes.trim().parse().expect("a length");
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).expect("a body");
            // The test may have seen enough.
            let _ = sender.send(serde_json::from_slice(&body).expect("JSON"));
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    received
}

#[test]
fn an_alert_waits_for_a_webhook_that_is_down_also_over_a_power_cut() {
    let (site, port) = (Site::new("webhook"), free_port());
    let url = format!("http://127.0.0.1:{port}/hook");
    site.configure(&format!("{PIPELINE}\n[[alerts.channels]]\ntype = \"webhook\"\nurl = \"{url}\"\nmin_severity = \"high\"\n"));
    let appliance = site.start();
    post(&appliance, 0, &[1.0, 2.0, 30.0]);
    appliance.until("the channel has tried", |status| entry(status, "sinks", "alerts-webhook")["retries"].as_u64() > Some(0));
    appliance.kill();
    let appliance = site.start();
    let received = hook(port);
    let alert = received.recv_timeout(PATIENCE).expect("the alert comes");
    assert_eq!((&alert["source"], &alert["severity"], &alert["appliance"]), (&json!("bright"), &json!("high"), &json!(site.id)));
    assert_eq!(alert["evidence"]["value"], 30.0);
    appliance.until("the channel is through", |status| entry(status, "sinks", "alerts-webhook")["results_buffered"] == 0);
    appliance.stop();
    assert!(received.try_recv().is_err(), "it came twice");
}

#[test]
fn a_figure_of_the_appliance_beyond_its_limit_is_an_alert() {
    let site = Site::new("figure");
    let limit = |rest: &str| format!("[[alerts.figures]]\nlasting = \"0s\"\n{rest}\n");
    let limits = [
        limit("figure = \"memory_bytes\"\nabove = 1.0\nseverity = \"high\""),
        limit("figure = \"rows_per_second\"\nbelow = 1e9"),
        limit("figure = \"waiting_rows\"\nabove = 1e12"),
    ];
    site.configure(&format!("{PIPELINE}\n{}", limits.concat()));
    let appliance = site.start();
    let of = |status: &Value, source: &str| list(status, "alerts").iter().filter(|alert| alert["source"] == source).count();
    let told =
        appliance.until("both figures are told", |status| of(status, "memory_bytes") > 0 && of(status, "rows_per_second") > 0);
    let alert = list(&told, "alerts").iter().find(|alert| alert["source"] == "memory_bytes").expect("it was there");
    assert_eq!(alert["severity"], "high");
    assert!(alert["message"].as_str().is_some_and(|message| message.contains("is above 1")), "{alert}");
    // Once as long as it lasts, and nothing of what is within.
    assert_eq!((of(&told, "memory_bytes"), of(&told, "rows_per_second"), of(&told, "waiting_rows")), (1, 1, 0));
    appliance.stop();
}

#[test]
fn a_note_on_an_alert_is_by_name_and_survives_a_power_cut() {
    let site = Site::new("note");
    site.configure(&format!("{PIPELINE}\n[alerts]\nescalate_after = \"300ms\"\n"));
    let appliance = site.start();
    post(&appliance, 0, &[1.0, 30.0]);
    let louder = appliance.until("the alert escalates", |status| {
        list(status, "alerts").iter().any(|alert| alert["source"] == "bright" && alert["severity"] == "critical")
    });
    let alert = list(&louder, "alerts").iter().find(|alert| alert["source"] == "bright").expect("it was there");
    assert_eq!(alert["escalations"].as_array().map(Vec::len), Some(1), "{alert}");
    let id = alert["id"].as_str().expect("an id");
    let path = id.bytes().fold(String::new(), |path, byte| format!("{path}%{byte:02X}"));
    let refused = appliance.ask("POST", &format!("/alerts/{path}/acknowledge"), r#"{"name": " "}"#);
    assert_eq!(refused.status, 400, "{refused:?}");
    let noted = appliance.ask("POST", &format!("/alerts/{path}/acknowledge"), r#"{"name": "Ada", "note": "lamp test"}"#);
    assert_eq!((noted.status, &noted.json()["acknowledged"]["name"]), (200, &json!("Ada")), "{noted:?}");
    appliance.kill();

    let appliance = site.start();
    let known = appliance.get("/alerts?source=bright&acknowledged=true&severity=critical");
    assert_eq!((known.as_array().map(Vec::len), &known[0]["acknowledged"]["note"]), (Some(1), &json!("lamp test")));
    assert_eq!(appliance.get("/alerts?acknowledged=false&source=bright"), json!([]));
    assert_eq!(appliance.get("/alerts?limit=0"), json!([]));
    assert_eq!(appliance.ask("GET", "/alerts?severity=loud", "").status, 400);
    appliance.stop();
}

#[test]
fn a_baseline_is_changed_by_command_with_author_and_reason_and_checks_answer_on_demand() {
    let site = Site::new("baseline");
    site.configure(PIPELINE);
    let appliance = site.start();
    post(&appliance, 0, &[1.0, 2.0, 9.0, 2.0, 1.0]);
    let api = site.api();
    let act = |arguments: &[&str]| {
        let mut all = vec!["spc", arguments[0], "--url", &api, "--chart", "i", "--author", "Ada", "--reason", "dust"];
        all.extend(&arguments[1..]);
        run(&all)
    };
    let excluded = act(&["exclude", "--key", "part=A", "2"]);
    assert!(excluded.status.success(), "{}", stderr(&excluded));
    let chart: Value = serde_json::from_str(stdout(&excluded).trim()).expect("one chart");
    assert_eq!((&chart["version"], &chart["center"]), (&json!(2), &json!(1.5)));
    let unknown = act(&["rebaseline", "--key", "part=Z"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(stderr(&unknown).contains("no key"), "{}", stderr(&unknown));
    assert!(act(&["rebaseline"]).status.success());
    post(&appliance, 5, &[7.0, 8.0, 7.0, 8.0, 7.5]);
    let chart = appliance.get("/charts/i");
    assert_eq!((&chart[0]["version"], &chart[0]["center"]), (&json!(3), &json!(7.5)));

    let ask = |path: &str, body: &str| appliance.ask("POST", path, body).json();
    assert_eq!(ask("/pipelines/quality/validate", ""), json!([{"dim": true}]));
    let rows = json!([{"time": START_NS, "intensity": 30.0}, {"time": START_NS, "intensity": 3.0}]).to_string();
    assert_eq!(ask("/pipelines/quality/validate?checkpoint=dim", &rows), json!([{"dim": false}, {"dim": true}]));
    assert_eq!(ask("/pipelines/quality/validate?checkpoint=nix", &rows), json!([{"nix": false}, {"nix": false}]));
    assert_eq!(ask("/pipelines/nix/validate", "")["status"], 404);
    assert_eq!(ask("/pipelines/quality/validate", "[{]")["status"], 400);

    let health = appliance.get("/health")["health"].clone();
    assert!(health["score"].as_f64().is_some_and(|score| (0.0..=1.0).contains(&score)), "{health}");
    assert!(health["scores"]["memory"].is_number() && health["scores"]["disk"].is_number(), "{health}");
    appliance.stop();
}

//! The HTTP interface: every endpoint of the contract with its shape, problem documents, rows that are durable once they are answered.

use std::io::{BufRead, BufReader};

use qadf_edge::model::Timestamp;
use serde_json::{Value, json};

use crate::process::{Appliance, Site, ask, entry, list, stdout, until};

const CONFIG: &str = r#"
[streams.melt]
signals = { intensity = "V", laser_power = "W" }
tags = ["part"]
watermark = { delay = "10ms", idle = "1h" }
[streams.chamber]
signals = { oxygen = "[ppm]" }
[[pipelines]]
id = "quality"
stream = "melt"
[[pipelines.windows]]
id = "w"
type = "tumbling"
size = "100ms"
group_by = ["part"]
aggregate = { n = "count()", mean = "mean(intensity)" }
[[pipelines.charts]]
id = "i"
type = "i_mr"
signal = "intensity"
limits = { center = 10.0, sigma = 1.0 }
rules = ["nelson_1"]
[[pipelines.checkpoints]]
name = "bright"
check = "intensity < 20.0"
on_fail = "alert"
severity = "high"
[[pipelines]]
id = "air"
stream = "chamber"
[voxels.build]
stream = "melt"
signals = ["intensity"]
origin = [0.0, 0.0, 0.0]
size = [10.0, 10.0, 10.0]
voxel = 1.0
"#;

/// 2026-01-31T12:00:00Z
const START_NS: i64 = 1_769_860_800_000_000_000;

/// `count` rows, 10 ms apart from row `first` on; row 7 is too bright.
fn rows(first: i64, count: i64) -> Vec<Value> {
    (first..first + count)
        .map(|row| {
            let intensity = if row == 7 { 30.0 } else { 10.0 + (row % 3) as f64 * 0.5 };
            json!({"time": START_NS + row * 10_000_000, "x": 0.5 + (row % 5) as f64, "y": 2.5, "z": 0.03, "layer": 1,
                   "part": if row % 2 == 0 { "A" } else { "B" }, "intensity": intensity, "laser_power": 200.0})
        })
        .collect()
}

fn site() -> Site {
    let site = Site::new("api");
    site.configure(CONFIG);
    site
}

/// Posts rows, which are accepted; gives the answer.
fn post(appliance: &Appliance, path: &str, rows: &[Value]) -> Value {
    let reply = appliance.ask("POST", path, &json!(rows).to_string());
    assert_eq!((reply.status, reply.kind.as_str()), (202, "application/json"), "{reply:?}");
    reply.json()
}

fn until_processed(appliance: &Appliance, pipeline: &str, rows: u64) {
    appliance.until("the rows are processed", |status| entry(status, "pipelines", pipeline)["processed"] == rows);
}

/// An error, as RFC 9457 wants it, that names `what`.
fn check_problem(appliance: &Appliance, method: &str, path: &str, body: &str, status: u16, what: &str) {
    let reply = appliance.ask(method, path, body);
    assert_eq!((reply.status, reply.kind.as_str()), (status, "application/problem+json"), "{method} {path}: {reply:?}");
    let problem = reply.json();
    assert_eq!(problem["status"], status, "{problem}");
    assert!(problem["title"].is_string() && problem["type"].is_string(), "{problem}");
    assert!(
        problem["detail"].as_str().is_some_and(|detail| detail.contains(what)),
        "{method} {path}: {problem} does not name {what}"
    );
}

#[test]
fn every_endpoint_answers_in_its_shape() {
    let site = site();
    let appliance = site.start();
    let answer = post(&appliance, "/rows?stream=melt", &rows(0, 50));
    assert_eq!((&answer["accepted"], &answer["duplicate"], &answer["rejected"]), (&json!(50), &json!(0), &json!(0)));
    until_processed(&appliance, "quality", 50);

    check_state(&appliance, &site.id);
    check_rows(&appliance);
    check_pipelines(&appliance);
    check_charts_and_alerts(&appliance);
    check_voxels(&appliance);
    check_windows_and_checkpoints(&appliance);

    let document = appliance.get("/openapi.json");
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.")), "{document}");
    let paths = [
        "/health",
        "/status",
        "/pipelines",
        "/pipelines/{id}/start",
        "/pipelines/{id}/stop",
        "/pipelines/{id}/stats",
        "/watermarks",
        "/state",
        "/windows",
        "/checkpoint",
        "/streams/{id}/recent",
        "/streams/{id}/history",
        "/voxels/{grid}",
        "/charts/{id}",
        "/alerts",
        "/alerts/{id}/acknowledge",
        "/events",
        "/rows",
    ];
    for path in paths {
        assert!(document["paths"][path].is_object(), "{path} is not in the document");
    }
    appliance.stop();
}

fn check_state(appliance: &Appliance, id: &str) {
    let health = appliance.get("/health");
    assert_eq!((&health["status"], &health["processor_running"], &health["problems"]), (&json!("ok"), &json!(true), &json!([])));
    let status = appliance.status();
    assert_eq!(status["appliance"], id);
    let melt = entry(&status, "streams", "melt");
    assert_eq!((&melt["rows"], &melt["newest"]), (&json!(50), &json!("2026-01-31T12:00:00.49Z")));
    let watermarks = appliance.get("/watermarks");
    assert_eq!(watermarks["watermarks"]["melt"]["watermark"], "2026-01-31T12:00:00.48Z", "{watermarks}");
    let partitions = watermarks["watermarks"]["melt"]["partitions"].as_object().expect("an object");
    assert_eq!(partitions.len(), 1, "{watermarks}");
    let (lag, stats) = (&partitions.values().next().expect("there is one")["lag_seconds"], &watermarks["stats"]);
    assert!(lag.as_f64().is_some_and(|seconds| seconds > 0.0), "the rows are of January: {watermarks}");
    assert_eq!((&stats["partition_count"], &stats["max_lag_seconds"]), (&json!(1), lag), "{watermarks}");

    let page = appliance.metrics();
    for line in ["stream_events_processed_total{pipeline_id=\"quality\"} 50", "stream_active_windows{pipeline_id=\"quality\"} 2"] {
        assert!(page.lines().any(|found| found == line), "{line} is not on the page:\n{page}");
    }
    for name in [
        "stream_processing_duration_seconds_bucket",
        "stream_watermark_lag_seconds{stream=\"melt\",partition=",
        "qadf_store_bytes",
        "qadf_autonomy_seconds",
    ] {
        assert!(page.lines().any(|line| line.starts_with(name)), "{name} is not on the page:\n{page}");
    }
}

fn check_rows(appliance: &Appliance) {
    let recent = appliance.get("/streams/melt/recent?rows=3");
    let times: Vec<&str> = list(&recent, "rows").iter().filter_map(|row| row["time"].as_str()).collect();
    assert_eq!(times, ["2026-01-31T12:00:00.47Z", "2026-01-31T12:00:00.48Z", "2026-01-31T12:00:00.49Z"]);
    let last = &recent["rows"][2];
    assert_eq!(
        (&last["stream"], &last["x"], &last["layer"], &last["part"], &last["intensity"]),
        (&json!("melt"), &json!(4.5), &json!(1), &json!("B"), &json!(10.5))
    );
    assert_eq!(list(&appliance.get("/streams/melt/recent?duration=95ms"), "rows").len(), 10);
    check_problem(appliance, "GET", "/streams/melt/recent?rows=many", "", 400, "many");
    check_problem(appliance, "GET", "/streams/melt/recent?duration=5", "", 400, "duration");
    check_problem(appliance, "GET", "/streams/nothing/recent", "", 404, "nothing");

    let (from, to) = (Timestamp(START_NS + 50_000_000), Timestamp(START_NS + 90_000_000));
    let history = appliance.get(&format!("/streams/melt/history?from={from}&to={to}"));
    assert_eq!(list(&history, "rows").len(), 5, "both ends are included: {history}");
    let history = appliance.get(&format!("/streams/melt/history?from={START_NS}&where=intensity%20%3E%2020.0"));
    let found: Vec<&Value> = list(&history, "rows").iter().map(|row| &row["time"]).collect();
    assert_eq!(found, ["2026-01-31T12:00:00.07Z"]);
    let history = appliance.get("/streams/melt/history?limit=7&where=part%20%3D%3D%20%22A%22");
    assert_eq!((list(&history, "rows").len(), &history["complete"]), (7, &json!(false)));
    check_problem(appliance, "GET", "/streams/melt/history?where=intensty%20%3E%202", "", 400, "intensity");
    check_problem(appliance, "GET", "/streams/melt/history?from=yesterday", "", 400, "yesterday");
    check_problem(appliance, "GET", "/streams/nothing/history", "", 404, "nothing");
}

fn check_pipelines(appliance: &Appliance) {
    let pipelines = appliance.get("/pipelines");
    let ids: Vec<&str> = pipelines.as_array().expect("a list").iter().filter_map(|one| one["id"].as_str()).collect();
    assert_eq!(ids, ["quality", "air"]);
    // Four windows of two parts are over.
    let windows = json!([{"id": "w", "type": "tumbling", "size_ms": 100.0, "slide_ms": null, "gap_ms": null, "open": 2, "fired": 8, "late": 0}]);
    assert_eq!(pipelines[0]["windows"], windows);
    let stats = appliance.get("/pipelines/quality/stats");
    assert_eq!(
        (&stats["processed"], &stats["running"], &stats["checkpoints"]["bright"]),
        (&json!(50), &json!(true), &json!([49, 1]))
    );
    let operators = list(&stats, "operators");
    let bright = operators.iter().find(|one| one["kind"] == "checkpoint" && one["id"] == "bright").expect("it is one of them");
    assert_eq!((&bright["in"], &bright["out"], &bright["failed"]), (&json!(50), &json!(50), &json!(0)), "it flags, and passes on");
    assert!(bright["time_ms"].as_f64().is_some_and(|time_ms| time_ms > 0.0), "it took its time: {bright}");
    let metrics = appliance.ask("GET", "/metrics", "").text;
    let fired = r#"stream_windows_completed_total{pipeline_id="quality",window_type="tumbling",window="w"} 8"#;
    assert!(metrics.contains(fired), "{fired}");
    let sample = r#"qadf_operator_rows_total{pipeline_id="quality",kind="checkpoint",operator="bright",direction="in"} 50"#;
    assert!(metrics.contains(sample), "{sample}");
    check_problem(appliance, "GET", "/pipelines/quantity/stats", "", 404, "quantity");
    check_problem(appliance, "POST", "/pipelines/quantity/stop", "", 404, "quantity");

    let stopped = appliance.ask("POST", "/pipelines/air/stop", "");
    assert_eq!((stopped.status, stopped.json()["running"].clone()), (200, json!(false)));
    post(appliance, "/rows?stream=chamber", &[json!({"time": START_NS, "oxygen": 400.0})]);
    appliance.until("the row is in", |status| entry(status, "streams", "chamber")["rows"] == 1);
    assert_eq!(appliance.get("/pipelines/air/stats")["processed"], 0);
    assert_eq!(appliance.ask("POST", "/pipelines/air/start", "").status, 200);
    post(appliance, "/rows?stream=chamber", &[json!({"time": START_NS + 1, "oxygen": 400.0})]);
    until_processed(appliance, "air", 1);
}

fn check_charts_and_alerts(appliance: &Appliance) {
    let charts = appliance.get("/charts/i");
    let chart = &charts[0];
    assert_eq!((&chart["center"], &chart["phase"], &chart["count"]), (&json!(10.0), &json!(2), &json!(50)), "{charts}");
    let points = chart["points"].as_array().expect("a list");
    let violated: Vec<&Value> =
        points.iter().filter(|point| point["violations"] != json!([])).map(|point| &point["index"]).collect();
    assert!(violated.contains(&&json!(7)), "{charts}");
    check_problem(appliance, "GET", "/charts/j", "", 404, "`j`");

    let alerts = appliance.get("/alerts");
    let alert = alerts.as_array().expect("a list").iter().find(|alert| alert["severity"] == "high").expect("row 7 is too bright");
    assert_eq!((&alert["pipeline"], &alert["acknowledged"]), (&json!("quality"), &Value::Null));
    let id = alert["id"].as_str().expect("text");
    let path = format!("/alerts/{}/acknowledge", percent(id));
    check_problem(appliance, "POST", &path, "{}", 400, "name");
    check_problem(appliance, "POST", "/alerts/none/acknowledge", r#"{"name":"Ada"}"#, 404, "none");
    let reply = appliance.ask("POST", &path, r#"{"name":"Ada","note":"lamp test"}"#);
    assert_eq!(reply.status, 200, "{reply:?}");
    let noted = appliance.until("the alert is acknowledged", |status| {
        list(status, "alerts").iter().any(|alert| alert["id"] == id && alert["acknowledged"]["name"] == "Ada")
    });
    assert!(list(&noted, "alerts").iter().any(|alert| alert["acknowledged"]["note"] == "lamp test"));
}

fn percent(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn check_voxels(appliance: &Appliance) {
    let all = appliance.get("/voxels/build");
    let voxels = list(&all, "voxels");
    assert_eq!(voxels.len(), 5, "{all}");
    assert_eq!(
        (&voxels[0]["index"], &voxels[0]["signal"], &voxels[0]["count"]),
        (&json!([0, 2, 0]), &json!("intensity"), &json!(10))
    );
    assert_eq!(appliance.get("/voxels/build?layer=0")["voxels"], all["voxels"]);
    assert_eq!(list(&appliance.get("/voxels/build?layer=1"), "voxels").len(), 0);
    let since = format!("/voxels/build?since={}", all["version"]);
    assert_eq!(list(&appliance.get(&since), "voxels").len(), 0);
    check_problem(appliance, "GET", "/voxels/build?layer=top", "", 400, "top");
    check_problem(appliance, "GET", "/voxels/bed", "", 404, "bed");
}

fn check_windows_and_checkpoints(appliance: &Appliance) {
    let windows = appliance.get("/windows");
    let open = windows["windows"]["quality"].as_array().expect("a list");
    // 480 ms are over; one window of each part is open.
    assert_eq!(open.len(), 2, "{windows}");
    assert!(open.iter().all(|window| window["start"] == "2026-01-31T12:00:00.4Z"), "{windows}");
    check_problem(appliance, "GET", "/windows?pipeline=quantity", "", 404, "quantity");
    check_problem(appliance, "GET", "/windows?limit=few", "", 400, "few");

    let reply = appliance.ask("POST", "/checkpoint", "");
    assert_eq!(reply.status, 200, "{reply:?}");
    let position = reply.json()["checkpoint"].as_u64().expect("a position");
    let state = appliance.get("/state?prefix=");
    assert!(state["checkpoint"].as_u64() >= Some(position), "{state}");
    let keys: Vec<&str> = list(&state, "states").iter().filter_map(|state| state["key"].as_str()).collect();
    assert!(!keys.is_empty());
    let below = appliance.get(&format!("/state?prefix={}", percent(keys[0])));
    assert!(list(&below, "states").iter().all(|state| state["key"].as_str().is_some_and(|key| key.starts_with(keys[0]))));
}

#[test]
fn errors_are_problem_documents() {
    let site = site();
    let appliance = site.start();
    check_problem(&appliance, "GET", "/nowhere", "", 404, "/nowhere");
    check_problem(&appliance, "GET", "/rows", "", 405, "/rows");
    check_problem(&appliance, "DELETE", "/status", "", 405, "/status");
    check_problem(&appliance, "POST", "/rows?stream=melt", "", 400, "no row");
    check_problem(&appliance, "POST", "/rows?stream=melt", "rubbish", 400, "JSON");
    check_problem(&appliance, "POST", "/rows?stream=melt", r#"{"time":1,"intensty":2}"#, 400, "intensty");
    check_problem(&appliance, "POST", "/rows", r#"{"time":1,"intensity":2}"#, 400, "stream");
    check_problem(&appliance, "POST", "/rows?stream=smelt", r#"{"time":1}"#, 404, "smelt");
    check_problem(&appliance, "POST", "/rows?stream=melt", &" ".repeat((8 << 20) + 1), 413, "length");
    check_problem(&appliance, "GET", "/streams/%ff/recent", "", 400, "id");
    appliance.stop();
}

#[test]
fn the_good_rows_of_a_request_are_taken_and_the_bad_ones_named() {
    let site = site();
    let appliance = site.start();
    let body = "{\"stream\":\"melt\",\"time\":1,\"intensity\":1.5}\n{\"stream\":\"melt\",\"time\":2,\"intensity\":NaN}\nrubbish\n\
                {\"stream\":\"chamber\",\"time\":3,\"oxygen\":400,\"device\":\"d\",\"boot\":1,\"seq\":1}\n";
    let reply = appliance.ask("POST", "/rows", body);
    assert_eq!(reply.status, 202, "{reply:?}");
    let answer = reply.json();
    assert_eq!((&answer["accepted"], &answer["rejected"]), (&json!(2), &json!(2)), "{answer}");
    assert!(answer["reasons"][0].as_str().is_some_and(|reason| reason.contains("NaN")), "{answer}");
    // Sent again by a client that had no answer: the numbered row is known.
    let again = post(&appliance, "/rows?stream=chamber", &[json!({"time": 3, "oxygen": 400, "device": "d", "boot": 1, "seq": 1})]);
    assert_eq!((&again["accepted"], &again["duplicate"]), (&json!(0), &json!(1)));
    let letters = crate::ends::dead_letters(&site);
    assert_eq!(letters.iter().map(|letter| &*letter.source).collect::<Vec<_>>(), ["api", "api"]);
    assert_eq!(letters[1].raw, b"rubbish");
    appliance.stop();
}

#[test]
fn rows_are_durable_once_they_are_answered() {
    let site = site();
    for round in 0..3 {
        let appliance = site.start();
        post(&appliance, "/rows?stream=melt", &rows(round * 100, 100));
        appliance.kill();
    }
    let appliance = site.start();
    let history = appliance.get("/streams/melt/history?limit=1000");
    assert_eq!(list(&history, "rows").len(), 300);
    // What the engine had not seen before the last crash it has now.
    until("the rows are windowed", || {
        let recent = appliance.get("/streams/melt/recent?rows=1");
        (recent["rows"][0]["time"] == "2026-01-31T12:00:02.99Z").then_some(())
    });
    appliance.stop();
}

#[test]
fn results_come_as_server_sent_events() {
    let site = site();
    let appliance = site.start();
    let agent = ureq::Agent::new_with_defaults();
    let response = agent.get(format!("{}/events?kind=window", site.api())).call().expect("answered");
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let events = std::thread::spawn(move || {
        let mut lines = BufReader::new(response.into_body().into_reader()).lines().map_while(Result::ok);
        let mut field = |name: &str| lines.find_map(|line| line.strip_prefix(name).map(|rest| rest.trim().to_owned()));
        // The order of an event's lines is the server's.
        field("data:")
    });
    post(&appliance, "/rows?stream=melt", &rows(0, 50));
    let data = events.join().expect("read").expect("an event");
    let window: Value = serde_json::from_str(&data).expect("JSON");
    assert_eq!(
        (&window["kind"], &window["window"], &window["start"]),
        (&json!("window"), &json!("w"), &json!("2026-01-31T12:00:00Z"))
    );
    assert_eq!(window["values"]["n"], 5);
    appliance.stop();
}

#[test]
fn top_prints_the_status_once() {
    let site = site();
    let appliance = site.start();
    post(&appliance, "/rows?stream=melt", &rows(0, 50));
    until_processed(&appliance, "quality", 50);
    let output = crate::process::run(&["top", "--once", "--url", &site.api()]);
    assert_eq!(output.status.code(), Some(0));
    let shown: Value = serde_json::from_str(&stdout(&output)).expect("one JSON object");
    assert_eq!((&shown["appliance"], &entry(&shown, "streams", "melt")["rows"]), (&json!(site.id), &json!(50)));
    appliance.stop();
    let output = crate::process::run(&["top", "--once", "--url", &site.api()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(ask("GET", &site.api(), "").is_err(), "nobody listens any more");
}

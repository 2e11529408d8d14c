//! The published cases of Flink, Beam and Kafka Streams through `qadf-edge replay`, and what event time means in a configuration.

mod window_cases;

use std::{fs, path::Path, process::Command};

use qadf_edge::{
    dataflow::{AllIdle, Ticked, WatermarkConfig, WatermarkMode, Watermarks},
    model::{Batch, Stream, Timestamp},
};
use serde_json::{Value, json};
use window_cases::{cases, int};

/// Result lines of the program for a configuration and rows.
#[track_caller]
fn replay(toml: &str, lines: &[Value], more: &[&str]) -> Vec<Value> {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("c.toml"), toml).expect("it is written");
    let text = lines.iter().fold(String::new(), |text, line| text + &line.to_string() + "\n");
    fs::write(folder.path().join("rows.jsonl"), text).expect("it is written");
    let mut arguments = vec!["replay", "-c", "c.toml", "--input", "rows.jsonl"];
    arguments.extend(more);
    let ran = Command::new(env!("CARGO_BIN_EXE_qadf-edge")).args(arguments).current_dir(folder.path()).output().expect("it runs");
    let errors = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success() && !errors.contains("\"reason\""), "{toml}\n{errors}");
    let out = String::from_utf8(ran.stdout).expect("it is text");
    out.lines().map(|line| serde_json::from_str(line).expect("a result is JSON")).collect()
}

/// A time of a result, in nanoseconds since 1970.
fn ns(value: &Value) -> i64 {
    value.as_str().expect("a time").parse::<Timestamp>().expect("RFC 3339").0
}

/// The units of the cases are taken as nanoseconds.
fn window_toml(spec: &Value) -> String {
    let watermark = match spec["watermark"]["delay"].as_i64() {
        Some(delay) => format!("{{ delay = \"{delay}ns\" }}"),
        None => "{ mode = \"punctuated\" }".to_owned(),
    };
    let mut toml = format!(
        "[appliance]\nid = \"cases\"\n[streams.s]\nsignals = {{ v = \"1\" }}\ntags = [\"part\"]\nwatermark = {watermark}\n\
         [[pipelines]]\nid = \"p\"\nstream = \"s\"\n[[pipelines.windows]]\nid = \"w\"\ngroup_by = [\"part\"]\n"
    );
    let kind = spec["type"].as_str().expect("a type");
    let mut line = |text: String| toml.push_str(&(text + "\n"));
    line(format!("type = \"{}\"", if kind == "calendar_days" { "tumbling" } else { kind }));
    line(format!("aggregate = {{ a = \"{}\" }}", if spec["agg"] == "sum" { "sum(v)" } else { "count()" }));
    for (key, name) in
        [("size", "size"), ("slide", "slide"), ("gap", "gap"), ("offset", "offset"), ("lateness", "allowed_lateness")]
    {
        if let Some(value) = spec[key].as_i64() {
            line(format!("{name} = \"{value}ns\""));
        }
    }
    for (key, name) in [("accumulation", "accumulation"), ("tz", "timezone")] {
        if let Some(value) = spec[key].as_str() {
            line(format!("{name} = \"{value}\""));
        }
    }
    if let Some(days) = spec["days"].as_i64() {
        line(format!("size = \"{days}d\""));
    }
    toml
}

#[test]
fn firings_and_late_rows_are_those_of_flink_and_kafka() {
    let cases = cases("window");
    assert!(cases.len() >= 13, "the cases were found");
    for case in cases {
        let events = case["events"].as_array().expect("events").iter();
        let lines: Vec<Value> = events
            .filter_map(|event| match (&event["ev"], &event["wm"]) {
                (Value::Array(row), _) => Some(json!({ "part": row[0], "time": row[1], "v": row[2] })),
                // Watermarks of the cases are inclusive.
                (_, Value::Number(_)) => Some(json!({ "stream": "s", "watermark": int(&event["wm"]) + 1 })),
                // Saving and restoring is what the library's test does.
                _ => None,
            })
            .collect();
        let results = replay(&window_toml(&case["spec"]), &lines, &["--no-flush"]);
        let of = |kind: &str| results.iter().filter(|result| result["kind"] == kind).cloned().collect::<Vec<_>>();
        let fired: Vec<(String, i64, i64, i64)> = of("window")
            .iter()
            .map(|w| {
                let value = w["values"]["a"].as_f64().expect("a number") as i64;
                (w["key"]["part"].as_str().unwrap_or("").to_owned(), ns(&w["start"]), ns(&w["end"]), value)
            })
            .collect();
        let (expected, expected_late) = window_cases::expected(&case);
        assert_eq!(fired, expected, "{}", case["name"]);
        let late: Vec<i64> = of("late").iter().map(|late| ns(&late["row"]["time"])).collect();
        assert_eq!(late, expected_late, "{}", case["name"]);
    }
}

#[test]
fn rows_are_assigned_to_the_windows_of_flink_and_beam() {
    let cases = cases("assign");
    assert!(cases.len() >= 9, "the cases were found");
    for case in cases {
        // Cases of calendar days are in milliseconds.
        let scale = if case["spec"]["type"] == "calendar_days" { 1_000_000 } else { 1 };
        let rows = case["expected"]["windows"].as_array().expect("a list").clone();
        let line = |(at, row): (usize, &Value)| json!({ "part": at.to_string(), "time": int(&row[0]) * scale, "v": 1 });
        let lines: Vec<Value> = rows.iter().enumerate().map(line).collect();
        let mut toml = window_toml(&case["spec"]);
        toml = toml.replace("watermark = { mode = \"punctuated\" }", "watermark = { delay = \"100000d\" }");
        let results = replay(&toml, &lines, &[]);
        for (at, row) in rows.iter().enumerate() {
            let part = at.to_string();
            let mine = results.iter().filter(|result| result["key"]["part"] == *part);
            let got: Vec<(i64, i64)> = mine.map(|w| (ns(&w["start"]), ns(&w["end"]))).collect();
            let pairs = row[1].as_array().expect("a list").iter();
            let expected: Vec<(i64, i64)> = pairs.map(|pair| (int(&pair[0]) * scale, int(&pair[1]) * scale)).collect();
            assert_eq!(got, expected, "{} at {}", case["name"], row[0]);
        }
    }
}

fn join_toml(spec: &Value) -> String {
    let stream = |id: &str| {
        format!("[streams.{id}]\nsignals = {{ v = \"1\" }}\ntags = [\"part\"]\nwatermark = {{ mode = \"punctuated\" }}\n")
    };
    // Times are whole nanoseconds: without its bound, an interval ends one earlier.
    let lower = int(&spec["lower"]) + i64::from(spec["lower_inclusive"] == false);
    let upper = int(&spec["upper"]) - i64::from(spec["upper_inclusive"] == false);
    format!(
        "[appliance]\nid = \"cases\"\n{}{}[[pipelines]]\nid = \"p\"\nstream = \"l\"\n[[pipelines.joins]]\nid = \"j\"\nwith = \"r\"\n\
         on = [\"part\"]\nlower = \"{lower}ns\"\nupper = \"{upper}ns\"\n",
        stream("l"),
        stream("r")
    )
}

#[test]
fn pairs_and_late_rows_are_those_of_flinks_interval_join() {
    let cases: Vec<Value> = cases("interval_join").into_iter().filter(|case| !case["expected"]["pairs"].is_null()).collect();
    assert!(cases.len() >= 7, "the cases were found");
    for case in cases {
        let line = |event: &Value| {
            let (what, value) = event.as_object().and_then(|event| event.iter().next()).expect("one event");
            match what.as_str() {
                "wl" | "wr" => json!({ "stream": what[1..], "watermark": int(value) + 1 }),
                _ => json!({ "stream": what, "part": value[0], "time": value[1], "v": 1 }),
            }
        };
        let lines: Vec<Value> = case["events"].as_array().expect("events").iter().map(line).collect();
        let results = replay(&join_toml(&case["spec"]), &lines, &["--no-flush"]);
        let pair = |result: &Value| {
            let (left, right) = (&result["left"], &result["right"]);
            (left["part"].as_str().expect("a part").to_owned(), ns(&left["time"]), ns(&right["time"]))
        };
        let pairs: Vec<_> = results.iter().filter(|result| result["kind"] == "join").map(pair).collect();
        let mut expected: Vec<(i64, String, i64, i64)> = serde_json::from_value(case["expected"]["pairs"].clone()).expect("pairs");
        expected.sort();
        let expected: Vec<_> = expected.into_iter().map(|(_, part, left, right)| (part, left, right)).collect();
        assert_eq!(pairs, expected, "{}", case["name"]);
        for (stream, key) in [("l", "late_left"), ("r", "late_right")] {
            let of = |result: &&Value| result["kind"] == "late" && result["row"]["stream"] == stream;
            let late: Vec<i64> = results.iter().filter(of).map(|late| ns(&late["row"]["time"])).collect();
            let expected: Vec<i64> = case["expected"][key].as_array().expect("a list").iter().map(|row| int(&row[2])).collect();
            assert_eq!(late, expected, "{}", case["name"]);
        }
    }
}

fn seconds(stream: &std::sync::Arc<Stream>, partition: &str, arrival: i64, times: &[i64]) -> Batch {
    let mut batch = Batch::new(std::sync::Arc::clone(stream), "s".into(), partition.into(), Timestamp(arrival));
    batch.time = times.to_vec();
    batch
}

#[test]
fn a_bounded_watermark_is_that_of_flink() {
    let cases = cases("bounded_watermark");
    assert!(!cases.is_empty(), "the case was found");
    for case in cases {
        let delay = int(&case["spec"]["delay"]);
        let times: Vec<i64> = case["events"].as_array().expect("times").iter().map(int).collect();
        let expected: Vec<i64> = case["expected"]["watermarks"].as_array().expect("times").iter().map(int).collect();
        let mut watermarks = Watermarks::new(WatermarkConfig { delay_ns: delay, ..WatermarkConfig::default() }, false);
        let stream = std::sync::Arc::new(Stream::new("s", &[], &[]));
        let (flow, _) = watermarks.observe(&seconds(&stream, "a", 0, &times));
        // Ours is exclusive.
        assert_eq!(flow.after().map(|after| after - 1).collect::<Vec<_>>(), expected);
        // Through the program: with lateness without end, exactly the windows that end by the watermark have fired.
        let spec = json!({ "type": "tumbling", "size": 1, "lateness": 1_000_000_000, "watermark": { "delay": delay } });
        let lines: Vec<Value> = times.iter().map(|time| json!({ "part": "k", "time": time, "v": 1 })).collect();
        let results = replay(&window_toml(&spec), &lines, &["--no-flush"]);
        let fired: Vec<i64> = results.iter().map(|window| ns(&window["end"])).collect();
        let wanted: Vec<i64> = times.iter().map(|time| time + 1).filter(|end| end - 1 <= expected[expected.len() - 1]).collect();
        assert_eq!(fired, wanted);
    }
}

#[test]
fn idle_partitions_and_their_return_are_those_of_flinks_valve() {
    let cases = cases("valve");
    assert!(cases.len() >= 2, "the cases were found");
    for case in cases {
        let config = WatermarkConfig {
            mode: WatermarkMode::Punctuated,
            idle_ns: Some(1),
            all_idle: AllIdle::Flush,
            ..WatermarkConfig::default()
        };
        let mut watermarks = Watermarks::new(config, true);
        let inputs = int(&case["spec"]["inputs"]);
        let name = |input: i64| std::sync::Arc::<str>::from(input.to_string());
        let mut is_active = vec![true; inputs as usize];
        let mut out = Vec::new();
        // Every partition is there from the start; what it states first, nothing, moves nothing.
        (0..inputs).for_each(|input| watermarks.punctuate(&name(input), Timestamp::MIN, Timestamp(0)));
        for (index, event) in case["events"].as_array().expect("events").iter().enumerate() {
            let (input, now) = (int(&event["in"]), Timestamp(index as i64 * 10 + 10));
            let before = watermarks.combined();
            let is_in = is_active[input as usize];
            if let Some(watermark) = event["wm"].as_i64() {
                // Flink's valve does not look at what an idle input states; here a statement is a sign of life, so it is left out.
                if is_in {
                    watermarks.punctuate(&name(input), Timestamp(watermark + 1), now);
                }
            } else {
                is_active[input as usize] = event["status"] == "active";
                // Who is active has just been heard of; who is not has been silent for too long.
                for (other, active) in (0..).zip(&is_active) {
                    if *active {
                        watermarks.punctuate(&name(other), Timestamp::MIN, now);
                    }
                }
                let ticked = watermarks.tick(now);
                assert_ne!(ticked, Ticked::Closed, "all idle flushes");
            }
            if watermarks.combined() > before {
                out.push((index as i64, watermarks.combined().0 - 1));
            }
        }
        let expected = case["expected"]["out"].as_array().expect("a list").iter();
        let expected: Vec<(i64, i64)> = expected.filter(|out| out[1] == "wm").map(|out| (int(&out[0]), int(&out[2]))).collect();
        assert_eq!(out, expected, "{}", case["name"]);
    }
}

const PIPELINE: &str = r#"
[appliance]
id = "t"
[streams.s]
signals = { power = "W", intensity = "V" }
tags = ["part", "machine"]
watermark = { delay = "100ms" }
[[pipelines]]
id = "first"
stream = "s"
filter = "power > 50.0 && intensity < 100.0"
derive = { ratio = "intensity / power", double = "ratio * 2.0" }
[[pipelines.windows]]
id = "second"
type = "tumbling"
size = "1s"
group_by = ["machine", "part"]
aggregate = { n = "count()", sum = "sum(double)" }
[[pipelines.windows]]
id = "all"
type = "sliding"
size = "2s"
slide = "1s"
aggregate = { n = "count()", range = "range(power)" }
[[pipelines]]
id = "other"
stream = "s"
[[pipelines.windows]]
id = "second"
type = "tumbling"
size = "1s"
aggregate = { n = "count()" }
"#;

#[test]
fn pipelines_and_windows_beside_each_other_see_their_own_rows() {
    let row = |ms: i64, part: Option<&str>, machine: &str, power: f64, intensity: f64| json!({ "time": ms * 1_000_000, "part": part, "machine": machine, "power": power, "intensity": intensity });
    let rows = [
        row(0, Some("a"), "m", 100.0, 10.0),
        row(100, Some("a"), "m", 50.0, 10.0),
        row(200, None, "m", 200.0, 10.0),
        row(300, Some("a"), "n", 100.0, 200.0),
        row(1500, Some("a"), "m", 60.0, 30.0),
        row(900, Some("a"), "m", 100.0, 10.0),
    ];
    let results = replay(PIPELINE, &rows, &[]);
    let got: Vec<Value> = results
        .iter()
        .map(|r| {
            let at = |key: &str| r[key].as_str().map(|time| ns(&json!(time)) / 1_000_000_000);
            json!([r["pipeline"], r["window"], r["kind"], at("start"), at("end"), r["key"], r["values"]])
        })
        .collect();
    let by = |part: Value, machine: &str| json!({ "part": part, "machine": machine });
    let second = |start: i64, key: Value, n: i64, sum: f64| json!(["first", "second", "window", start, start + 1, key, { "n": n, "sum": sum }]);
    let all = |start: i64, n: i64, range: f64| json!(["first", "all", "window", start, start + 2, {}, { "n": n, "range": range }]);
    let other = |start: i64, n: i64| json!(["other", "second", "window", start, start + 1, {}, { "n": n }]);
    let expected = [
        second(0, by(Value::Null, "m"), 1, 0.1),
        second(0, by(json!("a"), "m"), 1, 0.2),
        all(-1, 2, 100.0),
        json!(["first", "second", "late", null, null, null, null]),
        other(0, 4),
        json!(["other", "second", "late", null, null, null, null]),
        second(1, by(json!("a"), "m"), 1, 1.0),
        all(0, 4, 140.0),
        all(1, 1, 0.0),
        other(1, 1),
    ];
    assert_eq!(got, expected);
}

/// What `check` says of a configuration.
fn checked(toml: &str, folder: &Path) -> (i32, String) {
    fs::write(folder.join("c.toml"), toml).expect("it is written");
    let ran =
        Command::new(env!("CARGO_BIN_EXE_qadf-edge")).args(["check", "c.toml"]).current_dir(folder).output().expect("it runs");
    let said = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
    (ran.status.code().unwrap_or(-1), said)
}

#[test]
fn windows_that_make_no_sense_are_refused_with_their_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let head = "[appliance]\nid = \"t\"\n[streams.s]\nsignals = { power = \"W\" }\ntags = [\"part\"]\n[[pipelines]]\nid = \"p\"\n\
                stream = \"s\"\n[[pipelines.windows]]\nid = \"w\"\n";
    let good = "aggregate = { n = \"count()\" }\n";
    for (lines, place, words) in [
        ("type = \"tumbling\"\nsize = \"0s\"\n", "12:", "size"),
        ("type = \"tumbling\"\nsize = \"-1s\"\n", "12:", "size"),
        ("type = \"tumbling\"\n", "9:", "size"),
        ("type = \"sliding\"\nsize = \"1s\"\n", "9:", "slide"),
        ("type = \"sliding\"\nsize = \"1s\"\nslide = \"0s\"\n", "13:", "slide"),
        ("type = \"session\"\n", "9:", "gap"),
        ("type = \"session\"\ngap = \"1s\"\nmax_duration = \"0s\"\n", "13:", "max_duration"),
        ("type = \"hopping\"\nsize = \"1s\"\n", "11:", "sliding"),
        ("type = \"tumbling\"\nsize = \"1s\"\ngroup_by = [\"prt\"]\n", "13:", "`part`"),
        ("type = \"tumbling\"\nsize = \"1s\"\ntimezone = \"Mars/Olympus\"\n", "13:", "IANA"),
        ("type = \"tumbling\"\nsize = \"1s\"\nallowed_lateness = \"-1s\"\n", "13:", "allowed_lateness"),
    ] {
        let (code, said) = checked(&format!("{head}{lines}{good}"), folder.path());
        assert_eq!(code, 78, "{lines}{said}");
        assert!(said.contains(&format!("c.toml:{place}")) && said.contains(words), "{lines}{said}");
    }
    for (aggregate, column, words) in [
        ("mean(powr)", 25, "`power`"),
        ("mean(part)", 25, "text"),
        ("meen(power)", 20, "`mean`"),
        ("quantile(power, 2)", 36, "0 to 1"),
    ] {
        let window = format!("type = \"tumbling\"\nsize = \"1s\"\naggregate = {{ a = \"{aggregate}\" }}\n");
        let (code, said) = checked(&format!("{head}{window}"), folder.path());
        assert_eq!(code, 78, "{said}");
        assert!(said.contains(&format!("c.toml:13:{column}")) && said.contains(words), "{said}");
    }
    let gaps = format!("{head}type = \"sliding\"\nsize = \"1s\"\nslide = \"2s\"\n{good}");
    let (code, said) = checked(&gaps, folder.path());
    assert!(code == 0 && said.contains("gaps"), "{said}");
}

//! The commands that end by themselves: what they print, and with which exit code.

use std::{fs, path::Path, process::Output};

use serde_json::{Value, json};

use crate::ends;
use crate::process::{Site, qadf_edge, run, stderr, stdout, until};

const CONFIG: &str = r#"
[streams.melt]
signals = { intensity = "V" }
tags = ["part"]
[[pipelines]]
id = "quality"
stream = "melt"
[[pipelines.windows]]
id = "w"
type = "tumbling"
size = "100ms"
group_by = ["part"]
aggregate = { n = "count()", mean = "mean(intensity)", p99 = "quantile(intensity, 0.99)" }
[[pipelines.charts]]
id = "i"
type = "i_mr"
signal = "intensity"
limits = { baseline = 20 }
rules = ["nelson"]
[[pipelines.checkpoints]]
name = "bright"
check = "intensity < 20.0"
on_fail = "reject"
[voxels.build]
stream = "melt"
signals = ["intensity"]
origin = [0.0, 0.0, 0.0]
size = [10.0, 10.0, 10.0]
voxel = 1.0
"#;

/// 2026-01-31T12:00:00Z
const START_NS: i64 = 1_769_860_800_000_000_000;

fn row(number: i64) -> Value {
    let intensity = if number == 7 { 30.0 } else { 10.0 + (number % 7) as f64 * 0.25 };
    json!({"time": START_NS + number * 10_000_000, "x": 0.5 + (number % 5) as f64, "y": 2.5, "z": 0.5, "layer": 1,
           "part": if number % 2 == 0 { "A, left" } else { "B" }, "intensity": intensity})
}

fn lines(rows: impl IntoIterator<Item = Value>) -> String {
    let lines: Vec<String> = rows.into_iter().map(|row| row.to_string()).collect();
    lines.join("\n") + "\n"
}

fn code(output: &Output, wanted: i32) {
    assert_eq!(output.status.code(), Some(wanted), "{}{}", stdout(output), stderr(output));
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn objects(output: &Output) -> Vec<Value> {
    stdout(output).lines().map(|line| serde_json::from_str(line).expect("one object a line")).collect()
}

#[test]
fn check_names_every_fault_with_its_place_and_what_to_do() {
    let site = Site::new("check");
    site.configure(CONFIG);
    code(&run(&["check", text(&site.config())]), 0);
    code(&run(&["check", "config/appliance.toml"]), 0);
    code(&run(&["check", "config/demo.toml"]), 0);

    let wrong = site.folder().join("wrong.toml");
    let broken = CONFIG
        .replace("size = \"100ms\"", "sise = \"100ms\"")
        .replace("type = \"i_mr\"", "type = \"i_nr\"")
        .replace("check = \"intensity < 20.0\"", "check = \"intensty < 20.0\"");
    fs::write(&wrong, format!("[appliance]\nid = \"a\"\ndata_dir = \"d\"\n{broken}")).expect("the folder is ours");
    let output = run(&["check", text(&wrong)]);
    code(&output, 78);
    let found = stderr(&output);
    for (line, what) in [("sise", "size"), ("i_nr", "i_mr"), ("intensty", "intensity")] {
        let at = broken.lines().position(|text| text.contains(line)).expect("it was put there") + 4;
        let place = format!("{}:{at}:", wrong.display());
        let fault = found.lines().find(|fault| fault.starts_with(&place)).unwrap_or_else(|| panic!("{place} in {found}"));
        assert!(fault.contains(line) && fault.contains(what), "{fault}");
        let column: usize = fault[place.len()..].split(':').next().and_then(|text| text.parse().ok()).expect("a column");
        assert!(column > 0, "{fault}");
    }
    assert!(!site.data_dir().exists(), "nothing was opened");

    let missing = run(&["check", text(&site.folder().join("none.toml"))]);
    code(&missing, 78);
    assert!(stderr(&missing).contains("none.toml"));
}

#[test]
fn wrong_usage_is_2_and_a_wrong_configuration_78() {
    code(&run(&["frobnicate"]), 2);
    code(&run(&["replay"]), 2);
    code(&run(&["history", "--stream"]), 2);
    code(&run(&["--version"]), 0);
    let site = Site::new("usage");
    site.configure("[streams.s]\nsignal = { a = \"V\" }");
    let output = run(&["run", "-c", text(&site.config())]);
    code(&output, 78);
    assert!(stderr(&output).contains("signals"), "the nearest key is suggested: {}", stderr(&output));
    site.configure(CONFIG);
    code(&run(&["history", "-c", text(&site.config()), "--stream", "mold"]), 2);
    code(&run(&["history", "-c", text(&site.config()), "--stream", "melt"]), 1);
    code(&run(&["top", "--once", "--url", "http://127.0.0.1:1"]), 1);
}

#[test]
fn replay_gives_the_same_bytes_each_time_and_goes_on_after_bad_rows() {
    let site = Site::new("replay");
    site.configure(CONFIG);
    let input = site.folder().join("rows.jsonl");
    let bad = "{\"time\": 1, \"intensity\": \"high\"}\nno json at all\n{\"intensity\": 3.0}\n";
    fs::write(&input, format!("{}{bad}{}", lines((0..60).map(row)), lines((60..100).map(row)))).expect("the folder is ours");
    let replay = || run(&["replay", "-c", text(&site.config()), "--input", text(&input), "--voxels"]);
    let (first, again) = (replay(), replay());
    code(&first, 0);
    assert!(!first.stdout.is_empty() && first.stdout == again.stdout, "the same bytes");
    assert_eq!(stderr(&first).lines().filter(|line| line.contains("rows.jsonl")).count(), 3, "{}", stderr(&first));
    assert!(!site.data_dir().exists(), "a replay never opens the store");

    let results = objects(&first);
    let of = |kind: &str| results.iter().filter(|result| result["kind"] == kind).collect::<Vec<_>>();
    let counted: i64 = of("window").iter().filter_map(|window| window["values"]["n"].as_i64()).sum();
    assert_eq!(counted, 99, "row 7 was rejected by the checkpoint");
    assert_eq!(of("spc").len(), 99, "a checkpoint gates what follows");
    assert_eq!(of("voxel").iter().filter_map(|voxel| voxel["count"].as_i64()).sum::<i64>(), 99);

    // The same rows over stdin, and as CSV.
    let mut command = qadf_edge(&["replay", "-c", text(&site.config()), "--input", "-"]);
    let piped = command.stdin(fs::File::open(&input).expect("it was written")).output().expect("it runs");
    let without_voxels: Vec<Value> = results.iter().filter(|result| result["kind"] != "voxel").cloned().collect();
    assert_eq!(objects(&piped).len(), without_voxels.len());
}

#[test]
fn a_journal_is_replayed_with_the_results_that_it_had() {
    let site = Site::new("journal-replay");
    let spread = CONFIG
        .replace("tags = [\"part\"]\n", "tags = [\"part\"]\nwatermark = { delay = \"30ms\" }\n")
        .replace("id = \"quality\"\n", "id = \"quality\"\nparallelism = 3\n");
    site.configure(&spread);
    let appliance = site.start();
    for request in 0..5 {
        let reply = appliance.ask("POST", "/rows?stream=melt", &lines((request * 20..request * 20 + 20).map(row)));
        assert_eq!(reply.status, 202, "{reply:?}");
    }
    appliance.stop();
    let windows = |results: Vec<(String, String)>| -> Vec<String> {
        results.into_iter().filter(|(_, kind)| kind == "window").map(|(id, _)| id).collect()
    };
    let expected = windows(ends::results(&site.store()));
    assert_eq!(expected.len(), 18, "9 windows have ended for 2 parts");
    let replayed = run(&["replay", "-c", text(&site.config()), "--journal", text(&site.data_dir()), "--no-flush"]);
    code(&replayed, 0);
    let word = |result: &Value, key: &str| result[key].as_str().expect("a text").to_owned();
    let results = objects(&replayed).iter().map(|result| (word(result, "id"), word(result, "kind"))).collect();
    assert_eq!(windows(results), expected);
}

#[test]
fn recorded_rows_come_out_in_every_format() {
    let site = Site::new("history");
    site.configure(CONFIG);
    let appliance = site.start();
    let reply = appliance.ask("POST", "/rows?stream=melt", &lines((8..58).map(row)));
    assert_eq!(reply.status, 202, "{reply:?}");
    let config = site.config();
    let history = |more: &[&str]| {
        let mut arguments = vec!["history", "-c", text(&config), "--stream", "melt"];
        arguments.extend(more);
        run(&arguments)
    };
    // Beside the running service.
    let all = history(&[]);
    code(&all, 0);
    assert_eq!(objects(&all).len(), 50);
    let some = history(&["--from", "2026-01-31T12:00:00.1Z", "--to", "2026-01-31T12:00:00.2Z", "--where", "part == \"B\""]);
    let times: Vec<Value> = objects(&some).iter().map(|row| row["time"].clone()).collect();
    assert_eq!(times.len(), 5, "{times:?}");
    code(&history(&["--where", "part =="]), 2);
    code(&history(&["--from", "yesterday"]), 2);
    appliance.stop();

    // And without it.
    let csv = history(&["--format", "csv"]);
    let csv = stdout(&csv);
    assert_eq!(csv.lines().next(), Some("time,x,y,z,layer,part,intensity"));
    assert_eq!(csv.lines().nth(1), Some("2026-01-31T12:00:00.08Z,3.5,2.5,0.5,1,\"A, left\",10.25"));
    assert_eq!(csv.lines().count(), 51);
    // What was written can be replayed.
    let input = site.folder().join("rows.csv");
    fs::write(&input, &csv).expect("the folder is ours");
    let replayed = run(&["replay", "-c", text(&config), "--input", text(&input)]);
    code(&replayed, 0);
    assert_eq!(stderr(&replayed), "");

    let parquet = history(&["--format", "parquet"]);
    code(&parquet, 0);
    assert_eq!((&parquet.stdout[..4], &parquet.stdout[parquet.stdout.len() - 4..]), (&b"PAR1"[..], &b"PAR1"[..]));
}

#[test]
fn refused_input_is_listed_shown_and_taken_again() {
    let site = Site::new("letters");
    site.configure(CONFIG);
    let appliance = site.start();
    let body = format!("{}{{\"time\": {START_NS}, \"part\": \"A\", \"intensity\": 1.0, \"pressure\": 2.0}}\n", lines([row(0)]));
    assert_eq!(appliance.ask("POST", "/rows?stream=melt", &body).status, 202);
    let config = site.config();
    let command = |arguments: &[&str]| run(&[&["dead-letters"], arguments].concat());
    let letters = until("the letter is there", || {
        let listed = command(&["list", "-c", text(&config)]);
        code(&listed, 0);
        Some(objects(&listed)).filter(|letters| letters.len() == 1)
    });
    let number = letters[0]["number"].to_string();
    assert!(letters[0]["detail"].as_str().is_some_and(|detail| detail.contains("pressure")), "{letters:?}");
    assert_eq!(appliance.get("/dead-letters"), json!(letters));
    let shown: Value = serde_json::from_str(&stdout(&command(&["show", "-c", text(&config), &number]))).expect("JSON");
    assert!(shown["raw"].as_str().is_some_and(|raw| raw.contains("pressure")), "{shown}");
    let raw = command(&["show", "-c", text(&config), &number, "--raw"]);
    assert!(body.contains(stdout(&raw).trim()), "{raw:?}");

    let api = site.api();
    let refused = command(&["resubmit", &number, "--url", &api]);
    code(&refused, 1);
    assert!(stderr(&refused).contains("pressure"), "{}", stderr(&refused));
    code(&command(&["resubmit", "999", "--url", &api]), 1);
    appliance.stop();
    code(&command(&["resubmit", &number, "--url", &api]), 1);

    // With the signal declared the same bytes are a row.
    site.configure(&CONFIG.replace("{ intensity = \"V\" }", "{ intensity = \"V\", pressure = \"Pa\" }"));
    let appliance = site.start();
    code(&command(&["resubmit", &number, "--url", &api]), 0);
    assert_eq!(appliance.get("/dead-letters"), json!([]));
    let rows = objects(&run(&["history", "-c", text(&config), "--stream", "melt", "--where", "pressure == 2.0"]));
    assert_eq!(rows.len(), 1);
    appliance.stop();
}

#[test]
fn the_demo_and_the_benchmark_lose_nothing() {
    let figures = [
        "seconds",
        "rows_accepted",
        "rows_processed",
        "rows_per_second",
        "rows_rejected",
        "rows_late",
        "rows_shed",
        "rows_lost",
        "alerts",
        "cpu_seconds",
        "rss_bytes_max",
        "store_bytes",
    ];
    for arguments in [&["demo", "--headless", "--for", "3s", "--rate", "6210"][..], &["bench", "--rows", "200000", "--json"]] {
        let output = run(arguments);
        code(&output, 0);
        let totals: Value = serde_json::from_str(stdout(&output).trim()).expect("one object");
        for figure in figures {
            assert!(totals[figure].is_number(), "{figure} of {totals}");
        }
        for lane in ["p50", "p99", "max"] {
            assert!(totals["latency_ms"][lane].as_f64().is_some_and(|ms| ms > 0.0), "{totals}");
        }
        assert!(totals["rows_processed"].as_u64().is_some_and(|rows| rows >= 10_000), "{totals}");
        assert_eq!((&totals["rows_lost"], &totals["rows_shed"]), (&json!(0), &json!(0)), "{totals}");
        assert_eq!(totals["rows_processed"], totals["rows_accepted"], "{totals}");
    }
}

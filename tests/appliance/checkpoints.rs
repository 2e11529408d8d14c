//! Checkpoints of a running appliance: they come at the configured interval, and what they cost is shown.

use serde_json::{Value, json};

use crate::process::{Appliance, Site, entry};

const STREAM: &str = "[streams.melt]\nsignals = { intensity = \"V\" }\n[[pipelines]]\nid = \"quality\"\nstream = \"melt\"\n";
/// 2026-01-31T12:00:00Z
const START_NS: i64 = 1_769_860_800_000_000_000;

/// How many there were since the start.
fn checkpoints(status: &Value) -> u64 {
    let buckets = status["process"]["checkpoint_seconds_buckets"].as_array().expect("a list");
    buckets.last().and_then(Value::as_u64).unwrap_or(0)
}

/// Row `number`, waited for.
fn post(appliance: &Appliance, number: i64) {
    let row = json!({"time": START_NS + number * 1_000_000, "intensity": 1.0});
    assert_eq!(appliance.ask("POST", "/rows", &row.to_string()).status, 202);
    appliance.until("the row is processed", |status| entry(status, "pipelines", "quality")["processed"] == number + 1);
}

#[test]
fn checkpoints_come_at_the_configured_interval_and_show_what_they_cost() {
    let site = Site::new("interval");
    site.configure(&format!("{STREAM}[checkpoints]\ninterval = \"50ms\"\n"));
    let appliance = site.start();
    for number in 0..3 {
        let before = checkpoints(&appliance.status());
        post(&appliance, number);
        appliance.until("a checkpoint follows the row", |status| checkpoints(status) > before);
    }
    let page = appliance.metrics();
    assert!(page.lines().any(|line| line.starts_with("qadf_checkpoint_duration_seconds_bucket{le=\"0.001\"} ")), "{page}");
    appliance.kill();
    let kept = site.store().checkpoint().expect("the store is sound").expect("there is a checkpoint");

    site.configure(&format!("{STREAM}[checkpoints]\ninterval = \"1h\"\n"));
    let appliance = site.start();
    post(&appliance, 3);
    assert_eq!(checkpoints(&appliance.status()), 0, "an hour has not passed");
    appliance.stop();
    let at_the_end = site.store().checkpoint().expect("the store is sound").expect("there is a checkpoint");
    assert!(at_the_end.position > kept.position, "stopping makes one");
}

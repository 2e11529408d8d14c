//! `[streams.*]`: the shapes of rows, their time, and what is kept of them.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    reader::{At, Section},
    words::not_negative,
};
use crate::{
    dataflow::{AllIdle, WatermarkConfig, WatermarkMode},
    engine::StreamConfig,
    model::{MissingTime, Signal, Stream, TimeUnit},
};

/// Names that a row uses for itself.
const RESERVED: [&str; 9] = ["x", "y", "z", "layer", "device", "boot", "seq", "stream", "watermark"];
const SECOND_NS: i64 = 1_000_000_000;

/// Reads all streams.
pub fn read(root: &Section<'_>) -> Vec<StreamConfig> {
    root.sections("streams").iter().map(|(name, section)| stream(name, section)).collect()
}

fn stream(name: &At<String>, section: &Section<'_>) -> StreamConfig {
    let mut used = BTreeSet::new();
    let signals = signals(section, &mut used);
    let tags = section
        .strings("tags")
        .into_iter()
        .filter(|tag| check_name(section, tag, &mut used))
        .map(|tag| tag.value.as_str().into())
        .collect();
    if signals.is_empty() && section.has("signals") {
        section.fault_at("signals", format!("[{}] has no signals: name at least one", section.path));
    }
    let (time_field, time_unit, time_missing) = time(section);
    if used.contains(&time_field) {
        section.fault_at("time", format!("`{time_field}` is both the time and a signal or tag"));
    }
    let (buffer_rows, window_rows) = buffer(section);
    let watch = super::quality::watch(section, &signals);
    let stream =
        Stream { id: name.value.as_str().into(), signals, tags, time_field: time_field.as_str().into(), time_unit, time_missing };
    StreamConfig { stream: Arc::new(stream), watermark: watermark(section), buffer_rows, window_rows, watch }
}

fn signals(section: &Section<'_>, used: &mut BTreeSet<String>) -> Vec<Signal> {
    let Some(table) = section.required("signals").and_then(|value| value.section()) else { return Vec::new() };
    table
        .rest()
        .into_iter()
        .filter_map(|(name, unit)| {
            let unit = unit.string()?;
            check_name(section, &name, used).then(|| Signal { name: name.value.as_str().into(), unit: unit.as_str().into() })
        })
        .collect()
}

fn check_name(section: &Section<'_>, name: &At<String>, used: &mut BTreeSet<String>) -> bool {
    if RESERVED.contains(&name.value.as_str()) {
        section.faults.add(&name.span, format!("`{}` has a meaning of its own in every row: choose another name", name.value));
        return false;
    }
    if !used.insert(name.value.clone()) {
        section.faults.add(&name.span, format!("`{}` is named twice", name.value));
        return false;
    }
    true
}

fn time(section: &Section<'_>) -> (String, TimeUnit, MissingTime) {
    let Some(time) = section.section("time") else { return ("time".into(), TimeUnit::default(), MissingTime::default()) };
    let units =
        [("ns", TimeUnit::Nanoseconds), ("us", TimeUnit::Microseconds), ("ms", TimeUnit::Milliseconds), ("s", TimeUnit::Seconds)];
    let missing = [("reject", MissingTime::Reject), ("arrival", MissingTime::Arrival)];
    (
        time.string_or("field", "time"),
        time.choice_or("unit", &units, TimeUnit::default()),
        time.choice_or("missing", &missing, MissingTime::default()),
    )
}

fn watermark(section: &Section<'_>) -> WatermarkConfig {
    let mut config = WatermarkConfig::default();
    let Some(table) = section.section("watermark") else { return config };
    let modes = [("bounded", WatermarkMode::Bounded), ("punctuated", WatermarkMode::Punctuated)];
    config.mode = table.choice_or("mode", &modes, config.mode);
    config.delay_ns = not_negative(&table, "delay", config.delay_ns);
    config.idle_ns = Some(not_negative(&table, "idle", config.idle_ns.unwrap_or(30 * SECOND_NS)));
    config.max_future_ns = Some(not_negative(&table, "max_future", config.max_future_ns.unwrap_or(300 * SECOND_NS)));
    let all_idle = [("close", AllIdle::Close), ("flush", AllIdle::Flush), ("hold", AllIdle::Hold)];
    config.all_idle = table.choice_or("all_idle", &all_idle, config.all_idle);
    config
}

fn buffer(section: &Section<'_>) -> (usize, usize) {
    let Some(buffer) = section.section("buffer") else { return (1000, 100) };
    let rows = buffer.integer_or("rows", 1000, 1..100_000_001);
    let window = buffer.integer_or("window", 100.min(rows), 0..100_000_001);
    if window > rows {
        buffer.fault_at("window", format!("a window of {window} rows does not fit a buffer of {rows}: raise `rows`"));
    }
    (rows as usize, window as usize)
}

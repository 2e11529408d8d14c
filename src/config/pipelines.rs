//! `[[pipelines]]` and what is inside: filter, derived signals, windows, joins, patterns, charts, checkpoints.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    charts, quality,
    reader::{At, Faults, Section, Value, nearest},
    words::{SEVERITIES, group_by, known_stream, not_negative, positive},
};
use crate::{
    dataflow::{
        Accumulation, Aggregate, WindowConfig, WindowKind,
        join::{JoinConfig, JoinType},
        pattern::{PatternConfig, PatternKind},
        spread::SHARDS_MAX,
    },
    engine::{PipelineConfig, StreamConfig},
    expr::{Expr, Type},
    model::{Severity, Signal, Stream},
    quality::checkpoint::{CheckpointConfig, OnFail},
};

const DAY_NS: i64 = 86_400_000_000_000;

/// Reads all pipelines over `streams`; `sinks` are the names that `sinks = […]` may hold.
pub fn read(root: &Section<'_>, streams: &[StreamConfig], sinks: &[Arc<str>]) -> Vec<PipelineConfig> {
    let tables = root.get("pipelines").map_or_else(Vec::new, |value| value.items());
    let mut ids = BTreeSet::new();
    tables.iter().filter_map(|table| pipeline(&table.section()?, streams, sinks, &mut ids)).collect()
}

/// The `id` of a table, not used before.
fn unique_id(section: &Section<'_>, used: &mut BTreeSet<String>) -> Option<Arc<str>> {
    let id = section.required_string("id")?;
    if id.is_empty() || id.contains(['/', '\n']) {
        section.fault_at("id", "an id is a word without slashes");
        return None;
    }
    if !used.insert(id.clone()) {
        section.fault_at("id", format!("`{id}` is used twice: give each its own id"));
    }
    Some(id.as_str().into())
}

fn pipeline(
    section: &Section<'_>,
    streams: &[StreamConfig],
    sinks: &[Arc<str>],
    ids: &mut BTreeSet<String>,
) -> Option<PipelineConfig> {
    let id = unique_id(section, ids);
    let stream = known_stream(section, "stream", streams);
    let sinks = section.has("sinks").then(|| known_sinks(section, sinks));
    let Some(stream) = stream else {
        section.rest();
        return None;
    };
    let filter = section.get("filter").and_then(|value| expression(&value, &stream, Type::Bool));
    let (derive, extended) = derived(section, &stream);
    let items = |key: &str| section.get(key).map_or_else(Vec::new, |value| value.items());
    let mut used = BTreeSet::new();
    let windows = items("windows").iter().filter_map(|item| window(&item.section()?, &extended, &mut used)).collect();
    let joins = items("joins").iter().filter_map(|item| join(&item.section()?, &extended, streams, &mut used)).collect();
    let patterns = items("patterns").iter().filter_map(|item| pattern(&item.section()?, &extended, &mut used)).collect();
    let charts: Vec<_> = items("charts").iter().filter_map(|item| charts::read(item, &extended)).collect();
    for chart in &charts {
        if !used.insert(chart.id().to_string()) {
            section.fault(format!("`{}` is used twice in this pipeline: give each chart its own id", chart.id()));
        }
    }
    let thresholds = items("thresholds").iter().filter_map(|item| quality::threshold(item, &extended, &mut used)).collect();
    let checkpoints = items("checkpoints").iter().filter_map(|item| checkpoint(&item.section()?, &extended, &mut used)).collect();
    let parallelism = section.integer_or("parallelism", 1, 1..SHARDS_MAX as i64 + 1) as usize;
    section.finish();
    Some(PipelineConfig {
        id: id?,
        stream: Arc::clone(&stream.id),
        sinks,
        parallelism,
        filter,
        derive,
        checkpoints,
        windows,
        joins,
        patterns,
        charts,
        thresholds,
    })
}

fn known_sinks(section: &Section<'_>, sinks: &[Arc<str>]) -> Vec<Arc<str>> {
    section
        .strings("sinks")
        .into_iter()
        .filter_map(|name| {
            let found = sinks.iter().find(|sink| ***sink == *name.value).cloned();
            if found.is_none() {
                let hint = nearest(&name.value, sinks.iter().map(|sink| &**sink))
                    .map_or_else(|| "add [sinks.…] for it".to_owned(), |near| format!("did you mean `{near}`?"));
                section.faults.add(&name.span, format!("there is no sink `{}`: {hint}", name.value));
            }
            found
        })
        .collect()
}

/// The text of an expression that compiles; a fault at its place otherwise.
pub fn expression(value: &Value<'_>, stream: &Stream, want: Type) -> Option<String> {
    let text = value.string()?;
    compiles(&At { value: text, span: value.span.clone() }, stream, want, &value.faults)
}

fn compiles(text: &At<String>, stream: &Stream, want: Type, faults: &Faults) -> Option<String> {
    match Expr::compile(&text.value, stream, want) {
        Ok(_) => Some(text.value.clone()),
        Err(error) => {
            // The first character of the text stands behind its quote.
            let offset = text.value.char_indices().nth(error.column - 1).map_or(text.value.len(), |(at, _)| at);
            let start = (text.span.start + 1 + offset).min(text.span.end);
            faults.add(&(start..text.span.end), error.message);
            None
        }
    }
}

fn derived(section: &Section<'_>, stream: &Stream) -> (Vec<(Arc<str>, String)>, Stream) {
    let mut extended = stream.clone();
    let mut derive = Vec::new();
    let Some(table) = section.section("derive") else { return (derive, extended) };
    for (name, value) in table.rest() {
        if extended.signal(&name.value).is_some() || extended.tag(&name.value).is_some() {
            section.faults.add(&name.span, format!("`{}` is a column of the stream already: choose another name", name.value));
            continue;
        }
        if let Some(text) = expression(&value, &extended, Type::Number) {
            let name: Arc<str> = name.value.as_str().into();
            extended.signals.push(Signal { name: Arc::clone(&name), unit: "".into() });
            derive.push((name, text));
        }
    }
    (derive, extended)
}

#[derive(Clone, Copy)]
enum WindowType {
    Tumbling,
    Sliding,
    Session,
}

fn window(section: &Section<'_>, stream: &Stream, used: &mut BTreeSet<String>) -> Option<WindowConfig> {
    let id = unique_id(section, used);
    let types = [("tumbling", WindowType::Tumbling), ("sliding", WindowType::Sliding), ("session", WindowType::Session)];
    let kind = section.required("type").and_then(|value| value.choice(&types));
    let timezone = timezone(section);
    let kind = kind.and_then(|kind| window_kind(section, kind, timezone.is_some()));
    let accumulations = [("accumulating", Accumulation::Accumulating), ("discarding", Accumulation::Discarding)];
    let config = WindowConfig {
        id: id.unwrap_or_else(|| "".into()),
        kind: kind?,
        offset_ns: section.duration_or("offset", 0),
        allowed_lateness_ns: not_negative(section, "allowed_lateness", 0),
        accumulation: section.choice_or("accumulation", &accumulations, Accumulation::Accumulating),
        timezone,
        group_by: group_by(section, "group_by", stream),
        aggregates: aggregates(section, stream),
    };
    section.finish();
    if let Err(error) = config.check() {
        section.fault_at(error.key, error.message);
        return None;
    }
    Some(config)
}

fn window_kind(section: &Section<'_>, kind: WindowType, has_timezone: bool) -> Option<WindowKind> {
    match kind {
        WindowType::Tumbling => {
            let size_ns = positive(section, "size")?;
            let whole_days = size_ns % DAY_NS == 0 && has_timezone;
            let calendar_days = whole_days.then_some((size_ns / DAY_NS) as u32);
            Some(WindowKind::Tumbling { size_ns, calendar_days })
        }
        WindowType::Sliding => {
            let (size_ns, slide_ns) = (positive(section, "size")?, positive(section, "slide")?);
            if slide_ns > size_ns {
                section.faults.warn(
                    &section.span_of("slide"),
                    "`slide` is larger than `size`: rows in the gaps between windows belong to none",
                );
            }
            Some(WindowKind::Sliding { size_ns, slide_ns })
        }
        WindowType::Session => {
            let gap_ns = positive(section, "gap")?;
            let max_duration_ns = if section.has("max_duration") { Some(positive(section, "max_duration")?) } else { None };
            Some(WindowKind::Session { gap_ns, max_duration_ns })
        }
    }
}

fn timezone(section: &Section<'_>) -> Option<jiff::tz::TimeZone> {
    let name = section.string("timezone")?;
    if name == "UTC" {
        return None;
    }
    match jiff::tz::TimeZone::get(&name) {
        Ok(zone) => Some(zone),
        Err(_) => {
            section.fault_at("timezone", format!("`{name}` is no IANA time zone: write one such as Europe/Berlin"));
            None
        }
    }
}

fn aggregates(section: &Section<'_>, stream: &Stream) -> Vec<(Arc<str>, Aggregate)> {
    let Some(table) = section.required("aggregate").and_then(|value| value.section()) else { return Vec::new() };
    let aggregates: Vec<_> = table
        .rest()
        .into_iter()
        .filter_map(|(name, value)| {
            let text = value.string()?;
            match Aggregate::parse(&text, stream) {
                Ok(aggregate) => Some((name.value.as_str().into(), aggregate)),
                Err(error) => {
                    let start = (value.span.start + error.column).min(value.span.end);
                    value.faults.add(&(start..value.span.end), error.message);
                    None
                }
            }
        })
        .collect();
    if aggregates.is_empty() {
        section.fault_at("aggregate", "a window without an aggregate says nothing: add one such as n = \"count()\"");
    }
    aggregates
}

fn join(
    section: &Section<'_>,
    stream: &Stream,
    streams: &[StreamConfig],
    used: &mut BTreeSet<String>,
) -> Option<(Arc<str>, JoinConfig)> {
    let id = unique_id(section, used);
    let with = known_stream(section, "with", streams);
    let on = group_by(section, "on", stream);
    if let Some(with) = &with {
        for tag in on.iter().filter(|tag| with.tag(tag).is_none()) {
            section.fault_at("on", format!("the stream `{}` has no tag `{tag}`: declare it in its `tags`", with.id));
        }
        if *with.id == *stream.id {
            section.fault_at("with", "a stream is not joined with itself");
        }
    }
    let kind = section.choice_or("type", &[("inner", JoinType::Inner), ("left", JoinType::Left)], JoinType::Inner);
    let mut config = JoinConfig::within(&id?, &[], 0);
    config.on = on;
    config.kind = kind;
    if section.has("within") {
        let within_ns = not_negative(section, "within", 0);
        (config.lower_ns, config.upper_ns) = (-within_ns, within_ns);
    } else {
        config.lower_ns = section.required("lower")?.duration()?;
        config.upper_ns = section.required("upper")?.duration()?;
        let inclusive = section.bool_or("inclusive", true);
        (config.lower_inclusive, config.upper_inclusive) = (inclusive, inclusive);
        if config.lower_ns > config.upper_ns {
            section.fault_at("lower", "`lower` is above `upper`: no row can match");
        }
    }
    section.finish();
    Some((Arc::clone(&with?.id), config))
}

fn pattern(section: &Section<'_>, stream: &Stream, used: &mut BTreeSet<String>) -> Option<PatternConfig> {
    let id = unique_id(section, used);
    let within_ns = positive(section, "within");
    let conditions = |key: &str| -> Vec<String> {
        section.strings(key).iter().filter_map(|text| compiles(text, stream, Type::Bool, &section.faults)).collect()
    };
    let one = |key: &str| section.required(key).and_then(|value| expression(&value, stream, Type::Bool));
    let kind = match (section.has("sequence"), section.has("all"), section.has("absence")) {
        (true, false, false) => PatternKind::Sequence(conditions("sequence").into_iter().map(Into::into).collect()),
        (false, true, false) => PatternKind::All(conditions("all").into_iter().map(Into::into).collect()),
        (false, false, true) => PatternKind::Absence { absence: one("absence")?.into(), after: one("after")?.into() },
        _ => {
            section.fault("a pattern has exactly one of `sequence`, `all` and `absence` (with `after`)");
            section.rest();
            return None;
        }
    };
    let key = if section.has("all") { "all" } else { "sequence" };
    if matches!(&kind, PatternKind::Sequence(list) | PatternKind::All(list) if list.is_empty()) {
        section.fault_at(key, format!("`{key}` is empty: write at least one condition"));
    }
    let group_by = group_by(section, "group_by", stream);
    section.finish();
    Some(PatternConfig { id: id?, kind, within_ns: within_ns?, group_by, rows_max: PatternConfig::ROWS_MAX })
}

fn checkpoint(section: &Section<'_>, stream: &Stream, used: &mut BTreeSet<String>) -> Option<CheckpointConfig> {
    let name = section.required_string("name");
    if let Some(name) = name.as_ref().filter(|name| !used.insert((*name).clone())) {
        section.fault_at("name", format!("`{name}` is used twice: give each checkpoint its own name"));
    }
    let check = section.required("check").and_then(|value| expression(&value, stream, Type::Bool));
    let on_fail = section.choice_or(
        "on_fail",
        &[("alert", OnFail::Alert), ("flag", OnFail::Flag), ("reject", OnFail::Reject)],
        OnFail::Alert,
    );
    let severity = section.choice_or("severity", &SEVERITIES, Severity::High);
    section.finish();
    Some(CheckpointConfig { name: name?.as_str().into(), check: check?, on_fail, severity })
}

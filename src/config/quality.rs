//! What watches over values without a chart: `[streams.*].watch` and `[[pipelines.thresholds]]`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    reader::{At, Section, Value, nearest},
    words::{SEVERITIES, group_by, positive},
};
use crate::{
    model::{Severity, Signal, Stream},
    quality::{
        threshold::{Limit, ThresholdConfig, WINDOW_MAX, WINDOW_MIN},
        watch::WatchConfig,
    },
};

/// Values of the recent past unless another number is given.
const WINDOW_DEFAULT: i64 = 100;

/// Reads `watch` of a stream with `signals`.
pub fn watch(stream: &Section<'_>, signals: &[Signal]) -> WatchConfig {
    let mut config = WatchConfig::default();
    let Some(section) = stream.section("watch") else { return config };
    let duration = |key: &str, default: Option<i64>| match section.get(key) {
        // The word for "never", since a default is otherwise hard to take away.
        Some(value) if value.plain().as_str() == Some("never") => None,
        Some(_) => positive(&section, key),
        None => default,
    };
    config.stale_ns = duration("stale", config.stale_ns);
    config.stuck_ns = duration("stuck", None);
    config.flatline_ns = duration("flatline", None);
    config.severity = section.choice_or("severity", &SEVERITIES, config.severity);
    if section.has("signals") {
        let named = section.strings("signals");
        config.signals = Some(named.iter().filter_map(|name| known_signal(&section, name, signals)).collect());
    }
    config.flat_within = within(&section, signals);
    if config.flatline_ns.is_some() && config.flat_within.is_empty() {
        section.fault_at("flatline", "a flat signal stays within a range: say which with `within = { signal = range }`");
    }
    config
}

fn within(section: &Section<'_>, signals: &[Signal]) -> BTreeMap<Arc<str>, f64> {
    let Some(table) = section.section("within") else { return BTreeMap::new() };
    let ranges = table.rest().into_iter().filter_map(|(name, value)| {
        let name = known_signal(section, &name, signals)?;
        let range = value.number()?;
        if !(range >= 0.0 && range.is_finite()) {
            value.fault(format!("{range} is no range: write the largest minus the smallest value, 0 or more"));
        }
        Some((name, range))
    });
    ranges.collect()
}

fn known_signal(section: &Section<'_>, name: &At<String>, signals: &[Signal]) -> Option<Arc<str>> {
    let found = signals.iter().find(|signal| *signal.name == *name.value).map(|signal| Arc::clone(&signal.name));
    if found.is_none() {
        let hint = nearest(&name.value, signals.iter().map(|signal| &*signal.name))
            .map_or_else(String::new, |near| format!(": did you mean `{near}`?"));
        section.faults.add(&name.span, format!("the stream has no signal `{}`{hint}", name.value));
    }
    found
}

#[derive(Clone, Copy)]
enum Kind {
    Absolute,
    Relative,
    Rate,
    Anomaly,
}

/// Reads one threshold over rows of `stream`.
pub fn threshold(value: &Value<'_>, stream: &Stream, used: &mut BTreeSet<String>) -> Option<ThresholdConfig> {
    let section = value.section()?;
    let name = section.required_string("name");
    if let Some(name) = name.as_ref().filter(|name| !used.insert((*name).clone())) {
        section.fault_at("name", format!("`{name}` is used twice: give each threshold its own name"));
    }
    let kinds = [("absolute", Kind::Absolute), ("relative", Kind::Relative), ("rate", Kind::Rate), ("anomaly", Kind::Anomaly)];
    let kind = section.choice_or("type", &kinds, Kind::Absolute);
    let signal = section.required("signal").and_then(|value| {
        let name = At { value: value.string()?, span: value.span.clone() };
        known_signal(&section, &name, &stream.signals)
    });
    let severity = section.choice_or("severity", &SEVERITIES, Severity::High);
    let group_by = group_by(&section, "group_by", stream);
    let limit = limit(&section, kind);
    section.finish();
    Some(ThresholdConfig { name: name?.as_str().into(), signal: signal?, limit: limit?, severity, group_by })
}

fn limit(section: &Section<'_>, kind: Kind) -> Option<Limit> {
    let above_zero = |key: &str| {
        let number = section.required(key)?.number()?;
        if number > 0.0 && number.is_finite() {
            return Some(number);
        }
        section.fault_at(key, format!("`{key}` is {number}: write a number above 0"));
        None
    };
    let window = || section.integer_or("window", WINDOW_DEFAULT, WINDOW_MIN as i64..WINDOW_MAX as i64 + 1) as usize;
    Some(match kind {
        Kind::Absolute => absolute(section)?,
        Kind::Relative => Limit::Relative { percent: above_zero("percent")?, window: window() },
        Kind::Rate => Limit::Rate { per_second: above_zero("per_second")? },
        Kind::Anomaly => Limit::Anomaly { deviations: above_zero("deviations")?, window: window() },
    })
}

fn absolute(section: &Section<'_>) -> Option<Limit> {
    let side = |key: &str| section.get(key).and_then(|value| value.number());
    let (lower, upper) = (side("lower"), side("upper"));
    if lower.is_none() && upper.is_none() {
        section.fault("an absolute threshold has a `lower` or an `upper` limit, or both");
        return None;
    }
    if lower.zip(upper).is_some_and(|(lower, upper)| lower >= upper) {
        section.fault_at("lower", "`lower` is not below `upper`: no value is within");
    }
    Some(Limit::Absolute { lower, upper })
}

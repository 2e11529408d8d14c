//! `[[pipelines.charts]]`: the keys are those of [`ChartSettings`], checked by `spc` itself.

use serde::Deserialize;

use super::reader::{Section, Value};
use crate::{
    model::Stream,
    spc::{ChartConfig, ChartSettings},
};

/// Every key a chart knows, so that an unknown one gets its place and a suggestion.
const KEYS: [&str; 22] = [
    "id",
    "type",
    "signal",
    "signals",
    "subgroup",
    "limits",
    "estimator",
    "width",
    "lambda",
    "variance",
    "k",
    "h",
    "head_start",
    "span",
    "size",
    "alpha",
    "ucl",
    "nominal",
    "rules",
    "spec",
    "group_by",
    "conventions",
];

/// Reads one chart over rows of `stream`.
pub fn read(value: &Value<'_>, stream: &Stream) -> Option<ChartConfig> {
    let section = value.section()?;
    for key in KEYS {
        section.get(key);
    }
    section.required("id");
    section.required("type");
    let faults_before = section.faults.count();
    section.finish();
    if section.faults.count() > faults_before {
        return None;
    }
    let settings = match ChartSettings::deserialize(value.plain()) {
        Ok(settings) => settings,
        Err(error) => {
            value.fault(format!("[{}]: {}", section.path, error.message()));
            return None;
        }
    };
    match ChartConfig::check(&settings) {
        Ok(config) => check_names(&section, config, stream),
        Err(faults) => {
            for fault in faults {
                section
                    .faults
                    .add(&place(&section, &fault.key), format!("chart `{}`, `{}`: {}", fault.chart, fault.key, fault.message));
            }
            None
        }
    }
}

/// The place of a dotted key, or of the nearest table around it.
fn place(section: &Section<'_>, key: &str) -> super::reader::Span {
    let (first, rest) = key.split_once('.').map_or((key, None), |(first, rest)| (first, Some(rest)));
    match (section.get(first), rest) {
        (Some(value), Some(rest)) if value.is_table() => value.section().map_or(value.span.clone(), |inner| {
            inner.rest();
            place(&inner, rest)
        }),
        (Some(value), _) => value.span.clone(),
        (None, _) => section.span.clone(),
    }
}

fn check_names(section: &Section<'_>, config: ChartConfig, stream: &Stream) -> Option<ChartConfig> {
    let mut good = true;
    for name in config.signals() {
        if stream.signal(name).is_none() {
            let key = if section.has("signal") { "signal" } else { "signals" };
            let hint = super::reader::nearest(name, stream.signals.iter().map(|signal| &*signal.name))
                .map_or(String::new(), |near| format!(": did you mean `{near}`?"));
            section.fault_at(key, format!("the stream `{}` has no signal `{name}`{hint}", stream.id));
            good = false;
        }
    }
    for name in config.group_by() {
        if stream.tag(name).is_none() {
            let hint = super::reader::nearest(name, stream.tags.iter().map(|tag| &**tag))
                .map_or(String::new(), |near| format!(": did you mean `{near}`?"));
            section.fault_at("group_by", format!("the stream `{}` has no tag `{name}`{hint}", stream.id));
            good = false;
        }
    }
    good.then_some(config)
}

//! What several sections say in the same words: durations, severities, tags, streams.

use std::sync::Arc;

use super::reader::{Section, nearest};
use crate::{
    engine::StreamConfig,
    model::{Severity, Stream},
};

/// The words for severities.
pub const SEVERITIES: [(&str, Severity); 4] =
    [("low", Severity::Low), ("medium", Severity::Medium), ("high", Severity::High), ("critical", Severity::Critical)];

/// A duration that is zero or more.
pub fn not_negative(section: &Section<'_>, key: &str, default_ns: i64) -> i64 {
    let ns = section.duration_or(key, default_ns);
    if ns < 0 {
        section.fault_at(key, format!("`{}.{key}` is negative: write a duration of zero or more", section.path));
        return default_ns;
    }
    ns
}

/// A duration above zero; none (and a fault) otherwise.
pub fn positive(section: &Section<'_>, key: &str) -> Option<i64> {
    let ns = section.required(key)?.duration()?;
    if ns <= 0 {
        section.fault_at(key, format!("`{}.{key}` is not positive: write a duration above zero", section.path));
        return None;
    }
    Some(ns)
}

/// The tags in `key` that the stream has.
pub fn group_by(section: &Section<'_>, key: &str, stream: &Stream) -> Vec<Arc<str>> {
    section
        .strings(key)
        .into_iter()
        .filter_map(|name| {
            if let Some(at) = stream.tag(&name.value) {
                return Some(Arc::clone(&stream.tags[at]));
            }
            let hint = nearest(&name.value, stream.tags.iter().map(|tag| &**tag))
                .map_or_else(|| "declare it in `tags`".to_owned(), |near| format!("did you mean `{near}`?"));
            section.faults.add(&name.span, format!("the stream `{}` has no tag `{}`: {hint}", stream.id, name.value));
            None
        })
        .collect()
}

/// The stream that `key` names; a fault with the nearest known one otherwise.
pub fn known_stream(section: &Section<'_>, key: &str, streams: &[StreamConfig]) -> Option<Arc<Stream>> {
    let name = section.required_string(key)?;
    if let Some(lane) = streams.iter().find(|lane| *lane.stream.id == *name) {
        return Some(Arc::clone(&lane.stream));
    }
    let hint = nearest(&name, streams.iter().map(|lane| &*lane.stream.id))
        .map_or_else(|| format!("add [streams.{name}]"), |near| format!("did you mean `{near}`?"));
    section.fault_at(key, format!("there is no stream `{name}`: {hint}"));
    None
}

//! Which happenings make somebody look: the onset of a violation on a chart, a row that fails a checkpoint.
//!
//! A chart reports each run of violating points once; the alert book then keeps the same rule of the same chart and key quiet for the
//! cooldown.

use std::sync::Arc;

use crate::{
    model::{Key, Output},
    quality::alert::{AlertBook, AlertConfig, Cause},
    spc::Onset,
};

/// What stands for the pipeline where an alert belongs to none.
pub const APPLIANCE: &str = "appliance";

/// The alert book.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Alarms {
    /// What was raised, and what became of it.
    pub book: AlertBook,
}

impl Alarms {
    /// An empty book.
    pub fn new(config: AlertConfig) -> Self {
        Self { book: AlertBook::new(config) }
    }

    /// Puts out the alerts that `causes` make.
    pub fn raise(&mut self, pipeline: &Arc<str>, causes: Vec<Cause>, out: &mut Vec<Output>) {
        out.extend(causes.into_iter().filter_map(|cause| self.book.raise(pipeline, cause)));
    }

    /// Puts out the alerts that onsets on a chart make.
    pub fn onsets(&mut self, pipeline: &Arc<str>, onsets: impl Iterator<Item = Onset>, out: &mut Vec<Output>) {
        let causes = onsets.map(|onset| cause(&onset)).collect();
        self.raise(pipeline, causes, out);
    }
}

fn cause(onset: &Onset) -> Cause {
    let key = words(&onset.key);
    let rule = onset.rules.iter().chain(onset.spread_rules.iter()).next().map_or("", |rule| rule.name());
    let of = if key.is_empty() { String::new() } else { format!("{key}: ") };
    Cause {
        metric: format!("chart {} {key} {rule}", onset.chart),
        source: Arc::clone(&onset.chart),
        severity: onset.severity,
        time: onset.time,
        at: onset.at,
        message: format!("{of}{}", onset.message()),
        evidence: serde_json::json!({
            "key": &onset.key, "index": onset.index, "rules": &onset.rules, "spread_rules": &onset.spread_rules,
            "statistic": onset.statistic, "center": onset.center, "lcl": onset.lcl, "ucl": onset.ucl,
        }),
    }
}

/// A key as `tag=value,…`.
pub fn words(key: &Key) -> String {
    key.iter().map(|(tag, value)| format!("{tag}={}", value.as_deref().unwrap_or("–"))).collect::<Vec<_>>().join(",")
}

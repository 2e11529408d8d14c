//! How the appliance does: figures → scores → one word.
//!
//! Each figure scores 1 up to its good value, 0 from its bad value on, and falls in a straight line between. The whole is the mean of the
//! known scores; what is not known is left out, and where nothing is known the word is `unknown`, never a good one. A figure at 0 keeps
//! the whole from being healthy.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What is measured; `None` = not known.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Figures {
    /// Share of all cores in use, 0 to 1.
    pub cpu: Option<f64>,
    /// Share of memory in use, 0 to 1.
    pub memory: Option<f64>,
    /// Share of the disk budget in use, 0 to 1.
    pub disk: Option<f64>,
    /// Share of rows that were rejected, 0 to 1.
    pub errors: Option<f64>,
    /// 99th percentile of the latency, milliseconds.
    pub latency_ms: Option<f64>,
}

/// The word for a score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// From 0.8.
    Healthy,
    /// From 0.6.
    Degraded,
    /// From 0.3.
    Unhealthy,
    /// Below.
    Critical,
    /// Nothing is known.
    #[default]
    Unknown,
}

/// What it comes to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Assessment {
    /// The word.
    pub status: Health,
    /// 0 to 1.
    pub score: Option<f64>,
    /// By name.
    pub scores: BTreeMap<String, Option<f64>>,
}

/// Name, good up to, bad from.
const SCALES: [(&str, f64, f64); 5] =
    [("cpu", 0.7, 1.0), ("memory", 0.8, 1.0), ("disk", 0.85, 1.0), ("errors", 0.01, 0.2), ("latency_ms", 100.0, 5000.0)];

/// Assesses `figures`.
pub fn assess(figures: &Figures) -> Assessment {
    let values = [figures.cpu, figures.memory, figures.disk, figures.errors, figures.latency_ms];
    let scores: BTreeMap<String, Option<f64>> = SCALES
        .into_iter()
        .zip(values)
        .map(|((name, good, bad), value)| (name.to_owned(), value.and_then(|value| score(value, good, bad))))
        .collect();
    let known: Vec<f64> = scores.values().filter_map(|score| *score).collect();
    let mean = (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64);
    let exhausted = known.contains(&0.0);
    let status = match mean {
        None => Health::Unknown,
        Some(score) if score >= 0.8 && !exhausted => Health::Healthy,
        Some(score) if score >= 0.6 => Health::Degraded,
        Some(score) if score >= 0.3 => Health::Unhealthy,
        Some(_) => Health::Critical,
    };
    Assessment { status, score: mean, scores }
}

fn score(value: f64, good: f64, bad: f64) -> Option<f64> {
    value.is_finite().then(|| ((bad - value) / (bad - good)).clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_is_unknown_and_no_good_word() {
        assert_eq!(assess(&Figures::default()).status, Health::Unknown);
        let nothing = Figures { cpu: Some(f64::NAN), ..Figures::default() };
        assert_eq!((assess(&nothing).status, assess(&nothing).score), (Health::Unknown, None));
    }

    #[test]
    fn words_follow_the_score_and_a_full_disk_is_never_healthy() {
        let good = Figures { cpu: Some(0.3), memory: Some(0.5), disk: Some(0.2), errors: Some(0.0), latency_ms: Some(5.0) };
        assert_eq!(assess(&good), Assessment { status: Health::Healthy, score: Some(1.0), scores: assess(&good).scores });
        assert_eq!(assess(&Figures { disk: Some(1.0), ..good }).status, Health::Degraded);
        for (cpu, want) in [(0.7, Health::Healthy), (0.8, Health::Degraded), (0.9, Health::Unhealthy), (0.95, Health::Critical)] {
            assert_eq!(assess(&Figures { cpu: Some(cpu), ..Figures::default() }).status, want, "{cpu}");
        }
    }
}

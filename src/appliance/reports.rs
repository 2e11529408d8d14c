//! What goes wrong with the appliance itself becomes an alert, if it lasts.
//!
//! The status page lists problems as they are at this moment; a server that restarts is on it for a second. What is still there after
//! [`LASTING`] is reported once, through the inbox, and once more after it had gone.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::model::{Order, Severity};

/// A problem that is gone sooner is not reported.
const LASTING: Duration = Duration::from_secs(10);

/// Longer words of a far end are cut.
const MESSAGE_CHARS_MAX: usize = 1000;

/// Problems by what they are about.
#[derive(Debug, Default)]
pub(super) struct Reports {
    since: BTreeMap<String, (Instant, bool)>,
}

impl Reports {
    /// What is to be reported, given the problems of this moment, each as `subject: what`.
    pub fn due(&mut self, problems: &[String], at: Instant) -> Vec<Order> {
        let about = |problem: &str| problem.split(": ").next().unwrap_or_default().to_owned();
        let present: Vec<(String, &String)> = problems.iter().map(|problem| (about(problem), problem)).collect();
        self.since.retain(|subject, _| present.iter().any(|(there, _)| there == subject));
        let mut due = Vec::new();
        for (subject, problem) in present {
            let (since, told) = self.since.entry(subject.clone()).or_insert((at, false));
            if !*told && at.duration_since(*since) >= LASTING {
                *told = true;
                let severity = severity(&subject, problem);
                let message = problem.chars().take(MESSAGE_CHARS_MAX).collect();
                due.push(Order::Report { source: subject.into(), severity, message });
            }
        }
        due
    }
}

/// Rows that are lost or may be are urgent; a far end that is down costs disk.
fn severity(subject: &str, problem: &str) -> Severity {
    match subject.split(' ').next() {
        Some("store" | "engine") => Severity::Critical,
        _ if problem.contains("unaccounted") => Severity::Critical,
        Some("source" | "disk") => Severity::High,
        _ => Severity::Medium,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_is_reported_once_and_again_after_it_had_gone() {
        let (mut reports, start) = (Reports::default(), Instant::now());
        let mut due = |problems: &[&str], seconds: u64| -> Vec<String> {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            let orders = reports.due(&problems, start + Duration::from_secs(seconds));
            orders
                .into_iter()
                .map(|order| match order {
                    Order::Report { source, severity, .. } => format!("{source} {}", severity.name()),
                    other => panic!("{other:?}"),
                })
                .collect()
        };
        assert!(due(&["sink plant: refused"], 0).is_empty());
        assert!(due(&["sink plant: timed out"], 9).is_empty());
        assert_eq!(due(&["sink plant: timed out", "store: full"], 10), ["sink plant medium"]);
        assert_eq!(due(&["sink plant: timed out", "store: full"], 20), ["store critical"]);
        assert!(due(&[], 30).is_empty());
        assert!(due(&["sink plant: refused"], 31).is_empty());
        assert_eq!(due(&["sink plant: refused"], 41), ["sink plant medium"]);
    }
}

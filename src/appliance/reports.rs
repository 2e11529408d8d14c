//! What goes wrong with the appliance itself becomes an alert, if it lasts.
//!
//! The status page lists problems as they are at this moment; a server that restarts is on it for a second. What is still there after
//! [`LASTING`] is reported once, through the inbox, and once more after it had gone.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{
    model::{Order, Severity},
    store::NOTHING_TO_REMOVE,
};

/// A problem that is gone sooner is not reported.
const LASTING: Duration = Duration::from_secs(10);

/// Longer words of a far end are cut.
const MESSAGE_CHARS_MAX: usize = 1000;

/// Problems by what they are about: since when, and whether that was told.
#[derive(Debug, Default)]
pub(super) struct Reports {
    since: BTreeMap<(String, Sort), (Instant, bool)>,
}

impl Reports {
    /// What is to be reported, given the problems of this moment, each as `subject: what`.
    pub fn due(&mut self, problems: &[String], at: Instant) -> Vec<Order> {
        let about = |problem: &str| (subject(problem).to_owned(), sort(problem));
        let present: Vec<((String, Sort), &String)> = problems.iter().map(|problem| (about(problem), problem)).collect();
        self.since.retain(|about, _| present.iter().any(|(there, _)| there == about));
        let mut due = Vec::new();
        for (about, problem) in present {
            let (since, told) = self.since.entry(about.clone()).or_insert((at, false));
            if !*told && at.duration_since(*since) >= LASTING {
                *told = true;
                let (subject, sort) = about;
                let severity = severity(&subject, sort);
                let message = problem.chars().take(MESSAGE_CHARS_MAX).collect();
                due.push(Order::Report { source: subject.into(), severity, message });
            }
        }
        due
    }
}

/// What a problem is about besides its subject: the words of a far end change from moment to moment, these do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Sort {
    Trouble,
    /// [`STALLED`]
    Stalled,
    /// [`UNACCOUNTED`]
    Unaccounted,
    /// [`NOTHING_TO_REMOVE`]
    Full,
}

/// In what is said of a cursor that stands.
pub(super) const STALLED: &str = "nothing was confirmed";
/// In what is said of a ledger that does not balance.
pub(super) const UNACCOUNTED: &str = "unaccounted";

fn subject(problem: &str) -> &str {
    problem.split(": ").next().unwrap_or_default()
}

fn sort(problem: &str) -> Sort {
    let sorts = [(STALLED, Sort::Stalled), (UNACCOUNTED, Sort::Unaccounted), (NOTHING_TO_REMOVE, Sort::Full)];
    sorts.into_iter().find(|(words, _)| problem.contains(words)).map_or(Sort::Trouble, |(_, sort)| sort)
}

/// Rows that are lost or may be are urgent; a far end that is down costs disk, one that answers and confirms nothing needs somebody to look.
fn severity(subject: &str, sort: Sort) -> Severity {
    match subject.split(' ').next() {
        Some("store" | "engine") => Severity::Critical,
        _ if sort == Sort::Unaccounted => Severity::Critical,
        _ if sort == Sort::Stalled => Severity::High,
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
        // A sink that is down and then stands as well.
        let stands = "sink plant: nothing was confirmed for 130 s although 7 rows wait";
        assert!(due(&["sink plant: timed out", stands, "store: full"], 21).is_empty());
        assert_eq!(due(&["sink plant: timed out", stands, "store: full"], 31), ["sink plant high"]);
        assert!(due(&[], 32).is_empty());
        assert!(due(&["sink plant: refused"], 33).is_empty());
        assert_eq!(due(&["sink plant: refused"], 43), ["sink plant medium"]);
    }
}

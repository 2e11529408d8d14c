//! What people ask for and the appliance notices about itself, as inputs like any other.

use std::sync::Arc;

use super::{Engine, Step, alarms::APPLIANCE};
use crate::{
    model::{Key, Order, Timestamp},
    quality::alert::{Acknowledged, Cause},
    spc::{Act, ChartOperator},
};

impl Engine {
    /// Carries out `order`.
    ///
    /// # Errors
    /// In words: there is no such alert, chart, key or baseline.
    pub(super) fn obey(&mut self, time: Timestamp, order: &Order, step: &mut Step) -> Result<(), String> {
        match order {
            Order::Acknowledge { alert, name, note } => {
                let who = Acknowledged { name: Arc::clone(name), note: Arc::clone(note), time };
                let known = self.alarms.book.acknowledge(alert, who);
                known.then_some(()).ok_or_else(|| format!("there is no alert `{alert}`"))
            }
            Order::Rebaseline { chart, key, author, reason } => {
                let act = Act { author: Arc::clone(author), reason: Arc::clone(reason) };
                self.charts_of(chart)?.try_for_each(|found| rebaseline(found, key.as_ref(), &act))
            }
            Order::Exclude { chart, key, indices, author, reason } => {
                let act = Act { author: Arc::clone(author), reason: Arc::clone(reason) };
                self.exclude(chart, key, indices, &act, step)
            }
            // The engine itself has seen to it.
            Order::ClockSet { .. } => Ok(()),
            Order::Report { source, severity, message } => {
                let (metric, evidence) = (format!("appliance {source}"), serde_json::Value::Null);
                let (source, message, at) = (Arc::clone(source), message.clone(), self.last_seq);
                let cause = Cause { metric, source, severity: *severity, time, at, message, evidence };
                self.alarms.raise(&APPLIANCE.into(), vec![cause], &mut step.outputs);
                Ok(())
            }
        }
    }

    fn charts_of(&mut self, id: &str) -> Result<impl Iterator<Item = &mut ChartOperator>, String> {
        let mut found =
            self.pipelines.iter_mut().flat_map(|pipeline| &mut pipeline.charts).filter(move |chart| **chart.id() == *id).peekable();
        if found.peek().is_none() {
            return Err(format!("there is no chart `{id}`"));
        }
        Ok(found)
    }

    fn exclude(&mut self, id: &str, key: &Key, indices: &[u64], act: &Act, step: &mut Step) -> Result<(), String> {
        let at = self.last_seq;
        let mut outcome = Err(format!("there is no chart `{id}`"));
        for pipeline in &mut self.pipelines {
            let of = Arc::clone(&pipeline.id);
            for chart in pipeline.charts.iter_mut().filter(|chart| **chart.id() == *id) {
                outcome = chart.exclude(key, indices, act, at, &mut step.outputs).map(|_| ());
                self.alarms.onsets(&of, chart.drain_onsets(), &mut step.outputs);
                if outcome.is_ok() {
                    return outcome;
                }
            }
        }
        outcome
    }
}

fn rebaseline(chart: &mut ChartOperator, key: Option<&Key>, act: &Act) -> Result<(), String> {
    match key {
        Some(key) => chart.rebaseline(key, act),
        None => {
            let keys: Vec<Key> = chart.keys().cloned().collect();
            keys.iter().try_for_each(|key| chart.rebaseline(key, act))
        }
    }
}

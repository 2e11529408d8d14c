//! Quality checkpoints: a named check per row, and what a failure does.
//!
//! A checkpoint gates what follows it in its pipeline: on a failure the row goes on with an alert (`alert`), goes on marked (`flag`), or
//! leaves for the dead-letter lane (`reject`). A check that cannot be evaluated for a row, because a value it needs is missing,
//! fails: silence is not quality; it alerts as a metric of its own, so that neither hides the other. Checkpoints run in the order of the
//! configuration; a row that one rejects is not shown to the next.
//!
//! [`validate`] asks any or all of them about a row without counting or consequence.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    expr::{Bools, Expr, ExprError, Scratch, Type},
    model::{Batch, Body, CheckpointResult, Flags, Output, Severity, Stream, Timestamp},
    quality::alert::{AlertBook, Cause},
};

/// What a failed check does to the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFail {
    /// The row goes on, and somebody is told.
    #[default]
    Alert,
    /// The row goes on, marked.
    Flag,
    /// The row goes to the dead-letter lane.
    Reject,
}

/// A checkpoint as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointConfig {
    /// Its name within the pipeline.
    pub name: Arc<str>,
    /// The condition that a good row meets.
    pub check: String,
    /// What a failure does.
    pub on_fail: OnFail,
    /// How much a failure matters.
    pub severity: Severity,
}

/// Which results are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emit {
    /// One for every row.
    All,
    /// Failures, and the first pass after one.
    Changes,
}

/// Counters, kept over restarts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointState {
    /// Rows that met the condition.
    pub passed: u64,
    /// Rows that did not.
    pub failed: u64,
    /// Rows among them for which it could not be evaluated.
    pub unknown: u64,
    last_failed: bool,
}

/// A compiled checkpoint.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    config: CheckpointConfig,
    expr: Expr,
    /// The counters.
    pub state: CheckpointState,
    results: Bools,
    /// What alerts of failures, and of rows that it cannot be evaluated for, are known by.
    metrics: [String; 2],
}

/// What a checkpoint did to a batch.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Places of the rows that leave for the dead-letter lane, rising.
    pub rejected: Vec<usize>,
    /// How many rows were marked.
    pub flagged: u64,
}

impl Checkpoint {
    /// Compiles the check for rows of `stream`.
    ///
    /// # Errors
    /// The check is no condition over the stream.
    pub fn new(config: CheckpointConfig, stream: &Stream) -> Result<Self, ExprError> {
        let expr = Expr::compile(&config.check, stream, Type::Bool)?;
        let metrics = ["", " without a value"].map(|of| format!("checkpoint {}{of}", config.name));
        Ok(Self { config, expr, state: CheckpointState::default(), results: Bools::default(), metrics })
    }

    /// The name.
    pub fn name(&self) -> &Arc<str> {
        &self.config.name
    }

    /// Judges every row of `batch`, marking it where the configuration says so.
    pub fn judge(
        &mut self,
        pipeline: &Arc<str>,
        batch: &mut Batch,
        emit: Emit,
        scratch: &mut Scratch,
        book: &mut AlertBook,
        out: &mut Vec<Output>,
    ) -> Verdict {
        let rows = batch.rows();
        let mut results = std::mem::take(&mut self.results);
        self.expr.eval_bool(batch, 0..rows, scratch, &mut results);
        let mut verdict = Verdict::default();
        let failed = (rows - results.count_true()) as u64;
        self.state.passed += rows as u64 - failed;
        self.state.failed += failed;
        self.state.unknown += results.count_errors() as u64;
        if emit == Emit::All || failed > 0 || self.state.last_failed {
            for row in 0..rows {
                self.judge_row(pipeline, batch, row, results.get(row), emit, book, out, &mut verdict);
            }
        }
        self.results = results;
        verdict
    }

    #[expect(clippy::too_many_arguments, reason = "what a batch shares, and the row")]
    fn judge_row(
        &mut self,
        pipeline: &Arc<str>,
        batch: &mut Batch,
        row: usize,
        result: Option<bool>,
        emit: Emit,
        book: &mut AlertBook,
        out: &mut Vec<Output>,
        verdict: &mut Verdict,
    ) {
        let passed = result == Some(true);
        let changed = passed == self.state.last_failed;
        self.state.last_failed = !passed;
        if !passed {
            match self.config.on_fail {
                OnFail::Alert => self.alert(pipeline, batch, row, result.is_none(), book, out),
                OnFail::Flag => {
                    batch.set_flag(row, Flags::FLAGGED);
                    verdict.flagged += 1;
                }
                OnFail::Reject => verdict.rejected.push(row),
            }
        }
        if emit == Emit::All || !passed || changed {
            let name = Arc::clone(&self.config.name);
            let seq = batch.seq(row);
            let body = CheckpointResult { name, time: Timestamp(batch.time[row]), passed, row: batch.row(row) };
            let id = format!("checkpoint:{pipeline}:{}:{}", self.config.name, seq.0);
            out.push(Output::new(id, pipeline, seq, Body::Checkpoint(Box::new(body))));
        }
    }

    fn alert(&self, pipeline: &Arc<str>, batch: &Batch, row: usize, is_unknown: bool, book: &mut AlertBook, out: &mut Vec<Output>) {
        let (metric, time) = (&self.metrics[usize::from(is_unknown)], Timestamp(batch.time[row]));
        if book.holds_back(pipeline, metric, self.config.severity, time) {
            return;
        }
        let (name, check) = (&self.config.name, &self.config.check);
        let message = if is_unknown {
            format!("{name}: `{check}` cannot be evaluated, because a row lacks a value that it needs")
        } else {
            format!("{name}: a row does not meet `{check}`")
        };
        let cause = Cause {
            metric: metric.clone(),
            source: Arc::clone(name),
            severity: self.config.severity,
            time,
            at: batch.seq(row),
            message,
            evidence: serde_json::to_value(batch.row(row)).unwrap_or_default(),
        };
        out.extend(book.raise(pipeline, cause));
    }
}

/// Asks the checkpoint called `name`, or all of them, about `row` of `batch`: `{name: whether it holds}`. Nothing is counted and
/// nothing follows; a check that cannot be evaluated, or is not there, does not hold.
pub fn validate(
    checkpoints: &[Checkpoint],
    name: Option<&str>,
    batch: &Batch,
    row: usize,
    scratch: &mut Scratch,
) -> BTreeMap<Arc<str>, bool> {
    let asked = checkpoints.iter().filter(|checkpoint| name.is_none_or(|name| **checkpoint.name() == *name));
    let mut answers: BTreeMap<Arc<str>, bool> = asked
        .map(|checkpoint| {
            let mut results = Bools::default();
            checkpoint.expr.eval_bool(batch, row..row + 1, scratch, &mut results);
            (Arc::clone(checkpoint.name()), results.holds(0))
        })
        .collect();
    if let Some(name) = name {
        answers.entry(name.into()).or_insert(false);
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(on_fail: OnFail) -> (Checkpoint, Arc<Stream>) {
        let stream = Arc::new(Stream::new("s", &["power"], &[]));
        let config =
            CheckpointConfig { name: "in_range".into(), check: "power >= 190.0".into(), on_fail, severity: Severity::High };
        (Checkpoint::new(config, &stream).unwrap(), stream)
    }

    fn rows(stream: Arc<Stream>, values: &[f64]) -> Batch {
        let mut batch = Batch::new(stream, "x".into(), "x".into(), Timestamp(0));
        batch.time = (0..values.len() as i64).collect();
        batch.signals[0] = values.to_vec();
        batch
    }

    fn judge(on_fail: OnFail, emit: Emit, values: &[f64]) -> (Batch, Verdict, Vec<Output>, CheckpointState) {
        let (mut checkpoint, stream) = checkpoint(on_fail);
        let mut batch = rows(stream, values);
        let (mut book, mut out) = (AlertBook::new(crate::quality::alert::AlertConfig::default()), Vec::new());
        let verdict = checkpoint.judge(&"p".into(), &mut batch, emit, &mut Scratch::default(), &mut book, &mut out);
        (batch, verdict, out, checkpoint.state)
    }

    fn passed(out: &[Output]) -> Vec<bool> {
        out.iter()
            .filter_map(|output| if let Body::Checkpoint(result) = &output.body { Some(result.passed) } else { None })
            .collect()
    }

    #[test]
    fn a_check_without_its_value_fails() {
        let (_, verdict, out, state) = judge(OnFail::Reject, Emit::All, &[195.0, f64::NAN, 100.0]);
        assert_eq!(verdict.rejected, [1, 2]);
        assert_eq!(passed(&out), [true, false, false]);
        assert_eq!((state.passed, state.failed, state.unknown), (1, 2, 1));
    }

    #[test]
    fn only_failures_and_the_first_pass_after_one_are_results() {
        let (batch, verdict, out, _) = judge(OnFail::Flag, Emit::Changes, &[195.0, 100.0, 195.0, 195.0]);
        assert_eq!(passed(&out), [false, true]);
        assert_eq!(verdict.flagged, 1);
        assert!(batch.flags(1).has(Flags::FLAGGED) && !batch.flags(2).has(Flags::FLAGGED));
    }

    #[test]
    fn a_missing_value_alerts_apart_from_a_wrong_one() {
        let (_, _, out, _) = judge(OnFail::Alert, Emit::Changes, &[100.0, f64::NAN, 101.0, f64::NAN]);
        let alerts: Vec<&str> = out
            .iter()
            .filter_map(|output| if let Body::Alert(alert) = &output.body { Some(&*alert.message) } else { None })
            .collect();
        assert_eq!(alerts.len(), 2, "{alerts:?}");
        assert!(alerts[0].contains("does not meet") && alerts[1].contains("lacks a value"), "{alerts:?}");
    }

    #[test]
    fn one_or_all_checkpoints_can_be_asked_and_one_that_is_not_there_does_not_hold() {
        let (one, stream) = checkpoint(OnFail::Reject);
        let config = CheckpointConfig { name: "low".into(), check: "power < 10.0".into(), ..one.config.clone() };
        let all = [one, Checkpoint::new(config, &stream).unwrap()];
        let batch = rows(stream, &[f64::NAN, 195.0]);
        let ask = |name: Option<&str>, row: usize| -> Vec<(String, bool)> {
            let answers = validate(&all, name, &batch, row, &mut Scratch::default());
            answers.into_iter().map(|(name, holds)| (name.to_string(), holds)).collect()
        };
        assert_eq!(ask(None, 1), [("in_range".to_owned(), true), ("low".to_owned(), false)]);
        assert_eq!(ask(None, 0), [("in_range".to_owned(), false), ("low".to_owned(), false)]);
        assert_eq!(ask(Some("in_range"), 1), [("in_range".to_owned(), true)]);
        assert_eq!(ask(Some("nix"), 1), [("nix".to_owned(), false)]);
        assert!(all.iter().all(|checkpoint| checkpoint.state == CheckpointState::default()));
    }
}

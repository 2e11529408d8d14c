//! Quality checkpoints: a named check per row, and what a failure does.
//!
//! A checkpoint gates what follows it in its pipeline: on a failure the row goes on with an alert (`alert`), goes on marked (`flag`), or
//! leaves for the dead-letter lane (`reject`). A check that cannot be evaluated for a row, because a value it needs is missing,
//! fails: silence is not quality. Checkpoints run in the order of the configuration; a row that one rejects is not shown to the next.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    expr::{Bools, Expr, ExprError, Scratch, Type},
    model::{Batch, Body, CheckpointResult, Flags, Output, Severity, Stream, Timestamp},
    quality::alert::Cause,
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
}

/// What a checkpoint did to a batch.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Places of the rows that leave for the dead-letter lane, rising.
    pub rejected: Vec<usize>,
    /// How many rows were marked.
    pub flagged: u64,
    /// What should be told.
    pub causes: Vec<Cause>,
}

impl Checkpoint {
    /// Compiles the check for rows of `stream`.
    ///
    /// # Errors
    /// The check is no condition over the stream.
    pub fn new(config: CheckpointConfig, stream: &Stream) -> Result<Self, ExprError> {
        let expr = Expr::compile(&config.check, stream, Type::Bool)?;
        Ok(Self { config, expr, state: CheckpointState::default(), results: Bools::default() })
    }

    /// The name.
    pub fn name(&self) -> &Arc<str> {
        &self.config.name
    }

    /// Whether the check holds for each row of `batch`, without counting or consequence.
    pub fn validate(&self, batch: &Batch, scratch: &mut Scratch) -> Vec<bool> {
        let mut results = Bools::default();
        self.expr.eval_bool(batch, 0..batch.rows(), scratch, &mut results);
        (0..batch.rows()).map(|row| results.holds(row)).collect()
    }

    /// Judges every row of `batch`, marking it where the configuration says so.
    pub fn judge(
        &mut self,
        pipeline: &Arc<str>,
        batch: &mut Batch,
        emit: Emit,
        scratch: &mut Scratch,
        out: &mut Vec<Output>,
    ) -> Verdict {
        let rows = batch.rows();
        let mut results = std::mem::take(&mut self.results);
        self.expr.eval_bool(batch, 0..rows, scratch, &mut results);
        let mut verdict = Verdict::default();
        let failed = (rows - results.count_true()) as u64;
        self.state.passed += rows as u64 - failed;
        self.state.failed += failed;
        if emit == Emit::All || failed > 0 || self.state.last_failed {
            for row in 0..rows {
                self.judge_row(pipeline, batch, row, results.holds(row), emit, out, &mut verdict);
            }
        }
        self.results = results;
        verdict
    }

    #[allow(clippy::too_many_arguments)]
    fn judge_row(
        &mut self,
        pipeline: &Arc<str>,
        batch: &mut Batch,
        row: usize,
        passed: bool,
        emit: Emit,
        out: &mut Vec<Output>,
        verdict: &mut Verdict,
    ) {
        let changed = passed == self.state.last_failed;
        self.state.last_failed = !passed;
        if !passed {
            match self.config.on_fail {
                OnFail::Alert => verdict.causes.push(self.cause(batch, row)),
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
            out.push(Output::new(id, pipeline, seq, Body::Checkpoint(body)));
        }
    }

    fn cause(&self, batch: &Batch, row: usize) -> Cause {
        let name = &self.config.name;
        Cause {
            metric: format!("checkpoint {name}"),
            source: Arc::clone(name),
            severity: self.config.severity,
            time: Timestamp(batch.time[row]),
            at: batch.seq(row),
            message: format!("{name}: a row does not meet `{}`", self.config.check),
            evidence: serde_json::to_value(batch.row(row)).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(on_fail: OnFail, emit: Emit, values: &[f64]) -> (Batch, Verdict, Vec<bool>, CheckpointState) {
        let stream = Arc::new(Stream::new("s", &["power"], &[]));
        let config =
            CheckpointConfig { name: "in_range".into(), check: "power >= 190.0".into(), on_fail, severity: Severity::High };
        let mut checkpoint = Checkpoint::new(config, &stream).unwrap();
        let mut batch = Batch::new(stream, "x".into(), "x".into(), Timestamp(0));
        batch.time = (0..values.len() as i64).collect();
        batch.signals[0] = values.to_vec();
        let mut out = Vec::new();
        let verdict = checkpoint.judge(&"p".into(), &mut batch, emit, &mut Scratch::default(), &mut out);
        let passed = out
            .iter()
            .map(|output| match &output.body {
                Body::Checkpoint(result) => result.passed,
                _ => panic!("another kind"),
            })
            .collect();
        (batch, verdict, passed, checkpoint.state)
    }

    #[test]
    fn a_check_without_its_value_fails() {
        let (_, verdict, passed, state) = judge(OnFail::Reject, Emit::All, &[195.0, f64::NAN, 100.0]);
        assert_eq!(verdict.rejected, [1, 2]);
        assert_eq!(passed, [true, false, false]);
        assert_eq!((state.passed, state.failed), (1, 2));
    }

    #[test]
    fn only_failures_and_the_first_pass_after_one_are_results() {
        let (batch, verdict, passed, _) = judge(OnFail::Flag, Emit::Changes, &[195.0, 100.0, 195.0, 195.0]);
        assert_eq!(passed, [false, true]);
        assert_eq!(verdict.flagged, 1);
        assert!(batch.flags(1).has(Flags::FLAGGED) && !batch.flags(2).has(Flags::FLAGGED));
    }
}

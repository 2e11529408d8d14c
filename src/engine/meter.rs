//! What went through each operator of a pipeline, and how long it took.
//!
//! The engine has no clock of its own: [`Meter`] asks the stopwatch that whoever runs the engine gives it, and says 0 without one. Results
//! never depend on what it says. Counts begin anew with every start of the program.

use std::sync::Arc;

/// Nanoseconds since some moment, never falling.
pub type Stopwatch = fn() -> u64;

/// Rows through one operator of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorCounters {
    /// `filter`, `derive`, `checkpoint`, `window`, `join`, `pattern`, `chart`, `threshold` or `voxels`.
    pub kind: &'static str,
    /// The configured id; of a derived signal its name, of a filter the pipeline's id.
    pub id: Arc<str>,
    /// Rows that it was given.
    pub rows_in: u64,
    /// Rows that it passed on, or results that it put out.
    pub out: u64,
    /// Rows that it has no answer for; of a checkpoint, rows that it rejected.
    pub failed: u64,
    /// Time that it took.
    pub time_ns: u64,
}

/// The counters of a pipeline's operators, in the order in which rows go through them.
#[derive(Debug)]
pub struct Meter {
    stopwatch: Stopwatch,
    operators: Vec<OperatorCounters>,
}

/// An operator at work.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct Lap {
    began_ns: u64,
    out: usize,
}

impl Meter {
    pub fn new() -> Self {
        Self { stopwatch: || 0, operators: Vec::new() }
    }

    pub fn set_stopwatch(&mut self, stopwatch: Stopwatch) {
        self.stopwatch = stopwatch;
    }

    /// The place of one more operator.
    pub fn add(&mut self, kind: &'static str, id: &Arc<str>) {
        self.operators.push(OperatorCounters { kind, id: Arc::clone(id), rows_in: 0, out: 0, failed: 0, time_ns: 0 });
    }

    pub fn operators(&self) -> &[OperatorCounters] {
        &self.operators
    }

    /// The first operator of this kind.
    pub fn first(&self, kind: &str) -> usize {
        self.operators.iter().position(|one| one.kind == kind).unwrap_or(self.operators.len())
    }

    /// Has the operator at `place` take in `rows_in` rows, and counts what it adds to `out`.
    pub fn measure<T>(&mut self, place: usize, rows_in: usize, out: &mut Vec<T>, work: impl FnOnce(&mut Vec<T>)) {
        let lap = self.lap(out.len());
        work(out);
        self.done(place, lap, rows_in, out.len(), 0);
    }

    /// An operator begins, when so much has been put out.
    pub fn lap(&self, out: usize) -> Lap {
        Lap { began_ns: (self.stopwatch)(), out }
    }

    /// It is done with `rows_in` rows, and so much has been put out.
    pub fn done(&mut self, place: usize, lap: Lap, rows_in: usize, out: usize, failed: u64) {
        let now_ns = (self.stopwatch)();
        if let Some(one) = self.operators.get_mut(place) {
            one.rows_in += rows_in as u64;
            one.out += out.saturating_sub(lap.out) as u64;
            one.failed += failed;
            one.time_ns += now_ns.saturating_sub(lap.began_ns);
        }
    }
}

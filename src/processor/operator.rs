//! Operators of one's own: a row in, a row or none out, with a name of their own in the figures.

use std::marker::PhantomData;

use super::{
    chunk::Chunk,
    error::ProcessorError,
    step::{AnyChunk, Around, Step, chunk_of},
};

/// A step of one's own.
///
/// ```
/// use qadf_edge::processor::{MemorySink, MemorySource, Operator, StreamConfig, StreamProcessor};
///
/// /// Lets a value pass that differs enough from the last one that passed.
/// struct Deadband { width: f64, last: Option<f64> }
///
/// impl Operator<f64> for Deadband {
///     type Out = f64;
///     fn process(&mut self, value: f64) -> Result<Option<f64>, String> {
///         if !value.is_finite() {
///             return Err(format!("{value} is no measurement"));
///         }
///         let passes = self.last.is_none_or(|last| (value - last).abs() > self.width);
///         self.last = if passes { Some(value) } else { self.last };
///         Ok(passes.then_some(value))
///     }
/// }
///
/// let out = MemorySink::new();
/// let mut processor = StreamProcessor::new(StreamConfig::default());
/// processor
///     .from_source(MemorySource::new([1.0, 1.1, f64::NAN, 2.0]))
///     .operator("deadband", Deadband { width: 0.5, last: None })
///     .to_sink(out.clone());
/// processor.start()?;
/// processor.await_termination(None);
/// assert_eq!(out.rows(), [1.0, 2.0]);
/// let metrics = processor.metrics();
/// let deadband = &metrics.steps[0];
/// assert_eq!((&*deadband.name, deadband.rows_in, deadband.rows_out, deadband.failed), ("deadband", 4, 2, 1));
/// # Ok::<(), qadf_edge::processor::ProcessorError>(())
/// ```
pub trait Operator<T>: Send + 'static {
    /// The rows that it gives.
    type Out: Send + 'static;

    /// What comes of a row; the event time stays.
    ///
    /// # Errors
    /// Why the row goes no further: it is counted and kept as a dead letter, and the flow goes on.
    fn process(&mut self, row: T) -> Result<Option<Self::Out>, String>;

    /// The state to be kept in checkpoints.
    fn save(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Goes on from such a state.
    ///
    /// # Errors
    /// Why it cannot: the processor does not start.
    fn load(&mut self, _state: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

/// An operator as a step.
pub(super) struct OperatorStep<T, O> {
    pub operator: O,
    pub rows: PhantomData<fn(T)>,
}

impl<T: Send + 'static, O: Operator<T>> Step for OperatorStep<T, O> {
    fn run(&mut self, chunk: AnyChunk, around: &mut Around<'_>, out: &mut Vec<AnyChunk>) -> Result<(), ProcessorError> {
        let mut chunk = chunk_of::<T>(chunk)?;
        around.counts.rows_in += chunk.rows.len() as u64;
        let (mut rows, mut from) = (Vec::with_capacity(chunk.rows.len()), Vec::with_capacity(chunk.rows.len()));
        for (at, row) in std::mem::take(&mut chunk.rows).into_iter().enumerate() {
            match self.operator.process(row) {
                Ok(Some(row)) => {
                    rows.push(row);
                    from.push(at);
                }
                Ok(None) => {}
                Err(reason) => around.refuse(reason),
            }
        }
        around.counts.rows_out += rows.len() as u64;
        let chunk: Chunk<O::Out> = chunk.with_rows(rows, Some(&from));
        out.push(Box::new(chunk));
        Ok(())
    }

    fn save(&mut self) -> Result<Vec<u8>, ProcessorError> {
        Ok(self.operator.save())
    }

    fn load(&mut self, state: &[u8]) -> Result<(), ProcessorError> {
        self.operator.load(state).map_err(ProcessorError::Checkpoint)
    }
}

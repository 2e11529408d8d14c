//! Where rows go.

use std::{marker::PhantomData, thread, time::Duration};

use super::{
    DeliveryGuarantee,
    error::{ProcessorError, SinkError},
    step::{AnyChunk, Around, Step, chunk_of},
};

/// Something that takes rows. `write` alone makes one that is delivered to at least once; with `flush` and `rewind`, or `commit` and `committed`,
/// it can take part in exactly once.
pub trait Sink<T>: Send + 'static {
    /// Takes rows, in order.
    ///
    /// # Errors
    /// None of the rows is taken; see [`SinkError`] for what follows.
    fn write(&mut self, rows: &[T]) -> Result<(), SinkError>;

    /// What it can do about rows that come again after a restart.
    fn guarantee(&self) -> DeliveryGuarantee {
        DeliveryGuarantee::AtLeastOnce
    }

    /// Makes durable what was written, and says where it is, to be kept in a checkpoint.
    ///
    /// # Errors
    /// See [`SinkError`].
    fn flush(&mut self) -> Result<Vec<u8>, SinkError> {
        Ok(Vec::new())
    }

    /// Forgets what was written behind `position`.
    ///
    /// # Errors
    /// See [`SinkError`].
    fn rewind(&mut self, _position: &[u8]) -> Result<(), SinkError> {
        Ok(())
    }

    /// The checkpoint with this number is safe: what was written before it becomes visible.
    ///
    /// # Errors
    /// See [`SinkError`].
    fn commit(&mut self, _checkpoint: u64) -> Result<(), SinkError> {
        Ok(())
    }

    /// The last checkpoint that is visible, if the sink keeps count of them; 0 = none. A start goes on from this one.
    ///
    /// # Errors
    /// See [`SinkError`].
    fn committed(&mut self) -> Result<Option<u64>, SinkError> {
        Ok(None)
    }
}

const WAIT_MIN: Duration = Duration::from_millis(10);
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Tries until it works, fails for good, or `abort` says to give up.
fn until_done<R>(abort: &dyn Fn() -> bool, mut attempt: impl FnMut() -> Result<R, SinkError>) -> Result<R, ProcessorError> {
    let mut wait = WAIT_MIN;
    loop {
        match attempt() {
            Ok(done) => return Ok(done),
            Err(SinkError::Retry(_)) if !abort() => {
                thread::sleep(wait);
                wait = (wait * 2).min(WAIT_MAX);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// A sink as a step: rows pass it by.
pub struct SinkStep<T, S> {
    pub sink: S,
    pub rows: PhantomData<fn(T)>,
}

impl<T: Send + 'static, S: Sink<T>> Step for SinkStep<T, S> {
    fn run(&mut self, chunk: AnyChunk, around: &mut Around<'_>, out: &mut Vec<AnyChunk>) -> Result<(), ProcessorError> {
        let chunk = chunk_of::<T>(chunk)?;
        around.counts.rows_in += chunk.rows.len() as u64;
        if !chunk.rows.is_empty() {
            until_done(around.abort, || self.sink.write(&chunk.rows))?;
        }
        around.counts.rows_out += chunk.rows.len() as u64;
        out.push(Box::new(chunk));
        Ok(())
    }

    fn save(&mut self) -> Result<Vec<u8>, ProcessorError> {
        until_done(&|| false, || self.sink.flush())
    }

    fn load(&mut self, position: &[u8]) -> Result<(), ProcessorError> {
        until_done(&|| true, || self.sink.rewind(position))
    }

    fn is_sink(&self) -> bool {
        true
    }

    fn commit(&mut self, checkpoint: u64) -> Result<(), ProcessorError> {
        until_done(&|| true, || self.sink.commit(checkpoint))
    }

    fn committed(&mut self) -> Result<Option<u64>, ProcessorError> {
        until_done(&|| true, || self.sink.committed())
    }
}

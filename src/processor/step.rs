//! One step of a flow: a chunk in, chunks out.

use std::{any::Any, marker::PhantomData, sync::Arc};

use super::{
    chunk::Chunk,
    error::ProcessorError,
    error::SinkError,
    letters::{DeadLetter, Letters},
};

/// A chunk of rows of some type; a step knows which.
pub type AnyChunk = Box<dyn Any + Send>;

/// Rows through a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub rows_in: u64,
    pub rows_out: u64,
    pub failed: u64,
    pub late: u64,
    pub windows_fired: u64,
    pub windows_open: u64,
    pub watermark: Option<i64>,
}

/// What a step sees besides its chunk.
pub struct Around<'a> {
    pub counts: &'a mut Counts,
    pub letters: &'a mut Letters,
    pub name: &'a Arc<str>,
    /// Whether to give up waiting.
    pub abort: &'a dyn Fn() -> bool,
}

impl Around<'_> {
    /// Counts and keeps a row that is refused.
    pub fn refuse(&mut self, reason: String) {
        self.counts.failed += 1;
        self.letters.add(DeadLetter { step: Arc::clone(self.name), reason, raw: String::new() });
    }
}

pub trait Step: Send {
    /// Takes a chunk; what comes of it is added to `out`.
    fn run(&mut self, chunk: AnyChunk, around: &mut Around<'_>, out: &mut Vec<AnyChunk>) -> Result<(), ProcessorError>;
    /// The state to be kept; a sink makes durable what it has, and says where it is.
    fn save(&mut self) -> Result<Vec<u8>, ProcessorError> {
        Ok(Vec::new())
    }
    /// Goes on from such a state.
    fn load(&mut self, _: &[u8]) -> Result<(), ProcessorError> {
        Ok(())
    }
    /// Whether its state is a place in what it has written.
    fn is_sink(&self) -> bool {
        false
    }
    /// The checkpoint with this number is safe.
    fn commit(&mut self, _: u64) -> Result<(), ProcessorError> {
        Ok(())
    }
    /// The last checkpoint that a sink has made visible, if it keeps count.
    fn committed(&mut self) -> Result<Option<u64>, ProcessorError> {
        Ok(None)
    }
}

/// A function of chunks.
pub struct Apply<T, U, F>(F, PhantomData<fn(T) -> U>);

impl<T, U, F> Apply<T, U, F>
where
    F: FnMut(Chunk<T>, &mut Around<'_>) -> Result<Chunk<U>, ProcessorError> + Send,
{
    pub fn new(function: F) -> Self {
        Self(function, PhantomData)
    }
}

/// The chunk as what its step takes. The builder puts steps of fitting types behind each other, so it always is.
pub fn chunk_of<T: 'static>(chunk: AnyChunk) -> Result<Chunk<T>, ProcessorError> {
    let mismatch = |_| ProcessorError::Failed("a step got rows of another type than the one before it gives".into());
    chunk.downcast::<Chunk<T>>().map(|chunk| *chunk).map_err(mismatch)
}

impl<T, U, F> Step for Apply<T, U, F>
where
    T: Send + 'static,
    U: Send + 'static,
    F: FnMut(Chunk<T>, &mut Around<'_>) -> Result<Chunk<U>, ProcessorError> + Send,
{
    fn run(&mut self, chunk: AnyChunk, around: &mut Around<'_>, out: &mut Vec<AnyChunk>) -> Result<(), ProcessorError> {
        let chunk = chunk_of::<T>(chunk)?;
        around.counts.rows_in += chunk.rows.len() as u64;
        let chunk = (self.0)(chunk, around)?;
        around.counts.rows_out += chunk.rows.len() as u64;
        out.push(Box::new(chunk));
        Ok(())
    }
}

impl From<SinkError> for ProcessorError {
    fn from(error: SinkError) -> Self {
        Self::Failed(error.to_string())
    }
}
